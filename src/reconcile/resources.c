/*-------------------------------------------------------------------------
 *
 * resources.c
 *		What records become, as a list in the order in which it is written:
 *		departments, users, mapped tables, registered functions.
 *
 * Those that were registered get the records of the task once users and
 * departments are written, so that only records that were taken reach them.
 * What one of them refuses is set aside for it alone, and it gets the record
 * again with the next task.
 *
 * Owns uds.unapplied_records.  Fills the stage relations given and rejected;
 * the relations that only registered resources need are made here.  Runs in
 * the transaction of a task, as the extension's owner; locks nothing but its
 * own rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "reconcile/stage.h"

/*
 * $1 owner of the source.  What runs with his rights, triggers and functions,
 * must come from somebody who has them.
 */
static const char *const list_sql =
"SELECT r.name, 'user' = ANY (r.accepts), 'department' = ANY (r.accepts), r.target::oid,"
"       r.key, r.columns::text, r.apply, r.builtin"
"  FROM uds.resources r"
" WHERE r.builtin"
"    OR EXISTS (SELECT 1 FROM pg_roles o WHERE o.rolname = r.owner AND pg_has_role(o.oid, $1, 'USAGE'))"
" ORDER BY r.level, r.name";

static const char *const create_sql[] = {
	/* the task's records, as users and departments took them */
	"CREATE TEMP TABLE uds_given"
	"(n bigint, data_type text, record_id bigint, uid text, data jsonb, before jsonb,"
	" gone boolean, policy text, is_changed boolean)",

	/*
	 * what each resource makes of them; said: the columns, or, for a
	 * function, the record before; was: the row it stood behind
	 */
	"CREATE TEMP TABLE uds_said"
	"(n bigint GENERATED ALWAYS AS IDENTITY, resource text, given bigint, data_type text,"
	" record_id bigint, uid text, data jsonb, said jsonb, gone boolean, policy text,"
	" was text, sqlstate text, error text)",

	/* keys of rows of mapped tables: the one said, and those there */
	"CREATE TEMP TABLE uds_keyed"
	"(n bigint, key text, found text, linked text)",

	/*
	 * what rows of mapped tables should be; is_ours: a sync made it; leave as
	 * in uds_desired, or keep
	 */
	"CREATE TEMP TABLE uds_wanted"
	"(n bigint GENERATED ALWAYS AS IDENTITY, resource text, record_id bigint, uid text,"
	" old_key text, key text, is_new boolean, is_ours boolean, leave text, said jsonb)",

	/* those that differ */
	"CREATE TEMP TABLE uds_altered"
	"(n bigint, action text, before jsonb, after jsonb)",

	/* what a function is given, and what it returns */
	"CREATE TEMP TABLE uds_applying"
	"(n bigint, task_id bigint, data_type text, uid text, data jsonb, before jsonb,"
	" deleted boolean, pk text, source text)",

	"CREATE TEMP TABLE uds_returned"
	"(ord bigint, uid text, pk text, action text, before jsonb, after jsonb)"
};

static const char *const relations[] = {
	"uds_given", "uds_said", "uds_keyed", "uds_wanted", "uds_altered", "uds_applying",
	"uds_returned"
};

static const char *const grant_sql =
"GRANT SELECT, INSERT"
"   ON uds_said, uds_keyed, uds_wanted, uds_altered, uds_applying, uds_returned"
"   TO {owner}";

static const char *const capture_sql =
"INSERT INTO uds_given (n, data_type, record_id, uid, data, before, gone, policy, is_changed)"
"SELECT w.n, '{data_type}', w.record_id, w.uid, w.data,"
"       CASE WHEN w.is_changed AND NOT w.is_new THEN r.last_data END,"
"       w.gone, w.policy, w.is_changed"
"  FROM uds_work w"
"  JOIN uds.records r ON r.id = w.record_id";

/* Users that needed nothing are not in work. */
static const char *const capture_settled_sql =
"INSERT INTO uds_given (n, data_type, record_id, uid, data, gone, is_changed)"
"SELECT i.n, 'user', r.id, r.uid, i.data, false, false"
"  FROM uds_settled k"
"  JOIN uds_incoming i USING (n)"
"  JOIN uds.records r ON r.source_id = $1 AND r.data_type = 'user' AND r.uid_key = i.uid_key";

