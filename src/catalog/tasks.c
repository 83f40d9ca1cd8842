/*-------------------------------------------------------------------------
 *
 * tasks.c
 *		The queue: uds.tasks from init to its end.
 *
 * Owns uds.tasks.  Queueing and canceling run in the caller's transaction in
 * a backend, the rest in background workers.  Takes row locks on tasks,
 * FOR KEY SHARE locks on sources, and two locks of its own per source.
 *
 * Who may do what at the same time:
 *
 * Queue and queue.  Two callers must not both find that no sync waits and
 * add one each.  So a caller takes the QUEUE lock of the source, to the end
 * of its transaction, and only then looks, with a snapshot taken after that
 * (in REPEATABLE READ as well).  The row of the source is no place for this
 * lock: a task holds that while it applies what it read, perhaps for
 * minutes, and uds_sync() returns at once.
 *
 * Claim and claim.  Two workers must not begin two tasks of one source.
 * Each takes the CLAIM lock of the source first, without waiting, and looks
 * again with a fresh snapshot whether one is running.  Nobody but workers
 * takes it, and only for the moment of the claim.  The unique index
 * tasks_one_running is there should this comment be wrong.
 *
 * Claim and queue or cancel.  These lock the row of the task.  A claim skips
 * a row that is locked: it never waits for a user's transaction, and a
 * caller who joins a task that is being claimed waits for that commit and
 * then finds that the task does not wait any more.
 *
 * Claim and reap.  A worker announces the task in shared memory before it
 * commits the claim, and withdraws it after it has committed the end.  The
 * reaper locks the row first and looks for the announcement then: the row it
 * has locked says "processing" and nobody is about to change that, so if
 * there is no announcement the worker is dead.  The other way round, a claim
 * between looking and locking would be taken for a corpse.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog/catalog.h"
#include "process/process.h"
#include "uds.h"

/* sets our locks apart from those of pg_advisory_lock(), which are 1 and 2 */
#define LOCK_QUEUE	0x7564
#define LOCK_CLAIM	0x7565

/* kinds that read the source, and so need it enabled and armed */
#define READING_KINDS "('sync', 'preview', 'event')"

static const char *const waiting_sql =
"SELECT id"
"  FROM uds.tasks"
" WHERE source_id = $1 AND status = 'init' AND kind = $2"
"   AND retry_of IS NOT DISTINCT FROM $3"
" ORDER BY id"
" LIMIT 1"
"   FOR NO KEY UPDATE";

/* Only where something changes: a row left alone can be claimed meanwhile. */
static const char *const strengthen_sql =
"UPDATE uds.tasks"
"   SET mode = CASE WHEN 'full' IN (mode, $2) THEN 'full'"
"                   WHEN 'auto' IN (mode, $2) THEN 'auto'"
"                   ELSE mode END,"
"       force = force OR $3,"
"       due_at = least(due_at, clock_timestamp())"
" WHERE id = $1"
"   AND ($3 AND NOT force"
"        OR due_at > clock_timestamp()"
"        OR $2 = 'full' AND mode <> 'full'"
"        OR $2 = 'auto' AND mode = 'incremental')";

static const char *const insert_sql =
"INSERT INTO uds.tasks (source_id, kind, mode, force, retry_of, requested_by)"
" VALUES ($1, $2, $3, $4, $5, $6)"
" RETURNING id";

static const char *const due_sources_sql =
"SELECT t.source_id"
"  FROM uds.tasks t"
" WHERE t.status = 'init' AND t.kind <> 'push' AND t.source_id IS NOT NULL"
"   AND t.due_at <= clock_timestamp()"
"   AND NOT EXISTS (SELECT FROM uds.tasks p"
"                    WHERE p.source_id = t.source_id"
"                      AND p.status = 'processing' AND p.kind <> 'push')"
" GROUP BY t.source_id"
" ORDER BY min(t.due_at), t.source_id";

static const char *const claim_sql =
"UPDATE uds.tasks"
"   SET status = 'processing', attempt = attempt + 1,"
"       started_at = clock_timestamp(), message = NULL"
" WHERE id = (SELECT t.id"
"               FROM uds.tasks t"
"              WHERE t.source_id = $1"
"                AND t.status = 'init' AND t.kind <> 'push'"
"                AND t.due_at <= clock_timestamp()"
"                AND NOT EXISTS (SELECT FROM uds.tasks p"
"                                 WHERE p.source_id = $1"
"                                   AND p.status = 'processing' AND p.kind <> 'push')"
"              ORDER BY t.due_at, t.id"
"              LIMIT 1"
"                FOR NO KEY UPDATE SKIP LOCKED)"
" RETURNING id, kind, mode, force, attempt, coalesce(retry_of, 0)";

