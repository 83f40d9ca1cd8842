/*-------------------------------------------------------------------------
 *
 * tap.h
 *		What unit tests share: TAP lines, and that leaks are no error.
 *
 * Take it into one file of a program.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_TEST_TAP_H
#define UDS_TEST_TAP_H

#include "postgres_fe.h"

static int	tests = 0;
static int	failures = 0;

/* memory goes with the program, as it does with a context of the server */
extern const char *__asan_default_options(void);
const char *
__asan_default_options(void)
{
	return "detect_leaks=0";
}

static inline void
ok(bool pass, const char *what)
{
	printf("%sok %d - %s\n", pass ? "" : "not ", ++tests, what);
	failures += !pass;
}

/* NULL is "none" */
static inline void
is(const char *got, const char *expected, const char *what)
{
	got = got ? got : "none";
	ok(strcmp(got, expected) == 0, what);
	if (strcmp(got, expected) != 0)
		printf("# got %s\n# expected %s\n", got, expected);
}

#endif							/* UDS_TEST_TAP_H */
