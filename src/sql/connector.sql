-- connector.sql: what a manifest's stream says, applied to what was received.
--
-- search_path is not pinned on these functions: they are in C and resolve no
-- name, and the setting would make map_record() slower by a third.

CREATE FUNCTION uds.map_page(body text, stream jsonb, context jsonb)
RETURNS TABLE (ord integer, record jsonb, error text)
LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 100 COST 1000
AS 'MODULE_PATHNAME', 'uds_map_page';
COMMENT ON FUNCTION uds.map_page(text, jsonb, jsonb)
IS 'records of a received page, mapped as a stream of a manifest says; a faulty one comes with its error';
REVOKE ALL ON FUNCTION uds.map_page(text, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION uds.map_record(raw jsonb, stream jsonb, context jsonb)
RETURNS jsonb
LANGUAGE C IMMUTABLE PARALLEL SAFE COST 10
AS 'MODULE_PATHNAME', 'uds_map_record';
COMMENT ON FUNCTION uds.map_record(jsonb, jsonb, jsonb)
IS 'one record, mapped as a stream of a manifest says';
REVOKE ALL ON FUNCTION uds.map_record(jsonb, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION uds.source_streams(source bigint)
RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_object_agg(e.key, jsonb_build_object(
			   'stream', e.value || jsonb_build_object('options', o.visible)
				   || CASE WHEN own.fields IS NULL THEN '{}'
						   ELSE jsonb_build_object('fields', e.value -> 'fields' || own.fields) END
				   || CASE WHEN own.condition IS NULL THEN '{}'
						   ELSE jsonb_build_object('source_where', own.condition) END,
			   'fold', coalesce(m.manifest -> 'ignore_case'
								? CASE e.value ->> 'type' WHEN 'member' THEN 'user' ELSE e.value ->> 'type' END, false),
			   'fold_departments', coalesce(m.manifest -> 'ignore_case' ? 'department', false)))
	FROM uds.source_settings s
	JOIN uds.source_manifests m ON m.source_id = s.id
	CROSS JOIN LATERAL
		(SELECT coalesce(jsonb_object_agg(a.key, coalesce(s.options -> a.key, a.value -> 'default')), '{}') AS visible
		 FROM jsonb_each(m.manifest -> 'options') AS a
		 WHERE NOT coalesce((a.value ->> 'secret')::boolean, false)
			AND (s.options ? a.key OR a.value ? 'default')) AS o
	-- queries and functions give records as they are to be
	CROSS JOIN LATERAL jsonb_each(coalesce(m.manifest -> 'streams',
		'{"users": {"type": "user", "records": "$[*]"}, "departments": {"type": "department", "records": "$[*]"}}')) AS e
	LEFT JOIN LATERAL
		(SELECT s.options -> ((e.value ->> 'type') || '_fields') AS fields,
				s.options -> ((e.value ->> 'type') || '_where') AS condition) AS own
		ON e.value ? 'fields' AND e.value ->> 'type' IN ('user', 'department') AND NOT e.value @> '{"partial": true}'
	WHERE s.id = source
$$;
COMMENT ON FUNCTION uds.source_streams(bigint)
IS 'the streams of a source, as uds.map_page() takes them: name to definition, with the fields and conditions of the source laid over it, and whether case counts in uids';
REVOKE ALL ON FUNCTION uds.source_streams(bigint) FROM PUBLIC;

CREATE FUNCTION uds.unite_records(a jsonb, b jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT a || b || coalesce((SELECT jsonb_object_agg(k, (a -> k) || (b -> k))
							   FROM unnest('{departments,owners}'::text[]) AS k
							   WHERE jsonb_typeof(a -> k) = 'array' AND jsonb_typeof(b -> k) = 'array'), '{}')
$$;
COMMENT ON FUNCTION uds.unite_records(jsonb, jsonb) IS 'two parts of one record: keys of both, the second on top, lists of departments and owners put together';
REVOKE ALL ON FUNCTION uds.unite_records(jsonb, jsonb) FROM PUBLIC;

CREATE AGGREGATE uds.unite_all_records(jsonb)
(
	sfunc = uds.unite_records,
	stype = jsonb,
	initcond = '{}'
);
COMMENT ON AGGREGATE uds.unite_all_records(jsonb) IS 'all parts of one record, as uds.unite_records() puts two together';
REVOKE ALL ON FUNCTION uds.unite_all_records(jsonb) FROM PUBLIC;
