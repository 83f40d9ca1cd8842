-- Records: uid, absent, null and "", which columns a record sets, which
-- records are refused
CREATE DATABASE uds_contract_records;
\c uds_contract_records
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
--
-- uid: a non-empty string or an integer, its digits as they came
--
SELECT push('user', '[{"uid": "a"}, {"uid": "A"}, {"uid": " a"}, {"uid": 9007199254740993},
	{"uid": 123456789012345678901234567890}, {"uid": -7}, {"uid": "007"}, {"uid": "ü"}]');
SELECT push('user', '[{"username": "none"}, {"uid": null}, {"uid": ""}, {"uid": 1.5}, {"uid": 1.0}, {"uid": true},
	{"uid": {"id": 1}}, {"uid": ["a"]}, "a", 1, null, [], {"uid": "good"}]');
SELECT uid FROM uds.records ORDER BY uid COLLATE "C";
-- a string and a number with the same digits are one uid, and so for departments, apart from users
SELECT push('user', '[{"uid": "9007199254740993", "nickname": "by string"}]');
SELECT push('department', '[{"uid": "a"}]');
SELECT data_type, uid, data ->> 'nickname' AS nickname FROM uds.records WHERE uid IN ('a', '9007199254740993') ORDER BY 1, 2;
-- longer than any index takes
SELECT uds_push(jsonb_build_object('dataType', 'user', 'records', jsonb_build_array(
	jsonb_build_object('uid', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) AS i)),
	jsonb_build_object('uid', 'good', 'nickname', 'after a long one'),
	jsonb_build_object('uid', 'far', 'departments', jsonb_build_array((SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) AS i))))))
	#> '{result,0,detail}' #- '{failedRecords,0,record}';
SELECT count(*) FROM uds.records WHERE uid IN ('good', 'far');
-- the same uid twice: the later record replaces the earlier whole, both succeed
SELECT uds_push('{"dataType": "user", "records": [{"uid": "twice", "nickname": "first", "title": "gone"}, {"uid": "other"},
	{"uid": "twice", "nickname": "second"}]}') #> '{result,0,detail}' AS reply;
SELECT r.uid, r.data, u.nickname, u.title FROM uds.users u
JOIN uds.record_resources l ON l.resource = 'users' AND l.resource_pk = u.id::text
JOIN uds.records r ON r.id = l.record_id WHERE r.uid = 'twice';
SELECT fetched, created FROM uds.tasks ORDER BY id DESC LIMIT 1;

--
-- absent leaves alone, null clears, "" clears what is unique
--
SELECT push('user', '[{"uid": "v", "username": "v", "nickname": "V", "email": "v@x", "phone": "1", "avatar": "http://x/v", "title": "t"}]');
SELECT username, nickname, email, phone, avatar, title FROM uds.users WHERE avatar = 'http://x/v';
SELECT push('user', '[{"uid": "v"}]');
SELECT username, nickname, email, phone, avatar, title FROM uds.users WHERE avatar = 'http://x/v';
SELECT push('user', '[{"uid": "v", "nickname": "", "title": "", "username": "", "email": "", "phone": ""}]');
SELECT username, nickname, email, phone, avatar, title FROM uds.users WHERE avatar = 'http://x/v';
SELECT push('user', '[{"uid": "v", "nickname": null, "title": null, "username": "v"}]');
SELECT username, nickname, email, phone, avatar, title FROM uds.users WHERE avatar = 'http://x/v';
SELECT push('user', '[{"uid": "v", "username": null}]');
SELECT username, nickname, email, phone, avatar, title FROM uds.users WHERE avatar = 'http://x/v';
-- several people without: "" is not a value that only one may have
SELECT push('user', '[{"uid": "e1", "email": "", "phone": ""}, {"uid": "e2", "email": "", "phone": ""}]');
-- a department's title, absent on creation, is its uid; "" is a title
SELECT push('department', '[{"uid": "d1"}, {"uid": "d2", "title": null}, {"uid": "d3", "title": ""}, {"uid": "d4", "title": "Four", "sort": 4294967295}]');
SELECT push('department', '[{"uid": "d4", "sort": null}, {"uid": "d1", "sort": 3}]');
SELECT r.uid, d.title, d.sort FROM uds.departments d
JOIN uds.record_resources l ON l.resource = 'departments' AND l.resource_pk = d.id::text
JOIN uds.records r ON r.id = l.record_id WHERE r.uid LIKE 'd%' ORDER BY 1;

