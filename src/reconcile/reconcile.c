/*-------------------------------------------------------------------------
 *
 * reconcile.c
 *		The steps from the pages of a task to its change set, in order.
 *
 * Departments come before users, because users point to them, and go after
 * them.  Owns uds.task_errors.  Runs in the transaction of a task; takes a
 * lock on the source row first, then row locks in the order departments,
 * users, members.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "process/process.h"
#include "reconcile/reconcile.h"
#include "reconcile/stage.h"

/* error rows stored of one task; the rest is only counted */
#define MAX_STORED_ERRORS 10000

static const char *const lock_source_sql =
"SELECT FROM uds.source_settings WHERE id = $1 FOR NO KEY UPDATE";

static const char *const shared_sql =
"SELECT count(*)"
"  FROM uds.source_settings s"
" WHERE s.id <> $1"
"   AND EXISTS (SELECT 1 FROM uds.records r WHERE r.source_id = s.id)";

/* Types that had live records and of which not one came. */
static const char *const vanished_sql =
"SELECT t.type"
"  FROM (VALUES ('department'), ('user')) AS t (type)"
" WHERE EXISTS (SELECT 1"
"                 FROM uds.records r"
"                WHERE r.source_id = $1 AND r.data_type = t.type AND NOT r.deleted)"
"   AND NOT EXISTS (SELECT 1 FROM incoming i WHERE i.data_type = t.type)"
" ORDER BY t.type DESC";

static const char *const unchanged_sql =
"SELECT count(*)"
"  FROM work w"
" WHERE NOT w.gone"
"   AND NOT EXISTS (SELECT 1"
"                     FROM changed c"
"                    WHERE c.resource = '{resource}' AND c.pk = w.pk::text)";

/* A row counts once, for the gravest of what happened to it. */
static const char *const counts_sql =
"SELECT count(*) FILTER (WHERE rank = 1), count(*) FILTER (WHERE rank = 2),"
"       count(*) FILTER (WHERE rank = 3), count(*) FILTER (WHERE rank = 4),"
"       count(*) FILTER (WHERE rank = 5),"
"       (SELECT count(*) FROM changed WHERE resource = 'members' AND action = 'link'),"
"       (SELECT count(*) FROM changed WHERE resource = 'members' AND action = 'unlink')"
"  FROM (SELECT min(CASE action WHEN 'create' THEN 1 WHEN 'delete' THEN 2"
"                               WHEN 'enable' THEN 3 WHEN 'disable' THEN 4"
"                               WHEN 'update' THEN 5 END) AS rank"
"          FROM changed"
"         WHERE resource <> 'members'"
"         GROUP BY resource, pk) AS c";

static const char *const errors_sql =
"INSERT INTO uds.task_errors (task_id, seq, data_type, uid, resource, sqlstate, message, record)"
"SELECT $2, row_number() OVER (ORDER BY data_type, n), data_type, uid, resource,"
"       sqlstate, message, record"
"  FROM rejected"
" ORDER BY data_type, n"
" LIMIT {limit}";

/* $3 data type, $4 node, $5 message */
static const char *const skipped_sql =
"INSERT INTO rejected (n, data_type, uid, sqlstate, message)"
"VALUES (0, $3, nullif($4, ''), '42501', $5)";

/* Sets nodes aside that the service refused to show. */
static void
reject_skipped(const UdsRun *run, List *skipped)
{
	Oid			types[5] = {INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[5] = {Int64GetDatum(run->source->id),
	Int64GetDatum(run->task->id)};
	ListCell   *lc;

	foreach(lc, skipped)
	{
		const UdsSkippedNode *node = lfirst(lc);

		values[2] = CStringGetTextDatum(node->data_type);
		values[3] = CStringGetTextDatum(node->node);
		values[4] = CStringGetTextDatum(node->message);
		uds_spi_exec(skipped_sql, 5, types, values, NULL);
	}
}

/* An empty read of a source that had something is a fault, not a fact. */
static void
refuse_vanished(const UdsRun *run)
{
	if (uds_stage_exec(run, vanished_sql) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("source \"%s\" showed not a single %s although it had some before",
					run->source->name, uds_spi_text(0, 1)),
			 errhint("Nothing was changed. See whether the permissions or the visible range of the credential were reduced.")));
}

