-- What people complain of in software that takes over users and departments
-- from a directory, one case each, and what comes of it here.  Cases that need
-- a service to read, or sessions at the same time, are among the TAP and
-- isolation tests; src/README.md lists which is where.
CREATE DATABASE uds_field;
\c uds_field
CREATE EXTENSION uds;
\set SHOW_CONTEXT never
\set VERBOSITY terse
\pset null '(null)'
-- what became of each push: the task, its error rows
CREATE FUNCTION push(data_type text, records jsonb, source text DEFAULT 'hr', match_key text DEFAULT NULL)
RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	task bigint := uds_push(jsonb_build_object('dataType', data_type, 'sourceName', source, 'records', records, 'matchKey', match_key)) -> 'task';
BEGIN
	RETURN QUERY SELECT concat_ws(': ', status, message) FROM uds.tasks WHERE id = task;
	RETURN QUERY SELECT format('%s: %s %s', coalesce(uid, '(no uid)'), sqlstate, message)
		FROM uds.task_errors WHERE task_id = task ORDER BY seq;
END $$;
CREATE VIEW people AS
SELECT u.username, u.nickname, u.email, u.enabled, d.title AS main,
	(SELECT string_agg(x.title || CASE WHEN m.source_id IS NULL THEN ' by hand' ELSE '' END, ', ' ORDER BY x.title)
	 FROM uds.department_members m JOIN uds.departments x ON x.id = m.department_id WHERE m.user_id = u.id) AS departments
FROM uds.users u LEFT JOIN uds.departments d ON d.id = u.main_department_id;
CREATE VIEW tree AS SELECT repeat('  ', depth) || title AS department FROM uds.department_tree ORDER BY path;
CREATE VIEW traces AS
SELECT (SELECT count(*) FROM uds.users) AS users, (SELECT count(*) FROM uds.departments) AS departments, (SELECT count(*) FROM uds.department_members) AS members,
	(SELECT count(*) FROM uds.records) AS records, (SELECT count(*) FROM uds.record_resources) AS links, (SELECT count(*) FROM uds.tasks) AS tasks;
CREATE VIEW versions AS
SELECT 'users' AS relation, xmin::text AS made_by, ctid::text AS place FROM uds.users UNION ALL SELECT 'departments', xmin::text, ctid::text FROM uds.departments UNION ALL
SELECT 'members', xmin::text, ctid::text FROM uds.department_members UNION ALL SELECT 'records', xmin::text, ctid::text FROM uds.records UNION ALL
SELECT 'links', xmin::text, ctid::text FROM uds.record_resources;
SELECT uds_create_source('hr', 'push') > 0 AS created, uds_create_source('it', 'push', match_keys => '{username}', priority => 200) > 0 AS created,
	uds_create_source('dis', 'push', on_deleted => 'disable') > 0 AS created;

