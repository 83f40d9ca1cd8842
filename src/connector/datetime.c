/*-------------------------------------------------------------------------
 *
 * datetime.c
 *		Times as services write them, made one form of.
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

#include "connector/datetime.h"

#define DAY (INT64CONST(86400) * 1000)

/* the years that have four digits, in milliseconds since 1970 */
#define FIRST_MS (INT64CONST(-62135596800) * 1000)
#define LAST_MS (INT64CONST(253402300799) * 1000)

/*
 * Days from 1970-01-01 to a date of the Gregorian calendar; negative before.
 */
int64
uds_datetime_days(int year, int month, int day)
{
	int64		y = year - (month <= 2 ? 1 : 0);
	int64		era = (y >= 0 ? y : y - 399) / 400;
	int64		of_era = y - era * 400;
	int64		of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

	return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static void
from_days(int64 days, int *year, int *month, int *day)
{
	int64		z = days + 719468;
	int64		era = (z >= 0 ? z : z - 146096) / 146097;
	int64		of_era = z - era * 146097;
	int64		y = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	int64		of_year = of_era - (365 * y + y / 4 - y / 100);
	int64		m = (5 * of_year + 2) / 153;

	*day = (int) (of_year - (153 * m + 2) / 5 + 1);
	*month = (int) (m < 10 ? m + 3 : m - 9);
	*year = (int) (y + era * 400 + (*month <= 2 ? 1 : 0));
}

/* Exactly so many digits, as a number; NULL if they are not there. */
static const char *
read_digits(const char *p, int count, int *number)
{
	*number = 0;
	for (; count > 0; count--, p++)
	{
		if (*p < '0' || *p > '9')
			return NULL;
		*number = *number * 10 + (*p - '0');
	}
	return p;
}

/* A character and so many digits after it. */
static const char *
read_part(const char *p, const char *marks, int *number)
{
	if (p == NULL || *p == '\0' || strchr(marks, *p) == NULL)
		return NULL;
	return read_digits(p + 1, 2, number);
}

/* Z, +08:00, +0800, +08 or nothing; *minutes to the east. */
static const char *
read_zone(const char *p, int *minutes)
{
	int			sign = *p == '-' ? -1 : 1;
	int			hours = 0;
	int			rest = 0;

	*minutes = 0;
	if (*p == 'Z' || *p == 'z')
		return p + 1;
	if (*p != '+' && *p != '-')
		return p;
	p = read_digits(p + 1, 2, &hours);
	if (p == NULL)
		return NULL;
	if (*p == ':')
		p++;
	if (*p != '\0')
		p = read_digits(p, 2, &rest);
	*minutes = sign * (hours * 60 + rest);
	return hours > 15 || rest > 59 ? NULL : p;
}

/* Milliseconds of a fraction; more digits than that are dropped. */
static const char *
read_fraction(const char *p, int *ms)
{
	int			digits = 0;

	*ms = 0;
	if (*p != '.' && *p != ',')
		return p;
	for (p++; *p >= '0' && *p <= '9'; p++)
	{
		if (digits++ < 3)
			*ms = *ms * 10 + (*p - '0');
	}
	for (; digits < 3; digits++)
		*ms *= 10;
	return p;
}

/* ISO 8601, a date alone included; a time without a zone is UTC. */
static bool
read_iso(const char *p, int64 *ms)
{
	int			year;
	int			month;
	int			day;
	int			hour = 0;
	int			minute = 0;
	int			second = 0;
	int			fraction = 0;
	int			east = 0;

	p = read_digits(p, 4, &year);
	p = read_part(p, "-", &month);
	p = read_part(p, "-", &day);
	if (p == NULL || month < 1 || month > 12 || day < 1 || day > 31)
		return false;
	if (*p != '\0')
	{
		p = read_part(p, "Tt ", &hour);
		p = read_part(p, ":", &minute);
		if (p != NULL && *p == ':')
			p = read_part(p, ":", &second);
		if (p != NULL)
			p = read_fraction(p, &fraction);
		if (p != NULL)
			p = read_zone(p, &east);
	}
	if (p == NULL || *p != '\0' || hour > 24 || minute > 59 || second > 60)
		return false;
	*ms = uds_datetime_days(year, month, day) * DAY +
		((int64) (hour * 60 + minute - east) * 60 + second) * 1000 + fraction;
	return true;
}

/* A number, maybe with a fraction, which is dropped. */
static bool
read_number(const char *text, int64 factor, int64 *ms)
{
	const char *p = text + (*text == '-' ? 1 : 0);
	int64		number = 0;

	if (*p < '0' || *p > '9')
		return false;
	for (; *p >= '0' && *p <= '9'; p++)
	{
		number = number * 10 + (*p - '0');
		if (number > LAST_MS)
			return false;
	}
	if (*p == '.')
		p += 1 + strspn(p + 1, "0123456789");
	*ms = (*text == '-' ? -number : number) * factor;
	return *p == '\0';
}

/*
 * A time as ISO 8601 in UTC, 2026-01-31T02:00:00Z, with milliseconds if it
 * has some; NULL if the text is no time of the form.  Palloc'd.
 */
char *
uds_datetime_normalize(const char *text, UdsDateForm form)
{
	int64		ms;
	int64		days;
	int64		rest;
	int			year;
	int			month;
	int			day;
	bool		ok = form == UDS_DATE_ISO ? read_iso(text, &ms) :
		read_number(text, form == UDS_DATE_EPOCH ? 1000 : 1, &ms);

	if (!ok || ms < FIRST_MS || ms > LAST_MS)
		return NULL;
	days = ms / DAY - (ms % DAY < 0 ? 1 : 0);
	rest = ms - days * DAY;
	from_days(days, &year, &month, &day);
	if (rest % 1000 == 0)
		return psprintf("%04d-%02d-%02dT%02d:%02d:%02dZ", year, month, day,
						(int) (rest / 3600000), (int) (rest / 60000 % 60),
						(int) (rest / 1000 % 60));
	return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", year, month, day,
					(int) (rest / 3600000), (int) (rest / 60000 % 60),
					(int) (rest / 1000 % 60), (int) (rest % 1000));
}
