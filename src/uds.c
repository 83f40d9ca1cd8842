/*-------------------------------------------------------------------------
 *
 * uds.c
 *		Module entry: settings, and the launcher where preloaded.
 *
 * Runs in the postmaster when preloaded, else in the first backend that
 * needs the library.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "fetch/address.h"
#include "listen/listen.h"
#include "process/process.h"
#include "uds.h"

UDS_MODULE_MAGIC;

bool		uds_enabled = true;
int			uds_max_workers = 4;
int			uds_max_attempts = 3;
int			uds_retry_interval = 5000;
int			uds_retry_max_interval = 600000;
int			uds_http_retries = 4;
int			uds_http_retry_delay = 500;
int			uds_http_timeout = 60000;
int			uds_http_connect_timeout = 10000;
int			uds_max_connections_per_source = 8;
int			uds_max_page_size = 65536;
int			uds_max_pages = 1000000;
char	   *uds_allowed_hosts = NULL;
int			uds_full_sync_interval = 24 * 60;
int			uds_raw_log_retention = 7 * 24 * 60;
int			uds_history_retention = 90 * 24 * 60;
int			uds_listen_port = 0;
char	   *uds_listen_address = NULL;
char	   *uds_listen_database = NULL;
char	   *uds_listen_role = NULL;
int			uds_listen_workers = 2;
char	   *uds_listen_tls_cert = NULL;
char	   *uds_listen_tls_key = NULL;
int			uds_listen_max_body = 64 * 1024;
int			uds_listen_client_timeout = 30000;
int			uds_listen_max_connections = 256;
int			uds_listen_max_per_address = 64;
char	   *uds_listen_proxies = NULL;
int			uds_event_delay = 1000;

extern PGDLLEXPORT void _PG_init(void);

/* Refuses a list of hosts that cannot be read, naming the bad entry. */
static bool
check_hosts(char **newval, void **extra, GucSource source)
{
	char	   *error = NULL;
	UdsHostRules *rules = uds_host_rules_parse(*newval, &error);

	if (rules == NULL)
	{
		GUC_check_errdetail("%s", error ? error : "Out of memory.");
		free(error);
		return false;
	}
	uds_host_rules_free(rules);
	return true;
}

static void
define_task_settings(void)
{
	DefineCustomBoolVariable("uds.enabled",
							 "Runs queued tasks.",
							 "Off leaves them queued, in all databases.",
							 &uds_enabled, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.max_workers",
							"Most tasks that run at a time in the whole server.",
							NULL,
							&uds_max_workers, 4, 1, UDS_WORKER_SLOTS,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.max_attempts",
							"Times a task is begun before a dead worker makes it fail.",
							NULL,
							&uds_max_attempts, 3, 1, 100,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.retry_interval",
							"Wait before a task whose worker died begins again.",
							"Doubles with each attempt, up to uds.retry_max_interval.",
							&uds_retry_interval, 5000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.retry_max_interval",
							"Longest wait before a task begins again.",
							NULL,
							&uds_retry_max_interval, 600000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.full_sync_interval",
							"Reads a source whole if the last full read is older than this.",
							"Until then, a sync asks only for changes where the source can tell them.",
							&uds_full_sync_interval, 24 * 60, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);

	DefineCustomIntVariable("uds.raw_log_retention",
							"How long received pages are kept in uds.raw_log.",
							"-1 keeps them for ever.",
							&uds_raw_log_retention, 7 * 24 * 60, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.history_retention",
							"How long the changes of tasks are kept in uds.changes.",
							"0 keeps none, -1 keeps them for ever.",
							&uds_history_retention, 90 * 24 * 60, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
}

static void
define_fetch_settings(void)
{
	DefineCustomIntVariable("uds.http_retries",
							"Times one request is sent again after a passing fault.",
							NULL,
							&uds_http_retries, 4, 0, 100,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.http_retry_delay",
							"Wait before a request is sent again the first time.",
							"Doubles each time, with jitter.",
							&uds_http_retry_delay, 500, 1, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.http_timeout",
							"Longest time one request may take.",
							NULL,
							&uds_http_timeout, 60000, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.http_connect_timeout",
							"Longest time a connection may take to be made.",
							NULL,
							&uds_http_connect_timeout, 10000, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.max_connections_per_source",
							"Most requests in flight to one source.",
							NULL,
							&uds_max_connections_per_source, 8, 1, 64,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.max_page_size",
							"Largest response taken, after decompression.",
							NULL,
							&uds_max_page_size, 65536, 1, 256 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.max_pages",
							"Most pages one task may read.",
							NULL,
							&uds_max_pages, 1000000, 1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("uds.allowed_hosts",
							   "Hosts that may be talked to although their address is private.",
							   "Comma-separated host names, *.domains, addresses and CIDR ranges.",
							   &uds_allowed_hosts, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_hosts, NULL, NULL);
}

/* What the listener is started with: the server knows no such settings later. */
static void
define_start_settings(void)
{
	DefineCustomIntVariable("uds.http_port",
							"Port on which pushes and events are taken over HTTP.",
							"0 takes none.",
							&uds_listen_port, 0, 0, 65535,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("uds.http_listen",
							   "Address on which they are taken.",
							   "\"*\" stands for all.",
							   &uds_listen_address, "127.0.0.1",
							   PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("uds.http_database",
							   "Database that they are for.",
							   NULL,
							   &uds_listen_database, "postgres",
							   PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("uds.http_role",
							   "Role that takes them; it needs EXECUTE on uds.http_request() and nothing else.",
							   NULL,
							   &uds_listen_role, "uds_http",
							   PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.http_workers",
							"Processes that share the port.",
							NULL,
							&uds_listen_workers, 2, 1, UDS_LISTENERS,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.http_max_connections",
							"Most connections to each of the processes.",
							NULL,
							&uds_listen_max_connections, 256, 1, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.http_max_connections_per_address",
							"Most of these from one address.",
							NULL,
							&uds_listen_max_per_address, 64, 1, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

static void
define_listen_settings(void)
{
	DefineCustomStringVariable("uds.http_tls_cert",
							   "File with the certificate and those above it, PEM; empty for no TLS.",
							   NULL,
							   &uds_listen_tls_cert, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("uds.http_tls_key",
							   "File with its private key, PEM.",
							   NULL,
							   &uds_listen_tls_key, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.http_max_body",
							"Largest body taken, after decompression.",
							NULL,
							&uds_listen_max_body, 64 * 1024, 1, 512 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("uds.http_client_timeout",
							"Longest time that a client may take to send its headers, or to take the reply.",
							"For a body it may take longer by a second for each 8 kB that came.",
							&uds_listen_client_timeout, 30000, 100, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomStringVariable("uds.http_trusted_proxies",
							   "Reverse proxies whose X-Forwarded-For is believed.",
							   "Comma-separated addresses and CIDR ranges.",
							   &uds_listen_proxies, "",
							   PGC_SIGHUP, 0, check_hosts, NULL, NULL);
	DefineCustomIntVariable("uds.event_delay",
							"Wait after an event for others that are worked off with it.",
							NULL,
							&uds_event_delay, 1000, 0, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

/*
 * Module entry, called by the server when it loads the library.
 */
void
_PG_init(void)
{
	define_task_settings();
	define_fetch_settings();
	define_listen_settings();
	if (process_shared_preload_libraries_in_progress)
		define_start_settings();
	MarkGUCPrefixReserved("uds");

	uds_process_init_xact();
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
	{
		uds_shared_init();
		uds_launcher_register();
		uds_listener_register();
		uds_database_init();
		uds_extension_init();
	}
}
