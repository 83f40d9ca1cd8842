/*-------------------------------------------------------------------------
 *
 * mapped.c
 *		Tables of the user that are filled from records by mapping.
 *
 * A row is found by its key, which the mapping fills, or by the record that
 * stood behind it before.  What it should be is compared with what it is, so
 * that a table mapped later, or altered by hand, comes right by itself.
 *
 * Fills the stage relations said, keyed, wanted, altered and changed.  Runs
 * in the transaction of a task.  Mapping is done as the extension's owner,
 * everything that touches the table as the source's owner.  Row locks on the
 * rows written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "reconcile/stage.h"

/* $1 table, $2 columns, $3 key, $4 role that writes it */
static const char *const table_sql =
"SELECT format('%I.%I', n.nspname, c.relname),"
"       CASE WHEN NOT has_schema_privilege($4, n.oid, 'USAGE')"
"                 OR NOT has_table_privilege($4, c.oid, 'SELECT')"
"                 OR NOT has_table_privilege($4, c.oid, 'INSERT')"
"                 OR NOT has_any_column_privilege($4, c.oid, 'UPDATE')"
"                 OR NOT has_table_privilege($4, c.oid, 'DELETE')"
"            THEN format('role %I, the owner of the source, may not write %s', pg_get_userbyid($4), c.oid::regclass)"
"            ELSE (SELECT format('column \"%s\" of %s is gone, or generated', k, c.oid::regclass)"
"                    FROM jsonb_object_keys($2) AS k"
"                   WHERE NOT EXISTS (SELECT 1 FROM pg_attribute a"
"                                      WHERE a.attrelid = c.oid AND a.attname = k AND NOT a.attisdropped"
"                                        AND a.attgenerated = '' AND a.attidentity = '')"
"                   LIMIT 1) END,"
"       (SELECT quote_ident(a.attname) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = $3),"
"       (SELECT format_type(a.atttypid, CASE WHEN a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype)"
"                                            THEN -1 ELSE a.atttypmod END)"
"          FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = $3)"
"  FROM pg_class c"
"  JOIN pg_namespace n ON n.oid = c.relnamespace"
" WHERE c.oid = $1";

/* Its columns that the mapping fills: name, literal, type, default. */
static const char *const columns_sql =
"SELECT quote_ident(a.attname), quote_literal(a.attname), format_type(a.atttypid, a.atttypmod),"
"       coalesce(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(t.typdefaultbin, 0), 'NULL'),"
"       a.attname = $3"
"  FROM pg_attribute a"
"  JOIN pg_type t ON t.oid = a.atttypid"
"  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
" WHERE a.attrelid = $1 AND $2 ? a.attname::text AND a.attnum > 0 AND NOT a.attisdropped"
" ORDER BY a.attnum";

static const char *const say_sql =
"INSERT INTO uds_said (resource, given, data_type, record_id, uid, data, said, gone, policy, was, sqlstate, error)"
"SELECT {resource}, g.n, '{data_type}', g.record_id, g.uid, g.data, m.record, g.gone, g.policy, l.resource_pk,"
"       CASE WHEN m.error IS NOT NULL THEN '22023' END, m.error"
"  FROM ({given}) AS g"
"  LEFT JOIN uds.record_resources l ON l.record_id = g.record_id AND l.resource = {resource}"
"  LEFT JOIN LATERAL uds.map_page(g.data::text, {stream}, '{}') AS m ON NOT g.gone"
" WHERE NOT g.gone OR l.record_id IS NOT NULL"
" ORDER BY g.n";

/*
 * The key as its type spells it, the row that has it, and the row that the
 * record stood behind before.  No key: the record makes no row.
 */
static const char *const find_sql =
"INSERT INTO uds_keyed (n, key, found, linked)"
"SELECT k.n, k.key::text, t.{key}::text, o.{key}::text"
"  FROM (SELECT s.n, CAST(nullif(s.said ->> {key_literal}, '') AS {key_type}) AS key,"
"               CAST(s.was AS {key_type}) AS was"
"          FROM uds_said s"
"         WHERE s.resource = {resource} AND s.error IS NULL{rows}"
"        OFFSET 0) AS k"
"  LEFT JOIN {table} t ON t.{key} = k.key"
"  LEFT JOIN {table} o ON o.{key} = k.was";

