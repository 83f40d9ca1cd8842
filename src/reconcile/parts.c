/*-------------------------------------------------------------------------
 *
 * parts.c
 *		Records that come in parts: some keys from one stream and some from
 *		another, memberships apart from their users.
 *
 * Works on the stage relation incoming, before anything is compared.  Runs in
 * the transaction of a task that was read from pages; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "connector/connector.h"
#include "reconcile/stage.h"

/*
 * The parts of each record, put together: lists are united.  Which of several
 * requests is answered first must not matter: pages are taken by stream, by what
 * they were asked for, and only within a listing as they came.  A part with a
 * null yields to one with a value.  $1 task, $2 attempt.
 */
#define PARTS \
"(SELECT n.data_type, n.uid_key," \
"        uds.unite_all_records(n.data ORDER BY n.data @? '$.* ? (@ == null)' DESC, s.first," \
"                                              p.context::text COLLATE \"C\", n.n, n.data) AS data" \
"   FROM uds_incoming n" \
"   JOIN uds.raw_log p ON p.task_id = $1 AND p.attempt = $2 AND p.seq = n.n / 10000000" \
"   JOIN (SELECT stream, min(seq) AS first" \
"           FROM uds.raw_log" \
"          WHERE task_id = $1 AND attempt = $2" \
"          GROUP BY stream) AS s ON s.stream = p.stream" \
"  WHERE n.partial" \
"  GROUP BY n.data_type, n.uid_key)"

/*
 * An incremental read may bring a part of a record and not the record: then it
 * is as it was, but for that part.  $3 source.
 */
static const char *const recall_parts_sql =
"INSERT INTO uds_incoming (n, data_type, merge, partial, uid, uid_key, data, hash)"
"SELECT -1000000000 - row_number() OVER (), p.data_type, false, false, r.uid, r.uid_key,"
"       r.data || p.data, uds.record_hash(r.data || p.data)"
"  FROM " PARTS " AS p"
"  JOIN uds.records r ON r.source_id = $3 AND r.data_type = p.data_type"
"                    AND r.uid_key = p.uid_key AND NOT r.deleted"
" WHERE NOT EXISTS (SELECT 1"
"                     FROM uds_incoming i"
"                    WHERE i.data_type = p.data_type AND i.uid_key = p.uid_key"
"                      AND NOT i.partial)";

/* Keys of the parts go to the whole records that lack them. */
static const char *const complete_sql =
"UPDATE uds_incoming i"
"   SET data = uds.unite_records(p.data, i.data),"
"       hash = uds.record_hash(uds.unite_records(p.data, i.data))"
"  FROM " PARTS " AS p"
" WHERE i.n > -1000000000 AND i.data_type = p.data_type AND i.uid_key = p.uid_key AND NOT i.partial";

/*
 * A part that the service would not show leaves what it brought before: keys
 * that the record lacks now are those of the record as it is known.  $1 source,
 * $2 what kind of records, $3 their uids.
 */
static const char *const keep_sql =
"UPDATE uds_incoming i"
"   SET data = r.data || i.data,"
"       hash = uds.record_hash(r.data || i.data)"
"  FROM uds.records r"
" WHERE i.data_type = $2 AND i.uid = ANY ($3) AND NOT i.partial"
"   AND r.source_id = $1 AND r.data_type = i.data_type AND r.uid_key = i.uid_key"
"   AND NOT r.deleted";

/*
 * Where parts of records tell of a department what is below it, those below
 * one whose members were not shown stay there.  $1 source, $3 its uid and those
 * of others like it.
 */
static const char *const keep_parents_sql =
"UPDATE uds_incoming i"
"   SET data = i.data || jsonb_build_object('parentUid', r.data -> 'parentUid'),"
"       hash = uds.record_hash(i.data || jsonb_build_object('parentUid', r.data -> 'parentUid'))"
"  FROM uds.records r"
" WHERE i.data_type = 'department' AND NOT i.partial AND i.data ->> 'parentUid' IS NULL"
"   AND r.source_id = $1 AND r.data_type = 'department' AND r.uid_key = i.uid_key"
"   AND NOT r.deleted AND r.data ->> 'parentUid' = ANY ($3)"
"   AND EXISTS (SELECT 1"
"                 FROM uds_incoming p"
"                WHERE p.partial AND p.data_type = 'department')";

