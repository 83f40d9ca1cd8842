/*-------------------------------------------------------------------------
 *
 * manifest.c
 *		Parser of connector manifests.
 *
 * Strict: an unknown word, a missing part or a wrong type is an error that
 * names its path in the document.
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

/* seconds a token lives where neither reply nor manifest says */
#define DEFAULT_LIFETIME 3600

/* seconds before a throttled request is sent again, where not said */
#define DEFAULT_THROTTLE_WAIT 1

static const char *const no_names[] = {NULL};
static const char *const token_names[] = {"token", NULL};

static const struct
{
	const char *word;
	UdsCodeClass code_class;
}			code_lists[] = {
	{"ok", UDS_CODE_OK},
	{"reauth", UDS_CODE_REAUTH},
	{"throttle", UDS_CODE_THROTTLE},
	{"transient", UDS_CODE_TRANSIENT},
	{"gone", UDS_CODE_GONE},
	{"scope", UDS_CODE_SCOPE},
	{"config", UDS_CODE_CONFIG},
	{"degrade", UDS_CODE_DEGRADE},
	{"restart", UDS_CODE_RESTART},
};

/* Reads one option's description. */
static bool
read_option(UdsManifestReader *reader, const cJSON *item, const char *path,
			UdsOptionSpec *option)
{
	static const char *const words[] = {
		"required", "secret", "default", "comment", NULL
	};
	const cJSON *value;
	char	   *comment;

	if (!uds_reader_is_name(item->string))
		return uds_reader_fail(reader, path, "is no name of an option");
	option->name = pstrdup(item->string);
	if (!uds_reader_object(reader, item, path, words) ||
		!uds_reader_bool(reader, item, path, "required", &option->required) ||
		!uds_reader_bool(reader, item, path, "secret", &option->secret) ||
		!uds_reader_text(reader, item, path, "comment", false, &comment))
		return false;
	value = cJSON_GetObjectItemCaseSensitive(item, "default");
	if (value == NULL)
		return true;
	if (option->required || option->secret)
		return uds_reader_fail(reader, path, "a required or secret option has no default");
	if (strcmp(option->name, "ca_file") == 0)
		return uds_reader_fail(reader, path, "has no default, since only superusers may name files");
	option->default_value = uds_json_text(value);
	if (option->default_value == NULL)
		return uds_reader_fail(reader, uds_reader_at(path, "default"),
							   "must be a string, number or boolean");
	return true;
}

static bool
read_options(UdsManifestReader *reader, const cJSON *root)
{
	UdsManifest *manifest = reader->manifest;
	const cJSON *options = cJSON_GetObjectItemCaseSensitive(root, "options");
	const cJSON *item;

	if (options == NULL)
		return true;
	if (!cJSON_IsObject(options))
		return uds_reader_fail(reader, "$.options", "must be an object");
	manifest->options = palloc0((cJSON_GetArraySize(options) + 1) *
								sizeof(UdsOptionSpec));
	cJSON_ArrayForEach(item, options)
	{
		if (!read_option(reader, item, uds_reader_at("$.options", item->string),
						 &manifest->options[manifest->noptions]))
			return false;
		manifest->noptions++;
	}
	return true;
}

/* Where the token goes: "send" of "auth". */
static bool
read_send(UdsManifestReader *reader, const cJSON *object, UdsAuthSpec *auth)
{
	static const char *const words[] = {"query", "headers", NULL};
	const cJSON *send = cJSON_GetObjectItemCaseSensitive(object, "send");
	const char *path = "$.auth.send";

	if (send == NULL)
		return uds_reader_fail(reader, "$.auth", "missing \"send\"");
	if (!uds_reader_object(reader, send, path, words) ||
		!uds_manifest_read_pairs(reader, send, path, "query", token_names,
								 &auth->query) ||
		!uds_manifest_read_pairs(reader, send, path, "headers", token_names,
								 &auth->headers))
		return false;
	if (auth->query.count + auth->headers.count == 0)
		return uds_reader_fail(reader, path, "is empty");
	return true;
}

