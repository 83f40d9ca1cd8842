/*-------------------------------------------------------------------------
 *
 * ldap_value_test.c
 *		Unit test of a directory's values: ids, times, bits, filters.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/fetch/ldap_value.c src/connector/datetime.c */
#include "tap.h"

#include "fetch/ldap_value.h"

static const char guid[] = "\x49\x63\xdb\x58\x36\x91\x8a\x4f\xae\xc4\x50\x3f\x4f\xe8\xab\xf8";
static const char sid[] =
"\x01\x05\x00\x00\x00\x00\x00\x05\x15\x00\x00\x00\x0a\x46\x49\xf7\x20\xca\x2f\xae"
"\x78\x15\x02\x89\xea\x4e\x04\x00";

static void
value(LdapKind kind, const char *bytes, int len, const char *expected, const char *what)
{
	StringInfoData out;

	initStringInfo(&out);
	uds_ldap_append_value(&out, kind, bytes, len);
	is(out.data, expected, what);
}

static void
time_is(const char *text, const char *expected)
{
	is(uds_ldap_time_iso(text, (int) strlen(text)), expected, psprintf("time %s", text));
}

static void
filetime_is(const char *text, const char *expected)
{
	char		iso[64];

	is(uds_ldap_filetime_iso(text, (int) strlen(text), iso, sizeof(iso)) ? iso : NULL,
	   expected, psprintf("ticks %s", text));
}

static void
filter(const char *text, bool valid)
{
	ok(uds_ldap_filter_valid(text) == valid,
	   psprintf("%s is %s filter", text, valid ? "a" : "no"));
}

static void
range(const char *description, int64 expected)
{
	ok(uds_ldap_range(description, (int) strlen(description)) == expected, description);
}

static void
test_values(void)
{
	value(LDAP_KIND_GUID, guid, 16, "\"58db6349-9136-4f8a-aec4-503f4fe8abf8\"", "objectGUID");
	value(LDAP_KIND_GUID, guid, 15, "{\"$base64\":\"SWPbWDaRik+uxFA/T+ir\"}",
		  "one that is too short stays bytes");
	value(LDAP_KIND_SID, sid, 28, "\"S-1-5-21-4148774410-2922367520-2298615160-282346\"", "objectSid");
	value(LDAP_KIND_SID, sid, 27, "{\"$base64\":\"AQUAAAAAAAUVAAAACkZJ9yDKL654FQKJ6k4E\"}",
		  "one that is cut");
	value(LDAP_KIND_TEXT, "a\"b\\c\n\x01", 7, "\"a\\\"b\\\\c\\u000a\\u0001\"", "text, escaped");
	value(LDAP_KIND_TEXT, "研发部", 9, "\"研发部\"", "text in UTF-8");
	value(LDAP_KIND_TEXT, "a\0b", 3, "{\"$base64\":\"YQBi\"}", "a zero byte makes it bytes");
	value(LDAP_KIND_TEXT, "a\xff", 2, "{\"$base64\":\"Yf8=\"}", "so does what is not UTF-8");
	value(LDAP_KIND_TEXT, "J\xf6rg", 4, "\"J\xef\xbf\xbdrg\"", "a text with a byte in it that is not stays one");
	value(LDAP_KIND_TEXT, "Zo\xc3\xab M\xfcller \xe5\xbc", 14, "\"Zo\xc3\xab M\xef\xbf\xbdller \xef\xbf\xbd\xef\xbf\xbd\"",
		  "also one that is cut");
	value(LDAP_KIND_BINARY, "J\xf6rg", 4, "{\"$base64\":\"SvZyZw==\"}", "but not what is bytes by its name");
	value(LDAP_KIND_TEXT, "", 0, "\"\"", "an empty value");
	value(LDAP_KIND_BINARY, "abc", 3, "{\"$base64\":\"YWJj\"}", "what is bytes by its name");
	value(LDAP_KIND_TIME, "20261122113114.0Z", 17, "\"2026-11-22T11:31:14Z\"", "a time");
	value(LDAP_KIND_TIME, "soon", 4, "\"soon\"", "one that is none");
	value(LDAP_KIND_FILETIME, "0", 1, "null", "a time that is never");
	value(LDAP_KIND_FILETIME, "x", 1, "\"x\"", "ticks that are none");
}

