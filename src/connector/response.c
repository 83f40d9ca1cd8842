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
#include "connector/redact.h"

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

/*
 * When a response was sent, in seconds since 1970: by the service's clock, or
 * by ours if it does not say.
 */
int64
uds_response_clock(const UdsHttpResponse *response)
{
	const char *date = uds_http_header(response, "Date");
	int64		epoch;

	return date != NULL && uds_backoff_http_date(date, &epoch) ? epoch : (int64) time(NULL);
}

/* Seconds that one header asks for, or -1. */
static int64
read_wait(const UdsHttpResponse *response, const UdsWaitSpec *wait)
{
	const char *value = uds_http_header(response, wait->header);
	int64		number;

	if (value == NULL || *value < '0' || *value > '9')
		return -1;
	number = strtoll(value, NULL, 10);
	if (!wait->epoch)
		return number;
	/* the clock of headers has no fractions */
	return Max(number - uds_response_clock(response), 0) + 1;
}

/* Makes the service's own wish for a wait, where it has one, the answer's. */
static void
read_wish(const UdsRun *run, const UdsHttpResponse *response,
		  const UdsDocument *document, UdsAnswer *answer)
{
	const UdsErrorsSpec *errors = &run->manifest->errors;
	const char *header = uds_http_header(response, "Retry-After");
	int64		seconds = -1;

	if (header == NULL ||
		!uds_backoff_retry_after(header, (int64) time(NULL), &seconds))
		seconds = -1;
	for (int i = 0; i < errors->nwaits && seconds < 0; i++)
	{
		if (errors->waits[i].header != NULL)
			seconds = read_wait(response, &errors->waits[i]);
	}
	if (seconds < 0)
		seconds = document->wait;
	if (seconds < 0)
		return;
	answer->wait = Min(seconds, PG_INT32_MAX) * 1000;
	answer->wait_exact = true;
}

static const char *
find_hint(const UdsErrorsSpec *errors, const char *code, int status)
{
	char	   *by_status = psprintf("HTTP %d", status);
	const char *any = NULL;

	for (int i = 0; i < errors->nhints; i++)
	{
		if (code != NULL && pg_strcasecmp(errors->hints[i].code, code) == 0)
			return errors->hints[i].hint;
		if (strcmp(errors->hints[i].code, by_status) == 0 ||
			(any == NULL && strcmp(errors->hints[i].code, "*") == 0))
			any = errors->hints[i].hint;
	}
	return any;
}

/* What came back, as a phrase: the code or the status, and the message. */
static char *
describe(UdsRun *run, UdsCall *request, const UdsDocument *document)
{
	int			status = request->response->status;
	StringInfoData what;

	initStringInfo(&what);
	if (document->code != NULL)
		appendStringInfo(&what, "service answered error %s",
						 uds_text_shown(run, request, document->code,
										strlen(document->code)));
	else
		appendStringInfo(&what, "service answered HTTP status %d", status);
	if (document->message != NULL)
		appendStringInfo(&what, " \"%s\"",
						 uds_text_shown(run, request, document->message,
										strlen(document->message)));
	if (document->code != NULL && status != 200)
		appendStringInfo(&what, " with HTTP status %d", status);
	return what.data;
}

