-- reconcile.sql: records handed to us.

CREATE FUNCTION @extschema@.uds_push(data jsonb)
RETURNS jsonb
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_push';
REVOKE ALL ON FUNCTION @extschema@.uds_push FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_push IS 'takes {"dataType", "records", "matchKey", "sourceName"} in the current transaction and returns what became of each';

CREATE FUNCTION uds.record_error(record jsonb, data_type text)
RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'uds_record_error';
REVOKE ALL ON FUNCTION uds.record_error(jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION uds.record_error(jsonb, text) IS 'what is wrong with members of a record that become no columns; NULL if nothing';

CREATE FUNCTION uds.listed(list jsonb, fold boolean)
RETURNS TABLE (uid_key text, ord bigint, main_ord bigint, is_owner boolean, is_choice boolean)
LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 2
AS 'MODULE_PATHNAME', 'uds_listed';
REVOKE ALL ON FUNCTION uds.listed(jsonb, boolean) FROM PUBLIC;
COMMENT ON FUNCTION uds.listed(jsonb, boolean) IS 'departments in the list of a user''s record: uid, first place, first place where it is called main, whether the user leads it, whether it is the one to be main';

CREATE FUNCTION uds.main_stands(list jsonb, main text, fold boolean)
RETURNS boolean
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'uds_main_stands';
REVOKE ALL ON FUNCTION uds.main_stands(jsonb, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION uds.main_stands(jsonb, text, boolean) IS 'whether the list of a user''s record leaves the department with this uid, or none, the main one';
