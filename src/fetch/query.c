/*-------------------------------------------------------------------------
 *
 * query.c
 *		Reads a source by its queries, or by the function of its type.
 *
 * Rows go to a temporary file, as pages of JSON, so that memory stays small;
 * they are handed over when the transaction that reads them has ended, because
 * keeping them writes.
 * Runs in a sync worker, outside of any transaction, with one of its own.  Takes
 * the locks that the query takes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/buffile.h"
#include "utils/memutils.h"

#include "fetch/query_cursor.h"

/* a page has this many records, or bytes, whichever comes first */
#define PAGE_RECORDS 1000
#define PAGE_BYTES	(1024 * 1024)

/* rows fetched at a time */
#define FETCH_ROWS 1000

/* One page in the file: this, then its bytes. */
typedef struct SpoolPage
{
	int			stream;
	int			records;
	size_t		len;
} SpoolPage;

/* What was read, and the pages that are not full yet. */
typedef struct Spool
{
	BufFile    *file;
	MemoryContext row;			/* reset after each row */
	StringInfoData page[UDS_QUERY_STREAMS];
	int			records[UDS_QUERY_STREAMS]; /* in that page */
	int64		pages[UDS_QUERY_STREAMS];	/* in the file */
	bool		read[UDS_QUERY_STREAMS];
	const UdsFetchHooks *hooks;
	UdsFetchProgress totals;
	char	   *state;			/* the last one that a function gave */
} Spool;

/* Closes the file when the memory goes: no transaction does. */
static void
close_file(void *arg)
{
	Spool	   *spool = arg;

	if (spool->file != NULL)
		BufFileClose(spool->file);
}

/* Makes a spool in the current context, whose end is the end of its file. */
static Spool *
make_spool(const UdsFetchHooks *hooks)
{
	Spool	   *spool = palloc0(sizeof(Spool));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

	spool->hooks = hooks;
	spool->row = AllocSetContextCreate(CurrentMemoryContext, "uds row",
									   ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < UDS_QUERY_STREAMS; i++)
		initStringInfo(&spool->page[i]);
	callback->func = close_file;
	callback->arg = spool;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	return spool;
}

static void
show_progress(Spool *spool)
{
	if (spool->hooks->progress != NULL)
		spool->hooks->progress(spool->hooks->arg, &spool->totals);
}

/* Writes what has come together of a stream as a page; an empty one, too. */
static void
put_page(Spool *spool, int stream)
{
	StringInfo	page = &spool->page[stream];
	SpoolPage	header = {stream, spool->records[stream]};
	char	   *bytes;

	if (page->len == 0)
		appendStringInfoChar(page, '[');
	appendStringInfoChar(page, ']');
	bytes = pg_server_to_any(page->data, page->len, PG_UTF8);
	header.len = bytes == page->data ? page->len : strlen(bytes);
	BufFileWrite(spool->file, &header, sizeof(header));
	BufFileWrite(spool->file, bytes, header.len);
	resetStringInfo(page);
	spool->records[stream] = 0;
	spool->pages[stream]++;
	spool->totals.pages++;
	spool->totals.bytes += header.len;
	show_progress(spool);
}

static void
put_record(Spool *spool, int stream, const char *json)
{
	StringInfo	page = &spool->page[stream];

	appendStringInfoChar(page, page->len == 0 ? '[' : ',');
	appendStringInfoString(page, json);
	if (++spool->records[stream] >= PAGE_RECORDS || page->len >= PAGE_BYTES)
		put_page(spool, stream);
}

/* One row of a function: a record, a state, or both. */
static void
take_row(Spool *spool, const UdsSource *source, HeapTuple row, TupleDesc desc)
{
	char	   *record = SPI_getvalue(row, desc, 2);
	char	   *state = SPI_getvalue(row, desc, 3);

	if (record != NULL)
	{
		int			stream = uds_query_find_stream(source, SPI_getvalue(row, desc, 1));

		spool->read[stream] = true;
		put_record(spool, stream, record);
	}
	if (state != NULL)
	{
		if (spool->state != NULL)
			pfree(spool->state);
		spool->state = MemoryContextStrdup(GetMemoryChunkContext(spool), state);
	}
}