/* As with users, of two records of one source only one has the row. */
static const char *const ambiguous_sql =
"UPDATE uds_said x"
"   SET sqlstate = '21000', error = 'ambiguous match: another record of the source has the same key'"
"  FROM (SELECT s.n,"
"               row_number() OVER (PARTITION BY k.key ORDER BY s.was IS DISTINCT FROM k.key, s.n) > 1"
"               OR EXISTS (SELECT 1"
"                            FROM uds.record_resources l"
"                            JOIN uds.records r ON r.id = l.record_id"
"                           WHERE l.resource = {resource} AND l.resource_pk = k.key"
"                             AND r.source_id = $1 AND NOT r.deleted"
"                             AND NOT EXISTS (SELECT 1"
"                                               FROM uds_said o"
"                                              WHERE o.resource = {resource} AND o.record_id = r.id))"
"               AS is_second"
"          FROM uds_said s"
"          JOIN uds_keyed k USING (n)"
"         WHERE s.resource = {resource} AND s.error IS NULL AND k.key IS NOT NULL) AS v"
" WHERE v.n = x.n AND v.is_second";

#define IS_OURS(key) \
"EXISTS (SELECT 1" \
"          FROM uds.record_resources m" \
"         WHERE m.resource = {resource} AND m.resource_pk = " key " AND m.created)"

/*
 * Rows with a record of the task behind them.  Where nothing has the new key
 * of a record, the row that only this record stands behind gets it.  Who takes
 * over a row that a sync made takes that over as well.
 */
static const char *const want_sql =
"INSERT INTO uds_wanted (resource, record_id, uid, old_key, key, is_new, is_ours, said)"
"SELECT {resource}, p.record_id, p.uid, p.old_key, p.key, p.old_key IS NULL,"
"       p.old_key IS NULL OR p.was IS DISTINCT FROM p.old_key AND " IS_OURS("p.old_key") ", p.said"
"  FROM (SELECT s.*, k.key,"
"               CASE WHEN k.found IS NOT NULL THEN k.found"
"                    WHEN k.linked IS NULL OR f.found IS NOT NULL THEN NULL"
"                    WHEN NOT EXISTS (SELECT 1"
"                                       FROM uds.record_resources l"
"                                       JOIN uds.records r ON r.id = l.record_id"
"                                      WHERE l.resource = {resource} AND l.resource_pk = k.linked"
"                                        AND r.source_id <> $1 AND NOT r.deleted)"
"                    THEN k.linked END AS old_key"
"          FROM uds_said s"
"          JOIN uds_keyed k USING (n)"
"          LEFT JOIN (SELECT DISTINCT k.found"
"                       FROM uds_keyed k"
"                       JOIN uds_said s USING (n)"
"                      WHERE s.resource = {resource} AND s.error IS NULL) AS f ON f.found = k.linked"
"         WHERE s.resource = {resource} AND s.error IS NULL AND k.key IS NOT NULL) AS p";

/* Rows that lost theirs: it left, or has another key, or none. */
static const char *const want_left_sql =
"INSERT INTO uds_wanted (resource, record_id, uid, old_key, key, is_new, is_ours, leave)"
"SELECT {resource}, l.record_id, l.uid, l.linked, l.linked, false, " IS_OURS("l.linked") ", l.leave"
"  FROM (SELECT DISTINCT ON (k.linked) k.linked, s.record_id, s.uid,"
"               CASE WHEN s.gone THEN s.policy ELSE 'moved' END AS leave"
"          FROM uds_said s"
"          JOIN uds_keyed k USING (n)"
"         WHERE s.resource = {resource} AND s.error IS NULL AND k.linked IS NOT NULL"
"         ORDER BY k.linked, s.n) AS l"
" WHERE NOT EXISTS (SELECT 1"
"                     FROM uds_wanted d"
"                    WHERE d.resource = {resource} AND d.old_key = l.linked)";

/* The live records of other sources have a say, the best priority on top. */
static const char *const merge_sql =
"UPDATE uds_wanted d"
"   SET said = m.said, leave = NULL"
"  FROM (SELECT v.n, uds.merge_records(v.said ORDER BY v.priority DESC, v.source_id DESC) AS said"
"          FROM (SELECT w.n, s.id AS source_id, s.priority, w.said"
"                  FROM uds_wanted w, uds.source_settings s"
"                 WHERE w.resource = {resource} AND w.leave IS NULL AND s.id = $1"
"                 UNION ALL"
"                SELECT w.n, r.source_id, s.priority, m.record"
"                  FROM uds_wanted w"
"                  JOIN uds.record_resources l ON l.resource = {resource} AND l.resource_pk = coalesce(w.old_key, w.key)"
"                  JOIN uds.records r ON r.id = l.record_id AND NOT r.deleted AND r.source_id <> $1"
"                  JOIN uds.source_settings s ON s.id = r.source_id"
"                 CROSS JOIN LATERAL uds.map_page(r.data::text, {stream}, '{}') AS m"
"                 WHERE w.resource = {resource} AND m.error IS NULL) AS v"
"         GROUP BY v.n"
"        HAVING bool_or(v.source_id <> $1)) AS m"
" WHERE m.n = d.n";

