/*-------------------------------------------------------------------------
 *
 * link_test.c
 *		Unit test of links: Link headers, and where a link may lead.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/link.c */
#include "tap.h"

#include "connector/link.h"

static void
next(const char *header, const char *expected)
{
	is(uds_link_next(header), expected, header);
}

static void
resolve(const char *base, const char *link, const char *expected)
{
	char	   *error = NULL;
	char	   *url = uds_link_resolve(base, link, &error);

	is(url ? url : error, expected, psprintf("%s from %s", link, base));
}

int
main(void)
{
	next("<https://a.test/u?after=1>; rel=\"next\"", "https://a.test/u?after=1");
	next(" <https://a.test/self>; rel=\"self\", <https://a.test/n>; rel=\"next\"", "https://a.test/n");
	next("<https://a.test/n?x=1,2;3>; rel=next", "https://a.test/n?x=1,2;3");
	next("<https://a.test/n>; title=\"a, b; rel=no\"; REL=\"prev NEXT\"", "https://a.test/n");
	next("<https://a.test/s>; rel=\"self\"", "none");
	next("<https://a.test/s>; rel=\"nextish\"", "none");
	next("<https://a.test/s>", "none");
	next("<https://a.test/s>; rel=", "none");
	next("<https://a.test/s", "none");
	next("", "none");
	next("next", "none");
	next("<a>; rel=\"ne", "none");
	next("<>; rel=\"next\"", "");

	resolve("https://a.test/v1", "https://a.test/v1/u?x=1", "https://a.test/v1/u?x=1");
	resolve("https://a.test", "https://A.TEST:443/u", "https://A.TEST:443/u");
	resolve("http://127.0.0.1:8080/x", "/y?z", "http://127.0.0.1:8080/y?z");
	resolve("http://[::1]:8080", "http://[::1]:8080/y", "http://[::1]:8080/y");
	resolve("https://a.test", "https://b.test/u",
			"a link to \"https://b.test\", which is not where it was asked");
	resolve("https://a.test", "http://a.test/u",
			"a link to \"http://a.test\", which is not where it was asked");
	resolve("https://a.test", "https://a.test:444/u",
			"a link to \"https://a.test:444\", which is not where it was asked");
	resolve("https://a.test", "https://a.test.evil.test/u",
			"a link to \"https://a.test.evil.test\", which is not where it was asked");
	resolve("https://a.test", "https://a.test@evil.test/u",
			"a link that is neither an http or https URL nor an absolute path");
	resolve("https://a.test", "https://a.test\\@evil.test/u",
			"a link that is neither an http or https URL nor an absolute path");
	resolve("https://a.test", "//evil.test/u",
			"a link that is neither an http or https URL nor an absolute path");
	resolve("https://a.test", "/\\evil.test/u",
			"a link that is neither an http or https URL nor an absolute path");
	resolve("https://a.test", "ftp://a.test/u",
			"a link that is neither an http or https URL nor an absolute path");
	resolve("https://a.test", "https://a.test:99999/u",
			"a link that is neither an http or https URL nor an absolute path");
	resolve("https://a.test", "https://a.test:+443/u",
			"a link that is neither an http or https URL nor an absolute path");
	resolve("https://a.test", "https:///u",
			"a link that is neither an http or https URL nor an absolute path");
	resolve("https://a.test", "u", "a link that is neither an http or https URL nor an absolute path");
	resolve("https://a.test", "https://a.test/a b", "a link with spaces in it");
	resolve("https://a.test", "https://a.test/a\r\nHost: b", "a link with spaces in it");
	resolve("nowhere", "/u", "a link, while the base URL is none");
	printf("1..%d\n", tests);
	return failures > 0;
}
