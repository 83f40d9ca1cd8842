/*-------------------------------------------------------------------------
 *
 * undo.c
 *		Takes back what a task did, as far as nobody has changed it since.
 *
 * The change set of a task, turned around, is what its undo writes: rows made
 * are deleted, deleted ones inserted again, and columns get the values they
 * had, where they still have those the task gave them.  The rest is reported
 * and left.  The change set of the undo is kept as any other, so that it can
 * be undone as well.
 *
 * Fills the stage relations undone and seen.  Runs in the transaction of a
 * task; target tables are written as the source's owner.  Locks as
 * reconcile.h says.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "process/process.h"
#include "reconcile/reconcile.h"
#include "reconcile/stage.h"

#define CHANGED_SINCE "changed since, left alone"

/* changes up to which statistics of the stage do not pay */
#define SMALL_UNDO 500

/* $2 the undo that asks, or 0; $3 minutes that changes are kept */
static const char *const require_sql =
"SELECT t.kind, t.status, t.source_id,"
"       EXISTS (SELECT 1 FROM uds.changes c WHERE c.task_id = t.id AND c.applied)"
"       AND ($3 < 0 OR t.finished_at >= clock_timestamp() - make_interval(mins => $3)),"
"       (SELECT min(u.id)"
"          FROM uds.tasks u"
"         WHERE u.retry_of = t.id AND u.kind = 'undo' AND u.id <> $2"
"           AND u.status NOT IN ('failed', 'canceled'))"
"  FROM uds.tasks t"
" WHERE t.id = $1";

/*
 * A row of a target table each, with what becomes of it; id: of a mapped
 * table, whose keys are of any type, a number below 0; state: left, was
 * (it is as before the task already), with (it goes with its user), kept (it
 * stays with its user), NULL to be written
 */
static const char *const create_sql[] = {
	"CREATE TEMP TABLE uds_undone"
	"(n bigint GENERATED ALWAYS AS IDENTITY, resource text, pk text, id bigint,"
	" department_id bigint, uid text, how text, before jsonb, after jsonb,"
	" state text, message text)"
	" ON COMMIT DROP",

	/* those that are there, compared */
	"CREATE TEMP TABLE uds_seen"
	"(n bigint, is_after boolean, is_before boolean)"
	" ON COMMIT DROP",

	/* records as they were before the task */
	"CREATE TEMP TABLE uds_past"
	"(record_id bigint, how text, resource text, resource_pk text, was_disabled boolean,"
	" record jsonb, links jsonb, pending text[])"
	" ON COMMIT DROP"
};

static const char *const grant_sql =
"GRANT SELECT, INSERT ON uds_undone, uds_seen TO {owner}";

/*
 * What a task did to a row in several steps counts as one.  Departments come
 * back in the order of the tree: should one be refused, the others are
 * inserted one by one.
 */
static const char *const fold_sql =
"INSERT INTO uds_undone (resource, pk, id, department_id, uid, how, before, after) "
"WITH RECURSIVE net AS MATERIALIZED"
"     (SELECT c.resource, c.pk, min(c.uid) AS uid,"
"             (array_agg(c.action ORDER BY c.seq))[1] IN ('create', 'link') AS is_new,"
"             (array_agg(c.action ORDER BY c.seq DESC))[1] IN ('delete', 'unlink') AS is_gone,"
"             uds.merge_records(c.before ORDER BY c.seq DESC) AS before,"
"             uds.merge_records(c.after ORDER BY c.seq) AS after"
"        FROM uds.changes c"
"       WHERE c.task_id = {undone} AND c.applied"
"         AND {which}"
"         AND (c.action <> 'link' OR c.resource = 'members')"
"       GROUP BY c.resource, c.pk),"
"     tree AS"
"     (SELECT t.pk, 0 AS depth"
"        FROM net t"
"       WHERE t.resource = 'departments' AND t.is_gone"
"         AND NOT EXISTS (SELECT 1"
"                           FROM net p"
"                          WHERE p.resource = 'departments' AND p.is_gone"
"                            AND p.pk = t.before ->> 'parent_id')"
"       UNION ALL"
"      SELECT c.pk, t.depth + 1"
"        FROM tree t"
"        JOIN net c ON c.resource = 'departments' AND c.is_gone"
"                  AND c.before ->> 'parent_id' = t.pk) "
"SELECT f.resource, f.pk,"
"       CASE WHEN f.resource IN ('departments', 'users', 'members')"
"            THEN split_part(f.pk, ':', CASE f.resource WHEN 'members' THEN 2 ELSE 1 END)::bigint END,"
"       CASE f.resource WHEN 'members' THEN split_part(f.pk, ':', 1)::bigint END,"
"       f.uid, f.how,"
"       CASE WHEN f.how = 'update'"
"            THEN (SELECT jsonb_object_agg(b.key, b.value)"
"                    FROM jsonb_each(f.before) AS b"
"                   WHERE b.value IS DISTINCT FROM f.after -> b.key)"
"            ELSE f.before END,"
"       CASE WHEN f.how = 'update'"
"            THEN (SELECT jsonb_object_agg(a.key, a.value)"
"                    FROM jsonb_each(f.after) AS a"
"                   WHERE a.value IS DISTINCT FROM f.before -> a.key)"
"            ELSE f.after END"
"  FROM (SELECT n.*, CASE WHEN n.is_new THEN 'delete' WHEN n.is_gone THEN 'insert'"
"                         ELSE 'update' END AS how"
"          FROM net n"
"         WHERE NOT (n.is_new AND n.is_gone)"
"           AND (n.is_new OR n.is_gone OR n.before <> n.after)) AS f"
"  LEFT JOIN tree t ON t.pk = f.pk AND f.resource = 'departments'"
" ORDER BY f.resource, t.depth, f.pk";

