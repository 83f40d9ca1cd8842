/*-------------------------------------------------------------------------
 *
 * match.c
 *		Finds the user that a record new to us stands for, by match keys.
 *
 * Runs in the transaction of a task, as the extension's owner; alters the
 * stage relations work and rejected only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "reconcile/stage.h"

/* One key; an absent or empty value matches nobody. */
static const char *const text_hit_sql =
"SELECT w.record_id, u.id"
"  FROM uds_work w"
"  JOIN uds.users u ON lower(u.{key}) = lower(w.data ->> '{key}')"
" WHERE w.link = 'new' AND w.data ->> '{key}' <> ''";

static const char *const exact_hit_sql =
"SELECT w.record_id, u.id"
"  FROM uds_work w"
"  JOIN uds.users u ON u.{key} = w.data ->> '{key}'"
" WHERE w.link = 'new' AND w.data ->> '{key}' <> ''";

/*
 * A row is taken when another record of this source will still stand behind
 * it; of two records that hit one row, the first gets it.
 */
static const char *const match_sql =
"INSERT INTO uds_matched (record_id, pk, ambiguous) "
"WITH hit AS ({hits}),"
"     single AS"
"     (SELECT record_id, min(id) AS pk, count(DISTINCT id) AS rows"
"        FROM hit"
"       GROUP BY record_id)"
"SELECT s.record_id, s.pk,"
"       s.rows > 1"
"       OR row_number() OVER (PARTITION BY s.pk, s.rows > 1 ORDER BY w.n) > 1"
"       OR h.pk IS NOT NULL OR k.pk IS NOT NULL AS ambiguous"
"  FROM single s"
"  JOIN uds_work w USING (record_id)"
"  LEFT JOIN (SELECT DISTINCT pk"
"               FROM uds_work"
"              WHERE link IS NULL AND NOT gone) AS h ON h.pk = s.pk"
"  LEFT JOIN (SELECT DISTINCT t.pk"
"               FROM single t"
"               JOIN uds.record_resources l ON l.resource = 'users' AND l.resource_pk = t.pk::text"
"               JOIN uds.records r ON r.id = l.record_id"
"              WHERE r.source_id = $1 AND NOT r.deleted"
"                AND NOT EXISTS (SELECT 1"
"                                  FROM uds_work g"
"                                 WHERE g.record_id = r.id AND g.gone)) AS k ON k.pk = s.pk";

static const char *const reject_sql =
"INSERT INTO uds_rejected (n, data_type, uid, resource, sqlstate, message, record)"
"SELECT w.n, 'user', w.uid, 'users', '21000', 'ambiguous match', w.data"
"  FROM uds_matched m"
"  JOIN uds_work w USING (record_id)"
" WHERE m.ambiguous";

static const char *const drop_sql =
"DELETE FROM uds_work w"
" USING uds_matched m"
" WHERE m.record_id = w.record_id AND m.ambiguous";

static const char *const link_sql =
"UPDATE uds_work w"
"   SET pk = m.pk, link = 'matched'"
"  FROM uds_matched m"
" WHERE m.record_id = w.record_id";

/*
 * Links the new records in work to the users they match.  Ambiguous ones are
 * set aside.
 */
void
uds_match_users(const UdsRun *run)
{
	static const char *const keys[] = {"username", "email", "phone"};
	StringInfoData hits;

	initStringInfo(&hits);
	for (int i = 0; i < lengthof(keys); i++)
	{
		if (strstr(run->source->match_keys, psprintf("\"%s\"", keys[i])) == NULL)
			continue;
		if (hits.len > 0)
			appendStringInfoString(&hits, " UNION ALL ");
		appendStringInfoString(&hits,
							   uds_stage_expand(strcmp(keys[i], "phone") == 0 ?
												exact_hit_sql : text_hit_sql,
												"key", keys[i], NULL));
	}
	if (hits.len == 0)
		return;

	uds_stage_exec(run, uds_stage_expand(match_sql, "hits", hits.data, NULL));
	uds_stage_exec(run, reject_sql);
	uds_stage_exec(run, drop_sql);
	uds_stage_exec(run, link_sql);
	uds_stage_analyze(run, "uds_work");
}
