/*-------------------------------------------------------------------------
 *
 * extension.c
 *		Ends the workers of a database when DROP EXTENSION commits there.
 *
 * A worker whose transfer hangs would not notice.  Worse, should the extension
 * be created again meanwhile, whose tasks are numbered from 1 again, it would
 * end a task that it never ran.
 *
 * Runs in the backend that drops, where an object access hook sees the drop
 * whatever statement it comes from; takes the LWLock of the extension.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "miscadmin.h"

#include "process/process.h"
#include "process/shared.h"

static object_access_hook_type prev_access_hook = NULL;

/* what this transaction has dropped, as far as is known; InvalidOid = nothing */
static Oid	dropped = InvalidOid;

static void
note_drop(ObjectAccessType access, Oid class, Oid object, int sub, void *arg)
{
	if (prev_access_hook)
		prev_access_hook(access, class, object, sub, arg);
	if (access == OAT_DROP && class == ExtensionRelationId &&
		object == get_extension_oid("uds", true))
		dropped = object;
}

/*
 * Before the commit it is looked whether the drop still holds: it may have been
 * rolled back with a subtransaction.  At the commit nothing may fail.
 */
static void
at_xact_end(XactEvent event, void *arg)
{
	if (!OidIsValid(dropped))
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (get_extension_oid("uds", true) == dropped)
				dropped = InvalidOid;
			break;
		case XACT_EVENT_COMMIT:
			dropped = InvalidOid;
			LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
			uds_slots_end(MyDatabaseId);
			uds_listeners_end(MyDatabaseId);
			LWLockRelease(uds_shared_lock());
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			dropped = InvalidOid;
			break;
		default:
			break;
	}
}

/*
 * Has drops noticed; to be called from _PG_init when preloaded.
 */
void
uds_extension_init(void)
{
	prev_access_hook = object_access_hook;
	object_access_hook = note_drop;
	RegisterXactCallback(at_xact_end, NULL);
}
