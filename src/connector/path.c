/*-------------------------------------------------------------------------
 *
 * path.c
 *		jsonpath as manifests use it: PostgreSQL's own, with short cuts.
 *
 * Most paths of a manifest are members ("$.a.b", "$.a[*].id"), one operation
 * on two of them ("100 - $.order") or a plain predicate ("$.a == $record.b &&
 * exists($.c)").  These are evaluated here, with the same results as the
 * server's executor in its lax mode but without making a jsonb of "$" and of
 * the variables first.  All else, and every case in doubt, goes to the
 * executor.
 *
 * There is one difference: a calculation on two members of which one is absent
 * or null is itself absent or null, where the executor raises an error.
 *
 * Runs in any process that is connected to a database; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "connector/path_tree.h"

/* What became of an attempt to do without the executor. */
typedef enum Outcome
{
	OUTCOME_ABSENT,
	OUTCOME_FOUND,
	OUTCOME_UNDECIDED			/* ask the executor */
} Outcome;

/* The chain that a path is or begins with, or NULL. */
static const UdsPathChain *
node_chain(const UdsPath *path)
{
	if (path->node == NULL || path->node->type != jpiRoot)
		return NULL;
	return &path->node->chain;
}

/*
 * Tells whether a path consists of nothing but members, with or without [*]
 * at its end, and if so which.  *members points into the path.
 */
bool
uds_path_members(const UdsPath *path, UdsPathMembers *members)
{
	const UdsPathChain *chain = node_chain(path);

	if (chain == NULL || chain->root != UDS_PATH_ITEM || !chain->whole ||
		chain->count > chain->leading + 1)
		return false;
	members->count = chain->leading;
	members->keys = (const char **) chain->keys;
	members->lengths = chain->lengths;
	members->list = chain->count > chain->leading;
	return true;
}

static bool
set_root(const UdsPathChain *chain, UdsPathScope *scope, JsonbValue *value)
{
	switch (chain->root)
	{
		case UDS_PATH_ITEM:
			*value = scope->item;
			return true;
		case UDS_PATH_RECORD:
			*value = scope->record->value;
			return true;
		case UDS_PATH_CONTEXT:
			if (scope->record->context == NULL)
				return false;
			uds_value_from_jsonb(scope->record->context, value);
			return true;
		case UDS_PATH_OPTIONS:
			if (scope->record->options == NULL)
				return false;
			*value = *scope->record->options;
			return true;
		case UDS_PATH_LITERAL:
			*value = chain->literal;
			return true;
		case UDS_PATH_OTHER:
			break;
	}
	return false;
}

/* Follows the leading members; undecided where an array is in the way. */
static Outcome
follow_members(const UdsPathChain *chain, UdsPathScope *scope, JsonbValue *value)
{
	JsonbValue	member;
	int			i;

	if (!set_root(chain, scope, value))
		return OUTCOME_ABSENT;
	for (i = 0; i < chain->leading; i++)
	{
		if (uds_value_is_array(value))
			return OUTCOME_UNDECIDED;
		if (!uds_value_member(value, chain->keys[i], chain->lengths[i], &member))
			return OUTCOME_ABSENT;
		*value = member;
	}
	return OUTCOME_FOUND;
}

/*
 * Collects what the steps from "step" on select.  As lax mode has it, a
 * member of an array is that of its elements ("unwrapped" then forbids doing
 * so twice), and [*] of anything else is the thing itself.
 */
static void
collect(const UdsPathChain *chain, int step, bool unwrapped, const JsonbValue *value,
		UdsValueList *list)
{
	JsonbValue	member;
	UdsValueList elements = {0};
	bool		any;
	int			i;

	for (; step < chain->count; step++)
	{
		any = chain->keys[step] == NULL;
		if (uds_value_is_array(value) && (any || !unwrapped))
		{
			uds_value_elements(value, &elements);
			for (i = 0; i < elements.count; i++)
				collect(chain, any ? step + 1 : step, !any, &elements.items[i],
						list);
			return;
		}
		unwrapped = false;
		if (any)
			continue;
		if (!uds_value_member(value, chain->keys[step], chain->lengths[step],
							  &member))
			return;
		value = &member;
	}
	uds_value_list_add(list, value);
}

static bool
scalars_equal(const JsonbValue *a, const JsonbValue *b)
{
	switch (a->type)
	{
		case jbvNull:
			return true;
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		case jbvNumeric:
			return DatumGetBool(DirectFunctionCall2(numeric_eq,
													NumericGetDatum(a->val.numeric),
													NumericGetDatum(b->val.numeric)));
		default:
			return a->val.string.len == b->val.string.len &&
				memcmp(a->val.string.val, b->val.string.val,
					   a->val.string.len) == 0;
	}
}

