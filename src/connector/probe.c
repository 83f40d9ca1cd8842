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

/* How many records a page has, in words. */
static char *
count_records(Probe *probe, const UdsCall *request)
{
	const UdsStreamSpec *stream = request->stream;
	int			records;

	if (stream->records == NULL || request->answer.verdict == UDS_VERDICT_EMPTY)
		return pstrdup(stream->records ? "no records" : "answered");
	records = list_length(uds_hook_select(probe->run, request->response->body,
										  request->response->body_len,
										  stream->records));
	return psprintf("%d %s", records, records == 1 ? "record" : "records");
}

/*
 * Reads the first page of a stream and returns the request, for the caller
 * to free.
 */
static UdsCall *
try_page(Probe *probe, const UdsStreamSpec *stream, const char *value)
{
	UdsRun	   *run = probe->run;
	UdsCall    *request = uds_call_new(run, stream, value);
	const UdsHttpResponse *response;

	uds_exchange_add(run, request, false);
	request = uds_exchange_next(run);
	response = request->response;
	if (request->answer.verdict != UDS_VERDICT_GOOD &&
		request->answer.verdict != UDS_VERDICT_EMPTY)
	{
		add_step(probe, stream->name, false, describe_answer(request));
		return request;
	}
	add_step(probe, stream->name, true,
			 psprintf("HTTP %d, %s%s%s%s", response->status,
					  count_records(probe, request),
					  request->answer.onward ? " on the first page" : "",
					  value ? psprintf(" for %s ", stream->as) : "",
					  value ? uds_text_shown(run, request, value, strlen(value)) : ""));
	return request;
}

/* Maps the first record that the page has for a stream, this one or another. */
static void
try_record(Probe *probe, const UdsCall *page, const UdsStreamSpec *stream)
{
	UdsRun	   *run = probe->run;
	bool		ok;
	char	   *record;

	if (stream->type == NULL || run->hooks->map == NULL)
		return;
	record = uds_hook_map(run, page, stream, &ok);
	if (record != NULL)
		add_step(probe, psprintf("%s: record", stream->name), ok,
				 uds_text_shown(run, page, record, strlen(record)));
}

/*
 * The value to try a stream with, from a page of another one or the manifest;
 * NULL if there is none.
 */
static char *
first_value(Probe *probe, const UdsCall *page, const UdsStreamSpec *child)
{
	for (int i = 0; i < child->nfeeds; i++)
	{
		List	   *values;

		if (child->feeds[i].stream == NULL ||
			strcmp(child->feeds[i].stream, page->stream->name) != 0)
			continue;
		values = uds_hook_select(probe->run, page->response->body,
								 page->response->body_len, child->feeds[i].value);
		if (values != NIL)
			return linitial(values);
	}
	return NULL;
}

static char *
given_value(Probe *probe, const UdsStreamSpec *stream)
{
	StringInfoData value;

	if (stream->nvalues == 0)
		return NULL;
	initStringInfo(&value);
	uds_template_expand(&value, stream->values[0], UDS_ESCAPE_RAW,
						probe->run->options, probe->run->noptions, NULL);
	return value.len > 0 ? value.data : NULL;
}

/*
 * Takes from a good page what later streams of the plan are to be tried with,
 * and maps a record of it for each stream that reads it.
 */
static void
use_page(Probe *probe, const UdsPlanSpec *plan, int at, const UdsCall *page,
		 char **values)
{
	try_record(probe, page, page->stream);
	for (int i = at + 1; i < plan->count; i++)
	{
		const UdsStreamSpec *other = &probe->run->manifest->streams[plan->streams[i]];
		char	   *value = first_value(probe, page, other);

		if (value != NULL)
			values[i] = value;
		if (other->pages_of != NULL && strcmp(other->pages_of, page->stream->name) == 0 &&
			uds_manifest_holds(&other->when, probe->run->options, probe->run->noptions))
			try_record(probe, page, other);
	}
}

/* Tries the streams of a plan.  True if the next plan is to be tried. */
static bool
try_plan(Probe *probe, const UdsPlanSpec *plan)
{
	const UdsRun *run = probe->run;
	char	  **values = palloc0(plan->count * sizeof(char *));

	for (int i = 0; i < plan->count; i++)
	{
		const UdsStreamSpec *stream = &run->manifest->streams[plan->streams[i]];
		UdsCall    *page;
		UdsVerdict	verdict;

		if (!stream->has_request ||
			!uds_manifest_holds(&stream->when, run->options, run->noptions))
			continue;
		if (values[i] == NULL)
			values[i] = given_value(probe, stream);
		if (stream->as != NULL && values[i] == NULL)
		{
			add_step(probe, stream->name, true,
					 psprintf("not tried: no %s to try it with", stream->as));
			continue;
		}
		page = try_page(probe, stream, values[i]);
		verdict = page->answer.verdict;
		if (verdict == UDS_VERDICT_GOOD)
			use_page(probe, plan, i, page, values);
		uds_call_free(page);
		if (verdict == UDS_VERDICT_DEGRADE)
			return true;
		if (verdict != UDS_VERDICT_GOOD && verdict != UDS_VERDICT_SKIP &&
			verdict != UDS_VERDICT_EMPTY)
			return false;
	}
	return false;
}

/*
 * Tries a source: options, address, TLS, token, the first page of each stream
 * and the mapping of a record of it, stopping where going on makes no sense.  Nothing is tried twice,
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
		(probe.run->auth == NULL || !probe.run->auth->has_request || try_token(&probe)))
	{
		for (i = 0; i < manifest->nplans; i++)
		{
			const UdsPlanSpec *plan = &manifest->plans[i];

			if (plan->incremental || plan->events ||
				!uds_manifest_holds(&plan->when, probe.run->options, probe.run->noptions))
				continue;
			if (!try_plan(&probe, plan))
				break;
		}
	}
	uds_exchange_close(probe.run);
	return probe.steps;
}
