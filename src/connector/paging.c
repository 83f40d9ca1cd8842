/*-------------------------------------------------------------------------
 *
 * paging.c
 *		How a listing goes on after a good page.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "connector/counting.h"
#include "connector/engine.h"
#include "connector/link.h"

static void
refuse(UdsAnswer *answer, char *what)
{
	answer->verdict = UDS_VERDICT_FAIL;
	answer->sqlstate = ERRCODE_PROTOCOL_VIOLATION;
	answer->what = what;
}

/* The cursor of the next page, if there is one. */
static bool
find_cursor(UdsRun *run, UdsCall *request, const UdsPaginationSpec *paging,
			const char *next)
{
	UdsAnswer  *answer = &request->answer;
	const UdsHttpResponse *response = request->response;

	if (next == NULL)
	{
		/* a number that cJSON has not kept digit for digit */
		List	   *items = uds_hook_select(run, response->body,
											response->body_len, paging->next);

		if (items == NIL)
			return false;
		next = linitial(items);
	}
	answer->cursor = answer->identity = next;
	return true;
}

/* The link to the next page that is in some Link header, or NULL. */
static const char *
find_link_header(const UdsHttpResponse *response)
{
	ListCell   *lc;

	foreach(lc, response->headers)
	{
		const char *header = lfirst(lc);
		char	   *link;

		if (pg_strncasecmp(header, "link:", 5) != 0)
			continue;
		link = uds_link_next(header + 5);
		if (link != NULL)
			return link;
	}
	return NULL;
}

/* Takes over a link; one that leads elsewhere is the end of the run. */
static void
take_link(UdsRun *run, UdsCall *request, const char *link)
{
	UdsAnswer  *answer = &request->answer;
	char	   *problem;

	answer->identity = answer->link =
		uds_link_resolve(uds_call_base_url(run, request->spec), link, &problem);
	if (answer->link == NULL)
		refuse(answer, psprintf("service gave %s",
								uds_text_shown(run, request, problem, strlen(problem))));
}

/* Tries one way of paging; true if it has a next page. */
static bool
try_paging(UdsRun *run, UdsCall *request, const UdsDocument *document, int which)
{
	const UdsPaginationSpec *paging = &request->stream->paginations[which];
	UdsAnswer  *answer = &request->answer;
	const char *link;
	bool		goes_on;

	switch (paging->kind)
	{
		case UDS_PAGES_CURSOR:
			return document->pages[which].has_next &&
				find_cursor(run, request, paging, document->pages[which].next);
		case UDS_PAGES_NEXT_LINK:
			link = document->pages[which].has_next ? document->pages[which].next : NULL;
			break;
		case UDS_PAGES_LINK_HEADER:
			link = find_link_header(request->response);
			break;
		default:
			answer->items = document->pages[which].items;
			answer->total = document->pages[which].total;
			answer->identity = document->pages[which].first_item;
			goes_on = uds_counting_goes_on(request->items, answer->items, paging->size,
										   answer->total, paging->until_empty);
			/* what was counted before may be too few, and must end nothing */
			if (paging->at_least)
				answer->total = Max(answer->total,
									strtoll(request->value, NULL, 10));
			return goes_on;
	}
	if (link == NULL)
		return false;
	take_link(run, request, link);
	return true;
}

/*
 * Finds out how the listing of a request with a good page goes on, by the
 * first way of paging that has a next page; a listing keeps to the way that
 * it went on by.  What leads back, or elsewhere, makes the answer a failure.
 */
void
uds_paging_judge(UdsRun *run, UdsCall *request, const UdsDocument *document)
{
	const UdsStreamSpec *stream = request->stream;
	UdsAnswer  *answer = &request->answer;

	answer->total = -1;
	for (int i = 0; i < stream->npaginations && answer->onward == NULL; i++)
	{
		const UdsPaginationSpec *paging = &stream->paginations[i];

		if (request->paged_by != NULL && request->paged_by != paging)
			continue;
		if (try_paging(run, request, document, i))
			answer->onward = paging;
	}
	if (answer->verdict == UDS_VERDICT_GOOD && answer->identity != NULL &&
		((request->last != NULL && strcmp(answer->identity, request->last) == 0) ||
		 (request->mark != NULL && strcmp(answer->identity, request->mark) == 0)))
		refuse(answer, pstrdup(answer->cursor ? "cursor repeats" :
							   answer->link ? "link repeats" : "page repeats"));
}
