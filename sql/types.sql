-- Types of sources: registering and dropping them, manifests of sources of type
-- http, queries of type sql, and what a source adds to the fields of its type
CREATE DATABASE uds_types;
\c uds_types
\set SHOW_CONTEXT never
CREATE EXTENSION uds;
SET timezone = 'UTC';

-- the smallest manifest
CREATE TABLE manifests (name text PRIMARY KEY, manifest jsonb);
INSERT INTO manifests VALUES ('good', '{
	"manifest": 1,
	"title": "Staff list",
	"options": {"base_url": {"required": true}, "key": {"required": true, "secret": true}, "site": {"default": "main"}},
	"base_url": "{options.base_url}",
	"streams": {
		"people": {
			"type": "user",
			"request": {"path": "/people", "query": {"site": "{options.site}", "key": "{options.key}"}},
			"records": "$[*]",
			"fields": {"uid": "$.id", "nickname": "$.name"}
		}
	},
	"plans": [{"name": "all", "streams": ["people"]}]
}');
CREATE FUNCTION with_change(path text[], value jsonb)
RETURNS jsonb
LANGUAGE sql
RETURN (SELECT jsonb_set(manifest, path, value) FROM manifests WHERE name = 'good');

--
-- Registering a manifest
--
SELECT uds_register_source_type('staff', manifest) FROM manifests WHERE name = 'good';
SELECT name, title, builtin, manifest = (SELECT manifest FROM manifests WHERE name = 'good') AS same, pull
FROM uds.source_types WHERE name = 'staff';
SELECT uds_register_source_type('staff', manifest, title => 'Our people') FROM manifests WHERE name = 'good';
SELECT title FROM uds.source_types WHERE name = 'staff';

-- what is wrong is told with its place, and the old one stays
SELECT uds_register_source_type('staff', with_change('{streams,people,request}', '{}'));
SELECT uds_register_source_type('staff', with_change('{streams,people,colour}', '"red"'));
SELECT uds_register_source_type('staff', with_change('{streams,people,records}', '"$[*"'));
SELECT uds_register_source_type('staff', with_change('{streams,people,fields,phone}', '"$.tel."'));
SELECT uds_register_source_type('staff', with_change('{streams,people,fields,phone}', '{"path": "$.tel", "when": "$.tel =="}'));
SELECT uds_register_source_type('staff', with_change('{plans,0,streams,0}', '"nobody"'));
SELECT uds_register_source_type('staff', '[]');
SELECT uds_register_source_type('staff');
SELECT uds_register_source_type(NULL, '{}');
SELECT uds_register_source_type('Staff', manifest) FROM manifests WHERE name = 'good';
SELECT uds_register_source_type('wecom', manifest) FROM manifests WHERE name = 'good';
SELECT uds_register_source_type('push', manifest) FROM manifests WHERE name = 'good';
SELECT title, manifest = (SELECT manifest FROM manifests WHERE name = 'good') AS same
FROM uds.source_types WHERE name = 'staff';

--
-- Registering a function
--
CREATE FUNCTION pull_staff(options jsonb, state jsonb)
RETURNS TABLE (data_type text, record jsonb, state jsonb)
LANGUAGE sql
AS 'SELECT NULL::text, NULL::jsonb, NULL::jsonb';
CREATE FUNCTION not_a_set(options jsonb, state jsonb)
RETURNS jsonb
LANGUAGE sql
RETURN options;
CREATE FUNCTION other_columns(options jsonb, state jsonb)
RETURNS TABLE (data_type text, record text, state jsonb)
LANGUAGE sql
AS 'SELECT NULL::text, NULL::text, NULL::jsonb';
CREATE FUNCTION other_arguments(options text, state jsonb)
RETURNS TABLE (data_type text, record jsonb, state jsonb)
LANGUAGE sql
AS 'SELECT NULL::text, NULL::jsonb, NULL::jsonb';
SELECT uds_register_source_type('pulled', pull => 'not_a_set(jsonb, jsonb)');
SELECT uds_register_source_type('pulled', pull => 'other_columns(jsonb, jsonb)');
SELECT uds_register_source_type('pulled', pull => 'other_arguments(text, jsonb)');
SELECT uds_register_source_type('pulled', manifest, 'pull_staff(jsonb, jsonb)') FROM manifests WHERE name = 'good';
SELECT uds_register_source_type('pulled', pull => 'pull_staff(jsonb, jsonb)');
SELECT name, title, builtin, manifest, pull FROM uds.source_types WHERE name = 'pulled';

-- a source of it takes any options; what sounds like a secret is kept as one
SELECT uds_create_source('pulled', 'pulled', '{"site": "north", "api_key": "canary", "password": {"$env": "UDS_PW"}}') > 0 AS created;
SELECT options FROM uds.sources WHERE name = 'pulled';
SELECT options FROM uds.source_settings WHERE name = 'pulled';

--
-- Dropping
--
SELECT uds_drop_source_type('nosuch');
SELECT uds_drop_source_type('wecom');
SELECT uds_drop_source_type('pulled');
SELECT uds_drop_source('pulled');
SELECT uds_drop_source_type('pulled');
SELECT count(*) FROM uds.source_types WHERE name = 'pulled';

