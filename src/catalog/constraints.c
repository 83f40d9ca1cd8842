/*-------------------------------------------------------------------------
 *
 * constraints.c
 *		Constraints of a table that may be checked as late as at commit.
 *
 * A record that breaks one must be found out while it can still be set
 * aside.  And what runs as somebody else can put nothing off: the server
 * refuses it, whether the constraint is met or not.
 *
 * Runs in the transaction of a task or of uds_drop_source(); locks the table
 * as a query would.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_constraint.h"
#include "commands/trigger.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog/catalog.h"

/* As SET CONSTRAINTS ... IMMEDIATE; "names" is a list of RangeVar. */
static void
check_now(List *names)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	if (names == NIL)
		return;
	stmt->constraints = names;
	stmt->deferred = false;
	AfterTriggerSetState(stmt);
}

/*
 * Has the constraints of a table, and foreign keys of others to it, checked by
 * each statement until the transaction ends, even where the caller has put
 * them off.
 *
 * What is due of the table's own by now runs as "role", because it may be
 * somebody's trigger.  Foreign keys of others stay as they are while anything
 * waits for commit on either side: the caller may be about to make it good.
 *
 * Returns whether the table has triggers of other people.  Needs no SPI.  ERROR
 * if what is due fails, or if "role" may not use the table's schema.
 */
bool
uds_constraints_check_now(Oid relid, Oid role)
{
	Relation	rel = table_open(relid, AccessShareLock);
	int			n = rel->trigdesc == NULL ? 0 : rel->trigdesc->numtriggers;
	List	   *seen = NIL;
	List	   *own = NIL;
	List	   *others = NIL;
	ListCell   *lc;
	UdsIdentity saved;
	bool		watched = false;

	for (int i = 0; i < n; i++)
	{
		watched |= !rel->trigdesc->triggers[i].tgisinternal;
		if (rel->trigdesc->triggers[i].tgdeferrable)
			seen = list_append_unique_oid(seen, rel->trigdesc->triggers[i].tgconstraint);
	}
	table_close(rel, NoLock);

	foreach(lc, seen)
	{
		HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_constraint constraint;
		RangeVar   *name;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for constraint %u", lfirst_oid(lc));
		constraint = (Form_pg_constraint) GETSTRUCT(tuple);
		name = makeRangeVar(get_namespace_name(constraint->connamespace),
							pstrdup(NameStr(constraint->conname)), -1);
		if (constraint->conrelid == relid)
			own = lappend(own, name);
		else if (!AfterTriggerPendingOnRel(constraint->conrelid) &&
				 !AfterTriggerPendingOnRel(relid))
			others = lappend(others, name);
		ReleaseSysCache(tuple);
	}
	check_now(others);
	uds_become(role, &saved);
	check_now(own);
	uds_unbecome(&saved);
	return watched;
}

/*
 * The same for users, departments and members.  The caller has checked that
 * "role" may write them.
 */
bool
uds_constraints_check_targets_now(Oid role)
{
	static const char *const targets[] = {"users", "departments", "department_members"};
	Oid			namespace = get_namespace_oid("uds", false);
	bool		watched = false;

	for (int i = 0; i < lengthof(targets); i++)
		watched |= uds_constraints_check_now(get_relname_relid(targets[i], namespace), role);
	return watched;
}
