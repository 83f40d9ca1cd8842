-- catalog.sql: functions that register sources; the source that pushes go to.

CREATE FUNCTION @extschema@.uds_create_source(name text, type text,
	options jsonb DEFAULT '{}', title text DEFAULT NULL,
	enabled boolean DEFAULT true, match_keys text[] DEFAULT '{}',
	on_deleted text DEFAULT 'delete', on_missing text DEFAULT 'disable',
	guard_percent numeric DEFAULT 20, guard_min integer DEFAULT 10,
	priority integer DEFAULT 100, columns text[] DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_create_source';
REVOKE ALL ON FUNCTION @extschema@.uds_create_source FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_create_source IS 'registers a source and returns its id';

CREATE FUNCTION @extschema@.uds_alter_source(name text, type text DEFAULT NULL,
	options jsonb DEFAULT NULL, title text DEFAULT NULL,
	enabled boolean DEFAULT NULL, match_keys text[] DEFAULT NULL,
	on_deleted text DEFAULT NULL, on_missing text DEFAULT NULL,
	guard_percent numeric DEFAULT NULL, guard_min integer DEFAULT NULL,
	priority integer DEFAULT NULL, columns text[] DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_alter_source';
REVOKE ALL ON FUNCTION @extschema@.uds_alter_source FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_alter_source IS 'changes a source; NULL leaves a setting, options are merged key by key, a null value removes the key';

CREATE FUNCTION @extschema@.uds_drop_source(name text, keep_data boolean DEFAULT true)
RETURNS void
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_drop_source';
REVOKE ALL ON FUNCTION @extschema@.uds_drop_source FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_drop_source IS 'forgets a source; its rows stay and its memberships become hand-made, or with keep_data => false the rows that only it brought go';

CREATE FUNCTION @extschema@.uds_arm(source text DEFAULT NULL)
RETURNS integer
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_arm';
REVOKE ALL ON FUNCTION @extschema@.uds_arm FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_arm IS 'lets a source be read from this database, a copy of the one it was created in, or, without an argument, all sources of the caller; returns how many were not armed before';

CREATE FUNCTION @extschema@.uds_register_source_type(name text, manifest jsonb DEFAULT NULL,
	pull regprocedure DEFAULT NULL, title text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_register_source_type';
REVOKE ALL ON FUNCTION @extschema@.uds_register_source_type FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_register_source_type IS 'adds a kind of sources, read by a manifest or by a function, or replaces one that was added; who may call this is trusted with the secrets of all sources of such types';

CREATE FUNCTION @extschema@.uds_drop_source_type(name text)
RETURNS void
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_drop_source_type';
REVOKE ALL ON FUNCTION @extschema@.uds_drop_source_type FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_drop_source_type IS 'forgets a kind of sources that was added and that no source is of any more';

INSERT INTO uds.source_types (name, title, builtin)
VALUES ('push', 'Records pushed to us', true),
	   ('http', 'An HTTP service, read by a manifest in the options', true),
	   ('sql', 'Queries in this database', true);

INSERT INTO uds.source_settings (name, type, title, owner, armed_in)
SELECT 'api', 'push', 'Pushed records that name no source', current_user, i.id
FROM uds.installation i;

CREATE FUNCTION uds.replace_api()
RETURNS trigger
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_replace_api';
REVOKE ALL ON FUNCTION uds.replace_api() FROM PUBLIC;
COMMENT ON FUNCTION uds.replace_api() IS 'lets a restored source "api" take the place of the one that is there from the start';

CREATE TRIGGER replace_api BEFORE INSERT ON uds.source_settings
	FOR EACH ROW WHEN (NEW.name = 'api')
	EXECUTE FUNCTION uds.replace_api();

CREATE AGGREGATE uds.merge_records(jsonb)
(
	sfunc = pg_catalog.jsonb_concat,
	stype = jsonb
);
REVOKE ALL ON FUNCTION uds.merge_records(jsonb) FROM PUBLIC;
COMMENT ON AGGREGATE uds.merge_records(jsonb) IS 'lays records over one another, the last one on top';
