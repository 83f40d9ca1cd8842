/*-------------------------------------------------------------------------
 *
 * listeners.c
 *		What the processes of the listener share: who they are, so that they
 *		can be ended for a command that needs the database, and whom they have
 *		refused.
 *
 * Runs in the listener, and in backends that end it; takes the LWLock of the
 * extension.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "process/shared.h"

/* so many refusals in so long a time, and the address has to wait for its end */
#define MAX_REFUSALS 10
#define REFUSAL_SECONDS 60

static int	mine = -1;

/* At the end of the process: it is not there any more.  Never fails. */
static void
detach(int code, Datum arg)
{
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	memset(&uds_shared()->listeners[mine], 0, sizeof(UdsListener));
	if (uds_shared()->large_push == MyProcPid)
		uds_shared()->large_push = 0;
	LWLockRelease(uds_shared_lock());
	ConditionVariableBroadcast(&uds_shared()->ended);
}

/*
 * Announces this process as number "number" of the listener, until it ends.
 * False if a command needs the database to itself: then it must end.
 */
bool
uds_listener_attach(int number)
{
	bool		closed;

	mine = number;
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	uds_shared()->listeners[mine].pid = MyProcPid;
	uds_shared()->listeners[mine].database = MyDatabaseId;
	closed = uds_database_closed(MyDatabaseId);
	LWLockRelease(uds_shared_lock());
	before_shmem_exit(detach, (Datum) 0);
	return !closed;
}

/*
 * Whether any process of the listener is connected to a database.  The lock
 * must be held.
 */
bool
uds_listeners_there(Oid database)
{
	for (int i = 0; i < UDS_LISTENERS; i++)
		if (uds_shared()->listeners[i].pid != 0 && uds_shared()->listeners[i].database == database)
			return true;
	return false;
}

/*
 * Ends those that are; the postmaster starts them again after a while.  The
 * lock must be held; never fails.
 */
void
uds_listeners_end(Oid database)
{
	for (int i = 0; i < UDS_LISTENERS; i++)
	{
		const UdsListener *listener = &uds_shared()->listeners[i];

		if (listener->pid != 0 && listener->database == database)
			kill(listener->pid, SIGTERM);
	}
}

/*
 * Begins to open a socket of the port; true if no other process of the listener
 * has one.  Until uds_listener_end_port(), which must follow soon, none gets one.
 */
bool
uds_listener_begin_port(void)
{
	bool		first = true;

	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	for (int i = 0; i < UDS_LISTENERS; i++)
		if (i != mine && uds_shared()->listeners[i].listening)
			first = false;
	return first;
}

/*
 * Notes whether this process has one now.
 */
void
uds_listener_end_port(bool listening)
{
	uds_shared()->listeners[mine].listening = listening;
	LWLockRelease(uds_shared_lock());
}

/*
 * Notes that this process is about to close its socket.
 */
void
uds_listener_leave_port(void)
{
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	uds_listener_end_port(false);
}

/*
 * Claims the right to be at a push that takes long; false if another process
 * of the listener has it.
 */
bool
uds_listener_claim_large(void)
{
	bool		claimed;

	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	claimed = uds_shared()->large_push == 0;
	if (claimed)
		uds_shared()->large_push = MyProcPid;
	LWLockRelease(uds_shared_lock());
	return claimed;
}

/*
 * Gives it back.
 */
void
uds_listener_release_large(void)
{
	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	uds_shared()->large_push = 0;
	LWLockRelease(uds_shared_lock());
}

/* Where refusals of an address are kept; another one may be there. */
static UdsRefusals *
find_refusals(const char *address, uint64 *hash)
{
	*hash = hash_bytes_extended((const unsigned char *) address, strlen(address), 0);
	return &uds_shared()->refusals[*hash % UDS_REFUSALS];
}

static bool
is_over(const UdsRefusals *refusals, TimestampTz now)
{
	return TimestampDifferenceExceeds(refusals->since, now, REFUSAL_SECONDS * 1000);
}

/*
 * For how many seconds an address has to wait because it was refused too
 * often; 0 = it need not.
 */
int
uds_refusals_wait(const char *address)
{
	TimestampTz now = GetCurrentTimestamp();
	uint64		hash;
	UdsRefusals *refusals = find_refusals(address, &hash);
	int			wait = 0;

	LWLockAcquire(uds_shared_lock(), LW_SHARED);
	if (refusals->address == hash && refusals->count >= MAX_REFUSALS && !is_over(refusals, now))
		wait = REFUSAL_SECONDS - (int) ((now - refusals->since) / USECS_PER_SEC);
	LWLockRelease(uds_shared_lock());
	return Max(wait, 0);
}

/*
 * Notes that a request from an address was refused for its key or signature.
 */
void
uds_refusals_note(const char *address)
{
	TimestampTz now = GetCurrentTimestamp();
	uint64		hash;
	UdsRefusals *refusals = find_refusals(address, &hash);

	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	if (refusals->address != hash || refusals->count == 0 || is_over(refusals, now))
	{
		refusals->address = hash;
		refusals->count = 0;
		refusals->since = now;
	}
	refusals->count++;
	LWLockRelease(uds_shared_lock());
}
