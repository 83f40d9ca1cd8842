/*-------------------------------------------------------------------------
 *
 * text.c
 *		Texts of a service, made fit to be shown in a message.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "connector/engine.h"
#include "connector/redact.h"
#include "uds.h"

/* characters of a service's own text that are shown */
#define MAX_SHOWN 300

/*
 * A text without the secrets of the run.  Those of fewer than "shortest"
 * characters stay.  The request may be NULL.  The result is the text itself
 * or a copy in the current memory context, *out_len its length.
 */
char *
uds_text_redacted(const UdsRun *run, const UdsCall *request, const char *text,
				  size_t len, size_t shortest, size_t *out_len)
{
	int			count;
	UdsVariable *variables = uds_call_variables(run, request, &count);

	return uds_redact_text(text, len, variables, count, shortest, UDS_REDACTED,
						   out_len);
}

/*
 * A page that is good, without the secrets of the run, as above.  A secret
 * of nothing but digits stays: stars in the place of a number make a page
 * that cannot be read.
 */
char *
uds_text_page(const UdsRun *run, const UdsCall *request, const char *text,
			  size_t len, size_t *out_len)
{
	int			count;
	UdsVariable *variables = uds_call_variables(run, request, &count);

	for (int i = 0; i < count; i++)
	{
		const char *value = variables[i].value;

		if (value != NULL && strspn(value, "0123456789") == strlen(value))
			variables[i].value = NULL;
	}
	return uds_redact_text(text, len, variables, count, UDS_SECRET_IN_PAGE,
						   UDS_REDACTED, out_len);
}

/*
 * A service's text as a message may show it: without the secrets of the
 * run, without control characters and broken bytes, trimmed.  In the current
 * memory context.
 */
char *
uds_text_shown(const UdsRun *run, const UdsCall *request, const char *text,
			   size_t len)
{
	bool		unicode = GetDatabaseEncoding() == PG_UTF8;
	char	   *clean = uds_text_redacted(run, request, text, len,
										  UDS_SECRET_IN_MESSAGE, &len);
	const unsigned char *p = (const unsigned char *) clean;
	const unsigned char *end = p + len;
	StringInfoData shown;
	int			characters = 0;

	initStringInfo(&shown);
	while (p < end && characters++ < MAX_SHOWN)
	{
		int			length = pg_utf_mblen(p);

		if (length > end - p || !pg_utf8_islegal(p, length) ||
			(length > 1 && !unicode))
		{
			appendStringInfoChar(&shown, '?');
			p += (length > end - p || !unicode) ? Min(length, end - p) : 1;
			continue;
		}
		if (*p < ' ' || *p == 0x7f)
			appendStringInfoChar(&shown, ' ');
		else
			appendBinaryStringInfo(&shown, (const char *) p, length);
		p += length;
	}
	while (shown.len > 0 && shown.data[shown.len - 1] == ' ')
		shown.data[--shown.len] = '\0';
	if (p < end)
		appendStringInfoString(&shown, "...");
	return shown.data;
}