--
-- keys that are no columns stay in the record; some columns are out of reach
--
ALTER TABLE uds.users ADD COLUMN initials text GENERATED ALWAYS AS (left(nickname, 1)) STORED;
ALTER TABLE uds.users ADD COLUMN serial_no bigint GENERATED ALWAYS AS IDENTITY;
SELECT push('user', '[{"uid": "k", "username": "k", "nickname": "Kay", "shoe size": 43, "badge": {"color": "red"},
	"id": 4711, "protected": true, "created_at": "2001-01-01", "updated_at": "2001-01-01", "main_department_id": 1,
	"initials": "X", "serial_no": 4711}]');
SELECT id = 4711 AS id, protected, created_at < '2002-01-01' AS created_at, updated_at < '2002-01-01' AS updated_at,
	main_department_id, initials, serial_no = 4711 AS serial_no FROM uds.users WHERE username = 'k';
SELECT data -> 'shoe size' AS size, data -> 'badge' AS badge, data -> 'protected' AS protected FROM uds.records WHERE uid = 'k';
SELECT push('user', '[{"uid": "k", "id": 4712, "protected": true, "created_at": null, "main_department_id": 2, "initials": null}]');
SELECT id = 4712 AS id, protected, created_at IS NULL AS created_at, main_department_id, initials FROM uds.users WHERE username = 'k';
SELECT push('department', '[{"uid": "k", "title": "K", "id": 4711, "parent_id": 1, "is_leaf": false, "created_at": "2001-01-01"}]');
SELECT id = 4711 AS id, parent_id, is_leaf, created_at < '2002-01-01' AS created_at FROM uds.departments WHERE title = 'K';

--
-- columns of one's own, by the rules of their types
--
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN level AS integer NOT NULL CHECK (VALUE BETWEEN 1 AND 9);
CREATE DOMAIN region AS text DEFAULT 'EU' NOT NULL;
ALTER TABLE uds.users
	ADD COLUMN age integer CHECK (age > 0),
	ADD COLUMN salary numeric(10,2),
	ADD COLUMN born date,
	ADD COLUMN seen timestamptz,
	ADD COLUMN tags text[],
	ADD COLUMN scores integer[],
	ADD COLUMN meta jsonb,
	ADD COLUMN mood mood,
	ADD COLUMN level level DEFAULT 1,
	ADD COLUMN region region,
	ADD COLUMN code varchar(4),
	ADD COLUMN remote boolean NOT NULL DEFAULT false,
	ADD COLUMN token uuid,
	ADD COLUMN "Full Name" text,
	ADD COLUMN "order" integer;
SELECT push('user', '[{"uid": "c", "username": "c", "age": 30, "salary": 1234.5, "born": "1990-02-28", "tags": ["a", "b c", null],
	"scores": [3, 1, 2], "meta": {"a": [1, null], "b": null}, "mood": "happy", "level": 7, "region": "US", "code": "abcd", "remote": true,
	"seen": "2026-01-02T03:04:05+02:00", "token": "00000000-0000-0000-0000-00000000000a", "Full Name": "C. C.", "order": 5}]');
\x on
SELECT age, salary, born = '1990-02-28' AS born, seen = '2026-01-02 01:04:05Z' AS seen, tags, scores, meta, mood, level, region, code, remote, token, "Full Name", "order"
FROM uds.users WHERE username = 'c';
SELECT action, after - '{seen}'::text[] AS after FROM uds.changes WHERE uid = 'c';
\x off
-- as text they are as good
SELECT push('user', '[{"uid": "c", "age": "31", "salary": "7", "remote": "off"}]');
SELECT age, salary, remote, level, region FROM uds.users WHERE username = 'c';
SELECT push('user', '[{"uid": "c", "age": null, "tags": null, "meta": null, "mood": null, "scores": []}]');
SELECT age, tags, meta, mood, scores FROM uds.users WHERE username = 'c';
-- left to their defaults
SELECT push('user', '[{"uid": "c2", "username": "c2"}]');
SELECT age, level, region, remote FROM uds.users WHERE username = 'c2';
-- a column of departments as well
ALTER TABLE uds.departments ADD COLUMN cost_center text NOT NULL DEFAULT 'none';
SELECT push('department', '[{"uid": "cc1", "cost_center": "4711"}, {"uid": "cc2"}]');
SELECT title, cost_center FROM uds.departments WHERE title LIKE 'cc%' ORDER BY 1;
-- more columns than a function takes arguments
BEGIN;
SELECT format('ALTER TABLE uds.users %s', string_agg('ADD COLUMN c' || i || ' integer', ', ')) AS statement FROM generate_series(1, 120) AS i \gset
:statement;
SELECT push('user', '[{"uid": "wide", "username": "wide", "c1": 1}]');
SELECT push('user', '[{"uid": "wide", "c1": 2, "c120": 3}]');
SELECT c1, c120 FROM uds.users WHERE username = 'wide';
ROLLBACK;

