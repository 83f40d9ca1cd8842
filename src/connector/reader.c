/*-------------------------------------------------------------------------
 *
 * reader.c
 *		Typed reading of manifest members; errors name the JSON path.
 *
 * The first error is kept, and every function returns false from then on.
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

/*
 * Notes an error at a path, unless one is noted already.  Always false, so
 * that callers can return it.
 */
bool
uds_reader_fail(UdsManifestReader *reader, const char *path,
				const char *problem)
{
	if (reader->error == NULL)
		reader->error = psprintf("%s: %s", path, problem);
	return false;
}

/* The path of a member: "$.streams" and "users" make "$.streams.users". */
char *
uds_reader_at(const char *path, const char *word)
{
	return psprintf("%s.%.100s", path, word);
}

/* Whether a text can name an option, a stream, a plan or a value. */
bool
uds_reader_is_name(const char *text)
{
	const char *p;

	if (!((*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z')))
		return false;
	for (p = text; *p != '\0'; p++)
	{
		if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			  (*p >= '0' && *p <= '9') || *p == '_'))
			return false;
	}
	return p - text <= 63;
}

/* Whether a text is one of some words, the last of which is NULL. */
bool
uds_reader_is_one_of(const char *text, const char *const *words)
{
	while (*words != NULL && strcmp(*words, text) != 0)
		words++;
	return *words != NULL;
}

/* The item must be an object with no other members than these words. */
bool
uds_reader_object(UdsManifestReader *reader, const cJSON *object,
				  const char *path, const char *const *words)
{
	const cJSON *member;

	if (reader->error != NULL)
		return false;
	if (!cJSON_IsObject(object))
		return uds_reader_fail(reader, path, "must be an object");
	cJSON_ArrayForEach(member, object)
	{
		if (!uds_reader_is_one_of(member->string, words))
			return uds_reader_fail(reader, path,
								   psprintf("unknown word \"%.100s\"",
											member->string));
	}
	return true;
}

/* A non-empty text member; *text is NULL if it is absent and may be. */
bool
uds_reader_text(UdsManifestReader *reader, const cJSON *object,
				const char *path, const char *word, bool required,
				char **text)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, word);

	if (reader->error != NULL)
		return false;
	*text = NULL;
	if (item == NULL)
		return required ?
			uds_reader_fail(reader, path, psprintf("missing \"%s\"", word)) : true;
	if (!cJSON_IsString(item) || item->valuestring[0] == '\0')
		return uds_reader_fail(reader, uds_reader_at(path, word),
							   "must be a non-empty string");
	*text = pstrdup(item->valuestring);
	return true;
}

/* As above, and the text must be a simple path. */
bool
uds_reader_path(UdsManifestReader *reader, const cJSON *object,
				const char *path, const char *word, bool required,
				char **text)
{
	if (!uds_reader_text(reader, object, path, word, required, text))
		return false;
	if (*text != NULL && !uds_json_path_valid(*text))
		return uds_reader_fail(reader, uds_reader_at(path, word),
							   "must be a simple path like \"$.a.b\" or \"$.a[0]\"");
	return true;
}

/* A member that is true or false; *value stays as it is if it is absent. */
bool
uds_reader_bool(UdsManifestReader *reader, const cJSON *object,
				const char *path, const char *word, bool *value)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, word);

	if (reader->error != NULL)
		return false;
	if (item == NULL)
		return true;
	if (!cJSON_IsBool(item))
		return uds_reader_fail(reader, uds_reader_at(path, word),
							   "must be true or false");
	*value = cJSON_IsTrue(item);
	return true;
}

/* A member that is an integer; *value stays as it is if it is absent. */
bool
uds_reader_int(UdsManifestReader *reader, const cJSON *object,
			   const char *path, const char *word, int min, int max,
			   int *value)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, word);

	if (reader->error != NULL)
		return false;
	if (item == NULL)
		return true;
	if (!cJSON_IsNumber(item) || !(item->valuedouble >= min) ||
		!(item->valuedouble <= max) ||
		item->valuedouble != (double) item->valueint)
		return uds_reader_fail(reader, uds_reader_at(path, word),
							   psprintf("must be an integer from %d to %d", min, max));
	*value = item->valueint;
	return true;
}

/*
 * A member that is a text, or an array of texts; numbers and booleans count
 * as texts.  None if it is absent.
 */
bool
uds_reader_texts(UdsManifestReader *reader, const cJSON *object,
				 const char *path, const char *word, UdsTexts *texts)
{
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, word);
	const cJSON *item = cJSON_IsArray(list) ? list->child : list;

	if (reader->error != NULL)
		return false;
	texts->count = 0;
	texts->items = NULL;
	if (list == NULL)
		return true;
	if (item == NULL)
		return uds_reader_fail(reader, uds_reader_at(path, word), "must not be empty");
	texts->items = palloc0((cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 1) *
						   sizeof(char *));
	for (; item != NULL; item = cJSON_IsArray(list) ? item->next : NULL)
	{
		char	   *text = uds_json_text(item);

		if (text == NULL)
			return uds_reader_fail(reader, uds_reader_at(path, word),
								   "must be a text or a number, or an array of them");
		texts->items[texts->count++] = text;
	}
	return true;
}

