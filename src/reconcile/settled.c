/*-------------------------------------------------------------------------
 *
 * settled.c
 *		Users whose record says what it said before and whose row and
 *		memberships are as it wants them: nothing needs to be done for them.
 *
 * Of a large task nearly all records are such.  They are found by a few joins
 * over keys and hashes, and spared all that follows.  What is suspected
 * wrongly only costs time: it goes the whole way and comes out unchanged.
 *
 * Only rows that no other source stands behind are looked for here.  Fills
 * the stage relations settled and suspect.  Runs in the transaction of a task;
 * locks nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "reconcile/stage.h"

/* Whether there is anything to compare with. */
static const char *const known_sql =
"SELECT WHERE EXISTS (SELECT 1"
"                       FROM uds.records r"
"                      WHERE r.source_id = $1 AND r.data_type = 'user')";

/*
 * Who came before, with the same record, and neither left nor waits.  What is
 * compared later goes along: to fetch it again is a join of all records.
 */
static const char *const same_sql =
"INSERT INTO uds_settled (n, pk, names, list, merged)"
"SELECT i.n, l.resource_pk::bigint, i.data ? 'departments', i.data -> 'departments',"
"       {settable}"
"  FROM uds_incoming i"
"  JOIN uds.records r ON r.source_id = $1 AND r.data_type = 'user' AND r.uid_key = i.uid_key"
"                    AND r.uid = i.uid AND r.hash = i.hash AND NOT r.deleted"
"  JOIN uds.record_resources l ON l.record_id = r.id AND l.resource = 'users'"
" WHERE i.data_type = 'user'"
"   AND NOT coalesce((i.data ->> 'isDeleted')::boolean, false)"
"   AND coalesce((i.data ->> 'enabled')::boolean, true)"
"   AND NOT EXISTS (SELECT 1 FROM uds.pending_references p WHERE p.record_id = r.id)"
"   AND NOT EXISTS (SELECT 1"
"                     FROM uds.disabled_rows o"
"                    WHERE o.resource = 'users' AND o.resource_pk = l.resource_pk){alone}";

static const char *const alone_sql =
"   AND NOT EXISTS (SELECT 1"
"                     FROM uds.record_resources ol"
"                     JOIN uds.records o ON o.id = ol.record_id"
"                    WHERE ol.resource = 'users' AND ol.resource_pk = l.resource_pk"
"                      AND o.source_id <> $1 AND NOT o.deleted)";

/* Rows that differ from what their record makes of them, are gone, or disabled by hand. */
static const char *const rows_sql =
"INSERT INTO uds_suspect (pk)"
"SELECT n.pk"
"  FROM (SELECT k.pk, NULL::text AS uid, k.merged, u AS old, jsonb_populate_record(u, k.merged) AS p,"
"               false AS was_disabled, false AS is_disabled,"
"               NULL::bigint AS reference, false AS reference_known"
"          FROM uds_settled k"
"          LEFT JOIN {table} u ON u.id = k.pk"
"        OFFSET 0) AS n"
" WHERE (n.old).id IS NULL OR NOT (n.old).enabled OR record_image_ne(ROW({values}), ROW({old}))";

/* Limits a record to the columns that its source may set. */
static const char *const limited_sql =
"(SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}')"
"   FROM jsonb_each(i.data) AS e"
"  WHERE {columns}::jsonb ? e.key AND e.key <> ALL ('{unsettable}'::text[]))";

/*
 * Users with a membership too many, too few or of other flags, or with another
 * main department than the record leaves room for, or one that goes.
 */
