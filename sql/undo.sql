-- Undo: what a task changed is put back, what was changed since is left alone;
-- the records behind it as well. And what the history tells besides.
CREATE DATABASE uds_undo;
\c uds_undo
\set SHOW_CONTEXT never
\pset null -
SET timezone = 'UTC';
CREATE EXTENSION uds;
ALTER TABLE uds.users ADD COLUMN badge integer, ADD COLUMN seen_at timestamptz;

-- pushes records and remembers the task
CREATE FUNCTION push(type text, records jsonb, source text DEFAULT 'hr') RETURNS bigint
LANGUAGE sql AS $$
	SELECT (uds_push(jsonb_build_object('dataType', type, 'records', records,
										'sourceName', source)) ->> 'task')::bigint
$$;
CREATE VIEW people AS
SELECT u.id, u.username, u.email, u.badge, u.enabled, d.title AS main,
	   (SELECT string_agg(x.title || CASE WHEN m.is_owner THEN '*' ELSE '' END, ',' ORDER BY x.title)
		FROM uds.department_members m JOIN uds.departments x ON x.id = m.department_id
		WHERE m.user_id = u.id) AS departments
FROM uds.users u LEFT JOIN uds.departments d ON d.id = u.main_department_id
ORDER BY u.id;
CREATE VIEW tree AS
SELECT d.id, d.title, p.title AS parent, d.is_leaf
FROM uds.departments d LEFT JOIN uds.departments p ON p.id = d.parent_id
ORDER BY d.id;
CREATE VIEW known AS
SELECT r.data_type, r.uid, r.data - 'uid' AS data, r.deleted, l.resource_pk AS pk, l.created,
	   o.resource_pk IS NOT NULL AS disabled,
	   (SELECT string_agg(q.uid_key, ',') FROM uds.pending_references q WHERE q.record_id = r.id) AS waits_for
FROM uds.records r
LEFT JOIN uds.record_resources l ON l.record_id = r.id
LEFT JOIN uds.disabled_rows o ON o.resource = l.resource AND o.resource_pk = l.resource_pk
ORDER BY r.data_type, r.uid;
CREATE VIEW last_task AS
SELECT t.kind, t.status, t.message, t.created, t.updated, t.enabled, t.disabled, t.deleted,
	   t.linked, t.unlinked, t.failed
FROM uds.tasks t ORDER BY t.id DESC LIMIT 1;
SELECT uds_create_source('hr', 'push', on_deleted => 'disable') > 0 AS created;

--
-- What cannot be undone
--
SELECT uds_undo(4711);
SELECT uds_undo(NULL);
SELECT push('user', '[{"uid": "zoe", "nickname": "Zoe"}]') AS zoe \gset
SELECT push('user', '[{"uid": "zoe", "nickname": "Zoe"}]') AS nothing \gset
\set VERBOSITY terse
SELECT uds_undo(:nothing);
BEGIN;
SELECT uds_undo(push('user', '[{"uid": "yan"}]'), wait => true);
ROLLBACK;
\set VERBOSITY default
SELECT uds_undo(:zoe, wait => true) AS undo \gset
SELECT * FROM last_task;
\set VERBOSITY terse
SELECT uds_undo(:zoe);
\set VERBOSITY default
SELECT count(*) FROM uds.users;

--
-- Created rows go, with their memberships, records and links
--
SELECT push('department', '[{"uid": "a", "title": "A"}, {"uid": "b", "title": "B", "parentUid": "a"}]') AS departments \gset
SELECT push('user', '[{"uid": "ann", "username": "ann", "email": "ann@example.com", "badge": 1,
					   "seen_at": "2024-01-01T00:00:00Z", "departments": [{"uid": "b", "isOwner": true}, "c"]},
					  {"uid": "bob", "username": "bob", "departments": ["a", "b"]}]') AS users \gset
TABLE people;
TABLE known;
SET timezone = 'Asia/Shanghai';
SELECT uds_undo(:users, wait => true) AS undo \gset
SET timezone = 'UTC';
SELECT * FROM last_task;
TABLE people;
TABLE known;
SELECT resource, pk, uid, action, applied FROM uds.changes WHERE task_id = :undo ORDER BY seq;

