/*-------------------------------------------------------------------------
 *
 * datetime_test.c
 *		Unit test of times: what services write, and the one form of it.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/datetime.c */
#include "tap.h"

#include "connector/datetime.h"

static void
iso(const char *text, const char *expected)
{
	is(uds_datetime_normalize(text, UDS_DATE_ISO), expected, psprintf("iso %s", text));
}

static void
epoch(const char *text, const char *expected)
{
	is(uds_datetime_normalize(text, UDS_DATE_EPOCH), expected, psprintf("epoch %s", text));
}

static void
epoch_ms(const char *text, const char *expected)
{
	is(uds_datetime_normalize(text, UDS_DATE_EPOCH_MS), expected, psprintf("epoch_ms %s", text));
}

int
main(void)
{
	iso("2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z");
	iso("2026-01-31T10:00:00.250Z", "2026-01-31T10:00:00.250Z");
	iso("2026-01-31 10:00", "2026-01-31T10:00:00Z");
	iso("2026-01-31", "2026-01-31T00:00:00Z");
	iso("2026-01-31T10:00:00+08:00", "2026-01-31T02:00:00Z");
	iso("2026-01-01T00:30:00+0100", "2025-12-31T23:30:00Z");
	iso("2015-10-10T14:38:21.8617979-07:00", "2015-10-10T21:38:21.861Z");
	iso("2024-02-29T23:59:60Z", "2024-03-01T00:00:00Z");
	iso("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z");
	iso("0001-01-01T00:00:00+01:00", "none");
	iso("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z");
	iso("2026-13-01", "none");
	iso("2026-01-32", "none");
	iso("2026-1-1", "none");
	iso("2026-01-31T", "none");
	iso("2026-01-31T10", "none");
	iso("2026-01-31T10:00:00 soon", "none");
	iso("2026-01-31T10:00:00+99:00", "none");
	iso("", "none");
	epoch("0", "1970-01-01T00:00:00Z");
	epoch("1615381925", "2021-03-10T13:12:05Z");
	epoch("-1", "1969-12-31T23:59:59Z");
	epoch("1615381925.75", "2021-03-10T13:12:05Z");
	epoch("99999999999999999999", "none");
	epoch("1e9", "none");
	epoch("-", "none");
	epoch_ms("1597573616828", "2020-08-16T10:26:56.828Z");
	epoch_ms("-1", "1969-12-31T23:59:59.999Z");
	printf("1..%d\n", tests);
	return failures > 0;
}
