/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The sync worker: runs the due tasks of one database, one at a time.
 *
 * A dynamic background worker, connected as the bootstrap superuser; what
 * touches tables on which others may put triggers runs as their source's
 * owner (see reconcile.h).  Outside of short transactions it holds neither
 * snapshot nor lock.  It takes the LWLock of the extension, and what tasks.c
 * and uds_task_run() take.
 *
 * SIGTERM ends it at once: the task it runs stays "processing" until the next
 * worker of the database finds it there.  SIGINT cancels the task, and can do
 * so only while uds_task_run() runs: later it would end the worker instead,
 * and the task that was to end would begin again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog/catalog.h"
#include "process/shared.h"

/* What a log line says of a task. */
typedef struct TaskTitle
{
	int64		id;
	char		kind[16];
	char		source[NAMEDATALEN];
} TaskTitle;

static const char *const result_sql =
"SELECT status, message, fetched, created, updated, disabled, deleted, failed, cost"
"  FROM uds.tasks WHERE id = $1";

/*
 * Sets what must not depend on how the database or the server is set up: a
 * search_path with nothing of the users' in it, plain transactions, and no
 * timeouts, which are meant for clients.
 */
void
uds_worker_pin_settings(const char *application)
{
	static const char *const pinned[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"idle_session_timeout", "0"},
		{"transaction_timeout", "0"},
		{"session_replication_role", "origin"},
		{"jit", "off"},
		{"zero_damaged_pages", "off"},
	};

	/* some are not known to every version */
	for (int i = 0; i < lengthof(pinned); i++)
		if (GetConfigOption(pinned[i][0], true, false) != NULL)
			SetConfigOption(pinned[i][0], pinned[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("application_name", application, PGC_USERSET, PGC_S_OVERRIDE);
}

/*
 * Connects a background worker of ours to a database and pins its settings.
 * Its signal handlers must be set.  FATAL if the database is gone.
 */
void
uds_worker_connect(Oid database, const char *application)
{
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	uds_worker_pin_settings(application);
}

/*
 * Takes settings that changed, where a worker stands between two things: not
 * within a transaction, not while requests are under way.
 */
void
uds_worker_reload(void)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

static bool
extension_installed(void)
{
	bool		installed;

	uds_xact_begin("uds: looking for the extension");
	installed = uds_extension_installed();
	uds_xact_commit();
	return installed;
}

/* Claims the next task, or returns false; *more: whether others are due. */
static bool
claim(UdsTask *task, TaskTitle *title, bool *more)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1];
	bool		claimed;

	/* a late signal meant for the task before must not hit this one */
	QueryCancelPending = false;

	uds_xact_begin("uds: looking for a due task");
	claimed = uds_task_claim(task, uds_slot_announce);
	*more = false;
	if (claimed)
	{
		title->id = task->id;
		strlcpy(title->kind, task->kind, sizeof(title->kind));
		values[0] = Int64GetDatum(task->source_id);
		uds_spi_exec("SELECT name FROM uds.source_settings WHERE id = $1",
					 1, types, values, NULL);
		if (SPI_processed > 0)
			strlcpy(title->source, uds_spi_text(0, 1), sizeof(title->source));
		else
			title->source[0] = '\0';
		*more = uds_task_next_due() <= GetCurrentTimestamp();
	}
	uds_xact_commit();
	uds_tasks_broadcast();
	return claimed;
}

/* Tells the launcher that there is work here for a second worker as well. */
static void
call_for_help(void)
{
	UdsMail		mail = {.database = MyDatabaseId,.due = GetCurrentTimestamp()};

	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	uds_mail_post(&mail);
	LWLockRelease(uds_shared_lock());
}

/* All of an error in one text, for the task's row. */
static char *
error_text(const ErrorData *edata)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, edata->message ? edata->message : "unknown error");
	if (edata->detail != NULL)
		appendStringInfo(&text, " (%s)", edata->detail);
	if (edata->hint != NULL)
		appendStringInfo(&text, "%s Hint: %s",
						 text.data[text.len - 1] == '.' ? "" : ".", edata->hint);
	return text.data;
}

/*
 * Ends a task that raised an error, in a transaction of its own.  Numbers
 * that the task itself did not come to are taken from what it showed.
 */
static void
end_with_error(UdsTask *task, const ErrorData *edata)
{
	UdsSlot		slot;
	UdsTaskCounts *counts = &task->counts;
	bool		canceled = edata->sqlerrcode == ERRCODE_QUERY_CANCELED;
	char	   *message;

	if (uds_slot_read(&slot))
	{
		canceled |= slot.cancel;
		counts->requests = Max(counts->requests, slot.fetch.requests);
		counts->pages = Max(counts->pages, slot.fetch.pages);
		counts->throttled_ms = Max(counts->throttled_ms, slot.fetch.throttled_ms);
	}
	message = canceled ? pstrdup("canceled") : error_text(edata);

	/* rolled back with the rest */
	counts->created = counts->updated = counts->enabled = 0;
	counts->disabled = counts->deleted = 0;
	counts->linked = counts->unlinked = 0;

	uds_xact_begin("uds: noting the end of a task");
	uds_task_finish(task->id, canceled ? "canceled" : "failed", message, counts);
	if (!canceled && strcmp(task->kind, "undo") != 0)
		uds_source_note_failure(task->source_id, task->id, message);
	uds_xact_commit();
}

