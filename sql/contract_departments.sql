-- Departments: parents in any order, cycles, departments that leave
CREATE DATABASE uds_contract_departments;
\c uds_contract_departments
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
CREATE FUNCTION tree() RETURNS SETOF text LANGUAGE sql STABLE AS $$
	SELECT repeat('  ', t.depth) || t.title || CASE WHEN d.is_leaf THEN ' (leaf)' ELSE '' END || CASE WHEN d.enabled THEN '' ELSE ' (disabled)' END
	FROM uds.department_tree t JOIN uds.departments d USING (id) ORDER BY t.path $$;

--
-- Parents
--
-- in one push, children first
SELECT push('department', '[{"uid": "c", "parentUid": "b"}, {"uid": "b", "parentUid": "a"}, {"uid": "a"}, {"uid": 2, "parentUid": 1}, {"uid": 1}]');
SELECT tree();
-- before the parent comes, in another push
SELECT push('department', '[{"uid": "z", "parentUid": "y"}]');
SELECT push('department', '[{"uid": "y", "parentUid": "x"}]');
SELECT push('department', '[{"uid": "x", "parentUid": "a"}]');
SELECT tree();
-- who follows a parent that arrives is updated, and told so
SELECT uid, action, before -> 'parent_id' AS before, after -> 'parent_id' IS NOT NULL AS parent
FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY uid;
-- absent leaves it, null and "" are none
SELECT push('department', '[{"uid": "z", "sort": 1}]');
SELECT push('department', '[{"uid": "c", "parentUid": null}, {"uid": "x", "parentUid": ""}]');
SELECT tree();
SELECT push('department', '[{"uid": "c", "parentUid": "b"}, {"uid": "x", "parentUid": "a"}, {"uid": "x2", "parentUid": "a"}]');
-- a branch moves, a parent and a child change places
SELECT push('department', '[{"uid": "y", "parentUid": "c"}]');
SELECT push('department', '[{"uid": "b", "parentUid": "c"}, {"uid": "c", "parentUid": "a"}]');
SELECT tree();
-- a child by hand counts, too
INSERT INTO uds.departments (title, parent_id) SELECT 'by hand', id FROM uds.departments WHERE title = 'z';
SELECT push('department', '[{"uid": "z", "title": "zz"}]');
SELECT d.title, d.is_leaf FROM uds.departments d WHERE title = 'zz';

--
-- Cycles: cut at one of their records, which gets an error row
--
SELECT push('department', '[{"uid": "self", "parentUid": "self"}, {"uid": "below", "parentUid": "self"}]');
SELECT push('department', '[{"uid": "k1", "parentUid": "k3"}, {"uid": "k2", "parentUid": "k1"}, {"uid": "k3", "parentUid": "k2"}, {"uid": "k4", "parentUid": "k2"}]');
SELECT count(*) AS departments, count(*) FILTER (WHERE depth = 0) AS roots FROM uds.department_tree WHERE title LIKE 'k_';
SELECT status, created, failed FROM uds.tasks ORDER BY id DESC LIMIT 1;
-- nobody is lost, whichever was cut
SELECT count(*) FROM uds.departments WHERE title LIKE 'k_' AND parent_id IS NULL;
-- with those that are there already
SELECT push('department', '[{"uid": "m1"}, {"uid": "m2", "parentUid": "m1"}, {"uid": "m3", "parentUid": "m2"}]');
SELECT push('department', '[{"uid": "m1", "parentUid": "m3"}]');
SELECT title, depth FROM uds.department_tree WHERE title LIKE 'm_' ORDER BY path;
-- mended when the source is
SELECT push('department', '[{"uid": "self", "parentUid": "a"}, {"uid": "k1", "parentUid": null}, {"uid": "k2", "parentUid": "k1"}, {"uid": "k3", "parentUid": "k2"}, {"uid": "m1", "parentUid": ""}]');
SELECT tree();

