/*-------------------------------------------------------------------------
 *
 * release.c
 *		Unique values that disabled leavers still hold and somebody else now
 *		claims, and those that are somebody else's when the leaver returns.
 *
 * A mailbox or a user name is handed on; the row of the one who left stays,
 * but must not block its successor.  Who returns must do without it.  Runs in
 * the transaction of a task; row locks on the rows that give a value up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "reconcile/stage.h"

/*
 * Rows that leave now, and those that left before and have not come back.  Where
 * few are left to look at, these are looked up one by one ({few}): their
 * records are some of very many.
 */
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
"                      AND NOT EXISTS (SELECT 1 FROM uds_work w WHERE w.record_id = r.id AND w.gone){few})";

/* Goes out from the leavers: as a rule they are few, and who wants something many. */
static const char *const release_sql =
"WITH written AS"
"     (UPDATE {table} AS t"
"         SET {column} = NULL, updated_at = now()"
"        FROM (SELECT k.id, k.{column}"
"                FROM uds_leavers l"
"                JOIN {table} k ON k.id = l.pk"
"               WHERE k.{column} IS NOT NULL"
"              OFFSET 0) AS h"
"        JOIN uds_desired d ON d.merged ->> '{column}' = h.{column}"
"                      AND d.pk <> h.id AND d.leave IS NULL"
"       WHERE t.id = h.id"
"   RETURNING t.id, h.{column} AS value)"
"INSERT INTO uds_changed (resource, pk, uid, action, before, after)"
"SELECT '{resource}', w.id::text, (SELECT d.uid FROM uds_desired d WHERE d.pk = w.id), 'update',"
"       jsonb_build_object('{column}', w.value), jsonb_build_object('{column}', NULL)"
"  FROM written w";

/* A change that release_sql told of, c, and that came to nothing. */
#define IN_VAIN \
"c.resource = '{resource}' AND c.action = 'update' AND c.before ? '{column}'" \
" AND c.after = '{\"{column}\": null}' AND t.id = c.pk::bigint"

/* Who claimed the value was refused: the leaver keeps it. */
static const char *const give_back_sql =
"UPDATE {table} t"
"   SET {column} = c.before ->> '{column}', updated_at = now()"
"  FROM uds_changed c"
" WHERE " IN_VAIN
"   AND EXISTS (SELECT 1 FROM uds_leavers l WHERE l.pk = t.id)"
"   AND t.{column} IS NULL"
"   AND NOT EXISTS (SELECT 1 FROM {table} h WHERE h.{column} = c.before ->> '{column}')";

static const char *const take_back_sql =
"DELETE FROM uds_changed c"
" USING {table} t"
" WHERE " IN_VAIN
"   AND t.{column} = c.before ->> '{column}'";

/*
 * Whether somebody has a value that a record in work, w, does not bring now to
 * its row in desired, d: w returns, or goes, or was sent before, or the value is
 * another source's.
 */
static const char *const taken_sql =
"CASE WHEN (w.was_deleted OR w.gone OR w.n IS NULL"
"           OR w.data ->> '{column}' IS DISTINCT FROM d.merged ->> '{column}')"
"      AND EXISTS (SELECT 1"
"                    FROM {table} h"
"                   WHERE h.{column} = d.merged ->> '{column}' AND h.id <> d.pk"
"                     AND NOT EXISTS (SELECT 1 FROM uds_leavers l WHERE l.pk = h.id)"
"                     AND NOT EXISTS (SELECT 1"
"                                       FROM uds_desired x"
"                                      WHERE x.pk = h.id AND x.merged ? '{column}'"
"                                        AND x.merged ->> '{column}' IS DISTINCT FROM h.{column}))"
"     THEN '{column}' END";

/* Who returns is told of it, once; the row goes on without the value. */
static const char *const renounce_sql =
"WITH taken AS"
"     (SELECT d.pk, w.n, w.uid, w.data, w.was_deleted, w.gone,"
"             array_remove(ARRAY[{taken}]::text[], NULL) AS columns"
"        FROM uds_work w"
"        JOIN uds_desired d ON d.pk = w.pk AND d.leave IS NULL"
"       WHERE w.resource = '{resource}'{old}),"
"     renounced AS"
"     (UPDATE uds_desired d"
"         SET merged = d.merged - t.columns"
"        FROM taken t"
"       WHERE t.columns <> '{}' AND d.pk = t.pk) "
"INSERT INTO uds_rejected (n, data_type, uid, resource, sqlstate, message, record)"
"SELECT n, '{data_type}', uid, '{resource}', '23505',"
"       'came back without ' || array_to_string(columns, ' and ') || ', which somebody else has now', data"
"  FROM taken"
" WHERE columns <> '{}' AND was_deleted AND NOT gone";

