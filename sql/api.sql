-- The SQL interface as far as it needs no network: sources, arguments,
-- permissions, and what the extension leaves behind
CREATE DATABASE uds_api;
\c uds_api
\set SHOW_CONTEXT never
CREATE SCHEMA "Tools";
CREATE EXTENSION uds SCHEMA "Tools";

-- functions are where they were asked for, everything else is in schema uds
SELECT p.proname, pg_get_function_identity_arguments(p.oid) AS arguments,
	   pg_get_function_result(p.oid) AS result
FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'uds')
WHERE p.pronamespace = '"Tools"'::regnamespace
ORDER BY p.proname COLLATE "C";
SELECT DISTINCT c.relnamespace::regnamespace
FROM pg_class c
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'uds');
SET search_path = "Tools";
SET timezone = 'UTC';

-- what is there from the start
SELECT name, title, builtin, manifest IS NOT NULL AS manifest, pull
FROM uds.source_types WHERE name IN ('push', 'wecom') ORDER BY name;
SELECT name, type, enabled, options FROM uds.sources;

--
-- Creating a source: what is wrong is told, and nothing is stored
--
SELECT uds_create_source('wecom', 'wecom', '{"corpid": "ww1"}');
SELECT uds_create_source('wecom', 'wecom', '{"corpid": "ww1", "secret": null}');
SELECT uds_create_source('wecom', 'wecom', '{"corpid": "ww1", "secret": "s", "corp_id": "ww1"}');
SELECT uds_create_source('wecom', 'wecom', '{"corpid": ["ww1"], "secret": "s"}');
SELECT uds_create_source('wecom', 'wecom', '["corpid"]');
SELECT uds_create_source('wecom', 'wecom', '{"corpid": "ww1", "secret": "********"}');
SELECT uds_create_source('wecom', 'wecome', '{}');
SELECT uds_create_source('feed', 'push', '{"corpid": "ww1"}');
SELECT uds_create_source('1st', 'push');
SELECT uds_create_source('', 'push');
SELECT uds_create_source('a b', 'push');
SELECT uds_create_source(repeat('a', 64), 'push');
SELECT uds_create_source(NULL, 'push');
SELECT uds_create_source('feed', NULL);
SELECT uds_create_source('api', 'push');
SELECT uds_create_source('feed', 'push', on_deleted => 'drop');
SELECT uds_create_source('feed', 'push', on_missing => 'Disable');
SELECT uds_create_source('feed', 'push', match_keys => '{email,nickname}');
SELECT uds_create_source('feed', 'push', match_keys => '{email,NULL}');
SELECT uds_create_source('feed', 'push', columns => '{nickname,salary}');
SELECT uds_create_source('feed', 'push', columns => '{protected}');
SELECT uds_create_source('feed', 'push', columns => '{nickname,*}');
SELECT uds_create_source('feed', 'push', guard_percent => 101);
SELECT uds_create_source('feed', 'push', guard_percent => -1);
SELECT uds_create_source('feed', 'push', guard_percent => 'NaN');
SELECT uds_create_source('feed', 'push', guard_min => -1);
SELECT count(*) AS stored FROM uds.sources WHERE name <> 'api';
SELECT count(*) AS stored FROM uds.source_secrets;

-- defaults, and everything given
SELECT uds_create_source('wecom', 'wecom', '{"corpid": "ww1", "secret": "s3cret", "base_url": "http://127.0.0.1:1"}') > 0 AS created;
SELECT uds_create_source('hr.feed-2', 'push', '{}', 'People', false,
						 '{username,email,phone}', 'keep', 'delete', 12.5, 3, -7,
						 '{nickname,sort,enabled}') > 0 AS created;
SELECT name, type, title, enabled, options, owner = current_user AS mine, sync_state
FROM uds.sources WHERE name <> 'api' ORDER BY id;
SELECT name, jsonb_pretty(policies) AS policies
FROM uds.sources WHERE name <> 'api' ORDER BY id;
SELECT uds_create_source('wecom', 'push');

-- the secret is kept apart, and nothing that applications read shows it
SELECT options ? 'secret' AS secret FROM uds.source_settings WHERE name = 'wecom';
SELECT name, value FROM uds.source_secrets;
SELECT count(*) AS shows_the_secret FROM uds.sources s WHERE s::text LIKE '%s3cret%';