static Outcome
compare_operands(JsonPathItemType operation, const JsonbValue *left,
				 const JsonbValue *right, JsonbValue *result)
{
	bool		both = left != NULL && right != NULL;

	if (both && (!IsAJsonbScalar(left) || !IsAJsonbScalar(right)))
		return OUTCOME_UNDECIDED;
	result->type = jbvBool;
	if (!both)
		result->val.boolean = false;
	else if (left->type == right->type)
		result->val.boolean = scalars_equal(left, right) == (operation == jpiEqual);
	else if (left->type == jbvNull || right->type == jbvNull)
		result->val.boolean = operation == jpiNotEqual;
	else
		result->type = jbvNull; /* unknown */
	return OUTCOME_FOUND;
}

static Outcome
calculate(JsonPathItemType operation, const JsonbValue *left,
		  const JsonbValue *right, JsonbValue *result)
{
	PGFunction	function;

	if (left == NULL || right == NULL)
		return OUTCOME_ABSENT;
	if ((left->type == jbvNull && IsAJsonbScalar(right)) ||
		(right->type == jbvNull && IsAJsonbScalar(left)))
	{
		result->type = jbvNull;
		return OUTCOME_FOUND;
	}
	if (left->type != jbvNumeric || right->type != jbvNumeric)
		return OUTCOME_UNDECIDED;
	switch (operation)
	{
		case jpiAdd:
			function = numeric_add;
			break;
		case jpiSub:
			function = numeric_sub;
			break;
		case jpiMul:
			function = numeric_mul;
			break;
		case jpiDiv:
			function = numeric_div;
			break;
		default:
			function = numeric_mod;
			break;
	}
	result->type = jbvNumeric;
	result->val.numeric =
		DatumGetNumeric(DirectFunctionCall2(function,
											NumericGetDatum(left->val.numeric),
											NumericGetDatum(right->val.numeric)));
	return OUTCOME_FOUND;
}

static Outcome evaluate_node(const UdsPathNode *node, UdsPathScope *scope,
							 JsonbValue *result);

static Outcome
evaluate_operands(const UdsPathNode *node, UdsPathScope *scope,
				  JsonbValue *result)
{
	JsonbValue	left;
	JsonbValue	right;
	Outcome		has_left = follow_members(&node->left->chain, scope, &left);
	Outcome		has_right = follow_members(&node->right->chain, scope, &right);
	const JsonbValue *a = has_left == OUTCOME_FOUND ? &left : NULL;
	const JsonbValue *b = has_right == OUTCOME_FOUND ? &right : NULL;

	if (has_left == OUTCOME_UNDECIDED || has_right == OUTCOME_UNDECIDED)
		return OUTCOME_UNDECIDED;
	if (node->type == jpiEqual || node->type == jpiNotEqual)
		return compare_operands(node->type, a, b, result);
	return calculate(node->type, a, b, result);
}

/* && and ||: "decisive" settles it, else unknown (null) outweighs. */
static Outcome
evaluate_both(const UdsPathNode *node, UdsPathScope *scope, JsonbValue *result)
{
	bool		decisive = node->type == jpiOr;
	JsonbValue	right;

	if (evaluate_node(node->left, scope, result) == OUTCOME_UNDECIDED)
		return OUTCOME_UNDECIDED;
	if (result->type == jbvBool && result->val.boolean == decisive)
		return OUTCOME_FOUND;
	if (evaluate_node(node->right, scope, &right) == OUTCOME_UNDECIDED)
		return OUTCOME_UNDECIDED;
	if (result->type == jbvBool ||
		(right.type == jbvBool && right.val.boolean == decisive))
		*result = right;
	return OUTCOME_FOUND;
}

static Outcome
evaluate_node(const UdsPathNode *node, UdsPathScope *scope, JsonbValue *result)
{
	Outcome		outcome;

	check_stack_depth();
	switch (node->type)
	{
		case jpiAnd:
		case jpiOr:
			return evaluate_both(node, scope, result);
		case jpiNot:
			outcome = evaluate_node(node->left, scope, result);
			if (outcome == OUTCOME_FOUND && result->type == jbvBool)
				result->val.boolean = !result->val.boolean;
			return outcome;
		case jpiExists:
			outcome = follow_members(&node->left->chain, scope, result);
			if (outcome == OUTCOME_UNDECIDED)
				return outcome;
			result->type = jbvBool;
			result->val.boolean = outcome == OUTCOME_FOUND;
			return OUTCOME_FOUND;
		default:
			return evaluate_operands(node, scope, result);
	}
}

