/*-------------------------------------------------------------------------
 *
 * value.c
 *		JSON values in memory, and faults of data caught without a
 *		subtransaction.
 *
 * Objects in memory have their pairs in jsonb's own order and free of
 * duplicates, as they come from jsonb objects.  So they are written without
 * being sorted again.
 *
 * Runs in any process that is connected to a database; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "connector/value.h"

/*
 * Appends a value to a list, in the current memory context.  The value is
 * copied, what it points to is not.
 */
void
uds_value_list_add(UdsValueList *list, const JsonbValue *value)
{
	if (list->count == list->size)
	{
		list->size = Max(8, list->size * 2);
		if (list->items == NULL)
			list->items = palloc(list->size * sizeof(JsonbValue));
		else
			list->items = repalloc_huge(list->items,
										list->size * sizeof(JsonbValue));
	}
	list->items[list->count++] = *value;
}

/*
 * Sets *value to what a jsonb holds; it points into the jsonb.
 */
void
uds_value_from_jsonb(Jsonb *jsonb, JsonbValue *value)
{
	if (JB_ROOT_IS_SCALAR(jsonb))
	{
		JsonbExtractScalar(&jsonb->root, value);
		return;
	}
	value->type = jbvBinary;
	value->val.binary.data = &jsonb->root;
	value->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
}

/*
 * Sets *value to a JSON string of len bytes; it points to the text.
 */
void
uds_value_from_text(char *text, int len, JsonbValue *value)
{
	value->type = jbvString;
	value->val.string.val = text;
	value->val.string.len = len;
}

/*
 * Sets *value to a JSON array of the list's items; it points to them.
 */
void
uds_value_from_list(const UdsValueList *list, JsonbValue *value)
{
	value->type = jbvArray;
	value->val.array.nElems = list->count;
	value->val.array.elems = list->items;
	value->val.array.rawScalar = false;
}

/*
 * Returns a value as jsonb, allocated in the current memory context.  An
 * array or object in memory may be unpacked in place on the way.
 */
Jsonb *
uds_value_to_jsonb(JsonbValue *value)
{
	/* a stored container is copied as it is */
	if (value->type != jbvBinary)
		uds_value_unpack(value);
	return JsonbValueToJsonb(value);
}

static void
unpack_container(JsonbValue *value)
{
	JsonbContainer *container = value->val.binary.data;
	JsonbIterator *it = JsonbIteratorInit(container);
	int			count = JsonContainerSize(container);
	int			n = 0;
	JsonbIteratorToken token;
	JsonbValue	item;

	if (JsonContainerIsObject(container))
	{
		JsonbPair  *pairs = palloc0(Max(count, 1) * sizeof(JsonbPair));

		while ((token = JsonbIteratorNext(&it, &item, true)) != WJB_DONE)
		{
			if (token == WJB_KEY)
				pairs[n].key = item;
			else if (token == WJB_VALUE)
				pairs[n++].value = item;
		}
		value->type = jbvObject;
		value->val.object.nPairs = n;
		value->val.object.pairs = pairs;
	}
	else
	{
		JsonbValue *elems = palloc(Max(count, 1) * sizeof(JsonbValue));

		while ((token = JsonbIteratorNext(&it, &item, true)) != WJB_DONE)
		{
			if (token == WJB_ELEM)
				elems[n++] = item;
		}
		value->type = jbvArray;
		value->val.array.nElems = n;
		value->val.array.elems = elems;
		value->val.array.rawScalar = false;
	}
}

/*
 * Turns every stored container in a value into one in memory, in place; new
 * memory is taken from the current context.
 */
void
uds_value_unpack(JsonbValue *value)
{
	int			i;

	check_stack_depth();
	if (value->type == jbvBinary)
		unpack_container(value);
	if (value->type == jbvArray)
	{
		for (i = 0; i < value->val.array.nElems; i++)
		{
			if (!IsAJsonbScalar(&value->val.array.elems[i]))
				uds_value_unpack(&value->val.array.elems[i]);
		}
	}
	else if (value->type == jbvObject)
	{
		for (i = 0; i < value->val.object.nPairs; i++)
		{
			if (!IsAJsonbScalar(&value->val.object.pairs[i].value))
				uds_value_unpack(&value->val.object.pairs[i].value);
		}
	}
}