/* Puts the rows of a cursor into the spool; those of a function say where. */
static void
read_rows(Spool *spool, const UdsSource *source, int stream, Portal portal)
{
	uint64		n;

	do
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		n = SPI_processed;
		BlessTupleDesc(SPI_tuptable->tupdesc);
		for (uint64 i = 0; i < n; i++)
		{
			HeapTuple	row = SPI_tuptable->vals[i];
			TupleDesc	desc = SPI_tuptable->tupdesc;
			MemoryContext caller = MemoryContextSwitchTo(spool->row);

			if (source->pull != NULL)
				take_row(spool, source, row, desc);
			else
				put_record(spool, stream, uds_query_record(row, desc));
			MemoryContextSwitchTo(caller);
			MemoryContextReset(spool->row);
		}
		SPI_freetuptable(SPI_tuptable);
	} while (n > 0);
	SPI_cursor_close(portal);
}

/* Runs all there is to run and puts what it gives into the spool. */
static void
read_source(Spool *spool, const UdsSource *source, const char *state)
{
	for (int i = 0; i < UDS_QUERY_STREAMS; i++)
	{
		UdsQueryPlace place = {source, source->pull ? NULL : uds_query_streams[i].option};
		ErrorContextCallback callback;
		char	   *sql = NULL;

		if (source->pull == NULL)
			sql = uds_query_option(source->options, uds_query_streams[i].option);
		if (source->pull == NULL && sql == NULL)
			continue;
		uds_query_enter(&callback, &place);
		spool->totals.requests++;
		spool->read[i] = sql != NULL;
		show_progress(spool);
		read_rows(spool, source, i, sql ? uds_query_open(sql, &place) :
				  uds_query_call(source, state));
		error_context_stack = callback.previous;
		if (source->pull != NULL)
			break;
	}
}

/* Reads from a temporary file; ERROR where it ends too early. */
static void
read_file(BufFile *file, void *bytes, size_t len)
{
	if (BufFileRead(file, bytes, len) != len)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read from a temporary file: %m")));
}

/* Hands the pages in the file over, each with what it was asked by. */
static void
hand_over(Spool *spool, const UdsSource *source)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext, "uds page",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(memory);
	int64		first[UDS_QUERY_STREAMS] = {0};

	for (int64 i = 0; i < spool->totals.pages; i++)
	{
		SpoolPage	header;
		UdsPage		page = {0};
		char	   *bytes;

		CHECK_FOR_INTERRUPTS();
		read_file(spool->file, &header, sizeof(header));
		bytes = MemoryContextAllocHuge(memory, header.len + 1);
		read_file(spool->file, bytes, header.len);
		bytes[header.len] = '\0';
		page.stream = uds_query_streams[header.stream].stream;
		page.request = psprintf("%s, records " INT64_FORMAT " to " INT64_FORMAT,
								source->pull ? source->pull : uds_query_streams[header.stream].option,
								first[header.stream] + 1,
								first[header.stream] + header.records);
		first[header.stream] += header.records;
		page.body = bytes;
		page.body_len = header.len;
		page.usable = true;
		spool->hooks->page(spool->hooks->arg, &page);
		MemoryContextSwitchTo(memory);
		MemoryContextReset(memory);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(memory);
}

/*
 * Reads a source for which uds_query_reads() holds and hands its pages to the
 * page hook.  "state" (JSON, or NULL for everything) goes to the function of
 * the type, and the last one that it gives into the result.
 *
 * Called outside a transaction; the result is in the current context, which
 * the caller deletes, and with it the temporary file.  ERROR for whatever goes
 * wrong, possibly within a transaction.
 */
UdsFetchResult *
uds_query_run(const UdsSource *source, const char *state,
			  const UdsFetchHooks *hooks)
{
	MemoryContext caller = CurrentMemoryContext;
	UdsFetchResult *result = palloc0(sizeof(UdsFetchResult));
	Spool	   *spool = make_spool(hooks);
	UdsIdentity saved;

	uds_query_begin(source, &saved);
	MemoryContextSwitchTo(caller);
	spool->file = BufFileCreateTemp(true);
	read_source(spool, source, state);
	MemoryContextSwitchTo(caller);	/* SPI has left another one */
	for (int i = 0; i < UDS_QUERY_STREAMS; i++)
	{
		if (!spool->read[i])
			continue;
		if (spool->records[i] > 0 || spool->pages[i] == 0)
			put_page(spool, i);
		result->streams = lappend(result->streams, pstrdup(uds_query_streams[i].stream));
	}
	/* here, because what is still in memory may extend the file */
	if (BufFileSeek(spool->file, 0, 0, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rewind a temporary file: %m")));
	uds_unbecome(&saved);
	uds_xact_commit();
	MemoryContextSwitchTo(caller);

	hand_over(spool, source);
	result->complete = true;
	result->totals = spool->totals;
	result->incremental = source->pull != NULL && state != NULL;
	result->state = spool->state;
	return result;
}
