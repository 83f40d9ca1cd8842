-- Push: envelope, reply, counts, what is written and what is not, who may
CREATE DATABASE uds_contract_push;
\c uds_contract_push
CREATE EXTENSION uds;
\set SHOW_CONTEXT never
\pset null '(null)'
-- what became of each push: the task, its error rows
CREATE FUNCTION push(data_type text, records jsonb, source text DEFAULT 'api')
RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	task bigint := uds_push(jsonb_build_object('dataType', data_type, 'sourceName', source,
											   'records', records)) -> 'task';
BEGIN
	RETURN QUERY SELECT concat_ws(': ', status, message) FROM uds.tasks WHERE id = task;
	RETURN QUERY SELECT format('%s: %s %s', coalesce(uid, '(no uid)'), sqlstate, message)
		FROM uds.task_errors WHERE task_id = task ORDER BY seq;
END $$;
--
-- The envelope: what is wrong with it is told, and nothing is stored
--
SELECT uds_push(NULL);
SELECT uds_push('null');
SELECT uds_push('[{"uid": "1"}]');
SELECT uds_push('"user"');
SELECT uds_push('{}');
SELECT uds_push('{"records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": null, "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": "group", "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": ["user"], "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": "user"}');
SELECT uds_push('{"dataType": "user", "records": null}');
SELECT uds_push('{"dataType": "user", "records": []}');
SELECT uds_push('{"dataType": "user", "records": {"uid": "1"}}');
SELECT uds_push('{"dataType": "user", "matchKey": "nickname", "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": "user", "matchKey": ["email"], "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": "user", "sourceName": 1, "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": "user", "sourceName": "nosuch", "records": [{"uid": "1"}]}');
SELECT uds_create_source('wecom', 'wecom', '{"corpid": "ww1", "secret": "s"}') > 0 AS created, uds_create_source('off', 'push', enabled => false) > 0 AS created;
SELECT uds_push('{"dataType": "user", "sourceName": "wecom", "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": "user", "sourceName": "off", "records": [{"uid": "1"}]}');
SELECT uds_sync('api');
SELECT count(*) AS tasks, (SELECT count(*) FROM uds.users) AS users, (SELECT count(*) FROM uds.records) AS records FROM uds.tasks;

--
-- The reply
--
SELECT jsonb_pretty(uds_push('{"dataType": "user", "records": [{"uid": "1", "nickname": "One"}, {"nickname": "None"}], "note": "ignored"}') - 'task') AS reply;
SELECT uds_push('{"dataType": "department", "records": [{"uid": "d", "sort": "first"}], "matchKey": null, "sourceName": null}') - 'task' AS reply;
SELECT uds_push('{"dataType": "department", "records": [{"uid": "d"}]}') - 'task' AS reply;
SELECT jsonb_typeof(uds_push('{"dataType": "user", "records": [{"uid": "1"}]}') -> 'task') AS task;
-- the task behind it
SELECT t.kind, t.mode, t.status, t.message, s.name AS source, t.requested_by = current_user AS mine, t.attempt, t.complete,
	t.batch ~ '^\d{20}$' AS batch, t.started_at <= t.finished_at AS ended, t.cost IS NOT NULL AS cost,
	t.fetched, t.created, t.updated, t.unchanged, t.failed, t.pages, t.requests
FROM uds.tasks t JOIN uds.sources s ON s.id = t.source_id ORDER BY t.id;
SELECT seq, data_type, uid, resource, sqlstate, message, record FROM uds.task_errors ORDER BY task_id, seq;

--
-- Counts: rows of users and departments once each, memberships apart
--
SELECT uds_create_source('hr', 'push', match_keys => '{username}', on_deleted => 'disable') > 0 AS created;
INSERT INTO uds.users (username) VALUES ('matched');
SELECT push('department', '[{"uid": "d1"}, {"uid": "d2"}, {"uid": "d2"}]', 'hr');
SELECT push('user', '[{"uid": "a", "username": "a", "departments": ["d1", "d2"]}, {"uid": "b", "username": "b", "departments": ["d1"]},
	{"uid": "c", "username": "c", "enabled": false}, {"uid": "e", "username": "e"}, {"uid": "m", "username": "matched"}]', 'hr');
SELECT push('user', '[{"uid": "a", "nickname": "A", "departments": ["d2"]}, {"uid": "b", "nickname": "B", "isDeleted": true}, {"uid": "c", "nickname": "C", "enabled": true},
	{"uid": "e"}, {"uid": "f", "username": "f"}, {"uid": "f", "username": "f"}, {"uid": ""}]', 'hr');
