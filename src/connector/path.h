/*-------------------------------------------------------------------------
 *
 * path.h
 *		jsonpath as manifests use it: PostgreSQL's own, with short cuts.
 *
 * Runs in any process that is connected to a database; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_PATH_H
#define UDS_CONNECTOR_PATH_H

#include "connector/value.h"

typedef struct UdsPath UdsPath; /* compiled */

/* What is the same for all paths evaluated for one record. */
typedef struct UdsPathRecord
{
	JsonbValue	value;			/* $record; jbvNull for a page */
	Jsonb	   *context;		/* $context, an object, or NULL */
	const JsonbValue *options;	/* $options, an object, or NULL */
	Jsonb	   *variables;		/* all as one object, made on first use */
	const char *field;			/* the target being mapped, for messages */
} UdsPathRecord;

/* What "$" stands for: the record, or an item of one of its lists. */
typedef struct UdsPathScope
{
	UdsPathRecord *record;
	JsonbValue	item;
	Jsonb	   *jsonb;			/* the item as jsonb, made on first use */
} UdsPathScope;

/* What a path that is to give a list found. */
typedef enum UdsSelection
{
	UDS_SELECTED_ABSENT,		/* the members the path begins with are not
								 * there */
	UDS_SELECTED_NULL,			/* they are null */
	UDS_SELECTED_LIST			/* a list, maybe an empty one */
} UdsSelection;

/* A path of members, maybe with [*] at its end: $.a.b[*] */
typedef struct UdsPathMembers
{
	int			count;
	const char **keys;
	const int  *lengths;
	bool		list;			/* ends with [*] */
} UdsPathMembers;

extern UdsPath *uds_path_compile(const char *text, char **error);
extern bool uds_path_first(const UdsPath *path, UdsPathScope *scope,
						   JsonbValue *result);
extern UdsSelection uds_path_all(const UdsPath *path, UdsPathScope *scope,
								 UdsValueList *list);
extern bool uds_path_members(const UdsPath *path, UdsPathMembers *members);

#endif							/* UDS_CONNECTOR_PATH_H */
