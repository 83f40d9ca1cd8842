/*-------------------------------------------------------------------------
 *
 * isolate.c
 *		Finds the records that the database refuses, and sets them aside.
 *
 * A statement over all rows is tried as it is.  If a record is to blame for
 * its failure, the rows are cut into parts, each tried in a subtransaction
 * of its own, down to the single row.  Clean work thus costs one statement,
 * and a few bad records among many cost little more than twice that.
 *
 * Runs in the transaction of a task; locks are those of the statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "reconcile/stage.h"

/* parts into which a range that failed is cut */
#define PARTS 64

/* $3 sqlstate, $4 message, $5 number of the row */
static const char *const reject_sql =
"INSERT INTO uds_rejected (n, data_type, uid, resource, pk, sqlstate, message, record)"
"SELECT w.n, '{data_type}', x.uid, '{blamed}', x.{pk}, $3, $4, w.data"
"  FROM {relation} x"
"  LEFT JOIN LATERAL (SELECT w.n, w.data"
"                       FROM uds_work w"
"                      WHERE w.pk = x.{pk} AND w.resource = '{resource}'"
"                      ORDER BY w.gone"
"                      LIMIT 1) AS w ON true"
" WHERE x.n = $5 "
"RETURNING pk";

/* A row set aside, $1, takes part in nothing that follows. */
static const char *const forget_sql[] = {
	"DELETE FROM uds_work WHERE pk = $1 AND resource = '{resource}'",
	"DELETE FROM uds_differing WHERE pk = $1",
	"DELETE FROM uds_leaving WHERE pk = $1 AND resource = '{resource}'",
	"DELETE FROM uds_desired WHERE pk = $1"
};

/* One statement being isolated. */
typedef struct Isolation
{
	const UdsRun *run;
	const UdsResource *resource;
	UdsStatement *statement;
	SPIPlanPtr	plan;			/* the statement over a range of rows */
} Isolation;

/*
 * Whether an error speaks of the data.  The others (no memory, no disk,
 * canceled, deadlocked, a defect of ours) would meet any record.
 */
static bool
blames_record(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case MAKE_SQLSTATE('2', '1', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '2', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '3', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '7', '0', '0', '0'):
		case MAKE_SQLSTATE('3', '8', '0', '0', '0'):
		case MAKE_SQLSTATE('3', '9', '0', '0', '0'):
		case MAKE_SQLSTATE('4', '2', '0', '0', '0'):
		case MAKE_SQLSTATE('4', '4', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '4', '0', '0', '0'):
		case MAKE_SQLSTATE('P', '0', '0', '0', '0'):
			return true;
		default:
			return false;
	}
}

/*
 * Begins a subtransaction; *saved receives what its end goes back to.
 */
void
uds_part_begin(UdsPart *saved)
{
	saved->context = CurrentMemoryContext;
	saved->owner = CurrentResourceOwner;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(saved->context);
}

/*
 * Ends a subtransaction, keeping what it did or not.
 */
void
uds_part_end(const UdsPart *saved, bool keep)
{
	if (keep)
		ReleaseCurrentSubTransaction();
	else
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(saved->context);
	CurrentResourceOwner = saved->owner;
}

/*
 * Runs "work" in a subtransaction as the source's owner.  Returns NULL if it
 * went well, else the error, in the current context; errors that no record
 * is to blame for are raised.
 */
