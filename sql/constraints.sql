-- Constraints that are checked as late as at commit: records that break one are found out all the same
CREATE DATABASE uds_constraints;
\c uds_constraints
CREATE EXTENSION uds;
\set SHOW_CONTEXT never
\set VERBOSITY terse
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
-- Put off by the caller
--
SELECT push('user', '[{"uid": "a", "username": "a", "email": "a@x"}, {"uid": "b", "username": "b", "email": "b@x"}]');
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
SELECT push('user', '[{"uid": "c", "username": "a"}, {"uid": "d", "username": "d"}, {"uid": "a", "nickname": "fine"}]');
COMMIT;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
SELECT push('user', '[{"uid": "a", "email": "b@x"}, {"uid": "b", "email": "a@x"}]');
COMMIT;
SELECT username, nickname, email FROM uds.users ORDER BY 1;
-- what the caller owes by then is the caller's error
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
UPDATE uds.users SET username = 'a' WHERE username = 'b';
SELECT push('user', '[{"uid": "e", "username": "e"}]');
ROLLBACK;

--
-- Foreign keys of one's own tables, in any schema
--
CREATE SCHEMA shop;
CREATE TABLE shop.orders (user_id bigint CONSTRAINT "by whom" REFERENCES uds.users DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE rooms (department_id bigint REFERENCES uds.departments DEFERRABLE);
SELECT push('user', '[{"uid": "d", "isDeleted": true}]');
INSERT INTO shop.orders SELECT id FROM uds.users WHERE username = 'a';
SELECT push('user', '[{"uid": "a", "isDeleted": true}, {"uid": "b", "nickname": "commits"}]');
SELECT push('department', '[{"uid": "r"}, {"uid": "s"}]');
INSERT INTO rooms SELECT id FROM uds.departments WHERE title = 'r';
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
SELECT push('department', '[{"uid": "r", "isDeleted": true}, {"uid": "s", "isDeleted": true}]');
COMMIT;
-- an undo
DELETE FROM shop.orders;
SELECT push('user', '[{"uid": "f", "username": "f"}]');
SELECT uds_undo(max(id), wait => true) AS undo FROM uds.tasks \gset
SELECT status, message FROM uds.tasks WHERE id = :undo;
-- what its caller is about to make good is left alone
ALTER TABLE uds.users ADD COLUMN badge integer UNIQUE;
CREATE TABLE shop.doors (badge integer REFERENCES uds.users (badge) DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO shop.doors VALUES (7);
SELECT push('user', '[{"uid": "g", "username": "g", "badge": 7}]');
COMMIT;
SELECT username, badge FROM uds.users NATURAL JOIN shop.doors;
DROP TABLE shop.doors;
-- a source whose owner has no way into that schema
CREATE ROLE regress_uds_owner;
GRANT USAGE ON SCHEMA uds TO regress_uds_owner;
GRANT SELECT, INSERT, UPDATE, DELETE ON uds.users, uds.departments, uds.department_members TO regress_uds_owner;
GRANT EXECUTE ON FUNCTION uds_create_source TO regress_uds_owner;
SET ROLE regress_uds_owner;
SELECT uds_create_source('theirs', 'push') > 0 AS created;
RESET ROLE;
SELECT push('user', '[{"uid": "t", "username": "t"}]', 'theirs');
SELECT push('user', '[{"uid": "t", "isDeleted": true}]', 'theirs');

--
-- A mapped table
--
CREATE TABLE staff (id text PRIMARY KEY, chief text REFERENCES staff DEFERRABLE INITIALLY DEFERRED, seat integer UNIQUE DEFERRABLE);
CREATE TABLE keys (staff text REFERENCES staff DEFERRABLE INITIALLY DEFERRED);
SELECT uds_map_table('staff', 'staff', 'user', 'id', '{"id": "$.uid", "chief": "$.chief", "seat": "$.seat"}');
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
SELECT push('user', '[{"uid": "m", "username": "m", "chief": "n", "seat": 1}, {"uid": "n", "username": "n", "seat": 2}, {"uid": "o", "username": "o", "chief": "nobody"}]');
SELECT push('user', '[{"uid": "p", "username": "p", "seat": 1}]');
COMMIT;
SELECT * FROM staff ORDER BY id;
INSERT INTO keys VALUES ('m');
SELECT push('user', '[{"uid": "m", "isDeleted": true}]');
DELETE FROM keys;
SELECT push('user', '[{"uid": "m", "isDeleted": true}, {"uid": "n", "isDeleted": true}]');
SELECT * FROM staff ORDER BY id;

--
-- Two who swap, beside a third who wants what a fourth keeps
--
SELECT push('user', '[{"uid": "s1", "username": "s1"}, {"uid": "s2", "username": "s2"}, {"uid": "s3", "username": "s3"}, {"uid": "s4", "username": "s4"}]');
SELECT push('user', '[{"uid": "s1", "username": "s2"}, {"uid": "s3", "username": "s4"}, {"uid": "s2", "username": "s1"}]');
SELECT r.uid, u.username
FROM uds.records r
JOIN uds.record_resources l ON l.record_id = r.id AND l.resource = 'users'
JOIN uds.users u ON u.id::text = l.resource_pk
WHERE r.uid LIKE 's_'
ORDER BY r.uid;

--
-- A record counts once, however many of its memberships are refused
--
CREATE FUNCTION no_member() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'department % takes nobody', NEW.department_id - (SELECT min(id) FROM uds.departments WHERE title LIKE 'r_');
END $$;
SELECT push('department', '[{"uid": "r0"}, {"uid": "r1"}, {"uid": "r2"}]');
CREATE TRIGGER no_member BEFORE INSERT ON uds.department_members FOR EACH ROW EXECUTE FUNCTION no_member();
SELECT r.part ->> 'resource' AS resource, r.part #> '{detail,count}' AS count, jsonb_path_query_array(r.part, '$.detail.failedRecords[*].message') AS messages
FROM jsonb_array_elements(uds_push('{"dataType": "user", "records": [{"uid": "r9", "username": "r9", "departments": ["r0", "r1", "r2"]}]}') -> 'result') AS r (part);
SELECT status, fetched, created, linked, failed FROM uds.tasks ORDER BY id DESC LIMIT 1;
DROP TRIGGER no_member ON uds.department_members;

--
-- A source that is dropped with what it brought
--
SELECT uds_create_source('brief', 'push') > 0 AS created;
SELECT push('user', '[{"uid": "x", "username": "x"}, {"uid": "y", "username": "y"}]', 'brief');
INSERT INTO shop.orders SELECT id FROM uds.users WHERE username = 'x';
SELECT uds_drop_source('brief', keep_data => false);
SELECT count(*) FROM uds.users WHERE username IN ('x', 'y');
DELETE FROM shop.orders;
SELECT uds_drop_source('brief', keep_data => false);
SELECT count(*) FROM uds.users WHERE username IN ('x', 'y');

\c postgres
DROP DATABASE uds_constraints;
DROP ROLE regress_uds_owner;
