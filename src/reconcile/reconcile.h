/*-------------------------------------------------------------------------
 *
 * reconcile.h
 *		From mapped records to changed rows: desired state against actual.
 *
 * Runs inside the one transaction of a task, with SPI connected.  Target
 * tables are written as the source's owner.  Locks: row locks on records
 * and target rows, in the order departments, users, members; one lock on
 * the source row, taken first.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_RECONCILE_H
#define UDS_RECONCILE_H

#include "catalog/catalog.h"

/* reconcile.c */
extern const char *uds_reconcile(const UdsTask *task, const UdsSource *source,
								 const UdsFetchResult *fetched,
								 UdsTaskCounts *counts, char **message);

#endif							/* UDS_RECONCILE_H */
