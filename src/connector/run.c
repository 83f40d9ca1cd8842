/*-------------------------------------------------------------------------
 *
 * run.c
 *		A run over a source: plans, their streams, and how it all ends.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "connector/engine.h"

/* A stream of the plan that is being read. */
typedef struct StreamState
{
	const UdsStreamSpec *spec;
	bool		skipped;		/* what it depends on is not so */
	List	   *values;			/* for_each: of char *, each once */
	HTAB	   *seen;			/* for_each: the same, to find them */
	int			total;			/* listings known so far */
	int			started;		/* of these, listings begun */
	UdsNote    *notes;			/* what it is to note, or NULL */
} StreamState;

typedef struct PlanState
{
	UdsRun	   *run;
	const UdsPlanSpec *spec;
	UdsFetchResult *result;
	MemoryContext context;		/* goes with the plan */
	int			count;
	StreamState *streams;
} PlanState;

/*
 * Raises the ERROR that an answer without success makes: what was being
 * done, to which source, what came back.
 */
static void
fail(UdsRun *run, UdsCall *request)
{
	const UdsAnswer *answer = &request->answer;
	const UdsStreamSpec *stream = request->stream;

	if (stream == NULL)
		ereport(ERROR,
				(errcode(answer->sqlstate),
				 errmsg("could not get an access token for source \"%s\": %s (%s)",
						run->source, answer->what, request->label),
				 answer->hint ? errhint("%s", answer->hint) : 0));
	if (request->value == NULL)
		ereport(ERROR,
				(errcode(answer->sqlstate),
				 errmsg("could not read stream \"%s\" of source \"%s\": %s (%s)",
						stream->name, run->source, answer->what, request->label),
				 answer->hint ? errhint("%s", answer->hint) : 0));
	ereport(ERROR,
			(errcode(answer->sqlstate),
			 errmsg("could not read stream \"%s\" of source \"%s\": %s (%s, %s %s)",
					stream->name, run->source, answer->what, request->label,
					stream->as,
					uds_text_shown(run, request, request->value, strlen(request->value))),
			 answer->hint ? errhint("%s", answer->hint) : 0));
}

static uint32
value_hash(const void *key, Size keysize)
{
	const char *value = *(const char *const *) key;

	return hash_bytes((const unsigned char *) value, strlen(value));
}

static int
value_compare(const void *a, const void *b, Size keysize)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Keeps a value for a stream's for_each, unless it is known. */
static void
add_value(PlanState *plan, StreamState *state, const char *value)
{
	MemoryContext caller;
	char	   *copy;

	if (hash_search(state->seen, &value, HASH_FIND, NULL) != NULL)
		return;
	caller = MemoryContextSwitchTo(plan->context);
	copy = pstrdup(value);
	hash_search(state->seen, &copy, HASH_ENTER, NULL);
	state->values = lappend(state->values, copy);
	state->total++;
	plan->run->starts_left++;
	MemoryContextSwitchTo(caller);
}

/* What events told of, for a stream that asks for it. */
static void
add_changed(PlanState *plan, StreamState *state)
{
	ListCell   *lc;

	for (int i = 0; plan->spec->events && i < state->spec->nfeeds; i++)
	{
		const UdsFeedSpec *feed = &state->spec->feeds[i];

		foreach(lc, plan->run->changes)
		{
			const UdsChange *change = lfirst(lc);

			if (feed->event != NULL && strcmp(feed->event, change->data_type) == 0)
				add_value(plan, state, change->id);
		}
	}
}

