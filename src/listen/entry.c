/*-------------------------------------------------------------------------
 *
 * entry.c
 *		uds.http_request(): answers one request over HTTP.
 *
 * All that the role of the listener may call.  Trusts nothing that it gets:
 * keys are checked here, and what is wrong with a request becomes a reply.
 * What goes wrong inside is an ERROR, of which the listener tells its client
 * nothing.
 *
 * Runs in the listener, in a transaction of its own; can be called by any
 * session that may.  Locks as those of uds_push() and of queueing a task.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include <cJSON.h>

#include "connector/jsontree.h"
#include "connector/value.h"
#include "listen/listen.h"
#include "process/process.h"
#include "reconcile/reconcile.h"

PG_FUNCTION_INFO_V1(uds_http_request);

#define JSON_TYPE "application/json"
#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* The value of a pair by its name, or NULL. */
static const char *
find_pair(char **pairs, int count, const char *name)
{
	for (int i = 0; i < count; i++)
		if (strcmp(pairs[2 * i], name) == 0)
			return pairs[2 * i + 1];
	return NULL;
}

/*
 * The value of a header, by its name in lower case, or NULL.
 */
const char *
uds_inquiry_header(const UdsInquiry *inquiry, const char *name)
{
	return find_pair(inquiry->headers, inquiry->nheaders, name);
}

/*
 * The value of a parameter of the query, or NULL.
 */
const char *
uds_inquiry_query(const UdsInquiry *inquiry, const char *name)
{
	return find_pair(inquiry->query, inquiry->nquery, name);
}

/*
 * Makes the reply an error: status, and a message for the client.
 */
void
uds_reply_error(UdsReply *reply, int status, const char *message)
{
	StringInfoData body;

	initStringInfo(&body);
	appendStringInfo(&body, "{\"code\":%d,\"message\":", status);
	escape_json(&body, message);
	appendStringInfoChar(&body, '}');
	uds_reply_text(reply, JSON_TYPE, body.data);
	reply->status = status;
}

/*
 * Makes the reply a text, with status 200.
 */
void
uds_reply_text(UdsReply *reply, const char *type, const char *body)
{
	reply->status = 200;
	reply->type = type;
	reply->body = CStringGetTextDatum(body);
}

/*
 * Who asks, by the key in the request; NULL if the key is no good, and the
 * reply says so.
 */
static UdsKey *
authenticate(const UdsInquiry *inquiry, const char *scope, UdsReply *reply)
{
	const char *bearer = uds_route_bearer(uds_inquiry_header(inquiry, "authorization"));
	const char *problem = "no key";
	UdsKey	   *key = bearer ? uds_key_check(bearer, scope, &problem) : NULL;

	if (key != NULL)
		return key;
	ereport(LOG,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("uds: refused a request for %s over HTTP from %s: %s",
					scope, inquiry->address, problem),
			 errhidestmt(true), errhidecontext(true)));
	uds_reply_error(reply, 401, bearer ? "the key is not valid" :
					"a key is needed: Authorization: Bearer KEY");
	return NULL;
}

/* The body as text of the server's encoding, on its way there. */
typedef struct BodyText
{
	text	   *body;
	char	   *text;			/* NUL-terminated */
	Jsonb	   *jsonb;
} BodyText;

static void
convert_body(void *arg)
{
	BodyText   *body = arg;
	char	   *bytes = text_to_cstring(body->body);
	size_t		len = VARSIZE_ANY_EXHDR(body->body);

	if (strlen(bytes) != len)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("the body has a zero byte")));
	body->text = pg_any_to_server(bytes, len, PG_UTF8);
}

static void
parse_body(void *arg)
{
	BodyText   *body = arg;

	body->jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(body->text)));
}

/* A text member of an envelope, by cJSON. */
static char *
cjson_text(const cJSON *envelope, const char *name)
{
	const cJSON *member = cJSON_GetObjectItemCaseSensitive(envelope, name);

	return cJSON_IsString(member) ? pstrdup(member->valuestring) : NULL;
}

