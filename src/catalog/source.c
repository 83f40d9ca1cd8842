/*-------------------------------------------------------------------------
 *
 * source.c
 *		A source as workers need it: settings, resolved options, token, state.
 *
 * Owns uds.source_secrets, uds.source_tokens and uds.source_state.  Runs in
 * background workers, inside a transaction with SPI connected; takes row
 * locks on these tables only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "catalog/catalog.h"
#include "uds.h"

/* longest secret read from a file */
#define MAX_SECRET_FILE 65536

static const char *const load_sql =
"SELECT s.id, s.name, s.type, s.owner, s.enabled, s.on_deleted, s.on_missing,"
"       m.manifest::text,"
"       (s.options - CASE s.type WHEN 'http' THEN 'manifest' ELSE '' END"
"        || coalesce((SELECT jsonb_object_agg(n.name, x.value)"
"                               FROM unnest(s.secrets) AS n (name)"
"                               LEFT JOIN uds.source_secrets x"
"                                 ON x.source_id = s.id AND x.name = n.name), '{}'))::text,"
"       to_jsonb(s.match_keys)::text, s.priority, to_jsonb(s.columns)::text,"
"       s.guard_percent, s.guard_min,"
"       CASE WHEN s.type = 'push' THEN true"
"            ELSE s.armed_in IS NOT DISTINCT FROM (SELECT i.id FROM uds.installation i) END,"
"       m.pull"
"  FROM uds.source_settings s"
"  JOIN uds.source_manifests m ON m.source_id = s.id"
" WHERE ";

static const char *const references_sql =
"SELECT o.key, o.value ->> '$env', o.value ->> '$file'"
"  FROM jsonb_each($1::jsonb) AS o"
" WHERE jsonb_typeof(o.value) = 'object'"
"   AND (o.value ? '$env' OR o.value ? '$file')";

static const char *const token_load_sql =
"SELECT token"
"  FROM uds.source_tokens"
" WHERE source_id = $1"
"   AND fingerprint = encode(sha256(convert_to($2, 'UTF8')), 'hex')"
"   AND expires_at > clock_timestamp()";

static const char *const token_save_sql =
"INSERT INTO uds.source_tokens (source_id, fingerprint, token, expires_at)"
"VALUES ($1, encode(sha256(convert_to($2, 'UTF8')), 'hex'), $3, $4)"
"ON CONFLICT (source_id) DO UPDATE"
"   SET fingerprint = excluded.fingerprint,"
"       token = excluded.token,"
"       expires_at = excluded.expires_at";

static const char *const state_success_sql =
"INSERT INTO uds.source_state AS s (source_id, state)"
"SELECT $1, jsonb_build_object('last_success_at', clock_timestamp(), 'last_success_task', $2)"
" WHERE EXISTS (SELECT 1 FROM uds.source_settings WHERE id = $1)"
"ON CONFLICT (source_id) DO UPDATE"
"   SET state = (s.state - '{failing_since,failures,last_error,last_error_task}'::text[])"
"               || excluded.state";

static const char *const state_failure_sql =
"INSERT INTO uds.source_state AS s (source_id, state)"
"SELECT $1, jsonb_build_object('failing_since', clock_timestamp(), 'failures', 1,"
"                              'last_error', $3, 'last_error_task', $2)"
" WHERE EXISTS (SELECT 1 FROM uds.source_settings WHERE id = $1)"
"ON CONFLICT (source_id) DO UPDATE"
"   SET state = s.state || excluded.state ||"
"               jsonb_build_object('failing_since',"
"                                  coalesce(s.state -> 'failing_since', excluded.state -> 'failing_since'),"
"                                  'failures',"
"                                  coalesce((s.state ->> 'failures')::bigint, 0) + 1)";

