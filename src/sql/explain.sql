-- explain.sql: why a user is what it is.
--
-- Reads with the rights of the caller, who needs SELECT on the tables of uds.

CREATE FUNCTION uds.explain_raw(source_id bigint, uid_key text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	page record;
	item record;
	raw jsonb;
BEGIN
	-- pages that cannot have it are passed over without being taken apart
	FOR page IN
		SELECT p.task_id, p.stream, p.request, p.received_at, p.body,
			   coalesce(p.context, '{}') AS context, e.value -> 'stream' AS definition,
			   (e.value -> 'fold')::boolean AS fold
		FROM jsonb_each(uds.source_streams(explain_raw.source_id)) AS e
		JOIN (SELECT t.id, t.attempt
			  FROM uds.tasks t
			  WHERE t.source_id = explain_raw.source_id
				AND EXISTS (SELECT FROM uds.raw_log x WHERE x.task_id = t.id AND x.usable)
			  ORDER BY t.id DESC
			  LIMIT 10) AS t ON true
		JOIN uds.raw_log p ON p.task_id = t.id AND p.attempt = t.attempt
						  AND p.stream = coalesce(e.value #>> '{stream,pages_of}', e.key) AND p.usable
		WHERE e.value #>> '{stream,type}' = 'user'
			AND NOT coalesce((e.value #>> '{stream,partial}')::boolean, false)
			AND (jsonb_typeof(e.value #> '{stream,fields,uid}') IS DISTINCT FROM 'string'
				 OR explain_raw.uid_key !~ '^[[:alnum:]_.@-]+$' OR explain_raw.uid_key ~ '[^[:ascii:]]'
				 OR position(lower(explain_raw.uid_key) IN lower(p.body)) > 0)
		ORDER BY p.task_id DESC, p.seq DESC
	LOOP
		SELECT m.ord, m.record INTO item
		FROM uds.map_page(page.body, page.definition, page.context) AS m
		WHERE CASE WHEN page.fold THEN lower(m.record ->> 'uid')
				   ELSE m.record ->> 'uid' END = explain_raw.uid_key
		ORDER BY m.ord DESC
		LIMIT 1;
		CONTINUE WHEN NOT FOUND;

		BEGIN
			SELECT v.item INTO raw
			FROM jsonb_path_query(page.body::jsonb,
								  coalesce(page.definition ->> 'records', '$')::jsonpath)
				 WITH ORDINALITY AS v (item, ord)
			WHERE v.ord = item.ord;
		EXCEPTION WHEN data_exception THEN
			raw := NULL;	-- another record of the page is no valid jsonb
		END;
		RETURN jsonb_build_object('task', page.task_id, 'stream', page.stream,
								  'request', page.request, 'received_at', page.received_at,
								  'record', raw, 'mapped', item.record);
	END LOOP;
	RETURN NULL;
END;
$$;
REVOKE ALL ON FUNCTION uds.explain_raw FROM PUBLIC;
COMMENT ON FUNCTION uds.explain_raw IS 'a user as last received, as far as the raw log still has the page';

CREATE FUNCTION uds.explain_attributes(pk text, present jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_object_agg(a.key, a.entry)
	FROM (SELECT v.key,
				 jsonb_build_object('source', min(v.name) FILTER (WHERE v.rank = 1),
									'priority', min(v.priority) FILTER (WHERE v.rank = 1),
									'value', (array_agg(v.value ORDER BY v.rank))[1],
									'present', present -> v.key,
									'said', jsonb_agg(jsonb_build_object('source', v.name,
																		 'priority', v.priority,
																		 'value', v.value)
													  ORDER BY v.rank)) AS entry
		  FROM (SELECT e.key, e.value, s.name, s.priority,
					   row_number() OVER (PARTITION BY e.key ORDER BY s.priority, s.id) AS rank
				FROM uds.record_resources l
				JOIN uds.records r ON r.id = l.record_id AND NOT r.deleted
				JOIN uds.source_settings s ON s.id = r.source_id
				CROSS JOIN LATERAL jsonb_each(r.data) AS e
				JOIN pg_attribute c ON c.attrelid = 'uds.users'::regclass AND c.attname = e.key
								   AND c.attnum > 0 AND NOT c.attisdropped
								   AND c.attgenerated = '' AND c.attidentity = ''
				WHERE l.resource = 'users' AND l.resource_pk = pk
					AND e.key <> ALL ('{id,protected,main_department_id,created_at,updated_at}')
					AND (s.columns IS NULL OR e.key = ANY (s.columns))) AS v
		  GROUP BY v.key) AS a;
$$;
REVOKE ALL ON FUNCTION uds.explain_attributes FROM PUBLIC;
COMMENT ON FUNCTION uds.explain_attributes IS 'of each attribute of a user what the live records say, and which source decides';

CREATE FUNCTION uds.explain_memberships(pk text)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH said AS
	(
		SELECT s.id, s.name, s.priority, d.uid, d.ord, d.is_main, g.resource_pk::bigint AS department_id
		FROM uds.record_resources l
		JOIN uds.records r ON r.id = l.record_id AND NOT r.deleted
		JOIN uds.source_settings s ON s.id = r.source_id
		JOIN uds.source_manifests t ON t.source_id = s.id
		CROSS JOIN LATERAL
			(SELECT a.ord, a.value @> '{"isMain": true}' AS is_main,
					CASE jsonb_typeof(a.value) WHEN 'object' THEN a.value ->> 'uid'
											   ELSE a.value #>> '{}' END AS uid
			 FROM jsonb_array_elements(CASE jsonb_typeof(r.data -> 'departments')
										   WHEN 'array' THEN r.data -> 'departments'
										   ELSE '[]' END) WITH ORDINALITY AS a (value, ord)) AS d
		LEFT JOIN uds.records o ON o.source_id = s.id AND o.data_type = 'department'
							   AND o.uid_key = CASE WHEN coalesce(t.manifest -> 'ignore_case' ? 'department', false)
													THEN lower(d.uid) ELSE d.uid END
		LEFT JOIN uds.record_resources g ON g.record_id = o.id AND g.resource = 'departments'
		WHERE l.resource = 'users' AND l.resource_pk = pk
	)
	SELECT jsonb_agg(jsonb_build_object('department_id', coalesce(m.department_id, s.department_id),
										'title', d.title,
										'uid', s.uid,
										'said_by', s.name,
										'main', coalesce(s.is_main, false),
										'member', m.user_id IS NOT NULL,
										'by_hand', m.user_id IS NOT NULL AND m.source_id IS NULL,
										'kept', EXISTS (SELECT FROM uds.record_resources l
														JOIN uds.records r ON r.id = l.record_id AND NOT r.deleted
														WHERE l.resource = 'users' AND l.resource_pk = pk
															AND r.source_id = m.source_id
															AND NOT r.data ? 'departments'))
					 ORDER BY s.priority, s.id, s.ord, m.department_id)
	FROM said s
	FULL JOIN (SELECT x.* FROM uds.department_members x WHERE x.user_id = pk::bigint) AS m
		ON m.department_id = s.department_id
	LEFT JOIN uds.departments d ON d.id = coalesce(m.department_id, s.department_id);
$$;
REVOKE ALL ON FUNCTION uds.explain_memberships FROM PUBLIC;
COMMENT ON FUNCTION uds.explain_memberships IS 'memberships of a user: what the live records say, and what there is';

CREATE FUNCTION uds.explain_change(pk text, attributes jsonb, memberships jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH wanted AS
	(
		SELECT to_jsonb(u) AS before,
			   to_jsonb(jsonb_populate_record(u,
					(SELECT coalesce(jsonb_object_agg(a.key,
								CASE WHEN a.key IN ('username', 'email', 'phone')
										  AND a.value -> 'value' = '""' THEN 'null'
									 ELSE a.value -> 'value' END), '{}')
					 FROM jsonb_each(attributes) AS a
					 WHERE a.key <> 'enabled')
					|| CASE WHEN (attributes #>> '{enabled,value}')::boolean
								 = EXISTS (SELECT FROM uds.disabled_rows o
										   WHERE o.resource = 'users' AND o.resource_pk = pk)
								 AND NOT (u.protected AND attributes #>> '{enabled,value}' = 'false')
							THEN jsonb_build_object('enabled', attributes #> '{enabled,value}')
							ELSE '{}' END)) AS after
		FROM uds.users u
		WHERE u.id = pk::bigint
	),
	changed AS
	(
		SELECT jsonb_object_agg(b.key, b.value) AS before,
			   jsonb_object_agg(b.key, w.after -> b.key) AS after
		FROM wanted w
		CROSS JOIN LATERAL jsonb_each(w.before) AS b
		WHERE b.value <> w.after -> b.key
	),
	membership AS
	(
		SELECT jsonb_agg(m.value -> 'department_id')
				   FILTER (WHERE m.value ->> 'said_by' IS NOT NULL AND m.value ->> 'member' = 'false'
								 AND m.value ->> 'department_id' IS NOT NULL) AS link,
			   jsonb_agg(m.value -> 'department_id')
				   FILTER (WHERE m.value ->> 'said_by' IS NULL AND m.value ->> 'by_hand' = 'false'
								 AND m.value ->> 'kept' = 'false') AS unlink
		FROM jsonb_array_elements(memberships) AS m (value)
	)
	SELECT jsonb_strip_nulls(jsonb_build_object('action',
							  CASE WHEN c.after ->> 'enabled' = 'true' THEN 'enable'
								   WHEN c.after ->> 'enabled' = 'false' THEN 'disable'
								   WHEN c.after IS NOT NULL THEN 'update' END,
							  'link', m.link, 'unlink', m.unlink))
		   || CASE WHEN c.after IS NULL THEN '{}'
				   ELSE jsonb_build_object('before', c.before, 'after', c.after) END
	FROM changed c
	CROSS JOIN membership m
	WHERE c.after IS NOT NULL OR m.link IS NOT NULL OR m.unlink IS NOT NULL;
$$;
REVOKE ALL ON FUNCTION uds.explain_change FROM PUBLIC;
COMMENT ON FUNCTION uds.explain_change IS 'what a sync that brings nothing new would change on a user, NULL if nothing';

CREATE FUNCTION @extschema@.uds_explain_user(source text, uid text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	s record;
	r uds.records;
	key text;
	raw jsonb;
	said jsonb;
	link uds.record_resources;
	present jsonb;
	keys jsonb;
	attributes jsonb;
	memberships jsonb;
BEGIN
	SELECT c.id, c.name, c.match_keys, t.manifest INTO s
	FROM uds.source_settings c
	JOIN uds.source_manifests t ON t.source_id = c.id
	WHERE c.name = uds_explain_user.source;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'source "%" does not exist', uds_explain_user.source
			USING ERRCODE = 'undefined_object',
				  HINT = 'SELECT name FROM uds.sources lists the sources.';
	END IF;
	key := CASE WHEN coalesce(s.manifest -> 'ignore_case' ? 'user', false)
				THEN lower(uds_explain_user.uid) ELSE uds_explain_user.uid END;

	raw := uds.explain_raw(s.id, key);
	SELECT x.* INTO r
	FROM uds.records x
	WHERE x.source_id = s.id AND x.data_type = 'user' AND x.uid_key = key;
	said := coalesce(r.data, raw -> 'mapped');
	SELECT l.* INTO link
	FROM uds.record_resources l
	WHERE l.record_id = r.id AND l.resource = 'users';
	SELECT to_jsonb(u) INTO present FROM uds.users u WHERE u.id = link.resource_pk::bigint;

	-- whom the match keys point to, the linked row included
	SELECT jsonb_agg(jsonb_build_object('key', k.name, 'value', said -> k.name, 'rows',
			   (SELECT coalesce(jsonb_agg(u.id ORDER BY u.id), '[]')
				FROM uds.users u
				WHERE said ->> k.name <> ''
					AND CASE k.name WHEN 'username' THEN lower(u.username) = lower(said ->> 'username')
									WHEN 'email' THEN lower(u.email) = lower(said ->> 'email')
									WHEN 'phone' THEN u.phone = said ->> 'phone' END))
			   ORDER BY k.ord) INTO keys
	FROM unnest(s.match_keys) WITH ORDINALITY AS k (name, ord);

	IF present IS NOT NULL THEN
		attributes := uds.explain_attributes(link.resource_pk, present);
		memberships := uds.explain_memberships(link.resource_pk);
	END IF;
	RETURN jsonb_build_object(
		'source', s.name,
		'uid', uds_explain_user.uid,
		'raw', raw - 'mapped',
		'record', CASE WHEN r.id IS NULL THEN NULL
					   ELSE jsonb_build_object('data', r.data, 'deleted', r.deleted,
											   'task', r.task_id, 'first_seen_at', r.first_seen_at,
											   'changed_at', r.changed_at) END,
		'mapped', said,
		'match', jsonb_build_object('user', present -> 'id',
									'how', CASE WHEN present IS NULL THEN NULL
												WHEN link.created THEN 'created'
												ELSE 'matched' END,
									'keys', keys),
		'attributes', attributes,
		'memberships', memberships,
		'change', CASE WHEN present IS NULL AND said IS NOT NULL AND NOT coalesce(r.deleted, false)
					   THEN jsonb_build_object('action',
								CASE WHEN keys @? '$[*].rows[*]' THEN 'link' ELSE 'create' END,
								'after', said)
					   WHEN NOT r.deleted
					   THEN uds.explain_change(link.resource_pk, attributes, memberships) END,
		'errors', (SELECT jsonb_agg(jsonb_build_object('task', e.task_id, 'at', e.finished_at,
													   'resource', e.resource, 'sqlstate', e.sqlstate,
													   'message', e.message)
									ORDER BY e.task_id DESC, e.seq)
				   FROM (SELECT x.*, t.finished_at
						 FROM uds.tasks t
						 JOIN uds.task_errors x ON x.task_id = t.id
						 WHERE t.source_id = s.id AND x.data_type = 'user'
							AND (x.uid = uds_explain_user.uid OR x.uid = r.uid)
						 ORDER BY t.id DESC, x.seq
						 LIMIT 10) AS e));
END;
$$;
REVOKE ALL ON FUNCTION @extschema@.uds_explain_user FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_explain_user IS 'why a user is what it is: what came, which row it stands for, which source decides each attribute, and what a sync would change';
