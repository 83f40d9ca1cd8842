/*-------------------------------------------------------------------------
 *
 * document.c
 *		What steers the fetch, picked out of a body: codes, tokens, cursors.
 *
 * The body becomes a tree of cJSON's, which is gone again when reading it
 * ends; what was picked is in the current memory context.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "connector/counting.h"
#include "connector/engine.h"
#include "connector/jsoncheck.h"
#include "connector/jsonpick.h"
#include "connector/jsontree.h"

/* bytes of a body that a rule looks at */
#define BODY_BEGIN 1000

static char *
pick_text(const cJSON *root, const char *path)
{
	const cJSON *item = path ? uds_json_pick(root, path) : NULL;

	return item ? uds_json_text(item) : NULL;
}

static char *
pick_first(const cJSON *root, const UdsTexts *paths)
{
	for (int i = 0; i < paths->count; i++)
	{
		char	   *text = pick_text(root, paths->items[i]);

		if (text != NULL)
			return text;
	}
	return NULL;
}

/* A number, or digits in a text, that counts something; -1 if it is none. */
static int64
pick_count(const cJSON *root, const char *path)
{
	return uds_counting_parse(pick_text(root, path));
}

/* true, a number other than 0, or the text "true": services are not strict */
static bool
pick_flag(const cJSON *root, const char *path)
{
	const cJSON *item = uds_json_pick(root, path);

	if (cJSON_IsString(item))
		return pg_strcasecmp(item->valuestring, "true") == 0;
	return cJSON_IsTrue(item) || (cJSON_IsNumber(item) && item->valuedouble != 0);
}

/* A text like a pattern, in which * is any text and ? a character. */
static bool
is_like(const char *text, const char *pattern)
{
	const char *star = NULL;
	const char *retry = text;

	while (*text != '\0')
	{
		if (*pattern == '*')
		{
			star = pattern++;
			retry = text;
		}
		else if (*pattern != '\0' &&
				 (*pattern == '?' ||
				  pg_tolower((unsigned char) *pattern) == pg_tolower((unsigned char) *text)))
		{
			pattern++;
			text++;
		}
		else if (star != NULL)
		{
			pattern = star + 1;
			text = ++retry;
		}
		else
			return false;
	}
	while (*pattern == '*')
		pattern++;
	return *pattern == '\0';
}

static bool
is_among(const char *text, const UdsTexts *texts)
{
	for (int i = 0; i < texts->count; i++)
	{
		if (pg_strcasecmp(texts->items[i], text) == 0)
			return true;
	}
	return false;
}

/* Whether what a rule says of a value in the body is true. */
static bool
path_holds(const UdsCodeRule *rule, const cJSON *root)
{
	char	   *text;

	if (rule->path == NULL)
		return true;
	text = root ? pick_text(root, rule->path) : NULL;
	if (text == NULL || (rule->values.count > 0 && !is_among(text, &rule->values)))
		return false;
	return rule->pattern == NULL || is_like(text, rule->pattern);
}

static bool
rule_holds(const UdsCodeRule *rule, const UdsCall *request,
		   const UdsDocument *document, const cJSON *root)
{
	const UdsHttpResponse *response = request->response;

	if (rule->plain && rule->code == NULL)
		return root != NULL && document->code == NULL;
	if (rule->code != NULL &&
		(document->code == NULL || pg_strcasecmp(rule->code, document->code) != 0))
		return false;
	if (rule->status != 0 && rule->status != response->status)
		return false;
	if (rule->stream != NULL &&
		strcmp(rule->stream, request->stream ? request->stream->name : UDS_STREAM_AUTH) != 0)
		return false;
	if (rule->body != NULL &&
		!is_like(pnstrdup(response->body, Min(response->body_len, BODY_BEGIN)), rule->body))
		return false;
	return path_holds(rule, root);
}

static const UdsCodeRule *
find_rule(const UdsErrorsSpec *errors, const UdsCall *request,
		  const UdsDocument *document, const cJSON *root)
{
	for (int i = 0; i < errors->nrules; i++)
	{
		if (rule_holds(&errors->rules[i], request, document, root))
			return &errors->rules[i];
	}
	return NULL;
}

/* The list whose items are counted to find the next page, or NULL. */
static const cJSON *
counted_list(const cJSON *root, const UdsStreamSpec *stream,
			 const UdsPaginationSpec *paging)
{
	const char *path = paging->count ? paging->count : stream->expect;
	const cJSON *list = path ? uds_json_pick(root, path) : root;

	return cJSON_IsArray(list) ? list : NULL;
}

