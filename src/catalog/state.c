/*-------------------------------------------------------------------------
 *
 * state.c
 *		What a read of a source noted for the next one.
 *
 * Owns the keys "state", "state_of" and "full_read_at" of uds.source_state.
 * Runs in sync workers, inside a transaction with SPI connected; takes a lock
 * on the row of the source.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"

#include "catalog/catalog.h"
#include "uds.h"

/*
 * What was noted is good for the options it was got with; another secret does
 * not matter.
 */
#define OPTIONS_HASH "md5(s.type || s.options::text)"

/* $2 minutes that a full read may be old */
static const char *const load_sql =
"SELECT t.state ->> 'state',"
"       coalesce((t.state ->> 'full_read_at')::timestamptz"
"                > clock_timestamp() - make_interval(mins => $2), false)"
"  FROM uds.source_state t"
"  JOIN uds.source_settings s ON s.id = t.source_id"
" WHERE t.source_id = $1"
"   AND t.state ->> 'state_of' = " OPTIONS_HASH;

/* $2 what was noted, $3 whether everything was read */
static const char *const save_sql =
"INSERT INTO uds.source_state AS t (source_id, state)"
"SELECT s.id, jsonb_build_object('state', $2, 'state_of', " OPTIONS_HASH ")"
"             || CASE WHEN $3 THEN jsonb_build_object('full_read_at', clock_timestamp())"
"                     ELSE '{}' END"
"  FROM uds.source_settings s"
" WHERE s.id = $1 "
"ON CONFLICT (source_id) DO UPDATE"
"   SET state = t.state || excluded.state";

/*
 * What the last read noted, a JSON object as text in the current memory
 * context, if it was made with the options that the source has now; else
 * NULL.  *full_is_recent: the last complete full read is not older than
 * uds.full_sync_interval.
 */
char *
uds_source_load_state(int64 id, bool *full_is_recent)
{
	Oid			types[2] = {INT8OID, INT4OID};
	Datum		values[2] = {Int64GetDatum(id), Int32GetDatum(uds_full_sync_interval)};

	*full_is_recent = false;
	if (uds_spi_exec(load_sql, 2, types, values, NULL) == 0)
		return NULL;
	*full_is_recent = uds_spi_text(0, 2)[0] == 't';
	return uds_spi_text(0, 1);
}

/*
 * Keeps what a read noted, a JSON object as text; "full" if everything was
 * read.
 */
void
uds_source_save_state(int64 id, const char *state, bool full)
{
	Oid			types[3] = {INT8OID, JSONBOID, BOOLOID};
	Datum		values[3] = {Int64GetDatum(id)};

	values[1] = DirectFunctionCall1(jsonb_in, CStringGetDatum(state));
	values[2] = BoolGetDatum(full);
	uds_spi_exec(save_sql, 3, types, values, NULL);
}
