/*-------------------------------------------------------------------------
 *
 * engine.h
 *		What the parts of the connector engine share among themselves.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 * A run lives in the memory context that is current when it is opened, each
 * request in a child of that, so that a million requests leave nothing
 * behind.  Hooks may begin and end transactions, which changes the current
 * context: they are only called through the functions of hooks.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_ENGINE_H
#define UDS_CONNECTOR_ENGINE_H

#include "lib/ilist.h"

#include "connector/connector.h"
#include "fetch/http.h"

/* What a response means for its request. */
typedef enum UdsVerdict
{
	UDS_VERDICT_GOOD,			/* what was asked for */
	UDS_VERDICT_EMPTY,			/* there are no records */
	UDS_VERDICT_AGAIN,			/* a passing fault */
	UDS_VERDICT_THROTTLED,		/* the service wants us to wait */
	UDS_VERDICT_REAUTH,			/* the token is no good any more */
	UDS_VERDICT_SKIP,			/* this node is not shown to us */
	UDS_VERDICT_DEGRADE,		/* the plan is not for us */
	UDS_VERDICT_RESTART,		/* the cursor is no good any more */
	UDS_VERDICT_FAIL			/* no use in going on */
} UdsVerdict;

typedef struct UdsAnswer
{
	UdsVerdict	verdict;
	int			sqlstate;		/* all but GOOD: of the error it would make */
	const char *what;			/* all but GOOD: what came back, a phrase */
	const char *hint;			/* a sentence, or NULL */
	bool		gone;			/* SKIP: because it is not there */
	bool		is_error;		/* the service named an error: the body is no
								 * secret */
	int64		wait;			/* THROTTLED: ms asked for */
	bool		wait_exact;		/* the wait is the service's own, not ours */
	int			concurrency;	/* THROTTLED: requests in flight, 0 = as before */
	/* GOOD: how the listing goes on */
	const UdsPaginationSpec *onward;	/* NULL = it has ended */
	const char *cursor;
	const char *link;			/* whole address */
	const char *identity;		/* cursor, link or page: must not come again */
	int64		items;			/* of this page, where they are counted */
	int64		total;			/* items in all as the service says, or -1 */

	char	  **noted;			/* GOOD: by each note of kind LAST, or NULL */
	const char *token;			/* of a token request, also if not GOOD */
	int64		lifetime;		/* seconds */
} UdsAnswer;

/* What steers the fetch, picked out of a body. */
typedef struct UdsDocument
{
	const char *refused;		/* why it was not even parsed, or NULL */
	const char *broken;			/* what makes it no JSON, or NULL */
	const UdsCodeRule *rule;	/* the first that fits, or NULL */
	char	   *code;			/* NULL = none in it */
	char	   *message;
	int64		wait;			/* seconds that the body asks for, -1 = not said */
	bool		has_list;		/* what the stream expects is there */
	char	   *token;
	int64		lifetime;		/* seconds, 0 = not said */

	/* by each way of paging of the stream */
	struct
	{
		bool		has_next;	/* a cursor or a link, and more to come */
		char	   *next;		/* NULL though has_next: too large a number */
		int64		items;
		int64		total;		/* -1 = not said */
		char	   *first_item; /* a hash of it; NULL = there is none */
	}		   *pages;
	char	  **noted;			/* by each note of kind LAST, or NULL */
} UdsDocument;

/* One request, with all its repetitions. */
typedef struct UdsCall
{
	dlist_node	node;			/* in one of the lists of the run */
	MemoryContext context;		/* holds this struct and all it points to */
	const UdsRequestSpec *spec;
	const UdsStreamSpec *stream;	/* NULL: it asks for a token */
	const char *value;			/* for_each value, or NULL */
	const UdsPaginationSpec *paged_by;	/* NULL = it begins its listing */
	const char *cursor;			/* or NULL */
	const char *link;			/* the whole address, or NULL */
	int64		page;			/* of its listing, from 0 */
	int64		items;			/* of its listing so far, where counted */
	const char *last;			/* identity of the page before, or NULL */
	const char *mark;			/* of an earlier one, or NULL */
	bool		restarted;		/* its listing began anew already */
	int			faults;			/* passing faults so far */
	int64		spent;			/* ms that they took */
	int			throttles;
	bool		reauthed;		/* sent again with another token already */
	uint64		token_serial;	/* the token it was sent with */
	int64		not_before;		/* on the clock of uds_clock() */
	const char *shown;			/* method, URL and body, redacted */
	const char *label;			/* method and path */
	UdsHttpResponse *response;	/* the last one, until the request is freed */
	UdsAnswer	answer;			/* to it */
} UdsCall;

typedef struct UdsBudgetState UdsBudgetState;

/* Something noted for the next incremental read. */
typedef struct UdsNote
{
	const UdsNoteSpec *spec;
	char	   *value;			/* NULL = nothing yet */
} UdsNote;

