/*-------------------------------------------------------------------------
 *
 * source_types.c
 *		uds_register_source_type(), uds_drop_source_type(), and the options of
 *		a source held against its type.
 *
 * Owns uds.source_types.  Runs in backends, in the caller's transaction, its
 * tables accessed as the extension's owner.  Takes row locks on the type.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "catalog/catalog.h"
#include "connector/expression.h"
#include "connector/path.h"
#include "connector/value.h"
#include "fetch/ldap.h"
#include "fetch/query.h"

PG_FUNCTION_INFO_V1(uds_register_source_type);
PG_FUNCTION_INFO_V1(uds_drop_source_type);

#define MANIFEST_HINT "doc/manifest.md says what a manifest may hold."

/* $1 name, $2 function or 0, $3 the caller */
static const char *const problem_sql =
"SELECT q.sqlstate, q.message, q.hint"
"  FROM (SELECT) AS one"
"  LEFT JOIN pg_proc p ON p.oid = $2"
" CROSS JOIN LATERAL"
"       (VALUES (1, $1 !~ '^[a-z][a-z0-9_]{0,62}$', '42602',"
"                format('invalid name of a source type: \"%s\"', $1),"
"                'Use a lower case letter, then up to 62 letters, digits or \"_\".'),"
"               (2, EXISTS (SELECT 1 FROM uds.source_types t WHERE t.name = $1 AND t.builtin),"
"                '42939', format('source type \"%s\" is built in', $1), 'Choose another name.'),"
"               (3, p.prokind <> 'f' OR NOT p.proretset OR p.pronargs <> 2"
"                   OR p.proargtypes[0] <> 'jsonb'::regtype OR p.proargtypes[1] <> 'jsonb'::regtype"
"                   OR p.oid IS NOT NULL"
"                      AND ARRAY(SELECT a.type"
"                                  FROM unnest(p.proallargtypes, p.proargmodes) WITH ORDINALITY AS a (type, mode, ord)"
"                                 WHERE a.mode IN ('o', 't') ORDER BY a.ord)"
"                          <> '{text,jsonb,jsonb}'::regtype[]::oid[], '42P13',"
"                format('function %s cannot read a source: it has not the form that is called', p.oid::regprocedure),"
"                'Write f(options jsonb, state jsonb) RETURNS TABLE (data_type text, record jsonb, state jsonb).'),"
"               (4, NOT has_function_privilege($3, p.oid, 'EXECUTE'), '42501',"
"                format('permission denied for function %s', p.oid::regprocedure), NULL))"
"       AS q (ord, holds, sqlstate, message, hint)"
" WHERE q.holds"
" ORDER BY q.ord"
" LIMIT 1";

static const char *const store_sql =
"INSERT INTO uds.source_types AS t (name, title, manifest, pull)"
"VALUES ($1, coalesce($4, $2 ->> 'title', $1), $2, $3::oid::regprocedure::text)"
"ON CONFLICT (name) DO UPDATE"
"   SET title = excluded.title, manifest = excluded.manifest, pull = excluded.pull";

static const char *const drop_problem_sql =
"SELECT q.sqlstate, q.message, q.hint"
"  FROM (SELECT) AS one"
"  LEFT JOIN uds.source_types t ON t.name = $1"
" CROSS JOIN LATERAL"
"       (VALUES (1, t.name IS NULL, '42704', format('source type \"%s\" does not exist', $1),"
"                'SELECT name FROM uds.source_types lists the types.'),"
"               (2, t.builtin, '42939', format('source type \"%s\" is built in', $1), NULL),"
"               (3, EXISTS (SELECT 1 FROM uds.source_settings s WHERE s.type = $1), '2BP01',"
"                format('source type \"%s\" is in use', $1),"
"                format('Drop its sources first, with uds_drop_source(): %s.',"
"                       (SELECT string_agg(s.name, ', ' ORDER BY s.name)"
"                          FROM uds.source_settings s WHERE s.type = $1))))"
"       AS q (ord, holds, sqlstate, message, hint)"
" WHERE q.holds"
" ORDER BY q.ord"
" LIMIT 1";