static bool
read_auth(UdsManifestReader *reader, const cJSON *root)
{
	static const char *const words[] = {
		"request", "token", "expires_in", "lifetime", "send", NULL
	};
	const cJSON *object = cJSON_GetObjectItemCaseSensitive(root, "auth");
	const cJSON *request;
	const char *path = "$.auth";
	UdsAuthSpec *auth;

	if (object == NULL)
		return true;
	if (!uds_reader_object(reader, object, path, words))
		return false;
	auth = reader->manifest->auth = palloc0(sizeof(UdsAuthSpec));
	auth->lifetime = DEFAULT_LIFETIME;
	request = cJSON_GetObjectItemCaseSensitive(object, "request");
	if (request == NULL)
		return uds_reader_fail(reader, path, "missing \"request\"");
	return uds_manifest_read_request(reader, request, "$.auth.request",
									 no_names, &auth->request) &&
		uds_reader_path(reader, object, path, "token", true, &auth->token) &&
		uds_reader_path(reader, object, path, "expires_in", false, &auth->expires_in) &&
		uds_reader_int(reader, object, path, "lifetime", 1, 366 * 86400, &auth->lifetime) &&
		read_send(reader, object, auth);
}

/* One entry of a list of codes: the code, or for throttle an object. */
static bool
read_code(UdsManifestReader *reader, const cJSON *item, const char *path,
		  UdsCodeRule *rule)
{
	static const char *const words[] = {"code", "wait", "concurrency", NULL};

	if (rule->code_class == UDS_CODE_THROTTLE && cJSON_IsObject(item))
	{
		if (!uds_reader_object(reader, item, path, words) ||
			!uds_reader_int(reader, item, path, "wait", 0, 3600, &rule->wait) ||
			!uds_reader_int(reader, item, path, "concurrency", 1, 64, &rule->concurrency))
			return false;
		item = cJSON_GetObjectItemCaseSensitive(item, "code");
		if (item == NULL)
			return uds_reader_fail(reader, path, "missing \"code\"");
	}
	if (rule->code_class == UDS_CODE_OK && cJSON_IsNull(item))
		return true;
	rule->code = uds_json_text(item);
	if (rule->code == NULL)
		return uds_reader_fail(reader, path, "must be a code: a number or a string");
	return true;
}

static bool
is_listed(const UdsErrorsSpec *errors, const char *code)
{
	int			i;

	for (i = 0; i < errors->nrules; i++)
	{
		const char *other = errors->rules[i].code;

		if ((code == NULL || other == NULL) ? code == other :
			strcmp(other, code) == 0)
			return true;
	}
	return false;
}

static bool
read_code_list(UdsManifestReader *reader, const cJSON *object, int which)
{
	const char *word = code_lists[which].word;
	const char *path = uds_reader_at("$.errors", word);
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, word);
	UdsErrorsSpec *errors = &reader->manifest->errors;
	const cJSON *item;
	int			n = 0;

	if (list == NULL)
		return true;
	if (!cJSON_IsArray(list))
		return uds_reader_fail(reader, path, "must be an array");
	cJSON_ArrayForEach(item, list)
	{
		UdsCodeRule rule = {NULL, code_lists[which].code_class,
		DEFAULT_THROTTLE_WAIT, 0};
		const char *here = psprintf("%s[%d]", path, n++);

		if (!read_code(reader, item, here, &rule))
			return false;
		if (is_listed(errors, rule.code))
			return uds_reader_fail(reader, here,
								   psprintf("code %.100s is listed twice",
											rule.code ? rule.code : "null"));
		errors->rules[errors->nrules++] = rule;
	}
	return true;
}

static bool
read_hints(UdsManifestReader *reader, const cJSON *object)
{
	const cJSON *hints = cJSON_GetObjectItemCaseSensitive(object, "hints");
	UdsErrorsSpec *errors = &reader->manifest->errors;
	const cJSON *item;

	if (hints == NULL)
		return true;
	if (!cJSON_IsObject(hints))
		return uds_reader_fail(reader, "$.errors.hints", "must be an object");
	errors->hints = palloc0((cJSON_GetArraySize(hints) + 1) * sizeof(UdsHintSpec));
	cJSON_ArrayForEach(item, hints)
	{
		UdsHintSpec *hint = &errors->hints[errors->nhints];

		if (!uds_reader_text(reader, hints, "$.errors.hints", item->string,
							 true, &hint->hint))
			return false;
		hint->code = pstrdup(item->string);
		errors->nhints++;
	}
	return true;
}

