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

/* What a push asks for. */
typedef struct Envelope
{
	char	   *data_type;
	char	   *match_key;		/* or NULL */
	const char *source;
	int64		all;			/* records given */
	Datum		records;		/* jsonb */
} Envelope;

static void
refuse(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("cannot take what was pushed: %s", message),
			 errhint("%s", hint)));
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

/* Takes the records out of the envelope; ERROR if there are none. */
static void
take_records(JsonbValue *value, const char *shape, Envelope *envelope)
{
	JsonbValue	records;
	Jsonb	   *list;

	if (!uds_value_member(value, "records", strlen("records"), &records) ||
		records.type == jbvNull)
		refuse("it has no records", shape);
	if (!uds_value_is_array(&records))
		refuse("records is not a list", shape);
	list = uds_value_to_jsonb(&records);
	envelope->all = JB_ROOT_COUNT(list);
	if (envelope->all == 0)
		refuse("the list of records is empty", shape);
	envelope->records = JsonbPGetDatum(list);
}

/* Reads the envelope; ERROR if it is not one. */
static Envelope *
open_envelope(Jsonb *data)
{
	Envelope   *envelope = palloc0(sizeof(Envelope));
	const char *shape = "Send {\"dataType\": \"user\" or \"department\", \"records\": [{…}, …], \"matchKey\": …, \"sourceName\": …}.";
	JsonbValue	value;
	enum jbvType type;

	uds_value_from_jsonb(data, &value);
	if (!uds_value_is_object(&value))
		refuse("it is not a JSON object", shape);

	envelope->data_type = read_member(&value, "dataType", &type);
	if (envelope->data_type == NULL)
		refuse("it has no dataType", shape);
	if (type != jbvString || (strcmp(envelope->data_type, UDS_TYPE_USER) != 0 &&
							  strcmp(envelope->data_type, UDS_TYPE_DEPARTMENT) != 0))
		refuse(psprintf("unknown dataType \"%s\"", envelope->data_type),
			   "Known are \"user\" and \"department\".");

	take_records(&value, shape, envelope);

	envelope->match_key = read_member(&value, "matchKey", &type);
	if (envelope->match_key != NULL && envelope->match_key[0] == '\0')
		envelope->match_key = NULL;
	if (envelope->match_key != NULL &&
		(type != jbvString || (strcmp(envelope->match_key, "username") != 0 &&
							   strcmp(envelope->match_key, "email") != 0 &&
							   strcmp(envelope->match_key, "phone") != 0)))
		refuse(psprintf("unknown matchKey \"%s\"", envelope->match_key),
			   "Known are \"username\", \"email\" and \"phone\".");

	envelope->source = read_member(&value, "sourceName", &type);
	if (envelope->source == NULL)
		envelope->source = "api";
	else if (type != jbvString)
		refuse("sourceName is not text", shape);
	return envelope;
}

/* Finds the source that records are pushed to; ERROR if it cannot be. */
static UdsSource *
find_source(const Envelope *envelope)
{
	UdsSource  *source = uds_source_load_by_name(envelope->source);

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
	if (envelope->match_key != NULL)
		source->match_keys = psprintf("[\"%s\"]", envelope->match_key);
	return source;
}

/*
 * Adds the part of a resource to the reply, under a name; its error rows say
 * "means".
 */
static void
add_part(StringInfo reply, const char *name, const char *means,
		 const UdsTask *task, const Envelope *envelope)
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
					 "},\"failedRecords\":", envelope->all, envelope->all - failed, failed);
	appendStringInfoString(reply, records);
	appendStringInfoString(reply, "}}");
}

/*
 * The reply, as jsonb in SPI's memory: a part for each resource that takes the
 * records.  A user's departments are his memberships.
 */
static Datum
make_reply(const UdsTask *task, const Envelope *envelope, List *takers)
{
	StringInfoData reply;
	ListCell   *lc;

	initStringInfo(&reply);
	appendStringInfo(&reply, "{\"code\":0,\"message\":\"success\",\"task\":" INT64_FORMAT
					 ",\"result\":[", task->id);
	foreach(lc, takers)
	{
		const char *name = lfirst(lc);

		add_part(&reply, name, name, task, envelope);
		if (strcmp(name, uds_users.name) == 0)
			add_part(&reply, uds_departments.name, "members", task, envelope);
	}
	appendStringInfoString(&reply, "]}");
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(reply.data));
}

/* Takes what was pushed; the reply, as jsonb in SPI's memory. */
static Datum
take(Jsonb *data, Oid caller)
{
	Envelope   *envelope = open_envelope(data);
	UdsTask		task = {.kind = "push",.mode = "auto",.attempt = 1};
	UdsPages	pages = {0};
	UdsSource  *source;
	List	   *takers = NIL;
	const char *status;
	char	   *message;
	instr_time	start;
	instr_time	end;

	INSTR_TIME_SET_CURRENT(start);

	/* compiling takes longer than running */
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	uds_spi_keep_plans(envelope->all <= UDS_SMALL_TASK);
	source = find_source(envelope);
	uds_task_begin_push(&task, source->id, caller);
	task.counts.complete = -1;

	pages.task = task.id;
	pages.pushed = envelope->data_type;
	pages.records = envelope->records;
	pages.n_records = envelope->all;
	pages.takers = &takers;
	status = uds_reconcile(&task, source, &pages, &task.counts, &message);
	task.counts.complete = -1;
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	task.counts.apply_ms = (int64) INSTR_TIME_GET_MILLISEC(end);
	uds_task_finish_push(&task, status, message);
	uds_source_note_success(source->id, task.id);
	return make_reply(&task, envelope, takers);
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
 * uds_push(data) → jsonb: takes records in the caller's transaction
 *
 * ERROR where the envelope is wrong, or from within another push or task,
 * whose stage it would clear; records that are wrong are reported in the reply and the
 * task ends partial.
 */
Datum
uds_push(PG_FUNCTION_ARGS)
{
	static bool pushing = false;
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int			level = GetCurrentTransactionNestLevel();
	Oid			caller = GetUserId();
	UdsIdentity saved;
	Datum		reply;
	int			settings;

	if (PG_ARGISNULL(0))
		refuse("it is null", "Send a JSON object.");
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
		reply = take(PG_GETARG_JSONB_P(0), caller);
		MemoryContextSwitchTo(context);
		reply = PointerGetDatum(PG_DETOAST_DATUM_COPY(reply));
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
	PG_RETURN_DATUM(reply);
}
