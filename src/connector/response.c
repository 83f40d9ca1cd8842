/*-------------------------------------------------------------------------
 *
 * response.c
 *		What a response means: good, to be asked for again, or an end.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "connector/backoff.h"
#include "connector/engine.h"
#include "connector/jsonpick.h"
#include "connector/redact.h"

/* What steers the fetch, picked out of a body. */
typedef struct Document
{
	bool		parsed;
	const char *refused;		/* why it was not even tried, or NULL */
	char	   *code;			/* NULL = none in it */
	char	   *message;
	bool		has_list;		/* what the stream expects is there */
	bool		more;
	bool		has_cursor;
	char	   *cursor;			/* NULL though has_cursor: too large a number */
	char	   *token;
	int64		lifetime;		/* seconds, 0 = not said */
} Document;

static char *
pick_text(const cJSON *root, const char *path)
{
	const cJSON *item = path ? uds_json_pick(root, path) : NULL;

	return item ? uds_json_text(item) : NULL;
}

static void
pick_stream(const cJSON *root, const UdsStreamSpec *stream, Document *document)
{
	const cJSON *item;

	document->has_list = stream->expect == NULL ||
		cJSON_IsArray(uds_json_pick(root, stream->expect));
	if (stream->next_cursor == NULL)
		return;
	item = uds_json_pick(root, stream->next_cursor);
	document->has_cursor = cJSON_IsNumber(item) ||
		(cJSON_IsString(item) && item->valuestring[0] != '\0');
	if (document->has_cursor)
		document->cursor = uds_json_text(item);
	document->more = stream->more == NULL ||
		cJSON_IsTrue(uds_json_pick(root, stream->more));
}

static void
pick_token(const cJSON *root, const UdsAuthSpec *auth, Document *document)
{
	const cJSON *item = uds_json_pick(root, auth->token);
	char	   *lifetime = pick_text(root, auth->expires_in);

	if (cJSON_IsString(item) && item->valuestring[0] != '\0')
		document->token = uds_json_text(item);
	if (lifetime != NULL)
		document->lifetime = strtol(lifetime, NULL, 10);
}

/* Reads what steers out of a body; cJSON's tree is gone when it returns. */
static void
read_document(const UdsRun *run, const UdsCall *request, Document *document)
{
	const UdsHttpResponse *response = request->response;
	const UdsErrorsSpec *errors = &run->manifest->errors;
	cJSON	   *root;

	document->refused = uds_json_refuse(response->body, response->body_len);
	if (document->refused != NULL)
		return;
	root = cJSON_ParseWithLength(uds_json_mend(response->body, response->body_len),
								 response->body_len);
	if (root == NULL)
		return;
	PG_TRY();
	{
		document->parsed = true;
		document->code = pick_text(root, errors->code);
		document->message = pick_text(root, errors->message);
		if (request->stream != NULL)
			pick_stream(root, request->stream, document);
		else
			pick_token(root, run->manifest->auth, document);
	}
	PG_FINALLY();
	{
		cJSON_Delete(root);
	}
	PG_END_TRY();
}

static void
conclude(UdsAnswer *answer, UdsVerdict verdict, int sqlstate, char *what)
{
	answer->verdict = verdict;
	answer->sqlstate = sqlstate;
	answer->what = what;
}

/* No complete response came. */
static void
judge_fault(UdsRun *run, UdsCall *request)
{
	const UdsHttpResponse *response = request->response;
	UdsAnswer  *answer = &request->answer;
	const char *what = response->fault_text;
	UdsVerdict	verdict = UDS_VERDICT_AGAIN;
	int			sqlstate = ERRCODE_CONNECTION_FAILURE;

	switch (response->fault)
	{
		case UDS_HTTP_ADDRESS:
			verdict = UDS_VERDICT_FAIL;
			answer->hint = "A superuser can add the host to uds.allowed_hosts.";
			break;
		case UDS_HTTP_TOO_LARGE:
			verdict = UDS_VERDICT_FAIL;
			sqlstate = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
			answer->hint = "uds.max_page_size is the limit.";
			break;
		case UDS_HTTP_URL:
		case UDS_HTTP_TLS:
			verdict = UDS_VERDICT_FAIL;
			break;
		default:
			break;
	}
	if (what == NULL)
		what = uds_http_fault_name(response->fault);
	/* the host may come from a secret option */
	what = uds_text_redacted(run, request, what, strlen(what),
							 UDS_SECRET_IN_MESSAGE, NULL);
	conclude(answer, verdict, sqlstate, pstrdup(what));
}

