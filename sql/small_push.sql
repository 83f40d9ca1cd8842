-- Pushes of one user who is there: what is spared, and what must not be
CREATE DATABASE uds_small_push;
\c uds_small_push
CREATE EXTENSION uds;
\set SHOW_CONTEXT never
\pset null '(null)'
CREATE FUNCTION push(data_type text, records jsonb) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	task bigint := uds_push(jsonb_build_object('dataType', data_type, 'records', records)) -> 'task';
BEGIN
	RETURN QUERY SELECT concat_ws(': ', status, message) FROM uds.tasks WHERE id = task;
	RETURN QUERY SELECT format('%s: %s %s', coalesce(uid, '(no uid)'), sqlstate, message)
		FROM uds.task_errors WHERE task_id = task ORDER BY seq;
END $$;
-- ann's departments: main marked with *, owned with !, made by hand with +, of
-- a source that is not there with ?
CREATE FUNCTION departments() RETURNS text LANGUAGE sql STABLE AS $$
	SELECT coalesce(string_agg(d.title || CASE WHEN d.id = u.main_department_id THEN '*' ELSE '' END
		|| CASE WHEN m.is_owner THEN '!' ELSE '' END || CASE WHEN m.source_id IS NULL THEN '+' WHEN m.source_id = 4711 THEN '?' ELSE '' END, ' ' ORDER BY d.title), 'none')
		|| CASE WHEN NOT coalesce(bool_or(d.id = u.main_department_id), false) AND u.main_department_id IS NOT NULL THEN ' (main elsewhere)' ELSE '' END
	FROM uds.users u
	LEFT JOIN uds.department_members m ON m.user_id = u.id
	LEFT JOIN uds.departments d ON d.id = m.department_id
	WHERE u.username = 'ann' GROUP BY u.id $$;
SELECT push('department', '[{"uid": "a", "title": "a"}, {"uid": "b", "title": "b"}, {"uid": "c", "title": "c"}]');

--
-- Memberships that somebody altered are put right by the next push, whatever it
-- is about; those made by hand stay
--
CREATE FUNCTION repaired(record jsonb, by_hand text) RETURNS TABLE (before text, altered text, after text, linked bigint, unlinked bigint)
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM push('user', jsonb_build_array(record));
	before := departments();
	EXECUTE by_hand;
	altered := departments();
	PERFORM push('user', jsonb_build_array(record || '{"title": "Dr"}'));
	after := departments();
	SELECT t.linked, t.unlinked INTO linked, unlinked FROM uds.tasks t ORDER BY id DESC LIMIT 1;
	DELETE FROM uds.users;
	RETURN NEXT;
