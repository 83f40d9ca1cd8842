/*-------------------------------------------------------------------------
 *
 * address_test.c
 *		Unit test of the address guard: every range at both edges, and the
 *		rules of uds.allowed_hosts.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/fetch/address.c */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "fetch/address.h"

static int	tests = 0;
static int	failures = 0;

static void
ok(bool pass, const char *what, const char *detail)
{
	printf("%sok %d - %s %s\n", pass ? "" : "not ", ++tests, what, detail);
	if (!pass)
		failures++;
}

static struct sockaddr_storage
address(const char *text)
{
	struct sockaddr_storage storage;
	struct sockaddr_in *v4 = (struct sockaddr_in *) &storage;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *) &storage;

	memset(&storage, 0, sizeof(storage));
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1)
		v4->sin_family = AF_INET;
	else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1)
		v6->sin6_family = AF_INET6;
	else
	{
		printf("Bail out! bad address in the test: %s\n", text);
		exit(1);
	}
	return storage;
}

static void
check_public(const char *text, bool expected)
{
	struct sockaddr_storage storage = address(text);

	ok(uds_address_is_public((struct sockaddr *) &storage) == expected,
	   expected ? "public:" : "refused:", text);
}

/* first and last address of a range, and the neighbours on both sides */
typedef struct Edge
{
	const char *below;			/* NULL: the neighbour is refused as well */
	const char *first;
	const char *last;
	const char *above;			/* NULL: the same */
} Edge;

