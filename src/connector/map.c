/*-------------------------------------------------------------------------
 *
 * map.c
 *		SQL functions uds.map_page() and uds.map_record(): from what a service
 *		sent to records, as a stream of the manifest says.
 *
 * Where the path of the records is plain ("$.data.list[*]"), a page is taken
 * apart as text, and each record is read on its own.  So memory does not grow
 * with the page, and a record that jsonb cannot hold spoils no other.  Else
 * the whole page becomes one jsonb.
 *
 * Runs in any process that is connected to a database; takes no locks and
 * reads no table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "connector/map.h"

PG_FUNCTION_INFO_V1(uds_map_page);
PG_FUNCTION_INFO_V1(uds_map_record);

typedef struct PageScan
{
	const UdsMapProgram *program;
	Jsonb	   *context;
	UdsPathMembers members;
	ReturnSetInfo *result;
	int32		ord;
	char	   *body;			/* NUL-terminated, so that scanning ends there */
	MemoryContext record_memory;
} PageScan;

/* The path of the records, evaluated on a page as a whole. */
typedef struct PageCall
{
	const PageScan *scan;
	UdsValueList list;
} PageCall;

/* The program of this call site; another stream than last time replaces it. */
static UdsMapProgram *
get_program(FmgrInfo *flinfo, Jsonb *stream)
{
	UdsMapProgram *program = flinfo->fn_extra;
	MemoryContext memory;
	MemoryContext caller;

	if (program != NULL)
	{
		if (VARSIZE(program->stream) == VARSIZE(stream) &&
			memcmp(program->stream, stream, VARSIZE(stream)) == 0)
			return program;
		flinfo->fn_extra = NULL;
		MemoryContextDelete(GetMemoryChunkContext(program));
	}
	memory = AllocSetContextCreate(CurrentMemoryContext, "uds stream",
								   ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(memory);
	program = uds_map_compile(stream);
	MemoryContextSwitchTo(caller);
	/* an error above frees it with the caller's memory */
	MemoryContextSetParent(memory, flinfo->fn_mcxt);
	flinfo->fn_extra = program;
	return program;
}

/* The context argument: an object, or NULL. */
static Jsonb *
get_context(FunctionCallInfo fcinfo)
{
	Jsonb	   *context;

	if (PG_ARGISNULL(2))
		return NULL;
	context = PG_GETARG_JSONB_P(2);
	if (!JB_ROOT_IS_OBJECT(context))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("context of a page must be a JSON object")));
	return context;
}

static void
call_json_in(void *arg)
{
	(void) DirectFunctionCall1(json_in, CStringGetDatum(arg));
}

static void
invalid_page(const PageScan *scan, const char *at, const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("page is not valid JSON at byte %zu: %s",
					(size_t) (at - scan->body) + 1, reason)));
}

/* Raises an error unless the text is JSON, if maybe none that jsonb takes. */
static void
check_json(const PageScan *scan, char *text)
{
	int			sqlstate;
	char	   *message = uds_value_try(call_json_in, text, &sqlstate);

	if (message != NULL && sqlstate == ERRCODE_INVALID_TEXT_REPRESENTATION)
		invalid_page(scan, text, message);
}

static void
put_row(PageScan *scan, Jsonb *record, const char *error)
{
	Datum		values[3];
	bool		nulls[3] = {false, record == NULL, error == NULL};

	values[0] = Int32GetDatum(++scan->ord);
	values[1] = JsonbPGetDatum(record);
	values[2] = error ? CStringGetTextDatum(error) : (Datum) 0;
	tuplestore_putvalues(scan->result->setResult, scan->result->setDesc,
						 values, nulls);
}

