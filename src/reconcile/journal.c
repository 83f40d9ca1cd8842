/*-------------------------------------------------------------------------
 *
 * journal.c
 *		What records were before a task changed them: kept, and put back.
 *
 * Owns uds.record_history.  Of a record that a task saw first and made a row
 * for nothing is kept: that its changes have the row tells enough.  A record
 * is put back only while it is as the task left it, so that what later tasks
 * made of it stays.
 *
 * Fills the stage relation past, in an undo.  Runs in the transaction of a
 * task, as the extension's owner; row locks on records of the source.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "reconcile/stage.h"

static const char *const keep_sql =
"INSERT INTO uds.record_history (task_id, record_id, resource, resource_pk, was_disabled,"
"                                record, links, pending)"
"SELECT $2, p.record_id, p.resource, p.pk,"
"       EXISTS (SELECT 1"
"                 FROM uds.disabled_rows o"
"                WHERE o.resource = p.resource AND o.resource_pk = p.pk),"
"       to_jsonb(r) - '{last_data,hash}'::text[],"
"       (SELECT jsonb_agg(jsonb_build_object('resource', l.resource,"
"                                            'resource_pk', l.resource_pk,"
"                                            'created', l.created))"
"          FROM uds.record_resources l"
"         WHERE l.record_id = p.record_id),"
"       ARRAY(SELECT q.uid_key FROM uds.pending_references q WHERE q.record_id = p.record_id)"
"  FROM ({picked}) AS p"
"  {record} "
"ON CONFLICT DO NOTHING";

static const char *const record_condition =
"r.id = p.record_id";

/* Those that change or are seen first as deleted. */
static const char *const changing_sql =
"SELECT w.record_id, '{resource}' AS resource, w.pk::text AS pk"
"  FROM uds_work w"
" WHERE CASE WHEN w.is_new THEN w.link IS DISTINCT FROM 'new'"
"            ELSE w.is_changed OR w.link IS NOT NULL END";

/*
 * Those that lose the row they stand behind: because another record takes it
 * over, or because it goes.
 */
static const char *const losing_sql =
" UNION "
"SELECT l.record_id, l.resource, l.resource_pk"
"  FROM (SELECT m.* FROM uds_work m WHERE m.link = 'matched') AS w"
"  {matched}"
"  {other}"
" UNION "
"SELECT l.record_id, l.resource, l.resource_pk"
"  FROM (SELECT g.* FROM uds_leaving g WHERE g.resource = '{resource}') AS x"
"  {leaving}";

static const char *const matched_condition =
"l.resource = '{resource}' AND l.resource_pk = w.pk::text";

static const char *const other_condition =
"r.id = l.record_id AND r.source_id = $1 AND r.id <> w.record_id";

static const char *const leaving_condition =
"l.resource = '{resource}' AND l.resource_pk = x.pk::text";

/* Leavers whose row a record that comes back takes over once more. */
#define TAKEN_OVER \
"SELECT l.record_id, l.resource, l.resource_pk" \
"  FROM uds_past p" \
" CROSS JOIN LATERAL jsonb_to_recordset(p.links) AS k (resource text, resource_pk text)" \
"  JOIN uds.record_resources l ON l.resource = k.resource AND l.resource_pk = k.resource_pk" \
"  JOIN uds.records r ON r.id = l.record_id AND r.source_id = $1 AND r.deleted" \
" WHERE p.how <> 'remove'" \
"   AND NOT EXISTS (SELECT 1 FROM uds_past o WHERE o.record_id = l.record_id)"

static const char *const undoing_sql =
"SELECT p.record_id, p.resource, p.resource_pk AS pk"
"  FROM uds_past p"
" UNION "
"SELECT l.record_id, l.resource, l.resource_pk"
"  FROM uds_undone x"
"  JOIN uds.record_resources l ON l.resource = x.resource AND l.resource_pk = x.pk"
" WHERE x.how = 'delete' AND x.state IS NULL"
" UNION "
TAKEN_OVER;

/*
 * The records that are still as the task left them: known from the history,
 * or seen first by the task, with a row that it made.  A record that it took
 * away comes back unless there is another of its uid by now.
 */
