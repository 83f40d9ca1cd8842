-- Memberships, owners and the main department
CREATE DATABASE uds_contract_members;
\c uds_contract_members
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
SELECT uds_create_source('hr', 'push', match_keys => '{username}', priority => 10) > 0 AS created,
	uds_create_source('it', 'push', match_keys => '{username}', priority => 20) > 0 AS created;
-- the departments of a user: main marked with *, owned with !, who says so
CREATE FUNCTION departments(who text) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT coalesce(string_agg(d.title || CASE WHEN d.id = u.main_department_id THEN '*' ELSE '' END
		|| CASE WHEN m.is_owner THEN '!' ELSE '' END || ' ' || coalesce(s.name, 'by hand'), ', ' ORDER BY d.title), 'none')
		|| CASE WHEN NOT coalesce(bool_or(d.id = u.main_department_id), false) AND u.main_department_id IS NOT NULL THEN ' (main elsewhere)' ELSE '' END
	FROM uds.users u
	LEFT JOIN uds.department_members m ON m.user_id = u.id
	LEFT JOIN uds.departments d ON d.id = m.department_id
	LEFT JOIN uds.sources s ON s.id = m.source_id
	WHERE u.username = who GROUP BY u.id $$;
CREATE FUNCTION by_hand(who text, department text, owner boolean) RETURNS void LANGUAGE sql AS $$
	INSERT INTO uds.department_members (user_id, department_id, is_owner)
	SELECT u.id, d.id, owner FROM uds.users u, uds.departments d WHERE u.username = who AND d.title = department $$;
SELECT push('department', '[{"uid": "a"}, {"uid": "b"}, {"uid": "c"}, {"uid": 7, "title": "seven"}]', 'hr');
SELECT push('department', '[{"uid": "a", "title": "it-a"}, {"uid": "x"}]', 'it');

--
-- Absent leaves them, null and [] take them away
--
SELECT push('user', '[{"uid": "ann", "username": "ann", "departments": ["a", {"uid": "b"}, 7, {"uid": "c", "isOwner": true}]}]', 'hr');
SELECT departments('ann');
SELECT resource, uid, action, before, after - '{department_id,user_id,source_id}'::text[] AS after, pk = (after ->> 'department_id') || ':' || (after ->> 'user_id') AS pk
FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) AND resource = 'members' ORDER BY after ->> 'is_owner', pk;
SELECT push('user', '[{"uid": "ann", "nickname": "Ann"}]', 'hr');
SELECT departments('ann');
SELECT push('user', '[{"uid": "ann", "departments": []}]', 'hr');
SELECT departments('ann');
SELECT linked, unlinked, updated, unchanged FROM uds.tasks ORDER BY id DESC LIMIT 1;
SELECT push('user', '[{"uid": "ann", "departments": ["b", "b", {"uid": "b", "isOwner": true}]}]', 'hr');
SELECT departments('ann');
-- what is no list is an error, and takes nothing away
SELECT push('user', '[{"uid": "ann", "departments": "c"}, {"uid": "bea", "departments": {"uid": "c"}}]', 'hr');
SELECT push('department', '[{"uid": "b", "owners": "ann"}]', 'hr');
SELECT departments('ann');
SELECT push('user', '[{"uid": "ann", "departments": null}]', 'hr');
SELECT departments('ann');

