/*-------------------------------------------------------------------------
 *
 * collect.c
 *		From the pages of a task to its records: maps them, checks their
 *		uids, merges those that came more than once.
 *
 * Fills the stage relations incoming and rejected.  Runs in the transaction
 * of a task; reads the raw log, writes nothing but the stage.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "reconcile/stage.h"

/* A uid is a non-empty string or an integer, taken digit by digit. */
#define UID \
"CASE jsonb_typeof(m.record -> 'uid')" \
"     WHEN 'string' THEN nullif(m.record ->> 'uid', '')" \
"     WHEN 'number' THEN substring(m.record ->> 'uid' FROM '^-?[0-9]+$') END"

/* What the columns of the target would not find out in time. */
#define RECORD_ERROR \
"CASE WHEN m.error IS NOT NULL THEN m.error" \
"     WHEN octet_length(m.uid) > " CppAsString2(UDS_MAX_UID) \
"     THEN 'uid of the record is longer than " CppAsString2(UDS_MAX_UID) " bytes'" \
"     WHEN m.uid IS NOT NULL THEN uds.record_error(m.record, m.data_type)" \
"     WHEN NOT m.record ? 'uid' OR m.record -> 'uid' = 'null' THEN 'record has no uid'" \
"     WHEN m.record ->> 'uid' = '' THEN 'uid of the record is empty'" \
"     ELSE 'uid of the record is neither text nor an integer' END"

/* bytes of pages from which on several processes map them */
#define MIN_PARALLEL_BYTES (8 * 1024 * 1024)

/* $3 attempt */
static const char *const bytes_sql =
"SELECT coalesce(sum(bytes), 0)::bigint"
"  FROM uds.raw_log"
" WHERE task_id = $2 AND attempt = $3 AND usable";

/* The streams of the source, by name. */
static const char *const streams_sql =
"SELECT uds.source_streams($1)";

/*
 * What the streams in $2, of those that streams_sql gave, bring: whole users,
 * whole departments, parts of either, members; and whether case does not count
 * in uids of departments.
 */
static const char *const brought_sql =
"SELECT coalesce(bool_or(e.value #>> '{stream,type}' = 'user' AND NOT p.partial), false),"
"       coalesce(bool_or(e.value #>> '{stream,type}' = 'department' AND NOT p.partial), false),"
"       coalesce(bool_or(p.partial), false),"
"       coalesce(bool_or(e.value #>> '{stream,type}' = 'member'), false),"
"       coalesce(bool_or((e.value -> 'fold_departments')::boolean), false)"
"  FROM jsonb_each($1) AS e"
" CROSS JOIN LATERAL"
"       (SELECT coalesce((e.value #>> '{stream,partial}')::boolean, false) AS partial) AS p"
" WHERE e.key = ANY ($2::text[])";

/*
 * $3 attempt, $4 streams to take, $5 what streams_sql gave.  A record's number
 * is made of that of its page and its place there; no page can hold ten
 * million.
 */
static const char *const map_sql =
"SELECT m.seq * 10000000::bigint + m.ord, m.data_type, m.merge, m.partial, m.uid,"
"       CASE WHEN m.fold THEN lower(m.uid) ELSE m.uid END,"
"       m.record, uds.record_hash(m.record),"
"       " RECORD_ERROR
"  FROM (SELECT p.seq, m.ord, s.stream ->> 'type' AS data_type,"
"               coalesce((s.stream ->> 'merge')::boolean, false) AS merge,"
"               coalesce((s.stream ->> 'partial')::boolean, false) AS partial,"
"               s.fold, m.record, m.error,"
"               " UID " AS uid"
"          FROM uds.raw_log p"
"          JOIN (SELECT e.key AS name, e.value -> 'stream' AS stream,"
"                       (e.value -> 'fold')::boolean AS fold"
"                  FROM jsonb_each($5) AS e"
"                 WHERE e.key = ANY ($4::text[])) AS s"
"            ON coalesce(s.stream ->> 'pages_of', s.name) = p.stream"
"         CROSS JOIN LATERAL uds.map_page(p.body, s.stream, coalesce(p.context, '{}')) AS m"
"         WHERE p.task_id = $2 AND p.attempt = $3 AND p.usable) AS m";

/* $3 data type, $4 the records; by UdsPushForm */
#define PUSHED(given) \
"INSERT INTO uds_incoming (n, data_type, merge, uid, uid_key, data, hash, error)" \
"SELECT m.ord, m.data_type, false, m.uid, m.uid, m.record, uds.record_hash(m.record)," \
"       " RECORD_ERROR \
"  FROM (SELECT m.ord, $3 AS data_type, m.record, m.error, " UID " AS uid" \
"          FROM (SELECT e.ord, e.record," \
"                       CASE WHEN e.error IS NOT NULL THEN e.error" \
"                            WHEN jsonb_typeof(e.record) <> 'object'" \
"                            THEN 'record is not a JSON object' END AS error" \
"                  FROM " given ") AS m) AS m"

