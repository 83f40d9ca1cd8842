/*-------------------------------------------------------------------------
 *
 * dn.c
 *		Distinguished names (RFC 4514), in a form that can be compared.
 *
 * Servers and people write one name in many ways: case, blanks, escapes,
 * names or numbers of attributes, the order within a part.  Two names are the
 * same if their normal forms are equal, byte by byte.  In a normal form a
 * comma only ever parts, so what follows the first one is the parent.
 *
 * Values are compared as those of directory strings that ignore case, after
 * the preparation of RFC 4518: NFKC, case folded, blanks collapsed.
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

#include "common/unicode_norm.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "fetch/dn.h"

/* no name has more of these, and what has is not worth the time */
#define MAX_RDNS 500
#define MAX_AVAS 20

/* Attributes that have more than one name; the short one is the normal one. */
static const struct
{
	const char *name;
	const char *normal;
}			aliases[] =
{
	{"commonname", "cn"}, {"2.5.4.3", "cn"},
	{"surname", "sn"}, {"2.5.4.4", "sn"},
	{"serialnumber", "serialnumber"}, {"2.5.4.5", "serialnumber"},
	{"countryname", "c"}, {"2.5.4.6", "c"},
	{"localityname", "l"}, {"2.5.4.7", "l"},
	{"stateorprovincename", "st"}, {"2.5.4.8", "st"},
	{"streetaddress", "street"}, {"2.5.4.9", "street"},
	{"organizationname", "o"}, {"2.5.4.10", "o"},
	{"organizationalunitname", "ou"}, {"2.5.4.11", "ou"},
	{"gn", "givenname"}, {"2.5.4.42", "givenname"},
	{"userid", "uid"}, {"0.9.2342.19200300.100.1.1", "uid"},
	{"domaincomponent", "dc"}, {"0.9.2342.19200300.100.1.25", "dc"},
	{"rfc822mailbox", "mail"}, {"0.9.2342.19200300.100.1.3", "mail"},
	{"emailaddress", "email"}, {"1.2.840.113549.1.9.1", "email"}
};

/* A name that is being read. */
typedef struct Scan
{
	const char *p;
	const char *end;
} Scan;

static void
skip_blanks(Scan *scan)
{
	while (scan->p < scan->end && (*scan->p == ' ' || *scan->p == '\n' || *scan->p == '\r'))
		scan->p++;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* The byte that two hex digits stand for, or -1. */
static int
hex_byte(const Scan *scan, const char *p)
{
	int			high = p < scan->end ? hex_digit(p[0]) : -1;
	int			low = p + 1 < scan->end ? hex_digit(p[1]) : -1;

	return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/*
 * Lower case of a character: those of the scripts that have two cases and
 * whose tables are simple.
 */
static pg_wchar
fold_char(pg_wchar c)
{
	if ((c >= 'A' && c <= 'Z') || (c >= 0xc0 && c <= 0xde && c != 0xd7) ||
		(c >= 0x391 && c <= 0x3ab) || (c >= 0x410 && c <= 0x42f))
		return c + 32;
	if (c == 0xdf || c == 0x1e9e)
		return 0xdf;
	if (c == 0x130)
		return 'i';
	if ((c >= 0x100 && c <= 0x137) || (c >= 0x14a && c <= 0x177) ||
		(c >= 0x1de && c <= 0x1ef) || (c >= 0x1f8 && c <= 0x21f) ||
		(c >= 0x222 && c <= 0x233) || (c >= 0x460 && c <= 0x481) ||
		(c >= 0x48a && c <= 0x4bf) || (c >= 0x4d0 && c <= 0x52f) ||
		(c >= 0x1e00 && c <= 0x1e95) || (c >= 0x1ea0 && c <= 0x1eff))
		return c | 1;
	if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17e) ||
		(c >= 0x1cd && c <= 0x1dc) || (c >= 0x4c1 && c <= 0x4ce))
		return c + (c & 1);
	if (c == 0x178)
		return 0xff;
	if (c == 0x1a0 || c == 0x1af)
		return c + 1;
	if (c >= 0x386 && c <= 0x38f)
	{
		static const uint16 accented[] = {
			0x3ac, 0x387, 0x3ad, 0x3ae, 0x3af, 0x38b, 0x3cc, 0x38d, 0x3cd, 0x3ce
		};

		return accented[c - 0x386];
	}
	if (c == 0x3c2)
		return 0x3c3;
	if (c >= 0x400 && c <= 0x40f)
		return c + 80;
	if (c >= 0x531 && c <= 0x556)
		return c + 48;
	return c;
}

