/*-------------------------------------------------------------------------
 *
 * uds.h
 *		Settings and constants that every part of the extension shares.
 *
 * Owned by uds.c, which defines the settings in _PG_init; read in all
 * processes, takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_H
#define UDS_H

#include "compat.h"

#define UDS_VERSION "0.1"

/* kinds of records; the text in SQL and manifests is "user", "department" */
#define UDS_TYPE_USER		"user"
#define UDS_TYPE_DEPARTMENT "department"

/* what stands for a secret wherever options are shown */
#define UDS_REDACTED "********"

/* upper bound of uds.max_workers: the worker slots in shared memory */
#define UDS_WORKER_SLOTS 64

/* settings, see uds.c for units and defaults */
extern bool uds_enabled;
extern int	uds_max_workers;
extern int	uds_max_attempts;
extern int	uds_retry_interval;		/* ms */
extern int	uds_retry_max_interval; /* ms */
extern int	uds_http_retries;
extern int	uds_http_retry_delay;	/* ms, before the first retry */
extern int	uds_http_timeout;		/* ms, one request as a whole */
extern int	uds_http_connect_timeout;	/* ms */
extern int	uds_max_connections_per_source;
extern int	uds_max_page_size;		/* kB */
extern int	uds_max_pages;			/* pages of one task */
extern char *uds_allowed_hosts;
extern int	uds_full_sync_interval; /* minutes */
extern int	uds_raw_log_retention;	/* minutes, -1 for ever */
extern int	uds_history_retention;	/* minutes, 0 keeps none, -1 for ever */


/* of the listener */
extern int	uds_listen_port;		/* uds.http_port; 0 = there is none */
extern char *uds_listen_address;	/* uds.http_listen */
extern char *uds_listen_database;
extern char *uds_listen_role;
extern int	uds_listen_workers;
extern char *uds_listen_tls_cert;
extern char *uds_listen_tls_key;
extern int	uds_listen_max_body;	/* kB */
extern int	uds_listen_client_timeout;	/* ms */
extern int	uds_listen_max_connections; /* of one process */
extern int	uds_listen_max_per_address;
extern char *uds_listen_proxies;
extern int	uds_event_delay;		/* ms */

/* upper bound of uds.http_workers */
#define UDS_LISTENERS 16

#endif							/* UDS_H */
