/*-------------------------------------------------------------------------
 *
 * response.c
 *		What the end of an HTTP transfer means: fault, text and response.
 *
 * Owns the mapping of libcurl's codes to faults and the phrases for people,
 * which never hold path, query or headers of a request.
 *
 * Runs in background workers only.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "fetch/transfer.h"

/*
 * Was the line cut during the handshake?  That may pass, unlike a bad
 * certificate, but libcurl has one code for both.
 */
static bool
handshake_cut(const char *error)
{
	return strstr(error, "unexpected eof") != NULL ||
		strstr(error, "SSL_ERROR_SYSCALL") != NULL ||
		strstr(error, strerror(ECONNRESET)) != NULL;
}

/* Did the transfer get as far as sending its request? */
static bool
was_connected(const HttpTransfer *transfer)
{
	long		sent = 0;

	/* the times of phases mean one thing here and another there, by version */
	curl_easy_getinfo(transfer->easy, CURLINFO_REQUEST_SIZE, &sent);
	return sent > 0;
}

static UdsHttpFault
classify(const HttpTransfer *transfer)
{
	if (transfer->fault != UDS_HTTP_OK)
		return transfer->fault;
	switch (transfer->result)
	{
		case CURLE_OK:
			return UDS_HTTP_OK;
		case CURLE_URL_MALFORMAT:
			return UDS_HTTP_URL;
		case CURLE_UNSUPPORTED_PROTOCOL:
			/* of the URL, or in what claims to be the response */
			return was_connected(transfer) ? UDS_HTTP_BROKEN : UDS_HTTP_URL;
		case CURLE_COULDNT_RESOLVE_HOST:
			return UDS_HTTP_RESOLVE;
		case CURLE_COULDNT_CONNECT:
			return transfer->refused[0] != '\0' && transfer->sockets == 0 ?
				UDS_HTTP_ADDRESS : UDS_HTTP_CONNECT;
		case CURLE_OPERATION_TIMEDOUT:
			if (was_connected(transfer))
				return UDS_HTTP_TIMEOUT;
			return transfer->sockets > 0 ? UDS_HTTP_CONNECT : UDS_HTTP_RESOLVE;
		case CURLE_SSL_CONNECT_ERROR:
			return handshake_cut(transfer->error) ? UDS_HTTP_CONNECT :
				UDS_HTTP_TLS;
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_CERTPROBLEM:
		case CURLE_SSL_CIPHER:
		case CURLE_SSL_CRL_BADFILE:
		case CURLE_SSL_ENGINE_INITFAILED:
		case CURLE_SSL_INVALIDCERTSTATUS:
		case CURLE_SSL_ISSUER_ERROR:
		case CURLE_USE_SSL_FAILED:
			return UDS_HTTP_TLS;
		default:
			return UDS_HTTP_BROKEN;
	}
}

/*
 * libcurl's words on a failure.  Its error buffer is more precise, but taken
 * only where it speaks of the connection, never of the URL or the response.
 */
static const char *
curl_words(const HttpTransfer *transfer)
{
	bool		safe = false;

	switch (transfer->result)
	{
		case CURLE_UNSUPPORTED_PROTOCOL:
			return "not an HTTP response";
		case CURLE_OUT_OF_MEMORY:
			/* older versions have no other code for a header of 100 kB */
			return "header too long, or out of memory";
		case CURLE_BAD_CONTENT_ENCODING:
		case CURLE_PARTIAL_FILE:
		case CURLE_RECV_ERROR:
		case CURLE_SEND_ERROR:
			safe = true;
			break;
		default:
			safe = classify(transfer) == UDS_HTTP_TLS;
			break;
	}
	/* a certificate's names are quoted as they are */
	if (safe && transfer->error[0] != '\0' &&
		pg_verifymbstr(transfer->error, strlen(transfer->error), true))
		return transfer->error;
	return curl_easy_strerror(transfer->result);
}

static char *
describe_connect(const HttpTransfer *transfer, int elapsed)
{
	long		os_errno = 0;

	if (transfer->result == CURLE_OPERATION_TIMEDOUT)
		return psprintf("no connection to %s port %s within %d ms",
						transfer->host, transfer->port, elapsed);
	if (transfer->result == CURLE_SSL_CONNECT_ERROR)
		return psprintf("connection to %s port %s lost in the TLS handshake",
						transfer->host, transfer->port);
	curl_easy_getinfo(transfer->easy, CURLINFO_OS_ERRNO, &os_errno);
	if (os_errno == ECONNREFUSED)
		return psprintf("connection to %s port %s refused",
						transfer->host, transfer->port);
	return psprintf("could not connect to %s port %s (%s)",
					transfer->host, transfer->port,
					os_errno ? strerror((int) os_errno) :
					curl_easy_strerror(transfer->result));
}

