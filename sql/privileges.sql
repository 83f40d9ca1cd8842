-- What the roles of doc/security.md may and may not; and that who may operate uds does not become more by it
CREATE DATABASE uds_privileges;
\c uds_privileges
CREATE EXTENSION uds;
\set SHOW_CONTEXT never
\set VERBOSITY terse

--
-- Nothing for PUBLIC
--
WITH members AS
	(SELECT classid, objid FROM pg_depend
	  WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'uds')),
	granted AS
	(SELECT p.oid::regprocedure::text AS object, coalesce(p.proacl, acldefault('f', p.proowner)) AS acl
	   FROM members JOIN pg_proc p ON classid = 'pg_proc'::regclass AND objid = p.oid
	 UNION ALL
	 SELECT c.oid::regclass::text, coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))
	   FROM pg_class c WHERE c.relnamespace = 'uds'::regnamespace AND c.relkind IN ('r', 'v', 'S')
	 UNION ALL
	 SELECT n.nspname, coalesce(n.nspacl, acldefault('n', n.nspowner))
	   FROM members JOIN pg_namespace n ON classid = 'pg_namespace'::regclass AND objid = n.oid)
SELECT count(*) > 50 AS many, count(*) FILTER (WHERE a.grantee = 0) AS public
  FROM granted, aclexplode(acl) AS a;
SELECT count(*) AS security_definer FROM pg_proc
 WHERE prosecdef AND (pronamespace = 'uds'::regnamespace OR proname LIKE 'uds\_%');
CREATE ROLE regress_uds_nobody;
SET ROLE regress_uds_nobody;
SELECT uds_sync('api');
SELECT uds_push('{}');
SELECT count(*) FROM uds.users;
RESET ROLE;

--
-- The roles, as in doc/security.md
--
CREATE ROLE regress_uds_operator;
GRANT USAGE ON SCHEMA uds TO regress_uds_operator;
GRANT EXECUTE ON FUNCTION uds_create_source, uds_alter_source, uds_drop_source, uds_test_source,
	uds_arm, uds_sync, uds_preview, uds_retry, uds_approve, uds_reject, uds_undo, uds_wait, uds_cancel,
	uds_health, uds.progress_rows TO regress_uds_operator;
GRANT SELECT ON uds.sources, uds.tasks, uds.task_errors, uds.changes, uds.raw_log, uds.progress
	TO regress_uds_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON uds.users, uds.departments, uds.department_members
	TO regress_uds_operator;
CREATE ROLE regress_uds_reader;
GRANT USAGE ON SCHEMA uds TO regress_uds_reader;
GRANT SELECT ON uds.users, uds.departments, uds.department_members, uds.department_tree
	TO regress_uds_reader;
CREATE ROLE regress_uds_pusher;
GRANT EXECUTE ON FUNCTION uds_push TO regress_uds_pusher;
CREATE ROLE regress_uds_other;

SELECT uds_create_source('theirs', 'wecom', '{"corpid": "ww1", "secret": "canary", "base_url": "http://127.0.0.1:1"}', enabled => false) > 0 AS created;

-- what an operator may
SET ROLE regress_uds_operator;
SELECT uds_create_source('own', 'push') > 0 AS created;
SELECT uds_create_source('read', 'wecom', '{"corpid": "ww1", "secret": "s", "base_url": "http://127.0.0.1:1"}') > 0 AS created;
SELECT uds_alter_source('own', title => 'Own');
SELECT name, owner, options -> 'secret' AS secret FROM uds.sources ORDER BY name;
BEGIN;
SELECT uds_cancel(uds_sync('read'));
ROLLBACK;
SELECT running >= 0 AS healthy FROM uds_health();
SELECT count(*) >= 0 AS progress FROM uds.progress;
SELECT uds_drop_source('read');
-- and may not
SELECT uds_alter_source('theirs', options => '{"base_url": "http://127.0.0.1:2"}');
SELECT uds_drop_source('theirs');
SELECT uds_create_source('env', 'wecom', '{"corpid": "ww1", "secret": {"$env": "PATH"}}');
SELECT uds_create_source('file', 'wecom', '{"corpid": "ww1", "secret": {"$file": "/etc/passwd"}}');
SELECT uds_push('{"dataType": "user", "records": [{"uid": "a"}]}');
SELECT value FROM uds.source_secrets;
SELECT token FROM uds.source_tokens;
UPDATE uds.source_settings SET owner = 'regress_uds_operator';
INSERT INTO uds.source_types (name, manifest) VALUES ('mine', '{}');
UPDATE uds.source_types SET manifest = '{}';
UPDATE uds.resources SET apply = 'pg_sleep(double precision)';
INSERT INTO uds.tasks (source_id, kind, mode, requested_by) VALUES (1, 'sync', 'full', 'x');
SELECT uds.map_page('[]', '{}', '{}');
SELECT uds_register_resource('mine', '{user}', 'pg_sleep(double precision)');
SELECT uds_map_table('mine', 'pg_authid', 'user', 'rolname', '{}');
SET uds.allowed_hosts = '*';
ALTER EXTENSION uds DROP TABLE uds.users;

