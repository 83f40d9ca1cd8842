/*-------------------------------------------------------------------------
 *
 * template.c
 *		Texts with placeholders, escaped for where they go.
 *
 * A template is text with {name} in it; {{ stands for one brace.  A brace
 * that closes nothing is itself.
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

#include "connector/template.h"

static bool
is_name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c >= '0' && c <= '9') || c == '_' || c == '.';
}

static void
add_part(UdsTemplate *template, bool variable, const char *text, size_t len)
{
	UdsTemplatePart *part;
	size_t		size = (template->count + 1) * sizeof(UdsTemplatePart);

	if (template->parts == NULL)
		template->parts = palloc(size);
	else
		template->parts = repalloc(template->parts, size);
	part = &template->parts[template->count++];
	part->variable = variable;
	part->text = palloc(len + 1);
	memcpy(part->text, text, len);
	part->text[len] = '\0';
}

/*
 * Reads a template.  Returns NULL and sets *error (allocated like the
 * result, in the current memory context) where braces do not fit.  The
 * names are not checked: see the parts of the result.
 */
UdsTemplate *
uds_template_parse(const char *text, char **error)
{
	UdsTemplate *template = palloc0(sizeof(UdsTemplate));
	StringInfoData literal;
	const char *p = text;

	initStringInfo(&literal);
	while (*p != '\0')
	{
		const char *end;

		if (*p != '{' || p[1] == '{')
		{
			appendStringInfoChar(&literal, *p);
			p += (*p == '{') ? 2 : 1;
			continue;
		}
		for (end = p + 1; is_name_char(*end); end++)
			;
		if (*end != '}' || end == p + 1)
		{
			*error = psprintf("no placeholder ends what begins at \"%.40s\"", p);
			pfree(literal.data);
			return NULL;
		}
		if (literal.len > 0)
			add_part(template, false, literal.data, literal.len);
		resetStringInfo(&literal);
		add_part(template, true, p + 1, end - p - 1);
		p = end + 1;
	}
	if (literal.len > 0)
		add_part(template, false, literal.data, literal.len);
	pfree(literal.data);
	return template;
}

/* "plain" are characters that stand for themselves, besides letters and digits. */
static void
escape_url(StringInfo out, const char *value, const char *plain)
{
	static const char digits[] = "0123456789ABCDEF";
	const unsigned char *p;

	for (p = (const unsigned char *) value; *p != '\0'; p++)
	{
		if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			(*p >= '0' && *p <= '9') || strchr(plain, *p) != NULL)
			appendStringInfoChar(out, (char) *p);
		else
		{
			appendStringInfoChar(out, '%');
			appendStringInfoChar(out, digits[*p >> 4]);
			appendStringInfoChar(out, digits[*p & 15]);
		}
	}
}

static void
escape_json_text(StringInfo out, const char *value)
{
	const unsigned char *p;

	for (p = (const unsigned char *) value; *p != '\0'; p++)
	{
		if (*p == '"' || *p == '\\')
		{
			appendStringInfoChar(out, '\\');
			appendStringInfoChar(out, (char) *p);
		}
		else if (*p < 0x20)
			appendStringInfo(out, "\\u%04x", *p);
		else
			appendStringInfoChar(out, (char) *p);
	}
}

/*
 * Appends a value, escaped for where it goes.  In a path a slash is part of
 * the value, and a segment of nothing but dots does not climb.
 */
void
uds_template_escape(StringInfo out, const char *value, UdsEscape escape)
{
	switch (escape)
	{
		case UDS_ESCAPE_RAW:
			appendStringInfoString(out, value);
			break;
		case UDS_ESCAPE_QUERY:
			escape_url(out, value, "-_~.");
			break;
		case UDS_ESCAPE_PATH:
			escape_url(out, value, value[strspn(value, ".")] == '\0' ? "-_~" : "-_~.");
			break;
		case UDS_ESCAPE_JSON:
			escape_json_text(out, value);
			break;
	}
}

static const UdsVariable *
find_variable(const UdsVariable *variables, int count, const char *name)
{
	int			i;

	for (i = 0; i < count; i++)
	{
		if (strcmp(variables[i].name, name) == 0)
			return &variables[i];
	}
	return NULL;
}

/*
 * The template's own text: in a query or a form nothing in it separates, but
 * what need not be escaped is left to be read.
 */
static void
append_own(StringInfo out, const char *text, UdsEscape escape)
{
	if (escape == UDS_ESCAPE_QUERY)
		escape_url(out, text, "-_~.!$'()*,/:;?@");
	else if (escape == UDS_ESCAPE_JSON)
		escape_json_text(out, text);
	else
		appendStringInfoString(out, text);
}

/*
 * Appends the template with its placeholders filled in, everything escaped for
 * where it goes, but for the template's own text in paths and headers.  Secret values come out as
 * redacted, if that is not NULL.  Returns false, having appended nothing, if the template
 * is one placeholder alone and that has no value; elsewhere a placeholder
 * without a value is empty.
 */
bool
uds_template_expand(StringInfo out, const UdsTemplate *template,
					UdsEscape escape, const UdsVariable *variables,
					int count, const char *redacted)
{
	int			i;

	for (i = 0; i < template->count; i++)
	{
		const UdsTemplatePart *part = &template->parts[i];
		const UdsVariable *variable;

		if (!part->variable)
		{
			append_own(out, part->text, escape);
			continue;
		}
		variable = find_variable(variables, count, part->text);
		if (variable == NULL || variable->value == NULL)
		{
			if (template->count == 1)
				return false;
		}
		else if (redacted != NULL && variable->secret)
			appendStringInfoString(out, redacted);
		else
			uds_template_escape(out, variable->value, escape);
	}
	return true;
}
