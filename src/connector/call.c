/*-------------------------------------------------------------------------
 *
 * call.c
 *		A request, from its description in the manifest to libcurl.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "connector/engine.h"
#include "connector/redact.h"
#include "uds.h"

/* besides the options: token, the one before it, cursor, value */
#define EXTRA_VARIABLES 4

/* How templates of one request are filled in. */
typedef struct Filler
{
	const UdsVariable *variables;
	int			count;
	const char *redacted;		/* stands for secrets, or NULL */
} Filler;

/*
 * Makes a request: one of a stream, or with stream NULL one for a token.
 * The value is of the stream's for_each; value and cursor are copied.
 */
UdsCall *
uds_call_new(UdsRun *run, const UdsStreamSpec *stream, const char *value,
			 const char *cursor)
{
	MemoryContext context = AllocSetContextCreate(run->context, "uds request",
												  ALLOCSET_SMALL_SIZES);
	UdsCall    *request = MemoryContextAllocZero(context, sizeof(UdsCall));

	request->context = context;
	request->stream = stream;
	request->spec = stream ? &stream->request : &run->manifest->auth->request;
	if (value != NULL)
		request->value = MemoryContextStrdup(context, value);
	if (cursor != NULL)
		request->cursor = MemoryContextStrdup(context, cursor);
	return request;
}

/* Frees a request that is in none of the lists, and its response. */
void
uds_call_free(UdsCall *request)
{
	if (request->response != NULL)
		uds_http_free(request->response);
	MemoryContextDelete(request->context);
}

static void
add_variable(UdsVariable *variable, const char *name, const char *value,
			 bool secret)
{
	variable->name = name;
	variable->value = value;
	variable->secret = secret;
}

/*
 * The variables that the templates of a request may ask for, all secrets
 * among them, in the current memory context.  Without a request: those that
 * do not depend on it.
 */
UdsVariable *
uds_call_variables(const UdsRun *run, const UdsCall *request, int *count)
{
	UdsVariable *variables = palloc((run->noptions + EXTRA_VARIABLES) *
									sizeof(UdsVariable));
	int			n = run->noptions;

	memcpy(variables, run->options, n * sizeof(UdsVariable));
	add_variable(&variables[n++], "token", run->token, true);
	/* no template can ask for it, but answers under way may still name it */
	add_variable(&variables[n++], "", run->old_token, true);
	if (request != NULL)
		add_variable(&variables[n++], "cursor", request->cursor, false);
	if (request != NULL && request->value != NULL)
		add_variable(&variables[n++], request->stream->parent_as,
					 request->value, false);
	*count = n;
	return variables;
}

static void
append_base_url(StringInfo out, const UdsRun *run, const UdsRequestSpec *spec,
				const Filler *filler)
{
	uds_template_expand(out, spec->base_url ? spec->base_url :
						run->manifest->base_url, UDS_ESCAPE_RAW,
						filler->variables, filler->count, filler->redacted);
	while (out->len > 0 && out->data[out->len - 1] == '/')
		out->data[--out->len] = '\0';
}

/* The base URL of a request, without a slash at its end. */
char *
uds_call_base_url(const UdsRun *run, const UdsRequestSpec *spec)
{
	Filler		filler = {run->options, run->noptions, NULL};
	StringInfoData url;

	initStringInfo(&url);
	append_base_url(&url, run, spec, &filler);
	return url.data;
}

/* Appends name=value pairs; those whose placeholder has no value stay out. */
static void
append_pairs(StringInfo out, const UdsPairs *pairs, const Filler *filler,
			 char *separator)
{
	int			i;

	for (i = 0; i < pairs->count; i++)
	{
		int			start = out->len;

		if (*separator != '\0')
			appendStringInfoChar(out, *separator);
		uds_template_escape(out, pairs->items[i].name, UDS_ESCAPE_QUERY);
		appendStringInfoChar(out, '=');
		if (uds_template_expand(out, pairs->items[i].value, UDS_ESCAPE_QUERY,
								filler->variables, filler->count,
								filler->redacted))
			*separator = '&';
		else
		{
			out->len = start;
			out->data[start] = '\0';
		}
	}
}

static char *
make_url(const UdsRun *run, const UdsCall *request, const Filler *filler)
{
	const UdsAuthSpec *auth = run->manifest->auth;
	StringInfoData url;
	char		separator = '?';

	initStringInfo(&url);
	append_base_url(&url, run, request->spec, filler);
	uds_template_expand(&url, request->spec->path, UDS_ESCAPE_PATH,
						filler->variables, filler->count, filler->redacted);
	append_pairs(&url, &request->spec->query, filler, &separator);
	if (request->stream != NULL && auth != NULL)
		append_pairs(&url, &auth->query, filler, &separator);
	return url.data;
}