--
-- A department leaves: its children become roots, its memberships go
--
SELECT push('user', '[{"uid": "u", "username": "u", "departments": ["b", "c"]}, {"uid": "v", "username": "v", "departments": ["b"]}]');
SELECT push('department', '[{"uid": "k2", "isDeleted": true}, {"uid": "b", "isDeleted": true}]');
SELECT title, depth FROM uds.department_tree WHERE title LIKE 'k_' ORDER BY path;
SELECT u.username, d.title FROM uds.department_members m JOIN uds.users u ON u.id = m.user_id JOIN uds.departments d ON d.id = m.department_id;
SELECT username, main_department_id FROM uds.users WHERE username = 'v';
SELECT resource, uid, action, before - '{id,user_id,department_id,source_id,parent_id,created_at,updated_at}'::text[] AS before, after
FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) AND action IN ('delete', 'unlink') ORDER BY resource, uid;
SELECT deleted, unlinked FROM uds.tasks ORDER BY id DESC LIMIT 1;
-- again: nothing more to do
SELECT push('department', '[{"uid": "b", "isDeleted": true}]');
-- and one that was never there makes no row
SELECT push('department', '[{"uid": "never", "isDeleted": true}]');
SELECT count(*) FROM uds.departments WHERE title = 'never';
-- it comes back, with the members and children that still name it
SELECT push('department', '[{"uid": "b", "parentUid": "a"}, {"uid": "k2"}]');
SELECT u.username, d.title FROM uds.department_members m JOIN uds.users u ON u.id = m.user_id JOIN uds.departments d ON d.id = m.department_id
ORDER BY 1, 2;
SELECT title, depth FROM uds.department_tree WHERE title LIKE 'k_' ORDER BY path;
-- a department that was deleted by hand is made again
DELETE FROM uds.departments WHERE title = 'c';
SELECT push('department', '[{"uid": "c", "parentUid": "a"}]');
SELECT count(*) FROM uds.departments WHERE title = 'c';

--
-- disabled instead: it keeps its place, its children and those its people name
--
SELECT uds_create_source('hr', 'push', on_deleted => 'disable') > 0 AS created, uds_create_source('keeper', 'push', on_deleted => 'keep') > 0 AS created;
SELECT push('department', '[{"uid": "p"}, {"uid": "q", "parentUid": "p"}, {"uid": "r", "parentUid": "q"}]', 'hr');
SELECT push('user', '[{"uid": "w", "username": "w", "departments": ["q"]}]', 'hr');
SELECT push('department', '[{"uid": "q", "isDeleted": true}]', 'hr');
SELECT title, depth FROM uds.department_tree WHERE title IN ('p', 'q', 'r') ORDER BY path;
SELECT title, enabled FROM uds.departments WHERE title IN ('p', 'q', 'r') ORDER BY 1;
SELECT u.username, d.title FROM uds.department_members m JOIN uds.users u ON u.id = m.user_id JOIN uds.departments d ON d.id = m.department_id WHERE username = 'w';
SELECT push('user', '[{"uid": "w", "nickname": "W", "departments": ["q"]}, {"uid": "w2", "username": "w2", "departments": ["q"]}]', 'hr');
SELECT u.username, d.title FROM uds.department_members m JOIN uds.users u ON u.id = m.user_id JOIN uds.departments d ON d.id = m.department_id WHERE username LIKE 'w%' ORDER BY 1;
SELECT push('department', '[{"uid": "q"}]', 'hr');
SELECT title, enabled FROM uds.departments WHERE title = 'q';
-- enabled follows the record's transitions, not its repetitions
SELECT push('department', '[{"uid": "q", "enabled": false}]', 'hr');
UPDATE uds.departments SET enabled = true WHERE title = 'q';
SELECT push('department', '[{"uid": "q", "enabled": false, "sort": 5}]', 'hr');
SELECT title, enabled, sort FROM uds.departments WHERE title = 'q';
-- keep: nothing happens
SELECT push('department', '[{"uid": "s", "title": "kept"}]', 'keeper');
SELECT push('department', '[{"uid": "s", "title": "kept on", "isDeleted": true}]', 'keeper');
SELECT title, enabled FROM uds.departments WHERE title LIKE 'kept%';
-- one made by no sync is out of reach: departments are not matched
INSERT INTO uds.departments (title) VALUES ('hand made');
SELECT push('department', '[{"uid": "hand made", "isDeleted": true}]', 'hr');
SELECT title, enabled FROM uds.departments WHERE title = 'hand made';