-- not for everybody
CREATE ROLE regress_uds_types;
GRANT USAGE ON SCHEMA public TO regress_uds_types;
SET ROLE regress_uds_types;
SELECT uds_register_source_type('mine', '{}');
SELECT uds_drop_source_type('staff');
RESET ROLE;
-- who may register may still not lend out functions of others
GRANT EXECUTE ON FUNCTION uds_register_source_type TO regress_uds_types;
REVOKE EXECUTE ON FUNCTION pull_staff FROM PUBLIC;
SET ROLE regress_uds_types;
SELECT uds_register_source_type('mine', pull => 'pull_staff(jsonb, jsonb)');
RESET ROLE;

--
-- A source of type http brings its manifest along
--
SELECT uds_create_source('list', 'http', '{"base_url": "http://127.0.0.1:1", "key": "canary"}');
SELECT uds_create_source('list', 'http', '{"manifest": "text"}');
SELECT uds_create_source('list', 'http', jsonb_build_object('manifest', with_change('{streams,people,fields,phone}', '"$.tel."')));
SELECT uds_create_source('list', 'http', jsonb_build_object('manifest', manifest, 'base_url', 'http://127.0.0.1:1'))
FROM manifests WHERE name = 'good';
SELECT uds_create_source('list', 'http', jsonb_build_object('manifest', manifest, 'base_url', 'http://127.0.0.1:1', 'key', 'canary', 'colour', 'red'))
FROM manifests WHERE name = 'good';
SELECT uds_create_source('list', 'http', jsonb_build_object('manifest', manifest, 'base_url', 'http://127.0.0.1:1', 'key', 'canary')) > 0 AS created
FROM manifests WHERE name = 'good';
SELECT options - 'manifest' AS options FROM uds.sources WHERE name = 'list';
SELECT uds_alter_source('list', options => '{"site": "south"}');
SELECT uds_alter_source('list', options => jsonb_build_object('manifest', with_change('{plans}', '[]')));
SELECT options - 'manifest' AS options FROM uds.sources WHERE name = 'list';
SELECT count(*) AS canaries FROM uds.source_settings WHERE options::text LIKE '%canary%';

-- it counts in every place where that of a type does
SELECT m.manifest = o.manifest AS its_own FROM uds.source_manifests m
JOIN uds.source_settings s ON s.id = m.source_id AND s.name = 'list'
CROSS JOIN manifests o WHERE o.name = 'good';
SELECT uds_alter_source('list', options => jsonb_build_object('manifest', manifest || '{"ignore_case": ["user"]}'))
FROM manifests WHERE name = 'good';
SELECT e.key AS name, e.value -> 'fold' AS fold, e.value #> '{stream,options}' AS options
FROM uds.source_settings s CROSS JOIN LATERAL jsonb_each(uds.source_streams(s.id)) AS e WHERE s.name = 'list';

--
-- What a source adds to the fields of its type
--
SELECT uds_create_source('mine', 'staff', '{"base_url": "http://127.0.0.1:1", "key": "canary", "user_fields": "$.a"}');
SELECT uds_create_source('mine', 'staff', '{"base_url": "http://127.0.0.1:1", "key": "canary", "user_fields": {"badge": "$.a."}}');
SELECT uds_create_source('mine', 'staff', '{"base_url": "http://127.0.0.1:1", "key": "canary", "user_where": "$.a =="}');
SELECT uds_create_source('mine', 'staff', '{"base_url": "http://127.0.0.1:1", "key": "canary", "user_where": true}');
SELECT uds_create_source('mine', 'staff', '{"base_url": "http://127.0.0.1:1", "key": "canary", "manifest": {}}');
SELECT uds_create_source('mine', 'staff', '{"base_url": "http://127.0.0.1:1", "key": "canary", "site": "north",
	"user_fields": {"nickname": "$.full_name", "badge": {"const": null}}, "user_where": "$.active == true",
	"department_where": "$.id > 1"}') > 0 AS created;
SELECT jsonb_pretty((uds.source_streams(id) #> '{people,stream}') - 'request') FROM uds.source_settings WHERE name = 'mine';
SELECT m.* FROM uds.source_settings s
CROSS JOIN LATERAL uds.map_page('[{"id": 1, "name": "a", "full_name": "A B", "active": true}]', uds.source_streams(s.id) #> '{people,stream}', '{}') AS m
WHERE s.name = 'mine';

--
-- Queries
--
CREATE TABLE people (login text, name text);
SELECT uds_create_source('q', 'sql');
SELECT uds_create_source('q', 'sql', '{"users_query": "SELECT login AS uid FROM people"}');
SELECT uds_create_source('q', 'sql', '{"users_query": "SELEC 1"}');
SELECT uds_create_source('q', 'sql', '{"users_query": "SELECT 1; SELECT 2"}');
SELECT uds_create_source('q', 'sql', '{"users_query": "DELETE FROM public.people"}');
SELECT uds_create_source('q', 'sql', '{"users_query": ["SELECT 1"]}');
SELECT uds_create_source('q', 'sql', '{"user_query": "SELECT 1"}');
SELECT uds_create_source('q', 'sql', '{"users_query": "SELECT login AS uid, name AS nickname FROM public.people"}') > 0 AS created;
SELECT uds_alter_source('q', options => '{"users_query": null}');
SELECT options FROM uds.sources WHERE name = 'q';

\c contrib_regression
DROP DATABASE uds_types;
DROP ROLE regress_uds_types;
