-- Leavers: delete, disable, keep; protected; who comes back; unique values
-- that move
CREATE DATABASE uds_contract_leavers;
\c uds_contract_leavers
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
SELECT uds_create_source('del', 'push', match_keys => '{username}') > 0 AS created,
	uds_create_source('dis', 'push', match_keys => '{username}', on_deleted => 'disable') > 0 AS created,
	uds_create_source('keep', 'push', match_keys => '{username}', on_deleted => 'keep') > 0 AS created;
CREATE VIEW people AS SELECT username, nickname, email, enabled, protected FROM uds.users;
CREATE VIEW last_changes AS SELECT resource, uid, action, before - '{id,user_id,department_id,source_id,created_at,updated_at,main_department_id}'::text[] AS before,
	after - '{id,user_id,department_id,source_id}'::text[] AS after
FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY seq;
SELECT push('department', '[{"uid": "d"}]', s) FROM unnest('{del,dis,keep}'::text[]) AS s;

--
-- delete
--
SELECT push('user', '[{"uid": "1", "username": "ann", "departments": ["d"]}]', 'del');
SELECT push('user', '[{"uid": "1", "isDeleted": true}]', 'del');
SELECT * FROM people ORDER BY username;
SELECT resource, uid, action, before ->> 'username' AS username FROM last_changes;
-- again, and again in other words: nothing, least of all the person back
SELECT push('user', '[{"uid": "1", "isDeleted": true}]', 'del');
SELECT push('user', '[{"uid": "1", "username": "ann", "isDeleted": true}]', 'del');
SELECT count(*) AS users, (SELECT count(*) FROM last_changes) AS changes FROM uds.users;
-- who was never seen makes no row, with or without matching somebody
INSERT INTO uds.users (username) VALUES ('hand');
SELECT push('user', '[{"uid": "2", "isDeleted": true}, {"uid": "3", "username": "hand", "isDeleted": true}]', 'del');
SELECT * FROM people ORDER BY username;
-- the deleted one returns in a new row; isDeleted false or null is no leaving
SELECT push('user', '[{"uid": "1", "username": "ann", "isDeleted": false}]', 'del');
SELECT push('user', '[{"uid": "1", "username": "ann", "isDeleted": null}]', 'del');
SELECT * FROM people ORDER BY username;
-- one that no sync created is disabled where another would be deleted
SELECT push('user', '[{"uid": "4", "username": "hand", "departments": ["d"]}]', 'del');
SELECT push('user', '[{"uid": "4", "isDeleted": true}]', 'del');
SELECT * FROM people WHERE username = 'hand';
SELECT resource, uid, action, after FROM last_changes;
SELECT push('user', '[{"uid": "4", "username": "hand"}]', 'del');
SELECT * FROM people WHERE username = 'hand';
-- protected by hand: neither deleted nor disabled, other attributes follow
UPDATE uds.users SET protected = true WHERE username = 'ann';
SELECT push('user', '[{"uid": "1", "nickname": "Ann", "enabled": false}]', 'del');
SELECT push('user', '[{"uid": "1", "isDeleted": true}]', 'del');
SELECT * FROM people WHERE username = 'ann';
SELECT deleted, disabled, failed FROM uds.tasks ORDER BY id DESC LIMIT 1;
SELECT push('user', '[{"uid": "1", "nickname": "Ann back"}]', 'del');
UPDATE uds.users SET protected = false WHERE username = 'ann';
SELECT push('user', '[{"uid": "1", "isDeleted": true}]', 'del');
SELECT * FROM people WHERE username = 'ann';
-- another live record keeps the person
SELECT push('user', '[{"uid": "5", "username": "bob", "nickname": "Bob (del)"}]', 'del');
SELECT push('user', '[{"uid": "b", "username": "bob", "nickname": "Bob (dis)"}]', 'dis');
SELECT push('user', '[{"uid": "5", "isDeleted": true}]', 'del');
SELECT * FROM people WHERE username = 'bob';
-- refused: a row that others refer to stays, and its record live
CREATE TABLE orders (user_id bigint REFERENCES uds.users);
SELECT push('user', '[{"uid": "6", "username": "cem"}, {"uid": "7", "username": "dan"}, {"uid": "8", "username": "eva"}]', 'del');
INSERT INTO orders SELECT id FROM uds.users WHERE username = 'dan';
SELECT push('user', '[{"uid": "6", "isDeleted": true}, {"uid": "7", "isDeleted": true}, {"uid": "8", "nickname": "Eva"}]', 'del');
SELECT * FROM people WHERE username IN ('cem', 'dan', 'eva') ORDER BY username;
SELECT uid, deleted FROM uds.records WHERE uid IN ('6', '7') ORDER BY uid;
TRUNCATE orders;
SELECT push('user', '[{"uid": "7", "isDeleted": true}]', 'del');

