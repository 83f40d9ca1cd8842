/*-------------------------------------------------------------------------
 *
 * stage.c
 *		The stage relations of a task and the runner of statements over them.
 *
 * Each step of reconciling reads the relations before it and fills its own.
 * They are temporary, and analyzed when filled: without statistics the joins
 * of a million rows would be planned for a thousand.
 *
 * Statements that touch target tables run as the source's owner, because
 * triggers, defaults, domains and checks on these tables are other people's
 * code.  The owner therefore gets rights on the stage.
 *
 * Runs in the transaction of a task; locks nothing but its own relations.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/multixact.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/vacuum.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#include "compat.h"
#include "reconcile/stage.h"

/* words that one call puts into a statement */
#define MAX_WORDS 20

static const char *const create_sql[] = {
	/*
	 * one row per record of the task, once bad ones are out and duplicates
	 * are merged
	 */
	"CREATE TEMP TABLE uds_incoming"
	"(n bigint, data_type text, merge boolean, partial boolean, uid text, uid_key text,"
	" data jsonb, hash bigint, error text)",

	/*
	 * users that need nothing; names: their record names departments, list:
	 * which; merged: what the row should be; and those among them that do need
	 * something
	 */
	"CREATE TEMP TABLE uds_settled (n bigint, pk bigint, names boolean, list jsonb, merged jsonb)",
	"CREATE TEMP TABLE uds_suspect (pk bigint)",

	/* records set aside */
	"CREATE TEMP TABLE uds_rejected"
	"(n bigint, data_type text, uid text, resource text, pk bigint,"
	" sqlstate text, message text, record jsonb)",

	/*
	 * records against those stored, of one resource at a time; gone: the
	 * record does not stand behind its row any longer; policy: why and then
	 * what; link: new or matched, NULL if linked before
	 */
	"CREATE TEMP TABLE uds_work"
	"(n bigint, resource text, record_id bigint, uid text, uid_key text, data jsonb,"
	" gone boolean, policy text, is_new boolean, is_changed boolean,"
	" was_deleted boolean, pk bigint, link text)",

	/* what the target rows should be; leave: delete or disable, NULL to stay;
	 * noted: among uds.disabled_rows */
	"CREATE TEMP TABLE uds_desired"
	"(n bigint, pk bigint, uid text, merged jsonb, is_new boolean, leave text,"
	" noted boolean, was_disabled boolean, is_disabled boolean)",

	/* the department each row should point to, where that is known */
	"CREATE TEMP TABLE uds_referred"
	"(pk bigint, department_id bigint)",

	/* rows that were disabled because their records went */
	"CREATE TEMP TABLE uds_leavers (pk bigint)",

	/* rows to delete, of all resources */
	"CREATE TEMP TABLE uds_leaving"
	"(n bigint GENERATED ALWAYS AS IDENTITY, resource text, pk bigint, uid text)",

	/* rows that differ from what they should be */
	"CREATE TEMP TABLE uds_differing"
	"(n bigint, pk bigint, uid text, action text, before jsonb, after jsonb)",

	/* departments that records refer to, where these are few */
	"CREATE TEMP TABLE uds_needed"
	"(source_id bigint, uid_key text)",

	/*
	 * what the task's departments bring about in records that it does not
	 * have; data_type: department, who waits for it; user, who leads that
	 * department from now on or no longer; lost, who names a department that
	 * was deleted by hand and is made again
	 */
	"CREATE TEMP TABLE uds_arrived"
	"(data_type text, uid_key text, department_id bigint, is_owner boolean)",

	/*
	 * departments whose parent is taken away, because parents form a cycle;
	 * cycle: all that are on it
	 */
	"CREATE TEMP TABLE uds_cut (pk bigint, cycle bigint[])",

	/* users that new records stand for */
	"CREATE TEMP TABLE uds_matched"
	"(record_id bigint, pk bigint, ambiguous boolean)",

	/* uids of departments to their rows, of every source that matters */
	"CREATE TEMP TABLE uds_department_ref"
	"(source_id bigint, uid_key text, pk bigint)",

	/* who leads a department, as the department's record says */
	"CREATE TEMP TABLE uds_owners"
	"(source_id bigint, department_id bigint, uid_key text)",

	/*
	 * memberships as the live records assert them; ord: the place in the
	 * list; main_ord: the one where it is called main
	 */
	"CREATE TEMP TABLE uds_asserted"
	"(user_id bigint, department_id bigint, is_owner boolean, main_ord bigint,"
	" source_id bigint, priority integer, ord bigint, is_choice boolean, is_new boolean)",

	/*
	 * users whose memberships this task decides; silent: sources whose record
	 * leaves them alone; decided: any record says something, or none is left
	 */
	"CREATE TEMP TABLE uds_member_scope"
	"(user_id bigint, silent bigint[], decided boolean)",

	/* memberships to add, alter or withdraw */
	"CREATE TEMP TABLE uds_member_diff"
	"(n bigint, user_id bigint, department_id bigint, action text, uid text,"
	" is_owner boolean, source_id bigint, before jsonb)",

	/* the change set: what was written */
	"CREATE TEMP TABLE uds_changed"
	"(seq bigint GENERATED ALWAYS AS IDENTITY, resource text, pk text, uid text, action text, before jsonb, after jsonb)"
};

