/*-------------------------------------------------------------------------
 *
 * request_test.c
 *		Unit test of requests to the listener: what they ask for, who sends
 *		them, and their bodies.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/listen/route.c src/listen/body.c */
#include "tap.h"

#include "listen/body.h"
#include "listen/route.h"

static const char push[] = "/api/userData:push";

static void
route(const char *method, const char *path, const char *type, const char *encoding,
	  const char *expected)
{
	static const char *const kinds[] = {"push", "callback", "health", "metrics"};
	UdsRoute	found;
	char	   *got;

	if (uds_route_find(&found, method, path, type, encoding))
		got = psprintf("%s%s%s%s%s", kinds[found.kind], found.source ? " " : "",
					   found.source ? found.source : "",
					   found.form == UDS_FORM_LINES ? " lines" : "", found.gzip ? " gzip" : "");
	else
		got = psprintf("%d%s%s", found.status, found.allow ? " " : "", found.allow ? found.allow : "");
	is(got, expected, psprintf("%s %s %s %s", method, path, type ? type : "", encoding ? encoding : ""));
}

static void
forwarded(const char *header, const char *expected)
{
	char		address[64];

	is(uds_route_forwarded(header, address, sizeof(address)) ? address : NULL, expected, header);
}

/* A body that comes in pieces of a size. */
static void
body(const char *bytes, size_t len, size_t piece, size_t limit, bool gzip, const char *expected,
	 const char *what)
{
	static const char *const results[] = {"taken", "too large", "broken", "no memory"};
	UdsBody		body;
	UdsBodyResult result = uds_body_begin(&body, limit, gzip);

	for (size_t at = 0; result == UDS_BODY_TAKEN && at < len; at += piece)
	{
		size_t		n = len - at < piece ? len - at : piece;
		char	   *copy = memcpy(palloc(n), bytes + at, n);

		result = uds_body_add(&body, copy, n);
	}
	if (result == UDS_BODY_TAKEN)
		result = uds_body_end(&body);
	is(result == UDS_BODY_TAKEN ? body.data + UDS_BODY_HEAD : results[result], expected, what);
	uds_body_free(&body);
}

int
main(void)
{
	/* "hello", and "hello" again as another member */
	static const char zipped[] = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\x07\x00\x86\xa6\x10\x36\x05\x00\x00\x00"
		"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\x07\x00\x86\xa6\x10\x36\x05\x00\x00\x00";
	size_t		member = (sizeof(zipped) - 1) / 2;

	route("POST", push, NULL, NULL, "push");
	route("POST", push, "application/json", "identity", "push");
	route("POST", push, "Application/JSON ; charset=\"UTF-8\"", NULL, "push");
	route("POST", push, "application/x-ndjson", "gzip", "push lines gzip");
	route("POST", push, "application/jsonl", "X-GZip", "push lines gzip");
	route("POST", push, "application/json; charset=gbk", NULL, "415");
	route("POST", push, "application/jsonx", NULL, "415");
	route("POST", push, "text/plain", NULL, "415");
	route("POST", push, "", NULL, "415");
	route("POST", push, NULL, "br", "415");
	route("POST", push, NULL, "gzip, gzip", "415");
	route("GET", push, NULL, NULL, "405 POST");
	route("POS", push, NULL, NULL, "405 POST");
	route("POST,", push, NULL, NULL, "405 POST");
	route("POST", "/api/userData:push/", NULL, NULL, "404");
	route("GET", "/callback/wecom", NULL, NULL, "callback wecom");
	route("POST", "/callback/a.b-c", "text/xml", NULL, "callback a.b-c");
	route("PUT", "/callback/wecom", NULL, NULL, "405 GET, POST");
	route("POST", "/callback/", NULL, NULL, "404");
	route("POST", "/callback/a/b", NULL, NULL, "404");
	route("HEAD", "/healthz", NULL, NULL, "health");
	route("POST", "/healthz", NULL, NULL, "405 GET, HEAD");
	route("GET", "/metrics", NULL, NULL, "metrics");
	route("GET", "/", NULL, NULL, "404");
	route("GET", "", NULL, NULL, "404");

	is(uds_route_bearer("Bearer abc"), "abc", "a bearer");
	is(uds_route_bearer(" bearer   abc"), "abc", "in other letters");
	is(uds_route_bearer("Bearer "), "none", "an empty one");
	is(uds_route_bearer("Bearerabc"), "none", "none");
	is(uds_route_bearer("Basic abc"), "none", "another scheme");
	is(uds_route_bearer(NULL), "none", "no header");

	forwarded("203.0.113.7", "203.0.113.7");
	forwarded("1.1.1.1, 203.0.113.7 ", "203.0.113.7");
	forwarded("1.1.1.1,[2001:db8::1]", "2001:db8::1");
	forwarded("1.1.1.1, unknown", "none");
	forwarded("1.1.1.1:80", "none");
	forwarded("", "none");
	forwarded(",", "none");

	for (size_t piece = 1; piece < 60; piece = piece * 2 + 1)
	{
		body("hello", 5, piece, 5, false, "hello", psprintf("pieces of %zu", piece));
		body("hello", 5, piece, 4, false, "too large", "over the limit");
		body(zipped, member, piece, 5, true, "hello", "compressed");
		body(zipped, 2 * member, piece, 10, true, "hellohello", "of two members");
		body(zipped, 2 * member, piece, 9, true, "too large", "over the limit");
		body(zipped, member - 1, piece, 5, true, "broken", "cut");
		body("hello", 5, piece, 5, true, "broken", "not compressed");
	}
	body("", 0, 1, 5, false, "", "nothing");
	body("", 0, 1, 5, true, "broken", "nothing that is compressed");
	printf("1..%d\n", tests);
	return failures > 0;
}
