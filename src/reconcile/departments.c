/*-------------------------------------------------------------------------
 *
 * departments.c
 *		The tree: uids of departments to rows, parents, cycles, leaves.
 *
 * Fills the stage relations department_ref and referred.  Runs in the
 * transaction of a task; row locks on departments whose is_leaf changes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "reconcile/stage.h"

#define CUT_MESSAGE "its parents form a cycle; it was made a root"

/*
 * A department that was disabled keeps its place, so the link counts and not
 * whether the record is live.  First those of the task, whose records are not
 * stored yet, then those stored.
 */
static const char *const refer_sql =
"INSERT INTO uds_department_ref (source_id, uid_key, pk)"
"SELECT $1, w.uid_key, w.pk"
"  FROM uds_work w"
" WHERE w.resource = 'departments' AND w.pk IS NOT NULL {staying_work}"
" UNION ALL "
"SELECT r.source_id, r.uid_key, d.id"
"  FROM uds.records r"
"  JOIN uds.record_resources l ON l.record_id = r.id AND l.resource = 'departments'"
"  JOIN uds.departments d ON d.id = l.resource_pk::bigint"
" WHERE r.data_type = 'department' {only_own} {only_needed}"
"   AND NOT EXISTS (SELECT 1"
"                     FROM uds_work w"
"                    WHERE w.record_id = r.id AND w.resource = 'departments')"
"   AND NOT EXISTS (SELECT 1"
"                     FROM uds_leaving x"
"                    WHERE x.resource = 'departments' AND x.pk = d.id)";

/* The departments that the records in work name, each by its source. */
static const char *const named_by_users_sql =
"SELECT w.record_id, s.id AS source_id,"
"       CASE WHEN " UDS_IGNORES_CASE("department")
"            THEN lower(e.uid) ELSE e.uid END AS uid_key"
"  FROM uds_work w"
"  JOIN uds.source_settings s ON s.id = $1"
"  JOIN uds.source_manifests t ON t.source_id = s.id"
" CROSS JOIN LATERAL"
"       (SELECT CASE jsonb_typeof(a.value) WHEN 'object' THEN a.value ->> 'uid'"
"                                          ELSE a.value #>> '{}' END AS uid"
"          FROM jsonb_array_elements(CASE jsonb_typeof(w.data -> 'departments')"
"                                         WHEN 'array' THEN w.data -> 'departments'"
"                                         ELSE '[]' END) AS a (value)) AS e"
" WHERE w.resource = 'users' AND NOT w.gone AND e.uid <> ''";

static const char *const named_by_departments_sql =
"SELECT w.record_id, s.id AS source_id,"
"       CASE WHEN " UDS_IGNORES_CASE("department")
"            THEN lower(w.data ->> 'parentUid') ELSE w.data ->> 'parentUid' END AS uid_key"
"  FROM uds_work w"
"  JOIN uds.source_settings s ON s.id = $1"
"  JOIN uds.source_manifests t ON t.source_id = s.id"
" WHERE w.resource = 'departments' AND NOT w.gone AND w.data ->> 'parentUid' <> ''";

/* All departments that the live records behind the rows in desired name. */
static const char *const needed_sql =
"INSERT INTO uds_needed (source_id, uid_key)"
"SELECT DISTINCT l.source_id, CASE WHEN l.fold_departments THEN lower(e.uid) ELSE e.uid END"
"  FROM ({live}) AS l"
" CROSS JOIN LATERAL ({uids}) AS e"
" WHERE e.uid <> ''";

static const char *const uids_of_users_sql =
"SELECT CASE jsonb_typeof(a.value) WHEN 'object' THEN a.value ->> 'uid'"
"                                  ELSE a.value #>> '{}' END AS uid"
"  FROM jsonb_array_elements(CASE jsonb_typeof(l.data -> 'departments')"
"                                 WHEN 'array' THEN l.data -> 'departments'"
"                                 ELSE '[]' END) AS a (value)";

static const char *const uids_of_departments_sql =
"SELECT l.data ->> 'parentUid' AS uid";

static const char *const only_needed_sql =
"AND (r.source_id, r.uid_key) IN (SELECT n.source_id, n.uid_key FROM uds_needed n)";

/* A row that is to go is nothing to refer to any more. */
static const char *const staying_sql =
"AND NOT EXISTS (SELECT 1 FROM uds_leaving x WHERE x.resource = 'departments' AND x.pk = w.pk)";

/*
 * The parent of each department, as the best source that names one says; a
 * parent that has not arrived counts as none until it does.
 */
