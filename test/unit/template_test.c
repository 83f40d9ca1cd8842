/*-------------------------------------------------------------------------
 *
 * template_test.c
 *		Unit test of templates: placeholders, escaping, secrets left out.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/template.c */
#include "tap.h"

#include "connector/template.h"

#define REDACTED "********"

static const UdsVariable variables[] = {
	{"plain", "abc", false},
	{"odd", "a b/c?d&e=f%\xc3\xa9", false},
	{"quote", "say \"hi\"\\\n", false},
	{"options.secret", "s3cr/et \"x\"", true},
	{"token", "tok", true},
	{"empty", "", false},
	{"none", NULL, false},
	{"dots", "..", false},
};

/* The expansion, or "(out)" where the whole is to be left out. */
static char *
expand(const char *text, UdsEscape escape, const char *redacted)
{
	char	   *error = NULL;
	UdsTemplate *template = uds_template_parse(text, &error);
	StringInfoData out;

	if (template == NULL)
		return error;
	initStringInfo(&out);
	if (!uds_template_expand(&out, template, escape, variables,
							 lengthof(variables), redacted))
		return pstrdup("(out)");
	return out.data;
}

static void
check_parse(void)
{
	is(expand("", UDS_ESCAPE_RAW, NULL), "", "nothing");
	is(expand("text", UDS_ESCAPE_RAW, NULL), "text", "text alone");
	is(expand("{plain}", UDS_ESCAPE_RAW, NULL), "abc", "a placeholder alone");
	is(expand("<{plain}{plain}>", UDS_ESCAPE_RAW, NULL), "<abcabc>", "two in text");
	is(expand("{{plain}", UDS_ESCAPE_RAW, NULL), "{plain}", "a doubled brace");
	is(expand("{{{plain}", UDS_ESCAPE_RAW, NULL), "{abc", "a doubled brace before a placeholder");
	is(expand("a}b", UDS_ESCAPE_RAW, NULL), "a}b", "a brace that closes nothing");
	is(expand("a{", UDS_ESCAPE_RAW, NULL),
	   "no placeholder ends what begins at \"{\"", "an open brace at the end");
	is(expand("x{}", UDS_ESCAPE_RAW, NULL),
	   "no placeholder ends what begins at \"{}\"", "no name");
	is(expand("{a b}", UDS_ESCAPE_RAW, NULL),
	   "no placeholder ends what begins at \"{a b}\"", "a space in a name");
	is(expand("{none}", UDS_ESCAPE_RAW, NULL), "(out)", "alone without a value");
	is(expand("{unknown}", UDS_ESCAPE_RAW, NULL), "(out)", "alone and unknown");
	is(expand("x{none}", UDS_ESCAPE_RAW, NULL), "x", "in text without a value");
	is(expand("{empty}", UDS_ESCAPE_RAW, NULL), "", "empty is a value");
}

static void
check_escape(void)
{
	is(expand("a b&{odd}", UDS_ESCAPE_QUERY, NULL),
	   "a%20b%26a%20b%2Fc%3Fd%26e%3Df%25%C3%A9", "query: nothing in it separates");
	is(expand("id,name:(a/b) eq \"{plain}\"#%", UDS_ESCAPE_QUERY, NULL),
	   "id,name:(a/b)%20eq%20%22abc%22%23%25", "query: its own text stays readable");
	is(expand("say \"{quote}\"", UDS_ESCAPE_JSON, NULL),
	   "say \\\"say \\\"hi\\\"\\\\\\u000a\\\"", "JSON: its own text as well");
	is(expand("/x/{odd}", UDS_ESCAPE_PATH, NULL),
	   "/x/a%20b%2Fc%3Fd%26e%3Df%25%C3%A9", "path");
	is(expand("/x/{dots}/y", UDS_ESCAPE_PATH, NULL), "/x/%2E%2E/y",
	   "path: dots do not climb");
	is(expand("{dots}", UDS_ESCAPE_QUERY, NULL), "..", "query: dots are harmless");
	is(expand("{quote}", UDS_ESCAPE_JSON, NULL), "say \\\"hi\\\"\\\\\\u000a", "JSON");
	is(expand("{quote}", UDS_ESCAPE_RAW, NULL), "say \"hi\"\\\n", "raw");
}

static void
check_redact(void)
{
	is(expand("k:{options.secret};t:{token}", UDS_ESCAPE_QUERY, REDACTED),
	   "k:********;t:********", "secrets of a template");
	is(expand("{plain}", UDS_ESCAPE_QUERY, REDACTED), "abc", "what is no secret stays");
}

int
main(void)
{
	check_parse();
	check_escape();
	check_redact();
	printf("1..%d\n", tests);
	return failures > 0;
}
