/*-------------------------------------------------------------------------
 *
 * wait.c
 *		uds_sync(), uds_retry(), uds_wait(), uds_cancel(), uds_test_source().
 *
 * Runs in backends, in the caller's transaction; tables are accessed as the
 * extension's owner.  Waiting is on a condition variable that workers
 * broadcast, with a short timeout, and reads the task's row with a snapshot
 * of its own each time, so that it sees the end in any isolation level.
 * Takes what tasks.c takes, and the LWLock of the extension.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog/catalog.h"
#include "process/shared.h"
#include "process/wait.h"

PG_FUNCTION_INFO_V1(uds_sync);
PG_FUNCTION_INFO_V1(uds_retry);
PG_FUNCTION_INFO_V1(uds_wait);
PG_FUNCTION_INFO_V1(uds_cancel);
PG_FUNCTION_INFO_V1(uds_test_source);

/* how often a waiting backend looks although nobody woke it */
#define LOOK_MS		500
#define NOTICE_MS	1000

static const char *const source_sql =
"SELECT s.id, s.type, s.enabled, s.armed_in IS NOT DISTINCT FROM i.id"
"  FROM uds.source_settings s"
" CROSS JOIN uds.installation i"
" WHERE s.name = $1";

static const char *const task_sql =
"SELECT t.status, t.message, t.kind, t.mode, t.force, t.source_id, s.name, t.xmin"
"  FROM uds.tasks t"
"  LEFT JOIN uds.source_settings s ON s.id = t.source_id"
" WHERE t.id = $1";

/*
 * Reads a task, in the current memory context, as it is committed by now or
 * as this transaction left it.  ERROR if there is none of this id.  SPI must
 * be connected.
 */
UdsTaskRow *
uds_wait_read_task(int64 id)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(id)};
	SPIPlanPtr	plan = SPI_prepare(task_sql, 1, types);
	UdsTaskRow    *row = palloc0(sizeof(UdsTaskRow));
	Datum		xmin;
	bool		isnull;

	if (plan == NULL ||
		SPI_execute_snapshot(plan, values, NULL, GetLatestSnapshot(),
							 InvalidSnapshot, true, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read task " INT64_FORMAT, id);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("task " INT64_FORMAT " does not exist", id),
				 errhint("SELECT id, status FROM uds.tasks lists the tasks.")));
	row->status = uds_spi_text(0, 1);
	row->message = uds_spi_text(0, 2);
	row->kind = uds_spi_text(0, 3);
	row->mode = uds_spi_text(0, 4);
	row->force = uds_spi_text(0, 5)[0] == 't';
	row->source = uds_spi_text(0, 7);
	xmin = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 8, &isnull);
	row->mine = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
	SPI_freetuptable(SPI_tuptable);
	SPI_freeplan(plan);
	return row;
}

static bool
has_ended(const char *status)
{
	return strcmp(status, "init") != 0 && strcmp(status, "processing") != 0;
}

/* Tells the client how far a task has come. */
static void
notice_progress(int64 task)
{
	UdsSlot		slot;

	if (!uds_slot_find(MyDatabaseId, task, &slot))
		ereport(NOTICE,
				(errmsg("uds task " INT64_FORMAT ": waiting to begin", task)));
	else
		ereport(NOTICE,
				(errmsg("uds task " INT64_FORMAT ": %s, " INT64_FORMAT " of "
						INT64_FORMAT " requests, " INT64_FORMAT " records",
						task, uds_phase_name(slot.phase), slot.fetch.requests,
						Max(slot.fetch.requests_total, slot.fetch.requests),
						slot.records)));
}

/*
 * Waits until a task has ended, or until "deadline"; returns its row as last
 * read, in the current memory context.  SPI must be connected.
 */
static UdsTaskRow *
wait_for_end(int64 task, TimestampTz deadline, bool progress)
{
	static uint32 wait_event = 0;
	ConditionVariable *ended = &uds_shared()->ended;
	MemoryContext result = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(result, "uds waiting",
												  ALLOCSET_SMALL_SIZES);
	TimestampTz noticed = GetCurrentTimestamp();
	UdsTaskRow    *row;

	if (wait_event == 0)
		wait_event = uds_wait_event("UdsTaskEnd");
	for (;;)
	{
		TimestampTz now;
		long		timeout;

		/* before the look, lest its end slip through between look and sleep */
		ConditionVariablePrepareToSleep(ended);
		MemoryContextReset(scratch);
		MemoryContextSwitchTo(scratch);
		row = uds_wait_read_task(task);
		MemoryContextSwitchTo(result);
		now = GetCurrentTimestamp();
		if (has_ended(row->status) || now >= deadline)
			break;
		if (progress && TimestampDifferenceExceeds(noticed, now, NOTICE_MS))
		{
			notice_progress(task);
			noticed = now;
		}
		timeout = Min(LOOK_MS, TimestampDifferenceMilliseconds(now, deadline));
		ConditionVariableTimedSleep(ended, Max(timeout, 1), wait_event);
	}
	ConditionVariableCancelSleep();
	row = uds_wait_read_task(task);
	MemoryContextDelete(scratch);
	return row;
}

