/*-------------------------------------------------------------------------
 *
 * ldap_value.c
 *		Values of a directory's attributes, as JSON.
 *
 * Values are bytes.  Those that are text become text, ids that are not get
 * the form in which people know them, times become ISO 8601, and what is
 * left is Base64.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include <ctype.h>

#include "common/base64.h"
#include "mb/pg_wchar.h"

#include "connector/datetime.h"
#include "fetch/ldap_value.h"

/* of so many bytes of a text one may be bad */
#define FEW_BAD 4

/* between 1601 and 1970, in ms */
#define FILETIME_EPOCH INT64CONST(11644473600000)

/* filters may be nested this deep */
#define MAX_FILTER_DEPTH 100

/* Attributes whose values are not plain text. */
static const struct
{
	const char *name;
	LdapKind	kind;
}			kinds[] =
{
	{"objectGUID", LDAP_KIND_GUID},
	{"msExchMailboxGuid", LDAP_KIND_GUID},
	{"mS-DS-ConsistencyGuid", LDAP_KIND_GUID},
	{"invocationId", LDAP_KIND_GUID},
	{"entryUUID", LDAP_KIND_UUID},
	{"objectSid", LDAP_KIND_SID},
	{"sIDHistory", LDAP_KIND_SID},
	{"jpegPhoto", LDAP_KIND_BINARY},
	{"thumbnailPhoto", LDAP_KIND_BINARY},
	{"photo", LDAP_KIND_BINARY},
	{"audio", LDAP_KIND_BINARY},
	{"userCertificate", LDAP_KIND_BINARY},
	{"userSMIMECertificate", LDAP_KIND_BINARY},
	{"userPKCS12", LDAP_KIND_BINARY},
	{"cACertificate", LDAP_KIND_BINARY},
	{"whenCreated", LDAP_KIND_TIME},
	{"whenChanged", LDAP_KIND_TIME},
	{"createTimestamp", LDAP_KIND_TIME},
	{"modifyTimestamp", LDAP_KIND_TIME},
	{"pwdChangedTime", LDAP_KIND_TIME},
	{"pwdLastSuccess", LDAP_KIND_TIME},
	{"authTimestamp", LDAP_KIND_TIME},
	{"accountExpires", LDAP_KIND_FILETIME},
	{"pwdLastSet", LDAP_KIND_FILETIME},
	{"lastLogon", LDAP_KIND_FILETIME},
	{"lastLogonTimestamp", LDAP_KIND_FILETIME},
	{"lastLogoff", LDAP_KIND_FILETIME},
	{"badPasswordTime", LDAP_KIND_FILETIME},
	{"lockoutTime", LDAP_KIND_FILETIME},
	{"msDS-UserPasswordExpiryTimeComputed", LDAP_KIND_FILETIME},
	{"userAccountControl", LDAP_KIND_ACCOUNT}
};

/* Bits of userAccountControl that say something about a person. */
static const struct
{
	uint32		bit;
	const char *word;
}			account_bits[] =
{
	{0x00000002, "disabled"},
	{0x00000010, "lockout"},
	{0x00000020, "password_not_required"},
	{0x00000040, "password_cannot_change"},
	{0x00000200, "normal_account"},
	{0x00000800, "interdomain_trust_account"},
	{0x00001000, "workstation_trust_account"},
	{0x00002000, "server_trust_account"},
	{0x00010000, "password_never_expires"},
	{0x00040000, "smartcard_required"},
	{0x00080000, "trusted_for_delegation"},
	{0x00100000, "not_delegated"},
	{0x00400000, "preauthentication_not_required"},
	{0x00800000, "password_expired"}
};

/*
 * What the values of an attribute of this name are.
 */
LdapKind
uds_ldap_kind(const char *name)
{
	int			i;

	for (i = 0; i < (int) lengthof(kinds); i++)
	{
		if (pg_strcasecmp(kinds[i].name, name) == 0)
			return kinds[i].kind;
	}
	return LDAP_KIND_TEXT;
}

/*
 * Adds attributes by their names, parted by blanks or commas, each once; NULL
 * adds none.
 */
void
uds_ldap_attributes_add(LdapAttributes *attributes, const char *names)
{
	static const char separators[] = ", \t\r\n";
	LdapAttribute *items;
	int			len;

	for (; names != NULL && *names != '\0'; names += len)
	{
		names += strspn(names, separators);
		len = (int) strcspn(names, separators);
		if (len == 0 || uds_ldap_attributes_find(attributes, names, len) != NULL)
			continue;
		items = palloc0((attributes->count + 1) * sizeof(LdapAttribute));
		if (attributes->count > 0)
			memcpy(items, attributes->items, attributes->count * sizeof(LdapAttribute));
		items[attributes->count].name = pnstrdup(names, len);
		items[attributes->count].len = len;
		items[attributes->count].kind = uds_ldap_kind(items[attributes->count].name);
		attributes->items = items;
		attributes->count++;
	}
}

