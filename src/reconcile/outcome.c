/*-------------------------------------------------------------------------
 *
 * outcome.c
 *		What came of a task: counts, error rows, the change set, the guard.
 *
 * Owns uds.changes and uds.task_errors.  A task that is rolled back, because
 * it is a preview or a guard stopped it, leaves its change set and its error
 * rows all the same: they are taken out of the stage before and stored
 * after.  Runs in the transaction of a task; no locks but on rows it adds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/queryenvironment.h"
#include "utils/tuplestore.h"

#include "reconcile/stage.h"

/*
 * A row counts once, for the gravest of what happened to it; it is created
 * once at the most.  A record may be refused several memberships.
 */
static const char *const counts_sql =
"SELECT a.created, count(*) FILTER (WHERE c.rank = 1), count(*) FILTER (WHERE c.rank = 2),"
"       count(*) FILTER (WHERE c.rank = 3), count(*) FILTER (WHERE c.rank = 4),"
"       a.linked, a.unlinked, e.failed"
"  FROM (SELECT count(*) FILTER (WHERE resource <> 'members' AND action = 'create') AS created,"
"               count(*) FILTER (WHERE resource = 'members' AND action = 'link') AS linked,"
"               count(*) FILTER (WHERE resource = 'members' AND action = 'unlink') AS unlinked"
"          FROM uds_changed"
"         WHERE resource IN ('users', 'departments', 'members')) AS a"
"  LEFT JOIN (SELECT min(CASE d.action WHEN 'delete' THEN 1 WHEN 'enable' THEN 2"
"                                      WHEN 'disable' THEN 3 WHEN 'update' THEN 4 END) AS rank"
"               FROM uds_changed d"
"              WHERE d.resource IN ('users', 'departments') AND d.action NOT IN ('create', 'link')"
"                AND NOT EXISTS (SELECT 1"
"                                  FROM uds_changed n"
"                                 WHERE n.resource = d.resource AND n.pk = d.pk"
"                                   AND n.action = 'create')"
"              GROUP BY d.resource, d.pk) AS c ON true"
" CROSS JOIN (SELECT count(DISTINCT (j.data_type, j.n, j.resource)) FILTER (WHERE j.n > 0)"
"                    + count(*) FILTER (WHERE (j.n > 0) IS NOT TRUE) AS failed"
"               FROM uds_rejected j) AS e"
" GROUP BY a.created, a.linked, a.unlinked, e.failed";

/* Who is set aside altogether needs not be told of a part of the record. */
static const char *const fold_errors_sql =
"DELETE FROM uds_rejected j"
" USING uds_rejected o"
" WHERE j.pk IS NULL AND o.pk IS NOT NULL"
"   AND o.n = j.n AND o.data_type = j.data_type AND o.resource = j.resource";

/* Records that came, by the resource that they were set aside from; '' for all. */
static const char *const failed_by_sql =
"SELECT jsonb_object_agg(coalesce(j.resource, ''), j.n)"
"  FROM (SELECT resource, count(DISTINCT n) AS n FROM uds_rejected GROUP BY resource) AS j";

/* Rows that go, as a guard counts them. */
static const char *const going_sql =
"SELECT count(DISTINCT pk)"
"  FROM uds_changed"
" WHERE resource = '{resource}' AND action IN ('disable', 'delete')";

/*
 * Rows that the source had linked and enabled before the task: those still
 * there, as they were, and those deleted.
 */
static const char *const before_sql =
"SELECT (SELECT count(DISTINCT t.id)"
"          FROM uds.records r"
"          JOIN uds.record_resources l ON l.record_id = r.id AND l.resource = '{resource}'"
"          JOIN {table} t ON t.id = l.resource_pk::bigint"
"          LEFT JOIN uds_changed c ON c.resource = '{resource}' AND c.pk = l.resource_pk"
"                             AND c.before ? 'enabled'"
"         WHERE r.source_id = $1 AND r.data_type = '{data_type}'"
"           AND r.first_seen_at < now()"
"           AND coalesce((c.before ->> 'enabled')::boolean, t.enabled))"
"       + (SELECT count(*)"
"            FROM uds_changed"
"           WHERE resource = '{resource}' AND action = 'delete'"
"             AND (before ->> 'enabled')::boolean)";

static const char *const changes_sql =
"SELECT seq, resource, pk, uid, action, before, after FROM uds_changed";

static const char *const errors_sql =
"SELECT row_number() OVER (ORDER BY data_type, n), data_type, uid, resource,"
"       sqlstate, message, record"
"  FROM uds_rejected"
" ORDER BY data_type, n"
" LIMIT {limit}";

