/*-------------------------------------------------------------------------
 *
 * undo_rows.c
 *		The statements by which an undo compares and writes target tables.
 *
 * They run over the stage relation undone, as the source's owner, and rows
 * that the database refuses are set aside as with any task.  Fills seen and
 * changed.  Runs in the transaction of a task; row locks on target rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "reconcile/stage.h"

/* What is reckoned by us and not set by a task does not count. */
static const char *const look_sql =
"INSERT INTO uds_seen (n, is_after, is_before)"
"SELECT s.n, record_image_eq(s.after, s.present), record_image_eq(s.before, s.present)"
"  FROM (SELECT x.n, t AS present,"
"               jsonb_populate_record(t, coalesce(x.after, '{}') - {reckoned}) AS after,"
"               jsonb_populate_record(t, coalesce(x.before, '{}') - {reckoned}) AS before"
"          FROM uds_undone x"
"          JOIN {table} t ON {key}"
"         WHERE x.resource = '{resource}' AND x.state IS NULL{rows}"
"        OFFSET 0) AS s";

/* Rows that the database refused; other error rows of them have a number. */
static const char *const refused_sql =
"UPDATE uds_undone x"
"   SET state = 'left'"
"  FROM uds_rejected j"
" WHERE x.state IS NULL AND j.resource = x.resource AND j.pk = x.id AND j.n IS NULL"
"   AND x.resource <> 'members'";

/* Who does not come back needs no memberships. */
static const char *const follow_sql =
"UPDATE uds_undone x"
"   SET state = 'kept'"
"  FROM uds_undone o"
" WHERE x.resource = 'members' AND x.how = 'insert' AND x.state IS NULL"
"   AND o.how = 'insert' AND o.state = 'left'"
"   AND (o.resource = 'users' AND o.id = x.id"
"        OR o.resource = 'departments' AND o.id = x.department_id)";

static const char *const insert_sql =
"WITH written AS"
"     (INSERT INTO {table} AS t ({all})"
"      OVERRIDING SYSTEM VALUE"
"      SELECT {inserts}"
"        FROM (SELECT x.before, jsonb_populate_record(NULL::{table}, x.before) AS p"
"                FROM uds_undone x"
"               WHERE x.resource = '{resource}' AND x.how = 'insert' AND x.state IS NULL{rows}"
"               ORDER BY x.n"
"               OFFSET 0) AS n"
"   RETURNING t.*)"
"INSERT INTO uds_changed (resource, pk, uid, action, after)"
"SELECT x.resource, x.pk, x.uid, CASE x.resource WHEN 'members' THEN 'link' ELSE 'create' END,"
"       to_jsonb(t)"
"  FROM written t"
"  JOIN uds_undone x ON x.resource = '{resource}' AND {key}{rows}";

static const char *const update_sql =
"WITH written AS"
"     (UPDATE {table} AS t"
"         SET {assignments}"
"        FROM (SELECT x.n, x.id, x.department_id, x.pk, jsonb_populate_record(t, x.before) AS p"
"                FROM uds_undone x"
"                JOIN {table} t ON {key}"
"               WHERE x.resource = '{resource}' AND x.how = 'update' AND x.state IS NULL{rows}"
"              OFFSET 0) AS x"
"       WHERE {key}"
"   RETURNING x.n)"
"INSERT INTO uds_changed (resource, pk, uid, action, before, after)"
"SELECT x.resource, {new_pk}, x.uid,"
"       CASE WHEN x.resource = 'members' OR NOT x.before ? 'enabled' THEN 'update'"
"            WHEN x.before @> '{\"enabled\": true}' THEN 'enable'"
"            ELSE 'disable' END,"
"       x.after, x.before"
"  FROM uds_undone x"
"  JOIN written w USING (n)";

static const char *const delete_sql =
"WITH {along}"
"     written AS"
"     (DELETE FROM {table} t"
"       USING uds_undone x"
"       WHERE x.resource = '{resource}' AND x.how = 'delete' AND x.state IS NULL AND {key}{rows}"
"   RETURNING t.*)"
"INSERT INTO uds_changed (resource, pk, uid, action, before)"
"SELECT x.resource, x.pk, x.uid, CASE x.resource WHEN 'members' THEN 'unlink' ELSE 'delete' END,"
"       to_jsonb(t)"
"  FROM written t"
"  JOIN uds_undone x ON x.resource = '{resource}' AND {key}{rows}";

