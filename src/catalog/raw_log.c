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

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "catalog/catalog.h"
#include "uds.h"

/* rows deleted by one transaction of the clean-up */
#define CLEANUP_BATCH 5000

static const char *const append_sql =
"INSERT INTO uds.raw_log (task_id, attempt, seq, stream, request, context,"
"                         status, bytes, usable, received_at, body)"
"SELECT $1, $2, p.seq, p.stream, p.request, p.context::jsonb,"
"       p.status, p.bytes, p.usable, p.received_at, p.body"
"  FROM unnest($3::int[], $4::text[], $5::text[], $6::text[],"
"              $7::int[], $8::bigint[], $9::bool[], $10::timestamptz[], $11::text[])"
"       AS p (seq, stream, request, context, status, bytes, usable, received_at, body)";

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
	char	   *clean = NULL;
	char	   *converted;
	text	   *result;

	for (size_t i = 0; i < len;)
	{
		int			l = body[i] == '\0' ? -1 :
			pg_encoding_verifymbchar(PG_UTF8, body + i, len - i);

		if (l > 0)
		{
			i += l;
			continue;
		}
		if (clean == NULL)
		{
			clean = palloc(len);
			memcpy(clean, body, len);
		}
		clean[i++] = '?';
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

/*
 * Appends pages (List of UdsRawPage *) of one attempt of a task, in one
 * statement.  Runs in a transaction with SPI connected; what it allocates is
 * in the current context.  ERROR where a body cannot be converted to the
 * database's encoding.
 */
void
uds_raw_log_append(int64 task, int attempt, List *pages)
{
	enum
	{
		SEQ, STREAM, REQUEST, CONTEXT, STATUS, BYTES, USABLE, RECEIVED, BODY,
		COLUMNS
	};
	static const Oid element[COLUMNS] = {INT4OID, TEXTOID, TEXTOID, TEXTOID,
		INT4OID, INT8OID, BOOLOID, TIMESTAMPTZOID, TEXTOID
	};
	static const Oid array[COLUMNS] = {INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
		TEXTARRAYOID, INT4ARRAYOID, INT8ARRAYOID, BOOLARRAYOID,
		TIMESTAMPTZARRAYOID, TEXTARRAYOID
	};
	ArrayBuildState *build[COLUMNS] = {0};
	Oid			types[2 + COLUMNS] = {INT8OID, INT4OID};
	Datum		values[2 + COLUMNS] = {Int64GetDatum(task), Int32GetDatum(attempt)};
	ListCell   *lc;

	foreach(lc, pages)
	{
		const UdsRawPage *page = lfirst(lc);
		Datum		v[COLUMNS] = {0};
		bool		isnull[COLUMNS] = {0};

		v[SEQ] = Int32GetDatum(page->seq);
		v[STREAM] = CStringGetTextDatum(page->stream);
		v[REQUEST] = PointerGetDatum(body_to_text(page->request,
												  strlen(page->request)));
		isnull[CONTEXT] = page->context == NULL;
		if (page->context != NULL)
			v[CONTEXT] = PointerGetDatum(body_to_text(page->context,
													  strlen(page->context)));
		v[STATUS] = Int32GetDatum(page->status);
		v[BYTES] = Int64GetDatum((int64) page->body_len);
		v[USABLE] = BoolGetDatum(page->usable);
		v[RECEIVED] = TimestampTzGetDatum(page->received_at);
		isnull[BODY] = page->body == NULL;
		if (page->body != NULL)
			v[BODY] = PointerGetDatum(body_to_text(page->body, page->body_len));

		for (int i = 0; i < COLUMNS; i++)
			build[i] = accumArrayResult(build[i], v[i], isnull[i], element[i],
										CurrentMemoryContext);
	}
	if (pages == NIL)
		return;

	for (int i = 0; i < COLUMNS; i++)
	{
		types[2 + i] = array[i];
		values[2 + i] = makeArrayResult(build[i], CurrentMemoryContext);
	}
	uds_spi_exec(append_sql, 2 + COLUMNS, types, values, NULL);
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
