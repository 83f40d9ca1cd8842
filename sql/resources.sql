-- Resources besides users and departments: tables filled by mapping, and
-- functions that are called with the changed records
CREATE DATABASE uds_resources;
\c uds_resources
\set SHOW_CONTEXT never
\pset null -
SET timezone = 'UTC';
CREATE EXTENSION uds;

-- pushes records and gives the message of the task
CREATE FUNCTION push(type text, records jsonb, source text DEFAULT 'hr') RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM uds_push(jsonb_build_object('dataType', type, 'records', records, 'sourceName', source));
	RETURN (SELECT message FROM uds.tasks ORDER BY id DESC LIMIT 1);
END $$;
CREATE FUNCTION last_task() RETURNS bigint LANGUAGE sql AS 'SELECT max(id) FROM uds.tasks';
CREATE VIEW changed AS
SELECT resource, pk, uid, action, before, after FROM uds.changes
WHERE task_id = last_task() AND resource NOT IN ('users', 'departments', 'members')
ORDER BY resource, pk COLLATE "C";
CREATE VIEW refused AS
SELECT data_type, uid, resource, sqlstate, message, record FROM uds.task_errors
WHERE task_id = last_task() ORDER BY uid, resource;
CREATE VIEW links AS
SELECT l.resource, s.name AS source, r.uid, l.resource_pk, l.created
FROM uds.record_resources l JOIN uds.records r ON r.id = l.record_id JOIN uds.sources s ON s.id = r.source_id
WHERE l.resource NOT IN ('users', 'departments') ORDER BY 1, 2, 3;
SELECT uds_create_source('hr', 'push') > 0 AS created;

--
-- What cannot be registered: told, and nothing stored
--
CREATE TABLE badges (badge text PRIMARY KEY, nick text, floor integer CHECK (floor < 100), mail text UNIQUE,
					 printed boolean DEFAULT false, stamp bigint GENERATED ALWAYS AS IDENTITY,
					 big text GENERATED ALWAYS AS (upper(nick)) STORED);
CREATE TABLE odd (a text UNIQUE, b text NOT NULL, c text NOT NULL, d jsonb NOT NULL UNIQUE, enabled text);
CREATE UNIQUE INDEX ON odd (b) WHERE b <> '';
CREATE UNIQUE INDEX ON odd (c, b);
CREATE VIEW odd_view AS TABLE odd;
SELECT uds_map_table('badges', 'badges', 'user', 'badge', '{"nickname": "$.nickname"}');
SELECT uds_map_table('badges', 'badges', 'user', 'badge', '{"big": "$.nickname"}');
SELECT uds_map_table('badges', 'badges', 'user', 'badge', '{"stamp": "$.stamp"}');
SELECT uds_map_table('badges', 'badges', 'user', 'badge', '["nick"]');
SELECT uds_map_table('badges', 'badges', 'user', 'badge', '{"nick": "$.nick["}');
SELECT uds_map_table('badges', 'badges', 'user', 'badge', '{"nick": {"pfad": "$.nick"}}');
SELECT uds_map_table('badges', 'badges', 'user', 'number', '{}');
SELECT uds_map_table('badges', 'badges', 'user', 'nick', '{}');
SELECT uds_map_table('badges', 'odd', 'user', 'a', '{}');
SELECT uds_map_table('badges', 'odd', 'user', 'b', '{}');
SELECT uds_map_table('badges', 'odd', 'user', 'c', '{}');
SELECT uds_map_table('badges', 'odd', 'user', 'd', '{}');
SELECT uds_map_table('badges', 'badges', 'member', 'badge', '{}');
SELECT uds_map_table('Badges', 'badges', 'user', 'badge', '{}');
SELECT uds_map_table('users', 'badges', 'user', 'badge', '{}');
SELECT uds_map_table('members', 'badges', 'user', 'badge', '{}');
SELECT uds_map_table('badges', 'odd_view', 'user', 'a', '{}');
SELECT uds_map_table('badges', 'uds.users', 'user', 'id', '{}');
SELECT uds_map_table('badges', 'pg_class', 'user', 'oid', '{}');
SELECT uds_map_table('badges', NULL, 'user', 'badge', '{}');
ALTER TABLE odd ADD PRIMARY KEY (b);
SELECT uds_map_table('badges', 'odd', 'user', 'b', '{"enabled": "$.enabled"}');
CREATE FUNCTION one_way(bigint) RETURNS TABLE (uid text, pk text) LANGUAGE sql AS $$ SELECT 'a', 'b' $$;
CREATE FUNCTION lockers(task bigint) RETURNS TABLE (uid text, pk text, action text, before jsonb, after jsonb)
LANGUAGE plpgsql AS $$ BEGIN END $$;
SELECT uds_register_resource('lockers', '{user}', 'one_way(bigint)');
SELECT uds_register_resource('lockers', '{user,robot}', 'lockers(bigint)');
SELECT uds_register_resource('lockers', '{}', 'lockers(bigint)');
SELECT uds_register_resource('lockers', '{user}', 'lockers(bigint)', '{keys}');
SELECT uds_register_resource('lockers', '{user}', 'lockers(bigint)', '{lockers}');
SELECT uds_drop_resource('lockers');
SELECT uds_drop_resource('users');
SELECT * FROM uds_task_records(1);
SELECT count(*) FROM uds.resources WHERE NOT builtin;

