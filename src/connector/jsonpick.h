/*-------------------------------------------------------------------------
 *
 * jsonpick.h
 *		Single values picked out of a parsed JSON document by simple paths.
 *
 * For what steers a fetch (codes, tokens, cursors); records are mapped by
 * PostgreSQL's own jsonpath.  Every simple path is a jsonpath, too.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_JSONPICK_H
#define UDS_CONNECTOR_JSONPICK_H

#include <cJSON.h>

extern bool uds_json_path_valid(const char *path);
extern const cJSON *uds_json_pick(const cJSON *root, const char *path);
extern char *uds_json_text(const cJSON *item);
extern const char *uds_json_mend(const char *json, size_t len);

#endif							/* UDS_CONNECTOR_JSONPICK_H */
