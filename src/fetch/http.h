/*-------------------------------------------------------------------------
 *
 * http.h
 *		HTTP transfers over libcurl's multi interface, waited for on a latch.
 *
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_FETCH_HTTP_H
#define UDS_FETCH_HTTP_H

#include "nodes/pg_list.h"

typedef struct UdsHttpClient UdsHttpClient;

/* Why a transfer brought no complete response; all but two may pass. */
typedef enum UdsHttpFault
{
	UDS_HTTP_OK = 0,			/* a complete response, whatever its status */
	UDS_HTTP_URL,				/* the URL or a header is not usable: final */
	UDS_HTTP_ADDRESS,			/* resolved to a refused address: final */
	UDS_HTTP_RESOLVE,			/* host name not resolved */
	UDS_HTTP_CONNECT,			/* connection refused or not established */
	UDS_HTTP_TLS,				/* handshake or certificate: final */
	UDS_HTTP_TIMEOUT,			/* no end within the time allowed */
	UDS_HTTP_TOO_LARGE,			/* more bytes than allowed: final */
	UDS_HTTP_BROKEN				/* reset, truncated, malformed */
} UdsHttpFault;

typedef struct UdsHttpLimits
{
	int			connections;	/* requests in flight at most; more wait inside */
	int			connect_timeout;	/* ms */
	int			timeout;		/* ms, one transfer as a whole */
	size_t		max_body;		/* bytes after decompression */
	const char *ca_file;		/* PEM bundle, or NULL for the system's */
	const char *user_agent;
} UdsHttpLimits;

typedef struct UdsHttpRequest
{
	const char *method;			/* "GET", "POST", ... */
	const char *url;			/* complete, escaped; may hold secrets */
	List	   *headers;		/* of char *, "Name: value" */
	const char *body;			/* or NULL */
	size_t		body_len;
	bool		connect_only;	/* nothing is sent: the connection is what is
								 * wanted; method is not looked at */
	void	   *arg;			/* handed back with the response */
} UdsHttpRequest;

typedef struct UdsHttpResponse
{
	void	   *arg;
	UdsHttpFault fault;
	char	   *fault_text;		/* one phrase, free of URL and secrets; NULL if OK */
	int			status;			/* 0 if none came */
	char	   *body;			/* NUL-terminated, body_len without it; empty
								 * if there is a fault */
	size_t		body_len;
	List	   *headers;		/* of char *, "Name: value", at most 100 */
	int			elapsed;		/* ms */
	int			socket;			/* connect_only: for the caller to close; else
								 * -1 */
} UdsHttpResponse;

extern UdsHttpClient *uds_http_open(MemoryContext parent,
									const UdsHttpLimits *limits);
extern void uds_http_send(UdsHttpClient *client, const UdsHttpRequest *request);
extern UdsHttpResponse *uds_http_next(UdsHttpClient *client, long timeout);
extern void uds_http_free(UdsHttpResponse *response);
extern void uds_http_close(UdsHttpClient *client);
extern const char *uds_http_header(const UdsHttpResponse *response,
								   const char *name);
extern const char *uds_http_fault_name(UdsHttpFault fault);

#endif							/* UDS_FETCH_HTTP_H */
