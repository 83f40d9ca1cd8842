/*-------------------------------------------------------------------------
 *
 * rows.c
 *		What the rows of a target table should be, and making them so.
 *
 * The same statements serve every resource; only names and columns differ.
 * Fills the stage relations desired, differing and changed.  Runs in the
 * transaction of a task.  What rows should be is computed as the extension's
 * owner from jsonb alone; the columns' types, defaults, checks and triggers
 * come into play as the source's owner.  Row locks on the target rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "reconcile/stage.h"

/* Limits a record to what its source may set. */
#define SETTABLE(data, columns) \
"CASE WHEN " columns " IS NULL THEN " UDS_SETTABLE(data) \
"     ELSE (SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}')" \
"             FROM jsonb_each(" data ") AS e" \
"            WHERE e.key = ANY (" columns ") AND e.key <> ALL ('{unsettable}'::text[])) END"

/*
 * The rows that records in work stand behind, each with the attributes of
 * its live records laid over one another, best priority on top.  Who is the
 * first to stand behind a row that was there brings it back as well.
 */
static const char *const merged_sql =
"WITH touched AS"
"     (SELECT pk, bool_or(was_deleted AND NOT gone) AS is_back,"
"             bool_or(coalesce(link = 'new', false)) AS is_new,"
"             bool_or(coalesce(link = 'matched', false)) AS is_matched,"
"             min(policy) FILTER (WHERE gone) AS policy,"
"             min(uid) AS uid"
"        FROM uds_work"
"       WHERE pk IS NOT NULL"
"       GROUP BY pk),"
"     live AS"
"     (SELECT w.pk, $1 AS source_id, s.priority,"
"             " SETTABLE("w.data", "s.columns") " AS data"
"        FROM uds_work w, uds.source_settings s"
"       WHERE w.pk IS NOT NULL AND NOT w.gone AND s.id = $1"
"       UNION ALL"
"      SELECT t.pk, r.source_id, s.priority,"
"             " SETTABLE("r.data", "s.columns") " AS data"
"        FROM touched t"
"        JOIN uds.record_resources l ON l.resource = '{resource}'"
"                                   AND l.resource_pk = t.pk::text"
"        JOIN uds.records r ON r.id = l.record_id AND NOT r.deleted"
"                          AND r.source_id <> $1"
"        JOIN uds.source_settings s ON s.id = r.source_id),"
"     merged AS"
"     (SELECT pk, count(*) AS records,"
"             uds.merge_records(data ORDER BY priority DESC, source_id DESC) AS data"
"        FROM live"
"       GROUP BY pk) "
"SELECT t.pk, t.uid, m.data, t.is_new,"
"       t.is_back OR t.is_matched AND m.records = 1 AS is_back,"
"       CASE WHEN m.pk IS NULL THEN t.policy END AS policy"
"  FROM touched t"
"  LEFT JOIN merged m ON m.pk = t.pk";

/* The same where only this source stands behind them. */
static const char *const single_sql =
"SELECT w.pk, w.uid,"
"       CASE WHEN NOT w.gone THEN " SETTABLE("w.data", "s.columns") " END AS data,"
"       coalesce(w.link = 'new', false) AS is_new,"
"       w.was_deleted AND NOT w.gone AS is_back,"
"       CASE WHEN w.gone THEN w.policy END AS policy"
"  FROM uds_work w, uds.source_settings s"
" WHERE w.pk IS NOT NULL AND s.id = $1";

/*
 * A protected row neither leaves nor is disabled; one that no sync made is
 * disabled where another would be deleted.  Few leave: they are looked up one
 * by one, which an EXISTS is not.
 */
