/*-------------------------------------------------------------------------
 *
 * server.h
 *		The HTTP server of the listener: connections, requests, limits.
 *
 * For listener.c.  Runs in the listener only, outside any transaction; takes
 * no locks.  Knows nothing of the database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_LISTEN_SERVER_H
#define UDS_LISTEN_SERVER_H

#include "fetch/address.h"
#include "listen/body.h"
#include "listen/route.h"

/* parameters of a query, and headers, that are passed on */
#define UDS_MAX_PAIRS 32

typedef struct UdsServerSettings
{
	size_t		max_body;		/* bytes */
	int			client_timeout; /* ms */
	UdsHostRules *proxies;		/* whose X-Forwarded-For is believed, or NULL */
} UdsServerSettings;

/* A request that is there and waits to be answered. */
typedef struct UdsHttpCall
{
	UdsRoute	route;
	const char *method;
	const char *path;
	char		address[64];	/* of the client */
	int			nquery;
	const char *query[2 * UDS_MAX_PAIRS];	/* name, value, … */
	int			nheaders;
	const char *headers[2 * UDS_MAX_PAIRS];
	bool		only_key;		/* asks whether the key is good, before the body
								 * comes */
	UdsBody		body;
	int64		since;			/* ms, when it was there */
	int64		not_before;		/* ms, when to try again */
	int			tries;
} UdsHttpCall;

extern bool uds_server_start(const char *certificate, const char *key,
							 int connections, int connections_per_address,
							 char *error, size_t error_size);
extern void uds_server_add(int fd, const struct sockaddr *address, socklen_t len);
extern void uds_server_set(const UdsServerSettings *settings);
extern int	uds_server_fd(void);
extern void uds_server_run(void);
extern int	uds_server_timeout(void);
extern UdsHttpCall *uds_server_next(bool pushes);
extern void uds_server_answer(UdsHttpCall *call, int status, const char *type,
							  int retry_after, const char *text, size_t len);
extern void uds_server_postpone(UdsHttpCall *call, int ms);
extern void uds_server_stop(void);

/* connection.c */
extern int64 uds_server_clock(void);

/* gate.c */
extern int	uds_gate_fd(void);
extern void uds_gate_add_server(int fd);
extern void uds_gate_open(void);
extern int	uds_gate_limit(void);
extern void uds_gate_accept(void);
extern void uds_gate_close(void);

/* socket.c */
extern int	uds_listen_open_socket(void);
extern void uds_listen_read_tls(char **certificate, char **key);

#endif							/* UDS_LISTEN_SERVER_H */
