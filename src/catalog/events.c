/*-------------------------------------------------------------------------
 *
 * events.c
 *		Change events: stored when they come, taken by tasks that ask the
 *		service for what they tell of.
 *
 * Owns uds.event_log.  Storing runs in the listener, the rest in sync workers.
 * Takes row locks on events and tasks, and a lock of its own per source, so
 * that events which come at the same time find the same waiting task.  Its row
 * is locked until the event is there for all to see: a worker skips it until
 * then, and takes the event with the others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"

#include "catalog/catalog.h"
#include "process/process.h"
#include "uds.h"

/* sets our lock apart from the others of tasks.c and reconcile.c */
#define LOCK_EVENTS 0x7567

/* rows deleted by one transaction */
#define CLEANUP_BATCH 20000

/* $2 its id, $3 type, $4 what it tells of, $5 the message */
static const char *const store_sql =
"INSERT INTO uds.event_log AS e (source_id, event_id, event_type, changes, message)"
"VALUES ($1, $2, $3, $4, $5)"
"ON CONFLICT (source_id, event_id) DO UPDATE"
"   SET deliveries = e.deliveries + 1,"
"       last_received_at = clock_timestamp()"
" RETURNING e.id, e.deliveries";

static const char *const waiting_sql =
"SELECT id"
"  FROM uds.tasks"
" WHERE source_id = $1 AND status = 'init' AND kind = 'event' AND retry_of IS NULL"
" ORDER BY id"
" LIMIT 1"
"   FOR NO KEY UPDATE";

/* $2 requested by, $3 ms until it is due */
static const char *const queue_sql =
"INSERT INTO uds.tasks (source_id, kind, requested_by, due_at)"
"VALUES ($1, 'event', $2, clock_timestamp() + $3 * interval '1 millisecond')"
" RETURNING due_at";

/* $2 the task that takes them, $3 the one that it retries */
static const char *const take_sql =
"UPDATE uds.event_log"
"   SET task_id = $2"
" WHERE source_id = $1 AND changes <> '[]'"
"   AND (task_id IS NULL OR task_id = nullif($3, 0))";

/* Who was renamed is asked for by the new id. */
static const char *const changes_sql =
"SELECT DISTINCT c.value ->> 'type', coalesce(c.value ->> 'renamed', c.value ->> 'id')"
"  FROM uds.event_log e"
" CROSS JOIN LATERAL jsonb_array_elements(e.changes) AS c"
" WHERE e.task_id = $1"
" ORDER BY 1, 2";

/*
 * Moves records of users to the ids that they have now, also over several
 * renames in a row; but not where somebody has this id already.
 */
static const char *const rename_sql =
"WITH RECURSIVE fold AS"
"     (SELECT coalesce(t.manifest -> 'ignore_case' ? 'user', false) AS fold"
"        FROM uds.source_manifests t"
"       WHERE t.source_id = $1),"
"     step AS"
"     (SELECT e.id, CASE WHEN f.fold THEN lower(c.value ->> 'id') ELSE c.value ->> 'id' END AS old_key,"
"             c.value ->> 'renamed' AS uid,"
"             CASE WHEN f.fold THEN lower(c.value ->> 'renamed') ELSE c.value ->> 'renamed' END AS uid_key"
"        FROM uds.event_log e"
"       CROSS JOIN fold f"
"       CROSS JOIN LATERAL jsonb_array_elements(e.changes) AS c"
"       WHERE e.task_id = $2 AND c.value ->> 'type' = 'user' AND c.value ->> 'renamed' <> ''),"
"     chain AS"
"     (SELECT id, old_key, uid, uid_key FROM step"
"       UNION"
"      SELECT s.id, c.old_key, s.uid, s.uid_key"
"        FROM chain c"
"        JOIN step s ON s.old_key = c.uid_key AND s.id > c.id),"
"     last AS"
"     (SELECT DISTINCT ON (uid_key) old_key, uid, uid_key"
"        FROM (SELECT DISTINCT ON (old_key) id, old_key, uid, uid_key"
"                FROM chain"
"               ORDER BY old_key, id DESC) AS l"
"       ORDER BY uid_key, id) "
"UPDATE uds.records r"
"   SET uid = l.uid, uid_key = l.uid_key"
"  FROM last l"
" WHERE r.source_id = $1 AND r.data_type = 'user' AND r.uid_key = l.old_key"
"   AND NOT EXISTS (SELECT 1"
"                     FROM uds.records o"
"                    WHERE o.source_id = $1 AND o.data_type = 'user' AND o.uid_key = l.uid_key)";

