/*-------------------------------------------------------------------------
 *
 * register.c
 *		uds_map_table(), uds_register_resource(), uds_drop_resource().
 *
 * Owns uds.resources.  Runs in backends, in the caller's transaction, its
 * tables accessed as the extension's owner.  Takes the database's lock on
 * reconciling, so that the list does not change under a task that applies.
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

#include "reconcile/reconcile.h"
#include "reconcile/stage.h"

PG_FUNCTION_INFO_V1(uds_map_table);
PG_FUNCTION_INFO_V1(uds_register_resource);
PG_FUNCTION_INFO_V1(uds_drop_resource);

/* $1 name, $2 types accepted, $3 names that come before */
static const char *const general_problem_sql =
"WITH RECURSIVE above AS"
"     (SELECT unnest($3) AS name"
"       UNION"
"      SELECT unnest(r.after)"
"        FROM above a"
"        JOIN uds.resources r ON r.name = a.name) "
"SELECT p.sqlstate, p.message, p.hint"
"  FROM (VALUES (1, $1 !~ '^[a-z][a-z0-9_]{0,62}$', '42602',"
"                format('invalid name of a resource: \"%s\"', $1),"
"                'Use a lower case letter, then up to 62 letters, digits or \"_\".'),"
"               (2, $1 = 'members' OR EXISTS (SELECT 1 FROM uds.resources r WHERE r.name = $1 AND r.builtin),"
"                '42939', format('resource \"%s\" is built in', $1), 'Choose another name.'),"
"               (3, $2 = '{}' OR array_position($2, NULL) IS NOT NULL OR NOT $2 <@ '{user,department}', '22023',"
"                CASE WHEN $2 = '{}' THEN format('resource \"%s\" accepts no records', $1)"
"                     ELSE format('resource \"%s\" cannot accept records of type \"%s\"', $1,"
"                       (SELECT string_agg(t, '\", \"') FROM unnest($2) AS t"
"                         WHERE t IS DISTINCT FROM 'user' AND t IS DISTINCT FROM 'department')) END,"
"                'Types of records are \"user\" and \"department\".'),"
"               (4, EXISTS (SELECT 1 FROM unnest($3) AS a"
"                            WHERE NOT EXISTS (SELECT 1 FROM uds.resources r WHERE r.name = a)), '42704',"
"                format('resource \"%s\", which \"%s\" shall come after, does not exist',"
"                       (SELECT a FROM unnest($3) AS a"
"                         WHERE NOT EXISTS (SELECT 1 FROM uds.resources r WHERE r.name = a) LIMIT 1), $1),"
"                'SELECT name FROM uds.resources lists the resources. Register that one first.'),"
"               (5, EXISTS (SELECT 1 FROM above a WHERE a.name = $1), '22023',"
"                format('resource \"%s\" would come after itself', $1),"
"                'Two resources cannot each come after the other; see column after of uds.resources.'))"
"       AS p (ord, holds, sqlstate, message, hint)"
" WHERE p.holds"
" ORDER BY p.ord"
" LIMIT 1";