-- it is dumped, and so is what it refused
SELECT c::regclass, condition FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS x (c, condition)
WHERE e.extname = 'uds' AND c IN ('uds.resources'::regclass, 'uds.unapplied_records'::regclass) ORDER BY 1;

--
-- A mapped table
--
SELECT push('user', '[{"uid": "old", "nickname": "Was there"}]');
INSERT INTO badges (badge, nick, printed) VALUES ('mine', 'By hand', true), ('cid', 'Adopted', true), ('dan', 'dan', true);
SELECT uds_map_table('badges', 'badges', 'user', 'badge',
	'{"nick": "$.nickname", "floor": "$.floor", "mail": {"path": "$.email", "apply": ["lower"]}}');
SELECT name, accepts, target, key, columns, apply, after, level, owner = current_user AS mine
FROM uds.resources WHERE NOT builtin;
SELECT jsonb_pretty(uds_push('{"dataType": "user", "sourceName": "hr", "records": [
	{"uid": "ann", "nickname": "Ann", "floor": 3, "email": "ANN@example.com"}, {"uid": "bob", "nickname": "Bob", "floor": "x"},
	{"uid": "cid", "nickname": "Cid"}, {"uid": "dan", "nickname": "dan"},
	{"uid": "eve", "nickname": "Eve", "floor": 100}, {"uid": "fay", "email": "Ann@example.com"}]}') - 'task');
SELECT badge, nick, floor, mail, printed FROM badges ORDER BY badge;
TABLE changed;
TABLE refused;
TABLE links;
SELECT u.resource, r.uid FROM uds.unapplied_records u JOIN uds.records r ON r.id = u.record_id ORDER BY 2;
-- the user is there all the same
SELECT nickname FROM uds.users WHERE nickname IN ('Bob', 'Eve') ORDER BY 1;
-- the same again: nothing is touched; and what is mended is taken
CREATE TABLE before AS SELECT ctid AS at, badge FROM badges;
SELECT push('user', '[{"uid": "ann", "nickname": "Ann", "floor": 3, "email": "ANN@example.com"},
					  {"uid": "cid", "nickname": "Cid"}, {"uid": "dan", "nickname": "dan"}]');
TABLE changed;
SELECT count(*) FROM before b JOIN badges g ON g.ctid = b.at AND g.badge = b.badge;
SELECT push('user', '[{"uid": "ann", "nickname": "Ann", "floor": null}, {"uid": "bob", "nickname": "Bob", "floor": 9},
					  {"uid": "eve", "nickname": "Eve", "floor": 99}]');
