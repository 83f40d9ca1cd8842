/*-------------------------------------------------------------------------
 *
 * listener.c
 *		The listener: takes requests over HTTP, and has each answered by
 *		uds.http_request().
 *
 * Static background workers, uds.http_workers of them, connected to
 * uds.http_database as uds.http_role, which may call that function and
 * nothing else.  Each is one loop: the server in server.c does what the
 * network has to offer, then requests that have come whole are answered, one
 * after the other, each in a transaction of its own.  Between these there is
 * no transaction and no snapshot, however slow a client is.
 *
 * What happens, and what follows:
 *
 *	a task applies, or a row		the push is put back and tried again until
 *	is locked						it is answered or PATIENCE is over: 503;
 *									callbacks and health go on meanwhile
 *	a large push					the others take new connections meanwhile; one at
 *									a time is worked on
 *	an ERROR						rolled back, logged; the client gets 500 and
 *									no word of it
 *	the extension is not there,		503; one line in the log per minute
 *	or the role may not call it
 *	DROP EXTENSION					ends (process/extension.c), begins again
 *	a command that needs the		ends (process/database.c), begins again
 *	database to itself
 *	the database does not exist,	the postmaster's message, and again after
 *	nor the role					RESTART_SECONDS
 *	the port is taken				likewise
 *	settings reloaded				limits at once; certificate and key, if what is
 *									in the files has changed, with a new server:
 *									open connections are closed
 *	shutdown, SIGTERM				ends at once; who waits for a reply sees the
 *									connection closed
 *	a standby						is not started before the promotion
 *
 * Takes what uds.http_request() takes, with a short lock timeout, and the
 * LWLock of the extension.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "libpq/pqsignal.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "listen/listen.h"
#include "listen/server.h"
#include "process/process.h"
#include "uds.h"

#define RESTART_SECONDS 10

/* how long a request waits for a lock before others get their turn */
#define LOCK_TIMEOUT "200ms"
#define RETRY_MS 20

/* how long it is tried again, and what the client is told then */
#define PATIENCE_MS 25000
#define BUSY_SECONDS 5

/* bytes of a push that takes longer than services wait for their reply */
#define LARGE_BODY (512 * 1024)

/* requests answered before the network is looked at again */
#define TURN 32

/* one line about the same trouble in so many seconds */
#define QUIET_SECONDS 60

static const char *const entry_sql =
"SELECT status, type, retry_after, reply"
"  FROM uds.http_request($1, $2, $3, $4, $5, $6)";

static Oid	entry_types[6] = {TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, BYTEAOID};

/* An answer, out of the transaction that made it. */
typedef struct Answer
{
	int			status;
	const char *type;
	int			retry_after;
	char	   *text;
	size_t		len;
} Answer;

static SPIPlanPtr entry_plan = NULL;
static MemoryContext request_context;
static char *certificate = NULL;
static char *certificate_key = NULL;

/*
 * Has the postmaster run the listener, if uds.http_port says so; to be called
 * from _PG_init when preloaded.
 */
void
uds_listener_register(void)
{
	BackgroundWorker worker;

	if (uds_listen_port == 0)
		return;
	memset(&worker, 0, sizeof(worker));
	strlcpy(worker.bgw_type, "uds http listener", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, "uds", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "uds_listener_main", BGW_MAXLEN);
	for (int i = 0; i < uds_listen_workers; i++)
	{
		snprintf(worker.bgw_name, BGW_MAXLEN, "uds http listener %d", i + 1);
		worker.bgw_main_arg = Int32GetDatum(i);
		RegisterBackgroundWorker(&worker);
	}
}

/*
 * Settings
 */

/*
 * Takes what the files for TLS hold; whether that is something else than
 * before.  ERROR if it cannot be used, and nothing was taken.
 */
static bool
load_certificate(void)
{
	char	   *new_certificate = NULL;
	char	   *new_key = NULL;
	bool		same;

	if (uds_listen_tls_cert[0] != '\0')
		uds_listen_read_tls(&new_certificate, &new_key);
	same = certificate == NULL ? new_certificate == NULL :
		new_certificate != NULL && strcmp(certificate, new_certificate) == 0 &&
		strcmp(certificate_key, new_key) == 0;
	free(certificate);
	free(certificate_key);
	certificate = new_certificate;
	certificate_key = new_key;
	return !same;
}