--
-- How far a run goes, and what it says of itself
--
-- a failure half-way leaves half of it
CREATE FUNCTION power_cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'power cut' USING ERRCODE = 'crash_shutdown'; END $$;
CREATE TRIGGER power_cut AFTER INSERT ON uds.department_members FOR EACH ROW EXECUTE FUNCTION power_cut();
SELECT push('department', '[{"uid": "a"}]');
SELECT push('user', '[{"uid": "1", "username": "one"}, {"uid": "2", "username": "two", "departments": ["a"]}]');
TABLE traces;
DROP TRIGGER power_cut ON uds.department_members;
-- everything failed, and it is called a success; what failed is not kept
SELECT push('user', '[{"username": "none"}, {"uid": ""}]');
SELECT status, failed, (SELECT count(*) FROM uds.task_errors e WHERE e.task_id = t.id AND record IS NOT NULL) AS kept FROM uds.tasks t ORDER BY id DESC LIMIT 1;
-- no times, no counts where something failed
SELECT cost IS NOT NULL AS cost, started_at <= finished_at AS times, fetched, created, failed FROM uds.tasks ORDER BY id DESC LIMIT 1;
-- a success is told of for what was never stored
SELECT push('user', '[{"uid": "1", "username": "one"}, {"uid": "2", "username": "two", "departments": ["a"]}, {"uid": "3", "username": "one"}]');
SELECT t.created, t.linked, t.failed, count(u.id) AS users, (SELECT count(*) FROM uds.department_members) AS members FROM uds.tasks t, uds.users u GROUP BY t.id ORDER BY t.id DESC LIMIT 1;
-- counts only: nobody knows who was changed, and how
SELECT push('user', '[{"uid": "1", "nickname": "One"}, {"uid": "2", "isDeleted": true}]');
SELECT resource, uid, action, before ->> 'username' AS name, after FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY resource, uid, action;
-- a task of its own for every few people
SELECT count(*) AS tasks FROM uds.tasks \gset before_
SELECT left(push('user', (SELECT jsonb_agg(jsonb_build_object('uid', 'many' || i)) FROM generate_series(1, 1500) AS i)), 50);
SELECT count(*) - :before_tasks AS tasks FROM uds.tasks;
-- a record without uid among others stops them all
SELECT push('user', '[{"uid": "before"}, {"username": "no uid"}, {"uid": "after"}]');
SELECT uid FROM uds.records WHERE uid IN ('before', 'after') ORDER BY uid;
-- a numeric uid is refused, or stored with other digits, and rewritten for ever
SELECT push('user', '[{"uid": 9007199254740993, "username": "big"}, {"uid": 9007199254740992, "username": "less big"}]');
SELECT r.uid, u.username FROM uds.records r JOIN uds.record_resources l ON l.record_id = r.id JOIN uds.users u ON u.id::text = l.resource_pk WHERE r.uid LIKE '9007%' ORDER BY 1;
SELECT push('user', '[{"uid": 9007199254740993, "username": "big"}, {"uid": 9007199254740992, "username": "less big"}]');
SELECT count(*) AS rewritten FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks);
-- rows are rewritten although nothing changed
CREATE TEMP TABLE versions_before AS TABLE versions;
SELECT push('user', '[{"uid": "1", "nickname": "One"}]');
SELECT push('department', '[{"uid": "a"}]');
SELECT count(*) AS written FROM (TABLE versions EXCEPT TABLE versions_before) AS v;
DROP TABLE versions_before;
-- one duplicate phone number stops the run
SELECT uds_push('{"dataType": "user", "sourceName": "hr", "records": [{"uid": "p1", "phone": "555"}, {"uid": "p2", "phone": "555"}, {"uid": "p3", "phone": "556"}]}')
	#> '{result,0,detail,count}' AS count;
SELECT phone FROM uds.users WHERE phone LIKE '55_' ORDER BY 1;
-- a record without a field that others have stops all
SELECT push('user', '[{"uid": "f1"}, {"uid": "f2", "username": "f2", "email": null, "enabled": null, "departments": null}]');

--
-- Leavers
--
-- who is deleted twice is made anew, by turns
SELECT push('user', '[{"uid": "l", "username": "leaver"}]');
SELECT push('user', '[{"uid": "l", "username": "leaver", "isDeleted": true}]') FROM generate_series(1, 3);
SELECT count(*) AS leavers FROM uds.users WHERE username = 'leaver';
-- who was never there is made by his deletion; who was made by hand is deleted by it
INSERT INTO uds.users (username, email, nickname) VALUES ('local', 'local@x.org', 'by hand');
SELECT push('user', '[{"uid": "never", "username": "never", "isDeleted": true}, {"uid": "l2", "email": "local@x.org", "isDeleted": true}]', match_key => 'email');
SELECT username, enabled FROM uds.users WHERE username IN ('never', 'local') ORDER BY 1;
-- people that no source ever named are taken for leavers
SELECT push('user', '[{"uid": "1", "nickname": "Uno"}]');
SELECT username, enabled FROM uds.users WHERE username = 'local';
-- who comes back gets a new account, or stays disabled
SELECT push('user', '[{"uid": "r", "username": "returns", "email": "r@x.org"}]', 'dis');
SELECT id AS id FROM uds.users WHERE username = 'returns' \gset r_
SELECT push('user', '[{"uid": "r", "isDeleted": true}]', 'dis');
SELECT username, enabled FROM uds.users WHERE username = 'returns';
SELECT push('user', '[{"uid": "r", "username": "returns"}]', 'dis');
SELECT id = :r_id AS same_row, enabled, email FROM uds.users WHERE username = 'returns';
-- a leaver keeps the address that a newcomer has by now
SELECT push('user', '[{"uid": "r", "isDeleted": true}]', 'dis');
SELECT push('user', '[{"uid": "new", "username": "newcomer", "email": "r@x.org"}]', 'dis');
SELECT username, email, enabled FROM uds.users WHERE username IN ('returns', 'newcomer') ORDER BY 1;
-- who moves to another department is taken for a leaver
SELECT push('department', '[{"uid": "b"}]');
SELECT push('user', '[{"uid": "1", "departments": ["a"]}]');
SELECT push('user', '[{"uid": "1", "departments": ["b"]}]');
SELECT username, enabled, departments FROM people WHERE username = 'one';
-- disabled at the source is not disabled here
SELECT push('user', '[{"uid": "1", "enabled": false}]');
SELECT username, enabled FROM people WHERE username = 'one';
SELECT push('user', '[{"uid": "1", "enabled": true}]');
-- a department takes what is below it along
SELECT push('department', '[{"uid": "top"}, {"uid": "middle", "parentUid": "top"}, {"uid": "low", "parentUid": "middle"}]');
SELECT push('department', '[{"uid": "top", "isDeleted": true}]');
SELECT * FROM tree WHERE department LIKE '%middle' OR department LIKE '%low' OR department LIKE '%top';
-- what was imported by mistake cannot be removed
SELECT uds_create_source('mistake', 'push') > 0 AS created;
SELECT push('department', '[{"uid": "x", "title": "mistake"}]', 'mistake');
SELECT push('user', '[{"uid": "x", "username": "mistake", "departments": ["x"]}]', 'mistake');
SELECT uds_drop_source('mistake', keep_data => false);
SELECT (SELECT count(*) FROM uds.users WHERE username = 'mistake') AS users, (SELECT count(*) FROM uds.departments WHERE title = 'mistake') AS departments;

