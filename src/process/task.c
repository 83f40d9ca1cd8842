/*-------------------------------------------------------------------------
 *
 * task.c
 *		One claimed task, from fetch to commit.
 *
 * Pages are kept in short transactions while the source is read, so that no
 * snapshot is held while bytes are on the wire; everything after that is one
 * transaction.  Runs in a sync worker (the hooks also in a request worker);
 * locks as reconcile.h says.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "fetch/ldap.h"
#include "fetch/query.h"
#include "process/process.h"
#include "process/replay.h"
#include "uds.h"

/* pages are flushed to the raw log when this much has come together */
#define FLUSH_BYTES (4 * 1024 * 1024)
#define FLUSH_PAGES 200
#define FLUSH_MS	1000

/* What the hooks work on while a source is read. */
typedef struct Reading
{
	UdsSource  *source;
	UdsTask    *task;			/* NULL: pages are not kept */
	MemoryContext buffer;		/* holds pages until they are flushed */
	List	   *pages;			/* of UdsRawPage * */
	size_t		bytes;
	int			seq;
	TimestampTz flushed_at;
} Reading;

static void
flush_pages(Reading *reading)
{
	if (reading->pages == NIL)
		return;
	uds_xact_begin("uds: appending to the raw log");
	uds_raw_log_append(reading->task->id, reading->task->attempt, reading->pages);
	uds_xact_commit();
	MemoryContextReset(reading->buffer);
	reading->pages = NIL;
	reading->bytes = 0;
	reading->flushed_at = GetCurrentTimestamp();
}

static char *
copy_bytes(const char *bytes, size_t len)
{
	char	   *copy;

	if (bytes == NULL)
		return NULL;
	copy = MemoryContextAllocHuge(CurrentMemoryContext, len + 1);
	memcpy(copy, bytes, len);
	copy[len] = '\0';
	return copy;
}

/* Hook: buffers a page for the raw log. */
static void
keep_page(void *arg, const UdsPage *page)
{
	Reading    *reading = arg;
	MemoryContext old;
	UdsRawPage *raw;

	if (reading->task == NULL)
		return;
	old = MemoryContextSwitchTo(reading->buffer);
	raw = palloc(sizeof(UdsRawPage));
	raw->seq = ++reading->seq;
	raw->stream = pstrdup(page->stream);
	raw->request = pstrdup(page->request);
	raw->context = page->context ? pstrdup(page->context) : NULL;
	raw->status = page->status;
	raw->usable = page->usable;
	raw->received_at = GetCurrentTimestamp();
	raw->body = copy_bytes(page->body, page->body_len);
	raw->body_len = page->body_len;
	reading->pages = lappend(reading->pages, raw);
	reading->bytes += page->body_len;
	MemoryContextSwitchTo(old);

	if (reading->bytes >= FLUSH_BYTES ||
		list_length(reading->pages) >= FLUSH_PAGES ||
		TimestampDifferenceExceeds(reading->flushed_at, raw->received_at, FLUSH_MS))
		flush_pages(reading);
}

/* Hook: evaluates a jsonpath in the database, where numbers keep their digits. */
static List *
select_items(void *arg, const char *json, size_t len, const char *jsonpath)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	List	   *items = NIL;
	uint64		n;

	uds_xact_begin("uds: reading a page");
	values[0] = PointerGetDatum(cstring_to_text_with_len(json, len));
	values[1] = CStringGetTextDatum(jsonpath);
	n = uds_spi_exec("SELECT v #>> '{}' FROM jsonb_path_query($1::jsonb, $2::jsonpath) AS v",
					 2, types, values, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		char	   *item = uds_spi_text(i, 1);
		MemoryContext old = MemoryContextSwitchTo(caller);

		items = lappend(items, pstrdup(item ? item : "null"));
		MemoryContextSwitchTo(old);
	}
	uds_xact_commit();
	MemoryContextSwitchTo(caller);
	return items;
}