typedef struct UdsRun
{
	const UdsManifest *manifest;
	const UdsAuthSpec *auth;	/* how to authenticate; NULL = not at all */
	const char *source;
	const UdsFetchHooks *hooks;
	MemoryContext context;
	UdsVariable *options;
	int			noptions;
	UdsVariable *state;			/* what was noted before, as state.X */
	int			nstate;
	UdsHttpClient *client;
	UdsBudgetState *budgets;
	int			retries;		/* of one request */

	const char *token;			/* NULL = none at hand */
	const char *old_token;		/* the one before, to be kept out of texts */
	const char *jwt;			/* the last assertion, or NULL */
	const char *basic;			/* what HTTP Basic sends, or NULL */
	uint64		token_serial;	/* grows with each token */
	int64		token_until;	/* on our clock; of one kept from before, never */
	bool		token_asked;	/* the hook was asked for a kept one */
	UdsCall *token_request;	/* at most one at a time */

	dlist_head	ready;			/* to be sent when there is room */
	dlist_head	waiting;		/* to be sent at their time */
	dlist_head	sent;
	int			nready;
	int			nwaiting;
	int			nsent;
	int64		hold_until;		/* nothing is sent before */
	int64		budget_until;	/* nor this, of what is first in line */
	int			limit;			/* requests in flight ... */
	int64		limit_until;	/* ... until then */

	List	   *changes;		/* of UdsChange *: what events told of, or NIL */
	int64		starts_left;	/* known requests that no UdsCall stands for */
	List	   *notes;			/* of UdsNote *: what was noted so far */
	UdsFetchProgress totals;
} UdsRun;

/* hooks.c */
extern void uds_hook_page(UdsRun *run, const UdsCall *request, bool usable);
extern void uds_hook_made_page(UdsRun *run, const UdsStreamSpec *stream,
							   const char *body);
extern void uds_hook_gone_page(UdsRun *run, const UdsCall *request, const char *body);
extern List *uds_hook_select(UdsRun *run, const char *json, size_t len,
							 const char *jsonpath);
extern char *uds_hook_map(UdsRun *run, const UdsCall *request,
						  const UdsStreamSpec *stream, bool *ok);
extern char *uds_hook_load_token(UdsRun *run);
extern void uds_hook_save_token(UdsRun *run, const char *token, int64 lifetime);
extern void uds_hook_progress(UdsRun *run);

/* call.c */
extern UdsCall *uds_call_new(UdsRun *run, const UdsStreamSpec *stream,
								   const char *value);
extern UdsCall *uds_call_next(UdsRun *run, const UdsCall *request);
extern void uds_call_free(UdsCall *request);
extern void uds_call_send(UdsRun *run, UdsCall *request);
extern UdsVariable *uds_call_variables(const UdsRun *run,
										  const UdsCall *request,
										  int *count);
extern char *uds_call_base_url(const UdsRun *run,
								  const UdsRequestSpec *spec);

/* document.c */
extern void uds_document_read(const UdsRun *run, const UdsCall *request,
							  UdsDocument *document);

/* response.c */
extern int64 uds_response_clock(const UdsHttpResponse *response);
extern void uds_response_judge(UdsRun *run, UdsCall *request);

/* paging.c */
extern void uds_paging_judge(UdsRun *run, UdsCall *request,
							 const UdsDocument *document);

/* note.c */
extern UdsNote *uds_note_begin(UdsRun *run, const UdsStreamSpec *stream);
extern void uds_note_take(UdsRun *run, UdsNote *notes, const UdsCall *request);
extern void uds_note_load(UdsRun *run, const char *state_json);
extern char *uds_note_store(const UdsRun *run, const char *state_json,
							List *notes);

/* budget.c */
extern void uds_budget_open(UdsRun *run);
extern int64 uds_budget_time(UdsRun *run, const UdsStreamSpec *stream, int64 now);
extern void uds_budget_spend(UdsRun *run, const UdsStreamSpec *stream, int64 now);

/* jwt.c */
extern char *uds_jwt_make(const UdsRun *run);
extern char *uds_basic_make(const UdsBasicSpec *spec, const UdsVariable *variables,
							int count);

/* text.c */
extern char *uds_text_redacted(const UdsRun *run, const UdsCall *request,
							   const char *text, size_t len,
							   size_t shortest, size_t *out_len);
extern char *uds_text_page(const UdsRun *run, const UdsCall *request,
						   const char *text, size_t len, size_t *out_len);
extern char *uds_text_shown(const UdsRun *run, const UdsCall *request,
							const char *text, size_t len);

extern char *uds_call_made_page(const UdsRun *run, const UdsStreamSpec *stream);
extern char *uds_call_gone_page(const UdsRun *run, const UdsCall *request);

/* auth.c */
extern void uds_auth_choose(UdsRun *run);
extern bool uds_auth_ready(UdsRun *run);
extern void uds_auth_begin(UdsRun *run);
extern void uds_auth_finish(UdsRun *run, const UdsCall *request);
extern bool uds_auth_again(UdsRun *run, UdsCall *request);

/* exchange.c */
extern int64 uds_clock(void);
extern UdsRun *uds_exchange_open(const UdsManifest *manifest,
								 const char *source_name,
								 const char *options_json,
								 const UdsFetchHooks *hooks);
extern bool uds_exchange_room(const UdsRun *run);
extern void uds_exchange_add(UdsRun *run, UdsCall *request, bool first);
extern UdsCall *uds_exchange_next(UdsRun *run);
extern void uds_exchange_drop(UdsRun *run);
extern void uds_exchange_close(UdsRun *run);

#endif							/* UDS_CONNECTOR_ENGINE_H */
