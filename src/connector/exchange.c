/*-------------------------------------------------------------------------
 *
 * exchange.c
 *		Requests in flight: sent when there is room, a token and no need to
 *		wait, and repeated until there is an answer to act upon.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "connector/backoff.h"
#include "connector/engine.h"
#include "uds.h"

/* ms: the longest wait between repetitions that we choose */
#define MAX_DELAY 60000

/* ms: the longest wait that a service may ask for */
#define MAX_THROTTLE 3600000

/* ms: how long fewer requests are in flight after the service said so */
#define LIMITED_FOR 30000

/* Milliseconds of a clock that nobody sets. */
int64
uds_clock(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

static void
open_client(UdsRun *run)
{
	UdsHttpLimits limits = {0};
	int			i;

	limits.connections = uds_max_connections_per_source;
	limits.connect_timeout = uds_http_connect_timeout;
	limits.timeout = uds_http_timeout;
	limits.max_body = (size_t) uds_max_page_size * 1024;
	limits.user_agent = "uds/" UDS_VERSION;
	for (i = 0; i < run->noptions; i++)
	{
		if (strcmp(run->options[i].name, "options.ca_file") == 0)
			limits.ca_file = run->options[i].value;
	}
	run->client = uds_http_open(run->context, &limits);
}

/* What HTTP Basic will send is kept out of texts, too. */
static void
note_basic(UdsRun *run)
{
	const UdsBasicSpec *basic = run->auth == NULL ? NULL :
		run->auth->has_request ? &run->auth->request.basic : &run->auth->basic;

	if (basic != NULL && basic->user != NULL)
		run->basic = uds_basic_make(basic, run->options, run->noptions);
}

/*
 * Opens a run in the current memory context, where all of it stays.  The
 * options, secrets resolved, are checked: an ERROR if they do not fit.
 */
UdsRun *
uds_exchange_open(const UdsManifest *manifest, const char *source_name,
				  const char *options_json, const UdsFetchHooks *hooks)
{
	UdsRun	   *run = palloc0(sizeof(UdsRun));
	char	   *hint;
	char	   *problem = uds_manifest_check_secrets(manifest, options_json, &hint);

	if (problem == NULL)
		problem = uds_manifest_check_options(manifest, options_json, &hint);
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid options of source \"%s\": %s", source_name, problem),
				 errhint("%s", hint)));
	run->manifest = manifest;
	run->source = source_name;
	run->hooks = hooks;
	run->context = CurrentMemoryContext;
	run->retries = uds_http_retries;
	run->options = uds_manifest_option_values(manifest, options_json,
											  &run->noptions);
	run->state = palloc0(sizeof(UdsVariable));
	uds_auth_choose(run);
	note_basic(run);
	uds_budget_open(run);
	dlist_init(&run->ready);
	dlist_init(&run->waiting);
	dlist_init(&run->sent);
	open_client(run);
	return run;
}

static void
free_list(dlist_head *list)
{
	while (!dlist_is_empty(list))
		uds_call_free(dlist_container(UdsCall, node,
									  dlist_pop_head_node(list)));
}

/* Forgets all requests, those in flight included; the run can go on. */
void
uds_exchange_drop(UdsRun *run)
{
	uds_http_close(run->client);
	free_list(&run->ready);
	free_list(&run->waiting);
	free_list(&run->sent);
	run->nready = run->nwaiting = run->nsent = 0;
	run->token_request = NULL;
	open_client(run);
}

/* Ends the connections; the rest goes with the memory context. */
void
uds_exchange_close(UdsRun *run)
{
	uds_http_close(run->client);
	run->client = NULL;
}

static int
in_flight_limit(const UdsRun *run)
{
	int			limit = uds_max_connections_per_source;

	if (run->manifest->concurrency > 0)
		limit = Min(limit, run->manifest->concurrency);
	if (run->limit > 0 && run->limit_until > uds_clock())
		limit = Min(limit, run->limit);
	return limit;
}

/*
 * Whether another request is welcome.  What waits for its repetition leaves
 * its place to others, but not without end: a service that fails throughout
 * is not to be sent everything.
 */
