/*-------------------------------------------------------------------------
 *
 * connector.h
 *		The connector engine: reads a source as its manifest says and hands
 *		over the pages as they came.
 *
 * The engine knows no table.  What it needs from the database (keeping a
 * page, evaluating a jsonpath, remembering a token) it asks of its caller
 * through UdsFetchHooks.  Runs in background workers, outside any
 * transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_H
#define UDS_CONNECTOR_H

#include "nodes/pg_list.h"
#include "utils/timestamp.h"

#include "connector/manifest.h"

/* One response (or lost request) as it goes to the raw log. */
typedef struct UdsPage
{
	const char *stream;			/* name of the stream; "auth" for tokens */
	const char *request;		/* method and URL, secrets redacted */
	const char *context;		/* JSON object: values of for_each, or NULL */
	int			status;			/* HTTP status, 0 if none came */
	const char *body;			/* may be NULL */
	size_t		body_len;
	bool		usable;			/* a good page whose records count */
} UdsPage;

typedef struct UdsFetchProgress
{
	int64		requests;		/* sent so far, tokens and retries included */
	int64		requests_total; /* known so far; grows with for_each */
	int64		pages;			/* usable pages so far */
	int64		bytes;
	int64		throttled_ms;	/* waited because the service asked for it */
} UdsFetchProgress;

typedef struct UdsFetchHooks
{
	void	   *arg;

	/* keeps a page; copies what it needs before it returns */
	void		(*page) (void *arg, const UdsPage *page);

	/* all items jsonpath selects in a JSON text; List of char *, scalars as
	 * text (numbers digit for digit), others as JSON; allocated in the
	 * current memory context */
	List	   *(*select) (void *arg, const char *json, size_t len,
						   const char *jsonpath);

	/* the first record of a page as a stream of the source maps it, as JSON, or
	 * what is wrong with it; NULL = none; context as in UdsPage.  May be NULL
	 * itself: then nobody asks */
	char	   *(*map) (void *arg, const char *stream, const char *json,
						size_t len, const char *context, bool *ok);

	/* uids of the live records of a data type, a List of char * in the
	 * current memory context.  May be NULL itself */
	List	   *(*known) (void *arg, const char *data_type);

	/* a token kept from before, or NULL; and keeping one (NULL = forget) */
	char	   *(*load_token) (void *arg);
	void		(*save_token) (void *arg, const char *token,
							   TimestampTz expires_at);

	/* called whenever a number changed */
	void		(*progress) (void *arg, const UdsFetchProgress *progress);
} UdsFetchHooks;

/* A node that the service refused to show: an error row, not a failure. */
typedef struct UdsSkippedNode
{
	const char *stream;
	const char *data_type;		/* of the stream's records, or NULL */
	const char *node;			/* the for_each value, or "" */
	const char *message;
} UdsSkippedNode;

typedef struct UdsFetchResult
{
	List	   *streams;		/* of char *: streams read, in order */
	List	   *skipped;		/* of UdsSkippedNode * */
	List	   *warnings;		/* of char *, one sentence each */
	bool		complete;		/* every stream ended cleanly, no node skipped */
	bool		incremental;	/* only what changed was asked for */
	const char *state;			/* what was noted for the next read, a JSON
								 * object; NULL = nothing */
	UdsFetchProgress totals;
} UdsFetchResult;

/* Something that events told of, to be asked for. */
typedef struct UdsChange
{
	const char *data_type;		/* user, department */
	const char *id;
} UdsChange;

/* One line of uds_test_source(). */
typedef struct UdsTestStep
{
	const char *step;
	bool		ok;
	const char *detail;
	int			elapsed;		/* ms */
} UdsTestStep;

/* run.c */
extern UdsFetchResult *uds_connector_run(const UdsManifest *manifest,
										 const char *source_name,
										 const char *options_json,
										 const char *state_json,
										 bool incremental, List *changes,
										 const UdsFetchHooks *hooks);

/* probe.c */
extern List *uds_connector_test(const UdsManifest *manifest,
								const char *source_name,
								const char *options_json,
								const UdsFetchHooks *hooks);

#endif							/* UDS_CONNECTOR_H */
