/*-------------------------------------------------------------------------
 *
 * database.c
 *		Lets go of a database that a command needs to itself.
 *
 * DROP DATABASE, ALTER DATABASE ... RENAME and SET TABLESPACE, and CREATE
 * DATABASE with it as the template fail while anybody else is connected to
 * it.  A worker of ours may be for hours, waiting for a slow service, and
 * nobody could tell why.  So such a command first ends the workers of that
 * database, and none is started there until it is over.  Their tasks begin
 * again after it.  Sessions of people are left alone: PostgreSQL's own rules
 * hold for them.
 *
 * Runs in backends, around the command; takes the LWLock of the extension.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "process/process.h"
#include "process/shared.h"

/* how long a worker may take to end; then the command meets it */
#define END_TIMEOUT_MS 2500

static ProcessUtility_hook_type prev_utility_hook = NULL;

/* Returns the value of an option with a name, or NULL. */
static const char *
option_value(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst(lc);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

/* The database that a command needs to itself, or NULL. */
static const char *
needed_database(Node *command)
{
	switch (nodeTag(command))
	{
		case T_DropdbStmt:
			return castNode(DropdbStmt, command)->dbname;
		case T_RenameStmt:
			return castNode(RenameStmt, command)->renameType == OBJECT_DATABASE ?
				castNode(RenameStmt, command)->subname : NULL;
		case T_AlterDatabaseStmt:
			return option_value(castNode(AlterDatabaseStmt, command)->options, "tablespace") != NULL ?
				castNode(AlterDatabaseStmt, command)->dbname : NULL;
		case T_CreatedbStmt:
			return option_value(castNode(CreatedbStmt, command)->options, "template");
		default:
			return NULL;
	}
}

/*
 * Whether any worker of a database is there.  One that is only starting will
 * find it closed before it connects.
 */
static bool
has_workers(Oid database)
{
	bool		found;

	LWLockAcquire(uds_shared_lock(), LW_SHARED);
	found = uds_listeners_there(database);
	for (int i = 0; i < UDS_WORKER_SLOTS; i++)
	{
		const UdsSlot *slot = &uds_shared()->slots[i];

		found |= slot->state != UDS_SLOT_FREE && slot->database == database && slot->pid != 0;
	}
	LWLockRelease(uds_shared_lock());
	return found;
}

/* Nothing is kept from the database any longer.  Never fails. */
static void
reopen(int code, Datum arg)
{
	UdsClosed  *closed = (UdsClosed *) DatumGetPointer(arg);
	UdsMail		mail = {0};

	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	mail.database = closed->database;
	mail.due = GetCurrentTimestamp();
	closed->database = InvalidOid;
	uds_mail_post(&mail);
	LWLockRelease(uds_shared_lock());
	uds_launcher_wake();
}

/*
 * Keeps workers from a database, and ends those that are there.  Returns NULL
 * if so many databases are closed already that there is no room to note one.
 */
static UdsClosed *
close_database(Oid database)
{
	UdsShared  *shared = uds_shared();
	UdsClosed  *closed = NULL;

	LWLockAcquire(uds_shared_lock(), LW_EXCLUSIVE);
	for (int i = 0; i < UDS_CLOSED && closed == NULL; i++)
		if (!OidIsValid(shared->closed[i].database))
			closed = &shared->closed[i];
	if (closed != NULL)
	{
		closed->database = database;
		uds_slots_end(database);
		uds_listeners_end(database);
	}
	LWLockRelease(uds_shared_lock());
	return closed;
}

/* Waits until the workers of a database have ended, or it takes too long. */
static void
wait_for_workers(Oid database)
{
	static uint32 wait_event = 0;
	TimestampTz limit = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), END_TIMEOUT_MS);

	if (wait_event == 0)
		wait_event = uds_wait_event("UdsDatabaseClose");
	ConditionVariablePrepareToSleep(&uds_shared()->ended);
	while (has_workers(database))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), limit);

		if (left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&uds_shared()->ended, left, wait_event);
	}
	ConditionVariableCancelSleep();
}

/*
 * The database to let go of for a command, or InvalidOid.  A command that the
 * user may not give ends nobody's worker.
 */
static Oid
database_to_close(Node *command)
{
	const char *name = uds_shared() == NULL ? NULL : needed_database(command);
	Oid			database = name == NULL ? InvalidOid : get_database_oid(name, true);

	if (!OidIsValid(database) || !uds_owns_database(database, GetUserId()))
		return InvalidOid;
	return database;
}

/* What would have run without us. */
static void
pass_on(PlannedStmt *statement, const char *text, bool read_only_tree,
		ProcessUtilityContext context, ParamListInfo params,
		QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	if (prev_utility_hook != NULL)
		prev_utility_hook(statement, text, read_only_tree, context, params, environment, dest, completion);
	else
		standard_ProcessUtility(statement, text, read_only_tree, context, params, environment, dest,
								completion);
}

static void
process_utility(PlannedStmt *statement, const char *text, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	Oid			database = database_to_close(statement->utilityStmt);
	UdsClosed  *closed = OidIsValid(database) ? close_database(database) : NULL;

	if (closed == NULL)
	{
		pass_on(statement, text, read_only_tree, context, params, environment, dest, completion);
		return;
	}
	PG_ENSURE_ERROR_CLEANUP(reopen, PointerGetDatum(closed));
	{
		wait_for_workers(database);
		pass_on(statement, text, read_only_tree, context, params, environment, dest, completion);
	}
	PG_END_ENSURE_ERROR_CLEANUP(reopen, PointerGetDatum(closed));
	reopen(0, PointerGetDatum(closed));
}

/*
 * Has such commands pass through here; to be called from _PG_init when
 * preloaded.
 */
void
uds_database_init(void)
{
	prev_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