static const char *const store_changes_sql =
"INSERT INTO uds.changes (task_id, seq, resource, pk, uid, action, before, after, applied) ";

static const char *const stored_changes_sql =
"SELECT $2, c.seq - (SELECT min(m.seq) - 1 FROM {changes} AS m), c.resource, c.pk, c.uid, c.action, c.before, c.after, {applied}"
"  FROM {changes} AS c";

static const char *const store_errors_sql =
"INSERT INTO uds.task_errors (task_id, seq, data_type, uid, resource, sqlstate, message, record)"
"SELECT $2, e.* FROM {errors} AS e";

/*
 * A change set in a form that does not depend on the keys that new rows
 * happened to get: these become the uid of the record.
 */
#define CANONICAL(changes) \
"SELECT c.resource, c.uid, c.action," \
"       CASE c.resource" \
"            WHEN 'members' THEN coalesce('new ' || n.uid, split_part(c.pk, ':', 1))" \
"            ELSE CASE WHEN c.action = 'create' THEN 'new' ELSE c.pk END" \
"       END AS pk," \
"       CASE WHEN c.resource <> 'members' THEN c.before END AS before," \
"       CASE WHEN c.resource <> 'members' THEN" \
"            (c.after - '{id,main_department_id,parent_id}'::text[])" \
"       ELSE c.after - '{user_id,department_id}'::text[] END AS after" \
"  FROM " changes " AS c" \
"  LEFT JOIN " changes " AS n ON c.resource = 'members' AND n.resource = 'departments'" \
"                            AND n.action = 'create' AND n.pk = split_part(c.pk, ':', 1)"

static const char *const differs_sql =
"WITH now AS (" CANONICAL("uds_changed") "),"
"     shown AS (" CANONICAL("(SELECT * FROM uds.changes WHERE task_id = $3)") ") "
"SELECT EXISTS (SELECT * FROM now EXCEPT ALL SELECT * FROM shown)"
"    OR EXISTS (SELECT * FROM shown EXCEPT ALL SELECT * FROM now)";

/* Rows of the stage that outlive its rollback. */
typedef struct KeptRows
{
	Tuplestorestate *rows;
	TupleDesc	desc;
} KeptRows;

struct UdsKept
{
	KeptRows	changes;
	KeptRows	errors;
};

static int64
result_number(int column)
{
	bool		isnull;

	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, column, &isnull));
}

/*
 * Fills the counts that the change set and the error rows give, of which a
 * record keeps no more than one for its row.
 */
void
uds_outcome_count(const UdsRun *run, UdsTaskCounts *counts)
{
	uds_stage_analyze(run, "uds_changed (resource, pk, action)");
	if (uds_filled("uds_rejected"))
		uds_stage_exec(run, fold_errors_sql);
	uds_stage_exec(run, counts_sql);
	counts->created = result_number(1);
	counts->deleted = result_number(2);
	counts->enabled = result_number(3);
	counts->disabled = result_number(4);
	counts->updated = result_number(5);
	counts->linked = result_number(6);
	counts->unlinked = result_number(7);
	counts->failed = result_number(8);
	if (counts->failed > 0)
	{
		uds_stage_exec(run, failed_by_sql);
		counts->failed_by = uds_spi_text(0, 1);
	}
}

/*
 * Returns NULL if the source's guard lets the change set pass, else why not,
 * palloc'd.
 */
char *
uds_outcome_guard(const UdsRun *run)
{
	const UdsResource *const resources[] = {&uds_users, &uds_departments};
	const UdsSource *source = run->source;

	for (int i = 0; i < lengthof(resources); i++)
	{
		const char *resource = resources[i]->name;
		int64		going = uds_stage_count(run, uds_stage_expand(going_sql,
																  "resource", resource, NULL));
		int64		before;

		if (going <= source->guard_min)
			continue;

		/* the least that there were, which is known: who is settled stays enabled */
		if (resources[i] == &uds_users && going <= run->settled * source->guard_percent / 100)
			continue;
		before = uds_stage_count(run, uds_stage_expand(before_sql,
													   "resource", resource,
													   "table", resources[i]->table,
													   "data_type", resources[i]->data_type,
													   NULL));
		if (going > before * source->guard_percent / 100)
			return psprintf(INT64_FORMAT " of " INT64_FORMAT
							" enabled %s would be disabled or deleted, more than %g %% and more than %d;"
							" nothing was written: look at uds.changes, then uds_approve() or uds_reject()",
							going, before, resource, source->guard_percent,
							source->guard_min);
	}
	return NULL;
}