/* Every jsonpath in a manifest that PostgreSQL itself evaluates, and where it is. */
static const char *const jsonpaths_sql =
"SELECT format('$.streams.%s.%s', e.key, v.place), v.path"
"  FROM jsonb_each($1 -> 'streams') AS e"
" CROSS JOIN LATERAL"
"       (SELECT 'for_each.value' AS place, e.value #>> '{for_each,value}' AS path"
"         UNION ALL"
"        SELECT format('for_each.from[%s].value', f.ord - 1), f.value ->> 'value'"
"          FROM jsonb_array_elements(CASE jsonb_typeof(e.value #> '{for_each,from}')"
"                                         WHEN 'array' THEN e.value #> '{for_each,from}' ELSE '[]' END)"
"               WITH ORDINALITY AS f (value, ord)"
"         UNION ALL"
"        SELECT format('state.%s.max', s.key), s.value ->> 'max'"
"          FROM jsonb_each(CASE jsonb_typeof(e.value -> 'state')"
"                               WHEN 'object' THEN e.value -> 'state' ELSE '{}' END) AS s) AS v"
" WHERE v.path IS NOT NULL";

/*
 * What a function is given as a secret; it has no manifest to say so.  $1: the
 * options.
 */
static const char *const secret_names_sql =
"SELECT coalesce(array_agg(key), '{}')"
"  FROM jsonb_object_keys($1) AS key"
" WHERE key ~ '(^|_)(secret|password|token|key)$'";

/* For uds_value_try(). */
static void
compile_fields(void *arg)
{
	(void) uds_fields_compile(arg);
}

static void
read_jsonpath(void *arg)
{
	(void) DirectFunctionCall1(jsonpath_in, CStringGetDatum(arg));
}

/* What is wrong with an object of fields, or NULL. */
static char *
check_fields(JsonbValue *fields)
{
	int			sqlstate;

	return uds_value_try(compile_fields, fields, &sqlstate);
}

/* What is wrong with a text member that is a jsonpath over records, or NULL. */
static char *
check_path(const JsonbValue *object, const char *word)
{
	JsonbValue	member;
	char	   *text;
	char	   *error;

	if (!uds_value_member(object, word, strlen(word), &member))
		return NULL;
	if (member.type != jbvString)
		return pstrdup("must be a jsonpath");
	text = pnstrdup(member.val.string.val, member.val.string.len);
	if (uds_path_compile(text, &error) == NULL)
		return psprintf("jsonpath \"%s\": %s", text, error);
	return NULL;
}

/*
 * Compiles all that the streams of a manifest (jsonb) say of records.  Returns
 * NULL, or what is wrong and where.
 */
static char *
check_streams(Datum manifest)
{
	static const char *const paths[] = {"records", "unnest", "where"};
	Oid			types[1] = {JSONBOID};
	uint64		n;

	n = uds_spi_exec(jsonpaths_sql, 1, types, &manifest, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		int			sqlstate;
		char	   *problem = uds_value_try(read_jsonpath, uds_spi_text(i, 2), &sqlstate);

		if (problem != NULL)
			return psprintf("%s: %s", uds_spi_text(i, 1), problem);
	}

	n = uds_spi_exec("SELECT key, value FROM jsonb_each($1 -> 'streams')",
					 1, types, &manifest, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		char	   *name = uds_spi_text(i, 1);
		bool		isnull;
		JsonbValue	stream;
		JsonbValue	fields;
		char	   *problem;

		uds_value_from_jsonb(DatumGetJsonbP(SPI_getbinval(SPI_tuptable->vals[i],
														  SPI_tuptable->tupdesc,
														  2, &isnull)), &stream);
		for (int k = 0; k < lengthof(paths); k++)
		{
			problem = check_path(&stream, paths[k]);
			if (problem != NULL)
				return psprintf("$.streams.%s.%s: %s", name, paths[k], problem);
		}
		if (!uds_value_member(&stream, "fields", 6, &fields))
			continue;
		problem = check_fields(&fields);
		if (problem != NULL)
			return psprintf("$.streams.%s.fields: %s", name, problem);
	}
	return NULL;
}

