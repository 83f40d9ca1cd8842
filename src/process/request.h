/*-------------------------------------------------------------------------
 *
 * request.h
 *		What a backend has done for it outside its own transaction.
 *
 * Each of these starts a request worker: a background worker that connects
 * to the caller's database, does the one thing in transactions of its own and
 * ends.  They are not counted in uds.max_workers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_PROCESS_REQUEST_H
#define UDS_PROCESS_REQUEST_H

typedef struct UdsQueueRequest
{
	int64		source;
	const char *source_name;	/* for messages */
	const char *kind;
	const char *mode;
	bool		force;
	int64		retry_of;		/* 0 = none */
	Oid			requested_by;
} UdsQueueRequest;

extern int64 uds_request_queue(const UdsQueueRequest *queue, bool *joined);
extern void uds_request_cancel(int64 task);
extern char *uds_request_test(int64 source, const char *source_name);

/* wait.c; also what a request to cancel does */
extern bool uds_cancel_task(int64 task);

#endif							/* UDS_PROCESS_REQUEST_H */
