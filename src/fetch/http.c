/*-------------------------------------------------------------------------
 *
 * http.c
 *		HTTP transfers over libcurl's multi interface, waited for on a latch.
 *
 * Owns a client: a fixed set of easy handles, the queue of requests that
 * wait for one, and the epoll descriptor that all of libcurl's sockets are
 * in, so that one descriptor is waited for together with MyLatch.  What one
 * transfer may do is in transfer.c, what its end means in response.c.
 *
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 * All that is malloc'd or open hangs on a callback of the client's memory
 * context, so an ERROR anywhere frees it with the context.  Nothing is
 * raised while libcurl is on the stack.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "fetch/transfer.h"
#include "uds.h"

struct UdsHttpClient
{
	MemoryContext context;		/* holds this struct and all it points to */
	UdsHttpLimits limits;
	UdsHostRules *rules;		/* malloc'd */
	CURLM	   *multi;
	int			epoll_fd;
	int			reserved_fds;	/* counted with AcquireExternalFD() */
	int			epoll_errno;	/* why a socket could not be watched, or 0 */
	int64		deadline;		/* when libcurl wants to be called, or -1 */
	int			pending;		/* sent, and not yet handed back */
	dlist_head	waiting;		/* of HttpRequest: not begun, oldest first */
	dlist_head	idle;			/* of HttpTransfer: free for a request */
	dlist_head	finished;		/* of HttpTransfer: ended, not handed back */
	HttpTransfer *transfers;	/* limits.connections of them */
};

/* Milliseconds of a clock that nobody sets. */
static int64
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * Blocks signals while libcurl runs: its resolver threads inherit the mask,
 * and a handler of ours must never run in one of them.  What a fault of the
 * thread itself raises stays open.
 */
static void
block_signals(sigset_t *saved)
{
	sigset_t	mask;

	sigfillset(&mask);
	sigdelset(&mask, SIGABRT);
	sigdelset(&mask, SIGBUS);
	sigdelset(&mask, SIGFPE);
	sigdelset(&mask, SIGILL);
	sigdelset(&mask, SIGSEGV);
	sigdelset(&mask, SIGSYS);
	sigdelset(&mask, SIGTRAP);
	sigprocmask(SIG_SETMASK, &mask, saved);
}

static void
restore_signals(const sigset_t *saved)
{
	sigprocmask(SIG_SETMASK, saved, NULL);
}

/*
 * libcurl is not fork-safe, so it is set up in the process that uses it,
 * never in a library loaded before the fork.
 */
static void
init_libcurl(void)
{
	static bool done = false;
	sigset_t	saved;
	CURLcode	code;

	if (done)
		return;
	block_signals(&saved);
	code = curl_global_init(CURL_GLOBAL_DEFAULT);
	restore_signals(&saved);
	if (code != CURLE_OK)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not initialize libcurl: %s",
						curl_easy_strerror(code))));
	done = true;
}

/* libcurl says which sockets it waits for, and for what; never throws */
static int
socket_callback(CURL *easy, curl_socket_t fd, int what, void *arg,
				void *socket_arg)
{
	UdsHttpClient *client = arg;
	struct epoll_event event = {0};

	if (what == CURL_POLL_REMOVE)
	{
		/* the kernel may have forgotten a closed one already */
		epoll_ctl(client->epoll_fd, EPOLL_CTL_DEL, fd, &event);
		return 0;
	}
	event.data.fd = fd;
	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;
	if (epoll_ctl(client->epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0 ||
		(errno == ENOENT &&
		 epoll_ctl(client->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0))
		return 0;
	client->epoll_errno = errno;
	return -1;
}

/* libcurl says when it wants to be called again; never throws */
static int
timer_callback(CURLM *multi, long timeout, void *arg)
{
	UdsHttpClient *client = arg;

	client->deadline = timeout < 0 ? -1 : now_ms() + timeout;
	return 0;
}

/* Frees what memory contexts do not know of; never throws. */
static void
free_client(void *arg)
{
	UdsHttpClient *client = arg;
	sigset_t	saved;

	block_signals(&saved);
	if (client->transfers != NULL)
	{
		for (int i = 0; i < client->limits.connections; i++)
			uds_transfer_free(&client->transfers[i], client->multi);
	}
	if (client->multi != NULL)
		curl_multi_cleanup(client->multi);
	restore_signals(&saved);

	uds_host_rules_free(client->rules);
	if (client->epoll_fd >= 0)
		close(client->epoll_fd);
	for (; client->reserved_fds > 0; client->reserved_fds--)
		ReleaseExternalFD();
}

/* Counts the client's descriptors: as many connections as there is room for. */
static void
reserve_fds(UdsHttpClient *client)
{
	while (client->reserved_fds < 1 + client->limits.connections &&
		   AcquireExternalFD())
		client->reserved_fds++;
	if (client->reserved_fds < 2)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not open an HTTP client: out of file descriptors")));
	client->limits.connections = client->reserved_fds - 1;
}

static void
parse_allowed_hosts(UdsHttpClient *client)
{
	char	   *error;

	client->rules = uds_host_rules_parse(uds_allowed_hosts, &error);
	if (client->rules == NULL)
	{
		char	   *detail = pstrdup(error ? error : "Out of memory.");

		free(error);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("could not use \"uds.allowed_hosts\""),
				 errdetail("%s", detail)));
	}
}

