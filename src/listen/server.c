/*-------------------------------------------------------------------------
 *
 * server.c
 *		The HTTP server of the listener: requests, from their headers to the
 *		reply.
 *
 * libmicrohttpd parses and sends; it has no thread of its own, and does
 * something only while uds_server_run() runs.  A request whose body has come
 * is suspended and put in a list; listener.c takes it from there, answers it
 * in the database, and has it resumed.  So nothing of the database happens
 * within a callback of libmicrohttpd, and nothing in a callback can raise an
 * error: what is allocated here is malloc'ed.
 *
 * A body of more than KEY_FIRST bytes is asked for only when the key has been
 * found good.
 *
 * Runs in the listener, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <microhttpd.h>

#include "lib/ilist.h"

#include "listen/connection.h"
#include "listen/server.h"

/* bytes of headers of one request, in libmicrohttpd's memory */
#define CONNECTION_MEMORY (32 * 1024)

/* bytes of a body before the key is looked at */
#define KEY_FIRST (64 * 1024)

/* the largest body of a callback: services send a few kB */
#define CALLBACK_BODY (1024 * 1024)

/* bytes per second of a body that a client has to come up with */
#define SLOWEST 8192

/* bodies that may be held at a time, in times of the largest */
#define HELD_BODIES 4

/* bytes of a body that is refused but read, in times of the largest */
#define DISCARDED_BODIES 2

typedef enum RequestState
{
	REQUEST_RECEIVING,
	REQUEST_WAITING,			/* suspended, in the list or being answered */
	REQUEST_ANSWERED			/* resumed; the reply is to be sent */
} RequestState;

/* A request, from its headers to its end. */
typedef struct Request
{
	UdsHttpCall call;			/* first: what is passed out */
	dlist_node	node;
	struct MHD_Connection *mhd;
	UdsConnection *connection;
	RequestState state;
	bool		key_checked;
	bool		closing;		/* the connection ends with the reply */
	bool		begun;			/* the body is being received */
	int64		began;			/* ms */
	size_t		received;		/* bytes of the body on the wire */
	size_t		discarded;		/* of these, after it was refused */
	size_t		counted;		/* of the body, in held_bytes */
	int			status;			/* of the reply; 0 = none yet */
	const char *type;
	const char *allow;
	int			retry_after;
	char	   *reply;
	size_t		reply_len;
} Request;

static struct MHD_Daemon *daemon_ = NULL;
static UdsServerSettings settings;
static dlist_head waiting = DLIST_STATIC_INIT(waiting);
static size_t held_bytes = 0;
static bool stopping = false;
static char last_message[256];

/* Keeps what libmicrohttpd says, for when it cannot be started. */
static void __attribute__((format(printf, 2, 0)))
keep_message(void *arg, const char *format, va_list args)
{
	int			len;

	/* not pg_vsnprintf: nothing of the server's may run in here */
#undef vsnprintf
	len = vsnprintf(last_message, sizeof(last_message), format, args);
	while (len > 0 && len < (int) sizeof(last_message) && last_message[len - 1] == '\n')
		last_message[--len] = '\0';
}

/* Gives back the memory of a body. */
static void
free_body(Request *request)
{
	uds_body_free(&request->call.body);
	held_bytes -= request->counted;
	request->counted = 0;
}

static void
free_request(Request *request)
{
	UdsHttpCall *call = &request->call;

	free_body(request);
	for (int i = 0; i < 2 * call->nquery; i++)
		free((void *) call->query[i]);
	for (int i = 0; i < 2 * call->nheaders; i++)
		free((void *) call->headers[i]);
	free((void *) call->method);
	free((void *) call->path);
	free(request->reply);
	free(request);
}

static void
complete_request(void *arg, struct MHD_Connection *mhd, void **context,
				 enum MHD_RequestTerminationCode how)
{
	Request    *request = *context;

	if (request == NULL)
		return;
	uds_connection_grant(request->connection, settings.client_timeout);
	free_request(request);
	*context = NULL;
}

/* Notes a refusal; the message has no quotes in it. */
static void
refuse(Request *request, int status, const char *message)
{
	char		text[300];

	free_body(request);
	request->status = status;
	request->type = "application/json";
	request->reply_len = snprintf(text, sizeof(text), "{\"code\":%d,\"message\":\"%s\"}",
								  status, message);
	request->reply = strdup(text);
	if (request->reply == NULL)
		request->reply_len = 0;
}

