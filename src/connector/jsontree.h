/*-------------------------------------------------------------------------
 *
 * jsontree.h
 *		A tree of cJSON's in memory of its own.
 *
 * There is one at a time.  Pure C: runs in any process and outside the
 * server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_JSONTREE_H
#define UDS_CONNECTOR_JSONTREE_H

#include <cJSON.h>

extern cJSON *uds_json_tree_begin(const char *json, size_t len, const char **stop);
extern void uds_json_tree_end(void);

#endif							/* UDS_CONNECTOR_JSONTREE_H */