--
-- disable: row and link stay, memberships go, the same row comes back
--
SELECT push('user', '[{"uid": "1", "username": "fay", "email": "fay@x.org", "departments": ["d"]}]', 'dis');
SELECT id AS fay FROM uds.users WHERE username = 'fay' \gset
INSERT INTO uds.departments (title) VALUES ('club');
INSERT INTO uds.department_members (department_id, user_id) SELECT id, :fay FROM uds.departments WHERE title = 'club';
SELECT push('user', '[{"uid": "1", "isDeleted": true}]', 'dis');
SELECT resource, uid, action, before, after FROM last_changes;
SELECT * FROM people WHERE username = 'fay';
SELECT d.title, m.source_id FROM uds.department_members m JOIN uds.departments d ON d.id = m.department_id WHERE m.user_id = :fay;
SELECT push('user', '[{"uid": "1", "isDeleted": true}]', 'dis');
SELECT push('user', '[{"uid": "1", "nickname": "Fay", "departments": ["d"]}]', 'dis');
SELECT id = :fay AS same_row, enabled, nickname, email FROM uds.users WHERE username = 'fay';
SELECT count(*) AS departments FROM uds.department_members WHERE user_id = :fay;
SELECT enabled, disabled, updated FROM uds.tasks ORDER BY id DESC LIMIT 1;
-- enabled by hand meanwhile is left so
SELECT push('user', '[{"uid": "1", "isDeleted": true}]', 'dis');
UPDATE uds.users SET enabled = true WHERE id = :fay;
SELECT push('user', '[{"uid": "1", "isDeleted": true, "nickname": "gone"}]', 'dis');
SELECT * FROM people WHERE username = 'fay';
-- disabled by hand before: nobody enables that, whatever comes and goes
SELECT push('user', '[{"uid": "2", "username": "gus", "email": "gus@x.org"}]', 'dis');
UPDATE uds.users SET enabled = false WHERE username = 'gus';
SELECT push('user', '[{"uid": "2", "nickname": "Gus"}]', 'dis');
SELECT push('user', '[{"uid": "2", "enabled": true}]', 'dis');
SELECT push('user', '[{"uid": "2", "isDeleted": true}]', 'dis');
SELECT push('user', '[{"uid": "2", "nickname": "Gus again"}]', 'dis');
SELECT push('user', '[{"uid": "2", "isDeleted": true}]', 'dis');
SELECT push('user', '[{"uid": "2", "enabled": true}]', 'dis');
SELECT * FROM people WHERE username = 'gus';
-- nor when first linked
INSERT INTO uds.users (username, enabled) VALUES ('hal', false);
SELECT push('user', '[{"uid": "3", "username": "hal", "enabled": true}]', 'dis');
SELECT * FROM people WHERE username = 'hal';
-- keep: the record stays live
SELECT push('user', '[{"uid": "1", "username": "ida", "departments": ["d"]}]', 'keep');
SELECT push('user', '[{"uid": "1", "isDeleted": true}]', 'keep');
SELECT u.username, u.enabled, m.user_id IS NOT NULL AS member, r.deleted FROM uds.users u LEFT JOIN uds.department_members m ON m.user_id = u.id
JOIN uds.record_resources l ON l.resource = 'users' AND l.resource_pk = u.id::text JOIN uds.records r ON r.id = l.record_id WHERE username = 'ida';