/* As above, and each must be a simple path. */
bool
uds_reader_paths(UdsManifestReader *reader, const cJSON *object,
				 const char *path, const char *word, UdsTexts *texts)
{
	int			i;

	if (!uds_reader_texts(reader, object, path, word, texts))
		return false;
	for (i = 0; i < texts->count; i++)
	{
		if (!uds_json_path_valid(texts->items[i]))
			return uds_reader_fail(reader, uds_reader_at(path, word),
								   "must be a simple path like \"$.a.b\" or \"$.a[0]\"");
	}
	return true;
}

/* The option of a name, or NULL. */
const UdsOptionSpec *
uds_reader_option(const UdsManifest *manifest, const char *name)
{
	int			i;

	for (i = 0; i < manifest->noptions; i++)
	{
		if (strcmp(manifest->options[i].name, name) == 0)
			return &manifest->options[i];
	}
	return NULL;
}

/* The member "when", if there is one. */
bool
uds_reader_when(UdsManifestReader *reader, const cJSON *object,
				const char *path, UdsWhenSpec *when)
{
	static const char *const words[] = {"option", "is", "given", NULL};
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, "when");
	const char *here = uds_reader_at(path, "when");

	if (item == NULL)
		return true;
	if (!uds_reader_object(reader, item, here, words) ||
		!uds_reader_text(reader, item, here, "option", true, &when->option) ||
		!uds_reader_texts(reader, item, here, "is", &when->values) ||
		!uds_reader_bool(reader, item, here, "given", &when->given))
		return false;
	if (uds_reader_option(reader->manifest, when->option) == NULL)
		return uds_reader_fail(reader, here, psprintf("unknown option \"%.100s\"", when->option));
	when->about_given = cJSON_GetObjectItemCaseSensitive(item, "given") != NULL;
	if (when->about_given == (when->values.count > 0))
		return uds_reader_fail(reader, here, "needs either \"is\" or \"given\"");
	return true;
}

/* NAME or NAME.MEMBER of an option. */
static bool
is_known_option(const UdsManifest *manifest, const char *name)
{
	const char *dot = strchr(name, '.');
	const UdsOptionSpec *option;
	int			i;

	if (dot == NULL)
		return uds_reader_option(manifest, name) != NULL;
	option = uds_reader_option(manifest, pnstrdup(name, dot - name));
	for (i = 0; option != NULL && i < option->members.count; i++)
	{
		if (strcmp(option->members.items[i], dot + 1) == 0)
			return true;
	}
	return false;
}

/* Notes that a template asks for something that was noted. */
static void
add_state(UdsManifestReader *reader, const char *name)
{
	UdsTexts   *states = &reader->states;
	char	  **items = palloc((states->count + 1) * sizeof(char *));

	if (states->count > 0)
		memcpy(items, states->items, states->count * sizeof(char *));
	items[states->count++] = pstrdup(name);
	states->items = items;
}

static bool
is_known_variable(UdsManifestReader *reader, const char *name,
				  const char *const *names)
{
	int			i;

	if (strncmp(name, "options.", 8) == 0)
		return is_known_option(reader->manifest, name + 8);
	if (strncmp(name, "state.", 6) == 0)
	{
		for (i = 0; i < reader->notes.count; i++)
		{
			if (strcmp(reader->notes.items[i], name + 6) != 0)
				continue;
			add_state(reader, name + 6);
			return true;
		}
		return false;
	}
	for (; *names != NULL; names++)
	{
		if (strcmp(*names, name) == 0)
			return true;
	}
	return false;
}

/*
 * A template; names (ended by NULL) are the placeholders it may have besides
 * the options and what streams note.
 */
bool
uds_reader_template(UdsManifestReader *reader, const cJSON *item,
					const char *path, const char *const *names,
					UdsTemplate **template)
{
	char	   *error = NULL;
	int			i;

	if (reader->error != NULL)
		return false;
	if (!cJSON_IsString(item))
		return uds_reader_fail(reader, path, "must be a string");
	*template = uds_template_parse(item->valuestring, &error);
	if (*template == NULL)
		return uds_reader_fail(reader, path, psprintf("%s", error));
	for (i = 0; i < (*template)->count; i++)
	{
		const UdsTemplatePart *part = &(*template)->parts[i];

		if (part->variable &&
			!is_known_variable(reader, part->text, names))
			return uds_reader_fail(reader, path,
								   psprintf("unknown placeholder \"{%.100s}\"",
											part->text));
	}
	return true;
}