bool
uds_exchange_room(const UdsRun *run)
{
	int			limit = in_flight_limit(run);

	return run->nready + run->nsent < limit &&
		run->nready + run->nsent + run->nwaiting < 2 * limit;
}

/* Puts a request in line, at its head or its end. */
void
uds_exchange_add(UdsRun *run, UdsCall *request, bool first)
{
	if (first)
		dlist_push_head(&run->ready, &request->node);
	else
		dlist_push_tail(&run->ready, &request->node);
	run->nready++;
}

static void
wait_until(UdsRun *run, UdsCall *request, int64 time)
{
	request->not_before = time;
	dlist_push_tail(&run->waiting, &request->node);
	run->nwaiting++;
}

/* Puts those whose time has come in line, before the others. */
static void
wake_waiting(UdsRun *run, int64 now)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &run->waiting)
	{
		UdsCall    *request = dlist_container(UdsCall, node, iter.cur);

		if (request->not_before > now)
			continue;
		dlist_delete(&request->node);
		run->nwaiting--;
		uds_exchange_add(run, request, true);
	}
}

/* Sends what can be sent. */
static void
send_ready(UdsRun *run)
{
	int64		now = uds_clock();

	run->budget_until = 0;
	if (run->hold_until > now)
		return;
	wake_waiting(run, now);
	while (run->nready > 0 && run->nsent < in_flight_limit(run))
	{
		UdsCall    *request = dlist_head_element(UdsCall, node, &run->ready);

		if (request->stream != NULL && !uds_auth_ready(run))
		{
			if (run->token_request != NULL)
				break;
			uds_auth_begin(run);
			continue;
		}
		run->budget_until = uds_budget_time(run, request->stream, now);
		if (run->budget_until > now)
			break;
		uds_budget_spend(run, request->stream, now);
		dlist_delete(&request->node);
		run->nready--;
		dlist_push_tail(&run->sent, &request->node);
		run->nsent++;
		uds_call_send(run, request);
		run->totals.requests++;
		uds_hook_progress(run);
	}
}

/* ms until something can be sent that now cannot, or -1. */
static long
time_to_next(const UdsRun *run)
{
	int64		now = uds_clock();
	int64		next = PG_INT64_MAX;
	dlist_iter	iter;

	if (run->nready > 0 && run->hold_until > now)
		next = run->hold_until;
	else if (run->nready > 0 && run->budget_until > now)
		next = run->budget_until;
	dlist_foreach(iter, unconstify(dlist_head *, &run->waiting))
	{
		UdsCall    *request = dlist_container(UdsCall, node, iter.cur);

		next = Min(next, Max(request->not_before, run->hold_until));
	}
	if (next == PG_INT64_MAX)
		return -1;
	return (long) Max(next - now, 0);
}

/* Waits while nothing is in flight. */
static void
wait_idle(long timeout)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = uds_wait_event("UdsRequestDelay");
	if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
				  timeout, wait_event) & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* The service wants us to wait: all of us, and maybe with fewer at a time. */
static void
hold(UdsRun *run, UdsCall *request, int64 wait)
{
	int64		now = uds_clock();

	if (request->answer.concurrency > 0)
	{
		run->limit = request->answer.concurrency;
		run->limit_until = now + wait + LIMITED_FOR;
	}
	if (now + wait > run->hold_until)
	{
		run->totals.throttled_ms += now + wait - Max(run->hold_until, now);
		run->hold_until = now + wait;
	}
	wait_until(run, request, now + wait);
}

/* An answer that no repetition made better is the end of it. */
static void
give_up(UdsCall *request, int tries)
{
	UdsAnswer  *answer = &request->answer;

	answer->verdict = UDS_VERDICT_FAIL;
	if (tries > 1)
	{
		MemoryContext caller = MemoryContextSwitchTo(request->context);

		answer->what = psprintf("%s, tried %d times", answer->what, tries);
		MemoryContextSwitchTo(caller);
	}
}

/*
 * A passing fault: the request is to be sent again.  But not where the tries
 * that failed took longer than one and a half may: a service that says
 * nothing is waited for twice, not five times.
 */
