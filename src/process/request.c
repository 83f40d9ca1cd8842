/*-------------------------------------------------------------------------
 *
 * request.c
 *		The request worker, and the backend's side of it.
 *
 * Both sides share a dynamic shared memory segment that holds one Exchange.
 * The worker takes what tasks.c takes, with a lock timeout: the caller waits
 * for it and may itself hold what it needs, which no deadlock detector sees.
 * A request to cancel has no segment and nobody waits for it, so that it can
 * be made while an error is on its way up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqsignal.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/dsm.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "catalog/catalog.h"
#include "fetch/ldap.h"
#include "fetch/query.h"
#include "process/request.h"
#include "process/shared.h"

#define LOCK_TIMEOUT	"10s"
#define RESULT_SIZE		(256 * 1024)
#define DETAIL_SIZE		4096

typedef enum Operation
{
	REQUEST_QUEUE,
	REQUEST_CANCEL,
	REQUEST_TEST
} Operation;

/* What a request worker is started with, in bgw_extra. */
typedef struct RequestStart
{
	Operation	operation;
	Oid			database;
	int64		task;			/* to cancel */
	dsm_handle	segment;		/* of the others */
} RequestStart;

typedef enum Outcome
{
	OUTCOME_NONE = 0,
	OUTCOME_DONE,
	OUTCOME_ERROR
} Outcome;

/* Lives in the segment; texts are cut to fit, between characters. */
typedef struct Exchange
{
	/* in */
	int64		source;
	char		kind[16];
	char		mode[16];
	bool		force;
	int64		retry_of;
	Oid			role;

	/* the caller does not wait any more */
	pg_atomic_uint32 abandoned;

	/* out */
	pg_atomic_uint32 outcome;
	int64		task;
	bool		joined;
	int			sqlerrcode;
	char		message[2048];
	char		detail[DETAIL_SIZE];
	char		hint[1024];
	char		result[RESULT_SIZE];
} Exchange;

static void
copy_text(char *target, size_t size, const char *text)
{
	int			len = text ? pg_mbcliplen(text, strlen(text), size - 1) : 0;

	if (len > 0)
		memcpy(target, text, len);
	target[len] = '\0';
}

/*
 * The backend's side
 */

/* Starts a request worker; NULL if there is none to be had. */
static BackgroundWorkerHandle *
start_worker(const RequestStart *start)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle = NULL;

	memset(&worker, 0, sizeof(worker));
	strlcpy(worker.bgw_name, "uds request", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "uds request", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "uds", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "uds_request_main", BGW_MAXLEN);
	worker.bgw_notify_pid = MyProcPid;
	StaticAssertStmt(sizeof(RequestStart) <= BGW_EXTRALEN,
					 "what a request worker is started with must fit");
	memcpy(worker.bgw_extra, start, sizeof(RequestStart));
	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

/* Raises in the caller what was raised in the worker. */
static void
rethrow(Exchange *exchange, const char *purpose)
{
	if (pg_atomic_read_u32(&exchange->outcome) == OUTCOME_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not %s: the background worker ended before it answered",
						purpose),
				 errhint("The server log tells why.")));
	if (exchange->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not %s: another transaction, perhaps this one, keeps it locked",
						purpose),
				 errhint("If this transaction has changed the source or queued a task of it, commit first.")));
	ereport(ERROR,
			(errcode(exchange->sqlerrcode),
			 errmsg("%s", exchange->message),
			 exchange->detail[0] ? errdetail("%s", exchange->detail) : 0,
			 exchange->hint[0] ? errhint("%s", exchange->hint) : 0));
}

/*
 * Has the worker work on the exchange and waits until it has ended.  "purpose"
 * completes "could not …".
 *
 * If the wait is cut short, whoever comes second, we by marking the exchange
 * or the worker by reporting what it queued, sees the other's mark and takes
 * the task back.
 */