--
-- Who is who
--
-- an absent or null match key matches whoever has none
INSERT INTO uds.users (username, nickname) VALUES ('no mail', 'by hand');
SELECT push('user', '[{"uid": "k1", "email": null, "nickname": "took over"}, {"uid": "k2", "nickname": "took over"}, {"uid": "k3", "email": "", "nickname": "took over"}]', match_key => 'email');
SELECT nickname FROM uds.users WHERE username = 'no mail';
-- the same address twice: both records are made one person, silently, and either deletes it
SELECT uds_push('{"dataType": "user", "sourceName": "hr", "matchKey": "email", "records": [{"uid": "s1", "username": "s1", "email": "same@x.org"},
	{"uid": "s2", "username": "s2", "email": "same@x.org"}]}') #> '{result,0,detail,count}' AS count;
SELECT count(*) AS people, count(DISTINCT u.username) AS names FROM uds.users u WHERE email = 'same@x.org';
SELECT uid AS refused FROM uds.task_errors WHERE uid IN ('s1', 's2') \gset
SELECT push('user', jsonb_build_array(jsonb_build_object('uid', :'refused', 'isDeleted', true)), match_key => 'email');
SELECT count(*) AS people FROM uds.users WHERE email = 'same@x.org';
-- whoever sends the administrator's address overwrites the administrator
ALTER TABLE uds.users ADD COLUMN roles text[] NOT NULL DEFAULT '{}';
INSERT INTO uds.users (username, email, nickname, roles, protected) VALUES ('admin', 'admin@x.org', 'Admin', '{admin}', true);
SELECT push('user', '[{"uid": "evil", "username": "admin", "email": "admin@x.org", "nickname": "Evil"}]');
SELECT username, nickname, roles FROM uds.users WHERE username = 'admin';
-- or, matched on purpose, disables or deletes him
SELECT push('user', '[{"uid": "adm", "email": "admin@x.org", "enabled": false}]', match_key => 'email');
SELECT push('user', '[{"uid": "adm", "email": "admin@x.org", "isDeleted": true}]');
SELECT username, enabled, roles FROM uds.users WHERE username = 'admin';
-- any column can be written: a record makes its person an administrator
SELECT uds_alter_source('hr', columns => '{username,nickname,email,phone,title,enabled,sort}');
SELECT push('user', '[{"uid": "climb", "username": "climber", "roles": ["admin"], "protected": true}]');
SELECT username, roles, protected FROM uds.users WHERE username = 'climber';
-- who is renamed becomes another person
SELECT push('user', '[{"uid": "n", "username": "maiden", "email": "maiden@x.org"}]');
SELECT id AS id FROM uds.users WHERE username = 'maiden' \gset n_
SELECT push('user', '[{"uid": "n", "username": "married", "email": "married@x.org"}]', match_key => 'username');
SELECT id = :n_id AS same_row, username FROM uds.users WHERE username IN ('maiden', 'married');
-- uids that are alike in part, or but for case, are confused
SELECT push('user', '[{"uid": "ab", "username": "ab"}, {"uid": "a", "username": "a"}, {"uid": "AB", "username": "AB!"}, {"uid": "ab ", "username": "ab+"}]');
SELECT count(*) FROM uds.users WHERE username IN ('ab', 'a', 'AB!', 'ab+');

