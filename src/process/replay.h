/*-------------------------------------------------------------------------
 *
 * replay.h
 *		Tasks that work from pages fetched before, see replay.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_PROCESS_REPLAY_H
#define UDS_PROCESS_REPLAY_H

#include "reconcile/reconcile.h"

extern void uds_replay_require_pages(int64 task);
extern bool uds_replay_find(const UdsTask *task, UdsPages *pages);

#endif							/* UDS_PROCESS_REPLAY_H */
