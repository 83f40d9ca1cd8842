/*-------------------------------------------------------------------------
 *
 * counting_test.c
 *		Unit test of listings that are paged by numbers.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/counting.c */
#include "tap.h"

#include "connector/counting.h"

static void
parses(const char *text, int64 expected)
{
	ok(uds_counting_parse(text) == expected, psprintf("number \"%s\"", text ? text : "none"));
}

int
main(void)
{
	parses("0", 0);
	parses("250", 250);
	parses("250.0", 250);
	parses("99999999999999999999", PG_INT64_MAX);
	parses(NULL, -1);
	parses("", -1);
	parses("-1", -1);
	parses(" 1", -1);
	parses("1e3", -1);
	parses("12 of 20", -1);

	ok(uds_counting_goes_on(0, 50, 50, -1, false), "a full page is not the last");
	ok(!uds_counting_goes_on(0, 49, 50, -1, false), "one that is not full is");
	ok(uds_counting_goes_on(0, 49, 50, -1, true), "unless only an empty one is");
	ok(!uds_counting_goes_on(50, 0, 50, -1, true), "an empty one is");
	ok(uds_counting_goes_on(0, 1, 0, -1, false), "of pages of any size none but that");
	ok(!uds_counting_goes_on(50, 50, 50, 100, false), "when all have come that there are, it was the last");
	ok(uds_counting_goes_on(50, 49, 50, 100, true), "one is missing");
	ok(!uds_counting_goes_on(50, 51, 50, 100, true), "more than there are");
	ok(!uds_counting_goes_on(0, 1, 50, 0, true), "there are none, and one came");
	ok(!uds_counting_goes_on(PG_INT64_MAX, 1, 1, 5, true), "no overflow");

	ok(uds_counting_offset(0, 0, 0, 50, false) == 0, "the first page begins at the start");
	ok(uds_counting_offset(1, 2, 77, 50, false) == 78, "the third where the items end");
	ok(uds_counting_offset(1, 2, 77, 50, true) == 101, "or where two whole pages do");
	ok(uds_counting_offset(PG_INT64_MAX, 2, 77, 50, true) == PG_INT64_MAX, "no overflow");
	ok(uds_counting_offset(0, PG_INT64_MAX / 2, 0, 50, true) == PG_INT64_MAX, "of pages neither");

	printf("1..%d\n", tests);
	return failures > 0;
}