/* The memberships of a user who goes, so that both go or neither does. */
static const char *const along_sql =
"     unlinked AS"
"     (DELETE FROM uds.department_members m"
"       USING uds_undone x"
"       WHERE x.resource = 'users' AND x.how = 'delete' AND x.state IS NULL"
"         AND m.user_id = x.id{rows}"
"   RETURNING m.*, x.uid),"
"     told AS"
"     (INSERT INTO uds_changed (resource, pk, uid, action, before)"
"      SELECT 'members', u.department_id || ':' || u.user_id, u.uid, 'unlink',"
"             to_jsonb(u) - 'uid'"
"        FROM unlinked u),";

/*
 * Columns that can be written: name, literal, default, and whether an update
 * sets it: $2 those that it does not; $3 the resource, where it sets only
 * those that change.
 */
static const char *const columns_sql =
"SELECT quote_ident(a.attname), quote_literal(a.attname),"
"       coalesce(pg_get_expr(d.adbin, d.adrelid), 'NULL'),"
"       a.attidentity = '' AND a.attname <> ALL ($2::text[])"
"       AND ($3 IS NULL"
"            OR EXISTS (SELECT 1"
"                         FROM uds_undone x"
"                        WHERE x.resource = $3 AND x.how = 'update' AND x.state IS NULL"
"                          AND x.before ? a.attname::text))"
"  FROM pg_attribute a"
"  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
" WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped"
"   AND a.attgenerated = ''"
" ORDER BY a.attnum";

/* A target table as an undo sees it. */
typedef struct Target
{
	const char *name;
	const char *table;
	const char *key;			/* row "t" of it is the one that "x" means */
	const char *new_pk;			/* its key once "x" is updated */
	const UdsResource *resource;	/* whose records are blamed */
	const char *touch;			/* further assignment of an update */
	const char *reckoned;		/* text[]: columns that are not compared */
	const char *fixed;			/* text[]: and those that are not put back */
	bool		mapped;
} Target;

#define RECKONED "{id,is_leaf,created_at,updated_at}"
#define FIXED "{id,department_id,user_id,created_at,updated_at,is_leaf}"

static const Target departments = {
	"departments", "uds.departments", "t.id = x.id", "x.pk", &uds_departments,
	"updated_at = now()", RECKONED, FIXED, false
};
static const Target users = {
	"users", "uds.users", "t.id = x.id", "x.pk", &uds_users,
	"updated_at = now()", RECKONED, FIXED, false
};
static const Target members = {
	"members", "uds.department_members",
	"t.user_id = x.id AND t.department_id = x.department_id", "x.pk", &uds_users,
	NULL, RECKONED, FIXED, false
};

static char *
expand(const Target *target, const char *sql)
{
	return uds_stage_expand(sql,
							"resource", target->name,
							"table", target->table,
							"key", target->key,
							"new_pk", target->new_pk,
							"reckoned", psprintf("'%s'::text[]", target->reckoned),
							NULL);
}

/*
 * Passes over the memberships of rows that will not come back.
 */
void
uds_undo_follow(const UdsRun *run)
{
	uds_stage_exec(run, follow_sql);
}

/* Runs a statement over undone, setting aside the rows it refuses. */
static void
write_rows(const UdsRun *run, const Target *target, const char *sql,
		   const char *const *words)
{
	UdsStatement statement = {
		.sql = sql,
		.words = words,
		.rows = " AND x.n = ANY ($3)",
		.relation = "uds_undone",
		.pk = "id",
		.blamed = target->name,
		.keeps_rows = true
	};

	if (uds_stage_isolate(run, target->resource, &statement))
	{
		uds_stage_exec(run, refused_sql);
		uds_undo_follow(run);
	}
}

/* Whether there is anything of this kind to be written. */
static bool
has_rows(const UdsRun *run, const Target *target, const char *how)
{
	return uds_stage_count(run, psprintf("SELECT count(*) FROM uds_undone"
										 " WHERE resource = '%s' AND how = '%s' AND state IS NULL",
										 target->name, how)) > 0;
}

static void
delete_rows(const UdsRun *run, const Target *target)
{
	if (has_rows(run, target, "delete"))
		write_rows(run, target,
				   uds_stage_expand(expand(target, delete_sql),
									"along", target == &users ? along_sql : "", NULL),
				   NULL);
}

/* Looks up the columns of a target; returns how many there are. */
static uint64
find_columns(const Target *target)
{
	Oid			types[3] = {TEXTOID, TEXTOID, TEXTOID};
	Datum		values[3] = {CStringGetTextDatum(target->table),
		CStringGetTextDatum(target->fixed),
	CStringGetTextDatum(target->name)};

	return uds_spi_exec(columns_sql, 3, types, values, target->mapped ? "   " : "  n");
}