/* What the owner of the source needs of the stage to write targets. */
static const char *const grant_sql =
"GRANT SELECT, INSERT"
"   ON uds_incoming, uds_settled, uds_suspect, uds_desired, uds_referred, uds_leavers, uds_leaving, uds_differing,"
"      uds_asserted, uds_member_diff, uds_changed"
"   TO {owner}";

static const char *const unique_of_users[] = {"username", "email", "phone", NULL};
static const char *const unique_of_departments[] = {NULL};

const UdsResource uds_users = {
	.name = "users",
	.table = "uds.users",
	.sequence = "uds.users_id_seq",
	.data_type = UDS_TYPE_USER,
	.unsettable = "{id,protected,main_department_id,created_at,updated_at}",
	.unique = unique_of_users,
	.reference = "main_department_id",
	.has_protected = true
};

const UdsResource uds_departments = {
	.name = "departments",
	.table = "uds.departments",
	.sequence = "uds.departments_id_seq",
	.data_type = UDS_TYPE_DEPARTMENT,
	.unsettable = "{id,parent_id,is_leaf,protected,created_at,updated_at}",
	.unique = unique_of_departments,
	.required = "title",
	.reference = "parent_id"
};

/* The name of a stage relation, from the statement that makes it. */
static char *
relation_name(int i)
{
	const char *name = create_sql[i] + strlen("CREATE TEMP TABLE ");

	return pnstrdup(name, strcspn(name, " ("));
}

/*
 * Whether this session has the stage relations from an earlier task.  One
 * that somebody else made under our name must never be used.
 */
static bool
stage_exists(Oid *last)
{
	char	   *name = relation_name(lengthof(create_sql) - 1);
	HeapTuple	tuple;
	bool		ours;

	*last = RelnameGetRelid(name);
	if (!OidIsValid(*last))
		return false;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(*last));
	ours = HeapTupleIsValid(tuple) &&
		((Form_pg_class) GETSTRUCT(tuple))->relowner == GetUserId();
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (!ours)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("temporary table \"%s\" is in the way", name),
				 errhint("Drop it: the name belongs to the extension uds.")));
	return true;
}

/*
 * Tells the planner that a stage relation is small.  It would take an empty
 * table that was never analyzed for one of a thousand rows, and read a target
 * table from end to end rather than look that many rows up.
 */
void
uds_stage_claim_small(const char *name)
{
	Relation	rel = table_open(RelnameGetRelid(name), AccessShareLock);

	uds_set_relstats(rel, 1, 1);
	table_close(rel, NoLock);
}

/*
 * Forgets plans that were made while the tables had half their size or less.
 * What was planned for an empty table would read it whole for ever after; it
 * need not be analyzed before it is large.
 */
static void
forget_outgrown_plans(void)
{
	static const char *const grown[] = {
		"users", "departments", "department_members", "records", "record_resources"
	};
	static BlockNumber planned[lengthof(grown)];
	BlockNumber present[lengthof(grown)];
	bool		outgrown = false;

	for (int i = 0; i < lengthof(grown); i++)
	{
		Relation	rel = table_openrv(makeRangeVar("uds", (char *) grown[i], -1),
									   AccessShareLock);

		present[i] = RelationGetNumberOfBlocks(rel);
		outgrown |= present[i] > 2 * planned[i] + 1;
		table_close(rel, NoLock);
	}
	if (!outgrown)
		return;
	uds_spi_forget_plans();
	memcpy(planned, present, sizeof(planned));
}

/*
 * Makes the stage relations ready and empty.  They are made once in a session
 * and used again: making them takes longer than all that a small push does.
 */
