/*-------------------------------------------------------------------------
 *
 * pending.c
 *		Records that look to a department which may change what they get.
 *
 * A member may come before its department and a child before its parent.
 * Whoever names a department that is not there is noted; when it arrives,
 * these records take part in the task as if they had come again.  So order
 * does not matter and nobody needs to send anything twice.  The department
 * that was cut off from a cycle waits for each of the others on it.
 *
 * Owns uds.pending_references.  Runs in the transaction of a task, as the
 * extension's owner; row locks on that table only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "reconcile/stage.h"

/*
 * What the departments of the task bring about elsewhere: nothing, for most,
 * and then nobody needs to be looked for; nobody waits for one that goes and
 * never was.  A department that left has no owners.
 */
static const char *const announce_sql =
"INSERT INTO uds_arrived (data_type, uid_key, department_id, is_owner)"
"SELECT 'department', w.uid_key, NULL::bigint, NULL::boolean"
"  FROM uds_work w"
" WHERE w.pk IS NOT NULL"
"   AND (w.gone"
"        OR EXISTS (SELECT 1"
"                     FROM uds.pending_references p"
"                    WHERE p.source_id = $1 AND p.uid_key = w.uid_key))"
" UNION ALL "
"SELECT 'lost', w.uid_key, NULL::bigint, NULL::boolean"
"  FROM uds_work w"
"  JOIN uds.record_resources l ON l.record_id = w.record_id AND l.resource = 'departments'"
" WHERE w.link = 'new' AND NOT w.is_new"
" UNION ALL "
"SELECT 'user', o.uid_key, w.pk, o.is_owner"
"  FROM uds_work w"
"  LEFT JOIN uds.records r ON r.id = w.record_id"
"  JOIN uds.source_settings s ON s.id = $1"
"  JOIN uds.source_manifests t ON t.source_id = s.id"
" CROSS JOIN LATERAL"
"       (SELECT CASE WHEN " UDS_IGNORES_CASE("user")
"                    THEN lower(e.uid) ELSE e.uid END AS uid_key, bool_or(e.is_owner) AS is_owner"
"          FROM (SELECT jsonb_array_elements_text({old}) AS uid, false AS is_owner"
"                 UNION ALL"
"                SELECT jsonb_array_elements_text({new}), true) AS e"
"         GROUP BY 1"
"        HAVING bool_or(e.is_owner) = bool_and(e.is_owner)) AS o"
" WHERE w.is_changed"
"   AND (r.data -> 'owners' IS DISTINCT FROM w.data -> 'owners' OR w.gone <> w.was_deleted)";

#define OWNERS(data, deleted) \
"CASE WHEN NOT " deleted " AND jsonb_typeof(" data " -> 'owners') = 'array'" \
" THEN " data " -> 'owners' ELSE '[]' END"

/* What departments that were refused would have brought about. */
static const char *const forget_refused_sql =
"DELETE FROM uds_arrived a"
" WHERE NOT EXISTS (SELECT 1"
"                     FROM uds_work w"
"                    WHERE CASE a.data_type WHEN 'user' THEN w.pk = a.department_id"
"                                           ELSE w.uid_key = a.uid_key END)";

/*
 * Who has the main department in one that goes needs another one.  Nothing
 * was noted of those whose department somebody deleted by hand: they must be
 * looked for among all records, which is done for nobody else.
 */
static const char *const recall_sql =
"INSERT INTO uds_work (resource, record_id, uid, uid_key, data, gone,"
"                      is_new, is_changed, was_deleted, pk)"
"SELECT '{resource}', r.id, r.uid, r.uid_key, r.data, false, false, false, false, t.id"
"  FROM (SELECT p.record_id"
"          FROM uds_arrived a"
"          JOIN uds.pending_references p ON p.source_id = $1 AND p.uid_key = a.uid_key"
"         WHERE a.data_type = 'department'"
"         UNION "
"        SELECT u.id"
"          FROM uds_arrived a"
"          JOIN uds.records u ON u.source_id = $1 AND u.data_type = 'user'"
"                            AND u.uid_key = a.uid_key"
"         WHERE a.data_type = 'user'"
"         UNION "
"        SELECT l.record_id"
"          FROM uds_leaving x"
"          JOIN uds.users u ON u.main_department_id = x.pk"
"          JOIN uds.record_resources l ON l.resource = 'users' AND l.resource_pk = u.id::text"
"         WHERE x.resource = 'departments'"
"         UNION "
"        SELECT l.id"
"          FROM uds.records l"
"          JOIN uds.source_settings s ON s.id = $1"
"          JOIN uds.source_manifests t ON t.source_id = s.id"
"         CROSS JOIN LATERAL ({uids}) AS e"
"          JOIN uds_arrived a"
"            ON a.uid_key = CASE WHEN " UDS_IGNORES_CASE("department")
"                                THEN lower(e.uid) ELSE e.uid END"
"         WHERE (SELECT EXISTS (SELECT FROM uds_arrived n WHERE n.data_type = 'lost'))"
"           AND l.source_id = $1 AND l.data_type = '{data_type}' AND a.data_type = 'lost') AS p"
"  JOIN uds.records r ON r.id = p.record_id AND r.source_id = $1 AND NOT r.deleted"
"                    AND r.data_type = '{data_type}'"
"  JOIN uds.record_resources l ON l.record_id = r.id AND l.resource = '{resource}'"
"  JOIN {table} t ON t.id = l.resource_pk::bigint"
" WHERE NOT EXISTS (SELECT 1 FROM uds_work w WHERE w.record_id = r.id)";

