/*-------------------------------------------------------------------------
 *
 * shared.c
 *		Shared memory, and how the launcher learns that work was queued.
 *
 * Set up in the postmaster; used in every process.  Takes the one LWLock of
 * the extension, and ProcArrayLock to find the launcher's latch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "process/shared.h"

#define TRANCHE "uds"

static UdsShared *shared = NULL;
static LWLock *shared_lock = NULL;

static shmem_request_hook_type prev_request_hook = NULL;
static shmem_startup_hook_type prev_startup_hook = NULL;

/* this transaction has queued something, and when that is due */
static bool wake_pending = false;
static TimestampTz wake_due = DT_NOBEGIN;

static void
request_memory(void)
{
	if (prev_request_hook)
		prev_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(UdsShared)));
	RequestNamedLWLockTranche(TRANCHE, 1);
}

/* Also runs after a crash of any process, with memory made anew. */
static void
start_memory(void)
{
	bool		found;

	if (prev_startup_hook)
		prev_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("uds", sizeof(UdsShared), &found);
	shared_lock = &GetNamedLWLockTranche(TRANCHE)->lock;
	if (!found)
	{
		memset(shared, 0, sizeof(UdsShared));
		ConditionVariableInit(&shared->ended);
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Asks for shared memory; to be called from _PG_init when preloaded.
 */
void
uds_shared_init(void)
{
	prev_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_memory;
}

/*
 * Whether the library was preloaded, so that a launcher can be there.
 */
bool
uds_shared_available(void)
{
	return shared != NULL;
}

/*
 * ERROR unless the library was preloaded; "what" is the function that cannot
 * do without, as in "uds_sync()".
 */
void
uds_require_preload(const char *what)
{
	if (shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s needs the library \"uds\" to be preloaded", what),
				 errhint("Add uds to shared_preload_libraries and restart the server.")));
}

/*
 * The shared memory, or NULL if not preloaded.
 */
UdsShared *
uds_shared(void)
{
	return shared;
}

/*
 * The lock that guards it.
 */
LWLock *
uds_shared_lock(void)
{
	return shared_lock;
}

/*
 * Leaves word for the launcher, merged with what it has not read yet about
 * the same database.  The lock must be held exclusively; never fails.
 */
void
uds_mail_post(const UdsMail *mail)
{
	for (int i = 0; i < shared->mails; i++)
	{
		UdsMail    *old = &shared->mail[i];

		if (old->database != mail->database)
			continue;
		old->due = Min(old->due, mail->due);
		old->ended |= mail->ended;
		old->again |= mail->again;
		return;
	}
	if (shared->mails < UDS_MAILS)
		shared->mail[shared->mails++] = *mail;
	else
		shared->all_due = true;
}

/*
 * Sets the launcher's latch, if there is a launcher.
 *
 * Should it end just now, its PGPROC may belong to another process by the
 * time its latch is set; that one wakes for nothing, which every process
 * must be able to bear.  Never fails.
 */
void
uds_launcher_wake(void)
{
	int			pid;
	PGPROC	   *proc;

	LWLockAcquire(shared_lock, LW_SHARED);
	pid = shared->launcher_pid;
	LWLockRelease(shared_lock);

	if (pid == 0)
		return;
	proc = BackendPidGetProc(pid);
	if (proc != NULL)
		SetLatch(&proc->procLatch);
}

/*
 * Whether the launcher is there, so that tasks can begin.
 */
bool
uds_launcher_runs(void)
{
	int			pid = 0;

	if (shared == NULL)
		return false;
	LWLockAcquire(shared_lock, LW_SHARED);
	pid = shared->launcher_pid;
	LWLockRelease(shared_lock);
	return pid != 0;
}

/*
 * Wakes everybody who waits for a task, to look at its row again.  To be
 * called after the commit that changed it.  Never fails.
 */
void
uds_tasks_broadcast(void)
{
	if (shared != NULL)
		ConditionVariableBroadcast(&shared->ended);
}

/*
 * Notes that this transaction has queued or changed a task.  When it ends
 * the launcher is told that this database is due, and waiters look again.
 */
void
uds_wake_at_commit(void)
{
	uds_wake_at_commit_for(DT_NOBEGIN);
}

/*
 * The same of a task that is not due before a time.
 */
void
uds_wake_at_commit_for(TimestampTz due)
{
	wake_due = wake_pending ? Min(wake_due, due) : due;
	wake_pending = true;
}

/*
 * At the end of a transaction that queued something.  Runs where an ERROR
 * would bring the server down, so nothing here may fail: an LWLock, a spin
 * lock and SetLatch() only.
 *
 * A rollback tells the launcher too: the transaction had locked the source,
 * and a worker may have passed over a task because of it.
 */
static void
at_xact_end(XactEvent event, void *arg)
{
	UdsMail		mail = {0};

	if (!wake_pending)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has queued or canceled a task of uds")));
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			wake_pending = false;
			if (shared == NULL)
				return;
			mail.database = MyDatabaseId;
			mail.due = Max(wake_due, GetCurrentTimestamp());
			LWLockAcquire(shared_lock, LW_EXCLUSIVE);
			uds_mail_post(&mail);
			LWLockRelease(shared_lock);
			uds_launcher_wake();
			uds_tasks_broadcast();
			break;
		default:
			break;
	}
}

/*
 * Registers the above, once per process; to be called from _PG_init.
 */
void
uds_process_init_xact(void)
{
	RegisterXactCallback(at_xact_end, NULL);
}
