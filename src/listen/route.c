/*-------------------------------------------------------------------------
 *
 * route.c
 *		What a request over HTTP asks for, from its method, path and headers.
 *
 * Used twice: by the listener as soon as the headers are there, so that
 * nobody uploads what will be refused, and by the entry function, which
 * trusts nobody.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include <arpa/inet.h>
#include <ctype.h>
#include <strings.h>

#include "listen/route.h"

#define CALLBACK_PREFIX "/callback/"

/* Notes what is wrong with a request; always false. */
static bool
refuse(UdsRoute *route, int status, const char *message)
{
	route->status = status;
	route->message = message;
	return false;
}

static const char *
skip_space(const char *p)
{
	while (*p == ' ' || *p == '\t')
		p++;
	return p;
}

/* Whether a header begins with a word, after which it ends or goes on. */
static bool
begins_with(const char *header, const char *word)
{
	size_t		len = strlen(word);

	header = skip_space(header);
	if (strncasecmp(header, word, len) != 0)
		return false;
	header = skip_space(header + len);
	return *header == '\0' || *header == ';';
}

/* Whether the parameters of a media type name a charset that is not UTF-8. */
static bool
other_charset(const char *content_type)
{
	const char *p = content_type;

	while ((p = strchr(p, ';')) != NULL)
	{
		p = skip_space(p + 1);
		if (strncasecmp(p, "charset=", strlen("charset=")) != 0)
			continue;
		p += strlen("charset=");
		p += *p == '"';
		return strncasecmp(p, "utf-8", strlen("utf-8")) != 0 &&
			strncasecmp(p, "utf8", strlen("utf8")) != 0;
	}
	return false;
}

/* How the body of a push is to be read. */
static bool
find_form(UdsRoute *route, const char *content_type)
{
	static const char *const json[] = {"application/json", "text/json"};
	static const char *const lines[] = {
		"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"
	};

	route->form = UDS_FORM_JSON;
	if (content_type == NULL)
		return true;
	if (other_charset(content_type))
		return refuse(route, 415, "the charset must be UTF-8");
	for (size_t i = 0; i < lengthof(json); i++)
		if (begins_with(content_type, json[i]))
			return true;
	route->form = UDS_FORM_LINES;
	for (size_t i = 0; i < lengthof(lines); i++)
		if (begins_with(content_type, lines[i]))
			return true;
	return refuse(route, 415, "the content type must be application/json or application/x-ndjson");
}

/* Whether the method is among those of a path, "allow" being "GET, POST". */
static bool
check_method(UdsRoute *route, const char *method, const char *allow)
{
	const char *p = allow;
	size_t		len = strlen(method);

	while (p != NULL && *p != '\0')
	{
		p = skip_space(p);
		if (strncmp(p, method, len) == 0 && (p[len] == ',' || p[len] == '\0'))
			return true;
		p = strchr(p, ',');
		if (p != NULL)
			p++;
	}
	route->allow = allow;
	return refuse(route, 405, "the method is not allowed here");
}

/*
 * Finds what a request asks for.  Headers may be NULL.  Returns false with
 * status and message in the route if it cannot be served; texts are constants
 * or point into the path.
 */
bool
uds_route_find(UdsRoute *route, const char *method, const char *path,
			   const char *content_type, const char *content_encoding)
{
	const char *allow = "GET, HEAD";

	memset(route, 0, sizeof(UdsRoute));
	if (strcmp(path, "/api/userData:push") == 0)
	{
		route->kind = UDS_ROUTE_PUSH;
		allow = "POST";
	}
	else if (strncmp(path, CALLBACK_PREFIX, strlen(CALLBACK_PREFIX)) == 0 &&
			 path[strlen(CALLBACK_PREFIX)] != '\0' &&
			 strchr(path + strlen(CALLBACK_PREFIX), '/') == NULL)
	{
		route->kind = UDS_ROUTE_CALLBACK;
		route->source = path + strlen(CALLBACK_PREFIX);
		allow = "GET, POST";
	}
	else if (strcmp(path, "/healthz") == 0)
		route->kind = UDS_ROUTE_HEALTH;
	else if (strcmp(path, "/metrics") == 0)
		route->kind = UDS_ROUTE_METRICS;
	else
		return refuse(route, 404, "there is nothing here");
	if (!check_method(route, method, allow))
		return false;

	if (content_encoding != NULL && !begins_with(content_encoding, "identity"))
	{
		route->gzip = begins_with(content_encoding, "gzip") || begins_with(content_encoding, "x-gzip");
		if (!route->gzip)
			return refuse(route, 415, "the content encoding must be gzip or identity");
	}
	return route->kind != UDS_ROUTE_PUSH || find_form(route, content_type);
}

/*
 * The token of an Authorization header (RFC 6750), within it, or NULL if it
 * holds none.
 */
const char *
uds_route_bearer(const char *authorization)
{
	const char *p;

	if (authorization == NULL)
		return NULL;
	p = skip_space(authorization);
	if (strncasecmp(p, "Bearer ", strlen("Bearer ")) != 0)
		return NULL;
	p = skip_space(p + strlen("Bearer "));
	if (*p == '\0' || strlen(p) > UDS_MAX_WORD)
		return NULL;
	return p;
}

/*
 * The last address of an X-Forwarded-For header: the one that our own proxy
 * has seen; what stands before it anybody may have written.  Returns false if
 * that is no address.
 */
bool
uds_route_forwarded(const char *header, char *address, size_t size)
{
	const char *p = strrchr(header, ',');
	unsigned char binary[16];
	size_t		len;

	p = skip_space(p ? p + 1 : header);
	len = strlen(p);
	while (len > 0 && isspace((unsigned char) p[len - 1]))
		len--;
	if (len > 1 && p[0] == '[' && p[len - 1] == ']')
	{
		p++;
		len -= 2;
	}
	if (len == 0 || len >= size)
		return false;
	memcpy(address, p, len);
	address[len] = '\0';
	return inet_pton(AF_INET, address, binary) == 1 ||
		inet_pton(AF_INET6, address, binary) == 1;
}