/*
 * Opens an envelope that jsonb does not take, because of a record in it.  That
 * is this record's error.
 */
static bool
open_spoiled(BodyText *body, UdsPush *push)
{
	cJSON	   *envelope = cJSON_ParseWithLength(body->text, strlen(body->text));

	push->problem = "the body is not valid JSON";
	if (envelope == NULL)
		return false;
	push->data_type = cjson_text(envelope, "dataType");
	push->match_key = cjson_text(envelope, "matchKey");
	push->source = cjson_text(envelope, "sourceName");
	push->form = UDS_PUSH_PAGE;
	push->all = cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(envelope, "records"));
	push->records = CStringGetTextDatum(body->text);
	cJSON_Delete(envelope);
	if (push->all == 0)
	{
		push->problem = "it has no records";
		return false;
	}
	return uds_push_check(push);
}

/* Opens the envelope of a push, whatever form it has. */
static bool
open_push(const UdsInquiry *inquiry, UdsPush *push)
{
	BodyText	body = {inquiry->body};
	int			sqlstate;

	if (inquiry->route.form == UDS_FORM_LINES && GetDatabaseEncoding() == PG_UTF8)
	{
		/* nobody needs a copy of it */
		if (!pg_verify_mbstr(PG_UTF8, VARDATA_ANY(body.body), VARSIZE_ANY_EXHDR(body.body), true))
		{
			push->problem = "the body is not UTF-8";
			return false;
		}
		push->records = PointerGetDatum(body.body);
	}
	else if (uds_value_try(convert_body, &body, &sqlstate) != NULL)
	{
		push->problem = "the body is not UTF-8, or not in the encoding of the database";
		return false;
	}
	if (inquiry->route.form == UDS_FORM_LINES)
	{
		const char *name = uds_inquiry_query(inquiry, "dataType");

		push->data_type = name ? pstrdup(name) : NULL;
		name = uds_inquiry_query(inquiry, "matchKey");
		push->match_key = name ? pstrdup(name) : NULL;
		name = uds_inquiry_query(inquiry, "sourceName");
		push->source = name ? pstrdup(name) : NULL;
		push->form = UDS_PUSH_LINES;
		if (push->records == (Datum) 0)
			push->records = CStringGetTextDatum(body.text);
		push->all = uds_lines_count(VARDATA_ANY(DatumGetPointer(push->records)),
									VARSIZE_ANY_EXHDR(DatumGetPointer(push->records)));
		if (push->all == 0)
			push->problem = "it has no records";
		return push->all > 0 && uds_push_check(push);
	}
	if (uds_value_try(parse_body, &body, &sqlstate) == NULL)
		return uds_push_read(push, body.jsonb);
	if (sqlstate == ERRCODE_UNTRANSLATABLE_CHARACTER)
		return open_spoiled(&body, push);
	push->problem = "the body is not valid JSON";
	return false;
}

/* POST /api/userData:push */
static void
answer_push(const UdsInquiry *inquiry, UdsReply *reply)
{
	UdsPush		push = {0};
	UdsKey	   *key;
	UdsSource  *source;

	uds_spi_keep_plans(true);
	key = authenticate(inquiry, "push", reply);
	if (key == NULL)
		return;
	if (!open_push(inquiry, &push))
	{
		uds_reply_error(reply, 400, psprintf("cannot take what was pushed: %s", push.problem));
		return;
	}
	if (push.source != NULL && strcmp(push.source, key->source) != 0)
	{
		uds_reply_error(reply, 403, "the key is not for this source");
		return;
	}
	source = uds_source_load(key->source_id);
	if (source == NULL || strcmp(source->type, "push") != 0 || !source->enabled)
	{
		uds_reply_error(reply, 403, "the source does not take pushes at present");
		return;
	}
	reply->body = uds_push_take(&push, source, psprintf("key %s", key->name));
	reply->body = CStringGetTextDatum(JsonbToCString(NULL, &DatumGetJsonbP(reply->body)->root,
													 VARSIZE(DatumGetPointer(reply->body))));
	reply->type = JSON_TYPE;
	reply->status = 200;
}

