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

#include "connector/counting.h"
#include "connector/engine.h"
#include "connector/link.h"
#include "connector/redact.h"
#include "uds.h"

/*
 * besides the options and what was noted: token, the one before it, JWT,
 * Basic, cursor, page, offset, size, value
 */
#define EXTRA_VARIABLES 9

/* How templates of one request are filled in. */
typedef struct Filler
{
	const UdsVariable *variables;
	int			count;
	const char *redacted;		/* stands for secrets, or NULL */
} Filler;

/*
 * Makes a request: one that begins a listing of a stream, or with stream NULL
 * one for a token.  The value is of the stream's for_each, and is copied.
 */
UdsCall *
uds_call_new(UdsRun *run, const UdsStreamSpec *stream, const char *value)
{
	MemoryContext context = AllocSetContextCreate(run->context, "uds request",
												  ALLOCSET_SMALL_SIZES);
	UdsCall    *request = MemoryContextAllocZero(context, sizeof(UdsCall));

	request->context = context;
	request->stream = stream;
	request->spec = stream ? &stream->request : &run->auth->request;
	if (value != NULL)
		request->value = MemoryContextStrdup(context, value);
	return request;
}

static const char *
copy_text(const UdsCall *request, const char *text)
{
	return text ? MemoryContextStrdup(request->context, text) : NULL;
}

/*
 * Makes the request for the page after that of a good answer which goes on.
 *
 * Of the pages one is kept to compare the later ones with: the last one whose
 * number is a power of two.  So a listing that runs in a circle, however
 * long, is found out, and no more than one page is remembered.
 */
