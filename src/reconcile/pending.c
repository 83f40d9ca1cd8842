/*-------------------------------------------------------------------------
 *
 * pending.c
 *		Records that name a department which has not arrived yet.
 *
 * A member may come before its department and a child before its parent.
 * Whoever names a department that is not there is noted; when it arrives,
 * these records take part in the task as if they had come again.  So order
 * does not matter and nobody needs to send anything twice.
 *
 * Owns uds.pending_references.  Runs in the transaction of a task, as the
 * extension's owner; row locks on that table only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "reconcile/stage.h"

/* What the departments of the task bring about elsewhere. */
static const char *const announce_sql =
"INSERT INTO uds_arrived (data_type, uid_key)"
"SELECT 'department', w.uid_key"
"  FROM uds_work w"
" WHERE w.link IS NOT NULL"
" UNION ALL "
"SELECT 'user', CASE WHEN coalesce(t.manifest -> 'ignore_case' ? 'user', false)"
"                    THEN lower(o.uid) ELSE o.uid END"
"  FROM uds_work w"
"  LEFT JOIN uds.records r ON r.id = w.record_id"
"  JOIN uds.source_settings s ON s.id = $1"
"  JOIN uds.source_types t ON t.name = s.type"
" CROSS JOIN LATERAL"
"       ((SELECT jsonb_array_elements_text({old}) UNION SELECT jsonb_array_elements_text({new}))"
"        EXCEPT"
"        (SELECT jsonb_array_elements_text({old}) INTERSECT SELECT jsonb_array_elements_text({new})))"
"       AS o (uid)"
" WHERE w.is_changed"
"   AND r.data -> 'owners' IS DISTINCT FROM w.data -> 'owners'";

#define OWNERS(data) \
"CASE jsonb_typeof(" data " -> 'owners') WHEN 'array' THEN " data " -> 'owners' ELSE '[]' END"

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
"         WHERE a.data_type = 'user') AS p"
"  JOIN uds.records r ON r.id = p.record_id AND NOT r.deleted"
"                    AND r.data_type = '{data_type}'"
"  JOIN uds.record_resources l ON l.record_id = r.id AND l.resource = '{resource}'"
"  JOIN {table} t ON t.id = l.resource_pk::bigint"
" WHERE NOT EXISTS (SELECT 1 FROM uds_work w WHERE w.record_id = r.id)";

static const char *const forget_sql =
"DELETE FROM uds.pending_references p"
" USING uds_work w"
" WHERE p.record_id = w.record_id";

/* Unchanged records wait for what they waited for before. */
static const char *const note_sql =
"INSERT INTO uds.pending_references (record_id, source_id, uid_key)"
"SELECT DISTINCT l.record_id, l.source_id, l.uid_key"
"  FROM ({named}) AS l"
" WHERE octet_length(l.uid_key) <= " CppAsString2(UDS_MAX_UID)
"   AND NOT EXISTS (SELECT 1"
"                     FROM uds_department_ref f"
"                     JOIN uds.departments d ON d.id = f.pk"
"                    WHERE f.source_id = l.source_id AND f.uid_key = l.uid_key)";

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
										 "old", OWNERS("r.data"),
										 "new", OWNERS("w.data"), NULL));
	uds_stage_analyze(run, "uds_arrived");
}

/*
 * Adds the records to work that wait for a department which arrives with
 * this task, or whose owner flags it changes.
 */
void
uds_pending_recall(const UdsRun *run, const UdsResource *resource)
{
	if (!uds_filled("uds_arrived"))
		return;
	uds_stage_exec(run, uds_stage_expand(recall_sql,
										 "resource", resource->name,
										 "data_type", resource->data_type,
										 "table", resource->table, NULL));
}

/*
 * Notes which records in work name departments that are not there.  To be
 * called when department_ref is filled and the departments are written.
 */
void
uds_pending_note(const UdsRun *run, const UdsResource *resource)
{
	uds_stage_exec(run, forget_sql);
	uds_stage_exec(run, uds_stage_expand(note_sql, "named",
										 uds_departments_of_record(resource), NULL));
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
