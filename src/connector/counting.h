/*-------------------------------------------------------------------------
 *
 * counting.h
 *		Listings that are paged by numbers: how they go on, and where they end.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_COUNTING_H
#define UDS_CONNECTOR_COUNTING_H

extern int64 uds_counting_parse(const char *text);
extern bool uds_counting_goes_on(int64 before, int64 items, int64 size, int64 total,
								 bool until_empty);
extern int64 uds_counting_offset(int64 first, int64 page, int64 items, int64 size, bool by_size);

#endif							/* UDS_CONNECTOR_COUNTING_H */