/* The same while the listener runs: what cannot be used is not taken. */
static bool
reload_certificate(void)
{
	volatile bool changed = false;

	PG_TRY();
	{
		changed = load_certificate();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(request_context);
		edata = CopyErrorData();
		FlushErrorState();
		ereport(LOG,
				(errcode(edata->sqlerrcode),
				 errmsg("%s", edata->message),
				 errdetail("The listener goes on with the certificate that it has."),
				 edata->hint ? errhint("%s", edata->hint) : 0));
		MemoryContextReset(request_context);
	}
	PG_END_TRY();
	return changed;
}

static void
set_limits(void)
{
	static UdsServerSettings settings;
	char	   *error = NULL;

	uds_host_rules_free(settings.proxies);
	settings.proxies = uds_host_rules_parse(uds_listen_proxies, &error);
	free(error);
	settings.max_body = (size_t) uds_listen_max_body * 1024;
	settings.client_timeout = uds_listen_client_timeout;
	uds_server_set(&settings);
}

static void
start_server(void)
{
	char		error[256];

	if (!uds_server_start(certificate, certificate_key, uds_listen_max_connections,
						  uds_listen_max_per_address, error, sizeof(error)))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("uds: could not serve HTTP on address \"%s\", port %d: %s",
						uds_listen_address, uds_listen_port, error),
				 certificate ? errhint("See whether uds.http_tls_cert and uds.http_tls_key belong together.") : 0));
	uds_gate_add_server(uds_server_fd());
}

/*
 * Answering
 */

static void
set_error(Answer *answer, int status, int retry_after, const char *message)
{
	static char text[200];

	answer->status = status;
	answer->type = "application/json";
	answer->retry_after = retry_after;
	answer->len = snprintf(text, sizeof(text), "{\"code\":%d,\"message\":\"%s\"}", status, message);
	answer->text = text;
}

/* Pairs of names and values as text[]; false if one is not text. */
static bool
make_pairs(const char *const *pairs, int count, Datum *array)
{
	Datum	   *elements = palloc(Max(2 * count, 1) * sizeof(Datum));

	for (int i = 0; i < 2 * count; i++)
	{
		if (!pg_verifymbstr(pairs[i], strlen(pairs[i]), true))
			return false;
		elements[i] = CStringGetTextDatum(pairs[i]);
	}
	*array = PointerGetDatum(construct_array(elements, 2 * count, TEXTOID, -1, false, TYPALIGN_INT));
	return true;
}

/* The arguments of the entry function; false if something in them is not text. */
static bool
make_arguments(UdsHttpCall *call, Datum *values)
{
	static char empty[VARHDRSZ + 1];
	char	   *body = call->only_key || call->body.data == NULL ? empty : call->body.data;

	StaticAssertStmt(UDS_BODY_HEAD == VARHDRSZ, "a body becomes a varlena as it is");
	if (!pg_verifymbstr(call->path, strlen(call->path), true) ||
		!make_pairs(call->query, call->nquery, &values[2]) ||
		!make_pairs(call->headers, call->nheaders, &values[3]))
		return false;
	values[0] = CStringGetTextDatum(call->method);
	values[1] = CStringGetTextDatum(call->path);
	values[4] = CStringGetTextDatum(call->address);
	SET_VARSIZE(body, VARHDRSZ + (body == empty ? 0 : call->body.len));
	values[5] = PointerGetDatum(body);
	return true;
}

static int64
int_column(int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : DatumGetInt32(value);
}

/* Calls the entry function and takes its answer into our memory. */
static void
call_entry(Datum *values, Answer *answer)
{
	MemoryContext transaction = CurrentMemoryContext;
	bool		isnull;
	text	   *reply;

	if (entry_plan == NULL)
	{
		entry_plan = SPI_prepare(entry_sql, 6, entry_types);
		if (entry_plan == NULL)
			elog(ERROR, "could not prepare the call of uds.http_request()");
		SPI_keepplan(entry_plan);
	}
	if (SPI_execute_plan(entry_plan, values, NULL, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not call uds.http_request()");
	answer->status = int_column(1);
	answer->retry_after = int_column(3);
	reply = DatumGetTextPP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4, &isnull));
	MemoryContextSwitchTo(request_context);
	answer->type = MemoryContextStrdup(request_context, uds_spi_text(0, 2));
	answer->len = VARSIZE_ANY_EXHDR(reply);
	answer->text = MemoryContextAllocHuge(request_context, answer->len + 1);
	memcpy(answer->text, VARDATA_ANY(reply), answer->len);
	answer->text[answer->len] = '\0';
	/* clients get UTF-8, whatever the database has */
	answer->text = pg_server_to_any(answer->text, answer->len, PG_UTF8);
	answer->len = strlen(answer->text);
	MemoryContextSwitchTo(transaction);
}

