/*-------------------------------------------------------------------------
 *
 * reconcile.h
 *		From mapped records to changed rows: desired state against actual.
 *
 * Runs inside the one transaction of a task, with SPI connected.  Target
 * tables are written as the source's owner.  Locks: the source row first,
 * then row locks on departments, users and members.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_RECONCILE_H
#define UDS_RECONCILE_H

#include "catalog/catalog.h"

/* How records that were pushed are given. */
typedef enum UdsPushForm
{
	UDS_PUSH_LIST,				/* jsonb, an array */
	UDS_PUSH_PAGE,				/* text: an envelope, with something that jsonb
								 * does not take */
	UDS_PUSH_LINES				/* text: a record on each line */
} UdsPushForm;

/* A push: its envelope, opened. */
typedef struct UdsPush
{
	char	   *data_type;
	char	   *match_key;		/* or NULL */
	char	   *source;			/* name, or NULL */
	UdsPushForm form;
	Datum		records;
	int64		all;			/* records given */
	const char *problem;		/* why it is refused */
	const char *hint;
} UdsPush;

/* Pages in the raw log to take records from, and what is known of them. */
typedef struct UdsPages
{
	int64		task;			/* the task that fetched them */
	int			attempt;
	List	   *streams;		/* of char *: those that were read in the end */
	bool		complete;		/* every stream ended cleanly, all was asked for */
	bool		incremental;	/* only what changed was asked for */
	List	   *skipped;		/* of UdsSkippedNode *: what was not shown */
	List	   *warnings;		/* of char * */
	int64		shown;			/* task whose change set was approved, or 0 */
	int64		failed_of;		/* only the records this task set aside, or 0 */
	int64		events_of;		/* task that took events, or 0 */
	const char *pushed;			/* data type of records pushed, or NULL */
	UdsPush    *push;			/* those */
	List	  **takers;			/* of a push: receives the names of the
								 * resources that take them, in order */
} UdsPages;

/* error rows stored of one task; the rest is only counted */
#define UDS_MAX_STORED_ERRORS 10000

extern const char *uds_reconcile(UdsTask *task, const UdsSource *source,
								 const UdsPages *pages, UdsTaskCounts *counts,
								 char **message);

/* push.c */
extern bool uds_push_read(UdsPush *push, Jsonb *data);
extern bool uds_push_check(UdsPush *push);
extern Datum uds_push_take(UdsPush *push, UdsSource *source, const char *requested_by);
extern Datum uds_push_guard(Datum (*work) (void *arg), void *arg);

/* lines.c */
extern int64 uds_lines_count(const char *text, size_t len);

/* undo.c */
extern int64 uds_undo_require(int64 task, int64 undo);
extern const char *uds_undo_run(const UdsTask *task, const UdsSource *source,
								UdsTaskCounts *counts, char **message);

#endif							/* UDS_RECONCILE_H */
