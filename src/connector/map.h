/*-------------------------------------------------------------------------
 *
 * map.h
 *		A stream of a manifest, compiled, and its use on one record.
 *
 * Runs in any process that is connected to a database; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_MAP_H
#define UDS_CONNECTOR_MAP_H

#include "nodes/pg_list.h"

#include "connector/expression.h"

/* A compiled stream, kept from call to call. */
typedef struct UdsMapProgram
{
	Jsonb	   *stream;			/* what it was compiled from */
	UdsPath    *records;		/* NULL if the stream has none */
	bool		whole;			/* the page is the record */
	UdsPath    *unnest;			/* over a record: those to map, or NULL */
	UdsPath    *where[2];		/* conditions of stream and source, or NULL */
	UdsFields  *fields;			/* NULL = records are taken as they are */
	JsonbValue	options;		/* $options: an object, or null */
} UdsMapProgram;

/* One record on its way, also through uds_value_try(). */
typedef struct UdsMapCall
{
	const UdsMapProgram *program;
	Jsonb	   *context;
	char	   *text;			/* as JSON; or NULL, then ... */
	JsonbValue	value;			/* ... the record itself */
	bool		is_json;		/* set once it was read */
	UdsPathRecord scope;
	List	   *results;		/* of Jsonb * */
} UdsMapCall;

extern UdsMapProgram *uds_map_compile(Jsonb *stream);
extern void uds_map_one(void *arg);

#endif							/* UDS_CONNECTOR_MAP_H */