/* GET /healthz */
static void
answer_health(UdsReply *reply)
{
	if (uds_launcher_runs())
		uds_reply_text(reply, JSON_TYPE, "{\"code\":0,\"message\":\"ok\"}");
	else
		uds_reply_error(reply, 503, "no task can run at present");
}

/* Whether a request comes from this machine, and nobody passed it on. */
static bool
is_local(const UdsInquiry *inquiry)
{
	return uds_inquiry_header(inquiry, "x-forwarded-for") == NULL &&
		uds_inquiry_header(inquiry, "forwarded") == NULL &&
		(strncmp(inquiry->address, "127.", 4) == 0 || strcmp(inquiry->address, "::1") == 0);
}

/* GET /metrics */
static void
answer_metrics(const UdsInquiry *inquiry, UdsReply *reply)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {(Datum) 0};
	char		nulls[2] = "n";
	bool		isnull;

	if (!is_local(inquiry) || uds_inquiry_header(inquiry, "authorization") != NULL)
	{
		UdsKey	   *key = authenticate(inquiry, "metrics", reply);

		if (key == NULL)
			return;
		values[0] = Int64GetDatum(key->source_id);
		nulls[0] = ' ';
	}
	reply->body = uds_spi_value("SELECT uds.metrics($1)", 1, types, values, nulls, &isnull);
	reply->type = METRICS_TYPE;
	reply->status = 200;
}

/* Takes pairs out of an array of texts. */
static char **
read_pairs(ArrayType *array, int *count)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	char	  **pairs;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	pairs = palloc0(Max(n, 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
		pairs[i] = nulls[i] ? "" : TextDatumGetCString(elements[i]);
	*count = n / 2;
	return pairs;
}

/* What the guarded work needs, and what it gives back beside its result. */
typedef struct Call
{
	UdsInquiry	inquiry;
	UdsReply	reply;
} Call;

static Datum
answer(void *arg)
{
	Call	   *call = arg;

	switch (call->inquiry.route.kind)
	{
		case UDS_ROUTE_PUSH:
			answer_push(&call->inquiry, &call->reply);
			break;
		case UDS_ROUTE_CALLBACK:
			uds_callback_receive(&call->inquiry, &call->reply);
			break;
		case UDS_ROUTE_HEALTH:
			answer_health(&call->reply);
			break;
		case UDS_ROUTE_METRICS:
			answer_metrics(&call->inquiry, &call->reply);
			break;
	}
	return call->reply.body;
}

/*
 * uds.http_request(method, path, query, headers, address, body)
 *		→ (status, type, retry_after, reply)
 *
 * Raises what goes wrong inside.
 */
Datum
uds_http_request(PG_FUNCTION_ARGS)
{
	Call		call = {0};
	UdsInquiry *inquiry = &call.inquiry;
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {false};

	for (int i = 0; i < 6; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("arguments of uds.http_request() must not be null")));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	inquiry->method = text_to_cstring(PG_GETARG_TEXT_PP(0));
	inquiry->query = read_pairs(PG_GETARG_ARRAYTYPE_P(2), &inquiry->nquery);
	inquiry->headers = read_pairs(PG_GETARG_ARRAYTYPE_P(3), &inquiry->nheaders);
	inquiry->address = text_to_cstring(PG_GETARG_TEXT_PP(4));
	inquiry->body = PG_GETARG_TEXT_PP(5);

	/* a body that is still compressed is none of ours */
	if (uds_route_find(&inquiry->route, inquiry->method, text_to_cstring(PG_GETARG_TEXT_PP(1)),
					   uds_inquiry_header(inquiry, "content-type"), NULL))
		call.reply.body = uds_push_guard(answer, &call);
	else
		uds_reply_error(&call.reply, inquiry->route.status, inquiry->route.message);

	values[0] = Int32GetDatum(call.reply.status);
	values[1] = CStringGetTextDatum(call.reply.type);
	values[2] = Int32GetDatum(call.reply.retry_after);
	values[3] = call.reply.body;
	nulls[2] = call.reply.retry_after == 0;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