void
uds_stage_create(const UdsRun *run)
{
	Oid			last;

	if (run->small)
		forget_outgrown_plans();
	if (stage_exists(&last))
	{
		for (int i = 0; i < lengthof(create_sql); i++)
			uds_stage_clear(run, relation_name(i));
	}
	else
	{
		for (int i = 0; i < lengthof(create_sql); i++)
		{
			SPI_execute(create_sql[i], false, 0);
			uds_stage_claim_small(relation_name(i));
			uds_filled_note_empty(relation_name(i));
		}
		last = RelnameGetRelid(relation_name(lengthof(create_sql) - 1));
	}
	if (pg_class_aclcheck(last, run->source->owner, ACL_INSERT) != ACLCHECK_OK)
		SPI_execute(uds_stage_expand(grant_sql, "owner", run->owner, NULL), false, 0);
}

/*
 * Gives back what the stage relations of a large task hold.  A worker keeps them
 * for its next task; in a session they would mislead the planner, which knows
 * them as large, about pushes to come.
 */
void
uds_stage_release(void)
{
	for (int i = 0; i < lengthof(create_sql); i++)
	{
		char	   *name = relation_name(i);

		if (MyBackendType != B_BG_WORKER)
			SPI_execute(psprintf("DROP TABLE pg_temp.%s", name), false, 0);
		else if (!uds_filled_not(name))
		{
			SPI_execute(psprintf("TRUNCATE pg_temp.%s", name), false, 0);
			uds_stage_claim_small(name);
			uds_filled_note_empty(name);
		}
	}
	if (MyBackendType != B_BG_WORKER)
		uds_filled_forget();
}

/*
 * Empties a stage relation for the next resource.  A new file, which is what
 * TRUNCATE makes, costs more than deleting a few rows.
 */
void
uds_stage_clear(const UdsRun *run, const char *relation)
{
	if (uds_filled_not(relation))
		return;
	if (run->small)
		uds_scan_delete(relation);
	else
		SPI_execute(psprintf("TRUNCATE %s", relation), false, 0);
	uds_filled_note_empty(relation);
}

/*
 * Makes statistics of a stage relation just filled.  Of a few rows none are
 * needed: the planner then assumes some hundred.  Of many a small sample will
 * do: what matters is how many they are.
 */
