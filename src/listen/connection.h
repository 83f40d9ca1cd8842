/*-------------------------------------------------------------------------
 *
 * connection.h
 *		Connections to the listener, how long they may take, and what the
 *		headers of their requests say.
 *
 * For server.c.  Runs in the listener only; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_LISTEN_CONNECTION_H
#define UDS_LISTEN_CONNECTION_H

#include <microhttpd.h>

#include "fetch/address.h"
#include "lib/ilist.h"
#include "listen/server.h"

/* A connection, from its beginning to its end. */
typedef struct UdsConnection
{
	dlist_node	node;
	int			fd;
	int64		deadline;		/* ms; PG_INT64_MAX while it waits for us */
	char		address[64];
} UdsConnection;

extern void uds_connection_notify(void *arg, struct MHD_Connection *mhd, void **socket_context,
								  enum MHD_ConnectionNotificationCode what);
extern void uds_connection_grant(UdsConnection *connection, int ms);
extern void uds_connection_client(const UdsConnection *connection, struct MHD_Connection *mhd,
								  const UdsHostRules *proxies, char *address, size_t size);
extern void uds_connections_limit(int ms);
extern void uds_connections_expire(void);
extern int64 uds_connections_deadline(void);
extern uint64 uds_connections_ended(void);
extern int	uds_connections_count(void);

/* headers.c */
extern int64 uds_headers_length(struct MHD_Connection *mhd);
extern bool uds_headers_ambiguous(struct MHD_Connection *mhd);
extern bool uds_headers_wait(struct MHD_Connection *mhd);
extern bool uds_headers_keep(struct MHD_Connection *mhd, UdsHttpCall *call);

#endif							/* UDS_LISTEN_CONNECTION_H */
