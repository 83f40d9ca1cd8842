-- reconcile.sql: records handed to us.

CREATE FUNCTION @extschema@.uds_push(data jsonb)
RETURNS jsonb
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_push';
REVOKE ALL ON FUNCTION @extschema@.uds_push FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_push IS 'takes {"dataType", "records", "matchKey", "sourceName"} in the current transaction and returns what became of each';