/*
 * Parses and compiles a manifest (jsonb).  ERROR, which names the place, if it
 * is not valid; "whose" tells whose it is.
 */
static UdsManifest *
require_manifest(Datum manifest, const char *whose)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(jsonb_out, manifest));
	char	   *error = NULL;
	UdsManifest *parsed = uds_manifest_parse(text, &error);

	if (parsed != NULL)
		error = check_streams(manifest);
	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("manifest of %s is invalid: %s", whose, error),
				 errhint(MANIFEST_HINT)));
	return parsed;
}

static void
refuse_options(const char *name, const char *type, const char *problem, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid options of source \"%s\" of type \"%s\": %s",
					name, type, problem),
			 hint ? errhint("%s", hint) : 0));
}

/* Checks what a source may add to the fields of its type; its types are right. */
static void
check_own_options(const char *name, const char *type, Datum options)
{
	static const char *const fields[] = {"user_fields", "department_fields"};
	static const char *const conditions[] = {"user_where", "department_where"};
	JsonbValue	root;
	JsonbValue	member;
	char	   *problem;

	uds_value_from_jsonb(DatumGetJsonbP(options), &root);
	for (int i = 0; i < lengthof(fields); i++)
	{
		if (!uds_value_member(&root, fields[i], strlen(fields[i]), &member))
			continue;
		problem = check_fields(&member);
		if (problem != NULL)
			refuse_options(name, type, psprintf("option \"%s\": %s", fields[i], problem),
						   MANIFEST_HINT);
	}
	for (int i = 0; i < lengthof(conditions); i++)
	{
		problem = check_path(&root, conditions[i]);
		if (problem != NULL)
			refuse_options(name, type, psprintf("option \"%s\": %s", conditions[i], problem),
						   "Give a jsonpath predicate over the record as the service sends it.");
	}
}

/* The manifest that a source of type http brings in its options, as jsonb. */
static Datum
own_manifest(const char *name, Datum options)
{
	Oid			types[1] = {JSONBOID};
	bool		isnull;
	Datum		manifest = uds_spi_value("SELECT $1 -> 'manifest'", 1, types, &options,
										 NULL, &isnull);

	if (isnull || !JB_ROOT_IS_OBJECT(DatumGetJsonbP(manifest)))
		refuse_options(name, "http",
					   isnull ? "required option \"manifest\" is missing" :
					   "option \"manifest\" must be a JSON object", MANIFEST_HINT);
	return manifest;
}

/* Names of the options that are secrets where a manifest says which. */
static Datum
check_by_manifest(const char *name, const char *type, const UdsManifest *manifest,
				  Datum options)
{
	Oid			types[2] = {JSONBOID, TEXTOID};
	Datum		values[2] = {options, CStringGetTextDatum(type)};
	ArrayBuildState *secrets = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	char	   *hint = NULL;
	char	   *problem;
	ListCell   *lc;

	uds_spi_exec("SELECT ($1 - CASE $2 WHEN 'http' THEN 'manifest' ELSE '' END)::text",
				 2, types, values, NULL);
	problem = uds_manifest_check_options(manifest, uds_spi_text(0, 1), &hint);
	if (problem == NULL && manifest->native != NULL)
		problem = uds_ldap_check_options(manifest, uds_spi_text(0, 1));
	if (problem != NULL)
		refuse_options(name, type, problem, hint);
	check_own_options(name, type, options);
	foreach(lc, uds_manifest_secrets(manifest))
		accumArrayResult(secrets, CStringGetTextDatum((char *) lfirst(lc)), false,
						 TEXTOID, CurrentMemoryContext);
	return makeArrayResult(secrets, CurrentMemoryContext);
}