static const Edge edges[] = {
	/* IPv4 */
	{NULL, "0.0.0.0", "0.255.255.255", "1.0.0.0"},
	{"9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"},
	{"100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"},
	{"126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"},
	{"169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"},
	{"172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"},
	{"191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"},
	{"192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"},
	{"192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"},
	{"198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"},
	{"198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"},
	{"203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"},
	{"223.255.255.255", "224.0.0.0", "239.255.255.255", NULL},
	{NULL, "240.0.0.0", "255.255.255.255", NULL},
	/* IPv6 */
	{NULL, "::", "::1", NULL},
	{NULL, "100::", "100::ffff:ffff:ffff:ffff", NULL},
	{NULL, "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", NULL},
	{NULL, "::1:0:0:0:0", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"},
	{"2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001::",
	"2001:0:ffff:ffff:ffff:ffff:ffff:ffff", NULL},	/* Teredo */
	{NULL, "2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"},
	{"2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::",
	"2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"},
	{"3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff::",
	"3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"},
	{"3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "4000::",
	"fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NULL},
	{NULL, "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NULL},
	{NULL, "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NULL},
	{NULL, "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NULL},
	{NULL, "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NULL}
};

#define N_EDGES (int) (sizeof(edges) / sizeof(edges[0]))

/* every IPv4 edge again, in each wrapping that is judged by its content */
static void
check_wrapped(const char *text, bool expected)
{
	unsigned char b[4];
	char		wrapped[64];

	if (text == NULL || inet_pton(AF_INET, text, b) != 1)
		return;
	snprintf(wrapped, sizeof(wrapped), "::ffff:%s", text);
	check_public(wrapped, expected);
	snprintf(wrapped, sizeof(wrapped), "64:ff9b::%s", text);
	check_public(wrapped, expected);
	snprintf(wrapped, sizeof(wrapped), "::%s", text);
	check_public(wrapped, expected);
	snprintf(wrapped, sizeof(wrapped), "2002:%02x%02x:%02x%02x:1::1",
			 b[0], b[1], b[2], b[3]);
	check_public(wrapped, expected);
}

static void
test_ranges(void)
{
	for (int i = 0; i < N_EDGES; i++)
	{
		const char *inside[] = {edges[i].first, edges[i].last};
		const char *outside[] = {edges[i].below, edges[i].above};

		for (int j = 0; j < 2; j++)
		{
			check_public(inside[j], false);
			check_wrapped(inside[j], false);
			if (outside[j] != NULL)
				check_public(outside[j], true);
			check_wrapped(outside[j], true);
		}
	}
	check_public("8.8.8.8", true);
	check_public("2606:4700:4700::1111", true);
	check_public("64:ff9b::1:0:0", false);	/* beyond the /96 */
	check_public("::fffe:8.8.8.8", false);
	check_public("::ffff:0:8.8.8.8", false);
}

static void
test_other_families(void)
{
	struct sockaddr_un un;
	UdsHostRules *rules;
	char	   *error;

	memset(&un, 0, sizeof(un));
	un.sun_family = AF_UNIX;
	ok(!uds_address_is_public((struct sockaddr *) &un), "refused:", "AF_UNIX");
	rules = uds_host_rules_parse("localhost, 0.0.0.0/0, ::/0", &error);
	ok(rules != NULL &&
	   !uds_address_allowed(rules, "localhost", (struct sockaddr *) &un),
	   "no rule allows:", "AF_UNIX");
	uds_host_rules_free(rules);
	un.sun_family = AF_UNSPEC;
	ok(!uds_address_is_public((struct sockaddr *) &un), "refused:", "AF_UNSPEC");
}

typedef struct RuleCase
{
	const char *rules;
	const char *host;
	const char *address;
	bool		allowed;
} RuleCase;

static const RuleCase rule_cases[] = {
	/* public without any rule, private with none that fits */
	{"", "example.com", "8.8.8.8", true},
	{"other", "example.com", "8.8.8.8", true},
	{"", "example.com", "10.0.0.1", false},
	{" \t ", NULL, "10.0.0.1", false},
	/* names */
	{"hr.example.com", "hr.example.com", "10.0.0.1", true},
	{"HR.Example.com", "hr.eXAMPLE.COM", "10.0.0.1", true},
	{"hr.example.com", "hr.example.com.", "10.0.0.1", true},
	{"hr.example.com.", "hr.example.com", "10.0.0.1", true},
	{"hr.example.com", "xhr.example.com", "10.0.0.1", false},
	{"hr.example.com", "a.hr.example.com", "10.0.0.1", false},
	{"hr.example.com", "hr.example.com.evil.org", "10.0.0.1", false},
	{"hr.example.com", "hr.example.co", "10.0.0.1", false},
	{"hr.example.com", "", "10.0.0.1", false},
	{"hr.example.com", NULL, "10.0.0.1", false},
	{"localhost", "localhost", "::1", true},
	{"b\xc3\xbc" "cher.example", "b\xc3\xbc" "cher.example", "10.0.0.1", true},
	/* *.domain */
	{"*.corp", "a.corp", "10.0.0.1", true},
	{"*.Corp", "c.b.a.cORP", "10.0.0.1", true},
	{"*.corp", "a.corp.", "10.0.0.1", true},
	{"*.corp", "corp", "10.0.0.1", false},
	{"*.corp", ".corp", "10.0.0.1", false},
	{"*.corp", "acorp", "10.0.0.1", false},
	{"*.corp", "a.corp.org", "10.0.0.1", false},
	{"*.a.corp", "b.corp", "10.0.0.1", false},
	/* addresses */
	{"127.0.0.1", "anything", "127.0.0.1", true},
	{"127.0.0.1", NULL, "127.0.0.1", true},
	{"127.0.0.1", NULL, "127.0.0.2", false},
	{"127.0.0.1", NULL, "::ffff:127.0.0.1", true},
	{"127.0.0.1", NULL, "::127.0.0.1", false},
	{"127.0.0.1", NULL, "64:ff9b::127.0.0.1", false},
	{"::ffff:127.0.0.1", NULL, "127.0.0.1", true},
	{"::1", NULL, "::1", true},
	{"0:0::0001", NULL, "::1", true},
	{"FD00::a", NULL, "fd00::A", true},
	{"::1", NULL, "127.0.0.1", false},
	{"fd00::1", NULL, "fd00::2", false},
	/* ranges */
	{"10.0.0.0/8", NULL, "10.0.0.0", true},
	{"10.0.0.0/8", NULL, "10.255.255.255", true},
	{"10.0.0.0/9", NULL, "10.128.0.0", false},
	{"10.1.2.3/8", NULL, "10.9.9.9", true},
	{"192.168.4.0/22", NULL, "192.168.3.255", false},
	{"192.168.4.0/22", NULL, "192.168.4.0", true},
	{"192.168.4.0/22", NULL, "192.168.7.255", true},
	{"192.168.4.0/22", NULL, "192.168.8.0", false},
	{"10.0.0.1/32", NULL, "10.0.0.1", true},
	{"10.0.0.1/32", NULL, "10.0.0.0", false},
	{"0.0.0.0/0", NULL, "127.0.0.1", true},
	{"0.0.0.0/0", NULL, "::1", false},
	{"::/0", NULL, "::1", true},
	{"::/0", NULL, "127.0.0.1", false},
	{"::ffff:10.0.0.0/104", NULL, "10.1.1.1", true},
	{"::ffff:10.0.0.0/104", NULL, "::ffff:10.1.1.1", true},
	{"::ffff:10.0.0.0/104", NULL, "172.16.0.1", false},
	{"fd00::/8", NULL, "fdff::1", true},
	{"fd00::/8", NULL, "fc00::1", false},
	{"fd00::/127", NULL, "fd00::1", true},
	{"fd00::/127", NULL, "fd00::2", false},
	{"64:ff9b::/96", NULL, "64:ff9b::10.0.0.1", true},
	/* several */
	{"a,b", "a", "10.0.0.1", true},
	{"a,b", "b", "10.0.0.1", true},
	{"  a ,\t*.b , 10.0.0.0/8,::1 ", "x.b", "127.0.0.1", true},
	{"  a ,\t*.b , 10.0.0.0/8,::1 ", "x", "::1", true},
	{"  a ,\t*.b , 10.0.0.0/8,::1 ", "x", "127.0.0.1", false}
};

#define N_RULE_CASES (int) (sizeof(rule_cases) / sizeof(rule_cases[0]))

static void
test_rules(void)
{
	for (int i = 0; i < N_RULE_CASES; i++)
	{
		const RuleCase *c = &rule_cases[i];
		struct sockaddr_storage storage = address(c->address);
		char	   *error;
		UdsHostRules *rules = uds_host_rules_parse(c->rules, &error);
		char		what[256];

		snprintf(what, sizeof(what), "[%s] host %s address %s", c->rules,
				 c->host ? c->host : "(none)", c->address);
		ok(rules != NULL && error == NULL &&
		   uds_address_allowed(rules, c->host,
							   (struct sockaddr *) &storage) == c->allowed,
		   c->allowed ? "allowed:" : "not allowed:", what);
		uds_host_rules_free(rules);
	}
}

typedef struct BadCase
{
	const char *rules;
	const char *entry;			/* named by the error */
} BadCase;

static const BadCase bad_cases[] = {
	{",", "\"\""},
	{"a,", "\"\""},
	{"a,,b", "\"\""},
	{"a, ,b", "\"\""},
	{"good.example, two words", "\"two words\""},
	{"a;b", "\"a;b\""},
	{"http://a/", "\"http://a/\""},
	{"localhost:8080", "\"localhost:8080\""},
	{"[::1]", "\"[::1]\""},
	{"fe80::1%eth0", "\"fe80::1%eth0\""},
	{"*", "\"*\""},
	{"*.", "\"*.\""},
	{"*.*.a", "\"*.*.a\""},
	{"a.*", "\"a.*\""},
	{"*a", "\"*a\""},
	{".", "\".\""},
	{".a", "\".a\""},
	{"a..b", "\"a..b\""},
	{"a..", "\"a..\""},
	{"10.0.0", "\"10.0.0\""},
	{"10.0.0.256", "\"10.0.0.256\""},
	{"1.2.3.4.5", "\"1.2.3.4.5\""},
	{"0x7f.0x1", "\"0x7f.0x1\""},
	{"127.0.0.1.", "\"127.0.0.1.\""},
	{"10.0.0.0/33", "\"10.0.0.0/33\""},
	{"10.0.0.0/", "\"10.0.0.0/\""},
	{"10.0.0.0/-1", "\"10.0.0.0/-1\""},
	{"10.0.0.0/8x", "\"10.0.0.0/8x\""},
	{"10.0.0.0/0008", "\"10.0.0.0/0008\""},
	{"10.0.0.0/8/8", "\"10.0.0.0/8/8\""},
	{"10.0.0.0/255.0.0.0", "\"10.0.0.0/255.0.0.0\""},
	{"fd00::/129", "\"fd00::/129\""},
	{"fd00:::1", "\"fd00:::1\""},
	{"name/8", "\"name/8\""}
};

#define N_BAD_CASES (int) (sizeof(bad_cases) / sizeof(bad_cases[0]))

static void
check_malformed(const char *text, const char *entry, const char *what)
{
	char	   *error = NULL;
	UdsHostRules *rules = uds_host_rules_parse(text, &error);

	ok(rules == NULL && error != NULL && strstr(error, entry) == error,
	   "malformed:", what);
	uds_host_rules_free(rules);
	free(error);
}

static void
test_malformed(void)
{
	char		name[400];
	char	   *error;
	UdsHostRules *rules;

	for (int i = 0; i < N_BAD_CASES; i++)
		check_malformed(bad_cases[i].rules, bad_cases[i].entry,
						bad_cases[i].rules);

	memset(name, 'a', sizeof(name));
	name[64] = '\0';
	check_malformed(name, "\"aaaa", "a label of 64 bytes");
	name[63] = '\0';
	rules = uds_host_rules_parse(name, &error);
	ok(rules != NULL, "well-formed:", "a label of 63 bytes");
	uds_host_rules_free(rules);

	for (int i = 0; i < 254; i++)
		name[i] = i % 50 == 49 ? '.' : 'a';
	name[254] = '\0';
	check_malformed(name, "\"aaaa", "a name of 254 bytes");
	name[253] = '\0';
	rules = uds_host_rules_parse(name, &error);
	ok(rules != NULL, "well-formed:", "a name of 253 bytes");
	uds_host_rules_free(rules);

	rules = uds_host_rules_parse(NULL, &error);
	ok(rules != NULL && error == NULL, "well-formed:", "no text");
	uds_host_rules_free(rules);
	uds_host_rules_free(NULL);
}

int
main(void)
{
	struct sockaddr_storage loopback = address("127.0.0.1");
	struct sockaddr_storage public = address("8.8.8.8");

	test_ranges();
	test_other_families();
	test_rules();
	test_malformed();
	ok(!uds_address_allowed(NULL, "localhost", (struct sockaddr *) &loopback),
	   "not allowed:", "loopback without rules");
	ok(uds_address_allowed(NULL, NULL, (struct sockaddr *) &public),
	   "allowed:", "a public address without rules");
	printf("1..%d\n", tests);
	return failures == 0 ? 0 : 1;
}