static const char *const drop_partial_sql =
"DELETE FROM uds_incoming WHERE partial";

/*
 * Users that an incremental read did not show, and whose memberships it tells
 * something about: members now, or before, of departments that were read.
 * Their records come as they were, for the memberships to be put in.
 */
static const char *const recall_sql =
"WITH touched AS"
"     (SELECT i.uid_key"
"        FROM uds_incoming i"
"       WHERE i.data_type = 'member'"
"       UNION"
"      SELECT r.uid_key"
"        FROM uds_incoming d"
"        JOIN uds.records g ON g.source_id = $1 AND g.data_type = 'department' AND g.uid_key = d.uid_key"
"        JOIN uds.record_resources gl ON gl.record_id = g.id AND gl.resource = 'departments'"
"        JOIN uds.department_members m ON m.department_id = gl.resource_pk::bigint"
"        JOIN uds.record_resources ul ON ul.resource = 'users' AND ul.resource_pk = m.user_id::text"
"        JOIN uds.records r ON r.id = ul.record_id AND r.source_id = $1"
"       WHERE d.data_type = 'department') "
"INSERT INTO uds_incoming (n, data_type, merge, partial, uid, uid_key, data, hash)"
"SELECT -row_number() OVER (), 'user', false, false, r.uid, r.uid_key, r.data, uds.record_hash(r.data)"
"  FROM touched t"
"  JOIN uds.records r ON r.source_id = $1 AND r.data_type = 'user' AND r.uid_key = t.uid_key"
"                    AND NOT r.deleted"
" WHERE NOT EXISTS (SELECT 1"
"                     FROM uds_incoming i"
"                    WHERE i.data_type = 'user' AND i.uid_key = t.uid_key)";

/*
 * The memberships of all users that are here: what the members say, and of
 * departments about which nothing is known what the record said before.
 * $3 not all departments were read, $4 uids of departments whose members could
 * not be read, $5 whether case counts not in uids of departments.
 *
 * The list has the order of the page that tells all of it; where it is from
 * several, that of the uids, whichever of them came first.
 */
static const char *const join_sql =
"WITH said AS"
"     (SELECT uid_key, department, min(n) AS n,"
"             bool_or(data @> '{\"isOwner\": true}') AS is_owner,"
"             bool_or(data @> '{\"isMain\": true}') AS is_main"
"        FROM (SELECT uid_key, data ->> 'department' AS department, n, data"
"                FROM uds_incoming"
"               WHERE data_type = 'member') AS m"
"       WHERE department <> ''"
"       GROUP BY uid_key, department),"
"     kept AS"
"     (SELECT i.uid_key, d.value, d.ord, k.department"
"        FROM uds_incoming i"
"        JOIN uds.records r ON r.source_id = $1 AND r.data_type = 'user' AND r.uid_key = i.uid_key"
"                          AND NOT r.deleted"
"       CROSS JOIN LATERAL"
"             jsonb_array_elements(CASE jsonb_typeof(r.data -> 'departments')"
"                                       WHEN 'array' THEN r.data -> 'departments'"
"                                       ELSE '[]' END) WITH ORDINALITY AS d (value, ord)"
"       CROSS JOIN LATERAL"
"             (SELECT u.uid AS department, CASE WHEN $5 THEN lower(u.uid) ELSE u.uid END AS uid_key"
"                FROM (SELECT CASE jsonb_typeof(d.value) WHEN 'object' THEN d.value ->> 'uid'"
"                                                        ELSE d.value #>> '{}' END AS uid) AS u) AS k"
"       WHERE i.data_type = 'user' AND ($3 OR $4 <> '{}')"
"         AND (k.uid_key IN (SELECT CASE WHEN $5 THEN lower(s.node) ELSE s.node END"
"                              FROM unnest($4) AS s (node))"
"              OR $3 AND NOT EXISTS (SELECT 1"
"                                      FROM uds_incoming g"
"                                     WHERE g.data_type = 'department' AND g.uid_key = k.uid_key))),"
"     list AS"
"     (SELECT uid_key,"
"             CASE WHEN min(page) = max(page) THEN jsonb_agg(value ORDER BY ord)"
"                  ELSE jsonb_agg(value ORDER BY department COLLATE \"C\") END AS departments"
"        FROM (SELECT uid_key, -1 AS page, ord, department, value"
"                FROM kept"
"               UNION ALL"
"              SELECT uid_key, n / 10000000, n, department,"
"                     jsonb_build_object('uid', department, 'isOwner', is_owner, 'isMain', is_main)"
"                FROM said) AS a"
"       GROUP BY uid_key),"
"     whole AS"
"     (DELETE FROM uds_incoming WHERE data_type = 'user' RETURNING *) "
"INSERT INTO uds_incoming (n, data_type, merge, partial, uid, uid_key, data, hash)"
"SELECT w.n, w.data_type, w.merge, w.partial, w.uid, w.uid_key, d.data, uds.record_hash(d.data)"
"  FROM whole w"
"  LEFT JOIN list l ON l.uid_key = w.uid_key"
" CROSS JOIN LATERAL"
"       (SELECT w.data || jsonb_build_object('departments', coalesce(l.departments, '[]')) AS data) AS d";

