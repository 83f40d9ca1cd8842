/*-------------------------------------------------------------------------
 *
 * jsoncheck.c
 *		What is wrong with a JSON text, in one pass before it is parsed.
 *
 * The parser that steers the fetch, cJSON, is lenient, and the one that maps
 * the records is not: it must not find later what could have been told at
 * once, when the page can still be asked for again.  So what cJSON lets pass is
 * looked for here: tokens, not how they go together, which it checks well.
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

#include <cJSON.h>

#include "mb/pg_wchar.h"

#include "connector/jsoncheck.h"

/* values of one document: a tree of so many takes some 400 MB */
#define MAX_VALUES 4000000

/* Where the check stands. */
typedef struct Check
{
	const char *p;
	const char *end;
	int			depth;
	int			values;
	bool		closed;			/* the document's one value has ended */
	const char *broken;			/* first thing found wrong */
} Check;

/* Kinds of bytes outside of strings, and the end of plain text inside. */
enum
{
	OTHER, SPACE, MARK, OPEN, CLOSE, QUOTE, DIGIT, LETTER
};

static const unsigned char kinds[256] = {
	[' '] = SPACE,['\t'] = SPACE,['\n'] = SPACE,['\r'] = SPACE,
	[','] = MARK,[':'] = MARK,
	['['] = OPEN,['{'] = OPEN,
	[']'] = CLOSE,['}'] = CLOSE,
	['"'] = QUOTE,
	['-'] = DIGIT,
	['0'] = DIGIT,['1'] = DIGIT,['2'] = DIGIT,['3'] = DIGIT,['4'] = DIGIT,
	['5'] = DIGIT,['6'] = DIGIT,['7'] = DIGIT,['8'] = DIGIT,['9'] = DIGIT,
	['t'] = LETTER,['f'] = LETTER,['n'] = LETTER
};

static void
note(Check *check, const char *what)
{
	if (check->broken == NULL)
		check->broken = what;
}

static bool
is_digit(const Check *check)
{
	return check->p < check->end && *check->p >= '0' && *check->p <= '9';
}

/* Digits, at least one. */
static void
pass_digits(Check *check)
{
	if (!is_digit(check))
		note(check, "a number is not written as JSON has it");
	while (is_digit(check))
		check->p++;
}

static void
pass_number(Check *check)
{
	if (*check->p == '-')
		check->p++;
	if (is_digit(check) && *check->p == '0')
		check->p++;
	else
		pass_digits(check);
	if (check->p < check->end && *check->p == '.')
	{
		check->p++;
		pass_digits(check);
	}
	if (check->p < check->end && (*check->p == 'e' || *check->p == 'E'))
	{
		check->p++;
		if (check->p < check->end && (*check->p == '+' || *check->p == '-'))
			check->p++;
		pass_digits(check);
	}
	/* what cannot follow a number would be taken for a part of it */
	if (check->p < check->end &&
		(is_digit(check) || *check->p == '.' || *check->p == '+' || *check->p == '-' ||
		 *check->p == 'e' || *check->p == 'E'))
		note(check, "a number is not written as JSON has it");
}

/* What follows a backslash. */
static void
pass_escape(Check *check)
{
	if (++check->p == check->end)
		return;
	if (*check->p == 'u')
	{
		for (int i = 0; i < 4; i++)
		{
			char		c = check->p + 1 < check->end ? check->p[1] : '\0';

			if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') ||
				  (c >= 'A' && c <= 'F')))
			{
				note(check, "an escape in a string is invalid");
				break;
			}
			check->p++;
		}
	}
	else if (strchr("\"\\/bfnrt", *check->p) == NULL || *check->p == '\0')
		note(check, "an escape in a string is invalid");
	check->p++;
}

static void
pass_string(Check *check)
{
	check->p++;
	while (check->p < check->end && *check->p != '"')
	{
		if (*check->p == '\\')
			pass_escape(check);
		else
		{
			if ((unsigned char) *check->p < ' ')
				note(check, "a string has a control character in it");
			check->p++;
		}
	}
	if (check->p == check->end)
		note(check, "a string does not end");
	else
		check->p++;
}

static void
pass_word(Check *check)
{
	static const char *const words[] = {"true", "false", "null"};

	for (int i = 0; i < lengthof(words); i++)
	{
		size_t		len = strlen(words[i]);

		if (check->end - check->p >= len && memcmp(check->p, words[i], len) == 0)
		{
			check->p += len;
			return;
		}
	}
	note(check, "a word is neither true, false nor null");
	check->p++;
}

/* A value that is none of the parts of another one. */
static void
begin_value(Check *check)
{
	if (check->depth > 0)
		return;
	if (check->closed)
		note(check, "something follows its end");
	check->closed = true;
}

/* Passes one token; returns why the text is not to be parsed, or NULL. */
static const char *
pass_token(Check *check)
{
	int			kind = kinds[(unsigned char) *check->p];

	if (kind == QUOTE || kind == DIGIT || kind == LETTER || kind == OPEN)
		begin_value(check);
	switch (kind)
	{
		case QUOTE:
			pass_string(check);
			return NULL;
		case DIGIT:
			pass_number(check);
			return NULL;
		case LETTER:
			pass_word(check);
			return NULL;
		case CLOSE:
			if (--check->depth < 0)
				note(check, "a bracket is closed that was not opened");
			break;
		case OPEN:
		case MARK:
			if (check->depth <= 0 && kind == MARK)
				note(check, "something follows its end");
			if (*check->p != ':' && ++check->values > MAX_VALUES)
				return "of too many values";
			if (kind == OPEN && ++check->depth > CJSON_NESTING_LIMIT)
				return "that is nested too deeply";
			break;
		case OTHER:
			note(check, "a character is out of place");
			break;
	}
	check->p++;
	return NULL;
}

/*
 * Why a text (len bytes) is not to be parsed, as the end of a phrase, or NULL.
 * To be asked before a parser that makes a tree of it, and takes some hundred
 * bytes for a value of two, and before a recursive one that only the stack's
 * size stops.
 *
 * Else *broken is what is wrong with it although cJSON may accept it, as a
 * sentence without its end, or NULL.
 */
const char *
uds_json_refuse(const char *json, size_t len, const char **broken)
{
	Check		check = {.p = json,.end = json + len};

	*broken = NULL;
	while (check.p < check.end)
	{
		const char *refused = pass_token(&check);

		if (refused != NULL)
			return refused;
	}
	if (pg_encoding_verifymbstr(PG_UTF8, json, len) != len)
		*broken = "it is not valid UTF-8";
	else
		*broken = check.broken;
	return NULL;
}