-- what a reader may, and may not
SET ROLE regress_uds_reader;
SELECT count(*) FROM uds.users;
SELECT count(*) FROM uds.department_tree;
SELECT count(*) FROM uds.records;
SELECT count(*) FROM uds.sources;
SELECT count(*) FROM uds.raw_log;
UPDATE uds.users SET enabled = false;
SELECT uds_sync('read');

-- what a pusher may, and may not; the rows are written with the rights of the source's owner
SET ROLE regress_uds_pusher;
SELECT uds_push('{"dataType": "user", "records": [{"uid": "p", "username": "pushed"}]}') ->> 'message' AS message;
SELECT uds_push('{"dataType": "user", "sourceName": "own", "records": [{"uid": "p", "username": "pushed too"}]}') ->> 'message' AS message;
SELECT count(*) FROM uds.users;
SELECT uds_create_source('mine', 'push');
RESET ROLE;
SELECT username FROM uds.users ORDER BY username;
REVOKE INSERT ON uds.users FROM regress_uds_operator;
SET ROLE regress_uds_pusher;
SELECT uds_push('{"dataType": "user", "sourceName": "own", "records": [{"uid": "q", "username": "q"}]}');
RESET ROLE;
GRANT INSERT ON uds.users TO regress_uds_operator;

--
-- An operator who is out for more.  Every trap notes as whom it was sprung.
--
CREATE SCHEMA trap AUTHORIZATION regress_uds_operator;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
SET ROLE regress_uds_operator;
CREATE TABLE trap.sprung (what text, role name);
GRANT INSERT ON trap.sprung TO PUBLIC;
CREATE FUNCTION trap.note(what text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO trap.sprung VALUES (what, current_user);
	RETURN true;
END $$;
CREATE FUNCTION trap.on_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM trap.note('trigger');
	RETURN NEW;
END $$;

-- a trigger or a rule on what others write, a column of theirs
CREATE TRIGGER trap BEFORE INSERT ON uds.users FOR EACH ROW EXECUTE FUNCTION trap.on_row();
CREATE RULE trap AS ON INSERT TO uds.users DO ALSO SELECT trap.note('rule');
ALTER TABLE uds.users ADD COLUMN trap boolean DEFAULT trap.note('default');
CREATE INDEX ON uds.users ((trap.note(username)));
CREATE POLICY trap ON uds.users USING (trap.note('policy'));

-- functions and operators found first
CREATE FUNCTION trap.same(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT trap.note('operator') $$;
CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.same);
CREATE OPERATOR trap.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.same);
CREATE FUNCTION trap.has(jsonb, text) RETURNS boolean LANGUAGE sql AS $$ SELECT trap.note('operator of jsonb') $$;
CREATE OPERATOR trap.? (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = trap.has);
CREATE FUNCTION trap.jsonb_typeof(jsonb) RETURNS text LANGUAGE sql AS $$ SELECT trap.note('function')::text $$;
CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT clock_timestamp() WHERE trap.note('function without arguments') $$;
SET search_path = trap, pg_catalog, public;
SELECT 'a'::text = 'b'::text AS taken;
SELECT what, role FROM trap.sprung;
DELETE FROM trap.sprung;
SELECT uds_create_source('lured', 'push', match_keys => '{email}') > 0 AS created;
SELECT uds_alter_source('lured', title => 'Lured');
SELECT running >= 0 AS healthy FROM uds_health();
SELECT count(*) > 0 AS listed FROM uds.sources;
SELECT count(*) AS in_progress FROM uds.progress;
SELECT uds_drop_source('lured', keep_data => false);
RESET ROLE;
SELECT uds_push('{"dataType": "user", "records": [{"uid": "o", "username": "o", "email": "o@example.com"}]}') ->> 'message' AS message;
SELECT what, role FROM trap.sprung;
RESET search_path;

