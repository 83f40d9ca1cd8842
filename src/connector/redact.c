/*-------------------------------------------------------------------------
 *
 * redact.c
 *		Texts of others, with the secrets taken out, however they are spelled.
 *
 * A service that fails likes to repeat what it was sent: as it was, escaped
 * for a URL, for HTML or for JSON, in JSON that is a string of other JSON, or
 * in base64 together with something else.  Rather than to list spellings, the
 * comparison looks through them: backslashes count for nothing, and what is
 * escaped again ("%2541", "&amp;amp;") is taken as if it were escaped once.
 * The secrets are reduced in the same way.  So a little too much may be taken
 * out, but never too little.
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

#include "connector/redact.h"

/* characters of base64 that cannot be there by chance */
#define SHORTEST_BASE64 8

/* a secret, and its bytes in base64 at each of three positions */
#define SPELLINGS 4

/* What to look for, with escapes reduced. */
typedef struct Pattern
{
	unsigned char *bytes;
	size_t		len;
	bool		base64;
} Pattern;

typedef struct Patterns
{
	int			count;
	Pattern    *items;
	bool		first[256];		/* bytes at which a match may begin */
	bool		beyond_ascii;	/* a pattern begins with such a byte */
} Patterns;

static int
hex_value(unsigned char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* The byte that two hexadecimal digits stand for, or -1. */
static int
hex_byte(const unsigned char *p, size_t left)
{
	int			high = left >= 2 ? hex_value(p[0]) : -1;
	int			low = left >= 2 ? hex_value(p[1]) : -1;

	return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/*
 * An escape begins with a percent sign or an ampersand.  How much of what
 * follows this mark only says that the mark was escaped itself.
 */
static size_t
skip_escapes_of(unsigned char mark, const unsigned char *p, size_t left)
{
	const char *escape = mark == '%' ? "25" : "amp;";
	size_t		escape_len = strlen(escape);
	size_t		len = 0;

	while (left - len >= escape_len && memcmp(p + len, escape, escape_len) == 0)
		len += escape_len;
	return len;
}

/* Length of the mark at which a text begins, with its own escapes. */
static size_t
mark_length(const unsigned char *p, size_t left)
{
	return 1 + skip_escapes_of(*p, p + 1, left - 1);
}

/* The character that an entity of HTML stands for, or -1; sets its length. */
static int
read_entity(const unsigned char *p, size_t left, size_t *len)
{
	static const struct
	{
		const char *name;
		char		value;
	}			entities[] = {
		{"lt;", '<'}, {"gt;", '>'}, {"quot;", '"'}, {"apos;", '\''},
		{"#34;", '"'}, {"#39;", '\''}, {"#43;", '+'}, {"#47;", '/'},
		{"#x22;", '"'}, {"#x27;", '\''}, {"#x2B;", '+'}, {"#x2F;", '/'}
	};

	for (int i = 0; i < (int) lengthof(entities); i++)
	{
		*len = strlen(entities[i].name);
		if (*len <= left && memcmp(p, entities[i].name, *len) == 0)
			return (unsigned char) entities[i].value;
	}
	return -1;
}

/* UTF-8 of a code below 0x10000; returns its length. */
static size_t
put_utf8(int code, unsigned char *out)
{
	if (code < 0x80)
	{
		out[0] = code;
		return 1;
	}
	if (code < 0x800)
	{
		out[0] = 0xc0 | (code >> 6);
		out[1] = 0x80 | (code & 0x3f);
		return 2;
	}
	out[0] = 0xe0 | (code >> 12);
	out[1] = 0x80 | ((code >> 6) & 0x3f);
	out[2] = 0x80 | (code & 0x3f);
	return 3;
}

/* The control character that JSON writes as a backslash and this letter. */
static int
control_of(unsigned char letter)
{
	static const char letters[] = "bfnrt";
	static const char controls[] = "\b\f\n\r\t";
	const char *found = letter != '\0' ? strchr(letters, letter) : NULL;

	return found != NULL ? controls[found - letters] : -1;
}

/* Are these the same, written plainly? */
static bool
same_byte(unsigned char in_text, unsigned char wanted, bool base64)
{
	if (in_text == wanted)
		return true;
	if (base64)
		return (wanted == '+' && in_text == '-') || (wanted == '/' && in_text == '_');
	return wanted == ' ' && in_text == '+';
}

/*
 * Length of the backslashes, spelled in any way, at the beginning of a text:
 * they count for nothing, but that they escape what follows.
 */
static size_t
skip_backslashes(const unsigned char *text, size_t left)
{
	size_t		at = 0;

	while (at < left)
	{
		const unsigned char *p = text + at;
		size_t		mark;

		if (*p == '\\')
			at++;
		else if (*p == '%')
		{
			mark = mark_length(p, left - at);
			if (hex_byte(p + mark, left - at - mark) != '\\')
				break;
			at += mark + 2;
		}
		else if (at > 0 && *p == 'u' && hex_byte(p + 1, left - at - 1) == 0 &&
				 left - at >= 5 && hex_byte(p + 3, 2) == '\\')
			at += 5;
		else
			break;
	}
	return at;
}

/*
 * The text, at its next character, against a pattern at its own.  Returns how
 * much of the text is used, 0 if it is something else; *used tells how much
 * of the pattern.
 */
static size_t
match_char(const unsigned char *text, size_t left, const unsigned char *wanted,
		   size_t wanted_left, bool base64, size_t *used)
{
	size_t		at = skip_backslashes(text, left);
	const unsigned char *p = text + at;
	int			value = -1;
	size_t		len = 1;

	*used = 1;
	left -= at;
	if (left == 0)
		return 0;
	if (*p == '%' || *p == '&')
	{
		size_t		mark = mark_length(p, left);

		len = 2;
		if (*p == '%')
			value = hex_byte(p + mark, left - mark);
		else
			value = read_entity(p + mark, left - mark, &len);
		if (value >= 0 && same_byte(value, *wanted, base64))
			return at + mark + len;
		return *p == *wanted ? at + mark : 0;
	}
	if (at > 0 && *p == 'u' && left >= 5 && hex_byte(p + 1, 2) >= 0 &&
		hex_byte(p + 3, 2) >= 0)
	{
		unsigned char bytes[3];

		len = put_utf8(hex_byte(p + 1, 2) * 256 + hex_byte(p + 3, 2), bytes);
		if (len <= wanted_left && memcmp(bytes, wanted, len) == 0)
		{
			*used = len;
			at += 5;
			if (*wanted == '%' || *wanted == '&')
				at += skip_escapes_of(*wanted, p + 5, left - 5);
			return at;
		}
	}
	if (same_byte(*p, *wanted, base64) || (at > 0 && control_of(*p) == *wanted))
		return at + 1;
	return 0;
}

/* Length of what is the pattern at the beginning of a text, or 0. */
static size_t
match_pattern(const unsigned char *text, size_t left, const Pattern *pattern)
{
	size_t		at = 0;
	size_t		i = 0;

	while (i < pattern->len)
	{
		size_t		used;
		size_t		len = match_char(text + at, left - at, pattern->bytes + i,
									 pattern->len - i, pattern->base64, &used);

		if (len == 0)
			return 0;
		at += len;
		i += used;
	}
	return at;
}

/* Adds a pattern, its escapes reduced, unless it is too short. */
static void
add_pattern(Patterns *patterns, const unsigned char *bytes, size_t len,
			size_t shortest, bool base64)
{
	Pattern    *pattern = &patterns->items[patterns->count];
	size_t		at = 0;

	pattern->bytes = palloc(len + 1);
	pattern->len = 0;
	pattern->base64 = base64;
	while (at < len)
	{
		bool		mark = bytes[at] == '%' || bytes[at] == '&';

		if (bytes[at] != '\\')
			pattern->bytes[pattern->len++] = bytes[at];
		at += mark ? mark_length(bytes + at, len - at) : 1;
	}
	if (pattern->len < shortest)
	{
		pfree(pattern->bytes);
		return;
	}
	patterns->count++;
	for (int c = 0; c < 256; c++)
	{
		if (same_byte(c, pattern->bytes[0], base64))
			patterns->first[c] = true;
	}
	if (pattern->bytes[0] >= 0x80)
		patterns->beyond_ascii = true;
}

/*
 * Adds what base64 makes of a secret with "before" bytes in front of it:
 * those characters that depend on nothing else.
 */
static void
add_base64(Patterns *patterns, const char *secret, size_t len, int before)
{
	static const char digits[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	unsigned char *coded = palloc(len * 2 + 1);
	size_t		from = (before * 8 + 5) / 6;
	size_t		to = (before + len) * 8 / 6;
	size_t		n = 0;

	for (size_t i = from; i < to; i++)
	{
		size_t		bit = i * 6 - before * 8;
		int			pair = (unsigned char) secret[bit / 8] << 8;

		if (bit / 8 + 1 < len)
			pair |= (unsigned char) secret[bit / 8 + 1];
		coded[n++] = digits[(pair >> (10 - bit % 8)) & 63];
	}
	add_pattern(patterns, coded, n, SHORTEST_BASE64, true);
	pfree(coded);
}

static void
make_patterns(Patterns *patterns, const UdsVariable *variables, int count,
			  size_t shortest)
{
	memset(patterns, 0, sizeof(Patterns));
	patterns->items = palloc((count * SPELLINGS + 1) * sizeof(Pattern));
	for (int i = 0; i < count; i++)
	{
		const char *value = variables[i].value;
		size_t		len = value != NULL ? strlen(value) : 0;

		if (!variables[i].secret || len < shortest)
			continue;
		add_pattern(patterns, (const unsigned char *) value, len, shortest, false);
		for (int before = 0; before < SPELLINGS - 1; before++)
			add_base64(patterns, value, len, before);
	}
}

static void
free_patterns(Patterns *patterns)
{
	for (int i = 0; i < patterns->count; i++)
		pfree(patterns->items[i].bytes);
	pfree(patterns->items);
}

/*
 * Whether it is worth to look closely at what begins here.  Pages are full of
 * escapes with which no secret begins.
 */
static bool
may_begin(const Patterns *patterns, const unsigned char *p, size_t left)
{
	int			value = -1;
	size_t		len;

	if (*p == '\\')
		return left < 6 || p[1] != 'u' || patterns->beyond_ascii || hex_byte(p + 2, 2) <= 0;
	if (*p == '%' || *p == '&')
	{
		size_t		mark = mark_length(p, left);

		if (*p == '%')
			value = hex_byte(p + mark, left - mark);
		else
			value = read_entity(p + mark, left - mark, &len);
	}
	return patterns->first[*p] ||
		(value >= 0 && (patterns->first[value] || value == '\\'));
}

/* Length of the longest match at the beginning of a text, or 0. */
static size_t
match_any(const Patterns *patterns, const unsigned char *p, size_t left)
{
	bool		mark = *p == '\\' || *p == '%' || *p == '&';
	size_t		longest = 0;

	if (!may_begin(patterns, p, left))
		return 0;
	for (int i = 0; i < patterns->count; i++)
	{
		const Pattern *pattern = &patterns->items[i];

		if (mark || same_byte(*p, pattern->bytes[0], pattern->base64))
			longest = Max(longest, match_pattern(p, left, pattern));
	}
	return longest;
}

/*
 * A text (len bytes, may hold any) in which the values of secret variables
 * are replaced by "redacted", whichever way they are written.  Values shorter
 * than "shortest" stay.
 *
 * *out_len, if asked for, is the length of the result, which is the text
 * itself where there is nothing to take out, else a NUL-terminated copy in
 * the current memory context.
 */
char *
uds_redact_text(const char *text, size_t len, const UdsVariable *variables,
				int count, size_t shortest, const char *redacted,
				size_t *out_len)
{
	const unsigned char *bytes = (const unsigned char *) text;
	Patterns	patterns;
	StringInfoData out;
	size_t		copied = 0;
	size_t		at = 0;

	out.data = NULL;
	make_patterns(&patterns, variables, count, shortest);
	while (patterns.count > 0 && at < len)
	{
		size_t		hit = match_any(&patterns, bytes + at, len - at);

		if (hit == 0)
		{
			/* a match that begins later in the same run would fail as well */
			at += Max(skip_backslashes(bytes + at, len - at), 1);
			continue;
		}
		if (out.data == NULL)
			initStringInfo(&out);
		appendBinaryStringInfo(&out, text + copied, (int) (at - copied));
		appendStringInfoString(&out, redacted);
		at += hit;
		copied = at;
	}
	free_patterns(&patterns);
	if (out.data != NULL)
		appendBinaryStringInfo(&out, text + copied, (int) (len - copied));
	if (out_len != NULL)
		*out_len = out.data != NULL ? (size_t) out.len : len;
	return out.data != NULL ? out.data : unconstify(char *, text);
}
