/*-------------------------------------------------------------------------
 *
 * backoff_test.c
 *		Unit test of the waits between repetitions.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/backoff.c src/connector/datetime.c */
#include "postgres_fe.h"

#include "connector/backoff.h"

static int	tests = 0;
static int	failures = 0;

static void
is(int64 got, int64 expected, const char *what)
{
	bool		pass = got == expected;

	printf("%sok %d - %s\n", pass ? "" : "not ", ++tests, what);
	if (!pass)
	{
		printf("# got " INT64_FORMAT ", expected " INT64_FORMAT "\n", got, expected);
		failures++;
	}
}

static void
check_delay(void)
{
	is(uds_backoff_delay(1, 500, 60000, 0.5), 500, "first repetition: the base");
	is(uds_backoff_delay(2, 500, 60000, 0.5), 1000, "second: doubled");
	is(uds_backoff_delay(5, 500, 60000, 0.5), 8000, "fifth: doubled four times");
	is(uds_backoff_delay(1, 500, 60000, 0.0), 375, "least jitter: a quarter less");
	is(uds_backoff_delay(1, 500, 60000, 0.9999999), 624, "most jitter: a quarter more");
	is(uds_backoff_delay(20, 500, 60000, 0.5), 60000, "never more than the cap");
	is(uds_backoff_delay(20, 500, 60000, 0.99), 60000, "not with jitter, either");
	is(uds_backoff_delay(1, 90000, 60000, 0.5), 60000, "a base above the cap");
	is(uds_backoff_delay(PG_INT32_MAX, 1, PG_INT64_MAX / 4, 0.5), PG_INT64_MAX / 4,
	   "no overflow");
	is(uds_backoff_delay(100, 0, 60000, 0.5), 0, "no base, no wait");
	is(uds_backoff_throttled(1, 60000, 3600000, 0.0), 60000, "asked for: never less");
	is(uds_backoff_throttled(1, 60000, 3600000, 0.5), 67500, "asked for: a bit more");
	is(uds_backoff_throttled(2, 60000, 3600000, 0.0), 120000, "asked for again: doubled");
	is(uds_backoff_throttled(9, 60000, 3600000, 0.9), 3600000, "asked for: capped");
}

static void
check_retry_after(const char *value, int64 expected)
{
	/* 1994-11-06 08:49:37 UTC */
	const int64 now = 784111777;
	char		what[100];
	int64		seconds = -1;

	if (!uds_backoff_retry_after(value, now, &seconds))
		seconds = -1;
	snprintf(what, sizeof(what), "Retry-After: %s", value);
	is(seconds, expected, what);
}

int
main(void)
{
	check_delay();
	check_retry_after("0", 0);
	check_retry_after("120", 120);
	check_retry_after(" 7 ", 7);
	check_retry_after("99999999999999999999", PG_INT32_MAX);
	check_retry_after("Sun, 06 Nov 1994 08:50:37 GMT", 60);
	check_retry_after("Sunday, 06-Nov-94 08:49:47 GMT", 10);
	check_retry_after("Sun Nov  6 08:49:38 1994", 1);
	check_retry_after("Mon, 07 Nov 1994 08:49:37 GMT", 86400);
	check_retry_after("Thu, 29 Feb 1996 08:49:37 GMT", 480 * 86400);
	check_retry_after("Sat, 05 Nov 1994 08:49:37 GMT", 0);
	check_retry_after("Thu, 01 Jan 1970 00:00:00 GMT", 0);
	check_retry_after("", -1);
	check_retry_after("-5", -1);
	check_retry_after("5s", -1);
	check_retry_after("soon", -1);
	check_retry_after("Sun, 06 Xyz 1994 08:49:37 GMT", -1);
	check_retry_after("Sun, 06 anF 1994 08:49:37 GMT", -1);
	check_retry_after("Sun, 06 Nov 1994 25:49:37 GMT", -1);
	check_retry_after("Sun, 00 Nov 1994 08:49:37 GMT", -1);
	printf("1..%d\n", tests);
	return failures > 0;
}