/* Appends a JSON value; false, nothing appended, if it is to stay out. */
static bool
append_json(StringInfo out, const UdsBodyNode *node, const Filler *filler)
{
	int			start = out->len;
	bool		first = true;
	int			i;

	if (node->kind == UDS_BODY_LITERAL)
	{
		appendStringInfoString(out, node->literal);
		return true;
	}
	if (node->kind == UDS_BODY_TEXT)
	{
		appendStringInfoChar(out, '"');
		if (!uds_template_expand(out, node->text, UDS_ESCAPE_JSON,
								 filler->variables, filler->count,
								 filler->redacted))
		{
			out->len = start;
			out->data[start] = '\0';
			return false;
		}
		appendStringInfoChar(out, '"');
		return true;
	}
	appendStringInfoChar(out, node->kind == UDS_BODY_OBJECT ? '{' : '[');
	for (i = 0; i < node->count; i++)
	{
		const UdsBodyNode *child = &node->children[i];
		int			before = out->len;

		if (!first)
			appendStringInfoChar(out, ',');
		if (node->kind == UDS_BODY_OBJECT)
		{
			appendStringInfoChar(out, '"');
			uds_template_escape(out, child->name, UDS_ESCAPE_JSON);
			appendStringInfoString(out, "\":");
		}
		if (append_json(out, child, filler))
			first = false;
		else
		{
			out->len = before;
			out->data[before] = '\0';
		}
	}
	appendStringInfoChar(out, node->kind == UDS_BODY_OBJECT ? '}' : ']');
	return true;
}

static char *
make_body(const UdsRequestSpec *spec, const Filler *filler)
{
	StringInfoData body;
	char		separator = '\0';

	if (spec->json == NULL && spec->form.count == 0)
		return NULL;
	initStringInfo(&body);
	if (spec->json != NULL)
		append_json(&body, spec->json, filler);
	else
		append_pairs(&body, &spec->form, filler, &separator);
	return body.data;
}

/* Adds headers; a line break in a value must not begin another one. */
static List *
add_headers(List *headers, const UdsPairs *pairs, const Filler *filler)
{
	int			i;

	for (i = 0; i < pairs->count; i++)
	{
		StringInfoData header;
		char	   *p;

		initStringInfo(&header);
		appendStringInfo(&header, "%s: ", pairs->items[i].name);
		if (!uds_template_expand(&header, pairs->items[i].value, UDS_ESCAPE_RAW,
								 filler->variables, filler->count,
								 filler->redacted))
			continue;
		for (p = header.data; *p != '\0'; p++)
		{
			if ((unsigned char) *p < ' ' || *p == 0x7f)
				*p = ' ';
		}
		headers = lappend(headers, header.data);
	}
	return headers;
}

static List *
make_headers(const UdsRun *run, const UdsCall *request, const Filler *filler)
{
	const UdsAuthSpec *auth = run->manifest->auth;
	List	   *headers = list_make1(pstrdup("Accept: application/json"));

	if (request->spec->json != NULL)
		headers = lappend(headers, pstrdup("Content-Type: application/json"));
	else if (request->spec->form.count > 0)
		headers = lappend(headers,
						  pstrdup("Content-Type: application/x-www-form-urlencoded"));
	headers = add_headers(headers, &request->spec->headers, filler);
	if (request->stream != NULL && auth != NULL)
		headers = add_headers(headers, &auth->headers, filler);
	return headers;
}

/* Notes what is shown of a request: nothing in it is secret. */
static void
describe(const UdsRun *run, UdsCall *request, const UdsVariable *variables,
		 int count)
{
	Filler		filler = {variables, count, UDS_REDACTED};
	char	   *url = make_url(run, request, &filler);
	char	   *body = make_body(request->spec, &filler);
	const char *path;

	/* cursors and values of for_each are the service's own, and may be odd */
	url = uds_text_redacted(run, request, url, strlen(url),
							UDS_SECRET_IN_MESSAGE, NULL);
	if (body != NULL)
		body = uds_text_redacted(run, request, body, strlen(body),
								 UDS_SECRET_IN_MESSAGE, NULL);
	path = strstr(url, "://");

	request->shown = psprintf("%s %s%s%s", request->spec->method, url,
							  body ? " " : "", body ? body : "");
	path = path ? strchr(path + 3, '/') : NULL;
	if (path == NULL)
		path = "/";
	request->label = psprintf("%s %.*s", request->spec->method,
							  (int) strcspn(path, "?"), path);
}

/*
 * Sends a request with the token at hand.  The response comes back with the
 * request as its arg.
 */
void
uds_call_send(UdsRun *run, UdsCall *request)
{
	MemoryContext caller = MemoryContextSwitchTo(request->context);
	UdsHttpRequest http = {0};
	Filler		filler = {0};
	UdsVariable *variables = uds_call_variables(run, request, &filler.count);

	filler.variables = variables;
	describe(run, request, variables, filler.count);
	http.method = request->spec->method;
	http.url = make_url(run, request, &filler);
	http.headers = make_headers(run, request, &filler);
	http.body = make_body(request->spec, &filler);
	http.body_len = http.body ? strlen(http.body) : 0;
	http.arg = request;
	request->token_serial = run->token_serial;
	uds_http_send(run->client, &http);
	MemoryContextSwitchTo(caller);
}
