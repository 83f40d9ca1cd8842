/*-------------------------------------------------------------------------
 *
 * expression_tree.h
 *		Compiled expressions, for those who compile and who evaluate them.
 *
 * Runs in any process that is connected to a database; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_EXPRESSION_TREE_H
#define UDS_CONNECTOR_EXPRESSION_TREE_H

#include "connector/datetime.h"
#include "connector/expression.h"

typedef enum UdsExpressionKind
{
	UDS_EXPRESSION_PATH,
	UDS_EXPRESSION_CONST,
	UDS_EXPRESSION_CONTEXT,
	UDS_EXPRESSION_COALESCE,
	UDS_EXPRESSION_ALL,
	UDS_EXPRESSION_TEXT,
	UDS_EXPRESSION_TEMPLATE,
	UDS_EXPRESSION_MAP,
	UDS_EXPRESSION_ZIP,
	UDS_EXPRESSION_EACH,
	UDS_EXPRESSION_JOIN,
	UDS_EXPRESSION_JSON,
	UDS_EXPRESSION_DATE
} UdsExpressionKind;

typedef enum UdsApplyKind
{
	UDS_APPLY_TRIM,
	UDS_APPLY_LOWER,
	UDS_APPLY_UPPER,
	UDS_APPLY_DIGITS,
	UDS_APPLY_PHONE,
	UDS_APPLY_TEL
} UdsApplyKind;

typedef struct UdsExpression UdsExpression;

/* One entry of "fields" or of "zip". */
typedef struct UdsField
{
	JsonbValue	key;
	const char *name;			/* with those it is nested in:
								 * "departments.uid" */
	UdsExpression *expression;
} UdsField;

struct UdsFields
{
	int			count;
	UdsField   *items;
};

/* A stretch of literal text, or a path in braces. */
typedef struct UdsTextPart
{
	char	   *text;
	int			len;
	UdsPath    *path;
} UdsTextPart;

struct UdsExpression
{
	UdsExpressionKind kind;
	UdsPath    *when;			/* NULL = always */
	int			napply;
	UdsApplyKind *apply;
	UdsPath    *path;			/* PATH, ALL, and EACH over a path */
	UdsExpression *of;			/* PATH: what it is over, NULL = the scope */
	JsonbValue	value;			/* CONST; name in CONTEXT; "default" of MAP;
								 * separator of JOIN */
	UdsDateForm form;			/* DATE */
	bool		has_default;
	JsonbValue	values;			/* MAP */
	int			count;
	UdsExpression **args;		/* COALESCE; the only one of TEXT, MAP, EACH,
								 * JOIN, JSON, DATE */
	UdsTextPart *parts;			/* TEMPLATE */
	UdsFields  *fields;			/* ZIP; EACH */
};

#endif							/* UDS_CONNECTOR_EXPRESSION_TREE_H */