static const char *const desire_sql =
"INSERT INTO uds_desired (n, pk, uid, merged, is_new, leave, noted, was_disabled, is_disabled)"
"SELECT row_number() OVER (), q.pk, q.uid, q.data, q.is_new,"
"       CASE WHEN NOT q.may_leave THEN NULL"
"            WHEN q.policy = 'delete' AND NOT q.is_ours THEN 'disable'"
"            ELSE q.policy END,"
"       q.noted, q.was_disabled,"
"       CASE WHEN q.policy IS NOT NULL THEN q.may_leave OR q.was_disabled"
"            WHEN jsonb_typeof(q.data -> 'enabled') <> 'null'"
"            THEN NOT (q.data ->> 'enabled')::boolean"
"            WHEN q.is_back THEN false"
"            ELSE q.was_disabled END"
"  FROM (SELECT p.*, o.resource_pk IS NOT NULL AS noted,"
"               o.resource_pk IS NOT NULL AND NOT (o.by_hand AND p.policy IS NULL) AS was_disabled,"
"               {may_leave} AS may_leave,"
"               p.policy = 'delete'"
"               AND coalesce((SELECT true"
"                               FROM uds.record_resources l"
"                              WHERE l.resource = '{resource}'"
"                                AND l.resource_pk = p.pk::text AND l.created"
"                              LIMIT 1), false) AS is_ours"
"          FROM ({people}) AS p"
"          LEFT JOIN uds.disabled_rows o ON o.resource = '{resource}'"
"                                       AND o.resource_pk = p.pk::text) AS q";

/*
 * Only the rows that differ are looked at again and written.  OFFSET keeps the
 * images from being made again for each column that is compared.
 */
static const char *const compare_sql =
"INSERT INTO uds_differing (n, pk, uid, action, before, after)"
"SELECT s.n, s.pk, s.uid,"
"       CASE WHEN s.enabled AND NOT s.old_enabled THEN 'enable'"
"            WHEN s.old_enabled AND NOT s.enabled THEN 'disable'"
"            ELSE 'update' END,"
"       (SELECT jsonb_object_agg(b.key, b.value)"
"          FROM jsonb_each(s.before) AS b"
"         WHERE b.value IS DISTINCT FROM s.after -> b.key),"
"       (SELECT jsonb_object_agg(a.key, a.value)"
"          FROM jsonb_each(s.after) AS a"
"         WHERE a.value IS DISTINCT FROM s.before -> a.key)"
"  FROM (SELECT n.*, n.before || jsonb_build_object({pairs}) AS after"
"          FROM (SELECT n.*, {enabled} AS enabled, (n.old).enabled AS old_enabled,"
"                       to_jsonb(n.old) - 'updated_at' AS before"
"                  FROM ({new}) AS n"
"                 WHERE record_image_ne(ROW({values}), ROW({old}))"
"                OFFSET 0) AS n"
"        OFFSET 0) AS s";

/* Writes rows and tells of those among them that differ. */
#define WRITTEN \
"     written AS" \
"     (UPDATE {table} AS t" \
"         SET ({columns}) = ROW({values}), updated_at = now()" \
"        FROM ({written}) AS n" \
"       WHERE t.id = n.pk{few}" \
"   RETURNING t.id)" \
"INSERT INTO uds_changed (resource, pk, uid, action, before, after)" \
"SELECT '{resource}', x.pk::text, x.uid, x.action, x.before, x.after" \
"  FROM {told} x" \
"  JOIN written w ON w.id = x.pk"

/* Rows already there, with what the merged record makes of them. */
static const char *const new_sql =
"SELECT d.*, u AS old, jsonb_populate_record(u, d.merged) AS p,"
"       f.department_id AS reference, f.pk IS NOT NULL AS reference_known"
"  FROM uds_desired d"
"  {present}"
"  LEFT JOIN uds_referred f ON f.pk = d.pk"
" WHERE NOT d.is_new AND d.leave IS DISTINCT FROM 'delete'{differing}{rows}"
" OFFSET 0";

static const char *const present_sql =
"JOIN {table} u ON u.id = d.pk";

/* Few, see uds_stage_join(); a row as a value. */
static const char *const present_few_sql =
"JOIN LATERAL (SELECT k AS u FROM {table} k WHERE k.id = d.pk OFFSET 0) AS h ON true";

static const char *const update_sql =
"WITH" WRITTEN;

static const char *const update_few_sql =
" AND t.id = ANY (ARRAY(SELECT x.pk FROM uds_differing x))";

/*
 * Both at once, for few rows: what they should be is made once.  Those that
 * differ are noted all the same, so that it shows if a trigger leaves one out.
 */
static const char *const compare_and_update_sql =
"WITH wanted AS MATERIALIZED"
"     (SELECT n.*"
"        FROM ({new}) AS n"
"       WHERE record_image_ne(ROW({values}), ROW({old}))),"
"     differing AS"
"     ({compare}"
"   RETURNING *)," WRITTEN;

