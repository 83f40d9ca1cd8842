/*-------------------------------------------------------------------------
 *
 * lines.c
 *		SQL function uds.json_lines(): records that come one on each line.
 *
 * Each line is read on its own, so that memory does not grow with their
 * number, and one that jsonb cannot hold spoils no other.  Runs in backends
 * and in the listener; takes no locks and reads no table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "connector/value.h"
#include "reconcile/reconcile.h"

PG_FUNCTION_INFO_V1(uds_json_lines);

/* A line on its way through jsonb. */
typedef struct Line
{
	char	   *text;
	Datum		record;
} Line;

/*
 * Finds the next line that is not blank, from *at on; false if there is none.
 * *at is set behind it.
 */
static bool
next_line(const char **at, const char *end, const char **line, size_t *len)
{
	while (*at < end)
	{
		const char *start = *at;
		const char *stop = memchr(start, '\n', end - start);

		if (stop == NULL)
			stop = end;
		*at = stop < end ? stop + 1 : end;
		while (start < stop && (*start == ' ' || *start == '\t' || *start == '\r'))
			start++;
		while (start < stop && (stop[-1] == ' ' || stop[-1] == '\t' || stop[-1] == '\r'))
			stop--;
		if (start == stop)
			continue;
		*line = start;
		*len = stop - start;
		return true;
	}
	return false;
}

/*
 * How many lines that are not blank a text has.
 */
int64
uds_lines_count(const char *text, size_t len)
{
	const char *end = text + len;
	const char *line;
	size_t		line_len;
	int64		n = 0;

	while (next_line(&text, end, &line, &line_len))
		n++;
	return n;
}

static void
read_line(void *arg)
{
	Line	   *line = arg;

	line->record = DirectFunctionCall1(jsonb_in, CStringGetDatum(line->text));
}

/*
 * json_lines(body text)
 *
 * Returns a row for each line that is not blank: its number from 1 on, and
 * either what it holds or what is wrong with it.
 */
Datum
uds_json_lines(PG_FUNCTION_ARGS)
{
	text	   *body = PG_GETARG_TEXT_PP(0);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	const char *at = VARDATA_ANY(body);
	const char *end = at + VARSIZE_ANY_EXHDR(body);
	const char *start;
	size_t		len;
	MemoryContext memory;
	MemoryContext caller;
	int32		ord = 0;

	InitMaterializedSRF(fcinfo, 0);
	memory = AllocSetContextCreate(CurrentMemoryContext, "uds line",
								   ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(memory);
	while (next_line(&at, end, &start, &len))
	{
		Line		line = {pnstrdup(start, len)};
		int			sqlstate;
		char	   *error;
		Datum		values[3];
		bool		nulls[3] = {false};

		CHECK_FOR_INTERRUPTS();
		error = uds_value_try(read_line, &line, &sqlstate);
		nulls[1] = error != NULL;
		nulls[2] = error == NULL;
		values[0] = Int32GetDatum(++ord);
		values[1] = line.record;
		values[2] = error ? CStringGetTextDatum(error) : (Datum) 0;
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		MemoryContextReset(memory);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(memory);
	return (Datum) 0;
}
