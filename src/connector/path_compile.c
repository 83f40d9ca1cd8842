/*-------------------------------------------------------------------------
 *
 * path_compile.c
 *		From the text of a jsonpath to what path.c evaluates.
 *
 * The server's own parser reads the text.  Short cuts are read off the tree
 * that it makes, so quoting and precedence are its business.
 *
 * Runs in any process that is connected to a database; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "connector/path_tree.h"

typedef struct CompileCall
{
	const char *text;
	Datum		jsonpath;
} CompileCall;

static void
call_jsonpath_in(void *arg)
{
	CompileCall *call = arg;

	call->jsonpath = DirectFunctionCall1(jsonpath_in,
										 CStringGetDatum(call->text));
}

/* Errs on the side of true: names may be quoted, text may hold a dollar. */
static bool
mentions_variables(const char *text)
{
	const char *p;

	for (p = text; (p = strchr(p, '$')) != NULL; p++)
	{
		unsigned char next = p[1];

		if (isalnum(next) || next == '_' || next == '"' || next == '\\' ||
			IS_HIGHBIT_SET(next))
			return true;
	}
	return false;
}

static UdsPathRoot
chain_root(JsonPathItem *item, JsonbValue *literal)
{
	char	   *name;
	int32		len;

	switch (item->type)
	{
		case jpiRoot:
			return UDS_PATH_ITEM;
		case jpiVariable:
			name = jspGetString(item, &len);
			if (len == 6 && memcmp(name, "record", 6) == 0)
				return UDS_PATH_RECORD;
			if (len == 7 && memcmp(name, "context", 7) == 0)
				return UDS_PATH_CONTEXT;
			if (len == 7 && memcmp(name, "options", 7) == 0)
				return UDS_PATH_OPTIONS;
			return UDS_PATH_OTHER;
		case jpiNull:
			literal->type = jbvNull;
			return UDS_PATH_LITERAL;
		case jpiBool:
			literal->type = jbvBool;
			literal->val.boolean = jspGetBool(item);
			return UDS_PATH_LITERAL;
		case jpiNumeric:
			literal->type = jbvNumeric;
			literal->val.numeric = jspGetNumeric(item);
			return UDS_PATH_LITERAL;
		case jpiString:
			name = jspGetString(item, &len);
			uds_value_from_text(name, len, literal);
			return UDS_PATH_LITERAL;
		default:
			return UDS_PATH_OTHER;
	}
}

/* Reads root and plain steps, up to the first step of another kind. */
static void
read_chain(JsonPathItem *item, UdsPathChain *chain)
{
	JsonPathItem step = *item;
	int			size = 0;

	chain->root = chain_root(item, &chain->literal);
	chain->whole = true;
	if (chain->root == UDS_PATH_OTHER)
		return;
	while (jspGetNext(&step, &step))
	{
		if (step.type != jpiKey && step.type != jpiAnyArray)
		{
			chain->whole = false;
			break;
		}
		if (chain->count == size)
		{
			size += 8;
			if (chain->keys == NULL)
			{
				chain->keys = palloc(size * sizeof(char *));
				chain->lengths = palloc(size * sizeof(int));
			}
			else
			{
				chain->keys = repalloc(chain->keys, size * sizeof(char *));
				chain->lengths = repalloc(chain->lengths, size * sizeof(int));
			}
		}
		chain->keys[chain->count] = NULL;
		if (step.type == jpiKey)
		{
			chain->keys[chain->count] =
				jspGetString(&step, &chain->lengths[chain->count]);
			if (chain->leading == chain->count)
				chain->leading++;
		}
		chain->count++;
	}
}

static UdsPathNode *
make_node(JsonPathItemType type, UdsPathNode *left, UdsPathNode *right)
{
	UdsPathNode *node = palloc0(sizeof(UdsPathNode));

	node->type = type;
	node->left = left;
	node->right = right;
	return node;
}

/* A chain of members or a literal, or NULL. */
static UdsPathNode *
compile_operand(JsonPathItem *item)
{
	UdsPathNode *node = make_node(jpiRoot, NULL, NULL);
	UdsPathChain *chain = &node->chain;

	read_chain(item, chain);
	if (chain->root == UDS_PATH_OTHER || !chain->whole ||
		chain->leading < chain->count ||
		(chain->root == UDS_PATH_LITERAL && chain->count > 0))
		return NULL;
	return node;
}

/* A node that gives true, false or null, or NULL. */
static UdsPathNode *
compile_predicate(JsonPathItem *item)
{
	UdsPathNode *left;
	UdsPathNode *right = NULL;
	JsonPathItem arg;

	check_stack_depth();
	if (jspHasNext(item))
		return NULL;
	switch (item->type)
	{
		case jpiEqual:
		case jpiNotEqual:
			jspGetLeftArg(item, &arg);
			left = compile_operand(&arg);
			jspGetRightArg(item, &arg);
			right = compile_operand(&arg);
			break;
		case jpiAnd:
		case jpiOr:
			jspGetLeftArg(item, &arg);
			left = compile_predicate(&arg);
			jspGetRightArg(item, &arg);
			right = compile_predicate(&arg);
			break;
		case jpiNot:
			jspGetArg(item, &arg);
			right = left = compile_predicate(&arg);
			break;
		case jpiExists:
			jspGetArg(item, &arg);
			right = left = compile_operand(&arg);
			break;
		default:
			return NULL;
	}
	if (left == NULL || right == NULL)
		return NULL;
	return make_node(item->type, left, right);
}

/* The whole of a path in lax mode, or NULL. */
static UdsPathNode *
compile_node(JsonPathItem *item)
{
	UdsPathNode *node;
	UdsPathNode *left;
	UdsPathNode *right;
	JsonPathItem arg;

	switch (item->type)
	{
		case jpiAdd:
		case jpiSub:
		case jpiMul:
		case jpiDiv:
		case jpiMod:
			if (jspHasNext(item))
				return NULL;
			jspGetLeftArg(item, &arg);
			left = compile_operand(&arg);
			jspGetRightArg(item, &arg);
			right = compile_operand(&arg);
			if (left == NULL || right == NULL)
				return NULL;
			return make_node(item->type, left, right);
		default:
			node = make_node(jpiRoot, NULL, NULL);
			read_chain(item, &node->chain);
			if (node->chain.root == UDS_PATH_OTHER)
				return compile_predicate(item);
			if (node->chain.root == UDS_PATH_LITERAL &&
				(!node->chain.whole || node->chain.count > 0))
				return NULL;
			return node;
	}
}

/*
 * Compiles a jsonpath, in the current memory context.  Returns NULL and sets
 * *error (same context) where it is not valid.
 */
UdsPath *
uds_path_compile(const char *text, char **error)
{
	UdsPath    *path = palloc0(sizeof(UdsPath));
	CompileCall call = {text};
	JsonbValue	empty = {0};
	JsonPathItem item;
	JsonPath   *jsonpath;
	int			sqlstate;

	*error = uds_value_try(call_jsonpath_in, &call, &sqlstate);
	if (*error != NULL)
		return NULL;
	path->jsonpath = call.jsonpath;
	empty.type = jbvObject;
	path->no_variables = JsonbValueToJsonb(&empty);
	path->uses_variables = mentions_variables(text);

	jsonpath = DatumGetJsonPathP(path->jsonpath);
	if (jsonpath->header & JSONPATH_LAX)
	{
		jspInit(&item, jsonpath);
		path->node = compile_node(&item);
	}
	return path;
}
