/*-------------------------------------------------------------------------
 *
 * expression_compile.c
 *		From the "fields" of a manifest's stream to expressions that can be
 *		evaluated.
 *
 * Whatever is not valid is an error that names the target.
 *
 * Runs in any process that is connected to a database; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "connector/expression_tree.h"

/* The key that tells an object form, and the keys it may have besides. */
static const struct
{
	const char *key;
	UdsExpressionKind kind;
	const char *companions[2];
}			forms[] =
{
	{"path", UDS_EXPRESSION_PATH, {"when", "of"}},
	{"const", UDS_EXPRESSION_CONST},
	{"context", UDS_EXPRESSION_CONTEXT},
	{"coalesce", UDS_EXPRESSION_COALESCE},
	{"all", UDS_EXPRESSION_ALL},
	{"text", UDS_EXPRESSION_TEXT},
	{"template", UDS_EXPRESSION_TEMPLATE},
	{"map", UDS_EXPRESSION_MAP, {"values", "default"}},
	{"zip", UDS_EXPRESSION_ZIP},
	{"each", UDS_EXPRESSION_EACH, {"fields"}},
	{"join", UDS_EXPRESSION_JOIN, {"separator"}},
	{"json", UDS_EXPRESSION_JSON},
	{"date", UDS_EXPRESSION_DATE, {"from"}},
};

static const struct
{
	const char *word;
	UdsDateForm form;
}			date_forms[] =
{
	{"iso", UDS_DATE_ISO},
	{"epoch", UDS_DATE_EPOCH},
	{"epoch_ms", UDS_DATE_EPOCH_MS},
};

static const char *const apply_names[] = {"trim", "lower", "upper", "digits", "phone", "tel"};

static UdsExpression *compile_expression(JsonbValue *spec, const char *name);
static UdsFields *compile_fields(JsonbValue *spec, const char *parent);

static void
invalid_field(const char *name, const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("field \"%s\" of the manifest is not valid: %s", name, reason)));
}