TABLE changed;
SELECT count(*) FROM uds.unapplied_records u JOIN uds.records r ON r.id = u.record_id WHERE r.uid IN ('bob', 'eve');
-- altered by hand, it comes right
UPDATE badges SET nick = 'changed' WHERE badge = 'bob';
DELETE FROM badges WHERE badge = 'eve';
SELECT push('user', '[{"uid": "bob", "nickname": "Bob"}, {"uid": "eve", "nickname": "Eve"}]');
TABLE changed;
-- who left: a row that no sync made stays
SELECT push('user', '[{"uid": "ann", "isDeleted": true}, {"uid": "cid", "isDeleted": true}, {"uid": "ann", "isDeleted": true}]');
TABLE changed;
SELECT badge, nick, floor, mail, printed FROM badges ORDER BY badge;
TABLE links;
SELECT push('user', '[{"uid": "ann", "isDeleted": true}]');
TABLE changed;
-- a trigger refuses
CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION '% stays, says %', OLD.badge, current_user;
END $$;
CREATE TRIGGER stay BEFORE DELETE ON badges FOR EACH ROW WHEN (OLD.badge = 'bob') EXECUTE FUNCTION stay();
SELECT replace(push('user', '[{"uid": "bob", "isDeleted": true}, {"uid": "eve", "isDeleted": true}]'), current_user, 'me');
TABLE changed;
SELECT uid, sqlstate, replace(message, current_user, 'me') AS message FROM refused;
DROP TRIGGER stay ON badges;
SELECT push('user', '[{"uid": "bob", "isDeleted": true}]');
TABLE changed;

--
-- Many of them, some bad
--
SELECT push('user', (SELECT jsonb_agg(jsonb_build_object('uid', 'n' || i, 'floor', CASE WHEN i % 400 = 0 THEN 100 ELSE i % 50 END))
					 FROM generate_series(1, 2000) AS i));
SELECT uid, message FROM refused ORDER BY length(uid), uid;
SELECT count(*) FROM badges WHERE badge LIKE 'n%';
SELECT push('user', (SELECT jsonb_agg(jsonb_build_object('uid', 'n' || i, 'isDeleted', true)) FROM generate_series(1, 2000) AS i));
SELECT count(*) FROM badges WHERE badge LIKE 'n%';
SELECT count(*) FROM uds.unapplied_records;

--
-- Keys that change, that are shared, and that are not there
--
CREATE TABLE boxes (address text PRIMARY KEY, owner text, phone text, note text, enabled boolean);
SELECT uds_map_table('boxes', 'boxes', 'user', 'address',
	'{"address": "$.email", "owner": "$.nickname", "phone": "$.phone", "enabled": "$.active"}');
SELECT push('user', '[{"uid": "kim", "nickname": "Kim", "email": "kim@x"}, {"uid": "lee", "nickname": "Lee", "email": "lee@x"},
					  {"uid": "max", "nickname": "Max"}]');
UPDATE boxes SET note = 'green' WHERE address = 'kim@x';
SELECT push('user', '[{"uid": "kim", "nickname": "Kim", "email": "kim@y"}, {"uid": "lee", "nickname": "Lee", "email": null}]');
TABLE changed;
TABLE boxes ORDER BY address;
SELECT uid, resource_pk FROM links WHERE resource = 'boxes';
SELECT push('user', '[{"uid": "kim", "email": "kim@z"}, {"uid": "lee", "email": "kim@y"}]');
SELECT resource, pk, uid, action, before, after FROM changed WHERE resource = 'boxes';
SELECT push('user', '[{"uid": "kim", "email": "kim@y"}, {"uid": "lee", "email": "kim@z"}]');
SELECT address, owner FROM boxes ORDER BY address;
SELECT uid, resource_pk, created FROM links WHERE resource = 'boxes';
ALTER TABLE uds.users DROP CONSTRAINT users_email_key;
SELECT push('user', '[{"uid": "max", "nickname": "Max", "email": "kim@z"}]');
TABLE refused;

