/*-------------------------------------------------------------------------
 *
 * query_cursor.c
 *		Cursors on the queries of a source, or on the function of its type.
 *
 * The owner of the source may be anybody, and so may be who wrote the query:
 * it runs with the owner's rights, in a transaction that cannot write, and
 * nothing it calls can leave anything behind in the session.
 * Runs in background workers, the checks in backends.  Takes the locks that the
 * query takes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <cJSON.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "fetch/query_cursor.h"
#include "uds.h"

const UdsQueryStream uds_query_streams[UDS_QUERY_STREAMS] = {
	{"departments", "departments_query", UDS_TYPE_DEPARTMENT},
	{"users", "users_query", UDS_TYPE_USER}
};

/* Error context callback: says what was run, and what people trip over. */
static void
describe_place(void *arg)
{
	const UdsQueryPlace *place = arg;

	if (place->option != NULL)
		errcontext("option \"%s\" of source \"%s\"", place->option, place->source->name);
	else
		errcontext("function %s, which reads source \"%s\"", place->source->pull,
				   place->source->name);
	if (geterrcode() == ERRCODE_UNDEFINED_TABLE)
		errhint("Name tables and functions with their schema: only pg_catalog is searched.");
	else if (geterrcode() == ERRCODE_INSUFFICIENT_PRIVILEGE)
		errhint("It runs with the rights of role \"%s\", the owner of the source.",
				GetUserNameFromId(place->source->owner, true));
	else if (geterrcode() == ERRCODE_READ_ONLY_SQL_TRANSACTION)
		errhint("A source is read in a read-only transaction.");
}

/*
 * Until error_context_stack is put back to callback->previous, errors say what
 * they are about.
 */
void
uds_query_enter(ErrorContextCallback *callback, UdsQueryPlace *place)
{
	callback->callback = describe_place;
	callback->arg = place;
	callback->previous = error_context_stack;
	error_context_stack = callback;
}

/*
 * Returns the value of a text option, palloc'd, or NULL.
 */
char *
uds_query_option(const char *options_json, const char *name)
{
	cJSON	   *options = cJSON_Parse(options_json);
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(options, name);
	char	   *text = cJSON_IsString(value) ? pstrdup(value->valuestring) : NULL;

	cJSON_Delete(options);
	return text;
}

/*
 * Whether this is a source that uds_query_run() can read.
 */
bool
uds_query_reads(const UdsSource *source)
{
	return source->pull != NULL || strcmp(source->type, UDS_TYPE_SQL) == 0;
}

/* Prepares a query; ERROR unless it is a single one that gives rows. */
static SPIPlanPtr
prepare(const char *sql, const UdsQueryPlace *place)
{
	SPIPlanPtr	plan = SPI_prepare(sql, 0, NULL);

	if (plan == NULL)
		elog(ERROR, "could not prepare a query: %s", SPI_result_code_string(SPI_result));
	if (!SPI_is_cursor_plan(plan))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of source \"%s\" is not a single query that returns rows",
						place->option, place->source->name),
				 errhint("Give one SELECT.")));
	return plan;
}

static bool
is_known_option(const char *name)
{
	for (int i = 0; i < UDS_QUERY_STREAMS; i++)
	{
		if (strcmp(name, uds_query_streams[i].option) == 0)
			return true;
	}
	return false;
}

/*
 * Checks the options of a source of type sql: ERROR with a hint if there is
 * another, or no query, or one that "owner" could not run as it stands.  With
 * SPI connected.
 */
void
uds_query_check_options(const char *source, Oid owner, const char *options_json)
{
	UdsSource	shown = {.name = unconstify(char *, source),.owner = owner};
	cJSON	   *options = cJSON_Parse(options_json);
	cJSON	   *value;
	char	   *problem = NULL;
	bool		any = false;

	cJSON_ArrayForEach(value, options)
	{
		if (!is_known_option(value->string))
			problem = psprintf("unknown option \"%.100s\"", value->string);
		else if (!cJSON_IsString(value))
			problem = psprintf("option \"%s\" must be text, a query", value->string);
		any = true;
	}
	cJSON_Delete(options);
	if (problem == NULL && !any)
		problem = pstrdup("neither of the options \"users_query\" and \"departments_query\" is there");
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid options of source \"%s\" of type \"%s\": %s",
						source, UDS_TYPE_SQL, problem),
				 errhint("The options are users_query and departments_query.")));

	for (int i = 0; i < UDS_QUERY_STREAMS; i++)
	{
		UdsQueryPlace place = {&shown, uds_query_streams[i].option};
		ErrorContextCallback callback;
		UdsIdentity saved;
		char	   *sql = uds_query_option(options_json, uds_query_streams[i].option);

		if (sql == NULL)
			continue;
		uds_query_enter(&callback, &place);
		uds_become(owner, &saved);
		SPI_freeplan(prepare(sql, &place));
		uds_unbecome(&saved);
		error_context_stack = callback.previous;
	}
}

