/*-------------------------------------------------------------------------
 *
 * members.c
 *		Who is in which department, who leads it, and which one is main.
 *
 * Memberships are the union of what the live records of a user assert and
 * what was made by hand; a source withdraws only what it asserted.  Fills
 * the stage relations asserted, member_scope, member_diff and referred.
 * Runs in the transaction of a task; row locks on memberships.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "reconcile/stage.h"

/*
 * Who in desired, d, loses a record, g, or the main department, b.  As joins:
 * an EXISTS outside of WHERE is tried for each row, against a whole relation
 * once that is too large to be hashed.
 */
#define LOSING \
"LEFT JOIN (SELECT DISTINCT pk FROM uds_work WHERE gone) AS g ON g.pk = d.pk" \
"  LEFT JOIN (SELECT DISTINCT u.id" \
"               FROM uds_leaving x" \
"               JOIN uds.users u ON u.main_department_id = x.pk" \
"              WHERE x.resource = 'departments') AS b ON b.id = d.pk"

/*
 * Who loses a record or the main department is decided as well, although the
 * others say nothing.
 */
static const char *const scope_sql =
"INSERT INTO uds_member_scope (user_id, silent, decided)"
"SELECT d.pk,"
"       coalesce(array_agg(l.source_id) FILTER (WHERE NOT l.data ? 'departments'), '{}'),"
"       bool_and(l.pk IS NULL) OR bool_or(l.data ? 'departments')"
"       OR bool_or(g.pk IS NOT NULL OR b.id IS NOT NULL)"
"  FROM uds_desired d"
"  LEFT JOIN ({live}) AS l USING (pk)"
"  " LOSING
" WHERE d.leave IS DISTINCT FROM 'delete'{known}"
" GROUP BY d.pk";

/* The same where no other source stands behind rows. */
static const char *const single_scope_sql =
"INSERT INTO uds_member_scope (user_id, silent, decided)"
"SELECT d.pk,"
"       CASE WHEN NOT w.data ? 'departments' THEN ARRAY[$1] ELSE '{}' END,"
"       w.pk IS NULL OR w.data ? 'departments' OR g.pk IS NOT NULL OR b.id IS NOT NULL"
"  FROM uds_desired d"
"  LEFT JOIN uds_work w ON w.pk = d.pk AND NOT w.gone"
"  " LOSING
" WHERE d.leave IS DISTINCT FROM 'delete'{known}";

/*
 * Of a large task, users that are new are not looked for among the
 * memberships that are there: the first that the record calls main, or the
 * first of its list.
 */
static const char *const known_sql =
" AND NOT d.is_new";

static const char *const new_main_sql =
"INSERT INTO uds_referred (pk, department_id)"
"SELECT a.user_id, a.department_id"
"  FROM uds_asserted a"
" WHERE a.is_new AND a.is_choice";

/* The same where some of the departments are not there. */
static const char *const new_main_left_sql =
"INSERT INTO uds_referred (pk, department_id)"
"SELECT a.user_id,"
"       coalesce((min(ARRAY[a.main_ord, a.department_id]) FILTER (WHERE a.main_ord IS NOT NULL))[2],"
"                (min(ARRAY[a.ord, a.department_id]))[2])"
"  FROM uds_asserted a"
" WHERE a.is_new"
" GROUP BY a.user_id";

/*
 * One row per user, department and source; the order is that of the list.
 * Departments that are not there make a row without one, see below.
 */
static const char *const assert_sql =
"INSERT INTO uds_asserted (user_id, department_id, is_owner, main_ord, source_id, priority, ord,"
"                          is_choice, is_new)"
"SELECT l.pk, f.pk, e.is_owner, e.main_ord, l.source_id, l.priority, e.ord, e.is_choice, l.is_new"
"  FROM ({live}) AS l"
" CROSS JOIN LATERAL uds.listed(l.data -> 'departments', l.fold_departments) AS e"
"  LEFT JOIN uds_department_ref f ON f.source_id = l.source_id AND f.uid_key = e.uid_key";

static const char *const drop_unresolved_sql =
"DELETE FROM uds_asserted WHERE department_id IS NULL";