static bool
read_errors(UdsManifestReader *reader, const cJSON *root)
{
	static const char *const words[] = {
		"code", "message", "ok", "reauth", "throttle", "transient", "gone",
		"scope", "config", "degrade", "restart", "hints", NULL
	};
	const cJSON *object = cJSON_GetObjectItemCaseSensitive(root, "errors");
	UdsErrorsSpec *errors = &reader->manifest->errors;
	int			codes = 0;
	int			i;

	if (object == NULL)
		return true;
	if (!uds_reader_object(reader, object, "$.errors", words) ||
		!uds_reader_path(reader, object, "$.errors", "code", false, &errors->code) ||
		!uds_reader_path(reader, object, "$.errors", "message", false, &errors->message))
		return false;
	for (i = 0; i < (int) lengthof(code_lists); i++)
	{
		const cJSON *list = cJSON_GetObjectItemCaseSensitive(object,
															 code_lists[i].word);

		if (list != NULL && errors->code == NULL)
			return uds_reader_fail(reader, "$.errors", "missing \"code\"");
		codes += cJSON_GetArraySize(list);
	}
	errors->rules = palloc0((codes + 1) * sizeof(UdsCodeRule));
	for (i = 0; i < (int) lengthof(code_lists); i++)
	{
		if (!read_code_list(reader, object, i))
			return false;
	}
	if (errors->code != NULL && cJSON_GetObjectItemCaseSensitive(object, "ok") == NULL)
		return uds_reader_fail(reader, "$.errors", "missing \"ok\"");
	return read_hints(reader, object);
}

static bool
read_for_each(UdsManifestReader *reader, const cJSON *object, const char *path,
			  UdsStreamSpec *stream)
{
	static const char *const words[] = {"stream", "value", "as", NULL};
	const cJSON *for_each = cJSON_GetObjectItemCaseSensitive(object, "for_each");
	const char *here = uds_reader_at(path, "for_each");

	if (for_each == NULL)
		return true;
	if (!uds_reader_object(reader, for_each, here, words) ||
		!uds_reader_text(reader, for_each, here, "stream", true, &stream->parent) ||
		!uds_reader_text(reader, for_each, here, "value", true, &stream->parent_value) ||
		!uds_reader_text(reader, for_each, here, "as", true, &stream->parent_as))
		return false;
	if (!uds_reader_is_name(stream->parent_as) ||
		strcmp(stream->parent_as, "cursor") == 0 ||
		strcmp(stream->parent_as, "token") == 0)
		return uds_reader_fail(reader, uds_reader_at(here, "as"),
							   psprintf("\"%.100s\" cannot be used as a name",
										stream->parent_as));
	return true;
}

static bool
read_pagination(UdsManifestReader *reader, const cJSON *object,
				const char *path, UdsStreamSpec *stream)
{
	static const char *const words[] = {"type", "next", "more", NULL};
	const cJSON *pagination = cJSON_GetObjectItemCaseSensitive(object, "pagination");
	const char *here = uds_reader_at(path, "pagination");
	char	   *type;

	if (pagination == NULL)
		return true;
	if (!uds_reader_object(reader, pagination, here, words) ||
		!uds_reader_text(reader, pagination, here, "type", true, &type))
		return false;
	if (strcmp(type, "cursor") != 0)
		return uds_reader_fail(reader, uds_reader_at(here, "type"),
							   "must be \"cursor\"");
	return uds_reader_path(reader, pagination, here, "next", true, &stream->next_cursor) &&
		uds_reader_path(reader, pagination, here, "more", false, &stream->more);
}

/* "records", "expect", "merge" and "fields" of a stream. */
static bool
read_records(UdsManifestReader *reader, const cJSON *object, const char *path,
			 UdsStreamSpec *stream)
{
	const cJSON *fields = cJSON_GetObjectItemCaseSensitive(object, "fields");
	const char *here = uds_reader_at(path, "fields");

	if (!uds_reader_text(reader, object, path, "records", true, &stream->records) ||
		!uds_reader_path(reader, object, path, "expect", false, &stream->expect) ||
		!uds_reader_bool(reader, object, path, "merge", &stream->merge))
		return false;
	if (fields == NULL)
		return uds_reader_fail(reader, path, "missing \"fields\"");
	if (!uds_manifest_check_fields(reader, fields, here, stream->parent_as))
		return false;
	if (cJSON_GetObjectItemCaseSensitive(fields, "uid") == NULL)
		return uds_reader_fail(reader, here, "missing \"uid\"");
	return true;
}