/*
 * Tells whether a value is an array.
 */
bool
uds_value_is_array(const JsonbValue *value)
{
	return value->type == jbvArray ||
		(value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data));
}

/*
 * Tells whether a value is an object.
 */
bool
uds_value_is_object(const JsonbValue *value)
{
	return value->type == jbvObject ||
		(value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data));
}

/*
 * Sets *member to an object's member of that name (len bytes) and returns
 * true; false where there is none or the value is no object.  The member
 * points into the object.
 */
bool
uds_value_member(const JsonbValue *object, const char *key, int len,
				 JsonbValue *member)
{
	int			i;

	if (object->type == jbvBinary)
		return JsonContainerIsObject(object->val.binary.data) &&
			getKeyJsonValueFromContainer(object->val.binary.data, key, len,
										 member) != NULL;
	if (object->type != jbvObject)
		return false;
	for (i = 0; i < object->val.object.nPairs; i++)
	{
		const JsonbPair *pair = &object->val.object.pairs[i];

		if (pair->key.val.string.len == len &&
			memcmp(pair->key.val.string.val, key, len) == 0)
		{
			*member = pair->value;
			return true;
		}
	}
	return false;
}

/*
 * Appends the elements of an array to a list; they point into the array.
 */
void
uds_value_elements(const JsonbValue *array, UdsValueList *list)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	item;
	int			i;

	if (array->type == jbvArray)
	{
		for (i = 0; i < array->val.array.nElems; i++)
			uds_value_list_add(list, &array->val.array.elems[i]);
		return;
	}
	it = JsonbIteratorInit(array->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &item, true)) != WJB_DONE)
	{
		if (token == WJB_ELEM)
			uds_value_list_add(list, &item);
	}
}

/*
 * Appends a value as text: a string without its quotes, a number digit for
 * digit, true or false, nothing for null, arrays and objects as JSON.
 */
void
uds_value_append_text(StringInfo out, JsonbValue *value)
{
	Jsonb	   *jsonb;

	switch (value->type)
	{
		case jbvNull:
			break;
		case jbvString:
			appendBinaryStringInfo(out, value->val.string.val,
								   value->val.string.len);
			break;
		case jbvNumeric:
			appendStringInfoString(out,
								   DatumGetCString(DirectFunctionCall1(numeric_out,
																	   NumericGetDatum(value->val.numeric))));
			break;
		case jbvBool:
			appendStringInfoString(out, value->val.boolean ? "true" : "false");
			break;
		default:
			jsonb = uds_value_to_jsonb(value);
			JsonbToCString(out, &jsonb->root, VARSIZE(jsonb));
			break;
	}
}

/*
 * Calls function(arg).  Returns NULL, or if it raised an error for which the
 * data are to blame (a data exception, a limit exceeded, a syntax error, a
 * character that the database's encoding does not have), the message,
 * allocated in the current memory context, and its SQLSTATE in *sqlstate.
 * Any other error goes on.
 *
 * There is no subtransaction: the function may compute and allocate, but must
 * not touch anything that an abort would have to clean up.
 */
char *
uds_value_try(void (*function) (void *arg), void *arg, int *sqlstate)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *volatile message = NULL;

	PG_TRY();
	{
		function(arg);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		int			category;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (category != ERRCODE_DATA_EXCEPTION &&
			category != ERRCODE_PROGRAM_LIMIT_EXCEEDED &&
			category != ERRCODE_FEATURE_NOT_SUPPORTED &&
			error->sqlerrcode != ERRCODE_SYNTAX_ERROR)
			PG_RE_THROW();
		FlushErrorState();
		*sqlstate = error->sqlerrcode;
		if (error->detail != NULL)
			message = psprintf("%s (%s)", error->message, error->detail);
		else
			message = pstrdup(error->message);
		FreeErrorData(error);
	}
	PG_END_TRY();
	return message;
}