/* $1 table, $2 key, $3 columns, $4 whether the caller may map any table, $5 the caller */
static const char *const mapping_problem_sql =
"SELECT p.sqlstate, p.message, p.hint"
"  FROM pg_class c"
" CROSS JOIN LATERAL"
"       (SELECT (SELECT min(k) FROM jsonb_object_keys($3) AS k"
"                 WHERE NOT EXISTS (SELECT 1 FROM pg_attribute a"
"                                    WHERE a.attrelid = c.oid AND a.attname = k"
"                                      AND a.attnum > 0 AND NOT a.attisdropped)) AS unknown,"
"               (SELECT min(a.attname) FROM pg_attribute a"
"                 WHERE a.attrelid = c.oid AND $3 ? a.attname::text AND a.attnum > 0"
"                   AND (a.attgenerated <> '' OR a.attidentity <> '')) AS generated) AS f"
"  LEFT JOIN pg_attribute key ON key.attrelid = c.oid AND key.attname = $2"
"                            AND key.attnum > 0 AND NOT key.attisdropped"
"  LEFT JOIN pg_type t ON t.oid = key.atttypid"
" CROSS JOIN LATERAL"
"       (VALUES (1, c.relkind NOT IN ('r', 'p') OR c.relpersistence = 't', '42809',"
"                format('%s is not a table that can be mapped', c.oid::regclass),"
"                'Name an ordinary or a partitioned table that is not temporary.'),"
"               (2, c.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)"
"                   OR EXISTS (SELECT 1 FROM pg_depend d"
"                               WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'"
"                                 AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'uds')), '42809',"
"                format('%s cannot be mapped', c.oid::regclass),"
"                'It belongs to the system, or to uds itself. Columns added to uds.users and uds.departments are filled as they are.'),"
"               (3, NOT $4 AND NOT pg_has_role($5, c.relowner, 'USAGE'), '42501',"
"                format('must be owner of table %s', c.oid::regclass), 'Have its owner map it.'),"
"               (4, f.unknown IS NOT NULL, '42703',"
"                format('column \"%s\" of table %s does not exist', f.unknown, c.oid::regclass),"
"                'Give columns as {\"column\": \"expression\", …}.'),"
"               (5, f.generated IS NOT NULL, '428C9',"
"                format('column \"%s\" of table %s is generated and cannot be filled', f.generated, c.oid::regclass),"
"                'Leave it out.'),"
"               (6, key.attname IS NULL, '42703',"
"                format('key \"%s\" is not a column of table %s', $2, c.oid::regclass),"
"                'Name the column that tells its rows apart.'),"
"               (7, NOT coalesce(key.attnotnull, false)"
"                   OR NOT EXISTS (SELECT 1 FROM pg_index i"
"                                   WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid"
"                                     AND i.indpred IS NULL AND i.indexprs IS NULL"
"                                     AND i.indnkeyatts = 1 AND i.indkey[0] = key.attnum), '42830',"
"                format('key \"%s\" of table %s is not unique, or may be null', $2, c.oid::regclass),"
"                'Make it the primary key, or NOT NULL with a unique index of its own.'),"
"               (8, t.typcategory IN ('A', 'C') OR t.typname IN ('json', 'jsonb', 'xml'), '42804',"
"                format('key \"%s\" of table %s is of type %s, which cannot tell rows apart', $2, c.oid::regclass, key.atttypid::regtype),"
"                'Use a column of a scalar type.'),"
"               (9, EXISTS (SELECT 1 FROM pg_attribute a"
"                            WHERE a.attrelid = c.oid AND a.attname = 'enabled' AND $3 ? 'enabled'"
"                              AND a.atttypid <> 'boolean'::regtype), '42804',"
"                format('column \"enabled\" of table %s is not boolean', c.oid::regclass),"
"                'It is set to false when a record is disabled. Leave it out, or fill a column of another name.'))"
"       AS p (ord, holds, sqlstate, message, hint)"
" WHERE c.oid = $1 AND p.holds"
" ORDER BY p.ord"
" LIMIT 1";

/* $1 function, $2 the caller */
static const char *const function_problem_sql =
"SELECT q.sqlstate, q.message, q.hint"
"  FROM pg_proc p"
" CROSS JOIN LATERAL"
"       (VALUES (1, p.prokind <> 'f' OR NOT p.proretset OR p.pronargs <> 1"
"                   OR p.proargtypes[0] <> 'bigint'::regtype"
"                   OR ARRAY(SELECT a.type"
"                              FROM unnest(p.proallargtypes, p.proargmodes) WITH ORDINALITY AS a (type, mode, ord)"
"                             WHERE a.mode IN ('o', 't') ORDER BY a.ord)"
"                      <> '{text,text,text,jsonb,jsonb}'::regtype[]::oid[], '42P13',"
"                format('function %s cannot be registered: it has not the form that is called', p.oid::regprocedure),"
"                'Write f(task bigint) RETURNS TABLE (uid text, pk text, action text, before jsonb, after jsonb).'),"
"               (2, NOT has_function_privilege($2, p.oid, 'EXECUTE'), '42501',"
"                format('permission denied for function %s', p.oid::regprocedure), NULL))"
"       AS q (ord, holds, sqlstate, message, hint)"
" WHERE p.oid = $1 AND q.holds"
" ORDER BY q.ord"
" LIMIT 1";

/* A mapped table comes after those its foreign keys point to. */
static const char *const referenced_sql =
"WITH RECURSIVE below AS"
"     (SELECT $1 AS name"
"       UNION"
"      SELECT r.name"
"        FROM below b"
"        JOIN uds.resources r ON b.name = ANY (r.after)) "
"SELECT coalesce(array_agg(DISTINCT r.name), '{}')"
"  FROM pg_constraint f"
"  JOIN uds.resources r ON r.target = f.confrelid AND NOT r.builtin"
" WHERE f.conrelid = $2 AND f.contype = 'f'"
"   AND r.name NOT IN (SELECT b.name FROM below b)";

