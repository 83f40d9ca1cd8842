/*-------------------------------------------------------------------------
 *
 * sources.c
 *		uds_create_source(), uds_alter_source(), uds_drop_source().
 *
 * Owns uds.source_settings; writes uds.source_secrets.  Runs in backends, in
 * the caller's transaction, its tables accessed as the extension's owner.
 * Takes row locks on the source; dropping with its data deletes target rows
 * as the source's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "catalog/catalog.h"
#include "uds.h"

/* positions of the arguments; those after TYPE are optional */
enum
{
	ARG_NAME, ARG_TYPE, ARG_OPTIONS, ARG_TITLE, ARG_ENABLED, ARG_MATCH_KEYS,
	ARG_ON_DELETED, ARG_ON_MISSING, ARG_GUARD_PERCENT, ARG_GUARD_MIN,
	ARG_PRIORITY, ARG_COLUMNS, ARGS
};

static const Oid arg_types[ARGS] = {
	TEXTOID, TEXTOID, JSONBOID, TEXTOID, BOOLOID, TEXTARRAYOID,
	TEXTOID, TEXTOID, NUMERICOID, INT4OID, INT4OID, TEXTARRAYOID
};

/*
 * A secret that a restore has left without a value is null, and stays known.
 */
static const char *const find_sql =
"SELECT id, owner, type,"
"       options || coalesce((SELECT jsonb_object_agg(n.name, x.value)"
"                            FROM unnest(s.secrets) AS n (name)"
"                            LEFT JOIN uds.source_secrets x"
"                              ON x.source_id = s.id AND x.name = n.name), '{}')"
"  FROM uds.source_settings s"
" WHERE name = $1"
"   FOR UPDATE";

/*
 * A null removes a key, and a secret given back as it was shown stays.
 */
static const char *const merge_options_sql =
"SELECT coalesce(jsonb_object_agg(o.key, o.value), '{}')"
"  FROM (SELECT key, value"
"          FROM jsonb_each($1)"
"         WHERE NOT $2 ? key"
"        UNION ALL"
"        SELECT key, CASE WHEN value = '\"" UDS_REDACTED "\"' AND $1 ? key"
"                         THEN $1 -> key ELSE value END"
"          FROM jsonb_each($2)"
"         WHERE jsonb_typeof(value) <> 'null') AS o";

static const char *const insert_sql =
"INSERT INTO uds.source_settings"
"       (name, type, options, title, enabled, match_keys, on_deleted, on_missing,"
"        guard_percent, guard_min, priority, columns, owner, secrets, armed_in)"
"VALUES ($1, $2, $3 - $14::text[], $4, coalesce($5, true), coalesce($6, '{}'),"
"        coalesce($7, 'delete'), coalesce($8, 'disable'), coalesce($9, 20),"
"        coalesce($10, 10), coalesce($11, 100), nullif($12, '{*}'), $13, $14,"
"        (SELECT id FROM uds.installation))"
"RETURNING id";

static const char *const update_sql =
"UPDATE uds.source_settings"
"   SET type = coalesce($2, type),"
"       options = coalesce($3 - $14::text[], options),"
"       secrets = coalesce($14, secrets),"
"       title = coalesce($4, title),"
"       enabled = coalesce($5, enabled),"
"       match_keys = coalesce($6, match_keys),"
"       on_deleted = coalesce($7, on_deleted),"
"       on_missing = coalesce($8, on_missing),"
"       guard_percent = coalesce($9, guard_percent),"
"       guard_min = coalesce($10, guard_min),"
"       priority = coalesce($11, priority),"
"       columns = nullif(coalesce($12, columns), '{*}'),"
"       owner = $13,"
"       updated_at = now()"
" WHERE name = $1"
" RETURNING id";

static const char *const store_secrets_sql =
"WITH given AS"
"     (SELECT key, value"
"        FROM jsonb_each_text($2)"
"       WHERE key = ANY ($3::text[]) AND value IS NOT NULL),"
"     gone AS"
"     (DELETE FROM uds.source_secrets"
"       WHERE source_id = $1"
"         AND name NOT IN (SELECT key FROM given))"
"INSERT INTO uds.source_secrets (source_id, name, value)"
"SELECT $1, key, value FROM given "
"ON CONFLICT (source_id, name) DO UPDATE SET value = excluded.value";

/* Rows that records of this source created and no live record of another backs. */
#define OWN_ROWS(resource) \
"SELECT l.resource_pk::bigint" \
"  FROM uds.record_resources l" \
"  JOIN uds.records r ON r.id = l.record_id" \
" WHERE l.resource = '" resource "' AND r.source_id = $1 AND l.created" \
"   AND NOT EXISTS (SELECT 1" \
"                     FROM uds.record_resources o" \
"                     JOIN uds.records q ON q.id = o.record_id" \
"                    WHERE o.resource = l.resource" \
"                      AND o.resource_pk = l.resource_pk" \
"                      AND q.source_id <> $1 AND NOT q.deleted)"

