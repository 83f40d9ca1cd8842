/*-------------------------------------------------------------------------
 *
 * query_cursor.h
 *		What reading and testing a source by its queries share.
 *
 * The cursors live in the transaction that uds_query_begin() begins.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_QUERY_CURSOR_H
#define UDS_QUERY_CURSOR_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "utils/portal.h"

#include "fetch/query.h"

/* The streams, in the order in which they are read. */
enum
{
	QUERY_DEPARTMENTS, QUERY_USERS, UDS_QUERY_STREAMS
};

typedef struct UdsQueryStream
{
	const char *stream;
	const char *option;			/* of the type sql: the query */
	const char *data_type;
} UdsQueryStream;

extern const UdsQueryStream uds_query_streams[UDS_QUERY_STREAMS];

/* What an error is about. */
typedef struct UdsQueryPlace
{
	const UdsSource *source;
	const char *option;			/* or NULL: the function of the type */
} UdsQueryPlace;

extern void uds_query_enter(ErrorContextCallback *callback, UdsQueryPlace *place);
extern char *uds_query_option(const char *options_json, const char *name);
extern void uds_query_begin(const UdsSource *source, UdsIdentity *saved);
extern Portal uds_query_open(const char *sql, const UdsQueryPlace *place);
extern Portal uds_query_call(const UdsSource *source, const char *state);
extern char *uds_query_record(HeapTuple row, TupleDesc desc);
extern int	uds_query_find_stream(const UdsSource *source, const char *data_type);

#endif							/* UDS_QUERY_CURSOR_H */