/*
 * The attribute of a name, as a server may spell it; NULL if it is not among
 * them.
 */
const LdapAttribute *
uds_ldap_attributes_find(const LdapAttributes *attributes, const char *name, int len)
{
	int			i;

	for (i = 0; i < attributes->count; i++)
	{
		const LdapAttribute *item = &attributes->items[i];

		/* servers mostly write them as one asks for them */
		if (item->len == len && (memcmp(item->name, name, len) == 0 ||
								 pg_strncasecmp(item->name, name, len) == 0))
			return &attributes->items[i];
	}
	return NULL;
}

/*
 * Of a description such as "member;range=0-1499": where the next range begins,
 * LDAP_RANGE_LAST if this is the last one ("member;range=1500-*"),
 * LDAP_RANGE_NONE if it is whole.
 */
int64
uds_ldap_range(const char *description, int len)
{
	static const char option[] = ";range=";
	int64		last = 0;
	int			digits = 0;
	int			i;

	for (i = 0; i + (int) strlen(option) <= len; i++)
	{
		if (pg_strncasecmp(description + i, option, strlen(option)) == 0)
			break;
	}
	if (i + (int) strlen(option) > len)
		return LDAP_RANGE_NONE;
	for (i += (int) strlen(option); i < len && description[i] != '-'; i++)
	{
		if (!isdigit((unsigned char) description[i]))
			return LDAP_RANGE_NONE;
	}
	if (i + 1 < len && description[i + 1] == '*')
		return LDAP_RANGE_LAST;
	for (i++; i < len && isdigit((unsigned char) description[i]) && digits < 15; i++, digits++)
		last = last * 10 + (description[i] - '0');
	return digits == 0 ? LDAP_RANGE_NONE : last + 1;
}

/*
 * A UUID whose bytes are in the order of its text.  "text" has room for 37
 * bytes.  False if there are not 16 bytes.
 */
bool
uds_ldap_uuid_text(const char *bytes, int len, char *text)
{
	static const char digits[] = "0123456789abcdef";
	int			i;

	if (len != 16)
		return false;
	for (i = 0; i < 16; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*text++ = '-';
		*text++ = digits[((unsigned char) bytes[i]) >> 4];
		*text++ = digits[((unsigned char) bytes[i]) & 15];
	}
	*text = '\0';
	return true;
}

/*
 * A GUID as Microsoft stores it: its first three fields with their bytes
 * turned round.  As above.
 */
bool
uds_ldap_guid_text(const char *bytes, int len, char *text)
{
	static const int order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
	char		turned[16];
	int			i;

	for (i = 0; len == 16 && i < 16; i++)
		turned[i] = bytes[order[i]];
	return uds_ldap_uuid_text(turned, len, text);
}

/*
 * A SID as "S-1-5-21-…", palloc'd; NULL if the bytes are none.
 */
char *
uds_ldap_sid_text(const char *bytes, int len)
{
	const unsigned char *b = (const unsigned char *) bytes;
	uint64		authority = 0;
	StringInfoData text;
	int			i;

	if (len < 8 || b[0] != 1 || b[1] > 15 || len != 8 + 4 * b[1])
		return NULL;
	for (i = 2; i < 8; i++)
		authority = authority << 8 | b[i];
	initStringInfo(&text);
	appendStringInfo(&text, "S-1-" UINT64_FORMAT, authority);
	for (i = 0; i < b[1]; i++)
	{
		const unsigned char *sub = b + 8 + 4 * i;

		appendStringInfo(&text, "-%u", (uint32) sub[0] | (uint32) sub[1] << 8 |
						 (uint32) sub[2] << 16 | (uint32) sub[3] << 24);
	}
	return text.data;
}

/* Two digits, or -1. */
static int
two_digits(const char *text, int len, int at)
{
	if (at + 2 > len || !isdigit((unsigned char) text[at]) ||
		!isdigit((unsigned char) text[at + 1]))
		return -1;
	return (text[at] - '0') * 10 + (text[at + 1] - '0');
}

/*
 * A generalized time ("20261122113114.0Z", "2026112211+0100") in ISO 8601 and
 * UTC, palloc'd; NULL if it is none.
 */