static void
repeat(UdsRun *run, UdsCall *request)
{
	const UdsHttpResponse *response = request->response;
	int64		limit = uds_http_timeout;

	if (response->fault == UDS_HTTP_RESOLVE || response->fault == UDS_HTTP_CONNECT)
		limit = Min(limit, uds_http_connect_timeout);
	request->spent += response->elapsed;
	if (request->faults++ < run->retries && request->spent < limit + limit / 2)
		wait_until(run, request, uds_clock() +
				   uds_backoff_delay(request->faults, uds_http_retry_delay,
									 Max(MAX_DELAY, uds_http_retry_delay),
									 pg_prng_double(&pg_global_prng_state)));
	else
		give_up(request, request->faults);
}

static void
throttle(UdsRun *run, UdsCall *request)
{
	UdsAnswer  *answer = &request->answer;
	double		random = pg_prng_double(&pg_global_prng_state);
	int64		base = answer->wait;
	int			attempt = answer->wait_exact ? 1 : request->throttles + 1;

	if (base <= 0)
		base = uds_http_retry_delay;
	if (request->throttles++ >= run->retries)
		give_up(request, request->throttles);
	else if (base > MAX_THROTTLE)
	{
		MemoryContext caller = MemoryContextSwitchTo(request->context);

		answer->what = psprintf("%s, to be repeated in " INT64_FORMAT " seconds",
								answer->what, base / 1000);
		answer->verdict = UDS_VERDICT_FAIL;
		MemoryContextSwitchTo(caller);
	}
	else
		hold(run, request, uds_backoff_throttled(attempt, base, MAX_THROTTLE, random));
}

/*
 * Takes in the response of a request that is in no list now.  Returns true
 * if the request is done, false if the run goes on with it by itself.
 */
static bool
take_in(UdsRun *run, UdsCall *request)
{
	UdsAnswer  *answer = &request->answer;
	bool		usable;

	run->totals.bytes += request->response->body_len;
	uds_response_judge(run, request);
	usable = request->stream != NULL && answer->verdict == UDS_VERDICT_GOOD;
	if (usable && run->totals.pages >= uds_max_pages)
	{
		answer->verdict = UDS_VERDICT_FAIL;
		answer->sqlstate = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		answer->what = "more pages than uds.max_pages allows";
		usable = false;
	}
	if (usable)
		run->totals.pages++;
	uds_hook_page(run, request, usable);

	switch (answer->verdict)
	{
		case UDS_VERDICT_AGAIN:
			repeat(run, request);
			break;
		case UDS_VERDICT_THROTTLED:
			throttle(run, request);
			break;
		case UDS_VERDICT_REAUTH:
			if (uds_auth_again(run, request))
				wait_until(run, request, 0);
			else
				answer->verdict = UDS_VERDICT_FAIL;
			break;
		default:
			break;
	}
	if (request == run->token_request && answer->verdict == UDS_VERDICT_GOOD)
	{
		uds_auth_finish(run, request);
		uds_call_free(request);
		return false;
	}
	if (answer->verdict == UDS_VERDICT_AGAIN ||
		answer->verdict == UDS_VERDICT_THROTTLED ||
		answer->verdict == UDS_VERDICT_REAUTH)
		return false;
	if (request == run->token_request)
		run->token_request = NULL;
	return true;
}

/*
 * Waits for the next request with an answer to act upon (never AGAIN,
 * THROTTLED or REAUTH), for the caller to free; NULL when none is left.  A
 * failed token request comes out here, too.  Raises what interrupts and
 * hooks raise.
 */
UdsCall *
uds_exchange_next(UdsRun *run)
{
	for (;;)
	{
		UdsHttpResponse *response;
		UdsCall    *request;
		long		timeout;
		bool		done;

		send_ready(run);
		timeout = time_to_next(run);
		if (run->nsent == 0)
		{
			if (run->nready + run->nwaiting == 0)
				return NULL;
			wait_idle(Max(timeout, 0));
			continue;
		}
		response = uds_http_next(run->client, timeout);
		if (response == NULL)
			continue;

		request = response->arg;
		dlist_delete(&request->node);
		run->nsent--;
		if (request->response != NULL)
			uds_http_free(request->response);
		request->response = response;
		done = take_in(run, request);
		uds_hook_progress(run);
		if (done)
			return request;
	}
}
