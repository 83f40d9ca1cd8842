/*-------------------------------------------------------------------------
 *
 * probe.c
 *		A source tried out step by step: what works, and what came back.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "connector/engine.h"
#include "connector/redact.h"

typedef struct Probe
{
	UdsRun	   *run;
	List	   *steps;			/* of UdsTestStep * */
	int64		begun;			/* the current step, on our clock */
} Probe;

static void
add_step(Probe *probe, const char *name, bool ok, const char *detail)
{
	UdsTestStep *step = palloc0(sizeof(UdsTestStep));
	int64		now = uds_clock();

	step->step = name;
	step->ok = ok;
	step->detail = detail;
	step->elapsed = (int) (now - probe->begun);
	probe->steps = lappend(probe->steps, step);
	probe->begun = now;
}

/* What an answer without success says, with its hint. */
static char *
describe_answer(const UdsCall *request)
{
	const UdsAnswer *answer = &request->answer;

	return psprintf("%s (%s)%s%s", answer->what, request->label,
					answer->hint ? "; hint: " : "",
					answer->hint ? answer->hint : "");
}

/* What became of a request without an answer; the host may be a secret. */
static char *
describe_fault(const UdsRun *run, const UdsHttpResponse *response)
{
	return pstrdup(uds_text_redacted(run, NULL, response->fault_text,
									 strlen(response->fault_text),
									 UDS_SECRET_IN_MESSAGE, NULL));
}

/*
 * Asks for the base URL.  Any response will do: it shows that the name
 * resolves, that the address may be talked to, and that TLS works.
 */
static bool
try_address(Probe *probe)
{
	UdsRun	   *run = probe->run;
	UdsRequestSpec none = {0};
	UdsHttpRequest http = {0};
	UdsHttpResponse *response;
	char	   *base_url = uds_call_base_url(run, &none);
	char	   *url = uds_text_redacted(run, NULL, base_url, strlen(base_url),
										UDS_SECRET_IN_MESSAGE, NULL);
	bool		https = strncmp(base_url, "https:", 6) == 0;
	char	   *answered;
	bool		ok;

	http.method = "GET";
	http.url = psprintf("%s/", base_url);
	uds_http_send(run->client, &http);
	response = uds_http_next(run->client, -1);
	run->totals.requests++;

	/* of these two, the first means there was no need to read on */
	ok = response->fault == UDS_HTTP_OK || response->fault == UDS_HTTP_TOO_LARGE;
	answered = response->status > 0 ?
		psprintf("%s answered HTTP status %d", url, response->status) :
		psprintf("%s answered", url);
	if (ok || response->fault == UDS_HTTP_TLS)
		add_step(probe, "address", true, answered);
	else
		add_step(probe, "address", false, psprintf("%s: %s", url, describe_fault(run, response)));
	if (https && ok)
		add_step(probe, "tls", true, "the certificate is good");
	else if (response->fault == UDS_HTTP_TLS)
		add_step(probe, "tls", false, describe_fault(run, response));
	uds_http_free(response);
	return ok;
}

/* Fetches a token, not looking at one kept from before. */
static bool
try_token(Probe *probe)
{
	UdsRun	   *run = probe->run;
	UdsCall    *failed;

	run->token_asked = true;
	uds_auth_begin(run);
	failed = uds_exchange_next(run);
	if (failed == NULL)
	{
		add_step(probe, "token", true,
				 psprintf("a token for " INT64_FORMAT " seconds",
						  (run->token_until - uds_clock() + 999) / 1000));
		return true;
	}
	add_step(probe, "token", false, describe_answer(failed));
	uds_call_free(failed);
	return false;
}

/*
 * Reads the first page of a stream and returns the request, for the caller
 * to free.
 */
