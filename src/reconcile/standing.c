/*-------------------------------------------------------------------------
 *
 * standing.c
 *		Memberships that are as the records want them already.
 *
 * Of a push of users who were there before, most change a name or a title.
 * One statement finds that out and spares the nine that settle memberships
 * and main departments.  What is suspected wrongly only costs time: it goes
 * the whole way and comes out unchanged.
 *
 * Runs in the transaction of a task; locks nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "reconcile/stage.h"

/*
 * A user in work who waits for a department, or whose record names departments
 * and who has a membership too many, too few or of other flags, or another main
 * department than the record leaves room for.  A record pushed has its uid as
 * its key.
 */
static const char *const differs_sql =
"SELECT"
"  FROM uds_work w"
"  JOIN uds.users u ON u.id = w.pk"
" CROSS JOIN LATERAL"
"       (SELECT count(*) AS named,"
"               count(*) FILTER (WHERE m.source_id = $1 AND m.is_owner = (e.is_owner OR {leads})) AS own,"
"               count(*) FILTER (WHERE m.user_id IS NOT NULL AND m.source_id IS NULL) AS by_hand,"
"               (min(ARRAY[e.main_ord, m.department_id]) FILTER (WHERE e.main_ord IS NOT NULL))[2] AS main,"
"               coalesce(bool_or(m.department_id = u.main_department_id), false) AS is_still"
"          FROM uds.listed(w.data -> 'departments', false) AS e"
"          LEFT JOIN uds.records r ON r.source_id = $1 AND r.data_type = 'department'"
"                                 AND r.uid_key = e.uid_key"
"          LEFT JOIN uds.record_resources l ON l.record_id = r.id AND l.resource = 'departments'"
"          LEFT JOIN uds.department_members m ON m.department_id = l.resource_pk::bigint"
"                                            AND m.user_id = w.pk) AS s"
" CROSS JOIN LATERAL"
"       (SELECT count(*) FILTER (WHERE x.source_id IS NOT NULL) AS asserted,"
"               coalesce(bool_or(x.source_id IS NULL AND x.department_id = u.main_department_id), false) AS is_still"
"          FROM uds.department_members x"
"         WHERE x.user_id = w.pk) AS h"
" WHERE EXISTS (SELECT 1 FROM uds.pending_references p WHERE p.record_id = w.record_id)"
"    OR w.data ? 'departments'"
"       AND (s.own + s.by_hand < s.named OR s.own < h.asserted"
"            OR CASE WHEN s.main IS NOT NULL THEN u.main_department_id IS DISTINCT FROM s.main"
"                    WHEN s.is_still OR h.is_still THEN false"
"                    ELSE s.named > 0 OR u.main_department_id IS NOT NULL END)"
" LIMIT 1";

/* Whether the department's record names the user among its owners. */
static const char *const leads_sql =
"CASE WHEN NOT r.deleted AND jsonb_typeof(r.data -> 'owners') = 'array'"
"     THEN EXISTS (SELECT 1"
"                    FROM jsonb_array_elements_text(r.data -> 'owners') AS o (uid)"
"                   WHERE o.uid = w.uid_key)"
"     ELSE false END";

static bool
note_stranger(TupleTableSlot *row, void *arg)
{
	*(bool *) arg = uds_scan_is_true(row, "gone") || !uds_scan_is_null(row, "link");
	return !*(bool *) arg;
}

/*
 * Whether the memberships and main departments of the users in work are as
 * their records want them.  Looked into only for a push of few users whose
 * rows no other source stands behind, none of whom is new or goes; else false.
 */
bool
uds_standing_members(const UdsRun *run)
{
	bool		stranger = false;

	if (!run->small || run->shared || uds_run_may_have(run, UDS_TYPE_DEPARTMENT))
		return false;
	uds_scan("uds_work", note_stranger, &stranger);
	return !stranger &&
		uds_stage_exec(run, uds_stage_expand(differs_sql, "leads", leads_sql, NULL)) == 0;
}