--
-- Main: the first isMain, else the present one while a member, else the first
--
SELECT push('user', '[{"uid": "ann", "departments": ["b", {"uid": "c", "isMain": true}, {"uid": "a", "isMain": true}]}]', 'hr');
SELECT departments('ann');
SELECT push('user', '[{"uid": "ann", "departments": ["a", "b", "c"]}]', 'hr');
SELECT departments('ann');
SELECT push('user', '[{"uid": "ann", "departments": ["b", "a"]}]', 'hr');
SELECT departments('ann');
-- a new main department is an update of the user
SELECT resource, uid, action FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY seq;
-- the first isMain, also where a department was named before without it
SELECT push('user', '[{"uid": "ann", "departments": ["b", "a", {"uid": "c", "isMain": true}, {"uid": "a", "isMain": true}]}]', 'hr');
SELECT departments('ann');
-- set by hand it holds while nobody says isMain
UPDATE uds.users SET main_department_id = (SELECT id FROM uds.departments WHERE title = 'a') WHERE username = 'ann';
SELECT push('user', '[{"uid": "ann", "departments": ["b", "a", "c"]}]', 'hr');
SELECT departments('ann');
-- isMain of a department to come takes over when it comes; its member waits
SELECT push('user', '[{"uid": "ann", "departments": ["b", {"uid": "later", "isMain": true, "isOwner": true}]}]', 'hr');
SELECT departments('ann');
SELECT push('department', '[{"uid": "later"}]', 'hr');
SELECT departments('ann');
SELECT created, updated, linked FROM uds.tasks ORDER BY id DESC LIMIT 1;
-- somebody else's department of the same uid is another one
SELECT push('department', '[{"uid": "y"}]', 'hr');
SELECT push('user', '[{"uid": "ann", "username": "ann", "departments": ["y"]}]', 'it');
SELECT departments('ann');
SELECT push('department', '[{"uid": "y", "title": "it-y"}]', 'it');
SELECT departments('ann');
SELECT push('user', '[{"uid": "ann", "departments": []}]', 'it');

--
-- The union over sources and what was made by hand
--
SELECT push('user', '[{"uid": "bob", "username": "bob", "departments": ["a", "b"]}]', 'hr');
SELECT push('user', '[{"uid": "bob", "username": "bob", "departments": ["x", {"uid": "a", "isMain": true}]}]', 'it');
SELECT by_hand('bob', 'c', true);
SELECT departments('bob');
SELECT push('user', '[{"uid": "bob", "departments": ["b"]}]', 'hr');
SELECT departments('bob');
SELECT push('user', '[{"uid": "bob", "departments": null}]', 'it');
SELECT departments('bob');
-- isMain of the source with the better priority wins
SELECT push('user', '[{"uid": "bob", "departments": [{"uid": "x", "isMain": true}]}]', 'it');
SELECT departments('bob');
SELECT push('user', '[{"uid": "bob", "departments": ["b", {"uid": "a", "isMain": true}]}]', 'hr');
SELECT departments('bob');
-- by hand stays by hand, with its own is_owner, whatever a source says
SELECT push('user', '[{"uid": "bob", "departments": ["c"]}]', 'hr');
SELECT departments('bob');
SELECT push('user', '[{"uid": "bob", "departments": [{"uid": "b", "isOwner": true}]}]', 'hr');
SELECT departments('bob');
UPDATE uds.department_members m SET source_id = NULL, is_owner = false FROM uds.departments d WHERE d.id = m.department_id AND d.title = 'b';
SELECT push('user', '[{"uid": "bob", "departments": [{"uid": "b", "isOwner": true}]}]', 'hr');
SELECT departments('bob');
SELECT push('user', '[{"uid": "bob", "departments": []}]', 'hr');
SELECT push('user', '[{"uid": "bob", "departments": []}]', 'it');
SELECT departments('bob');

--
-- Owners: isOwner of the user, or a place in the department's owners
--
SELECT push('user', '[{"uid": "dan", "username": "dan", "departments": ["a", "b"]}, {"uid": "eva", "username": "eva"}]', 'hr');
SELECT push('department', '[{"uid": "a", "owners": ["dan", "eva", "nobody"]}]', 'hr');
SELECT departments('dan'), departments('eva');
SELECT push('user', '[{"uid": "eva", "departments": [{"uid": "a", "isOwner": false}]}, {"uid": "dan", "nickname": "Dan", "departments": ["a", "b"]}]', 'hr');
SELECT departments('dan'), departments('eva');
SELECT push('department', '[{"uid": "a", "owners": ["eva"]}]', 'hr');
SELECT departments('dan'), departments('eva');
-- owners known before the person, the membership before the department
SELECT push('department', '[{"uid": "b", "owners": ["fay", 42]}]', 'hr');
SELECT push('user', '[{"uid": "fay", "username": "fay", "departments": ["b", "new"]}, {"uid": 42, "username": "42", "departments": ["b"]}]', 'hr');
SELECT departments('fay'), departments('42');
SELECT push('department', '[{"uid": "new", "owners": ["fay"]}]', 'hr');
SELECT departments('fay');
-- another source's user of the same uid is not meant
SELECT push('user', '[{"uid": "eva", "username": "other", "departments": ["x"]}]', 'it');
SELECT push('department', '[{"uid": "x", "owners": ["dan"]}]', 'it');
SELECT departments('other'), departments('dan');

