/*-------------------------------------------------------------------------
 *
 * applied.c
 *		Functions that are called with the changed records of a task.
 *
 * A function is called once for all records of a type.  If it raises an
 * error that speaks of the data, it is called with parts of them, down to
 * the single record that is to blame.  What it returns becomes links and
 * rows of the change set.
 *
 * Fills the stage relations said, applying, returned and changed.  Runs in
 * the transaction of a task, the function as the source's owner; locks are
 * those of the function.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "reconcile/stage.h"

/* parts into which records are cut of which some are to blame */
#define PARTS 64

/* $1 function, $2 role that calls it */
static const char *const function_sql =
"SELECT quote_ident(n.nspname) || '.' || quote_ident(p.proname),"
"       CASE WHEN p.oid IS NULL THEN format('function %s does not exist', $1)"
"            WHEN NOT has_schema_privilege($2, n.oid, 'USAGE') OR NOT has_function_privilege($2, p.oid, 'EXECUTE')"
"            THEN format('role %I, the owner of the source, may not call %s', pg_get_userbyid($2), p.oid::regprocedure)"
"       END"
"  FROM (SELECT to_regprocedure($1) AS oid) AS f"
"  LEFT JOIN pg_proc p ON p.oid = f.oid"
"  LEFT JOIN pg_namespace n ON n.oid = p.pronamespace";

/*
 * Those that changed, and those that the function has not linked yet; not who
 * had left when first seen.
 */
static const char *const say_sql =
"INSERT INTO uds_said (resource, given, data_type, record_id, uid, data, said, gone, policy, was)"
"SELECT {resource}, g.n, '{data_type}', g.record_id, g.uid, g.data, g.before, g.gone, g.policy, l.resource_pk"
"  FROM ({given}) AS g"
"  LEFT JOIN uds.record_resources l ON l.record_id = g.record_id AND l.resource = {resource}"
" WHERE CASE WHEN g.gone THEN g.is_changed AND (g.before IS NOT NULL OR l.record_id IS NOT NULL)"
"            ELSE g.is_changed OR l.record_id IS NULL END"
" ORDER BY g.n";

/* For an undo: the records as they will be once it is done. */
static const char *const say_past_sql =
"INSERT INTO uds_said (resource, data_type, record_id, uid, data, said, gone, was)"
"SELECT {resource}, '{data_type}', v.*"
"  FROM (SELECT DISTINCT ON (p.record_id) p.record_id,"
"               coalesce(p.record ->> 'uid', r.uid) AS uid,"
"               coalesce(p.record -> 'data', r.data) AS data, r.data AS present,"
"               p.how = 'remove' OR (p.record ->> 'deleted')::boolean AS gone, l.resource_pk"
"          FROM uds_past p"
"          LEFT JOIN uds.records r ON r.id = p.record_id"
"          LEFT JOIN uds.record_resources l ON l.record_id = p.record_id AND l.resource = {resource}"
"         WHERE coalesce(p.record ->> 'data_type', r.data_type) = '{data_type}'"
"           AND NOT EXISTS (SELECT 1"
"                             FROM uds_undone x"
"                            WHERE x.resource = p.resource AND x.pk = p.resource_pk AND x.state = 'left')"
"         ORDER BY p.record_id) AS v"
" ORDER BY v.record_id";

/* $3, $4 the first and the last to show */
static const char *const show_sql =
"INSERT INTO uds_applying (n, task_id, data_type, uid, data, before, deleted, pk, source)"
"SELECT s.n, $2, s.data_type, s.uid, s.data, s.said, s.gone, s.was, c.name"
"  FROM uds_said s, uds.source_settings c"
" WHERE s.resource = {resource} AND s.data_type = '{data_type}' AND s.n BETWEEN $3 AND $4"
"   AND c.id = $1";