/* Makes the service's own wish for a wait, where it has one, the answer's. */
static void
read_retry_after(const UdsHttpResponse *response, UdsAnswer *answer)
{
	const char *header = uds_http_header(response, "Retry-After");
	int64		seconds;

	if (header == NULL ||
		!uds_backoff_retry_after(header, (int64) time(NULL), &seconds))
		return;
	answer->wait = seconds * 1000;
	answer->wait_exact = true;
}

static const char *
find_hint(const UdsErrorsSpec *errors, const char *code)
{
	const char *any = NULL;
	int			i;

	for (i = 0; i < errors->nhints; i++)
	{
		if (strcmp(errors->hints[i].code, code) == 0)
			return errors->hints[i].hint;
		if (strcmp(errors->hints[i].code, "*") == 0)
			any = errors->hints[i].hint;
	}
	return any;
}

static const UdsCodeRule *
find_rule(const UdsErrorsSpec *errors, const char *code)
{
	int			i;

	for (i = 0; i < errors->nrules; i++)
	{
		const char *other = errors->rules[i].code;

		if ((code == NULL || other == NULL) ? code == other :
			strcmp(other, code) == 0)
			return &errors->rules[i];
	}
	return NULL;
}

/* The body has a code that is not among the good ones; rule may be NULL. */
static void
judge_code(UdsRun *run, UdsCall *request, const Document *document,
		   const UdsCodeRule *rule)
{
	UdsAnswer  *answer = &request->answer;
	StringInfoData what;
	UdsVerdict	verdict = UDS_VERDICT_FAIL;
	int			sqlstate = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;

	initStringInfo(&what);
	appendStringInfo(&what, "service answered error %s",
					 uds_text_shown(run, request, document->code, strlen(document->code)));
	if (document->message != NULL)
		appendStringInfo(&what, " \"%s\"",
						 uds_text_shown(run, request, document->message,
										strlen(document->message)));
	if (request->response->status != 200)
		appendStringInfo(&what, " with HTTP status %d", request->response->status);
	answer->hint = find_hint(&run->manifest->errors, document->code);
	answer->is_error = true;

	switch (rule ? rule->code_class : UDS_CODE_CONFIG)
	{
		case UDS_CODE_THROTTLE:
			verdict = UDS_VERDICT_THROTTLED;
			sqlstate = ERRCODE_CONNECTION_FAILURE;
			answer->wait = (int64) rule->wait * 1000;
			answer->concurrency = rule->concurrency;
			read_retry_after(request->response, answer);
			break;
		case UDS_CODE_TRANSIENT:
			verdict = UDS_VERDICT_AGAIN;
			sqlstate = ERRCODE_CONNECTION_FAILURE;
			break;
		case UDS_CODE_REAUTH:
			verdict = UDS_VERDICT_REAUTH;
			break;
		case UDS_CODE_GONE:
		case UDS_CODE_SCOPE:
			/* what is no node of a larger whole cannot be left out of it */
			if (request->value != NULL)
				verdict = UDS_VERDICT_SKIP;
			break;
		case UDS_CODE_DEGRADE:
			verdict = UDS_VERDICT_DEGRADE;
			break;
		case UDS_CODE_RESTART:
			verdict = UDS_VERDICT_RESTART;
			sqlstate = ERRCODE_PROTOCOL_VIOLATION;
			break;
		case UDS_CODE_OK:
		case UDS_CODE_CONFIG:
			break;
	}
	/* a token request has neither a plan, nor a listing, nor a token */
	if (request->stream == NULL &&
		(verdict == UDS_VERDICT_REAUTH || verdict == UDS_VERDICT_DEGRADE ||
		 verdict == UDS_VERDICT_RESTART))
		verdict = UDS_VERDICT_FAIL;
	conclude(answer, verdict, sqlstate, what.data);
}

/* The host of an absolute URL, for a message. */
static char *
redirect_target(UdsRun *run, UdsCall *request)
{
	const char *url = uds_http_header(request->response, "Location");
	const char *host = url ? strstr(url, "://") : NULL;
	size_t		len;
	const char *at;

	if (host == NULL)
		return pstrdup("");
	host += 3;
	len = strcspn(host, "/?#");
	at = memchr(host, '@', len);
	if (at != NULL)
	{
		len -= at + 1 - host;
		host = at + 1;
	}
	return psprintf(", a redirect to host \"%s\"",
					uds_text_shown(run, request, host, len));
}