static const char *const pick_sql =
"INSERT INTO uds_past (record_id, how, resource, resource_pk, was_disabled, record, links, pending)"
"SELECT h.record_id,"
"       CASE WHEN h.record IS NULL THEN 'remove' WHEN r.id IS NULL THEN 'recreate'"
"            ELSE 'restore' END,"
"       h.resource, h.resource_pk, h.was_disabled, h.record, h.links, h.pending"
"  FROM uds.record_history h"
"  LEFT JOIN uds.records r ON r.id = h.record_id"
" WHERE h.task_id = {undone}"
"   AND CASE WHEN r.id IS NOT NULL THEN {undone} IN (r.task_id, r.restored)"
"            ELSE h.record IS NOT NULL"
"                 AND NOT EXISTS (SELECT 1"
"                                   FROM uds.records o"
"                                  WHERE o.source_id = (h.record ->> 'source_id')::bigint"
"                                    AND o.data_type = h.record ->> 'data_type'"
"                                    AND o.uid_key = h.record ->> 'uid_key') END"
" UNION ALL "
"SELECT r.id, 'remove', x.resource, x.pk, false, NULL, NULL, '{}'"
"  FROM uds_undone x"
"  JOIN uds.record_resources l ON l.resource = x.resource AND l.resource_pk = x.pk"
"  JOIN uds.records r ON r.id = l.record_id"
" WHERE x.how = 'delete' AND {undone} IN (r.task_id, r.restored)"
"   AND NOT EXISTS (SELECT 1"
"                     FROM uds.record_history h"
"                    WHERE h.task_id = {undone} AND h.record_id = r.id)";

/* The record of a row that was left alone is left as well. */
static const char *const spare_sql =
"DELETE FROM uds_past p"
" USING uds_undone x"
" WHERE x.resource = p.resource AND x.pk = p.resource_pk AND x.state = 'left'";

static const char *const unlink_sql =
"DELETE FROM uds.record_resources l"
" USING uds_past p"
" WHERE l.record_id = p.record_id";

static const char *const unlink_taken_over_sql =
"DELETE FROM uds.record_resources l"
" USING (" TAKEN_OVER ") AS t"
" WHERE l.record_id = t.record_id AND l.resource = t.resource";

static const char *const unlink_deleted_sql =
"DELETE FROM uds.record_resources l"
" USING uds_changed c"
" WHERE c.action = 'delete' AND l.resource = c.resource AND l.resource_pk = c.pk";

static const char *const stop_waiting_sql =
"DELETE FROM uds.pending_references q"
" USING uds_past p"
" WHERE q.record_id = p.record_id";

static const char *const remove_sql =
"DELETE FROM uds.records r"
" USING uds_past p"
" WHERE p.how = 'remove' AND r.id = p.record_id";

static const char *const restore_sql =
"UPDATE uds.records r"
"   SET uid = p.record ->> 'uid', data = p.record -> 'data', last_data = r.data,"
"       deleted = (p.record ->> 'deleted')::boolean, changed_at = now(), task_id = $2,"
"       restored = coalesce(p.record ->> 'restored', p.record ->> 'task_id')::bigint"
"  FROM uds_past p"
" WHERE p.how = 'restore' AND r.id = p.record_id";

static const char *const recreate_sql =
"INSERT INTO uds.records (id, source_id, data_type, uid, uid_key, data, deleted,"
"                         first_seen_at, task_id, restored)"
"OVERRIDING SYSTEM VALUE "
"SELECT p.record_id, (p.record ->> 'source_id')::bigint, p.record ->> 'data_type',"
"       p.record ->> 'uid', p.record ->> 'uid_key', p.record -> 'data',"
"       (p.record ->> 'deleted')::boolean, (p.record ->> 'first_seen_at')::timestamptz, $2,"
"       coalesce(p.record ->> 'restored', p.record ->> 'task_id')::bigint"
"  FROM uds_past p"
" WHERE p.how = 'recreate'";

static const char *const link_sql =
"INSERT INTO uds.record_resources (record_id, resource, resource_pk, created)"
"SELECT p.record_id, l.resource, l.resource_pk, l.created"
"  FROM uds_past p"
" CROSS JOIN LATERAL jsonb_to_recordset(p.links) AS l (resource text, resource_pk text, created boolean)"
" WHERE p.how <> 'remove'";

/*
 * Records that did not change with the task, but lost their row to it: because
 * it went, or because a record took it over that is put back.
 */
static const char *const link_again_sql =
"INSERT INTO uds.record_resources (record_id, resource, resource_pk, created)"
"SELECT h.record_id, l.resource, l.resource_pk, l.created"
"  FROM uds.record_history h"
"  JOIN uds.records r ON r.id = h.record_id"
" CROSS JOIN LATERAL jsonb_to_recordset(h.links) AS l (resource text, resource_pk text, created boolean)"
" WHERE h.task_id = {undone}"
"   AND (EXISTS (SELECT 1"
"                  FROM uds_changed c"
"                 WHERE c.action = 'create' AND c.resource = l.resource AND c.pk = l.resource_pk)"
"        OR EXISTS (SELECT 1"
"                     FROM uds_past p"
"                    WHERE p.resource = l.resource AND p.resource_pk = l.resource_pk"
"                      AND p.record_id <> h.record_id)) "
"ON CONFLICT DO NOTHING";