-- a reference is no secret
SELECT uds_create_source('by_env', 'wecom', '{"corpid": "ww1", "secret": {"$env": "WECOM_SECRET"}}') > 0 AS created;
SELECT uds_create_source('by_file', 'wecom', '{"corpid": "ww1", "secret": {"$file": "/etc/wecom"}}') > 0 AS created;
SELECT uds_create_source('by_both', 'wecom', '{"corpid": "ww1", "secret": {"$env": 1}}');
SELECT name, options FROM uds.sources WHERE name LIKE 'by%' ORDER BY name;

--
-- Altering
--
-- options are merged key by key, null removes, what was redacted stays
SELECT uds_alter_source('wecom', options => '{"corpid": "ww2"}');
SELECT options FROM uds.sources WHERE name = 'wecom';
SELECT uds_alter_source('wecom', options => '{"base_url": null}');
SELECT options FROM uds.sources WHERE name = 'wecom';
SELECT uds_alter_source('wecom', options => (SELECT options FROM uds.sources WHERE name = 'wecom'));
SELECT x.name, x.value FROM uds.source_secrets x JOIN uds.sources s ON s.id = x.source_id WHERE s.name = 'wecom';
SELECT uds_alter_source('wecom', options => '{"secret": "new one"}');
SELECT x.name, x.value FROM uds.source_secrets x JOIN uds.sources s ON s.id = x.source_id WHERE s.name = 'wecom';

-- a secret that becomes a reference is kept no longer, and the other way round
SELECT uds_alter_source('wecom', options => '{"secret": {"$env": "WECOM_SECRET"}}');
SELECT options, (SELECT count(*) FROM uds.source_secrets) AS secrets FROM uds.sources WHERE name = 'wecom';
SELECT uds_alter_source('wecom', options => '{"secret": "s3cret"}');
SELECT options, (SELECT count(*) FROM uds.source_secrets) AS secrets FROM uds.sources WHERE name = 'wecom';

-- the rest: NULL leaves, a value sets
SELECT uds_alter_source('wecom');
SELECT uds_alter_source('wecom', title => 'WeCom of Bluebird', enabled => false, match_keys => '{email}',
						on_deleted => 'disable', on_missing => 'keep', guard_percent => 0, guard_min => 0,
						priority => 1, columns => '{email}');
SELECT title, enabled, match_keys, on_deleted, on_missing, guard_percent, guard_min, priority, columns
FROM uds.sources WHERE name = 'wecom';
SELECT uds_alter_source('wecom', columns => '{*}');
SELECT title, enabled, match_keys, on_deleted, on_missing, guard_percent, guard_min, priority, columns
FROM uds.sources WHERE name = 'wecom';

-- errors leave everything as it was
SELECT uds_alter_source('wecom', title => 'changed', options => '{"secret": null}');
SELECT uds_alter_source('wecom', title => 'changed', options => '{"nosuch": 1}');
SELECT uds_alter_source('wecom', title => 'changed', options => '"text"');
SELECT uds_alter_source('wecom', title => 'changed', options => '{"base_url": "********"}');
SELECT uds_alter_source('wecom', title => 'changed', on_missing => 'forget');
SELECT uds_alter_source('wecom', title => 'changed', match_keys => '{id}');
SELECT uds_alter_source('wecom', title => 'changed', columns => '{id}');
SELECT uds_alter_source('wecom', title => 'changed', guard_min => -5);
SELECT uds_alter_source('wecom', title => 'changed', type => 'nosuch');
SELECT uds_alter_source('wecom', title => 'changed', type => 'push');
SELECT uds_alter_source('nosuch', title => 'changed');
SELECT uds_alter_source(NULL, title => 'changed');
SELECT type, title, options FROM uds.sources WHERE name = 'wecom';

--
-- Queueing
--
SELECT uds_sync('nosuch');
SELECT uds_sync(NULL);
SELECT uds_sync('wecom');
SELECT uds_sync('wecom', wait => true);
SELECT uds_sync('api');
SELECT uds_sync('wecom', mode => 'fast');
SELECT uds_test_source('nosuch');
SELECT uds_test_source('api');
SELECT uds_test_source(NULL);
SELECT uds_wait(123456);
SELECT uds_wait(NULL);
SELECT uds_cancel(123456);
SELECT uds_cancel(NULL);
SELECT uds_retry(123456);
SELECT uds_retry(NULL);
SELECT count(*) AS tasks FROM uds.tasks;