/* What a page says about the one after it, by one way of paging. */
static void
pick_paging(const cJSON *root, const UdsStreamSpec *stream, int which,
			UdsDocument *document)
{
	const UdsPaginationSpec *paging = &stream->paginations[which];
	const cJSON *item;

	document->pages[which].total = -1;
	if (paging->kind == UDS_PAGES_PAGE || paging->kind == UDS_PAGES_OFFSET)
	{
		const cJSON *list = counted_list(root, stream, paging);

		document->pages[which].items = list ? cJSON_GetArraySize(list) : 0;
		document->pages[which].total = paging->total ? pick_count(root, paging->total) : -1;
		if (list != NULL && list->child != NULL)
		{
			char	   *text = cJSON_PrintUnformatted(list->child);

			if (text != NULL)
				document->pages[which].first_item =
					psprintf(UINT64_FORMAT,
							 hash_bytes_extended((unsigned char *) text, strlen(text), 0));
			cJSON_free(text);
		}
		return;
	}
	if (paging->next == NULL)
		return;
	item = uds_json_pick(root, paging->next);
	document->pages[which].has_next =
		(cJSON_IsNumber(item) || (cJSON_IsString(item) && item->valuestring[0] != '\0')) &&
		(paging->more == NULL || pick_flag(root, paging->more));
	if (document->pages[which].has_next)
		document->pages[which].next = uds_json_text(item);
}

static void
pick_stream(const cJSON *root, const UdsStreamSpec *stream, UdsDocument *document)
{
	document->has_list = stream->expect == NULL ||
		cJSON_IsArray(uds_json_pick(root, stream->expect));
	document->pages = palloc0((stream->npaginations + 1) * sizeof(document->pages[0]));
	for (int i = 0; i < stream->npaginations; i++)
		pick_paging(root, stream, i, document);
	document->noted = palloc0((stream->nnotes + 1) * sizeof(char *));
	for (int i = 0; i < stream->nnotes; i++)
	{
		if (stream->notes[i].kind == UDS_NOTE_LAST)
			document->noted[i] = pick_text(root, stream->notes[i].path);
	}
}

static void
pick_token(const cJSON *root, const UdsAuthSpec *auth, UdsDocument *document)
{
	const cJSON *item = uds_json_pick(root, auth->token);
	char	   *lifetime = pick_text(root, auth->expires_in);

	if (cJSON_IsString(item) && item->valuestring[0] != '\0')
		document->token = uds_json_text(item);
	if (lifetime != NULL)
		document->lifetime = strtol(lifetime, NULL, 10);
}

/* What the body says about how long to wait. */
static void
pick_wait(const cJSON *root, const UdsErrorsSpec *errors, UdsDocument *document)
{
	for (int i = 0; i < errors->nwaits && document->wait < 0; i++)
	{
		if (errors->waits[i].path != NULL && !errors->waits[i].epoch)
			document->wait = pick_count(root, errors->waits[i].path);
	}
}

static void
pick_all(const cJSON *root, const UdsRun *run, const UdsCall *request,
		 UdsDocument *document)
{
	const UdsErrorsSpec *errors = &run->manifest->errors;

	if (root == NULL)
	{
		document->rule = find_rule(errors, request, document, NULL);
		return;
	}
	document->code = pick_first(root, &errors->code);
	document->message = pick_first(root, &errors->message);
	document->rule = find_rule(errors, request, document, root);
	pick_wait(root, errors, document);
	if (request->stream != NULL)
		pick_stream(root, request->stream, document);
	else
		pick_token(root, run->auth, document);
}

/* The tree of a body that may be parsed, or NULL: then document->broken says why. */
static cJSON *
parse(const UdsHttpResponse *response, UdsDocument *document)
{
	const char *body = uds_json_mend(response->body, response->body_len);
	const char *stop = NULL;
	cJSON	   *root = uds_json_tree_begin(body, response->body_len, &stop);

	if (root == NULL && document->broken == NULL)
		document->broken = psprintf("it breaks off, or something is out of place, at byte %zu of %zu",
									stop ? (size_t) (stop - body) + 1 : 0,
									response->body_len);
	return root;
}

/*
 * Reads what steers out of the body of a request's response into a zeroed
 * document, allocated in the current memory context.  A body that is not
 * JSON is no error: rules may know it.
 */
void
uds_document_read(const UdsRun *run, const UdsCall *request,
				  UdsDocument *document)
{
	const UdsHttpResponse *response = request->response;

	document->wait = -1;
	document->refused = uds_json_refuse(response->body, response->body_len,
										&document->broken);
	PG_TRY();
	{
		pick_all(document->refused == NULL ? parse(response, document) : NULL,
				 run, request, document);
	}
	PG_FINALLY();
	{
		uds_json_tree_end();
	}
	PG_END_TRY();
}