static void
run_request(Operation operation, dsm_segment *segment, const char *purpose)
{
	Exchange   *exchange = dsm_segment_address(segment);
	RequestStart start = {operation, MyDatabaseId, 0, dsm_segment_handle(segment)};
	BackgroundWorkerHandle *handle = start_worker(&start);

	if (handle == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not %s: no background worker is free", purpose),
				 errhint("You may need to increase max_worker_processes.")));
	PG_TRY();
	{
		if (WaitForBackgroundWorkerShutdown(handle) == BGWH_POSTMASTER_DIED)
			ereport(FATAL,
					(errcode(ERRCODE_ADMIN_SHUTDOWN),
					 errmsg("postmaster exited while uds waited for a background worker")));
	}
	PG_CATCH();
	{
		pg_atomic_exchange_u32(&exchange->abandoned, 1);
		if (operation == REQUEST_QUEUE &&
			pg_atomic_fetch_add_u32(&exchange->outcome, 0) == OUTCOME_DONE)
			uds_request_cancel(exchange->task);
		if (operation == REQUEST_TEST)
			TerminateBackgroundWorker(handle);
		PG_RE_THROW();
	}
	PG_END_TRY();

	pg_read_barrier();
	if (pg_atomic_read_u32(&exchange->outcome) != OUTCOME_DONE)
		rethrow(exchange, purpose);
}

static dsm_segment *
make_exchange(int64 source)
{
	dsm_segment *segment = dsm_create(sizeof(Exchange), 0);
	Exchange   *exchange = dsm_segment_address(segment);

	memset(exchange, 0, offsetof(Exchange, result) + 1);
	pg_atomic_init_u32(&exchange->abandoned, 0);
	pg_atomic_init_u32(&exchange->outcome, OUTCOME_NONE);
	exchange->source = source;
	return segment;
}

/*
 * Queues a task in a transaction of its own, committed when this returns, and
 * returns its id.  *joined: it is one that waited already.
 *
 * Raises what uds_task_queue() raises; ERROR if no background worker is free
 * or a lock could not be had in 10 seconds.  Canceled meanwhile, it leaves no
 * task behind.
 */
int64
uds_request_queue(const UdsQueueRequest *queue, bool *joined)
{
	dsm_segment *segment = make_exchange(queue->source);
	Exchange   *exchange = dsm_segment_address(segment);
	char	   *purpose = psprintf("queue a task of source \"%s\"", queue->source_name);
	int64		task;

	strlcpy(exchange->kind, queue->kind, sizeof(exchange->kind));
	strlcpy(exchange->mode, queue->mode, sizeof(exchange->mode));
	exchange->force = queue->force;
	exchange->retry_of = queue->retry_of;
	exchange->role = queue->requested_by;
	run_request(REQUEST_QUEUE, segment, purpose);
	task = exchange->task;
	*joined = exchange->joined;
	dsm_detach(segment);
	return task;
}

/*
 * Has a task canceled by somebody else, soon: for callers that are about to
 * roll back.  WARNING if no background worker is free.
 */
void
uds_request_cancel(int64 task)
{
	RequestStart start = {REQUEST_CANCEL, MyDatabaseId, task, 0};

	if (start_worker(&start) == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not cancel task " INT64_FORMAT ": no background worker is free",
						task),
				 errhint("Cancel it with uds_cancel(" INT64_FORMAT ").", task)));
}

/*
 * Tests a source from a worker: the steps as a JSON array of objects with
 * keys step, ok, detail and elapsed_ms, palloc'd.  Raises what kept the test
 * from being made.
 */
char *
uds_request_test(int64 source, const char *source_name)
{
	dsm_segment *segment = make_exchange(source);
	Exchange   *exchange = dsm_segment_address(segment);
	char	   *steps;

	run_request(REQUEST_TEST, segment, psprintf("test source \"%s\"", source_name));
	steps = pstrdup(exchange->result);
	dsm_detach(segment);
	return steps;
}

/*
 * The worker's side
 */

static void
do_queue(Exchange *exchange)
{
	uds_xact_begin("uds: queueing a task");
	exchange->task = uds_task_queue(exchange->source, exchange->kind, exchange->mode,
									exchange->force, exchange->retry_of,
									exchange->role, &exchange->joined);
	uds_xact_commit();
}

