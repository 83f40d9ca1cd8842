/*-------------------------------------------------------------------------
 *
 * transfer.c
 *		One HTTP transfer: its request, its options and its callbacks.
 *
 * Owns the rules that every transfer obeys: http and https only, no
 * redirects, no proxy, TLS always verified, allowed addresses only, time and
 * size bounded.  Private to http.c.
 *
 * Runs in background workers only.  Takes no locks.
 *
 * Callbacks run with libcurl on the stack, so they never raise an error:
 * they note what is wrong and let libcurl end the transfer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mb/pg_wchar.h"

#include "fetch/transfer.h"

#define MAX_HEADERS 100			/* lines kept; more are dropped */
#define MAX_HEADER_BYTES (64 * 1024)	/* received; more end the transfer */
#define KEEP_BUFFER (256 * 1024)	/* larger buffers are freed after use */

/*
 * Copies a request and what it points to into the current memory context.
 */
HttpRequest *
uds_request_copy(const UdsHttpRequest *request)
{
	HttpRequest *result = palloc0(sizeof(HttpRequest));
	UdsHttpRequest *copy = &result->copy;
	ListCell   *lc;

	copy->method = pstrdup(request->method ? request->method : "");
	copy->connect_only = request->connect_only;
	copy->url = pstrdup(request->url);
	foreach(lc, request->headers)
		copy->headers = lappend(copy->headers, pstrdup(lfirst(lc)));
	if (request->body)
	{
		char	   *body = palloc_extended(request->body_len + 1,
										   MCXT_ALLOC_HUGE);

		memcpy(body, request->body, request->body_len);
		copy->body = body;
		copy->body_len = request->body_len;
	}
	copy->arg = request->arg;
	return result;
}

/*
 * Frees what uds_request_copy() returned.  Raises nothing.
 */
void
uds_request_free(HttpRequest *request)
{
	pfree(unconstify(char *, request->copy.method));
	pfree(unconstify(char *, request->copy.url));
	list_free_deep(request->copy.headers);
	if (request->copy.body)
		pfree(unconstify(char *, request->copy.body));
	pfree(request);
}

/* Appends to a buffer, keeping a byte for a last NUL; false without memory. */
static bool
buffer_append(HttpBuffer *buffer, const char *data, size_t len)
{
	size_t		need = buffer->len + len + 1;

	if (need > buffer->size)
	{
		size_t		size = Max(need, Max(buffer->size * 2, 4096));
		char	   *grown = realloc(buffer->data, size);

		if (grown == NULL)
			return false;
		buffer->data = grown;
		buffer->size = size;
	}
	memcpy(buffer->data + buffer->len, data, len);
	buffer->len += len;
	return true;
}

static void
buffer_clear(HttpBuffer *buffer)
{
	buffer->len = 0;
	if (buffer->size > KEEP_BUFFER)
	{
		free(buffer->data);
		buffer->data = NULL;
		buffer->size = 0;
	}
}

static void
note_fault(HttpTransfer *transfer, UdsHttpFault fault, const char *reason)
{
	if (transfer->fault == UDS_HTTP_OK)
	{
		transfer->fault = fault;
		transfer->reason = reason;
	}
}

/* A piece of the body, decompressed. */
static size_t
write_callback(char *data, size_t size, size_t count, void *arg)
{
	HttpTransfer *transfer = arg;
	size_t		len = size * count;

	if (len > transfer->limits->max_body - transfer->body.len)
	{
		note_fault(transfer, UDS_HTTP_TOO_LARGE, NULL);
		return 0;
	}
	if (!buffer_append(&transfer->body, data, len))
	{
		note_fault(transfer, UDS_HTTP_BROKEN, "out of memory");
		return 0;
	}
	return len;
}

/*
 * A header line.  The first MAX_HEADERS of the last response are kept, since
 * an interim one (100) may come before it.  What comes above MAX_HEADER_BYTES
 * in all ends the transfer.
 */
