/*-------------------------------------------------------------------------
 *
 * records.c
 *		What the source says now against what it said before.
 *
 * Owns uds.records and uds.record_resources.  Fills the stage relation work.
 * Runs in the transaction of a task, as the extension's owner; row locks on
 * records of the source.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "reconcile/stage.h"

PG_FUNCTION_INFO_V1(uds_record_hash);

/*
 * Records of the task.  A row whose key is taken in advance can be referred
 * to before it is written.  A link to a row that somebody deleted by hand
 * counts for nothing: the record gets a new row.
 */
static const char *const compare_sql =
"INSERT INTO uds_work (n, resource, record_id, uid, uid_key, data, gone, policy,"
"                  is_new, is_changed, was_deleted, pk, link)"
"SELECT i.n, '{resource}',"
"       CASE WHEN r.id IS NULL THEN nextval('uds.records_id_seq') ELSE r.id END,"
"       i.uid, i.uid_key, i.data, i.gone, {on_deleted},"
"       r.id IS NULL,"
"       r.id IS NULL OR r.hash <> i.hash AND r.data <> i.data"
"       OR r.uid <> i.uid OR r.deleted <> i.gone,"
"       r.id IS NOT NULL AND r.deleted,"
"       CASE WHEN t.id IS NULL AND NOT i.gone THEN nextval('{sequence}') ELSE t.id END,"
"       CASE WHEN t.id IS NULL AND NOT i.gone THEN 'new' END"
"  FROM (SELECT i.*, {on_deleted} <> 'keep'"
"                    AND coalesce((i.data ->> 'isDeleted')::boolean, false) AS gone"
"          FROM uds_incoming i{unsettled}"
"         WHERE i.data_type = '{data_type}') AS i"
"  LEFT JOIN {known}"
"  {link}"
"  {row}";

/* The links of a record r and the row that it stands behind. */
static const char *const link_condition =
"l.record_id = r.id AND l.resource = '{resource}'";

static const char *const row_condition =
"t.id = l.resource_pk::bigint";

static const char *const known_sql =
"uds.records r ON r.source_id = $1"
"             AND r.data_type = '{data_type}'"
"             AND r.uid_key = i.uid_key";

/*
 * The same record by record: without statistics the planner takes all records
 * of a source for one, and would read them all for each record pushed.
 */
static const char *const known_one_sql =
"LATERAL (SELECT k.*"
"           FROM uds.records k"
"          WHERE k.source_id = $1 AND k.data_type = '{data_type}'"
"            AND k.uid_key = i.uid_key"
"         OFFSET 0) AS r ON true";

/* Numbers are compared first, and only then what is long is fetched, from its place. */
static const char *const unsettled_sql =
"          JOIN (SELECT n.ctid AS place"
"                  FROM uds_incoming n"
"                 WHERE NOT EXISTS (SELECT 1 FROM uds_settled s WHERE s.n = n.n)"
"                OFFSET 0) AS u ON i.ctid = u.place";

/*
 * Records that a complete read did not show.  One that came but was set aside
 * is not missing; where that one could not even be told who it is, nobody is.
 * Keys are compared first, and only then what is long is fetched.
 */
static const char *const missing_sql =
"INSERT INTO uds_work (resource, record_id, uid, uid_key, data, gone, policy,"
"                  is_new, is_changed, was_deleted, pk)"
"SELECT '{resource}', r.id, r.uid, r.uid_key, r.data, true, {on_missing},"
"       false, true, false, t.id"
"  FROM (SELECT k.id"
"          FROM uds.records k"
"         WHERE k.source_id = $1 AND k.data_type = '{data_type}' AND NOT k.deleted"
"           AND NOT EXISTS (SELECT 1"
"                             FROM uds_incoming i"
"                            WHERE i.data_type = '{data_type}' AND i.uid_key = k.uid_key)"
"           AND NOT EXISTS (SELECT 1"
"                             FROM uds_rejected j"
"                            WHERE j.data_type = '{data_type}'"
"                              AND (j.uid IS NULL OR j.uid = k.uid OR lower(j.uid) = k.uid_key))"
"        OFFSET 0) AS m"
"  {record}"
"  {link}"
"  {row}";

static const char *const insert_sql =
"INSERT INTO uds.records (id, source_id, data_type, uid, uid_key, data, last_data, deleted,"
"                         first_seen_at, changed_at, task_id, restored)"
"OVERRIDING SYSTEM VALUE ";

