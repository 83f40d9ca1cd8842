/*-------------------------------------------------------------------------
 *
 * manifest_fields.c
 *		Whether the expressions under "fields" have a form that is known.
 *
 * The expressions are evaluated in the database; the jsonpaths in them are
 * checked there, too.
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

#include "connector/manifest.h"

/* An object form: the word that makes it, and the words that may go along. */
typedef struct Form
{
	const char *word;
	const char *const words[6];
} Form;

static const Form forms[] = {
	{"path", {"path", "of", "when", "apply", NULL}},
	{"const", {"const", "apply", NULL}},
	{"context", {"context", "apply", NULL}},
	{"coalesce", {"coalesce", "apply", NULL}},
	{"all", {"all", "apply", NULL}},
	{"text", {"text", "apply", NULL}},
	{"template", {"template", "apply", NULL}},
	{"map", {"map", "values", "default", "apply", NULL}},
	{"each", {"each", "fields", "apply", NULL}},
	{"zip", {"zip", "apply", NULL}},
	{"join", {"join", "separator", "apply", NULL}},
	{"json", {"json", "apply", NULL}},
	{"date", {"date", "from", "apply", NULL}},
};

static const char *const transforms[] = {
	"trim", "lower", "upper", "digits", "phone", "tel", NULL
};

static bool check_expression(UdsManifestReader *reader, const cJSON *item,
							 const char *path, const char *context);

static bool
check_apply(UdsManifestReader *reader, const cJSON *object, const char *path)
{
	const cJSON *apply = cJSON_GetObjectItemCaseSensitive(object, "apply");
	const char *here = uds_reader_at(path, "apply");
	const cJSON *item;

	if (apply == NULL)
		return true;
	if (!cJSON_IsArray(apply))
		return uds_reader_fail(reader, here, "must be an array");
	cJSON_ArrayForEach(item, apply)
	{
		const char *const *name = transforms;

		if (!cJSON_IsString(item))
			return uds_reader_fail(reader, here, "must hold strings");
		while (*name != NULL && strcmp(*name, item->valuestring) != 0)
			name++;
		if (*name == NULL)
			return uds_reader_fail(reader, here,
								   psprintf("unknown transform \"%.100s\"",
											item->valuestring));
	}
	return true;
}

static bool
check_list(UdsManifestReader *reader, const cJSON *list, const char *path,
		   const char *context)
{
	const cJSON *item;
	int			n = 0;

	if (!cJSON_IsArray(list) || list->child == NULL)
		return uds_reader_fail(reader, path, "must be a non-empty array");
	cJSON_ArrayForEach(item, list)
	{
		if (!check_expression(reader, item, psprintf("%s[%d]", path, n++),
							  context))
			return false;
	}
	return true;
}

static bool
check_zip(UdsManifestReader *reader, const cJSON *zip, const char *path)
{
	const cJSON *member;

	if (!cJSON_IsObject(zip) || zip->child == NULL)
		return uds_reader_fail(reader, path, "must be a non-empty object");
	cJSON_ArrayForEach(member, zip)
	{
		char	   *unused;

		if (!uds_reader_text(reader, zip, path, member->string, true, &unused))
			return false;
	}
	return true;
}

static bool
check_each(UdsManifestReader *reader, const cJSON *object, const char *path,
		   const char *context)
{
	static const char *const zip_words[] = {"zip", NULL};
	const cJSON *each = cJSON_GetObjectItemCaseSensitive(object, "each");
	const cJSON *fields = cJSON_GetObjectItemCaseSensitive(object, "fields");
	const char *here = uds_reader_at(path, "each");
	char	   *unused;

	if (cJSON_IsObject(each))
	{
		const cJSON *zip = cJSON_GetObjectItemCaseSensitive(each, "zip");

		if (!uds_reader_object(reader, each, here, zip_words))
			return false;
		if (zip == NULL)
			return uds_reader_fail(reader, here, "missing \"zip\"");
		if (!check_zip(reader, zip, uds_reader_at(here, "zip")))
			return false;
	}
	else if (!uds_reader_text(reader, object, path, "each", true, &unused))
		return false;
	if (fields == NULL)
		return uds_reader_fail(reader, path, "missing \"fields\"");
	return uds_manifest_check_fields(reader, fields,
									 uds_reader_at(path, "fields"), context);
}