static const char *const cleanup_sql =
"DELETE FROM uds.event_log"
" WHERE ctid = ANY (ARRAY(SELECT e.ctid"
"                           FROM uds.event_log e"
"                          WHERE e.last_received_at < clock_timestamp() - make_interval(mins => $1)"
"                            AND (e.task_id IS NOT NULL OR e.changes = '[]')"
"                          LIMIT $2))";

/* Has a task take the events of a source, a while after the first of them. */
static void
queue_task(int64 source, const char *requested_by)
{
	Oid			types[3] = {INT8OID, TEXTOID, INT4OID};
	Datum		values[3] = {Int64GetDatum(source), CStringGetTextDatum(requested_by),
	Int32GetDatum(uds_event_delay)};
	LOCKTAG		tag;
	bool		isnull;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (source >> 32), (uint32) source, LOCK_EVENTS);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	if (uds_spi_exec(waiting_sql, 1, types, values, NULL) > 0)
		return;
	uds_wake_at_commit_for(DatumGetTimestampTz(uds_spi_value(queue_sql, 3, types, values, NULL,
															 &isnull)));
}

/*
 * Stores an event in the caller's transaction, and queues a task for it if it
 * tells of something.
 *
 * "changes" is a jsonb array of {type, id, renamed?}, "message" the event as
 * jsonb.  With "resync" it asks for a full sync instead.  False if it came
 * before; then nothing else happens.
 */
bool
uds_event_store(int64 source, const char *event_id, const char *event_type, Datum changes,
				Datum message, bool resync, Oid requested_by)
{
	Oid			types[5] = {INT8OID, TEXTOID, TEXTOID, JSONBOID, JSONBOID};
	Datum		values[5] = {Int64GetDatum(source), CStringGetTextDatum(event_id),
	CStringGetTextDatum(event_type), changes, message};
	char	   *id;

	uds_spi_exec(store_sql, 5, types, values, NULL);
	if (strcmp(uds_spi_text(0, 2), "1") != 0)
		return false;
	id = uds_spi_text(0, 1);
	if (resync)
	{
		bool		joined;
		int64		task = uds_task_queue(source, "sync", "full", false, 0, requested_by, &joined);

		types[1] = INT8OID;
		values[0] = Int64GetDatum(pg_strtoint64(id));
		values[1] = Int64GetDatum(task);
		uds_spi_exec("UPDATE uds.event_log SET task_id = $2 WHERE id = $1", 2, types, values, NULL);
	}
	else if (JB_ROOT_COUNT(DatumGetJsonbP(changes)) > 0)
		queue_task(source, GetUserNameFromId(requested_by, false));
	return true;
}

/*
 * Takes all events that wait for a task.  Returns what is to be asked for, of
 * UdsChange *, each once, in SPI's memory.
 */
List *
uds_events_take(const UdsTask *task)
{
	Oid			types[3] = {INT8OID, INT8OID, INT8OID};
	Datum		values[3] = {Int64GetDatum(task->source_id), Int64GetDatum(task->id),
	Int64GetDatum(task->retry_of)};
	List	   *changes = NIL;
	uint64		n;

	uds_spi_exec(take_sql, 3, types, values, NULL);
	n = uds_spi_exec(changes_sql, 1, types, &values[1], NULL);
	for (uint64 i = 0; i < n; i++)
	{
		UdsChange  *change = palloc(sizeof(UdsChange));

		change->data_type = uds_spi_text(i, 1);
		change->id = uds_spi_text(i, 2);
		changes = lappend(changes, change);
	}
	return changes;
}

/*
 * Gives records the ids that their users have now, as events told that a task
 * took.  In the transaction of a task, with the locks of a run.
 */
void
uds_events_rename(int64 source, int64 task)
{
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(source), Int64GetDatum(task)};

	uds_spi_exec(rename_sql, 2, types, values, NULL);
}

/*
 * Deletes events that came longer than uds.raw_log_retention ago, but none that
 * waits.  To be called outside a transaction.
 */
void
uds_events_cleanup(void)
{
	Oid			types[2] = {INT4OID, INT4OID};
	Datum		values[2] = {Int32GetDatum(uds_raw_log_retention), Int32GetDatum(CLEANUP_BATCH)};
	uint64		deleted;

	if (uds_raw_log_retention < 0)
		return;
	do
	{
		CHECK_FOR_INTERRUPTS();
		uds_xact_begin("uds: removing expired events");
		deleted = uds_spi_exec(cleanup_sql, 2, types, values, NULL);
		uds_xact_commit();
	} while (deleted == CLEANUP_BATCH);
}