/* Sends the reply that a request has got. */
static enum MHD_Result
send_reply(Request *request)
{
	struct MHD_Response *response;
	enum MHD_Result result;
	char		number[16];

	response = MHD_create_response_from_buffer(request->reply_len, request->reply,
											   MHD_RESPMEM_MUST_FREE);
	if (response == NULL)
		return MHD_NO;
	request->reply = NULL;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, request->type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	if (request->retry_after > 0)
	{
		snprintf(number, sizeof(number), "%d", request->retry_after);
		MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, number);
	}
	if (request->closing)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
	if (request->allow != NULL)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, request->allow);
	if (request->status == MHD_HTTP_UNAUTHORIZED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
	uds_connection_grant(request->connection, settings.client_timeout);
	result = MHD_queue_response(request->mhd, request->status, response);
	MHD_destroy_response(response);
	return result;
}

/* Has the request wait for its answer, unless nobody will give it any more. */
static enum MHD_Result
suspend(Request *request, bool only_key)
{
	if (stopping)
	{
		refuse(request, 503, "the server is busy");
		request->retry_after = 1;
		request->closing = true;
		return send_reply(request);
	}
	request->call.only_key = only_key;
	request->call.since = uds_server_clock();
	request->call.not_before = 0;
	request->call.tries = 0;
	request->state = REQUEST_WAITING;
	request->connection->deadline = PG_INT64_MAX;
	dlist_push_tail(&waiting, &request->node);
	MHD_suspend_connection(request->mhd);
	return MHD_YES;
}

/* Looks at the headers: makes the request, or returns NULL without memory. */
static Request *
begin_request(struct MHD_Connection *mhd, const char *path, const char *method)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	Request    *request;
	UdsHttpCall *call;
	const char *encoding = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND,
													   MHD_HTTP_HEADER_CONTENT_ENCODING);
	const char *type = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND,
												   MHD_HTTP_HEADER_CONTENT_TYPE);

	if (info == NULL || info->socket_context == NULL ||
		(request = calloc(1, sizeof(Request))) == NULL)
		return NULL;
	call = &request->call;
	request->mhd = mhd;
	request->connection = info->socket_context;
	request->began = uds_server_clock();
	uds_connection_grant(request->connection, settings.client_timeout);
	call->method = strdup(method);
	call->path = strdup(path);
	if (call->method == NULL || call->path == NULL)
	{
		free_request(request);
		return NULL;
	}
	uds_connection_client(request->connection, mhd, settings.proxies, call->address,
						  sizeof(call->address));
	if (uds_headers_ambiguous(mhd))
	{
		refuse(request, 400, "the length of the body is ambiguous");
		request->closing = true;
	}
	else if (!uds_route_find(&call->route, call->method, call->path, type, encoding))
	{
		refuse(request, call->route.status, call->route.message);
		request->allow = call->route.allow;
	}
	else if (!uds_headers_keep(mhd, call))
		refuse(request, 400, "there are too many parameters");
	else if (uds_headers_length(mhd) > (int64) settings.max_body && !call->route.gzip)
		refuse(request, 413, "the body is too large");
	return request;
}

/* What a body that could not be taken makes of its request. */
static void
refuse_body(Request *request, UdsBodyResult result)
{
	if (result == UDS_BODY_TOO_LARGE)
		refuse(request, 413, "the body is too large");
	else if (result == UDS_BODY_BROKEN)
		refuse(request, 400, "the body is not valid gzip");
	else
	{
		refuse(request, 503, "the server is busy");
		request->retry_after = 5;
	}
}

/* Takes some bytes of the body; false if there is no use in reading on. */
static bool
take_bytes(Request *request, const char *bytes, size_t len)
{
	UdsBody    *body = &request->call.body;
	size_t		limit = request->call.route.kind == UDS_ROUTE_PUSH ? settings.max_body :
		Min(settings.max_body, CALLBACK_BODY);
	UdsBodyResult result = UDS_BODY_TAKEN;

	request->received += len;
	/* who comes up with bytes gets time */
	request->connection->deadline = request->began + settings.client_timeout +
		(int64) request->received * 1000 / SLOWEST;
	if (request->status != 0)
	{
		/* the reply can be sent when the body has ended */
		request->discarded += len;
		return request->discarded <= DISCARDED_BODIES * settings.max_body;
	}
	if (!request->begun)
	{
		request->begun = true;
		result = uds_body_begin(body, limit, request->call.route.gzip);
	}
	if (result == UDS_BODY_TAKEN)
		result = uds_body_add(body, bytes, len);
	held_bytes += body->size - request->counted;
	request->counted = body->size;
	if (result == UDS_BODY_TAKEN && held_bytes > HELD_BODIES * settings.max_body)
		result = UDS_BODY_NO_MEMORY;
	if (result != UDS_BODY_TAKEN)
		refuse_body(request, result);
	return true;
}

