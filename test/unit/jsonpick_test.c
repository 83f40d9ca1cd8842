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
#include "tap.h"

#include "connector/jsonpick.h"

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

	printf("1..%d\n", tests);
	return failures > 0;
}