PG_FUNCTION_INFO_V1(uds_create_source);
PG_FUNCTION_INFO_V1(uds_alter_source);
PG_FUNCTION_INFO_V1(uds_drop_source);

/* ERROR unless the value is one of those listed; NULL passes. */
static void
check_word(FunctionCallInfo fcinfo, int arg, const char *what)
{
	char	   *value;

	if (PG_ARGISNULL(arg))
		return;
	value = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	if (strcmp(value, "delete") != 0 && strcmp(value, "disable") != 0 &&
		strcmp(value, "keep") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s \"%s\"", what, value),
				 errhint("Use \"delete\", \"disable\" or \"keep\".")));
}

/* ERROR if a list names anything the query, with the list as $1, returns. */
static void
check_list(FunctionCallInfo fcinfo, int arg, const char *sql, const char *what,
		   const char *hint)
{
	Oid			types[1] = {TEXTARRAYOID};
	Datum		values[1];

	if (PG_ARGISNULL(arg))
		return;
	values[0] = PG_GETARG_DATUM(arg);
	if (uds_spi_exec(sql, 1, types, values, NULL) > 0)
	{
		char	   *bad = uds_spi_text(0, 1);

		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s \"%s\"", what, bad ? bad : "NULL"),
				 errhint("%s", hint)));
	}
}

/* Checks what does not depend on the type of the source. */
static void
check_policies(FunctionCallInfo fcinfo)
{
	check_word(fcinfo, ARG_ON_DELETED, "on_deleted");
	check_word(fcinfo, ARG_ON_MISSING, "on_missing");
	check_list(fcinfo, ARG_MATCH_KEYS,
			   "SELECT k FROM unnest($1) AS k"
			   " WHERE k IS NULL OR k NOT IN ('username', 'email', 'phone')",
			   "match key", "Use \"username\", \"email\" or \"phone\".");
	check_list(fcinfo, ARG_COLUMNS,
			   "SELECT k FROM unnest($1) AS k"
			   " WHERE $1 <> '{*}'"
			   "   AND (k IN ('id', 'protected', 'created_at', 'updated_at', 'main_department_id')"
			   "        OR NOT EXISTS (SELECT 1 FROM pg_attribute a"
			   "                        WHERE a.attrelid IN ('uds.users'::regclass, 'uds.departments'::regclass)"
			   "                          AND a.attname = k AND a.attnum > 0"
			   "                          AND NOT a.attisdropped AND a.attgenerated = ''))",
			   "column",
			   "Name columns of uds.users or uds.departments that a source may set; '{*}' lifts the limit.");
	if (!PG_ARGISNULL(ARG_GUARD_MIN) && PG_GETARG_INT32(ARG_GUARD_MIN) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid guard_min %d", PG_GETARG_INT32(ARG_GUARD_MIN)),
				 errhint("Give the number of rows below which no task is blocked, 0 or more.")));
	if (!PG_ARGISNULL(ARG_GUARD_PERCENT))
	{
		double		percent = DatumGetFloat8(DirectFunctionCall1(numeric_float8,
																 PG_GETARG_DATUM(ARG_GUARD_PERCENT)));

		if (!(percent >= 0 && percent <= 100))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid guard_percent %g", percent),
					 errhint("Give a share from 0 to 100.")));
	}
}

/* Those names of "secrets" (text[]) that have a plain value in "options". */
static Datum
secrets_by_value(Datum options, Datum secrets)
{
	Oid			types[2] = {JSONBOID, TEXTARRAYOID};
	Datum		values[2] = {options, secrets};
	bool		isnull;

	return uds_spi_value("SELECT coalesce(array_agg(key), '{}')"
						 "  FROM jsonb_each($1)"
						 " WHERE key = ANY ($2) AND jsonb_typeof(value) <> 'object'",
						 2, types, values, NULL, &isnull);
}

/*
 * Finds a source by name and locks it; returns its id, and palloc'd its owner
 * and type and, unless NULL, its options with their secrets.  ERROR if there is
 * none, or it belongs to somebody else than the caller.
 */
int64
uds_source_find(const char *name, Oid caller, char **owner, char **type, Datum *options)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	Oid			owner_oid;
	bool		isnull;

	if (uds_spi_exec(find_sql, 1, types, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source \"%s\" does not exist", name),
				 errhint("SELECT name FROM uds.sources lists the sources.")));
	*owner = uds_spi_text(0, 2);
	*type = uds_spi_text(0, 3);
	if (options != NULL)
		*options = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4,
								 &isnull);

	owner_oid = get_role_oid(*owner, true);
	if (OidIsValid(owner_oid) ? !has_privs_of_role(caller, owner_oid) : !superuser_arg(caller))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of source \"%s\"", name)));
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * Lays the options given over those stored, and checks them.  *secrets are
 * the names of those that are secrets given by value, as text[].
 */
