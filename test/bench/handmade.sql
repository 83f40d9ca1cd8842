-- What somebody would write who needs this once: the files into the tables,
-- set by set, in one transaction.  It notices neither who left nor which
-- memberships ended, keeps no history, and one bad record fails it all.
--
-- :departments and :users are files with one JSON object a line.
BEGIN;

-- what uds takes for its tasks, too
SET LOCAL work_mem = '16MB';

CREATE TEMP TABLE new_departments (doc jsonb);
CREATE TEMP TABLE new_users (doc jsonb);

-- As CSV with quotes and delimiters that JSON cannot contain, because COPY's
-- own format would take JSON's backslashes for its own.
COPY new_departments FROM :'departments' (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02');
COPY new_users FROM :'users' (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02');
ANALYZE new_departments, new_users;

INSERT INTO departments AS d (uid, title, sort)
SELECT doc ->> 'id', doc ->> 'name', (doc ->> 'order')::bigint
FROM new_departments
ON CONFLICT (uid) DO UPDATE
SET title = excluded.title, sort = excluded.sort, updated_at = now()
WHERE (d.title, d.sort) IS DISTINCT FROM (excluded.title, excluded.sort);

UPDATE departments d
SET parent_id = p.id
FROM new_departments n
JOIN departments p ON p.uid = n.doc ->> 'parent'
WHERE d.uid = n.doc ->> 'id' AND d.parent_id IS DISTINCT FROM p.id;

UPDATE departments d
SET is_leaf = NOT d.is_leaf
WHERE d.is_leaf = EXISTS (SELECT FROM departments c WHERE c.parent_id = d.id);

INSERT INTO users AS u (uid, username, nickname, email, phone, avatar, title, main_department_id)
SELECT n.doc ->> 'id', n.doc ->> 'login', n.doc ->> 'name', n.doc ->> 'mail',
	   translate(n.doc ->> 'mobile', ' -', ''), n.doc ->> 'picture', n.doc ->> 'job', d.id
FROM new_users n
LEFT JOIN departments d
	   ON d.uid = coalesce(jsonb_path_query_first(n.doc, '$.departments[*] ? (@.main == true).id'),
						   n.doc #> '{departments,0,id}') #>> '{}'
ON CONFLICT (uid) DO UPDATE
SET username = excluded.username, nickname = excluded.nickname, email = excluded.email,
	phone = excluded.phone, avatar = excluded.avatar, title = excluded.title,
	main_department_id = excluded.main_department_id, updated_at = now()
WHERE (u.username, u.nickname, u.email, u.phone, u.avatar, u.title, u.main_department_id)
	  IS DISTINCT FROM
	  (excluded.username, excluded.nickname, excluded.email, excluded.phone, excluded.avatar, excluded.title,
	   excluded.main_department_id);

INSERT INTO department_members AS m (department_id, user_id, is_owner)
SELECT d.id, u.id, coalesce((e.place ->> 'leader')::boolean, false)
FROM new_users n
CROSS JOIN LATERAL jsonb_array_elements(n.doc -> 'departments') AS e (place)
JOIN users u ON u.uid = n.doc ->> 'id'
JOIN departments d ON d.uid = e.place ->> 'id'
ON CONFLICT (department_id, user_id) DO UPDATE
SET is_owner = excluded.is_owner
WHERE m.is_owner <> excluded.is_owner;

COMMIT;
