-- Records and fields of a manifest's stream: uds.map_page() and uds.map_record()
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS uds;
RESET client_min_messages;
\set SHOW_CONTEXT never

-- one expression on one record
CREATE FUNCTION pg_temp.field(raw jsonb, expression jsonb) RETURNS jsonb
LANGUAGE sql
AS $$SELECT uds.map_record(raw, jsonb_build_object('fields', jsonb_build_object('x', expression)), '{"department": 7}')$$;

-- absent, null and "" are three things
SELECT raw, pg_temp.field(raw, '"$.a"') AS path,
	   pg_temp.field(raw, '{"text": "$.a"}') AS text,
	   pg_temp.field(raw, '{"all": "$.a[*]"}') AS "all",
	   pg_temp.field(raw, '{"coalesce": ["$.b", "$.a"]}') AS "coalesce",
	   pg_temp.field(raw, '{"template": "<{$.a}>"}') AS template
FROM (VALUES ('{}'::jsonb), ('{"a": null}'), ('{"a": ""}'), ('{"a": []}'), ('{"a": "v"}')) AS v (raw);
SELECT raw, pg_temp.field(raw, '"10 - $.a"') AS minus,
	   pg_temp.field(raw, '{"map": "$.a", "values": {"1": true, "": false}, "default": 0}') AS map,
	   pg_temp.field(raw, '{"map": "$.a", "values": {"1": true}}') AS map_only,
	   pg_temp.field(raw, '{"each": "$.a", "fields": {"y": "$"}}') AS each
FROM (VALUES ('{}'::jsonb), ('{"a": null}'), ('{"a": 1}'), ('{"a": 2}')) AS v (raw);

-- numbers keep their digits
SELECT pg_temp.field(raw, '"$.id"') AS path, pg_temp.field(raw, '{"text": "$.id"}') AS text,
	   pg_temp.field(raw, '{"template": "u{$.id}"}') AS template,
	   pg_temp.field(raw, '"$.id - 1"') AS minus
FROM (VALUES ('{"id": 12345678901234567890123}'::jsonb), ('{"id": 9223372036854775807}'),
			 ('{"id": -1.50}'), ('{"id": 1e30}')) AS v (raw);
SELECT pg_temp.field('{"order": 5}', '"4294967295 - $.order"'),
	   pg_temp.field('{"a": 7, "b": 2}', '"$.a / $.b"'),
	   pg_temp.field('{"a": 7, "b": 2}', '"$.a % $.b"'),
	   pg_temp.field('{"a": 7, "b": 2}', '"($.a + $.b) * 2"');

-- text of other things
SELECT pg_temp.field('{"a": true}', '{"text": "$.a"}'),
	   pg_temp.field('{"a": [1, {"b": "c"}]}', '{"text": "$.a"}'),
	   pg_temp.field('{"a": {"b": [1.0]}}', '{"template": "{$.a} {$.a.b}"}');

-- const, context, when
SELECT pg_temp.field('{}', '{"const": {"a": [1, "b", null]}}') AS const,
	   pg_temp.field('{}', '{"const": null}') AS const_null,
	   pg_temp.field('{}', '{"context": "department"}') AS context,
	   pg_temp.field('{}', '"$context.department"') AS variable,
	   pg_temp.field('{"a": 7}', '"$.a == $context.department"') AS compared,
	   pg_temp.field('{}', '{"context": "other"}') AS other;
SELECT uds.map_record('{}', '{"fields": {"x": {"context": "department"}, "y": "$context.department", "z": {"const": 1}}}', NULL);
SELECT pg_temp.field(raw, '{"path": "$.a", "when": "$.b == true"}') AS comparison,
	   pg_temp.field(raw, '{"path": "$.a", "when": "$.b"}') AS boolean,
	   pg_temp.field(raw, '{"path": "$.a", "when": "exists($.b) && $.a > 0"}') AS predicate
FROM (VALUES ('{"a": 1, "b": true}'::jsonb), ('{"a": 1, "b": false}'), ('{"a": 1, "b": null}'), ('{"a": 1}')) AS v (raw);

-- coalesce: the first that says something, else the last that is there
SELECT raw, pg_temp.field(raw, '{"coalesce": ["$.biz_mail", "$.email"]}') AS email,
	   pg_temp.field(raw, '{"coalesce": ["$.biz_mail", {"context": "department"}]}') AS fallback