static Datum
merge_options(FunctionCallInfo fcinfo, const char *name, const char *type,
			  Oid caller, Oid owner, Datum stored, Datum *secrets)
{
	Oid			types[2] = {JSONBOID, JSONBOID};
	Datum		values[2] = {stored, DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"))};
	Datum		merged;
	bool		isnull;

	if (!PG_ARGISNULL(ARG_OPTIONS))
		values[1] = PG_GETARG_DATUM(ARG_OPTIONS);
	if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(values[1])))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of source \"%s\" are not a JSON object", name),
				 errhint("Write them as '{\"option\": \"value\"}'.")));
	merged = uds_spi_value(merge_options_sql, 2, types, values, NULL, &isnull);
	uds_secrets_check_options(name, merged, caller);
	*secrets = secrets_by_value(merged,
								uds_source_type_check_options(name, type, owner, merged));
	return merged;
}

/*
 * What creating and altering share: checks all that was given, then stores it.
 * Returns the id.  Runs as the extension's owner, with SPI connected.
 */
static int64
store_source(FunctionCallInfo fcinfo, Oid caller, bool create)
{
	Oid			types[ARGS + 2];
	Datum		values[ARGS + 2];
	char		nulls[ARGS + 3];
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(ARG_NAME));
	char	   *owner = GetUserNameFromId(caller, false);
	char	   *type;
	Datum		stored = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	Datum		given = (Datum) 0;
	Datum		secrets = (Datum) 0;
	bool		options_given = create || !PG_ARGISNULL(ARG_OPTIONS) ||
		!PG_ARGISNULL(ARG_TYPE);
	bool		isnull;
	Datum		id;

	if (!create)
	{
		uds_source_find(name, caller, &owner, &type, &stored);
		if (!OidIsValid(get_role_oid(owner, true)))
			owner = GetUserNameFromId(caller, false);
	}
	if (!PG_ARGISNULL(ARG_TYPE))
		type = text_to_cstring(PG_GETARG_TEXT_PP(ARG_TYPE));
	check_policies(fcinfo);

	/* else they stay, even if they lack a secret since a restore */
	if (options_given)
		given = merge_options(fcinfo, name, type, caller, get_role_oid(owner, false),
							  stored, &secrets);

	for (int i = 0; i < ARGS; i++)
	{
		types[i] = arg_types[i];
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
		values[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
	}
	values[ARG_OPTIONS] = given;
	nulls[ARG_OPTIONS] = options_given ? ' ' : 'n';
	types[ARGS] = NAMEOID;
	values[ARGS] = DirectFunctionCall1(namein, CStringGetDatum(owner));
	types[ARGS + 1] = TEXTARRAYOID;
	values[ARGS + 1] = secrets;
	nulls[ARGS] = ' ';
	nulls[ARGS + 1] = options_given ? ' ' : 'n';
	nulls[ARGS + 2] = '\0';
	id = uds_spi_value(create ? insert_sql : update_sql, ARGS + 2, types, values,
					   nulls, &isnull);

	if (!options_given)
		return DatumGetInt64(id);
	types[0] = INT8OID;
	values[0] = id;
	types[1] = JSONBOID;
	values[1] = given;
	types[2] = TEXTARRAYOID;
	values[2] = secrets;
	uds_spi_exec(store_secrets_sql, 3, types, values, NULL);
	return DatumGetInt64(id);
}

/* ERROR if the argument is NULL. */
static void
require_argument(FunctionCallInfo fcinfo, int arg, const char *what)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of a source must not be null", what)));
}

/*
 * uds_create_source(name, type, options, title, …) → bigint
 */
Datum
uds_create_source(PG_FUNCTION_ARGS)
{
	UdsIdentity saved;
	ErrorContextCallback hidden;
	Oid			caller = GetUserId();
	Oid			types[1] = {TEXTOID};
	Datum		name;
	int64		id;

	uds_secrets_hide_statement(&hidden, "uds_create_source",
							   !PG_ARGISNULL(ARG_OPTIONS));
	require_argument(fcinfo, ARG_NAME, "name");
	require_argument(fcinfo, ARG_TYPE, "type");
	name = PG_GETARG_DATUM(ARG_NAME);

	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	if (uds_spi_exec("SELECT FROM uds.source_settings WHERE name = $1",
					 1, types, &name, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("source \"%s\" already exists",
						TextDatumGetCString(name)),
				 errhint("Change it with uds_alter_source().")));
	if (uds_spi_exec("SELECT WHERE $1 ~ '^[A-Za-z][A-Za-z0-9_.-]{0,62}$'",
					 1, types, &name, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a source: \"%s\"",
						TextDatumGetCString(name)),
				 errhint("Use a letter, then up to 62 letters, digits, \"_\", \".\" or \"-\".")));
	id = store_source(fcinfo, caller, true);
	SPI_finish();
	uds_unbecome(&saved);
	uds_secrets_show_statement(&hidden);
	PG_RETURN_INT64(id);
}