/* Links to another table, by another key, or of other records, mean nothing. */
static const char *const forget_links_sql =
"DELETE FROM uds.record_resources l"
" USING uds.resources r"
" WHERE l.resource = $1 AND r.name = $1"
"   AND (ROW(r.target, r.key) IS DISTINCT FROM ROW($2::regclass, $3)"
"        OR r.target IS NOT NULL AND r.accepts <> $4)";

static const char *const store_sql =
"INSERT INTO uds.resources AS r (name, accepts, target, key, columns, apply, after, level, owner)"
"VALUES ($1, $2, $3, $4, $5, $6::oid::regprocedure::text, $7, 2, $8)"
"ON CONFLICT (name) DO UPDATE"
"   SET accepts = excluded.accepts, target = excluded.target, key = excluded.key,"
"       columns = excluded.columns, apply = excluded.apply, after = excluded.after,"
"       owner = excluded.owner";

static const char *const order_sql =
"WITH RECURSIVE walk AS"
"     (SELECT r.name, 2 AS level"
"        FROM uds.resources r"
"       WHERE NOT r.builtin"
"       UNION"
"      SELECT r.name, w.level + 1"
"        FROM walk w"
"        JOIN uds.resources r ON w.name = ANY (r.after)) "
"UPDATE uds.resources r"
"   SET level = w.level"
"  FROM (SELECT name, max(level) AS level FROM walk GROUP BY name) AS w"
" WHERE w.name = r.name AND r.level <> w.level";

/* What is to be stored; 0 and NULL for what does not apply. */
typedef struct Registration
{
	Datum		name;
	Datum		accepts;		/* text[] */
	Oid			target;
	Datum		key;
	Datum		columns;		/* jsonb */
	Oid			apply;
	Datum		after;			/* text[] */
	Oid			caller;
} Registration;

static void
require_argument(FunctionCallInfo fcinfo, int arg, const char *what)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of a resource must not be null", what)));
}

/* Whether a resource is registered; ERROR if it is somebody else's. */
static bool
find_resource(Datum name, Oid caller)
{
	Oid			types[1] = {TEXTOID};
	Oid			owner;

	if (uds_spi_exec("SELECT owner FROM uds.resources WHERE name = $1 AND NOT builtin",
					 1, types, &name, NULL) == 0)
		return false;
	owner = get_role_oid(uds_spi_text(0, 1), true);
	if (OidIsValid(owner) ? !has_privs_of_role(caller, owner) : !superuser_arg(caller))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of resource \"%s\"", TextDatumGetCString(name))));
	return true;
}

/* Checks what all resources have in common, then stores one in its place. */
static void
store(const Registration *given)
{
	Oid			types[8] = {TEXTOID, TEXTARRAYOID, OIDOID, TEXTOID, JSONBOID, OIDOID,
	TEXTARRAYOID, NAMEOID};
	Datum		values[8] = {given->name, given->accepts, ObjectIdGetDatum(given->target),
		given->key, given->columns, ObjectIdGetDatum(given->apply), given->after};
	char		nulls[9] = "        ";
	Oid			general_types[3] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID};
	Datum		general[3] = {given->name, given->accepts, given->after};

	uds_spi_raise(uds_spi_exec(general_problem_sql, 3, general_types, general, NULL));
	if (OidIsValid(given->target))
		nulls[5] = 'n';
	else
		nulls[2] = nulls[3] = nulls[4] = 'n';
	values[7] = DirectFunctionCall1(namein,
									CStringGetDatum(GetUserNameFromId(given->caller, false)));
	if (find_resource(given->name, given->caller))
	{
		Oid			link_types[4] = {TEXTOID, OIDOID, TEXTOID, TEXTARRAYOID};
		Datum		links[4] = {given->name, values[2], values[3], given->accepts};
		char		link_nulls[5] = {' ', nulls[2], nulls[3], ' ', '\0'};

		uds_spi_exec(forget_links_sql, 4, link_types, links, link_nulls);
	}
	uds_spi_exec(store_sql, 8, types, values, nulls);
	uds_spi_exec(order_sql, 0, NULL, NULL, NULL);
}

