/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The launcher: starts a sync worker in each database that is due.
 *
 * One static background worker, connected to no database.  Like autovacuum's
 * launcher it keeps, in its own memory, when work is due in which database,
 * and sleeps until then; it never polls.  It takes the LWLock of the
 * extension, and AccessShareLock on pg_database for a moment.
 *
 * What happens, and what follows:
 *
 *	server start, promotion		every database that takes connections is due
 *	crash of any process		as at server start: shared memory is new
 *	the launcher ends			the postmaster starts it again after 5 s, and
 *								then as at server start; workers go on
 *	a commit that queued		mail: the database is due now
 *	a worker ends in order		mail: when work is due next, perhaps never
 *	a worker dies				mail, from its exit callback: due again after a
 *								delay that doubles from 1 s to 60 s
 *	a worker never starts		the launcher sees it stopped: likewise
 *	no background worker free	one log line with a hint, and again after a
 *								delay that doubles likewise
 *	too much mail				every database is due
 *	CREATE EXTENSION			nothing, until something is queued
 *	DROP EXTENSION				its workers end at the commit (extension.c); the
 *								next one finds nothing to do there and ends
 *	CREATE DATABASE				nothing, until something is queued there
 *	DROP DATABASE				forgotten when it comes to be due; a worker
 *								caught in between cannot connect and ends
 *	ALTER DATABASE RENAME		nothing: databases go by their OID
 *	a command that needs the	workers there are ended and none is started until
 *	database to itself			it is over (database.c); then it is due
 *	connections disallowed		forgotten until something is queued there
 *	uds.enabled off				nothing is started; workers end after the task
 *								they run; what is due stays due
 *	uds.enabled on				at once: it was remembered
 *	uds.max_workers changed		at once upwards, downwards as workers end
 *	more due than workers		of the databases due the one with the fewest
 *								workers is next; a worker of one that has more
 *								ends after its task for it
 *	shutdown					ends at once, as do workers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "process/shared.h"

#define RESTART_SECONDS 5
#define MIN_DELAY_MS	1000
#define MAX_DELAY_MS	60000

/* how long a worker started by an earlier launcher may take to appear */
#define START_TIMEOUT_MS 60000

/* When work is due in a database. */
typedef struct Database
{
	Oid			oid;			/* hash key */
	TimestampTz due;			/* DT_NOEND = not known to be */
	int			failures;		/* times in a row that a worker got nowhere */
} Database;

static HTAB *databases = NULL;

/* of the workers that this launcher has started, by slot */
static BackgroundWorkerHandle *handles[UDS_WORKER_SLOTS];

/* since a background worker was not to be had */
static int	exhausted = 0;
static TimestampTz not_before = 0;

/*
 * Has the postmaster run the launcher; to be called from _PG_init when
 * preloaded.
 */
void
uds_launcher_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	strlcpy(worker.bgw_name, "uds launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "uds launcher", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, "uds", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "uds_launcher_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

static int
growing_delay(int times)
{
	return Min(MIN_DELAY_MS << Min(times - 1, 6), MAX_DELAY_MS);
}

static Database *
get_database(Oid oid)
{
	bool		found;
	Database   *database = hash_search(databases, &oid, HASH_ENTER, &found);

	if (!found)
	{
		database->due = DT_NOEND;
		database->failures = 0;
	}
	return database;
}

static void
set_back(Database *database, TimestampTz now)
{
	database->failures++;
	database->due = Min(database->due,
						TimestampTzPlusMilliseconds(now, growing_delay(database->failures)));
}

/*
 * Reads pg_database.  With a valid "only", returns whether that one is there
 * and takes connections; else makes all such databases due now.
 */
static bool
scan_databases(Oid only)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		/* a limit below -1 marks a database whose DROP was interrupted */
		if (!form->datallowconn || form->datistemplate || form->datconnlimit < -1)
			continue;
		if (form->oid == only)
			found = true;
		else if (!OidIsValid(only))
			get_database(form->oid)->due = GetCurrentTimestamp();
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return found;
}