/* Whose department could not be deleted has not left. */
static const char *const settle_sql =
"UPDATE uds_given g"
"   SET gone = false"
"  FROM uds.records r"
" WHERE g.gone AND r.id = g.record_id AND NOT r.deleted";

static const char *const given_sql =
"SELECT w.n, w.record_id, w.uid, w.data, w.before, w.gone, w.policy,"
"       w.is_changed OR EXISTS (SELECT 1"
"                                 FROM uds.unapplied_records u"
"                                WHERE u.resource = {resource} AND u.record_id = w.record_id) AS is_changed"
"  FROM uds_given w"
" WHERE w.data_type = '{data_type}'";

/* What was refused before; a push is about nothing but what is pushed. */
static const char *const given_again_sql =
" UNION ALL "
"SELECT NULL, r.id, r.uid, r.data, r.last_data, r.deleted, u.policy, true"
"  FROM uds.unapplied_records u"
"  JOIN uds.records r ON r.id = u.record_id AND r.data_type = '{data_type}'"
" WHERE u.resource = {resource} AND u.source_id = $1"
"   AND NOT EXISTS (SELECT 1 FROM uds_given w WHERE w.record_id = u.record_id)";

static const char *const has_records_sql =
"SELECT (SELECT count(*)"
"          FROM uds.resources r"
"         WHERE r.name = {resource}"
"           AND EXISTS (SELECT 1 FROM uds_given w WHERE w.data_type = ANY (r.accepts)))"
"     + (SELECT count(*)"
"          FROM uds.unapplied_records u"
"         WHERE u.resource = {resource} AND u.source_id = $1)";

static const char *const set_aside_sql[] = {
	"UPDATE uds_rejected j"
	"   SET n = s.given, record = s.data"
	"  FROM uds_said s"
	" WHERE j.resource = {resource} AND s.resource = {resource} AND j.pk = s.record_id",

	"UPDATE uds_said s"
	"   SET sqlstate = j.sqlstate, error = j.message"
	"  FROM uds_rejected j"
	" WHERE j.resource = {resource} AND s.resource = {resource} AND j.pk = s.record_id"
	"   AND s.error IS NULL",

	"DELETE FROM uds_wanted d"
	" USING uds_said s"
	" WHERE d.resource = {resource} AND s.resource = {resource}"
	"   AND d.record_id = s.record_id AND s.error IS NOT NULL"
};

/* The first is for an undo, too. */
static const char *const settle_errors_sql[] = {
	"INSERT INTO uds_rejected (n, data_type, uid, resource, pk, sqlstate, message, record)"
	"SELECT s.given, '{data_type}', s.uid, {resource}, s.record_id, s.sqlstate, s.error, s.data"
	"  FROM uds_said s"
	" WHERE s.resource = {resource} AND s.data_type = '{data_type}' AND s.error IS NOT NULL"
	"   AND NOT EXISTS (SELECT 1"
	"                     FROM uds_rejected j"
	"                    WHERE j.resource = {resource} AND j.pk = s.record_id)",

	"DELETE FROM uds.unapplied_records u"
	" USING ({given}) AS g"
	" WHERE u.resource = {resource} AND u.record_id = g.record_id"
	"   AND NOT EXISTS (SELECT 1"
	"                     FROM uds_said s"
	"                    WHERE s.resource = {resource} AND s.record_id = g.record_id"
	"                      AND s.error IS NOT NULL)",

	"INSERT INTO uds.unapplied_records (resource, record_id, source_id, policy)"
	"SELECT {resource}, s.record_id, $1, CASE WHEN s.gone THEN s.policy END"
	"  FROM uds_said s"
	" WHERE s.resource = {resource} AND s.data_type = '{data_type}' AND s.error IS NOT NULL "
	"ON CONFLICT (resource, record_id) DO UPDATE SET policy = excluded.policy"
};

/* $3 why */
static const char *const refuse_sql =
"WITH later AS"
"     (INSERT INTO uds.unapplied_records (resource, record_id, source_id, policy)"
"      SELECT {resource}, g.record_id, $1, CASE WHEN g.gone THEN g.policy END"
"        FROM ({given}) AS g"
"       WHERE g.is_changed"
"      ON CONFLICT (resource, record_id) DO UPDATE SET policy = excluded.policy) "
"INSERT INTO uds_rejected (n, data_type, resource, sqlstate, message)"
"SELECT 0, '{data_type}', {resource}, '55000', format('resource \"%s\" took no part: %s', {resource}, $3)"
" WHERE EXISTS (SELECT 1 FROM uds_given w WHERE w.data_type = '{data_type}')";

