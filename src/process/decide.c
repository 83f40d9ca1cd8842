/*-------------------------------------------------------------------------
 *
 * decide.c
 *		uds_preview(), uds_approve(), uds_reject(), uds_undo(): looking at a
 *		change set before it is written, deciding on it, taking it back.
 *
 * Runs in backends, with the tables of the extension accessed as its owner;
 * row locks on tasks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "catalog/catalog.h"
#include "process/process.h"
#include "process/replay.h"
#include "process/wait.h"

PG_FUNCTION_INFO_V1(uds_preview);
PG_FUNCTION_INFO_V1(uds_approve);
PG_FUNCTION_INFO_V1(uds_reject);
PG_FUNCTION_INFO_V1(uds_undo);

static const char *const approval_sql =
"SELECT id"
"  FROM uds.tasks"
" WHERE retry_of = $1 AND kind = 'approve'"
"   AND status NOT IN ('failed', 'canceled')"
" ORDER BY id"
" LIMIT 1";

static const char *const reject_sql =
"UPDATE uds.tasks"
"   SET status = 'canceled', message = 'rejected by ' || $2 || ': ' || message"
" WHERE id = $1 AND status = 'blocked'";

/*
 * Reads a task and keeps others from deciding on it until the transaction
 * ends.  ERROR unless it waits for a decision, or is a preview that went well.
 */
static UdsTaskRow *
take_decidable(int64 id, bool preview_too)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(id)};
	UdsTaskRow *row;

	/* compatible with the key share lock of an approval that is queued */
	uds_spi_exec("SELECT FROM uds.tasks WHERE id = $1 FOR NO KEY UPDATE",
				 1, types, values, NULL);
	row = uds_wait_read_task(id);
	if (strcmp(row->status, "blocked") != 0 &&
		!(preview_too && strcmp(row->kind, "preview") == 0 &&
		  strcmp(row->status, "success") == 0))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("task " INT64_FORMAT " (%s) waits for no decision: its status is \"%s\"",
						id, row->kind, row->status),
				 preview_too ?
				 errhint("Blocked tasks and finished previews can be approved.") :
				 errhint("Blocked tasks can be rejected.")));
	if (uds_spi_exec(approval_sql, 1, types, values, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("task " INT64_FORMAT " was approved already, as task %s",
						id, uds_spi_text(0, 1)),
				 errhint("Should that one be blocked, decide on it.")));
	return row;
}

/*
 * uds_preview(source, wait) → bigint, a task that runs to its end and is
 * rolled back; its change set stays
 */
Datum
uds_preview(PG_FUNCTION_ARGS)
{
	UdsIdentity saved;
	UdsQueueRequest queue = {.kind = "preview",.mode = "full",.requested_by = GetUserId()};
	int64		task;

	uds_wait_require_argument(fcinfo, 0, "source");
	PreventCommandDuringRecovery("uds_preview()");
	uds_require_preload("uds_preview()");
	queue.source_name = text_to_cstring(PG_GETARG_TEXT_PP(0));

	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	queue.source = uds_wait_find_source(queue.source_name, false);
	task = uds_wait_queue(&queue, PG_ARGISNULL(1) || PG_GETARG_BOOL(1));
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_INT64(task);
}

/*
 * uds_approve(task, wait) → bigint, a new task that applies the change set of
 * a blocked task or of a preview
 */
Datum
uds_approve(PG_FUNCTION_ARGS)
{
	UdsIdentity saved;
	UdsQueueRequest queue = {.kind = "approve",.mode = "full",.requested_by = GetUserId()};
	UdsTaskRow *row;
	int64		task;

	uds_wait_require_argument(fcinfo, 0, "task");
	PreventCommandDuringRecovery("uds_approve()");
	uds_require_preload("uds_approve()");
	queue.retry_of = PG_GETARG_INT64(0);

	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	row = take_decidable(queue.retry_of, true);
	if (row->source == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("task " INT64_FORMAT " cannot be approved: its source was dropped",
						queue.retry_of)));
	uds_replay_require_pages(queue.retry_of);
	queue.source_name = row->source;
	queue.source = uds_wait_find_source(row->source, true);
	task = uds_wait_queue(&queue, !PG_ARGISNULL(1) && PG_GETARG_BOOL(1));
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_INT64(task);
}

/*
 * uds_reject(task) → void; a blocked task becomes canceled
 */
Datum
uds_reject(PG_FUNCTION_ARGS)
{
	UdsIdentity saved;
	Oid			types[2] = {INT8OID, TEXTOID};
	Datum		values[2];
	int64		id;

	uds_wait_require_argument(fcinfo, 0, "task");
	id = PG_GETARG_INT64(0);
	values[0] = Int64GetDatum(id);
	values[1] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));

	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	(void) take_decidable(id, false);
	uds_spi_exec(reject_sql, 2, types, values, NULL);
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_VOID();
}

/*
 * uds_undo(task, wait) → bigint, a new task that puts back what the task
 * changed
 */
Datum
uds_undo(PG_FUNCTION_ARGS)
{
	UdsIdentity saved;
	UdsQueueRequest queue = {.kind = "undo",.mode = "auto",.requested_by = GetUserId()};
	bool		wait = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	UdsTaskRow *row;
	int64		task;

	uds_wait_require_argument(fcinfo, 0, "task");
	PreventCommandDuringRecovery("uds_undo()");
	uds_require_preload("uds_undo()");
	queue.retry_of = PG_GETARG_INT64(0);

	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	row = uds_wait_read_task(queue.retry_of);
	queue.source_name = row->source;
	queue.source = uds_undo_require(queue.retry_of, 0);
	if (wait && row->mine)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot wait for an undo of task " INT64_FORMAT ": it is part of this transaction",
						queue.retry_of),
				 errhint("Commit first: tasks begin when the transaction that queued them commits.")));
	task = uds_wait_queue(&queue, wait);
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_INT64(task);
}