static const char *const members_sql =
"INSERT INTO uds_suspect (pk)"
"SELECT coalesce(n.pk, m.user_id)"
"  FROM (SELECT k.pk, f.pk AS department_id, e.is_owner"
"          FROM uds_settled k"
"         CROSS JOIN LATERAL uds.listed(k.list, {fold}) AS e"
"          LEFT JOIN uds_department_ref f ON f.source_id = $1 AND f.uid_key = e.uid_key) AS n"
"  FULL JOIN (SELECT m.*"
"               FROM uds.department_members m{those}) AS m"
"    ON m.user_id = n.pk AND m.department_id = n.department_id"
" WHERE m.user_id IS NULL"
"    OR m.source_id IS NOT NULL"
"       AND (n.pk IS NULL OR m.source_id <> $1 OR m.is_owner <> n.is_owner)"
" UNION ALL "
"SELECT k.pk"
"  FROM uds_settled k"
"  JOIN uds.users u ON u.id = k.pk"
"  LEFT JOIN uds_department_ref f ON f.source_id = $1 AND f.pk = u.main_department_id"
" WHERE k.names"
"   AND (u.main_department_id IS NOT NULL AND f.pk IS NULL"
"        OR NOT uds.main_stands(k.list, f.uid_key, {fold}))"
" UNION ALL "
"SELECT u.id"
"  FROM uds_leaving x"
"  JOIN uds.users u ON u.main_department_id = x.pk"
" WHERE x.resource = 'departments'";

/*
 * Who is not settled need not be left out of a comparison with all members, but
 * there must not be many.
 */
static const char *const others_sql =
"SELECT WHERE EXISTS (SELECT FROM uds_settled WHERE NOT names)";

static const char *const of_settled_sql =
" JOIN uds_settled k ON k.pk = m.user_id AND k.names";

static const char *const folds_departments_sql =
"SELECT"
"  FROM uds.source_settings s"
"  JOIN uds.source_manifests t ON t.source_id = s.id"
" WHERE s.id = $1 AND " UDS_IGNORES_CASE("department");

static const char *const drop_suspects_sql =
"DELETE FROM uds_settled k USING uds_suspect x WHERE x.pk = k.pk";

/* The statement that finds records which say what they said. */
static char *
same_statement(const UdsRun *run, const UdsResource *resource)
{
	char	   *settable = uds_stage_expand(run->source->columns ? limited_sql : UDS_SETTABLE("i.data"),
										"unsettable", resource->unsettable, NULL);

	if (run->source->columns != NULL)
		settable = uds_stage_expand(settable, "columns",
									quote_literal_cstr(run->source->columns), NULL);
	return uds_stage_expand(same_sql,
							"alone", run->shared ? alone_sql : "",
							"settable", settable, NULL);
}

/* The statement that finds rows which are not as their record wants them. */
static char *
rows_statement(const UdsResource *resource)
{
	const UdsColumns *columns = uds_columns_list(resource);

	return uds_stage_expand(rows_sql,
							"table", resource->table,
							"values", columns->values.data,
							"old", columns->old.data, NULL);
}

/* The statement that finds users with other memberships. */
static char *
members_statement(const UdsRun *run, const char *fold)
{
	bool		limited = run->shared || uds_stage_exec(run, others_sql) > 0;

	return uds_stage_expand(members_sql,
							"fold", fold,
							"those", limited ? of_settled_sql : "", NULL);
}

/*
 * Fills settled with the users of the task that need nothing, and returns how
 * many they are.  To be called when incoming is filled and the departments are
 * written.
 */
int64
uds_settled_find(const UdsRun *run)
{
	const char *fold;
	int64		n;

	if (run->small || uds_stage_exec(run, known_sql) == 0)
		return 0;
	n = uds_stage_exec(run, same_statement(run, &uds_users));
	if (n == 0)
		return 0;
	uds_stage_analyze(run, "uds_settled (n, pk, names)");

	/* where the type of a column refuses a value, all go the whole way */
	if (!uds_stage_attempt(run, rows_statement(&uds_users)))
	{
		uds_stage_clear(run, "uds_settled");
		return 0;
	}
	uds_departments_refer(run, &uds_users);
	fold = uds_stage_exec(run, folds_departments_sql) > 0 ? "true" : "false";
	uds_stage_exec(run, members_statement(run, fold));
	return n - uds_stage_exec(run, drop_suspects_sql);
}