#define IS_BUILTIN "c.resource IN ('departments', 'users', 'members')"

/* What functions did they take back themselves. */
#define IS_MAPPED \
"NOT " IS_BUILTIN \
" AND NOT EXISTS (SELECT 1 FROM uds.resources r WHERE r.name = c.resource AND r.apply IS NOT NULL)"

static const char *const number_sql =
"UPDATE uds_undone SET id = -n WHERE id IS NULL";

static const char *const forgotten_sql =
"UPDATE uds_undone x"
"   SET state = 'left', message = format('%s is not mapped any more, left alone', x.resource)"
" WHERE x.id < 0 AND x.resource <> ALL ({mapped}::text[])";

/* Rows of mapped tables that a record of another source stands behind. */
static const char *const keep_shared_sql =
"UPDATE uds_undone x"
"   SET state = 'left', message = '" CHANGED_SINCE "'"
" WHERE x.id < 0 AND x.how = 'delete' AND x.state IS NULL"
"   AND EXISTS (SELECT 1"
"                 FROM uds.record_resources l"
"                 JOIN uds.records r ON r.id = l.record_id AND NOT r.deleted"
"                WHERE l.resource = x.resource AND l.resource_pk = x.pk AND r.source_id <> $1)";

static const char *const judge_sql =
"UPDATE uds_undone x"
"   SET state = v.state,"
"       message = CASE WHEN v.state = 'left' THEN '" CHANGED_SINCE "' || v.detail END"
"  FROM (SELECT u.n,"
"               CASE WHEN u.how = 'delete' AND s.n IS NULL THEN 'was'"
"                    WHEN u.how = 'delete' AND s.is_after THEN NULL"
"                    WHEN u.how = 'insert' AND s.n IS NULL THEN NULL"
"                    WHEN u.how = 'update' AND s.is_after THEN NULL"
"                    WHEN u.how = 'update' AND s.is_before THEN 'was'"
"                    ELSE 'left' END AS state,"
"               CASE WHEN s.n IS NULL THEN ': the row is gone' ELSE '' END AS detail"
"          FROM uds_undone u"
"          LEFT JOIN uds_seen s USING (n)"
"         WHERE u.state IS NULL) AS v"
" WHERE v.n = x.n AND v.state IS NOT NULL";

/*
 * Rows that must stay although they look as the task left them.  In order:
 * what others rely on by now, before what goes or stays along with it.
 */
