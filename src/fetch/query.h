/*-------------------------------------------------------------------------
 *
 * query.h
 *		Sources that are read in this database: by queries of the type sql, or
 *		by a function that was registered.
 *
 * What they give is read in one read-only transaction, with the rights of the
 * source's owner, and put into a temporary file; pages are handed over from
 * there, outside of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_QUERY_H
#define UDS_QUERY_H

#include "catalog/catalog.h"

/* the type whose sources are queries */
#define UDS_TYPE_SQL "sql"

/* query_cursor.c */
extern void uds_query_check_options(const char *source, Oid owner, const char *options_json);
extern bool uds_query_reads(const UdsSource *source);

/* query.c */
extern UdsFetchResult *uds_query_run(const UdsSource *source, const char *state,
									 const UdsFetchHooks *hooks);

/* query_test.c */
extern List *uds_query_test(const UdsSource *source);

#endif							/* UDS_QUERY_H */