/* A rule says what the answer means; without one, it is a code nobody knows. */
static void
judge_rule(UdsRun *run, UdsCall *request, const UdsDocument *document,
		   const UdsCodeRule *rule)
{
	UdsAnswer  *answer = &request->answer;
	UdsVerdict	verdict = UDS_VERDICT_FAIL;
	int			sqlstate = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;

	answer->hint = find_hint(&run->manifest->errors, document->code,
							 request->response->status);
	answer->is_error = true;

	switch (rule ? rule->code_class : UDS_CODE_CONFIG)
	{
		case UDS_CODE_THROTTLE:
			verdict = UDS_VERDICT_THROTTLED;
			sqlstate = ERRCODE_CONNECTION_FAILURE;
			answer->wait = (int64) rule->wait * 1000;
			answer->concurrency = rule->concurrency;
			read_wish(run, request->response, document, answer);
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
			answer->gone = rule->code_class == UDS_CODE_GONE;
			/* what is no node of a larger whole cannot be left out of it */
			if (request->value != NULL)
				verdict = UDS_VERDICT_SKIP;
			break;
		case UDS_CODE_EMPTY:
			verdict = UDS_VERDICT_EMPTY;
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
		 verdict == UDS_VERDICT_RESTART || verdict == UDS_VERDICT_EMPTY))
		verdict = UDS_VERDICT_FAIL;
	if (request->stream != NULL && verdict == UDS_VERDICT_REAUTH &&
		(run->auth == NULL || !run->auth->has_request))
		verdict = UDS_VERDICT_FAIL;
	conclude(answer, verdict, sqlstate, describe(run, request, document));
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
judge_status(UdsRun *run, UdsCall *request, const UdsDocument *document)
{
	UdsAnswer  *answer = &request->answer;
	int			status = request->response->status;
	char	   *what = describe(run, request, document);

	if (status >= 300 && status < 400)
		what = psprintf("service answered HTTP status %d%s", status,
						redirect_target(run, request));
	answer->is_error = status >= 400;
	answer->hint = find_hint(&run->manifest->errors, document->code, status);
	if (status == 429 || status == 503)
		read_wish(run, request->response, document, answer);

	if (status == 429 || (status == 503 && answer->wait_exact))
		conclude(answer, UDS_VERDICT_THROTTLED, ERRCODE_CONNECTION_FAILURE, what);
	else if (status >= 500 || status == 408)
		conclude(answer, UDS_VERDICT_AGAIN, ERRCODE_CONNECTION_FAILURE, what);
	else if (status == 401 && request->stream != NULL && run->auth != NULL &&
			 run->auth->has_request)
		conclude(answer, UDS_VERDICT_REAUTH,
				 ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, what);
	else
		conclude(answer, UDS_VERDICT_FAIL,
				 ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, what);
}

/* A body that should be a page or a token; what is wrong with it, or NULL. */
static char *
check_body(UdsRun *run, UdsCall *request, const UdsDocument *document)
{
	const UdsErrorsSpec *errors = &run->manifest->errors;

	if (document->refused != NULL)
		return psprintf("service answered with JSON %s", document->refused);
	if (document->broken != NULL)
		return psprintf("service answered with a body that is not valid JSON: %s",
						document->broken);
	if (errors->code.count > 0 && document->code == NULL && document->rule == NULL)
		return psprintf("service answered without \"%s\"", errors->code.items[0]);
	if (request->stream == NULL)
		return document->token != NULL ? NULL :
			psprintf("service answered without a token in \"%s\"", run->auth->token);
	return document->has_list ? NULL :
		psprintf("service answered without a list in \"%s\"",
				 request->stream->expect);
}

/* Takes over what a good body says about how to go on. */
static void
take_over(UdsRun *run, UdsCall *request, const UdsDocument *document)
{
	UdsAnswer  *answer = &request->answer;

	answer->verdict = UDS_VERDICT_GOOD;
	if (request->stream == NULL)
		answer->lifetime = document->lifetime > 0 ? document->lifetime :
			run->auth->lifetime;
	else
	{
		answer->noted = document->noted;
		uds_paging_judge(run, request, document);
	}
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
	UdsDocument document = {0};
	char	   *problem;

	memset(answer, 0, sizeof(UdsAnswer));
	if (response->fault != UDS_HTTP_OK)
		judge_fault(run, request);
	else
	{
		uds_document_read(run, request, &document);
		answer->token = document.token;
		if (document.rule != NULL && document.rule->code_class != UDS_CODE_OK)
			judge_rule(run, request, &document, document.rule);
		else if (response->status == 429 || response->status >= 500)
			judge_status(run, request, &document);
		else if (document.code != NULL && document.rule == NULL &&
				 response->status != 401)
			judge_rule(run, request, &document, NULL);
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
