/*-------------------------------------------------------------------------
 *
 * counting.c
 *		Listings that are paged by numbers: how they go on, and where they end.
 *
 * Numbers come from the service, and may be anything.
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

#include "common/int.h"

#include "connector/counting.h"

/*
 * The number that a text is, as a service writes one that counts something:
 * digits, and maybe a fraction that is ignored.  -1 if it is none; the greatest
 * there is, if it is greater.
 */
int64
uds_counting_parse(const char *text)
{
	char	   *end;
	int64		number;

	if (text == NULL || *text < '0' || *text > '9')
		return -1;
	number = strtoll(text, &end, 10);
	return (*end == '\0' || *end == '.') ? number : -1;
}

/*
 * Whether there is a page after one with so many items, with "before" in the
 * pages before it.  "size" is how many a full page has, 0 if nobody knows;
 * "total" how many there are, -1 if the service does not say.  A page that is
 * not full is the last one, unless only an empty one is (until_empty).
 */
bool
uds_counting_goes_on(int64 before, int64 items, int64 size, int64 total, bool until_empty)
{
	if (items <= 0 || (total >= 0 && items >= total - before))
		return false;
	return until_empty || items >= size;
}

/*
 * Where a page begins: "first" is where the listing does, "page" counts from 0,
 * "items" came before it.  By items, or by sizes of pages where the service
 * counts what it leaves out as well.
 */
int64
uds_counting_offset(int64 first, int64 page, int64 items, int64 size, bool by_size)
{
	int64		offset = items;

	if (by_size && pg_mul_s64_overflow(page, size, &offset))
		offset = PG_INT64_MAX;
	if (pg_add_s64_overflow(first, offset, &offset))
		offset = PG_INT64_MAX;
	return offset;
}