--
-- The undo is undone: same rows, records and links
--
SELECT uds_undo(:undo, wait => true) AS redo \gset
SELECT * FROM last_task;
TABLE people;
SELECT data_type, uid, deleted, pk, created, disabled, waits_for FROM known;
-- so the same records change nothing
SELECT uds_push('{"dataType": "user", "sourceName": "hr", "records":
	[{"uid": "bob", "username": "bob", "departments": ["a", "b"]}]}') ->> 'message' AS push;
SELECT * FROM last_task;

--
-- Updates; what was changed since is left alone
--
SELECT push('user', '[{"uid": "ann", "username": "ann2", "email": "bob@example.com", "badge": 2, "departments": ["a"]},
					  {"uid": "bob", "username": "bob2", "departments": []},
					  {"uid": "cid", "username": "cid"}]') AS update \gset
UPDATE uds.users SET badge = 7 WHERE username = 'bob2';
UPDATE uds.users SET username = 'robert' WHERE username = 'bob2';
TABLE people;
SELECT uds_undo(:update, wait => true) AS undo \gset
SELECT * FROM last_task;
SELECT data_type, uid, resource, sqlstate, message, record FROM uds.task_errors WHERE task_id = :undo;
TABLE people;
SELECT uid, data, deleted FROM known WHERE data_type = 'user';
-- a push that says the same does it again
SELECT push('user', '[{"uid": "ann", "username": "ann2", "email": "bob@example.com", "badge": 2, "departments": ["a"]}]') > 0 AS again;
SELECT * FROM people WHERE username = 'ann2';
SELECT push('user', '[{"uid": "ann", "username": "ann", "email": "ann@example.com", "badge": 1, "departments": ["b"]},
					  {"uid": "bob", "username": "bob", "departments": ["a", "b"]}]') > 0 AS as_before;

--
-- Leavers: disabled, then deleted
--
SELECT push('user', '[{"uid": "ann", "isDeleted": true}]') AS leave \gset
TABLE people;
SELECT uds_undo(:leave, wait => true) AS undo \gset
SELECT * FROM last_task;
TABLE people;
SELECT uid, data, deleted, disabled FROM known WHERE uid = 'ann';
SELECT uds_undo(:undo, wait => true) AS redo \gset
SELECT username, enabled, departments FROM people WHERE username = 'ann';
SELECT uid, deleted, disabled FROM known WHERE uid = 'ann';
SELECT push('user', '[{"uid": "ann", "username": "ann", "departments": ["b"]}]') AS back \gset
SELECT username, enabled, departments FROM people WHERE username = 'ann';
SELECT uds_undo(:back, wait => true) AS undo \gset
SELECT username, enabled, departments FROM people WHERE username = 'ann';
SELECT uid, deleted, disabled FROM known WHERE uid = 'ann';
SELECT push('user', '[{"uid": "ann", "username": "ann", "departments": ["b"]}]') > 0 AS back;
SELECT username, enabled, departments FROM people WHERE username = 'ann';

SELECT uds_alter_source('hr', on_deleted => 'delete');
SELECT push('user', '[{"uid": "ann", "isDeleted": true}, {"uid": "bob", "isDeleted": true}]') AS leave \gset
SELECT push('department', '[{"uid": "b", "isDeleted": true}, {"uid": "a", "isDeleted": true}]') AS close \gset
TABLE people;
TABLE tree;
-- the departments first, in the order of the tree
SELECT uds_undo(:close, wait => true) AS undo \gset
SELECT * FROM last_task;
TABLE tree;
-- a department that others belong to
SELECT push('department', '[{"uid": "c", "title": "C", "parentUid": "b"}]') > 0 AS child;
SELECT push('user', '[{"uid": "hal", "username": "hal", "departments": ["c", {"uid": "b", "isMain": true}]}]') > 0 AS member;
SELECT push('department', '[{"uid": "b", "isDeleted": true}]') AS close \gset
SELECT resource, action, before, after FROM uds.changes WHERE task_id = :close AND action = 'update' ORDER BY seq;
SELECT uds_undo(:close, wait => true) AS undo \gset
SELECT * FROM last_task;
SELECT * FROM people WHERE username = 'hal';
TABLE tree;
SELECT count(*) FROM uds_users_as_of((SELECT finished_at FROM uds.tasks WHERE id = :close) - interval '1 microsecond')
WHERE username = 'hal' AND main_department_id IS NOT NULL;
-- somebody took a name meanwhile
INSERT INTO uds.users (username) VALUES ('bob');
SELECT uds_undo(:leave, wait => true) AS undo \gset
SELECT * FROM last_task;
SELECT uid, resource, sqlstate, message FROM uds.task_errors WHERE task_id = :undo ORDER BY seq;
TABLE people;
SELECT data_type, uid, deleted, pk, created, disabled FROM known;