/*
 * Rows in desired, of those numbered $3, that want a unique value which another row has and
 * does not give up: it is none of them, or keeps it.
 */
static const char *const hopeless_sql =
"SELECT array_agg(d.n)"
"  FROM uds_desired d"
" WHERE d.n = ANY ($3) AND ({kept})";

static const char *const kept_sql =
"EXISTS (SELECT 1"
"          FROM {table} h"
"         WHERE h.{column} = d.merged ->> '{column}' AND h.id <> d.pk"
"           AND NOT EXISTS (SELECT 1"
"                             FROM uds_desired x"
"                            WHERE x.pk = h.id AND x.n = ANY ($3) AND x.merged ? '{column}'"
"                              AND x.merged ->> '{column}' IS DISTINCT FROM h.{column}))";

/* Takes values that others have now from rows whose records do not bring them. */
static void
renounce(const UdsRun *run, const UdsResource *resource)
{
	StringInfoData taken;

	initStringInfo(&taken);
	for (const char *const *column = resource->unique; *column != NULL; column++)
		appendStringInfo(&taken, "%s%s", taken.len > 0 ? ", " : "",
						 uds_stage_expand(taken_sql,
										  "table", resource->table,
										  "column", *column, NULL));
	uds_stage_exec(run, uds_stage_expand(renounce_sql,
										 "resource", resource->name,
										 "data_type", resource->data_type,
										 "taken", taken.data,
										 "old", run->shared ? "" :
										 " AND (w.was_deleted OR w.n IS NULL)",
										 NULL));
}

/*
 * Clears unique columns of leavers where a row in desired claims the value;
 * who returns claims none that somebody else has.
 */
void
uds_rows_release(const UdsRun *run, const UdsResource *resource)
{
	char	   *sql = uds_stage_expand(leavers_sql,
									   "resource", resource->name,
									   "few", run->few_left ? " OFFSET 0" : "", NULL);
	bool		leavers;

	uds_stage_clear(run, "uds_leavers");
	leavers = (run->few_left ? uds_stage_write(run, sql) : uds_stage_exec(run, sql)) > 0;
	uds_stage_analyze(run, "uds_leavers");
	renounce(run, resource);
	if (!leavers)
		return;
	for (const char *const *column = resource->unique; *column != NULL; column++)
		uds_stage_exec_as_owner(run, uds_stage_expand(release_sql,
													  "resource", resource->name,
													  "table", resource->table,
													  "column", *column, NULL));
}

/*
 * Gives leavers back what they gave up for rows that were set aside since.
 * To be called when the rows are written and any was refused.  Where others'
 * triggers refuse that, the value stays free.
 */
void
uds_rows_give_back(const UdsRun *run, const UdsResource *resource)
{
	for (const char *const *column = resource->unique; *column != NULL; column++)
		if (uds_stage_attempt(run, uds_stage_expand(give_back_sql,
													"resource", resource->name,
													"table", resource->table,
													"column", *column, NULL)))
			uds_stage_exec(run, uds_stage_expand(take_back_sql,
												 "resource", resource->name,
												 "table", resource->table,
												 "column", *column, NULL));
}

/*
 * Which of the rows in desired with these numbers (int8) can never have the
 * unique values that they want: an array of their numbers, in the current
 * context, or NULL if there is none.
 */
ArrayType *
uds_rows_hopeless(const UdsRun *run, const UdsResource *resource, Datum *numbers, int n)
{
	Oid			types[3] = {INT8OID, INT8OID, INT8ARRAYOID};
	Datum		values[3] = {Int64GetDatum(run->source->id), Int64GetDatum(run->task->id),
		PointerGetDatum(construct_array(numbers, n, INT8OID, sizeof(int64),
										FLOAT8PASSBYVAL, TYPALIGN_DOUBLE))
	};
	StringInfoData kept;
	Datum		hopeless;
	bool		isnull;

	if (resource->unique[0] == NULL)
		return NULL;
	initStringInfo(&kept);
	for (const char *const *column = resource->unique; *column != NULL; column++)
		appendStringInfo(&kept, "%s%s", kept.len > 0 ? " OR " : "",
						 uds_stage_expand(kept_sql, "table", resource->table,
										  "column", *column, NULL));
	hopeless = uds_spi_value(uds_stage_expand(hopeless_sql, "kept", kept.data, NULL),
							 3, types, values, NULL, &isnull);
	return isnull ? NULL : DatumGetArrayTypePCopy(hopeless);
}
