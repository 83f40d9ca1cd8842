/*-------------------------------------------------------------------------
 *
 * replay.c
 *		Tasks that work from pages an earlier task fetched: approvals, and
 *		retries of the records that were set aside.
 *
 * Runs in a sync worker, inside a transaction with SPI connected; takes no
 * locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "process/process.h"
#include "process/replay.h"

/* An approval of an approval that came out differently leads to the fetch. */
static const char *const root_sql =
"WITH RECURSIVE up AS"
"     (SELECT id, kind, retry_of FROM uds.tasks WHERE id = $1"
"       UNION ALL"
"      SELECT t.id, t.kind, t.retry_of"
"        FROM up"
"        JOIN uds.tasks t ON t.id = up.retry_of"
"       WHERE up.kind = 'approve')"
"SELECT t.id, t.attempt, coalesce(t.complete, false), t.streams, t.status, t.failed,"
"       EXISTS (SELECT 1"
"                 FROM uds.raw_log r"
"                WHERE r.task_id = t.id AND r.attempt = t.attempt AND r.usable),"
"       t.complete IS NULL AND t.streams IS NOT NULL"
"  FROM up"
"  JOIN uds.tasks t ON t.id = up.id"
" WHERE up.kind <> 'approve'";

static const char *const skipped_sql =
"SELECT data_type, coalesce(uid, ''), message"
"  FROM uds.task_errors"
" WHERE task_id = $1 AND resource IS NULL AND sqlstate = '42501'"
" ORDER BY seq";

static void
read_skipped(UdsPages *pages)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(pages->task)};
	uint64		n = uds_spi_exec(skipped_sql, 1, types, values, NULL);

	for (uint64 i = 0; i < n; i++)
	{
		UdsSkippedNode *node = palloc0(sizeof(UdsSkippedNode));

		node->data_type = uds_spi_text(i, 1);
		node->node = uds_spi_text(i, 2);
		node->message = uds_spi_text(i, 3);
		pages->skipped = lappend(pages->skipped, node);
	}
}

static List *
read_streams(Datum array)
{
	List	   *streams = NIL;
	Datum	   *elements;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &n);
	for (int i = 0; i < n; i++)
		streams = lappend(streams, TextDatumGetCString(elements[i]));
	return streams;
}

static void
report_gone(int64 task)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the pages of task " INT64_FORMAT " are gone", task),
			 errhint("They are kept for uds.raw_log_retention. Sync the source again.")));
}

/*
 * ERROR if the pages that an approval of "task" would work from are gone.
 */
void
uds_replay_require_pages(int64 task)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(task)};

	if (uds_spi_exec(root_sql, 1, types, values, NULL) == 0 ||
		uds_spi_text(0, 4) == NULL || uds_spi_text(0, 7)[0] != 't')
		report_gone(task);
}

/*
 * Finds the pages that a task shall work from instead of reading its source.
 *
 * Returns false where it must read.  Fills *pages otherwise, in SPI's memory.
 * ERROR for an approval whose pages are gone.
 */
bool
uds_replay_find(const UdsTask *task, UdsPages *pages)
{
	bool		approval = strcmp(task->kind, "approve") == 0;
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(task->retry_of)};
	Datum		streams;
	bool		isnull;
	bool		partial;

	if (task->retry_of == 0 ||
		uds_spi_exec(root_sql, 1, types, values, NULL) == 0)
		return false;

	memset(pages, 0, sizeof(UdsPages));
	pages->task = pg_strtoint64(uds_spi_text(0, 1));
	pages->attempt = pg_strtoint32(uds_spi_text(0, 2));
	pages->complete = uds_spi_text(0, 3)[0] == 't';
	pages->incremental = uds_spi_text(0, 8)[0] == 't';
	streams = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4, &isnull);
	partial = strcmp(uds_spi_text(0, 5), "partial") == 0;
	if (isnull || uds_spi_text(0, 7)[0] != 't')
	{
		if (approval)
			report_gone(pages->task);
		return false;
	}
	if (approval)
		pages->shown = task->retry_of;
	else if (partial && (pages->complete || pages->incremental) &&
			 pg_strtoint64(uds_spi_text(0, 6)) <= UDS_MAX_STORED_ERRORS)
	{
		pages->failed_of = pages->task;
		pages->complete = false;
	}
	else
		return false;

	pages->streams = read_streams(streams);
	if (approval)
		read_skipped(pages);
	return true;
}
