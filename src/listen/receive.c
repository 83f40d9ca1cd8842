/*-------------------------------------------------------------------------
 *
 * receive.c
 *		Change events that services send to /callback/NAME.
 *
 * An event is stored and acknowledged at once; a task asks the service later
 * what has become of what it tells of (catalog/events.c).  Which ids it tells
 * of is said by the manifest of the source, under "events".
 *
 * Runs in the listener, in the transaction of a request; locks as
 * catalog/events.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "connector/value.h"
#include "listen/envelope.h"
#include "listen/listen.h"

/* bytes of an event's id and type that are kept; ids that are longer are hashed */
#define MAX_ID 200

/* $1 message, $2 jsonpaths */
static const char *const pick_sql =
"SELECT p.value #>> '{}'"
"  FROM unnest($2) WITH ORDINALITY AS w (path, n)"
" CROSS JOIN LATERAL jsonb_path_query($1, w.path::jsonpath, silent => true)"
"            WITH ORDINALITY AS p (value, m)"
" WHERE jsonb_typeof(p.value) IN ('string', 'number') AND p.value <> '\"\"'"
" ORDER BY w.n, p.m";

/* A source as events for it need it. */
typedef struct Receiver
{
	UdsSource  *source;
	const UdsManifest *manifest;
	const UdsEventsSpec *events;
	UdsVariable *options;
	int			noptions;
} Receiver;

/* Finds the source by its name; false if there is none that takes events. */
static bool
find_receiver(const char *name, Receiver *receiver)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	bool		isnull;
	Datum		id;
	char	   *error = NULL;

	id = uds_spi_value("SELECT id FROM uds.source_settings WHERE name = $1",
					   1, types, values, NULL, &isnull);
	if (isnull)
		return false;
	receiver->source = uds_source_load(DatumGetInt64(id));
	if (receiver->source == NULL || receiver->source->manifest == NULL)
		return false;
	receiver->manifest = uds_manifest_parse(receiver->source->manifest, &error);
	if (receiver->manifest == NULL || receiver->manifest->events == NULL)
		return false;
	receiver->events = receiver->manifest->events;
	receiver->options = uds_manifest_option_values(receiver->manifest, receiver->source->options,
												   &receiver->noptions);
	return true;
}

/* A template of the manifest with the options in it; NULL if that is nothing. */
static char *
expand(const Receiver *receiver, const UdsTemplate *template)
{
	StringInfoData text;

	initStringInfo(&text);
	if (template == NULL ||
		!uds_template_expand(&text, template, UDS_ESCAPE_RAW, receiver->options,
							 receiver->noptions, NULL) ||
		text.len == 0)
		return NULL;
	return text.data;
}

/* The first of the names under which a parameter or header may come. */
static const char *
first_of(const char *(*find) (const UdsInquiry *inquiry, const char *name),
		 const UdsInquiry *inquiry, const char *const *names)
{
	const char *value = NULL;

	for (; value == NULL && *names != NULL; names++)
		value = find(inquiry, *names);
	return value;
}

/*
 * Fills an envelope from a request.  DingTalk's own samples look for
 * msg_signature before signature, and for timeStamp.
 */
static void
fill_envelope(const UdsInquiry *inquiry, const Receiver *receiver, UdsEnvelope *envelope)
{
	static const char *const signatures[] = {"msg_signature", "signature", NULL};
	static const char *const timestamps[] = {"timestamp", "timeStamp", NULL};
	const UdsEventsSpec *events = receiver->events;

	envelope->scheme = events->scheme;
	envelope->token = expand(receiver, events->token);
	envelope->key = expand(receiver, events->key);
	for (int i = 0; i < events->nreceivers && envelope->receiver == NULL; i++)
		envelope->receiver = expand(receiver, events->receivers[i]);
	envelope->is_get = strcmp(inquiry->method, "GET") == 0;
	envelope->body = text_to_cstring(inquiry->body);
	envelope->body_len = strlen(envelope->body);
	if (strcmp(events->scheme, "feishu") == 0)
	{
		envelope->signature = uds_inquiry_header(inquiry, "x-lark-signature");
		envelope->timestamp = uds_inquiry_header(inquiry, "x-lark-request-timestamp");
		envelope->nonce = uds_inquiry_header(inquiry, "x-lark-request-nonce");
		return;
	}
	envelope->signature = first_of(uds_inquiry_query, inquiry, signatures);
	envelope->timestamp = first_of(uds_inquiry_query, inquiry, timestamps);
	envelope->nonce = uds_inquiry_query(inquiry, "nonce");
	envelope->echo = uds_inquiry_query(inquiry, "echostr");
}

/* Picks texts out of a message by jsonpaths; returns how many there are. */
static uint64
pick(Datum message, const UdsTexts *paths)
{
	Oid			types[2] = {JSONBOID, TEXTARRAYOID};
	Datum	   *elements = palloc(Max(paths->count, 1) * sizeof(Datum));
	Datum		values[2] = {message};

	for (int i = 0; i < paths->count; i++)
		elements[i] = CStringGetTextDatum(paths->items[i]);
	values[1] = PointerGetDatum(construct_array(elements, paths->count, TEXTOID, -1, false,
												TYPALIGN_INT));
	return uds_spi_exec(pick_sql, 2, types, values, NULL);
}