/* Raises what a waiting caller must not overlook. */
static void
check_result(int64 task, const UdsTaskRow *row)
{
	const char *source = row->source ? row->source : "?";
	const char *message = row->message ? row->message : "no reason was noted";

	if (strcmp(row->status, "canceled") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("task " INT64_FORMAT " (%s of source \"%s\") was canceled: %s",
						task, row->kind, source, message)));
	if (strcmp(row->status, "blocked") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("task " INT64_FORMAT " (%s of source \"%s\") was blocked: %s",
						task, row->kind, source, message)));
	if (strcmp(row->status, "failed") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("task " INT64_FORMAT " (%s of source \"%s\") failed: %s",
						task, row->kind, source, message)));
}

/*
 * Queues a task outside the caller's transaction and waits for its end.
 *
 * A cancel of this statement cancels the task; should the session be
 * terminated, the task goes on.
 */
static int64
queue_and_wait(const UdsQueueRequest *queue)
{
	UdsTaskRow    *volatile row = NULL;
	int64		task;
	bool		joined;

	if (uds_task_queue_is_mine(queue->source))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot wait for a task of source \"%s\" in a transaction that has queued one",
						queue->source_name),
				 errhint("Commit first: tasks begin when the transaction that queued them commits.")));
	if (!uds_enabled)
		ereport(NOTICE,
				(errmsg("uds.enabled is off, the task waits until it is on")));

	task = uds_request_queue(queue, &joined);
	PG_TRY();
	{
		if (joined)
			ereport(NOTICE,
					(errmsg("uds task " INT64_FORMAT ": joined, it was queued before",
							task)));
		row = wait_for_end(task, DT_NOEND, true);
	}
	PG_CATCH();
	{
		if (geterrcode() == ERRCODE_QUERY_CANCELED &&
			!uds_slot_cancel(MyDatabaseId, task))
			uds_request_cancel(task);
		PG_RE_THROW();
	}
	PG_END_TRY();
	check_result(task, row);
	return task;
}

/*
 * Queues a task and returns its id: in the caller's transaction, or, with
 * "wait", outside it and waiting for its end.  ERROR then where the task
 * ends failed, blocked or canceled.
 */
int64
uds_wait_queue(const UdsQueueRequest *queue, bool wait)
{
	bool		joined;

	if (wait)
		return queue_and_wait(queue);
	return uds_task_queue(queue->source, queue->kind, queue->mode, queue->force,
						  queue->retry_of, queue->requested_by, &joined);
}

/*
 * Finds a source that can be read; ERROR with a hint if it is unknown or of
 * the kind that is pushed to, or, unless "for_test", disabled or not armed.  SPI
 * must be connected.
 */
int64
uds_wait_find_source(const char *name, bool for_test)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	bool		isnull;

	if (uds_spi_exec(source_sql, 1, types, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source \"%s\" does not exist", name),
				 errhint("SELECT name FROM uds.sources lists the sources.")));
	if (strcmp(uds_spi_text(0, 2), "push") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("source \"%s\" is pushed to and cannot be read", name),
				 errhint("Send it records with uds_push().")));
	if (!for_test && uds_spi_text(0, 3)[0] != 't')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" is disabled", name),
				 errhint("Enable it with uds_alter_source(%s, enabled => true).",
						 quote_literal_cstr(name))));
	if (!for_test && uds_spi_text(0, 4)[0] != 't')
		uds_arming_refuse(name);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * ERROR if an argument, "name" to the user, is NULL that must not be.
 */
void
uds_wait_require_argument(FunctionCallInfo fcinfo, int arg, const char *name)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

/* A boolean argument; NULL counts as false. */
static bool
flag(FunctionCallInfo fcinfo, int arg)
{
	return !PG_ARGISNULL(arg) && PG_GETARG_BOOL(arg);
}

/*
 * uds_sync(source, mode, wait, force) → bigint, the task's id
 */
Datum
uds_sync(PG_FUNCTION_ARGS)
{
	UdsIdentity saved;
	UdsQueueRequest queue = {.kind = "sync",.requested_by = GetUserId()};
	char	   *mode = "auto";
	int64		task;

	uds_wait_require_argument(fcinfo, 0, "source");
	PreventCommandDuringRecovery("uds_sync()");
	uds_require_preload("uds_sync()");
	if (!PG_ARGISNULL(1))
		mode = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (strcmp(mode, "auto") != 0 && strcmp(mode, "full") != 0 &&
		strcmp(mode, "incremental") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid mode of a sync: \"%s\"", mode),
				 errhint("Valid modes are \"auto\", \"full\" and \"incremental\".")));
	queue.source_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	queue.mode = mode;
	queue.force = flag(fcinfo, 3);

	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	queue.source = uds_wait_find_source(queue.source_name, false);
	task = uds_wait_queue(&queue, flag(fcinfo, 2));
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_INT64(task);
}

