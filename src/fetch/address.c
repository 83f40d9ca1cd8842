/*-------------------------------------------------------------------------
 *
 * address.c
 *		Which hosts and addresses may be talked to (uds.allowed_hosts).
 *
 * Owns the rules parsed from the setting and the knowledge of which address
 * ranges are not public.  Pure C on malloc, since it runs in a check hook of
 * a setting, where memory contexts do not help, and in unit tests without a
 * server.  Any process, no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include <arpa/inet.h>
#include <netinet/in.h>

#include "fetch/address.h"

#define MAX_NAME 253			/* bytes of a host name, without a last dot */
#define MAX_LABEL 63			/* bytes between two dots */

/* An address of either family, as bytes in network order. */
typedef struct Address
{
	int			family;			/* AF_INET, AF_INET6 */
	uint8		bytes[16];		/* the first 4 for AF_INET */
} Address;

typedef struct HostRule
{
	struct HostRule *next;
	Address		network;		/* family 0: the rule is a name */
	int			prefix;			/* bits of network that count */
	bool		below;			/* name is the domain of "*.domain" */
	char		name[FLEXIBLE_ARRAY_MEMBER];	/* NUL-terminated */
} HostRule;

struct UdsHostRules
{
	HostRule   *first;
};

typedef struct Range
{
	uint8		bytes[4];		/* leading bytes of the network */
	int			prefix;
} Range;

/* IPv4 ranges that do not belong to one host of the public internet */
static const Range refused4[] = {
	{{0}, 8},					/* this network */
	{{10}, 8},					/* private */
	{{100, 64}, 10},			/* shared by carriers */
	{{127}, 8},					/* loopback */
	{{169, 254}, 16},			/* link-local, metadata services */
	{{172, 16}, 12},			/* private */
	{{192, 0, 0}, 24},			/* protocol assignments */
	{{192, 0, 2}, 24},			/* documentation */
	{{192, 168}, 16},			/* private */
	{{198, 18}, 15},			/* benchmarks */
	{{198, 51, 100}, 24},		/* documentation */
	{{203, 0, 113}, 24},		/* documentation */
	{{224}, 4},					/* multicast */
	{{240}, 4}					/* reserved, broadcast */
};

/* the same within 2000::/3, outside of which no IPv6 address is public */
static const Range refused6[] = {
	{{0x20, 0x01, 0x00}, 23},	/* protocol assignments, Teredo */
	{{0x20, 0x01, 0x0d, 0xb8}, 32}, /* documentation */
	{{0x3f, 0xff, 0x00}, 20}	/* documentation */
};

/* networks whose addresses carry an IPv4 address in the last four bytes */
static const uint8 compatible_net[12] = {0};
static const uint8 mapped_net[12] = {[10] = 0xff,[11] = 0xff};
static const uint8 nat64_net[12] = {[1] = 0x64,[2] = 0xff,[3] = 0x9b};

/* Are the first "bits" bits equal? */
static bool
prefix_equal(const uint8 *a, const uint8 *b, int bits)
{
	int			whole = bits / 8;
	int			rest = bits % 8;

	if (memcmp(a, b, whole) != 0)
		return false;
	return rest == 0 || ((a[whole] ^ b[whole]) >> (8 - rest)) == 0;
}

static bool
in_ranges(const uint8 *bytes, const Range *ranges, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (prefix_equal(bytes, ranges[i].bytes, ranges[i].prefix))
			return true;
	}
	return false;
}

static bool
is_public4(const uint8 *bytes)
{
	return !in_ranges(bytes, refused4, lengthof(refused4));
}

static bool
is_public6(const uint8 *bytes)
{
	if (memcmp(bytes, mapped_net, 12) == 0 ||
		memcmp(bytes, compatible_net, 12) == 0 ||
		memcmp(bytes, nat64_net, 12) == 0)
		return is_public4(bytes + 12);
	if (bytes[0] == 0x20 && bytes[1] == 0x02)	/* 6to4 */
		return is_public4(bytes + 2);
	return (bytes[0] & 0xe0) == 0x20 &&
		!in_ranges(bytes, refused6, lengthof(refused6));
}

/* An IPv4 address in IPv6 clothes becomes an IPv4 address. */
static void
unwrap_mapped(Address *address)
{
	if (address->family == AF_INET6 &&
		memcmp(address->bytes, mapped_net, 12) == 0)
	{
		memmove(address->bytes, address->bytes + 12, 4);
		address->family = AF_INET;
	}
}

/*
 * Takes the bytes out of a socket address, which need not be aligned.
 * Returns false for families that have none.
 */
