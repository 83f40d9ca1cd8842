/*-------------------------------------------------------------------------
 *
 * spi.c
 *		Short transactions of a worker, SPI without ceremony, and acting as
 *		the owner of the extension.
 *
 * Owns no table.  uds_xact_*() run in background workers only, the rest in
 * backends too.  A transaction of a worker locks the extension.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog/catalog.h"
#include "uds.h"

/* statements of pushes differ by source and by columns of the targets */
#define MAX_KEPT_PLANS 1000
#define PLAN_KEY 48

/*
 * Keeps the extension from being dropped until the transaction ends.  DROP
 * EXTENSION locks it before anything in it: who has waited here takes no
 * lock that it waits for, so that the two do not deadlock.
 */
static void
lock_extension(void)
{
	Oid			extension = get_extension_oid("uds", true);

	if (OidIsValid(extension))
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
}

/*
 * Begins a transaction of a worker, with SPI connected and a snapshot taken.
 *
 * "activity" is what pg_stat_activity shows meanwhile.  Memory allocated in
 * the current context afterwards lives until uds_xact_commit().
 */
void
uds_xact_begin(const char *activity)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	lock_extension();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, activity);
}

/* What pg_stat_activity shows between transactions; empty: what was last done. */
static char idle_activity[256];

/*
 * Sets what pg_stat_activity shows between transactions, after the next one;
 * NULL for nothing in particular.
 */
void
uds_xact_idle_activity(const char *activity)
{
	strlcpy(idle_activity, activity ? activity : "", sizeof(idle_activity));
}

static void
report_idle(void)
{
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, idle_activity[0] != '\0' ? idle_activity : NULL);
}

/*
 * Ends what uds_xact_begin() began: commits and reports statistics, so that
 * autovacuum learns of what was written.
 */
void
uds_xact_commit(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	report_idle();
}

/*
 * Rolls back whatever transaction is open, if any, with the subtransactions
 * that the error left open.  For error paths: SPI and snapshots are cleaned
 * up by the abort.
 */
void
uds_xact_abort(void)
{
	AbortOutOfAnyTransaction();
	report_idle();
}

/* Statements whose plans this session keeps, by their text. */
typedef struct KeptPlan
{
	char		key[PLAN_KEY];	/* hash of the text: dynahash wants it fixed */
	char	   *sql;
	SPIPlanPtr	plan;
} KeptPlan;

static HTAB *kept_plans = NULL;
static bool keep_plans = false;

/*
 * From now on plans of statements are kept for the session, or not.
 *
 * Keeping pays for pushes of a few records, which otherwise spend their time
 * planning.  Where relations of any size are joined, every run must be
 * planned for the sizes it finds.
 */
void
uds_spi_keep_plans(bool keep)
{
	keep_plans = keep;
}

/*
 * Forgets all kept plans: because there are many, or because tables have
 * outgrown what they were made for.  Not while one of them runs.
 */
void
uds_spi_forget_plans(void)
{
	HASH_SEQ_STATUS status;
	KeptPlan   *kept;

	if (kept_plans == NULL)
		return;
	hash_seq_init(&status, kept_plans);
	while ((kept = hash_seq_search(&status)) != NULL)
	{
		SPI_freeplan(kept->plan);
		pfree(kept->sql);
	}
	hash_destroy(kept_plans);
	kept_plans = NULL;
}

