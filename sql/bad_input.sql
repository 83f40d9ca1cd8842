-- What bad input gets: an error of the envelope, or rows in uds.task_errors;
-- never a crash, never half a commit.  Cases shown elsewhere: the envelope in
-- contract_push, plain values of plain types in contract_records.
CREATE DATABASE uds_bad_input;
\c uds_bad_input
CREATE EXTENSION uds;
\set SHOW_CONTEXT never
\set VERBOSITY terse
\pset null '(null)'
-- what became of each push: the task, its error rows
CREATE FUNCTION push(data_type text, records jsonb, source text DEFAULT 'api')
RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	task bigint := uds_push(jsonb_build_object('dataType', data_type, 'sourceName', source,
											   'records', records)) -> 'task';
BEGIN
	RETURN QUERY SELECT concat_ws(': ', status, message) FROM uds.tasks WHERE id = task;
	RETURN QUERY SELECT format('%s: %s %s', coalesce(left(uid, 20), '(no uid)'), sqlstate, left(message, 200))
		FROM uds.task_errors WHERE task_id = task ORDER BY seq;
END $$;
-- all that a push may leave behind; alike before and after: nothing was
CREATE VIEW traces AS
SELECT (SELECT count(*) FROM uds.users) AS users, (SELECT count(*) FROM uds.departments) AS departments,
	(SELECT count(*) FROM uds.department_members) AS members, (SELECT count(*) FROM uds.records) AS records,
	(SELECT count(*) FROM uds.record_resources) AS links, (SELECT count(*) FROM uds.tasks) AS tasks,
	(SELECT count(*) FROM uds.task_errors) AS errors, (SELECT count(*) FROM uds.changes) AS changes;
-- records that do not agree with their rows: a live one without, a row without any
CREATE VIEW torn AS
SELECT r.data_type, r.uid FROM uds.records r
WHERE NOT r.deleted AND NOT EXISTS (SELECT FROM uds.record_resources l
	JOIN uds.users u ON l.resource = 'users' AND l.resource_pk = u.id::text WHERE l.record_id = r.id)
	AND r.data_type = 'user'
UNION ALL
SELECT 'row', u.username FROM uds.users u
WHERE NOT EXISTS (SELECT FROM uds.record_resources l WHERE l.resource = 'users' AND l.resource_pk = u.id::text);

--
-- The envelope
--
SELECT uds_push('7');
SELECT uds_push('true');
SELECT uds_push('[]');
SELECT uds_push('{"dataType": "", "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": "USER", "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": 1, "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": {"user": 1}, "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": "user", "records": "1"}');
SELECT uds_push('{"dataType": "user", "records": 0}');
SELECT uds_push('{"dataType": "user", "records": false}');
SELECT uds_push('{"dataType": "user", "matchKey": {}, "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": "user", "sourceName": "", "records": [{"uid": "1"}]}');
SELECT uds_push('{"dataType": "user", "sourceName": ["api"], "records": [{"uid": "1"}]}');
TABLE traces;

--
-- Records that are none, uids that are none
--
SELECT push('user', '[1, "a", null, true, [], [[]], {}]');
SELECT push('user', '[{"uid": {}}, {"uid": {"uid": "1"}}, {"uid": []}, {"uid": ["1"]}, {"uid": true}, {"uid": false},
	{"uid": null}, {"uid": ""}, {"uid": 0.5}, {"uid": 1.0}, {"uid": -0.0}]');