/* What tells an event from all others, by what it has for that. */
static char *
event_id(Datum message, const UdsTexts *paths)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	StringInfoData id;
	uint64		n = pick(message, paths);

	initStringInfo(&id);
	for (uint64 i = 0; i < n; i++)
		appendStringInfo(&id, "%s%s", i > 0 ? "/" : "", uds_spi_text(i, 1));
	if (id.len > 0 && id.len <= MAX_ID)
		return id.data;
	if (id.len == 0)
		appendStringInfoString(&id, JsonbToCString(NULL, &DatumGetJsonbP(message)->root,
												   VARSIZE(DatumGetPointer(message))));
	values[0] = CStringGetTextDatum(id.data);
	uds_spi_exec("SELECT md5($1)", 1, types, values, NULL);
	return uds_spi_text(0, 1);
}

static char *
event_type(Datum message, const UdsTexts *paths)
{
	char	   *type;

	if (pick(message, paths) == 0)
		return "";
	type = uds_spi_text(0, 1);
	if (strlen(type) > MAX_ID)
		type[pg_mbcliplen(type, strlen(type), MAX_ID)] = '\0';
	return type;
}

static bool
is_among(const UdsTexts *texts, const char *text)
{
	for (int i = 0; i < texts->count; i++)
		if (strcmp(texts->items[i], text) == 0)
			return true;
	return false;
}

/* Appends what one rule of the manifest finds in a message. */
static void
append_changes(StringInfo changes, Datum message, const UdsChangeSpec *spec)
{
	char	   *renamed = NULL;
	uint64		n;

	if (spec->renamed != NULL)
	{
		UdsTexts	path = {1, (char **) &spec->renamed};

		if (pick(message, &path) > 0)
			renamed = uds_spi_text(0, 1);
	}
	n = pick(message, &spec->ids);
	for (uint64 i = 0; i < n; i++)
	{
		if (changes->len > 1)
			appendStringInfoChar(changes, ',');
		appendStringInfo(changes, "{\"type\":\"%s\",\"id\":", spec->data_type);
		escape_json(changes, uds_spi_text(i, 1));
		/* an event that renames is about one */
		if (renamed != NULL && n == 1)
		{
			appendStringInfoString(changes, ",\"renamed\":");
			escape_json(changes, renamed);
		}
		appendStringInfoChar(changes, '}');
	}
}

/* What an event of a type tells of, as jsonb. */
static Datum
event_changes(const Receiver *receiver, Datum message, const char *type)
{
	StringInfoData changes;

	initStringInfo(&changes);
	appendStringInfoChar(&changes, '[');
	for (int i = 0; i < receiver->events->nchanges; i++)
	{
		const UdsChangeSpec *spec = &receiver->events->changes[i];

		if (is_among(&spec->types, type) &&
			uds_manifest_holds(&spec->when, receiver->options, receiver->noptions))
			append_changes(&changes, message, spec);
	}
	appendStringInfoChar(&changes, ']');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(changes.data));
}

/* A text on its way to jsonb. */
typedef struct Message
{
	char	   *text;
	Datum		jsonb;
} Message;

static void
convert_message(void *arg)
{
	Message    *message = arg;

	message->text = pg_any_to_server(message->text, strlen(message->text), PG_UTF8);
	message->jsonb = DirectFunctionCall1(jsonb_in, CStringGetDatum(message->text));
}

/* Stores an event; false if it is not one. */
static bool
store(const Receiver *receiver, char *text)
{
	Message		message = {text};
	int			sqlstate;
	char	   *type;

	if (uds_value_try(convert_message, &message, &sqlstate) != NULL)
		return false;
	type = event_type(message.jsonb, &receiver->events->type);
	(void) uds_event_store(receiver->source->id, event_id(message.jsonb, &receiver->events->id), type,
						   event_changes(receiver, message.jsonb, type), message.jsonb,
						   is_among(&receiver->events->resync, type), GetSessionUserId());
	return true;
}

/* What the sender of an envelope is told of its refusal. */
static const char *
refusal(int status)
{
	switch (status)
	{
		case 400:
			return "this is no event";
		case 401:
			return "the signature or the token is wrong";
		case 404:
			return "there is nothing here";
		case 405:
			return "the method is not allowed here";
		case 503:
			return "the server is busy";
		default:
			return "the event is not for this source";
	}
}

/*
 * Answers a request to /callback/NAME: a handshake, or an event, which is stored
 * before it is acknowledged.
 */
void
uds_callback_receive(const UdsInquiry *inquiry, UdsReply *reply)
{
	Receiver	receiver = {0};
	UdsEnvelope envelope = {0};

	uds_spi_keep_plans(true);
	if (!find_receiver(inquiry->route.source, &receiver))
	{
		uds_reply_error(reply, 404, refusal(404));
		return;
	}
	fill_envelope(inquiry, &receiver, &envelope);
	if (uds_envelope_open(&envelope) && !receiver.source->enabled)
	{
		envelope.status = 403;
		envelope.problem = "the source is disabled";
	}
	else if (envelope.status == 200 && envelope.event != NULL && !store(&receiver, envelope.event))
	{
		envelope.status = 400;
		envelope.problem = "it is not the JSON of an event";
	}
	if (envelope.status == 200)
	{
		uds_reply_text(reply, envelope.reply_type, envelope.reply);
		return;
	}
	ereport(LOG,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("uds: refused an event for source \"%s\" from %s: %s",
					receiver.source->name, inquiry->address, envelope.problem),
			 errhidestmt(true), errhidecontext(true)));
	uds_reply_error(reply, envelope.status, refusal(envelope.status));
}
