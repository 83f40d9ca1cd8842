/*-------------------------------------------------------------------------
 *
 * hooks.c
 *		Calls from the engine to its caller, and nothing else.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "connector/engine.h"
#include "connector/jsonpick.h"
#include "connector/redact.h"
#include "uds.h"

/* The values of for_each as a JSON object, or NULL. */
static char *
make_context(UdsRun *run, const UdsCall *request)
{
	StringInfoData context;

	if (request->value == NULL)
		return NULL;
	initStringInfo(&context);
	appendStringInfo(&context, "{\"%s\": \"", request->stream->as);
	uds_template_escape(&context,
						uds_text_page(run, request, request->value,
									  strlen(request->value), NULL),
						UDS_ESCAPE_JSON);
	appendStringInfoString(&context, "\"}");
	return context.data;
}

/*
 * Hands a response, or the loss of one, to the raw log, without anything
 * secret.  Of a token reply the body goes along only if it is an error and
 * has no token in it.
 */
void
uds_hook_page(UdsRun *run, const UdsCall *request, bool usable)
{
	const UdsHttpResponse *response = request->response;
	MemoryContext caller = CurrentMemoryContext;
	UdsPage		page = {0};

	if (run->hooks->page == NULL)
		return;
	MemoryContextSwitchTo(request->context);
	page.stream = request->stream ? request->stream->name : UDS_STREAM_AUTH;
	page.request = request->shown;
	page.status = response->status;
	page.usable = usable;
	page.context = make_context(run, request);
	if (response->fault == UDS_HTTP_OK && response->body != NULL)
	{
		if (usable)
			page.body = uds_text_page(run, request, response->body,
									  response->body_len, &page.body_len);
		else
			page.body = uds_text_redacted(run, request, response->body,
										  response->body_len,
										  UDS_SECRET_IN_MESSAGE, &page.body_len);
		if (request->stream == NULL &&
			(!request->answer.is_error || request->answer.token != NULL))
		{
			/* a secret; its size is none */
			page.body = NULL;
			page.body_len = response->body_len;
		}
	}
	run->hooks->page(run->hooks->arg, &page);
	MemoryContextSwitchTo(caller);
}

/*
 * Hands a page to the raw log that the manifest made and no service sent.
 */
void
uds_hook_made_page(UdsRun *run, const UdsStreamSpec *stream, const char *body)
{
	MemoryContext caller = CurrentMemoryContext;
	UdsPage		page = {0};

	run->totals.pages++;
	if (run->hooks->page == NULL)
		return;
	page.stream = stream->name;
	page.request = "made by the manifest";
	page.body = body;
	page.body_len = strlen(body);
	page.usable = true;
	run->hooks->page(run->hooks->arg, &page);
	MemoryContextSwitchTo(caller);
}

/*
 * The same of a page that stands for what the service does not have any more.
 */
void
uds_hook_gone_page(UdsRun *run, const UdsCall *request, const char *body)
{
	MemoryContext caller = CurrentMemoryContext;
	UdsPage		page = {0};

	run->totals.pages++;
	MemoryContextSwitchTo(request->context);
	page.stream = request->stream->name;
	page.request = "made by the manifest: it is gone";
	page.context = make_context(run, request);
	page.body = body;
	page.body_len = strlen(body);
	page.usable = true;
	if (run->hooks->page != NULL)
		run->hooks->page(run->hooks->arg, &page);
	MemoryContextSwitchTo(caller);
}

/*
 * What a jsonpath selects in a page, as UdsFetchHooks.select.  What is
 * mended in the page for this is in memory of the caller.
 */
List *
uds_hook_select(UdsRun *run, const char *json, size_t len,
				const char *jsonpath)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *items = run->hooks->select(run->hooks->arg, uds_json_mend(json, len),
										  len, jsonpath);

	MemoryContextSwitchTo(caller);
	return items;
}

/*
 * The first record of a page as a stream maps it, or what is wrong with it
 * (*ok then is false); NULL if the page has none.
 */
char *
uds_hook_map(UdsRun *run, const UdsCall *request, const UdsStreamSpec *stream, bool *ok)
{
	MemoryContext caller = CurrentMemoryContext;
	const UdsHttpResponse *response = request->response;
	char	   *record = run->hooks->map(run->hooks->arg, stream->name,
										 uds_json_mend(response->body, response->body_len),
										 response->body_len, make_context(run, request), ok);

	MemoryContextSwitchTo(caller);
	return record;
}

/* A token kept from before, in the context of the run, or NULL. */
char *
uds_hook_load_token(UdsRun *run)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *token = NULL;

	if (run->hooks->load_token != NULL)
		token = run->hooks->load_token(run->hooks->arg);
	MemoryContextSwitchTo(caller);
	return token ? MemoryContextStrdup(run->context, token) : NULL;
}

/* Keeps a token for lifetime seconds; NULL forgets the one kept. */
void
uds_hook_save_token(UdsRun *run, const char *token, int64 lifetime)
{
	MemoryContext caller = CurrentMemoryContext;

	if (run->hooks->save_token == NULL)
		return;
	run->hooks->save_token(run->hooks->arg, token,
						   GetCurrentTimestamp() + lifetime * USECS_PER_SEC);
	MemoryContextSwitchTo(caller);
}

/* Tells how far the run is. */
void
uds_hook_progress(UdsRun *run)
{
	MemoryContext caller = CurrentMemoryContext;

	run->totals.requests_total = run->totals.requests + run->nready +
		run->nwaiting + run->starts_left;
	if (run->hooks->progress == NULL)
		return;
	run->hooks->progress(run->hooks->arg, &run->totals);
	MemoryContextSwitchTo(caller);
}
