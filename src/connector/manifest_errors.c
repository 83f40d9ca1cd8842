/*-------------------------------------------------------------------------
 *
 * manifest_errors.c
 *		The parts of a manifest that say how a service reports errors, and how
 *		long it wants to be left alone.
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

/* seconds before a throttled request is sent again, where not said */
#define DEFAULT_THROTTLE_WAIT 1

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
	{"empty", UDS_CODE_EMPTY},
	{"config", UDS_CODE_CONFIG},
	{"degrade", UDS_CODE_DEGRADE},
	{"restart", UDS_CODE_RESTART},
};

/* The conditions of a rule that is an object. */
static bool
read_conditions(UdsManifestReader *reader, const cJSON *item, const char *path,
				UdsCodeRule *rule)
{
	const cJSON *code = cJSON_GetObjectItemCaseSensitive(item, "code");

	if (!uds_reader_int(reader, item, path, "status", 100, 599, &rule->status) ||
		!uds_reader_path(reader, item, path, "path", false, &rule->path) ||
		!uds_reader_texts(reader, item, path, "in", &rule->values) ||
		!uds_reader_text(reader, item, path, "matches", false, &rule->pattern) ||
		!uds_reader_text(reader, item, path, "body", false, &rule->body) ||
		!uds_reader_text(reader, item, path, "stream", false, &rule->stream))
		return false;
	if (code != NULL && (rule->code = uds_json_text(code)) == NULL)
		return uds_reader_fail(reader, uds_reader_at(path, "code"),
							   "must be a code: a number or a string");
	if ((rule->path != NULL) != (rule->values.count > 0 || rule->pattern != NULL))
		return uds_reader_fail(reader, path, "needs \"path\" together with \"in\" or \"matches\"");
	if (rule->code == NULL && rule->status == 0 && rule->path == NULL &&
		rule->body == NULL)
		return uds_reader_fail(reader, path, "needs a code, a status, a path or a body");
	rule->plain = rule->status == 0 && rule->path == NULL &&
		rule->body == NULL && rule->stream == NULL;
	return true;
}

/* One rule of a list: a code, or an object. */
static bool
read_rule(UdsManifestReader *reader, const cJSON *item, const char *path,
		  UdsCodeRule *rule)
{
	static const char *const words[] = {
		"code", "status", "path", "in", "matches", "body", "stream",
		"wait", "concurrency", NULL
	};

	rule->plain = true;
	if (cJSON_IsObject(item))
	{
		if (!uds_reader_object(reader, item, path, words))
			return false;
		if (rule->code_class != UDS_CODE_THROTTLE &&
			(cJSON_GetObjectItemCaseSensitive(item, "wait") != NULL ||
			 cJSON_GetObjectItemCaseSensitive(item, "concurrency") != NULL))
			return uds_reader_fail(reader, path, "\"wait\" and \"concurrency\" go with \"throttle\" only");
		return uds_reader_int(reader, item, path, "wait", 0, 3600, &rule->wait) &&
			uds_reader_int(reader, item, path, "concurrency", 1, 64, &rule->concurrency) &&
			read_conditions(reader, item, path, rule);
	}
	if (rule->code_class == UDS_CODE_OK && cJSON_IsNull(item))
		return true;
	rule->code = uds_json_text(item);
	if (rule->code == NULL)
		return uds_reader_fail(reader, path, "must be a code: a number or a string");
	return true;
}

static bool
is_listed(const UdsErrorsSpec *errors, const UdsCodeRule *rule)
{
	int			i;

	for (i = 0; i < errors->nrules; i++)
	{
		const UdsCodeRule *other = &errors->rules[i];

		if (!rule->plain || !other->plain)
			continue;
		if ((rule->code == NULL || other->code == NULL) ? rule->code == other->code :
			pg_strcasecmp(other->code, rule->code) == 0)
			return true;
	}
	return false;
}

