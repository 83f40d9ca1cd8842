/*-------------------------------------------------------------------------
 *
 * history.c
 *		Clean-up of uds.changes and uds.record_history.
 *
 * Runs in background workers, in short transactions of its own; row locks
 * only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"

#include "catalog/catalog.h"
#include "uds.h"

/* rows deleted by one transaction */
#define CLEANUP_BATCH 20000

/* how long previews are kept where there is no history otherwise */
#define PREVIEW_MINUTES (24 * 60)

/* What a task that waits for a decision would change stays, however old. */
#define CLEANUP(table) \
"DELETE FROM " table \
" WHERE ctid = ANY (ARRAY(SELECT c.ctid" \
"                           FROM uds.tasks t" \
"                           JOIN " table " c ON c.task_id = t.id" \
"                          WHERE t.finished_at < clock_timestamp() - make_interval(mins => $1)" \
"                            AND t.status <> 'blocked'" \
"                          LIMIT $2))"

static const char *const cleanup_sql[] = {
	CLEANUP("uds.changes"),
	CLEANUP("uds.record_history")
};

/*
 * Deletes changes of tasks that ended longer than uds.history_retention ago.
 * To be called outside a transaction.
 */
void
uds_history_cleanup(void)
{
	Oid			types[2] = {INT4OID, INT4OID};
	Datum		values[2] = {Int32GetDatum(uds_history_retention),
	Int32GetDatum(CLEANUP_BATCH)};
	uint64		deleted;

	if (uds_history_retention < 0)
		return;
	/* 0 keeps no history, but previews are there to be looked at */
	if (uds_history_retention == 0)
		values[0] = Int32GetDatum(PREVIEW_MINUTES);
	for (int i = 0; i < lengthof(cleanup_sql); i++)
	{
		do
		{
			CHECK_FOR_INTERRUPTS();
			uds_xact_begin("uds: removing expired changes");
			deleted = uds_spi_exec(cleanup_sql[i], 2, types, values, NULL);
			uds_xact_commit();
		} while (deleted == CLEANUP_BATCH);
	}
}
