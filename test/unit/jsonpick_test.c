/*-------------------------------------------------------------------------
 *
 * jsonpick_test.c
 *		Unit test of what is done to a JSON text before it is parsed.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/jsonpick.c */
#include "postgres_fe.h"

#include "lib/stringinfo.h"

#include "connector/jsonpick.h"

static int	tests = 0;
static int	failures = 0;

/* memory goes with the program, as it does with a context of the server */
extern const char *__asan_default_options(void);
const char *
__asan_default_options(void)
{
	return "detect_leaks=0";
}

static void
ok(bool pass, const char *what)
{
	printf("%sok %d - %s\n", pass ? "" : "not ", ++tests, what);
	failures += !pass;
}

/* What is mended becomes "expected"; NULL = the text itself comes back. */
static void
mends(const char *json, const char *expected, const char *what)
{
	/* of its exact size, so that reading beyond it is noticed */
	size_t		len = strlen(json);
	char	   *text = palloc(len + 1);
	const char *mended;

	memcpy(text, json, len + 1);
	mended = uds_json_mend(text, len);
	ok(expected ? strcmp(mended, expected) == 0 : mended == text, what);
	if (expected && strcmp(mended, expected) != 0)
		printf("# got %s, expected %s\n", mended, expected);
}

/* Whether so many brackets around a number are too deep. */
static bool
too_deep(int brackets)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < brackets; i++)
		appendStringInfoChar(&text, i % 2 ? '[' : '{');
	return uds_json_refuse(text.data, text.len) != NULL;
}

/* Whether a list of so many of that is too much. */
static bool
too_many(int count, const char *value)
{
	size_t		each = strlen(value);
	size_t		len = 1 + count * each;
	char	   *text = malloc(len + 1);
	const char *refused;

	text[0] = '[';
	for (int i = 0; i < count; i++)
		memcpy(text + 1 + i * each, value, each);
	refused = uds_json_refuse(text, len);
	free(text);
	return refused != NULL;
}

int
main(void)
{
	mends("{\"a\": \"plain \\\\ \\\" \\n\"}", NULL, "plain escapes stay");
	mends("\"\\u00e9 \\uFFFF\"", NULL, "escapes of characters stay");
	mends("\"\\ud83d\\ude00 \\uD83D\\uDE00\"", NULL, "surrogate pairs stay");
	mends("\"a\\u0000b\"", "\"a\\ufffdb\"", "a NUL");
	mends("\"\\ud83d\"", "\"\\ufffd\"", "the first half of a pair");
	mends("\"\\ude00\"", "\"\\ufffd\"", "the second half");
	mends("\"\\ude00\\ud83d\"", "\"\\ufffd\\ufffd\"", "halves in the wrong order");
	mends("\"\\ud83d\\ud83d\\ude00\"", "\"\\ufffd\\ud83d\\ude00\"", "half of a pair before a whole one");
	mends("\"\\\\u0000 \\\\ud83d\"", NULL, "an escaped backslash before a u");
	mends("\"\\u00", NULL, "an escape cut short");
	mends("\"\\ud83d\\u", "\"\\ufffd\\u", "a pair cut short");
	mends("\\", NULL, "a backslash at the end");
	mends("", NULL, "nothing");

	ok(!too_deep(1000), "cJSON follows a thousand brackets");
	ok(too_deep(1001), "but no more");
	ok(uds_json_refuse("[[]][[]]", 8) == NULL, "closed brackets do not count");
	ok(!too_deep(0), "nor do none");
	{
		char		quoted[2100] = "\"\\\"";

		memset(quoted + 3, '[', 2000);
		strcpy(quoted + 2003, "\"");
		ok(uds_json_refuse(quoted, 2004) == NULL, "nor do those in a string");
	}
	ok(!too_many(3999999, ",0"), "four million values are parsed");
	ok(too_many(4000000, ",0"), "but no more");
	ok(too_many(4000001, "[]"), "lists in a list count, too");
	ok(!too_many(4000001, "\",\""), "commas in a string do not");

	printf("1..%d\n", tests);
	return failures > 0;
}
