-- Resources besides users and departments: tables filled by mapping, and
-- functions that are called with the changed records
CREATE DATABASE uds_resources;
\c uds_resources
\set SHOW_CONTEXT never
\pset null -
SET timezone = 'UTC';
CREATE EXTENSION uds;

-- pushes records, remembers the task
CREATE FUNCTION push(type text, records jsonb, source text DEFAULT 'api') RETURNS bigint
LANGUAGE sql AS $$
	SELECT (uds_push(jsonb_build_object('dataType', type, 'records', records,
										'sourceName', source)) ->> 'task')::bigint
$$;
CREATE VIEW changed AS
SELECT resource, pk, uid, action, before, after
FROM uds.changes
WHERE task_id = (SELECT max(id) FROM uds.tasks) AND resource NOT IN ('users', 'departments', 'members')
ORDER BY seq;
CREATE VIEW refused AS
SELECT data_type, uid, resource, sqlstate, message, record
FROM uds.task_errors WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY seq;

CREATE TABLE badges (badge text PRIMARY KEY, nick text, floor integer CHECK (floor < 100),
					 mail text UNIQUE, printed boolean DEFAULT false);
SELECT uds_map_table('badges', 'badges', 'user', 'badge',
	'{"nick": "$.nickname", "floor": "$.floor", "mail": {"path": "$.email", "apply": ["lower"]}}');
SELECT name, accepts, target, key, columns, apply, after, level, builtin FROM uds.resources ORDER BY level, name;
SELECT uds_push('{"dataType": "user", "records": [{"uid": "ann", "nickname": "Ann", "floor": 3, "email": "ANN@example.com"},
	{"uid": "bob", "nickname": "Bob"}]}') - 'task';
TABLE badges;
TABLE changed;
SELECT push('user', '[{"uid": "ann", "nickname": "Anna", "floor": 3, "email": "ANN@example.com"}]') > 0;
TABLE changed;
SELECT push('user', '[{"uid": "ann", "nickname": "Anna", "floor": 3, "email": "ANN@example.com"}]') > 0;
TABLE changed;
SELECT push('user', '[{"uid": "ann", "isDeleted": true}]') > 0;
TABLE changed;
TABLE badges;
\c postgres
DROP DATABASE uds_resources WITH (FORCE);