/* A department's record may name its owners instead; that makes no members. */
static const char *const owners_sql =
"INSERT INTO uds_owners (source_id, department_id, uid_key)"
"SELECT f.source_id, f.pk,"
"       CASE WHEN " UDS_IGNORES_CASE("user")
"            THEN lower(o.uid) ELSE o.uid END"
"  FROM uds_department_ref f"
"  JOIN uds.source_settings s ON s.id = f.source_id"
"  JOIN uds.source_manifests t ON t.source_id = s.id"
"  {record}"
" CROSS JOIN LATERAL"
"       jsonb_array_elements_text(CASE jsonb_typeof(r.data -> 'owners')"
"                                      WHEN 'array' THEN r.data -> 'owners'"
"                                      ELSE '[]' END) AS o (uid)";

static const char *const owners_condition =
"r.source_id = f.source_id AND r.data_type = 'department'"
" AND r.uid_key = f.uid_key AND NOT r.deleted";

/* A membership m whose department stays. */
#define NOT_LEAVING \
"NOT EXISTS (SELECT 1" \
"              FROM uds_leaving x" \
"             WHERE x.resource = 'departments' AND x.pk = m.department_id)"

static const char *const own_sql =
"UPDATE uds_asserted a"
"   SET is_owner = true"
"  FROM (SELECT o.department_id, w.pk"
"          FROM uds_owners o"
"          JOIN uds_work w ON w.uid_key = o.uid_key"
"         WHERE w.resource = 'users' AND o.source_id = $1"
"         UNION ALL"
"        SELECT o.department_id, l.resource_pk::bigint"
"          FROM uds_owners o"
"          JOIN uds.records u ON u.source_id = o.source_id AND u.data_type = 'user'"
"                            AND u.uid_key = o.uid_key"
"          JOIN uds.record_resources l ON l.record_id = u.id AND l.resource = 'users')"
"       AS led"
" WHERE a.department_id = led.department_id AND a.user_id = led.pk"
"   AND NOT a.is_owner";

/*
 * Main: the first that a record calls so, of the best source; else the
 * present one while still a member; else the first of the list, or of those
 * that a record left alone.  One that goes counts only where there is no other:
 * it takes itself out of the row.
 */
static const char *const main_sql =
"INSERT INTO uds_referred (pk, department_id)"
"SELECT s.user_id,"
"       coalesce(best.main,"
"                CASE WHEN best.is_still OR m.user_id IS NOT NULL THEN u.main_department_id END,"
"                best.first,"
"                (SELECT min(m.department_id)"
"                   FROM uds.department_members m"
"                  WHERE m.user_id = s.user_id AND m.source_id = ANY (s.silent)"
"                    AND " NOT_LEAVING "),"
"                (SELECT x.pk"
"                   FROM uds_leaving x"
"                  WHERE x.resource = 'departments' AND x.pk = u.main_department_id))"
"  FROM uds_member_scope s"
"  LEFT JOIN (SELECT a.user_id,"
"                    (min(ARRAY[a.priority, a.source_id, a.main_ord, a.department_id])"
"                     FILTER (WHERE a.main_ord IS NOT NULL))[4] AS main,"
"                    (min(ARRAY[a.priority, a.source_id, a.ord, a.department_id]))[4] AS first,"
"                    bool_or(a.department_id = p.main_department_id) AS is_still"
"               FROM uds_asserted a"
"               {person}"
"              GROUP BY a.user_id) AS best USING (user_id)"
"  {user}"
"  {main}"
" WHERE s.decided";

static const char *const main_condition =
"m.user_id = u.id AND m.department_id = u.main_department_id"
" AND (m.source_id IS NULL OR m.source_id = ANY (s.silent))"
" AND " NOT_LEAVING;

/*
 * Who leads a department may change for those, too, whose record leaves their
 * memberships alone.  The memberships of a department that goes do so with it,
 * so that they stay if it cannot go.
 */