/* Takes the mail in. */
static void
read_mail(TimestampTz now)
{
	UdsMail		mail[UDS_MAILS];
	int			n;
	bool		all_due;

	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	n = uds_shared()->mails;
	memcpy(mail, uds_shared()->mail, sizeof(UdsMail) * n);
	all_due = uds_shared()->all_due;
	uds_shared()->mails = 0;
	uds_shared()->all_due = false;
	LWLockRelease(uds_shared_lock());

	for (int i = 0; i < n; i++)
	{
		Database   *database = get_database(mail[i].database);

		database->due = Min(database->due, mail[i].due);
		if (mail[i].ended)
			database->failures = 0;
		if (mail[i].again)
			set_back(database, now);
	}
	if (all_due)
		scan_databases(InvalidOid);
}

/*
 * Gives up slots whose worker has stopped before it came to attach, and drops
 * the handles of those that have ended.  Returns when to look again for those
 * that an earlier launcher started, of which nobody is told.
 */
static TimestampTz
collect_stopped(TimestampTz now)
{
	TimestampTz again = DT_NOEND;

	for (int i = 0; i < UDS_WORKER_SLOTS; i++)
	{
		UdsSlot    *slot = &uds_shared()->slots[i];
		pid_t		pid;
		bool		stopped = false;
		Oid			lost = InvalidOid;

		if (handles[i] != NULL &&
			GetBackgroundWorkerPid(handles[i], &pid) == BGWH_STOPPED)
		{
			stopped = true;
			pfree(handles[i]);
			handles[i] = NULL;
		}

		LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
		if (slot->state == UDS_SLOT_STARTING && handles[i] == NULL)
		{
			TimestampTz limit = TimestampTzPlusMilliseconds(slot->launched_at,
															START_TIMEOUT_MS);

			if (stopped || limit <= now)
			{
				lost = slot->database;
				memset(slot, 0, sizeof(UdsSlot));
			}
			else
				again = Min(again, limit);
		}
		LWLockRelease(uds_shared_lock());

		if (OidIsValid(lost))
			set_back(get_database(lost), now);
	}
	return again;
}

/*
 * The database whose turn it is: of those that are due, and in which no
 * worker is about to look anyway, the one with the fewest workers, and of
 * these the one that has been due longest.  NULL if there is none.  *next
 * receives when the next other one will be due.
 */
static Database *
next_database(TimestampTz now, TimestampTz *next)
{
	HASH_SEQ_STATUS status;
	Database   *database;
	Database   *best = NULL;
	int			best_workers = 0;

	*next = DT_NOEND;
	hash_seq_init(&status, databases);
	while ((database = hash_seq_search(&status)) != NULL)
	{
		bool		looked_after;
		int			workers;

		if (database->due > now)
		{
			*next = Min(*next, database->due);
			continue;
		}
		LWLockAcquire(uds_shared_lock(), LW_SHARED);
		workers = uds_slots_of(database->oid, &looked_after);
		LWLockRelease(uds_shared_lock());
		if (looked_after)
			continue;
		if (best == NULL || workers < best_workers ||
			(workers == best_workers && database->due < best->due))
		{
			best = database;
			best_workers = workers;
		}
	}
	return best;
}

/*
 * Reserves a slot for a worker in "database", or, if uds.max_workers run,
 * notes that it waits for one.
 */
static bool
reserve_slot(Oid database, TimestampTz now, UdsWorkerStart *start)
{
	UdsShared  *shared = uds_shared();
	int			used = 0;

	start->slot = -1;
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	for (int i = 0; i < UDS_WORKER_SLOTS; i++)
	{
		if (shared->slots[i].state != UDS_SLOT_FREE)
			used++;
		else if (start->slot < 0 && handles[i] == NULL)
			start->slot = i;
	}
	if (used >= uds_max_workers || start->slot < 0)
	{
		shared->waiting = database;
		LWLockRelease(uds_shared_lock());
		return false;
	}
	start->database = database;
	start->ticket = ++shared->last_ticket;
	shared->slots[start->slot].state = UDS_SLOT_STARTING;
	shared->slots[start->slot].ticket = start->ticket;
	shared->slots[start->slot].database = database;
	shared->slots[start->slot].launched_at = now;
	LWLockRelease(uds_shared_lock());
	return true;
}

