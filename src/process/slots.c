/*-------------------------------------------------------------------------
 *
 * slots.c
 *		Worker slots: which worker runs which task, and telling it to stop.
 *
 * A worker attaches to the slot that the launcher has reserved for it, before
 * it connects to its database.  So the exit callback registered here runs
 * after those that roll back and release locks: once a slot is free, nothing
 * of its worker is left.  Used in workers, backends and the launcher; takes
 * the LWLock of the extension only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "catalog/catalog.h"
#include "process/shared.h"

/* the slot of this worker; NULL in other processes */
static UdsSlot *my_slot = NULL;

/* what to tell the launcher at exit; unset if this is no orderly end */
static bool reported = false;
static UdsMail report;

/*
 * Frees the slot and tells the launcher how it ended: in good order, with
 * what uds_slot_report() was given, or else that it should try again.
 */
static void
release_slot(int code, Datum arg)
{
	UdsMail		mail = {0};

	if (my_slot == NULL)
		return;
	if (reported)
		mail = report;
	else
	{
		mail.due = DT_NOEND;
		mail.again = true;
	}

	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	mail.database = my_slot->database;
	memset(my_slot, 0, sizeof(UdsSlot));
	my_slot = NULL;
	uds_mail_post(&mail);
	LWLockRelease(uds_shared_lock());

	uds_tasks_broadcast();
	uds_launcher_wake();
}

/*
 * Takes the slot that the launcher reserved.  False if it was given up
 * meanwhile: then the worker must end.  To be called before the worker
 * connects to its database.
 */
bool
uds_slot_attach(const UdsWorkerStart *start)
{
	UdsSlot    *slot;

	if (uds_shared() == NULL)
		return false;
	before_shmem_exit(release_slot, (Datum) 0);

	slot = &uds_shared()->slots[start->slot];
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	if (slot->state == UDS_SLOT_STARTING && slot->ticket == start->ticket &&
		!uds_database_closed(start->database))
	{
		slot->state = UDS_SLOT_LOOKING;
		slot->pid = MyProcPid;
		my_slot = slot;
	}
	LWLockRelease(uds_shared_lock());
	return my_slot != NULL;
}

/*
 * The slot of this worker, or NULL.  Whoever writes to it holds the lock.
 */
UdsSlot *
uds_slot_mine(void)
{
	return my_slot;
}

/*
 * Copies the slot of this worker; false in other processes.
 */
bool
uds_slot_read(UdsSlot *copy)
{
	if (my_slot == NULL)
		return false;
	LWLockAcquire(uds_shared_lock(), LW_SHARED);
	*copy = *my_slot;
	LWLockRelease(uds_shared_lock());
	return true;
}

/*
 * Announces the task that this worker is about to claim, before the claim is
 * committed: who sees the task as running finds the worker.
 */
void
uds_slot_announce(const UdsTask *task)
{
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	my_slot->state = UDS_SLOT_BUSY;
	my_slot->task = task->id;
	my_slot->source = task->source_id;
	my_slot->phase = UDS_PHASE_START;
	memset(&my_slot->fetch, 0, sizeof(my_slot->fetch));
	my_slot->records = 0;
	my_slot->started_at = GetCurrentTimestamp();
	my_slot->cancel = false;
	LWLockRelease(uds_shared_lock());
}

/*
 * The task has ended, and that is committed.
 */
void
uds_slot_end_task(void)
{
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	my_slot->state = UDS_SLOT_LOOKING;
	my_slot->task = 0;
	my_slot->source = 0;
	my_slot->cancel = false;
	LWLockRelease(uds_shared_lock());
}

/*
 * This worker takes no more tasks; what is queued from now on is another's.
 */
void
uds_slot_leave(void)
{
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	my_slot->state = UDS_SLOT_LEAVING;
	LWLockRelease(uds_shared_lock());
	uds_launcher_wake();
}

