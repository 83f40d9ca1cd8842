/*-------------------------------------------------------------------------
 *
 * redact_test.c
 *		Unit test of redaction: a secret in every spelling it may come back in.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/redact.c src/connector/template.c */
#include "tap.h"

#include "connector/redact.h"

#define REDACTED "********"

/* The text without this secret. */
static char *
redact(const char *text, const char *secret)
{
	UdsVariable variables[] = {
		{"plain", "honest", false}, {"options.secret", secret, true}, {"none", NULL, true}
	};
	size_t		len;
	char	   *clean = uds_redact_text(text, strlen(text), variables,
										lengthof(variables),
										UDS_SECRET_IN_MESSAGE, REDACTED, &len);

	ok(strlen(clean) == len, "the length is told");
	return clean;
}

static const struct
{
	const char *secret;
	const char *text;
	const char *what;
}			spellings[] = {
	{"s3cr/et \"x\"", "s3cr/et \"x\"", "as it is"},
	{"s3cr/et \"x\"", "s3cr%2Fet%20%22x%22", "in a URL"},
	{"s3cr/et \"x\"", "s3cr%2fet+%22x%22", "in a form, digits in lower case"},
	{"s3cr/et \"x\"", "s3cr/et%20%22x%22", "in a URL that leaves slashes"},
	{"s3cr/et \"x\"", "s3cr%252Fet%2520%2522x%2522", "in a URL within a URL"},
	{"s3cr/et \"x\"", "s3cr%25252Fet%252520%252522x%252522", "once more"},
	{"s3cr/et \"x\"", "s3cr/et \\\"x\\\"", "in JSON"},
	{"s3cr/et \"x\"", "s3cr\\/et \\\"x\\\"", "in JSON that escapes slashes"},
	{"s3cr/et \"x\"", "s3cr/et \\\\\\\"x\\\\\\\"", "in JSON within JSON"},
	{"s3cr/et \"x\"", "s3cr/et \\\\\\\\\\\\\\\"x\\\\\\\\\\\\\\\"", "in JSON within JSON within JSON"},
	{"s3cr/et \"x\"", "\\u0073\\u0033cr\\u002Fet\\u0020\\u0022x\\u0022", "in JSON by numbers"},
	{"s3cr/et \"x\"", "\\\\u0073\\\\u0033cr\\\\u002fet \\\\u0022x\\\\u0022", "in JSON by numbers within JSON"},
	{"s3cr/et \"x\"", "s3cr%2Fet%20%5C%22x%5C%22", "in JSON within a URL"},
	{"s3cr/et \"x\"", "s3cr/et &quot;x&#34;", "in HTML"},
	{"a&b<c>d'e", "a&amp;b&lt;c&gt;d&#39;e", "in HTML, all that it escapes"},
	{"a&b<c>d'e", "a&amp;amp;b&amp;lt;c&amp;gt;d&amp;#x27;e", "in HTML within HTML"},
	{"a&b<c>d'e", "a\\u0026b\\u003cc\\u003ed'e", "in JSON that is fit for HTML"},
	{"back\\slash\\\\es", "back\\\\slash\\\\\\\\es", "backslashes in JSON"},
	{"back\\slash\\\\es", "back%5Cslash%5C%5Ces", "backslashes in a URL"},
	{"back\\slash\\\\es", "back\\u005cslash\\u005c\\u005ces", "backslashes by numbers"},
	{"line\nfeed\ttab", "line\\nfeed\\ttab", "control characters in JSON"},
	{"line\nfeed\ttab", "line%0Afeed%09tab", "control characters in a URL"},
	{"100%25 sure", "100%25 sure", "a percent sign as it is"},
	{"100%25 sure", "100%2525%20sure", "a percent sign in a URL"},
	{"%41%42%43", "%2541%2542%2543", "what looks escaped, in a URL"},
	{"%41%42%43", "%41%42%43", "what looks escaped, as it is"},
	{"p\xc3\xa4ssw\xe2\x82\xacrt", "p\\u00e4ssw\\u20acrt", "letters beyond ASCII by numbers"},
	{"p\xc3\xa4ssw\xe2\x82\xacrt", "p%C3%A4ssw%E2%82%ACrt", "letters beyond ASCII in a URL"},
	{"\xc3\xa4\xc3\xb6\xc3\xbc", "\\u00E4\\u00F6\\u00FC", "nothing but such letters"},
	{"corp-secret-1", "Y29ycC1zZWNyZXQtN", "not another one in base64"},
	{"corp-secret-1", "Y29ycC1zZWNyZXQtMQ==", "in base64"},
	{"corp-secret-1", "aWQ6Y29ycC1zZWNyZXQtMQ==", "in base64 behind three bytes"},
	{"corp-secret-1", "aTpjb3JwLXNlY3JldC0x", "in base64 behind two bytes"},
	{"corp-secret-1", "OmNvcnAtc2VjcmV0LTE=", "in base64 behind one byte"},
	{"\xfb\xff\xbf\xfb\xef\xbe\xff\xff", "-_-_----__8", "in base64 of URLs"},
	{"\xfb\xff\xbf\xfb\xef\xbe\xff\xff", "%2B%2F+\\/%2B%2B%2B+\\//8=", "in base64 in a URL in JSON"},
};

