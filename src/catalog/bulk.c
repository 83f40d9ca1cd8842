/*-------------------------------------------------------------------------
 *
 * bulk.c
 *		Adds rows to a table of the extension, many at a time.
 *
 * A first load writes millions of rows to our own tables.  INSERT ... SELECT
 * writes and logs each by itself; what COPY does, a page at a time, takes
 * half as long.  Pages of the raw log are large: a statement would copy each of
 * them several times.  Only for tables without triggers, defaults and generated
 * columns left to compute: who adds rows gives every column.
 *
 * Runs in workers and backends, in the caller's transaction, with SPI
 * connected; locks the table as an INSERT does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "catalog/catalog.h"
#include "compat.h"

/* rows and bytes that are written at once: what COPY takes */
#define MAX_ROWS 1000
#define MAX_BYTES 65535

/* Gathers rows; those of a query come by way of "pub". */
struct UdsBulk
{
	DestReceiver pub;
	MemoryContext context;
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *info;
	MemoryContext batch;		/* of what is written at once */
	TupleTableSlot *slots[MAX_ROWS];
	int			n;				/* slots in use */
	Size		bytes;			/* in these */
};

/* Writes the rows that have been gathered. */
static void
flush(UdsBulk *bulk)
{
	MemoryContext caller = MemoryContextSwitchTo(bulk->batch);

	CHECK_FOR_INTERRUPTS();
	table_multi_insert(bulk->rel, bulk->slots, bulk->n, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < bulk->n; i++)
	{
		bulk->slots[i]->tts_tableOid = RelationGetRelid(bulk->rel);
		uds_insert_index_tuples(bulk->info, bulk->slots[i], bulk->estate);
		ResetPerTupleExprContext(bulk->estate);
		ExecClearTuple(bulk->slots[i]);
	}
	bulk->n = 0;
	bulk->bytes = 0;
	MemoryContextSwitchTo(caller);
	MemoryContextReset(bulk->batch);
}

/* The slot for the next row. */
static TupleTableSlot *
next_slot(UdsBulk *bulk)
{
	if (bulk->slots[bulk->n] == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(bulk->estate->es_query_cxt);

		bulk->slots[bulk->n] = table_slot_create(bulk->rel, &bulk->estate->es_tupleTable);
		MemoryContextSwitchTo(caller);
	}
	return bulk->slots[bulk->n++];
}

/* A row is in its slot. */
static void
take(UdsBulk *bulk, TupleTableSlot *slot)
{
	HeapTuple	tuple;
	bool		is_copy;

	if (bulk->rel->rd_att->constr != NULL)
		ExecConstraints(bulk->info, slot, bulk->estate);
	tuple = ExecFetchSlotHeapTuple(slot, true, &is_copy);
	bulk->bytes += tuple->t_len;
	if (is_copy)
		pfree(tuple);
	if (bulk->n == MAX_ROWS || bulk->bytes > MAX_BYTES)
		flush(bulk);
}

static bool
receive(TupleTableSlot *slot, DestReceiver *self)
{
	UdsBulk    *bulk = (UdsBulk *) self;
	TupleTableSlot *copy = next_slot(bulk);

	ExecCopySlot(copy, slot);
	take(bulk, copy);
	return true;
}

/* The columns of the query must be those of the table, in the same order. */
static void
startup(DestReceiver *self, int operation, TupleDesc typeinfo)
{
	UdsBulk    *bulk = (UdsBulk *) self;
	TupleDesc	desc = RelationGetDescr(bulk->rel);

	if (typeinfo->natts != desc->natts)
		elog(ERROR, "%d columns for table \"%s\", which has %d", typeinfo->natts,
			 RelationGetRelationName(bulk->rel), desc->natts);
	for (int i = 0; i < desc->natts; i++)
		if (TupleDescAttr(typeinfo, i)->atttypid != TupleDescAttr(desc, i)->atttypid)
			elog(ERROR, "column \"%s\" of table \"%s\" is of another type",
				 NameStr(TupleDescAttr(desc, i)->attname),
				 RelationGetRelationName(bulk->rel));
}

static void
ignore(DestReceiver *self)
{
}

/*
 * Begins to add rows to a table of ours in a schema, in the current memory
 * context.  To be ended with uds_bulk_end(), or by the end of the transaction.
 */
UdsBulk *
uds_bulk_begin(const char *schema, const char *table)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "uds bulk",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	UdsBulk    *bulk = palloc0(sizeof(UdsBulk));

	bulk->context = context;
	bulk->pub.receiveSlot = receive;
	bulk->pub.rStartup = startup;
	bulk->pub.rShutdown = ignore;
	bulk->pub.rDestroy = ignore;
	bulk->rel = table_openrv(makeRangeVar(pstrdup(schema), pstrdup(table), -1), RowExclusiveLock);
	bulk->batch = AllocSetContextCreate(context, "uds bulk batch", ALLOCSET_DEFAULT_SIZES);
	bulk->estate = CreateExecutorState();
	bulk->info = makeNode(ResultRelInfo);
	InitResultRelInfo(bulk->info, bulk->rel, 0, NULL, 0);
	ExecOpenIndices(bulk->info, false);
	MemoryContextSwitchTo(caller);
	return bulk;
}

/*
 * Adds a row: one value for each column of the table, in its order.  They are
 * copied.  ERROR as an INSERT.
 */
void
uds_bulk_add(UdsBulk *bulk, const Datum *values, const bool *isnull)
{
	int			natts = RelationGetDescr(bulk->rel)->natts;
	TupleTableSlot *slot = next_slot(bulk);

	memcpy(slot->tts_values, values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, isnull, natts * sizeof(bool));
	ExecStoreVirtualTuple(slot);
	take(bulk, slot);
}

/*
 * Writes what is not written yet, and frees it all.  ERROR as an INSERT.
 */
void
uds_bulk_end(UdsBulk *bulk)
{
	MemoryContext context = bulk->context;

	if (bulk->n > 0)
		flush(bulk);
	ExecCloseIndices(bulk->info);
	ExecResetTupleTable(bulk->estate->es_tupleTable, false);
	table_close(bulk->rel, NoLock);
	FreeExecutorState(bulk->estate);
	MemoryContextDelete(context);
}

/*
 * Adds the rows of a query with parameters to a table of ours in a schema.
 * Returns their number.  The query gives all columns of the table, generated
 * ones included, in the table's order; unlike that of an INSERT it may run in
 * parallel.  ERROR as an INSERT.
 */
uint64
uds_bulk_insert(const char *schema, const char *table, const char *sql,
				int nargs, Oid *types, Datum *values)
{
	UdsBulk    *bulk = uds_bulk_begin(schema, table);
	SPIExecuteOptions options = {.dest = &bulk->pub};
	uint64		n;

	/* none can be assigned once the query runs in parallel */
	(void) GetCurrentTransactionId();
	options.params = makeParamList(nargs);
	options.params->numParams = nargs;
	for (int i = 0; i < nargs; i++)
	{
		options.params->params[i].ptype = types[i];
		options.params->params[i].value = values[i];
		options.params->params[i].isnull = false;
		options.params->params[i].pflags = PARAM_FLAG_CONST;
	}
	if (SPI_execute_extended(sql, &options) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	n = SPI_processed;
	uds_bulk_end(bulk);
	return n;
}