static const char *const parents_sql =
"INSERT INTO uds_referred (pk, department_id)"
"SELECT DISTINCT ON (l.pk) l.pk, f.pk"
"  FROM ({live}) AS l"
"  LEFT JOIN uds_department_ref f"
"         ON f.source_id = l.source_id"
"        AND f.uid_key = CASE WHEN l.fold_departments THEN lower(l.data ->> 'parentUid')"
"                             ELSE l.data ->> 'parentUid' END"
" WHERE l.data ? 'parentUid'"
" ORDER BY l.pk, l.priority, l.source_id";

/*
 * The parents as they would be.  Each cycle is cut where it was cut before,
 * else at a record of the task, the youngest row; the others are left as they
 * are.  A department that goes has no parent.
 */
static const char *const cycles_sql =
"INSERT INTO uds_cut (pk, cycle) "
"WITH RECURSIVE walk AS"
"     (SELECT f.pk AS start, f.department_id AS at, ARRAY[f.pk] AS seen"
"        FROM uds_referred f"
"       WHERE f.department_id IS NOT NULL"
"       UNION ALL"
"      SELECT w.start,"
"             CASE WHEN f.pk IS NULL THEN d.parent_id ELSE f.department_id END,"
"             w.seen || w.at"
"        FROM walk w"
"        LEFT JOIN uds_referred f ON f.pk = w.at"
"        LEFT JOIN uds.departments d"
"               ON d.id = w.at"
"              AND NOT EXISTS (SELECT 1"
"                                FROM uds_leaving x"
"                               WHERE x.resource = 'departments' AND x.pk = d.id)"
"       WHERE w.at <> ALL (w.seen) AND w.at IS NOT NULL) "
"SELECT DISTINCT ON (c.pk) c.pk, w.seen"
"  FROM walk w"
" CROSS JOIN LATERAL"
"       (SELECT f.pk"
"          FROM unnest(w.seen) AS s (pk)"
"          JOIN uds_referred f USING (pk)"
"          JOIN uds_work k USING (pk)"
"          LEFT JOIN uds.departments d ON d.id = f.pk"
"         ORDER BY (NOT k.is_changed AND d.id IS NOT NULL AND d.parent_id IS NULL"
"                   AND EXISTS (SELECT 1 FROM uds.departments p WHERE p.id = f.department_id)) DESC,"
"                  k.n IS NULL, f.pk DESC"
"         LIMIT 1) AS c"
" WHERE w.at = w.start";

static const char *const cut_sql =
"UPDATE uds_referred f"
"   SET department_id = NULL"
"  FROM uds_cut c"
" WHERE f.pk = c.pk";

/* Who was cut off before and takes part only for others was told then. */
static const char *const cut_error_sql =
"INSERT INTO uds_rejected (n, data_type, uid, resource, sqlstate, message, record)"
"SELECT w.n, 'department', w.uid, 'departments', '22023',"
"       '" CUT_MESSAGE "', w.data"
"  FROM uds_cut c"
"  JOIN uds_work w USING (pk)"
" WHERE w.n IS NOT NULL";

/* What was decided about cycles before rows turned out to be refused. */
static const char *const drop_cut_errors_sql =
"DELETE FROM uds_rejected"
" WHERE resource = 'departments' AND sqlstate = '22023' AND message = '" CUT_MESSAGE "'";

/* Parents that come out otherwise than they were written. */
static const char *const mend_parents_sql =
"WITH written AS"
"     (UPDATE uds.departments t"
"         SET parent_id = f.department_id, updated_at = now()"
"        FROM uds_referred f"
"        JOIN uds_desired d ON d.pk = f.pk AND d.leave IS DISTINCT FROM 'delete'"
"        JOIN uds.departments o ON o.id = f.pk"
"       WHERE t.id = f.pk AND t.parent_id IS DISTINCT FROM f.department_id"
"   RETURNING t.id, d.uid, d.is_new, o.parent_id AS old, t.parent_id AS new)"
"INSERT INTO uds_changed (resource, pk, uid, action, before, after)"
"SELECT 'departments', w.id::text, w.uid, 'update',"
"       jsonb_build_object('parent_id', w.old), jsonb_build_object('parent_id', w.new)"
"  FROM written w"
" WHERE NOT w.is_new";

/* What was written twice is one change, or none. */
static const char *const fold_changes_sql =
"WITH later AS"
"     (DELETE FROM uds_changed m"
"       USING uds_changed c"
"       WHERE c.resource = 'departments' AND c.action IN ('update', 'enable', 'disable')"
"         AND m.resource = 'departments' AND m.action = 'update'"
"         AND m.pk = c.pk AND m.seq > c.seq"
"   RETURNING c.seq, m.pk, m.before, m.after) "
"UPDATE uds_changed c"
"   SET before = CASE WHEN s.same THEN c.before - 'parent_id' ELSE m.before || c.before END,"
"       after = CASE WHEN s.same THEN c.after - 'parent_id' ELSE c.after || m.after END"
"  FROM later m"
" CROSS JOIN LATERAL"
"       (SELECT (SELECT o.before FROM uds_changed o WHERE o.seq = m.seq) -> 'parent_id'"
"               IS NOT DISTINCT FROM m.after -> 'parent_id' AS same) AS s"
" WHERE c.seq = m.seq";