-- one that is never begun, for its transaction does not commit
SELECT uds_alter_source('wecom', enabled => true);
BEGIN;
SELECT uds_sync('wecom') AS task \gset
SELECT kind, mode, status, force, attempt, requested_by = current_user AS mine,
	   batch ~ '^\d{20}$' AS batch, source_id = (SELECT id FROM uds.sources WHERE name = 'wecom') AS source
FROM uds.tasks WHERE id = :task;
SELECT uds_sync('wecom', mode => 'full', force => true) = :task AS the_same;
SELECT mode, force FROM uds.tasks;
SELECT uds_sync('wecom', mode => 'incremental') = :task AS the_same;
SELECT mode, force FROM uds.tasks;
SAVEPOINT before;
SELECT uds_wait(:task) IS NULL AS got_here;
ROLLBACK TO before;
SELECT uds_sync('wecom', wait => true) IS NULL AS got_here;
ROLLBACK TO before;
SELECT uds_retry(:task) IS NULL AS got_here;
ROLLBACK TO before;
SELECT uds_cancel(:task), uds_cancel(:task) AS again;
SELECT status, message, finished_at IS NOT NULL AS finished FROM uds.tasks;
SELECT uds_wait(:task);
ROLLBACK;
SELECT count(*) AS tasks FROM uds.tasks;

-- which kinds and which ends can be retried
INSERT INTO uds.tasks (source_id, kind, mode, force, status, requested_by)
SELECT s.id, k, 'full', true, t, 'x'
FROM uds.sources s, unnest(ARRAY['sync', 'preview', 'event', 'approve', 'undo']) AS k,
	 unnest(ARRAY['success', 'partial', 'failed', 'blocked', 'canceled']) AS t
WHERE s.name = 'wecom';
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate || ': ' || regexp_replace(sqlerrm, '\d+', 'N', 'g');
END $$;
BEGIN;
SELECT kind, status, pg_temp.try(format('SELECT uds_retry(%s)', id))
FROM uds.tasks WHERE status = 'failed' OR kind = 'sync' ORDER BY kind, status;
SELECT r.kind, r.mode, r.force, r.status, o.status AS of
FROM uds.tasks r JOIN uds.tasks o ON o.id = r.retry_of ORDER BY r.kind, o.status;
ROLLBACK;
DELETE FROM uds.tasks;

-- nobody runs anything here
SELECT launcher_pid IS NOT NULL AS launcher, queued, running, oldest_queued, last_error FROM uds_health();
SELECT count(*) AS running FROM uds.progress;

--
-- Dropping
--
INSERT INTO uds.departments (id, title) VALUES (1, 'by the source'), (2, 'by hand');
INSERT INTO uds.users (id, username) VALUES (1, 'by the source'), (2, 'by hand'), (3, 'by two sources');
INSERT INTO uds.records (source_id, data_type, uid, uid_key, data)
SELECT s.id, r.data_type, r.uid, r.uid, '{}'
FROM uds.sources s
JOIN (VALUES ('wecom', 'department', 'd1'), ('wecom', 'user', 'u1'), ('wecom', 'user', 'u2'),
			 ('wecom', 'user', 'u3'), ('hr.feed-2', 'user', 'u3')) AS r (source, data_type, uid) ON r.source = s.name;
INSERT INTO uds.record_resources (record_id, resource, resource_pk, created)
SELECT id, data_type || 's', right(uid, 1), uid <> 'u2' FROM uds.records;
INSERT INTO uds.department_members (department_id, user_id, source_id)
SELECT d, u, (SELECT id FROM uds.sources WHERE name = 'wecom')
FROM (VALUES (1, 1), (2, 2), (2, 3)) AS m (d, u);
BEGIN;
SELECT uds_sync('wecom') > 0 AS queued;
SELECT uds_drop_source('wecom', keep_data => false);
SELECT username FROM uds.users ORDER BY id;
SELECT title FROM uds.departments ORDER BY id;
SELECT * FROM uds.department_members ORDER BY user_id;
SELECT count(*) AS records FROM uds.records;
SELECT source_id, status, message, finished_at IS NOT NULL AS finished FROM uds.tasks;
SELECT count(*) AS secrets FROM uds.source_secrets;
ROLLBACK;
SELECT uds_drop_source('wecom');
SELECT username FROM uds.users ORDER BY id;
SELECT title FROM uds.departments ORDER BY id;
SELECT * FROM uds.department_members ORDER BY user_id;
SELECT count(*) AS records FROM uds.records;
SELECT uds_drop_source('wecom');
SELECT uds_drop_source(NULL);
SELECT name FROM uds.sources ORDER BY name;

