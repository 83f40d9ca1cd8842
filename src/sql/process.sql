-- process.sql: functions that queue, watch and cancel tasks.

CREATE FUNCTION @extschema@.uds_sync(source text, mode text DEFAULT 'auto',
	wait boolean DEFAULT false, force boolean DEFAULT false)
RETURNS bigint
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_sync';
REVOKE ALL ON FUNCTION @extschema@.uds_sync FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_sync IS 'queues a sync of a source and returns the id of its task; it begins when the transaction commits, with wait => true at once and on its own';

CREATE FUNCTION @extschema@.uds_retry(task bigint, wait boolean DEFAULT false)
RETURNS bigint
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_retry';
REVOKE ALL ON FUNCTION @extschema@.uds_retry FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_retry IS 'runs a failed, partial or canceled task again, as a new one, whose id it returns';

CREATE FUNCTION @extschema@.uds_preview(source text, wait boolean DEFAULT true)
RETURNS bigint
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_preview';
REVOKE ALL ON FUNCTION @extschema@.uds_preview FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_preview IS 'runs a sync to its end and rolls it back; its change set stays in uds.changes, to be read and approved';

CREATE FUNCTION @extschema@.uds_approve(task bigint, wait boolean DEFAULT false)
RETURNS bigint
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_approve';
REVOKE ALL ON FUNCTION @extschema@.uds_approve FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_approve IS 'applies the change set of a blocked task or a preview, as a new task, whose id it returns; blocks again if it would come out differently';

CREATE FUNCTION @extschema@.uds_reject(task bigint)
RETURNS void
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_reject';
REVOKE ALL ON FUNCTION @extschema@.uds_reject FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_reject IS 'decides against a blocked task, which becomes canceled';

CREATE FUNCTION @extschema@.uds_undo(task bigint, wait boolean DEFAULT false)
RETURNS bigint
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_undo';
REVOKE ALL ON FUNCTION @extschema@.uds_undo FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_undo IS 'puts back what a task changed, as a new task, whose id it returns; rows changed since are reported and left alone';

CREATE FUNCTION @extschema@.uds_wait(task bigint, timeout interval DEFAULT NULL)
RETURNS text
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_wait';
REVOKE ALL ON FUNCTION @extschema@.uds_wait FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_wait IS 'waits until a task has ended, or for the timeout, and returns its status';

CREATE FUNCTION @extschema@.uds_cancel(task bigint)
RETURNS boolean
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_cancel';
REVOKE ALL ON FUNCTION @extschema@.uds_cancel FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_cancel IS 'cancels a task that waits or runs; false if it has ended already';

CREATE FUNCTION @extschema@.uds_test_source(name text)
RETURNS TABLE (step text, ok boolean, detail text, elapsed_ms integer)
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_test_source';
REVOKE ALL ON FUNCTION @extschema@.uds_test_source FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_test_source IS 'tries a source out step by step, writing nothing';

CREATE FUNCTION @extschema@.uds_health(OUT launcher_pid integer, OUT workers integer,
	OUT queued bigint, OUT running bigint,
	OUT oldest_queued timestamptz, OUT last_error text)
RETURNS record
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_health';
REVOKE ALL ON FUNCTION @extschema@.uds_health FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.uds_health IS 'whether the launcher runs, workers of the whole server, and the tasks of this database';

CREATE FUNCTION uds.progress_rows()
RETURNS TABLE (task_id bigint, source_id bigint, pid integer, phase text,
	requests_done bigint, requests_total bigint, records bigint, bytes bigint,
	started_at timestamptz, throttled_ms bigint)
LANGUAGE c VOLATILE
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'uds_progress_rows';
REVOKE ALL ON FUNCTION uds.progress_rows FROM PUBLIC;
COMMENT ON FUNCTION uds.progress_rows IS 'what uds.progress shows; who reads that needs EXECUTE on this';

CREATE VIEW uds.progress AS
SELECT p.task_id, s.name AS source, p.pid, p.phase,
	   p.requests_done, p.requests_total, p.records, p.bytes, p.started_at, p.throttled_ms
FROM uds.progress_rows() AS p
LEFT JOIN uds.source_settings s ON s.id = p.source_id;
COMMENT ON VIEW uds.progress IS 'one row per running task of this database';
COMMENT ON COLUMN uds.progress.pid IS 'process id of the worker';
COMMENT ON COLUMN uds.progress.phase IS 'starting, fetching, mapping, applying or finishing';
COMMENT ON COLUMN uds.progress.requests_total IS 'as far as known; grows while more is found to be read';
COMMENT ON COLUMN uds.progress.records IS 'records mapped so far';
COMMENT ON COLUMN uds.progress.throttled_ms IS 'milliseconds for which the service asked us to wait, the present wait included';
