-- Functions that are called with the changed records; and what mapped tables
-- and functions make of a full read, of what is not to be applied, and of an
-- undo
CREATE DATABASE uds_functions;
\c uds_functions
\set SHOW_CONTEXT never
\pset null -
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE EXTENSION uds;
CREATE FUNCTION push(type text, records jsonb, source text DEFAULT 'hr') RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM uds_push(jsonb_build_object('dataType', type, 'records', records, 'sourceName', source));
	RETURN (SELECT message FROM uds.tasks ORDER BY id DESC LIMIT 1);
END $$;
CREATE FUNCTION last_task() RETURNS bigint LANGUAGE sql AS 'SELECT max(id) FROM uds.tasks';
CREATE VIEW changed AS
SELECT resource, pk, uid, action, before, after, applied FROM uds.changes
WHERE task_id = last_task() AND resource NOT IN ('users', 'departments', 'members')
ORDER BY resource, pk COLLATE "C";
CREATE VIEW refused AS
SELECT data_type, uid, resource, sqlstate, message FROM uds.task_errors
WHERE task_id = last_task() ORDER BY uid, resource;
CREATE VIEW links AS
SELECT l.resource, r.uid, l.resource_pk, l.created
FROM uds.record_resources l JOIN uds.records r ON r.id = l.record_id
WHERE l.resource NOT IN ('users', 'departments') ORDER BY 1, 2;
SELECT uds_create_source('hr', 'push') > 0 AS created;
SELECT push('user', '[{"uid": "old", "size": "S"}]');

--
-- A function that keeps a table of its own: whoever has a size gets a locker
--
CREATE TABLE lockers (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, person text, size text CHECK (size <> 'XXL'));
CREATE TABLE calls (task bigint, n integer, deleted integer);
CREATE FUNCTION lockers(task bigint)
RETURNS TABLE (uid text, pk text, action text, before jsonb, after jsonb)
LANGUAGE plpgsql SET search_path = public AS $$
#variable_conflict use_column
BEGIN
	INSERT INTO calls SELECT lockers.task, count(*), count(*) FILTER (WHERE deleted) FROM uds_task_records(lockers.task);
	IF EXISTS (SELECT FROM uds_task_records(lockers.task) AS r WHERE r.data ->> 'size' = 'huge') THEN
		RAISE EXCEPTION 'no locker is that large';
	END IF;
	RETURN QUERY
	WITH gone AS
	(
		DELETE FROM lockers l USING uds_task_records(lockers.task) AS r
		WHERE l.id = r.pk::integer AND r.deleted
		RETURNING r.uid, l.id::text, 'delete', to_jsonb(l), NULL::jsonb
	),
	kept AS
	(
		UPDATE lockers l SET size = r.data ->> 'size'
		FROM uds_task_records(lockers.task) AS r
		WHERE l.id = r.pk::integer AND NOT r.deleted AND l.size IS DISTINCT FROM r.data ->> 'size'
		RETURNING r.uid, l.id::text, 'update', jsonb_build_object('size', r.before -> 'size'), jsonb_build_object('size', l.size)
	),
	made AS
	(
		INSERT INTO lockers (person, size)
		SELECT r.uid, r.data ->> 'size' FROM uds_task_records(lockers.task) AS r
		WHERE r.pk IS NULL AND NOT r.deleted AND r.data ? 'size' ORDER BY r.uid
		RETURNING person, id::text, 'create', NULL::jsonb, jsonb_build_object('person', person, 'size', size)
	)
	TABLE gone UNION ALL TABLE kept UNION ALL TABLE made;
END $$;
SELECT uds_register_resource('lockers', '{user}', 'lockers(bigint)');
SELECT name, accepts, target, apply, after, level FROM uds.resources WHERE NOT builtin;
SELECT jsonb_path_query_array(uds_push('{"dataType": "user", "sourceName": "hr", "records": [{"uid": "ann", "size": "M"},
	{"uid": "bob"}, {"uid": "cid", "size": "L", "email": "cid@x"}]}'), '$.result[*].resource');
TABLE changed;
TABLE links;
TABLE lockers;
-- the same again: only who has no link is shown
SELECT push('user', '[{"uid": "ann", "size": "M"}, {"uid": "bob"}, {"uid": "cid", "size": "L", "email": "cid@x"}]');
SELECT n, deleted FROM calls ORDER BY task DESC LIMIT 1;
TABLE changed;
SELECT push('user', '[{"uid": "ann", "size": "S"}, {"uid": "old", "isDeleted": true}, {"uid": "cid", "isDeleted": true}]');
SELECT n, deleted FROM calls ORDER BY task DESC LIMIT 1;
TABLE changed;
TABLE links;
-- not for departments
SELECT push('department', '[{"uid": "d", "title": "D"}]');
SELECT count(*) FROM calls WHERE task = last_task();

