/*-------------------------------------------------------------------------
 *
 * jsonpick.c
 *		Single values picked out of a parsed JSON document by simple paths.
 *
 * A simple path is $ followed by .name, ."any name" and [index] steps.
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

#include <math.h>

#include "connector/jsonpick.h"

/* integers that a double holds digit for digit */
#define LARGEST_EXACT 9007199254740992.0

#define MAX_NAME 256

typedef struct Step
{
	bool		is_index;
	int			index;
	char		name[MAX_NAME];
} Step;

static bool
is_plain(char c, bool first)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
		(!first && c >= '0' && c <= '9');
}

/* Reads .name or ."name"; returns what follows, or NULL if it is neither. */
static const char *
read_name(const char *p, Step *step)
{
	size_t		len = 0;
	bool		quoted = (*++p == '"');

	if (quoted)
		p++;
	while (quoted ? (*p != '"' && *p != '\0' && *p != '\\')
		   : is_plain(*p, len == 0))
	{
		if (len == MAX_NAME - 1)
			return NULL;
		step->name[len++] = *p++;
	}
	step->name[len] = '\0';
	step->is_index = false;
	if (quoted && *p++ != '"')
		return NULL;
	return len > 0 ? p : NULL;
}

/* Reads [index]; returns what follows, or NULL. */
static const char *
read_index(const char *p, Step *step)
{
	int			index = 0;
	const char *start = ++p;

	while (*p >= '0' && *p <= '9' && p - start < 9)
		index = index * 10 + (*p++ - '0');
	if (p == start || *p != ']')
		return NULL;
	step->is_index = true;
	step->index = index;
	return p + 1;
}

static const char *
read_step(const char *p, Step *step)
{
	if (*p == '.')
		return read_name(p, step);
	if (*p == '[')
		return read_index(p, step);
	return NULL;
}

/* Whether a text is a simple path. */
bool
uds_json_path_valid(const char *path)
{
	Step		step;
	const char *p = path;

	if (*p++ != '$')
		return false;
	while (p != NULL && *p != '\0')
		p = read_step(p, &step);
	return p != NULL;
}

/*
 * The item that a valid simple path leads to, or NULL; owned by root.  Keys
 * are compared with case.
 */
const cJSON *
uds_json_pick(const cJSON *root, const char *path)
{
	const cJSON *item = root;
	const char *p = path + 1;
	Step		step;

	while (item != NULL && *p != '\0' && (p = read_step(p, &step)) != NULL)
	{
		if (step.is_index)
			item = cJSON_IsArray(item) ? cJSON_GetArrayItem(item, step.index) : NULL;
		else
			item = cJSON_IsObject(item) ?
				cJSON_GetObjectItemCaseSensitive(item, step.name) : NULL;
	}
	return item;
}

/*
 * A scalar as text, in the current memory context: strings as they are,
 * numbers in the shortest form that is surely right, true and false by name.
 * NULL for null, arrays and objects, and for integers too large for cJSON
 * to have kept their digits.
 */
char *
uds_json_text(const cJSON *item)
{
	if (cJSON_IsString(item))
		return pstrdup(item->valuestring);
	if (cJSON_IsBool(item))
		return pstrdup(cJSON_IsTrue(item) ? "true" : "false");
	if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble))
		return NULL;
	if (item->valuedouble != floor(item->valuedouble))
		return psprintf("%.17g", item->valuedouble);
	if (fabs(item->valuedouble) >= LARGEST_EXACT)
		return NULL;
	/* adding zero turns a negative zero into a plain one */
	return psprintf("%.0f", item->valuedouble + 0.0);
}

/* The code of an escape \uXXXX with "left" bytes to the end; -1 if it is none. */
static int
read_escape(const char *p, size_t left)
{
	int			code = 0;

	if (left < 6 || p[0] != '\\' || p[1] != 'u')
		return -1;
	for (int i = 2; i < 6; i++)
	{
		char		c = p[i];

		if (c >= '0' && c <= '9')
			code = code * 16 + (c - '0');
		else if (c >= 'a' && c <= 'f')
			code = code * 16 + (c - 'a' + 10);
		else if (c >= 'A' && c <= 'F')
			code = code * 16 + (c - 'A' + 10);
		else
			return -1;
	}
	return code;
}

/*
 * A JSON text (len bytes, NUL-terminated) in which escapes that stand for no
 * character, a NUL or half of a surrogate pair, are \ufffd instead.
 * Neither cJSON nor jsonb takes them all, and one bad name must not hide what
 * steers the fetch.  The text itself if there is none in it, else a copy of
 * the same length in the current memory context.
 */
const char *
uds_json_mend(const char *json, size_t len)
{
	char	   *copy = NULL;
	size_t		at = 0;

	while (at < len)
	{
		const char *next = memchr(json + at, '\\', len - at);
		int			code;
		int			low;

		if (next == NULL)
			break;
		at = next - json;
		code = read_escape(json + at, len - at);
		if (code < 0)
			at += 2;
		else if (code != 0 && (code < 0xd800 || code > 0xdfff))
			at += 6;
		else
		{
			low = code != 0 ? read_escape(json + at + 6, len - at - 6) : -1;
			if (code >= 0xd800 && code < 0xdc00 && low >= 0xdc00 && low <= 0xdfff)
			{
				at += 12;
				continue;
			}
			if (copy == NULL)
			{
				copy = palloc(len + 1);
				memcpy(copy, json, len + 1);
			}
			memcpy(copy + at, "\\ufffd", 6);
			at += 6;
		}
	}
	return copy ? copy : json;
}
