-- history.sql: what users and memberships were at an earlier time.
--
-- These read with the rights of the caller, who needs SELECT on the tables.
-- What was changed by hand is in no change set: it shows as it is now.

CREATE FUNCTION uds.require_history(moment timestamptz)
RETURNS void
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	kept text := current_setting('uds.history_retention', true);
BEGIN
	IF kept IS NULL OR kept::interval >= '0' AND moment < clock_timestamp() - kept::interval THEN
		RAISE EXCEPTION 'the history of uds does not reach back to %', moment
			USING ERRCODE = 'object_not_in_prerequisite_state',
				  HINT = 'Changes are kept for uds.history_retention.';
	END IF;
END;
$$;
REVOKE ALL ON FUNCTION uds.require_history FROM PUBLIC;
COMMENT ON FUNCTION uds.require_history IS 'raises an error if changes since then may have been removed';

CREATE FUNCTION @extschema@.uds_users_as_of(moment timestamptz)
RETURNS SETOF uds.users
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM uds.require_history(moment);
	RETURN QUERY
	WITH later AS MATERIALIZED
	(
		SELECT c.pk, c.action, c.before,
			   row_number() OVER (ORDER BY t.finished_at, t.id, c.seq) AS ord
		FROM uds.tasks t
		JOIN uds.changes c ON c.task_id = t.id
		WHERE t.finished_at > moment AND c.applied
			AND c.resource = 'users' AND c.action <> 'link'
	),
	earliest AS
	(
		SELECT DISTINCT ON (l.pk) l.pk, l.action
		FROM later l
		ORDER BY l.pk, l.ord
	),
	was AS
	(
		SELECT k.pk, jsonb_object_agg(k.key, k.value) AS before
		FROM (SELECT DISTINCT ON (l.pk, b.key) l.pk, b.key, b.value
			  FROM later l
			  CROSS JOIN LATERAL jsonb_each(l.before) AS b
			  ORDER BY l.pk, b.key, l.ord) AS k
		GROUP BY k.pk
	)
	SELECT p.*
	FROM uds.users u
	FULL JOIN earliest e ON e.pk = u.id::text
	LEFT JOIN was w ON w.pk = e.pk
	CROSS JOIN LATERAL jsonb_populate_record(u, coalesce(w.before, '{}')) AS p
	WHERE e.action IS DISTINCT FROM 'create' AND p.id IS NOT NULL;
END;
$$;
REVOKE ALL ON FUNCTION @extschema@.uds_users_as_of FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_users_as_of IS 'uds.users at an earlier time, reckoned back from now by uds.changes';

CREATE FUNCTION @extschema@.uds_members_as_of(moment timestamptz)
RETURNS SETOF uds.department_members
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM uds.require_history(moment);
	RETURN QUERY
	WITH later AS MATERIALIZED
	(
		SELECT c.pk, c.action, c.before,
			   row_number() OVER (ORDER BY t.finished_at, t.id, c.seq) AS ord
		FROM uds.tasks t
		JOIN uds.changes c ON c.task_id = t.id
		WHERE t.finished_at > moment AND c.applied AND c.resource = 'members'
	),
	earliest AS
	(
		SELECT DISTINCT ON (l.pk) l.pk, l.action
		FROM later l
		ORDER BY l.pk, l.ord
	),
	was AS
	(
		SELECT k.pk, jsonb_object_agg(k.key, k.value) AS before
		FROM (SELECT DISTINCT ON (l.pk, b.key) l.pk, b.key, b.value
			  FROM later l
			  CROSS JOIN LATERAL jsonb_each(l.before) AS b
			  ORDER BY l.pk, b.key, l.ord) AS k
		GROUP BY k.pk
	)
	SELECT p.*
	FROM uds.department_members m
	FULL JOIN earliest e ON e.pk = m.department_id || ':' || m.user_id
	LEFT JOIN was w ON w.pk = e.pk
	CROSS JOIN LATERAL jsonb_populate_record(m, coalesce(w.before, '{}')) AS p
	WHERE e.action IS DISTINCT FROM 'link' AND p.user_id IS NOT NULL;
END;
$$;
REVOKE ALL ON FUNCTION @extschema@.uds_members_as_of FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_members_as_of IS 'uds.department_members at an earlier time, reckoned back from now by uds.changes';
