/*-------------------------------------------------------------------------
 *
 * jsoncheck.h
 *		What is wrong with a JSON text, in one pass before it is parsed.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_JSONCHECK_H
#define UDS_CONNECTOR_JSONCHECK_H

extern const char *uds_json_refuse(const char *json, size_t len, const char **broken);

#endif							/* UDS_CONNECTOR_JSONCHECK_H */
