/*-------------------------------------------------------------------------
 *
 * options.c
 *		Options of a source, held against the manifest of its type.
 *
 * Pure C but for the functions that return a List: runs in any process and
 * outside the server; takes no locks.
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

/*
 * Options that every type with a manifest has: laid over the fields of its
 * streams, or choosing among its records.
 */
static const char *const common_objects[] = {"user_fields", "department_fields", NULL};
static const char *const common_texts[] = {"user_where", "department_where", NULL};

/* {"$env": "NAME"} or {"$file": "path"}, and nothing else in it. */
static bool
is_reference(const cJSON *value)
{
	const cJSON *member = cJSON_IsObject(value) ? value->child : NULL;

	return member != NULL && member->next == NULL &&
		(strcmp(member->string, "$env") == 0 ||
		 strcmp(member->string, "$file") == 0) &&
		cJSON_IsString(member) && member->valuestring[0] != '\0';
}

static bool
ends_with(const char *text, const char *end)
{
	size_t		len = strlen(text);
	size_t		end_len = strlen(end);

	return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

/*
 * What is wrong with a base URL, as the end of a sentence, or NULL.  Paths
 * are appended to it, so it has no query; it is shown in the log, so it
 * holds no password.
 */
static const char *
check_base_url(const char *url)
{
	const char *host;
	const char *p;

	if (strncmp(url, "http://", 7) == 0)
		host = url + 7;
	else if (strncmp(url, "https://", 8) == 0)
		host = url + 8;
	else
		return "must begin with http:// or https://";
	if (strcspn(host, "/?#:") == 0)
		return "names no host";
	for (p = host; *p != '\0'; p++)
	{
		if ((unsigned char) *p <= ' ' || *p == 0x7f)
			return "must not have spaces in it";
		if (*p == '?' || *p == '#')
			return "must not have a query";
	}
	if (memchr(host, '@', strcspn(host, "/")) != NULL)
		return "must not have a user name in it";
	return NULL;
}

/* What is wrong with a text of which members are used, or NULL. */
static char *
check_members(const UdsOptionSpec *option, const char *text)
{
	cJSON	   *object = cJSON_Parse(text);
	char	   *problem = NULL;
	int			i;

	if (!cJSON_IsObject(object))
		problem = psprintf("option \"%s\" must be a JSON object, as text", option->name);
	for (i = 0; i < option->members.count && problem == NULL; i++)
	{
		const char *name = option->members.items[i];

		if (!cJSON_IsString(cJSON_GetObjectItemCaseSensitive(object, name)))
			problem = psprintf("option \"%s\" has no member \"%.100s\"", option->name, name);
	}
	cJSON_Delete(object);
	return problem;
}

/* What is wrong with a text that must be one of some, or NULL. */
static char *
check_choice(const UdsOptionSpec *option, const char *text)
{
	StringInfoData choices;
	int			i;

	initStringInfo(&choices);
	for (i = 0; i < option->choices.count; i++)
	{
		if (strcmp(option->choices.items[i], text) == 0)
			return NULL;
		appendStringInfo(&choices, "%s%s", i == 0 ? "" : ", ", option->choices.items[i]);
	}
	return psprintf("option \"%s\" must be one of: %s", option->name, choices.data);
}

/* What is wrong with an option that every type has, or NULL. */
static char *
check_common(const cJSON *value)
{
	if (cJSON_IsNull(value) ||
		(uds_reader_is_one_of(value->string, common_objects) ? cJSON_IsObject(value) : cJSON_IsString(value)))
		return NULL;
	return psprintf("option \"%s\" must be %s", value->string,
					uds_reader_is_one_of(value->string, common_objects) ? "an object" : "a jsonpath");
}

/* What is wrong with the value of a known option, or NULL. */
static char *
check_value(const UdsOptionSpec *option, const cJSON *value)
{
	const char *problem = NULL;
	char	   *text;

	if (is_reference(value))
		return option->secret ? NULL :
			psprintf("option \"%s\" is no secret and must be given by value",
					 option->name);
	text = uds_json_text(value);
	if (text == NULL)
		return psprintf(option->secret ?
						"option \"%s\" must be a string, {\"$env\": \"NAME\"} or {\"$file\": \"path\"}" :
						"option \"%s\" must be a string, number or boolean",
						option->name);
	if (option->choices.count > 0)
		return check_choice(option, text);
	if (option->members.count > 0)
		return check_members(option, text);
	if (ends_with(option->name, "_url"))
		problem = check_base_url(text);
	else if (strcmp(option->name, "ca_file") == 0 && text[0] != '/')
		problem = "must be an absolute path";
	else if (option->required && text[0] == '\0')
		problem = "must not be empty";
	return problem != NULL ?
		psprintf("option \"%s\" %s", option->name, problem) : NULL;
}

static char *
describe_options(const UdsManifest *manifest)
{
	StringInfoData text;
	int			i;

	initStringInfo(&text);
	if (manifest->noptions == 0)
		appendStringInfoString(&text, "This type has no options.");
	for (i = 0; i < manifest->noptions; i++)
	{
		appendStringInfo(&text, "%s%s%s", i == 0 ? "The options are " : ", ",
						 manifest->options[i].name,
						 manifest->options[i].required ? " (required)" : "");
	}
	if (manifest->noptions > 0)
		appendStringInfoChar(&text, '.');
	return text.data;
}

static char *
check_options(const UdsManifest *manifest, const cJSON *options)
{
	const cJSON *value;
	int			i;

	if (!cJSON_IsObject(options))
		return pstrdup("options must be a JSON object");
	cJSON_ArrayForEach(value, options)
	{
		const UdsOptionSpec *option = uds_reader_option(manifest, value->string);
		char	   *problem;

		if (uds_reader_is_one_of(value->string, common_objects) ||
			uds_reader_is_one_of(value->string, common_texts))
		{
			problem = check_common(value);
			if (problem != NULL)
				return problem;
			continue;
		}
		if (option == NULL)
			return psprintf("unknown option \"%.100s\"", value->string);
		problem = cJSON_IsNull(value) ? NULL : check_value(option, value);
		if (problem != NULL)
			return problem;
	}
	for (i = 0; i < manifest->noptions; i++)
	{
		const UdsOptionSpec *option = &manifest->options[i];

		value = cJSON_GetObjectItemCaseSensitive(options, option->name);
		if (option->required && (value == NULL || cJSON_IsNull(value)))
			return psprintf("required option \"%s\" is missing", option->name);
	}
	return NULL;
}

/*
 * Checks the options of a source, a JSON object.  Returns NULL if they fit,
 * else what is wrong, a phrase for the caller to put after its own; *hint is
 * then a sentence that names the known options.  A null value counts as
 * absent.  Both are allocated in the current memory context.
 */
char *
uds_manifest_check_options(const UdsManifest *manifest,
						   const char *options_json, char **hint)
{
	cJSON	   *options = cJSON_Parse(options_json);
	char	   *problem = check_options(manifest, options);

	cJSON_Delete(options);
	*hint = problem != NULL ? describe_options(manifest) : NULL;
	return problem;
}

/*
 * Checks that no secret has lost its value: one that is required is there,
 * and none is null, which says that it was given and is not here any more.
 * Result and hint as above.
 */
char *
uds_manifest_check_secrets(const UdsManifest *manifest,
						   const char *options_json, char **hint)
{
	cJSON	   *options = cJSON_Parse(options_json);
	char	   *problem = NULL;
	int			i;

	for (i = 0; i < manifest->noptions && problem == NULL; i++)
	{
		const UdsOptionSpec *option = &manifest->options[i];
		const cJSON *value = cJSON_GetObjectItemCaseSensitive(options,
															  option->name);

		if (option->secret &&
			(cJSON_IsNull(value) || (value == NULL && option->required)))
			problem = psprintf("secret option \"%s\" has no value in this database",
							   option->name);
	}
	cJSON_Delete(options);
	*hint = problem == NULL ? NULL :
		pstrdup("Secrets are not part of a dump. Give it again with uds_alter_source().");
	return problem;
}

/* Members of an option's value, as variables; returns how many. */
static int
add_members(UdsVariable *variables, const UdsOptionSpec *option, const char *text)
{
	cJSON	   *object = text ? cJSON_Parse(text) : NULL;
	int			i;

	for (i = 0; i < option->members.count; i++)
	{
		const char *name = option->members.items[i];
		const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, name);

		variables[i].name = psprintf("options.%s.%s", option->name, name);
		variables[i].value = cJSON_IsString(value) ? pstrdup(value->valuestring) : NULL;
		variables[i].secret = option->secret;
	}
	cJSON_Delete(object);
	return option->members.count;
}

