/*-------------------------------------------------------------------------
 *
 * push.c
 *		uds_push(): records handed to us instead of fetched.
 *
 * Runs in backends, in the caller's transaction, as the extension's owner;
 * target tables are written as the source's owner.  Locks as reconcile.h
 * says, so that pushes and syncs take turns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/resowner.h"

#include "connector/value.h"
#include "reconcile/reconcile.h"
#include "reconcile/stage.h"

PG_FUNCTION_INFO_V1(uds_push);

/* bytes of an unknown name that a message repeats */
#define MAX_NAME 100

#define KNOWN_TYPES "Known are \"user\" and \"department\"."
#define KNOWN_KEYS "Known are \"username\", \"email\" and \"phone\"."
#define SHAPE \
"Send {\"dataType\": \"user\" or \"department\", \"records\": [{…}, …], \"matchKey\": …, \"sourceName\": …}."

/*
 * $1 task, $2 the resource, $3 how many records failed for each of them; not
 * all errors may be stored, and one record may have several.
 */
static const char *const failed_sql =
"SELECT coalesce(($3 ->> '')::bigint, 0) + coalesce(($3 ->> $2)::bigint, 0),"
"       coalesce(jsonb_agg(jsonb_build_object('record', e.record, 'message', e.message)"
"                          ORDER BY e.seq), '[]')"
"  FROM uds.task_errors e"
" WHERE e.task_id = $1 AND (e.resource IS NULL OR e.resource = $2)";

/* Notes what is wrong with an envelope; always false. */
static bool
refuse(UdsPush *push, const char *problem, const char *hint)
{
	push->problem = problem;
	push->hint = hint;
	return false;
}

/* No name is as long as this: what is longer need not be repeated whole. */
static char *
clip(char *name)
{
	if (name != NULL && strlen(name) > MAX_NAME)
		name[pg_mbcliplen(name, strlen(name), MAX_NAME)] = '\0';
	return name;
}

/* A member of the envelope as text, or NULL; *type receives its type. */
static char *
read_member(JsonbValue *envelope, const char *key, enum jbvType *type)
{
	JsonbValue	member;
	StringInfoData text;

	*type = jbvNull;
	if (!uds_value_member(envelope, key, strlen(key), &member) || member.type == jbvNull)
		return NULL;
	*type = member.type;
	initStringInfo(&text);
	uds_value_append_text(&text, &member);
	return clip(text.data);
}

/* Takes the records out of the envelope. */
static bool
take_records(JsonbValue *value, UdsPush *push)
{
	JsonbValue	records;
	Jsonb	   *list;

	if (!uds_value_member(value, "records", strlen("records"), &records) ||
		records.type == jbvNull)
		return refuse(push, "it has no records", SHAPE);
	if (!uds_value_is_array(&records))
		return refuse(push, "records is not a list", SHAPE);
	list = uds_value_to_jsonb(&records);
	push->all = JB_ROOT_COUNT(list);
	if (push->all == 0)
		return refuse(push, "the list of records is empty", SHAPE);
	push->form = UDS_PUSH_LIST;
	push->records = JsonbPGetDatum(list);
	return true;
}

/* A member must be text, if it is there. */
static bool
check_text(UdsPush *push, const char *text, enum jbvType type, const char *problem,
		   const char *hint)
{
	return text == NULL || type == jbvString || refuse(push, problem, hint);
}

/*
 * Whether the words of an envelope are known: its data type and, NULL or
 * empty for none, its match key.  False notes the problem in the push.
 */
bool
uds_push_check(UdsPush *push)
{
	if (push->data_type == NULL)
		return refuse(push, "it has no dataType", SHAPE);
	if (strcmp(push->data_type, UDS_TYPE_USER) != 0 &&
		strcmp(push->data_type, UDS_TYPE_DEPARTMENT) != 0)
		return refuse(push, psprintf("unknown dataType \"%s\"", clip(push->data_type)),
					  KNOWN_TYPES);
	if (push->match_key != NULL && push->match_key[0] == '\0')
		push->match_key = NULL;
	if (push->match_key != NULL &&
		strcmp(push->match_key, "username") != 0 &&
		strcmp(push->match_key, "email") != 0 &&
		strcmp(push->match_key, "phone") != 0)
		return refuse(push, psprintf("unknown matchKey \"%s\"", clip(push->match_key)),
					  KNOWN_KEYS);
	return true;
}