SELECT fetched, created, updated, unchanged, enabled, disabled, deleted, linked, unlinked, skipped, failed FROM uds.tasks ORDER BY id DESC LIMIT 3;
-- the change set: of each row the columns that changed
SELECT c.resource, c.uid, c.action, c.before - '{source_id}'::text[] AS before, c.after - '{source_id}'::text[] AS after, c.applied
FROM uds.changes c WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY resource, uid, action;
SELECT array_agg(seq ORDER BY seq) = array_agg(n ORDER BY n) AS numbered FROM (SELECT seq, row_number() OVER (ORDER BY seq) AS n FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks)) AS c;
-- the record, and the one before it
SELECT uid, data, last_data, deleted FROM uds.records WHERE data_type = 'user' ORDER BY uid;

--
-- Unchanged means untouched
--
CREATE VIEW row_versions AS
SELECT 'users' AS relation, id::text AS key, xmin::text AS made_by, ctid::text AS place FROM uds.users UNION ALL
SELECT 'departments', id::text, xmin::text, ctid::text FROM uds.departments UNION ALL
SELECT 'members', department_id || ':' || user_id, xmin::text, ctid::text FROM uds.department_members UNION ALL
SELECT 'records', id::text, xmin::text, ctid::text FROM uds.records UNION ALL
SELECT 'links', record_id::text, xmin::text, ctid::text FROM uds.record_resources;
CREATE VIEW writes AS
SELECT relname, n_tup_ins + n_tup_upd + n_tup_del AS n FROM pg_stat_xact_user_tables
WHERE relid IN ('uds.users'::regclass, 'uds.departments'::regclass, 'uds.department_members'::regclass, 'uds.records'::regclass, 'uds.record_resources'::regclass);
CREATE TEMP TABLE things (data_type text, records jsonb);
INSERT INTO things VALUES
('department', '[{"uid": "d1", "title": "One", "sort": 2, "owners": ["a"]}, {"uid": "d2", "parentUid": "d1"}, {"uid": "d3", "parentUid": "to come"}, {"uid": "d4", "isDeleted": true}]'),
('user', '[{"uid": "a", "username": "a", "email": "", "phone": null, "nickname": "", "departments": ["d1", {"uid": "d2", "isMain": true}, "to come"], "x": {"y": 1}},
	{"uid": "b", "isDeleted": true}, {"uid": "c", "username": "c", "enabled": false, "departments": []}, {"uid": "a2", "username": "a2", "departments": ["d3"]}]');
SELECT push(data_type, records, 'hr') FROM things;
CREATE TEMP TABLE versions_before AS TABLE row_versions;
BEGIN;
CREATE TEMP TABLE writes_before ON COMMIT DROP AS TABLE writes;
SELECT push(data_type, records, 'hr') FROM things;
SELECT relname, w.n - b.n AS rows FROM writes w JOIN writes_before b USING (relname) WHERE w.n <> b.n;
COMMIT;
SELECT count(*) AS rows, (SELECT count(*) FROM (TABLE row_versions EXCEPT TABLE versions_before) AS v) AS written FROM row_versions;
-- one of them changed: that row and its record alone
BEGIN;
CREATE TEMP TABLE writes_before ON COMMIT DROP AS TABLE writes;
SELECT push('user', jsonb_set(records, '{0,nickname}', '"new"'), 'hr') FROM things WHERE data_type = 'user';
SELECT relname, w.n - b.n AS rows FROM writes w JOIN writes_before b USING (relname) WHERE w.n <> b.n ORDER BY 1;
SELECT username, updated_at = now() AS now FROM uds.users WHERE username IN ('a', 'c') ORDER BY 1;
COMMIT;

--
-- The caller's transaction
--
CREATE VIEW totals AS SELECT (SELECT count(*) FROM uds.users) AS users, (SELECT count(*) FROM uds.records) AS records, (SELECT count(*) FROM uds.tasks) AS tasks,
	(SELECT count(*) FROM uds.task_errors) AS errors, (SELECT count(*) FROM uds.changes) AS changes;
CREATE TEMP TABLE total AS TABLE totals;
BEGIN;
SELECT push('user', '[{"uid": "gone", "username": "gone"}, {"uid": ""}]');
SELECT username FROM uds.users WHERE username = 'gone';
ROLLBACK;
SELECT t = b AS nothing FROM totals AS t, total AS b;
-- with a savepoint, within a function that catches errors, several in one statement
BEGIN;
SAVEPOINT s;
SELECT push('user', '[{"uid": "s1", "username": "s1"}]');
ROLLBACK TO s;
SELECT push('user', '[{"uid": "s2", "username": "s2"}]');
COMMIT;
DO $$
BEGIN
	PERFORM uds_push('{"dataType": "user", "records": [{"uid": "s3", "username": "s3"}]}');
	RAISE EXCEPTION 'no';