-- an exponent is not digits, whatever number it stands for: jsonb has worked it out before anybody sees it
SELECT push('user', '[{"uid": 1e-2}]');
-- integers without end are taken, and found again, up to the length of any uid
SELECT push('user', ('[{"uid": ' || repeat('9', 1000) || '}, {"uid": "' || repeat('9', 1000) || '", "nickname": "the same"}, {"uid": ' || repeat('9', 100000) || '}]')::jsonb);
SELECT length(uid), data ->> 'nickname' AS nickname FROM uds.records;
-- departments alike
SELECT push('department', '[{"title": "x"}, {"uid": {}}, {"uid": ""}, 1, {"uid": "d", "title": {"a": 1}}]');
SELECT push('department', '[{"uid": "p1", "parentUid": {"uid": "d"}}, {"uid": "p2", "parentUid": ["d"]}, {"uid": "p3", "parentUid": true}, {"uid": "p4", "parentUid": 1.5}]');
SELECT title, parent_id FROM uds.departments ORDER BY id;
-- references that are none
SELECT push('user', jsonb_agg(jsonb_build_object('uid', 'm' || n, 'username', 'm' || n, 'departments', jsonb_build_array('d', e)) ORDER BY n))
	FROM jsonb_array_elements('[{}, true, 1.5, [], [["d"]], {"uid": null}, {"uid": {"uid": "d"}}, {"uid": 1.5}, 7, {"uid": 7}]') WITH ORDINALITY AS e (e, n);
SELECT push('user', '[{"uid": "m", "username": "m", "departments": [null, "", {"uid": "d", "isOwner": "perhaps", "isMain": {}}]}]');
SELECT u.username, d.title, m.is_owner FROM uds.department_members m JOIN uds.users u ON u.id = m.user_id JOIN uds.departments d ON d.id = m.department_id;
SELECT push('department', jsonb_build_array(jsonb_build_object('uid', 'd', 'owners', jsonb_build_array('m', e))))
	FROM jsonb_array_elements('[{}, true, 1.5, [], ["m"], {"uid": "m"}]') AS e;
SELECT push('department', '[{"uid": "d", "owners": [null, "", 7, "m"]}]');
SELECT u.username, d.title, m.is_owner FROM uds.department_members m JOIN uds.users u ON u.id = m.user_id JOIN uds.departments d ON d.id = m.department_id;
-- truth values that are none
SELECT push('user', '[{"uid": "t1", "isDeleted": 2}, {"uid": "t2", "isDeleted": []}, {"uid": "t3", "isDeleted": ""}, {"uid": "t4", "enabled": "maybe"}, {"uid": "t5", "enabled": 2}, {"uid": "t6", "enabled": ""}]');
TABLE torn;

--
-- NUL and halves of surrogate pairs: jsonb does not let them in
--
CREATE TEMP TABLE before AS TABLE traces;
SELECT uds_push('{"dataType": "user", "records": [{"uid": "n", "nickname": "a\u0000b"}]}');
SELECT uds_push('{"dataType": "user", "records": [{"uid": "n", "nickname": "\ud800"}]}');
SELECT uds_push('{"dataType": "user", "records": [{"uid": "n"}]');
SELECT uds_push('{"dataType": "user", "records": [{"uid": NaN}]}');
SELECT t = b AS nothing FROM traces AS t, before AS b;
DROP TABLE before;