/*
 * Sets what the launcher is told when this worker ends: when work is next
 * due (DT_NOEND if none is), or that it should look "again" after a while
 * because work is due that could not be taken.
 */
void
uds_slot_report(TimestampTz due, bool again)
{
	report.due = due;
	report.again = again;
	report.ended = !again;
	reported = true;
}

/*
 * Whether a command has the database to itself.  The lock must be held.
 */
bool
uds_database_closed(Oid database)
{
	for (int i = 0; i < UDS_CLOSED; i++)
		if (uds_shared()->closed[i].database == database)
			return true;
	return false;
}

/*
 * Counts the workers of a database.  *looking: one of them is about to look
 * for due tasks, so that no other is needed, or none may be started.  The
 * lock must be held.
 */
int
uds_slots_of(Oid database, bool *looking)
{
	int			workers = 0;

	*looking = uds_database_closed(database);
	for (int i = 0; i < UDS_WORKER_SLOTS; i++)
	{
		const UdsSlot *slot = &uds_shared()->slots[i];

		if (slot->state == UDS_SLOT_FREE || slot->database != database)
			continue;
		workers++;
		*looking |= slot->state == UDS_SLOT_STARTING ||
			slot->state == UDS_SLOT_LOOKING;
	}
	return workers;
}

/*
 * Ends the workers of a database that there are now.  The lock must be held;
 * never fails.
 */
void
uds_slots_end(Oid database)
{
	for (int i = 0; i < UDS_WORKER_SLOTS; i++)
	{
		const UdsSlot *slot = &uds_shared()->slots[i];

		if (slot->state != UDS_SLOT_FREE && slot->database == database && slot->pid != 0)
			kill(slot->pid, SIGTERM);
	}
}

/*
 * Whether a database that has fewer workers waits for a slot, so that this
 * one should end although it could go on.
 */
bool
uds_slot_should_yield(void)
{
	Oid			waiting;
	bool		looking;
	bool		result = false;

	LWLockAcquire(uds_shared_lock(), LW_SHARED);
	waiting = uds_shared()->waiting;
	if (OidIsValid(waiting) && waiting != MyDatabaseId)
		result = uds_slots_of(waiting, &looking) < uds_slots_of(MyDatabaseId, &looking);
	LWLockRelease(uds_shared_lock());
	return result;
}

/* Finds the slot that runs a task; the lock must be held. */
static UdsSlot *
find_slot(Oid database, int64 task)
{
	for (int i = 0; i < UDS_WORKER_SLOTS; i++)
	{
		UdsSlot    *slot = &uds_shared()->slots[i];

		if (slot->state == UDS_SLOT_BUSY && slot->database == database &&
			slot->task == task)
			return slot;
	}
	return NULL;
}

/*
 * Tells the worker that runs a task to cancel it; false if none does.
 *
 * The signal is sent while the lock keeps the slot, so it cannot hit another
 * process that got the same pid, nor a later task of the same worker.
 */
bool
uds_slot_cancel(Oid database, int64 task)
{
	UdsSlot    *slot;

	if (uds_shared() == NULL)
		return false;
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	slot = find_slot(database, task);
	if (slot != NULL)
	{
		slot->cancel = true;
		kill(slot->pid, SIGINT);
	}
	LWLockRelease(uds_shared_lock());
	return slot != NULL;
}

/*
 * Copies the slot that runs a task; false if none does.
 */
bool
uds_slot_find(Oid database, int64 task, UdsSlot *copy)
{
	UdsSlot    *slot;

	if (uds_shared() == NULL)
		return false;
	LWLockAcquire(uds_shared_lock(), LW_SHARED);
	slot = find_slot(database, task);
	if (slot != NULL)
		*copy = *slot;
	LWLockRelease(uds_shared_lock());
	return slot != NULL;
}

/*
 * Whether a living worker has announced this task.
 */
bool
uds_slot_runs(Oid database, int64 task)
{
	UdsSlot		slot;

	return uds_slot_find(database, task, &slot);
}