static bool
address_from(const struct sockaddr *from, Address *address)
{
	address->family = from->sa_family;
	if (from->sa_family == AF_INET)
		memcpy(address->bytes,
			   (const char *) from + offsetof(struct sockaddr_in, sin_addr), 4);
	else if (from->sa_family == AF_INET6)
		memcpy(address->bytes,
			   (const char *) from + offsetof(struct sockaddr_in6, sin6_addr),
			   16);
	else
		return false;
	return true;
}

/* Decimal number of at most three digits; -1 if it is none or above max. */
static int
parse_prefix(const char *text, int max)
{
	int			value = 0;
	int			digits = 0;

	for (; *text >= '0' && *text <= '9' && digits < 3; text++, digits++)
		value = value * 10 + (*text - '0');
	return *text == '\0' && digits > 0 && value <= max ? value : -1;
}

/*
 * Reads "address" or "address/prefix" into a rule.  Bits of the address
 * beyond the prefix do not matter.
 */
static bool
parse_network(const char *text, HostRule *rule)
{
	char		address[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t		len = slash ? (size_t) (slash - text) : strlen(text);
	int			bits;

	if (len >= sizeof(address))
		return false;
	memcpy(address, text, len);
	address[len] = '\0';

	if (inet_pton(AF_INET, address, rule->network.bytes) == 1)
		rule->network.family = AF_INET;
	else if (inet_pton(AF_INET6, address, rule->network.bytes) == 1)
		rule->network.family = AF_INET6;
	else
		return false;

	bits = rule->network.family == AF_INET ? 32 : 128;
	rule->prefix = slash ? parse_prefix(slash + 1, bits) : bits;
	if (rule->prefix < 0)
		return false;

	/* addresses are unwrapped before they are compared, so rules must be too */
	if (bits == 128 && rule->prefix >= 96)
	{
		unwrap_mapped(&rule->network);
		if (rule->network.family == AF_INET)
			rule->prefix -= 96;
	}
	return true;
}

/*
 * Is this a host name?  One whose last label is a number is not: it would be
 * a mistyped address.  Bytes above ASCII pass, for names that are not spelled
 * in Punycode.
 */
static bool
valid_name(const char *name)
{
	size_t		total = strlen(name);
	const char *label = name;

	if (total == 0 || total > MAX_NAME)
		return false;
	for (;;)
	{
		size_t		len = strcspn(label, ".");

		if (len == 0 || len > MAX_LABEL)
			return false;
		for (size_t i = 0; i < len; i++)
		{
			unsigned char c = label[i];

			if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
				  (c >= '0' && c <= '9') || c == '-' || c == '_' || c >= 0x80))
				return false;
		}
		if (label[len] == '\0')
			break;
		label += len + 1;
	}
	return strspn(label, "0123456789") < strlen(label) &&
		!(label[0] == '0' && (label[1] == 'x' || label[1] == 'X'));
}

/*
 * Reads one entry into a rule that has room for its text.  Returns false if
 * it is malformed.
 */
static bool
parse_entry(const char *text, size_t len, HostRule *rule)
{
	memcpy(rule->name, text, len);
	rule->name[len] = '\0';
	if (strlen(rule->name) != len)
		return false;
	if (parse_network(rule->name, rule))
		return true;

	memset(&rule->network, 0, sizeof(rule->network));
	if (len > 2 && memcmp(text, "*.", 2) == 0)
	{
		rule->below = true;
		len -= 2;
		memmove(rule->name, rule->name + 2, len + 1);
	}
	if (len > 1 && rule->name[len - 1] == '.')
		rule->name[len - 1] = '\0';
	return valid_name(rule->name);
}

/* The sentence that names a bad entry, malloc'd; NULL without memory. */
static char *
entry_error(const char *text, size_t len)
{
	static const char tail[] = "\" is not a host name, *.domain, address or CIDR range.";
	char	   *error = malloc(len + 1 + sizeof(tail));

	if (error != NULL)
	{
		error[0] = '"';
		memcpy(error + 1, text, len);
		memcpy(error + 1 + len, tail, sizeof(tail));
	}
	return error;
}

/*
 * Parses rules: entries parted by commas, white space around them allowed.
 *
 * An entry is a host name, "*.domain" (any host below the domain, not the
 * domain itself), an IPv4 or IPv6 address, or a CIDR range of either family.
 * Case does not matter.  "text" of only white space, or NULL, gives rules
 * that match nothing.
 *
 * Returns malloc'd rules for uds_host_rules_free().  If an entry is
 * malformed, returns NULL and sets *error to a malloc'd sentence naming it;
 * without memory, returns NULL with *error NULL.  Raises nothing.
 */