static char *
string_of(const JsonbValue *value)
{
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static bool
member_named(const JsonbValue *object, const char *key, JsonbValue *member)
{
	return uds_value_member(object, key, strlen(key), member);
}

static UdsPath *
compile_path_text(const char *text, const char *name)
{
	char	   *error;
	UdsPath    *path = uds_path_compile(text, &error);

	if (path == NULL)
		invalid_field(name, psprintf("jsonpath \"%s\": %s", text, error));
	return path;
}

static UdsPath *
compile_path(const JsonbValue *spec, const char *key, const char *name)
{
	if (spec->type != jbvString)
		invalid_field(name, psprintf("\"%s\" must be a jsonpath", key));
	return compile_path_text(string_of(spec), name);
}

static void
compile_apply(UdsExpression *expression, const JsonbValue *spec, const char *name)
{
	UdsValueList list = {0};
	int			i;

	if (!uds_value_is_array(spec))
		invalid_field(name, "\"apply\" must be an array");
	uds_value_elements(spec, &list);
	expression->apply = palloc(Max(list.count, 1) * sizeof(UdsApplyKind));
	for (i = 0; i < list.count; i++)
	{
		char	   *word = NULL;
		int			kind;

		if (list.items[i].type == jbvString)
			word = string_of(&list.items[i]);
		for (kind = 0; kind < lengthof(apply_names); kind++)
		{
			if (word != NULL && strcmp(word, apply_names[kind]) == 0)
				break;
		}
		if (kind == lengthof(apply_names))
			invalid_field(name,
						  "\"apply\" knows trim, lower, upper, digits, phone and tel");
		expression->apply[expression->napply++] = kind;
	}
}

/* The end of a placeholder's jsonpath: the next brace outside of quotes. */
static const char *
placeholder_end(const char *p)
{
	bool		quoted = false;

	for (; *p != '\0'; p++)
	{
		if (quoted && *p == '\\' && p[1] != '\0')
			p++;
		else if (*p == '"')
			quoted = !quoted;
		else if (*p == '}' && !quoted)
			return p;
	}
	return NULL;
}

static void
compile_template(UdsExpression *expression, const JsonbValue *spec,
				 const char *name)
{
	StringInfoData literal;
	const char *p;

	if (spec->type != jbvString)
		invalid_field(name, "\"template\" must be a string");
	p = string_of(spec);
	/* no more parts than braces, each with text before it, and the rest */
	expression->parts = palloc0((2 * strlen(p) + 1) * sizeof(UdsTextPart));
	initStringInfo(&literal);
	for (;;)
	{
		UdsTextPart *part;
		const char *end;

		if (*p != '\0' && (*p != '{' || p[1] == '{'))
		{
			appendStringInfoChar(&literal, *p);
			p += (*p == '{') ? 2 : 1;
			continue;
		}
		part = &expression->parts[expression->count++];
		part->text = pnstrdup(literal.data, literal.len);
		part->len = literal.len;
		resetStringInfo(&literal);
		if (*p == '\0')
			break;
		end = placeholder_end(p + 1);
		if (end == NULL)
			invalid_field(name, psprintf("no brace closes what begins at \"%.40s\"", p));
		part->path = compile_path_text(pnstrdup(p + 1, end - p - 1), name);
		p = end + 1;
	}
}

static void
compile_map(UdsExpression *expression, JsonbValue *object, JsonbValue *spec,
			const char *name)
{
	expression->args = palloc(sizeof(UdsExpression *));
	expression->args[0] = compile_expression(spec, name);
	if (!member_named(object, "values", &expression->values) ||
		!uds_value_is_object(&expression->values))
		invalid_field(name, "\"map\" needs an object \"values\"");
	uds_value_unpack(&expression->values);
	expression->has_default = member_named(object, "default", &expression->value);
	if (expression->has_default)
		uds_value_unpack(&expression->value);
}

static void
compile_zip(UdsExpression *expression, JsonbValue *spec, const char *name)
{
	int			i;

	if (!uds_value_is_object(spec))
		invalid_field(name, "\"zip\" must be an object of jsonpaths");
	expression->fields = compile_fields(spec, name);
	for (i = 0; i < expression->fields->count; i++)
	{
		const UdsField *field = &expression->fields->items[i];

		if (field->expression->kind != UDS_EXPRESSION_PATH ||
			field->expression->when != NULL || field->expression->napply > 0)
			invalid_field(field->name, "in \"zip\" it must be a jsonpath");
	}
}

static void
compile_each(UdsExpression *expression, JsonbValue *object, JsonbValue *spec,
			 const char *name)
{
	JsonbValue	fields;

	if (spec->type == jbvString)
		expression->path = compile_path(spec, "each", name);
	else
	{
		expression->args = palloc(sizeof(UdsExpression *));
		expression->args[0] = compile_expression(spec, name);
		if (expression->args[0]->kind != UDS_EXPRESSION_ZIP)
			invalid_field(name, "\"each\" must be a jsonpath or a \"zip\"");
	}
	if (!member_named(object, "fields", &fields) ||
		!uds_value_is_object(&fields))
		invalid_field(name, "\"each\" needs an object \"fields\"");
	expression->fields = compile_fields(&fields, name);
}

static void
compile_coalesce(UdsExpression *expression, const JsonbValue *spec,
				 const char *name)
{
	UdsValueList list = {0};

	if (uds_value_is_array(spec))
		uds_value_elements(spec, &list);
	if (list.count == 0)
		invalid_field(name, "\"coalesce\" must be an array of expressions");
	expression->args = palloc(list.count * sizeof(UdsExpression *));
	for (; expression->count < list.count; expression->count++)
		expression->args[expression->count] =
			compile_expression(&list.items[expression->count], name);
}

/* The separator of a join: a text, or nothing. */
static void
compile_separator(UdsExpression *expression, JsonbValue *object, const char *name)
{
	if (!member_named(object, "separator", &expression->value))
		uds_value_from_text("", 0, &expression->value);
	else if (expression->value.type != jbvString)
		invalid_field(name, "\"separator\" must be a string");
}

static void
compile_date_form(UdsExpression *expression, JsonbValue *object, const char *name)
{
	JsonbValue	from;
	char	   *word;

	expression->form = UDS_DATE_ISO;
	if (!member_named(object, "from", &from))
		return;
	word = from.type == jbvString ? string_of(&from) : "";
	for (int i = 0; i < lengthof(date_forms); i++)
	{
		expression->form = date_forms[i].form;
		if (strcmp(date_forms[i].word, word) == 0)
			return;
	}
	invalid_field(name, "\"from\" must be iso, epoch or epoch_ms");
}

static void
compile_form(UdsExpression *expression, JsonbValue *object, JsonbValue *spec,
			 const char *name)
{
	JsonbValue	of;

	switch (expression->kind)
	{
		case UDS_EXPRESSION_PATH:
			expression->path = compile_path(spec, "path", name);
			if (member_named(object, "of", &of))
				expression->of = compile_expression(&of, name);
			break;
		case UDS_EXPRESSION_CONST:
			expression->value = *spec;
			uds_value_unpack(&expression->value);
			break;
		case UDS_EXPRESSION_CONTEXT:
			if (spec->type != jbvString)
				invalid_field(name, "\"context\" must be a name");
			expression->value = *spec;
			break;
		case UDS_EXPRESSION_COALESCE:
			compile_coalesce(expression, spec, name);
			break;
		case UDS_EXPRESSION_ALL:
			expression->path = compile_path(spec, "all", name);
			break;
		case UDS_EXPRESSION_TEXT:
		case UDS_EXPRESSION_JSON:
		case UDS_EXPRESSION_JOIN:
		case UDS_EXPRESSION_DATE:
			expression->args = palloc(sizeof(UdsExpression *));
			expression->args[0] = compile_expression(spec, name);
			if (expression->kind == UDS_EXPRESSION_JOIN)
				compile_separator(expression, object, name);
			if (expression->kind == UDS_EXPRESSION_DATE)
				compile_date_form(expression, object, name);
			break;
		case UDS_EXPRESSION_TEMPLATE:
			compile_template(expression, spec, name);
			break;
		case UDS_EXPRESSION_MAP:
			compile_map(expression, object, spec, name);
			break;
		case UDS_EXPRESSION_ZIP:
			compile_zip(expression, spec, name);
			break;
		case UDS_EXPRESSION_EACH:
			compile_each(expression, object, spec, name);
			break;
	}
}

/* Refuses keys that the form does not have, so that none is overlooked. */
static void
check_keys(JsonbValue *object, int form, const char *name)
{
	JsonbValue	keys = *object;
	int			i;

	uds_value_unpack(&keys);
	for (i = 0; i < keys.val.object.nPairs; i++)
	{
		char	   *key = string_of(&keys.val.object.pairs[i].key);
		const char *const *companions = forms[form].companions;

		if (strcmp(key, forms[form].key) != 0 && strcmp(key, "apply") != 0 &&
			(companions[0] == NULL || strcmp(key, companions[0]) != 0) &&
			(companions[1] == NULL || strcmp(key, companions[1]) != 0))
			invalid_field(name, psprintf("\"%s\" does not go with \"%s\"", key,
										 forms[form].key));
	}
}

static UdsExpression *
compile_expression(JsonbValue *spec, const char *name)
{
	UdsExpression *expression = palloc0(sizeof(UdsExpression));
	JsonbValue	member;
	JsonbValue	option;
	int			form;

	check_stack_depth();
	if (spec->type == jbvString)
	{
		expression->kind = UDS_EXPRESSION_PATH;
		expression->path = compile_path(spec, "path", name);
		return expression;
	}
	if (!uds_value_is_object(spec))
		invalid_field(name, "it must be a jsonpath or an object; a fixed value is {\"const\": value}");
	for (form = 0; form < lengthof(forms); form++)
	{
		if (member_named(spec, forms[form].key, &member))
			break;
	}
	if (form == lengthof(forms))
		invalid_field(name, "the object has none of path, const, context, coalesce, all, text, template, map, zip, each, join, json, date");
	check_keys(spec, form, name);
	expression->kind = forms[form].kind;
	compile_form(expression, spec, &member, name);
	if (member_named(spec, "when", &option))
		expression->when = compile_path(&option, "when", name);
	if (member_named(spec, "apply", &option))
		compile_apply(expression, &option, name);
	return expression;
}

static UdsFields *
compile_fields(JsonbValue *spec, const char *parent)
{
	UdsFields  *fields = palloc0(sizeof(UdsFields));
	JsonbValue	object = *spec;
	int			i;

	uds_value_unpack(&object);
	fields->items = palloc0(Max(object.val.object.nPairs, 1) * sizeof(UdsField));
	for (i = 0; i < object.val.object.nPairs; i++)
	{
		JsonbPair  *pair = &object.val.object.pairs[i];
		UdsField   *field = &fields->items[i];

		field->key = pair->key;
		field->name = string_of(&pair->key);
		if (parent != NULL)
			field->name = psprintf("%s.%s", parent, field->name);
		field->expression = compile_expression(&pair->value, field->name);
		fields->count++;
	}
	return fields;
}

/*
 * Compiles the "fields" of a stream, in the current memory context.  The
 * result points into what "spec" points to.  Raises an error that names the
 * target of a field that is not valid.
 */
UdsFields *
uds_fields_compile(JsonbValue *spec)
{
	if (!uds_value_is_object(spec))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"fields\" of the manifest's stream must be an object")));
	return compile_fields(spec, NULL);
}
