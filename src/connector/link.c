/*-------------------------------------------------------------------------
 *
 * link.c
 *		Links that a service gives: found in headers, and held against the
 *		address that it was asked at.
 *
 * A link takes the token along, so it must lead to where the token belongs:
 * to the scheme, host and port of the base URL.
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

#include "connector/link.h"

/* The parts of an address that say who is asked. */
typedef struct Origin
{
	bool		https;
	const char *host;
	size_t		host_len;
	long		port;
	const char *rest;			/* what follows: path, query or nothing */
} Origin;

static const char *
skip_space(const char *p)
{
	return p + strspn(p, " \t");
}

/* Takes an absolute http or https URL apart; false if it is none. */
static bool
read_origin(const char *url, Origin *origin)
{
	const char *authority;
	const char *end;
	const char *colon;
	const char *p;

	if (pg_strncasecmp(url, "http://", 7) == 0)
		authority = url + 7;
	else if (pg_strncasecmp(url, "https://", 8) == 0)
		authority = url + 8;
	else
		return false;
	origin->https = authority == url + 8;
	end = authority + strcspn(authority, "/?#");
	for (p = authority; p < end; p++)
	{
		/* who puts a user name in front wants another host to look like ours */
		if (*p == '@' || *p == '\\' || (unsigned char) *p <= ' ')
			return false;
	}
	colon = *authority == '[' ? memchr(authority, ']', end - authority) : authority;
	if (colon == NULL)
		return false;
	colon = memchr(colon, ':', end - colon);
	origin->host = authority;
	origin->host_len = (colon ? colon : end) - authority;
	origin->port = origin->https ? 443 : 80;
	if (colon != NULL && colon + 1 < end)
	{
		char	   *stop;

		if (colon[1] < '0' || colon[1] > '9')
			return false;
		origin->port = strtol(colon + 1, &stop, 10);
		if (stop != end || origin->port < 1 || origin->port > 65535)
			return false;
	}
	origin->rest = end;
	return origin->host_len > 0;
}

static bool
same_origin(const Origin *a, const Origin *b)
{
	return a->https == b->https && a->port == b->port &&
		a->host_len == b->host_len &&
		pg_strncasecmp(a->host, b->host, a->host_len) == 0;
}

/*
 * The whole address of a link, which is an absolute URL or an absolute path,
 * if it leads to the origin of base, an absolute URL.  Else NULL, and *error
 * is what is wrong with it, a phrase.  Both in the current memory context.
 */
char *
uds_link_resolve(const char *base, const char *link, char **error)
{
	Origin		ours;
	Origin		theirs;
	const char *p;

	for (p = link; *p != '\0'; p++)
	{
		if ((unsigned char) *p <= ' ' || *p == 0x7f)
		{
			*error = pstrdup("a link with spaces in it");
			return NULL;
		}
	}
	if (!read_origin(base, &ours))
	{
		*error = pstrdup("a link, while the base URL is none");
		return NULL;
	}
	if (link[0] == '/' && link[1] != '/' && link[1] != '\\')
		return psprintf("%.*s%s", (int) (ours.rest - base), base, link);
	if (!read_origin(link, &theirs))
	{
		*error = pstrdup("a link that is neither an http or https URL nor an absolute path");
		return NULL;
	}
	if (!same_origin(&ours, &theirs))
	{
		*error = psprintf("a link to \"%.*s\", which is not where it was asked",
						  (int) Min(theirs.rest - link, 200), link);
		return NULL;
	}
	return pstrdup(link);
}

/* Whether one of the space-separated words is "next". */
static bool
has_next(const char *words, size_t len)
{
	const char *end = words + len;

	while (words < end)
	{
		size_t		word = 0;

		while (words + word < end && words[word] != ' ' && words[word] != '\t')
			word++;
		if (word == 4 && pg_strncasecmp(words, "next", 4) == 0)
			return true;
		words += word + 1;
	}
	return false;
}

/*
 * Reads the parameters of one link, from behind its ">"; *next tells whether
 * rel is next.  Returns where they end.
 */
static const char *
read_parameters(const char *p, bool *next)
{
	*next = false;
	for (p = skip_space(p); *p == ';'; p = skip_space(p))
	{
		const char *name = skip_space(p + 1);
		size_t		name_len = strcspn(name, "=;, \t");
		const char *value = skip_space(name + name_len);
		size_t		value_len;

		p = value;
		if (*value != '=')
			continue;
		value = skip_space(value + 1);
		if (*value == '"')
		{
			value++;
			value_len = strcspn(value, "\"");
			p = value + value_len + (value[value_len] == '"' ? 1 : 0);
		}
		else
		{
			value_len = strcspn(value, ";, \t");
			p = value + value_len;
		}
		/* of several rel, the first counts (RFC 8288, 3.3); ours is one of them */
		if (name_len == 3 && pg_strncasecmp(name, "rel", 3) == 0)
			*next |= has_next(value, value_len);
	}
	return p;
}

/*
 * The address that a Link header (RFC 8288) gives for the next page, in the
 * current memory context; NULL if it has none.
 */
char *
uds_link_next(const char *header)
{
	const char *p = skip_space(header);

	while (*p == '<')
	{
		const char *url = p + 1;
		size_t		len = strcspn(url, ">");
		bool		next;

		if (url[len] != '>')
			break;
		p = read_parameters(url + len + 1, &next);
		if (next)
			return pnstrdup(url, len);
		/* what is not understood is passed over, up to the next link */
		p += strcspn(p, ",");
		if (*p == ',')
			p = skip_space(p + 1);
	}
	return NULL;
}