/*
 * Checks the options of a source (jsonb, an object) against its type, and
 * returns the names of those that are secrets as text[].  "owner" is the role
 * whose rights queries run with.  ERROR with a hint if the type is unknown or the
 * options do not fit.  With SPI connected.
 */
Datum
uds_source_type_check_options(const char *name, const char *type, Oid owner,
							  Datum options)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(type)};
	bool		is_http = strcmp(type, "http") == 0;
	bool		by_function;
	bool		no_manifest;
	bool		isnull;
	Datum		manifest;

	if (uds_spi_exec("SELECT manifest, pull IS NOT NULL"
					 "  FROM uds.source_types WHERE name = $1",
					 1, types, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source type \"%s\" does not exist", type),
				 errhint("SELECT name FROM uds.source_types lists the types.")));
	manifest = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &no_manifest);
	by_function = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 2, &isnull));
	if (is_http)
		manifest = own_manifest(name, options);
	if (is_http || !no_manifest)
		return check_by_manifest(name, type,
								 require_manifest(manifest,
												  psprintf(is_http ? "source \"%s\"" : "source type \"%s\"",
														   is_http ? name : type)),
								 options);

	types[0] = JSONBOID;
	values[0] = options;
	if (by_function)
		return uds_spi_value(secret_names_sql, 1, types, values, NULL, &isnull);
	if (strcmp(type, UDS_TYPE_SQL) == 0)
		uds_query_check_options(name, owner,
								DatumGetCString(DirectFunctionCall1(jsonb_out, options)));
	else if (JB_ROOT_COUNT(DatumGetJsonbP(options)) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source \"%s\" of type \"%s\" takes no options", name, type),
				 errhint("Leave options out.")));
	return PointerGetDatum(construct_empty_array(TEXTOID));
}

/*
 * uds_register_source_type(name, manifest, pull, title) → void
 *
 * Registering a name again replaces it, unless it is built in.
 */
Datum
uds_register_source_type(PG_FUNCTION_ARGS)
{
	Oid			types[4] = {TEXTOID, JSONBOID, OIDOID, TEXTOID};
	Datum		values[4] = {0};
	char		nulls[5] = "    ";
	Oid			problem_types[3] = {TEXTOID, OIDOID, OIDOID};
	Datum		problem[3];
	UdsIdentity saved;
	char	   *whose;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of a source type must not be null")));
	for (int i = 0; i < lengthof(values); i++)
	{
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
		values[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
	}
	whose = psprintf("source type \"%s\"", TextDatumGetCString(values[0]));
	if (PG_ARGISNULL(1) == PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s needs either a manifest or a function", whose),
				 errhint("Give one of the arguments \"manifest\" and \"pull\".")));

	problem[0] = values[0];
	problem[1] = values[2];
	problem[2] = ObjectIdGetDatum(GetUserId());
	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	uds_spi_raise(uds_spi_exec(problem_sql, 3, problem_types, problem, NULL));
	if (!PG_ARGISNULL(1))
		(void) require_manifest(values[1], whose);
	uds_spi_exec(store_sql, 4, types, values, nulls);
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_VOID();
}

/*
 * uds_drop_source_type(name) → void
 */
Datum
uds_drop_source_type(PG_FUNCTION_ARGS)
{
	Oid			types[1] = {TEXTOID};
	Datum		name;
	UdsIdentity saved;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of a source type must not be null")));
	name = PG_GETARG_DATUM(0);
	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	uds_spi_raise(uds_spi_exec(drop_problem_sql, 1, types, &name, NULL));
	uds_spi_exec("DELETE FROM uds.source_types WHERE name = $1", 1, types, &name, NULL);
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_VOID();
}