/* A row that no sync made stays. */
static const char *const leave_sql =
"UPDATE uds_wanted d"
"   SET leave = CASE WHEN d.is_ours THEN 'delete' WHEN d.leave = 'delete' THEN 'disable' ELSE 'keep' END"
" WHERE d.resource = {resource} AND d.leave IN ('delete', 'moved')";

/* What column enabled becomes: a row that left and comes back is enabled. */
static const char *const enabled_sql =
"UPDATE uds_wanted d"
"   SET said = CASE WHEN d.leave = 'disable' THEN '{\"enabled\": false}'"
"                   WHEN d.is_new OR EXISTS (SELECT 1"
"                                              FROM uds.disabled_rows o"
"                                             WHERE o.resource = {resource} AND o.resource_pk = d.old_key)"
"                   THEN d.said || '{\"enabled\": true}'"
"                   ELSE d.said - 'enabled' END"
" WHERE d.resource = {resource}"
"   AND (d.leave = 'disable' OR d.leave IS NULL AND coalesce(d.said -> 'enabled', 'null') = 'null')";

static const char *const delete_sql =
"WITH written AS"
"     (DELETE FROM {table} t"
"       USING uds_wanted d"
"       WHERE d.resource = {resource} AND d.leave = 'delete'"
"         AND t.{key} = CAST(d.old_key AS {key_type}){rows}"
"   RETURNING d.old_key, d.uid, to_jsonb(t) AS before)"
"INSERT INTO uds_changed (resource, pk, uid, action, before)"
"SELECT {resource}, w.old_key, w.uid, 'delete', w.before"
"  FROM written w";

/* Rows already there, with what the mapping makes of them. */
#define NEW \
"SELECT d.n, d.uid, d.key, t.{key} AS at, t AS old, jsonb_populate_record(t, d.said) AS p" \
"  FROM uds_wanted d" \
"  JOIN {table} t ON t.{key} = CAST(d.old_key AS {key_type})" \
" WHERE d.resource = {resource} AND NOT d.is_new AND d.said IS NOT NULL"

static const char *const compare_sql =
"INSERT INTO uds_altered (n, action, before, after)"
"SELECT v.n,"
"       CASE WHEN NOT v.after ? 'enabled' THEN 'update'"
"            WHEN v.after @> '{\"enabled\": true}' THEN 'enable' ELSE 'disable' END,"
"       (SELECT jsonb_object_agg(b.key, b.value) FROM jsonb_each(v.before) AS b WHERE v.after ? b.key),"
"       v.after"
"  FROM (SELECT c.n, c.before,"
"               (SELECT jsonb_object_agg(a.key, a.value)"
"                  FROM jsonb_each(c.after) AS a"
"                 WHERE a.value IS DISTINCT FROM c.before -> a.key) AS after"
"          FROM (SELECT n.n, to_jsonb(n.old) AS before, to_jsonb(n.p) AS after"
"                  FROM (" NEW "{rows} OFFSET 0) AS n"
"                 WHERE record_image_ne(ROW({new}), ROW({old}))) AS c) AS v"
" WHERE v.after IS NOT NULL";

/* Of rows that keep their key, and of those that get another one. */
#define UPDATE(columns, new, keeping) \
"WITH written AS" \
"     (UPDATE {table} AS t" \
"         SET (" columns ") = ROW(" new ")" \
"        FROM (" NEW \
"                 AND d.n IN (SELECT a.n FROM uds_altered a WHERE " keeping " a.after ? {key_literal}){rows}" \
"              OFFSET 0) AS n" \
"       WHERE t.{key} = n.at" \
"   RETURNING n.n, n.key, n.uid)" \
"INSERT INTO uds_changed (resource, pk, uid, action, before, after)" \
"SELECT {resource}, w.key, w.uid, a.action, a.before, a.after" \
"  FROM written w" \
"  JOIN uds_altered a USING (n)"

static const char *const update_sql = UPDATE("{others}", "{others_new}", "NOT");
static const char *const update_key_sql = UPDATE("{columns}", "{new}", "");