/* Reads a secret from a file of the server, less one trailing newline. */
static char *
read_secret_file(const char *source, const char *option, const char *path)
{
	struct stat found;
	FILE	   *file;
	char	   *text;
	size_t		len;

	/* what is no file, such as a pipe, may never let go of whoever opens it */
	if (stat(path, &found) == 0 && !S_ISREG(found.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("could not read option \"%s\" of source \"%s\": \"%s\" is not a regular file",
						option, source, path)));
	file = AllocateFile(path, PG_BINARY_R);
	if (file == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read option \"%s\" of source \"%s\" from file \"%s\": %m",
						option, source, path)));
	text = palloc(MAX_SECRET_FILE + 1);
	len = fread(text, 1, MAX_SECRET_FILE + 1, file);
	if (ferror(file))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read option \"%s\" of source \"%s\" from file \"%s\": %m",
						option, source, path)));
	FreeFile(file);
	if (len > MAX_SECRET_FILE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("option \"%s\" of source \"%s\": file \"%s\" is longer than %d bytes",
						option, source, path, MAX_SECRET_FILE)));
	if (len > 0 && text[len - 1] == '\n')
		len--;
	text[len] = '\0';
	if (strlen(text) != len || !pg_verifymbstr(text, len, true))
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("option \"%s\" of source \"%s\": file \"%s\" is not text",
						option, source, path)));
	return text;
}

/* Replaces {"$env": …} and {"$file": …} by what they stand for. */
static char *
resolve_references(const char *source, char *options)
{
	Oid			types[3] = {TEXTOID, TEXTOID, TEXTOID};
	Datum		values[3];
	StringInfoData merged;
	uint64		n;

	values[0] = CStringGetTextDatum(options);
	n = uds_spi_exec(references_sql, 1, types, values, NULL);
	if (n == 0)
		return options;

	initStringInfo(&merged);
	appendStringInfoChar(&merged, '{');
	for (uint64 i = 0; i < n; i++)
	{
		char	   *option = uds_spi_text(i, 1);
		char	   *variable = uds_spi_text(i, 2);
		char	   *path = uds_spi_text(i, 3);
		char	   *value;

		if (path != NULL)
			value = read_secret_file(source, option, path);
		else
		{
			value = getenv(variable);
			if (value == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("option \"%s\" of source \"%s\": environment variable \"%s\" is not set",
								option, source, variable),
						 errhint("It must be set in the environment of the server.")));
			if (!pg_verifymbstr(value, strlen(value), true))
				ereport(ERROR,
						(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
						 errmsg("option \"%s\" of source \"%s\": environment variable \"%s\" is not text in the encoding of the database",
								option, source, variable)));
		}
		if (i > 0)
			appendStringInfoChar(&merged, ',');
		escape_json(&merged, option);
		appendStringInfoChar(&merged, ':');
		escape_json(&merged, value);
	}
	appendStringInfoChar(&merged, '}');

	values[1] = CStringGetTextDatum(merged.data);
	uds_spi_exec("SELECT ($1::jsonb || $2::jsonb)::text", 2, types, values, NULL);
	return uds_spi_text(0, 1);
}

/* Loads the source that a condition finds, which has $1; NULL if there is none. */
static UdsSource *
load(const char *condition, Oid type, Datum value)
{
	UdsSource  *source;
	char	   *owner;
	bool		isnull;

	if (uds_spi_exec(psprintf("%s%s", load_sql, condition), 1, &type, &value, NULL) == 0)
		return NULL;

	source = palloc0(sizeof(UdsSource));
	source->id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
											 1, &isnull));
	source->name = uds_spi_text(0, 2);
	source->type = uds_spi_text(0, 3);
	owner = uds_spi_text(0, 4);
	source->enabled = uds_spi_text(0, 5)[0] == 't';
	source->on_deleted = uds_spi_text(0, 6);
	source->on_missing = uds_spi_text(0, 7);
	source->manifest = uds_spi_text(0, 8);
	source->options = uds_spi_text(0, 9);
	source->match_keys = uds_spi_text(0, 10);
	source->priority = pg_strtoint32(uds_spi_text(0, 11));
	source->columns = uds_spi_text(0, 12);
	source->guard_percent = strtod(uds_spi_text(0, 13), NULL);
	source->guard_min = pg_strtoint32(uds_spi_text(0, 14));
	source->armed = uds_spi_text(0, 15)[0] == 't';
	source->pull = uds_spi_text(0, 16);

	source->owner = get_role_oid(owner, true);
	if (!OidIsValid(source->owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\", the owner of source \"%s\", does not exist",
						owner, source->name),
				 errhint("Use uds_alter_source() as the role that shall own it.")));
	if (strchr(source->options, '$') != NULL)
		source->options = resolve_references(source->name, source->options);
	return source;
}