--
-- Errors: of a record, of what is returned, of the whole
--
SELECT push('user', '[{"uid": "ann", "size": "huge"}, {"uid": "dan", "size": "M"}, {"uid": "eve", "size": "XXL"}]');
TABLE refused;
TABLE changed;
SELECT nickname, email FROM uds.users WHERE email = 'cid@x';
-- it gets them again, changed or not
SELECT push('user', '[{"uid": "ann", "size": "huge"}, {"uid": "eve", "size": "XL"}]');
TABLE refused;
TABLE changed;
SELECT push('user', (SELECT jsonb_agg(jsonb_build_object('uid', 'n' || i, 'size', CASE WHEN i % 700 = 0 THEN 'huge' ELSE 'S' END))
					 FROM generate_series(1, 2000) AS i));
TABLE refused;
SELECT count(*) FROM lockers WHERE person LIKE 'n%';
-- one source that says nothing sensible
CREATE FUNCTION wrong(task bigint) RETURNS TABLE (uid text, pk text, action text, before jsonb, after jsonb)
LANGUAGE sql SET search_path = public AS $$
	SELECT CASE r.uid WHEN 'p' THEN 'q' ELSE r.uid END, NULL, CASE r.uid WHEN 'r' THEN 'vanish' END, NULL::jsonb, NULL::jsonb
	FROM uds_task_records(task) AS r $$;
SELECT uds_register_resource('wrong', '{user,department}', 'wrong(bigint)', '{lockers}');
SELECT name, after, level FROM uds.resources WHERE NOT builtin ORDER BY level;
SELECT uds_register_resource('lockers', '{user}', 'lockers(bigint)', '{wrong}');
SELECT uds_drop_resource('lockers');
SELECT push('user', '[{"uid": "p"}, {"uid": "r"}, {"uid": "s"}]');
TABLE refused;
SELECT push('department', '[{"uid": "p", "title": "P"}]');
TABLE refused;
DROP FUNCTION wrong;
SELECT push('user', '[{"uid": "t"}]');
TABLE refused;
SELECT uds_drop_resource('wrong');
SELECT count(*) FROM uds.unapplied_records WHERE resource = 'wrong';

--
-- Undo: of mapped rows, and of what a function did
--
CREATE TABLE badges (badge text PRIMARY KEY, nick text, mail text UNIQUE, floor date, note text, enabled boolean NOT NULL DEFAULT true);
SELECT uds_map_table('badges', 'badges', 'user', 'badge',
	'{"badge": {"coalesce": ["$.badge", "$.uid"]}, "nick": "$.nickname", "mail": "$.email", "floor": "$.since", "enabled": "$.enabled"}');
SELECT push('user', '[{"uid": "uma", "nickname": "Uma", "size": "M", "since": "2024-02-01"}, {"uid": "vic", "nickname": "Vic"}]');
SELECT last_task() AS made \gset
SELECT push('user', '[{"uid": "uma", "nickname": "Uma2", "size": "L", "badge": "B1"}, {"uid": "vic", "isDeleted": true}, {"uid": "wim", "nickname": "Wim"}]');
SELECT last_task() AS altered \gset
TABLE changed;
SELECT person, size FROM lockers WHERE person = 'uma';
UPDATE badges SET note = 'mine' WHERE badge = 'B1';
SELECT uds_undo(:altered, wait => true) AS undo \gset
SELECT status, message FROM uds.tasks WHERE id = :undo;
TABLE changed;
SELECT * FROM badges ORDER BY badge;
SELECT person, size FROM lockers WHERE person = 'uma';
SELECT * FROM links WHERE uid IN ('uma', 'vic', 'wim');
-- the undo undone
SELECT uds_undo(:undo, wait => true) AS redo \gset
SELECT status, message FROM uds.tasks WHERE id = :redo;
SELECT * FROM badges ORDER BY badge;
SELECT person, size FROM lockers WHERE person = 'uma';
SELECT * FROM links WHERE uid IN ('uma', 'vic', 'wim');
-- and again; what was changed since is left alone
SELECT uds_undo(:redo, wait => true) > 0 AS undone;
UPDATE badges SET nick = 'by hand' WHERE badge = 'uma';
INSERT INTO badges (badge) VALUES ('xyz');
SELECT uds_undo(:made, wait => true) AS undo \gset
SELECT status, message FROM uds.tasks WHERE id = :undo;
TABLE refused;
SELECT * FROM badges ORDER BY badge;
SELECT person, size FROM lockers WHERE person = 'uma';
-- not mapped any more
SELECT push('user', '[{"uid": "yan", "nickname": "Yan"}]');
SELECT last_task() AS made \gset
SELECT uds_drop_resource('badges');
SELECT uds_undo(:made, wait => true) AS undo \gset
TABLE refused;
DELETE FROM badges;

--
-- A full read, from pages that are there: what is mapped later gets all,
-- unchanged or not; blocked, nothing is written
--
INSERT INTO uds.source_types (name, title, manifest)
VALUES ('paged', 'Paged', '{"streams": {"people": {"type": "user", "records": "$.list[*]",
	"fields": {"uid": "$.id", "nickname": "$.name", "since": "$.since"}}}}');