static const char *const call_sql =
"INSERT INTO uds_returned (ord, uid, pk, action, before, after)"
"SELECT f.ord, f.uid, f.pk, f.action, f.before, f.after"
"  FROM {function}($2) WITH ORDINALITY AS f (uid, pk, action, before, after, ord)"
" WHERE $1 IS NOT NULL";

/* What a function must not return. */
static const char *const wrong_sql =
"SELECT CASE WHEN a.uid IS NULL THEN format('function returned uid \"%s\", which it was not given', r.uid)"
"            ELSE format('function returned action \"%s\" for uid \"%s\"', r.action, r.uid) END"
"  FROM uds_returned r"
"  LEFT JOIN uds_applying a ON a.uid = r.uid"
" WHERE a.uid IS NULL"
"    OR r.action NOT IN ('create', 'update', 'enable', 'disable', 'delete', 'link', 'unlink')"
" LIMIT 1";

/* What came of the part shown, taken over. */
static const char *const take_sql[] = {
	"INSERT INTO uds_changed (resource, pk, uid, action, before, after)"
	"SELECT {resource}, coalesce(r.pk, s.was, r.uid), r.uid, r.action, r.before, r.after"
	"  FROM uds_returned r"
	"  JOIN uds_applying a ON a.uid = r.uid"
	"  JOIN uds_said s ON s.n = a.n"
	" WHERE r.action IS NOT NULL"
	" ORDER BY r.ord",

	"DELETE FROM uds.record_resources l"
	" USING (SELECT DISTINCT ON (s.record_id) s.record_id, r.pk, r.action"
	"          FROM uds_returned r"
	"          JOIN uds_applying a ON a.uid = r.uid"
	"          JOIN uds_said s ON s.n = a.n"
	"         ORDER BY s.record_id, r.ord DESC) AS v"
	" WHERE l.resource = {resource} AND l.record_id = v.record_id"
	"   AND (v.action IN ('delete', 'unlink') OR v.pk <> l.resource_pk)",

	"INSERT INTO uds.record_resources (record_id, resource, resource_pk, created)"
	"SELECT v.record_id, {resource}, v.pk, coalesce(v.action = 'create', false)"
	"  FROM (SELECT DISTINCT ON (s.record_id) s.record_id, r.pk, r.action"
	"          FROM uds_returned r"
	"          JOIN uds_applying a ON a.uid = r.uid"
	"          JOIN uds_said s ON s.n = a.n"
	"         ORDER BY s.record_id, r.ord DESC) AS v"
	" WHERE v.pk IS NOT NULL AND coalesce(v.action NOT IN ('delete', 'unlink'), true) "
	"ON CONFLICT DO NOTHING"
};

/* $3 sqlstate, $4 message, $5 the record */
static const char *const blame_sql =
"UPDATE uds_said SET sqlstate = $3, error = $4 WHERE n = $5";

/* One function and the type of records it is called for. */
typedef struct Call
{
	const UdsRun *run;
	const UdsEntry *entry;
	const char *data_type;
	const char *function;		/* qualified and quoted */
} Call;

static char *
expand(const Call *call, const char *sql)
{
	return uds_stage_expand(sql,
							"resource", call->entry->literal,
							"data_type", call->data_type,
							"function", call->function, NULL);
}

/* Calls the function for the records shown; ERROR if it raises one. */
static void
run_function(void *arg)
{
	const Call *call = arg;

	uds_stage_write(call->run, expand(call, call_sql));
	if (uds_stage_write(call->run, wrong_sql) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_INVOCATION_EXCEPTION),
				 errmsg("%s", uds_spi_text(0, 1))));
}

static void
blame(const Call *call, int64 n, const ErrorData *error)
{
	Oid			types[5] = {INT8OID, INT8OID, TEXTOID, TEXTOID, INT8OID};
	Datum		values[5] = {Int64GetDatum(call->run->source->id),
		Int64GetDatum(call->run->task->id),
		CStringGetTextDatum(unpack_sql_state(error->sqlerrcode)),
		CStringGetTextDatum(error->message ? error->message : "unknown error"),
	Int64GetDatum(n)};

	uds_spi_exec(blame_sql, 5, types, values, NULL);
}