static bool
is_blank(pg_wchar c)
{
	return c == ' ' || (c >= 0x09 && c <= 0x0d) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
		(c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
		c == 0x205f || c == 0x3000;
}

/* Characters that RFC 4518 maps to nothing. */
static bool
is_nothing(pg_wchar c)
{
	return c == 0xad || c == 0x34f || (c >= 0x200b && c <= 0x200f) ||
		(c >= 0x202a && c <= 0x202e) || (c >= 0x2060 && c <= 0x2064) ||
		(c >= 0xfe00 && c <= 0xfe0f) || c == 0xfeff ||
		(c < 0x20 && !is_blank(c)) || (c >= 0x7f && c < 0xa0 && c != 0x85);
}

/* Appends a byte of a normal value, hidden where it could be taken for more. */
static void
append_byte(StringInfo out, unsigned char c)
{
	if (c < ' ' || c == ',' || c == '+' || c == '\\' || c == 0x7f)
		appendStringInfo(out, "\\%02x", c);
	else
		appendStringInfoChar(out, c);
}

/* A value that is not UTF-8 is compared as it is. */
static void
append_bytes(StringInfo out, const char *bytes, size_t len)
{
	appendStringInfoChar(out, '\\');
	for (size_t i = 0; i < len; i++)
		append_byte(out, (unsigned char) bytes[i]);
}

/* Outside the server, what normalizes does not use palloc(). */
#ifdef FRONTEND
#define free_normal(chars) free(chars)
#else
#define free_normal(chars) pfree(chars)
#endif

/* The characters of valid UTF-8, in NFKC; ended by 0. */
static pg_wchar *
to_chars(const char *bytes, size_t len)
{
	pg_wchar   *chars = palloc((len + 1) * sizeof(pg_wchar));
	pg_wchar   *normal;
	size_t		n = 0;

	/* what is mapped to nothing must not keep marks apart that belong together */
	for (size_t i = 0; i < len; i += pg_utf_mblen((const unsigned char *) bytes + i))
		if (!is_nothing(utf8_to_unicode((const unsigned char *) bytes + i)))
			chars[n++] = fold_char(utf8_to_unicode((const unsigned char *) bytes + i));
	chars[n] = 0;
	normal = unicode_normalize(UNICODE_NFKC, chars);
	if (normal == NULL)
		return chars;
	for (n = 0; normal[n] != 0; n++)
		;
	pfree(chars);
	chars = palloc((n + 1) * sizeof(pg_wchar));
	memcpy(chars, normal, (n + 1) * sizeof(pg_wchar));
	free_normal(normal);
	return chars;
}

/* Most values by far are ASCII. */
static void
append_ascii(StringInfo out, const char *bytes, size_t len)
{
	size_t		first = out->len;
	bool		blank = false;

	enlargeStringInfo(out, (int) len);
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) bytes[i];

		if (is_blank(c))
			blank = out->len > first;
		else if (!is_nothing(c))
		{
			if (blank)
				appendStringInfoChar(out, ' ');
			blank = false;
			if (isalnum(c) && out->len < out->maxlen - 1)
			{
				out->data[out->len++] = c >= 'A' && c <= 'Z' ? c + 32 : c;
				out->data[out->len] = '\0';
			}
			else
				append_byte(out, c >= 'A' && c <= 'Z' ? c + 32 : c);
		}
	}
}

/* Appends the normal form of a value's bytes, escapes taken off. */
static void
append_value(StringInfo out, const char *bytes, size_t len)
{
	pg_wchar   *chars;
	unsigned char utf8[8];
	bool		blank = false;
	bool		any = false;
	size_t		i;

	for (i = 0; i < len && bytes[i] != '\0' && !IS_HIGHBIT_SET(bytes[i]); i++)
		;
	if (i == len)
	{
		append_ascii(out, bytes, len);
		return;
	}
	if (memchr(bytes, '\0', len) != NULL ||
		pg_encoding_verifymbstr(PG_UTF8, bytes, (int) len) != (int) len)
	{
		append_bytes(out, bytes, len);
		return;
	}
	chars = to_chars(bytes, len);
	for (i = 0; chars[i] != 0; i++)
	{
		/* composing may have made a capital, and folding be due again */
		pg_wchar	c = fold_char(chars[i]);

		if (is_blank(c))
			blank = any;
		if (is_blank(c) || is_nothing(c))
			continue;
		if (blank)
			appendStringInfoChar(out, ' ');
		blank = false;
		any = true;
		unicode_to_utf8(c, utf8);
		if (c < 0x80)
			append_byte(out, (unsigned char) c);
		else
			appendBinaryStringInfo(out, (char *) utf8, pg_utf_mblen(utf8));
	}
	pfree(chars);
}