static UdsCall *
try_page(Probe *probe, const UdsStreamSpec *stream, const char *value)
{
	UdsRun	   *run = probe->run;
	UdsCall    *request = uds_call_new(run, stream, value, NULL);
	const UdsHttpResponse *response;
	int			records;

	uds_exchange_add(run, request, false);
	request = uds_exchange_next(run);
	response = request->response;
	if (request->answer.verdict != UDS_VERDICT_GOOD)
	{
		add_step(probe, stream->name, false, describe_answer(request));
		return request;
	}
	records = list_length(uds_hook_select(run, response->body,
										  response->body_len, stream->records));
	add_step(probe, stream->name, true,
			 psprintf("HTTP %d, %d %s%s%s%s", response->status, records,
					  records == 1 ? "record" : "records",
					  request->answer.cursor ? " on the first page" : "",
					  value ? psprintf(" for %s ", stream->parent_as) : "",
					  value ? uds_text_shown(run, request, value, strlen(value)) : ""));
	return request;
}

/* The first value that a page has for a stream that depends on it. */
static char *
first_value(Probe *probe, const UdsCall *page, const UdsStreamSpec *child)
{
	List	   *values;

	if (child->parent == NULL || strcmp(child->parent, page->stream->name) != 0)
		return NULL;
	values = uds_hook_select(probe->run, page->response->body,
							 page->response->body_len, child->parent_value);
	return values != NIL ? linitial(values) : NULL;
}

/* Tries the streams of a plan.  True if the next plan is to be tried. */
static bool
try_plan(Probe *probe, const UdsPlanSpec *plan)
{
	const UdsManifest *manifest = probe->run->manifest;
	char	  **values = palloc0(plan->count * sizeof(char *));
	int			i;
	int			j;

	for (i = 0; i < plan->count; i++)
	{
		const UdsStreamSpec *stream = &manifest->streams[plan->streams[i]];
		UdsCall    *page;
		UdsVerdict	verdict;

		if (stream->parent != NULL && values[i] == NULL)
		{
			add_step(probe, stream->name, true,
					 psprintf("not tried: no %s on the first page of \"%s\"",
							  stream->parent_as, stream->parent));
			continue;
		}
		page = try_page(probe, stream, values[i]);
		verdict = page->answer.verdict;
		for (j = i + 1; verdict == UDS_VERDICT_GOOD && j < plan->count; j++)
		{
			char	   *value = first_value(probe, page,
											&manifest->streams[plan->streams[j]]);

			if (value != NULL)
				values[j] = value;
		}
		uds_call_free(page);
		if (verdict == UDS_VERDICT_DEGRADE)
			return true;
		if (verdict != UDS_VERDICT_GOOD && verdict != UDS_VERDICT_SKIP)
			return false;
	}
	return false;
}

/*
 * Tries a source: options, address, TLS, token, and the first page of each
 * stream, stopping where going on makes no sense.  Nothing is tried twice,
 * nothing is handed to the page hook's log but what came.
 *
 * Returns a List of UdsTestStep *, all in the current memory context.  What
 * fails is a step that is not ok; only interrupts and hooks raise.
 */
List *
uds_connector_test(const UdsManifest *manifest, const char *source_name,
				   const char *options_json, const UdsFetchHooks *hooks)
{
	Probe		probe = {NULL, NIL, uds_clock()};
	char	   *hint;
	char	   *problem = uds_manifest_check_secrets(manifest, options_json, &hint);
	int			i;

	if (problem == NULL)
		problem = uds_manifest_check_options(manifest, options_json, &hint);
	if (problem != NULL)
	{
		add_step(&probe, "options", false, psprintf("%s; hint: %s", problem, hint));
		return probe.steps;
	}
	add_step(&probe, "options", true, "complete and well-formed");
	probe.run = uds_exchange_open(manifest, source_name, options_json, hooks);
	probe.run->retries = 0;
	if (try_address(&probe) &&
		(manifest->auth == NULL || try_token(&probe)))
	{
		for (i = 0; i < manifest->nplans; i++)
		{
			if (!try_plan(&probe, &manifest->plans[i]))
				break;
		}
	}
	uds_exchange_close(probe.run);
	return probe.steps;
}