static const char *const drop_void_sql =
"DELETE FROM uds_changed"
" WHERE resource = 'departments' AND action = 'update' AND before = '{}'";

/* Of departments that were made, the change set has one row each. */
static const char *const tell_parents_sql =
"UPDATE uds_changed c"
"   SET after = (c.after - 'parent_id')"
"               || jsonb_strip_nulls(jsonb_build_object('parent_id', t.parent_id))"
"  FROM uds_desired d"
"  JOIN uds.departments t ON t.id = d.pk"
" WHERE d.is_new AND c.resource = 'departments' AND c.action = 'create' AND c.pk = d.pk::text";

static const char *const leaves_sql =
"UPDATE uds.departments d"
"   SET is_leaf = NOT d.is_leaf"
" WHERE d.is_leaf = EXISTS (SELECT 1 FROM uds.departments c WHERE c.parent_id = d.id) {only}";

/* Rows that were made, and parents that were gained or lost. */
static const char *const only_touched_sql =
"AND d.id = ANY (ARRAY(SELECT k.id::bigint"
"                        FROM uds_changed c"
"                       CROSS JOIN LATERAL (VALUES (c.pk), (c.before ->> 'parent_id'),"
"                                                  (c.after ->> 'parent_id')) AS k (id)"
"                       WHERE c.resource = 'departments' AND k.id IS NOT NULL))";

/*
 * Returns a query for the departments that the records in work name:
 * record_id, source_id, uid_key.
 */
const char *
uds_departments_of_record(const UdsResource *resource)
{
	return resource == &uds_users ? named_by_users_sql : named_by_departments_sql;
}

/*
 * Returns a query for the departments that the record "l" names: uid.
 */
const char *
uds_departments_uids(const UdsResource *resource)
{
	return resource == &uds_users ? uids_of_users_sql : uids_of_departments_sql;
}

/*
 * Fills department_ref: with the task's departments while these are in work,
 * and with those stored before.  Of a small task, only those that the records
 * of "resource" in work name: what a push costs must not depend on how many
 * departments there are.
 */
void
uds_departments_refer(const UdsRun *run, const UdsResource *resource)
{
	uds_stage_clear(run, "uds_department_ref");
	uds_stage_clear(run, "uds_needed");
	if (run->small)
		uds_stage_exec(run, uds_stage_expand(needed_sql,
											 "live", uds_stage_live(run, resource),
											 "uids", uds_departments_uids(resource), NULL));
	uds_stage_exec(run, uds_stage_expand(refer_sql,
										 "staying_work", staying_sql,
										 "only_needed", run->small ? only_needed_sql : "",
										 "only_own", run->shared ? "" : "AND r.source_id = $1",
										 NULL));
	uds_stage_analyze(run, "uds_department_ref");
}

/*
 * Fills referred with the parents of the departments in desired and cuts
 * cycles, with an error row for each.
 */
void
uds_departments_resolve_parents(const UdsRun *run)
{
	uds_stage_exec(run, uds_stage_expand(parents_sql,
										 "live", uds_stage_live(run, &uds_departments),
										 NULL));
	uds_stage_analyze(run, "uds_referred");
	if (uds_stage_exec(run, cycles_sql) > 0)
	{
		uds_stage_exec(run, cut_sql);
		uds_stage_exec(run, cut_error_sql);
	}
}

/*
 * Works the parents out once more, without the records that were refused:
 * these close no cycle and open none.  To be called when the departments are
 * written.
 */
void
uds_departments_resolve_again(const UdsRun *run)
{
	uds_departments_refer(run, &uds_departments);
	uds_stage_exec(run, drop_cut_errors_sql);
	uds_stage_clear(run, "uds_cut");
	uds_stage_clear(run, "uds_referred");
	uds_departments_resolve_parents(run);
	uds_stage_exec_as_owner(run, mend_parents_sql);
	if (uds_stage_exec(run, fold_changes_sql) > 0)
		uds_stage_exec(run, drop_void_sql);
	uds_stage_exec(run, tell_parents_sql);
}

/*
 * Sets is_leaf where it is wrong; of a small task, where it can have become so.
 */
void
uds_departments_mark_leaves(const UdsRun *run)
{
	uds_stage_exec_as_owner(run, uds_stage_expand(leaves_sql, "only",
												  run->small ? only_touched_sql : "",
												  NULL));
}