UdsHostRules *
uds_host_rules_parse(const char *text, char **error)
{
	static const char space[] = " \t\r\n\v\f";
	UdsHostRules *rules = calloc(1, sizeof(UdsHostRules));

	*error = NULL;
	if (rules == NULL)
		return NULL;
	if (text == NULL || text[strspn(text, space)] == '\0')
		return rules;

	for (;;)
	{
		size_t		field = strcspn(text, ",");
		size_t		lead = strspn(text, space);
		size_t		len;
		HostRule   *rule;

		lead = lead < field ? lead : field;
		len = field - lead;
		while (len > 0 && strchr(space, text[lead + len - 1]) != NULL)
			len--;

		rule = calloc(1, offsetof(HostRule, name) + len + 1);
		if (rule == NULL)
		{
			uds_host_rules_free(rules);
			return NULL;
		}
		rule->next = rules->first;
		rules->first = rule;
		if (!parse_entry(text + lead, len, rule))
		{
			*error = entry_error(text + lead, len);
			uds_host_rules_free(rules);
			return NULL;
		}
		if (text[field] == '\0')
			return rules;
		text += field + 1;
	}
}

/*
 * Frees what uds_host_rules_parse() returned; NULL is fine.
 */
void
uds_host_rules_free(UdsHostRules *rules)
{
	HostRule   *next;

	if (rules == NULL)
		return;
	for (HostRule *rule = rules->first; rule != NULL; rule = next)
	{
		next = rule->next;
		free(rule);
	}
	free(rules);
}

/*
 * Is this the address of a host on the public internet?
 *
 * False for private, loopback, link-local, shared, reserved, documentation
 * and multicast ranges, for addresses that only wrap such a one (mapped,
 * compatible, NAT64, 6to4), for Teredo, and for families other than IPv4 and
 * IPv6.  "address" must be as long as its family says.
 */
bool
uds_address_is_public(const struct sockaddr *address)
{
	Address		bytes;

	if (!address_from(address, &bytes))
		return false;
	return bytes.family == AF_INET ? is_public4(bytes.bytes) :
		is_public6(bytes.bytes);
}

static unsigned char
fold(unsigned char c)
{
	return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

/* Does a host, "len" bytes long, match a rule that is a name? */
static bool
name_matches(const HostRule *rule, const char *host, size_t len)
{
	size_t		name_len = strlen(rule->name);

	if (rule->below)
	{
		/* something and a dot must come before the domain */
		if (len < name_len + 2 || host[len - name_len - 1] != '.')
			return false;
		host += len - name_len;
		len = name_len;
	}
	if (len != name_len)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (fold(host[i]) != fold(rule->name[i]))
			return false;
	}
	return true;
}

/* Does an address, not mapped, lie in the range of a rule? */
static bool
range_matches(const HostRule *rule, const Address *address)
{
	return rule->network.family == address->family &&
		prefix_equal(address->bytes, rule->network.bytes, rule->prefix);
}

/*
 * Does an address (IPv4-mapped ones as IPv4) lie in the range of a rule?
 * Rules that are names do not count.
 */
bool
uds_host_rules_name(const UdsHostRules *rules, const struct sockaddr *address)
{
	Address		bytes;

	if (!address_from(address, &bytes))
		return false;
	unwrap_mapped(&bytes);
	for (const HostRule *rule = rules->first; rule != NULL; rule = rule->next)
	{
		if (range_matches(rule, &bytes))
			return true;
	}
	return false;
}

/*
 * May "host", resolved to "address", be talked to?
 *
 * Yes if the address is public, if the host matches a name rule, or if the
 * address (IPv4-mapped ones as IPv4) lies in a rule's range.  "host" is the
 * name as in the URL, brackets of an IPv6 literal removed; NULL matches no
 * name.  "rules" may be NULL: then only public addresses pass.
 */
bool
uds_address_allowed(const UdsHostRules *rules, const char *host,
					const struct sockaddr *address)
{
	size_t		host_len = host ? strlen(host) : 0;
	Address		bytes;

	if (!address_from(address, &bytes))
		return false;
	if (uds_address_is_public(address))
		return true;
	if (rules == NULL)
		return false;

	unwrap_mapped(&bytes);
	if (host_len > 1 && host[host_len - 1] == '.')
		host_len--;
	for (const HostRule *rule = rules->first; rule != NULL; rule = rule->next)
	{
		if (rule->network.family == 0)
		{
			if (host_len > 0 && name_matches(rule, host, host_len))
				return true;
		}
		else if (range_matches(rule, &bytes))
			return true;
	}
	return false;
}