/* The body has come: the request waits to be answered. */
static enum MHD_Result
end_body(Request *request)
{
	UdsBodyResult result = UDS_BODY_TAKEN;

	if (!request->begun)
		result = uds_body_begin(&request->call.body, 1, request->call.route.gzip);
	if (result == UDS_BODY_TAKEN)
		result = uds_body_end(&request->call.body);
	if (result != UDS_BODY_TAKEN)
	{
		refuse_body(request, result);
		return send_reply(request);
	}
	return suspend(request, false);
}

/*
 * Sends a refusal when the headers are there.  A client that is about to send
 * its body would not see it, but a broken connection; so the body is read and
 * thrown away first, unless it is much too long.
 */
static enum MHD_Result
send_refusal(Request *request)
{
	int64		length = uds_headers_length(request->mhd);

	if (request->closing || uds_headers_wait(request->mhd) ||
		length > (int64) (DISCARDED_BODIES * settings.max_body))
		return send_reply(request);
	return MHD_YES;
}

/* Whether the key is to be looked at before more of the body comes. */
static bool
needs_key_first(const Request *request, size_t more)
{
	if (request->key_checked || request->call.route.kind != UDS_ROUTE_PUSH || request->status != 0)
		return false;
	return uds_headers_length(request->mhd) > KEY_FIRST || request->received + more > KEY_FIRST;
}

/* Called when headers are there, for each piece of a body, and at its end. */
static enum MHD_Result
handle(void *arg, struct MHD_Connection *mhd, const char *path, const char *method,
	   const char *version, const char *bytes, size_t *len, void **context)
{
	Request    *request = *context;
	bool		first = request == NULL;

	if (first)
	{
		request = *context = begin_request(mhd, path, method);
		if (request == NULL)
			return MHD_NO;
	}
	if (request->state == REQUEST_ANSWERED && request->call.only_key)
	{
		/* with headers alone the reply can go at once; then, too, where all is well */
		request->state = REQUEST_RECEIVING;
		request->key_checked = true;
		first = request->received == 0 && *len == 0 && !request->begun;
	}
	if (first)
	{
		if (request->status != 0)
			return send_refusal(request);
		if (needs_key_first(request, 0))
			return suspend(request, true);
		return MHD_YES;
	}
	if (*len > 0)
	{
		if (needs_key_first(request, *len))
			return suspend(request, true);
		if (!take_bytes(request, bytes, *len))
			return MHD_NO;
		*len = 0;
		return MHD_YES;
	}
	if (request->status != 0)
		return send_reply(request);
	return end_body(request);
}

/*
 * Starts the server, without connections so far.  Certificate and key are PEM
 * texts, or both NULL.  Returns false with a message, if the
 * library cannot.
 */
bool
uds_server_start(const char *certificate, const char *key,
				 int max_connections, int connections_per_address,
				 char *error, size_t error_size)
{
	struct MHD_OptionItem tls[] = {
		{MHD_OPTION_HTTPS_MEM_CERT, 0, (void *) certificate},
		{MHD_OPTION_HTTPS_MEM_KEY, 0, (void *) key},
		{MHD_OPTION_END, 0, NULL}
	};

	last_message[0] = '\0';
	stopping = false;
	daemon_ = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
							   MHD_USE_NO_LISTEN_SOCKET | (certificate ? MHD_USE_TLS : 0),
							   0, NULL, NULL, handle, NULL,
							   MHD_OPTION_EXTERNAL_LOGGER, keep_message, NULL,
							   MHD_OPTION_CONNECTION_LIMIT, (unsigned int) max_connections,
							   MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned int) connections_per_address,
							   MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) CONNECTION_MEMORY,
							   MHD_OPTION_NOTIFY_CONNECTION, uds_connection_notify, NULL,
							   MHD_OPTION_NOTIFY_COMPLETED, complete_request, NULL,
							   MHD_OPTION_STRICT_FOR_CLIENT, 1,
							   MHD_OPTION_ARRAY, certificate ? tls : tls + 2,
							   MHD_OPTION_END);
	if (daemon_ == NULL)
		strlcpy(error, last_message[0] ? last_message : "unknown error", error_size);
	return daemon_ != NULL;
}