/* Whether any of the task's records waits for a department. */
static const char *const waits_sql =
"SELECT"
"  FROM uds_work w"
"  JOIN uds.pending_references p ON p.record_id = w.record_id"
" LIMIT 1";

/* Who waits for what already is not written again. */
static const char *const note_sql =
"WITH waiting AS MATERIALIZED"
"     (SELECT l.record_id, l.source_id, l.uid_key"
"        FROM ({named}) AS l"
"       WHERE octet_length(l.uid_key) <= " CppAsString2(UDS_MAX_UID)
"         AND NOT EXISTS (SELECT 1"
"                           FROM uds_department_ref f"
"                           JOIN uds.departments d ON d.id = f.pk"
"                          WHERE f.source_id = l.source_id AND f.uid_key = l.uid_key)"
"       UNION {cut}),"
"     forgotten AS"
"     (DELETE FROM uds.pending_references p"
"       USING uds_work w"
"       WHERE p.record_id = w.record_id"
"         AND NOT EXISTS (SELECT 1"
"                           FROM waiting n"
"                          WHERE n.record_id = p.record_id AND n.uid_key = p.uid_key)) "
"INSERT INTO uds.pending_references (record_id, source_id, uid_key)"
"SELECT n.record_id, n.source_id, n.uid_key"
"  FROM waiting n"
" WHERE NOT EXISTS (SELECT 1"
"                     FROM uds.pending_references p"
"                    WHERE p.record_id = n.record_id AND p.uid_key = n.uid_key)";

/* What was cut off waits for a change of any other department on its cycle. */
static const char *const cut_sql =
"SELECT w.record_id, $1, k.uid_key"
"  FROM uds_cut c"
"  JOIN uds_work w ON w.pk = c.pk"
" CROSS JOIN unnest(c.cycle) AS o (pk)"
" CROSS JOIN LATERAL"
"       (SELECT v.uid_key FROM uds_work v WHERE v.pk = o.pk"
"         UNION"
"        SELECT r.uid_key"
"          FROM uds.record_resources l"
"          JOIN uds.records r ON r.id = l.record_id AND r.source_id = $1"
"         WHERE l.resource = 'departments' AND l.resource_pk = o.pk::text) AS k"
" WHERE o.pk <> c.pk";

static const char *const none_cut_sql =
"SELECT NULL::bigint, NULL::bigint, NULL::text WHERE false";

/* Those that a department which goes leaves behind: it may come back. */
static const char *const note_leaving_sql =
"INSERT INTO uds.pending_references (record_id, source_id, uid_key)"
"SELECT l.record_id, g.source_id, g.uid_key"
"  FROM uds_leaving x"
"  JOIN uds.record_resources gl ON gl.resource = 'departments' AND gl.resource_pk = x.pk::text"
"  JOIN uds.records g ON g.id = gl.record_id"
" CROSS JOIN LATERAL"
"       (SELECT 'users' AS resource, m.user_id::text AS pk"
"          FROM uds.department_members m"
"         WHERE m.department_id = x.pk AND m.source_id = g.source_id"
"         UNION ALL"
"        SELECT 'departments', c.id::text"
"          FROM uds.departments c"
"         WHERE c.parent_id = x.pk) AS b"
"  JOIN uds.record_resources l ON l.resource = b.resource AND l.resource_pk = b.pk"
"  JOIN uds.records r ON r.id = l.record_id AND r.source_id = g.source_id AND NOT r.deleted"
" WHERE x.resource = 'departments' "
"ON CONFLICT DO NOTHING";

/*
 * Notes what the departments in work mean for records that are not part of
 * the task.  To be called when work is filled with departments.
 */
void
uds_pending_announce(const UdsRun *run)
{
	uds_stage_exec(run, uds_stage_expand(announce_sql,
										 "old", OWNERS("r.data", "w.was_deleted"),
										 "new", OWNERS("w.data", "w.gone"), NULL));
	uds_stage_analyze(run, "uds_arrived");
}

/*
 * Forgets what was noted of departments that the database refused.
 */
void
uds_pending_forget_refused(const UdsRun *run)
{
	if (uds_filled("uds_arrived"))
		uds_stage_exec(run, forget_refused_sql);
}

/*
 * Adds the records to work that a department of this task concerns: because
 * they wait for it, or it is their main department and goes, or it changes
 * their owner flags, or it was deleted by hand.
 */
void
uds_pending_recall(const UdsRun *run, const UdsResource *resource)
{
	if (!uds_filled("uds_arrived"))
		return;
	uds_stage_exec(run, uds_stage_expand(recall_sql,
										 "resource", resource->name,
										 "data_type", resource->data_type,
										 "table", resource->table,
										 "uids", uds_departments_uids(resource), NULL));
}

/*
 * Notes which records in work name departments that are not there, if any is
 * "unresolved", and forgets those that no longer do.  To be called when
 * department_ref is filled and the departments are written.
 */
void
uds_pending_note(const UdsRun *run, const UdsResource *resource, bool unresolved)
{
	if (!unresolved && uds_stage_exec(run, waits_sql) == 0)
		return;
	uds_stage_exec(run, uds_stage_expand(note_sql,
										 "named", uds_departments_of_record(resource),
										 "cut", resource == &uds_departments ? cut_sql : none_cut_sql,
										 NULL));
}

/*
 * Notes the records that name departments which are about to be deleted.
 */
void
uds_pending_note_leaving(const UdsRun *run)
{
	if (!uds_filled("uds_leaving"))
		return;
	uds_stage_exec(run, note_leaving_sql);
}
