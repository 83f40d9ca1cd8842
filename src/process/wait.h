/*-------------------------------------------------------------------------
 *
 * wait.h
 *		Queueing tasks and looking at their rows, for the SQL functions that
 *		do so.  Runs in backends, with SPI connected.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_PROCESS_WAIT_H
#define UDS_PROCESS_WAIT_H

#include "fmgr.h"
#include "process/request.h"

/* A task's row as last read. */
typedef struct UdsTaskRow
{
	char	   *status;
	char	   *message;		/* or NULL */
	char	   *kind;
	char	   *mode;
	bool		force;
	char	   *source;			/* name, or NULL if dropped */
	bool		mine;			/* written by the current transaction */
} UdsTaskRow;

extern UdsTaskRow *uds_wait_read_task(int64 id);
extern int64 uds_wait_queue(const UdsQueueRequest *queue, bool wait);
extern int64 uds_wait_find_source(const char *name, bool for_test);
extern void uds_wait_require_argument(FunctionCallInfo fcinfo, int arg, const char *name);

#endif							/* UDS_PROCESS_WAIT_H */