/* Maps one record, given as text or as value, into a row of the result. */
static void
emit_record(PageScan *scan, char *text, const JsonbValue *value)
{
	UdsMapCall	call = {0};
	MemoryContext caller;
	char	   *error;
	int			sqlstate;

	CHECK_FOR_INTERRUPTS();
	call.program = scan->program;
	call.context = scan->context;
	call.text = text;
	if (value != NULL)
		call.value = *value;

	caller = MemoryContextSwitchTo(scan->record_memory);
	error = uds_value_try(uds_map_one, &call, &sqlstate);
	if (error != NULL && !call.is_json)
		check_json(scan, text);
	if (error != NULL && call.scope.field != NULL)
		error = psprintf("field \"%s\": %s", call.scope.field, error);
	if (error != NULL)
		put_row(scan, NULL, error);
	else
	{
		ListCell   *lc;

		foreach(lc, call.results)
			put_row(scan, lfirst(lc), NULL);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextReset(scan->record_memory);
}

static char *
skip_space(char *p)
{
	while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')
		p++;
	return p;
}

static char *
skip_string(const PageScan *scan, char *p)
{
	char	   *start = p;

	for (p++; *p != '"'; p++)
	{
		if (*p == '\\' && p[1] != '\0')
			p++;
		else if (*p == '\0')
			invalid_page(scan, start, "string does not end");
	}
	return p + 1;
}

/*
 * The end of a value, by brackets and quotes alone.  Whether it is JSON in
 * between is found out by who reads it.
 */
static char *
skip_value(const PageScan *scan, char *p)
{
	char	   *start = p;
	int64		depth = 0;

	for (;;)
	{
		switch (*p)
		{
			case '"':
				p = skip_string(scan, p);
				break;
			case '{':
			case '[':
				depth++;
				p++;
				break;
			case '}':
			case ']':
				depth--;
				p++;
				break;
			case '\0':
				if (depth > 0)
					invalid_page(scan, start, "value does not end");
				break;
			default:
				p++;
				break;
		}
		if (depth < 0)
			invalid_page(scan, p - 1, "value expected");
		if (depth == 0 && strchr(",]} \n\r\t:", *p) != NULL)
			break;
	}
	if (p == start)
		invalid_page(scan, p, "value expected");
	return p;
}

/* A value that holds no records; checked all the same. */
static char *
skip_other(PageScan *scan, char *p)
{
	MemoryContext caller = MemoryContextSwitchTo(scan->record_memory);
	char	   *end = skip_value(scan, p);
	char		next = *end;

	*end = '\0';
	check_json(scan, p);
	*end = next;
	MemoryContextSwitchTo(caller);
	MemoryContextReset(scan->record_memory);
	return end;
}

static char *
scan_record(PageScan *scan, char *p)
{
	char	   *end = skip_value(scan, p);
	char		next = *end;

	*end = '\0';
	emit_record(scan, p, NULL);
	*end = next;
	return end;
}

/* The name of a member with escapes in it, on its way through jsonb. */
typedef struct QuotedName
{
	char	   *text;
	Jsonb	   *jsonb;
} QuotedName;

static void
call_jsonb_in(void *arg)
{
	QuotedName *name = arg;

	name->jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													 CStringGetDatum(name->text)));
}

/* Compares the name of a member, from quote to quote, with a step's. */
static bool
is_member(PageScan *scan, char *quoted, char *end, int step)
{
	const char *key = scan->members.keys[step];
	int			len = scan->members.lengths[step];
	QuotedName	read = {quoted};
	JsonbValue	name;
	char		next = *end;
	int			sqlstate;

	if (memchr(quoted, '\\', end - quoted) == NULL)
		return end - quoted == len + 2 && memcmp(quoted + 1, key, len) == 0;
	*end = '\0';
	if (uds_value_try(call_jsonb_in, &read, &sqlstate) != NULL)
	{
		/* valid, but no name that a path can have */
		check_json(scan, quoted);
		*end = next;
		return false;
	}
	*end = next;
	uds_value_from_jsonb(read.jsonb, &name);
	return name.val.string.len == len &&
		memcmp(name.val.string.val, key, len) == 0;
}

static char *scan_value(PageScan *scan, char *p, int step, bool unwrapped);

/* What goes on after a member or an element: NULL at the closing bracket. */
static char *
next_item(const PageScan *scan, char *p, char close, char **end)
{
	p = skip_space(p);
	if (*p == ',')
		return skip_space(p + 1);
	if (*p != close)
		invalid_page(scan, p, psprintf("expected \",\" or \"%c\"", close));
	*end = p + 1;
	return NULL;
}

/* Elements of a list of records, or of one on the way to it (lax mode). */
static char *
scan_array(PageScan *scan, char *p, int step)
{
	char	   *end;

	p = skip_space(p + 1);
	if (*p == ']')
		return p + 1;
	do
	{
		if (step == scan->members.count)
			p = scan_record(scan, p);
		else
			p = scan_value(scan, p, step, true);
	} while ((p = next_item(scan, p, ']', &end)) != NULL);
	return end;
}

static char *
scan_object(PageScan *scan, char *p, int step)
{
	bool		found = false;
	char	   *end;

	p = skip_space(p + 1);
	if (*p == '}')
		return p + 1;
	do
	{
		char	   *name = p;
		bool		match;

		if (*p != '"')
			invalid_page(scan, p, "name of a member expected");
		p = skip_string(scan, p);
		match = is_member(scan, name, p, step);
		if (match && found)
			invalid_page(scan, name, psprintf("\"%s\" occurs twice",
											  scan->members.keys[step]));
		found |= match;
		p = skip_space(p);
		if (*p != ':')
			invalid_page(scan, p, "expected \":\"");
		p = skip_space(p + 1);
		p = match ? scan_value(scan, p, step + 1, false) : skip_other(scan, p);
	} while ((p = next_item(scan, p, '}', &end)) != NULL);
	return end;
}