static const char *const pushed_sql[] = {
	[UDS_PUSH_LIST] = PUSHED("(SELECT e.ord, e.value AS record, NULL::text AS error"
							 "   FROM jsonb_array_elements($4) WITH ORDINALITY AS e (value, ord)) AS e"),
	[UDS_PUSH_PAGE] = PUSHED("uds.map_page($4, '{\"type\": \"user\", \"records\": \"$.records[*]\"}', NULL) AS e"),
	[UDS_PUSH_LINES] = PUSHED("uds.json_lines($4) AS e"),
};

/* Records that are no parts of others: only these can come more than once. */
#define IS_WHOLE(alias) "NOT " alias ".partial AND " alias ".data_type <> 'member'"
#define WHOLE(alias) "WHERE " IS_WHOLE(alias)

static const char *const reject_sql =
"INSERT INTO uds_rejected (n, data_type, uid, sqlstate, message, record)"
"SELECT n, data_type, uid, '22023', error, data"
"  FROM uds_incoming"
" WHERE error IS NOT NULL";

static const char *const drop_rejected_sql =
"DELETE FROM uds_incoming WHERE error IS NOT NULL";

/*
 * Of records that came more than once the last copy decides.  Where the
 * manifest says merge, the departments of all copies are joined, each with the
 * flags any copy gave it.  Such copies come in any order, since several requests
 * are in flight: their lists are taken in the order of what is in them, and of
 * two spellings of one uid always the same is taken, or each sync would change
 * the record.
 */
static const char *const merge_sql =
"WITH copy AS"
"     (DELETE FROM uds_incoming i"
"       USING (SELECT data_type, uid_key"
"                FROM uds_incoming"
"               {whole}"
"               GROUP BY data_type, uid_key"
"              HAVING count(*) > 1) AS d"
"       WHERE i.data_type = d.data_type AND i.uid_key = d.uid_key{and_whole}"
"   RETURNING i.*),"
"     torn AS"
"     (SELECT data_type, uid_key"
"        FROM copy"
"       GROUP BY data_type, uid_key"
"      HAVING bool_or(merge) AND count(DISTINCT data -> 'departments') > 1),"
"     part AS"
"     (SELECT c.data_type, c.uid_key, e.uid,"
"             row_number() OVER (PARTITION BY c.data_type, c.uid_key"
"                                ORDER BY c.data -> 'departments', e.ord, c.n) AS ord,"
"             e.is_owner, e.is_main"
"        FROM copy c"
"        JOIN torn USING (data_type, uid_key)"
"       CROSS JOIN LATERAL"
"             (SELECT d.ord,"
"                     CASE jsonb_typeof(d.value) WHEN 'object' THEN d.value ->> 'uid'"
"                                                ELSE d.value #>> '{}' END AS uid,"
"                     d.value @> '{\"isOwner\": true}' AS is_owner,"
"                     d.value @> '{\"isMain\": true}' AS is_main"
"                FROM jsonb_array_elements(CASE jsonb_typeof(c.data -> 'departments')"
"                                               WHEN 'array' THEN c.data -> 'departments'"
"                                               ELSE '[]' END)"
"                     WITH ORDINALITY AS d (value, ord)) AS e"
"       WHERE e.uid IS NOT NULL),"
"     joined AS"
"     (SELECT data_type, uid_key,"
"             jsonb_agg(jsonb_build_object('uid', uid, 'isOwner', is_owner, 'isMain', is_main)"
"                       ORDER BY ord) AS departments"
"        FROM (SELECT data_type, uid_key, uid, min(ord) AS ord,"
"                     bool_or(is_owner) AS is_owner, bool_or(is_main) AS is_main"
"                FROM part"
"               GROUP BY data_type, uid_key, uid) AS p"
"       GROUP BY data_type, uid_key),"
"     merged AS"
"     (SELECT l.n, l.data_type, l.uid, l.uid_key,"
"             CASE WHEN j.departments IS NULL THEN l.data"
"                  ELSE l.data || jsonb_build_object('departments', j.departments) END AS data"
"        FROM (SELECT DISTINCT ON (data_type, uid_key) n, data_type, uid, uid_key, data"
"                FROM copy"
"               ORDER BY data_type, uid_key, CASE WHEN merge THEN uid END COLLATE \"C\", n DESC) AS l"
"        LEFT JOIN joined j USING (data_type, uid_key)) "
"INSERT INTO uds_incoming (n, data_type, merge, partial, uid, uid_key, data, hash)"
"SELECT n, data_type, false, false, uid, uid_key, data, uds.record_hash(data)"
"  FROM merged";

/* $3 the task that set them aside */
static const char *const only_failed_sql =
"DELETE FROM uds_incoming i"
" WHERE NOT EXISTS (SELECT 1"
"                     FROM uds.task_errors e"
"                    WHERE e.task_id = $3 AND e.data_type = i.data_type AND e.uid = i.uid)";

static bool
note_error(TupleTableSlot *row, void *arg)
{
	*(bool *) arg = !uds_scan_is_null(row, "error");
	return !*(bool *) arg;
}