void
uds_stage_analyze(const UdsRun *run, const char *relation)
{
	int			level;

	if (run->small)
		return;
	level = NewGUCNestLevel();
	(void) set_config_option("default_statistics_target", "10", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SPI_execute(psprintf("ANALYZE %s", relation), false, 0);
	AtEOXact_GUC(true, level);
}

/*
 * Puts words into a statement: "{name}" becomes the value that follows the
 * name in "words", a list that ends with NULL.  A value is SQL: names in it
 * must be quoted already.  It is taken as it is, so that a column may be
 * called "{rows}"; what holds names of the user's own therefore goes in last.
 * The result is palloc'd.
 */
char *
uds_stage_expand_words(const char *sql, const char *const *words)
{
	StringInfoData buf;
	const char *p = sql;

	initStringInfo(&buf);
	while (*p)
	{
		const char *end;
		const char *const *word = words;
		size_t		plain = strcspn(p, "{");

		appendBinaryStringInfo(&buf, p, plain);
		p += plain;
		if (*p == '\0' || (end = strchr(p, '}')) == NULL)
		{
			appendStringInfoString(&buf, p);
			break;
		}
		while (*word != NULL &&
			   (strlen(*word) != end - p - 1 || strncmp(*word, p + 1, end - p - 1) != 0))
			word += 2;
		if (*word != NULL)
		{
			appendStringInfoString(&buf, word[1]);
			p = end + 1;
		}
		else
			appendStringInfoChar(&buf, *p++);
	}
	return buf.data;
}

/*
 * The same with names and values as arguments, which end with NULL.
 */
char *
uds_stage_expand(const char *sql,...)
{
	const char *words[2 * MAX_WORDS + 1];
	int			n = 0;
	va_list		args;

	va_start(args, sql);
	while ((words[n] = va_arg(args, const char *)) != NULL)
	{
		Assert(n < 2 * MAX_WORDS);
		words[n + 1] = va_arg(args, const char *);
		n += 2;
	}
	va_end(args);
	return uds_stage_expand_words(sql, words);
}

/*
 * Returns a join, "kind", of a large table with what comes before it.  The
 * planner would rather read all of it than look up one in a hundred rows;
 * where few users are left it is told to.  The result is palloc'd.
 */
char *
uds_stage_join(const UdsRun *run, const char *kind, const char *table, const char *alias,
			   const char *condition)
{
	if (!run->few_left)
		return psprintf("%s %s %s ON %s", kind, table, alias, condition);
	return psprintf("%s LATERAL (SELECT %s.* FROM %s %s WHERE %s OFFSET 0) AS %s ON true",
					kind, alias, table, alias, condition, alias);
}

/* See uds_stage_exec().  Returns the level of settings to go back from. */
static int
avoid_loops(void)
{
	int			level = NewGUCNestLevel();

	(void) set_config_option("enable_nestloop", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("enable_mergejoin", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return level;
}

/* Runs a statement with $1, the source's id, and $2, the task's. */
static uint64
exec_plain(const UdsRun *run, const char *sql)
{
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(run->source->id),
	Int64GetDatum(run->task->id)};
	uint64		n = uds_spi_exec(sql, 2, types, values, NULL);

	/* of a statement with parts, that is the number of the last one */
	if (n > 0 || strncmp(sql, "WITH", strlen("WITH")) == 0)
		uds_filled_note(sql);
	return n;
}

/*
 * Runs a statement over the stage; $1 is the source's id, $2 the task's.
 * Returns the number of rows it processed.
 *
 * Of a large task, everything is joined with everything, and the records
 * written a moment ago have no statistics: whoever believes them to be one
 * row loops over the stage for each of a million.  So no loops then, and no
 * sorting of both sides for a merge, which takes longer than hashing.  The
 * settings are not for statements that run other people's triggers.
 */
uint64
uds_stage_exec(const UdsRun *run, const char *sql)
{
	uint64		n;
	int			level;

	if (run->small)
		return exec_plain(run, sql);
	level = avoid_loops();
	n = exec_plain(run, sql);
	AtEOXact_GUC(true, level);
	return n;
}

/*
 * Adds the rows of a query over the stage, of a large task, to a table of
 * ours; see uds_bulk_insert() for what the query must give.
 */
void
uds_stage_bulk(const UdsRun *run, const char *table, const char *query)
{
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(run->source->id),
	Int64GetDatum(run->task->id)};
	int			level = avoid_loops();

	uds_bulk_insert("uds", table, query, 2, types, values);
	AtEOXact_GUC(true, level);
}

/*
 * The same without that, for statements that write target tables.
 */
uint64
uds_stage_write(const UdsRun *run, const char *sql)
{
	return exec_plain(run, sql);
}

/*
 * The same as the owner of the source: for all that touches target tables.
 */
uint64
uds_stage_exec_as_owner(const UdsRun *run, const char *sql)
{
	UdsIdentity saved;
	uint64		n;

	uds_become(run->source->owner, &saved);
	n = exec_plain(run, sql);
	uds_unbecome(&saved);
	return n;
}

/*
 * Runs a query over the stage that returns one number.
 */
int64
uds_stage_count(const UdsRun *run, const char *sql)
{
	bool		isnull;

	uds_stage_exec(run, sql);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

/* $1's records in work, and what the settings say of it. */
#define OWN_LIVE \
"SELECT w.pk, s.id AS source_id, s.priority, w.data," \
"       " UDS_IGNORES_CASE("user") " AS fold_users," \
"       " UDS_IGNORES_CASE("department") " AS fold_departments," \
"       coalesce(w.link = 'new', false) AS is_new" \
"  FROM uds_work w, uds.source_settings s" \
"  JOIN uds.source_manifests t ON t.source_id = s.id" \
" WHERE w.pk IS NOT NULL AND NOT w.gone AND s.id = $1"

/* The same of all other sources, for the rows that desired names. */
#define OTHERS_LIVE \
"SELECT d.pk, s.id, s.priority, r.data," \
"       " UDS_IGNORES_CASE("user") "," \
"       " UDS_IGNORES_CASE("department") ", false" \
"  FROM uds_desired d" \
"  JOIN uds.record_resources l ON l.resource_pk = d.pk::text AND l.resource = "

#define OTHERS_LIVE_TAIL \
"  JOIN uds.records r ON r.id = l.record_id AND NOT r.deleted AND r.source_id <> $1" \
"  JOIN uds.source_settings s ON s.id = r.source_id" \
"  JOIN uds.source_manifests t ON t.source_id = s.id"

/*
 * Returns a query for the live records behind the rows in desired: pk,
 * source_id, priority, data, fold_users, fold_departments, is_new.
 */
const char *
uds_stage_live(const UdsRun *run, const UdsResource *resource)
{
	if (!run->shared)
		return OWN_LIVE;
	return psprintf("%s UNION ALL %s'%s'%s", OWN_LIVE, OTHERS_LIVE, resource->name,
					OTHERS_LIVE_TAIL);
}