/* The plan of a statement, made now or kept from before. */
static SPIPlanPtr
find_plan(const char *sql, int nargs, Oid *types)
{
	char		key[PLAN_KEY];
	KeptPlan   *kept;
	SPIPlanPtr	plan;
	bool		found;

	if (kept_plans != NULL && hash_get_num_entries(kept_plans) >= MAX_KEPT_PLANS)
		uds_spi_forget_plans();
	if (kept_plans == NULL)
	{
		HASHCTL		ctl = {.keysize = PLAN_KEY,.entrysize = sizeof(KeptPlan)};

		kept_plans = hash_create("uds kept plans", 256, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	memset(key, 0, sizeof(key));
	snprintf(key, sizeof(key), "%zu:" UINT64_FORMAT, strlen(sql),
			 DatumGetUInt64(hash_any_extended((const unsigned char *) sql, strlen(sql), nargs)));
	kept = hash_search(kept_plans, key, HASH_FIND, NULL);
	if (kept != NULL && strcmp(kept->sql, sql) == 0)
		return kept->plan;

	plan = SPI_prepare_cursor(sql, nargs, types, CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	if (kept != NULL)
		return plan;			/* another text of the same hash is kept */
	SPI_keepplan(plan);
	kept = hash_search(kept_plans, key, HASH_ENTER, &found);
	kept->sql = MemoryContextStrdup(TopMemoryContext, sql);
	kept->plan = plan;
	return plan;
}

/*
 * Runs one statement with parameters and returns the number of rows it
 * processed; rows returned are in SPI_tuptable.
 *
 * "nulls" as for SPI_execute_with_args().  Planned afresh at every call,
 * unless uds_spi_keep_plans() says otherwise.
 */
uint64
uds_spi_exec(const char *sql, int nargs, Oid *types, Datum *values,
			 const char *nulls)
{
	int			result;

	if (keep_plans)
		result = SPI_execute_plan(find_plan(sql, nargs, types), values, nulls,
								  false, 0);
	else
		result = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute \"%s\": %s",
			 sql, SPI_result_code_string(result));
	return SPI_processed;
}

/*
 * Runs one statement and returns the first column of its first row; NULL in
 * *isnull if there is no row.  A pass-by-reference result is in SPI's memory
 * and must be copied to outlive SPI_finish().
 */
Datum
uds_spi_value(const char *sql, int nargs, Oid *types, Datum *values,
			  const char *nulls, bool *isnull)
{
	if (uds_spi_exec(sql, nargs, types, values, nulls) == 0 ||
		SPI_tuptable == NULL)
	{
		*isnull = true;
		return (Datum) 0;
	}
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						 isnull);
}

/*
 * Returns a value of the last result as text, palloc'd in the current
 * context, or NULL; "row" counts from 0, "column" from 1.
 */
char *
uds_spi_text(int row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

/*
 * ERROR if the last query, of problems, found one ("found" rows): columns
 * SQLSTATE, message, and hint or null.
 */
void
uds_spi_raise(uint64 found)
{
	const char *state;
	char	   *hint;

	if (found == 0)
		return;
	state = uds_spi_text(0, 1);
	hint = uds_spi_text(0, 3);
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4])),
			 errmsg("%s", uds_spi_text(0, 2)),
			 hint ? errhint("%s", hint) : 0));
}

/*
 * Returns the owner of the extension.  ERROR if it is not installed in this
 * database.  Needs a transaction, no SPI.
 */
Oid
uds_extension_owner(void)
{
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			owner = InvalidOid;

	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("uds"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" is not installed in this database",
						"uds")));
	return owner;
}

/*
 * Acts as "role" until uds_unbecome(); *saved receives what to go back to.
 *
 * The role cannot be changed again meanwhile and no trigger or function that
 * runs may leave anything behind in the session.  An ERROR goes back by
 * itself, with the (sub)transaction.
 */
void
uds_become(Oid role, UdsIdentity *saved)
{
	GetUserIdAndSecContext(&saved->user, &saved->context);
	SetUserIdAndSecContext(role, saved->context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
}

/*
 * The same for statements that run no code but ours, and that need what is
 * forbidden otherwise: making temporary tables.
 */
void
uds_become_trusted(Oid role, UdsIdentity *saved)
{
	GetUserIdAndSecContext(&saved->user, &saved->context);
	SetUserIdAndSecContext(role, saved->context | SECURITY_LOCAL_USERID_CHANGE);
}

/*
 * Ends what either began.
 */
void
uds_unbecome(const UdsIdentity *saved)
{
	SetUserIdAndSecContext(saved->user, saved->context);
}
