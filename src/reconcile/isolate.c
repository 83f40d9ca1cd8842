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
 * A row whose unique value another row still has, or that refers to one not
 * there yet, may only have come too early, or belong to a swap.  So such rows
 * are tried again together, when all others are through, until none of them
 * passes any more.
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
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/plancache.h"

#include "reconcile/stage.h"

/* parts into which rows that failed are cut */
#define PARTS 64

/* the same of rows that may need one another, as long as they are few enough */
#define PARTS_TOGETHER 2
#define FEW_TOGETHER 1000

/* refused rows that are written to the stage at a time */
#define REFUSED_BATCH 1000

/* $3 numbers of rows, $4 their sqlstates, $5 their messages */
static const char *const reject_sql =
"INSERT INTO uds_rejected (n, data_type, uid, resource, pk, sqlstate, message, record)"
"SELECT w.n, '{data_type}', coalesce(w.uid, x.uid), '{blamed}', x.{pk}, e.sqlstate, e.message, w.data"
"  FROM unnest($3::bigint[], $4::text[], $5::text[]) AS e (n, sqlstate, message)"
"  JOIN {relation} x ON x.n = e.n"
"  LEFT JOIN LATERAL (SELECT w.n, w.uid, w.data"
"                       FROM uds_work w"
"                      WHERE w.pk = x.{pk} AND w.resource = '{resource}'"
"                      ORDER BY w.gone"
"                      LIMIT 1) AS w ON true";

/* Rows set aside take part in nothing that follows. */
static const char *const forget_sql[] = {
	"DELETE FROM uds_work w"
	" USING uds_rejected j"
	" WHERE j.resource = '{resource}' AND w.pk = j.pk AND w.resource = '{resource}'",

	"DELETE FROM uds_differing x"
	" USING uds_rejected j"
	" WHERE j.resource = '{resource}' AND x.pk = j.pk",

	"DELETE FROM uds_leaving d"
	" USING uds_rejected j"
	" WHERE j.resource = '{resource}' AND d.pk = j.pk AND d.resource = '{resource}'",

	"DELETE FROM uds_desired d"
	" USING uds_rejected j"
	" WHERE j.resource = '{resource}' AND d.pk = j.pk"
};

/* Stage relations in which statements over a part look up single rows by pk. */
static const char *const lookups[] = {
	"uds_work", "uds_desired", "uds_referred", "uds_differing", "uds_leaving"
};

/* A row that was refused. */
typedef struct RefusedRow
{
	Datum		number;			/* int8 */
	int			sqlerrcode;
	char	   *message;
} RefusedRow;

typedef struct Refused
{
	MemoryContext context;
	RefusedRow *rows;
	int			n;
	int			allocated;
} Refused;

/* One statement being isolated. */
typedef struct Isolation
{
	const UdsRun *run;
	const UdsResource *resource;
	UdsStatement *statement;
	SPIPlanPtr	plan;			/* the statement over given rows */
	int			parts;			/* into which rows that failed are cut */
	bool		passed;			/* any row got through in this round */
	Refused		bad;			/* yet to be written to rejected */
	Refused		early;			/* to be tried again */
} Isolation;

/*
 * Whether an error is about the data.  All are, those with codes of the
 * user's own included, but for what would meet any record: where in doubt,
 * one record is set aside and the others go on, and the error is seen all
 * the same.  Class 54 is the record's: deep nesting, or a value that no index
 * takes.
 */
static bool
blames_record(int sqlerrcode)
{
	switch (sqlerrcode)
	{
		case ERRCODE_OBJECT_IN_USE:
		case ERRCODE_LOCK_NOT_AVAILABLE:
			return false;
	}
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case MAKE_SQLSTATE('0', '8', '0', '0', '0'):	/* connection */
		case MAKE_SQLSTATE('2', '5', '0', '0', '0'):	/* transaction state */
		case MAKE_SQLSTATE('2', 'D', '0', '0', '0'):	/* transaction ended */
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'):	/* deadlock, serialization */
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'):	/* no memory, no disk */
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'):	/* canceled, shut down */
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'):	/* input and output */
		case MAKE_SQLSTATE('7', '2', '0', '0', '0'):	/* snapshot too old */
		case MAKE_SQLSTATE('F', '0', '0', '0', '0'):	/* configuration file */
		case MAKE_SQLSTATE('X', 'X', '0', '0', '0'):	/* a defect */
			return false;
		default:
			return true;
	}
}

