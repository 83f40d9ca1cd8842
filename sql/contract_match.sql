-- Matching, and several sources on one user
CREATE DATABASE uds_contract_match;
\c uds_contract_match
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
CREATE VIEW links AS
SELECT s.name AS source, r.uid, r.deleted, l.created, u.username, u.email, u.phone
FROM uds.records r JOIN uds.sources s ON s.id = r.source_id
LEFT JOIN uds.record_resources l ON l.record_id = r.id AND l.resource = 'users'
LEFT JOIN uds.users u ON u.id::text = l.resource_pk;

--
-- Match keys
--
SELECT uds_create_source('hr', 'push', match_keys => '{username,email,phone}') > 0 AS created;
INSERT INTO uds.users (username, email, phone, nickname)
VALUES ('ann', 'Ann@X.org', '100', 'by hand'), ('bob', 'bob@x.org', '200', 'by hand'), ('cem', 'cem@x.org', '300', 'by hand'), ('dora', '', '', 'by hand');
-- by each key; case counts for none but the phone
SELECT push('user', '[{"uid": "1", "username": "ANN"}, {"uid": "2", "username": "robert", "email": "BOB@x.ORG"},
	{"uid": "3", "username": null, "email": "", "phone": "300"}]', 'hr');
SELECT * FROM links WHERE source = 'hr' ORDER BY uid;
SELECT count(*) AS users FROM uds.users;
-- a match that changes nothing is told as well
SELECT uds_create_source('quiet', 'push', match_keys => '{username}') > 0 AS created;
SELECT push('user', '[{"uid": "q", "username": "dora"}]', 'quiet');
SELECT c.resource, c.uid, c.action, c.before, c.after FROM uds.changes c WHERE uid = 'q';
SELECT created, updated, unchanged, linked FROM uds.tasks ORDER BY id DESC LIMIT 1;
-- an absent or empty value matches nobody, least of all who has none either
SELECT push('user', '[{"uid": "10"}, {"uid": "11", "username": "", "email": null, "phone": ""}]', 'hr');
SELECT * FROM links WHERE source = 'hr' AND uid LIKE '1_' ORDER BY uid;
-- only records not linked yet are matched: a rename is a rename
INSERT INTO uds.users (username, email) VALUES ('emil', 'emil@x.org');
SELECT push('user', '[{"uid": "1", "username": "anna", "email": "emil2@x.org"}]', 'hr');
SELECT * FROM links WHERE uid = '1';
-- two different hits, by one key or by two
INSERT INTO uds.users (username, email) VALUES ('f1', 'f@x.org'), ('f2', 'F@x.org'), ('g', 'g@x.org'), ('h', 'h@x.org');
SELECT push('user', '[{"uid": "20", "email": "f@X.org"}, {"uid": "21", "username": "g", "email": "h@x.org"}, {"uid": "22", "username": "g", "email": "g@x.org"}]', 'hr');
SELECT * FROM links WHERE uid LIKE '2_' ORDER BY uid;
-- a row that another live record of the source stands behind; two records for one row
SELECT push('user', '[{"uid": "23", "username": "g"}]', 'hr');
SELECT push('user', '[{"uid": "24", "username": "h"}, {"uid": "25", "email": "h@x.org"}]', 'hr');
SELECT * FROM links WHERE uid IN ('23', '24', '25') ORDER BY uid;
SELECT task_id IS NOT NULL AS task, data_type, uid, resource, sqlstate, record FROM uds.task_errors WHERE uid = '23';
-- a row whose record left may be taken by the next
SELECT uds_alter_source('hr', on_deleted => 'disable');
SELECT push('user', '[{"uid": "24", "isDeleted": true}]', 'hr');
SELECT push('user', '[{"uid": "25", "username": "h"}]', 'hr');
SELECT * FROM links WHERE uid IN ('24', '25') ORDER BY uid;
SELECT enabled FROM uds.users WHERE username = 'h';
-- and then it is no longer the one's who left: he can neither take it along nor have it back
SELECT push('user', '[{"uid": "24", "isDeleted": true}]', 'hr');
SELECT push('user', '[{"uid": "24", "username": "h"}]', 'hr');
SELECT enabled FROM uds.users WHERE username = 'h';
SELECT push('user', '[{"uid": "25", "isDeleted": true}]', 'hr');
SELECT push('user', '[{"uid": "24", "username": "h"}, {"uid": "25", "username": "h"}]', 'hr');
SELECT enabled FROM uds.users WHERE username = 'h';
SELECT * FROM links WHERE uid IN ('24', '25') ORDER BY uid;
-- of two that were away the first to return has it
SELECT push('user', '[{"uid": "24", "isDeleted": true}, {"uid": "25", "isDeleted": true}]', 'hr');
SELECT push('user', '[{"uid": "25", "username": "h"}, {"uid": "24", "username": "h"}]', 'hr');
-- another source may bring the person back
SELECT push('user', '[{"uid": "24", "isDeleted": true}, {"uid": "25", "isDeleted": true}]', 'hr');
SELECT enabled FROM uds.users WHERE username = 'h';
SELECT push('user', '[{"uid": "h", "username": "h"}]', 'quiet');
SELECT enabled FROM uds.users WHERE username = 'h';
-- who is told to leave and was never seen takes nobody along
SELECT push('user', '[{"uid": "26", "username": "emil", "isDeleted": true}]', 'hr');
SELECT username, enabled FROM uds.users WHERE username = 'emil';
-- a push's matchKey replaces the source's keys
SELECT uds_push('{"dataType": "user", "sourceName": "hr", "matchKey": "phone", "records": [{"uid": "30", "username": "emil"}]}')
	#> '{result,0,detail,failedRecords,0,message}' AS refused;