static const char *const cancel_unreadable_sql =
"UPDATE uds.tasks k"
"   SET status = 'canceled', finished_at = clock_timestamp(), message = w.why"
"  FROM (SELECT t.id,"
"               CASE WHEN s.enabled"
"                    THEN 'the source is not armed in this database, a copy of the one it was set up in."
" Hint: If it shall be read from here, call uds_arm() and queue the task again.'"
"                    ELSE 'the source is disabled' END AS why"
"          FROM uds.tasks t"
"          JOIN uds.source_settings s ON s.id = t.source_id"
"         CROSS JOIN uds.installation i"
"         WHERE t.status = 'init' AND t.kind IN " READING_KINDS
"           AND t.due_at <= clock_timestamp()"
"           AND NOT (s.enabled AND s.armed_in IS NOT DISTINCT FROM i.id)"
"           FOR NO KEY UPDATE OF t SKIP LOCKED) AS w"
" WHERE k.id = w.id";

/* What a task came to: columns, and their values from $2 on. */
#define OUTCOME \
"status, message, finished_at, cost, pages, requests, throttled_ms, fetched," \
"        created, updated, unchanged, enabled, disabled, deleted, linked, unlinked," \
"        skipped, failed, fetch_ms, apply_ms, complete"
#define OUTCOME_VALUES(started_at) \
"$2, $3, clock_timestamp()," \
"        round(1000 * extract(epoch FROM clock_timestamp() - " started_at "))," \
"        $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19," \
"        CASE $20 WHEN 1 THEN true WHEN 0 THEN false END"

static const char *const finish_sql =
"UPDATE uds.tasks"
"   SET (" OUTCOME ")"
"     = ROW(" OUTCOME_VALUES("started_at") ")"
" WHERE id = $1 AND status = 'processing'";

/* The row of a push, made when it begins. */
static const char *const begin_push_sql =
"INSERT INTO uds.tasks (id, source_id, kind, status, attempt, requested_by, created_at, started_at)"
"OVERRIDING SYSTEM VALUE "
"VALUES ($1, $2, 'push', 'processing', 1, $3, $4, $4)";

/* The same made when it has ended; $21 source, $22 requested by, $23 since when. */
static const char *const store_push_sql =
"INSERT INTO uds.tasks (id, source_id, kind, attempt, requested_by, created_at, started_at,"
"        " OUTCOME ")"
"OVERRIDING SYSTEM VALUE "
"VALUES ($1, $21, 'push', 1, $22, $23, $23,"
"        " OUTCOME_VALUES("$23") ")";

static const char *const corpses_sql =
"SELECT id"
"  FROM uds.tasks"
" WHERE status = 'processing' AND kind <> 'push'"
"   FOR NO KEY UPDATE SKIP LOCKED";

static const char *const revive_sql =
"UPDATE uds.tasks"
"   SET status = 'init', started_at = NULL,"
"       message = format('the worker ended unexpectedly in attempt %s of %s', attempt, $2),"
"       due_at = clock_timestamp()"
"           + least($3 * 2 ^ least(attempt - 1, 30) * (0.75 + random() / 2), $4)"
"             * interval '1 millisecond'"
" WHERE id = $1 AND attempt < $2 AND source_id IS NOT NULL";

static const char *const bury_sql =
"UPDATE uds.tasks"
"   SET status = 'failed', finished_at = clock_timestamp(),"
"       cost = round(1000 * extract(epoch FROM clock_timestamp() - started_at)),"
"       message = format('the worker ended unexpectedly in attempt %s of %s."
" Hint: The server log tells why.', attempt, $2)"
" WHERE id = $1"
" RETURNING source_id, message";

static const char *const cancel_sql =
"UPDATE uds.tasks"
"   SET status = 'canceled', finished_at = clock_timestamp(),"
"       message = 'canceled'"
" WHERE id = $1";

static const char *const next_due_sql =
"SELECT min(t.due_at)"
"  FROM uds.tasks t"
" WHERE t.status = 'init' AND t.kind <> 'push' AND t.source_id IS NOT NULL"
"   AND NOT EXISTS (SELECT FROM uds.tasks p"
"                    WHERE p.source_id = t.source_id"
"                      AND p.status = 'processing' AND p.kind <> 'push')";

/*
 * Runs a statement with a snapshot that sees everything committed by now,
 * whatever the isolation level of the caller's transaction.
 */