/*
 * Loads a source with the manifest it is read by and its options, secrets included; a
 * secret that a restore has left without a value is null there.
 *
 * Returns NULL if there is none of this id.  The result lives in SPI's
 * memory: copy with uds_source_copy() to keep it beyond SPI_finish().  ERROR
 * if an environment variable or file it refers to cannot be read, or its
 * owner is gone.
 */
UdsSource *
uds_source_load(int64 id)
{
	return load("s.id = $1", INT8OID, Int64GetDatum(id));
}

/*
 * Loads a source by name, as uds_source_load(); ERROR if there is none.
 */
UdsSource *
uds_source_load_by_name(const char *name)
{
	UdsSource  *source = load("s.name = $1", TEXTOID, CStringGetTextDatum(name));

	if (source == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source \"%s\" does not exist", name),
				 errhint("SELECT name FROM uds.sources lists the sources.")));
	return source;
}

/*
 * Copies a source into the current memory context.
 */
UdsSource *
uds_source_copy(const UdsSource *source)
{
	UdsSource  *copy = palloc(sizeof(UdsSource));

	*copy = *source;
#define COPY(field) \
	copy->field = source->field ? pstrdup(source->field) : NULL
	COPY(name);
	COPY(type);
	COPY(on_deleted);
	COPY(on_missing);
	COPY(manifest);
	COPY(pull);
	COPY(options);
	COPY(match_keys);
	COPY(columns);
#undef COPY
	return copy;
}

/*
 * Returns the token kept for the source, in SPI's memory, or NULL if there is
 * none that is still valid and was got with the same options.
 */
char *
uds_source_load_token(const UdsSource *source)
{
	Oid			types[2] = {INT8OID, TEXTOID};
	Datum		values[2];

	values[0] = Int64GetDatum(source->id);
	values[1] = CStringGetTextDatum(source->options);
	if (uds_spi_exec(token_load_sql, 2, types, values, NULL) == 0)
		return NULL;
	return uds_spi_text(0, 1);
}

/*
 * Keeps a token until "expires_at"; NULL forgets the one kept.
 */
void
uds_source_save_token(const UdsSource *source, const char *token,
					  TimestampTz expires_at)
{
	Oid			types[4] = {INT8OID, TEXTOID, TEXTOID, TIMESTAMPTZOID};
	Datum		values[4];

	values[0] = Int64GetDatum(source->id);
	if (token == NULL)
	{
		uds_spi_exec("DELETE FROM uds.source_tokens WHERE source_id = $1",
					 1, types, values, NULL);
		return;
	}
	values[1] = CStringGetTextDatum(source->options);
	values[2] = CStringGetTextDatum(token);
	values[3] = TimestampTzGetDatum(expires_at);
	uds_spi_exec(token_save_sql, 4, types, values, NULL);
}

/*
 * Notes in the source's state that "task" went well.
 */
void
uds_source_note_success(int64 id, int64 task)
{
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(id), Int64GetDatum(task)};

	uds_spi_exec(state_success_sql, 2, types, values, NULL);
}

/*
 * Notes in the source's state that "task" failed, and why.  Since when the
 * source has been failing is kept until the next success.
 */
void
uds_source_note_failure(int64 id, int64 task, const char *message)
{
	Oid			types[3] = {INT8OID, INT8OID, TEXTOID};
	Datum		values[3] = {Int64GetDatum(id), Int64GetDatum(task),
	CStringGetTextDatum(message)};

	uds_spi_exec(state_failure_sql, 3, types, values, NULL);
}