/* Appends an attribute's type, in the name that it normally has. */
static bool
read_type(Scan *scan, StringInfo out)
{
	const char *begin = scan->p;
	size_t		first = out->len;

	if (scan->end - scan->p > 4 && pg_strncasecmp(scan->p, "oid.", 4) == 0)
		begin = scan->p += 4;
	while (scan->p < scan->end &&
		   (isalnum((unsigned char) *scan->p) || *scan->p == '-' || *scan->p == '.' ||
			*scan->p == '_'))
		appendStringInfoChar(out, pg_ascii_tolower((unsigned char) *scan->p++));
	if (scan->p == begin)
		return false;
	/* the usual ones are short, and have no other name that is as short */
	if (scan->p - begin <= 3 && out->data[first] != 'g')
		return true;
	for (int i = 0; i < (int) lengthof(aliases); i++)
	{
		if (strcmp(out->data + first, aliases[i].name) != 0)
			continue;
		out->len = (int) first;
		out->data[first] = '\0';
		appendStringInfoString(out, aliases[i].normal);
		break;
	}
	return true;
}

/*
 * A value in BER, "#04024869": what is in it, if that is a string; else its
 * bytes as they are.
 */
static bool
read_hex(Scan *scan, StringInfo value, bool *opaque)
{
	static const char strings[] = {0x04, 0x0c, 0x12, 0x13, 0x14, 0x16, 0x1a};
	int			byte;

	*opaque = false;
	for (scan->p++; (byte = hex_byte(scan, scan->p)) >= 0; scan->p += 2)
		appendStringInfoChar(value, (char) byte);
	if (value->len == 0)
		return false;
	if (value->len >= 2 && memchr(strings, value->data[0], sizeof(strings)) != NULL &&
		(unsigned char) value->data[1] < 0x80 && value->data[1] == value->len - 2)
	{
		memmove(value->data, value->data + 2, value->len - 2);
		value->len -= 2;
		value->data[value->len] = '\0';
		return true;
	}
	*opaque = true;
	return true;
}

/* A backslash and what it hides. */
static bool
read_escape(Scan *scan, StringInfo value)
{
	int			byte = hex_byte(scan, scan->p + 1);

	if (byte >= 0)
	{
		appendStringInfoChar(value, (char) byte);
		scan->p += 3;
		return true;
	}
	if (scan->p + 1 >= scan->end || strchr(" \"#+,;<=>\\", scan->p[1]) == NULL ||
		scan->p[1] == '\0')
		return false;
	appendStringInfoChar(value, scan->p[1]);
	scan->p += 2;
	return true;
}

/* A value in quotes, as RFC 2253 and older ones have it. */
static bool
read_quoted(Scan *scan, StringInfo value)
{
	for (scan->p++; scan->p < scan->end && *scan->p != '"';)
	{
		if (*scan->p != '\\')
			appendStringInfoChar(value, *scan->p++);
		else if (!read_escape(scan, value))
			return false;
	}
	if (scan->p == scan->end)
		return false;
	scan->p++;
	return true;
}

/* A value as it stands; blanks at its end are none of it unless hidden. */
static bool
read_plain(Scan *scan, StringInfo value)
{
	int			solid = 0;

	while (scan->p < scan->end && *scan->p != ',' && *scan->p != ';' && *scan->p != '+')
	{
		bool		blank = *scan->p == ' ';

		if (*scan->p == '"' || *scan->p == '<' || *scan->p == '>')
			return false;
		if (*scan->p != '\\')
			appendStringInfoChar(value, *scan->p++);
		else if (!read_escape(scan, value))
			return false;
		if (!blank)
			solid = value->len;
	}
	value->len = solid;
	value->data[solid] = '\0';
	return true;
}

/* One "type=value"; its normal form, palloc'd, or NULL. */
static char *
read_ava(Scan *scan)
{
	StringInfoData out;
	StringInfoData value;
	bool		opaque = false;
	bool		ok;

	initStringInfo(&out);
	initStringInfo(&value);
	skip_blanks(scan);
	ok = read_type(scan, &out);
	skip_blanks(scan);
	if (!ok || scan->p == scan->end || *scan->p != '=')
		return NULL;
	scan->p++;
	appendStringInfoChar(&out, '=');
	skip_blanks(scan);
	if (scan->p < scan->end && *scan->p == '#')
		ok = read_hex(scan, &value, &opaque);
	else if (scan->p < scan->end && *scan->p == '"')
		ok = read_quoted(scan, &value);
	else
		ok = read_plain(scan, &value);
	if (!ok)
		return NULL;
	if (opaque)
		append_bytes(&out, value.data, value.len);
	else
		append_value(&out, value.data, value.len);
	skip_blanks(scan);
	pfree(value.data);
	return out.data;
}