static uint64
exec_latest(const char *sql, int nargs, Oid *types, Datum *values,
			const char *nulls)
{
	SPIPlanPtr	plan = SPI_prepare(sql, nargs, types);
	int			result;

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s",
			 sql, SPI_result_code_string(SPI_result));
	result = SPI_execute_snapshot(plan, values, nulls, GetLatestSnapshot(),
								  InvalidSnapshot, false, true, 0);
	if (result < 0)
		elog(ERROR, "could not execute \"%s\": %s",
			 sql, SPI_result_code_string(result));
	return SPI_processed;
}

static int64
first_int64(int row, int column)
{
	bool		isnull;

	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row],
									   SPI_tuptable->tupdesc, column, &isnull));
}

static LockAcquireResult
lock_source(int64 source, uint16 purpose, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (source >> 32),
						 (uint32) source, purpose);
	return LockAcquire(&tag, ExclusiveLock, false, !wait);
}

/*
 * Whether this transaction has queued or joined a task of the source, so that
 * nobody else can until it ends.
 */
bool
uds_task_queue_is_mine(int64 source)
{
	LOCKTAG		tag;
	LockAcquireResult result = lock_source(source, LOCK_QUEUE, false);

	if (result == LOCKACQUIRE_NOT_AVAIL)
		return false;
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (source >> 32),
						 (uint32) source, LOCK_QUEUE);
	LockRelease(&tag, ExclusiveLock, false);
	return result != LOCKACQUIRE_OK;
}

/*
 * Queues a task in the caller's transaction and returns its id; the launcher
 * learns of it at commit.
 *
 * At most one sync of a source waits, and at most one retry of the same task:
 * a further one joins it, which makes it stronger where the new call is (full
 * over auto over incremental; force) and due at once.  *joined tells.
 * "retry_of" is 0 for none; "requested_by" is the role on whose behalf.
 *
 * ERROR if there is no such source.  Waits for transactions that have queued
 * for the same source or are changing or dropping it.
 */
int64
uds_task_queue(int64 source, const char *kind, const char *mode, bool force,
			   int64 retry_of, Oid requested_by, bool *joined)
{
	Oid			types[6] = {INT8OID};
	Datum		values[6] = {Int64GetDatum(source)};
	char		nulls[7] = "      ";
	char	   *role = GetUserNameFromId(requested_by, true);
	int64		id;

	*joined = false;
	if (exec_latest("SELECT FROM uds.source_settings WHERE id = $1 FOR KEY SHARE",
					1, types, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source " INT64_FORMAT " does not exist for other sessions",
						source),
				 errhint("If this transaction created it, commit first.")));
	lock_source(source, LOCK_QUEUE, true);

	types[1] = TEXTOID;
	values[1] = CStringGetTextDatum(kind);
	types[2] = INT8OID;
	values[2] = Int64GetDatum(retry_of);
	nulls[2] = retry_of == 0 ? 'n' : ' ';
	if ((strcmp(kind, "sync") == 0 || retry_of != 0) &&
		exec_latest(waiting_sql, 3, types, values, nulls) > 0)
	{
		*joined = true;
		id = first_int64(0, 1);
		values[0] = Int64GetDatum(id);
		values[1] = CStringGetTextDatum(mode);
		types[2] = BOOLOID;
		values[2] = BoolGetDatum(force);
		exec_latest(strengthen_sql, 3, types, values, NULL);
	}
	else
	{
		types[2] = TEXTOID;
		values[2] = CStringGetTextDatum(mode);
		nulls[2] = ' ';
		types[3] = BOOLOID;
		values[3] = BoolGetDatum(force);
		types[4] = INT8OID;
		values[4] = Int64GetDatum(retry_of);
		nulls[4] = retry_of == 0 ? 'n' : ' ';
		types[5] = TEXTOID;
		values[5] = CStringGetTextDatum(role ? role : "?");
		exec_latest(insert_sql, 6, types, values, nulls);
		id = first_int64(0, 1);
	}
	uds_wake_at_commit();
	return id;
}

/*
 * Claims the task that has been due longest, of a source of which none runs.
 * False if there is none, or none that can be had without waiting.
 *
 * The attempt is counted and the task announced; both hold once the caller
 * commits, which it must do before the task begins.  Due tasks of sources that
 * are disabled or not armed end canceled, unless they only put back or approve
 * what has been read already.
 */
