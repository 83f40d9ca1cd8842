/*-------------------------------------------------------------------------
 *
 * receive.c
 *		Change events that services send us.
 *
 * Runs in the listener, in the transaction of a request.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "listen/listen.h"

/*
 * Answers a request to /callback/NAME.  No source takes events yet.
 */
void
uds_callback_receive(const UdsInquiry *inquiry, UdsReply *reply)
{
	uds_reply_error(reply, 404, "there is nothing here");
}