static int
compare_texts(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* One part of a name, its pairs in order. */
static bool
read_rdn(Scan *scan, StringInfo out)
{
	char	   *avas[MAX_AVAS];
	int			n = 0;

	do
	{
		if (n > 0)
			scan->p++;
		if (n == MAX_AVAS || (avas[n] = read_ava(scan)) == NULL)
			return false;
		n++;
	} while (scan->p < scan->end && *scan->p == '+');
	qsort(avas, n, sizeof(char *), compare_texts);
	for (int i = 0; i < n; i++)
	{
		if (i > 0)
			appendStringInfoChar(out, '+');
		appendStringInfoString(out, avas[i]);
		pfree(avas[i]);
	}
	return true;
}

/* Active Directory may put ids before a name: "<GUID=…>;<SID=…>;CN=…". */
static void
skip_ids(Scan *scan)
{
	while (scan->p < scan->end && *scan->p == '<')
	{
		const char *close = memchr(scan->p, '>', scan->end - scan->p);

		if (close == NULL || close + 1 >= scan->end || close[1] != ';')
			return;
		scan->p = close + 2;
	}
}

/*
 * The normal form of a name, palloc'd; "" of the root, NULL if it is no name.
 */
char *
uds_dn_normalize(const char *dn, size_t len)
{
	Scan		scan = {dn, dn + len};
	StringInfoData out;
	int			n = 0;

	if (memchr(dn, '\0', len) != NULL)
		return NULL;
	initStringInfo(&out);
	skip_ids(&scan);
	skip_blanks(&scan);
	if (scan.p == scan.end)
		return out.data;
	for (;;)
	{
		if (n++ == MAX_RDNS || !read_rdn(&scan, &out))
			return NULL;
		if (scan.p == scan.end)
			return out.data;
		if (*scan.p != ',' && *scan.p != ';')
			return NULL;
		scan.p++;
		appendStringInfoChar(&out, ',');
	}
}

/*
 * How long the first part of a name is, if it can be told at a glance and is
 * followed by others; else -1.  The name need not be one.
 */
int
uds_dn_first(const char *dn, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (dn[i] == ',')
			return (int) i;
		if (dn[i] == '\\')
			i++;
		else if (dn[i] == '"' || dn[i] == '<' || dn[i] == ';')
			break;
	}
	return -1;
}

/*
 * The parent of a normal form, within it; NULL of the root.
 */
const char *
uds_dn_parent(const char *normal)
{
	const char *comma = strchr(normal, ',');

	return comma ? comma + 1 : normal[0] != '\0' ? normal + strlen(normal) : NULL;
}

/*
 * Whether a normal form is another one, or below it.
 */
bool
uds_dn_below(const char *normal, const char *base)
{
	size_t		len = strlen(normal);
	size_t		base_len = strlen(base);

	return base_len == 0 ||
		(len >= base_len && strcmp(normal + len - base_len, base) == 0 &&
		 (len == base_len || normal[len - base_len - 1] == ','));
}

/*
 * The normal form of a value as an attribute has it, palloc'd.
 */
char *
uds_dn_value(const char *bytes, size_t len)
{
	StringInfoData out;

	initStringInfo(&out);
	append_value(&out, bytes, len);
	return out.data;
}

/*
 * Whether an attribute has this value in the first part of a normal form.
 */
bool
uds_dn_in_rdn(const char *normal, const char *attribute, const char *bytes, size_t len)
{
	size_t		name_len = strlen(attribute);
	size_t		end = strcspn(normal, ",");
	size_t		at = 0;
	char	   *value = NULL;
	bool		found = false;

	while (at < end && !found)
	{
		size_t		ava = strcspn(normal + at, ",+");

		if (ava > name_len && normal[at + name_len] == '=' &&
			pg_strncasecmp(normal + at, attribute, name_len) == 0)
		{
			if (value == NULL)
				value = uds_dn_value(bytes, len);
			found = strlen(value) == ava - name_len - 1 &&
				memcmp(value, normal + at + name_len + 1, ava - name_len - 1) == 0;
		}
		at += ava + 1;
	}
	if (value != NULL)
		pfree(value);
	return found;
}