/* What the streams of a read bring. */
typedef struct Brought
{
	bool		parts;
	bool		members;
	bool		fold_departments;
} Brought;

/* Sets bad records aside and merges those that came more than once. */
static void
clean_up(const UdsRun *run, bool single, const Brought *brought)
{
	bool		in_parts = brought != NULL && (brought->parts || brought->members);
	bool		any_bad = false;

	uds_scan("uds_incoming", note_error, &any_bad);
	if (any_bad)
	{
		uds_spi_exec(reject_sql, 0, NULL, NULL, NULL);
		uds_spi_exec(drop_rejected_sql, 0, NULL, NULL, NULL);
	}
	if (!single)
		uds_stage_exec(run, uds_stage_expand(merge_sql,
											 "whole", in_parts ? WHOLE("uds_incoming") : "",
											 "and_whole", in_parts ? " AND " IS_WHOLE("i") : "",
											 NULL));
}

/*
 * Lets the planner map pages in several processes, where the server has them
 * to spare.  By itself it would not: what it sees of the log is one short row
 * for each page.  Of an index all these rows would go to one process, but a
 * block of them to each from a bitmap.
 */
static void
allow_parallel(void)
{
	static const char *const settings[][2] = {
		{"parallel_setup_cost", "0"}, {"parallel_tuple_cost", "0"},
		{"min_parallel_table_scan_size", "0"}, {"enable_indexscan", "off"}
	};

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/* Maps the pages; "values" has $1 to $5 of map_sql. */
static void
map_pages(Oid *types, Datum *values)
{
	bool		isnull;
	int64		bytes = DatumGetInt64(uds_spi_value(bytes_sql, 3, types, values, NULL, &isnull));
	int			level = NewGUCNestLevel();

	if (bytes >= MIN_PARALLEL_BYTES)
		allow_parallel();
	uds_bulk_insert("pg_temp", "uds_incoming", map_sql, 5, types, values);
	AtEOXact_GUC(true, level);
}

/* What the streams bring; the run is told which types were read. */
static void
see_streams(UdsRun *run, Datum streams, Datum names, Brought *brought)
{
	Oid			types[2] = {JSONBOID, TEXTARRAYOID};
	Datum		values[2] = {streams, names};

	uds_spi_exec(brought_sql, 2, types, values, NULL);
	run->reads_users = uds_spi_text(0, 1)[0] == 't';
	run->reads_departments = uds_spi_text(0, 2)[0] == 't';
	brought->parts = uds_spi_text(0, 3)[0] == 't';
	brought->members = uds_spi_text(0, 4)[0] == 't';
	brought->fold_departments = uds_spi_text(0, 5)[0] == 't';
}

/*
 * Fills incoming and rejected from pages in the raw log, and notes in the run
 * which types were read.
 */
void
uds_collect_pages(UdsRun *run, const UdsPages *pages)
{
	Oid			types[5] = {INT8OID, INT8OID, INT4OID, TEXTARRAYOID, JSONBOID};
	Datum		values[5];
	ArrayBuildState *streams = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	Brought		brought = {0};
	bool		isnull;
	ListCell   *lc;

	foreach(lc, pages->streams)
		accumArrayResult(streams, CStringGetTextDatum((char *) lfirst(lc)), false,
						 TEXTOID, CurrentMemoryContext);
	values[0] = Int64GetDatum(run->source->id);
	values[1] = Int64GetDatum(pages->task);
	values[2] = Int32GetDatum(pages->attempt);
	values[3] = makeArrayResult(streams, CurrentMemoryContext);
	values[4] = uds_spi_value(streams_sql, 1, types, values, NULL, &isnull);
	if (!isnull)
	{
		see_streams(run, values[4], values[3], &brought);
		map_pages(types, values);
	}
	clean_up(run, false, &brought);
	if (brought.parts || brought.members)
		uds_parts_join(run, pages, brought.members, brought.fold_departments);
	if (pages->failed_of != 0)
	{
		types[2] = INT8OID;
		values[2] = Int64GetDatum(pages->failed_of);
		uds_spi_exec(only_failed_sql, 3, types, values, NULL);
	}
	uds_stage_analyze(run, "uds_incoming (n, data_type, uid_key)");
}

/*
 * Fills incoming and rejected from records that were pushed, and tells the push
 * how many there are.
 */
void
uds_collect_pushed(const UdsRun *run, UdsPush *push)
{
	Oid			types[4] = {INT8OID, INT8OID, TEXTOID, TEXTOID};
	Datum		values[4] = {Int64GetDatum(run->source->id),
		Int64GetDatum(run->task->id),
		CStringGetTextDatum(push->data_type),
	push->records};

	if (push->form == UDS_PUSH_LIST)
		types[3] = JSONBOID;
	push->all = uds_spi_exec(pushed_sql[push->form], 4, types, values, NULL);
	clean_up(run, push->all == 1, NULL);
	uds_stage_analyze(run, "uds_incoming (n, data_type, uid_key)");
}
