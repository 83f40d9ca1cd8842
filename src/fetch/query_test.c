/*-------------------------------------------------------------------------
 *
 * query_test.c
 *		Queries of a source, or the function of its type, tried out.
 *
 * Runs in request workers, outside of any transaction, with short ones of its
 * own.  Takes the locks that the query takes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "fetch/query_cursor.h"

/* The steps of a test so far. */
typedef struct Trial
{
	const UdsSource *source;
	MemoryContext memory;		/* of the steps */
	List	   *steps;			/* of UdsTestStep * */
	TimestampTz begun;			/* the current one */
} Trial;

static void
add_step(Trial *trial, const char *name, bool ok, const char *detail)
{
	MemoryContext caller = MemoryContextSwitchTo(trial->memory);
	UdsTestStep *step = palloc0(sizeof(UdsTestStep));
	TimestampTz now = GetCurrentTimestamp();

	step->step = name;
	step->ok = ok;
	step->detail = pstrdup(detail);
	step->elapsed = (int) TimestampDifferenceMilliseconds(trial->begun, now);
	trial->steps = lappend(trial->steps, step);
	trial->begun = now;
	MemoryContextSwitchTo(caller);
}

/* Whether a first row would be taken as a record; as the superuser again. */
static void
try_record(Trial *trial, const char *json, const char *data_type)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2] = {CStringGetTextDatum(psprintf("[%s]", json)),
	CStringGetTextDatum(data_type)};
	char	   *problem;

	add_step(trial, "first row", true, json);
	uds_spi_exec("SELECT coalesce(m.error,"
				 "                CASE WHEN coalesce(m.record ->> 'uid', '') = '' THEN 'record has no uid' END,"
				 "                uds.record_error(m.record, $2))"
				 "  FROM uds.map_page($1, '{\"records\": \"$[*]\"}', '{}') AS m",
				 2, types, values, NULL);
	problem = uds_spi_text(0, 1);
	add_step(trial, "record", problem == NULL,
			 problem ? problem : psprintf("a %s", data_type));
}

/* Runs a query, or the function, as far as its first row. */
static void
try_rows(Trial *trial, int stream, const char *sql)
{
	const UdsSource *source = trial->source;
	UdsQueryPlace place = {source, sql ? uds_query_streams[stream].option : NULL};
	ErrorContextCallback callback;
	UdsIdentity saved;
	Portal		portal;
	char	   *json = NULL;
	const char *data_type = uds_query_streams[stream].data_type;

	uds_query_enter(&callback, &place);
	uds_query_begin(source, &saved);
	portal = sql ? uds_query_open(sql, &place) : uds_query_call(source, NULL);
	SPI_cursor_fetch(portal, true, 1);
	if (SPI_processed > 0)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = BlessTupleDesc(SPI_tuptable->tupdesc);

		json = sql ? uds_query_record(row, desc) : SPI_getvalue(row, desc, 2);
		if (sql == NULL && json != NULL)
			data_type = uds_query_streams[uds_query_find_stream(source, SPI_getvalue(row, desc, 1))].data_type;
	}
	SPI_cursor_close(portal);
	uds_unbecome(&saved);
	error_context_stack = callback.previous;
	add_step(trial, sql ? uds_query_streams[stream].option : "function", true,
			 json ? "runs" : "runs; it gave no record");
	if (json != NULL)
		try_record(trial, json, data_type);
	uds_xact_commit();
}

/* The same; what fails is a step. */
static void
try_one(Trial *trial, int stream, const char *sql)
{
	PG_TRY();
	{
		try_rows(trial, stream, sql);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(trial->memory);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			PG_RE_THROW();
		FlushErrorState();
		uds_xact_abort();
		add_step(trial, sql ? uds_query_streams[stream].option : "function", false,
				 psprintf("%s%s%s", error->message, error->hint ? "; hint: " : "",
						  error->hint ? error->hint : ""));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(trial->memory);
}

/*
 * Tries a source for which uds_query_reads() holds: each query runs, what its
 * first row is, and whether that can be a record.  A function is called for
 * everything.
 *
 * Called outside a transaction.  Returns a List of UdsTestStep * in the current
 * context.  What fails is a step that is not ok.
 */
List *
uds_query_test(const UdsSource *source)
{
	Trial		trial = {source, CurrentMemoryContext, NIL, GetCurrentTimestamp()};

	if (source->pull != NULL)
		try_one(&trial, QUERY_USERS, NULL);
	for (int i = 0; i < UDS_QUERY_STREAMS && source->pull == NULL; i++)
	{
		char	   *sql = uds_query_option(source->options, uds_query_streams[i].option);

		if (sql != NULL)
			try_one(&trial, i, sql);
	}
	return trial.steps;
}