/* Makes the multi handle and one easy handle per connection. */
static void
make_handles(UdsHttpClient *client)
{
	int			connections = client->limits.connections;
	CURLM	   *multi;
	bool		made;

	multi = client->multi = curl_multi_init();
	made = multi != NULL &&
		curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, socket_callback) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, client) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, timer_callback) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_TIMERDATA, client) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) connections) == CURLM_OK &&
#if LIBCURL_VERSION_NUM >= 0x081400
		/* else closing waits for a resolver that hangs; before, transfers had that option */
		curl_multi_setopt(multi, CURLMOPT_QUICK_EXIT, 1L) == CURLM_OK &&
#endif
		curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long) CURLPIPE_NOTHING) == CURLM_OK;

	client->transfers = palloc0(sizeof(HttpTransfer) * connections);
	for (int i = 0; i < connections; i++)
		client->transfers[i].kept = -1;
	for (int i = 0; made && i < connections; i++)
	{
		HttpTransfer *transfer = &client->transfers[i];

		transfer->limits = &client->limits;
		transfer->rules = client->rules;
		transfer->easy = curl_easy_init();
		made = transfer->easy != NULL;
		dlist_push_tail(&client->idle, &transfer->node);
	}
	if (!made)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not set up libcurl: out of memory")));
}

/*
 * Opens a client in a memory context of its own under "parent".
 *
 * "limits" and what it points to is copied; uds.allowed_hosts is read now.
 * At most limits->connections requests are in flight at a time, fewer where
 * the process is short of file descriptors.  The client goes away with
 * uds_http_close() or with "parent", connections and all.
 *
 * Raises an ERROR when out of memory or file descriptors.
 */
UdsHttpClient *
uds_http_open(MemoryContext parent, const UdsHttpLimits *limits)
{
	MemoryContext context;
	MemoryContext caller;
	MemoryContextCallback *callback;
	UdsHttpClient *client;

	Assert(limits->connections > 0);
	init_libcurl();

	context = AllocSetContextCreate(parent, "uds HTTP client",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	callback = palloc0(sizeof(MemoryContextCallback));
	client = palloc0(sizeof(UdsHttpClient));
	client->context = context;
	client->epoll_fd = -1;
	client->deadline = -1;
	dlist_init(&client->waiting);
	dlist_init(&client->idle);
	dlist_init(&client->finished);
	callback->func = free_client;
	callback->arg = client;
	MemoryContextRegisterResetCallback(context, callback);

	client->limits = *limits;
	if (limits->ca_file)
		client->limits.ca_file = pstrdup(limits->ca_file);
	if (limits->user_agent)
		client->limits.user_agent = pstrdup(limits->user_agent);
	parse_allowed_hosts(client);
	reserve_fds(client);
	client->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (client->epoll_fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open an HTTP client: %m")));
	make_handles(client);
	MemoryContextSwitchTo(caller);
	return client;
}

/*
 * Frees a client and drops its connections; requests not yet handed back are
 * forgotten.  Responses handed back stay.  Raises nothing.
 */
void
uds_http_close(UdsHttpClient *client)
{
	MemoryContextDelete(client->context);
}

/* Moves ended transfers from libcurl's list to ours. */
static void
collect_finished(UdsHttpClient *client)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(client->multi, &left)) != NULL)
	{
		HttpTransfer *transfer = NULL;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE,
						  (char **) &transfer);
		transfer->result = message->data.result;
		uds_transfer_keep_socket(transfer);
		uds_transfer_detach(transfer, client->multi);
		dlist_push_tail(&client->finished, &transfer->node);
	}
}

/* Lets libcurl do whatever it can without waiting. */
static void
drive(UdsHttpClient *client)
{
	struct epoll_event events[64];
	CURLMcode	code = CURLM_OK;
	sigset_t	saved;
	int			running;
	int			ready;

	block_signals(&saved);
	ready = epoll_wait(client->epoll_fd, events, lengthof(events), 0);
	for (int i = 0; i < ready && code == CURLM_OK; i++)
	{
		int			what = 0;

		if (events[i].events & EPOLLIN)
			what |= CURL_CSELECT_IN;
		if (events[i].events & EPOLLOUT)
			what |= CURL_CSELECT_OUT;
		if (events[i].events & (EPOLLERR | EPOLLHUP))
			what |= CURL_CSELECT_ERR;
		code = curl_multi_socket_action(client->multi, events[i].data.fd,
										what, &running);
	}
	if (code == CURLM_OK && client->deadline >= 0 &&
		client->deadline <= now_ms())
	{
		client->deadline = -1;
		code = curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0,
										&running);
	}
	collect_finished(client);
	restore_signals(&saved);

	if (client->epoll_errno != 0)
	{
		errno = client->epoll_errno;
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not watch an HTTP connection: %m")));
	}
	if (code != CURLM_OK)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not go on with HTTP transfers: %s",
						curl_multi_strerror(code))));
}