EXCEPTION WHEN OTHERS THEN
	PERFORM uds_push('{"dataType": "user", "records": [{"uid": "s4", "username": "s4"}]}');
END $$;
SELECT uds_push(format('{"dataType": "user", "records": [{"uid": "s%s", "username": "s%s"}]}', i, i)::jsonb) #> '{result,0,detail,count,success}' AS success
FROM generate_series(5, 6) AS i;
SELECT username FROM uds.users WHERE username LIKE 's_' ORDER BY 1;
-- an error that is caught leaves caller and session as they were
SHOW search_path;
DO $$
BEGIN
	PERFORM uds_push('{"dataType": "nosuch", "records": [{"uid": "1"}]}');
EXCEPTION WHEN invalid_parameter_value THEN
	RAISE NOTICE 'caught: %', sqlerrm;
END $$;
SHOW search_path;
SELECT current_user = session_user AS same_user, (SELECT count(*) FROM pg_settings WHERE name = 'enable_seqscan' AND setting = 'on') AS same_settings;
BEGIN READ ONLY;
SELECT uds_push('{"dataType": "user", "records": [{"uid": "1"}]}');
ROLLBACK;
-- more records than a small push has, some of them bad
SELECT count(*) FILTER (WHERE s LIKE 'partial: 3000 records taken, 2997 created, 3 set aside') AS partial, count(*) - 1 AS errors
FROM push('user', (SELECT jsonb_agg(jsonb_build_object('uid', 'n' || i, 'username', CASE WHEN i % 1000 = 7 THEN 's6' ELSE 'n' || i END)) FROM generate_series(1, 3000) AS i)) AS s;

--
-- Who may push needs no other right
--
CREATE ROLE regress_uds_pusher;
GRANT EXECUTE ON FUNCTION uds_push TO regress_uds_pusher;
SET ROLE regress_uds_pusher;
SELECT uds_push('{"dataType": "user", "records": [{"uid": "1", "nickname": "pushed"}, {"uid": ""}]}') #> '{result,0,detail}' AS reply;
SELECT count(*) FROM uds.users;
SELECT uds_create_source('mine', 'push');
RESET ROLE;
SELECT u.nickname, t.requested_by FROM uds.users u, uds.tasks t WHERE u.nickname = 'pushed' AND t.id = (SELECT max(id) FROM uds.tasks);
REVOKE EXECUTE ON FUNCTION uds_push FROM regress_uds_pusher;
SET ROLE regress_uds_pusher;
SELECT uds_push('{"dataType": "user", "records": [{"uid": "1"}]}');
RESET ROLE;

--
-- A dropped source: with keep_data rows stay and memberships become hand-made
--
SELECT uds_create_source('one', 'push', match_keys => '{username}') > 0 AS created, uds_create_source('two', 'push', match_keys => '{username}') > 0 AS created;
SELECT push('department', '[{"uid": "x"}, {"uid": "y"}]', 'one');
SELECT push('department', '[{"uid": "z"}]', 'two');
INSERT INTO uds.users (username) VALUES ('w1');
SELECT push('user', '[{"uid": "1", "username": "w1", "departments": ["x"]}, {"uid": "2", "username": "w2", "departments": ["x", "y"]}, {"uid": "3", "username": "w3", "departments": ["y"]}]', 'one');
SELECT push('user', '[{"uid": "3", "username": "w3", "departments": ["z"]}]', 'two');
CREATE VIEW left_over AS SELECT u.username, string_agg(d.title || ' ' || coalesce(s.name, 'by hand'), ', ' ORDER BY d.title) AS departments
FROM uds.users u LEFT JOIN uds.department_members m ON m.user_id = u.id LEFT JOIN uds.departments d ON d.id = m.department_id LEFT JOIN uds.sources s ON s.id = m.source_id
WHERE username LIKE 'w%' GROUP BY 1;
BEGIN;
SELECT uds_drop_source('one');
SELECT * FROM left_over ORDER BY 1;
SELECT push('user', '[{"uid": "3", "username": "w3", "departments": []}]', 'two');
SELECT * FROM left_over WHERE username = 'w3';
ROLLBACK;
-- without, what it created and nobody else is linked to goes
SELECT uds_drop_source('one', keep_data => false);
SELECT * FROM left_over ORDER BY 1;
SELECT title FROM uds.departments WHERE title IN ('x', 'y', 'z');
SELECT push('user', '[{"uid": "3", "isDeleted": true}]', 'two');
SELECT uds_push('{"dataType": "user", "sourceName": "one", "records": [{"uid": "1"}]}');
SELECT * FROM left_over ORDER BY 1;
\c postgres
DROP DATABASE uds_contract_push;
DROP ROLE regress_uds_pusher;