static void
keep_rows(KeptRows *kept, const char *sql)
{
	SPIExecuteOptions options = {0};
	DestReceiver *receiver;

	if (SPI_execute(psprintf("SELECT * FROM (%s) AS rows LIMIT 0", sql),
					false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not describe the stage");
	kept->desc = CreateTupleDescCopy(SPI_tuptable->tupdesc);

	/* beyond the subtransaction that is about to be rolled back */
	kept->rows = tuplestore_begin_heap(false, true, work_mem);
	receiver = CreateTuplestoreDestReceiver();
	SetTuplestoreDestReceiverParams(receiver, kept->rows, CurrentMemoryContext,
									false, NULL, NULL);
	options.dest = receiver;
	if (SPI_execute_extended(sql, &options) < 0)
		elog(ERROR, "could not read the stage");
	receiver->rDestroy(receiver);
}

/*
 * Takes change set and error rows out of the stage, before it is rolled back.
 */
UdsKept *
uds_outcome_keep(const UdsRun *run)
{
	UdsKept    *kept = palloc0(sizeof(UdsKept));

	keep_rows(&kept->changes, changes_sql);
	keep_rows(&kept->errors, uds_stage_expand(errors_sql, "limit",
											  psprintf("%d", UDS_MAX_STORED_ERRORS), NULL));
	return kept;
}

/* Runs a statement with kept rows under the name "kept". */
static void
store_kept(const UdsRun *run, KeptRows *kept, const char *sql)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = "kept";
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = kept->desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = tuplestore_tuple_count(kept->rows);
	relation->reldata = kept->rows;
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the rows of a task");
	uds_stage_exec(run, sql);
	SPI_unregister_relation("kept");
	tuplestore_end(kept->rows);
}

/*
 * Stores change set and error rows: of the stage, or, where "kept" is given,
 * those it holds, as not applied.
 */
void
uds_outcome_store(const UdsRun *run, UdsKept *kept)
{
	if (kept != NULL)
	{
		store_kept(run, &kept->changes,
				   uds_stage_expand(psprintf("%s%s", store_changes_sql, stored_changes_sql),
									"applied", "false", "changes", "kept", NULL));
		store_kept(run, &kept->errors,
				   uds_stage_expand(store_errors_sql, "errors", "kept", NULL));
		return;
	}
	if (run->kept)
	{
		char	   *changes = uds_stage_expand(stored_changes_sql, "applied", "true",
											   "changes", "uds_changed", NULL);

		if (run->small)
			uds_stage_exec(run, psprintf("%s%s", store_changes_sql, changes));
		else
			uds_stage_bulk(run, "changes", changes);
	}
	if (!uds_filled("uds_rejected"))
		return;
	uds_stage_exec(run, uds_stage_expand(store_errors_sql, "errors",
										 psprintf("(%s)",
												  uds_stage_expand(errors_sql, "limit",
																   psprintf("%d", UDS_MAX_STORED_ERRORS), NULL)),
										 NULL));
}

/*
 * Whether the change set differs from the one that task "shown" left.
 */
bool
uds_outcome_differs(const UdsRun *run, int64 shown)
{
	Oid			types[3] = {INT8OID, INT8OID, INT8OID};
	Datum		values[3] = {Int64GetDatum(run->source->id),
	Int64GetDatum(run->task->id), Int64GetDatum(shown)};
	bool		isnull;

	return DatumGetBool(uds_spi_value(differs_sql, 3, types, values, NULL, &isnull));
}

/*
 * Tells those who LISTEN uds_changes, at commit, that there is something to
 * read.
 */
void
uds_outcome_notify(const UdsRun *run, const UdsTaskCounts *counts)
{
	StringInfoData payload;

	if (counts->created + counts->updated + counts->enabled + counts->disabled +
		counts->deleted + counts->linked + counts->unlinked == 0 &&
		!(run->registered && uds_stage_count(run, "SELECT count(*) FROM uds_changed") > 0))
		return;
	initStringInfo(&payload);
	appendStringInfo(&payload, "{\"task\":" INT64_FORMAT ",\"source\":", run->task->id);
	escape_json(&payload, run->source->name);
	appendStringInfo(&payload, ",\"created\":" INT64_FORMAT ",\"updated\":" INT64_FORMAT
					 ",\"enabled\":" INT64_FORMAT ",\"disabled\":" INT64_FORMAT
					 ",\"deleted\":" INT64_FORMAT ",\"linked\":" INT64_FORMAT
					 ",\"unlinked\":" INT64_FORMAT "}",
					 counts->created, counts->updated, counts->enabled,
					 counts->disabled, counts->deleted, counts->linked,
					 counts->unlinked);
	Async_Notify("uds_changes", payload.data);
}