END $$;
CREATE TABLE hands (n int GENERATED ALWAYS AS IDENTITY, what text, departments jsonb, by_hand text);
INSERT INTO hands (what, departments, by_hand) VALUES
('nothing', '["a", "b"]', 'SELECT'),
('one is gone', '["a", "b"]', 'DELETE FROM uds.department_members m USING uds.departments d WHERE d.id = m.department_id AND d.title = ''b'''),
('all are gone', '["a", "b"]', 'DELETE FROM uds.department_members'),
('one more, as if it were ours', '["a"]', 'INSERT INTO uds.department_members SELECT d.id, u.id, false, s.id FROM uds.departments d, uds.users u, uds.sources s WHERE d.title = ''c'' AND s.name = ''api'''),
('one more, of nobody', '["a"]', 'INSERT INTO uds.department_members SELECT d.id, u.id, false, 4711 FROM uds.departments d, uds.users u WHERE d.title = ''c'''),
('one more, by hand', '["a"]', 'INSERT INTO uds.department_members SELECT d.id, u.id, true, NULL FROM uds.departments d, uds.users u WHERE d.title = ''c'''),
('taken over by hand', '["a", "b"]', 'UPDATE uds.department_members SET source_id = NULL, is_owner = true'),
('owner of one', '["a", "b"]', 'UPDATE uds.department_members m SET is_owner = true FROM uds.departments d WHERE d.id = m.department_id AND d.title = ''b'''),
('no owner', '["a", {"uid": "b", "isOwner": true}]', 'UPDATE uds.department_members SET is_owner = false'),
('another source', '["a", "b"]', 'UPDATE uds.department_members SET source_id = 4711'),
('another main one', '["a", "b"]', 'UPDATE uds.users SET main_department_id = (SELECT id FROM uds.departments WHERE title = ''b'')'),
('another than what is called main', '["a", {"uid": "b", "isMain": true}]', 'UPDATE uds.users SET main_department_id = (SELECT id FROM uds.departments WHERE title = ''a'')'),
('main where nobody is', '["a", "b"]', 'UPDATE uds.users SET main_department_id = (SELECT id FROM uds.departments WHERE title = ''c'')'),
('main by hand', '["a"]', 'WITH m AS (INSERT INTO uds.department_members SELECT d.id, u.id, false, NULL FROM uds.departments d, uds.users u WHERE d.title = ''c'' RETURNING *) UPDATE uds.users SET main_department_id = m.department_id FROM m'),
('no main one', '["a", "b"]', 'UPDATE uds.users SET main_department_id = NULL'),
('in one by hand where none is named', '[]', 'WITH m AS (INSERT INTO uds.department_members SELECT d.id, u.id, false, NULL FROM uds.departments d, uds.users u WHERE d.title = ''c'' RETURNING *) UPDATE uds.users SET main_department_id = m.department_id FROM m'),
('main where none is named', '[]', 'UPDATE uds.users SET main_department_id = (SELECT id FROM uds.departments WHERE title = ''c'')'),
('in one where none is named', '[]', 'INSERT INTO uds.department_members SELECT d.id, u.id, false, s.id FROM uds.departments d, uds.users u, uds.sources s WHERE d.title = ''c'' AND s.name = ''api''');
SELECT h.what, r.* FROM hands h, repaired(jsonb_build_object('uid', 'ann' || h.n, 'username', 'ann', 'departments', h.departments), h.by_hand) AS r ORDER BY h.n;
-- an owner by the department's record
SELECT push('department', '[{"uid": "a", "title": "a", "owners": ["ann30", 31]}]');
SELECT * FROM repaired('{"uid": "ann30", "username": "ann", "departments": ["a"]}', 'UPDATE uds.department_members SET is_owner = false');
SELECT * FROM repaired('{"uid": "31", "username": "ann", "departments": ["a"]}', 'UPDATE uds.department_members SET is_owner = false');
SELECT * FROM repaired('{"uid": "ann32", "username": "ann", "departments": ["a"]}', 'UPDATE uds.department_members SET is_owner = true');
-- a department that has not arrived is waited for no longer
SELECT push('user', '[{"uid": "w", "username": "ann", "departments": ["a", "later"]}]');
SELECT uid_key FROM uds.pending_references;
SELECT push('user', '[{"uid": "w", "departments": ["a"]}]');
SELECT uid_key FROM uds.pending_references;
-- nor is it forgotten by a push that leaves them alone
SELECT push('user', '[{"uid": "w", "departments": ["a", "later"]}]');
SELECT push('user', '[{"uid": "w", "departments": ["a", "later"], "title": "Dr"}]');
SELECT push('department', '[{"uid": "later", "title": "later"}]');
SELECT departments();

--
-- Rows
--
-- a value that one who left still has, claimed by one who is there
SELECT uds_alter_source('api', on_deleted => 'disable');
SELECT push('user', '[{"uid": "1", "username": "one", "email": "one@example.com"}, {"uid": "2", "username": "two"}]');
SELECT push('user', '[{"uid": "1", "isDeleted": true}]');
SELECT push('user', '[{"uid": "2", "username": "two", "email": "one@example.com"}]');
SELECT username, email, enabled FROM uds.users WHERE username IN ('one', 'two') ORDER BY username;
-- one that somebody else has
SELECT push('user', '[{"uid": "3", "username": "three"}]');
SELECT push('user', '[{"uid": "3", "username": "two", "title": "Dr"}]');
-- two in one push exchange theirs
SELECT push('user', '[{"uid": "2", "username": "three"}, {"uid": "3", "username": "two"}]');
SELECT username, email FROM uds.users WHERE username IN ('three', 'two') ORDER BY username;
-- a trigger leaves a row out, and finds the push that it runs in
CREATE TABLE seen (status text, kind text);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen SELECT status, kind FROM uds.tasks ORDER BY id DESC LIMIT 1;
	RETURN CASE WHEN NEW.title = 'left out' THEN NULL ELSE NEW END;
END $$;
CREATE TRIGGER look BEFORE UPDATE ON uds.users FOR EACH ROW EXECUTE FUNCTION look();
SELECT push('user', '[{"uid": "2", "username": "three", "title": "left out"}]');
SELECT push('user', '[{"uid": "2", "username": "three", "title": "written"}]');
TABLE seen;
SELECT title FROM uds.users WHERE username = 'three';
DROP TRIGGER look ON uds.users;
-- the row of a push that is made when it ends says as much
SELECT push('user', '[{"uid": "2", "username": "three", "title": "written again"}]');
SELECT kind, mode, status, attempt, requested_by = current_user AS by_me, source_id = (SELECT id FROM uds.sources WHERE name = 'api') AS of_api,
	created_at = started_at AND started_at <= finished_at AS times, cost >= 0 AS cost, apply_ms >= 0 AS apply_ms, complete, fetched, updated, failed
FROM uds.tasks ORDER BY id DESC LIMIT 1;
\c postgres
DROP DATABASE uds_small_push;