/* Checks a mapping, and adds what fills the key where nothing is said. */
static void
check_mapping(Registration *given, Oid extension_owner)
{
	Oid			types[5] = {OIDOID, TEXTOID, JSONBOID, BOOLOID, OIDOID};
	Datum		values[5] = {ObjectIdGetDatum(given->target), given->key, given->columns,
		BoolGetDatum(superuser_arg(given->caller) || given->caller == extension_owner),
	ObjectIdGetDatum(given->caller)};
	bool		isnull;

	if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(given->columns)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("columns of resource \"%s\" are not a JSON object",
						TextDatumGetCString(given->name)),
				 errhint("Write them as '{\"column\": \"$.member\", …}'.")));
	given->columns = uds_spi_value("SELECT jsonb_build_object($2, '$.uid') || $3"
								   " WHERE $1 IS NOT NULL",
								   3, types, values, NULL, &isnull);
	values[2] = given->columns;
	uds_spi_raise(uds_spi_exec(mapping_problem_sql, 5, types, values, NULL));

	/* compiles the expressions, for no record */
	types[0] = JSONBOID;
	uds_spi_exec("SELECT FROM uds.map_page('[]',"
				 " jsonb_build_object('records', '$[*]', 'fields', $1), '{}')",
				 1, types, &given->columns, NULL);
}

/*
 * uds_map_table(name, target, accepts, key, columns) → void
 *
 * ERROR, with nothing stored, where the table cannot be filled so.
 */
Datum
uds_map_table(PG_FUNCTION_ARGS)
{
	static const char *const what[] = {"name", "table", "type", "key", "columns"};
	Registration given = {.caller = GetUserId()};
	Oid			types[2] = {TEXTOID, OIDOID};
	Datum		values[2];
	Datum		accepted;
	UdsIdentity saved;
	bool		isnull;

	for (int i = 0; i < lengthof(what); i++)
		require_argument(fcinfo, i, what[i]);
	given.name = PG_GETARG_DATUM(0);
	given.target = PG_GETARG_OID(1);
	accepted = PG_GETARG_DATUM(2);
	given.accepts = PointerGetDatum(construct_array(&accepted, 1, TEXTOID, -1, false,
													TYPALIGN_INT));
	given.key = PG_GETARG_DATUM(3);
	given.columns = PG_GETARG_DATUM(4);

	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	uds_lock_reconciling();
	check_mapping(&given, GetUserId());
	values[0] = given.name;
	values[1] = ObjectIdGetDatum(given.target);
	given.after = uds_spi_value(referenced_sql, 2, types, values, NULL, &isnull);
	store(&given);
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_VOID();
}

/*
 * uds_register_resource(name, accepts, apply, after) → void
 *
 * ERROR, with nothing stored, where the function cannot be called so.
 */
Datum
uds_register_resource(PG_FUNCTION_ARGS)
{
	static const char *const what[] = {"name", "accepted types", "function", "order"};
	Registration given = {.caller = GetUserId()};
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2];
	UdsIdentity saved;

	for (int i = 0; i < lengthof(what); i++)
		require_argument(fcinfo, i, what[i]);
	given.name = PG_GETARG_DATUM(0);
	given.accepts = PG_GETARG_DATUM(1);
	given.apply = PG_GETARG_OID(2);
	given.after = PG_GETARG_DATUM(3);

	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	uds_lock_reconciling();
	values[0] = ObjectIdGetDatum(given.apply);
	values[1] = ObjectIdGetDatum(given.caller);
	uds_spi_raise(uds_spi_exec(function_problem_sql, 2, types, values, NULL));
	store(&given);
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_VOID();
}

/*
 * uds_drop_resource(name) → void: forgets a registered resource and which
 * record made which row.  Its rows stay.
 */
Datum
uds_drop_resource(PG_FUNCTION_ARGS)
{
	Oid			caller = GetUserId();
	Oid			types[1] = {TEXTOID};
	Datum		name;
	UdsIdentity saved;

	require_argument(fcinfo, 0, "name");
	name = PG_GETARG_DATUM(0);
	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	uds_lock_reconciling();
	if (!find_resource(name, caller))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("resource \"%s\" is not registered", TextDatumGetCString(name)),
				 errhint("SELECT name FROM uds.resources WHERE NOT builtin lists those that are.")));
	if (uds_spi_exec("SELECT name FROM uds.resources WHERE $1 = ANY (after) ORDER BY name",
					 1, types, &name, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop resource \"%s\": resource \"%s\" comes after it",
						TextDatumGetCString(name), uds_spi_text(0, 1)),
				 errhint("Drop that one first, or register it again without this one.")));
	uds_spi_exec("DELETE FROM uds.record_resources WHERE resource = $1", 1, types, &name, NULL);
	uds_spi_exec("DELETE FROM uds.resources WHERE name = $1", 1, types, &name, NULL);
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_VOID();
}