/* Hook: what a stream of the source makes of the first record of a page. */
static char *
map_record(void *arg, const char *stream, const char *json, size_t len,
		   const char *context, bool *ok)
{
	Reading    *reading = arg;
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[4] = {TEXTOID, INT8OID, TEXTOID, TEXTOID};
	Datum		values[4];
	char	   *record = NULL;

	uds_xact_begin("uds: mapping a record");
	values[0] = PointerGetDatum(cstring_to_text_with_len(json, len));
	values[1] = Int64GetDatum(reading->source->id);
	values[2] = CStringGetTextDatum(stream);
	values[3] = CStringGetTextDatum(context ? context : "{}");
	if (uds_spi_exec("SELECT coalesce(m.error, m.record::text), m.error IS NULL"
					 "  FROM uds.source_streams($2) AS s (streams)"
					 " CROSS JOIN LATERAL uds.map_page($1, s.streams -> $3 -> 'stream', $4::jsonb) AS m"
					 " LIMIT 1",
					 4, types, values, NULL) > 0)
	{
		record = MemoryContextStrdup(caller, uds_spi_text(0, 1));
		*ok = uds_spi_text(0, 2)[0] == 't';
	}
	uds_xact_commit();
	MemoryContextSwitchTo(caller);
	return record;
}

/* Hook: whom the source has shown before and not withdrawn. */
static List *
known_uids(void *arg, const char *data_type)
{
	Reading    *reading = arg;
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[2] = {INT8OID, TEXTOID};
	Datum		values[2] = {Int64GetDatum(reading->source->id), CStringGetTextDatum(data_type)};
	List	   *uids = NIL;
	uint64		n;

	uds_xact_begin("uds: looking for known records");
	n = uds_spi_exec("SELECT uid FROM uds.records"
					 " WHERE source_id = $1 AND data_type = $2 AND NOT deleted",
					 2, types, values, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		char	   *uid = uds_spi_text(i, 1);
		MemoryContext old = MemoryContextSwitchTo(caller);

		uids = lappend(uids, pstrdup(uid));
		MemoryContextSwitchTo(old);
		pfree(uid);
	}
	uds_xact_commit();
	MemoryContextSwitchTo(caller);
	return uids;
}

/* Hook: the token kept for the source, in the caller's memory. */
static char *
load_token(void *arg)
{
	Reading    *reading = arg;
	MemoryContext caller = CurrentMemoryContext;
	char	   *token;

	uds_xact_begin("uds: looking for a token");
	token = uds_source_load_token(reading->source);
	if (token != NULL)
		token = MemoryContextStrdup(caller, token);
	uds_xact_commit();
	MemoryContextSwitchTo(caller);
	return token;
}

/* Hook: keeps a token. */
static void
save_token(void *arg, const char *token, TimestampTz expires_at)
{
	Reading    *reading = arg;
	MemoryContext caller = CurrentMemoryContext;

	uds_xact_begin("uds: keeping a token");
	uds_source_save_token(reading->source, token, expires_at);
	uds_xact_commit();
	MemoryContextSwitchTo(caller);
}

static void
show_progress(void *arg, const UdsFetchProgress *progress)
{
	uds_progress_fetch(progress);
}

static Reading *
make_hooks(UdsFetchHooks *hooks, UdsSource *source, UdsTask *task)
{
	Reading    *reading = palloc0(sizeof(Reading));

	reading->source = source;
	reading->task = task;
	reading->buffer = AllocSetContextCreate(CurrentMemoryContext, "uds pages",
											ALLOCSET_DEFAULT_SIZES);
	reading->flushed_at = GetCurrentTimestamp();
	hooks->arg = reading;
	hooks->page = keep_page;
	hooks->select = select_items;
	hooks->map = map_record;
	hooks->known = known_uids;
	hooks->load_token = load_token;
	hooks->save_token = save_token;
	hooks->progress = show_progress;
	return reading;
}

/*
 * Fills hooks for looking at a source without running a task: pages are not
 * kept.  Allocates in the current context, which must outlive their use.
 */
void
uds_source_hooks(UdsFetchHooks *hooks, UdsSource *source)
{
	make_hooks(hooks, source, NULL);
}

/* Loads the source of a task into the current context. */
static UdsSource *
load_source(const UdsTask *task)
{
	MemoryContext caller = CurrentMemoryContext;
	UdsSource  *source;

	uds_xact_begin("uds: loading the source");
	source = uds_source_load(task->source_id);
	if (source == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the source of task " INT64_FORMAT " does not exist any more",
						task->id)));
	MemoryContextSwitchTo(caller);
	source = uds_source_copy(source);
	uds_xact_commit();
	MemoryContextSwitchTo(caller);
	return source;
}

/*
 * What an earlier read noted, and whether this one is to ask for changes
 * only: as the mode says, and in mode auto while the last full read is recent.
 */
