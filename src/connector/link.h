/*-------------------------------------------------------------------------
 *
 * link.h
 *		Links that a service gives: found in headers, and held against the
 *		address that it was asked at.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_LINK_H
#define UDS_CONNECTOR_LINK_H

extern char *uds_link_next(const char *header);
extern char *uds_link_resolve(const char *base, const char *link, char **error);

#endif							/* UDS_CONNECTOR_LINK_H */