static const char *const keep_sql[] = {
	/* protected users */
	"UPDATE uds_undone x"
	"   SET state = 'left', message = 'protected, left alone'"
	"  FROM uds.users u"
	" WHERE x.resource = 'users' AND x.state IS NULL AND u.id = x.id AND u.protected"
	"   AND (x.how = 'delete' OR x.before @> '{\"enabled\": false}')",

	/* rows that a record stands behind which is not taken back */
	"UPDATE uds_undone x"
	"   SET state = 'left', message = '" CHANGED_SINCE "'"
	" WHERE x.how = 'delete' AND x.state IS NULL"
	"   AND EXISTS (SELECT 1"
	"                 FROM uds.record_resources l"
	"                 JOIN uds.records r ON r.id = l.record_id AND NOT r.deleted"
	"                WHERE l.resource = x.resource AND l.resource_pk = x.pk"
	"                  AND NOT EXISTS (SELECT 1 FROM uds_past p WHERE p.record_id = r.id))",

	/* users who are members of something else by now */
	"UPDATE uds_undone x"
	"   SET state = 'left', message = '" CHANGED_SINCE "'"
	" WHERE x.how = 'delete' AND x.state IS NULL AND x.resource = 'users'"
	"   AND EXISTS (SELECT 1"
	"                 FROM uds.department_members m"
	"                WHERE m.user_id = x.id"
	"                  AND NOT EXISTS (SELECT 1"
	"                                    FROM uds_undone o"
	"                                   WHERE o.resource = 'members' AND o.how = 'delete'"
	"                                     AND o.state IS NULL AND o.id = m.user_id"
	"                                     AND o.department_id = m.department_id))",

	/* rows that are gone, but whose record has another one by now */
	"UPDATE uds_undone x"
	"   SET state = 'left', message = '" CHANGED_SINCE "'"
	" WHERE x.how = 'insert' AND x.state IS NULL"
	"   AND EXISTS (SELECT 1"
	"                 FROM uds.record_history h"
	"                 JOIN uds.records r ON r.source_id = (h.record ->> 'source_id')::bigint"
	"                                   AND r.data_type = h.record ->> 'data_type'"
	"                                   AND r.uid_key = h.record ->> 'uid_key'"
	"                 JOIN uds.record_resources l ON l.record_id = r.id"
	"                                            AND l.resource = x.resource"
	"                WHERE h.task_id = {undone} AND h.resource = x.resource"
	"                  AND h.resource_pk = x.pk)",

	/* memberships that share the fate of a user */
	"UPDATE uds_undone x"
	"   SET state = CASE WHEN o.state IS NULL THEN 'with' ELSE 'kept' END"
	"  FROM uds_undone o"
	" WHERE x.resource = 'members' AND x.how = 'delete' AND x.state IS NULL"
	"   AND o.resource = 'users' AND o.how = 'delete' AND o.id = x.id"
	"   AND (o.state IS NULL OR o.state = 'left')"
};

/* A unique value that somebody else has by now stays where it is. */
static const char *const taken_sql =
"WITH taken AS"
"     (SELECT x.n"
"        FROM uds_undone x"
"        JOIN {table} h ON h.{column} = x.before ->> '{column}' AND h.id <> x.id"
"       WHERE x.resource = '{resource}' AND x.how <> 'delete' AND x.state IS NULL"
"         AND NOT EXISTS (SELECT 1"
"                           FROM uds_undone o"
"                          WHERE o.resource = '{resource}' AND o.id = h.id AND o.state IS NULL"
"                            AND (o.how = 'delete' OR o.how = 'update' AND o.before ? '{column}'))),"
"     told AS"
"     (INSERT INTO uds_rejected (n, data_type, uid, resource, pk, sqlstate, message, record)"
"      SELECT x.n, '{data_type}', x.uid, x.resource, x.id, '23505',"
"             'somebody else has the {column} by now, it was left alone',"
"             jsonb_build_object('pk', x.pk, 'before', x.before, 'after', x.after)"
"        FROM uds_undone x"
"        JOIN taken t USING (n)) "
"UPDATE uds_undone x"
"   SET before = x.before - '{column}', after = x.after - '{column}',"
"       state = CASE WHEN x.how = 'update' AND x.before - '{column}' = '{}' THEN 'left' END"
"  FROM taken t"
" WHERE t.n = x.n";