/* A status that is not of success; the body told nothing better. */
static void
judge_status(UdsRun *run, UdsCall *request, const Document *document)
{
	UdsAnswer  *answer = &request->answer;
	int			status = request->response->status;
	StringInfoData what;

	initStringInfo(&what);
	appendStringInfo(&what, "service answered HTTP status %d", status);
	if (status >= 300 && status < 400)
		appendStringInfoString(&what, redirect_target(run, request));
	else if (document->message != NULL)
		appendStringInfo(&what, " \"%s\"",
						 uds_text_shown(run, request, document->message,
										strlen(document->message)));
	answer->is_error = status >= 400;
	if (status == 429 || status == 503)
		read_retry_after(request->response, answer);

	if (status == 429 || (status == 503 && answer->wait_exact))
		conclude(answer, UDS_VERDICT_THROTTLED, ERRCODE_CONNECTION_FAILURE,
				 what.data);
	else if (status >= 500 || status == 408)
		conclude(answer, UDS_VERDICT_AGAIN, ERRCODE_CONNECTION_FAILURE,
				 what.data);
	else
		conclude(answer, UDS_VERDICT_FAIL,
				 ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, what.data);
}

/* A body that should be a page or a token; what is wrong with it, or NULL. */
static char *
check_body(UdsRun *run, UdsCall *request, const Document *document)
{
	const UdsHttpResponse *response = request->response;
	const UdsErrorsSpec *errors = &run->manifest->errors;
	char	   *problem;

	if (document->refused != NULL)
		return psprintf("service answered with JSON %s", document->refused);
	problem = uds_hook_check_json(run, response->body, response->body_len);
	if (problem != NULL)
		return psprintf("service answered with a body that is not valid JSON: %s",
						uds_text_shown(run, request, problem, strlen(problem)));
	if (!document->parsed)
		return pstrdup("service answered with a body that is not valid JSON");
	if (errors->code != NULL && document->code == NULL &&
		find_rule(errors, NULL) == NULL)
		return psprintf("service answered without \"%s\"", errors->code);
	if (request->stream == NULL)
		return document->token != NULL ? NULL :
			psprintf("service answered without a token in \"%s\"",
					 run->manifest->auth->token);
	return document->has_list ? NULL :
		psprintf("service answered without a list in \"%s\"",
				 request->stream->expect);
}

/* Takes over what a good body says about how to go on. */
static void
take_over(UdsRun *run, UdsCall *request, const Document *document)
{
	const UdsHttpResponse *response = request->response;
	UdsAnswer  *answer = &request->answer;

	answer->verdict = UDS_VERDICT_GOOD;
	if (request->stream == NULL)
	{
		answer->lifetime = document->lifetime > 0 ? document->lifetime :
			run->manifest->auth->lifetime;
		return;
	}
	if (!document->has_cursor || !document->more)
		return;
	answer->cursor = document->cursor;
	if (answer->cursor == NULL)
	{
		/* a number that cJSON has not kept digit for digit */
		List	   *items = uds_hook_select(run, response->body,
											response->body_len,
											request->stream->next_cursor);

		answer->cursor = items != NIL ? linitial(items) : NULL;
	}
	if (answer->cursor != NULL && request->cursor != NULL &&
		(strcmp(answer->cursor, request->cursor) == 0 ||
		 strcmp(answer->cursor, request->mark) == 0))
		conclude(answer, UDS_VERDICT_FAIL, ERRCODE_PROTOCOL_VIOLATION,
				 pstrdup("cursor repeats"));
}

/*
 * Judges the response of a request: fills in request->answer, allocated in
 * the request's context.
 */
void
uds_response_judge(UdsRun *run, UdsCall *request)
{
	MemoryContext caller = MemoryContextSwitchTo(request->context);
	const UdsHttpResponse *response = request->response;
	UdsAnswer  *answer = &request->answer;
	Document	document = {0};
	const UdsCodeRule *rule;
	char	   *problem;

	memset(answer, 0, sizeof(UdsAnswer));
	if (response->fault != UDS_HTTP_OK)
		judge_fault(run, request);
	else
	{
		read_document(run, request, &document);
		answer->token = document.token;
		rule = find_rule(&run->manifest->errors, document.code);
		if (document.code != NULL && rule != NULL &&
			rule->code_class != UDS_CODE_OK)
			judge_code(run, request, &document, rule);
		else if (response->status == 429 || response->status >= 500)
			judge_status(run, request, &document);
		else if (document.code != NULL && rule == NULL)
			judge_code(run, request, &document, NULL);
		else if (response->status < 200 || response->status > 299)
			judge_status(run, request, &document);
		else if ((problem = check_body(run, request, &document)) != NULL)
			conclude(answer, UDS_VERDICT_AGAIN, ERRCODE_PROTOCOL_VIOLATION,
					 problem);
		else
			take_over(run, request, &document);
	}
	MemoryContextSwitchTo(caller);
}