/* Reports what went wrong, but the same trouble not again and again. */
static void
report_trouble(ErrorData *edata)
{
	static int	last_state = 0;
	static TimestampTz last_time = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (edata->sqlerrcode == last_state &&
		!TimestampDifferenceExceeds(last_time, now, QUIET_SECONDS * 1000))
		return;
	last_state = edata->sqlerrcode;
	last_time = now;
	ereport(LOG,
			(errcode(edata->sqlerrcode),
			 errmsg("uds: could not answer a request over HTTP: %s", edata->message),
			 edata->detail ? errdetail_internal("%s", edata->detail) : 0,
			 edata->hint ? errhint("%s", edata->hint) : 0,
			 edata->context ? errcontext_msg("%s", edata->context) : 0,
			 errhidestmt(true)));
}

/*
 * What a client is told of an error: nothing of the inside.  False if the
 * request had better be tried again.
 */
static bool
judge_error(UdsHttpCall *call, ErrorData *edata, Answer *answer)
{
	switch (edata->sqlerrcode)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_T_R_DEADLOCK_DETECTED:
		case ERRCODE_T_R_SERIALIZATION_FAILURE:
			if (uds_server_clock() - call->since < PATIENCE_MS)
				return false;
			set_error(answer, 503, BUSY_SECONDS, "the server is busy");
			return true;
		case ERRCODE_UNDEFINED_FUNCTION:
		case ERRCODE_INVALID_SCHEMA_NAME:
		case ERRCODE_INSUFFICIENT_PRIVILEGE:
			if (edata->hint == NULL)
				edata->hint = "The extension must be there, and the role of the listener needs USAGE on schema uds and EXECUTE on uds.http_request().";
			report_trouble(edata);
			set_error(answer, 503, BUSY_SECONDS, "the server is not ready");
			return true;
		case ERRCODE_QUERY_CANCELED:
		case ERRCODE_READ_ONLY_SQL_TRANSACTION:
		case ERRCODE_DISK_FULL:
		case ERRCODE_OUT_OF_MEMORY:
			report_trouble(edata);
			set_error(answer, 503, BUSY_SECONDS, "the server is busy");
			return true;
		default:
			report_trouble(edata);
			set_error(answer, 500, 0, "the request could not be answered");
			return true;
	}
}