/* Calls the function for records first to last, of which some may be bad. */
static void
call_range(const Call *call, int64 first, int64 last)
{
	Oid			types[4] = {INT8OID, INT8OID, INT8OID, INT8OID};
	Datum		values[4] = {Int64GetDatum(call->run->source->id),
		Int64GetDatum(call->run->task->id),
	Int64GetDatum(first), Int64GetDatum(last)};
	int64		step = Max(1, (last - first + PARTS) / PARTS);
	ErrorData  *error;

	CHECK_FOR_INTERRUPTS();
	uds_stage_clear(call->run, "uds_applying");
	uds_stage_clear(call->run, "uds_returned");
	if (uds_spi_exec(expand(call, show_sql), 4, types, values, NULL) == 0)
		return;
	uds_stage_analyze(call->run, "uds_applying");
	error = uds_part_try(call->run, run_function, (void *) call);
	if (error == NULL)
	{
		for (int i = 0; i < lengthof(take_sql); i++)
			uds_stage_exec(call->run, expand(call, take_sql[i]));
		return;
	}
	if (first == last)
	{
		blame(call, first, error);
		return;
	}
	for (int64 from = first; from <= last; from += step)
	{
		MemoryContext part = AllocSetContextCreate(CurrentMemoryContext, "uds part",
												   ALLOCSET_SMALL_SIZES);
		MemoryContext caller = MemoryContextSwitchTo(part);

		call_range(call, from, Min(from + step - 1, last));
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(part);
	}
}

/*
 * Fills said by a query for each type that the entry takes, and calls its
 * function for what that finds.
 */
static void
call_function(const UdsRun *run, const UdsEntry *entry, const char *query)
{
	static const char *const data_types[] = {UDS_TYPE_DEPARTMENT, UDS_TYPE_USER};
	Oid			types[2] = {TEXTOID, OIDOID};
	Datum		values[2] = {CStringGetTextDatum(entry->function),
	ObjectIdGetDatum(run->source->owner)};
	Call		call = {.run = run,.entry = entry};
	char	   *obstacle;

	uds_spi_exec(function_sql, 2, types, values, NULL);
	call.function = uds_spi_text(0, 1);
	obstacle = uds_spi_text(0, 2);
	if (obstacle != NULL)
	{
		uds_resources_refuse(run, entry, obstacle);
		return;
	}
	for (int i = 0; i < lengthof(data_types); i++)
	{
		char	   *given;

		call.data_type = data_types[i];
		if (!uds_resources_takes(entry, call.data_type))
			continue;
		given = uds_resources_given(run, entry, call.data_type);
		if (uds_stage_exec(run, uds_stage_expand(query,
												 "resource", entry->literal,
												 "data_type", call.data_type,
												 "given", given, NULL)) > 0)
			call_range(&call,
					   uds_stage_count(run, expand(&call, "SELECT min(n) FROM uds_said WHERE resource = {resource} AND data_type = '{data_type}'")),
					   uds_stage_count(run, expand(&call, "SELECT max(n) FROM uds_said WHERE resource = {resource} AND data_type = '{data_type}'")));
		uds_resources_settle_errors(run, entry, call.data_type);
	}
}

/*
 * Calls the function of an entry with the records of the task that changed,
 * or that it has not linked yet.
 */
void
uds_applied_call(const UdsRun *run, const UdsEntry *entry)
{
	call_function(run, entry, say_sql);
}

/*
 * Calls it with the records that an undo puts back, as they were before the
 * task.  To be called before they are put back.
 */
void
uds_applied_undo(const UdsRun *run, const UdsEntry *entry)
{
	call_function(run, entry, say_past_sql);
}
