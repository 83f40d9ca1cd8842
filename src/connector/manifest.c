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

static const char *const no_names[] = {NULL};

/* Reads one option's description. */
static bool
read_option(UdsManifestReader *reader, const cJSON *item, const char *path,
			UdsOptionSpec *option)
{
	static const char *const words[] = {
		"required", "secret", "default", "choices", "members", "comment", NULL
	};
	const cJSON *value;
	char	   *comment;

	if (!uds_reader_is_name(item->string))
		return uds_reader_fail(reader, path, "is no name of an option");
	option->name = pstrdup(item->string);
	if (!uds_reader_object(reader, item, path, words) ||
		!uds_reader_bool(reader, item, path, "required", &option->required) ||
		!uds_reader_bool(reader, item, path, "secret", &option->secret) ||
		!uds_reader_texts(reader, item, path, "choices", &option->choices) ||
		!uds_reader_texts(reader, item, path, "members", &option->members) ||
		!uds_reader_text(reader, item, path, "comment", false, &comment))
		return false;
	value = cJSON_GetObjectItemCaseSensitive(item, "default");
	if (value == NULL)
		return true;
	if (option->required || option->secret)
		return uds_reader_fail(reader, path, "a required or secret option has no default");
	if (strcmp(option->name, "ca_file") == 0 ||
		strcmp(option->name, "client_cert_file") == 0 ||
		strcmp(option->name, "client_key_file") == 0)
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

/* Defaults of one preset: options that have no other, and their values. */
static bool
read_preset(UdsManifestReader *reader, const cJSON *object, UdsPresetSpec *preset)
{
	const char *path = uds_reader_at("$.presets", object->string);
	const cJSON *item;

	if (!cJSON_IsObject(object))
		return uds_reader_fail(reader, path, "must be an object");
	preset->name = pstrdup(object->string);
	preset->options = palloc0((cJSON_GetArraySize(object) + 1) * sizeof(char *));
	preset->values = palloc0((cJSON_GetArraySize(object) + 1) * sizeof(char *));
	cJSON_ArrayForEach(item, object)
	{
		const UdsOptionSpec *option = uds_reader_option(reader->manifest, item->string);

		if (option == NULL || option->required || option->secret ||
			option->default_value != NULL)
			return uds_reader_fail(reader, uds_reader_at(path, item->string),
								   "must be an option that is neither required nor secret and has no default");
		if (!cJSON_IsString(item))
			return uds_reader_fail(reader, uds_reader_at(path, item->string),
								   "must be a text");
		preset->options[preset->count] = pstrdup(item->string);
		preset->values[preset->count++] = pstrdup(item->valuestring);
	}
	return true;
}

/* "presets": by value of the option "preset", defaults of others. */
static bool
read_presets(UdsManifestReader *reader, const cJSON *root)
{
	UdsManifest *manifest = reader->manifest;
	const cJSON *presets = cJSON_GetObjectItemCaseSensitive(root, "presets");
	const cJSON *item;

	if (presets == NULL)
		return true;
	if (!cJSON_IsObject(presets))
		return uds_reader_fail(reader, "$.presets", "must be an object");
	if (uds_reader_option(manifest, UDS_PRESET_OPTION) == NULL)
		return uds_reader_fail(reader, "$.presets",
							   "needs an option \"" UDS_PRESET_OPTION "\"");
	manifest->presets = palloc0((cJSON_GetArraySize(presets) + 1) * sizeof(UdsPresetSpec));
	cJSON_ArrayForEach(item, presets)
	{
		if (!read_preset(reader, item, &manifest->presets[manifest->npresets++]))
			return false;
	}
	return true;
}

/* Position of a stream in the manifest, or -1. */
static int
find_stream(const UdsManifest *manifest, const char *name)
{
	int			i;

	for (i = 0; i < manifest->nstreams; i++)
	{
		if (strcmp(manifest->streams[i].name, name) == 0)
			return i;
	}
	return -1;
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
comes_before(UdsManifestReader *reader, const char *path,
			 const UdsStreamSpec *stream, const char *other)
{
	return uds_reader_fail(reader, path,
						   psprintf("stream \"%s\" comes before \"%.100s\", on which it depends",
									stream->name, other));
}

static bool
is_fed_by(const UdsStreamSpec *stream, const char *name)
{
	int			i;

	for (i = 0; i < stream->nfeeds; i++)
	{
		if (stream->feeds[i].stream != NULL && strcmp(stream->feeds[i].stream, name) == 0)
			return true;
	}
	return false;
}

/*
 * Whether streams and what their for_each depends on are in the right order,
 * with one more stream in the plan.  Plans may share a stream and feed it in
 * different ways: one of the streams that it depends on is enough.
 */
static bool
check_feeds(UdsManifestReader *reader, const char *path,
			const UdsPlanSpec *plan, const UdsStreamSpec *stream)
{
	const UdsManifest *manifest = reader->manifest;
	const char *missing = NULL;
	bool		fed = false;
	int			i;

	for (i = 0; i < plan->count; i++)
	{
		const UdsStreamSpec *other = &manifest->streams[plan->streams[i]];

		if (is_fed_by(other, stream->name))
			return comes_before(reader, path, other, stream->name);
		fed |= is_fed_by(stream, other->name);
	}
	for (i = 0; i < stream->nfeeds; i++)
	{
		const char *name = stream->feeds[i].stream;

		if (name == NULL)
		{
			/* events feed it in a plan for them, and in no other */
			fed |= plan->events;
			continue;
		}
		if (find_stream(manifest, name) < 0)
			return uds_reader_fail(reader, psprintf("$.streams.%.100s.for_each", stream->name),
								   psprintf("unknown stream \"%.100s\"", name));
		if (missing == NULL && strcmp(name, stream->name) != 0)
			missing = name;
	}
	return fed || missing == NULL || comes_before(reader, path, stream, missing);
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
	i = find_stream(manifest, item->valuestring);
	if (i < 0)
		return uds_reader_fail(reader, path,
							   psprintf("unknown stream \"%.100s\"",
										item->valuestring));
	stream = &manifest->streams[i];
	if (find_in_plan(manifest, plan, stream->name) >= 0)
		return uds_reader_fail(reader, path,
							   psprintf("stream \"%s\" is listed twice",
										stream->name));
	if (stream->pages_of != NULL &&
		find_in_plan(manifest, plan, stream->pages_of) < 0)
		return comes_before(reader, path, stream, stream->pages_of);
	if (!check_feeds(reader, path, plan, stream))
		return false;
	plan->streams[plan->count++] = i;
	return true;
}

static bool
read_plan(UdsManifestReader *reader, const cJSON *object, const char *path,
		  UdsPlanSpec *plan)
{
	static const char *const words[] = {
		"name", "mode", "when", "streams", "warning", NULL
	};
	const cJSON *streams;
	const cJSON *item;
	char	   *mode;

	if (!uds_reader_object(reader, object, path, words) ||
		!uds_reader_text(reader, object, path, "name", true, &plan->name) ||
		!uds_reader_text(reader, object, path, "mode", false, &mode) ||
		!uds_reader_when(reader, object, path, &plan->when) ||
		!uds_reader_text(reader, object, path, "warning", false, &plan->warning))
		return false;
	plan->incremental = mode != NULL && strcmp(mode, "incremental") == 0;
	plan->events = mode != NULL && strcmp(mode, "events") == 0;
	if (mode != NULL && !plan->incremental && !plan->events && strcmp(mode, "full") != 0)
		return uds_reader_fail(reader, uds_reader_at(path, "mode"),
							   "must be \"full\", \"incremental\" or \"events\"");
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
read_budget(UdsManifestReader *reader, const cJSON *root)
{
	static const char *const words[] = {"requests", "seconds", "per", NULL};
	UdsManifest *manifest = reader->manifest;
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "budget");
	const cJSON *item;

	if (list == NULL)
		return true;
	if (!cJSON_IsArray(list))
		return uds_reader_fail(reader, "$.budget", "must be an array");
	manifest->budgets = palloc0((cJSON_GetArraySize(list) + 1) * sizeof(UdsBudgetSpec));
	cJSON_ArrayForEach(item, list)
	{
		UdsBudgetSpec *budget = &manifest->budgets[manifest->nbudgets];
		const char *path = psprintf("$.budget[%d]", manifest->nbudgets++);
		char	   *per;

		if (!uds_reader_object(reader, item, path, words) ||
			!uds_reader_int(reader, item, path, "requests", 1, 100000, &budget->requests) ||
			!uds_reader_int(reader, item, path, "seconds", 1, 86400, &budget->seconds) ||
			!uds_reader_text(reader, item, path, "per", false, &per))
			return false;
		if (budget->requests == 0 || budget->seconds == 0)
			return uds_reader_fail(reader, path, "needs \"requests\" and \"seconds\"");
		budget->per_stream = per != NULL;
		if (per != NULL && strcmp(per, "stream") != 0)
			return uds_reader_fail(reader, uds_reader_at(path, "per"),
								   "must be \"stream\"");
	}
	return true;
}

/* "ignore_case" is read in SQL; here it is only checked. */
static bool
read_ignore_case(UdsManifestReader *reader, const cJSON *root)
{
	static const char *const words[] = {"user", "department", NULL};
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "ignore_case");
	const cJSON *item;

	if (list == NULL)
		return true;
	if (!cJSON_IsArray(list))
		return uds_reader_fail(reader, "$.ignore_case", "must be an array");
	cJSON_ArrayForEach(item, list)
	{
		if (!cJSON_IsString(item) || !uds_reader_is_one_of(item->valuestring, words))
			return uds_reader_fail(reader, "$.ignore_case",
								   "must hold \"user\" or \"department\"");
	}
	return true;
}

/* "native": read by code of its own, so that nothing says how to use HTTP. */
static bool
read_native(UdsManifestReader *reader, const cJSON *root)
{
	static const char *const words[] = {
		"base_url", "auth", "errors", "budget", "concurrency", NULL
	};
	char	   *native;

	if (!uds_reader_text(reader, root, "$", "native", false, &native) || native == NULL)
		return reader->error == NULL;
	if (strcmp(native, UDS_NATIVE_LDAP) != 0)
		return uds_reader_fail(reader, "$.native", "must be \"" UDS_NATIVE_LDAP "\"");
	for (int i = 0; words[i] != NULL; i++)
	{
		if (cJSON_GetObjectItemCaseSensitive(root, words[i]) != NULL)
			return uds_reader_fail(reader, "$",
								   psprintf("\"native\" does not go with \"%s\"", words[i]));
	}
	reader->manifest->native = native;
	return true;
}

static bool
read_manifest(UdsManifestReader *reader, const cJSON *root)
{
	static const char *const words[] = {
		"manifest", "title", "options", "presets", "native", "base_url", "auth", "errors",
		"budget", "concurrency", "plans", "streams", "ignore_case", "events", NULL
	};
	const cJSON *base_url;
	int			version = 0;

	if (!uds_reader_object(reader, root, "$", words) ||
		!uds_reader_int(reader, root, "$", "manifest", UDS_MANIFEST_VERSION,
						UDS_MANIFEST_VERSION, &version))
		return false;
	if (version == 0)
		return uds_reader_fail(reader, "$", "missing \"manifest\"");
	if (!uds_reader_text(reader, root, "$", "title", true, &reader->manifest->title) ||
		!read_native(reader, root) ||
		!read_options(reader, root) ||
		!read_presets(reader, root))
		return false;
	base_url = cJSON_GetObjectItemCaseSensitive(root, "base_url");
	if (base_url == NULL && reader->manifest->native == NULL)
		return uds_reader_fail(reader, "$", "missing \"base_url\"");
	return (base_url == NULL ||
			uds_reader_template(reader, base_url, "$.base_url", no_names,
								&reader->manifest->base_url)) &&
		uds_manifest_read_auth(reader, root) &&
		uds_manifest_read_errors(reader, root) &&
		read_budget(reader, root) &&
		uds_reader_int(reader, root, "$", "concurrency", 1, 64,
					   &reader->manifest->concurrency) &&
		uds_manifest_read_streams(reader, root) &&
		read_plans(reader, root) &&
		read_ignore_case(reader, root) &&
		uds_manifest_read_events(reader, root);
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
	UdsManifestReader reader = {0};
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