static const char *const insert_sql =
"WITH written AS"
"     (INSERT INTO {table} AS t ({columns})"
"      SELECT {inserts}"
"        FROM uds_wanted d"
"       CROSS JOIN LATERAL jsonb_to_record(d.said) AS p ({types})"
"       WHERE d.resource = {resource} AND d.is_new{rows}"
"   RETURNING t.{key}::text AS key, to_jsonb(t) AS made)"
"INSERT INTO uds_changed (resource, pk, uid, action, after)"
"SELECT {resource}, w.key, d.uid, 'create',"
"       (SELECT jsonb_object_agg(m.key, m.value) FROM jsonb_each(w.made) AS m WHERE d.said ? m.key)"
"  FROM written w"
"  JOIN uds_wanted d ON d.resource = {resource} AND d.is_new AND d.key = w.key";

static const char *const wanted_sql =
"SELECT count(*) FROM uds_wanted WHERE resource = {resource}";

static const char *const altered_sql =
"SELECT count(*) FROM uds_altered WHERE NOT after ? {key_literal}";

static const char *const altered_key_sql =
"SELECT count(*) FROM uds_altered WHERE after ? {key_literal}";

/* Links, once the rows are written. */
static const char *const link_sql[] = {
	"DELETE FROM uds.record_resources l"
	" USING uds_changed c"
	" WHERE c.resource = {resource} AND c.action = 'delete'"
	"   AND l.resource = {resource} AND l.resource_pk = c.pk",

	/* a row's new key */
	"UPDATE uds.record_resources l"
	"   SET resource_pk = d.key"
	"  FROM uds_wanted d"
	" WHERE d.resource = {resource} AND d.old_key <> d.key"
	"   AND l.resource = {resource} AND l.resource_pk = d.old_key",

	/* another row, or none */
	"DELETE FROM uds.record_resources l"
	" USING uds_said s, uds_keyed k"
	" WHERE s.resource = {resource} AND s.error IS NULL AND NOT s.gone AND k.n = s.n"
	"   AND l.resource = {resource} AND l.record_id = s.record_id"
	"   AND l.resource_pk IS DISTINCT FROM k.key",

	"INSERT INTO uds.record_resources (record_id, resource, resource_pk, created)"
	"SELECT s.record_id, {resource}, d.key, d.is_ours"
	"  FROM uds_said s"
	"  JOIN uds_keyed k USING (n)"
	"  JOIN uds_wanted d ON d.resource = {resource} AND d.record_id = s.record_id AND d.key = k.key"
	" WHERE s.resource = {resource} AND NOT s.gone AND d.leave IS NULL"
	"   AND NOT EXISTS (SELECT 1"
	"                     FROM uds.record_resources l"
	"                    WHERE l.resource = {resource} AND l.record_id = s.record_id)",

	/* who got a row that was there, unchanged */
	"INSERT INTO uds_changed (resource, pk, uid, action)"
	"SELECT {resource}, d.key, d.uid, 'link'"
	"  FROM uds_said s"
	"  JOIN uds_keyed k USING (n)"
	"  JOIN uds_wanted d ON d.resource = {resource} AND d.record_id = s.record_id AND d.key = k.key"
	" WHERE s.resource = {resource} AND NOT s.gone AND d.leave IS NULL AND NOT d.is_new"
	"   AND s.was IS DISTINCT FROM d.old_key"
	"   AND NOT EXISTS (SELECT 1 FROM uds_changed c WHERE c.resource = {resource} AND c.pk = d.key)",

	"DELETE FROM uds.disabled_rows o"
	" USING uds_wanted d"
	" WHERE d.resource = {resource} AND d.leave IS DISTINCT FROM 'disable'"
	"   AND o.resource = {resource} AND o.resource_pk IN (d.old_key, d.key)",

	"INSERT INTO uds.disabled_rows (resource, resource_pk)"
	"SELECT {resource}, c.pk"
	"  FROM uds_changed c"
	"  JOIN uds_wanted d ON d.resource = {resource} AND d.leave = 'disable' AND d.key = c.pk"
	" WHERE c.resource = {resource} AND c.action = 'disable' "
	"ON CONFLICT DO NOTHING"
};

/* A mapped table as it is now, and pieces of statements over its columns. */
typedef struct Mapped
{
	UdsMappedTable *table;
	char	   *stream;			/* SQL literal, see uds.map_page() */
	StringInfoData columns;
	StringInfoData new;			/* what they become, of rows there */
	StringInfoData old;
	StringInfoData inserts;		/* of new rows */
	StringInfoData types;
	StringInfoData others;		/* columns without the key */
	StringInfoData others_new;
	bool		has_enabled;
} Mapped;