/* Begins waiting requests while handles are free. */
static void
begin_waiting(UdsHttpClient *client)
{
	bool		begun = false;

	while (!dlist_is_empty(&client->waiting) && !dlist_is_empty(&client->idle))
	{
		HttpTransfer *transfer = dlist_container(HttpTransfer, node,
												 dlist_pop_head_node(&client->idle));
		sigset_t	saved;

		transfer->request = dlist_container(HttpRequest, node,
											dlist_pop_head_node(&client->waiting));
		block_signals(&saved);
		if (!uds_transfer_begin(transfer, client->multi))
			dlist_push_tail(&client->finished, &transfer->node);
		restore_signals(&saved);
		begun = true;
	}
	if (begun)
		drive(client);
}

/*
 * Sends a request, or queues it while all connections are busy; queued ones
 * are sent in order.
 *
 * "request" and what it points to is copied, "arg" only as a pointer.  What
 * is wrong with it comes back as the response.  Bytes move only within calls
 * of this module, and the time a transfer takes is counted from when it is
 * begun: do not wait long for other things while requests are pending.
 *
 * Raises an ERROR when out of memory; the client can only be closed then.
 */
void
uds_http_send(UdsHttpClient *client, const UdsHttpRequest *request)
{
	MemoryContext caller = MemoryContextSwitchTo(client->context);
	HttpRequest *copy = uds_request_copy(request);

	MemoryContextSwitchTo(caller);
	dlist_push_tail(&client->waiting, &copy->node);
	client->pending++;
	begin_waiting(client);
}

/* The response of the first ended transfer, or NULL; frees its handle. */
static UdsHttpResponse *
take_finished(UdsHttpClient *client)
{
	HttpTransfer *transfer;
	UdsHttpResponse *response;

	if (dlist_is_empty(&client->finished))
		return NULL;
	transfer = dlist_head_element(HttpTransfer, node, &client->finished);
	response = uds_transfer_response(transfer);

	dlist_delete(&transfer->node);
	uds_request_free(transfer->request);
	uds_transfer_clear(transfer);
	dlist_push_head(&client->idle, &transfer->node);
	client->pending--;

	/* keeps the connections busy while the caller deals with the response */
	begin_waiting(client);
	return response;
}

/* Waits for a socket, libcurl's timer, the latch, or "end" (-1: no end). */
static void
wait_for_events(UdsHttpClient *client, int64 end)
{
	static uint32 wait_event = 0;
	int			events = WL_LATCH_SET | WL_SOCKET_READABLE | WL_EXIT_ON_PM_DEATH;
	int64		until = client->deadline;
	long		timeout = -1;

	if (wait_event == 0)
		wait_event = uds_wait_event("UdsHttpTransfer");
	if (until < 0 || (end >= 0 && end < until))
		until = end;
	if (until >= 0)
	{
		events |= WL_TIMEOUT;
		timeout = Min(Max(until - now_ms(), 0), INT_MAX);
	}
	if (WaitLatchOrSocket(MyLatch, events, client->epoll_fd, timeout,
						  wait_event) & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Waits for the next response, in whatever order they come.
 *
 * "timeout" is in ms: 0 only looks, -1 waits until something ends.  Returns
 * NULL when it ran out, or at once when nothing is pending.  The response is
 * allocated in the current memory context, for uds_http_free() or to go with
 * that context.  Of a response with a fault the body is empty.  Headers and
 * body are as the peer sent them: not checked for a valid encoding.
 *
 * Services interrupts and resets MyLatch, so what else the latch stands for
 * must be looked at by the caller after each call.  Raises what an interrupt
 * raises, and an ERROR when out of memory or when libcurl gives up.
 */
UdsHttpResponse *
uds_http_next(UdsHttpClient *client, long timeout)
{
	int64		end = timeout < 0 ? -1 : now_ms() + timeout;

	CHECK_FOR_INTERRUPTS();
	for (;;)
	{
		UdsHttpResponse *response;

		drive(client);
		response = take_finished(client);
		if (response != NULL || client->pending == 0)
			return response;
		if (end >= 0 && end <= now_ms())
			return NULL;
		wait_for_events(client, end);
	}
}
