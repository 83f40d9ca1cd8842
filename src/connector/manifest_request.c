/*-------------------------------------------------------------------------
 *
 * manifest_request.c
 *		The parts of a manifest that describe a request.
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

#include "connector/jsonpick.h"
#include "connector/manifest.h"

static const char *const request_words[] = {
	"method", "base_url", "path", "url", "query", "headers", "form", "json",
	"basic", NULL
};

static const char *const methods[] = {"GET", "POST", "PUT", NULL};

/* Whether a text can be the name of a header. */
static bool
is_header_name(const char *text)
{
	const char *p;

	for (p = text; *p != '\0'; p++)
	{
		if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			  (*p >= '0' && *p <= '9') || *p == '-' || *p == '_'))
			return false;
	}
	return p > text;
}

/*
 * Reads the member "word" of an object, itself an object of templates;
 * names as in uds_reader_template.  Absent means none.
 */
bool
uds_manifest_read_pairs(UdsManifestReader *reader, const cJSON *object,
						const char *path, const char *word,
						const char *const *names, UdsPairs *pairs)
{
	const cJSON *container = cJSON_GetObjectItemCaseSensitive(object, word);
	const char *here = uds_reader_at(path, word);
	const cJSON *member;

	pairs->count = 0;
	pairs->items = NULL;
	if (reader->error != NULL)
		return false;
	if (container == NULL)
		return true;
	if (!cJSON_IsObject(container))
		return uds_reader_fail(reader, here, "must be an object");
	pairs->items = palloc0((cJSON_GetArraySize(container) + 1) * sizeof(UdsPair));
	cJSON_ArrayForEach(member, container)
	{
		UdsPair    *pair = &pairs->items[pairs->count];

		if (strcmp(word, "headers") == 0 && !is_header_name(member->string))
			return uds_reader_fail(reader, here,
								   psprintf("bad header name \"%.100s\"",
											member->string));
		if (!uds_reader_template(reader, member,
								 uds_reader_at(here, member->string), names,
								 &pair->value))
			return false;
		pair->name = pstrdup(member->string);
		pairs->count++;
	}
	return true;
}

static bool
read_body(UdsManifestReader *reader, const cJSON *item, const char *path,
		  const char *const *names, UdsBodyNode *node)
{
	const cJSON *member;

	if (item->string != NULL)
		node->name = pstrdup(item->string);
	if (cJSON_IsString(item))
	{
		node->kind = UDS_BODY_TEXT;
		return uds_reader_template(reader, item, path, names, &node->text);
	}
	if (!cJSON_IsObject(item) && !cJSON_IsArray(item))
	{
		node->kind = UDS_BODY_LITERAL;
		node->literal = cJSON_IsNull(item) ? pstrdup("null") : uds_json_text(item);
		if (node->literal == NULL)
			return uds_reader_fail(reader, path, "number is too large; give it as a string");
		return true;
	}
	node->kind = cJSON_IsObject(item) ? UDS_BODY_OBJECT : UDS_BODY_ARRAY;
	node->children = palloc0((cJSON_GetArraySize(item) + 1) * sizeof(UdsBodyNode));
	cJSON_ArrayForEach(member, item)
	{
		char	   *here = member->string != NULL ?
		uds_reader_at(path, member->string) :
		psprintf("%s[%d]", path, node->count);

		if (!read_body(reader, member, here, names,
					   &node->children[node->count]))
			return false;
		node->count++;
	}
	return true;
}

/*
 * Reads the member "word", an object whose texts are templates, into *json;
 * absent leaves it NULL.
 */
bool
uds_manifest_read_json(UdsManifestReader *reader, const cJSON *object,
					   const char *path, const char *word,
					   const char *const *names, UdsBodyNode **json)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, word);

	if (reader->error != NULL)
		return false;
	if (item == NULL)
		return true;
	if (!cJSON_IsObject(item))
		return uds_reader_fail(reader, uds_reader_at(path, word),
							   "must be an object");
	*json = palloc0(sizeof(UdsBodyNode));
	return read_body(reader, item, uds_reader_at(path, word), names, *json);
}