/* All columns; {hash} is the last one, which an INSERT reckons by itself. */
static const char *const new_sql =
"SELECT w.record_id, $1, '{data_type}'::text, w.uid, w.uid_key, w.data, NULL::jsonb, w.gone,"
"       now(), now(), $2, NULL::bigint{hash}"
"  FROM uds_work w"
" WHERE w.is_new";

static const char *const update_sql =
"UPDATE uds.records r"
"   SET uid = w.uid, data = w.data, last_data = r.data, deleted = w.gone,"
"       changed_at = now(), task_id = $2, restored = NULL"
"  FROM uds_work w"
" WHERE r.id = w.record_id AND w.is_changed AND NOT w.is_new{few}";

/* So that few are looked up: who is updated cannot be joined row by row. */
static const char *const update_few_sql =
"   AND r.id = ANY (ARRAY(SELECT f.record_id FROM uds_work f WHERE f.is_changed AND NOT f.is_new))";

/* A new link replaces one to a row that is gone. */
static const char *const unlink_sql =
"DELETE FROM uds.record_resources l"
" USING uds_work w"
" WHERE l.record_id = w.record_id AND l.resource = '{resource}'"
"   AND w.link IS NOT NULL AND NOT w.is_new";

/*
 * Who is matched to the row of one who left takes it over for good: a record
 * of the same source that returns, or leaves once more, has no part in it.
 */
static const char *const pass_on_sql =
"WITH passed_on AS"
"     (DELETE FROM uds.record_resources l"
"       USING uds_work w, uds.records r"
"       WHERE w.link = 'matched'"
"         AND l.resource = '{resource}' AND l.resource_pk = w.pk::text"
"         AND r.id = l.record_id AND r.source_id = $1 AND r.id <> w.record_id"
"   RETURNING l.resource_pk, l.created) "
"INSERT INTO uds.record_resources (record_id, resource, resource_pk, created)"
"SELECT w.record_id, '{resource}', w.pk::text,"
"       w.link = 'new' OR EXISTS (SELECT 1"
"                                   FROM passed_on p"
"                                  WHERE p.resource_pk = w.pk::text AND p.created)"
"  FROM uds_work w"
" WHERE w.link IS NOT NULL";

static const char *const link_sql =
"INSERT INTO uds.record_resources (record_id, resource, resource_pk, created) ";

static const char *const linked_sql =
"SELECT w.record_id, '{resource}'::text, w.pk::text, true"
"  FROM uds_work w"
" WHERE w.link = 'new'";

/* A match that changes nothing in its row is a change all the same. */
static const char *const tell_matched_sql =
"INSERT INTO uds_changed (resource, pk, uid, action)"
"SELECT '{resource}', w.pk::text, w.uid, 'link'"
"  FROM uds_work w"
" WHERE w.link = 'matched'"
"   AND NOT EXISTS (SELECT 1"
"                     FROM uds_changed c"
"                    WHERE c.resource = '{resource}' AND c.pk = w.pk::text)";

/*
 * Records that changed nothing, and what there is to do with the others.  One
 * that got a new row is no such record, so these need not be looked for.
 */
static const char *const facts_sql =
"SELECT count(*) FILTER (WHERE NOT w.gone AND w.n IS NOT NULL AND w.link IS DISTINCT FROM 'new'"
"                          AND c.pk IS NULL),"
"       coalesce(bool_or(w.is_new), false),"
"       coalesce(bool_or(w.is_changed AND NOT w.is_new), false),"
"       coalesce(bool_or(w.link IS NOT NULL), false),"
"       coalesce(bool_or(w.link = 'matched'), false),"
"       coalesce(bool_or(w.link IS NOT NULL AND NOT w.is_new), false)"
"  FROM uds_work w"
"  LEFT JOIN (SELECT DISTINCT pk"
"               FROM uds_changed"
"              WHERE resource = '{resource}' AND action NOT IN ('link', 'create'){bereft}) AS c"
"    ON c.pk = w.pk::text";

/* Rows that will lose the main department or the parent, when that goes in the end. */
static const char *const bereft_sql =
"              UNION "
"             SELECT t.id::text"
"               FROM uds_leaving x"
"               JOIN {table} t ON t.{reference} = x.pk"
"              WHERE x.resource = 'departments'";

static char *
expand(const UdsRun *run, const UdsResource *resource, const char *sql)
{
	return uds_stage_expand(sql,
							"resource", resource->name,
							"table", resource->table,
							"reference", resource->reference,
							"sequence", resource->sequence,
							"data_type", resource->data_type,
							"on_deleted", quote_literal_cstr(run->source->on_deleted),
							"on_missing", quote_literal_cstr(run->source->on_missing),
							NULL);
}

