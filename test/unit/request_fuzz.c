/*-------------------------------------------------------------------------
 *
 * request_fuzz.c
 *		libFuzzer target over what a request brings: path, headers, body.
 *
 * Lines are method, path, content type, encoding, authorization, forwarded;
 * the rest is the body, as it is and as gzip.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/listen/route.c src/listen/body.c */
#include "arena.h"

#include "listen/body.h"
#include "listen/route.h"

#define LIMIT 100000

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
take_body(const char *bytes, size_t len, bool gzip)
{
	UdsBody		body;
	UdsBodyResult result = uds_body_begin(&body, LIMIT, gzip);
	size_t		half = len / 2;

	if (result == UDS_BODY_TAKEN)
		result = uds_body_add(&body, bytes, half);
	if (result == UDS_BODY_TAKEN)
		result = uds_body_add(&body, bytes + half, len - half);
	if (result == UDS_BODY_TAKEN)
		result = uds_body_end(&body);
	if (result == UDS_BODY_TAKEN &&
		(body.len > LIMIT || body.data[UDS_BODY_HEAD + body.len] != '\0'))
		abort();
	if (!gzip && len <= LIMIT && (result != UDS_BODY_TAKEN || body.len != len ||
								  memcmp(body.data + UDS_BODY_HEAD, bytes, len) != 0))
		abort();
	uds_body_free(&body);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *at = (const char *) data;
	const char *end = at + size;
	char	   *lines[6];
	char		address[64];
	UdsRoute	route;
	const char *bearer;

	for (int i = 0; i < 6; i++)
	{
		const char *stop = at < end ? memchr(at, '\n', end - at) : NULL;

		lines[i] = pnstrdup(at, (stop ? stop : end) - at);
		at = stop ? stop + 1 : end;
	}
	if (!uds_route_find(&route, lines[0], lines[1], lines[2][0] ? lines[2] : NULL,
						lines[3][0] ? lines[3] : NULL) &&
		(route.status < 400 || route.message == NULL || (route.status == 405) != (route.allow != NULL)))
		abort();
	bearer = uds_route_bearer(lines[4]);
	if (bearer != NULL && (strlen(bearer) == 0 || strlen(bearer) > UDS_MAX_WORD))
		abort();
	if (uds_route_forwarded(lines[5], address, sizeof(address)) && strlen(address) < 2)
		abort();
	take_body(at, end - at, false);
	take_body(at, end - at, true);
	arena_reset();
	return 0;
}