/*
 * uds_retry(task, wait) → bigint, a new task that runs it again
 */
Datum
uds_retry(PG_FUNCTION_ARGS)
{
	UdsIdentity saved;
	UdsQueueRequest queue = {.requested_by = GetUserId()};
	UdsTaskRow    *row;
	int64		task;

	uds_wait_require_argument(fcinfo, 0, "task");
	PreventCommandDuringRecovery("uds_retry()");
	uds_require_preload("uds_retry()");
	queue.retry_of = PG_GETARG_INT64(0);

	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	row = uds_wait_read_task(queue.retry_of);
	if (strcmp(row->kind, "sync") != 0 && strcmp(row->kind, "preview") != 0 &&
		strcmp(row->kind, "event") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("task " INT64_FORMAT " cannot be retried: it is of kind \"%s\"",
						queue.retry_of, row->kind),
				 errhint("Tasks of kind sync, preview and event can.")));
	if (strcmp(row->status, "failed") != 0 && strcmp(row->status, "partial") != 0 &&
		strcmp(row->status, "canceled") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("task " INT64_FORMAT " cannot be retried: its status is \"%s\"",
						queue.retry_of, row->status),
				 errhint("Failed, partial and canceled tasks can.")));
	if (row->source == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("task " INT64_FORMAT " cannot be retried: its source was dropped",
						queue.retry_of)));
	queue.source_name = row->source;
	queue.source = uds_wait_find_source(row->source, false);
	queue.kind = row->kind;
	queue.mode = row->mode;
	queue.force = row->force;
	task = uds_wait_queue(&queue, flag(fcinfo, 1));
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_INT64(task);
}

/*
 * uds_wait(task, timeout) → text, the status it ended with, or has at the
 * timeout; NULL waits without end
 */
Datum
uds_wait(PG_FUNCTION_ARGS)
{
	UdsIdentity saved;
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz deadline = DT_NOEND;
	Datum		now = TimestampTzGetDatum(GetCurrentTimestamp());
	int64		task;
	UdsTaskRow    *row;
	text	   *status;

	uds_wait_require_argument(fcinfo, 0, "task");
	task = PG_GETARG_INT64(0);
	if (!PG_ARGISNULL(1))
		deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														   now, PG_GETARG_DATUM(1)));

	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	row = uds_wait_read_task(task);
	if (row->mine && !has_ended(row->status))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot wait for task " INT64_FORMAT ": this transaction queued it",
						task),
				 errhint("It begins when the transaction commits; wait for it after that.")));
	if (!has_ended(row->status))
	{
		uds_require_preload("uds_wait()");
		row = wait_for_end(task, deadline, false);
	}
	MemoryContextSwitchTo(caller);
	status = cstring_to_text(row->status);
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_TEXT_P(status);
}

/*
 * Cancels a task that waits, in the current transaction, or one that runs, at
 * once.  False if it has ended; ERROR if there is none of this id.  SPI must
 * be connected.
 *
 * Asked for the slot first, the common case never waits for the row, which
 * the worker has locked while it commits.  A task that begins while we wait
 * for the row is found in its slot the second time.
 */
bool
uds_cancel_task(int64 task)
{
	return uds_slot_cancel(MyDatabaseId, task) ||
		uds_task_cancel_waiting(task) ||
		uds_slot_cancel(MyDatabaseId, task);
}

/*
 * uds_cancel(task) → boolean, false if it has ended already
 */
Datum
uds_cancel(PG_FUNCTION_ARGS)
{
	UdsIdentity saved;
	bool		canceled;

	uds_wait_require_argument(fcinfo, 0, "task");
	PreventCommandDuringRecovery("uds_cancel()");
	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	canceled = uds_cancel_task(PG_GETARG_INT64(0));
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_BOOL(canceled);
}

/*
 * uds_test_source(name) → the steps of trying it out, one row each
 */
Datum
uds_test_source(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	UdsIdentity saved;
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	char	   *name;
	uint64		n;

	uds_wait_require_argument(fcinfo, 0, "name");
	PreventCommandDuringRecovery("uds_test_source()");
	uds_require_preload("uds_test_source()");
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));

	InitMaterializedSRF(fcinfo, 0);
	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	values[0] = CStringGetTextDatum(uds_request_test(uds_wait_find_source(name, true), name));
	n = uds_spi_exec("SELECT step, ok, detail, elapsed_ms"
					 "  FROM jsonb_to_recordset($1::jsonb)"
					 "       AS s (step text, ok boolean, detail text, elapsed_ms integer)",
					 1, types, values, NULL);
	for (uint64 i = 0; i < n; i++)
		tuplestore_puttuple(result->setResult, SPI_tuptable->vals[i]);
	SPI_finish();
	uds_unbecome(&saved);
	return (Datum) 0;
}
