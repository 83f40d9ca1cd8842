/*-------------------------------------------------------------------------
 *
 * shared.h
 *		Shared memory of the processes: worker slots and the launcher's mail.
 *
 * For the files of this folder only.  Everything in UdsShared is guarded by
 * the one LWLock behind uds_shared_lock(), held for a few instructions and
 * never while anything else is waited for.  It holds ids, states, pids and
 * numbers: no pointer, no handle, no descriptor.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_SHARED_H
#define UDS_SHARED_H

#include "datatype/timestamp.h"
#include "process/process.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "uds.h"

/* databases that commands have to themselves at a time */
#define UDS_CLOSED 32

/* databases with unread mail; with more of them all databases count as due */
#define UDS_MAILS 128

/*
 * Life of a worker slot:
 *
 *	FREE -> STARTING	the launcher has asked for a process
 *	STARTING -> LOOKING the process is there and looks for a due task
 *	LOOKING -> BUSY		it announced a task, which it is about to commit
 *	BUSY -> LOOKING		the task has ended
 *	LOOKING -> LEAVING	it found none and will take no more
 *	any -> FREE			the process is gone, or could not be started
 *
 * While a worker of a database is STARTING or LOOKING no other is started
 * there: it will see what is due.
 */
typedef enum UdsSlotState
{
	UDS_SLOT_FREE = 0,
	UDS_SLOT_STARTING,
	UDS_SLOT_LOOKING,
	UDS_SLOT_BUSY,
	UDS_SLOT_LEAVING
} UdsSlotState;

typedef struct UdsSlot
{
	UdsSlotState state;
	uint64		ticket;			/* of the start; a latecomer's does not fit */
	int			pid;			/* 0 while STARTING */
	Oid			database;
	TimestampTz launched_at;

	/* of the task that runs; task is 0 unless BUSY */
	int64		task;
	int64		source;
	UdsPhase	phase;
	UdsFetchProgress fetch;
	int64		records;
	TimestampTz started_at;
	bool		cancel;			/* uds_cancel() was called for it */
} UdsSlot;

/* What the launcher is told about a database. */
typedef struct UdsMail
{
	Oid			database;
	TimestampTz due;			/* when work is due; DT_NOEND = not known */
	bool		ended;			/* a worker ended in good order */
	bool		again;			/* one did not, or found work it could not
								 * take: try again after a growing delay */
} UdsMail;

/* A database in which no worker may run; InvalidOid = free. */
typedef struct UdsClosed
{
	Oid			database;
} UdsClosed;

/* A process of the listener; pid 0 = none. */
typedef struct UdsListener
{
	int			pid;
	Oid			database;
	bool		listening;		/* it has a socket of the port */
} UdsListener;

/* Requests from one address that were refused for their key. */
typedef struct UdsRefusals
{
	uint64		address;		/* hash of it */
	int			count;
	TimestampTz since;			/* of the first */
} UdsRefusals;

#define UDS_REFUSALS 512

typedef struct UdsShared
{
	int			launcher_pid;	/* 0 = none runs */
	bool		all_due;		/* mail was lost: every database is due */
	Oid			waiting;		/* database that waits for a slot, or 0 */
	int			mails;
	UdsMail		mail[UDS_MAILS];
	UdsClosed	closed[UDS_CLOSED];
	uint64		last_ticket;
	UdsSlot		slots[UDS_WORKER_SLOTS];
	UdsListener listeners[UDS_LISTENERS];
	int			large_push;		/* pid of the listener that is at one, or 0 */
	UdsRefusals refusals[UDS_REFUSALS];
	ConditionVariable ended;	/* broadcast when a task starts or ends */
} UdsShared;

/* What a worker is started with, in bgw_extra. */
typedef struct UdsWorkerStart
{
	int			slot;
	uint64		ticket;
	Oid			database;
} UdsWorkerStart;

/* shared.c */
extern UdsShared *uds_shared(void); /* NULL if not preloaded */
extern LWLock *uds_shared_lock(void);
extern void uds_mail_post(const UdsMail *mail); /* lock held */
extern void uds_launcher_wake(void);
extern void uds_tasks_broadcast(void);

/* worker.c: of any background worker of ours */
extern void uds_worker_connect(Oid database, const char *application);

/* slots.c: of the worker that calls */
extern bool uds_slot_attach(const UdsWorkerStart *start);
extern void uds_slot_announce(const struct UdsTask *task);
extern void uds_slot_end_task(void);
extern void uds_slot_leave(void);
extern void uds_slot_report(TimestampTz due, bool again);
extern bool uds_slot_read(UdsSlot *copy);
extern bool uds_slot_should_yield(void);
extern UdsSlot *uds_slot_mine(void);

/* slots.c: of any process */
extern bool uds_database_closed(Oid database);	/* lock held */
extern int	uds_slots_of(Oid database, bool *looking);	/* lock held */
extern void uds_slots_end(Oid database);	/* lock held */
extern bool uds_slot_cancel(Oid database, int64 task);
extern bool uds_slot_find(Oid database, int64 task, UdsSlot *copy);

/* listeners.c */
extern bool uds_listeners_there(Oid database);	/* lock held */
extern void uds_listeners_end(Oid database);	/* lock held */

/* progress.c */
extern const char *uds_phase_name(UdsPhase phase);

#endif							/* UDS_SHARED_H */
