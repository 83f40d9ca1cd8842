/*-------------------------------------------------------------------------
 *
 * backoff.c
 *		How long to wait before a request is sent again.
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

#include "connector/backoff.h"
#include "connector/datetime.h"

/* base doubled attempt - 1 times, at most cap, never overflowing */
static int64
doubled(int attempt, int64 base, int64 cap)
{
	int64		delay = Min(Max(base, 0), cap);

	while (--attempt > 0 && delay < cap)
		delay = (delay > cap / 2) ? cap : delay * 2;
	return delay;
}

/*
 * Delay before the attempt-th repetition (1 = the first), in the unit of
 * base and cap: base doubled each time, spread by a quarter to both sides so
 * that requests that failed together do not come back together.  random is
 * uniform in [0, 1).  Never more than cap.
 */
int64
uds_backoff_delay(int attempt, int64 base, int64 cap, double random)
{
	int64		delay = doubled(attempt, base, cap);

	return Min((int64) (delay * (0.75 + random / 2)), cap);
}

/*
 * As above where the service asked for a wait: never less than what it
 * asked for (unless cap is less), at most a quarter more.
 */
int64
uds_backoff_throttled(int attempt, int64 asked, int64 cap, double random)
{
	int64		delay = doubled(attempt, asked, cap);

	return Min((int64) (delay * (1.0 + random / 4)), cap);
}

/*
 * Reads the three date forms of HTTP: *epoch is seconds since 1970.  Returns
 * false if it is none.
 */
bool
uds_backoff_http_date(const char *value, int64 *epoch)
{
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	char		name[4];
	const char *comma = strchr(value, ',');
	const char *found;
	int			day,
				year,
				hour,
				minute,
				second;

	if (comma == NULL)
	{
		if (sscanf(value, "%*3[A-Za-z] %3[A-Za-z] %2d %2d:%2d:%2d %4d",
				   name, &day, &hour, &minute, &second, &year) != 6)
			return false;
	}
	else if (sscanf(comma + 1, " %2d%*[ -]%3[A-Za-z]%*[ -]%4d %2d:%2d:%2d GMT",
					&day, name, &year, &hour, &minute, &second) != 6)
		return false;
	if (strlen(name) != 3 || (found = strstr(months, name)) == NULL ||
		(found - months) % 3 != 0)
		return false;
	if (year >= 0 && year < 100)
		year += (year < 70) ? 2000 : 1900;
	if (year < 1970 || day < 1 || day > 31 || hour < 0 || hour > 23 ||
		minute < 0 || minute > 59 || second < 0 || second > 60)
		return false;
	*epoch = uds_datetime_days(year, (int) (found - months) / 3 + 1, day) * 86400 +
		hour * 3600 + minute * 60 + second;
	return true;
}

/*
 * Reads the value of a Retry-After header: seconds, or a date that is
 * compared with now (seconds since 1970).  Returns false if it is neither;
 * else *seconds is the wait, 0 for a date that has passed.
 */
bool
uds_backoff_retry_after(const char *value, int64 now, int64 *seconds)
{
	int64		number = 0;
	int64		epoch;
	const char *p;

	value += strspn(value, " \t");
	for (p = value; *p >= '0' && *p <= '9'; p++)
	{
		number = number * 10 + (*p - '0');
		if (number > PG_INT32_MAX)
			number = PG_INT32_MAX;
	}
	if (p > value && p[strspn(p, " \t")] == '\0')
	{
		*seconds = number;
		return true;
	}
	if (p > value || !uds_backoff_http_date(value, &epoch))
		return false;
	*seconds = Max(epoch - now, 0);
	return true;
}