static const char *const diff_sql =
"INSERT INTO uds_member_diff (n, user_id, department_id, action, uid, is_owner, source_id, before)"
"SELECT row_number() OVER (),"
"       coalesce(d.user_id, m.user_id), coalesce(d.department_id, m.department_id),"
"       CASE WHEN m.user_id IS NULL THEN 'link'"
"            WHEN d.user_id IS NULL AND m.source_id <> ALL (m.silent) THEN 'unlink'"
"            ELSE 'update' END,"
"       p.uid, coalesce(d.is_owner, m.leads), coalesce(d.source_id, m.source_id),"
"       CASE WHEN m.user_id IS NOT NULL"
"            THEN jsonb_build_object('is_owner', m.is_owner, 'source_id', m.source_id) END"
"  FROM (SELECT a.user_id, a.department_id, bool_or(a.is_owner) AS is_owner,"
"               (min(ARRAY[a.priority, a.source_id]))[2] AS source_id"
"          FROM uds_asserted a{those}"
"         GROUP BY a.user_id, a.department_id) AS d"
"  FULL JOIN (SELECT x.*, s.silent, o.is_owner AS leads"
"               FROM uds_member_scope s"
"               {members}"
"               LEFT JOIN (SELECT w.pk, a.department_id, bool_or(a.is_owner) AS is_owner"
"                            FROM uds_arrived a"
"                            JOIN uds_work w ON w.uid_key = a.uid_key"
"                           WHERE a.data_type = 'user' AND w.resource = 'users'"
"                           GROUP BY w.pk, a.department_id) AS o"
"                      ON o.pk = x.user_id AND o.department_id = x.department_id) AS m"
"    ON m.user_id = d.user_id AND m.department_id = d.department_id"
"  JOIN uds_desired p ON p.pk = coalesce(d.user_id, m.user_id)"
" WHERE m.user_id IS NULL"
"    OR (d.user_id IS NULL AND m.source_id IS NOT NULL"
"        AND CASE WHEN m.source_id = ANY (m.silent) THEN m.leads <> m.is_owner"
"                 ELSE " NOT_LEAVING " END)"
"    OR (d.user_id IS NOT NULL AND m.source_id IS NOT NULL"
"        AND (m.is_owner <> d.is_owner OR m.source_id <> d.source_id))";

/* Which of the memberships in asserted, a. */
static const char *const of_known_sql =
"         WHERE NOT a.is_new";

static const char *const of_new_sql =
"         WHERE a.is_new";

static const char *const withdraw_sql =
"WITH written AS"
"     (DELETE FROM uds.department_members m"
"       USING uds_member_diff x"
"       WHERE x.action = 'unlink'"
"         AND m.department_id = x.department_id AND m.user_id = x.user_id{rows}"
"   RETURNING m.*, x.uid)"
"INSERT INTO uds_changed (resource, pk, uid, action, before)"
"SELECT 'members', w.department_id || ':' || w.user_id, w.uid, 'unlink',"
"       to_jsonb(w) - 'uid'"
"  FROM written w";

static const char *const update_sql =
"WITH written AS"
"     (UPDATE uds.department_members m"
"         SET is_owner = x.is_owner, source_id = x.source_id"
"        FROM uds_member_diff x"
"       WHERE x.action = 'update'"
"         AND m.department_id = x.department_id AND m.user_id = x.user_id{rows}"
"   RETURNING m.*, x.uid, x.before)"
"INSERT INTO uds_changed (resource, pk, uid, action, before, after)"
"SELECT 'members', w.department_id || ':' || w.user_id, w.uid, 'update', w.before,"
"       jsonb_build_object('is_owner', w.is_owner, 'source_id', w.source_id)"
"  FROM written w";

/* In the order of the primary key, which its index likes best. */
static const char *const add_sql =
"WITH written AS"
"     (INSERT INTO uds.department_members AS m (department_id, user_id, is_owner, source_id)"
"      SELECT x.department_id, x.user_id, x.is_owner, x.source_id"
"        FROM uds_member_diff x"
"       WHERE x.action = 'link'{rows}"
"       ORDER BY x.department_id, x.user_id"
"   RETURNING m.*)"
"INSERT INTO uds_changed (resource, pk, uid, action, after)"
"SELECT 'members', w.department_id || ':' || w.user_id, d.uid, 'link', to_jsonb(w)"
"  FROM written w"
"  JOIN uds_desired d ON d.pk = w.user_id";