static size_t
header_callback(char *data, size_t size, size_t count, void *arg)
{
	HttpTransfer *transfer = arg;
	size_t		received = size * count;
	size_t		len = received;

	transfer->header_bytes += received;
	if (transfer->header_bytes > MAX_HEADER_BYTES)
	{
		note_fault(transfer, UDS_HTTP_BROKEN, "too many or too long headers");
		return 0;
	}
	while (len > 0 && strchr("\r\n \t", data[len - 1]) != NULL)
		len--;
	if (len > 5 && memcmp(data, "HTTP/", 5) == 0)
	{
		transfer->headers.len = 0;
		transfer->header_count = 0;
	}
	else if (transfer->header_count < MAX_HEADERS &&
			 memchr(data, ':', len) != NULL && memchr(data, '\0', len) == NULL)
	{
		if (!buffer_append(&transfer->headers, data, len) ||
			!buffer_append(&transfer->headers, "", 1))
		{
			note_fault(transfer, UDS_HTTP_BROKEN, "out of memory");
			return 0;
		}
		transfer->header_count++;
	}
	return received;
}

/*
 * Opens a socket to a resolved address, if that may be talked to.  libcurl
 * tries the next address of the host otherwise.
 */
static curl_socket_t
opensocket_callback(void *arg, curlsocktype purpose,
					struct curl_sockaddr *address)
{
	HttpTransfer *transfer = arg;
	int			fd;

	if (!uds_address_allowed(transfer->rules, transfer->host, &address->addr))
	{
		const void *bytes = &((struct sockaddr_in *) &address->addr)->sin_addr;

		if (address->family == AF_INET6)
			bytes = &((struct sockaddr_in6 *) &address->addr)->sin6_addr;
		if (inet_ntop(address->family, bytes, transfer->refused,
					  sizeof(transfer->refused)) == NULL)
			strlcpy(transfer->refused, "unknown", sizeof(transfer->refused));
		return CURL_SOCKET_BAD;
	}
	fd = socket(address->family, address->socktype | SOCK_CLOEXEC,
				address->protocol);
	if (fd >= 0)
		transfer->sockets++;
	return fd >= 0 ? fd : CURL_SOCKET_BAD;
}

/*
 * Takes host and port out of the URL, for the address guard and for error
 * texts.  Returns what is wrong with the URL, or NULL.
 */