--
-- Permissions: who was granted nothing can do nothing
--
CREATE ROLE regress_uds_nobody;
GRANT USAGE ON SCHEMA "Tools" TO regress_uds_nobody;
SET ROLE regress_uds_nobody;
SELECT uds_create_source('x', 'push');
SELECT uds_sync('api');
SELECT count(*) FROM uds.users;
RESET ROLE;
GRANT USAGE ON SCHEMA uds TO regress_uds_nobody;
SELECT p.oid::regprocedure AS may_call
FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'uds')
WHERE has_function_privilege('regress_uds_nobody', p.oid, 'EXECUTE');
SELECT c.oid::regclass AS may_touch
FROM pg_class c
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'uds')
WHERE CASE c.relkind
		WHEN 'S' THEN has_sequence_privilege('regress_uds_nobody', c.oid, 'USAGE, SELECT, UPDATE')
		ELSE has_table_privilege('regress_uds_nobody', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
			OR has_any_column_privilege('regress_uds_nobody', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES') END;

-- who may call the functions needs no right on the tables, and owns what he creates
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA "Tools" TO regress_uds_nobody;
CREATE ROLE regress_uds_other;
GRANT USAGE ON SCHEMA "Tools" TO regress_uds_other;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA "Tools" TO regress_uds_other;
SET ROLE regress_uds_nobody;
SELECT uds_create_source('mine', 'wecom', '{"corpid": "ww1", "secret": {"$file": "/etc/passwd"}}');
SELECT uds_create_source('mine', 'wecom', '{"corpid": "ww1", "secret": "s", "ca_file": "/etc/passwd"}');
SELECT uds_create_source('mine', 'wecom', '{"corpid": "ww1", "secret": "s"}') > 0 AS created;
SELECT uds_alter_source('mine', title => 'My own');
SELECT uds_alter_source('mine', options => '{"secret": {"$file": "/etc/passwd"}}');
SELECT uds_alter_source('by_env', title => 'My own');
SELECT uds_drop_source('by_env');
SELECT count(*) FROM uds.sources;
SELECT value FROM uds.source_secrets;
SET ROLE regress_uds_other;
SELECT uds_alter_source('mine', title => 'Stolen');
SELECT uds_drop_source('mine');
RESET ROLE;
SELECT name, title, owner FROM uds.sources WHERE name = 'mine';

--
-- What a reader of the catalogs finds
--
-- without a comment
SELECT p.oid::regprocedure::text AS without_comment
FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'uds')
WHERE obj_description(p.oid, 'pg_proc') IS NULL
UNION ALL
SELECT c.oid::regclass::text
FROM pg_class c
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'uds')
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND obj_description(c.oid, 'pg_class') IS NULL
UNION ALL
SELECT 'schema uds' WHERE obj_description('uds'::regnamespace, 'pg_namespace') IS NULL
UNION ALL
SELECT 'extension' FROM pg_extension WHERE extname = 'uds' AND obj_description(oid, 'pg_extension') IS NULL;

-- without a search_path of their own, which only functions in C that resolve
-- no names may be
SELECT p.oid::regprocedure AS without_search_path, l.lanname, p.prokind
FROM pg_proc p
JOIN pg_language l ON l.oid = p.prolang
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'uds')
WHERE NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)
ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT p.oid::regprocedure AS definer_rights
FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'uds')
WHERE p.prosecdef;

-- dumped are sources without their secrets, and what they brought; the rest is not
SELECT c::regclass, condition
FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS x (c, condition)
WHERE e.extname = 'uds' AND c IN ('uds.source_secrets'::regclass, 'uds.source_tokens'::regclass,
								  'uds.source_settings'::regclass, 'uds.source_types'::regclass);

-- the triggers on target tables are those of their keys
SELECT count(*) AS triggers FROM pg_trigger
WHERE tgrelid IN ('uds.users'::regclass, 'uds.departments'::regclass, 'uds.department_members'::regclass)
  AND NOT tgisinternal;

-- it goes as a whole, and can come back
DROP EXTENSION uds;
SELECT nspname FROM pg_namespace WHERE nspname = 'uds';
SELECT proname FROM pg_proc WHERE proname LIKE 'uds%';
SELECT relname FROM pg_class WHERE relnamespace = '"Tools"'::regnamespace;
CREATE EXTENSION uds SCHEMA "Tools";
SELECT name FROM uds.sources;

\c contrib_regression
DROP DATABASE uds_api;
DROP ROLE regress_uds_nobody, regress_uds_other;
