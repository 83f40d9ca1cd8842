/*-------------------------------------------------------------------------
 *
 * route.h
 *		What a request over HTTP asks for, from its method, path and headers.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_LISTEN_ROUTE_H
#define UDS_LISTEN_ROUTE_H

/* What can be asked for. */
typedef enum UdsRouteKind
{
	UDS_ROUTE_PUSH,
	UDS_ROUTE_CALLBACK,
	UDS_ROUTE_HEALTH,
	UDS_ROUTE_METRICS
} UdsRouteKind;

/* How a body is to be read. */
typedef enum UdsBodyForm
{
	UDS_FORM_JSON,
	UDS_FORM_LINES
} UdsBodyForm;

typedef struct UdsRoute
{
	UdsRouteKind kind;
	const char *source;			/* of a callback: within the path */
	UdsBodyForm form;			/* of a push */
	bool		gzip;			/* the body is compressed */

	/* what is wrong, if anything is */
	int			status;			/* HTTP, 0 = nothing */
	const char *message;
	const char *allow;			/* of 405: the methods there are */
} UdsRoute;

/* most bytes of a bearer token or a name that are looked at */
#define UDS_MAX_WORD 200

extern bool uds_route_find(UdsRoute *route, const char *method, const char *path,
						   const char *content_type, const char *content_encoding);
extern const char *uds_route_bearer(const char *authorization);
extern bool uds_route_forwarded(const char *header, char *address, size_t size);

#endif							/* UDS_LISTEN_ROUTE_H */