/*
 * A directory lists people in any order.  Four of the indexes of uds.users go by
 * user name and address, which mostly begins with it: sorted, a million rows
 * go to their ends and not all over them.
 */
static const char *const order_sql =
"ORDER BY (d.merged ->> 'username') COLLATE \"C\"";

static const char *const insert_sql =
"WITH written AS"
"     (INSERT INTO {table} AS t (id, {columns})"
"      SELECT n.pk, {values}, {reference}"
"        FROM (SELECT s.*, jsonb_populate_record(NULL::{table}, {domains}s.merged) AS p"
"                FROM (SELECT d.*, f.department_id AS reference"
"                        FROM uds_desired d"
"                        LEFT JOIN uds_referred f ON f.pk = d.pk"
"                       WHERE d.is_new{rows}"
"                       {order} OFFSET 0) AS s"
"               OFFSET 0) AS n"
"   RETURNING t.*)"
"INSERT INTO uds_changed (resource, pk, uid, action, after)"
"SELECT '{resource}', w.id::text, d.uid, 'create',"
"       jsonb_strip_nulls(jsonb_object(ARRAY[{text_names}]::text[], ARRAY[{text_values}]::text[])"
"                         || jsonb_build_object({set})){nested}"
"  FROM written w"
"  JOIN uds_desired d ON d.pk = w.id";

/*
 * Memberships go in the same statement, so that the change set has them; not
 * those of a row that a trigger keeps.
 */
static const char *const delete_sql =
"WITH written AS"
"     (DELETE FROM {table} t"
"       USING uds_leaving d"
"       WHERE t.id = d.pk AND d.resource = '{resource}'{rows}"
"   RETURNING t.id, d.uid, to_jsonb(t) AS before),"
"     unlinked AS"
"     (DELETE FROM uds.department_members m"
"       USING written w"
"       WHERE m.{member_column} = w.id"
"   RETURNING m.*, CASE WHEN '{resource}' = 'users' THEN w.uid END AS uid),"
"     told AS"
"     (INSERT INTO uds_changed (resource, pk, uid, action, before)"
"      SELECT 'members', u.department_id || ':' || u.user_id, u.uid, 'unlink',"
"             to_jsonb(u) - 'uid'"
"        FROM unlinked u){orphaned} "
"INSERT INTO uds_changed (resource, pk, uid, action, before)"
"SELECT '{resource}', w.id::text, w.uid, 'delete', w.before"
"  FROM written w";

/* What points to a department that goes: the foreign keys let go of it. */
static const char *const orphaned_sql =
",    orphaned AS"
"     (INSERT INTO uds_changed (resource, pk, action, before, after)"
"      SELECT 'departments', c.id::text, 'update',"
"             jsonb_build_object('parent_id', c.parent_id),"
"             jsonb_build_object('parent_id', NULL)"
"        FROM written w"
"        JOIN uds.departments c ON c.parent_id = w.id"
"       WHERE NOT EXISTS (SELECT 1"
"                           FROM uds_leaving o"
"                          WHERE o.resource = 'departments' AND o.pk = c.id)"
"       UNION ALL"
"      SELECT 'users', u.id::text, 'update',"
"             jsonb_build_object('main_department_id', u.main_department_id),"
"             jsonb_build_object('main_department_id', NULL)"
"        FROM written w"
"        JOIN uds.users u ON u.main_department_id = w.id)";

/* Rows that were to be written, are not, and were not refused either. */
static const char *const left_out_sql =
"INSERT INTO uds_rejected (n, data_type, uid, resource, pk, sqlstate, message, record)"
"SELECT DISTINCT ON (d.pk) w.n, '{data_type}', d.uid, '{resource}', d.pk, '38000',"
"       'a trigger on {table} left it out', w.data"
"  FROM {relation} d"
"  LEFT JOIN uds_work w ON w.pk = d.pk AND w.resource = '{resource}'"
" WHERE {undone}"
" ORDER BY d.pk, w.gone";

static const char *const not_inserted_sql =
"d.is_new AND NOT EXISTS (SELECT 1 FROM {table} t WHERE t.id = d.pk)";

