-- What can be said about the HTTP side without a network: keys, and the one
-- function that answers requests.
CREATE DATABASE uds_http;
\c uds_http
\set SHOW_CONTEXT never
CREATE EXTENSION uds;

-- Keys: shown once, stored as a hash.
SELECT uds_create_api_key('first') AS key \gset
SELECT :'key' ~ '^uds_1_[A-Za-z0-9_-]{43}$' AS shown;
SELECT name, scopes, octet_length(hash), hash = sha256(convert_to(:'key', 'UTF8')) AS hashed, created_by = current_user AS mine,
	   expires_at, last_used_at
FROM uds.api_keys;
SELECT uds_create_api_key('other') AS other \gset
SELECT substr(:'key', 7) <> substr(:'other', 7) AS differ;

-- What is no key.
SELECT uds_create_api_key('first');
SELECT uds_create_api_key('');
SELECT uds_create_api_key(repeat('x', 101));
SELECT uds_create_api_key(NULL);
SELECT uds_create_api_key('x', NULL);
SELECT uds_create_api_key('x', 'api', NULL);
SELECT uds_create_api_key('x', 'nobody');
SELECT uds_create_api_key('x', 'api', '{}');
SELECT uds_create_api_key('x', 'api', '{push,drop}');
SELECT uds_create_api_key('x', 'api', '{push,NULL}');
SELECT uds_create_api_key('x', 'api', '{push}', now() - interval '1 second');
SELECT uds_create_source('read', 'wecom', '{"corpid": "c", "secret": "s"}') > 0 AS created;
SELECT uds_create_api_key('x', 'read');
SELECT uds_drop_api_key('nobody');
SELECT uds_drop_api_key(NULL);

-- Only the owner of the source.
CREATE ROLE regress_uds_keys;
GRANT USAGE ON SCHEMA uds TO regress_uds_keys;
SET ROLE regress_uds_keys;
SELECT uds_create_api_key('x');
RESET ROLE;
GRANT EXECUTE ON FUNCTION uds_create_api_key, uds_drop_api_key, uds_create_source TO regress_uds_keys;
SET ROLE regress_uds_keys;
SELECT uds_create_api_key('x');
SELECT uds_drop_api_key('first');
SELECT uds_create_source('own', 'push') > 0 AS created;
SELECT uds_create_api_key('own key', 'own') ~ '^uds_' AS made;
SELECT count(*) FROM uds.api_keys;
SELECT uds_drop_api_key('own key');
RESET ROLE;

-- The entry function answers, and tells what is wrong. Headers are as the
-- listener gives them.
CREATE FUNCTION ask(method text, path text, body text DEFAULT '', headers text[] DEFAULT '{}', query text[] DEFAULT '{}')
RETURNS TABLE (status integer, reply text)
LANGUAGE sql
AS $$ SELECT r.status, left(r.reply, 120) FROM uds.http_request(method, path, query, headers, '192.0.2.1', convert_to(body, 'UTF8')) AS r $$;

SELECT * FROM ask('GET', '/');
SELECT * FROM ask('DELETE', '/api/userData:push');
SELECT * FROM ask('POST', '/api/userData:push', '{}');
SELECT * FROM ask('POST', '/api/userData:push', '{}', ARRAY['authorization', 'Bearer uds_1_x']);
SELECT * FROM ask('POST', '/api/userData:push', '{}', ARRAY['authorization', 'Bearer uds_99999999999999999999_x']);
SELECT * FROM ask('POST', '/api/userData:push', '{}', ARRAY['authorization', 'Bearer ' || :'key' || 'x']);
SELECT * FROM ask('POST', '/api/userData:push', '{}', ARRAY['authorization', 'Bearer ' || :'key']);
SELECT * FROM ask('POST', '/api/userData:push', '{"dataType":"user","sourceName":"own","records":[{"uid":"1"}]}', ARRAY['authorization', 'Bearer ' || :'key']);
SELECT * FROM ask('POST', '/api/userData:push', '{"dataType":"user","records":[{"uid":"1","username":"ann"}]}', ARRAY['authorization', 'Bearer ' || :'key']);
SELECT * FROM ask('POST', '/api/userData:push', E'{"uid":"2","username":"bob"}\n\n{"uid":"1"}\nnothing',
	ARRAY['authorization', 'Bearer ' || :'key', 'content-type', 'application/x-ndjson'], '{dataType,user}');
SELECT username FROM uds.users ORDER BY username;
SELECT kind, status, requested_by, fetched, failed FROM uds.tasks ORDER BY id;
SELECT message FROM uds.task_errors ORDER BY task_id, seq;
SELECT * FROM ask('GET', '/callback/read');
SELECT * FROM ask('GET', '/callback/nobody');
SELECT * FROM ask('GET', '/metrics');
SELECT status FROM uds.http_request('GET', '/metrics', '{}', '{}', '127.0.0.1', '');
SELECT status FROM uds.http_request('GET', '/metrics', '{}', '{x-forwarded-for,127.0.0.1}', '127.0.0.1', '');
SELECT * FROM uds.http_request(NULL, '/', '{}', '{}', '', '');

-- A task of a trigger's cannot push through it.
CREATE FUNCTION push_more() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM uds.http_request('GET', '/healthz', '{}', '{}', '127.0.0.1', '');
	RETURN NEW;
END $$;
CREATE TRIGGER push_more BEFORE INSERT ON uds.users FOR EACH ROW EXECUTE FUNCTION push_more();
SELECT * FROM ask('POST', '/api/userData:push', '{"dataType":"user","records":[{"uid":"3","username":"cem"}]}', ARRAY['authorization', 'Bearer ' || :'key']);
SELECT message FROM uds.task_errors ORDER BY task_id DESC LIMIT 1;
DROP TRIGGER push_more ON uds.users;

-- JSON lines, taken apart.
SELECT * FROM uds.json_lines(E'{"a": 1}\r\n \n[2]\n"\\u0000"\n{"b":');
SELECT * FROM uds.json_lines('');
SELECT count(*), min(ord), max(ord) FROM uds.json_lines(repeat(E'{}\n', 10000));

-- Dropping the source drops its keys.
SELECT uds_create_api_key('gone', 'own') ~ '^uds_' AS made;
GRANT SELECT, INSERT, UPDATE, DELETE ON uds.users, uds.departments, uds.department_members TO regress_uds_keys;
SELECT uds_drop_source('own');
SELECT name FROM uds.api_keys ORDER BY name;

\c postgres
DROP DATABASE uds_http;
DROP ROLE regress_uds_keys;