static void
apply_departments(const UdsRun *run, UdsTaskCounts *counts)
{
	uds_records_compare(run, &uds_departments);
	uds_rows_desire(run, &uds_departments);
	uds_departments_refer(run);
	uds_departments_resolve_parents(run);
	uds_rows_write(run, &uds_departments);
	uds_records_store(run, &uds_departments);
	counts->unchanged += uds_stage_count(run, uds_stage_expand(unchanged_sql,
															   "resource", uds_departments.name, NULL));
}

static void
apply_users(const UdsRun *run, UdsTaskCounts *counts)
{
	uds_records_compare(run, &uds_users);
	uds_match_users(run);
	uds_rows_desire(run, &uds_users);
	uds_departments_refer(run);
	uds_members_desire(run);
	uds_rows_delete(run, &uds_users);
	uds_rows_release(run, &uds_users);
	uds_rows_write(run, &uds_users);
	uds_members_write(run);
	uds_records_store(run, &uds_users);
	counts->unchanged += uds_stage_count(run, uds_stage_expand(unchanged_sql,
															   "resource", uds_users.name, NULL));
}

static int64
result_number(int column)
{
	bool		isnull;

	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, column, &isnull));
}

static void
count_changes(const UdsRun *run, UdsTaskCounts *counts)
{
	uds_stage_exec(run, counts_sql);
	counts->created = result_number(1);
	counts->deleted = result_number(2);
	counts->enabled = result_number(3);
	counts->disabled = result_number(4);
	counts->updated = result_number(5);
	counts->linked = result_number(6);
	counts->unlinked = result_number(7);
}

/* What came of it, in a sentence for people. */
static char *
summarize(const UdsFetchResult *fetched, const UdsTaskCounts *counts)
{
	StringInfoData buf;
	ListCell   *lc;
	const struct
	{
		const char *word;
		int64		n;
	}			part[] = {
		{"created", counts->created}, {"updated", counts->updated},
		{"enabled", counts->enabled}, {"disabled", counts->disabled},
		{"deleted", counts->deleted}, {"unchanged", counts->unchanged},
		{"set aside", counts->failed}
	};

	initStringInfo(&buf);
	appendStringInfo(&buf, INT64_FORMAT " records read", counts->fetched);
	for (int i = 0; i < lengthof(part); i++)
		if (part[i].n > 0)
			appendStringInfo(&buf, ", " INT64_FORMAT " %s", part[i].n, part[i].word);
	if (!fetched->complete)
		appendStringInfoString(&buf, "; the read was not complete, so nobody counts as missing");
	foreach(lc, fetched->warnings)
		appendStringInfo(&buf, "; %s", (char *) lfirst(lc));
	return buf.data;
}

/*
 * Makes the target tables what the records of a task say they should be.
 *
 * "fetched" tells which streams were read and whether completely.  Fills
 * "counts" except for what fetching counted, and *message, palloc'd in SPI's
 * memory.  Returns the status the task ends with.  ERROR where nothing may be
 * applied; the caller's transaction then rolls back.
 */
const char *
uds_reconcile(const UdsTask *task, const UdsSource *source,
			  const UdsFetchResult *fetched, UdsTaskCounts *counts,
			  char **message)
{
	UdsRun		run = {0};

	run.task = task;
	run.source = source;
	run.owner = quote_identifier(GetUserNameFromId(source->owner, false));
	run.complete = fetched->complete;
	if (uds_stage_exec(&run, lock_source_sql) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("source \"%s\" was dropped while it was read", source->name)));
	run.shared = uds_stage_count(&run, shared_sql) > 0;

	uds_progress_phase(UDS_PHASE_MAP);
	uds_stage_create(&run);
	uds_collect_pages(&run, fetched);
	counts->fetched = uds_stage_count(&run,
									  "SELECT (SELECT count(*) FROM incoming) + (SELECT count(*) FROM rejected)");
	uds_progress_records(counts->fetched);
	refuse_vanished(&run);

	uds_progress_phase(UDS_PHASE_APPLY);
	apply_departments(&run, counts);
	apply_users(&run, counts);
	uds_rows_delete(&run, &uds_departments);
	uds_departments_mark_leaves(&run);

	reject_skipped(&run, fetched->skipped);
	uds_stage_exec(&run, uds_stage_expand(errors_sql, "limit",
										  psprintf("%d", MAX_STORED_ERRORS), NULL));
	count_changes(&run, counts);
	counts->skipped = list_length(fetched->skipped);
	counts->failed = uds_stage_count(&run, "SELECT count(*) FROM rejected");
	counts->complete = fetched->complete ? 1 : 0;
	*message = summarize(fetched, counts);
	return counts->failed > 0 ? "partial" : "success";
}