static const char *const not_updated_sql =
"EXISTS (SELECT 1 FROM {table} t WHERE t.id = d.pk)"
" AND NOT EXISTS (SELECT 1"
"                   FROM uds_changed c"
"                  WHERE c.resource = '{resource}' AND c.pk = d.pk::text AND c.action = d.action)";

static const char *const not_deleted_sql =
"d.resource = '{resource}' AND EXISTS (SELECT 1 FROM {table} t WHERE t.id = d.pk)";

/* A row that could not be deleted is still there: so is its record. */
static const char *const keep_refused_sql =
"UPDATE uds.records r"
"   SET deleted = false"
"  FROM uds_rejected j"
"  JOIN uds.record_resources l ON l.resource = '{resource}' AND l.resource_pk = j.pk::text"
" WHERE j.resource = '{resource}' AND r.id = l.record_id"
"   AND r.source_id = $1 AND r.task_id = $2 AND r.deleted";

/* What was to be written below a department that was refused. */
static const char *const drop_references_sql =
"UPDATE uds_referred f"
"   SET department_id = NULL"
" WHERE f.department_id IS NOT NULL"
"   AND NOT EXISTS (SELECT 1 FROM uds.departments p WHERE p.id = f.department_id)";

static const char *const forget_links_sql =
"DELETE FROM uds.record_resources l"
" USING uds_changed c"
" WHERE c.resource = '{resource}' AND c.action = 'delete'"
"   AND l.resource = '{resource}' AND l.resource_pk = c.pk";

static const char *const enabled_again_sql =
"DELETE FROM uds.disabled_rows o"
" USING uds_desired d"
" WHERE o.resource = '{resource}' AND o.resource_pk = d.pk::text"
"   AND (d.was_disabled AND (NOT d.is_disabled OR d.leave = 'delete')"
"        OR o.by_hand AND d.leave IS DISTINCT FROM 'disable')";

static const char *const leaving_sql =
"INSERT INTO uds_leaving (resource, pk, uid)"
"SELECT '{resource}', pk, uid"
"  FROM uds_desired"
" WHERE leave = 'delete'";

static const char *const disabled_now_sql =
"INSERT INTO uds.disabled_rows (resource, resource_pk, by_hand)"
"SELECT '{resource}', d.pk::text, d.leave IS NOT NULL AND c.pk IS NULL"
"  FROM uds_desired d"
"  LEFT JOIN (SELECT DISTINCT pk"
"               FROM uds_changed"
"              WHERE resource = '{resource}' AND action = 'disable') AS c ON c.pk = d.pk::text"
" WHERE is_disabled AND NOT was_disabled AND leave IS DISTINCT FROM 'delete'";

/*
 * The change set names whom it takes a membership, a main department or a
 * parent from by the source's uid.
 */
static const char *const name_bereft_sql =
"UPDATE uds_changed c"
"   SET uid = r.uid"
"  FROM uds.record_resources l"
"  JOIN uds.records r ON r.id = l.record_id AND r.source_id = $1"
" WHERE c.uid IS NULL"
"   AND l.resource = CASE c.resource WHEN 'members' THEN 'users' ELSE c.resource END"
"   AND l.resource_pk = CASE c.resource WHEN 'members' THEN split_part(c.pk, ':', 2) ELSE c.pk END";

static char *
expand(const UdsResource *resource, const char *sql)
{
	return uds_stage_expand(sql,
							"resource", resource->name,
							"table", resource->table,
							"unsettable", resource->unsettable,
							"reference_column", resource->reference,
							"may_leave", resource->has_protected ?
							"(p.policy IS NULL OR NOT coalesce((SELECT u.protected FROM uds.users u WHERE u.id = p.pk), false))" :
							"true",
							NULL);
}

/* What there is to do at all. */
typedef struct Facts
{
	int64		inserts;		/* rows to insert */
	bool		updates;
	bool		deletes;
	bool		notes;			/* to note some as disabled, or no longer */
} Facts;

static bool
note_facts(TupleTableSlot *row, void *arg)
{
	Facts	   *facts = arg;

	if (uds_scan_is_true(row, "is_new"))
		facts->inserts++;
	else
		facts->updates = true;
	facts->deletes |= uds_scan_is_word(row, "leave", "delete");
	facts->notes |= uds_scan_is_true(row, "noted") || uds_scan_is_true(row, "is_disabled");
	return true;
}