--
-- What others rely on by now stays
--
SELECT push('department', '[{"uid": "x", "title": "X"}, {"uid": "y", "title": "Y", "parentUid": "x"},
							{"uid": "z", "title": "Z"}]') AS departments \gset
SELECT push('user', '[{"uid": "dan", "username": "dan", "departments": ["y"]},
					  {"uid": "eve", "username": "eve", "departments": ["z"]},
					  {"uid": "fay", "username": "fay"}, {"uid": "gil", "username": "gil", "departments": ["y"]}]') AS users \gset
UPDATE uds.users SET protected = true WHERE username = 'eve';
CREATE TABLE orders AS SELECT id AS customer FROM uds.users WHERE username = 'gil';
ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES uds.users (id);
INSERT INTO uds.department_members (department_id, user_id)
SELECT d.id, u.id FROM uds.departments d, uds.users u WHERE d.title = 'Z' AND u.username = 'dan';
SELECT uds_undo(:users, wait => true) AS undo \gset
SELECT resource, uid, message FROM uds.task_errors WHERE task_id = :undo ORDER BY seq;
SELECT username, departments FROM people WHERE username IN ('dan', 'eve', 'fay', 'gil');
DELETE FROM uds.department_members m USING uds.users u
WHERE u.id = m.user_id AND u.username = 'dan' AND m.source_id IS NULL;
SELECT uds_undo(:departments, wait => true) AS undo \gset
SELECT * FROM last_task;
SELECT resource, uid, message FROM uds.task_errors WHERE task_id = :undo ORDER BY seq;
TABLE tree;