/* Runs a claimed task, whatever comes of it. */
static void
run_guarded(UdsTask *task, MemoryContext context)
{
	PG_TRY();
	{
		UdsSlot		slot;

		RESUME_CANCEL_INTERRUPTS();
		CHECK_FOR_INTERRUPTS();
		if (uds_slot_read(&slot) && slot.cancel)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("canceling task " INT64_FORMAT " due to user request",
							task->id)));
		uds_task_run(task);
		HOLD_CANCEL_INTERRUPTS();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		HOLD_INTERRUPTS();
		HOLD_CANCEL_INTERRUPTS();
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		EmitErrorReport();
		FlushErrorState();
		LWLockReleaseAll();
		uds_xact_abort();
		MemoryContextSwitchTo(context);
		RESUME_INTERRUPTS();

		end_with_error(task, edata);
	}
	PG_END_TRY();
}

static char *
plain(int column)
{
	char	   *value = uds_spi_text(0, column);

	return value ? value : "0";
}

static void
log_end(const TaskTitle *title)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(title->id)};

	uds_xact_begin("uds: reading the end of a task");
	if (uds_spi_exec(result_sql, 1, types, values, NULL) > 0)
	{
		char	   *message = uds_spi_text(0, 2);

		ereport(LOG,
				(errmsg("uds: task " INT64_FORMAT " (%s of source \"%s\") ended: %s,"
						" %s records, %s created, %s updated, %s disabled, %s deleted,"
						" %s set aside, %s ms%s%s",
						title->id, title->kind, title->source, plain(1),
						plain(3), plain(4), plain(5), plain(6), plain(7),
						plain(8), plain(9),
						message ? ": " : "", message ? message : "")));
	}
	uds_xact_commit();
}

/* Runs a claimed task between its two log lines. */
static void
run(UdsTask *task, const TaskTitle *title)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "uds task",
												  ALLOCSET_DEFAULT_SIZES);

	MemoryContextSwitchTo(context);
	ereport(LOG,
			(errmsg("uds: task " INT64_FORMAT " (%s of source \"%s\") started",
					title->id, title->kind, title->source)));
	uds_xact_idle_activity(psprintf("uds: task " INT64_FORMAT " (%s of source \"%s\")",
									title->id, title->kind, title->source));
	run_guarded(task, context);
	uds_xact_idle_activity(NULL);
	uds_slot_end_task();
	uds_tasks_broadcast();
	log_end(title);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
}

/*
 * Runs due tasks until there are none that can be had: true.  False if it
 * ends before, to make place for another database or because uds.enabled is
 * off.
 */
static bool
run_due(void)
{
	UdsTask		task;
	TaskTitle	title;
	bool		more;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		uds_worker_reload();
		if (!uds_enabled)
			return false;
		if (!claim(&task, &title, &more))
			return true;
		if (more)
			call_for_help();
		uds_launcher_wake();
		run(&task, &title);
		if (uds_slot_should_yield())
			return false;
	}
}

/*
 * Cleans up and tells the launcher when to come again.  If all that could be
 * had was done and something is due nevertheless, somebody's transaction has
 * it locked: then after a while, although usually its end wakes the launcher.
 */
static void
leave(bool done)
{
	TimestampTz due;

	uds_slot_leave();
	if (done)
	{
		uds_raw_log_cleanup();
		uds_events_cleanup();
		uds_history_cleanup();
	}
	uds_xact_begin("uds: looking when the next task is due");
	due = uds_task_next_due();
	uds_xact_commit();
	if (done && due <= GetCurrentTimestamp())
		uds_slot_report(DT_NOEND, true);
	else
		uds_slot_report(due, false);
}

/*
 * Main function of a sync worker; bgw_extra holds a UdsWorkerStart.
 *
 * Exit code 0 if it ended in good order.  An ERROR outside of a task ends it
 * with exit code 1, and the launcher tries again after a while.
 */
void
uds_worker_main(Datum arg)
{
	UdsWorkerStart start;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, StatementCancelHandler);
	HOLD_CANCEL_INTERRUPTS();
	BackgroundWorkerUnblockSignals();

	memcpy(&start, MyBgworkerEntry->bgw_extra, sizeof(start));
	if (!uds_slot_attach(&start))
		return;
	uds_worker_connect(start.database, "uds worker");
	if (!extension_installed())
	{
		uds_slot_report(DT_NOEND, false);
		return;
	}

	uds_xact_begin("uds: looking for tasks whose worker died");
	uds_task_reap();
	uds_xact_commit();
	uds_tasks_broadcast();

	leave(run_due());
}
