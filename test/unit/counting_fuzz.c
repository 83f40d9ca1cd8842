/*-------------------------------------------------------------------------
 *
 * counting_fuzz.c
 *		libFuzzer target over listings that are paged by numbers: what a service
 *		says must not make one go on after its end.
 *
 * The input is a line with the total as a text, then a byte with flags and one
 * for each page, how many items it has.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/counting.c */
#include "arena.h"

#include "connector/counting.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *line = pnstrdup((const char *) data, size);
	size_t		used = Min(strcspn(line, "\n") + 1, size);
	bool		until_empty;
	bool		by_size;
	int64		page_size;
	int64		total;
	int64		before = 0;
	int64		last = -1;

	line[strcspn(line, "\n")] = '\0';
	total = uds_counting_parse(line);
	if (total < -1)
		abort();
	until_empty = used < size && data[used] & 1;
	by_size = used < size && data[used] & 2;
	page_size = used < size ? data[used] >> 2 : 0;
	for (size_t i = used + 1; i < size; i++)
	{
		int64		items = data[i];
		int64		offset = uds_counting_offset(1, i - used - 1, before, page_size, by_size);

		/* it never goes back */
		if (offset < last || (offset == last && !by_size))
			abort();
		last = offset;
		if (!uds_counting_goes_on(before, items, page_size, total, until_empty))
			break;
		before += items;
		if (items == 0 || (total >= 0 && before >= total))
			abort();
	}
	arena_reset();
	return 0;
}