static void
check_spellings(void)
{
	for (int i = 0; i < lengthof(spellings); i++)
	{
		char	   *text = psprintf("is %s.", spellings[i].text);
		char	   *clean = redact(text, spellings[i].secret);
		bool		other = strncmp(spellings[i].what, "not ", 4) == 0;

		/* at its ends base64 depends on what is before and after */
		if (strstr(spellings[i].what, "base64") && !other)
			ok(strstr(clean, REDACTED) != NULL && strlen(clean) <= strlen(REDACTED) + 12,
			   spellings[i].what);
		else
			is(clean, other ? text : "is " REDACTED ".", spellings[i].what);
	}
}

static void
check_text(void)
{
	static const char zero[] = "tok\0s3cr/et";
	UdsVariable variables[] = {{"a", "s3cr/et", true}, {"b", "other-one", true}};
	size_t		len;
	char	   *clean;
	const char *text = "no secret here";

	is(redact("s3cr/et", "s3cr/et"), REDACTED, "nothing else");
	is(redact("s3cr/ets3cr/et", "s3cr/et"), REDACTED REDACTED, "twice");
	is(redact("s3cr/e", "s3cr/et"), "s3cr/e", "part of it");
	is(redact("s3cr/es3cr/et", "s3cr/et"), "s3cr/e" REDACTED, "part of it, then all");
	is(redact("", "s3cr/et"), "", "no text");
	is(redact("honest", "s3cr/et"), "honest", "what is no secret stays");
	is(redact("tok abc", "tok"), "tok abc", "short values stay");
	is(redact("%", "s3cr/et"), "%", "an escape that is cut off");
	is(redact("s3cr%2", "s3cr/et"), "s3cr%2", "an escape that is cut off in the secret");
	is(redact("\\u00", "s3cr/et"), "\\u00", "a number that is cut off");
	is(redact("&am", "s3cr/et"), "&am", "an entity that is cut off");
	is(redact("\\\\\\", "s3cr/et"), "\\\\\\", "nothing but backslashes");

	clean = uds_redact_text(zero, sizeof(zero) - 1, variables, 2, 4, "*", &len);
	ok(len == 5 && memcmp(clean, "tok\0*", 5) == 0, "beyond a zero byte");
	clean = uds_redact_text("s3cr/et other-one", 17, variables, 2, 4, "*", &len);
	is(clean, "* *", "two secrets");
	clean = uds_redact_text("s3cr/et other-one", 17, variables, 2, UDS_SECRET_IN_PAGE, "*", &len);
	is(clean, "s3cr/et *", "pages: only the longer one");
	ok(uds_redact_text(text, strlen(text), variables, 2, 4, "*", &len) == text &&
	   len == strlen(text), "what holds none is not copied");
}

/* Text made to be slow: it must not take time that grows with its square. */
static void
check_speed(void)
{
	static const char *const pieces[] = {"\\", "%5C", "%25", "&amp;", "\\u005c", "s", "s\\"};
	UdsVariable variables[] = {{"a", "ssssssssssssssss", true}};

	for (int i = 0; i < lengthof(pieces); i++)
	{
		StringInfoData text;
		size_t		len;

		initStringInfo(&text);
		while (text.len < 1000000)
			appendStringInfoString(&text, pieces[i]);
		uds_redact_text(text.data, text.len, variables, 1, 4, "*", &len);
		ok(len <= text.len, psprintf("millions of %s", pieces[i]));
	}
}

int
main(void)
{
	check_spellings();
	check_text();
	check_speed();
	printf("1..%d\n", tests);
	return failures > 0;
}
