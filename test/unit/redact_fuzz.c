/*-------------------------------------------------------------------------
 *
 * redact_fuzz.c
 *		libFuzzer target over redaction.
 *
 * The input is a byte that chooses a spelling, a secret, a zero byte, and a
 * text.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/redact.c src/connector/template.c */
#include "arena.h"

#include <ctype.h>

#include "connector/redact.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The secret with all but letters and digits by numbers, as JSON may have it. */
static char *
by_numbers(const char *secret)
{
	StringInfoData out;

	initStringInfo(&out);
	for (; *secret != '\0'; secret++)
	{
		if ((unsigned char) *secret < 0x80 && !isalnum((unsigned char) *secret))
			appendStringInfo(&out, "\\u%04x", *secret);
		else
			appendStringInfoChar(&out, *secret);
	}
	return out.data;
}

static char *
escape(const char *text, UdsEscape how)
{
	StringInfoData out;

	initStringInfo(&out);
	uds_template_escape(&out, text, how);
	return out.data;
}

/* A secret, spelled as the bits of "how" say. */
static char *
spell(char *text, uint8_t how)
{
	for (int i = 0; i < 4; i++, how >>= 2)
	{
		if ((how & 3) == 1)
			text = escape(text, UDS_ESCAPE_JSON);
		else if ((how & 3) == 2)
			text = escape(text, UDS_ESCAPE_QUERY);
		else if ((how & 3) == 3 && i == 0)
			text = by_numbers(text);
	}
	return text;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t		how = size > 0 ? data[0] : 0;
	char	   *secret = size > 0 ? pnstrdup((const char *) data + 1, size - 1) : pstrdup("");
	size_t		used = Min(strlen(secret) + 2, size);
	UdsVariable variables[] = {{"secret", secret, true}, {"none", NULL, true}};
	char	   *text;
	char	   *clean;
	size_t		len;

	clean = uds_redact_text((const char *) data + used, size - used, variables,
							lengthof(variables), UDS_SECRET_IN_MESSAGE, "", &len);
	if (len > size - used)
		abort();
	if (len < size - used && clean[len] != '\0')
		abort();

	/*
	 * Whichever way it is spelled, nothing is left of it but backslashes; and,
	 * if it looks escaped itself, maybe a last "25".
	 */
	text = spell(secret, how);
	clean = uds_redact_text(text, strlen(text), variables, lengthof(variables),
							UDS_SECRET_IN_MESSAGE, "*", NULL);
	if (clean != text && strstr(secret, "%25") == NULL && strstr(secret, "&amp;") == NULL &&
		clean[0] == '*' && strspn(clean + 1, "\\%25Cu0c") != strlen(clean + 1))
		abort();
	if (clean == text && strlen(secret) >= UDS_SECRET_IN_MESSAGE && strpbrk(secret, "\\%&") == NULL)
		abort();
	arena_reset();
	return 0;
}