/* Those that came with the extension, as the list has them. */
static List *
list_builtins(void)
{
	UdsEntry   *departments = palloc0(sizeof(UdsEntry));
	UdsEntry   *users = palloc0(sizeof(UdsEntry));

	departments->name = uds_departments.name;
	departments->builtin = departments->takes_departments = true;
	users->name = uds_users.name;
	users->builtin = users->takes_users = true;
	return list_make2(departments, users);
}

/*
 * Finds the resources that take part in tasks of the source: run->entries,
 * in SPI's memory.  Each comes after those it relies on.  The list is read only
 * where run->registered says that there are more than came with the extension;
 * it is set anew.
 */
void
uds_resources_list(UdsRun *run)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(run->source->owner)};
	uint64		n;

	if (!run->registered)
	{
		run->entries = list_builtins();
		return;
	}
	run->registered = false;
	n = uds_spi_exec(list_sql, 1, types, values, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		UdsEntry   *entry = palloc0(sizeof(UdsEntry));
		char	   *target = uds_spi_text(i, 4);

		entry->name = uds_spi_text(i, 1);
		entry->literal = quote_literal_cstr(entry->name);
		entry->takes_users = uds_spi_text(i, 2)[0] == 't';
		entry->takes_departments = uds_spi_text(i, 3)[0] == 't';
		entry->target = target ? atooid(target) : InvalidOid;
		entry->key = uds_spi_text(i, 5);
		entry->columns = uds_spi_text(i, 6);
		entry->function = uds_spi_text(i, 7);
		entry->builtin = uds_spi_text(i, 8)[0] == 't';
		run->registered |= !entry->builtin;
		run->entries = lappend(run->entries, entry);
	}
}

/* Whether a resource that was registered takes records of a type. */
static bool
is_taken(const UdsRun *run, const char *data_type)
{
	ListCell   *lc;

	foreach(lc, run->entries)
	{
		const UdsEntry *entry = lfirst(lc);

		if (!entry->builtin && uds_resources_takes(entry, data_type))
			return true;
	}
	return false;
}

/*
 * Returns the names of those in the list that take records of a type.
 */
List *
uds_resources_takers(const UdsRun *run, const char *data_type)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, run->entries)
	{
		const UdsEntry *entry = lfirst(lc);

		if (uds_resources_takes(entry, data_type))
			names = lappend(names, (void *) entry->name);
	}
	return names;
}

/*
 * Whether an entry of the list takes records of a type.
 */
bool
uds_resources_takes(const UdsEntry *entry, const char *data_type)
{
	return strcmp(data_type, UDS_TYPE_USER) == 0 ? entry->takes_users :
		entry->takes_departments;
}

/* Whether a stage relation is there from an earlier task, and is ours. */
static bool
relation_exists(const char *name, Oid *relation)
{
	HeapTuple	tuple;
	bool		ours = false;

	*relation = RelnameGetRelid(name);
	if (!OidIsValid(*relation))
		return false;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(*relation));
	if (HeapTupleIsValid(tuple))
	{
		ours = ((Form_pg_class) GETSTRUCT(tuple))->relowner == GetUserId();
		ReleaseSysCache(tuple);
	}
	if (!ours)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("temporary table \"%s\" is in the way", name),
				 errhint("Drop it: the name belongs to the extension uds.")));
	return true;
}

/*
 * Makes the stage relations of registered resources ready and empty, if the
 * task may need them.
 */
void
uds_resources_create_stage(const UdsRun *run)
{
	bool		granted = true;

	if (!is_taken(run, UDS_TYPE_USER) && !is_taken(run, UDS_TYPE_DEPARTMENT))
		return;
	for (int i = 0; i < lengthof(create_sql); i++)
	{
		Oid			relation;

		if (relation_exists(relations[i], &relation))
			uds_scan_delete(relations[i]);
		else
		{
			SPI_execute(create_sql[i], false, 0);
			uds_stage_claim_small(relations[i]);
			relation = RelnameGetRelid(relations[i]);
		}
		if (i > 0 && pg_class_aclcheck(relation, run->source->owner, ACL_INSERT) != ACLCHECK_OK)
			granted = false;
	}
	if (!granted)
		SPI_execute(uds_stage_expand(grant_sql, "owner", run->owner, NULL), false, 0);
}