--
-- Ten megabytes of text: in a column, in a key that is none, in unique columns, as a uid, as a reference
--
CREATE FUNCTION big(c text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT repeat(c, 10000000) $$;
SELECT push('user', jsonb_build_array(
	jsonb_build_object('uid', 'b1', 'username', 'b1', 'nickname', big('b')),
	jsonb_build_object('uid', 'b2', 'username', 'b2', 'essay', big('c')),
	jsonb_build_object('uid', 'b3', 'username', big('d')),
	jsonb_build_object('uid', 'b4', 'username', 'b4', 'email', big('e')),
	jsonb_build_object('uid', 'b5', 'username', 'b5', 'phone', left(big('f'), 1000000)),
	jsonb_build_object('uid', big('g'), 'username', 'b6'),
	jsonb_build_object('uid', 'b7', 'username', 'b7', 'departments', jsonb_build_array(big('h'), 'd')),
	jsonb_build_object('uid', 'b8', 'username', 'b8', big('k'), 1)));
SELECT r.uid, u.username, length(u.nickname) AS nickname, length(r.data ->> 'essay') AS essay, u.main_department_id IS NOT NULL AS main
FROM uds.users u JOIN uds.record_resources l ON l.resource = 'users' AND l.resource_pk = u.id::text JOIN uds.records r ON r.id = l.record_id
WHERE u.username LIKE 'b_' ORDER BY 1;
SELECT push('department', jsonb_build_array(jsonb_build_object('uid', 'bd', 'title', big('i')), jsonb_build_object('uid', big('j')),
	jsonb_build_object('uid', 'bp', 'parentUid', left(big('k'), 1000000)), jsonb_build_object('uid', 'bo', 'owners', jsonb_build_array(left(big('l'), 1000000)))));
SELECT left(title, 5) AS title, length(title) AS length FROM uds.departments WHERE length(title) > 100 OR title LIKE 'b%' ORDER BY 2, 1;
-- as match key: found or not, no index has room for it
SELECT uds_push(jsonb_build_object('dataType', 'user', 'matchKey', 'email', 'records', jsonb_build_array(
	jsonb_build_object('uid', 'mb', 'username', 'mb', 'email', left(big('m'), 1000000)), jsonb_build_object('uid', 'mc', 'username', 'mc')))) #> '{result,0,detail,count}' AS count;
TABLE torn;

--
-- Deep nesting: what the parser of jsonb takes is kept in the record, what it refuses never begins
--
SELECT push('user', jsonb_build_array(jsonb_build_object('uid', 'deep', 'username', 'deep', 'nest', (repeat('[', 5000) || repeat(']', 5000))::jsonb),
	jsonb_build_object('uid', 'deeper', 'username', 'deeper', 'nest', (repeat('{"a":', 5000) || '1' || repeat('}', 5000))::jsonb)));
SELECT uid, length(data ->> 'nest') AS nest FROM uds.records WHERE uid LIKE 'deep%' ORDER BY 1;
SELECT push('user', jsonb_build_array(jsonb_build_object('uid', 'deep', 'username', 'deep', 'nest', (repeat('[', 5000) || '2' || repeat(']', 5000))::jsonb)));
CREATE TEMP TABLE before AS TABLE traces;
SELECT uds_push(('{"dataType": "user", "records": [{"uid": "n", "nest": ' || repeat('[', 1000000) || repeat(']', 1000000) || '}]}')::jsonb);
SELECT t = b AS nothing FROM traces AS t, before AS b;
DROP TABLE before;

--
-- Values that a column's type does not take.  One record each, so that none can hide behind another
--
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN level AS integer CHECK (VALUE BETWEEN 1 AND 9);
CREATE TYPE point3 AS (x integer, y integer, z integer);
ALTER TABLE uds.users
	ADD COLUMN small smallint, ADD COLUMN age integer, ADD COLUMN far bigint, ADD COLUMN salary numeric(6,2), ADD COLUMN any_number numeric,
	ADD COLUMN ratio real, ADD COLUMN born date, ADD COLUMN seen timestamptz, ADD COLUMN span interval, ADD COLUMN mood mood,
	ADD COLUMN level level, ADD COLUMN scores integer[], ADD COLUMN grid integer[][], ADD COLUMN place point3, ADD COLUMN token uuid,
	ADD COLUMN raw bytea, ADD COLUMN code char(3), ADD COLUMN address inet, ADD COLUMN during int4range, ADD COLUMN doc xml, ADD COLUMN meta jsonb,
	ADD COLUMN remote boolean;
CREATE FUNCTION try(key text, VARIADIC given jsonb[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	value jsonb;
	reply jsonb;
	stored jsonb;
BEGIN
	FOREACH value IN ARRAY given LOOP
		reply := uds_push(jsonb_build_object('dataType', 'user', 'records', jsonb_build_array(
			jsonb_build_object('uid', 'try', 'username', 'try', key, value), jsonb_build_object('uid', 'bystander', 'nickname', value))));
		SELECT to_jsonb(u) -> key INTO stored FROM uds.users u JOIN uds.record_resources l ON l.resource_pk = u.id::text
			JOIN uds.records r ON r.id = l.record_id AND r.uid = 'try' WHERE l.resource = 'users';
		RETURN NEXT format('%s: %s', left(value::text, 40), coalesce((SELECT sqlstate || ' ' || e.message FROM uds.task_errors e
			WHERE task_id = (reply ->> 'task')::bigint), 'stored as ' || coalesce(left(stored::text, 45), 'null')));
		PERFORM uds_push('{"dataType": "user", "records": [{"uid": "try", "isDeleted": true}]}');
	END LOOP;
END $$;
SELECT try('small', '32768', '-32769', '1.4', '"1.4"', '""', '"x"', 'true', '[]', '{}', '" 7 "');
SELECT try('age', '2147483648', '1e3', '0.5', '"NaN"', '"Infinity"', '[1]', '{"a": 1}');
SELECT try('far', '9223372036854775807', '9223372036854775808', '1e18', '1e19');
SELECT try('salary', '9999.994', '9999.995', '10000', '"NaN"', '"Infinity"', '"1e3"', '"1,5"', '""');
SELECT try('any_number', '"NaN"', '"-Infinity"', '1e-5', '123456789012345678901234567890.123456789', '"abc"');
SELECT try('ratio', '"NaN"', '"Infinity"', '1e39', '"1e39"', '1e-50', '"x"');
SELECT try('born', '"2026-02-30"', '"2026-13-01"', '"yesterday noon"', '20260102', '0', '""', '"infinity"', '{}');
SELECT try('seen', '"2026-01-01T25:00:00Z"', '"2026-01-01 00:00 Mars/Base"', '1767225600', '"99999999-01-01"');
SELECT try('span', '"3 parsecs"', '"1 day"', '5');
SELECT try('mood', '"HAPPY"', '""', '1', '"happy "', 'null');
SELECT try('level', '0', '10', '"x"', '1e10', 'null');
SELECT try('scores', '[1, "x"]', '[1, 2.5]', '"{1,2}"', '"{1,"', '"x"', '{}', '7', '[[1, 2], [3]]', '[null, 2147483648]');
SELECT try('grid', '[[1, 2], [3, 4]]', '[[1], [2, 3]]', '[[1], 2]');
SELECT try('place', '{"x": 1}', '{"x": "far"}', '"(1,2)"');
SELECT try('token', '"0000"', '7', '""');
SELECT try('raw', '"\\x0g"', '"\\xdead"');
SELECT try('code', '"abcd"', '"abc  "', '"ä"');
SELECT try('address', '"256.1.1.1"', '"::1"', '1');
SELECT try('during', '"[5,1]"', '"[1,5]"', '"x"');
SELECT try('meta', '"x"', '[]', 'null', '{"deep": {"er": [1e400]}}');
SELECT try('remote', '"perhaps"', '2', '1', '"t"', '[]');
SELECT try('protected', '"x"', 'true');
SELECT left(try('created_at', '"never"'), 22);
SELECT try('username', '1', 'true', '{"a": 1}', '[1]', '""');
TABLE torn;
ALTER TABLE uds.users DROP COLUMN small, DROP COLUMN far, DROP COLUMN salary, DROP COLUMN any_number, DROP COLUMN ratio, DROP COLUMN born, DROP COLUMN seen,
	DROP COLUMN span, DROP COLUMN mood, DROP COLUMN level, DROP COLUMN scores, DROP COLUMN grid, DROP COLUMN place, DROP COLUMN token, DROP COLUMN raw,
	DROP COLUMN code, DROP COLUMN address, DROP COLUMN during, DROP COLUMN doc, DROP COLUMN meta, DROP COLUMN remote;
-- a column that is gone is a key as any other, in this session and with kept plans too
SELECT push('user', '[{"uid": "dropped", "username": "dropped", "age": 1, "small": "x", "mood": "grumpy"}]');
ALTER TABLE uds.users DROP COLUMN age;
SELECT push('user', '[{"uid": "dropped", "age": "old"}]');
ALTER TABLE uds.users ADD COLUMN age text;
SELECT push('user', '[{"uid": "dropped", "age": "very old"}]');
SELECT username, age FROM uds.users WHERE username = 'dropped';
ALTER TABLE uds.users DROP COLUMN age;

--
-- Constraints of one's own
--
CREATE FUNCTION ok(i integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 10 / i > 0; END $$;
ALTER TABLE uds.users ADD COLUMN a integer CHECK (a < 100), ADD COLUMN b integer CHECK (ok(b)), ADD COLUMN c integer UNIQUE DEFERRABLE INITIALLY DEFERRED,
	ADD COLUMN d int4range, ADD EXCLUDE USING gist (d WITH &&), ADD COLUMN e integer REFERENCES uds.users DEFERRABLE INITIALLY DEFERRED;
SELECT push('user', '[{"uid": "c1", "username": "c1", "a": 99, "b": 5, "c": 1, "d": "[1,5)"}]');
SELECT push('user', '[{"uid": "c2", "username": "c2", "a": 100}, {"uid": "c3", "username": "c3", "b": 0}, {"uid": "c4", "username": "c4", "b": -1},
	{"uid": "c5", "username": "c5", "c": 1}, {"uid": "c6", "username": "c6", "d": "[4,6)"}, {"uid": "c7", "username": "c7", "e": -1},
	{"uid": "c1", "nickname": "updated"}]');
SELECT username, nickname, a, b, c, d, e FROM uds.users WHERE username LIKE 'c_' ORDER BY 1;
-- two new ones that exclude each other: one of them is there
SELECT uds_push('{"dataType": "user", "records": [{"uid": "c8", "username": "c8", "c": 8}, {"uid": "c9", "username": "c9", "c": 8}]}') #> '{result,0,detail,count}' AS count;
SELECT count(*) FROM uds.users WHERE c = 8;
SELECT push('user', '[{"uid": "c1", "nickname": "kept out", "a": 100}, {"uid": "c1b", "username": "c1b"}]');
SELECT username, nickname, a FROM uds.users WHERE username LIKE 'c1%' ORDER BY 1;
TABLE torn;
ALTER TABLE uds.users DROP COLUMN a, DROP COLUMN b, DROP COLUMN c, DROP COLUMN d, DROP COLUMN e;
-- rows that refer to one another, and one that moves into another's place, beside a bad one
ALTER TABLE uds.users ADD COLUMN code integer UNIQUE, ADD COLUMN chief integer REFERENCES uds.users (code), ADD COLUMN seat int4range, ADD EXCLUDE USING gist (seat WITH &&);
SELECT push('user', '[{"uid": "f1", "username": "f1", "seat": "[1,2)"}, {"uid": "f2", "username": "f2", "code": 2, "chief": 1}, {"uid": "f3", "username": "f3", "code": 3, "chief": 4},
	{"uid": "f4", "username": "f4", "code": 4, "chief": 3}, {"uid": "f5", "username": "f5", "code": 5, "chief": 2}, {"uid": "f6", "username": "f6", "code": 6, "chief": 9}, {"uid": "f7", "username": "f7", "code": 1}]');
SELECT push('user', '[{"uid": "f2", "seat": "[1,2)"}, {"uid": "f1", "seat": "[2,3)"}, {"uid": "f3", "code": "x"}]');
SELECT username, code, chief FROM uds.users WHERE username LIKE 'f_' ORDER BY 1;
SELECT count(*) FROM uds.users a JOIN uds.users b ON a.id < b.id AND a.seat && b.seat;
ALTER TABLE uds.users DROP COLUMN chief, DROP COLUMN code, DROP COLUMN seat;
-- NOT NULL without a default, with one, generated and identity
ALTER TABLE uds.users ADD COLUMN grade integer;
UPDATE uds.users SET grade = 0;
ALTER TABLE uds.users ALTER COLUMN grade SET NOT NULL, ADD COLUMN rank integer NOT NULL DEFAULT 3,
	ADD COLUMN shout text GENERATED ALWAYS AS (upper(nickname)) STORED, ADD COLUMN no_by_default integer GENERATED BY DEFAULT AS IDENTITY,
	ADD COLUMN no_always integer GENERATED ALWAYS AS IDENTITY;
SELECT push('user', '[{"uid": "g1", "username": "g1"}, {"uid": "g2", "username": "g2", "grade": null}, {"uid": "g3", "username": "g3", "grade": 1},
	{"uid": "g4", "username": "g4", "grade": 1, "rank": null}, {"uid": "g5", "username": "g5", "grade": 1, "rank": 1, "nickname": "g", "shout": "x", "no_always": 1, "no_by_default": 9001}]');
SELECT username, grade, rank, shout, no_always = 1 AS no_always, no_by_default = 9001 AS no_by_default FROM uds.users WHERE username LIKE 'g_' ORDER BY 1;
SELECT push('user', '[{"uid": "g3", "grade": null}, {"uid": "g5", "rank": null}, {"uid": "g5x"}]');
SELECT username, grade, rank FROM uds.users WHERE username LIKE 'g_' ORDER BY 1;
ALTER TABLE uds.users DROP COLUMN grade, DROP COLUMN rank, DROP COLUMN shout, DROP COLUMN no_always, DROP COLUMN no_by_default;
TABLE torn;

--
-- Columns named like keys of ours, and names that need quotes
--
ALTER TABLE uds.users ADD COLUMN uid text, ADD COLUMN departments text, ADD COLUMN "isDeleted" text, ADD COLUMN isdeleted text,
	ADD COLUMN n text, ADD COLUMN pk text, ADD COLUMN data text, ADD COLUMN merged text, ADD COLUMN "select" text, ADD COLUMN "CamelCase" text, ADD COLUMN camelcase text,
	ADD COLUMN "a""b" text, ADD COLUMN "it's" text, ADD COLUMN "$1" text, ADD COLUMN "two words" text, ADD COLUMN "ü" text,
	ADD COLUMN "back\slash" text, ADD COLUMN "%s" text, ADD COLUMN "{rows}" text DEFAULT '{values}', ADD COLUMN "{reference}" text, ADD COLUMN "{resource}" text;
SELECT push('user', '[{"uid": "q", "username": "q", "isdeleted": "no", "n": "1", "pk": "2", "data": "3", "merged": "4", "select": "5", "CamelCase": "6", "camelcase": "7",
	"a\"b": "8", "it''s": "9", "$1": "11", "two words": "12", "ü": "13", "back\\slash": "14", "%s": "15", "{rows}": "16", "{reference}": "17"}]');
SELECT push('user', '[{"uid": "q", "a\"b": "16", "it''s": "17", "$1": "19", "CamelCase": null, "{resource}": "{new}"}, {"uid": "q2", "username": "q2"}]');
SELECT "{rows}", "{reference}" FROM uds.users WHERE username IN ('q', 'q2') ORDER BY username;
SELECT to_jsonb(u) - '{id,created_at,updated_at,avatar,phone,email,title,nickname,protected,main_department_id}'::text[] AS row FROM uds.users u WHERE username = 'q';
SELECT before, after FROM uds.changes WHERE uid = 'q' AND action = 'update';
SELECT push('user', '[{"uid": "q", "departments": ["d"], "isDeleted": true}]');
SELECT count(*) FROM uds.users WHERE username = 'q';
ALTER TABLE uds.users DROP COLUMN uid, DROP COLUMN departments, DROP COLUMN "isDeleted", DROP COLUMN isdeleted, DROP COLUMN n, DROP COLUMN pk, DROP COLUMN data, DROP COLUMN merged,
	DROP COLUMN "select", DROP COLUMN "CamelCase", DROP COLUMN camelcase, DROP COLUMN "a""b", DROP COLUMN "it's", DROP COLUMN "$1", DROP COLUMN "two words",
	DROP COLUMN "ü", DROP COLUMN "back\slash", DROP COLUMN "%s", DROP COLUMN "{rows}", DROP COLUMN "{reference}", DROP COLUMN "{resource}";

--
-- Triggers of one's own
--
CREATE FUNCTION misbehave() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	CASE coalesce(NEW.nickname, '')
	WHEN 'raises' THEN RAISE EXCEPTION 'not this one';
	WHEN 'divides' THEN NEW.title := (1 / 0)::text;
	WHEN 'own code' THEN RAISE EXCEPTION 'not that one either' USING ERRCODE = 'UD001';
	WHEN 'gives up' THEN RAISE EXCEPTION 'enough' USING ERRCODE = 'query_canceled';
	WHEN 'asserts' THEN ASSERT false, 'never';
	WHEN 'skips' THEN RETURN NULL;
	WHEN 'alters' THEN NEW.title := 'by the trigger'; NEW.nickname := upper(NEW.nickname);
	WHEN 'pushes' THEN PERFORM public.uds_push('{"dataType": "user", "records": [{"uid": "inner", "username": "inner"}]}');
	WHEN 'catches' THEN
		BEGIN
			PERFORM public.uds_push('{"dataType": "user", "records": [{"uid": "inner", "username": "inner"}]}');
		EXCEPTION WHEN OTHERS THEN NEW.title := SQLERRM;
		END;
	ELSE NULL;
	END CASE;
	RETURN NEW;
END $$;
CREATE TRIGGER misbehave BEFORE INSERT OR UPDATE ON uds.users FOR EACH ROW EXECUTE FUNCTION misbehave();
SELECT push('user', '[{"uid": "y1", "username": "y1", "nickname": "raises"}, {"uid": "y2", "username": "y2", "nickname": "divides"}, {"uid": "y3", "username": "y3", "nickname": "fine"}]');
SELECT push('user', '[{"uid": "y5", "username": "y5", "nickname": "asserts"}, {"uid": "y5b", "username": "y5b"}]');
SELECT push('user', '[{"uid": "y6", "username": "y6", "nickname": "own code"}, {"uid": "y6b", "username": "y6b"}]');
-- what is not about a record is nobody's fault
SELECT push('user', '[{"uid": "y6", "username": "y6", "nickname": "gives up"}, {"uid": "y6c", "username": "y6c"}]');
SELECT push('user', '[{"uid": "y7", "username": "y7", "nickname": "alters"}, {"uid": "y7b", "username": "y7b"}]');
SELECT push('user', '[{"uid": "y8", "username": "y8", "nickname": "pushes"}, {"uid": "y8b", "username": "y8b"}]');
SELECT push('user', '[{"uid": "y9", "username": "y9", "nickname": "catches"}, {"uid": "y9b", "username": "y9b"}]');
SELECT username, nickname, title FROM uds.users WHERE username LIKE 'y%' OR username = 'inner' ORDER BY 1;
TABLE torn;
-- left out: neither stored nor counted
SELECT push('department', '[{"uid": "stays"}]');
SELECT push('user', '[{"uid": "y3", "nickname": "skips", "title": "t"}, {"uid": "y5b", "nickname": "fine"}, {"uid": "y10", "username": "y10", "nickname": "skips", "departments": ["stays"]},
	{"uid": "y11", "username": "y11", "departments": ["stays"]}]');
SELECT username, nickname, title FROM uds.users WHERE username IN ('y3', 'y5b') ORDER BY 1;
SELECT uid, action, after - '{user_id,department_id,source_id,main_department_id}'::text[] AS after FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY seq;
SELECT uid, data ->> 'nickname' AS nickname FROM uds.records WHERE uid IN ('y3', 'y10', 'y11') ORDER BY 1;
CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER stay BEFORE DELETE ON uds.users FOR EACH ROW WHEN (OLD.username = 'y11') EXECUTE FUNCTION stay();
SELECT push('user', '[{"uid": "y11", "isDeleted": true}, {"uid": "y5b", "isDeleted": true}]');
SELECT username, (SELECT count(*) FROM uds.department_members m WHERE m.user_id = u.id) AS departments FROM uds.users u WHERE username IN ('y11', 'y5b') ORDER BY 1;
SELECT resource, uid, action FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY seq;
DROP TRIGGER stay ON uds.users;
CREATE TRIGGER stay BEFORE DELETE OR INSERT ON uds.departments FOR EACH ROW EXECUTE FUNCTION stay();
SELECT push('department', '[{"uid": "stays", "isDeleted": true}, {"uid": "never"}]');
SELECT uid, action, before, after FROM uds.changes WHERE task_id = (SELECT max(id) FROM uds.tasks) ORDER BY seq;
SELECT count(*) AS members FROM uds.department_members m JOIN uds.users u ON u.id = m.user_id WHERE username = 'y11';
SELECT uid, deleted FROM uds.records WHERE data_type = 'department' AND uid IN ('stays', 'never') ORDER BY 1;
DROP TRIGGER stay ON uds.departments;
DROP TRIGGER misbehave ON uds.users;
TABLE torn;

--
-- Nothing but bad records: ten thousand error rows are kept, all are counted
--
SELECT r -> 'code' AS code, r #> '{result,0,detail,count}' AS count, jsonb_array_length(r #> '{result,0,detail,failedRecords}') AS shown
FROM uds_push((SELECT jsonb_build_object('dataType', 'user', 'records', jsonb_agg(jsonb_build_object('nickname', i))) FROM generate_series(1, 100000) AS i)) AS r;
SELECT status, fetched, created, failed, (SELECT count(*) FROM uds.task_errors e WHERE e.task_id = t.id) AS errors FROM uds.tasks t ORDER BY id DESC LIMIT 1;
-- the same of those that the database refuses, for a value and for a constraint
ALTER TABLE uds.users ADD COLUMN age integer CHECK (age > 0);
SELECT count(*) FROM push('user', (SELECT jsonb_agg(jsonb_build_object('uid', 'z' || i, 'age', CASE i % 3 WHEN 0 THEN 'old' WHEN 1 THEN '-1' ELSE '1' END)) FROM generate_series(1, 6000) AS i));
SELECT status, fetched, created, failed FROM uds.tasks ORDER BY id DESC LIMIT 1;
SELECT sqlstate, count(*), count(DISTINCT uid), bool_and(uid = record ->> 'uid') AS same_record FROM uds.task_errors WHERE task_id = (SELECT max(id) FROM uds.tasks) GROUP BY 1 ORDER BY 1;
SELECT count(*), min(age), max(age) FROM uds.users WHERE age IS NOT NULL;
TABLE torn;
-- a name that is far too long is not repeated whole
SELECT uds_push(jsonb_build_object('dataType', big('x'), 'records', '[{"uid":"1"}]'::jsonb));
SELECT uds_push(jsonb_build_object('dataType', 'user', 'sourceName', 'ü' || big('x'), 'records', '[{"uid":"1"}]'::jsonb));

-- and the next push is none the worse
SELECT push('user', '[{"uid": "last", "username": "last"}]');
\c postgres
DROP DATABASE uds_bad_input;
