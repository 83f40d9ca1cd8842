/*-------------------------------------------------------------------------
 *
 * raw_log.c
 *		The raw log: every page as received, and its clean-up.
 *
 * Owns uds.raw_log.  Runs in background workers; row locks only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "catalog/catalog.h"
#include "uds.h"

/* rows deleted by one transaction of the clean-up */
#define CLEANUP_BATCH 5000

/* Pages of open tasks stay, and those they replay: they are still to be mapped. */
static const char *const cleanup_sql =
"DELETE FROM uds.raw_log"
" WHERE id IN (SELECT r.id"
"                FROM uds.raw_log r"
"               WHERE r.received_at < clock_timestamp() - make_interval(mins => $1)"
"                 AND NOT EXISTS (SELECT 1"
"                                   FROM uds.tasks t"
"                                  WHERE r.task_id IN (t.id, t.retry_of)"
"                                    AND t.status IN ('init', 'processing'))"
"               LIMIT $2)";

/*
 * Makes text of a body that a server sent: what is no UTF-8 becomes '?', so
 * that even rubbish can be looked at.  What the database's encoding cannot
 * hold is an ERROR: people's names are not to be guessed.
 */
static text *
body_to_text(const char *body, size_t len)
{
	size_t		at = pg_encoding_verifymbstr(PG_UTF8, body, len);
	char	   *clean = NULL;
	char	   *converted;
	text	   *result;

	if (at < len)
	{
		clean = palloc(len);
		memcpy(clean, body, len);
	}
	while (at < len)
	{
		clean[at++] = '?';
		at += pg_encoding_verifymbstr(PG_UTF8, body + at, len - at);
	}
	if (clean != NULL)
		body = clean;

	converted = pg_any_to_server(body, len, PG_UTF8);
	result = cstring_to_text_with_len(converted,
									  converted == body ? len : strlen(converted));
	if (converted != body)
		pfree(converted);
	if (clean != NULL)
		pfree(clean);
	return result;
}

/* Pages are compressed with what is fast, where the server has it. */
static int
prefer_speed(void)
{
	int			nest = NewGUCNestLevel();

#ifdef USE_LZ4
	(void) set_config_option("default_toast_compression", "lz4", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
#endif
	return nest;
}

/* "sequence" gives the page its id. */
static void
append_page(UdsBulk *bulk, Oid sequence, int64 task, int attempt, const UdsRawPage *page)
{
	/* the columns of the table */
	enum
	{
		ID, TASK, SEQ, ATTEMPT, STREAM, REQUEST, CONTEXT, STATUS, RECEIVED,
		BYTES, USABLE, BODY, COLUMNS
	};
	Datum		v[COLUMNS] = {0};
	bool		isnull[COLUMNS] = {false};

	v[ID] = DirectFunctionCall1(nextval_oid, ObjectIdGetDatum(sequence));
	v[TASK] = Int64GetDatum(task);
	v[SEQ] = Int32GetDatum(page->seq);
	v[ATTEMPT] = Int32GetDatum(attempt);
	v[STREAM] = CStringGetTextDatum(page->stream);
	v[REQUEST] = PointerGetDatum(body_to_text(page->request, strlen(page->request)));
	isnull[CONTEXT] = page->context == NULL;
	if (page->context != NULL)
	{
		text	   *context = body_to_text(page->context, strlen(page->context));

		v[CONTEXT] = DirectFunctionCall1(jsonb_in,
										 CStringGetDatum(text_to_cstring(context)));
	}
	v[STATUS] = Int32GetDatum(page->status);
	v[RECEIVED] = TimestampTzGetDatum(page->received_at);
	v[BYTES] = Int64GetDatum((int64) page->body_len);
	v[USABLE] = BoolGetDatum(page->usable);
	isnull[BODY] = page->body == NULL;
	if (page->body != NULL)
		v[BODY] = PointerGetDatum(body_to_text(page->body, page->body_len));
	uds_bulk_add(bulk, v, isnull);
}

/*
 * Appends pages (List of UdsRawPage *) of one attempt of a task.  Runs in a
 * transaction.  ERROR where a body cannot be converted to the database's
 * encoding.
 */
void
uds_raw_log_append(int64 task, int attempt, List *pages)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext, "uds raw page",
												 ALLOCSET_DEFAULT_SIZES);
	UdsBulk    *bulk = uds_bulk_begin("uds", "raw_log");
	Oid			sequence = get_relname_relid("raw_log_id_seq", get_namespace_oid("uds", false));
	int			nest = prefer_speed();
	ListCell   *lc;

	foreach(lc, pages)
	{
		MemoryContext caller = MemoryContextSwitchTo(memory);

		append_page(bulk, sequence, task, attempt, lfirst(lc));
		MemoryContextSwitchTo(caller);
		MemoryContextReset(memory);
	}
	uds_bulk_end(bulk);
	AtEOXact_GUC(true, nest);
	MemoryContextDelete(memory);
}

/*
 * Deletes pages older than uds.raw_log_retention, in short transactions of
 * its own: to be called outside any.  Does nothing when they are kept for
 * ever (-1).
 */
void
uds_raw_log_cleanup(void)
{
	Oid			types[2] = {INT4OID, INT4OID};
	Datum		values[2] = {Int32GetDatum(uds_raw_log_retention),
	Int32GetDatum(CLEANUP_BATCH)};
	uint64		deleted;

	if (uds_raw_log_retention < 0)
		return;
	do
	{
		CHECK_FOR_INTERRUPTS();
		uds_xact_begin("uds: removing expired pages from the raw log");
		deleted = uds_spi_exec(cleanup_sql, 2, types, values, NULL);
		uds_xact_commit();
	} while (deleted == CLEANUP_BATCH);
}