static char *
load_state(const UdsTask *task, const UdsSource *source, bool *incremental)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		full_is_recent;
	char	   *state;

	*incremental = false;
	if (strcmp(task->mode, "full") == 0)
		return NULL;
	uds_xact_begin("uds: looking for what was read before");
	state = uds_source_load_state(source->id, &full_is_recent);
	if (state != NULL)
		state = MemoryContextStrdup(caller, state);
	uds_xact_commit();
	MemoryContextSwitchTo(caller);
	*incremental = state != NULL &&
		(full_is_recent || strcmp(task->mode, "incremental") == 0);
	return state;
}

/* Reads the source, in the way in which it is read. */
static UdsFetchResult *
read_source(const UdsTask *task, UdsSource *source, List *changes, const UdsFetchHooks *hooks)
{
	UdsManifest *manifest = NULL;
	char	   *error = NULL;
	bool		incremental;
	char	   *state = load_state(task, source, &incremental);

	/* what events told of is all that is to be asked for */
	if (changes != NIL)
		incremental = false;

	/* the claim has seen to it already; a copy must be safe beyond doubt */
	if (!source->armed)
		uds_arming_refuse(source->name);
	if (uds_query_reads(source))
		return uds_query_run(source, incremental ? state : NULL, hooks);
	if (source->manifest != NULL)
		manifest = uds_manifest_parse(source->manifest, &error);
	if (manifest == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source \"%s\" of type \"%s\" cannot be read: %s",
						source->name, source->type,
						error ? error : "the type has no manifest")));
	if (manifest->native != NULL)
		return uds_ldap_run(manifest, source->name, source->options, state, incremental, hooks);
	return uds_connector_run(manifest, source->name, source->options, state,
							 incremental, changes, hooks);
}

/*
 * Reads the source, keeping what came even when the read fails: the response
 * that made it fail is what one looks for in the raw log.
 */
static UdsFetchResult *
fetch(UdsTask *task, UdsSource *source, List *changes)
{
	MemoryContext caller = CurrentMemoryContext;
	UdsFetchHooks hooks;
	Reading    *reading = make_hooks(&hooks, source, task);
	UdsFetchResult *volatile result = NULL;

	PG_TRY();
	{
		result = read_source(task, source, changes, &hooks);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		uds_xact_abort();
		MemoryContextSwitchTo(caller);
		/* who cancels twice shall not lose them either */
		HOLD_CANCEL_INTERRUPTS();
		flush_pages(reading);
		RESUME_CANCEL_INTERRUPTS();
		MemoryContextSwitchTo(caller);
		ReThrowError(edata);
	}
	PG_END_TRY();
	flush_pages(reading);
	MemoryContextSwitchTo(caller);
	return result;
}

/* Milliseconds since "start". */
static int64
elapsed_ms(instr_time start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

/* Copies what a search in a short transaction found into the current context. */
static List *
copy_strings(List *strings)
{
	List	   *copy = NIL;
	ListCell   *lc;

	foreach(lc, strings)
		copy = lappend(copy, pstrdup(lfirst(lc)));
	return copy;
}

/* Whether the task works from pages fetched before; *pages tells which. */
static bool
find_pages(const UdsTask *task, UdsPages *pages)
{
	MemoryContext caller = CurrentMemoryContext;
	ListCell   *lc;
	bool		found;

	uds_xact_begin("uds: looking for pages fetched before");
	found = uds_replay_find(task, pages);
	MemoryContextSwitchTo(caller);
	if (found)
	{
		List	   *skipped = NIL;

		pages->streams = copy_strings(pages->streams);
		foreach(lc, pages->skipped)
		{
			UdsSkippedNode *from = lfirst(lc);
			UdsSkippedNode *node = palloc0(sizeof(UdsSkippedNode));

			node->data_type = pstrdup(from->data_type);
			node->node = pstrdup(from->node);
			node->message = pstrdup(from->message);
			skipped = lappend(skipped, node);
		}
		pages->skipped = skipped;
	}
	uds_xact_commit();
	MemoryContextSwitchTo(caller);
	return found;
}

/* Notes the streams that were read, for those who replay the pages. */
static void
note_streams(const UdsTask *task, List *streams)
{
	Oid			types[2] = {INT8OID, TEXTARRAYOID};
	Datum		values[2] = {Int64GetDatum(task->id)};
	ArrayBuildState *names = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	ListCell   *lc;

	foreach(lc, streams)
		accumArrayResult(names, CStringGetTextDatum((char *) lfirst(lc)), false,
						 TEXTOID, CurrentMemoryContext);
	values[1] = makeArrayResult(names, CurrentMemoryContext);
	uds_spi_exec("UPDATE uds.tasks SET streams = $2 WHERE id = $1", 2, types, values, NULL);
}

/* Takes back what another task did; nothing is read for it. */
static void
run_undo(UdsTask *task, UdsSource *source)
{
	UdsTaskCounts *counts = &task->counts;
	const char *status;
	char	   *message;
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	uds_xact_begin("uds: undoing a task");
	status = uds_undo_run(task, source, counts, &message);
	uds_progress_phase(UDS_PHASE_FINISH);
	counts->apply_ms = elapsed_ms(start);
	uds_task_finish(task->id, status, message, counts);
	uds_xact_commit();
}

/* Takes the events that wait; what they tell of, in the current context. */
static List *
take_events(const UdsTask *task)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *changes = NIL;
	ListCell   *lc;

	uds_xact_begin("uds: taking events");
	foreach(lc, uds_events_take(task))
	{
		const UdsChange *taken = lfirst(lc);
		UdsChange  *change;

		MemoryContextSwitchTo(caller);
		change = palloc(sizeof(UdsChange));
		change->data_type = pstrdup(taken->data_type);
		change->id = pstrdup(taken->id);
		changes = lappend(changes, change);
	}
	uds_xact_commit();
	MemoryContextSwitchTo(caller);
	return changes;
}