/* The steps as JSON; those that do not fit are left out, the last is kept. */
static void
put_steps(Exchange *exchange, List *steps)
{
	StringInfoData all;
	ListCell   *lc;

	initStringInfo(&all);
	appendStringInfoChar(&all, '[');
	foreach(lc, steps)
	{
		const UdsTestStep *step = lfirst(lc);
		StringInfoData one;
		char		detail[DETAIL_SIZE];

		initStringInfo(&one);
		copy_text(detail, sizeof(detail), step->detail);
		appendStringInfoString(&one, "{\"step\":");
		escape_json(&one, step->step);
		appendStringInfo(&one, ",\"ok\":%s,\"elapsed_ms\":%d,\"detail\":",
						 step->ok ? "true" : "false", step->elapsed);
		escape_json(&one, detail);
		appendStringInfoChar(&one, '}');
		if (all.len + one.len + 3 > RESULT_SIZE)
			break;
		if (all.len > 1)
			appendStringInfoChar(&all, ',');
		appendBinaryStringInfo(&all, one.data, one.len);
	}
	appendStringInfoChar(&all, ']');
	memcpy(exchange->result, all.data, all.len + 1);
}

static void
do_test(Exchange *exchange, MemoryContext context)
{
	UdsSource  *source;
	UdsManifest *manifest;
	UdsFetchHooks hooks;
	char	   *error = NULL;

	uds_xact_begin("uds: loading the source");
	source = uds_source_load(exchange->source);
	if (source == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source " INT64_FORMAT " does not exist for other sessions",
						exchange->source),
				 errhint("If this transaction created it, commit first.")));
	MemoryContextSwitchTo(context);
	source = uds_source_copy(source);
	uds_xact_commit();
	MemoryContextSwitchTo(context);

	if (uds_query_reads(source))
	{
		put_steps(exchange, uds_query_test(source));
		return;
	}
	manifest = source->manifest ? uds_manifest_parse(source->manifest, &error) : NULL;
	if (manifest == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("source \"%s\" of type \"%s\" cannot be tested: %s",
						source->name, source->type,
						error ? error : "the type has no manifest")));
	uds_source_hooks(&hooks, source);
	if (manifest->native != NULL)
	{
		put_steps(exchange, uds_ldap_test(manifest, source->name, source->options, &hooks));
		return;
	}
	put_steps(exchange, uds_connector_test(manifest, source->name, source->options,
										   &hooks));
}

static void
do_cancel(int64 task)
{
	uds_xact_begin("uds: canceling a task");
	uds_cancel_task(task);
	uds_xact_commit();
}

/* Answers a request that has somebody waiting. */
static void
answer(Operation operation, Exchange *exchange, MemoryContext context)
{
	PG_TRY();
	{
		if (operation == REQUEST_QUEUE)
			do_queue(exchange);
		else
			do_test(exchange, context);
		pg_atomic_exchange_u32(&exchange->outcome, OUTCOME_DONE);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		uds_xact_abort();
		exchange->sqlerrcode = edata->sqlerrcode;
		copy_text(exchange->message, sizeof(exchange->message), edata->message);
		copy_text(exchange->detail, sizeof(exchange->detail), edata->detail);
		copy_text(exchange->hint, sizeof(exchange->hint), edata->hint);
		pg_atomic_exchange_u32(&exchange->outcome, OUTCOME_ERROR);
	}
	PG_END_TRY();

	if (operation == REQUEST_QUEUE &&
		pg_atomic_read_u32(&exchange->outcome) == OUTCOME_DONE &&
		pg_atomic_fetch_add_u32(&exchange->abandoned, 0) != 0)
		do_cancel(exchange->task);
}

/*
 * Main function of a request worker; bgw_extra holds a RequestStart.
 */
void
uds_request_main(Datum arg)
{
	RequestStart start;
	dsm_segment *segment = NULL;
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, StatementCancelHandler);
	BackgroundWorkerUnblockSignals();

	memcpy(&start, MyBgworkerEntry->bgw_extra, sizeof(start));
	if (start.operation != REQUEST_CANCEL)
	{
		segment = dsm_attach(start.segment);
		if (segment == NULL)
			return;				/* the caller is gone */
	}
	uds_worker_connect(start.database, "uds request");
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);

	context = AllocSetContextCreate(TopMemoryContext, "uds request",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	if (start.operation == REQUEST_CANCEL)
		do_cancel(start.task);
	else
		answer(start.operation, dsm_segment_address(segment), context);
}
