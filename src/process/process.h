/*-------------------------------------------------------------------------
 *
 * process.h
 *		Launcher, sync workers and what they share.
 *
 * Shared memory (shared.h) holds ids, states, pids and numbers only.  All of
 * it is guarded by one LWLock, held for a few instructions and never while a
 * heavyweight lock is waited for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_PROCESS_H
#define UDS_PROCESS_H

#include "utils/timestamp.h"
#include "connector/connector.h"

/* What a running task is doing; shown in uds.progress. */
typedef enum UdsPhase
{
	UDS_PHASE_START = 0,
	UDS_PHASE_FETCH,
	UDS_PHASE_MAP,
	UDS_PHASE_APPLY,
	UDS_PHASE_FINISH
} UdsPhase;

/* shared.c: set up from _PG_init when preloaded */
extern void uds_shared_init(void);
extern bool uds_shared_available(void);
extern void uds_require_preload(const char *what);	/* ERROR with HINT */

/* shared.c: a commit of this transaction has queued work in this database */
extern void uds_wake_at_commit(void);
extern void uds_wake_at_commit_for(TimestampTz due);
extern void uds_process_init_xact(void);

/* slots.c: whether a living worker has announced this task */
extern bool uds_slot_runs(Oid database, int64 task);

/* shared.c: whether the launcher is there */
extern bool uds_launcher_runs(void);

/* worker.c: of any background worker of ours */
extern void uds_worker_pin_settings(const char *application);

/* listeners.c: processes of the listener, and whom they refused */
extern bool uds_listener_attach(int number);
extern bool uds_listener_begin_port(void);
extern void uds_listener_end_port(bool listening);
extern void uds_listener_leave_port(void);
extern bool uds_listener_claim_large(void);
extern void uds_listener_release_large(void);
extern int	uds_refusals_wait(const char *address);
extern void uds_refusals_note(const char *address);

/* catalog/tasks.c: whether this transaction has queued for the source */
extern bool uds_task_queue_is_mine(int64 source);

/* progress.c: of the task that this worker runs; no-ops elsewhere */
extern void uds_progress_phase(UdsPhase phase);
extern void uds_progress_fetch(const UdsFetchProgress *progress);
extern void uds_progress_records(int64 records);

/* worker.c */
extern void uds_worker_reload(void);

/* launcher.c, worker.c, request.c: entry points of the processes */
extern void uds_launcher_register(void);

/* database.c, extension.c */
extern void uds_database_init(void);
extern void uds_extension_init(void);
extern PGDLLEXPORT void uds_launcher_main(Datum arg);
extern PGDLLEXPORT void uds_worker_main(Datum arg);
extern PGDLLEXPORT void uds_request_main(Datum arg);

/* task.c: one claimed task, from fetch to commit */
struct UdsTask;
struct UdsSource;
extern void uds_task_run(struct UdsTask *task);

/* task.c: hooks that keep tokens and evaluate jsonpath, but log no page and
 * report no progress */
extern void uds_source_hooks(UdsFetchHooks *hooks, struct UdsSource *source);

#endif							/* UDS_PROCESS_H */