/*
 * Whether a row may only have come before another that it depends on: one that
 * gives up what it takes, or one that it refers to.
 */
static bool
may_pass_later(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_UNIQUE_VIOLATION ||
		sqlerrcode == ERRCODE_EXCLUSION_VIOLATION ||
		sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION;
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

/* Rows of the stage that are tried together. */
typedef struct Part
{
	Isolation  *isolation;
	Datum	   *numbers;		/* int8 */
	int			n;
	uint64		written;		/* rows that the statement processed */
} Part;

/* The statement's text with a condition over its rows, or none. */
static char *
complete(const UdsStatement *statement, const char *rows, const char *reference)
{
	char	   *sql = uds_stage_expand(statement->sql, "rows", rows,
									   "reference", reference, NULL);

	return statement->words == NULL ? sql : uds_stage_expand_words(sql, statement->words);
}

static void
run_whole(void *arg)
{
	Isolation  *isolation = arg;

	isolation->statement->written =
		uds_stage_write(isolation->run,
						complete(isolation->statement, "", "n.reference"));
}

static void
run_part(void *arg)
{
	Part	   *part = arg;
	const UdsRun *run = part->isolation->run;
	Datum		values[3] = {Int64GetDatum(run->source->id),
		Int64GetDatum(run->task->id),
		PointerGetDatum(construct_array(part->numbers, part->n, INT8OID, sizeof(int64),
										FLOAT8PASSBYVAL, TYPALIGN_DOUBLE))
	};

	if (SPI_execute_plan(part->isolation->plan, values, NULL, false, 0) < 0)
		elog(ERROR, "could not execute a statement over a part of the stage");
	part->written = SPI_processed;
}

static void
init_refused(Refused *refused)
{
	refused->context = AllocSetContextCreate(CurrentMemoryContext, "uds refused rows",
											 ALLOCSET_DEFAULT_SIZES);
	refused->rows = NULL;
	refused->n = refused->allocated = 0;
}

/* Notes a row and why it was refused; of the same message in a row one copy. */
static void
refuse(Refused *refused, Datum number, const ErrorData *error)
{
	const char *message = error->message ? error->message : "unknown error";
	MemoryContext caller = MemoryContextSwitchTo(refused->context);
	RefusedRow *row;

	if (refused->n == refused->allocated)
	{
		refused->allocated = Max(REFUSED_BATCH, 2 * refused->allocated);
		refused->rows = refused->rows == NULL ?
			palloc(refused->allocated * sizeof(RefusedRow)) :
			repalloc(refused->rows, refused->allocated * sizeof(RefusedRow));
	}
	row = &refused->rows[refused->n];
	row->number = number;
	row->sqlerrcode = error->sqlerrcode;
	row->message = refused->n > 0 && strcmp(row[-1].message, message) == 0 ?
		row[-1].message : pstrdup(message);
	refused->n++;
	MemoryContextSwitchTo(caller);
}

/* Writes n rows to rejected. */
static void
reject_batch(const Isolation *isolation, const RefusedRow *rows, int n)
{
	const UdsStatement *statement = isolation->statement;
	Oid			types[5] = {INT8OID, INT8OID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID};
	Datum		values[5] = {Int64GetDatum(isolation->run->source->id),
	Int64GetDatum(isolation->run->task->id)};
	Datum	   *columns[3];

	for (int i = 0; i < lengthof(columns); i++)
		columns[i] = palloc(n * sizeof(Datum));
	for (int i = 0; i < n; i++)
	{
		columns[0][i] = rows[i].number;
		columns[1][i] = CStringGetTextDatum(unpack_sql_state(rows[i].sqlerrcode));
		columns[2][i] = CStringGetTextDatum(rows[i].message);
	}
	values[2] = PointerGetDatum(construct_array(columns[0], n, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	for (int i = 1; i < lengthof(columns); i++)
		values[2 + i] = PointerGetDatum(construct_array(columns[i], n, TEXTOID, -1,
														false, TYPALIGN_INT));
	uds_spi_exec(uds_stage_expand(reject_sql,
								  "data_type", isolation->resource->data_type,
								  "blamed", statement->blamed,
								  "relation", statement->relation,
								  "resource", isolation->resource->name,
								  "pk", statement->pk, NULL),
				 5, types, values, NULL);
}

/* Writes refused rows to rejected and lets go of them. */
static void
reject(const Isolation *isolation, Refused *refused)
{
	MemoryContext caller = MemoryContextSwitchTo(refused->context);

	for (int first = 0; first < refused->n; first += REFUSED_BATCH)
		reject_batch(isolation, &refused->rows[first],
					 Min(REFUSED_BATCH, refused->n - first));
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(refused->context);
	init_refused(refused);
}

static void cut(Isolation *isolation, Datum *numbers, int n);

/* Runs the statement over rows of which some may be bad. */
static void
isolate_part(Isolation *isolation, Datum *numbers, int n)
{
	Part		part = {isolation, numbers, n};
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext, "uds part",
												 ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(memory);
	ErrorData  *error;

	CHECK_FOR_INTERRUPTS();
	error = uds_part_try(isolation->run, run_part, &part);
	MemoryContextSwitchTo(caller);
	if (error == NULL)
	{
		isolation->passed = true;
		isolation->statement->written += part.written;
	}
	else if (n > 1)
		cut(isolation, numbers, n);
	else if (may_pass_later(error->sqlerrcode))
		refuse(&isolation->early, numbers[0], error);
	else
	{
		refuse(&isolation->bad, numbers[0], error);
		if (isolation->bad.n >= REFUSED_BATCH)
			reject(isolation, &isolation->bad);
	}
	MemoryContextDelete(memory);
}

/* The same in parts. */
static void
cut(Isolation *isolation, Datum *numbers, int n)
{
	int			step = Max(1, (n + isolation->parts - 1) / isolation->parts);

	for (int first = 0; first < n; first += step)
		isolate_part(isolation, &numbers[first], Min(step, n - first));
}

/*
 * Tries rows that may pass by now: together, because they may move unique
 * values among one another or refer to one another, and again as long as any
 * passes, because that one may be what another waits for.
 */
static void
try_again(Isolation *isolation)
{
	do
	{
		Refused		again = isolation->early;
		Datum	   *numbers = MemoryContextAlloc(again.context, again.n * sizeof(Datum));

		isolation->parts = again.n <= FEW_TOGETHER ? PARTS_TOGETHER : PARTS;
		for (int i = 0; i < again.n; i++)
			numbers[i] = again.rows[i].number;
		init_refused(&isolation->early);
		isolation->passed = false;
		isolate_part(isolation, numbers, again.n);
		MemoryContextDelete(again.context);
	} while (isolation->passed && isolation->early.n > 0);
}

/* Moves the rows with these numbers from early to bad. */
static void
give_up(Isolation *isolation, ArrayType *numbers)
{
	Refused		early = isolation->early;
	Datum	   *given_up;
	int			n;

	deconstruct_array(numbers, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
					  &given_up, NULL, &n);
	init_refused(&isolation->early);
	for (int i = 0; i < early.n; i++)
	{
		ErrorData	error = {.sqlerrcode = early.rows[i].sqlerrcode,.message = early.rows[i].message};
		bool		found = false;

		for (int k = 0; k < n && !found; k++)
			found = DatumGetInt64(given_up[k]) == DatumGetInt64(early.rows[i].number);
		refuse(found ? &isolation->bad : &isolation->early, early.rows[i].number, &error);
	}
	MemoryContextDelete(early.context);
}

/*
 * People who swap a value stay behind with one who wants to join in and
 * cannot.  Gives up those that can never pass, as long as there are any.
 * Returns whether others are left that may.
 */
static bool
give_up_hopeless(Isolation *isolation)
{
	int			before = isolation->early.n;
	ArrayType  *hopeless;

	if (strcmp(isolation->statement->relation, "uds_desired") != 0)
		return false;
	while (isolation->early.n > 0 && isolation->early.n <= FEW_TOGETHER)
	{
		Datum	   *numbers = palloc(isolation->early.n * sizeof(Datum));

		for (int i = 0; i < isolation->early.n; i++)
			numbers[i] = isolation->early.rows[i].number;
		hopeless = uds_rows_hopeless(isolation->run, isolation->resource,
									 numbers, isolation->early.n);
		if (hopeless == NULL)
			break;
		give_up(isolation, hopeless);
	}
	return isolation->early.n > 0 && isolation->early.n < before;
}

/* Makes single rows of the stage quick to find. */
static void
index_stage(const Isolation *isolation)
{
	const char *relation = isolation->statement->relation;

	if (isolation->run->small)
		return;
	SPI_execute(psprintf("CREATE INDEX IF NOT EXISTS %s_n ON %s (n)", relation, relation),
				false, 0);
	for (int i = 0; i < lengthof(lookups); i++)
		SPI_execute(psprintf("CREATE INDEX IF NOT EXISTS %s_pk ON %s (pk)",
							 lookups[i], lookups[i]), false, 0);
	uds_stage_analyze(isolation->run, relation);
}

/*
 * Makes the plan of the statement over given rows, which looks each row up by
 * its key: right for one and good for many.  The planner would rather read a
 * table of some thousand rows whole, as if that were to be done once.  The
 * setting holds for planning only, not for the triggers that run later.
 */
static void
plan_lookups(Isolation *isolation)
{
	int			level = NewGUCNestLevel();

	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	ReleaseCachedPlan(SPI_plan_get_cached_plan(isolation->plan), NULL);
	AtEOXact_GUC(true, level);
}

/* The numbers of all rows of the statement's relation, in order. */
static Datum *
list_rows(const Isolation *isolation, int *n)
{
	bool		isnull;
	Datum		numbers = uds_spi_value(psprintf("SELECT array_agg(n ORDER BY n) FROM %s",
												 isolation->statement->relation),
										0, NULL, NULL, NULL, &isnull);
	Datum	   *list = NULL;

	*n = 0;
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(numbers), INT8OID, sizeof(int64),
						  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &list, NULL, n);
	return list;
}

/*
 * Takes rows of the resource that were set aside out of the stage.
 */
void
uds_stage_forget_rejected(const UdsResource *resource)
{
	for (int i = 0; i < lengthof(forget_sql); i++)
		uds_spi_exec(uds_stage_expand(forget_sql[i], "resource", resource->name, NULL),
					 0, NULL, NULL, NULL);
}

/*
 * Runs a statement over the rows of a stage relation as the source's owner;
 * rows that the database refuses go to rejected.  Returns whether any did;
 * statement->written receives how many rows it processed.
 *
 * The statement must contain "{rows}" where a condition can follow, over the
 * relation's column n, which numbers its rows; statement->rows is that
 * condition with $3 for the array of those numbers.
 */
bool
uds_stage_isolate(const UdsRun *run, const UdsResource *resource,
				  UdsStatement *statement)
{
	Isolation	isolation = {run, resource, statement,.parts = PARTS};
	Oid			types[3] = {INT8OID, INT8OID, INT8ARRAYOID};
	Datum	   *numbers;
	int			n;

	if (uds_part_try(run, run_whole, &isolation) == NULL)
		return false;

	statement->written = 0;
	uds_filled_forget();
	init_refused(&isolation.bad);
	init_refused(&isolation.early);
	index_stage(&isolation);

	/* planned once, for a few rows */
	isolation.plan = SPI_prepare_cursor(complete(statement, statement->rows,
												 statement->reference ?
												 statement->reference : "n.reference"),
										3, types, CURSOR_OPT_GENERIC_PLAN);
	if (isolation.plan == NULL)
		elog(ERROR, "could not prepare a statement over a part of the stage");
	plan_lookups(&isolation);
	numbers = list_rows(&isolation, &n);
	cut(&isolation, numbers, n);
	if (isolation.early.n > 0)
	{
		try_again(&isolation);
		if (give_up_hopeless(&isolation))
			try_again(&isolation);
	}
	SPI_freeplan(isolation.plan);

	reject(&isolation, &isolation.bad);
	reject(&isolation, &isolation.early);
	if (!statement->keeps_rows)
		uds_stage_forget_rejected(resource);
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