/* Another task has taken the events that this one was queued for. */
static void
end_without_events(UdsTask *task)
{
	uds_xact_begin("uds: ending a task without events");
	uds_task_finish(task->id, "success", "no event was waiting any more", &task->counts);
	uds_xact_commit();
}

/*
 * Runs a claimed task to its end and commits it.
 *
 * Called outside a transaction, in a memory context that the caller deletes
 * afterwards.  Whatever goes wrong is an ERROR, possibly inside a
 * transaction, that leaves all tables but the raw log as they were; the
 * caller rolls back and ends the task.  task->counts then tells how far it
 * came.
 */
void
uds_task_run(UdsTask *task)
{
	MemoryContext caller = CurrentMemoryContext;
	UdsTaskCounts *counts = &task->counts;
	UdsSource  *source;
	UdsPages	pages = {0};
	List	   *changes = NIL;
	bool		replayed;
	const char *state = NULL;
	const char *status;
	char	   *message;
	instr_time	start;

	counts->complete = -1;
	source = load_source(task);
	if (strcmp(task->kind, "undo") == 0)
	{
		run_undo(task, source);
		MemoryContextSwitchTo(caller);
		return;
	}

	replayed = find_pages(task, &pages);
	if (!replayed && strcmp(task->kind, "event") == 0)
	{
		changes = take_events(task);
		if (changes == NIL)
		{
			end_without_events(task);
			MemoryContextSwitchTo(caller);
			return;
		}
	}
	if (!replayed)
	{
		UdsFetchResult *fetched;

		uds_progress_phase(UDS_PHASE_FETCH);
		INSTR_TIME_SET_CURRENT(start);
		fetched = fetch(task, source, changes);
		counts->fetch_ms = elapsed_ms(start);
		counts->pages = fetched->totals.pages;
		counts->requests = fetched->totals.requests;
		counts->throttled_ms = fetched->totals.throttled_ms;
		pages.task = task->id;
		pages.attempt = task->attempt;
		pages.streams = fetched->streams;
		pages.incremental = fetched->incremental;
		pages.complete = fetched->complete && !fetched->incremental;
		state = fetched->state;
		pages.skipped = fetched->skipped;
		pages.warnings = fetched->warnings;
	}

	if (strcmp(task->kind, "event") == 0 || strcmp(task->kind, "approve") == 0)
		pages.events_of = pages.task;
	uds_worker_reload();
	INSTR_TIME_SET_CURRENT(start);
	uds_xact_begin("uds: reconciling");
	status = uds_reconcile(task, source, &pages, counts, &message);
	uds_progress_phase(UDS_PHASE_FINISH);
	counts->apply_ms = elapsed_ms(start);
	uds_task_finish(task->id, status, message, counts);
	if (!replayed)
		note_streams(task, pages.streams);
	if (strcmp(status, "blocked") != 0)
		uds_source_note_success(source->id, task->id);
	/* what a preview read was not applied */
	if (state != NULL && strcmp(task->kind, "preview") != 0 && strcmp(status, "blocked") != 0)
		uds_source_save_state(source->id, state, pages.complete);
	uds_xact_commit();
	MemoryContextSwitchTo(caller);
}