/* Reads the member "basic" of a request or of what is sent with each. */
bool
uds_manifest_read_basic(UdsManifestReader *reader, const cJSON *object,
						const char *path, const char *const *names,
						UdsBasicSpec *basic)
{
	static const char *const words[] = {"user", "password", "form_encoded", NULL};
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, "basic");
	const char *here = uds_reader_at(path, "basic");
	const cJSON *user = cJSON_GetObjectItemCaseSensitive(item, "user");
	const cJSON *password = cJSON_GetObjectItemCaseSensitive(item, "password");

	if (item == NULL)
		return true;
	if (!uds_reader_object(reader, item, here, words) ||
		!uds_reader_bool(reader, item, here, "form_encoded", &basic->form_encoded))
		return false;
	if (user == NULL || password == NULL)
		return uds_reader_fail(reader, here, "needs \"user\" and \"password\"");
	return uds_reader_template(reader, user, uds_reader_at(here, "user"), names,
							   &basic->user) &&
		uds_reader_template(reader, password, uds_reader_at(here, "password"),
							names, &basic->password);
}

static bool
read_method(UdsManifestReader *reader, const cJSON *object, const char *path,
			UdsRequestSpec *request)
{
	bool		has_body = request->json != NULL || request->form.count > 0;
	const char *const *method = methods;

	if (!uds_reader_text(reader, object, path, "method", false, &request->method))
		return false;
	if (request->method == NULL)
		request->method = pstrdup("GET");
	while (*method != NULL && strcmp(*method, request->method) != 0)
		method++;
	if (*method == NULL)
		return uds_reader_fail(reader, uds_reader_at(path, "method"),
							   "must be GET, POST or PUT");
	if (request->json != NULL && request->form.count > 0)
		return uds_reader_fail(reader, path, "has both \"json\" and \"form\"");
	if (has_body && strcmp(request->method, "GET") == 0)
		return uds_reader_fail(reader, path,
							   psprintf("a GET request takes no \"%s\"",
										request->json != NULL ? "json" : "form"));
	return true;
}

/* Reads where a request goes to: "path", maybe with "base_url", or "url". */
static bool
read_address(UdsManifestReader *reader, const cJSON *object, const char *path,
			 const char *const *names, UdsRequestSpec *request)
{
	static const char *const none[] = {NULL};
	const cJSON *base_url = cJSON_GetObjectItemCaseSensitive(object, "base_url");
	const cJSON *url_path = cJSON_GetObjectItemCaseSensitive(object, "path");
	const cJSON *url = cJSON_GetObjectItemCaseSensitive(object, "url");

	if (base_url != NULL &&
		!uds_reader_template(reader, base_url, uds_reader_at(path, "base_url"),
							 none, &request->base_url))
		return false;
	if (url != NULL && (url_path != NULL || base_url != NULL))
		return uds_reader_fail(reader, path, "has \"url\" and also \"path\" or \"base_url\"");
	if (url != NULL)
		return uds_reader_template(reader, url, uds_reader_at(path, "url"), names,
								   &request->url);
	if (url_path == NULL)
		return uds_reader_fail(reader, path, "missing \"path\"");
	if (!uds_reader_template(reader, url_path, uds_reader_at(path, "path"),
							 names, &request->path))
		return false;
	if (url_path->valuestring[0] != '/' ||
		strpbrk(url_path->valuestring, "?# \r\n") != NULL)
		return uds_reader_fail(reader, uds_reader_at(path, "path"),
							   "must begin with a slash and have no query");
	return true;
}

/*
 * Reads a request; names are the placeholders that its templates may have
 * besides the options and what streams note.
 */
bool
uds_manifest_read_request(UdsManifestReader *reader, const cJSON *object,
						  const char *path, const char *const *names,
						  UdsRequestSpec *request)
{
	memset(&reader->states, 0, sizeof(UdsTexts));
	if (!uds_reader_object(reader, object, path, request_words) ||
		!read_address(reader, object, path, names, request) ||
		!uds_manifest_read_pairs(reader, object, path, "query", names, &request->query) ||
		!uds_manifest_read_pairs(reader, object, path, "headers", names, &request->headers) ||
		!uds_manifest_read_pairs(reader, object, path, "form", names, &request->form) ||
		!uds_manifest_read_json(reader, object, path, "json", names, &request->json) ||
		!uds_manifest_read_basic(reader, object, path, names, &request->basic) ||
		!read_method(reader, object, path, request))
		return false;
	request->states = reader->states;
	return true;
}