static void
begin_stream(PlanState *plan, StreamState *state, const UdsStreamSpec *spec)
{
	UdsRun	   *run = plan->run;
	HASHCTL		control = {0};

	state->spec = spec;
	state->skipped = !uds_manifest_holds(&spec->when, run->options, run->noptions);
	if (state->skipped || !spec->has_request)
		return;
	state->notes = uds_note_begin(run, spec);
	if (spec->as == NULL)
	{
		state->total = 1;
		run->starts_left++;
		return;
	}
	control.keysize = control.entrysize = sizeof(char *);
	control.hash = value_hash;
	control.match = value_compare;
	control.hcxt = plan->context;
	state->seen = hash_create("uds for_each values", 256, &control,
							  HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	add_changed(plan, state);
	for (int i = 0; i < spec->nvalues; i++)
	{
		StringInfoData value;

		initStringInfo(&value);
		if (uds_template_expand(&value, spec->values[i], UDS_ESCAPE_RAW,
								run->options, run->noptions, NULL) && value.len > 0)
			add_value(plan, state, value.data);
	}
}

/*
 * Takes from a page what streams that depend on this one, maybe itself, are
 * to be asked.
 */
static void
collect_values(PlanState *plan, const UdsCall *request)
{
	MemoryContext caller = MemoryContextSwitchTo(request->context);

	for (int i = 0; i < plan->count; i++)
	{
		StreamState *state = &plan->streams[i];
		ListCell   *lc;

		for (int j = 0; !state->skipped && j < state->spec->nfeeds; j++)
		{
			const UdsFeedSpec *feed = &state->spec->feeds[j];

			if (feed->stream == NULL || strcmp(feed->stream, request->stream->name) != 0)
				continue;
			foreach(lc, uds_hook_select(plan->run, request->response->body,
										request->response->body_len, feed->value))
				add_value(plan, state, lfirst(lc));
		}
	}
	MemoryContextSwitchTo(caller);
}

/*
 * Notes that something was not shown: a node ("" = the stream as a whole), and
 * what to say of it.  Both are in memory of the run.
 */
static void
add_skipped(PlanState *plan, const UdsStreamSpec *stream, const char *node, const char *message)
{
	UdsFetchResult *result = plan->result;
	UdsSkippedNode *skipped = palloc0(sizeof(UdsSkippedNode));

	skipped->stream = stream->name;
	skipped->data_type = stream->type;
	skipped->node = node;
	skipped->message = message;
	result->skipped = lappend(result->skipped, skipped);
	result->complete = false;
}

/* Notes a node that the service refused to show. */
static void
skip_node(PlanState *plan, const UdsCall *request)
{
	MemoryContext caller = MemoryContextSwitchTo(plan->run->context);
	const UdsStreamSpec *stream = request->stream;
	const char *node = request->value == NULL ? "" :
		pstrdup(uds_text_page(plan->run, request, request->value,
							  strlen(request->value), NULL));

	add_skipped(plan, stream, node,
				psprintf("could not read stream \"%s\" for %s \"%s\": %s",
						 stream->name, stream->as, node, request->answer.what));
	MemoryContextSwitchTo(caller);
}

/* Notes that a listing gave fewer items than the service says it has. */
static void
check_total(PlanState *plan, const UdsCall *request)
{
	const UdsAnswer *answer = &request->answer;
	int64		items = request->items + answer->items;
	MemoryContext caller;

	if (answer->total < 0 || items >= answer->total)
		return;
	caller = MemoryContextSwitchTo(plan->run->context);
	add_skipped(plan, request->stream, "",
				psprintf("stream \"%s\" gave " INT64_FORMAT " of the " INT64_FORMAT
						 " records that the service says it has",
						 request->stream->name, items, answer->total));
	MemoryContextSwitchTo(caller);
}

/* A good page: what is noted of it, what it leads to, and the page after it. */
static void
take_page(PlanState *plan, StreamState *state, UdsCall *request)
{
	uds_note_take(plan->run, state->notes, request);
	collect_values(plan, request);
	if (request->answer.onward != NULL)
		uds_exchange_add(plan->run, uds_call_next(plan->run, request), true);
	else
		check_total(plan, request);
}

/* What an event told of is not there any more: that is what there is to know. */
static void
take_gone(PlanState *plan, const UdsCall *request)
{
	MemoryContext caller = MemoryContextSwitchTo(request->context);

	uds_hook_gone_page(plan->run, request, uds_call_gone_page(plan->run, request));
	MemoryContextSwitchTo(caller);
}

/* The listing begins anew, once. */
static void
restart(PlanState *plan, UdsCall *request)
{
	UdsCall    *again;

	if (request->restarted)
		fail(plan->run, request);
	again = uds_call_new(plan->run, request->stream, request->value);
	again->restarted = true;
	uds_exchange_add(plan->run, again, true);
}

/* Acts upon an answer; false if the plan is to be given up. */
static bool
act_upon(PlanState *plan, StreamState *state, UdsCall *request)
{
	switch (request->answer.verdict)
	{
		case UDS_VERDICT_GOOD:
			take_page(plan, state, request);
			break;
		case UDS_VERDICT_EMPTY:
			break;
		case UDS_VERDICT_SKIP:
			if (plan->spec->events && request->answer.gone && request->stream->gone != NULL)
				take_gone(plan, request);
			else
				skip_node(plan, request);
			break;
		case UDS_VERDICT_RESTART:
			if (plan->spec->incremental && request->spec->states.count > 0)
				return false;
			restart(plan, request);
			break;
		case UDS_VERDICT_DEGRADE:
			return false;
		default:
			fail(plan->run, request);
	}
	return true;
}

/* Begins listings of a stream while there is room for them. */
static void
start_listings(PlanState *plan, StreamState *state)
{
	while (state->started < state->total && uds_exchange_room(plan->run))
	{
		const char *value = state->spec->as ?
			list_nth(state->values, state->started) : NULL;

		state->started++;
		plan->run->starts_left--;
		uds_exchange_add(plan->run, uds_call_new(plan->run, state->spec, value),
						 false);
	}
}

/*
 * Reads a stream to its end.  Returns NULL, or the request whose answer says
 * that the plan is to be given up, for the caller to free.
 */
static UdsCall *
read_stream(PlanState *plan, StreamState *state)
{
	UdsCall    *request;

	if (state->spec->synthesize != NULL)
		uds_hook_made_page(plan->run, state->spec,
						   uds_call_made_page(plan->run, state->spec));
	start_listings(plan, state);
	while ((request = uds_exchange_next(plan->run)) != NULL)
	{
		if (!act_upon(plan, state, request))
			return request;
		uds_call_free(request);
		start_listings(plan, state);
		uds_hook_progress(plan->run);
	}
	return NULL;
}

/* Puts what the streams of a plan noted where it is found later. */
static void
keep_notes(PlanState *plan)
{
	UdsRun	   *run = plan->run;
	MemoryContext caller = MemoryContextSwitchTo(run->context);

	for (int i = 0; i < plan->count; i++)
	{
		StreamState *state = &plan->streams[i];

		for (int j = 0; state->notes != NULL && j < state->spec->nnotes; j++)
			run->notes = lappend(run->notes, &state->notes[j]);
	}
	MemoryContextSwitchTo(caller);
}

/*
 * Reads the streams of a plan, in order.  Returns as read_stream does; the
 * result then is to be forgotten.
 */
static UdsCall *
read_plan(UdsRun *run, const UdsPlanSpec *spec, UdsFetchResult *result)
{
	PlanState	plan = {0};
	UdsCall    *refused = NULL;
	int			i;

	plan.run = run;
	plan.spec = spec;
	plan.result = result;
	plan.context = AllocSetContextCreate(run->context, "uds plan",
										 ALLOCSET_DEFAULT_SIZES);
	plan.count = spec->count;
	plan.streams = MemoryContextAllocZero(plan.context,
										  spec->count * sizeof(StreamState));
	run->starts_left = 0;
	run->notes = NIL;
	for (i = 0; i < spec->count; i++)
		begin_stream(&plan, &plan.streams[i],
					 &run->manifest->streams[spec->streams[i]]);

	result->streams = NIL;
	result->skipped = NIL;
	result->warnings = NIL;
	result->complete = true;
	result->incremental = spec->incremental || spec->events;
	if (spec->warning != NULL)
		result->warnings = lappend(result->warnings, spec->warning);
	for (i = 0; i < spec->count && refused == NULL; i++)
	{
		if (plan.streams[i].skipped)
			continue;
		if (plan.streams[i].spec->pages_of == NULL)
			refused = read_stream(&plan, &plan.streams[i]);
		if (plan.streams[i].spec->type != NULL)
			result->streams = lappend(result->streams, plan.streams[i].spec->name);
	}
	keep_notes(&plan);
	MemoryContextDelete(plan.context);
	return refused;
}

static bool
is_noted(const UdsRun *run, const char *name)
{
	for (int i = 0; i < run->nstate; i++)
	{
		if (strcmp(run->state[i].name + strlen("state."), name) == 0)
			return true;
	}
	return false;
}

/* Whether everything was noted that the streams of a plan ask with. */
static bool
has_state(const UdsRun *run, const UdsPlanSpec *plan)
{
	for (int i = 0; i < plan->count; i++)
	{
		const UdsStreamSpec *stream = &run->manifest->streams[plan->streams[i]];

		for (int j = 0; j < stream->request.states.count; j++)
		{
			if (uds_manifest_holds(&stream->when, run->options, run->noptions) &&
				!is_noted(run, stream->request.states.items[j]))
				return false;
		}
	}
	return true;
}

typedef enum PlanMode
{
	PLAN_FULL,
	PLAN_INCREMENTAL,
	PLAN_EVENTS
} PlanMode;

static PlanMode
mode_of(const UdsPlanSpec *plan)
{
	return plan->events ? PLAN_EVENTS : plan->incremental ? PLAN_INCREMENTAL : PLAN_FULL;
}

/*
 * Reads by the first plan of a mode that fits, or by the next one where that
 * is refused.  False if there is none; the request that the last one was
 * refused for is *refused then, if there was one.
 */
static bool
read_mode(UdsRun *run, PlanMode mode, UdsFetchResult *result, UdsCall **refused)
{
	const UdsManifest *manifest = run->manifest;

	*refused = NULL;
	for (int i = 0; i < manifest->nplans; i++)
	{
		const UdsPlanSpec *plan = &manifest->plans[i];

		if (mode_of(plan) != mode ||
			!uds_manifest_holds(&plan->when, run->options, run->noptions) ||
			(mode == PLAN_INCREMENTAL && !has_state(run, plan)))
			continue;
		if (*refused != NULL)
		{
			uds_call_free(*refused);
			uds_exchange_drop(run);
		}
		*refused = read_plan(run, plan, result);
		if (*refused == NULL)
			return true;
	}
	return false;
}

/*
 * Reads a source as its manifest says, and hands the pages to the hooks.
 *
 * options_json holds the options with all secrets in place; state_json is
 * what an earlier read noted, or NULL.  With "incremental" only what changed
 * since is asked for, if the manifest can and what it needs was noted; with
 * "changes", a list of UdsChange *, only these, if the manifest can.  The
 * result, and everything else, is allocated in the current memory context,
 * which the caller deletes when done; the result points into the manifest.
 * Must be called outside any transaction; hooks may use short ones of their
 * own.
 *
 * Raises an ERROR, with a message fit for the task, as soon as it is clear
 * that the source cannot be read whole; and what hooks and interrupts raise.
 */
UdsFetchResult *
uds_connector_run(const UdsManifest *manifest, const char *source_name,
				  const char *options_json, const char *state_json,
				  bool incremental, List *changes, const UdsFetchHooks *hooks)
{
	UdsRun	   *run = uds_exchange_open(manifest, source_name, options_json,
										hooks);
	UdsFetchResult *result = palloc0(sizeof(UdsFetchResult));
	UdsCall    *refused = NULL;
	bool		done = false;

	run->changes = changes;
	if (incremental || changes != NIL)
	{
		uds_note_load(run, incremental ? state_json : NULL);
		done = read_mode(run, incremental ? PLAN_INCREMENTAL : PLAN_EVENTS, result, &refused);
		/* what was noted is no good any more */
		if (!done && refused != NULL)
		{
			uds_call_free(refused);
			uds_exchange_drop(run);
		}
	}
	if (!done)
	{
		uds_note_load(run, NULL);
		done = read_mode(run, PLAN_FULL, result, &refused);
	}
	if (!done && refused != NULL)
		fail(run, refused);
	if (!done)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source \"%s\" cannot be read: no plan of its type fits its options",
						source_name)));
	uds_exchange_close(run);
	/* what is asked for after an event is not all that changed */
	if (run->notes != NIL && !(changes != NIL && result->incremental))
		result->state = uds_note_store(run, result->incremental ? state_json : NULL,
									   run->notes);
	result->totals = run->totals;
	return result;
}
