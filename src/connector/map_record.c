/*-------------------------------------------------------------------------
 *
 * map_record.c
 *		From one record as a service sent it to what a stream of the manifest
 *		makes of it.
 *
 * Runs in any process that is connected to a database; takes no locks and
 * reads no table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "connector/map.h"

/* A jsonpath of the stream, or NULL if it has none under that word. */
static UdsPath *
compile_path(const JsonbValue *stream, const char *word)
{
	JsonbValue	member;
	UdsPath    *path;
	char	   *text;
	char	   *error;

	if (!uds_value_member(stream, word, strlen(word), &member))
		return NULL;
	if (member.type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of the manifest's stream must be a jsonpath", word)));
	text = pnstrdup(member.val.string.val, member.val.string.len);
	path = uds_path_compile(text, &error);
	if (path == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of the manifest's stream is not valid: jsonpath \"%s\": %s",
						word, text, error)));
	return path;
}

/*
 * Compiles a stream of a manifest, in the current memory context.  Raises an
 * error that says what in it is not valid.
 */
UdsMapProgram *
uds_map_compile(Jsonb *stream)
{
	UdsMapProgram *program = palloc0(sizeof(UdsMapProgram));
	JsonbValue	root;
	JsonbValue	member;

	program->stream = (Jsonb *) palloc(VARSIZE(stream));
	memcpy(program->stream, stream, VARSIZE(stream));
	uds_value_from_jsonb(program->stream, &root);
	if (!uds_value_is_object(&root))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream of a manifest must be a JSON object")));
	program->records = compile_path(&root, "records");
	program->whole = uds_value_member(&root, "records", 7, &member) &&
		member.type == jbvString && member.val.string.len == 1;
	program->unnest = compile_path(&root, "unnest");
	program->where[0] = compile_path(&root, "where");
	program->where[1] = compile_path(&root, "source_where");
	if (!uds_value_member(&root, "options", 7, &program->options))
		program->options.type = jbvNull;
	if (uds_value_member(&root, "fields", 6, &member))
		program->fields = uds_fields_compile(&member);
	return program;
}

/* Whether a record is one to be taken. */
static bool
is_wanted(const UdsMapProgram *program, UdsPathScope *scope)
{
	for (int i = 0; i < lengthof(program->where); i++)
	{
		JsonbValue	value;

		if (program->where[i] != NULL &&
			(!uds_path_first(program->where[i], scope, &value) ||
			 value.type != jbvBool || !value.val.boolean))
			return false;
	}
	return true;
}

/* Maps what the scope's "$" is, if it is wanted. */
static void
map_item(UdsMapCall *call, UdsPathScope *scope)
{
	JsonbValue	object;

	if (!is_wanted(call->program, scope))
		return;
	if (call->program->fields == NULL)
	{
		call->results = lappend(call->results,
								scope->jsonb ? scope->jsonb : uds_value_to_jsonb(&scope->item));
		return;
	}
	uds_fields_map(call->program->fields, scope, &object);
	call->results = lappend(call->results, uds_value_to_jsonb(&object));
}

/*
 * Reads and maps one record, a UdsMapCall: its results are added, in the
 * current memory context.  Raises whatever is wrong with it; the scope's
 * "field" then names the target.
 */
void
uds_map_one(void *arg)
{
	UdsMapCall *call = arg;
	UdsPathScope scope = {0};
	UdsValueList items = {0};

	if (call->text != NULL)
	{
		scope.jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
														 CStringGetDatum(call->text)));
		uds_value_from_jsonb(scope.jsonb, &call->value);
	}
	call->is_json = true;
	/* of a page that is a list, the page may be the record */
	if (call->program->unnest == NULL && !call->program->whole &&
		!uds_value_is_object(&call->value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("record is not a JSON object")));
	call->scope.value = call->value;
	call->scope.context = call->context;
	if (call->program->options.type != jbvNull)
		call->scope.options = &call->program->options;
	scope.record = &call->scope;
	scope.item = call->value;
	if (call->program->unnest == NULL)
	{
		map_item(call, &scope);
		return;
	}
	(void) uds_path_all(call->program->unnest, &scope, &items);
	for (int i = 0; i < items.count; i++)
	{
		UdsPathScope inner = {0};

		inner.record = &call->scope;
		inner.item = items.items[i];
		map_item(call, &inner);
	}
}