FROM (VALUES ('{"biz_mail": "b", "email": "e"}'::jsonb), ('{"biz_mail": "", "email": "e"}'),
			 ('{"biz_mail": "", "email": null}'), ('{"biz_mail": ""}'), ('{}'), ('{"biz_mail": false}')) AS v (raw);

-- template: braces, quotes in a path, placeholders without a value
SELECT pg_temp.field(raw, '{"template": "{$.first} {$.last}"}') AS name,
	   pg_temp.field(raw, '{"template": "{$.first} {$.last}", "apply": ["trim"]}') AS trimmed,
	   pg_temp.field(raw, '{"template": "{{{$.first}} {$.\"}\"}"}') AS braces,
	   pg_temp.field(raw, '{"template": "fixed"}') AS fixed
FROM (VALUES ('{"first": "A", "last": "B", "}": "C"}'::jsonb), ('{"first": "A"}'), ('{"last": null}'), ('{}')) AS v (raw);

-- map
SELECT raw, pg_temp.field(raw, '{"map": "$.gender", "values": {"1": "male", "2": "female"}, "default": null}')
FROM (VALUES ('{"gender": "1"}'::jsonb), ('{"gender": 2}'), ('{"gender": "0"}'), ('{"gender": [1]}')) AS v (raw);

-- all
SELECT raw, pg_temp.field(raw, '{"all": "$.a[*].b"}') AS members,
	   pg_temp.field(raw, '{"all": "$.a[*] ? (@.b > 1).b"}') AS filtered
FROM (VALUES ('{"a": [{"b": 1}, {"b": 2}, {}]}'::jsonb), ('{"a": []}'), ('{"a": null}'), ('{}')) AS v (raw);

-- zip: arrays of different lengths, some absent
SELECT raw, pg_temp.field(raw, '{"zip": {"uid": "$.d[*]", "isOwner": "$.o[*]"}}')
FROM (VALUES ('{"d": [1, 2], "o": [1, 0]}'::jsonb), ('{"d": [1, 2, {"x": [3]}], "o": [1]}'), ('{"d": [1]}'),
			 ('{"o": [1], "d": []}'), ('{"d": []}'), ('{"d": null}'), ('{}')) AS v (raw);

-- each: "$" is the item, $record the whole record, nested too
SELECT pg_temp.field('{"id": 3, "list": [{"a": 3, "sub": [1, 3]}, {"a": 4, "sub": []}, {"b": 1}]}',
	'{"each": "$.list[*]", "fields": {"uid": {"text": "$.a"}, "same": "$.a == $record.id",
	  "more": {"path": "$.a + $record.id * 2", "when": "exists($.a)"},
	  "subs": {"each": "$.sub[*]", "fields": {"n": "$", "same": "$ == $record.id"}}}}');
SELECT pg_temp.field('{"list": ["a", null]}', '{"each": "$.list[*]", "fields": {"uid": "$", "c": {"context": "department"}}}');

-- apply
SELECT pg_temp.field(raw, '{"path": "$.a", "apply": ["trim"]}') AS trim,
	   pg_temp.field(raw, '{"path": "$.a", "apply": ["lower"]}') AS lower,
	   pg_temp.field(raw, '{"path": "$.a", "apply": ["trim", "upper"]}') AS upper,
	   pg_temp.field(raw, '{"path": "$.a", "apply": ["digits"]}') AS digits,
	   pg_temp.field(raw, '{"path": "$.a", "apply": ["phone"]}') AS phone
FROM (VALUES ('{"a": " +86 138-0000 x\t"}'::jsonb), ('{"a": [" Ab-1", 2, null]}'), ('{"a": 12}'), ('{"a": null}'), ('{"a": "  "}'), ('{}')) AS v (raw);

