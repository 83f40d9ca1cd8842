/*-------------------------------------------------------------------------
 *
 * release.c
 *		Unique values that disabled leavers still hold and somebody else now
 *		claims.
 *
 * A mailbox or a user name is handed on; the row of the one who left stays,
 * but must not block its successor.  Runs in the transaction of a task; row
 * locks on the rows that give a value up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "reconcile/stage.h"

/* Rows that leave now, and those that left before and have not come back. */
static const char *const leavers_sql =
"INSERT INTO uds_leavers (pk)"
"SELECT d.pk"
"  FROM uds_desired d"
" WHERE d.leave = 'disable'"
" UNION "
"SELECT o.resource_pk::bigint"
"  FROM uds.disabled_rows o"
" WHERE o.resource = '{resource}'"
"   AND NOT EXISTS (SELECT 1 FROM uds_desired d WHERE d.pk = o.resource_pk::bigint AND d.leave IS NULL)"
"   AND NOT EXISTS (SELECT 1"
"                     FROM uds.record_resources l"
"                     JOIN uds.records r ON r.id = l.record_id"
"                    WHERE l.resource = '{resource}' AND l.resource_pk = o.resource_pk"
"                      AND NOT r.deleted"
"                      AND NOT EXISTS (SELECT 1 FROM uds_work w WHERE w.record_id = r.id AND w.gone))";

static const char *const release_sql =
"WITH written AS"
"     (UPDATE {table} AS t"
"         SET {column} = NULL, updated_at = now()"
"        FROM uds_leavers l"
"        JOIN {table} h ON h.id = l.pk"
"        JOIN uds_desired d ON d.merged ->> '{column}' = h.{column}"
"                      AND d.pk <> h.id AND d.leave IS NULL"
"       WHERE t.id = h.id"
"   RETURNING t.id, h.{column} AS value)"
"INSERT INTO uds_changed (resource, pk, uid, action, before, after)"
"SELECT '{resource}', w.id::text, (SELECT d.uid FROM uds_desired d WHERE d.pk = w.id), 'update',"
"       jsonb_build_object('{column}', w.value), jsonb_build_object('{column}', NULL)"
"  FROM written w";

/*
 * Clears unique columns of leavers where a row in desired claims the value.
 */
void
uds_rows_release(const UdsRun *run, const UdsResource *resource)
{
	uds_stage_clear(run, "uds_leavers");
	if (uds_stage_exec(run, uds_stage_expand(leavers_sql,
											 "resource", resource->name, NULL)) == 0)
		return;
	uds_stage_analyze(run, "uds_leavers");
	for (const char *const *column = resource->unique; *column != NULL; column++)
		uds_stage_exec_as_owner(run, uds_stage_expand(release_sql,
													  "resource", resource->name,
													  "table", resource->table,
													  "column", *column, NULL));
}
