/*-------------------------------------------------------------------------
 *
 * expression.c
 *		The "fields" of a manifest's stream: target -> expression.
 *
 * An expression gives a value, or nothing ("absent"): then its target is
 * left out.  JSON null is a value.  Numbers are kept as numeric all the way,
 * so that none loses a digit.
 *
 * Runs in any process that is connected to a database; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/formatting.h"

#include "connector/expression_tree.h"

static bool evaluate(const UdsExpression *expression, UdsPathScope *scope,
					 JsonbValue *result);

static bool
holds(const UdsPath *when, UdsPathScope *scope)
{
	JsonbValue	value;

	if (!uds_path_first(when, scope, &value) || value.type == jbvNull)
		return false;
	if (value.type != jbvBool)
		ereport(ERROR,
				(errcode(ERRCODE_SINGLETON_SQL_JSON_ITEM_REQUIRED),
				 errmsg("\"when\" gives a value that is neither true nor false")));
	return value.val.boolean;
}

/* not isspace(): in some locales that takes bytes of longer characters */
static bool
is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static void
apply_to_text(UdsApplyKind kind, JsonbValue *value)
{
	char	   *text = value->val.string.val;
	int			len = value->val.string.len;
	char	   *copy;
	int			i;

	switch (kind)
	{
		case UDS_APPLY_TRIM:
			while (len > 0 && is_space(text[len - 1]))
				len--;
			while (len > 0 && is_space(*text))
			{
				text++;
				len--;
			}
			break;
		case UDS_APPLY_LOWER:
			text = str_tolower(text, len, DEFAULT_COLLATION_OID);
			len = strlen(text);
			break;
		case UDS_APPLY_UPPER:
			text = str_toupper(text, len, DEFAULT_COLLATION_OID);
			len = strlen(text);
			break;
		case UDS_APPLY_DIGITS:
		case UDS_APPLY_PHONE:
			copy = palloc(len + 1);
			for (i = 0, len = 0; i < value->val.string.len; i++)
			{
				char		c = text[i];

				if (kind == UDS_APPLY_DIGITS ? (c >= '0' && c <= '9') :
					(c != ' ' && c != '-'))
					copy[len++] = c;
			}
			text = copy;
			break;
		case UDS_APPLY_TEL:
			/* RFC 3966: tel:+1-555-0100;ext=7 */
			if (len >= 4 && pg_strncasecmp(text, "tel:", 4) == 0)
			{
				text += 4;
				len -= 4;
				for (i = 0; i < len && text[i] != ';'; i++)
					;
				len = i;
			}
			break;
	}
	uds_value_from_text(text, len, value);
}

/* Texts directly in an array are treated like one that stands alone. */
static void
apply_all(const UdsExpression *expression, JsonbValue *value)
{
	UdsValueList list = {0};
	int			i;
	int			k;

	if (value->type == jbvString)
	{
		for (k = 0; k < expression->napply; k++)
			apply_to_text(expression->apply[k], value);
		return;
	}
	if (!uds_value_is_array(value))
		return;
	uds_value_elements(value, &list);
	for (i = 0; i < list.count; i++)
	{
		for (k = 0; k < expression->napply && list.items[i].type == jbvString; k++)
			apply_to_text(expression->apply[k], &list.items[i]);
	}
	uds_value_from_list(&list, value);
}

static bool
evaluate_context(const UdsExpression *expression, UdsPathScope *scope,
				 JsonbValue *result)
{
	JsonbValue	context;

	if (scope->record->context == NULL)
		return false;
	uds_value_from_jsonb(scope->record->context, &context);
	return uds_value_member(&context, expression->value.val.string.val,
							expression->value.val.string.len, result);
}

static bool
evaluate_coalesce(const UdsExpression *expression, UdsPathScope *scope,
				  JsonbValue *result)
{
	bool		present = false;
	JsonbValue	value;
	int			i;

	for (i = 0; i < expression->count; i++)
	{
		if (!evaluate(expression->args[i], scope, &value))
			continue;
		*result = value;
		present = true;
		if (value.type != jbvNull &&
			(value.type != jbvString || value.val.string.len > 0))
			break;
	}
	return present;
}

static bool
evaluate_text(const UdsExpression *expression, UdsPathScope *scope,
			  JsonbValue *result)
{
	StringInfoData text;

	if (!evaluate(expression->args[0], scope, result))
		return false;
	if (result->type == jbvNull || result->type == jbvString)
		return true;
	initStringInfo(&text);
	uds_value_append_text(&text, result);
	uds_value_from_text(text.data, text.len, result);
	return true;
}