static const char *const wait_sql =
"INSERT INTO uds.pending_references (record_id, source_id, uid_key)"
"SELECT r.id, r.source_id, k.uid_key"
"  FROM uds_past p"
"  JOIN uds.records r ON r.id = p.record_id"
" CROSS JOIN LATERAL unnest(p.pending) AS k (uid_key)";

/* A row that cannot be told from its record: what the undo made of it. */
static const char *const not_disabled_sql =
"DELETE FROM uds.disabled_rows o"
" WHERE EXISTS (SELECT 1"
"                 FROM uds_changed c"
"                WHERE c.action IN ('enable', 'delete')"
"                  AND c.resource = o.resource AND c.pk = o.resource_pk)"
"    OR EXISTS (SELECT 1"
"                 FROM uds_past p"
"                WHERE NOT p.was_disabled"
"                  AND p.resource = o.resource AND p.resource_pk = o.resource_pk)";

static const char *const disabled_sql =
"INSERT INTO uds.disabled_rows (resource, resource_pk)"
"SELECT c.resource, c.pk"
"  FROM uds_changed c"
" WHERE c.action = 'disable' AND c.resource <> 'members'"
" UNION "
"SELECT p.resource, p.resource_pk"
"  FROM uds_past p"
" WHERE p.was_disabled "
"ON CONFLICT DO NOTHING";

/* The statement that keeps the records picked. */
static char *
keep_statement(const UdsRun *run, const char *picked)
{
	return uds_stage_expand(keep_sql,
							"record", uds_stage_join(run, "LEFT JOIN", "uds.records", "r",
													 record_condition),
							"picked", picked, NULL);
}

/*
 * Keeps the records in work that the task is about to change, and those whose
 * rows it is about to delete.  To be called when desired is filled and nothing
 * is written yet.
 */
void
uds_journal_note(const UdsRun *run, const UdsResource *resource)
{
	bool		losing = strcmp(run->source->match_keys, "[]") != 0 ||
		uds_filled("uds_leaving");
	char	   *picked = psprintf("%s%s", changing_sql, losing ? losing_sql : "");

	if (!run->kept)
		return;
	picked = uds_stage_expand(picked,
							  "matched", uds_stage_join(run, "JOIN", "uds.record_resources", "l",
														matched_condition),
							  "other", uds_stage_join(run, "JOIN", "uds.records", "r",
													  other_condition),
							  "leaving", uds_stage_join(run, "JOIN", "uds.record_resources", "l",
														leaving_condition),
							  NULL);
	uds_stage_exec(run, keep_statement(run, uds_stage_expand(picked, "resource", resource->name,
															 NULL)));
}

/*
 * Fills past with the records that the undo of task "undone", its id as text,
 * may put back.  To be called when undone is filled.
 */
void
uds_journal_pick(const UdsRun *run, const char *undone)
{
	uds_stage_exec(run, uds_stage_expand(pick_sql, "undone", undone, NULL));
	uds_stage_analyze(run, "uds_past");
}

/*
 * Keeps the records that the undo is about to change, so that it can be
 * undone itself.
 */
void
uds_journal_note_undo(const UdsRun *run)
{
	if (run->kept)
		uds_stage_exec(run, keep_statement(run, undoing_sql));
}

/*
 * Puts the records in past back, but for those whose rows were left alone.
 * To be called when the rows are written.
 */
void
uds_journal_put_back(const UdsRun *run, const char *undone)
{
	uds_stage_exec(run, spare_sql);
	uds_stage_exec(run, unlink_sql);
	uds_stage_exec(run, unlink_taken_over_sql);
	uds_stage_exec(run, unlink_deleted_sql);
	uds_stage_exec(run, stop_waiting_sql);
	uds_stage_exec(run, remove_sql);
	uds_stage_exec(run, restore_sql);
	uds_stage_exec(run, recreate_sql);
	uds_stage_exec(run, link_sql);
	uds_stage_exec(run, uds_stage_expand(link_again_sql, "undone", undone, NULL));
	uds_stage_exec(run, wait_sql);
	uds_stage_exec(run, not_disabled_sql);
	uds_stage_exec(run, disabled_sql);
}