/* Collects all that a chain selects whose root is there. */
static void
collect_all(const UdsPathChain *chain, UdsPathScope *scope, UdsValueList *list)
{
	JsonbValue	root;

	if (set_root(chain, scope, &root))
		collect(chain, 0, false, &root, list);
}

static Outcome
first_of_chain(const UdsPathChain *chain, UdsPathScope *scope, JsonbValue *result)
{
	UdsValueList list = {0};
	Outcome		outcome = follow_members(chain, scope, result);

	if (outcome == OUTCOME_ABSENT)
		return outcome;
	if (!chain->whole)
		return OUTCOME_UNDECIDED;
	if (outcome == OUTCOME_FOUND && chain->count == chain->leading)
		return outcome;
	collect_all(chain, scope, &list);
	if (list.count == 0)
		return OUTCOME_ABSENT;
	*result = list.items[0];
	return OUTCOME_FOUND;
}

static Jsonb *
make_variables(UdsPathRecord *record)
{
	JsonbPair	pairs[3] = {0};
	JsonbValue	object = {0};

	if (record->variables != NULL)
		return record->variables;
	/* in jsonb's order: the shorter key first, then by bytes */
	uds_value_from_text("record", 6, &pairs[0].key);
	pairs[0].value = record->value;
	uds_value_from_text("context", 7, &pairs[1].key);
	if (record->context != NULL)
		uds_value_from_jsonb(record->context, &pairs[1].value);
	else
		pairs[1].value.type = jbvObject;
	uds_value_from_text("options", 7, &pairs[2].key);
	if (record->options != NULL)
		pairs[2].value = *record->options;
	else
		pairs[2].value.type = jbvObject;
	object.type = jbvObject;
	object.val.object.nPairs = 3;
	object.val.object.pairs = pairs;
	record->variables = uds_value_to_jsonb(&object);
	return record->variables;
}

/* Calls one of the executor's functions; NULL if that returns NULL. */
static Jsonb *
execute(PGFunction function, const UdsPath *path, UdsPathScope *scope)
{
	LOCAL_FCINFO(fcinfo, 4);
	Jsonb	   *variables = path->no_variables;
	Datum		result;

	if (scope->jsonb == NULL)
		scope->jsonb = uds_value_to_jsonb(&scope->item);
	if (path->uses_variables)
		variables = make_variables(scope->record);

	InitFunctionCallInfoData(*fcinfo, NULL, 4, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = JsonbPGetDatum(scope->jsonb);
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = path->jsonpath;
	fcinfo->args[1].isnull = false;
	fcinfo->args[2].value = JsonbPGetDatum(variables);
	fcinfo->args[2].isnull = false;
	fcinfo->args[3].value = BoolGetDatum(false);
	fcinfo->args[3].isnull = false;
	result = function(fcinfo);
	return fcinfo->isnull ? NULL : DatumGetJsonbP(result);
}

/*
 * Sets *result to the first item that a path selects and returns true, or
 * returns false where it selects none.  The result points into the scope or
 * to memory of the current context.  Raises what the executor raises.
 */
bool
uds_path_first(const UdsPath *path, UdsPathScope *scope, JsonbValue *result)
{
	const UdsPathChain *chain = node_chain(path);
	Outcome		outcome = OUTCOME_UNDECIDED;
	Jsonb	   *first;

	if (chain != NULL)
		outcome = first_of_chain(chain, scope, result);
	else if (path->node != NULL)
		outcome = evaluate_node(path->node, scope, result);
	if (outcome != OUTCOME_UNDECIDED)
		return outcome == OUTCOME_FOUND;

	first = execute(jsonb_path_query_first, path, scope);
	if (first == NULL)
		return false;
	uds_value_from_jsonb(first, result);
	return true;
}

/*
 * Appends all items that a path selects to a list, and tells whether there
 * is a list at all: the members that the path begins with may be absent or
 * null.  Memory and errors as with uds_path_first().
 */
UdsSelection
uds_path_all(const UdsPath *path, UdsPathScope *scope, UdsValueList *list)
{
	const UdsPathChain *chain = node_chain(path);
	Outcome		outcome;
	JsonbValue	value;
	Jsonb	   *items;

	if (chain != NULL)
	{
		outcome = follow_members(chain, scope, &value);
		if (outcome == OUTCOME_ABSENT)
			return UDS_SELECTED_ABSENT;
		if (outcome == OUTCOME_FOUND && value.type == jbvNull)
			return UDS_SELECTED_NULL;
		if (chain->whole)
		{
			collect_all(chain, scope, list);
			return UDS_SELECTED_LIST;
		}
	}
	items = execute(jsonb_path_query_array, path, scope);
	uds_value_from_jsonb(items, &value);
	uds_value_elements(&value, list);
	return UDS_SELECTED_LIST;
}