/* Asks the postmaster for the worker; false if it has none to give. */
static bool
register_worker(const UdsWorkerStart *start)
{
	BackgroundWorker worker;
	MemoryContext old;
	bool		registered;

	memset(&worker, 0, sizeof(worker));
	snprintf(worker.bgw_name, BGW_MAXLEN, "uds worker for database %u",
			 start->database);
	strlcpy(worker.bgw_type, "uds worker", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "uds", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "uds_worker_main", BGW_MAXLEN);
	worker.bgw_notify_pid = MyProcPid;
	StaticAssertStmt(sizeof(UdsWorkerStart) <= BGW_EXTRALEN,
					 "what a worker is started with must fit");
	memcpy(worker.bgw_extra, start, sizeof(UdsWorkerStart));

	old = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker, &handles[start->slot]);
	MemoryContextSwitchTo(old);
	if (registered)
	{
		exhausted = 0;
		return true;
	}

	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	memset(&uds_shared()->slots[start->slot], 0, sizeof(UdsSlot));
	LWLockRelease(uds_shared_lock());
	if (exhausted++ == 0)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("uds: could not start a worker, tasks stay queued meanwhile"),
				 errhint("You may need to increase max_worker_processes.")));
	not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											 growing_delay(exhausted));
	return false;
}

/*
 * Starts what can be started; returns when something will be due.  What
 * waits for a slot is not counted: the end of a worker sets our latch.
 */
static TimestampTz
start_due(TimestampTz now)
{
	Database   *database;
	TimestampTz next;

	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	uds_shared()->waiting = InvalidOid;
	LWLockRelease(uds_shared_lock());

	while ((database = next_database(now, &next)) != NULL)
	{
		UdsWorkerStart start;
		Oid			oid = database->oid;

		if (now < not_before)
			return Min(next, not_before);
		if (!scan_databases(oid))
		{
			hash_search(databases, &oid, HASH_REMOVE, NULL);
			continue;
		}
		if (!reserve_slot(oid, now, &start))
			break;
		if (!register_worker(&start))
			return Min(next, not_before);
		database->due = DT_NOEND;
	}
	return next;
}

/* Drops databases about which there is nothing to know. */
static void
forget_idle(void)
{
	HASH_SEQ_STATUS status;
	Database   *database;

	hash_seq_init(&status, databases);
	while ((database = hash_seq_search(&status)) != NULL)
		if (database->due == DT_NOEND && database->failures == 0)
			hash_search(databases, &database->oid, HASH_REMOVE, NULL);
}

static void
sign_off(int code, Datum arg)
{
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	if (uds_shared()->launcher_pid == MyProcPid)
		uds_shared()->launcher_pid = 0;
	LWLockRelease(uds_shared_lock());
}

static void
start_up(void)
{
	HASHCTL		control = {.keysize = sizeof(Oid),.entrysize = sizeof(Database)};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, SIG_IGN);
	BackgroundWorkerUnblockSignals();

	before_shmem_exit(sign_off, (Datum) 0);
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	databases = hash_create("uds databases", 64, &control, HASH_ELEM | HASH_BLOBS);

	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	uds_shared()->launcher_pid = MyProcPid;
	LWLockRelease(uds_shared_lock());
	scan_databases(InvalidOid);
	ereport(LOG, (errmsg("uds: launcher started")));
}

/*
 * Main function of the launcher.  Ends with exit code 1, by an ERROR or by
 * SIGTERM, so that the postmaster starts it again unless it shuts down.
 */
void
uds_launcher_main(Datum arg)
{
	uint32		wait_event;

	start_up();
	wait_event = uds_wait_event("UdsLauncherMain");
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz next;
		long		timeout = -1;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		read_mail(now);
		next = collect_stopped(now);
		if (uds_enabled)
		{
			/* what became due while we looked is due now as well */
			TimestampTz due = start_due(GetCurrentTimestamp());

			next = Min(next, due);
		}
		forget_idle();

		if (next != DT_NOEND)
			timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next);
		WaitLatch(MyLatch,
				  WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
				  timeout, wait_event);
		ResetLatch(MyLatch);
	}
}