static bool
read_stream(UdsManifestReader *reader, const cJSON *object, const char *path,
			UdsStreamSpec *stream)
{
	static const char *const words[] = {
		"type", "for_each", "request", "pagination", "records", "expect",
		"merge", "fields", NULL
	};
	const char *names[3] = {NULL, NULL, NULL};
	const cJSON *request;
	int			n = 0;

	stream->name = pstrdup(object->string);
	if (!uds_reader_is_name(stream->name) ||
		strcmp(stream->name, UDS_STREAM_AUTH) == 0)
		return uds_reader_fail(reader, path, "cannot be used as a name");
	if (!uds_reader_object(reader, object, path, words) ||
		!uds_reader_text(reader, object, path, "type", true, &stream->type) ||
		!read_for_each(reader, object, path, stream) ||
		!read_pagination(reader, object, path, stream))
		return false;
	if (strcmp(stream->type, "user") != 0 &&
		strcmp(stream->type, "department") != 0)
		return uds_reader_fail(reader, uds_reader_at(path, "type"),
							   "must be \"user\" or \"department\"");
	request = cJSON_GetObjectItemCaseSensitive(object, "request");
	if (request == NULL)
		return uds_reader_fail(reader, path, "missing \"request\"");
	if (stream->next_cursor != NULL)
		names[n++] = "cursor";
	if (stream->parent_as != NULL)
		names[n++] = stream->parent_as;
	return uds_manifest_read_request(reader, request,
									 uds_reader_at(path, "request"), names,
									 &stream->request) &&
		read_records(reader, object, path, stream);
}

static bool
read_streams(UdsManifestReader *reader, const cJSON *root)
{
	UdsManifest *manifest = reader->manifest;
	const cJSON *streams = cJSON_GetObjectItemCaseSensitive(root, "streams");
	const cJSON *item;

	if (streams == NULL)
		return uds_reader_fail(reader, "$", "missing \"streams\"");
	if (!cJSON_IsObject(streams) || streams->child == NULL)
		return uds_reader_fail(reader, "$.streams", "must be a non-empty object");
	manifest->streams = palloc0(cJSON_GetArraySize(streams) * sizeof(UdsStreamSpec));
	cJSON_ArrayForEach(item, streams)
	{
		if (!read_stream(reader, item, uds_reader_at("$.streams", item->string),
						 &manifest->streams[manifest->nstreams]))
			return false;
		manifest->nstreams++;
	}
	return true;
}

/* Position of a stream in a plan so far, or -1. */
static int
find_in_plan(const UdsManifest *manifest, const UdsPlanSpec *plan,
			 const char *name)
{
	int			i;

	for (i = 0; i < plan->count; i++)
	{
		if (strcmp(manifest->streams[plan->streams[i]].name, name) == 0)
			return i;
	}
	return -1;
}

static bool
read_plan_stream(UdsManifestReader *reader, const cJSON *item, const char *path,
				 UdsPlanSpec *plan)
{
	const UdsManifest *manifest = reader->manifest;
	const UdsStreamSpec *stream;
	int			i;

	if (!cJSON_IsString(item))
		return uds_reader_fail(reader, path, "must be the name of a stream");
	for (i = 0; i < manifest->nstreams; i++)
	{
		if (strcmp(manifest->streams[i].name, item->valuestring) == 0)
			break;
	}
	if (i == manifest->nstreams)
		return uds_reader_fail(reader, path,
							   psprintf("unknown stream \"%.100s\"",
										item->valuestring));
	stream = &manifest->streams[i];
	if (find_in_plan(manifest, plan, stream->name) >= 0)
		return uds_reader_fail(reader, path,
							   psprintf("stream \"%s\" is listed twice",
										stream->name));
	if (stream->parent != NULL &&
		find_in_plan(manifest, plan, stream->parent) < 0)
		return uds_reader_fail(reader, path,
							   psprintf("stream \"%s\" comes before \"%.100s\", on which it depends",
										stream->name, stream->parent));
	plan->streams[plan->count++] = i;
	return true;
}