/*
 * Reads an envelope.  Returns false if it is not one, and what is wrong with it
 * in push->problem, which completes "cannot take what was pushed: …", and
 * push->hint.  Allocates in the current context.
 */
bool
uds_push_read(UdsPush *push, Jsonb *data)
{
	JsonbValue	value;
	enum jbvType type;

	uds_value_from_jsonb(data, &value);
	if (!uds_value_is_object(&value))
		return refuse(push, "it is not a JSON object", SHAPE);

	push->data_type = read_member(&value, "dataType", &type);
	if (!check_text(push, push->data_type, type,
					psprintf("unknown dataType \"%s\"", push->data_type), KNOWN_TYPES))
		return false;
	push->match_key = read_member(&value, "matchKey", &type);
	if (!check_text(push, push->match_key, type,
					psprintf("unknown matchKey \"%s\"", push->match_key), KNOWN_KEYS))
		return false;
	push->source = read_member(&value, "sourceName", &type);
	if (!check_text(push, push->source, type, "sourceName is not text", SHAPE))
		return false;
	return uds_push_check(push) && take_records(&value, push);
}

/* Finds the source that records are pushed to; ERROR if it cannot be. */
static UdsSource *
find_source(const UdsPush *push)
{
	UdsSource  *source = uds_source_load_by_name(push->source ? push->source : "api");

	if (strcmp(source->type, "push") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("source \"%s\" is read, it cannot be pushed to", source->name),
				 errhint("Create a source of type \"push\" for what is pushed.")));
	if (!source->enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" is disabled", source->name),
				 errhint("Enable it with uds_alter_source(%s, enabled => true).",
						 quote_literal_cstr(source->name))));
	return source;
}

/*
 * Adds the part of a resource to the reply, under a name; its error rows say
 * "means".
 */
static void
add_part(StringInfo reply, const char *name, const char *means,
		 const UdsTask *task, const UdsPush *push)
{
	int64		failed = 0;
	char	   *records = "[]";

	if (task->counts.failed > 0)
	{
		Oid			types[3] = {INT8OID, TEXTOID, JSONBOID};
		Datum		values[3] = {Int64GetDatum(task->id), CStringGetTextDatum(means),
			DirectFunctionCall1(jsonb_in, CStringGetDatum(task->counts.failed_by))
		};

		uds_spi_exec(failed_sql, 3, types, values, NULL);
		failed = pg_strtoint64(uds_spi_text(0, 1));
		records = uds_spi_text(0, 2);
	}
	if (reply->data[reply->len - 1] != '[')
		appendStringInfoChar(reply, ',');
	appendStringInfoString(reply, "{\"resource\":");
	escape_json(reply, name);
	appendStringInfo(reply, ",\"detail\":{\"count\":{\"all\":" INT64_FORMAT
					 ",\"success\":" INT64_FORMAT ",\"failed\":" INT64_FORMAT
					 "},\"failedRecords\":", push->all, push->all - failed, failed);
	appendStringInfoString(reply, records);
	appendStringInfoString(reply, "}}");
}

/*
 * The reply, as jsonb in SPI's memory: a part for each resource that takes the
 * records.  A user's departments are his memberships.
 */
static Datum
make_reply(const UdsTask *task, const UdsPush *push, List *takers)
{
	StringInfoData reply;
	ListCell   *lc;

	initStringInfo(&reply);
	appendStringInfo(&reply, "{\"code\":0,\"message\":\"success\",\"task\":" INT64_FORMAT
					 ",\"result\":[", task->id);
	foreach(lc, takers)
	{
		const char *name = lfirst(lc);

		add_part(&reply, name, name, task, push);
		if (strcmp(name, uds_users.name) == 0)
			add_part(&reply, uds_departments.name, "members", task, push);
	}
	appendStringInfoString(&reply, "]}");
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(reply.data));
}

/*
 * Takes what was pushed into a source, which must be of type push.  Returns the
 * reply as jsonb in SPI's memory.  "requested_by" is the role or key in whose
 * name.  To be called through uds_push_guard(); ERROR as uds_reconcile().
 */