/*
 * All memberships of users that are new, which differ from none that are
 * there; a record asserts each once.
 */
static const char *const add_new_sql =
"WITH written AS"
"     (INSERT INTO uds.department_members AS m (department_id, user_id, is_owner, source_id)"
"      SELECT a.department_id, a.user_id, a.is_owner, a.source_id"
"        FROM uds_asserted a"
"       WHERE a.is_new"
"       ORDER BY a.department_id, a.user_id"
"   RETURNING m.*)"
"INSERT INTO uds_changed (resource, pk, uid, action, after)"
"SELECT 'members', w.department_id || ':' || w.user_id, d.uid, 'link', to_jsonb(w)"
"  FROM written w"
"  JOIN uds_desired d ON d.pk = w.user_id";

/* The statement that finds the main departments. */
static char *
main_statement(const UdsRun *run)
{
	return uds_stage_expand(main_sql,
							"person", uds_stage_join(run, "LEFT JOIN", "uds.users", "p",
													 "p.id = a.user_id"),
							"user", uds_stage_join(run, "LEFT JOIN", "uds.users", "u",
												   "u.id = s.user_id"),
							"main", uds_stage_join(run, "LEFT JOIN", "uds.department_members", "m",
												   main_condition),
							NULL);
}

/*
 * Works out the memberships and main departments of the users in desired.
 * Fills referred with the latter.  To be called when the links of all users
 * of the task are stored.  Returns whether any department was not there.
 */
bool
uds_members_desire(const UdsRun *run)
{
	const char *live = uds_stage_live(run, &uds_users);
	bool		unresolved;

	uds_stage_exec(run, uds_stage_expand(run->shared ? scope_sql : single_scope_sql,
										 "live", live,
										 "known", run->small ? "" : known_sql, NULL));
	uds_stage_analyze(run, "uds_member_scope");
	uds_stage_exec(run, uds_stage_expand(assert_sql, "live", live, NULL));
	unresolved = uds_stage_exec(run, drop_unresolved_sql) > 0;
	uds_stage_analyze(run, "uds_asserted");
	if (uds_stage_exec(run, uds_stage_expand(owners_sql, "record",
											 uds_stage_join(run, "JOIN", "uds.records", "r",
															owners_condition), NULL)) > 0)
	{
		uds_stage_analyze(run, "uds_owners");
		uds_stage_exec(run, own_sql);
	}
	uds_stage_exec(run, main_statement(run));
	if (!run->small)
		uds_stage_exec(run, unresolved ? new_main_left_sql : new_main_sql);
	uds_stage_analyze(run, "uds_referred");
	return unresolved;
}

/* Writes the memberships that differ: all, or "those" of some users. */
static void
write_differing(const UdsRun *run, const char *those)
{
	const char *const writes[] = {withdraw_sql, update_sql, add_sql};

	uds_stage_clear(run, "uds_member_diff");
	if (uds_stage_exec(run, uds_stage_expand(diff_sql,
											 "members", uds_stage_join(run, "JOIN",
																	   "uds.department_members", "x",
																	   "x.user_id = s.user_id"),
											 "those", those, NULL)) == 0)
		return;
	uds_stage_analyze(run, "uds_member_diff");
	for (int i = 0; i < lengthof(writes); i++)
	{
		UdsStatement statement = {
			.sql = writes[i],
			.rows = " AND x.n = ANY ($3)",
			.relation = "uds_member_diff",
			.pk = "user_id",
			.blamed = "members",
			.keeps_rows = true
		};

		uds_stage_isolate(run, &uds_users, &statement);
	}
}

/*
 * Writes the memberships that differ.  To be called when the users are
 * written.
 */
void
uds_members_write(const UdsRun *run)
{
	if (run->small)
	{
		write_differing(run, "");
		return;
	}
	if (uds_filled("uds_member_scope"))
		write_differing(run, of_known_sql);
	if (uds_stage_attempt(run, add_new_sql))
		return;
	/* those of the others are not to be compared once more */
	uds_stage_clear(run, "uds_member_scope");
	write_differing(run, of_new_sql);
}