--
-- The tree counts enabled people
--
SELECT push('user', '[{"uid": "fay", "enabled": false}]', 'hr');
SELECT title, members, members_below FROM uds.department_tree WHERE title IN ('b', 'x') ORDER BY title;

--
-- The main department goes: the first of the rest takes over
--
SELECT push('department', '[{"uid": "m1"}, {"uid": "m2"}, {"uid": "m3", "parentUid": "m1"}]', 'hr');
SELECT push('user', '[{"uid": "eve", "username": "eve", "departments": ["m1", "m2", "m3"]}, {"uid": "fay", "username": "fay", "departments": ["m1"]}, {"uid": "gus", "username": "gus", "departments": ["m1", "m2"]}]', 'hr');
SELECT push('user', '[{"uid": "gus", "nickname": "names none"}]', 'hr');
SELECT push('department', '[{"uid": "m1", "isDeleted": true}]', 'hr');
SELECT departments('eve'), departments('fay'), departments('gus');
SELECT resource, uid, action, count(*), bool_and(after -> 'main_department_id' <> 'null') AS main FROM uds.changes
WHERE task_id = (SELECT max(id) FROM uds.tasks) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT push('department', '[{"uid": "m1"}]', 'hr');
SELECT departments('eve'), departments('fay'), departments('gus');
-- memberships stay where the department cannot go
CREATE TABLE rooms (department_id bigint REFERENCES uds.departments);
INSERT INTO rooms SELECT id FROM uds.departments WHERE title = 'm2';
SELECT push('department', '[{"uid": "m2", "isDeleted": true}]', 'hr');
SELECT departments('eve'), departments('gus');
DROP TABLE rooms;

--
-- The only source that names departments leaves, the other says nothing
--
SELECT push('user', '[{"uid": "hal", "username": "hal", "departments": ["a"]}]', 'hr');
SELECT push('user', '[{"uid": "hal", "username": "hal"}]', 'it');
SELECT push('user', '[{"uid": "hal", "isDeleted": true}]', 'hr');
SELECT departments('hal');

--
-- Who leads is a matter of the department, also for who names none
--
SELECT push('department', '[{"uid": "o", "owners": ["ida"]}, {"uid": "o2", "owners": ["joe"]}]', 'hr');
SELECT push('user', '[{"uid": "ida", "username": "ida", "departments": ["o"]}, {"uid": "joe", "username": "joe", "departments": ["o2"]}, {"uid": "kim", "username": "kim", "departments": ["o"]}]', 'hr');
SELECT push('user', '[{"uid": "ida", "nickname": "I"}, {"uid": "kim", "nickname": "K"}]', 'hr');
SELECT push('department', '[{"uid": "o", "owners": ["kim"]}]', 'hr');
SELECT departments('ida'), departments('joe'), departments('kim');
SELECT uid, action, before, after FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY uid;
-- a department that left has no owners
SELECT uds_alter_source('hr', on_deleted => 'disable');
SELECT push('department', '[{"uid": "o", "owners": ["kim"], "isDeleted": true}, {"uid": "o2", "owners": ["joe"], "isDeleted": true}]', 'hr');
SELECT departments('ida'), departments('joe'), departments('kim');
SELECT push('department', '[{"uid": "o", "owners": ["kim"]}, {"uid": "o2", "owners": ["joe"]}]', 'hr');
SELECT departments('ida'), departments('joe'), departments('kim');
\c postgres
DROP DATABASE uds_contract_members;
