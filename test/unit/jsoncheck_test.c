/*-------------------------------------------------------------------------
 *
 * jsoncheck_test.c
 *		Unit test of what is said of a JSON text before it is parsed.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/jsoncheck.c */
#include "tap.h"

#include "common/jsonapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "compat.h"
#include "connector/jsoncheck.h"

static bool
postgres_takes(const char *text, size_t len)
{
	return memchr(text, '\0', len) == NULL &&
		pg_encoding_verifymbstr(PG_UTF8, text, len) == len &&
		pg_parse_json(uds_json_lexer(text, len), &nullSemAction) == JSON_SUCCESS;
}

/* What is wrong with a text of its exact size; NULL = PostgreSQL takes it, too. */
static void
finds(const char *json, size_t len, const char *expected)
{
	char	   *text = palloc(len);
	const char *broken;

	memcpy(text, json, len);
	if (uds_json_refuse(text, len, &broken) != NULL)
		broken = "refused";
	ok(expected ? broken != NULL && strstr(broken, expected) != NULL : broken == NULL,
	   psprintf("%s: %.*s", expected ? expected : "nothing is wrong", (int) len, json));
	if (broken != NULL)
		printf("# %s\n", broken);
	ok(postgres_takes(text, len) == (expected == NULL), "PostgreSQL thinks the same");
}

#define FINDS(json, expected) finds(json, sizeof(json) - 1, expected)

/* Whether so many brackets around a number are too deep. */
static bool
too_deep(int brackets)
{
	StringInfoData text;
	const char *broken;

	initStringInfo(&text);
	for (int i = 0; i < brackets; i++)
		appendStringInfoChar(&text, i % 2 ? '[' : '{');
	return uds_json_refuse(text.data, text.len, &broken) != NULL;
}

/* Whether a list of so many of that is too much. */
static bool
too_many(int count, const char *value)
{
	size_t		each = strlen(value);
	size_t		len = 1 + count * each;
	char	   *text = malloc(len + 1);
	const char *refused;
	const char *broken;

	text[0] = '[';
	for (int i = 0; i < count; i++)
		memcpy(text + 1 + i * each, value, each);
	refused = uds_json_refuse(text, len, &broken);
	free(text);
	return refused != NULL;
}

int
main(void)
{
	const char *broken;

	ok(!too_deep(1000), "cJSON follows a thousand brackets");
	ok(too_deep(1001), "but no more");
	ok(uds_json_refuse("[[]][[]]", 8, &broken) == NULL, "closed brackets do not count");
	ok(!too_deep(0), "nor do none");
	{
		char		quoted[2100] = "\"\\\"";

		memset(quoted + 3, '[', 2000);
		strcpy(quoted + 2003, "\"");
		ok(uds_json_refuse(quoted, 2004, &broken) == NULL, "nor do those in a string");
	}
	ok(!too_many(3999999, ",0"), "four million values are parsed");
	ok(too_many(4000000, ",0"), "but no more");
	ok(too_many(4000001, "[]"), "lists in a list count, too");
	ok(!too_many(4000001, "\",\""), "commas in a string do not");

	FINDS("{\"a\": [1, -2.5e+10, 0, true, false, null, \"\\u00e9\\n\"]}", NULL);
	FINDS("\"text\"", NULL);
	FINDS(" 12 \r\n\t", NULL);
	FINDS("[1E5, 0.0, -0]", NULL);
	FINDS("\"\\ud83d\"", NULL);
	FINDS("[01]", "number");
	FINDS("[1.]", "number");
	FINDS("[.5]", "out of place");
	FINDS("[+5]", "out of place");
	FINDS("[1e]", "number");
	FINDS("[1e+]", "number");
	FINDS("[-]", "number");
	FINDS("[1.2.3]", "number");
	FINDS("[1-2]", "number");
	FINDS("[truth]", "word");
	FINDS("[True]", "out of place");
	FINDS("[nul]", "word");
	FINDS("NaN", "out of place");
	FINDS("\"a\nb\"", "control character");
	FINDS("\"a\0b\"", "valid UTF-8");
	FINDS("[1]\0", "valid UTF-8");
	FINDS("\"\\x\"", "escape");
	FINDS("\"\\u12g4\"", "escape");
	FINDS("\"\\u12\"", "escape");
	FINDS("\"\\", "does not end");
	FINDS("\"abc", "does not end");
	FINDS("\"\\u", "escape");
	FINDS("[1] [2]", "follows its end");
	FINDS("{} x", "out of place");
	FINDS("1 2", "follows its end");
	FINDS("{},", "follows its end");
	FINDS("[]]", "closed that was not opened");
	FINDS("[1]\v", "out of place");
	FINDS("\xef\xbb\xbf[1]", "out of place");
	FINDS("\"\xc3\"", "valid UTF-8");
	FINDS("\"\xed\xa0\x80\"", "valid UTF-8");
	FINDS("{'a': 1}", "out of place");
	FINDS("[1] // no", "out of place");

	printf("1..%d\n", tests);
	return failures > 0;
}