SELECT uds_push('{"dataType": "user", "matchKey": "username", "records": [{"uid": "31", "username": "emil", "email": "bob@x.org"}]}')
	#> '{result,0,detail,failedRecords,0,message}' AS refused;
SELECT uds_push('{"dataType": "user", "matchKey": "username", "records": [{"uid": "31", "username": "emil", "email": "e@x.org"}]}')
	#> '{result,0,detail,count,success}' AS success;
SELECT * FROM links WHERE uid IN ('30', '31');

--
-- Several sources: each attribute from the live record with the lowest priority
--
SELECT uds_create_source('first', 'push', match_keys => '{username}', priority => 10) > 0 AS created,
	uds_create_source('second', 'push', match_keys => '{username}', priority => 20) > 0 AS created,
	uds_create_source('third', 'push', match_keys => '{username}', priority => 20) > 0 AS created;
CREATE VIEW zoe AS SELECT username, nickname, email, phone, title, avatar, enabled FROM uds.users WHERE username = 'zoe';
SELECT push('user', '[{"uid": "z2", "username": "zoe", "nickname": "Zoe (2)", "email": "2@x.org", "phone": "2"}]', 'second');
SELECT push('user', '[{"uid": "z1", "username": "zoe", "nickname": "Zoe (1)"}]', 'first');
SELECT push('user', '[{"uid": "z3", "username": "zoe", "nickname": "Zoe (3)", "email": "3@x.org", "title": "Boss (3)"}]', 'third');
SELECT * FROM zoe;
SELECT source, uid, created, username FROM links WHERE username = 'zoe' ORDER BY source;
-- null is a value, "" too; absent is none
SELECT push('user', '[{"uid": "z1", "username": "zoe", "nickname": null, "phone": ""}]', 'first');
SELECT * FROM zoe;
SELECT push('user', '[{"uid": "z1", "username": "zoe"}]', 'first');
SELECT * FROM zoe;
-- what one source says does not show while a better one says otherwise
SELECT push('user', '[{"uid": "z3", "username": "zoe", "nickname": "Zoe (3)", "email": "new@x.org", "title": "Boss (3)"}]', 'third');
SELECT * FROM zoe;
-- a record goes: the others' values come back; what nobody else says stays
SELECT push('user', '[{"uid": "z2", "isDeleted": true}]', 'second');
SELECT * FROM zoe;
SELECT action, before, after FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY seq;
-- and again when it returns
SELECT push('user', '[{"uid": "z2", "username": "zoe", "nickname": "Zoe (2)"}]', 'second');
SELECT * FROM zoe;
-- a changed priority shows at the person's next change
SELECT uds_alter_source('third', priority => 1);
SELECT * FROM zoe;
SELECT push('user', '[{"uid": "z2", "username": "zoe", "nickname": "Zoe (2)"}]', 'second');
SELECT * FROM zoe;
-- enabled is decided the same way, and the last one to leave takes the row along
SELECT push('user', '[{"uid": "z1", "username": "zoe", "enabled": false}]', 'first');
SELECT push('user', '[{"uid": "z2", "username": "zoe", "enabled": true}]', 'second');
SELECT * FROM zoe;
SELECT push('user', '[{"uid": "z1", "isDeleted": true}]', 'first');
SELECT * FROM zoe;
SELECT push('user', '[{"uid": "z3", "isDeleted": true}]', 'third');
SELECT * FROM zoe;
SELECT push('user', '[{"uid": "z2", "isDeleted": true}]', 'second');
SELECT * FROM zoe;

--
-- columns: the only ones a source may set; memberships and leaving are apart
--
ALTER TABLE uds.users ADD COLUMN is_admin boolean NOT NULL DEFAULT false;
SELECT uds_create_source('narrow', 'push', match_keys => '{username}', priority => 1, columns => '{username,nickname}') > 0 AS created;
SELECT push('department', '[{"uid": "d", "title": "kept out", "sort": 7}]', 'narrow');
SELECT title, sort FROM uds.departments;
SELECT push('user', '[{"uid": "y", "username": "yan", "nickname": "Yan", "email": "yan@x.org", "is_admin": true, "enabled": false, "departments": ["d"]}]', 'narrow');
SELECT username, nickname, email, is_admin, enabled, main_department_id IS NOT NULL AS member FROM uds.users WHERE username = 'yan';
-- nor does what it may not set hide what others say
SELECT push('user', '[{"uid": "y", "username": "yan", "nickname": "Other", "email": "other@x.org", "enabled": true}]', 'second');
SELECT username, nickname, email FROM uds.users WHERE username = 'yan';
-- lifted, it shows at the next change
SELECT uds_alter_source('narrow', columns => '{*}');
SELECT push('user', '[{"uid": "y", "username": "yan", "nickname": "Yan", "email": "yan@x.org", "is_admin": true, "enabled": true, "departments": ["d"]}]', 'narrow');
SELECT username, nickname, email, is_admin, enabled FROM uds.users WHERE username = 'yan';
SELECT uds_alter_source('narrow', columns => '{nickname}');
SELECT push('user', '[{"uid": "y", "isDeleted": true}]', 'second');
SELECT push('user', '[{"uid": "y", "isDeleted": true}]', 'narrow');
SELECT count(*) FROM uds.users WHERE username = 'yan';
\c postgres
DROP DATABASE uds_contract_match;
