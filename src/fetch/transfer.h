/*-------------------------------------------------------------------------
 *
 * transfer.h
 *		One HTTP transfer; private to http.c, transfer.c and response.c.
 *
 * Runs in background workers only.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_FETCH_TRANSFER_H
#define UDS_FETCH_TRANSFER_H

#include <curl/curl.h>
#include <netinet/in.h>

#include "lib/ilist.h"

#include "fetch/address.h"
#include "fetch/http.h"

/* A request until its response is handed back. */
typedef struct HttpRequest
{
	dlist_node	node;
	UdsHttpRequest copy;		/* all it points to is palloc'd, but for arg */
} HttpRequest;

/* Bytes that grow on malloc, since callbacks of libcurl must not throw. */
typedef struct HttpBuffer
{
	char	   *data;
	size_t		len;
	size_t		size;
} HttpBuffer;

/* An easy handle and the transfer that it carries, if any. */
typedef struct HttpTransfer
{
	dlist_node	node;			/* in a list of the client unless running */
	const UdsHttpLimits *limits;
	const UdsHostRules *rules;
	CURL	   *easy;
	bool		attached;		/* easy is in the multi handle */

	/* the rest is about the current request */
	HttpRequest *request;
	struct curl_slist *header_list; /* as libcurl wants them */
	char		host[256];		/* without brackets; "" if not known */
	char		port[8];
	UdsHttpFault fault;			/* found by ourselves, else UDS_HTTP_OK */
	const char *reason;			/* of the fault: static text or NULL */
	CURLcode	result;
	HttpBuffer	body;
	HttpBuffer	headers;		/* kept lines, each with its NUL */
	int			header_count;
	size_t		header_bytes;	/* received, kept or not */
	int			sockets;		/* opened */
	int			kept;			/* a descriptor of the connection, or -1 */
	char		refused[INET6_ADDRSTRLEN];	/* address not allowed, or "" */
	char		error[CURL_ERROR_SIZE];
} HttpTransfer;

extern HttpRequest *uds_request_copy(const UdsHttpRequest *request);
extern void uds_request_free(HttpRequest *request);
extern bool uds_transfer_begin(HttpTransfer *transfer, CURLM *multi);
extern void uds_transfer_keep_socket(HttpTransfer *transfer);
extern void uds_transfer_detach(HttpTransfer *transfer, CURLM *multi);
extern UdsHttpResponse *uds_transfer_response(HttpTransfer *transfer);
extern void uds_transfer_clear(HttpTransfer *transfer);
extern void uds_transfer_free(HttpTransfer *transfer, CURLM *multi);

#endif							/* UDS_FETCH_TRANSFER_H */
