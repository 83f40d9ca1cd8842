/*-------------------------------------------------------------------------
 *
 * listen.h
 *		The HTTP side: the listener, the function that answers its requests,
 *		keys and callbacks.
 *
 * The listener (listener.c, server.c) knows no table: all it does in the
 * database is call uds.http_request() (entry.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_LISTEN_H
#define UDS_LISTEN_H

#include "catalog/catalog.h"
#include "listen/route.h"

/* A key that is good. */
typedef struct UdsKey
{
	int64		id;
	char	   *name;
	int64		source_id;
	char	   *source;			/* its name */
} UdsKey;

/* keys.c */
extern UdsKey *uds_key_check(const char *text, const char *scope, const char **problem);

/* A request as the entry function gets it. */
typedef struct UdsInquiry
{
	UdsRoute	route;
	const char *method;
	int			nquery;			/* pairs */
	char	  **query;			/* name, value, … */
	int			nheaders;
	char	  **headers;		/* the same, names in lower case */
	const char *address;		/* of the client, for the log */
	text	   *body;			/* bytes, maybe compact; never NULL */
} UdsInquiry;

/* The answer to it. */
typedef struct UdsReply
{
	int			status;			/* HTTP */
	const char *type;			/* content type */
	int			retry_after;	/* seconds, 0 = not said */
	Datum		body;			/* text */
} UdsReply;

/* entry.c */
extern const char *uds_inquiry_header(const UdsInquiry *inquiry, const char *name);
extern const char *uds_inquiry_query(const UdsInquiry *inquiry, const char *name);
extern void uds_reply_error(UdsReply *reply, int status, const char *message);
extern void uds_reply_text(UdsReply *reply, const char *type, const char *body);

/* receive.c */
extern void uds_callback_receive(const UdsInquiry *inquiry, UdsReply *reply);

/* listener.c */
extern void uds_listener_register(void);
extern PGDLLEXPORT void uds_listener_main(Datum arg);

#endif							/* UDS_LISTEN_H */