/* Of placeholders only some of which have a value, the others are empty. */
static bool
evaluate_template(const UdsExpression *expression, UdsPathScope *scope,
				  JsonbValue *result)
{
	StringInfoData text;
	JsonbValue	value;
	bool		any_path = false;
	bool		any_null = false;
	bool		any_value = false;
	int			i;

	initStringInfo(&text);
	for (i = 0; i < expression->count; i++)
	{
		const UdsTextPart *part = &expression->parts[i];

		appendBinaryStringInfo(&text, part->text, part->len);
		if (part->path == NULL)
			continue;
		any_path = true;
		if (!uds_path_first(part->path, scope, &value))
			continue;
		if (value.type == jbvNull)
			any_null = true;
		else
			any_value = true;
		uds_value_append_text(&text, &value);
	}
	if (any_path && !any_value)
	{
		result->type = jbvNull;
		return any_null;
	}
	uds_value_from_text(text.data, text.len, result);
	return true;
}

static bool
evaluate_map(const UdsExpression *expression, UdsPathScope *scope,
			 JsonbValue *result)
{
	JsonbValue	value;

	if (!evaluate_text(expression, scope, &value))
		return false;
	if (value.type == jbvNull)
	{
		*result = value;
		return true;
	}
	if (uds_value_member(&expression->values, value.val.string.val,
						 value.val.string.len, result))
		return true;
	*result = expression->value;
	return expression->has_default;
}

static UdsSelection
select_zip(const UdsFields *columns, UdsPathScope *scope, UdsValueList *list)
{
	UdsValueList *lists = palloc0(Max(columns->count, 1) * sizeof(UdsValueList));
	UdsSelection found = UDS_SELECTED_ABSENT;
	int			longest = 0;
	int			i;
	int			column;

	for (column = 0; column < columns->count; column++)
	{
		UdsSelection selection;

		selection = uds_path_all(columns->items[column].expression->path, scope,
								 &lists[column]);
		found = Max(found, selection);
		longest = Max(longest, lists[column].count);
	}
	for (i = 0; i < longest; i++)
	{
		JsonbValue	item;
		JsonbPair  *pairs = palloc0(columns->count * sizeof(JsonbPair));
		int			n = 0;

		for (column = 0; column < columns->count; column++)
		{
			if (i >= lists[column].count)
				continue;
			pairs[n].key = columns->items[column].key;
			pairs[n++].value = lists[column].items[i];
		}
		item.type = jbvObject;
		item.val.object.nPairs = n;
		item.val.object.pairs = pairs;
		uds_value_list_add(list, &item);
	}
	return found;
}

static UdsSelection
select_items(const UdsExpression *expression, UdsPathScope *scope,
			 UdsValueList *list)
{
	if (expression->kind == UDS_EXPRESSION_ZIP)
		return select_zip(expression->fields, scope, list);
	if (expression->path != NULL)
		return uds_path_all(expression->path, scope, list);
	return select_zip(expression->args[0]->fields, scope, list);
}

static bool
evaluate_list(const UdsExpression *expression, UdsPathScope *scope,
			  JsonbValue *result)
{
	UdsValueList list = {0};
	UdsSelection selection = select_items(expression, scope, &list);
	int			i;

	if (selection != UDS_SELECTED_LIST)
	{
		result->type = jbvNull;
		return selection == UDS_SELECTED_NULL;
	}
	if (expression->kind == UDS_EXPRESSION_EACH)
	{
		for (i = 0; i < list.count; i++)
		{
			UdsPathScope inner = {0};

			inner.record = scope->record;
			inner.item = list.items[i];
			uds_fields_map(expression->fields, &inner, &list.items[i]);
		}
	}
	uds_value_from_list(&list, result);
	return true;
}

/* A path, over the scope or over what another expression gives. */
static bool
evaluate_path(const UdsExpression *expression, UdsPathScope *scope,
			  JsonbValue *result)
{
	UdsPathScope inner = {0};

	if (expression->of == NULL)
		return uds_path_first(expression->path, scope, result);
	inner.record = scope->record;
	return evaluate(expression->of, scope, &inner.item) &&
		uds_path_first(expression->path, &inner, result);
}