/*
 * uds_alter_source(name, type, options, title, …) → void
 */
Datum
uds_alter_source(PG_FUNCTION_ARGS)
{
	UdsIdentity saved;
	ErrorContextCallback hidden;
	Oid			caller = GetUserId();

	uds_secrets_hide_statement(&hidden, "uds_alter_source",
							   !PG_ARGISNULL(ARG_OPTIONS));
	require_argument(fcinfo, ARG_NAME, "name");
	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	store_source(fcinfo, caller, false);
	SPI_finish();
	uds_unbecome(&saved);
	uds_secrets_show_statement(&hidden);
	PG_RETURN_VOID();
}

/* Deletes the rows that only this source stands behind, as "role". */
static void
delete_own_rows(int64 id, Oid role)
{
	static const char *const find[] = {OWN_ROWS("users"), OWN_ROWS("departments")};
	static const char *const delete[] = {
		"DELETE FROM uds.users WHERE id = ANY ($1)",
		"DELETE FROM uds.departments WHERE id = ANY ($1)"
	};

	for (int i = 0; i < lengthof(find); i++)
	{
		Oid			types[1] = {INT8OID};
		Datum		values[1] = {Int64GetDatum(id)};
		ArrayBuildState *rows = initArrayResult(INT8OID, CurrentMemoryContext, false);
		UdsIdentity saved;
		uint64		n = uds_spi_exec(find[i], 1, types, values, NULL);

		for (uint64 row = 0; row < n; row++)
		{
			bool		isnull;

			accumArrayResult(rows, SPI_getbinval(SPI_tuptable->vals[row],
												 SPI_tuptable->tupdesc, 1, &isnull),
							 false, INT8OID, CurrentMemoryContext);
		}
		types[0] = INT8ARRAYOID;
		values[0] = makeArrayResult(rows, CurrentMemoryContext);
		uds_become(role, &saved);
		uds_spi_exec(delete[i], 1, types, values, NULL);
		uds_unbecome(&saved);
	}
}

/*
 * uds_drop_source(name, keep_data) → void
 *
 * Waiting tasks of the source end canceled; one that runs finds it gone when
 * it comes to apply and writes nothing.
 */
Datum
uds_drop_source(PG_FUNCTION_ARGS)
{
	UdsIdentity saved;
	UdsIdentity extension;
	Oid			caller = GetUserId();
	Oid			types[1] = {INT8OID};
	Datum		values[1];
	char	   *owner;
	char	   *type;
	int64		id;
	Oid			role;

	require_argument(fcinfo, 0, "name");
	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	id = uds_source_find(text_to_cstring(PG_GETARG_TEXT_PP(0)), caller, &owner, &type,
					 NULL);
	values[0] = Int64GetDatum(id);
	uds_spi_exec("UPDATE uds.tasks"
				 "   SET status = 'canceled', finished_at = clock_timestamp(),"
				 "       message = 'the source was dropped'"
				 " WHERE source_id = $1 AND status IN ('init', 'blocked')",
				 1, types, values, NULL);

	/* target tables may carry triggers: never as the extension's owner */
	role = get_role_oid(owner, true);
	if (!OidIsValid(role))
		role = caller;
	uds_constraints_check_targets_now(role);
	if (!PG_ARGISNULL(1) && !PG_GETARG_BOOL(1))
		delete_own_rows(id, role);
	uds_become(role, &extension);
	uds_spi_exec("UPDATE uds.department_members SET source_id = NULL WHERE source_id = $1",
				 1, types, values, NULL);
	uds_unbecome(&extension);

	uds_spi_exec("DELETE FROM uds.record_resources l"
				 " USING uds.records r"
				 " WHERE r.id = l.record_id AND r.source_id = $1",
				 1, types, values, NULL);
	uds_spi_exec("DELETE FROM uds.pending_references WHERE source_id = $1",
				 1, types, values, NULL);
	uds_spi_exec("DELETE FROM uds.record_history h"
				 " USING uds.tasks t"
				 " WHERE t.id = h.task_id AND t.source_id = $1",
				 1, types, values, NULL);
	uds_spi_exec("DELETE FROM uds.records WHERE source_id = $1",
				 1, types, values, NULL);
	uds_spi_exec("DELETE FROM uds.source_settings WHERE id = $1",
				 1, types, values, NULL);
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_VOID();
}