--
-- Two sources behind one user; why it is as it is
--
SELECT uds_create_source('crm', 'push', match_keys => '{email}', priority => 50) > 0 AS created;
SELECT push('user', '[{"uid": "17", "email": "ANN@example.com", "title": "Head", "badge": 5}]', 'crm') AS match \gset
SELECT jsonb_pretty((uds_explain_user('crm', '17') #- '{record,task}') #- '{record,first_seen_at}' #- '{record,changed_at}');
SELECT uds_explain_user('hr', 'ann') -> 'memberships';
UPDATE uds.users SET badge = 99 WHERE username = 'ann';
SELECT uds_explain_user('hr', 'ann') -> 'change';
UPDATE uds.users SET badge = 5 WHERE username = 'ann';
SELECT uds_explain_user('hr', 'bob') -> 'change', uds_explain_user('hr', 'nobody') -> 'record';
SELECT uds_explain_user('hrs', 'ann');
SELECT uds_undo(:match, wait => true) AS undo \gset
SELECT username, email, badge FROM people WHERE username = 'ann';
SELECT count(*) FROM uds.records WHERE uid = '17';

-- the page it came on
INSERT INTO uds.source_types (name, title, manifest)
VALUES ('paged', 'Paged', '{"streams": {"people": {"type": "user", "records": "$.list[*]", "fields": {"uid": "$.id", "nickname": "$.name"}}}, "ignore_case": ["user"]}');
INSERT INTO uds.source_settings (name, type, owner) VALUES ('pages', 'paged', current_user);
INSERT INTO uds.tasks (source_id, kind, status, attempt, requested_by)
SELECT id, 'sync', 'success', 1, 'me' FROM uds.source_settings WHERE name = 'pages'
RETURNING id AS task \gset
INSERT INTO uds.raw_log (task_id, seq, attempt, stream, request, status, bytes, usable, body)
VALUES (:task, 1, 1, 'people', 'GET /1', 200, 1, true, '{"list": [{"id": "Ann", "name": "1"}, {"id": "Bea"}]}'),
	   (:task, 2, 1, 'people', 'GET /2', 200, 1, true, '{"list": [{"id": "Bob"}, {"id": "ANN", "name": "2"}]}');
SELECT uds_explain_user('pages', 'ann') #- '{raw,task}' #- '{raw,received_at}' AS explained;

--
-- As of an earlier time
--
SELECT clock_timestamp() AS before \gset
CREATE TABLE users_before AS TABLE uds.users;
CREATE TABLE members_before AS TABLE uds.department_members;
SELECT push('user', '[{"uid": "ann", "username": "anna", "departments": ["a"]}, {"uid": "fay", "isDeleted": true},
					  {"uid": "dan", "isDeleted": true}, {"uid": "gus", "username": "gus", "departments": ["b"]}]') > 0 AS changed;
SELECT push('user', '[{"uid": "ann", "username": "annie", "departments": ["a", "b"]}, {"uid": "gus", "isDeleted": true}]') > 0 AS changed;
SELECT username FROM uds_users_as_of(clock_timestamp()) EXCEPT ALL SELECT username FROM uds.users;
SELECT (to_jsonb(u) - 'updated_at') FROM uds_users_as_of(:'before') u
EXCEPT ALL SELECT (to_jsonb(u) - 'updated_at') FROM users_before u;
SELECT (to_jsonb(u) - 'updated_at') FROM users_before u
EXCEPT ALL SELECT (to_jsonb(u) - 'updated_at') FROM uds_users_as_of(:'before') u;
SELECT count(*) > 0 AS members FROM uds_members_as_of(:'before');
TABLE members_before EXCEPT ALL SELECT * FROM uds_members_as_of(:'before');
SELECT * FROM uds_members_as_of(:'before') EXCEPT ALL TABLE members_before;
\set VERBOSITY terse
SELECT count(*) FROM uds_users_as_of('2001-01-01');
SELECT count(*) FROM uds_members_as_of('2001-01-01');

--
-- A record that came as deleted and was never seen before is forgotten
--
SELECT push('user', '[{"uid": "seen"}, {"uid": "unseen", "isDeleted": true}]') AS unseen \gset
SELECT uid, deleted, pk IS NOT NULL AS has_row FROM known WHERE uid LIKE '%seen';
SELECT uds_undo(:unseen, wait => true) AS undo \gset
SELECT uid, deleted, pk IS NOT NULL AS has_row FROM known WHERE uid LIKE '%seen';
SELECT uds_undo(:undo, wait => true) AS undo \gset
SELECT uid, deleted, pk IS NOT NULL AS has_row FROM known WHERE uid LIKE '%seen';

--
-- A leaver's row that passed on to another record comes back to it
--
SELECT uds_alter_source('hr', match_keys => '{username}', on_deleted => 'disable');
SELECT push('user', '[{"uid": "first", "username": "pat"}]') > 0 AS pushed;
SELECT push('user', '[{"uid": "first", "username": "pat", "isDeleted": true}]') > 0 AS pushed;
SELECT push('user', '[{"uid": "second", "username": "pat"}]') AS passed \gset
SELECT uid, created, disabled FROM known WHERE uid IN ('first', 'second');
SELECT uds_undo(:passed, wait => true) AS undo \gset
SELECT uid, pk IS NOT NULL AS has_row, created, disabled FROM known WHERE uid IN ('first', 'second');
SELECT uds_undo(:undo, wait => true) AS undo \gset
SELECT uid, pk IS NOT NULL AS has_row, created, disabled FROM known WHERE uid IN ('first', 'second');
SELECT uds_undo(:undo, wait => true) > 0 AS undone;
SELECT uid, pk IS NOT NULL AS has_row, created, disabled FROM known WHERE uid IN ('first', 'second');
SELECT push('user', '[{"uid": "first", "username": "pat"}]') > 0 AS pushed;
SELECT username, enabled FROM uds.users WHERE username = 'pat';
\c postgres
DROP DATABASE uds_undo WITH (FORCE);