static Facts
look_at_desired(void)
{
	Facts		facts = {0};

	uds_scan("uds_desired", note_facts, &facts);
	return facts;
}

/*
 * Fills desired from work: one row for each target row that a record of the
 * task stands behind.
 */
void
uds_rows_desire(const UdsRun *run, const UdsResource *resource)
{
	bool		single = !run->shared && strcmp(run->source->match_keys, "[]") == 0;
	char	   *people = expand(resource, single ? single_sql : merged_sql);

	uds_stage_clear(run, "uds_desired");
	uds_stage_exec(run, expand(resource, uds_stage_expand(desire_sql,
														  "people", people, NULL)));
	uds_stage_analyze(run, "uds_desired (n, pk)");
	if (look_at_desired().deletes)
		uds_stage_exec(run, expand(resource, leaving_sql));
	uds_stage_clear(run, "uds_referred");
}

/*
 * Sets aside the rows of a relation that a statement should have written and
 * has not, where fewer are "written" than "wanted": triggers may leave rows
 * out without a word.
 */
static bool
set_aside_left_out(const UdsRun *run, const UdsResource *resource, const char *relation,
				   const char *undone, int64 wanted, int64 written)
{
	if (written >= wanted ||
		uds_stage_exec(run, expand(resource, uds_stage_expand(left_out_sql,
															  "data_type", resource->data_type,
															  "relation", relation,
															  "undone", undone, NULL))) == 0)
		return false;
	uds_stage_forget_rejected(resource);
	return true;
}

/*
 * Runs a statement over desired, with words that depend on the table's
 * columns, setting aside the rows it refuses.  Returns whether there were
 * any; *written receives how many rows it wrote.
 */
static bool
write_rows(const UdsRun *run, const UdsResource *resource, const char *sql,
		   const char *const *words, int64 *written)
{
	UdsStatement statement = {
		.sql = expand(resource, sql),
		.words = words,
		.rows = " AND d.n = ANY ($3)",
		.relation = "uds_desired",
		.pk = "pk",
		.blamed = resource->name,
		.reference = resource == &uds_departments ? "NULL::bigint" : NULL
	};
	bool		refused = uds_stage_isolate(run, resource, &statement);

	*written = statement.written;
	return refused;
}

/* The words that statements over rows there need. */
#define UPDATE_WORDS(resource, columns) \
	{ \
		"enabled", uds_columns_enabled(resource), \
		"columns", (columns)->names.data, \
		"pairs", (columns)->pairs.data, \
		"values", (columns)->values.data, \
		"old", (columns)->old.data, \
		NULL \
	}

/* Updates the rows that differ.  Returns whether any was set aside. */
static bool
update_rows(const UdsRun *run, const UdsResource *resource, const UdsColumns *columns)
{
	const char *const words[] = UPDATE_WORDS(resource, columns);
	const char *present = run->few_left ? present_few_sql : present_sql;
	char	   *new_all = uds_stage_expand(new_sql, "present", present, "differing", "", NULL);
	char	   *new_differing = uds_stage_expand(new_sql, "present", present, "differing",
												 " AND d.pk IN (SELECT x.pk FROM uds_differing x)",
												 NULL);
	int64		wanted;
	int64		written;
	bool		refused;

	uds_stage_clear(run, "uds_differing");
	refused = write_rows(run, resource, uds_stage_expand(compare_sql, "new", new_all, NULL),
						 words, &wanted);
	if (wanted == 0)
		return refused;
	uds_stage_analyze(run, "uds_differing");
	refused |= write_rows(run, resource, uds_stage_expand(update_sql, "written", new_differing,
														  "told", "uds_differing",
														  "few", run->few_left ? update_few_sql : "", NULL),
						  words, &written);
	return set_aside_left_out(run, resource, "uds_differing", not_updated_sql,
							  wanted, written) || refused;
}

/*
 * Updates the rows of a push of few users, if that is all there is to do for
 * them.  Returns false, with nothing done, if it is not, or if a row is refused:
 * then unique values may have to be released first.
 */