/* The texts of an array, those that say something, as one. */
static bool
evaluate_join(const UdsExpression *expression, UdsPathScope *scope,
			  JsonbValue *result)
{
	UdsValueList list = {0};
	StringInfoData text;
	JsonbValue	value;

	if (!evaluate(expression->args[0], scope, &value))
		return false;
	if (uds_value_is_array(&value))
		uds_value_elements(&value, &list);
	else
		uds_value_list_add(&list, &value);
	initStringInfo(&text);
	for (int i = 0; i < list.count; i++)
	{
		int			before = text.len;

		if (list.items[i].type == jbvNull)
			continue;
		if (before > 0)
			appendBinaryStringInfo(&text, expression->value.val.string.val,
								   expression->value.val.string.len);
		before = before > 0 ? text.len : 0;
		uds_value_append_text(&text, &list.items[i]);
		/* an empty one leaves no separator behind */
		if (text.len == before && before > 0)
			text.len = before - expression->value.val.string.len;
	}
	text.data[text.len] = '\0';
	uds_value_from_text(text.data, text.len, result);
	return text.len > 0;
}

static void
parse_json(void *arg)
{
	UdsPathScope *parsed = arg;

	parsed->jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													   CStringGetDatum(parsed->item.val.string.val)));
}

/* JSON inside a text; what is none is absent. */
static bool
evaluate_json(const UdsExpression *expression, UdsPathScope *scope,
			  JsonbValue *result)
{
	UdsPathScope parsed = {0};
	JsonbValue	value;
	int			sqlstate;

	if (!evaluate(expression->args[0], scope, &value))
		return false;
	if (value.type != jbvString)
	{
		/* a service that sends what is inside as it is */
		*result = value;
		return true;
	}
	uds_value_from_text(pnstrdup(value.val.string.val, value.val.string.len),
						value.val.string.len, &parsed.item);
	if (value.val.string.len == 0 ||
		uds_value_try(parse_json, &parsed, &sqlstate) != NULL)
		return false;
	uds_value_from_jsonb(parsed.jsonb, result);
	return true;
}

static bool
evaluate_date(const UdsExpression *expression, UdsPathScope *scope,
			  JsonbValue *result)
{
	char	   *text;

	if (!evaluate_text(expression, scope, result))
		return false;
	if (result->type == jbvNull)
		return true;
	text = uds_datetime_normalize(pnstrdup(result->val.string.val, result->val.string.len),
								  expression->form);
	if (text == NULL)
		return false;
	uds_value_from_text(text, strlen(text), result);
	return true;
}

/* Sets *result and returns true, or returns false: absent. */
static bool
evaluate(const UdsExpression *expression, UdsPathScope *scope, JsonbValue *result)
{
	bool		present = true;

	check_stack_depth();
	if (expression->when != NULL && !holds(expression->when, scope))
		return false;
	switch (expression->kind)
	{
		case UDS_EXPRESSION_PATH:
			present = evaluate_path(expression, scope, result);
			break;
		case UDS_EXPRESSION_CONST:
			*result = expression->value;
			break;
		case UDS_EXPRESSION_CONTEXT:
			present = evaluate_context(expression, scope, result);
			break;
		case UDS_EXPRESSION_COALESCE:
			present = evaluate_coalesce(expression, scope, result);
			break;
		case UDS_EXPRESSION_TEXT:
			present = evaluate_text(expression, scope, result);
			break;
		case UDS_EXPRESSION_TEMPLATE:
			present = evaluate_template(expression, scope, result);
			break;
		case UDS_EXPRESSION_MAP:
			present = evaluate_map(expression, scope, result);
			break;
		case UDS_EXPRESSION_ALL:
		case UDS_EXPRESSION_ZIP:
		case UDS_EXPRESSION_EACH:
			present = evaluate_list(expression, scope, result);
			break;
		case UDS_EXPRESSION_JOIN:
			present = evaluate_join(expression, scope, result);
			break;
		case UDS_EXPRESSION_JSON:
			present = evaluate_json(expression, scope, result);
			break;
		case UDS_EXPRESSION_DATE:
			present = evaluate_date(expression, scope, result);
			break;
	}
	if (present && expression->napply > 0)
		apply_all(expression, result);
	return present;
}

/*
 * Evaluates all fields for what the scope's "$" is, into an object in memory
 * of the current context, which also points into the scope and the fields.
 * Raises what jsonpath raises; the record's "field" then names the target.
 */
void
uds_fields_map(const UdsFields *fields, UdsPathScope *scope, JsonbValue *object)
{
	JsonbPair  *pairs = palloc0(Max(fields->count, 1) * sizeof(JsonbPair));
	const char *outer = scope->record->field;
	int			n = 0;
	int			i;

	for (i = 0; i < fields->count; i++)
	{
		const UdsField *field = &fields->items[i];

		scope->record->field = field->name;
		if (!evaluate(field->expression, scope, &pairs[n].value))
			continue;
		pairs[n++].key = field->key;
	}
	scope->record->field = outer;
	object->type = jbvObject;
	object->val.object.nPairs = n;
	object->val.object.pairs = pairs;
}