-- short cuts give what the server's jsonpath gives
WITH docs (doc) AS
(
	VALUES ('{}'::jsonb), ('{"a": 1}'), ('{"a": null, "b": null}'), ('{"a": {"b": "x"}, "b": "x"}'), ('{"a": [{"b": 1}, {"b": [2, 3]}, 4]}'),
		('{"a": [[{"b": 1}], {"b": 2}]}'), ('{"a": [], "b": 1}'), ('{"a": {"b": []}}'), ('{"a": "1", "b": 1}'),
		('{"a": 1.0, "b": 1}'), ('{"a": true, "b": false}'), ('{"a": [1, 2], "b": 2}'), ('[{"a": {"b": 1}}, [{"a": 2}]]'), ('[]'), ('{"a": {}, "b": 1}')
), paths (path) AS
(
	VALUES ('$'), ('$.a'), ('$.a.b'), ('$.a[*]'), ('$.a[*].b'), ('$.a[*].b[*]'), ('$.a[*][*]'), ('$[*].a'), ('$."a"."b"'),
		('$.a == $.b'), ('$.a != $.b'), ('$.a == 1'), ('"1" == $.a'), ('$.a == null'), ('$.a != null'), ('$.a == true'),
		('$.a.b == $.b'), ('!($.a == $.b)'), ('$.a == 1 && $.b == 1'), ('$.a == "1" || $.b == 1'), ('$.a == true && !(exists($.c) || $.b == 2)'),
		('exists($.a.b)'), ('exists($.a[*].b)'), ('$.a == 1 && $.b > 0'), ('null'), ('"x"'), ('"x".type()'), ('($.a == 1) is unknown'), ('$.a.size()'), ('$.a ? (@ == 1)'), ('strict $.a[*]'), ('$.a[0]')
), results AS
(
	SELECT doc, path, jsonb_path_query_first(doc, path::jsonpath, silent => true) AS expected,
		   pg_temp.field(jsonb_build_object('r', doc), to_jsonb(regexp_replace(regexp_replace(path, '\$', '$.r', 'g'), '^strict \$', 'strict $'))) -> 'x' AS got
	FROM docs, paths
	WHERE jsonb_typeof(doc) = 'object' AND (path !~ 'strict' OR doc @? '$.a[*]' AND jsonb_typeof(doc -> 'a') = 'array')
	UNION ALL
	SELECT doc, path, jsonb_path_query_first(doc, path::jsonpath, silent => true),
		   pg_temp.field(jsonb_build_object('r', jsonb_build_array(doc)), jsonb_build_object('each', '$.r[*]', 'fields', jsonb_build_object('y', path))) #> '{x,0,y}'
	FROM docs, paths
	WHERE path !~ 'strict'
)
SELECT count(*) AS compared, count(*) FILTER (WHERE expected IS DISTINCT FROM got) AS different FROM results;

-- a member of WeCom, and a department whose order counts the other way
CREATE TEMP TABLE streams AS
SELECT '{"records": "$.userlist[*]", "fields": {
	"uid": "$.userid", "username": "$.userid", "nickname": "$.name", "title": "$.position", "avatar": "$.avatar",
	"email": {"coalesce": ["$.biz_mail", "$.email"]}, "phone": {"path": "$.mobile", "apply": ["phone"]},
	"enabled": "!($.status == 2) && !($.enable == 0)", "isDeleted": "$.status == 5",
	"gender": {"map": "$.gender", "values": {"1": "male", "2": "female"}, "default": null},
	"departments": {"each": {"zip": {"uid": "$.department[*]", "isOwner": "$.is_leader_in_dept[*]"}}, "fields": {
		"uid": {"text": "$.uid"}, "isMain": "$.uid == $record.main_department",
		"isOwner": {"path": "$.isOwner == 1", "when": "exists($.isOwner)"}}}}}'::jsonb AS users,
	'{"records": "$.department[*]", "fields": {"uid": {"text": "$.id"}, "title": "$.name",
	"parentUid": {"map": "$.parentid", "values": {"0": null}, "default": "?"}, "sort": "4294967295 - $.order",
	"owners": {"all": "$.department_leader[*]"}}}'::jsonb AS departments;
SELECT ord, jsonb_pretty(record), error
FROM streams, uds.map_page('{"errcode":0,"errmsg":"ok","userlist":[{
	"userid":"zhangsan","name":"Zhang San","alias":"jack","english_name":"jacky",
	"department":[1,2],"order":[1,2],"is_leader_in_dept":[1,0],"main_department":1,
	"direct_leader":["lisi"],"position":"Engineer",
	"mobile":"138 0000-0000","gender":"1","email":"z@x.cn","biz_mail":"",
	"avatar":"https://example.test/0","thumb_avatar":"https://example.test/100","telephone":"020-1","address":"Guangzhou",
	"open_userid":"wo","status":1,"enable":1,"qr_code":"https://example.test",
	"external_position":"PM","external_profile":{"external_corp_name":"Ex","external_attr":[],"wechat_channels":{"nickname":"v","status":1}},
	"extattr":{"attrs":[
		{"type":0,"name":"Hobby","text":{"value":"travel"}},
		{"type":1,"name":"Card","web":{"url":"https://example.test","title":"Home"}}]}},
	{"userid":"lisi","name":"Li Si","department":[1],"status":2},
	{"userid":"wangwu","status":1}]}', users, '{"department": "1"}');
