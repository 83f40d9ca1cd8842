/*-------------------------------------------------------------------------
 *
 * note.c
 *		What is noted while a stream is read, for the next incremental read:
 *		times, links, greatest numbers.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "utils/memutils.h"

#include "connector/engine.h"
#include "connector/jsonpick.h"

/*
 * Room for what a stream notes, in the run's memory context; NULL if that is
 * nothing.
 */
UdsNote *
uds_note_begin(UdsRun *run, const UdsStreamSpec *stream)
{
	UdsNote    *notes;

	if (stream->nnotes == 0)
		return NULL;
	notes = MemoryContextAllocZero(run->context, stream->nnotes * sizeof(UdsNote));
	for (int i = 0; i < stream->nnotes; i++)
		notes[i].spec = &stream->notes[i];
	return notes;
}

static char *
format_time(int64 epoch, const char *format)
{
	time_t		seconds = (time_t) epoch;
	struct tm	parts;
	char		text[64];

	if (strcmp(format, "epoch") == 0)
		return psprintf(INT64_FORMAT, epoch);
	if (strcmp(format, "epoch_ms") == 0)
		return psprintf(INT64_FORMAT, epoch * 1000);
	gmtime_r(&seconds, &parts);
	strftime(text, sizeof(text),
			 strcmp(format, "iso_ms") == 0 ? "%Y-%m-%dT%H:%M:%S.000Z" : "%Y-%m-%dT%H:%M:%SZ",
			 &parts);
	return pstrdup(text);
}

/* When a request was sent, by the service's clock or else by ours. */
static int64
time_sent(const UdsHttpResponse *response)
{
	return uds_response_clock(response) - (response->elapsed + 999) / 1000;
}

/* All digits, maybe with a sign. */
static bool
is_integer(const char *text)
{
	const char *digits = text + (*text == '-' ? 1 : 0);

	return *digits != '\0' && digits[strspn(digits, "0123456789")] == '\0';
}

/* Whether one value is greater than another: as numbers, else as texts. */
static bool
is_greater(const char *a, const char *b)
{
	if (is_integer(a) && is_integer(b) && strlen(a) <= 18 && strlen(b) <= 18)
		return strtoll(a, NULL, 10) > strtoll(b, NULL, 10);
	return strcmp(a, b) > 0;
}

static const char *
greatest(UdsRun *run, const UdsCall *request, const UdsNote *note)
{
	const char *value = note->value;
	ListCell   *lc;

	foreach(lc, uds_hook_select(run, request->response->body,
								request->response->body_len, note->spec->path))
	{
		if (value == NULL || is_greater(lfirst(lc), value))
			value = lfirst(lc);
	}
	return value;
}

/*
 * Takes what a good page of the stream says.  Pages may come in any order,
 * but for "last", which is about a listing without a for_each.
 */
void
uds_note_take(UdsRun *run, UdsNote *notes, const UdsCall *request)
{
	MemoryContext caller = MemoryContextSwitchTo(request->context);

	for (int i = 0; notes != NULL && i < request->stream->nnotes; i++)
	{
		UdsNote    *note = &notes[i];
		const char *value = note->value;

		if (note->spec->kind == UDS_NOTE_LAST && request->answer.noted[i] != NULL)
			value = request->answer.noted[i];
		else if (note->spec->kind == UDS_NOTE_MAX)
			value = greatest(run, request, note);
		else if (note->spec->kind == UDS_NOTE_DATE && value == NULL)
			value = format_time(time_sent(request->response) - note->spec->overlap,
								note->spec->format);
		if (value != note->value)
			note->value = MemoryContextStrdup(run->context, value);
	}
	MemoryContextSwitchTo(caller);
}

/*
 * Takes over what was noted before, a JSON object of texts, as variables
 * state.X of the run; NULL = nothing.
 */
void
uds_note_load(UdsRun *run, const char *state_json)
{
	cJSON	   *state = state_json ? cJSON_Parse(state_json) : NULL;
	const cJSON *item;

	run->nstate = 0;
	run->state = palloc0((cJSON_GetArraySize(state) + 1) * sizeof(UdsVariable));
	cJSON_ArrayForEach(item, state)
	{
		UdsVariable *variable = &run->state[run->nstate++];

		variable->name = psprintf("state.%s", item->string);
		variable->value = uds_json_text(item);
	}
	cJSON_Delete(state);
}

/*
 * What is to be kept: the notes, a List of UdsNote *, over what was noted
 * before, or NULL.  A JSON object, in the current memory context.
 */
char *
uds_note_store(const UdsRun *run, const char *state_json, List *notes)
{
	cJSON	   *state = state_json ? cJSON_Parse(state_json) : NULL;
	char	   *text;
	char	   *copy = NULL;
	ListCell   *lc;

	if (!cJSON_IsObject(state))
	{
		cJSON_Delete(state);
		state = cJSON_CreateObject();
	}
	foreach(lc, notes)
	{
		UdsNote    *note = lfirst(lc);

		if (note->value == NULL)
			continue;
		cJSON_DeleteItemFromObjectCaseSensitive(state, note->spec->name);
		cJSON_AddStringToObject(state, note->spec->name, note->value);
	}
	text = cJSON_PrintUnformatted(state);
	cJSON_Delete(state);
	if (text != NULL)
	{
		copy = pstrdup(text);
		cJSON_free(text);
	}
	return copy;
}