--
-- Several sources: the best priority decides, attribute by attribute
--
SELECT uds_create_source('crm', 'push', match_keys => '{email}', priority => 50, on_deleted => 'disable') > 0 AS created;
SELECT push('user', '[{"uid": "7", "email": "kim@y", "phone": "123", "nickname": "Kimberly"}]', 'crm');
SELECT resource, pk, uid, action, before, after FROM changed WHERE resource = 'boxes';
SELECT push('user', '[{"uid": "kim", "email": "kim@y", "nickname": "Kim", "phone": "456"}]');
SELECT * FROM boxes WHERE address = 'kim@y';
SELECT push('user', '[{"uid": "kim", "isDeleted": true}]');
SELECT * FROM boxes WHERE address = 'kim@y';
-- a leaver who is disabled, and returns
SELECT push('user', '[{"uid": "7", "isDeleted": true}]', 'crm');
SELECT resource, pk, uid, action, before, after FROM changed WHERE resource = 'boxes';
SELECT push('user', '[{"uid": "7", "email": "kim@y", "phone": "123", "nickname": "Kimberly"}]', 'crm');
SELECT resource, pk, uid, action, before, after FROM changed WHERE resource = 'boxes';
SELECT * FROM boxes WHERE address = 'kim@y';
SELECT push('user', '[{"uid": "7", "email": "kim@y", "active": false}]', 'crm');
SELECT * FROM boxes WHERE address = 'kim@y';
SELECT uds_drop_resource('boxes');
SELECT count(*) FROM uds.record_resources WHERE resource = 'boxes';
SELECT count(*) > 0 AS rows_stay FROM boxes;

--
-- Departments; keys of other types; tables that refer to one another
--
CREATE TABLE sites (id integer PRIMARY KEY, name varchar(5) NOT NULL DEFAULT 'none');
CREATE TABLE desks (code uuid PRIMARY KEY, site integer REFERENCES sites, place integer[] DEFAULT '{1}');
ALTER TABLE desks ADD UNIQUE (place) DEFERRABLE INITIALLY DEFERRED;
SELECT uds_map_table('sites', 'sites', 'department', 'id', '{"name": {"template": "{$.title}"}}');
SELECT uds_map_table('desks', 'desks', 'department', 'code', '{"code": "$.desk", "site": "$.uid", "place": "$.place"}');
SELECT name, after, level FROM uds.resources WHERE name IN ('sites', 'desks') ORDER BY level;
SELECT push('department', '[{"uid": 7, "title": "Seven", "desk": "00000000-0000-0000-0000-00000000000A", "place": [1, 2]},
							{"uid": "008", "title": "Eight"}, {"uid": "9", "title": "Twenty"}, {"uid": "x", "title": "X", "desk": "x"}]');