/*
 * Begins the transaction in which a source is read, as its owner: one that
 * cannot write.  To be ended with uds_unbecome() and uds_xact_commit().
 */
void
uds_query_begin(const UdsSource *source, UdsIdentity *saved)
{
	uds_xact_begin(psprintf("uds: reading source \"%s\"", source->name));
	XactReadOnly = true;
	uds_become(source->owner, saved);
}

/*
 * ERROR for a name that is one of ours but for its case: not written in
 * quotes, it would be taken for an unknown key and quietly do nothing.
 */
static void
check_columns(TupleDesc desc, const UdsQueryPlace *place)
{
	static const char *const keys[] = {"parentUid", "isDeleted"};

	for (int i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);

		for (int k = 0; k < lengthof(keys); k++)
		{
			if (pg_strcasecmp(name, keys[k]) == 0 && strcmp(name, keys[k]) != 0)
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_COLUMN),
						 errmsg("\"%s\" of source \"%s\" gives a column \"%s\", which is no key of records",
								place->option, place->source->name, name),
						 errhint("Write it in quotes, as in AS \"%s\".", keys[k])));
		}
	}
}

/*
 * Returns a row as a record, palloc'd JSON: its only column if that is JSON,
 * else its columns.  "desc" must be blessed.
 */
char *
uds_query_record(HeapTuple row, TupleDesc desc)
{
	Oid			type = desc->natts == 1 ? TupleDescAttr(desc, 0)->atttypid : InvalidOid;

	if (type == JSONBOID || type == JSONOID)
	{
		char	   *text = SPI_getvalue(row, desc, 1);

		return text ? text : pstrdup("null");
	}
	return TextDatumGetCString(DirectFunctionCall1(row_to_json,
												   heap_copy_tuple_as_datum(row, desc)));
}

/*
 * Returns the stream of a data type that a function gave; ERROR if it is no
 * type of records.
 */
int
uds_query_find_stream(const UdsSource *source, const char *data_type)
{
	for (int i = 0; i < UDS_QUERY_STREAMS; i++)
	{
		if (data_type != NULL && strcmp(data_type, uds_query_streams[i].data_type) == 0)
			return i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("function %s gave a record of type \"%s\"", source->pull,
					data_type ? data_type : "NULL"),
			 errhint("Types of records are \"user\" and \"department\".")));
	return -1;
}

/*
 * Opens a cursor on one query of a source.
 */
Portal
uds_query_open(const char *sql, const UdsQueryPlace *place)
{
	Portal		portal = SPI_cursor_open(NULL, prepare(sql, place), NULL, NULL, false);

	check_columns(portal->tupDesc, place);
	return portal;
}

/*
 * Opens a cursor on the function of the source's type: columns data_type,
 * record and state.  "state" is JSON, or NULL.
 */
Portal
uds_query_call(const UdsSource *source, const char *state)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2] = {CStringGetTextDatum(source->pull)};
	char	   *sql;

	/* it was stored as regprocedure shows it; a call wants the name alone */
	uds_spi_exec("SELECT format('SELECT data_type, record, state"
				 "                 FROM %s($1::jsonb, $2::jsonb) AS f (data_type, record, state)',"
				 "              oid::regproc)"
				 "  FROM pg_proc WHERE oid = $1::regprocedure",
				 1, types, values, NULL);
	sql = uds_spi_text(0, 1);
	values[0] = CStringGetTextDatum(source->options);
	values[1] = state ? CStringGetTextDatum(state) : (Datum) 0;
	return SPI_cursor_open_with_args(NULL, sql, 2, types, values, state ? NULL : " n",
									 false, 0);
}
