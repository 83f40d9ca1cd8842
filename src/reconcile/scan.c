/*-------------------------------------------------------------------------
 *
 * scan.c
 *		Stage relations looked through and emptied without a statement.
 *
 * A statement costs its start, however few rows there are.  The questions
 * here are simple enough to be asked of the rows themselves, row by row.
 *
 * Runs in the transaction of a task, with a snapshot; locks nothing but the
 * stage relations, which are the session's own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "reconcile/stage.h"

/*
 * Calls "see" with each row of a stage relation, until it returns false.  The
 * slot is good for that call only.
 */
void
uds_scan(const char *relation, bool (*see) (TupleTableSlot *row, void *arg), void *arg)
{
	Relation	rel = table_open(RelnameGetRelid(relation), AccessShareLock);
	TupleTableSlot *row = table_slot_create(rel, NULL);
	TableScanDesc scan;

	/* all that was written so far is seen */
	CommandCounterIncrement();
	PushCopiedSnapshot(GetActiveSnapshot());
	UpdateActiveSnapshotCommandId();
	scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, row))
		if (!see(row, arg))
			break;
	table_endscan(scan);
	PopActiveSnapshot();
	ExecDropSingleTupleTableSlot(row);
	table_close(rel, NoLock);
}

static bool
note_row(TupleTableSlot *row, void *arg)
{
	*(bool *) arg = true;
	return false;
}

/*
 * Whether a stage relation has any row.
 */
bool
uds_scan_any(const char *relation)
{
	bool		any = false;

	uds_scan(relation, note_row, &any);
	return any;
}

static bool
count_row(TupleTableSlot *row, void *arg)
{
	(*(int64 *) arg)++;
	return true;
}

/*
 * Returns the number of rows of a stage relation.
 */
int64
uds_scan_count(const char *relation)
{
	int64		n = 0;

	uds_scan(relation, count_row, &n);
	return n;
}

static bool
delete_row(TupleTableSlot *row, void *arg)
{
	simple_table_tuple_delete(arg, &row->tts_tid, GetActiveSnapshot());
	return true;
}

/*
 * Deletes the rows of a stage relation, which should be few.
 */
void
uds_scan_delete(const char *relation)
{
	Relation	rel = table_open(RelnameGetRelid(relation), RowExclusiveLock);

	uds_scan(relation, delete_row, rel);
	table_close(rel, NoLock);
}

/*
 * Whether a column of the row is null.
 */
bool
uds_scan_is_null(TupleTableSlot *row, const char *column)
{
	return slot_attisnull(row, SPI_fnumber(row->tts_tupleDescriptor, column));
}

/*
 * Whether a column of the row is true; null counts as false.
 */
bool
uds_scan_is_true(TupleTableSlot *row, const char *column)
{
	bool		isnull;
	Datum		value = slot_getattr(row, SPI_fnumber(row->tts_tupleDescriptor, column), &isnull);

	return !isnull && DatumGetBool(value);
}

/*
 * Whether a column of the row, of type text, is a short word.
 */
bool
uds_scan_is_word(TupleTableSlot *row, const char *column, const char *word)
{
	bool		isnull;
	Datum		value = slot_getattr(row, SPI_fnumber(row->tts_tupleDescriptor, column), &isnull);

	return !isnull && VARSIZE_ANY_EXHDR(DatumGetPointer(value)) == strlen(word) &&
		memcmp(VARDATA_ANY(DatumGetPointer(value)), word, strlen(word)) == 0;
}
