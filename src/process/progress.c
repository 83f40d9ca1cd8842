/*-------------------------------------------------------------------------
 *
 * progress.c
 *		What running tasks are doing: noted by workers, shown in SQL.
 *
 * The numbers live in the worker's slot; noting them takes the LWLock of the
 * extension.  uds.progress_rows() and uds_health() run in backends, on a
 * standby too, and only read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "catalog/catalog.h"
#include "process/shared.h"

PG_FUNCTION_INFO_V1(uds_progress_rows);
PG_FUNCTION_INFO_V1(uds_health);

/* An error counts until its source succeeds or is disabled. */
static const char *const health_sql =
"SELECT count(*) FILTER (WHERE status = 'init'),"
"       count(*) FILTER (WHERE status = 'processing'),"
"       min(created_at) FILTER (WHERE status = 'init'),"
"       (SELECT t.state ->> 'last_error'"
"          FROM uds.source_state t"
"          JOIN uds.source_settings s ON s.id = t.source_id"
"         WHERE s.enabled AND t.state ? 'failing_since'"
"         ORDER BY (t.state ->> 'last_error_task')::bigint DESC"
"         LIMIT 1)"
"  FROM uds.tasks"
" WHERE status IN ('init', 'processing')";

/*
 * The phase as shown to people.
 */
const char *
uds_phase_name(UdsPhase phase)
{
	switch (phase)
	{
		case UDS_PHASE_START:
			return "starting";
		case UDS_PHASE_FETCH:
			return "fetching";
		case UDS_PHASE_MAP:
			return "mapping";
		case UDS_PHASE_APPLY:
			return "applying";
		case UDS_PHASE_FINISH:
			return "finishing";
	}
	return "unknown";
}

/*
 * Notes the phase that the task of this worker has come to.
 */
void
uds_progress_phase(UdsPhase phase)
{
	UdsSlot    *slot = uds_slot_mine();

	if (slot == NULL)
		return;
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	slot->phase = phase;
	LWLockRelease(uds_shared_lock());
}

/*
 * Notes how far the task of this worker has read its source.
 */
void
uds_progress_fetch(const UdsFetchProgress *progress)
{
	UdsSlot    *slot = uds_slot_mine();

	if (slot == NULL)
		return;
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	slot->fetch = *progress;
	LWLockRelease(uds_shared_lock());
}

/*
 * Notes how many records the task of this worker has mapped.
 */
void
uds_progress_records(int64 records)
{
	UdsSlot    *slot = uds_slot_mine();

	if (slot == NULL)
		return;
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	slot->records = records;
	LWLockRelease(uds_shared_lock());
}

/* Copies all slots, so that the lock is not held while anything is built. */
static UdsSlot *
copy_slots(void)
{
	UdsSlot    *slots = palloc0(sizeof(UdsSlot) * UDS_WORKER_SLOTS);

	if (uds_shared_available())
	{
		LWLockAcquire(uds_shared_lock(), LW_SHARED);
		memcpy(slots, uds_shared()->slots, sizeof(UdsSlot) * UDS_WORKER_SLOTS);
		LWLockRelease(uds_shared_lock());
	}
	return slots;
}

/*
 * uds.progress_rows() → one row per task that runs in this database; none
 * where the library is not preloaded.
 */
Datum
uds_progress_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	UdsSlot    *slots = copy_slots();

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < UDS_WORKER_SLOTS; i++)
	{
		const UdsSlot *slot = &slots[i];
		Datum		values[] = {
			Int64GetDatum(slot->task),
			Int64GetDatum(slot->source),
			Int32GetDatum(slot->pid),
			CStringGetTextDatum(uds_phase_name(slot->phase)),
			Int64GetDatum(slot->fetch.requests),
			Int64GetDatum(slot->fetch.requests_total),
			Int64GetDatum(slot->records),
			Int64GetDatum(slot->fetch.bytes),
			TimestampTzGetDatum(slot->started_at),
			Int64GetDatum(slot->fetch.throttled_ms)
		};
		bool		nulls[lengthof(values)] = {false};

		if (slot->state == UDS_SLOT_BUSY && slot->database == MyDatabaseId)
			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * uds_health() → one row: launcher_pid, workers (of the whole server), and of
 * this database queued, running, oldest_queued, last_error (of the sources that
 * fail now).
 */
Datum
uds_health(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	UdsIdentity saved;
	UdsSlot    *slots = copy_slots();
	HeapTupleHeader row;
	Datum		values[6];
	bool		nulls[6] = {false};
	int			launcher = 0;
	int			workers = 0;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (uds_shared_available())
	{
		LWLockAcquire(uds_shared_lock(), LW_SHARED);
		launcher = uds_shared()->launcher_pid;
		LWLockRelease(uds_shared_lock());
	}
	for (int i = 0; i < UDS_WORKER_SLOTS; i++)
		workers += slots[i].pid != 0;

	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	uds_spi_exec(health_sql, 0, NULL, NULL, NULL);
	values[0] = Int32GetDatum(launcher);
	nulls[0] = launcher == 0;
	values[1] = Int32GetDatum(workers);
	for (int i = 2; i < lengthof(values); i++)
		values[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								  i - 1, &nulls[i]);
	row = SPI_returntuple(heap_form_tuple(desc, values, nulls), desc);
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_HEAPTUPLEHEADER(row);
}
