-- resources.sql: what records become: users and departments, tables filled by
-- mapping, and what functions make of them.

CREATE TABLE uds.resources
(
	name		text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
	accepts		text[] NOT NULL CHECK (accepts <> '{}' AND accepts <@ '{user,department}'),
	target		regclass,
	key			text,
	columns		jsonb,
	apply		text,
	after		text[] NOT NULL DEFAULT '{}',
	level		integer NOT NULL,
	owner		name NOT NULL DEFAULT current_user,
	builtin		boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE uds.resources IS 'what records become, in order; see uds_map_table() and uds_register_resource()';
COMMENT ON COLUMN uds.resources.accepts IS 'types of records that it takes';
COMMENT ON COLUMN uds.resources.target IS 'the table that is written; NULL where a function does it';
COMMENT ON COLUMN uds.resources.key IS 'the column of the table that tells its rows apart';
COMMENT ON COLUMN uds.resources.columns IS 'of a mapped table: column to expression over the record';
COMMENT ON COLUMN uds.resources.apply IS 'the function that is called once per task, with its argument';
COMMENT ON COLUMN uds.resources.after IS 'resources that come before it';
COMMENT ON COLUMN uds.resources.level IS 'its place in the order: later than all with a smaller number';
COMMENT ON COLUMN uds.resources.owner IS 'the role that registered it; it takes part where that role may act as the owner of the source';

INSERT INTO uds.resources (name, accepts, target, key, after, level, builtin)
VALUES ('departments', '{department}', 'uds.departments', 'id', '{}', 0, true),
	   ('users', '{user}', 'uds.users', 'id', '{departments}', 1, true);

-- Only exceptions are kept: a record that a resource took is in no list.
CREATE TABLE uds.unapplied_records
(
	resource	text NOT NULL REFERENCES uds.resources (name) ON DELETE CASCADE,
	record_id	bigint NOT NULL,
	source_id	bigint NOT NULL REFERENCES uds.source_settings (id) ON DELETE CASCADE,
	policy		text,
	PRIMARY KEY (resource, record_id)
);
COMMENT ON TABLE uds.unapplied_records IS 'records that a registered resource refused: it gets them again with the next task of the source';
COMMENT ON COLUMN uds.unapplied_records.policy IS 'what should have become of its row, if the record has left';

CREATE FUNCTION @extschema@.uds_register_resource(name text, accepts text[],
	apply regprocedure, after text[] DEFAULT '{}')
RETURNS void
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_register_resource';
REVOKE ALL ON FUNCTION @extschema@.uds_register_resource FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_register_resource IS 'has a function called with the changed records of each task; registering a name again replaces';

CREATE FUNCTION @extschema@.uds_map_table(name text, target regclass, accepts text,
	key text, columns jsonb)
RETURNS void
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_map_table';
REVOKE ALL ON FUNCTION @extschema@.uds_map_table FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_map_table IS 'has a table filled from records: a row for each, found by its key, columns by expressions; mapping a name again replaces';

CREATE FUNCTION @extschema@.uds_drop_resource(name text)
RETURNS void
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_drop_resource';
REVOKE ALL ON FUNCTION @extschema@.uds_drop_resource FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_drop_resource IS 'forgets a mapped table or a registered function; rows stay';

CREATE FUNCTION @extschema@.uds_task_records(task bigint)
RETURNS TABLE (uid text, data jsonb, before jsonb, deleted boolean, pk text, source text, data_type text)
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	IF to_regclass('pg_temp.uds_applying') IS NULL THEN
		RAISE EXCEPTION 'no records are being handed out'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				  HINT = 'uds_task_records() is for functions registered with uds_register_resource(), while they run.';
	END IF;
	RETURN QUERY
	SELECT a.uid, a.data, a.before, a.deleted, a.pk, a.source, a.data_type
	FROM pg_temp.uds_applying a
	WHERE a.task_id = uds_task_records.task
	ORDER BY a.n;
END;
$$;
REVOKE ALL ON FUNCTION @extschema@.uds_task_records FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_task_records IS 'for a registered function while it runs: the records that it is given';