/* "of", "separator" and "from", which go along with some forms. */
static bool
check_companions(UdsManifestReader *reader, const cJSON *object,
				 const char *path, const char *context)
{
	static const char *const units[] = {"epoch", "epoch_ms", "iso", NULL};
	const cJSON *of = cJSON_GetObjectItemCaseSensitive(object, "of");
	const cJSON *separator = cJSON_GetObjectItemCaseSensitive(object, "separator");
	const char *const *unit = units;
	char	   *from;

	if (of != NULL &&
		!check_expression(reader, of, uds_reader_at(path, "of"), context))
		return false;
	if (separator != NULL && !cJSON_IsString(separator))
		return uds_reader_fail(reader, uds_reader_at(path, "separator"), "must be a string");
	if (!uds_reader_text(reader, object, path, "from", false, &from))
		return false;
	while (from != NULL && *unit != NULL && strcmp(*unit, from) != 0)
		unit++;
	if (*unit == NULL)
		return uds_reader_fail(reader, uds_reader_at(path, "from"),
							   "must be epoch, epoch_ms or iso");
	return true;
}

/* The members of one form whose word is known and whose words fit. */
static bool
check_form(UdsManifestReader *reader, const cJSON *object, const char *path,
		   const char *word, const char *context)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, word);
	const char *here = uds_reader_at(path, word);
	char	   *text;

	if (strcmp(word, "const") == 0)
		return true;
	if (strcmp(word, "coalesce") == 0)
		return check_list(reader, value, here, context);
	if (strcmp(word, "text") == 0 || strcmp(word, "join") == 0 ||
		strcmp(word, "json") == 0 || strcmp(word, "date") == 0)
		return check_expression(reader, value, here, context);
	if (strcmp(word, "zip") == 0)
		return check_zip(reader, value, here);
	if (strcmp(word, "each") == 0)
		return check_each(reader, object, path, context);
	if (strcmp(word, "map") == 0)
	{
		const cJSON *values = cJSON_GetObjectItemCaseSensitive(object, "values");

		if (values == NULL)
			return uds_reader_fail(reader, path, "missing \"values\"");
		if (!cJSON_IsObject(values))
			return uds_reader_fail(reader, uds_reader_at(path, "values"),
								   "must be an object");
		return check_expression(reader, value, here, context);
	}
	if (!uds_reader_text(reader, object, path, word, true, &text) ||
		!uds_reader_text(reader, object, path, "when", false, &text))
		return false;
	if (strcmp(word, "context") == 0 &&
		(context == NULL || strcmp(context, value->valuestring) != 0))
		return uds_reader_fail(reader, here,
							   psprintf("the stream's \"for_each\" has no value \"%.100s\"",
										value->valuestring));
	return true;
}

static bool
check_expression(UdsManifestReader *reader, const cJSON *item,
				 const char *path, const char *context)
{
	int			i;

	if (reader->error != NULL)
		return false;
	if (cJSON_IsString(item))
	{
		if (item->valuestring[0] == '\0')
			return uds_reader_fail(reader, path, "must not be empty");
		return true;
	}
	if (!cJSON_IsObject(item))
		return uds_reader_fail(reader, path, "must be a jsonpath or an object");
	for (i = 0; i < (int) lengthof(forms); i++)
	{
		if (cJSON_GetObjectItemCaseSensitive(item, forms[i].word) == NULL)
			continue;
		return uds_reader_object(reader, item, path, forms[i].words) &&
			check_form(reader, item, path, forms[i].word, context) &&
			check_companions(reader, item, path, context) &&
			check_apply(reader, item, path);
	}
	if (item->child == NULL)
		return uds_reader_fail(reader, path, "is an expression without a word");
	return uds_reader_fail(reader, path,
						   psprintf("unknown word \"%.100s\"",
									item->child->string));
}

/*
 * Checks an object of expressions; context is the name of the for_each value
 * they may ask for, or NULL.
 */
bool
uds_manifest_check_fields(UdsManifestReader *reader, const cJSON *fields,
						  const char *path, const char *context)
{
	const cJSON *member;

	if (reader->error != NULL)
		return false;
	if (!cJSON_IsObject(fields) || fields->child == NULL)
		return uds_reader_fail(reader, path, "must be a non-empty object");
	cJSON_ArrayForEach(member, fields)
	{
		if (!check_expression(reader, member,
							  uds_reader_at(path, member->string), context))
			return false;
	}
	return true;
}