--
-- A cycle mends itself when another of its departments changes
--
SELECT push('department', '[{"uid": "c1", "parentUid": "c3"}, {"uid": "c2", "parentUid": "c1"}, {"uid": "c3"}]');
SELECT push('department', '[{"uid": "c3", "parentUid": "c2"}]');
SELECT title, depth FROM uds.department_tree WHERE title LIKE 'c_' ORDER BY path;
-- who was cut off is told once, and cut off for as long as it lasts
SELECT push('department', '[{"uid": "c1", "parentUid": "c3", "sort": 1}]');
SELECT push('department', '[{"uid": "c4"}, {"uid": "c2", "parentUid": "c4"}]');
SELECT title, depth FROM uds.department_tree WHERE title LIKE 'c_' ORDER BY path;
SELECT count(*) FROM uds.pending_references p JOIN uds.records r ON r.id = p.record_id WHERE r.uid LIKE 'c_';
-- one of them goes
SELECT push('department', '[{"uid": "c4", "parentUid": "c3"}]');
SELECT push('department', '[{"uid": "c1", "isDeleted": true}]');
SELECT title, depth FROM uds.department_tree WHERE title LIKE 'c_' ORDER BY path;
SELECT push('department', '[{"uid": "c2", "isDeleted": true}]');
SELECT title, depth FROM uds.department_tree WHERE title LIKE 'c_' ORDER BY path;

--
-- Deleted by hand and pushed again: it gets back who names it
--
SELECT push('department', '[{"uid": "h1"}, {"uid": "h2", "parentUid": "h1"}]');
SELECT push('user', '[{"uid": "hu", "username": "hu", "departments": ["h2", {"uid": "h1", "isMain": true}]}, {"uid": "hv", "username": "hv"}]');
DELETE FROM uds.departments WHERE title = 'h1';
SELECT push('department', '[{"uid": "h1"}]');
SELECT title, depth, members FROM uds.department_tree WHERE title LIKE 'h_' ORDER BY path;
SELECT u.username, d.title FROM uds.users u JOIN uds.departments d ON d.id = u.main_department_id WHERE username LIKE 'h_';

--
-- Beside one that the database refuses
--
SELECT push('department', '[{"uid": "e1"}, {"uid": "e2", "parentUid": "e1"}, {"uid": "e3", "sort": "x"}, {"uid": "e4", "parentUid": "e3"}]');
SELECT uid, after ? 'parent_id' AS parent FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY uid;
SELECT d.title, d.is_leaf, p.title AS parent FROM uds.departments d LEFT JOIN uds.departments p ON p.id = d.parent_id WHERE d.title LIKE 'e_' ORDER BY 1;
-- set aside once, whatever else is wrong with it
SELECT uds_push('{"dataType": "department", "records": [{"uid": "e5", "sort": "x", "parentUid": "e5"}, {"uid": "e6", "parentUid": "e6"}]}') #> '{result,0,detail,count}' AS count;
SELECT uid, sqlstate FROM uds.task_errors WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY uid;

--
-- Who is refused closes no cycle, and opens none
--
SELECT push('department', '[{"uid": "f1"}]');
SELECT push('department', '[{"uid": "f2", "parentUid": "f1"}, {"uid": "f1", "sort": "x", "parentUid": "f2"}]');
SELECT title, depth FROM uds.department_tree WHERE title LIKE 'f_' ORDER BY path;
SELECT push('department', '[{"uid": "g1"}, {"uid": "g2", "parentUid": "g1"}, {"uid": "g3"}]');
SELECT push('department', '[{"uid": "g1", "parentUid": "g2"}, {"uid": "g2", "sort": "x", "parentUid": ""}, {"uid": "g3", "parentUid": "g1"}, {"uid": "g4", "parentUid": "g2"}]');
SELECT title, depth, is_leaf FROM uds.department_tree t JOIN uds.departments d USING (id, title) WHERE title LIKE 'g_' ORDER BY path;
SELECT uid, action, before, after ? 'parent_id' AS parent FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY uid;

--
-- Who waits already is not noted again
--
SELECT push('department', '[{"uid": "w", "parentUid": "not yet"}]');
CREATE TABLE noted AS SELECT xmin::text AS written, ctid::text AS place, * FROM uds.pending_references;
SELECT count(*) FROM noted WHERE uid_key = 'not yet';
SELECT push('department', '[{"uid": "w", "parentUid": "not yet"}]');
SELECT * FROM noted EXCEPT SELECT xmin::text, ctid::text, * FROM uds.pending_references;
-- but what it does not wait for any more is forgotten
SELECT push('department', '[{"uid": "w", "parentUid": "nor this"}]');
SELECT uid_key FROM uds.pending_references WHERE uid_key IN ('not yet', 'nor this');
\c postgres
DROP DATABASE uds_contract_departments;