/* Reads the mapping's columns; they are there, uds_mapped_open() has seen to it. */
static void
list_columns(const UdsEntry *entry, Mapped *mapped)
{
	Oid			types[3] = {OIDOID, JSONBOID, TEXTOID};
	Datum		values[3] = {ObjectIdGetDatum(entry->target),
		DirectFunctionCall1(jsonb_in, CStringGetDatum(entry->columns)),
	CStringGetTextDatum(entry->key)};
	uint64		n = uds_spi_exec(columns_sql, 3, types, values, NULL);

	initStringInfo(&mapped->columns);
	initStringInfo(&mapped->new);
	initStringInfo(&mapped->old);
	initStringInfo(&mapped->inserts);
	initStringInfo(&mapped->types);
	initStringInfo(&mapped->others);
	initStringInfo(&mapped->others_new);
	for (uint64 i = 0; i < n; i++)
	{
		const char *comma = i > 0 ? ", " : "";
		char	   *name = uds_spi_text(i, 1);
		char	   *literal = uds_spi_text(i, 2);

		appendStringInfo(&mapped->columns, "%s%s", comma, name);
		appendStringInfo(&mapped->new, "%s(n.p).%s", comma, name);
		appendStringInfo(&mapped->old, "%s(n.old).%s", comma, name);
		appendStringInfo(&mapped->inserts, "%sCASE WHEN d.said ? %s THEN p.%s ELSE %s END",
						 comma, literal, name, uds_spi_text(i, 4));
		appendStringInfo(&mapped->types, "%s%s %s", comma, name, uds_spi_text(i, 3));
		mapped->has_enabled |= strcmp(name, "enabled") == 0;
		if (uds_spi_text(i, 5)[0] == 'f')
		{
			comma = mapped->others.len > 0 ? ", " : "";
			appendStringInfo(&mapped->others, "%s%s", comma, name);
			appendStringInfo(&mapped->others_new, "%s(n.p).%s", comma, name);
		}
	}
}

/*
 * Reads what the table of an entry is like now.  NULL, with the reason in
 * *obstacle, if it cannot be filled any more.  Constraints of it that would be
 * checked at commit are checked in each statement from now on.
 */
UdsMappedTable *
uds_mapped_open(const UdsRun *run, const UdsEntry *entry, char **obstacle)
{
	UdsMappedTable *table = palloc0(sizeof(UdsMappedTable));
	Oid			types[4] = {OIDOID, JSONBOID, TEXTOID, OIDOID};
	Datum		values[4] = {ObjectIdGetDatum(entry->target),
		DirectFunctionCall1(jsonb_in, CStringGetDatum(entry->columns)),
		CStringGetTextDatum(entry->key),
	ObjectIdGetDatum(run->source->owner)};

	if (uds_spi_exec(table_sql, 4, types, values, NULL) == 0)
	{
		*obstacle = "the table it fills was dropped";
		return NULL;
	}
	*obstacle = uds_spi_text(0, 2);
	if (*obstacle != NULL)
		return NULL;
	table->name = uds_spi_text(0, 1);
	table->key = uds_spi_text(0, 3);
	table->key_type = uds_spi_text(0, 4);
	table->key_literal = quote_literal_cstr(entry->key);
	table->resource.name = entry->name;
	table->resource.table = table->name;
	table->resource.data_type = entry->takes_users ? UDS_TYPE_USER : UDS_TYPE_DEPARTMENT;
	uds_constraints_check_now(entry->target, run->source->owner);
	return table;
}

/* The same, with the pieces of statements. */
static Mapped *
open_table(const UdsRun *run, const UdsEntry *entry, char **obstacle)
{
	UdsMappedTable *table = uds_mapped_open(run, entry, obstacle);
	Mapped	   *mapped;

	if (table == NULL)
		return NULL;
	mapped = palloc0(sizeof(Mapped));
	mapped->table = table;
	mapped->stream = quote_literal_cstr(psprintf("{\"records\": \"$\", \"fields\": %s}",
												 entry->columns));
	list_columns(entry, mapped);
	return mapped;
}