/* Answers a request in the database; false if it is to be tried again. */
static bool
ask_database(UdsHttpCall *call, Answer *answer)
{
	static const char *const kinds[] = {
		[UDS_ROUTE_PUSH] = "push",[UDS_ROUTE_CALLBACK] = "callback",
		[UDS_ROUTE_HEALTH] = "health",[UDS_ROUTE_METRICS] = "metrics"
	};
	volatile bool done = true;

	PG_TRY();
	{
		Datum		values[6];

		if (!make_arguments(call, values))
			set_error(answer, 400, 0, "the request is not UTF-8");
		else
		{
			uds_xact_begin(psprintf("uds: answering a request for %s from %s",
									kinds[call->route.kind], call->address));
			call_entry(values, answer);
			uds_xact_commit();
		}
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(request_context);
		edata = CopyErrorData();
		FlushErrorState();
		LWLockReleaseAll();
		uds_xact_abort();
		MemoryContextSwitchTo(request_context);
		done = judge_error(call, edata, answer);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(request_context);
	return done;
}

/*
 * Answers a push that takes long in the database, if no other process is at
 * one: these would only wait for each other, and with them all who ask for
 * something else.
 */
static bool
answer_large_push(UdsHttpCall *call, Answer *answer)
{
	bool		done;

	if (!uds_listener_claim_large())
	{
		if (uds_server_clock() - call->since < PATIENCE_MS)
			return false;
		set_error(answer, 503, BUSY_SECONDS, "the server is busy");
		return true;
	}
	if (uds_listen_workers > 1)
		uds_gate_close();
	done = ask_database(call, answer);
	uds_gate_open();
	uds_listener_release_large();
	return done;
}

/* Has a request answered; false if it is to be tried again. */
static bool
try_request(UdsHttpCall *call, Answer *answer)
{
	if (call->route.kind == UDS_ROUTE_PUSH && !call->only_key && call->body.len > LARGE_BODY)
		return answer_large_push(call, answer);
	return ask_database(call, answer);
}

/* Answers a request, or puts it back; false: pushes have to wait. */
static bool
answer_request(UdsHttpCall *call)
{
	Answer		answer = {0};
	bool		limited = call->route.kind != UDS_ROUTE_HEALTH;
	int			wait = limited ? uds_refusals_wait(call->address) : 0;

	if (wait > 0)
		set_error(&answer, 429, wait, "too many requests with a wrong key or signature");
	else if (!try_request(call, &answer))
	{
		uds_server_postpone(call, RETRY_MS);
		return false;
	}
	if (answer.status == 401)
		uds_refusals_note(call->address);
	/* an empty body is wrong; that it comes to this shows that the key is good */
	if (call->only_key && answer.status == 400)
		answer.status = 0;
	uds_server_answer(call, answer.status, answer.type, answer.retry_after, answer.text, answer.len);
	return true;
}

/* Answers what is there, up to a number; whether there was anything. */
static bool
answer_some(void)
{
	bool		pushes = true;
	bool		any = false;
	UdsHttpCall *call;

	for (int i = 0; i < TURN && (call = uds_server_next(pushes)) != NULL; i++)
	{
		MemoryContextSwitchTo(request_context);
		pushes &= answer_request(call);
		any = true;
		MemoryContextReset(request_context);
		CHECK_FOR_INTERRUPTS();
	}
	return any;
}

/*
 * The loop
 */

static void
connect_to_database(int number)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, StatementCancelHandler);
	BackgroundWorkerUnblockSignals();

	BackgroundWorkerInitializeConnection(uds_listen_database, uds_listen_role, 0);
	uds_worker_pin_settings("uds http listener");
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	if (!uds_listener_attach(number))
		proc_exit(1);

	StartTransactionCommand();
	if (superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("uds: role \"%s\" of the HTTP listener is a superuser", uds_listen_role),
				 errhint("Set uds.http_role to a role that may only execute uds.http_request().")));
	CommitTransactionCommand();
	request_context = AllocSetContextCreate(TopMemoryContext, "uds http request",
											ALLOCSET_DEFAULT_SIZES);
}

static WaitEventSet *
make_wait_set(void)
{
	WaitEventSet *set = uds_create_wait_set(3);

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(set, WL_SOCKET_READABLE, uds_gate_fd(), NULL, NULL);
	return set;
}

/* Takes settings that changed. */
static void
reload(void)
{
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	set_limits();
	if (!reload_certificate())
		return;
	uds_server_stop();
	start_server();
}

/*
 * Main function of the listener; the argument is its number.  Ends by an ERROR
 * or by SIGTERM with exit code 1, so that the postmaster starts it again.
 */
void
uds_listener_main(Datum arg)
{
	WaitEventSet *set;
	WaitEvent	event;
	uint32		wait_event;

	connect_to_database(DatumGetInt32(arg));
	(void) load_certificate();
	set_limits();
	start_server();
	uds_gate_open();
	set = make_wait_set();
	wait_event = uds_wait_event("UdsListenerMain");
	uds_xact_idle_activity("uds: waiting for requests over HTTP");
	pgstat_report_activity(STATE_IDLE, "uds: waiting for requests over HTTP");
	ereport(LOG,
			(errmsg("uds: listening for HTTP%s on address \"%s\", port %d",
					certificate ? "S" : "", uds_listen_address, uds_listen_port)));
	if (uds_gate_limit() < uds_listen_max_connections)
		ereport(LOG,
				(errmsg("uds: the listener takes at most %d connections, and not %d as uds.http_max_connections says",
						uds_gate_limit(), uds_listen_max_connections),
				 errhint("Raise max_files_per_process, and how many files the server's user may open.")));
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload();
		uds_server_run();
		if (answer_some())
			continue;
		(void) WaitEventSetWait(set, uds_server_timeout(), &event, 1, wait_event);
		ResetLatch(MyLatch);
	}
}