/* Departments that somebody is in or below by now, and those above them. */
static const char *const keep_used_sql =
"WITH RECURSIVE used AS"
"     (SELECT x.id"
"        FROM uds_undone x"
"       WHERE x.resource = 'departments' AND x.how = 'delete'"
"         AND (x.state = 'left'"
"              OR EXISTS (SELECT 1 FROM uds.department_members m WHERE m.department_id = x.id)"
"              OR EXISTS (SELECT 1 FROM uds.users u WHERE u.main_department_id = x.id)"
"              OR EXISTS (SELECT 1"
"                           FROM uds.departments c"
"                          WHERE c.parent_id = x.id"
"                            AND NOT EXISTS (SELECT 1"
"                                              FROM uds_undone o"
"                                             WHERE o.resource = 'departments'"
"                                               AND o.how = 'delete' AND o.id = c.id)))"
"       UNION"
"      SELECT d.parent_id"
"        FROM used s"
"        JOIN uds.departments d ON d.id = s.id) "
"UPDATE uds_undone x"
"   SET state = 'left', message = '" CHANGED_SINCE ": it is in use'"
"  FROM used s"
" WHERE x.resource = 'departments' AND x.how = 'delete' AND x.state IS NULL AND x.id = s.id";

static const char *const report_sql =
"INSERT INTO uds_rejected (n, data_type, uid, resource, pk, sqlstate, message, record)"
"SELECT x.n,"
"       coalesce((SELECT r.accepts[1] FROM uds.resources r WHERE r.name = x.resource), 'user'),"
"       x.uid, x.resource, x.id, '55000', x.message,"
"       jsonb_build_object('pk', x.pk, 'before', x.before, 'after', x.after)"
"  FROM uds_undone x"
" WHERE x.message IS NOT NULL";

static const char *const leaving_sql =
"INSERT INTO uds_leaving (resource, pk, uid)"
"SELECT x.resource, x.id, x.uid"
"  FROM uds_undone x"
" WHERE x.resource = 'departments' AND x.how = 'delete' AND x.state IS NULL";

/*
 * Returns the source of a task if the task can be undone, for an undo that is
 * still to be queued (undo = 0) or for one that runs.  ERROR with a hint if
 * it cannot: it wrote nothing, its history is gone, it is undone already.
 * SPI must be connected.
 */
int64
uds_undo_require(int64 task, int64 undo)
{
	Oid			types[3] = {INT8OID, INT8OID, INT4OID};
	Datum		values[3] = {Int64GetDatum(task), Int64GetDatum(undo),
	Int32GetDatum(uds_history_retention)};
	char	   *kind;
	char	   *status;

	if (uds_spi_exec(require_sql, 3, types, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("task " INT64_FORMAT " does not exist", task),
				 errhint("SELECT id, status FROM uds.tasks lists the tasks.")));
	kind = uds_spi_text(0, 1);
	status = uds_spi_text(0, 2);
	if (strcmp(kind, "preview") == 0 ||
		(strcmp(status, "success") != 0 && strcmp(status, "partial") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("task " INT64_FORMAT " (%s) cannot be undone: its status is \"%s\"",
						task, kind, status),
				 errhint("Tasks that wrote something can: syncs, pushes, events, approvals and undos that ended as success or partial.")));
	if (uds_spi_text(0, 5) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("task " INT64_FORMAT " was undone already, by task %s",
						task, uds_spi_text(0, 5)),
				 errhint("That task can be undone in turn.")));
	if (uds_spi_text(0, 3) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("task " INT64_FORMAT " cannot be undone: its source was dropped",
						task)));
	if (uds_spi_text(0, 4)[0] != 't')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("task " INT64_FORMAT " cannot be undone: there are no changes of it in uds.changes",
						task),
				 errhint("Either it changed nothing, or they are older than uds.history_retention.")));
	return pg_strtoint64(uds_spi_text(0, 3));
}

/* Makes error rows of those newly left alone. */
static void
report(const UdsRun *run)
{
	uds_stage_exec(run, report_sql);
	uds_stage_exec(run, "UPDATE uds_undone SET message = NULL WHERE message IS NOT NULL");
}

/* Finds out what may be put back, and reports the rest. */
static void
decide(UdsRun *run, const char *undone)
{
	uds_stage_exec(run, uds_stage_expand(fold_sql, "undone", undone, "which", IS_BUILTIN, NULL));
	run->small = uds_stage_count(run, "SELECT count(*) FROM uds_undone") <= SMALL_UNDO;
	uds_stage_analyze(run, "uds_undone");
	uds_undo_look(run);
	uds_stage_analyze(run, "uds_seen");
	uds_stage_exec(run, judge_sql);
	uds_journal_pick(run, undone);
	for (int i = 0; i < lengthof(keep_sql); i++)
		uds_stage_exec(run, uds_stage_expand(keep_sql[i], "undone", undone, NULL));
	uds_undo_follow(run);
	report(run);
	for (const char *const *column = uds_users.unique; *column != NULL; column++)
		uds_stage_exec(run, uds_stage_expand(taken_sql,
											 "resource", uds_users.name,
											 "table", uds_users.table,
											 "data_type", uds_users.data_type,
											 "column", *column, NULL));
}