char *
uds_ldap_time_iso(const char *text, int len)
{
	int			parts[7];
	int			at = 0;
	int			n;
	int			fraction = 0;
	int			fraction_len = 0;
	const char *zone;

	for (n = 0; n < 7 && two_digits(text, len, at) >= 0; n++, at += 2)
		parts[n] = two_digits(text, len, at);
	if (n < 5)
		return NULL;
	for (; n < 7; n++)
		parts[n] = 0;
	if (at < len && (text[at] == '.' || text[at] == ','))
	{
		fraction = ++at;
		while (at < len && isdigit((unsigned char) text[at]))
			at++;
		fraction_len = at - fraction;
		if (fraction_len == 0)
			return NULL;
		/* a fraction of the last part: only that of seconds is of use */
		if (fraction != 15)
			fraction_len = 0;
		while (fraction_len > 0 && text[fraction + fraction_len - 1] == '0')
			fraction_len--;
		fraction_len = Min(fraction_len, 6);
	}
	if (at + 1 == len && text[at] == 'Z')
		zone = "Z";
	else if (at < len && (text[at] == '+' || text[at] == '-') &&
			 two_digits(text, len, at + 1) >= 0 &&
			 (at + 3 == len || (at + 5 == len && two_digits(text, len, at + 3) >= 0)))
		zone = psprintf("%c%02d:%02d", text[at], two_digits(text, len, at + 1),
						at + 5 == len ? two_digits(text, len, at + 3) : 0);
	else
		return NULL;
	return uds_datetime_normalize(psprintf("%02d%02d-%02d-%02dT%02d:%02d:%02d%s%.*s%s",
										   parts[0], parts[1], parts[2], parts[3], parts[4],
										   parts[5], parts[6], fraction_len > 0 ? "." : "",
										   fraction_len, text + fraction, zone),
								  UDS_DATE_ISO);
}

/* A decimal number of 64 bits; false if the bytes are none. */
static bool
read_number(const char *text, int len, int64 *number)
{
	bool		negative = len > 0 && text[0] == '-';
	int			i;

	*number = 0;
	if (len == 0 || len > 19 + negative || len == negative)
		return false;
	for (i = negative; i < len; i++)
	{
		int			digit = text[i] - '0';

		if (digit < 0 || digit > 9 || *number > (PG_INT64_MAX - digit) / 10)
			return false;
		*number = *number * 10 + digit;
	}
	if (negative)
		*number = -*number;
	return true;
}

/*
 * A time in ticks of 100 ns since 1601, in ISO 8601 and UTC; "" if it stands
 * for never.  False if it is none.
 */
bool
uds_ldap_filetime_iso(const char *text, int len, char *iso, size_t size)
{
	int64		ticks;
	char	   *time;

	if (!read_number(text, len, &ticks))
		return false;
	iso[0] = '\0';
	if (ticks <= 0 || ticks == PG_INT64_MAX)
		return true;
	time = uds_datetime_normalize(psprintf(INT64_FORMAT, ticks / 10000 - FILETIME_EPOCH),
								  UDS_DATE_EPOCH_MS);
	if (time == NULL)
		return false;
	strlcpy(iso, time, size);
	return true;
}

/*
 * Appends text, which is valid UTF-8, as a JSON string.
 */
void
uds_ldap_append_text(StringInfo out, const char *text, int len)
{
	int			from = 0;
	int			i;

	/* mostly, there is nothing to escape */
	enlargeStringInfo(out, len + 2);
	out->data[out->len++] = '"';
	for (i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) text[i];

		if (c >= ' ' && c != '"' && c != '\\')
			continue;
		appendBinaryStringInfo(out, text + from, i - from);
		if (c < ' ')
			appendStringInfo(out, "\\u%04x", c);
		else
		{
			appendStringInfoChar(out, '\\');
			appendStringInfoChar(out, c);
		}
		from = i + 1;
	}
	enlargeStringInfo(out, len - from + 1);
	memcpy(out->data + out->len, text + from, len - from);
	out->len += len - from;
	out->data[out->len++] = '"';
	out->data[out->len] = '\0';
}

/* Appends bytes as {"$base64": "…"}. */
static void
append_base64(StringInfo out, const char *bytes, int len)
{
	int			size = pg_b64_enc_len(len) + 1;
	char	   *text = palloc(size);
	int			n = pg_b64_encode((const void *) bytes, len, text, size);

	appendStringInfoString(out, "{\"$base64\":\"");
	appendBinaryStringInfo(out, text, Max(n, 0));
	appendStringInfoString(out, "\"}");
	pfree(text);
}

static bool
is_text(const char *bytes, int len)
{
	int			i;

	for (i = 0; i < len; i++)
	{
		if (bytes[i] == '\0' || IS_HIGHBIT_SET(bytes[i]))
			break;
	}
	return i == len ||
		(memchr(bytes + i, '\0', len - i) == NULL &&
		 pg_encoding_verifymbstr(PG_UTF8, bytes, len) == len);
}

/*
 * Appends text with a few bytes in it that are not UTF-8, as a name from an old
 * system; U+FFFD stands for each.  False if it is no text.
 */