/*
 * Drops them, after a large task.
 */
void
uds_resources_drop_stage(const UdsRun *run)
{
	Oid			relation;

	for (int i = 0; i < lengthof(relations); i++)
		if (relation_exists(relations[i], &relation))
			SPI_execute(psprintf("DROP TABLE pg_temp.%s", relations[i]), false, 0);
}

/*
 * Keeps the records in work for the resources that come later.  To be called
 * when they are stored, before work is filled with those of another type.
 */
void
uds_resources_capture(const UdsRun *run, const char *data_type)
{
	if (!is_taken(run, data_type))
		return;
	uds_stage_exec(run, uds_stage_expand(capture_sql, "data_type", data_type, NULL));
	if (strcmp(data_type, UDS_TYPE_USER) == 0)
		uds_stage_exec(run, capture_settled_sql);
}

/*
 * To be called when all records are captured and nothing can be refused by
 * users and departments any more.
 */
void
uds_resources_settle(const UdsRun *run)
{
	if (!is_taken(run, UDS_TYPE_USER) && !is_taken(run, UDS_TYPE_DEPARTMENT))
		return;
	uds_stage_exec(run, settle_sql);
	uds_stage_analyze(run, "uds_given");
}

/*
 * Whether there is anything for a registered resource to do.
 */
bool
uds_resources_has_records(const UdsRun *run, const UdsEntry *entry)
{
	return uds_stage_count(run, uds_stage_expand(has_records_sql,
												 "resource", entry->literal, NULL)) > 0;
}

/*
 * Returns a query for the records of a type that an entry is given: n,
 * record_id, uid, data, before, gone, policy, is_changed.
 */
char *
uds_resources_given(const UdsRun *run, const UdsEntry *entry, const char *data_type)
{
	bool		pushed = strcmp(run->task->kind, "push") == 0;

	return uds_stage_expand(psprintf("%s%s", given_sql, pushed ? "" : given_again_sql),
							"resource", entry->literal,
							"data_type", data_type, NULL);
}

/*
 * What rejected names by the id of a record gets the record itself, and takes
 * part in nothing that follows of the resource.
 */
void
uds_resources_set_aside(const UdsRun *run, const UdsEntry *entry)
{
	for (int i = 0; i < lengthof(set_aside_sql); i++)
		uds_stage_exec(run, uds_stage_expand(set_aside_sql[i],
											 "resource", entry->literal, NULL));
}

/*
 * Makes error rows of all that the resource refused, and notes it for the
 * next task, but for what an undo should have put back.  To be called when
 * the resource is done with a type.
 */
void
uds_resources_settle_errors(const UdsRun *run, const UdsEntry *entry, const char *data_type)
{
	char	   *given = uds_resources_given(run, entry, data_type);
	bool		undo = strcmp(run->task->kind, "undo") == 0;

	for (int i = 0; i < (undo ? 1 : lengthof(settle_errors_sql)); i++)
		uds_stage_exec(run, uds_stage_expand(settle_errors_sql[i],
											 "resource", entry->literal,
											 "data_type", data_type,
											 "given", given, NULL));
}

/*
 * Sets a resource aside as a whole: it takes no part in the task, for the
 * reason given.  What it misses it gets with the next task.
 */
void
uds_resources_refuse(const UdsRun *run, const UdsEntry *entry, const char *reason)
{
	static const char *const data_types[] = {UDS_TYPE_DEPARTMENT, UDS_TYPE_USER};
	Oid			types[3] = {INT8OID, INT8OID, TEXTOID};
	Datum		values[3] = {Int64GetDatum(run->source->id), Int64GetDatum(run->task->id),
	CStringGetTextDatum(reason)};

	for (int i = 0; i < lengthof(data_types); i++)
		if (uds_resources_takes(entry, data_types[i]))
			uds_spi_exec(uds_stage_expand(refuse_sql,
										  "resource", entry->literal,
										  "data_type", data_types[i],
										  "given", uds_resources_given(run, entry, data_types[i]),
										  NULL),
						 3, types, values, NULL);
}