UdsCall *
uds_call_next(UdsRun *run, const UdsCall *request)
{
	const UdsAnswer *answer = &request->answer;
	UdsCall    *next = uds_call_new(run, request->stream, request->value);

	next->paged_by = answer->onward;
	next->cursor = copy_text(next, answer->cursor);
	next->link = copy_text(next, answer->link);
	next->page = request->page + 1;
	next->items = request->items + answer->items;
	next->last = copy_text(next, answer->identity);
	next->mark = (next->page & (next->page - 1)) == 0 ? next->last :
		copy_text(next, request->mark);
	next->restarted = request->restarted;
	return next;
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

/* Where in its listing a request is; returns how many variables that takes. */
static int
add_position(UdsVariable *variables, const UdsCall *request)
{
	const UdsPaginationSpec *paging = request->paged_by;
	const char *cursor = request->cursor;
	int			n = 0;

	/* the first page is asked for by the first way that counts */
	for (int i = 0; request->stream != NULL && request->paged_by == NULL &&
		 i < request->stream->npaginations; i++)
	{
		const UdsPaginationSpec *candidate = &request->stream->paginations[i];

		if (paging == NULL &&
			(candidate->kind == UDS_PAGES_PAGE || candidate->kind == UDS_PAGES_OFFSET))
			paging = candidate;
		if (cursor == NULL)
			cursor = candidate->first_cursor;
	}
	add_variable(&variables[n++], "cursor", cursor, false);
	if (paging != NULL && paging->kind == UDS_PAGES_PAGE)
		add_variable(&variables[n++], "page",
					 psprintf(INT64_FORMAT, paging->first + request->page), false);
	if (paging != NULL && paging->kind == UDS_PAGES_OFFSET)
		add_variable(&variables[n++], "offset",
					 psprintf(INT64_FORMAT,
							  uds_counting_offset(paging->first, request->page, request->items,
												  paging->size, paging->by_size)), false);
	for (int i = 0; request->stream != NULL && i < request->stream->npaginations; i++)
	{
		if (request->stream->paginations[i].size == 0)
			continue;
		add_variable(&variables[n++], "size",
					 psprintf("%d", request->stream->paginations[i].size), false);
		break;
	}
	return n;
}

/*
 * The variables that the templates of a request may ask for, all secrets
 * among them, in the current memory context.  Without a request: those that
 * do not depend on it.
 */
UdsVariable *
uds_call_variables(const UdsRun *run, const UdsCall *request, int *count)
{
	UdsVariable *variables = palloc((run->noptions + run->nstate + EXTRA_VARIABLES) *
									sizeof(UdsVariable));
	int			n = run->noptions;

	memcpy(variables, run->options, n * sizeof(UdsVariable));
	memcpy(variables + n, run->state, run->nstate * sizeof(UdsVariable));
	n += run->nstate;
	add_variable(&variables[n++], "token", run->token, true);
	add_variable(&variables[n++], "jwt", run->jwt, true);
	/* no template can ask for these, but answers may name them */
	add_variable(&variables[n++], "", run->old_token, true);
	add_variable(&variables[n++], "", run->basic, true);
	if (request != NULL)
		n += add_position(&variables[n], request);
	if (request != NULL && request->value != NULL)
		add_variable(&variables[n++], request->stream->as, request->value, false);
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

/*
 * An address that the service gave, now or in an earlier read.  It takes the
 * token along, so one that leads elsewhere is not asked.
 */
static void
append_link(StringInfo url, const UdsRun *run, const UdsCall *request,
			const Filler *filler)
{
	StringInfoData link;
	char	   *resolved;
	char	   *problem;

	initStringInfo(&link);
	uds_template_expand(&link, request->spec->url, UDS_ESCAPE_RAW,
						filler->variables, filler->count, NULL);
	resolved = uds_link_resolve(uds_call_base_url(run, request->spec), link.data, &problem);
	if (resolved == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("could not read stream \"%s\" of source \"%s\": it begins with %s",
						request->stream->name, run->source,
						uds_text_shown(run, request, problem, strlen(problem)))));
	appendStringInfoString(url, resolved);
}

static char *
make_url(const UdsRun *run, const UdsCall *request, const Filler *filler)
{
	const UdsAuthSpec *auth = run->auth;
	StringInfoData url;
	char		separator = '?';

	initStringInfo(&url);
	if (request->link != NULL)
		appendStringInfoString(&url, request->link);
	else if (request->spec->url != NULL && request->stream == NULL)
		/* a token request: what the options say, and no link of the service */
		uds_template_expand(&url, request->spec->url, UDS_ESCAPE_RAW,
							filler->variables, filler->count, filler->redacted);
	else if (request->spec->url != NULL)
		append_link(&url, run, request, filler);
	else
	{
		append_base_url(&url, run, request->spec, filler);
		uds_template_expand(&url, request->spec->path, UDS_ESCAPE_PATH,
							filler->variables, filler->count, filler->redacted);
	}
	if (strchr(url.data, '?') != NULL)
		separator = '&';
	if (request->link == NULL)
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

/* Two JSON objects as one; the second may be NULL. */
static char *
make_json(const UdsBodyNode *first, const UdsBodyNode *second, const Filler *filler)
{
	StringInfoData body;
	StringInfoData rest;

	initStringInfo(&body);
	append_json(&body, first, filler);
	if (second == NULL)
		return body.data;
	initStringInfo(&rest);
	append_json(&rest, second, filler);
	if (strcmp(rest.data, "{}") == 0)
		return body.data;
	if (strcmp(body.data, "{}") == 0)
		return rest.data;
	body.data[body.len - 1] = ',';
	appendStringInfoString(&body, rest.data + 1);
	return body.data;
}

/* The body as the request has it, with what goes along with each of a stream. */
static char *
make_body(const UdsRun *run, const UdsCall *request, const Filler *filler)
{
	const UdsRequestSpec *spec = request->spec;
	const UdsAuthSpec *auth = request->stream != NULL ? run->auth : NULL;
	StringInfoData body;
	char		separator = '\0';

	if (spec->json != NULL)
		return make_json(spec->json, auth ? auth->json : NULL, filler);
	if (spec->form.count == 0)
		return NULL;
	initStringInfo(&body);
	append_pairs(&body, &spec->form, filler, &separator);
	if (auth != NULL)
		append_pairs(&body, &auth->form, filler, &separator);
	return body.data;
}

/* The page that a stream begins with although no service sends it. */
char *
uds_call_made_page(const UdsRun *run, const UdsStreamSpec *stream)
{
	Filler		filler = {run->options, run->noptions, NULL};

	return make_json(stream->synthesize, NULL, &filler);
}

/*
 * The page that stands for what a request asked for and is not there, in the
 * current memory context.
 */
char *
uds_call_gone_page(const UdsRun *run, const UdsCall *request)
{
	Filler		filler = {0};

	filler.variables = uds_call_variables(run, request, &filler.count);
	return make_json(request->stream->gone, NULL, &filler);
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

/* Whether one of the headers has this name already. */
static bool
has_header(const List *headers, const char *name)
{
	ListCell   *lc;

	foreach(lc, headers)
	{
		if (pg_strncasecmp(lfirst(lc), name, strlen(name)) == 0)
			return true;
	}
	return false;
}

static List *
make_headers(const UdsRun *run, const UdsCall *request, const Filler *filler)
{
	const UdsAuthSpec *auth = request->stream != NULL ? run->auth : NULL;
	const UdsBasicSpec *basic = &request->spec->basic;
	List	   *headers = add_headers(NIL, &request->spec->headers, filler);

	if (!has_header(headers, "Accept:"))
		headers = lappend(headers, pstrdup("Accept: application/json"));
	if (has_header(headers, "Content-Type:"))
		 /* it knows better */ ;
	else if (request->spec->json != NULL)
		headers = lappend(headers, pstrdup("Content-Type: application/json"));
	else if (request->spec->form.count > 0)
		headers = lappend(headers,
						  pstrdup("Content-Type: application/x-www-form-urlencoded"));
	if (auth != NULL)
		headers = list_concat(headers, add_headers(NIL, &auth->headers, filler));
	if (basic->user == NULL && auth != NULL)
		basic = &auth->basic;
	if (basic->user != NULL)
		headers = lappend(headers,
						  psprintf("Authorization: Basic %s",
								   uds_basic_make(basic, filler->variables, filler->count)));
	return headers;
}

/* Notes what is shown of a request: nothing in it is secret. */
static void
describe(const UdsRun *run, UdsCall *request, const UdsVariable *variables,
		 int count)
{
	Filler		filler = {variables, count, UDS_REDACTED};
	char	   *url = make_url(run, request, &filler);
	char	   *body = make_body(run, request, &filler);
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
	UdsVariable *variables;

	/* noted in the run, so that it is kept out of texts */
	if (request->stream == NULL && run->auth->jwt != NULL)
		run->jwt = MemoryContextStrdup(run->context, uds_jwt_make(run));
	filler.variables = variables = uds_call_variables(run, request, &filler.count);
	describe(run, request, variables, filler.count);
	http.method = request->spec->method;
	http.url = make_url(run, request, &filler);
	http.headers = make_headers(run, request, &filler);
	http.body = make_body(run, request, &filler);
	http.body_len = http.body ? strlen(http.body) : 0;
	http.arg = request;
	request->token_serial = run->token_serial;
	uds_http_send(run->client, &http);
	MemoryContextSwitchTo(caller);
}