--
-- refused records: with SQLSTATE and message, the others commit
--
CREATE TABLE countries (code text PRIMARY KEY);
INSERT INTO countries VALUES ('DE');
ALTER TABLE uds.users ADD COLUMN country text REFERENCES countries, ADD COLUMN desk text UNIQUE;
CREATE FUNCTION no_robots() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.nickname = 'robot' THEN
		RAISE EXCEPTION 'no robots here' USING ERRCODE = 'P0042';
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER no_robots BEFORE INSERT OR UPDATE ON uds.users FOR EACH ROW EXECUTE FUNCTION no_robots();
SELECT push('user', '[{"uid": "r01", "username": "r01", "desk": "7"}, {"uid": "r02", "username": "r02"}]');
SELECT push('user', '[
	{"uid": "r01", "title": "still fine"},
	{"uid": "r02", "title": "half", "age": -1},
	{"uid": "r03", "username": "r03", "age": "old"},
	{"uid": "r04", "username": "r04", "age": 99999999999},
	{"uid": "r05", "username": "r05", "born": "2026-02-30"},
	{"uid": "r06", "username": "r06", "mood": "grumpy"},
	{"uid": "r07", "username": "r07", "level": 10},
	{"uid": "r08", "username": "r08", "level": null},
	{"uid": "r09", "username": "r09", "remote": null},
	{"uid": "r10", "username": "r10", "code": "abcde"},
	{"uid": "r11", "username": "r11", "scores": ["x"]},
	{"uid": "r12", "username": "r12", "country": "XX"},
	{"uid": "r13", "username": "r13", "desk": "7"},
	{"uid": "r14", "username": "r01"},
	{"uid": "r15", "username": "r15", "nickname": "robot"},
	{"uid": "r16", "username": "r16", "isDeleted": "perhaps"},
	{"uid": "r17", "username": "r17", "enabled": {}},
	{"uid": "r18", "username": "r18", "country": "DE"}]');
SELECT username, title, age, country FROM uds.users WHERE username LIKE 'r__' ORDER BY 1;
-- what was refused is not remembered either: never half of a record
SELECT uid, data FROM uds.records WHERE uid LIKE 'r__' ORDER BY uid;
SELECT status, message, fetched, created, updated, failed FROM uds.tasks ORDER BY id DESC LIMIT 1;
-- and refused again until it is right
SELECT push('user', '[{"uid": "r02", "age": -1}]');
SELECT push('user', '[{"uid": "r02", "age": 1}]');
-- the same for departments; who belongs to the refused one waits
ALTER TABLE uds.departments ADD CHECK (sort < 100);
SELECT push('department', '[{"uid": "b1", "sort": 100}, {"uid": "b2", "sort": 99, "parentUid": "b1"}, {"uid": "b3", "sort": "x"}]');
SELECT push('user', '[{"uid": "r18", "departments": ["b1", "b2"]}]');
SELECT push('department', '[{"uid": "b1", "sort": 1}]');
SELECT d.title, p.title AS parent, u.username FROM uds.departments d
LEFT JOIN uds.departments p ON p.id = d.parent_id
LEFT JOIN uds.department_members m ON m.department_id = d.id LEFT JOIN uds.users u ON u.id = m.user_id
WHERE d.title LIKE 'b_' ORDER BY 1;
-- a membership that is refused leaves the rest of its record
CREATE FUNCTION not_in_b2() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'b2 is closed'; END $$;
SELECT id AS b2 FROM uds.departments WHERE title = 'b2' \gset
CREATE TRIGGER not_in_b2 BEFORE INSERT ON uds.department_members FOR EACH ROW WHEN (NEW.department_id = :b2) EXECUTE FUNCTION not_in_b2();
SELECT uds_push('{"dataType": "user", "records": [{"uid": "r01", "title": "in one", "departments": ["b1", "b2"]}, {"uid": "r02", "title": "fine"}]}') #- '{task}' AS reply;
SELECT u.username, u.title, d.title AS department FROM uds.users u JOIN uds.department_members m ON m.user_id = u.id
JOIN uds.departments d ON d.id = m.department_id WHERE username = 'r01';
\c postgres
DROP DATABASE uds_contract_records;