/* Gives options without a value that of the preset that was chosen. */
static void
add_preset(const UdsManifest *manifest, UdsVariable *variables, int count)
{
	const UdsPresetSpec *preset = NULL;
	int			i;
	int			j;

	for (i = 0; i < count; i++)
	{
		const UdsVariable *variable = &variables[i];

		if (strcmp(variable->name, "options." UDS_PRESET_OPTION) != 0 ||
			variable->value == NULL)
			continue;
		for (j = 0; j < manifest->npresets; j++)
		{
			if (strcmp(manifest->presets[j].name, variable->value) == 0)
				preset = &manifest->presets[j];
		}
	}
	for (i = 0; preset != NULL && i < count; i++)
	{
		const char *name = variables[i].name + strlen("options.");

		for (j = 0; j < preset->count && variables[i].value == NULL; j++)
		{
			if (strcmp(preset->options[j], name) == 0)
				variables[i].value = preset->values[j];
		}
	}
}

/*
 * The options as variables for templates, named "options.X" or, for members
 * of one, "options.X.Y": the value given, else the default, else NULL.
 * Options must have passed the check, with references to secrets resolved.
 */
UdsVariable *
uds_manifest_option_values(const UdsManifest *manifest,
						   const char *options_json, int *count)
{
	cJSON	   *options = cJSON_Parse(options_json);
	int			size = manifest->noptions;
	UdsVariable *variables;
	int			i;

	for (i = 0; i < manifest->noptions; i++)
		size += manifest->options[i].members.count;
	variables = palloc0((size + 1) * sizeof(UdsVariable));
	*count = 0;
	for (i = 0; i < manifest->noptions; i++)
	{
		const UdsOptionSpec *option = &manifest->options[i];
		const cJSON *value = cJSON_GetObjectItemCaseSensitive(options,
															  option->name);
		UdsVariable *variable = &variables[(*count)++];

		variable->name = psprintf("options.%s", option->name);
		variable->value = value ? uds_json_text(value) : NULL;
		if (variable->value == NULL)
			variable->value = option->default_value;
		variable->secret = option->secret;
		*count += add_members(&variables[*count], option, variable->value);
	}
	cJSON_Delete(options);
	add_preset(manifest, variables, *count);
	return variables;
}

/*
 * Whether what depends on an option is to be used; options are those of
 * uds_manifest_option_values().
 */
bool
uds_manifest_holds(const UdsWhenSpec *when, const UdsVariable *options, int count)
{
	const char *value = NULL;
	int			i;

	if (when->option == NULL)
		return true;
	for (i = 0; i < count; i++)
	{
		if (strcmp(options[i].name + strlen("options."), when->option) == 0)
			value = options[i].value;
	}
	if (when->about_given)
		return when->given == (value != NULL && value[0] != '\0');
	for (i = 0; i < when->values.count; i++)
	{
		if (value != NULL && strcmp(when->values.items[i], value) == 0)
			return true;
	}
	return false;
}

#ifndef FRONTEND
/* Names of the secret options: List of char *, owned by the manifest. */
List *
uds_manifest_secrets(const UdsManifest *manifest)
{
	List	   *names = NIL;
	int			i;

	for (i = 0; i < manifest->noptions; i++)
	{
		if (manifest->options[i].secret)
			names = lappend(names, manifest->options[i].name);
	}
	return names;
}
#endif
