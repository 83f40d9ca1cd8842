/*-------------------------------------------------------------------------
 *
 * link_fuzz.c
 *		libFuzzer target over Link headers, links, and times.
 *
 * A link that is accepted must lead to the base URL's host.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/link.c src/connector/datetime.c */
#include "arena.h"

#include "connector/datetime.h"
#include "connector/link.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char base[] = "https://a.test/v1";
static const char origin[] = "https://a.test";
static const char origin_port[] = "https://a.test:443";

/* Whether what follows an origin begins a path or a query, or nothing. */
static bool
ends_well(const char *rest)
{
	return *rest == '\0' || *rest == '/' || *rest == '?' || *rest == '#';
}

static void
try_link(const char *link)
{
	char	   *error = NULL;
	char	   *url = uds_link_resolve(base, link, &error);

	if ((url == NULL) != (error != NULL))
		abort();
	if (url == NULL)
		return;
	if (pg_strncasecmp(url, origin_port, strlen(origin_port)) == 0 &&
		ends_well(url + strlen(origin_port)))
		return;
	/* a port may be written in more ways, but not lead to another one */
	if (pg_strncasecmp(url, origin, strlen(origin)) != 0 ||
		(!ends_well(url + strlen(origin)) && url[strlen(origin)] != ':'))
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *text = pnstrdup((const char *) data, size);
	char	   *next = uds_link_next(text);

	try_link(text);
	if (next != NULL)
		try_link(next);
	for (int form = UDS_DATE_ISO; form <= UDS_DATE_EPOCH_MS; form++)
	{
		char	   *time = uds_datetime_normalize(text, form);

		/* what comes out is taken, and is the same again */
		if (time != NULL &&
			strcmp(uds_datetime_normalize(time, UDS_DATE_ISO), time) != 0)
			abort();
	}
	arena_reset();
	return 0;
}
