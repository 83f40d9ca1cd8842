/*-------------------------------------------------------------------------
 *
 * backoff.h
 *		How long to wait before a request is sent again.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_BACKOFF_H
#define UDS_CONNECTOR_BACKOFF_H

extern int64 uds_backoff_delay(int attempt, int64 base, int64 cap,
							   double random);
extern int64 uds_backoff_throttled(int attempt, int64 asked, int64 cap,
								   double random);
extern bool uds_backoff_retry_after(const char *value, int64 now,
									int64 *seconds);
extern bool uds_backoff_http_date(const char *value, int64 *epoch);

#endif							/* UDS_CONNECTOR_BACKOFF_H */