ErrorData *
uds_part_try(const UdsRun *run, void (*work) (void *arg), void *arg)
{
	UdsPart		part;
	ErrorData  *volatile error = NULL;
	UdsIdentity saved;

	uds_part_begin(&part);
	PG_TRY();
	{
		uds_become(run->source->owner, &saved);
		work(arg);
		uds_unbecome(&saved);
		uds_part_end(&part, true);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(part.context);
		error = CopyErrorData();
		FlushErrorState();
		uds_part_end(&part, false);
	}
	PG_END_TRY();

	if (error != NULL && !blames_record(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

typedef struct Range
{
	Isolation  *isolation;
	int64		first,
				last;
} Range;

static void
run_whole(void *arg)
{
	Isolation  *isolation = arg;

	uds_stage_write(isolation->run,
					uds_stage_expand(isolation->statement->sql, "rows", "",
									 "reference", "n.reference", NULL));
}

static void
run_range(void *arg)
{
	Range	   *range = arg;
	const UdsRun *run = range->isolation->run;
	Datum		values[4] = {Int64GetDatum(run->source->id),
		Int64GetDatum(run->task->id),
	Int64GetDatum(range->first), Int64GetDatum(range->last)};

	if (SPI_execute_plan(range->isolation->plan, values, NULL, false, 0) < 0)
		elog(ERROR, "could not execute a statement over a part of the stage");
}

static void
reject_row(Isolation *isolation, int64 n, const ErrorData *error)
{
	const UdsResource *resource = isolation->resource;
	bool		isnull;
	Oid			types[5] = {INT8OID, INT8OID, TEXTOID, TEXTOID, INT8OID};
	Datum		values[5] = {Int64GetDatum(isolation->run->source->id),
		Int64GetDatum(isolation->run->task->id),
		CStringGetTextDatum(unpack_sql_state(error->sqlerrcode)),
		CStringGetTextDatum(error->message ? error->message : "unknown error"),
	Int64GetDatum(n)};

	values[0] = uds_spi_value(uds_stage_expand(reject_sql,
											   "data_type", resource->data_type,
											   "blamed", isolation->statement->blamed,
											   "relation", isolation->statement->relation,
											   "resource", resource->name,
											   "pk", isolation->statement->pk, NULL),
							  5, types, values, NULL, &isnull);
	if (isolation->statement->keeps_rows)
		return;
	for (int i = 0; i < lengthof(forget_sql); i++)
		uds_spi_exec(uds_stage_expand(forget_sql[i], "resource", resource->name, NULL),
					 1, types, values, NULL);
}

/* Runs the statement over rows first to last, of which some may be bad. */
static void
isolate_range(Isolation *isolation, int64 first, int64 last)
{
	int64		step = Max(1, (last - first + PARTS) / PARTS);

	for (int64 from = first; from <= last; from += step)
	{
		Range		range = {isolation, from, Min(from + step - 1, last)};
		MemoryContext part = AllocSetContextCreate(CurrentMemoryContext, "uds part",
												   ALLOCSET_SMALL_SIZES);
		MemoryContext caller = MemoryContextSwitchTo(part);
		ErrorData  *error;

		CHECK_FOR_INTERRUPTS();
		error = uds_part_try(isolation->run, run_range, &range);
		if (error != NULL)
		{
			if (range.first == range.last)
				reject_row(isolation, range.first, error);
			else
				isolate_range(isolation, range.first, range.last);
		}
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(part);
	}
}

/*
 * Runs a statement over the rows of a stage relation as the source's owner;
 * rows that the database refuses go to rejected.  Returns whether any did.
 *
 * The statement must contain "{rows}" where a condition can follow, over the
 * relation's column n, which numbers its rows; statement->rows is that
 * condition with $3 and $4 for the first and the last.
 */
bool
uds_stage_isolate(const UdsRun *run, const UdsResource *resource,
				  UdsStatement *statement)
{
	Isolation	isolation = {run, resource, statement, NULL};
	Oid			types[4] = {INT8OID, INT8OID, INT8OID, INT8OID};

	if (uds_part_try(run, run_whole, &isolation) == NULL)
		return false;

	uds_filled_forget();

	/* from here on single rows must be found fast */
	if (!run->small)
	{
		SPI_execute(psprintf("CREATE INDEX IF NOT EXISTS %s_n ON %s (n)",
							 statement->relation, statement->relation), false, 0);
		uds_stage_analyze(run, statement->relation);
	}
	isolation.plan = SPI_prepare(uds_stage_expand(statement->sql,
												  "rows", statement->rows,
												  "reference", statement->reference ?
												  statement->reference : "n.reference",
												  NULL),
								 4, types);
	if (isolation.plan == NULL)
		elog(ERROR, "could not prepare a statement over a part of the stage");
	isolate_range(&isolation,
				  uds_stage_count(run, psprintf("SELECT coalesce(min(n), 1) FROM %s",
												statement->relation)),
				  uds_stage_count(run, psprintf("SELECT coalesce(max(n), 0) FROM %s",
												statement->relation)));
	SPI_freeplan(isolation.plan);
	return true;
}

static void
run_once(void *arg)
{
	const void *const *statement = arg;

	uds_stage_write(statement[0], statement[1]);
}

/*
 * Runs a statement over the stage as the source's owner.  Returns false, with
 * nothing done, if the database refuses it for what a record holds.
 */
bool
uds_stage_attempt(const UdsRun *run, const char *sql)
{
	const void *statement[] = {run, sql};

	return uds_part_try(run, run_once, statement) == NULL;
}
