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
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog/catalog.h"
#include "uds.h"

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
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
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
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/*
 * Runs one statement with parameters and returns the number of rows it
 * processed; rows returned are in SPI_tuptable.
 *
 * "nulls" as for SPI_execute_with_args().  Every call plans afresh, which is
 * what statements over relations of unknown size want.
 */
uint64
uds_spi_exec(const char *sql, int nargs, Oid *types, Datum *values,
			 const char *nulls)
{
	int			result;

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