INSERT INTO uds.source_settings (name, type, owner) VALUES ('pages', 'paged', current_user);
CREATE FUNCTION read(page text) RETURNS bigint LANGUAGE sql AS $$
	WITH task AS
	(
		INSERT INTO uds.tasks (source_id, kind, status, attempt, requested_by, complete, streams)
		SELECT id, 'sync', 'blocked', 1, 'me', true, '{people}' FROM uds.source_settings WHERE name = 'pages'
		RETURNING id
	)
	INSERT INTO uds.raw_log (task_id, seq, attempt, stream, request, status, bytes, usable, body)
	SELECT id, 1, 1, 'people', 'GET /', 200, 1, true, page FROM task RETURNING task_id
$$;
-- approves what came of it, once it is shown
CREATE PROCEDURE apply(task bigint) LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		PERFORM uds_approve(task, wait => true);
	EXCEPTION WHEN external_routine_exception THEN
		RAISE NOTICE 'blocked';
	END;
	COMMIT;
	IF (SELECT status FROM uds.tasks ORDER BY id DESC LIMIT 1) = 'blocked' THEN
		PERFORM uds_approve((SELECT max(id) FROM uds.tasks), wait => true);
	END IF;
END $$;
SELECT read('{"list": [{"id": 1, "name": "One"}, {"id": 2, "name": "Two", "since": "2024-01-01"}, {"id": 3, "name": "Three"}]}') AS task \gset
CALL apply(:task);
SELECT status, created FROM uds.tasks WHERE id = last_task();
SELECT uds_map_table('badges', 'badges', 'user', 'badge', '{"nick": "$.nickname", "floor": "$.since", "enabled": "$.enabled"}');
SELECT read('{"list": [{"id": 1, "name": "One"}, {"id": 2, "name": "Two", "since": "2024-01-01"}, {"id": 3, "name": "Three", "since": "x"}]}') AS task \gset
\set VERBOSITY sqlstate
SELECT uds_approve(:task, wait => true);
\set VERBOSITY default
SELECT status FROM uds.tasks WHERE id = last_task();
TABLE changed;
TABLE refused;
SELECT count(*) FROM badges;
SELECT count(*) FROM links WHERE resource = 'badges';
SELECT uds_approve(last_task(), wait => true) > 0 AS applied;
SELECT status, message FROM uds.tasks WHERE id = last_task();
SELECT badge, nick, floor, enabled FROM badges ORDER BY badge;
SELECT last_task() AS filled \gset
-- what it filled goes again, although the records have not changed
SELECT uds_undo(:filled, wait => true) AS undo \gset
TABLE changed;
SELECT count(*) FROM badges;
SELECT count(*) FROM links WHERE resource = 'badges';
SELECT uds_undo(:undo, wait => true) > 0 AS redone;
SELECT badge, nick, floor, enabled FROM badges ORDER BY badge;
SELECT * FROM links WHERE resource = 'badges';
-- once more: nothing to do
SELECT read('{"list": [{"id": 1, "name": "One"}, {"id": 2, "name": "Two", "since": "2024-01-01"}, {"id": 3, "name": "Three"}]}') AS task \gset
CALL apply(:task);
TABLE changed;
SELECT read('{"list": [{"id": 1, "name": "One"}, {"id": 2, "name": "Two", "since": "2024-01-01"}, {"id": 3, "name": "Three"}]}') AS task \gset
CALL apply(:task);
TABLE changed;
-- absent: on_missing is disable
SELECT read('{"list": [{"id": 1, "name": "One"}]}') AS task \gset
CALL apply(:task);
SELECT resource, pk, uid, action, before, after FROM changed;
UPDATE uds.source_settings SET on_missing = 'delete' WHERE name = 'pages';
SELECT read('{"list": [{"id": 2, "name": "Two"}]}') AS task \gset
CALL apply(:task);
SELECT resource, pk, uid, action, before, after FROM changed;
SELECT uds_undo(last_task(), wait => true) > 0 AS undone;
SELECT badge, nick, enabled FROM badges ORDER BY badge;

--
-- A task within a task: it would take the stage away
--
CREATE FUNCTION pushes(task bigint) RETURNS TABLE (uid text, pk text, action text, before jsonb, after jsonb)
LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
	PERFORM uds_push('{"dataType": "user", "sourceName": "hr", "records": [{"uid": "within"}]}');
END $$;
SELECT uds_register_resource('pushes', '{user}', 'pushes(bigint)');
SELECT read('{"list": [{"id": 8, "name": "Eight"}, {"id": 9, "name": "Nine"}]}') AS task \gset
CALL apply(:task);
SELECT status, message FROM uds.tasks WHERE id = last_task();
\set VERBOSITY terse
SELECT push('user', '[{"uid": "outside"}]');
SELECT uds_drop_resource('pushes');
SELECT push('user', '[{"uid": "outside"}]');
\c postgres
DROP DATABASE uds_functions WITH (FORCE);