/*
 * Gives the server a connection, which it closes from now on.
 */
void
uds_server_add(int fd, const struct sockaddr *address, socklen_t len)
{
	(void) MHD_add_connection(daemon_, fd, address, len);
}

/*
 * Sets limits, from now on.  What proxies point to must stay.
 */
void
uds_server_set(const UdsServerSettings *new_settings)
{
	settings = *new_settings;
	uds_connections_limit(settings.client_timeout);
}

/*
 * The descriptor that becomes readable when there is something to do.
 */
int
uds_server_fd(void)
{
	return MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
}

/*
 * Does what there is to do, without waiting.  Where connections have ended there
 * is room for others.
 */
void
uds_server_run(void)
{
	uint64		before;

	uds_connections_expire();
	do
	{
		before = uds_connections_ended();
		uds_gate_accept();
		(void) MHD_run(daemon_);
	} while (uds_connections_ended() != before);
}

/*
 * How many milliseconds may pass until there is something to do, -1 for any
 * number.
 */
int
uds_server_timeout(void)
{
	MHD_UNSIGNED_LONG_LONG library;
	int64		now = uds_server_clock();
	int64		at = PG_INT64_MAX;
	dlist_iter	iter;

	if (MHD_get_timeout(daemon_, &library) == MHD_YES)
		at = now + (int64) Min(library, 3600 * 1000);
	at = Min(at, uds_connections_deadline());
	dlist_foreach(iter, &waiting)
		at = Min(at, dlist_container(Request, node, iter.cur)->call.not_before);
	if (at == PG_INT64_MAX)
		return -1;
	return (int) Max(Min(at - now, INT_MAX), 0);
}

/*
 * Takes the next request out of the list: of those that may be tried now, and
 * are no pushes unless "pushes", the one that has waited longest.  NULL if
 * there is none.  To be given back to uds_server_answer() or
 * uds_server_postpone().
 */
UdsHttpCall *
uds_server_next(bool pushes)
{
	int64		now = uds_server_clock();
	dlist_iter	iter;

	dlist_foreach(iter, &waiting)
	{
		Request    *request = dlist_container(Request, node, iter.cur);

		if (request->call.not_before > now ||
			(request->call.route.kind == UDS_ROUTE_PUSH && !pushes))
			continue;
		dlist_delete(&request->node);
		return &request->call;
	}
	return NULL;
}

/*
 * Answers a request with a text, which is copied; type is a constant.  Status
 * 0 tells that the key is good, of a call that asked only that.
 */
void
uds_server_answer(UdsHttpCall *call, int status, const char *type, int retry_after,
				  const char *text, size_t len)
{
	Request    *request = (Request *) call;

	request->state = REQUEST_ANSWERED;
	uds_connection_grant(request->connection, settings.client_timeout);
	if (status != 0)
	{
		free_body(request);
		request->reply = malloc(len + 1);
		if (request->reply != NULL)
			memcpy(request->reply, text, len);
		request->reply_len = request->reply ? len : 0;
		request->status = request->reply ? status : 503;
		request->type = type;
		request->retry_after = retry_after;
	}
	MHD_resume_connection(request->mhd);
}

/*
 * Puts a request back, to be tried again after some milliseconds.
 */
void
uds_server_postpone(UdsHttpCall *call, int ms)
{
	Request    *request = (Request *) call;

	call->not_before = uds_server_clock() + ms;
	call->tries++;
	dlist_push_head(&waiting, &request->node);
}

/*
 * Stops the server.  Requests that wait are told to come again, connections are
 * closed.  While they are told so, others may come; libmicrohttpd would abort if
 * one of them were suspended at its end.
 */
void
uds_server_stop(void)
{
	static const char busy[] = "{\"code\":503,\"message\":\"the server is busy\"}";

	stopping = true;
	while (!dlist_is_empty(&waiting))
	{
		Request    *request = dlist_container(Request, node, dlist_pop_head_node(&waiting));

		uds_server_answer(&request->call, 503, "application/json", 1, busy, strlen(busy));
	}
	(void) MHD_run(daemon_);
	MHD_stop_daemon(daemon_);
	daemon_ = NULL;
}