static void
update_rows(const UdsRun *run, const Target *target)
{
	StringInfoData assignments;
	const char *words[] = {"assignments", NULL, NULL};
	uint64		n;

	if (!has_rows(run, target, "update"))
		return;
	initStringInfo(&assignments);
	n = find_columns(target);
	for (uint64 i = 0; i < n; i++)
		if (uds_spi_text(i, 4)[0] == 't')
			appendStringInfo(&assignments, "%s%s = (x.p).%s",
							 assignments.len > 0 ? ", " : "",
							 uds_spi_text(i, 1), uds_spi_text(i, 1));
	if (target->touch != NULL)
		appendStringInfo(&assignments, ", %s", target->touch);
	words[1] = assignments.data;
	write_rows(run, target, expand(target, update_sql), words);
}

static void
insert_rows(const UdsRun *run, const Target *target)
{
	StringInfoData all;
	StringInfoData inserts;
	const char *words[] = {"all", NULL, "inserts", NULL, NULL};
	uint64		n;

	if (!has_rows(run, target, "insert"))
		return;
	initStringInfo(&all);
	initStringInfo(&inserts);
	n = find_columns(target);
	for (uint64 i = 0; i < n; i++)
	{
		const char *comma = i > 0 ? ", " : "";

		appendStringInfo(&all, "%s%s", comma, uds_spi_text(i, 1));
		appendStringInfo(&inserts, "%sCASE WHEN n.before ? %s THEN (n.p).%s ELSE %s END",
						 comma, uds_spi_text(i, 2), uds_spi_text(i, 1), uds_spi_text(i, 3));
	}
	words[1] = all.data;
	words[3] = inserts.data;
	write_rows(run, target, expand(target, insert_sql), words);
}

/*
 * Compares the rows in undone with what the task left and with what was there
 * before it: fills seen.
 */
void
uds_undo_look(const UdsRun *run)
{
	const Target *const targets[] = {&departments, &users, &members};

	for (int i = 0; i < lengthof(targets); i++)
		write_rows(run, targets[i], expand(targets[i], look_sql), NULL);
}

/*
 * Writes what may be put back, all but departments that go: these do so after
 * those who belong to them.  Departments that come back are there before; and
 * unique values are given up before they are taken.
 */
void
uds_undo_write(const UdsRun *run)
{
	insert_rows(run, &departments);
	update_rows(run, &departments);
	delete_rows(run, &members);
	delete_rows(run, &users);
	update_rows(run, &users);
	insert_rows(run, &users);
	update_rows(run, &members);
	insert_rows(run, &members);
}

/*
 * Deletes the departments that the task made.
 */
void
uds_undo_write_last(const UdsRun *run)
{
	delete_rows(run, &departments);
}

/* A mapped table; false if it cannot be written any more. */
static bool
open_mapped(const UdsRun *run, const UdsEntry *entry, Target *target)
{
	UdsMappedTable *table;
	char	   *obstacle;

	if (entry->builtin || entry->function != NULL)
		return false;
	table = uds_mapped_open(run, entry, &obstacle);
	if (table == NULL)
		return false;
	memset(target, 0, sizeof(Target));
	target->name = entry->name;
	target->table = table->name;
	target->key = psprintf("t.%s = CAST(x.pk AS %s)", table->key, table->key_type);
	target->new_pk = psprintf("coalesce(CAST(x.before ->> %s AS %s)::text, x.pk)",
							  table->key_literal, table->key_type);
	target->resource = &table->resource;
	target->reckoned = target->fixed = "{}";
	target->mapped = true;
	return true;
}

/*
 * Compares the rows of mapped tables in undone, and appends the names of the
 * resources that can be written to "mapped", as SQL literals.
 */
void
uds_undo_look_mapped(const UdsRun *run, StringInfo mapped)
{
	ListCell   *lc;
	Target		target;

	foreach(lc, run->entries)
	{
		const UdsEntry *entry = lfirst(lc);

		if (!open_mapped(run, entry, &target))
			continue;
		write_rows(run, &target, expand(&target, look_sql), NULL);
		appendStringInfo(mapped, "%s%s", mapped->len > 0 ? ", " : "", entry->literal);
	}
}

/*
 * Deletes the rows of mapped tables that the task made, in the reverse order
 * of the resources.
 */
void
uds_undo_withdraw_mapped(const UdsRun *run)
{
	Target		target;

	for (int i = list_length(run->entries) - 1; i >= 0; i--)
		if (open_mapped(run, list_nth(run->entries, i), &target))
			delete_rows(run, &target);
}

/*
 * Puts back the others.
 */
void
uds_undo_write_mapped(const UdsRun *run)
{
	ListCell   *lc;
	Target		target;

	foreach(lc, run->entries)
		if (open_mapped(run, lfirst(lc), &target))
		{
			update_rows(run, &target);
			insert_rows(run, &target);
		}
}