/*
 * uds.record_hash(data jsonb) → bigint: a hash of the bytes.  jsonb has one
 * form for one document, but for numbers such as 1 and 1.0, which are equal
 * and hash differently: who finds two hashes different must compare.
 */
Datum
uds_record_hash(PG_FUNCTION_ARGS)
{
	Jsonb	   *data = PG_GETARG_JSONB_P(0);

	PG_RETURN_INT64((int64) hash_bytes_extended((unsigned char *) VARDATA(data),
												VARSIZE(data) - VARHDRSZ, 0));
}

/*
 * Fills work with the task's records for a resource, but for those in settled
 * if "settled", and with those that are missing where the read was complete.
 * Where few are left they are looked up one by one, like those of a push.
 */
void
uds_records_compare(const UdsRun *run, const UdsResource *resource, int64 settled)
{
	bool		few = run->small || run->few_left;
	const char *link;
	const char *row;
	char	   *sql;

	uds_stage_clear(run, "uds_work");
	if (!uds_run_may_have(run, resource->data_type))
		return;
	link = uds_stage_join(run, "LEFT JOIN", "uds.record_resources", "l", link_condition);
	row = uds_stage_join(run, "LEFT JOIN", "{table}", "t", row_condition);
	sql = expand(run, resource,
				 uds_stage_expand(compare_sql,
								  "unsettled", settled > 0 ? unsettled_sql : "",
								  "known", few ? known_one_sql : known_sql,
								  "link", link,
								  "row", row, NULL));
	if (few)
		uds_stage_write(run, sql);
	else
		uds_stage_exec(run, sql);
	if (run->complete &&
		(resource == &uds_users ? run->reads_users : run->reads_departments) &&
		strcmp(run->source->on_missing, "keep") != 0)
	{
		sql = uds_stage_expand(missing_sql,
							   "record", uds_stage_join(run, "JOIN", "uds.records", "r", "r.id = m.id"),
							   "link", link,
							   "row", row, NULL);
		uds_stage_exec(run, expand(run, resource, sql));
	}
	uds_stage_analyze(run, "uds_work (record_id, uid_key, pk, link)");
}

/*
 * Adds the rows of a query to a table of ours; "insert" is the beginning of
 * the statement that would do it as well.
 */
static void
add_rows(const UdsRun *run, const char *table, const char *insert, const char *query)
{
	if (run->small)
		uds_stage_exec(run, psprintf("%s%s", insert, query));
	else
		uds_stage_bulk(run, table, query);
}

/*
 * Stores the records in work and links them to their rows.  Records that did
 * not change are not touched.  Returns how many live ones changed no row.
 */
int64
uds_records_store(const UdsRun *run, const UdsResource *resource)
{
	int64		unchanged;
	bool		inserts;
	bool		updates;
	bool		links;
	bool		matches;
	bool		relinks;
	bool		bereft;

	bereft = uds_filled("uds_leaving");
	uds_stage_exec(run, expand(run, resource,
							   uds_stage_expand(facts_sql, "bereft", bereft ? bereft_sql : "", NULL)));
	unchanged = pg_strtoint64(uds_spi_text(0, 1));
	inserts = uds_spi_text(0, 2)[0] == 't';
	updates = uds_spi_text(0, 3)[0] == 't';
	links = uds_spi_text(0, 4)[0] == 't';
	matches = uds_spi_text(0, 5)[0] == 't';
	relinks = uds_spi_text(0, 6)[0] == 't';
	if (inserts)
		add_rows(run, "records", insert_sql,
				 expand(run, resource,
						uds_stage_expand(new_sql, "hash",
										 run->small ? "" : ", uds.record_hash(w.data)", NULL)));
	if (updates)
		uds_stage_exec(run, expand(run, resource,
								   uds_stage_expand(update_sql, "few",
													run->few_left ? update_few_sql : "", NULL)));
	if (relinks)
		uds_stage_exec(run, expand(run, resource, unlink_sql));
	if (matches)
	{
		uds_stage_exec(run, expand(run, resource, pass_on_sql));
		uds_stage_exec(run, expand(run, resource, tell_matched_sql));
	}
	else if (links)
		add_rows(run, "record_resources", link_sql, expand(run, resource, linked_sql));
	return unchanged;
}