bool
uds_task_claim(UdsTask *task, void (*announce) (const UdsTask *))
{
	Oid			types[1] = {INT8OID};
	SPITupleTable *sources;
	uint64		n;

	uds_spi_exec(cancel_unreadable_sql, 0, NULL, NULL, NULL);
	n = uds_spi_exec(due_sources_sql, 0, NULL, NULL, NULL);
	sources = SPI_tuptable;
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;
		Datum		source = SPI_getbinval(sources->vals[i], sources->tupdesc, 1,
										   &isnull);

		if (lock_source(DatumGetInt64(source), LOCK_CLAIM, false) ==
			LOCKACQUIRE_NOT_AVAIL)
			continue;
		if (uds_spi_exec(claim_sql, 1, types, &source, NULL) == 0)
			continue;

		memset(task, 0, sizeof(UdsTask));
		task->source_id = DatumGetInt64(source);
		task->id = first_int64(0, 1);
		strlcpy(task->kind, uds_spi_text(0, 2), sizeof(task->kind));
		strlcpy(task->mode, uds_spi_text(0, 3), sizeof(task->mode));
		task->force = uds_spi_text(0, 4)[0] == 't';
		task->attempt = pg_strtoint32(uds_spi_text(0, 5));
		task->retry_of = first_int64(0, 6);
		announce(task);
		return true;
	}
	return false;
}

/*
 * Begins a push: gives the task an id.  Its row is made when it ends, which
 * costs half of making it now and altering it then.  The caller sees to it that
 * uds_task_store_push() comes before anything that refers to it.  ERROR in a
 * read-only transaction.
 */
void
uds_task_begin_push(UdsTask *task, int64 source, const char *requested_by)
{
	Oid			namespace = get_namespace_oid("uds", false);

	PreventCommandIfReadOnly("INSERT");
	task->source_id = source;
	task->requested_by = requested_by;
	task->started_at = GetCurrentTimestamp();
	task->unstored = true;
	task->id = nextval_internal(get_relname_relid("tasks_id_seq", namespace), false);
}

/*
 * Makes the row of a push, if it is not there yet.
 */
void
uds_task_store_push(UdsTask *task)
{
	Oid			types[4] = {INT8OID, INT8OID, TEXTOID, TIMESTAMPTZOID};
	Datum		values[4] = {Int64GetDatum(task->id), Int64GetDatum(task->source_id)};

	if (!task->unstored)
		return;
	values[2] = CStringGetTextDatum(task->requested_by);
	values[3] = TimestampTzGetDatum(task->started_at);
	uds_spi_exec(begin_push_sql, 4, types, values, NULL);
	task->unstored = false;
}

/* $1 to $20 of statements that store what a task came to. */
enum
{
	FIRST_COUNT = 3, LAST_COUNT = 18, COMPLETE, OUTCOME_ARGS
};

/* Sets those; nulls that there are none of are left as they are. */
static void
set_outcome(int64 task, const char *status, const char *message,
			const UdsTaskCounts *counts, Oid *types, Datum *values, char *nulls)
{
	UdsTaskCounts none = {.complete = -1};
	const UdsTaskCounts *c = counts ? counts : &none;
	const int64 numbers[] = {
		c->pages, c->requests, c->throttled_ms, c->fetched, c->created,
		c->updated, c->unchanged, c->enabled, c->disabled, c->deleted,
		c->linked, c->unlinked, c->skipped, c->failed, c->fetch_ms, c->apply_ms
	};

	StaticAssertStmt(lengthof(numbers) == LAST_COUNT - FIRST_COUNT + 1,
					 "every count has its place");
	types[0] = INT8OID;
	values[0] = Int64GetDatum(task);
	types[1] = types[2] = TEXTOID;
	values[1] = CStringGetTextDatum(status);
	if (message != NULL)
		values[2] = CStringGetTextDatum(message);
	else
		nulls[2] = 'n';
	for (int i = 0; i < lengthof(numbers); i++)
	{
		types[FIRST_COUNT + i] = INT8OID;
		values[FIRST_COUNT + i] = Int64GetDatum(numbers[i]);
	}
	types[COMPLETE] = INT4OID;
	values[COMPLETE] = Int32GetDatum(c->complete);
}

/*
 * Ends a running task; does nothing if it has ended already.  "message" may
 * be NULL, as may "counts", which stands for all zero.  The caller calls
 * uds_tasks_broadcast() after its commit.
 */
void
uds_task_finish(int64 task, const char *status, const char *message,
				const UdsTaskCounts *counts)
{
	Oid			types[OUTCOME_ARGS];
	Datum		values[OUTCOME_ARGS];
	char		nulls[OUTCOME_ARGS + 1];

	memset(nulls, ' ', OUTCOME_ARGS);
	nulls[OUTCOME_ARGS] = '\0';
	set_outcome(task, status, message, counts, types, values, nulls);
	uds_spi_exec(finish_sql, OUTCOME_ARGS, types, values, nulls);
}