SELECT p.* FROM streams, uds.map_page('{"errcode":0,"department":[
	{"id":2,"name":"R&D","parentid":1,"order":40000000,"department_leader":["zhangsan","lisi"]},
	{"id":1,"name":"Company","parentid":0,"order":4294967295,"department_leader":[]},{"id":3}]}', departments, NULL) AS p;

-- what jsonb cannot hold spoils one record only
CREATE FUNCTION pg_temp.page(body text, records text DEFAULT '$.list[*]', fields jsonb DEFAULT '{"uid": "$.id", "n": "$.n * 1"}')
RETURNS TABLE (ord integer, record jsonb, error text)
LANGUAGE sql
AS $$SELECT * FROM uds.map_page(body, jsonb_build_object('records', records, 'fields', fields), NULL)$$;
SELECT * FROM pg_temp.page('{"list": [{"id": "a"}, {"id": "b\u0000"}, {"id": "\ud83d"}, {"id": "\ude00 c"}, {"\u0000": 1}, {"id": "z"}]}');
SELECT * FROM pg_temp.page('{"note": "\u0000 \ud800", "\ud800": 1, "list": [{"id": "a"}], "last": [{"x": "\u0000"}]}');
SELECT count(record) = CASE getdatabaseencoding() WHEN 'UTF8' THEN 1 ELSE 0 END AS as_encoding_allows FROM pg_temp.page('{"list": [{"id": "\ud83d\ude00"}]}');
-- nor does a path that fails, or something that is no object
SELECT * FROM pg_temp.page('{"list": [{"id": 1, "n": 2}, {"id": 2, "n": "two"}, {"id": 3, "n": [4]}, 5, "six", null, [], [{"id": 7}], {"id": 8}]}');
SELECT * FROM pg_temp.page('{"list": [{"n": [1]}, {"n": [1, 2]}, {"n": [{"m": "x"}]}]}', fields => '{"l": {"each": "$.n[*]", "fields": {"k": "$.m + 1"}}, "w": {"path": "$.n", "when": "$.n.size()"}}');
SELECT ord, record IS NOT NULL AS mapped, error
FROM pg_temp.page('{"list": [{"id": 1}, {"id": ' || repeat('[', 100000) || repeat(']', 100000) || '}, {"id": 3}]}');

-- where the records are
SELECT 'top' AS page, p.* FROM pg_temp.page('[{"id": 1}, {"id": 2}]', '$[*]') AS p
UNION ALL SELECT 'single', p.* FROM pg_temp.page(' {"id": 1} ', '$') AS p
UNION ALL SELECT 'single as list', p.* FROM pg_temp.page('{"list": {"id": 1}}') AS p
UNION ALL SELECT 'deep', p.* FROM pg_temp.page('{"list": [{"id": 0}], "a": {"x": {"list": []}, "b": {"list": [{"id": 1}, {"id": 2}]}}}', '$.a.b.list[*]') AS p
UNION ALL SELECT 'through an array', p.* FROM pg_temp.page('{"a": [{"list": [{"id": 1}]}, [{"list": [{"id": 9}]}], 3, {"list": [{"id": 2}]}]}', '$.a.list[*]') AS p
UNION ALL SELECT 'escaped name', p.* FROM pg_temp.page('{"\u006cist": [{"id": 1}]}') AS p
UNION ALL SELECT 'quoted step', p.* FROM pg_temp.page('{"my.list": [{"id": "a,]}\"\\"}]}', '$."my.list"[*]') AS p
UNION ALL SELECT 'filter', p.* FROM pg_temp.page('{"list": [{"id": 1}, {"id": 2}]}', '$.list[*] ? (@.id > 1)') AS p
UNION ALL SELECT 'two lists', p.* FROM pg_temp.page('{"a": [{"l": [{"id": 1}]}, {"l": [{"id": 2}, 3]}]}', '$.a[*].l[*]') AS p;
SELECT count(*) FROM pg_temp.page('{"list": []}');
SELECT count(*) FROM pg_temp.page('{"list": null}');
SELECT count(*) FROM pg_temp.page('{"list": null}', '$.list[*] ? (@.id > 1)');
SELECT count(*) FROM pg_temp.page('{"other": [1]}');
SELECT count(*) FROM pg_temp.page('"text"');
SELECT count(*) FROM pg_temp.page(NULL);
SELECT p.* FROM uds.map_page('[{"b": [1, {"c": null}], "a": ""}]', '{"records": "$[*]"}', NULL) AS p;
SELECT uds.map_record('{"a": 1}', '{}', NULL), uds.map_record(NULL, '{}', NULL), uds.map_record('{}', NULL, NULL);