/* The phrase for people; never holds path, query or headers. */
static char *
describe(const HttpTransfer *transfer, UdsHttpFault fault, int elapsed)
{
	const char *host = transfer->host;
	const char *port = transfer->port;

	switch (fault)
	{
		case UDS_HTTP_OK:
			return NULL;
		case UDS_HTTP_URL:
			return pstrdup(transfer->reason ? transfer->reason :
						   curl_easy_strerror(transfer->result));
		case UDS_HTTP_ADDRESS:
			return psprintf("address %s of host \"%s\" is not allowed",
							transfer->refused, host);
		case UDS_HTTP_RESOLVE:
			if (transfer->result == CURLE_OPERATION_TIMEDOUT)
				return psprintf("could not resolve host \"%s\" within %d ms",
								host, elapsed);
			return psprintf("could not resolve host \"%s\"", host);
		case UDS_HTTP_CONNECT:
			return describe_connect(transfer, elapsed);
		case UDS_HTTP_TLS:
			return psprintf("no trusted TLS connection to %s port %s (%s)",
							host, port, curl_words(transfer));
		case UDS_HTTP_TIMEOUT:
			return psprintf("no complete response from %s port %s within %d ms",
							host, port, elapsed);
		case UDS_HTTP_TOO_LARGE:
			return psprintf("response from %s port %s larger than %zu bytes",
							host, port, transfer->limits->max_body);
		case UDS_HTTP_BROKEN:
			break;
	}
	if (transfer->result == CURLE_GOT_NOTHING)
		return psprintf("connection to %s port %s closed without a response",
						host, port);
	return psprintf("broken response from %s port %s (%s)", host, port,
					transfer->reason ? transfer->reason : curl_words(transfer));
}

/*
 * Makes the response of an ended transfer, in the current memory context.
 * The transfer is left as it is.  Raises an ERROR when out of memory.
 */
UdsHttpResponse *
uds_transfer_response(HttpTransfer *transfer)
{
	UdsHttpResponse *response = palloc0(sizeof(UdsHttpResponse));
	const char *header = transfer->headers.data;
	curl_off_t	elapsed = 0;
	long		status = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(transfer->easy, CURLINFO_TOTAL_TIME_T, &elapsed);
	response->arg = transfer->request->copy.arg;
	response->status = (int) status;
	response->elapsed = (int) Min(elapsed / 1000, INT_MAX);
	response->fault = classify(transfer);
	response->fault_text = describe(transfer, response->fault,
									response->elapsed);
	response->socket = transfer->kept;
	transfer->kept = -1;

	for (int i = 0; i < transfer->header_count; i++)
	{
		response->headers = lappend(response->headers, pstrdup(header));
		header += strlen(header) + 1;
	}
	if (response->fault == UDS_HTTP_OK)
		response->body_len = transfer->body.len;
	response->body = palloc_extended(response->body_len + 1, MCXT_ALLOC_HUGE);
	if (response->body_len > 0)
		memcpy(response->body, transfer->body.data, response->body_len);
	response->body[response->body_len] = '\0';
	return response;
}

/*
 * Frees a response, which may be NULL.  Raises nothing.
 */
void
uds_http_free(UdsHttpResponse *response)
{
	if (response == NULL)
		return;
	if (response->fault_text)
		pfree(response->fault_text);
	pfree(response->body);
	list_free_deep(response->headers);
	pfree(response);
}

/*
 * The value of a response header, by name in any case; the first if there are
 * several, NULL if there is none.  Points into the response.
 */
const char *
uds_http_header(const UdsHttpResponse *response, const char *name)
{
	size_t		len = strlen(name);
	ListCell   *lc;

	foreach(lc, response->headers)
	{
		const char *header = lfirst(lc);

		if (pg_strncasecmp(header, name, len) == 0 && header[len] == ':')
		{
			header += len + 1;
			return header + strspn(header, " \t");
		}
	}
	return NULL;
}

/*
 * A word for a fault, static; for logs and statistics.
 */
const char *
uds_http_fault_name(UdsHttpFault fault)
{
	switch (fault)
	{
		case UDS_HTTP_OK:
			return "ok";
		case UDS_HTTP_URL:
			return "url";
		case UDS_HTTP_ADDRESS:
			return "address";
		case UDS_HTTP_RESOLVE:
			return "resolve";
		case UDS_HTTP_CONNECT:
			return "connect";
		case UDS_HTTP_TLS:
			return "tls";
		case UDS_HTTP_TIMEOUT:
			return "timeout";
		case UDS_HTTP_TOO_LARGE:
			return "too_large";
		case UDS_HTTP_BROKEN:
			return "broken";
	}
	return "unknown";
}