/* Reads the plain rules of a list, or those that are not. */
static bool
read_rules(UdsManifestReader *reader, const cJSON *object, int which, bool plain)
{
	const char *path = uds_reader_at("$.errors", code_lists[which].word);
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, code_lists[which].word);
	UdsErrorsSpec *errors = &reader->manifest->errors;
	const cJSON *item;
	int			n = 0;

	if (list == NULL)
		return true;
	if (!cJSON_IsArray(list))
		return uds_reader_fail(reader, path, "must be an array");
	cJSON_ArrayForEach(item, list)
	{
		UdsCodeRule rule = {0};
		const char *here = psprintf("%s[%d]", path, n++);

		rule.code_class = code_lists[which].code_class;
		rule.wait = DEFAULT_THROTTLE_WAIT;
		if (!read_rule(reader, item, here, &rule))
			return false;
		if (rule.plain != plain)
			continue;
		if (is_listed(errors, &rule))
			return uds_reader_fail(reader, here,
								   psprintf("code %.100s is listed twice",
											rule.code ? rule.code : "null"));
		if (rule.code != NULL && errors->code.count == 0)
			return uds_reader_fail(reader, "$.errors", "missing \"code\"");
		errors->rules[errors->nrules++] = rule;
	}
	return true;
}

static bool
read_waits(UdsManifestReader *reader, const cJSON *object)
{
	static const char *const words[] = {"header", "path", "as", NULL};
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, "wait");
	UdsErrorsSpec *errors = &reader->manifest->errors;
	const cJSON *item;

	if (list == NULL)
		return true;
	if (!cJSON_IsArray(list))
		return uds_reader_fail(reader, "$.errors.wait", "must be an array");
	errors->waits = palloc0((cJSON_GetArraySize(list) + 1) * sizeof(UdsWaitSpec));
	cJSON_ArrayForEach(item, list)
	{
		UdsWaitSpec *wait = &errors->waits[errors->nwaits];
		const char *here = psprintf("$.errors.wait[%d]", errors->nwaits++);
		char	   *as;

		if (!uds_reader_object(reader, item, here, words) ||
			!uds_reader_text(reader, item, here, "header", false, &wait->header) ||
			!uds_reader_path(reader, item, here, "path", false, &wait->path) ||
			!uds_reader_text(reader, item, here, "as", false, &as))
			return false;
		if ((wait->header == NULL) == (wait->path == NULL))
			return uds_reader_fail(reader, here, "needs either \"header\" or \"path\"");
		wait->epoch = as != NULL && strcmp(as, "epoch") == 0;
		if (as != NULL && !wait->epoch && strcmp(as, "seconds") != 0)
			return uds_reader_fail(reader, uds_reader_at(here, "as"),
								   "must be \"seconds\" or \"epoch\"");
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

/* Reads "errors" of a manifest. */
bool
uds_manifest_read_errors(UdsManifestReader *reader, const cJSON *root)
{
	static const char *const words[] = {
		"code", "message", "ok", "reauth", "throttle", "transient", "gone",
		"scope", "empty", "config", "degrade", "restart", "wait", "hints", NULL
	};
	const cJSON *object = cJSON_GetObjectItemCaseSensitive(root, "errors");
	UdsErrorsSpec *errors = &reader->manifest->errors;
	int			count = 0;
	int			i;

	if (object == NULL)
		return true;
	if (!uds_reader_object(reader, object, "$.errors", words) ||
		!uds_reader_paths(reader, object, "$.errors", "code", &errors->code) ||
		!uds_reader_paths(reader, object, "$.errors", "message", &errors->message))
		return false;
	for (i = 0; i < (int) lengthof(code_lists); i++)
		count += cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(object,
																	 code_lists[i].word));
	errors->rules = palloc0((count + 1) * sizeof(UdsCodeRule));
	/* what says more is tried first */
	for (i = 0; i < 2 * (int) lengthof(code_lists); i++)
	{
		if (!read_rules(reader, object, i % lengthof(code_lists),
						i >= (int) lengthof(code_lists)))
			return false;
	}
	if (errors->code.count > 0 && cJSON_GetObjectItemCaseSensitive(object, "ok") == NULL)
		return uds_reader_fail(reader, "$.errors", "missing \"ok\"");
	return read_waits(reader, object) && read_hints(reader, object);
}