-- relations of the session under the names of those that a task works with
GRANT EXECUTE ON FUNCTION uds_push TO regress_uds_operator;
\c
SET ROLE regress_uds_operator;
CREATE TEMP TABLE uds_work (pk bigint DEFAULT trap.note('stage')::int);
CREATE TEMP TABLE uds_desired (pk bigint CHECK (trap.note('stage')));
CREATE TRIGGER trap BEFORE INSERT ON uds_work FOR EACH ROW EXECUTE FUNCTION trap.on_row();
SELECT uds_push('{"dataType": "user", "records": [{"uid": "t", "username": "t"}]}');
RESET ROLE;
SELECT what, role FROM trap.sprung;
\c
REVOKE EXECUTE ON FUNCTION uds_push FROM regress_uds_operator;

-- a table of the operator's, with whatever code a table can have, and a function.  They get
-- records of the operator's sources, with the operator's rights, and of nobody else's.
GRANT EXECUTE ON FUNCTION uds_register_resource, uds_map_table TO regress_uds_operator;
SET ROLE regress_uds_operator;
CREATE DOMAIN trap.word AS text CHECK (trap.note('domain'));
CREATE TYPE trap.pair AS (a trap.word);
CREATE FUNCTION trap.to_pair(text) RETURNS trap.pair LANGUAGE sql AS $$ SELECT ROW($1)::trap.pair WHERE trap.note('cast') $$;
CREATE CAST (text AS trap.pair) WITH FUNCTION trap.to_pair(text) AS ASSIGNMENT;
CREATE TABLE trap.people
(
	id		text PRIMARY KEY,
	word	trap.word,
	pair	trap.pair,
	stated	boolean DEFAULT trap.note('default'),
	CHECK (trap.note('check'))
);
CREATE TRIGGER trap BEFORE INSERT ON trap.people FOR EACH ROW EXECUTE FUNCTION trap.on_row();
CREATE FUNCTION trap.take(task bigint)
RETURNS TABLE (uid text, pk text, action text, before jsonb, after jsonb)
LANGUAGE sql VOLATILE AS $$ SELECT NULL, NULL, NULL, NULL::jsonb, NULL::jsonb WHERE NOT trap.note('registered function') $$;
SELECT uds_map_table('people', 'trap.people', 'user', 'id', '{"word": "$.username", "pair": "$.pair"}');
SELECT uds_register_resource('take', '{user}', 'trap.take(bigint)');
RESET ROLE;
SELECT count(*) FROM uds.resources WHERE NOT builtin;
SELECT uds_push('{"dataType": "user", "records": [{"uid": "d", "username": "d"}]}') ->> 'message' AS message;
SELECT DISTINCT what, role FROM trap.sprung;
SELECT uds_push('{"dataType": "user", "sourceName": "own", "records": [{"uid": "e", "username": "e", "pair": {"a": "e"}}]}') ->> 'message' AS message;
SELECT id, word, pair, stated FROM trap.people;
SELECT DISTINCT role FROM trap.sprung;
SELECT DISTINCT what FROM trap.sprung ORDER BY what;

--
-- Who is given TRIGGER is given the rights of the owners of all sources.  A source that has
-- an owner with few rights gives away only those.
--
DELETE FROM trap.sprung;
GRANT TRIGGER ON uds.users TO regress_uds_operator;
SET ROLE regress_uds_operator;
CREATE TRIGGER trap BEFORE INSERT ON uds.users FOR EACH ROW EXECUTE FUNCTION trap.on_row();
RESET ROLE;
GRANT USAGE ON SCHEMA uds TO regress_uds_other;
GRANT SELECT, INSERT, UPDATE, DELETE ON uds.users, uds.departments, uds.department_members TO regress_uds_other;
UPDATE uds.source_settings SET owner = 'regress_uds_other' WHERE name = 'api';
SELECT uds_push('{"dataType": "user", "records": [{"uid": "f", "username": "f"}]}') ->> 'message' AS message;
SELECT DISTINCT role FROM trap.sprung;

\c postgres
DROP DATABASE uds_privileges WITH (FORCE);
DROP ROLE regress_uds_nobody, regress_uds_operator, regress_uds_reader, regress_uds_pusher, regress_uds_other;