static const char *
parse_url(HttpTransfer *transfer)
{
	CURLU	   *url = curl_url();
	char	   *scheme = NULL;
	char	   *host = NULL;
	char	   *port = NULL;
	const char *problem = NULL;
	size_t		len;

	if (url == NULL ||
		curl_url_set(url, CURLUPART_URL, transfer->request->copy.url,
					 CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK ||
		curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK)
		problem = "the URL is not valid";
	else if (pg_strcasecmp(scheme, "http") != 0 &&
			 pg_strcasecmp(scheme, "https") != 0)
		problem = "the URL is neither http nor https";
	else if (curl_url_get(url, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
			 curl_url_get(url, CURLUPART_PORT, &port,
						  CURLU_DEFAULT_PORT) != CURLUE_OK ||
			 (len = strlen(host)) == 0 || len >= sizeof(transfer->host) ||
			 !pg_verifymbstr(host, len, true))
		problem = "the host name in the URL is not valid";
	else
	{
		bool		bracketed = host[0] == '[' && host[len - 1] == ']';

		strlcpy(transfer->host, host + (bracketed ? 1 : 0),
				bracketed ? len - 1 : len + 1);
		strlcpy(transfer->port, port, sizeof(transfer->port));
	}
	curl_free(scheme);
	curl_free(host);
	curl_free(port);
	curl_url_cleanup(url);
	return problem;
}

/*
 * Makes libcurl's list of headers.  A line break would begin a header of its
 * own, and values may come from a remote service.  Returns what is wrong, or
 * NULL.
 */
static const char *
make_headers(HttpTransfer *transfer)
{
	ListCell   *lc;
	struct curl_slist *list;

	/* without it, large bodies wait for an interim response */
	transfer->header_list = curl_slist_append(NULL, "Expect:");
	if (transfer->header_list == NULL)
		return "out of memory";
	foreach(lc, transfer->request->copy.headers)
	{
		const char *header = lfirst(lc);

		for (const char *c = header; *c != '\0'; c++)
		{
			if (((unsigned char) *c < ' ' && *c != '\t') || *c == 0x7f)
				return "a request header contains a control character";
		}
		list = curl_slist_append(transfer->header_list, header);
		if (list == NULL)
			return "out of memory";
		transfer->header_list = list;
	}
	return NULL;
}

/* sets an option unless one before failed */
#define SET_OPTION(option, value) \
	do { \
		if (code == CURLE_OK) \
			code = curl_easy_setopt(easy, option, value); \
	} while (0)

/* What is the same for all requests, security above all. */
static CURLcode
set_common_options(HttpTransfer *transfer)
{
	const UdsHttpLimits *limits = transfer->limits;
	CURL	   *easy = transfer->easy;
	CURLcode	code = CURLE_OK;

#if LIBCURL_VERSION_NUM >= 0x075500
	SET_OPTION(CURLOPT_PROTOCOLS_STR, "http,https");
#else
	SET_OPTION(CURLOPT_PROTOCOLS, (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
	/* else closing waits for a resolver that hangs */
	SET_OPTION(CURLOPT_QUICK_EXIT, 1L);
#endif
	SET_OPTION(CURLOPT_NOSIGNAL, 1L);
	SET_OPTION(CURLOPT_FOLLOWLOCATION, 0L);
	SET_OPTION(CURLOPT_PROXY, "");
	SET_OPTION(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	SET_OPTION(CURLOPT_HTTP09_ALLOWED, 0L);
	SET_OPTION(CURLOPT_ACCEPT_ENCODING, "");

	SET_OPTION(CURLOPT_SSL_VERIFYPEER, 1L);
	SET_OPTION(CURLOPT_SSL_VERIFYHOST, 2L);
	SET_OPTION(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	if (limits->ca_file)
	{
		/* the file replaces what the system trusts, its directory too */
		SET_OPTION(CURLOPT_CAINFO, limits->ca_file);
		SET_OPTION(CURLOPT_CAPATH, NULL);
	}

	SET_OPTION(CURLOPT_CONNECTTIMEOUT_MS, (long) limits->connect_timeout);
	SET_OPTION(CURLOPT_TIMEOUT_MS, (long) limits->timeout);
	if (limits->user_agent)
		SET_OPTION(CURLOPT_USERAGENT, limits->user_agent);

	SET_OPTION(CURLOPT_PRIVATE, transfer);
	SET_OPTION(CURLOPT_ERRORBUFFER, transfer->error);
	SET_OPTION(CURLOPT_WRITEFUNCTION, write_callback);
	SET_OPTION(CURLOPT_WRITEDATA, transfer);
	SET_OPTION(CURLOPT_HEADERFUNCTION, header_callback);
	SET_OPTION(CURLOPT_HEADERDATA, transfer);
	SET_OPTION(CURLOPT_OPENSOCKETFUNCTION, opensocket_callback);
	SET_OPTION(CURLOPT_OPENSOCKETDATA, transfer);
	return code;
}

static CURLcode
set_request_options(HttpTransfer *transfer)
{
	const UdsHttpRequest *request = &transfer->request->copy;
	CURL	   *easy = transfer->easy;
	CURLcode	code = CURLE_OK;

	SET_OPTION(CURLOPT_URL, request->url);
	if (request->connect_only)
	{
		SET_OPTION(CURLOPT_CONNECT_ONLY, 1L);
		return code;
	}
	SET_OPTION(CURLOPT_HTTPHEADER, transfer->header_list);
	if (request->body || strcmp(request->method, "POST") == 0)
	{
		/* not copied by libcurl; the request outlives the transfer */
		SET_OPTION(CURLOPT_POSTFIELDS, request->body ? request->body : "");
		SET_OPTION(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_len);
	}
	else if (strcmp(request->method, "HEAD") == 0)
		SET_OPTION(CURLOPT_NOBODY, 1L);
	else
		SET_OPTION(CURLOPT_HTTPGET, 1L);
	SET_OPTION(CURLOPT_CUSTOMREQUEST, request->method);
	return code;
}

/*
 * Begins a transfer for transfer->request.
 *
 * Returns false if there is nothing to wait for because the request cannot
 * be sent; the fault is noted then.  To be called with signals blocked;
 * raises nothing.
 */
bool
uds_transfer_begin(HttpTransfer *transfer, CURLM *multi)
{
	const UdsHttpRequest *request = &transfer->request->copy;
	const char *problem = parse_url(transfer);
	CURLcode	code;

	curl_easy_reset(transfer->easy);
	if (problem == NULL)
		problem = make_headers(transfer);
	if (problem == NULL && !request->connect_only &&
		(request->method[0] == '\0' ||
		 strspn(request->method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") <
		 strlen(request->method)))
		problem = "the request method is not valid";
	if (problem == NULL)
	{
		code = set_common_options(transfer);
		if (code == CURLE_OK)
			code = set_request_options(transfer);
		if (code != CURLE_OK)
			problem = curl_easy_strerror(code);
	}
	if (problem == NULL)
	{
		transfer->attached = curl_multi_add_handle(multi, transfer->easy) == CURLM_OK;
		if (!transfer->attached)
			problem = "out of memory";
	}
	if (problem != NULL)
		note_fault(transfer, UDS_HTTP_URL, problem);
	return problem == NULL;
}

/*
 * Keeps the connection of a transfer that wanted nothing else: libcurl closes
 * its own descriptor when the transfer is taken out.  Raises nothing.
 */
void
uds_transfer_keep_socket(HttpTransfer *transfer)
{
	curl_socket_t fd = CURL_SOCKET_BAD;

	if (!transfer->request->copy.connect_only || transfer->result != CURLE_OK ||
		curl_easy_getinfo(transfer->easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK ||
		fd == CURL_SOCKET_BAD)
		return;
	transfer->kept = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (transfer->kept < 0)
		note_fault(transfer, UDS_HTTP_CONNECT, "out of file descriptors");
}

/*
 * Takes the easy handle out of the multi handle, which keeps the connection
 * for the next request.  Signals as above; raises nothing.
 */
void
uds_transfer_detach(HttpTransfer *transfer, CURLM *multi)
{
	if (transfer->attached)
		curl_multi_remove_handle(multi, transfer->easy);
	transfer->attached = false;
}

/*
 * Makes a transfer ready for its next request.  Raises nothing.
 */
void
uds_transfer_clear(HttpTransfer *transfer)
{
	curl_slist_free_all(transfer->header_list);
	transfer->header_list = NULL;
	transfer->request = NULL;
	transfer->host[0] = transfer->port[0] = '\0';
	transfer->fault = UDS_HTTP_OK;
	transfer->reason = NULL;
	transfer->result = CURLE_OK;
	buffer_clear(&transfer->body);
	buffer_clear(&transfer->headers);
	transfer->header_count = 0;
	transfer->header_bytes = 0;
	transfer->sockets = 0;
	if (transfer->kept >= 0)
		close(transfer->kept);
	transfer->kept = -1;
	transfer->refused[0] = '\0';
	transfer->error[0] = '\0';
}

/*
 * Frees what a transfer holds beside palloc'd memory, also in the middle of
 * a request.  Signals as above; raises nothing.
 */
void
uds_transfer_free(HttpTransfer *transfer, CURLM *multi)
{
	uds_transfer_detach(transfer, multi);
	if (transfer->kept >= 0)
		close(transfer->kept);
	curl_easy_cleanup(transfer->easy);
	curl_slist_free_all(transfer->header_list);
	free(transfer->body.data);
	free(transfer->headers.data);
}
