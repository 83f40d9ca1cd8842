/*-------------------------------------------------------------------------
 *
 * dn_test.c
 *		Unit test of distinguished names: which are the same, and what is above
 *		what.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/fetch/dn.c */
#include "tap.h"

#include "fetch/dn.h"

static char *
normal(const char *dn)
{
	return uds_dn_normalize(dn, strlen(dn));
}

static void
same(const char *a, const char *b)
{
	const char *left = normal(a);

	is(normal(b), left ? left : "not a name", psprintf("%s is %s", a, b));
}

static void
differ(const char *a, const char *b)
{
	char	   *left = normal(a);
	char	   *right = normal(b);

	ok(left != NULL && right != NULL && strcmp(left, right) != 0,
	   psprintf("%s is not %s", a, b));
}

static void
none(const char *dn)
{
	is(normal(dn), "none", psprintf("\"%s\" is no name", dn));
}

static void
test_same(void)
{
	is(normal("CN=Ann,OU=Sales,DC=example,DC=test"), "cn=ann,ou=sales,dc=example,dc=test",
	   "a plain name");
	same("cn=Ann, ou=Sales ,dc=example", "CN = Ann,OU= Sales,DC=EXAMPLE");
	same("ou=R&D\\2C Core,dc=x", "ou=R&D\\, Core,dc=x");
	same("ou=\"R&D, Core\",dc=x", "ou=R&D\\, Core,dc=x");
	same("ou=Ops\\+Infra,dc=x", "ou=Ops\\2BInfra,dc=x");
	same("ou=\\#Labs,dc=x", "ou=\\23Labs,dc=x");
	same("ou=a\\\"b\\\\c\\<d\\>e\\;f\\=g", "ou=a\\22b\\5cc\\3cd\\3Ee\\3bf=g");
	same("cn=x\\ ,dc=x", "cn=x\\20,dc=x");
	same("cn=a  b   c", "cn=A B C");
	same("cn=a+sn=b,dc=x", "SN=B + CN=A,dc=x");
	same("cn=#04024869", "cn=Hi");
	same("cn=#0C024869", "cn=hi");
	same("2.5.4.3=a,0.9.2342.19200300.100.1.25=x", "commonName=A,domainComponent=X");
	same("oid.2.5.4.11=a", "OU=a");
	same("userid=a", "uid=a");
	same("cn=a;dc=x", "cn=a,dc=x");
	same("<GUID=0123>;<SID=01>;CN=a,DC=x", "cn=a,dc=x");
	same("", "  ");
}

static void
test_letters(void)
{
	same("ou=\\E7\\A0\\94\\E5\\8F\\91\\E9\\83\\A8", "ou=研发部");
	same("ou=Lehrgänge", "ou=LEHRGÄNGE");
	same("ou=Lehrgänge", "ou=Lehrga\xcc\x88nge");
	same("cn=ŁUKASZ", "cn=łukasz");
	same("cn=Ørsted", "cn=øRSTED");
	same("cn=ИВАН ёж", "cn=иван Ёж");
	same("cn=ΆΡΗΣ", "cn=άρησ");
	same("cn=ＦＵＬＬ", "cn=full");
	same("cn=a\xc2\xa0" "b", "cn=a b");
	same("cn=a\xc2\xad" "b", "cn=ab");
	differ("cn=ß", "cn=s");
	differ("cn=a,dc=x", "cn=a\\,dc=x");
	differ("cn=a+sn=b", "cn=a\\+sn=b");
	differ("cn=ab", "cn=a b");
	differ("cn=a,cn=b", "cn=b,cn=a");
	differ("cn=\\ff", "cn=\\fe");
	differ("cn=#300100", "cn=#300101");
	differ("cn=a", "sn=a");
	is(normal("CN=Bulk 0\\0ADEL:7473,CN=Deleted Objects,DC=x"),
	   "cn=bulk 0 del:7473,cn=deleted objects,dc=x", "a line break counts as a blank");
	ok(uds_dn_normalize("cn=a\0b", 6) == NULL, "a name with a zero byte is none");
}

static void
test_none(void)
{
	none("cn");
	none("=a");
	none("cn=a,");
	none(",cn=a");
	none("cn=a,,dc=x");
	none("cn=bad,,dc=x");
	none("cn=a+");
	none("cn=a\\");
	none("cn=a\\x");
	none("cn=a\\4");
	none("cn=\"a");
	none("cn=\"a\"b");
	none("cn=a\"b");
	none("cn=#");
	none("cn=#0");
	none("cn=#04 2");
	none("cn=a<b");
	none("<GUID=01>");
	none("c n=a");
}

static void
test_tree(void)
{
	char	   *ann = normal("cn=Ann\\, B,ou=Sales,dc=x");

	is(uds_dn_parent(ann), "ou=sales,dc=x", "the parent is what follows the first part");
	is(uds_dn_parent("dc=x"), "", "above the first part is the root");
	is(uds_dn_parent(""), "none", "nothing is above the root");
	ok(uds_dn_below(ann, normal("DC=X")), "a name is below one above it");
	ok(uds_dn_below(ann, ann), "and below itself");
	ok(uds_dn_below(ann, ""), "and below the root");
	ok(!uds_dn_below(ann, normal("ou=ales,dc=x")), "but not below a part of a part");
	ok(!uds_dn_below(normal("dc=x"), ann), "nor the other way round");
	ok(uds_dn_in_rdn(ann, "CN", "ANN,  b", 7), "a value of the first part");
	ok(!uds_dn_in_rdn(ann, "cn", "Sales", 5), "another one");
	ok(!uds_dn_in_rdn(ann, "ou", "Sales", 5), "a value of the second part");
	ok(uds_dn_in_rdn(normal("uid=a+cn=b,dc=x"), "uid", "A", 1), "one of two");
	is(uds_dn_value("  A  b ", 7), "a b", "a value");
	ok(uds_dn_first("cn=a,dc=x", 9) == 4, "where the first part ends");
	ok(uds_dn_first("cn=a\\,b,dc=x", 12) == 7, "after a hidden comma");
	ok(uds_dn_first("cn=\"a,b\",dc=x", 13) == -1, "not at a glance");
	ok(uds_dn_first("dc=x", 4) == -1, "the only part");
}

int
main(void)
{
	test_same();
	test_letters();
	test_none();
	test_tree();
	printf("1..%d\n", tests);
	return failures > 0;
}