TABLE refused;
TABLE sites ORDER BY id;
TABLE desks;
SELECT resource, uid, resource_pk FROM links WHERE resource IN ('sites', 'desks');
SELECT push('department', '[{"uid": "008", "title": "Eight", "desk": "00000000-0000-0000-0000-00000000000B", "place": [1, 2]}]');
SELECT resource, uid, sqlstate FROM refused;
SELECT push('department', '[{"uid": 7, "isDeleted": true}]');
SELECT resource, pk, action FROM changed;
SELECT push('department', '[{"uid": "008", "title": "Eight", "desk": "00000000-0000-0000-0000-00000000000B", "place": [1, 2]}]');
TABLE sites ORDER BY id;
TABLE desks;
-- a department that is refused has not left anywhere
CREATE TABLE uses (department bigint REFERENCES uds.departments);
INSERT INTO uses SELECT id FROM uds.departments WHERE title = 'Eight';
SELECT push('department', '[{"uid": "008", "isDeleted": true}]');
SELECT resource, uid, sqlstate FROM refused;
TABLE sites ORDER BY id;
-- a table mapped to something else, or to the same again
SELECT uds_map_table('sites', 'sites', 'department', 'id', '{"name": {"const": "all"}}');
SELECT count(*) FROM links WHERE resource = 'sites';
BEGIN;
SELECT uds_map_table('sites', 'sites', 'user', 'id', '{}');
SELECT count(*) FROM links WHERE resource = 'sites';
ROLLBACK;
SELECT uds_drop_resource('desks');
SELECT push('department', '[{"uid": "9", "title": "Twenty"}]');
TABLE changed;
CREATE TABLE places (id integer PRIMARY KEY, name text);
SELECT uds_map_table('sites', 'places', 'department', 'id', '{}');
SELECT count(*) FROM links WHERE resource = 'sites';

--
-- What is not as it was when it was mapped: that one takes no part
--
ALTER TABLE badges DROP COLUMN nick CASCADE;
DROP TABLE places;
SELECT push('user', '[{"uid": "noa", "username": "noa"}]');
SELECT data_type, uid, resource, sqlstate, message FROM refused;
SELECT push('department', '[{"uid": "new", "title": "New"}]');
SELECT data_type, uid, resource, sqlstate, message FROM refused;
SELECT username FROM uds.users WHERE username = 'noa';
SELECT uds_drop_resource('sites');
ALTER TABLE badges ADD COLUMN nick text;
SELECT push('user', '[{"uid": "noa", "username": "noa"}]');
SELECT badge FROM badges WHERE badge = 'noa';

--
-- Rights: of who maps, and of who owns the source
--
CREATE ROLE regress_uds_maps;
CREATE ROLE regress_uds_syncs;
GRANT USAGE ON SCHEMA uds TO regress_uds_syncs;
GRANT SELECT, INSERT, UPDATE, DELETE ON uds.users, uds.departments, uds.department_members TO regress_uds_syncs;
GRANT EXECUTE ON FUNCTION uds_map_table, uds_drop_resource TO regress_uds_maps;
GRANT CREATE ON SCHEMA public TO regress_uds_maps;
SET ROLE regress_uds_maps;
SELECT uds_map_table('theirs', 'badges', 'user', 'badge', '{}');
SELECT uds_drop_resource('badges');
CREATE TABLE mine (id text PRIMARY KEY, who text);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.who := current_user; RETURN NEW; END';
CREATE TRIGGER tell BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION tell();
SELECT uds_map_table('mine', 'mine', 'user', 'id', '{}');
SELECT uds_map_table('badges', 'mine', 'user', 'id', '{}');
RESET ROLE;
SELECT uds_drop_resource('badges');
-- whose triggers would run with rights that their owner has not: not at all
SELECT jsonb_path_query_array(uds_push('{"dataType": "user", "sourceName": "hr", "records": [{"uid": "ida"}]}'), '$.result[*].resource');
SELECT count(*) FROM mine;
SELECT uds_create_source('theirs', 'push') > 0 AS created;
UPDATE uds.source_settings SET owner = 'regress_uds_syncs' WHERE name = 'theirs';
SELECT push('user', '[{"uid": "ida"}]', 'theirs');
SELECT count(*) FROM mine;
GRANT regress_uds_syncs TO regress_uds_maps;
SELECT push('user', '[{"uid": "ida"}]', 'theirs');
SELECT resource, sqlstate, message FROM refused;
GRANT SELECT, INSERT, UPDATE, DELETE ON mine TO regress_uds_syncs;
SELECT push('user', '[{"uid": "ida"}]', 'theirs');
TABLE mine;
\c postgres
DROP DATABASE uds_resources WITH (FORCE);
DROP ROLE regress_uds_maps, regress_uds_syncs;
