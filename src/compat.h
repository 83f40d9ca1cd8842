/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Differences between the supported PostgreSQL versions, 15 to 18.
 *
 * Owns every PG_VERSION_NUM of the extension; used in all processes, takes
 * no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_COMPAT_H
#define UDS_COMPAT_H

/* 17 gave extensions named wait events; before, all share one */
#ifdef FRONTEND
/* unit tests need none */
#elif PG_VERSION_NUM >= 170000
#include "utils/wait_event.h"
#define uds_wait_event(name) WaitEventExtensionNew(name)
#else
#include "pgstat.h"
#include "utils/wait_event.h"
#define uds_wait_event(name) ((uint32) PG_WAIT_EXTENSION)
#endif

/* 17 has wait event sets of resource owners; needs storage/latch.h, utils/memutils.h */
#if PG_VERSION_NUM >= 170000
#define uds_create_wait_set(n) CreateWaitEventSet(NULL, (n))
#else
#define uds_create_wait_set(n) CreateWaitEventSet(TopMemoryContext, (n))
#endif

/* 17 lets the caller own the lexer; the macro needs common/jsonapi.h */
#if PG_VERSION_NUM >= 170000
#define uds_json_lexer(json, len) \
	makeJsonLexContextCstringLen(NULL, (json), (len), PG_UTF8, false)
#else
#define uds_json_lexer(json, len) \
	makeJsonLexContextCstringLen((char *) (json), (len), PG_UTF8, false)
#endif

/* 18 has it before the declaration, as C11 does */
#if PG_VERSION_NUM >= 180000
#define uds_noreturn pg_noreturn
#else
#define uds_noreturn pg_attribute_noreturn()
#endif

/* 18 shows name and version of a loaded module */
#if PG_VERSION_NUM >= 180000
#define UDS_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "uds", .version = UDS_VERSION)
#else
#define UDS_MODULE_MAGIC PG_MODULE_MAGIC
#endif

/* 18 counts frozen pages too; the macro needs commands/vacuum.h */
#if PG_VERSION_NUM >= 180000
#define uds_set_relstats(rel, pages, tuples) \
	vac_update_relstats((rel), (pages), (tuples), 0, 0, false, InvalidTransactionId, \
						InvalidMultiXactId, NULL, NULL, false)
#else
#define uds_set_relstats(rel, pages, tuples) \
	vac_update_relstats((rel), (pages), (tuples), 0, false, InvalidTransactionId, \
						InvalidMultiXactId, NULL, NULL, false)
#endif

/* 17 has sets of events owned by a resource owner, where there is one; the macro
 * needs storage/latch.h */
#if PG_VERSION_NUM >= 170000
#define uds_make_wait_set(nevents) CreateWaitEventSet(NULL, (nevents))
#else
#define uds_make_wait_set(nevents) CreateWaitEventSet(CurrentMemoryContext, (nevents))
#endif

/* 16 can leave out all but summarizing indexes; needs executor/executor.h */
#if PG_VERSION_NUM >= 160000
#define uds_insert_index_tuples(info, slot, estate) \
	((void) ExecInsertIndexTuples((info), (slot), (estate), false, false, NULL, NIL, false))
#else
#define uds_insert_index_tuples(info, slot, estate) \
	((void) ExecInsertIndexTuples((info), (slot), (estate), false, false, NULL, NIL))
#endif

/* 16 has one function for all kinds; needs catalog/pg_database.h and utils/acl.h */
#if PG_VERSION_NUM >= 160000
#define uds_owns_database(database, role) \
	object_ownercheck(DatabaseRelationId, (database), (role))
#else
#define uds_owns_database(database, role) pg_database_ownercheck((database), (role))
#endif

#endif							/* UDS_COMPAT_H */