/*
 * Follows the path of the records from "step" on and returns where the value
 * ends.  As in lax mode, a member of an array is that of its elements, and
 * the list may be a single record.  A null list is an empty one.
 */
static char *
scan_value(PageScan *scan, char *p, int step, bool unwrapped)
{
	if (step < scan->members.count)
	{
		if (*p == '{')
			return scan_object(scan, p, step);
		if (*p == '[' && !unwrapped)
			return scan_array(scan, p, step);
		return skip_other(scan, p);
	}
	if (scan->members.list)
	{
		if (*p == '[')
			return scan_array(scan, p, step);
		if (strncmp(p, "null", 4) == 0)
			return skip_other(scan, p);
	}
	return scan_record(scan, p);
}

static void
select_records(void *arg)
{
	PageCall   *call = arg;
	UdsPathRecord record = {0};
	UdsPathScope scope = {0};

	record.context = call->scan->context;
	scope.record = &record;
	scope.jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													 CStringGetDatum(call->scan->body)));
	uds_value_from_jsonb(scope.jsonb, &scope.item);
	(void) uds_path_all(call->scan->program->records, &scope, &call->list);
}

/* All records of a page by a path that is not plain. */
static void
map_whole_page(PageScan *scan)
{
	PageCall	call = {scan};
	int			sqlstate;
	char	   *error = uds_value_try(select_records, &call, &sqlstate);
	int			i;

	if (error != NULL)
		ereport(ERROR,
				(errcode(sqlstate),
				 errmsg("records of the page could not be told apart: %s", error),
				 errhint("With a path of members only, such as \"$.list[*]\", a faulty record does not affect the others.")));
	for (i = 0; i < call.list.count; i++)
		emit_record(scan, NULL, &call.list.items[i]);
}

/*
 * map_page(body text, stream jsonb, context jsonb)
 *
 * Returns a row for each record of a page: its number from 1 on, and either
 * the mapped record or what is wrong with it.  No rows if body or stream is
 * NULL.  Raises an error if the stream is not valid or the page is not JSON.
 */
Datum
uds_map_page(PG_FUNCTION_ARGS)
{
	PageScan	scan = {0};
	MemoryContext memory;
	MemoryContext caller;
	char	   *end;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		return (Datum) 0;
	memory = AllocSetContextCreate(CurrentMemoryContext, "uds page",
								   ALLOCSET_DEFAULT_SIZES);
	scan.record_memory = AllocSetContextCreate(memory, "uds record",
											   ALLOCSET_DEFAULT_SIZES);
	scan.result = (ReturnSetInfo *) fcinfo->resultinfo;
	scan.program = get_program(fcinfo->flinfo, PG_GETARG_JSONB_P(1));
	scan.context = get_context(fcinfo);
	if (scan.program->records == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream of the manifest has no \"records\"")));

	caller = MemoryContextSwitchTo(memory);
	scan.body = TextDatumGetCString(PG_GETARG_DATUM(0));
	if (uds_path_members(scan.program->records, &scan.members))
	{
		end = skip_space(scan_value(&scan, skip_space(scan.body), 0, false));
		if (*end != '\0')
			invalid_page(&scan, end, "end expected");
	}
	else
		map_whole_page(&scan);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(memory);
	return (Datum) 0;
}

/*
 * map_record(raw jsonb, stream jsonb, context jsonb)
 *
 * Returns one record as the stream's fields say.  NULL if raw or stream is
 * NULL, or the stream does not take it.  Raises an error if the stream or the record is not valid.
 */
Datum
uds_map_record(PG_FUNCTION_ARGS)
{
	UdsMapCall	call = {0};
	char	   *error;
	int			sqlstate;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	call.program = get_program(fcinfo->flinfo, PG_GETARG_JSONB_P(1));
	call.context = get_context(fcinfo);
	uds_value_from_jsonb(PG_GETARG_JSONB_P(0), &call.value);
	error = uds_value_try(uds_map_one, &call, &sqlstate);
	if (error != NULL)
		ereport(ERROR,
				(errcode(sqlstate),
				 call.scope.field ?
				 errmsg("field \"%s\": %s", call.scope.field, error) :
				 errmsg_internal("%s", error)));
	if (call.results == NIL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(linitial(call.results));
}