/*
 * The same for mapped tables.  What their records are is decided already: a
 * row is put back if it is as the task left it, and else reported.
 */
static void
decide_mapped(const UdsRun *run, const char *undone)
{
	StringInfoData mapped;

	if (uds_stage_exec(run, uds_stage_expand(fold_sql, "undone", undone, "which", IS_MAPPED, NULL)) == 0)
		return;
	uds_stage_exec(run, number_sql);
	initStringInfo(&mapped);
	uds_undo_look_mapped(run, &mapped);
	uds_stage_exec(run, uds_stage_expand(forgotten_sql, "mapped",
										 psprintf("ARRAY[%s]", mapped.data), NULL));
	uds_stage_exec(run, judge_sql);
	uds_stage_exec(run, keep_shared_sql);
	report(run);
	uds_journal_note_undo(run);
}

/* What came of it, in a sentence for people. */
static char *
summarize(int64 undone, const UdsTaskCounts *counts)
{
	StringInfoData buf;
	const struct
	{
		const char *word;
		int64		n;
	}			part[] = {
		{"created", counts->created}, {"updated", counts->updated},
		{"enabled", counts->enabled}, {"disabled", counts->disabled},
		{"deleted", counts->deleted}, {"linked", counts->linked},
		{"unlinked", counts->unlinked}, {"left alone", counts->failed}
	};
	const char *separator = ": ";

	initStringInfo(&buf);
	appendStringInfo(&buf, "task " INT64_FORMAT " undone", undone);
	for (int i = 0; i < lengthof(part); i++)
		if (part[i].n > 0)
		{
			appendStringInfo(&buf, "%s" INT64_FORMAT " %s", separator, part[i].n, part[i].word);
			separator = ", ";
		}
	return buf.data;
}

/*
 * Puts back what the task changed that task->retry_of names.
 *
 * Fills "counts", and *message, palloc'd in SPI's memory.  Returns the status
 * the task ends with: partial if something was left alone.  ERROR as
 * uds_undo_require().
 */
const char *
uds_undo_run(const UdsTask *task, const UdsSource *source, UdsTaskCounts *counts,
			 char **message)
{
	UdsRun		run = {0};
	char	   *undone = psprintf(INT64_FORMAT, task->retry_of);
	ListCell   *lc;

	uds_reconciling = true;
	uds_progress_phase(UDS_PHASE_APPLY);
	uds_run_prepare(&run, task, source, false);
	uds_undo_require(task->retry_of, task->id);
	uds_stage_create(&run);
	uds_resources_list(&run);
	uds_resources_create_stage(&run);
	for (int i = 0; i < lengthof(create_sql); i++)
		uds_spi_exec(create_sql[i], 0, NULL, NULL, NULL);
	uds_spi_exec(uds_stage_expand(grant_sql, "owner", run.owner, NULL), 0, NULL, NULL, NULL);

	decide(&run, undone);
	uds_journal_note_undo(&run);
	decide_mapped(&run, undone);
	uds_stage_exec(&run, leaving_sql);
	uds_pending_note_leaving(&run);
	uds_undo_withdraw_mapped(&run);
	uds_undo_write(&run);
	if (uds_stage_exec(&run, keep_used_sql) > 0)
		report(&run);
	uds_undo_write_last(&run);
	uds_departments_mark_leaves(&run);
	uds_undo_write_mapped(&run);
	foreach(lc, run.entries)
		if (((UdsEntry *) lfirst(lc))->function != NULL)
			uds_applied_undo(&run, lfirst(lc));
	uds_journal_put_back(&run, undone);

	uds_outcome_count(&run, counts);
	uds_outcome_store(&run, NULL);
	uds_outcome_notify(&run, counts);
	*message = summarize(task->retry_of, counts);
	uds_stage_release();
	uds_resources_drop_stage(&run);
	uds_reconciling = false;
	return counts->failed > 0 ? "partial" : "success";
}