static const char *const drop_members_sql =
"DELETE FROM uds_incoming WHERE data_type = 'member'";

/*
 * The nodes for which the service did not show records of a kind, as text[];
 * NULL if there are none.
 */
static ArrayType *
unseen_nodes(const UdsPages *pages, const char *data_type)
{
	ArrayBuildState *nodes = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	ListCell   *lc;

	foreach(lc, pages->skipped)
	{
		const UdsSkippedNode *node = lfirst(lc);

		if (node->data_type != NULL && strcmp(node->data_type, data_type) == 0)
			accumArrayResult(nodes, CStringGetTextDatum(node->node), false, TEXTOID,
							 CurrentMemoryContext);
	}
	return nodes->nelems == 0 ? NULL :
		DatumGetArrayTypeP(makeArrayResult(nodes, CurrentMemoryContext));
}

/* Puts what is partial into the records that it completes. */
static void
complete_records(const UdsRun *run, const UdsPages *pages)
{
	Oid			types[3] = {INT8OID, INT4OID, INT8OID};
	Datum		values[3] = {Int64GetDatum(pages->task), Int32GetDatum(pages->attempt),
	Int64GetDatum(run->source->id)};
	static const struct
	{
		const char *type;
		const char *sql;
	}			kept[] = {
		{UDS_TYPE_USER, keep_sql},
		{UDS_TYPE_DEPARTMENT, keep_sql},
		{"member", keep_parents_sql}
	};

	uds_stage_analyze(run, "uds_incoming (n, data_type, partial, uid_key)");
	if (pages->incremental)
		uds_spi_exec(recall_parts_sql, 3, types, values, NULL);
	uds_spi_exec(complete_sql, 2, types, values, NULL);
	for (int i = 0; i < lengthof(kept); i++)
	{
		Oid			keep_types[3] = {INT8OID, TEXTOID, TEXTARRAYOID};
		ArrayType  *nodes = unseen_nodes(pages, kept[i].type);
		Datum		keep[3] = {Int64GetDatum(run->source->id), CStringGetTextDatum(kept[i].type),
		PointerGetDatum(nodes)};

		if (nodes != NULL)
			uds_spi_exec(kept[i].sql, 3, keep_types, keep, NULL);
	}
	uds_stage_exec(run, drop_partial_sql);
}

/*
 * Puts records together that came in parts, of streams that are partial or,
 * with "members", bring memberships; "fold": case does not count in uids of
 * departments.
 */
void
uds_parts_join(const UdsRun *run, const UdsPages *pages, bool members, bool fold)
{
	Oid			types[5] = {INT8OID, INT8OID, BOOLOID, TEXTARRAYOID, BOOLOID};
	Datum		values[5] = {Int64GetDatum(run->source->id), Int64GetDatum(run->task->id)};
	ArrayType  *nodes;

	complete_records(run, pages);
	if (!members)
		return;
	if (pages->incremental)
		uds_stage_exec(run, recall_sql);
	values[2] = BoolGetDatum(pages->incremental || !pages->complete);
	nodes = unseen_nodes(pages, "member");
	values[3] = PointerGetDatum(nodes ? nodes : construct_empty_array(TEXTOID));
	values[4] = BoolGetDatum(fold);
	uds_stage_analyze(run, "uds_incoming (n, data_type, uid_key)");
	uds_spi_exec(join_sql, 5, types, values, NULL);
	uds_stage_exec(run, drop_members_sql);
}