bool
uds_rows_update_only(const UdsRun *run, const UdsResource *resource)
{
	Facts		facts = look_at_desired();
	const UdsColumns *columns = uds_columns_list(resource);
	const char *const words[] = UPDATE_WORDS(resource, columns);
	char	   *sql;

	if (!run->small || uds_run_may_have(run, UDS_TYPE_DEPARTMENT) ||
		facts.inserts > 0 || facts.deletes || facts.notes)
		return false;
	sql = uds_stage_expand(compare_and_update_sql,
						   "new", uds_stage_expand(new_sql, "present", present_sql,
												   "differing", "", "rows", "", NULL),
						   "compare", uds_stage_expand(compare_sql, "new", "TABLE wanted", NULL),
						   "written", "TABLE wanted",
						   "told", "differing",
						   "few", "", NULL);
	uds_stage_clear(run, "uds_differing");
	if (!uds_stage_attempt(run, uds_stage_expand_words(expand(resource, sql), words)))
		return false;
	set_aside_left_out(run, resource, "uds_differing", not_updated_sql,
					   uds_scan_count("uds_differing"), uds_scan_count("uds_changed"));
	return true;
}

/* Inserts the rows that are new.  Returns whether any was set aside. */
static bool
insert_rows(const UdsRun *run, const UdsResource *resource, const UdsColumns *columns,
			int64 wanted)
{
	const char *const words[] = {
		"columns", columns->names.data,
		"set", columns->set.data,
		"text_names", columns->text_names.data,
		"text_values", columns->text_values.data,
		"nested", columns->nested.data,
		"domains", columns->domains.data,
		"values", columns->inserts.data,
		"order", run->small || resource != &uds_users ? "" : order_sql,
		NULL
	};
	int64		written;
	bool		refused = write_rows(run, resource, insert_sql, words, &written);

	refused |= set_aside_left_out(run, resource, "uds_desired", not_inserted_sql,
								  wanted, written);
	if (refused && resource == &uds_departments)
		uds_stage_exec(run, drop_references_sql);
	return refused;
}

/*
 * Writes what differs.  A unique value may move from a user there to a new
 * one, so users are updated first; a department there may move below a new
 * one, so departments are inserted first.  Returns whether any row was refused.
 */
bool
uds_rows_write(const UdsRun *run, const UdsResource *resource)
{
	const UdsColumns *columns = uds_columns_list(resource);
	Facts		facts = look_at_desired();
	bool		refused = false;

	if (resource == &uds_departments && facts.inserts > 0)
		refused |= insert_rows(run, resource, columns, facts.inserts);
	if (facts.updates)
		refused |= update_rows(run, resource, columns);
	if (resource != &uds_departments && facts.inserts > 0)
		refused |= insert_rows(run, resource, columns, facts.inserts);
	if (refused && uds_filled("uds_leavers"))
		uds_rows_give_back(run, resource);
	if (facts.notes)
	{
		uds_stage_exec(run, expand(resource, enabled_again_sql));
		uds_stage_exec(run, expand(resource, disabled_now_sql));
	}
	return refused;
}

/*
 * Deletes the rows that shall go, with their memberships.
 */
void
uds_rows_delete(const UdsRun *run, const UdsResource *resource)
{
	UdsStatement statement = {
		.sql = uds_stage_expand(expand(resource, delete_sql), "member_column",
								resource == &uds_users ? "user_id" : "department_id",
								"orphaned",
								resource == &uds_users ? "" : orphaned_sql,
								NULL),
		.rows = " AND d.n = ANY ($3)",
		.relation = "uds_leaving",
		.pk = "pk",
		.blamed = resource->name
	};

	int64		wanted;
	bool		refused;

	if (!uds_filled("uds_leaving") ||
		(wanted = uds_stage_count(run, expand(resource,
											  "SELECT count(*) FROM uds_leaving WHERE resource = '{resource}'"))) == 0)
		return;
	refused = uds_stage_isolate(run, resource, &statement);
	refused |= set_aside_left_out(run, resource, "uds_leaving", not_deleted_sql,
								  wanted, statement.written);
	if (refused)
		uds_stage_exec(run, expand(resource, keep_refused_sql));
	uds_stage_exec(run, expand(resource, forget_links_sql));
	if (resource == &uds_departments)
		uds_stage_exec(run, name_bereft_sql);
}