Datum
uds_push_take(UdsPush *push, UdsSource *source, const char *requested_by)
{
	UdsTask		task = {.kind = "push",.mode = "auto",.attempt = 1};
	UdsPages	pages = {0};
	List	   *takers = NIL;
	const char *status;
	char	   *message;
	instr_time	start;
	instr_time	end;

	INSTR_TIME_SET_CURRENT(start);

	/* compiling takes longer than running */
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	uds_spi_keep_plans(push->all <= UDS_SMALL_TASK);
	if (push->match_key != NULL)
		source->match_keys = psprintf("[\"%s\"]", push->match_key);
	uds_task_begin_push(&task, source->id, requested_by);
	task.counts.complete = -1;

	pages.task = task.id;
	pages.pushed = push->data_type;
	pages.push = push;
	pages.takers = &takers;
	status = uds_reconcile(&task, source, &pages, &task.counts, &message);
	task.counts.complete = -1;
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	task.counts.apply_ms = (int64) INSTR_TIME_GET_MILLISEC(end);
	uds_task_finish_push(&task, status, message);
	uds_source_note_success(source->id, task.id);
	return make_reply(&task, push, takers);
}

/*
 * Raises the error that is being caught once more, after rolling back the
 * subtransactions that it left open.  The server takes those for savepoints of
 * the client's, and would leave the session in a transaction that the client
 * never began.
 */
static void
rethrow(int level, MemoryContext context, ResourceOwner owner)
{
	ErrorData  *edata;

	MemoryContextSwitchTo(context);
	edata = CopyErrorData();
	FlushErrorState();
	while (GetCurrentTransactionNestLevel() > level)
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	ReThrowError(edata);
}

/*
 * Does work that may push, as the extension's owner, with SPI connected and
 * settings that are put back.  Returns what the work returns, a varlena or
 * NULL, copied into the caller's memory.
 *
 * ERROR from within another push or task, whose stage it would clear; and
 * what the work raises.
 */
Datum
uds_push_guard(Datum (*work) (void *arg), void *arg)
{
	static bool pushing = false;
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int			level = GetCurrentTransactionNestLevel();
	UdsIdentity saved;
	Datum		result;
	int			settings;

	if (pushing || uds_reconciling)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot push from within another %s", pushing ? "push" : "task"),
				 errhint("Triggers on target tables and registered functions must not call uds_push().")));
	pushing = true;
	PG_TRY();
	{
		uds_become_trusted(uds_extension_owner(), &saved);
		settings = NewGUCNestLevel();
		SPI_connect();
		result = work(arg);
		MemoryContextSwitchTo(context);
		if (DatumGetPointer(result) != NULL)
			result = PointerGetDatum(PG_DETOAST_DATUM_COPY(result));
		SPI_finish();
		AtEOXact_GUC(true, settings);
		uds_unbecome(&saved);
	}
	PG_CATCH();
	{
		pushing = uds_reconciling = false;
		uds_spi_keep_plans(false);
		rethrow(level, context, owner);
	}
	PG_END_TRY();
	pushing = false;
	uds_spi_keep_plans(false);
	return result;
}

/* A call of uds_push(). */
typedef struct PushCall
{
	Jsonb	   *data;
	const char *caller;
} PushCall;

static Datum
push(void *arg)
{
	PushCall   *call = arg;
	UdsPush		envelope = {0};

	if (!uds_push_read(&envelope, call->data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot take what was pushed: %s", envelope.problem),
				 errhint("%s", envelope.hint)));
	uds_spi_keep_plans(envelope.all <= UDS_SMALL_TASK);
	return uds_push_take(&envelope, find_source(&envelope), call->caller);
}

/*
 * uds_push(data) → jsonb: takes records in the caller's transaction
 *
 * ERROR where the envelope is wrong; records that are wrong are reported in the
 * reply and the task ends partial.
 */
Datum
uds_push(PG_FUNCTION_ARGS)
{
	PushCall	call = {0};

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot take what was pushed: it is null"),
				 errhint("Send a JSON object.")));
	call.data = PG_GETARG_JSONB_P(0);
	call.caller = GetUserNameFromId(GetUserId(), false);
	PG_RETURN_DATUM(uds_push_guard(push, &call));
}