--
-- enabled: what the record says, when it changes
--
SELECT push('user', '[{"uid": "e1", "username": "e1"}, {"uid": "e2", "username": "e2", "enabled": null}, {"uid": "e3", "username": "e3", "enabled": false}]', 'dis');
SELECT * FROM people WHERE username LIKE 'e_' ORDER BY 1;
SELECT push('user', '[{"uid": "e1", "enabled": false}, {"uid": "e2", "enabled": "no"}, {"uid": "e3"}]', 'dis');
SELECT * FROM people WHERE username LIKE 'e_' ORDER BY 1;
SELECT uid, action, before, after FROM last_changes ORDER BY uid;
UPDATE uds.users SET enabled = true WHERE username = 'e1';
SELECT push('user', '[{"uid": "e1", "enabled": false, "nickname": "E"}, {"uid": "e2", "enabled": true}, {"uid": "e3", "enabled": null}]', 'dis');
SELECT * FROM people WHERE username LIKE 'e_' ORDER BY 1;

--
-- Unique values: moved and swapped within a push, handed on by leavers
--
SELECT push('user', '[{"uid": "s1", "username": "s1", "email": "1@x.org"}, {"uid": "s2", "username": "s2", "email": "2@x.org"}, {"uid": "s3", "username": "s3", "email": "3@x.org"}]', 'dis');
SELECT push('user', '[{"uid": "s1", "email": "2@x.org"}, {"uid": "s2", "email": "1@x.org"}]', 'dis');
SELECT push('user', '[{"uid": "s1", "email": "1@x.org"}, {"uid": "s2", "email": "3@x.org"}, {"uid": "s3", "email": "2@x.org"}]', 'dis');
SELECT push('user', '[{"uid": "s4", "username": "s4", "email": "2@x.org"}, {"uid": "s3", "email": "4@x.org"}]', 'dis');
SELECT push('user', '[{"uid": "s5", "username": "s5", "email": "4@x.org"}, {"uid": "s3", "email": null}]', 'dis');
SELECT username, email FROM people WHERE username LIKE 's_' ORDER BY 1;
-- taken by somebody who keeps it: refused, the others commit
SELECT push('user', '[{"uid": "s3", "email": "1@x.org"}, {"uid": "s4", "nickname": "S"}]', 'dis');
-- beside one that is refused: a swap, a chain, and one whose value is not given up
ALTER TABLE uds.users ADD COLUMN age integer CHECK (age > 0);
SELECT push('user', '[{"uid": "w1", "username": "w1", "email": "w1@x.org"}, {"uid": "w2", "username": "w2", "email": "w2@x.org"}, {"uid": "w3", "username": "w3", "email": "w3@x.org"}]', 'dis');
SELECT push('user', '[{"uid": "w1", "email": "w2@x.org"}, {"uid": "w2", "email": "w1@x.org"}, {"uid": "w3", "age": -1}]', 'dis');
SELECT push('user', '[{"uid": "w1", "email": "w1@x.org"}, {"uid": "w2", "email": "w3@x.org"}, {"uid": "w3", "email": "w4@x.org"}, {"uid": "s4", "age": -1}, {"uid": "w9", "username": "w9", "email": "3@x.org"}]', 'dis');
SELECT push('user', '[{"uid": "w4", "username": "w4", "email": "w3@x.org"}, {"uid": "w5", "username": "w5", "age": -1}, {"uid": "w2", "email": "w2@x.org", "age": -1}]', 'dis');
SELECT username, email FROM people WHERE username LIKE 'w_' ORDER BY 1;
ALTER TABLE uds.users DROP COLUMN age;
-- by a leaver, of before or of this push
SELECT push('user', '[{"uid": "s1", "isDeleted": true}]', 'dis');
SELECT push('user', '[{"uid": "s6", "username": "s6", "email": "1@x.org"}, {"uid": "s7", "username": "s7", "email": "2@x.org"}, {"uid": "s4", "isDeleted": true}]', 'dis');
SELECT username, email, enabled FROM people WHERE username LIKE 's_' ORDER BY 1;
-- who is refused for something else takes nothing from a leaver
SELECT push('user', '[{"uid": "x1", "username": "x1", "email": "x1@x.org"}, {"uid": "x2", "username": "x2", "email": "x2@x.org"}, {"uid": "x5", "username": "x5", "phone": "1"}]', 'dis');
SELECT push('user', '[{"uid": "x1", "isDeleted": true}, {"uid": "x2", "isDeleted": true}, {"uid": "x3", "username": "x3", "email": "x2@x.org"}, {"uid": "x4", "username": "x4", "email": "x1@x.org", "phone": "1"}]', 'dis');
SELECT username, email, enabled FROM people WHERE username LIKE 'x_' ORDER BY 1;
SELECT uid, action, before, after FROM last_changes;
-- of a deleted one, too
SELECT push('user', '[{"uid": "t1", "username": "t1", "email": "t@x.org"}]', 'del');
SELECT push('user', '[{"uid": "t2", "username": "t2", "email": "t@x.org"}, {"uid": "t1", "isDeleted": true}]', 'del');
-- even of one who was disabled by hand before he left
SELECT push('user', '[{"uid": "2", "isDeleted": true}]', 'dis');
SELECT push('user', '[{"uid": "s8", "username": "s8", "email": "gus@x.org"}]', 'dis');
SELECT username, email, enabled FROM people WHERE username IN ('gus', 's8', 't2') ORDER BY 1;
-- but not of somebody disabled who has not left
SELECT push('user', '[{"uid": "s8", "enabled": false}]', 'dis');
SELECT push('user', '[{"uid": "s9", "username": "s9", "email": "gus@x.org"}]', 'dis');
-- the leaver returns and finds it taken: enabled, updated, without it
SELECT push('user', '[{"uid": "s1", "email": "1@x.org", "username": "s1", "nickname": "back"}]', 'dis');
SELECT username, nickname, email, enabled FROM people WHERE username IN ('s1', 's6') ORDER BY 1;
SELECT uid, resource, sqlstate, record FROM uds.task_errors WHERE task_id = (SELECT max(id) FROM uds.tasks);
-- unless it is given up in the same push
SELECT push('user', '[{"uid": "s4", "email": "2@x.org"}, {"uid": "s7", "email": "7@x.org"}]', 'dis');
SELECT username, email, enabled FROM people WHERE username IN ('s4', 's7') ORDER BY 1;

--
-- Constraints that the caller or others have deferred are checked at once
--
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
SELECT push('user', '[{"uid": "v1", "username": "v1", "email": "3@x.org"}, {"uid": "v2", "username": "v2"}]', 'del');
COMMIT;
CREATE SCHEMA "other place";
CREATE TABLE "other place".orders (user_id bigint CONSTRAINT "of whom" REFERENCES uds.users DEFERRABLE INITIALLY DEFERRED);
SELECT push('user', '[{"uid": "v3", "username": "v3"}, {"uid": "v4", "username": "v4"}, {"uid": "v2", "isDeleted": true}]', 'del');
INSERT INTO "other place".orders SELECT id FROM uds.users WHERE username = 'v3';
SELECT push('user', '[{"uid": "v3", "isDeleted": true}, {"uid": "v4", "nickname": "V"}]', 'del');
-- so are they when a source goes with what it made
SELECT uds_create_source('short', 'push') > 0 AS created;
SELECT push('user', '[{"uid": "v5", "username": "v5"}]', 'short');
SELECT uds_drop_source('short', keep_data => false);
SELECT username, nickname FROM people WHERE username LIKE 'v_' ORDER BY 1;
\c postgres
DROP DATABASE uds_contract_leavers;