static bool
read_plan(UdsManifestReader *reader, const cJSON *object, const char *path,
		  UdsPlanSpec *plan)
{
	static const char *const words[] = {"name", "streams", "warning", NULL};
	const cJSON *streams;
	const cJSON *item;

	if (!uds_reader_object(reader, object, path, words) ||
		!uds_reader_text(reader, object, path, "name", true, &plan->name) ||
		!uds_reader_text(reader, object, path, "warning", false, &plan->warning))
		return false;
	streams = cJSON_GetObjectItemCaseSensitive(object, "streams");
	if (streams == NULL)
		return uds_reader_fail(reader, path, "missing \"streams\"");
	if (!cJSON_IsArray(streams) || streams->child == NULL)
		return uds_reader_fail(reader, uds_reader_at(path, "streams"),
							   "must be a non-empty array");
	plan->streams = palloc0(cJSON_GetArraySize(streams) * sizeof(int));
	cJSON_ArrayForEach(item, streams)
	{
		if (!read_plan_stream(reader, item,
							  psprintf("%s.streams[%d]", path, plan->count), plan))
			return false;
	}
	return true;
}

static bool
read_plans(UdsManifestReader *reader, const cJSON *root)
{
	UdsManifest *manifest = reader->manifest;
	const cJSON *plans = cJSON_GetObjectItemCaseSensitive(root, "plans");
	const cJSON *item;

	if (plans == NULL)
		return uds_reader_fail(reader, "$", "missing \"plans\"");
	if (!cJSON_IsArray(plans) || plans->child == NULL)
		return uds_reader_fail(reader, "$.plans", "must be a non-empty array");
	manifest->plans = palloc0(cJSON_GetArraySize(plans) * sizeof(UdsPlanSpec));
	cJSON_ArrayForEach(item, plans)
	{
		if (!read_plan(reader, item, psprintf("$.plans[%d]", manifest->nplans),
					   &manifest->plans[manifest->nplans]))
			return false;
		manifest->nplans++;
	}
	return true;
}

static bool
read_ignore_case(UdsManifestReader *reader, const cJSON *root)
{
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "ignore_case");
	const cJSON *item;

	if (list == NULL)
		return true;
	if (!cJSON_IsArray(list))
		return uds_reader_fail(reader, "$.ignore_case", "must be an array");
	cJSON_ArrayForEach(item, list)
	{
		if (cJSON_IsString(item) && strcmp(item->valuestring, "user") == 0)
			reader->manifest->ignore_case_user = true;
		else if (cJSON_IsString(item) &&
				 strcmp(item->valuestring, "department") == 0)
			reader->manifest->ignore_case_department = true;
		else
			return uds_reader_fail(reader, "$.ignore_case",
								   "must hold \"user\" or \"department\"");
	}
	return true;
}

static bool
read_manifest(UdsManifestReader *reader, const cJSON *root)
{
	static const char *const words[] = {
		"manifest", "title", "options", "base_url", "auth", "errors", "plans",
		"streams", "ignore_case", NULL
	};
	const cJSON *base_url;
	int			version = 0;

	if (!uds_reader_object(reader, root, "$", words) ||
		!uds_reader_int(reader, root, "$", "manifest", UDS_MANIFEST_VERSION,
						UDS_MANIFEST_VERSION, &version))
		return false;
	if (version == 0)
		return uds_reader_fail(reader, "$", "missing \"manifest\"");
	base_url = cJSON_GetObjectItemCaseSensitive(root, "base_url");
	if (base_url == NULL)
		return uds_reader_fail(reader, "$", "missing \"base_url\"");
	return uds_reader_text(reader, root, "$", "title", true, &reader->manifest->title) &&
		read_options(reader, root) &&
		uds_reader_template(reader, base_url, "$.base_url", no_names,
							&reader->manifest->base_url) &&
		read_auth(reader, root) &&
		read_errors(reader, root) &&
		read_streams(reader, root) &&
		read_plans(reader, root) &&
		read_ignore_case(reader, root);
}

/*
 * Parses a manifest, a JSON text.  Returns NULL and sets *error, which names
 * the path in the document, if anything in it is not as it must be.  Result
 * and error are allocated in the current memory context.  Raises nothing
 * but out of memory.
 */
UdsManifest *
uds_manifest_parse(const char *json, char **error)
{
	UdsManifestReader reader = {NULL, NULL};
	cJSON	   *root = cJSON_Parse(json);

	if (root == NULL)
	{
		*error = pstrdup("$: not valid JSON");
		return NULL;
	}
	reader.manifest = palloc0(sizeof(UdsManifest));
	if (!read_manifest(&reader, root))
	{
		cJSON_Delete(root);
		*error = reader.error;
		return NULL;
	}
	cJSON_Delete(root);
	return reader.manifest;
}