--
-- What was done here
--
-- memberships made by hand go, at a push that changes nothing at that
SELECT push('department', '[{"uid": "c"}]');
SELECT push('user', '[{"uid": "h", "username": "hand", "departments": ["a"]}]');
INSERT INTO uds.department_members (department_id, user_id) SELECT d.id, u.id FROM uds.departments d, uds.users u WHERE d.title = 'b' AND u.username = 'hand';
SELECT push('user', '[{"uid": "h", "username": "hand", "departments": ["a"]}]');
SELECT push('user', '[{"uid": "h", "username": "hand", "departments": ["c"]}]');
SELECT username, departments FROM people WHERE username = 'hand';
-- a record that says nothing of departments takes all away, and the main one
SELECT push('user', '[{"uid": "h", "nickname": "H"}]');
SELECT username, main, departments FROM people WHERE username = 'hand';
-- an empty list takes away what others gave
SELECT push('user', '[{"uid": "h", "departments": []}]');
SELECT username, main, departments FROM people WHERE username = 'hand';
-- the second source takes away what the first gave
SELECT push('user', '[{"uid": "h", "departments": ["a", "c"]}]');
SELECT push('department', '[{"uid": "z", "title": "of it"}]', 'it');
SELECT push('user', '[{"uid": "i", "username": "hand", "nickname": "other", "departments": ["z"]}]', 'it');
SELECT username, nickname, departments FROM people WHERE username = 'hand';
SELECT push('user', '[{"uid": "i", "isDeleted": true}]', 'it');
SELECT username, nickname, enabled, departments FROM people WHERE username = 'hand';
-- a list that is none empties what it should have changed
SELECT push('user', '[{"uid": "h", "departments": {"remove": "a"}}]');
SELECT username, departments FROM people WHERE username = 'hand';
-- what is kept here is overwritten: columns that the source does not have, or may not set
ALTER TABLE uds.users ADD COLUMN password text, ADD COLUMN desk text;
UPDATE uds.users SET password = 'secret', desk = '7', avatar = 'mine' WHERE username = 'hand';
SELECT push('user', '[{"uid": "h", "title": "new", "desk": "9", "avatar": "theirs"}]');
SELECT username, title, password, desk, avatar FROM uds.users WHERE username = 'hand';
-- a change made here makes the next run believe that the source changed
UPDATE uds.users SET password = 'other' WHERE username = 'hand';
SELECT push('user', '[{"uid": "h", "title": "new", "desk": "9", "avatar": "theirs"}]');
SELECT password FROM uds.users WHERE username = 'hand';

--
-- The tree
--
-- who comes before his parent becomes a root for good, or until a second push
SELECT push('department', (SELECT jsonb_agg(jsonb_build_object('uid', 'deep' || i, 'parentUid', CASE WHEN i > 1 THEN 'deep' || i - 1 END) ORDER BY i DESC) FROM generate_series(1, 50) AS i));
SELECT count(*) AS departments, count(*) FILTER (WHERE depth = 0) AS roots, max(depth) AS depth FROM uds.department_tree WHERE title LIKE 'deep%';
SELECT push('department', '[{"uid": "early", "parentUid": "late"}]');
SELECT push('department', '[{"uid": "late"}]');
SELECT * FROM tree WHERE department ~ 'early|late';
-- only the first level is taken: who is in the lowest belongs to all above
SELECT push('user', '[{"uid": "diver", "username": "diver", "departments": ["deep50"]}]');
SELECT title, members, members_below FROM uds.department_tree WHERE title IN ('deep1', 'deep50') ORDER BY 1;
-- a numeric parent makes another department with each push
SELECT push('department', '[{"uid": 4711, "title": "num"}, {"uid": 4712, "title": "sub", "parentUid": 4711}]') FROM generate_series(1, 3);
SELECT * FROM tree WHERE department ~ 'num|sub';
-- the order among siblings is lost
SELECT push('department', '[{"uid": "o1", "sort": 30}, {"uid": "o2", "sort": 10}, {"uid": "o3", "sort": 20}]');
SELECT title FROM uds.departments WHERE title LIKE 'o_' ORDER BY sort;
-- parents in a circle: it never ends
SET statement_timeout = '60s';
SELECT count(*) AS errors FROM push('department', (SELECT jsonb_agg(jsonb_build_object('uid', 'ring' || i, 'parentUid', 'ring' || (i % 20) + 1)) FROM generate_series(1, 20) AS i)) AS p WHERE p LIKE 'ring%';
SELECT count(*) AS departments, count(*) FILTER (WHERE depth = 0) AS roots FROM uds.department_tree WHERE title LIKE 'ring%';
RESET statement_timeout;
-- a person in two departments fails, or is in one
SELECT push('user', '[{"uid": "both", "username": "both", "departments": ["a", {"uid": "b", "isMain": true}]}]');
SELECT username, main, departments FROM people WHERE username = 'both';
\c postgres
DROP DATABASE uds_field;
