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
	List	   *values;			/* for_each: of char *, each once */
	HTAB	   *seen;			/* for_each: the same, to find them */
	int			started;		/* listings begun: one, or one per value */
} StreamState;

typedef struct PlanState
{
	UdsRun	   *run;
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
					stream->parent_as,
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

static void
begin_stream(PlanState *plan, StreamState *state, const UdsStreamSpec *spec)
{
	HASHCTL		control = {0};

	state->spec = spec;
	if (spec->parent == NULL)
	{
		plan->run->starts_left++;
		return;
	}
	control.keysize = control.entrysize = sizeof(char *);
	control.hash = value_hash;
	control.match = value_compare;
	control.hcxt = plan->context;
	state->seen = hash_create("uds for_each values", 256, &control,
							  HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
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
	plan->run->starts_left++;
	MemoryContextSwitchTo(caller);
}

/* Takes from a page what streams that depend on this one are to be asked. */
static void
collect_values(PlanState *plan, const UdsCall *request)
{
	MemoryContext caller = MemoryContextSwitchTo(request->context);
	int			i;

	for (i = 0; i < plan->count; i++)
	{
		StreamState *state = &plan->streams[i];
		ListCell   *lc;

		if (state->spec->parent == NULL ||
			strcmp(state->spec->parent, request->stream->name) != 0)
			continue;
		foreach(lc, uds_hook_select(plan->run, request->response->body,
									request->response->body_len,
									state->spec->parent_value))
			add_value(plan, state, lfirst(lc));
	}
	MemoryContextSwitchTo(caller);
}

/* Notes a node that the service refused to show. */
static void
skip_node(PlanState *plan, const UdsCall *request)
{
	UdsFetchResult *result = plan->result;
	MemoryContext caller = MemoryContextSwitchTo(plan->run->context);
	UdsSkippedNode *node = palloc0(sizeof(UdsSkippedNode));

	node->stream = request->stream->name;
	node->data_type = request->stream->type;
	node->node = request->value == NULL ? "" :
		pstrdup(uds_text_page(plan->run, request, request->value,
							  strlen(request->value), NULL));
	node->message = psprintf("could not read stream \"%s\" for %s \"%s\": %s",
							 node->stream, request->stream->parent_as,
							 node->node, request->answer.what);
	result->skipped = lappend(result->skipped, node);
	result->complete = false;
	MemoryContextSwitchTo(caller);
}

/*
 * The listing goes on with another page, or anew without a cursor.
 *
 * Of the cursors one is kept to compare the later ones with: that of the last
 * page whose number is a power of two.  So a listing that runs in a circle,
 * however long, is found out, and no more than one cursor is remembered.
 */
static void
follow(UdsRun *run, const UdsCall *request, const char *cursor)
{
	UdsCall    *next = uds_call_new(run, request->stream, request->value,
									cursor);

	next->restarted = request->restarted || cursor == NULL;
	if (cursor != NULL)
	{
		next->page = request->page + 1;
		next->mark = (next->page & (next->page - 1)) == 0 ? next->cursor :
			MemoryContextStrdup(next->context, request->mark);
	}
	uds_exchange_add(run, next, true);
}

/* Acts upon an answer; false if the plan is to be given up. */
static bool
act_upon(PlanState *plan, UdsCall *request)
{
	UdsRun	   *run = plan->run;

	switch (request->answer.verdict)
	{
		case UDS_VERDICT_GOOD:
			collect_values(plan, request);
			if (request->answer.cursor != NULL)
				follow(run, request, request->answer.cursor);
			break;
		case UDS_VERDICT_SKIP:
			skip_node(plan, request);
			break;
		case UDS_VERDICT_RESTART:
			if (request->restarted)
				fail(run, request);
			follow(run, request, NULL);
			break;
		case UDS_VERDICT_DEGRADE:
			return false;
		default:
			fail(run, request);
	}
	return true;
}

/* Begins listings of a stream while there is room for them. */
static void
start_listings(PlanState *plan, StreamState *state)
{
	int			total = state->spec->parent ? list_length(state->values) : 1;

	while (state->started < total && uds_exchange_room(plan->run))
	{
		const char *value = state->spec->parent ?
		list_nth(state->values, state->started) : NULL;

		state->started++;
		plan->run->starts_left--;
		uds_exchange_add(plan->run,
						 uds_call_new(plan->run, state->spec, value, NULL),
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

	start_listings(plan, state);
	while ((request = uds_exchange_next(plan->run)) != NULL)
	{
		if (!act_upon(plan, request))
			return request;
		uds_call_free(request);
		start_listings(plan, state);
		uds_hook_progress(plan->run);
	}
	return NULL;
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
	plan.result = result;
	plan.context = AllocSetContextCreate(run->context, "uds plan",
										 ALLOCSET_DEFAULT_SIZES);
	plan.count = spec->count;
	plan.streams = MemoryContextAllocZero(plan.context,
										  spec->count * sizeof(StreamState));
	run->starts_left = 0;
	for (i = 0; i < spec->count; i++)
		begin_stream(&plan, &plan.streams[i],
					 &run->manifest->streams[spec->streams[i]]);

	result->streams = NIL;
	result->skipped = NIL;
	result->warnings = NIL;
	result->complete = true;
	if (spec->warning != NULL)
		result->warnings = lappend(result->warnings, spec->warning);
	for (i = 0; i < spec->count && refused == NULL; i++)
	{
		refused = read_stream(&plan, &plan.streams[i]);
		result->streams = lappend(result->streams, plan.streams[i].spec->name);
	}
	MemoryContextDelete(plan.context);
	return refused;
}

/*
 * Reads a source as its manifest says, and hands the pages to the hooks.
 *
 * options_json holds the options with all secrets in place.  The result, and
 * everything else, is allocated in the current memory context, which the
 * caller deletes when done; the result points into the manifest.  Must be
 * called outside any transaction; hooks may use short ones of their own.
 *
 * Raises an ERROR, with a message fit for the task, as soon as it is clear
 * that the source cannot be read whole; and what hooks and interrupts raise.
 */
UdsFetchResult *
uds_connector_run(const UdsManifest *manifest, const char *source_name,
				  const char *options_json, const UdsFetchHooks *hooks)
{
	UdsRun	   *run = uds_exchange_open(manifest, source_name, options_json,
										hooks);
	UdsFetchResult *result = palloc0(sizeof(UdsFetchResult));
	int			i;

	for (i = 0; i < manifest->nplans; i++)
	{
		UdsCall    *refused = read_plan(run, &manifest->plans[i], result);

		if (refused == NULL)
			break;
		if (i == manifest->nplans - 1)
			fail(run, refused);
		uds_call_free(refused);
		uds_exchange_drop(run);
	}
	uds_exchange_close(run);
	result->totals = run->totals;
	return result;
}
