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
" WHERE r.data_type = 'department' {only_own}"
"   AND NOT EXISTS (SELECT 1"
"                     FROM uds_work w"
"                    WHERE w.record_id = r.id AND w.resource = 'departments')"
"   AND NOT EXISTS (SELECT 1"
"                     FROM uds_leaving x"
"                    WHERE x.resource = 'departments' AND x.pk = d.id)";

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

/* The parents as they would be; of each cycle, the youngest row is cut off. */
static const char *const cycles_sql =
"CREATE TEMP TABLE uds_cut ON COMMIT DROP AS "
"WITH RECURSIVE parent AS"
"     (SELECT d.id AS pk,"
"             CASE WHEN f.pk IS NULL THEN d.parent_id ELSE f.department_id END AS up"
"        FROM uds.departments d"
"        LEFT JOIN uds_referred f ON f.pk = d.id"
"       UNION ALL"
"      SELECT n.pk, f.department_id"
"        FROM uds_desired n"
"        JOIN uds_referred f USING (pk)"
"       WHERE n.is_new),"
"     walk AS"
"     (SELECT p.pk AS start, p.up AS at, ARRAY[p.pk] AS seen"
"        FROM parent p"
"        JOIN uds_referred f USING (pk)"
"       WHERE p.up IS NOT NULL"
"       UNION ALL"
"      SELECT w.start, p.up, w.seen || w.at"
"        FROM walk w"
"        JOIN parent p ON p.pk = w.at"
"       WHERE w.at <> ALL (w.seen) AND p.up IS NOT NULL) "
"SELECT DISTINCT (SELECT max(s.pk)"
"                   FROM unnest(w.seen) AS s (pk)"
"                   JOIN uds_referred f USING (pk)) AS pk"
"  FROM walk w"
" WHERE w.at = w.start";

static const char *const cut_sql =
"UPDATE uds_referred f"
"   SET department_id = NULL"
"  FROM uds_cut c"
" WHERE f.pk = c.pk";

static const char *const cut_error_sql =
"INSERT INTO uds_rejected (n, data_type, uid, resource, sqlstate, message, record)"
"SELECT w.n, 'department', w.uid, 'departments', '22023',"
"       'its parents form a cycle; it was made a root', w.data"
"  FROM uds_cut c"
"  JOIN uds_work w USING (pk)";

static const char *const leaves_sql =
"UPDATE uds.departments d"
"   SET is_leaf = NOT d.is_leaf"
" WHERE d.is_leaf = EXISTS (SELECT 1 FROM uds.departments c WHERE c.parent_id = d.id)";

/*
 * Fills department_ref from the task's departments in work and from those
 * stored before, or, once the former are stored too, from the latter alone.
 */
void
uds_departments_refer(const UdsRun *run)
{
	uds_stage_clear("uds_department_ref");
	uds_stage_exec(run, uds_stage_expand(refer_sql,
										 "staying_work", staying_sql,
										 "only_own", run->shared ? "" : "AND r.source_id = $1",
										 NULL));
	uds_stage_analyze("uds_department_ref");
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
	uds_stage_analyze("uds_referred");
	if (uds_stage_exec(run, cycles_sql) > 0)
	{
		uds_stage_exec(run, cut_sql);
		uds_stage_exec(run, cut_error_sql);
	}
	uds_spi_exec("DROP TABLE uds_cut", 0, NULL, NULL, NULL);
}

/*
 * Sets is_leaf where it is wrong.
 */
void
uds_departments_mark_leaves(const UdsRun *run)
{
	uds_stage_exec_as_owner(run, leaves_sql);
}
