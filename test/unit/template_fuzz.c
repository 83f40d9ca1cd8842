/*-------------------------------------------------------------------------
 *
 * template_fuzz.c
 *		libFuzzer target over templates and their escaping, and over
 *		Retry-After.
 *
 * The input is a secret, a zero byte, and a template.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/template.c src/connector/backoff.c
 * src/connector/datetime.c
 */
#include "arena.h"

#include "connector/backoff.h"
#include "connector/template.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The part of the input up to a zero byte; the input begins after it then. */
static char *
next_part(const uint8_t **data, size_t *size)
{
	char	   *part = pnstrdup((const char *) *data, *size);
	size_t		used = Min(strlen(part) + 1, *size);

	*data += used;
	*size -= used;
	return part;
}

/* What a URL takes without harm. */
static void
check_url(const char *text)
{
	for (; *text != '\0'; text++)
	{
		if (strchr("-_~.%", *text) == NULL &&
			!(*text >= '0' && *text <= '9') &&
			!(*text >= 'a' && *text <= 'z') && !(*text >= 'A' && *text <= 'Z'))
			abort();
	}
}

static void
check_escapes(const char *value)
{
	StringInfoData out;
	const unsigned char *p;

	initStringInfo(&out);
	uds_template_escape(&out, value, UDS_ESCAPE_QUERY);
	check_url(out.data);
	resetStringInfo(&out);
	uds_template_escape(&out, value, UDS_ESCAPE_PATH);
	check_url(out.data);
	if (strcmp(out.data, ".") == 0 || strcmp(out.data, "..") == 0)
		abort();
	resetStringInfo(&out);
	uds_template_escape(&out, value, UDS_ESCAPE_JSON);
	for (p = (unsigned char *) out.data; *p != '\0'; p++)
	{
		if (*p < 0x20 || *p == '"')
			abort();
		if (*p == '\\' && *++p == '\0')
			abort();
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *secret = next_part(&data, &size);
	char	   *text = next_part(&data, &size);
	UdsVariable variables[] = {
		{"secret", secret, true}, {"plain", "x/y", false}, {"none", NULL, false}
	};
	char	   *error = NULL;
	UdsTemplate *template = uds_template_parse(text, &error);
	int64		seconds;
	int			escape;

	if ((template == NULL) != (error != NULL))
		abort();
	for (escape = UDS_ESCAPE_RAW; template != NULL && escape <= UDS_ESCAPE_JSON; escape++)
	{
		StringInfoData out;

		initStringInfo(&out);
		if (!uds_template_expand(&out, template, escape, variables,
								 lengthof(variables), "*") && out.len > 0)
			abort();
	}
	check_escapes(secret);

	if (uds_backoff_retry_after(text, 1000000000, &seconds) && seconds < 0)
		abort();
	arena_reset();
	return 0;
}