-- pages that are no JSON
SELECT * FROM pg_temp.page('');
SELECT * FROM pg_temp.page('<html>');
SELECT * FROM pg_temp.page('{"list": [{"id": 1}, {"id": 2}');
SELECT * FROM pg_temp.page('{"list": [{"id": 1},]}');
SELECT * FROM pg_temp.page('{"list": [{"id": 1} {"id": 2}]}');
SELECT * FROM pg_temp.page('{"list": [{"id": oops}]}');
SELECT * FROM pg_temp.page('{"list": [{"id": 1]}]}');
SELECT * FROM pg_temp.page('{"list": [], "other": {"a": tru}}');
SELECT * FROM pg_temp.page('{"list": []} trailing');
SELECT * FROM pg_temp.page('{"list": [{"id": "1}]}');
SELECT * FROM pg_temp.page('{"list" [1]}');
SELECT * FROM pg_temp.page('{list: [1]}');
SELECT * FROM pg_temp.page('{"list": [{"id": 1}], "list": []}');
SELECT * FROM pg_temp.page('{"list": [{"id": "\u0000"}]}', '$.list[*] ? (@.id != "x")');

-- streams that are not valid name the field at fault
SELECT pg_temp.field('{}', '"$.a +"');
SELECT pg_temp.field('{}', '5');
SELECT pg_temp.field('{}', '{}');
SELECT pg_temp.field('{}', '{"paths": "$.a"}');
SELECT pg_temp.field('{}', '{"path": "$.a", "default": 1}');
SELECT pg_temp.field('{}', '{"all": "$.a", "const": 1}');
SELECT pg_temp.field('{}', '{"path": ["$.a"]}');
SELECT pg_temp.field('{}', '{"path": "$.a", "when": "$.a =="}');
SELECT pg_temp.field('{}', '{"path": "$.a", "apply": "trim"}');
SELECT pg_temp.field('{}', '{"path": "$.a", "apply": ["reverse"]}');
SELECT pg_temp.field('{}', '{"coalesce": []}');
SELECT pg_temp.field('{}', '{"coalesce": ["$.a", 1]}');
SELECT pg_temp.field('{}', '{"template": "a {$.b"}');
SELECT pg_temp.field('{}', '{"template": "a {b c}"}');
SELECT pg_temp.field('{}', '{"map": "$.a"}');
SELECT pg_temp.field('{}', '{"zip": {"a": "$.a[*]", "b": {"const": 1}}}');
SELECT pg_temp.field('{}', '{"each": {"all": "$.a"}, "fields": {}}');
SELECT pg_temp.field('{}', '{"each": "$.a"}');
SELECT pg_temp.field('{}', '{"each": "$.a", "fields": {"y": {"each": "$.b", "fields": {"z": "$["}}}}');
SELECT pg_temp.field('{}', '{"context": 1}');
SELECT uds.map_record('{}', '[]', NULL);
SELECT uds.map_record('{}', '{"fields": []}', NULL);
SELECT uds.map_record('{}', '{}', '[]');
SELECT uds.map_record('[]', '{}', NULL);
SELECT uds.map_record('{"a": "x"}', '{"fields": {"n": "$.a * 2"}}', NULL);
SELECT * FROM uds.map_page('[]', '{}', NULL);
SELECT * FROM uds.map_page('[]', '{"records": "$["}', NULL);
SELECT * FROM uds.map_page('[]', '{"records": 1}', NULL);
-- a variable that there is not is a fault of the manifest, not of a record
SELECT * FROM pg_temp.page('{"list": [{}]}', fields => '{"x": "$other.a"}');

-- one call site, another stream each time
SELECT uds.map_record('{"a": 1, "b": 2}', stream, NULL)
FROM (VALUES (1, '{"fields": {"x": "$.a"}}'::jsonb), (2, '{"fields": {"x": "$.b"}}'), (3, '{"fields": {"x": "$.b"}}'), (4, '{"fields": {"y": "$.a"}}')) AS v (n, stream)
ORDER BY n;

-- nobody but the owner
SELECT p.oid::regprocedure AS function, has_function_privilege('public', p.oid, 'EXECUTE') AS public, obj_description(p.oid) IS NOT NULL AS commented
FROM pg_proc AS p WHERE p.pronamespace = 'uds'::regnamespace AND p.proname LIKE 'map\_%' ORDER BY 1;