static bool
append_mended(StringInfo out, const char *bytes, int len)
{
	char	   *text = palloc(3 * len + 1);
	int			n = 0;
	int			bad = 0;

	for (int i = 0; i < len;)
	{
		int			size = pg_utf_mblen((const unsigned char *) bytes + i);
		bool		good = i + size <= len &&
			pg_encoding_verifymbstr(PG_UTF8, bytes + i, size) == size;

		memcpy(text + n, good ? bytes + i : "\xef\xbf\xbd", good ? size : 3);
		n += good ? size : 3;
		i += good ? size : 1;
		bad += !good;
	}
	if (memchr(bytes, '\0', len) == NULL && bad * FEW_BAD <= len)
		uds_ldap_append_text(out, text, n);
	else
		bad = -1;
	pfree(text);
	return bad >= 0;
}

/*
 * Appends a value as JSON: text, null for a time that is never, or an object
 * with the bytes.  A value that is not what its kind says is shown as it is.
 */
void
uds_ldap_append_value(StringInfo out, LdapKind kind, const char *bytes, int len)
{
	char		buffer[64] = "";
	char	   *text = NULL;

	switch (kind)
	{
		case LDAP_KIND_GUID:
			if (uds_ldap_guid_text(bytes, len, buffer))
				text = buffer;
			break;
		case LDAP_KIND_SID:
			text = uds_ldap_sid_text(bytes, len);
			break;
		case LDAP_KIND_TIME:
			text = uds_ldap_time_iso(bytes, len);
			break;
		case LDAP_KIND_FILETIME:
			if (uds_ldap_filetime_iso(bytes, len, buffer, sizeof(buffer)))
			{
				text = buffer;
				if (text[0] == '\0')
				{
					appendStringInfoString(out, "null");
					return;
				}
			}
			break;
		default:
			break;
	}
	if (text != NULL)
		uds_ldap_append_text(out, text, (int) strlen(text));
	else if (kind != LDAP_KIND_BINARY && is_text(bytes, len))
		uds_ldap_append_text(out, bytes, len);
	else if (kind != LDAP_KIND_TEXT || !append_mended(out, bytes, len))
		append_base64(out, bytes, len);
}

/*
 * Appends the bits of userAccountControl in words, a JSON array.
 */
void
uds_ldap_append_account(StringInfo out, uint32 control)
{
	const char *separator = "";
	int			i;

	appendStringInfoChar(out, '[');
	for (i = 0; i < (int) lengthof(account_bits); i++)
	{
		if ((control & account_bits[i].bit) == 0)
			continue;
		appendStringInfo(out, "%s\"%s\"", separator, account_bits[i].word);
		separator = ",";
	}
	appendStringInfoChar(out, ']');
}

/* One item of a filter, without its parentheses: attribute, operator, value. */
static const char *
skip_item(const char *p)
{
	const char *begin = p;

	while (isalnum((unsigned char) *p) || (*p != '\0' && strchr("-.;:_", *p) != NULL))
		p++;
	if (*p == '~' || *p == '>' || *p == '<')
		p++;
	if (p == begin || *p != '=')
		return NULL;
	for (p++; *p != '\0' && *p != '(' && *p != ')'; p++)
	{
		if (*p != '\\')
			continue;
		if (!isxdigit((unsigned char) p[1]) || !isxdigit((unsigned char) p[2]))
			return NULL;
		p += 2;
	}
	return p;
}

/* A filter in parentheses; what follows it, or NULL if it is none. */
static const char *
skip_filter(const char *p, int depth)
{
	if (*p != '(' || depth > MAX_FILTER_DEPTH)
		return NULL;
	p++;
	if (*p == '!')
		p = skip_filter(p + 1, depth + 1);
	else if (*p == '&' || *p == '|')
	{
		for (p++; p != NULL && *p == '(';)
			p = skip_filter(p, depth + 1);
	}
	else
		p = skip_item(p);
	return p != NULL && *p == ')' ? p + 1 : NULL;
}

/*
 * Is this one filter, in parentheses, as RFC 4515 writes it?
 */
bool
uds_ldap_filter_valid(const char *filter)
{
	const char *end = skip_filter(filter, 0);

	return end != NULL && *end == '\0' &&
		pg_encoding_verifymbstr(PG_UTF8, filter, (int) strlen(filter)) == (int) strlen(filter);
}

/*
 * Appends bytes for use as a value in a filter.
 */
void
uds_ldap_filter_escape(StringInfo out, const char *bytes, int len)
{
	int			i;

	for (i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) bytes[i];

		if (c == '\0' || c == '*' || c == '(' || c == ')' || c == '\\' || c >= 0x80)
			appendStringInfo(out, "\\%02x", c);
		else
			appendStringInfoChar(out, c);
	}
}