static void
test_times(void)
{
	time_is("20261122112925Z", "2026-11-22T11:29:25Z");
	time_is("20261122113114.0Z", "2026-11-22T11:31:14Z");
	time_is("20261122113114.25Z", "2026-11-22T11:31:14.250Z");
	time_is("20261122113114,5Z", "2026-11-22T11:31:14.500Z");
	time_is("202611221131Z", "2026-11-22T11:31:00Z");
	time_is("20261122113114+0100", "2026-11-22T10:31:14Z");
	time_is("20261122113114-0530", "2026-11-22T17:01:14Z");
	time_is("20261122113114+01", "2026-11-22T10:31:14Z");
	time_is("20261122113114", "none");
	time_is("20261322113114Z", "none");
	time_is("20261122113114.Z", "none");
	time_is("20261122113114Zx", "none");
	time_is("2026Z", "none");
	time_is("", "none");
	filetime_is("0", "");
	filetime_is("9223372036854775807", "");
	filetime_is("-1", "");
	filetime_is("116444736000000000", "1970-01-01T00:00:00Z");
	filetime_is("134084466740000000", "2025-11-24T08:31:14Z");
	filetime_is("9223372036854775808", "none");
	filetime_is("12a", "none");
	filetime_is("", "none");
}

static void
test_names(void)
{
	LdapAttributes attributes = {0};
	StringInfoData out;

	range("member", LDAP_RANGE_NONE);
	range("member;range=0-1499", 1500);
	range("member;Range=1500-*", LDAP_RANGE_LAST);
	range("member;range=0-", LDAP_RANGE_NONE);
	range("member;range=x-1", LDAP_RANGE_NONE);
	range("member;range=", LDAP_RANGE_NONE);
	range("userCertificate;binary", LDAP_RANGE_NONE);

	uds_ldap_attributes_add(&attributes, " cn, objectGUID mail,,CN ");
	ok(attributes.count == 3, "names are parted by blanks and commas, and taken once");
	ok(uds_ldap_attributes_find(&attributes, "OBJECTguid", 10)->kind == LDAP_KIND_GUID,
	   "case does not matter");
	ok(uds_ldap_attributes_find(&attributes, "mai", 3) == NULL, "a part of a name is none");
	uds_ldap_attributes_add(&attributes, NULL);
	ok(attributes.count == 3, "nothing adds nothing");

	initStringInfo(&out);
	uds_ldap_append_account(&out, 514);
	is(out.data, "[\"disabled\",\"normal_account\"]", "bits of an account");
	resetStringInfo(&out);
	uds_ldap_append_account(&out, 0);
	is(out.data, "[]", "no bits");
	resetStringInfo(&out);
	uds_ldap_filter_escape(&out, "a*b(c)\\d\0\xff", 10);
	is(out.data, "a\\2ab\\28c\\29\\5cd\\00\\ff", "a value in a filter");
}

static void
test_filters(void)
{
	filter("(objectClass=person)", true);
	filter("(&(objectCategory=person)(objectClass=user))", true);
	filter("(|(cn=a*)(!(mail=*)))", true);
	filter("(userAccountControl:1.2.840.113556.1.4.803:=2)", true);
	filter("(modifyTimestamp>=20261122113113Z)", true);
	filter("(cn~=x)", true);
	filter("(cn=a\\2ab)", true);
	filter("(cn=研发部)", true);
	filter("(cn=a = b)", true);
	filter("(cn=)", true);
	filter("(&)", true);
	filter("objectClass=person", false);
	filter("(objectClass=person", false);
	filter("(objectClass=person))", false);
	filter("(&(a=b)", false);
	filter("(=b)", false);
	filter("(a)", false);
	filter("(a=b)(c=d)", false);
	filter("(!)", false);
	filter("(cn=\\2)", false);
	filter("(cn=a(b)", false);
	filter("(cn=\xff)", false);
	filter("", false);
}

int
main(void)
{
	test_values();
	test_times();
	test_names();
	test_filters();
	printf("1..%d\n", tests);
	return failures > 0;
}