/* What goes into the statements over the table. */
static const char *const *
list_words(const UdsEntry *entry, const Mapped *mapped)
{
	const char *const words[] = {
		"resource", entry->literal,
		"table", mapped->table->name,
		"key", mapped->table->key,
		"key_literal", mapped->table->key_literal,
		"key_type", mapped->table->key_type,
		"stream", mapped->stream,
		"columns", mapped->columns.data,
		"new", mapped->new.data,
		"old", mapped->old.data,
		"inserts", mapped->inserts.data,
		"types", mapped->types.data,
		"others", mapped->others.data,
		"others_new", mapped->others_new.data,
		NULL
	};

	return memcpy(palloc(sizeof(words)), words, sizeof(words));
}

static char *
expand(const UdsEntry *entry, const Mapped *mapped, const char *sql)
{
	return uds_stage_expand_words(sql, list_words(entry, mapped));
}

/* Runs a statement over a stage relation, setting aside what it refuses. */
static void
write_rows(const UdsRun *run, const UdsEntry *entry, const Mapped *mapped,
		   const char *relation, const char *rows, const char *sql)
{
	UdsStatement statement = {
		.sql = sql,
		.words = list_words(entry, mapped),
		.rows = rows,
		.relation = relation,
		.pk = "record_id",
		.blamed = entry->name,
		.keeps_rows = true
	};

	if (uds_stage_isolate(run, &mapped->table->resource, &statement))
		uds_resources_set_aside(run, entry);
}

/*
 * Finds out what the rows should be, and deletes those that shall go.
 */
void
uds_mapped_withdraw(const UdsRun *run, const UdsEntry *entry)
{
	char	   *obstacle;
	Mapped	   *mapped = open_table(run, entry, &obstacle);

	if (mapped == NULL)
	{
		uds_resources_refuse(run, entry, obstacle);
		return;
	}
	if (uds_stage_exec(run, uds_stage_expand(say_sql,
											 "resource", entry->literal,
											 "stream", mapped->stream,
											 "data_type", mapped->table->resource.data_type,
											 "given", uds_resources_given(run, entry, mapped->table->resource.data_type),
											 NULL)) == 0)
		return;
	uds_stage_analyze(run, "uds_said");
	write_rows(run, entry, mapped, "uds_said", " AND s.n = ANY ($3)", find_sql);
	uds_stage_analyze(run, "uds_keyed");
	uds_stage_exec(run, expand(entry, mapped, ambiguous_sql));
	uds_stage_exec(run, expand(entry, mapped, want_sql));
	uds_stage_analyze(run, "uds_wanted");
	uds_stage_exec(run, expand(entry, mapped, want_left_sql));
	if (run->shared)
		uds_stage_exec(run, expand(entry, mapped, merge_sql));
	uds_stage_exec(run, expand(entry, mapped, leave_sql));
	if (mapped->has_enabled)
		uds_stage_exec(run, expand(entry, mapped, enabled_sql));
	write_rows(run, entry, mapped, "uds_wanted", " AND d.n = ANY ($3)", delete_sql);
}

/* Writes the rows that differ and those that are new, and links the records. */
static void
write_wanted(const UdsRun *run, const UdsEntry *entry, const Mapped *mapped)
{
	static const char *const rows = " AND d.n = ANY ($3)";

	uds_stage_clear(run, "uds_altered");
	write_rows(run, entry, mapped, "uds_wanted", rows, compare_sql);
	uds_stage_analyze(run, "uds_altered");
	if (mapped->others.len > 0 &&
		uds_stage_count(run, expand(entry, mapped, altered_sql)) > 0)
		write_rows(run, entry, mapped, "uds_wanted", rows, update_sql);
	if (uds_stage_count(run, expand(entry, mapped, altered_key_sql)) > 0)
		write_rows(run, entry, mapped, "uds_wanted", rows, update_key_sql);
	write_rows(run, entry, mapped, "uds_wanted", rows, insert_sql);
	for (int i = 0; i < lengthof(link_sql); i++)
		uds_stage_exec(run, expand(entry, mapped, link_sql[i]));
}

/*
 * Makes the rows what they should be, and links the records to them.  Values
 * are given up before they are taken: to be called when all resources have
 * withdrawn what goes.
 */
void
uds_mapped_write(const UdsRun *run, const UdsEntry *entry)
{
	char	   *obstacle;
	Mapped	   *mapped = open_table(run, entry, &obstacle);

	if (mapped == NULL)
		return;
	if (uds_stage_count(run, expand(entry, mapped, wanted_sql)) > 0)
		write_wanted(run, entry, mapped);
	uds_resources_settle_errors(run, entry, mapped->table->resource.data_type);
}
