-- connector.sql: what a manifest's stream says, applied to what was received.
--
-- search_path is not pinned on these functions: they are in C and resolve no
-- name, and the setting would make map_record() slower by a third.

CREATE FUNCTION uds.map_page(body text, stream jsonb, context jsonb)
RETURNS TABLE (ord integer, record jsonb, error text)
LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 100 COST 1000
AS 'MODULE_PATHNAME', 'uds_map_page';
COMMENT ON FUNCTION uds.map_page(text, jsonb, jsonb)
IS 'records of a received page, mapped as a stream of a manifest says; a faulty one comes with its error';
REVOKE ALL ON FUNCTION uds.map_page(text, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION uds.map_record(raw jsonb, stream jsonb, context jsonb)
RETURNS jsonb
LANGUAGE C IMMUTABLE PARALLEL SAFE COST 10
AS 'MODULE_PATHNAME', 'uds_map_record';
COMMENT ON FUNCTION uds.map_record(jsonb, jsonb, jsonb)
IS 'one record, mapped as a stream of a manifest says';
REVOKE ALL ON FUNCTION uds.map_record(jsonb, jsonb, jsonb) FROM PUBLIC;
