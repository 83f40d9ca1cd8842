/*-------------------------------------------------------------------------
 *
 * path_tree.h
 *		Compiled paths, for those who compile and who evaluate them.
 *
 * Runs in any process that is connected to a database; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_PATH_TREE_H
#define UDS_CONNECTOR_PATH_TREE_H

#include "utils/jsonpath.h"

#include "connector/path.h"

typedef enum UdsPathRoot
{
	UDS_PATH_OTHER,				/* nothing to cut short */
	UDS_PATH_ITEM,				/* $ */
	UDS_PATH_RECORD,			/* $record */
	UDS_PATH_CONTEXT,			/* $context */
	UDS_PATH_OPTIONS,			/* $options */
	UDS_PATH_LITERAL			/* operands only */
} UdsPathRoot;

/* Root and steps; a step without key is [*] */
typedef struct UdsPathChain
{
	UdsPathRoot root;
	JsonbValue	literal;
	bool		whole;			/* the steps are all there is */
	int			count;
	int			leading;		/* members before any other step */
	char	  **keys;
	int		   *lengths;
} UdsPathChain;

/*
 * What is evaluated without the executor: a chain (type jpiRoot), or one of
 * == != + - * / % on two chains of members, exists() of one, or && || ! on
 * such predicates.
 */
typedef struct UdsPathNode
{
	JsonPathItemType type;
	UdsPathChain chain;
	struct UdsPathNode *left;
	struct UdsPathNode *right;
} UdsPathNode;

struct UdsPath
{
	Datum		jsonpath;
	Jsonb	   *no_variables;	/* {} */
	bool		uses_variables;
	UdsPathNode *node;			/* NULL = the executor's */
};

#endif							/* UDS_CONNECTOR_PATH_TREE_H */