/*
 * Ends a push, with the counts in the task.
 */
void
uds_task_finish_push(const UdsTask *task, const char *status, const char *message)
{
	Oid			types[OUTCOME_ARGS + 3];
	Datum		values[OUTCOME_ARGS + 3];
	char		nulls[OUTCOME_ARGS + 4];

	if (!task->unstored)
	{
		uds_task_finish(task->id, status, message, &task->counts);
		return;
	}
	memset(nulls, ' ', OUTCOME_ARGS + 3);
	nulls[OUTCOME_ARGS + 3] = '\0';
	set_outcome(task->id, status, message, &task->counts, types, values, nulls);
	types[OUTCOME_ARGS] = INT8OID;
	values[OUTCOME_ARGS] = Int64GetDatum(task->source_id);
	types[OUTCOME_ARGS + 1] = TEXTOID;
	values[OUTCOME_ARGS + 1] = CStringGetTextDatum(task->requested_by);
	types[OUTCOME_ARGS + 2] = TIMESTAMPTZOID;
	values[OUTCOME_ARGS + 2] = TimestampTzGetDatum(task->started_at);
	uds_spi_exec(store_push_sql, OUTCOME_ARGS + 3, types, values, nulls);
}

/*
 * Cancels a task that no worker runs: one that waits, or one whose worker is
 * dead.  False if it runs or has ended; ERROR if there is none of this id.
 *
 * Runs in the caller's transaction and sees what was committed by now.
 */
bool
uds_task_cancel_waiting(int64 task)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(task)};
	char	   *status;

	if (exec_latest("SELECT status FROM uds.tasks WHERE id = $1 FOR NO KEY UPDATE",
					1, types, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("task " INT64_FORMAT " does not exist", task),
				 errhint("SELECT id, status FROM uds.tasks lists the tasks.")));
	status = uds_spi_text(0, 1);
	if (strcmp(status, "init") != 0 &&
		(strcmp(status, "processing") != 0 || uds_slot_runs(MyDatabaseId, task)))
		return false;
	exec_latest(cancel_sql, 1, types, values, NULL);
	uds_wake_at_commit();
	return true;
}

/*
 * Finds running tasks whose worker is dead: they wait again, with a delay
 * that grows, or fail if their attempts are used up.
 */
void
uds_task_reap(void)
{
	Oid			types[4] = {INT8OID, INT4OID, FLOAT8OID, FLOAT8OID};
	Datum		values[4];
	SPITupleTable *tasks;
	uint64		n = uds_spi_exec(corpses_sql, 0, NULL, NULL, NULL);

	tasks = SPI_tuptable;
	values[1] = Int32GetDatum(uds_max_attempts);
	values[2] = Float8GetDatum(uds_retry_interval);
	values[3] = Float8GetDatum(uds_retry_max_interval);
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;
		int64		task = DatumGetInt64(SPI_getbinval(tasks->vals[i],
													   tasks->tupdesc, 1, &isnull));

		if (uds_slot_runs(MyDatabaseId, task))
			continue;
		values[0] = Int64GetDatum(task);
		if (uds_spi_exec(revive_sql, 4, types, values, NULL) > 0)
		{
			ereport(LOG,
					(errmsg("uds: worker of task " INT64_FORMAT " ended unexpectedly, the task waits to begin again",
							task)));
			continue;
		}
		uds_spi_exec(bury_sql, 2, types, values, NULL);
		ereport(LOG,
				(errmsg("uds: worker of task " INT64_FORMAT " ended unexpectedly once too often, the task failed",
						task)));
		if (uds_spi_text(0, 1) != NULL)
			uds_source_note_failure(first_int64(0, 1), task, uds_spi_text(0, 2));
	}
}

/*
 * When the next waiting task is due, of sources of which none runs: what
 * waits behind a running task is taken by the worker of that.  DT_NOEND if
 * there is none.
 */
TimestampTz
uds_task_next_due(void)
{
	bool		isnull;
	Datum		due = uds_spi_value(next_due_sql, 0, NULL, NULL, NULL, &isnull);

	return isnull ? DT_NOEND : DatumGetTimestampTz(due);
}

/*
 * Whether this database has the extension.  Needs a transaction, no SPI.
 */
bool
uds_extension_installed(void)
{
	return OidIsValid(get_extension_oid("uds", true));
}
