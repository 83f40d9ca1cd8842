/*-------------------------------------------------------------------------
 *
 * reconcile.c
 *		The steps from the pages of a task to its change set, in order.
 *
 * Departments come before users, because users point to them, and go after
 * them; what was registered besides comes last.  Runs in the transaction of a task; takes the database's lock on
 * reconciling first, then one on the source row, then row locks in the order
 * departments, users, members.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "process/process.h"
#include "reconcile/reconcile.h"
#include "reconcile/stage.h"

/*
 * Whether this process applies a task.  Stays set by an error in a worker,
 * where the next task sets it anyway.
 */
bool		uds_reconciling = false;

/* sets our lock apart from those of pg_advisory_lock(), which are 1 and 2 */
#define LOCK_RECONCILE 0x7566

/* kB for a sort or a hash of a large task */
#define TASK_WORK_MEM (16 * 1024)

/*
 * Locks the source.  Tells whether any other has records, where the order makes
 * it a look into an index, however many there are; the first target table
 * that the role $2 may not write; and whether any resource was registered.
 */
static const char *const lock_source_sql =
"SELECT EXISTS (SELECT 1"
"                 FROM uds.source_settings s"
"                CROSS JOIN LATERAL (SELECT 1"
"                                      FROM uds.records r"
"                                     WHERE r.source_id = s.id"
"                                     ORDER BY r.data_type, r.uid_key"
"                                     LIMIT 1) AS r"
"                WHERE s.id <> $1),"
"       (SELECT t.name"
"          FROM unnest('{uds.users,uds.departments,uds.department_members}'::text[]) AS t (name)"
"         WHERE NOT has_schema_privilege($2, 'uds', 'USAGE')"
"            OR NOT has_table_privilege($2, t.name, 'SELECT')"
"            OR NOT has_table_privilege($2, t.name, 'INSERT')"
"            OR NOT has_any_column_privilege($2, t.name, 'UPDATE')"
"            OR NOT has_table_privilege($2, t.name, 'DELETE')"
"         LIMIT 1),"
"       EXISTS (SELECT 1 FROM uds.resources WHERE NOT builtin)"
"  FROM uds.source_settings"
" WHERE id = $1"
"   FOR NO KEY UPDATE";

/* Types that had live records and of which not one came. */
static const char *const vanished_sql =
"SELECT t.type"
"  FROM (VALUES ('department', $3), ('user', $4)) AS t (type, is_read)"
" WHERE t.is_read"
"   AND EXISTS (SELECT 1"
"                 FROM uds.records r"
"                WHERE r.source_id = $1 AND r.data_type = t.type AND NOT r.deleted)"
"   AND NOT EXISTS (SELECT 1 FROM uds_incoming i WHERE i.data_type = t.type)"
" ORDER BY t.type DESC";

/* $3 data type, $4 node, $5 message */
static const char *const skipped_sql =
"INSERT INTO uds_rejected (n, data_type, uid, sqlstate, message)"
"VALUES (0, nullif($3, ''), nullif($4, ''), '42501', $5)";

/* Sets nodes aside that the service refused to show. */
static void
reject_skipped(const UdsRun *run, List *skipped)
{
	Oid			types[5] = {INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[5] = {Int64GetDatum(run->source->id),
	Int64GetDatum(run->task->id)};
	ListCell   *lc;

	foreach(lc, skipped)
	{
		const UdsSkippedNode *node = lfirst(lc);

		values[2] = CStringGetTextDatum(node->data_type ? node->data_type : "");
		values[3] = CStringGetTextDatum(node->node);
		values[4] = CStringGetTextDatum(node->message);
		uds_spi_exec(skipped_sql, 5, types, values, NULL);
	}
}

/* An empty read of a source that had something is a fault, not a fact. */
static void
refuse_vanished(const UdsRun *run)
{
	Oid			types[4] = {INT8OID, INT8OID, BOOLOID, BOOLOID};
	Datum		values[4] = {Int64GetDatum(run->source->id),
		Int64GetDatum(run->task->id),
		BoolGetDatum(run->reads_departments),
	BoolGetDatum(run->reads_users)};

	if (uds_spi_exec(vanished_sql, 4, types, values, NULL) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("source \"%s\" showed not a single %s although it had some before",
					run->source->name, uds_spi_text(0, 1)),
			 errhint("Nothing was changed. See whether the permissions or the visible range of the credential were reduced.")));
}

/* Departments: all but their deletion. */
static void
apply_departments(UdsRun *run, UdsTaskCounts *counts)
{
	uds_records_compare(run, &uds_departments, 0);
	if (!uds_filled("uds_work"))
		return;
	uds_pending_announce(run);
	uds_pending_recall(run, &uds_departments);
	uds_rows_desire(run, &uds_departments);
	uds_journal_note(run, &uds_departments);
	uds_departments_refer(run, &uds_departments);
	uds_departments_resolve_parents(run);
	if (uds_rows_write(run, &uds_departments))
	{
		uds_departments_resolve_again(run);
		uds_pending_forget_refused(run);
	}
	uds_pending_note(run, &uds_departments, true);
	counts->unchanged += uds_records_store(run, &uds_departments);
}

/* Departments that go: after those who belong to them. */
static void
withdraw_departments(const UdsRun *run)
{
	if (!uds_run_may_have(run, UDS_TYPE_DEPARTMENT))
		return;
	uds_pending_note_leaving(run);
	uds_rows_delete(run, &uds_departments);
	uds_departments_mark_leaves(run);
}

/* of so many settled, one left is few */
#define FEW_LEFT 10

/* Users and memberships. */
static void
apply_users(UdsRun *run, UdsTaskCounts *counts)
{
	bool		unresolved = false;
	bool		standing;

	run->settled = uds_settled_find(run);
	run->few_left = counts->fetched - run->settled < run->settled / FEW_LEFT;
	counts->unchanged += run->settled;
	uds_records_compare(run, &uds_users, run->settled);
	uds_pending_recall(run, &uds_users);
	if (!uds_filled("uds_work"))
		return;
	uds_match_users(run);
	uds_rows_desire(run, &uds_users);
	uds_journal_note(run, &uds_users);
	standing = uds_standing_members(run);
	if (!standing)
	{
		uds_departments_refer(run, &uds_users);
		unresolved = uds_members_desire(run);
	}
	if (!uds_rows_update_only(run, &uds_users))
	{
		uds_rows_delete(run, &uds_users);
		uds_rows_release(run, &uds_users);
		uds_rows_write(run, &uds_users);
	}
	if (!standing)
	{
		uds_members_write(run);
		uds_pending_note(run, &uds_users, unresolved);
	}
	counts->unchanged += uds_records_store(run, &uds_users);
}

/* What is built in: rows are written in order, and go in reverse order. */
static const struct
{
	const char *name;
	const char *data_type;
	void		(*apply) (UdsRun *run, UdsTaskCounts *counts);
	void		(*withdraw) (const UdsRun *run);	/* what it left for the end */
}			builtins[] =
{
	{"departments", UDS_TYPE_DEPARTMENT, apply_departments, withdraw_departments},
	{"users", UDS_TYPE_USER, apply_users, NULL}
};

/* The routines of a resource that is built in, by their place, or -1. */
static int
find_builtin(const UdsEntry *entry)
{
	for (int i = 0; i < lengthof(builtins); i++)
		if (entry->builtin && strcmp(entry->name, builtins[i].name) == 0)
			return i;
	return -1;
}

/*
 * Users and departments take all records of the task; what was registered
 * gets those that they took.  It withdraws rows in reverse order before any
 * is written, so that foreign keys and unique values stand in nobody's way.
 */
static void
apply_resources(UdsRun *run, UdsTaskCounts *counts)
{
	List	   *entries = run->entries;
	List	   *needed = NIL;
	ListCell   *lc;
	int			builtin;

	foreach(lc, entries)
	{
		if ((builtin = find_builtin(lfirst(lc))) < 0)
			continue;
		builtins[builtin].apply(run, counts);
		uds_resources_capture(run, builtins[builtin].data_type);
	}
	for (int i = list_length(entries) - 1; i >= 0; i--)
		if ((builtin = find_builtin(list_nth(entries, i))) >= 0 &&
			builtins[builtin].withdraw != NULL)
			builtins[builtin].withdraw(run);

	uds_resources_settle(run);
	for (int i = list_length(entries) - 1; i >= 0; i--)
	{
		const UdsEntry *entry = list_nth(entries, i);

		if (!entry->builtin && uds_resources_has_records(run, entry))
			needed = lcons((void *) entry, needed);
	}
	for (int i = list_length(needed) - 1; i >= 0; i--)
	{
		const UdsEntry *entry = list_nth(needed, i);

		if (entry->function == NULL)
			uds_mapped_withdraw(run, entry);
	}
	foreach(lc, needed)
	{
		const UdsEntry *entry = lfirst(lc);

		if (entry->function != NULL)
			uds_applied_call(run, entry);
		else
			uds_mapped_write(run, entry);
	}
}

/* What came of it, in a sentence for people. */
static char *
summarize(const UdsPages *pages, const UdsTaskCounts *counts)
{
	StringInfoData buf;
	ListCell   *lc;
	const struct
	{
		const char *word;
		int64		n;
	}			part[] = {
		{"created", counts->created}, {"updated", counts->updated},
		{"enabled", counts->enabled}, {"disabled", counts->disabled},
		{"deleted", counts->deleted}, {"unchanged", counts->unchanged},
		{"set aside", counts->failed}
	};

	initStringInfo(&buf);
	appendStringInfo(&buf, INT64_FORMAT " record%s %s", counts->fetched,
					 counts->fetched == 1 ? "" : "s", pages->pushed ? "taken" : "read");
	for (int i = 0; i < lengthof(part); i++)
		if (part[i].n > 0)
			appendStringInfo(&buf, ", " INT64_FORMAT " %s", part[i].n, part[i].word);
	if (pages->incremental)
		appendStringInfoString(&buf, "; only changes were asked for");
	else if (!pages->complete && !pages->pushed)
		appendStringInfoString(&buf, "; the read was not complete, so nobody counts as missing");
	foreach(lc, pages->warnings)
		appendStringInfo(&buf, "; %s", (char *) lfirst(lc));
	return buf.data;
}

/*
 * Takes the lock that makes tasks which reconcile take turns, until the end
 * of the transaction.  Two at a time would find the same person unknown and
 * both make a row, or lock each other's rows in opposite order.
 */
void
uds_lock_reconciling(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, LOCK_RECONCILE);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* When the last task ended, as the active snapshot sees it, as text. */
static char *
last_end(void)
{
	if (SPI_execute("SELECT max(finished_at) FROM uds.tasks", true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for the last task");
	return uds_spi_text(0, 1);
}

/*
 * Who waited for the lock with a snapshot from before does not see what the
 * others did meanwhile, and would make their people once more.
 */
static void
refuse_old_snapshot(void)
{
	char	   *seen;
	char	   *present;

	if (!IsolationUsesXactSnapshot())
		return;
	seen = last_end();
	PushActiveSnapshot(GetLatestSnapshot());
	present = last_end();
	PopActiveSnapshot();
	if (present != NULL && (seen == NULL || strcmp(seen, present) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update"),
				 errdetail("Another task has changed users or departments since this transaction began."),
				 errhint("Try the transaction again.")));
}

/*
 * Lets the statements of a large task use more memory than the server's
 * default, until the transaction ends: a million records spill to disk
 * anyway, but fewer and larger pieces.
 */
static void
take_memory(void)
{
	if (work_mem < TASK_WORK_MEM)
		(void) set_config_option("work_mem", psprintf("%d", TASK_WORK_MEM), PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Whether the task can have records of a type.
 */
bool
uds_run_may_have(const UdsRun *run, const char *data_type)
{
	return run->pushed == NULL || strcmp(run->pushed, data_type) == 0;
}

/*
 * Fills run: what a task may do, from its kind and its source.  Takes the
 * locks of a task until the end of the transaction.  ERROR if the source is
 * gone, or its owner may not write the target tables.
 */
void
uds_run_prepare(UdsRun *run, const UdsTask *task, const UdsSource *source, bool complete)
{
	Oid			types[2] = {INT8OID, OIDOID};
	Datum		values[2] = {Int64GetDatum(source->id), ObjectIdGetDatum(source->owner)};
	char	   *forbidden;

	run->task = task;
	run->source = source;
	run->owner = quote_identifier(GetUserNameFromId(source->owner, false));
	run->complete = complete;
	run->guarded = !task->force && strcmp(task->kind, "approve") != 0 &&
		strcmp(task->kind, "push") != 0;
	run->kept = uds_history_retention != 0;

	uds_lock_reconciling();
	refuse_old_snapshot();
	if (uds_spi_exec(lock_source_sql, 2, types, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("source \"%s\" was dropped while it was read", source->name)));
	run->shared = uds_spi_text(0, 1)[0] == 't';
	run->registered = uds_spi_text(0, 3)[0] == 't';

	/* told apart from what a record may be refused for */
	forbidden = uds_spi_text(0, 2);
	if (forbidden != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role %s, the owner of source \"%s\", may not write %s",
						run->owner, source->name, forbidden),
				 errhint("Grant it USAGE on schema uds, and SELECT, INSERT, UPDATE and DELETE on the table.")));
	run->watched = uds_constraints_check_targets_now(source->owner);
}

/* Everything that writes target tables and our own records of them. */
static void
apply(UdsRun *run, const UdsPages *pages, UdsTaskCounts *counts)
{
	uds_progress_phase(UDS_PHASE_APPLY);
	apply_resources(run, counts);
	reject_skipped(run, pages->skipped);
	uds_outcome_count(run, counts);
	counts->skipped = list_length(pages->skipped);
}

/*
 * Why what was applied must not be committed, or NULL.  Where it must,
 * *status receives the status that the task ends with.
 */
static char *
judge(const UdsRun *run, const UdsPages *pages, const UdsTaskCounts *counts, const char **status)
{
	char	   *reason = NULL;

	if (strcmp(run->task->kind, "preview") == 0)
	{
		*status = "success";
		return "preview, nothing was written";
	}
	*status = "blocked";
	if (pages->shown != 0 && uds_outcome_differs(run, pages->shown))
		return "what was approved would come out differently now; nothing was written: look at this task's uds.changes and approve it instead";
	if (run->guarded && counts->disabled + counts->deleted > 0)
		reason = uds_outcome_guard(run);
	return reason;
}

/* Ends a task; stage relations of a small one are kept for the next of the session. */
static void
end_run(const UdsRun *run)
{
	uds_reconciling = false;
	if (run->small)
		return;
	uds_stage_release();
	uds_resources_drop_stage(run);
}

/*
 * Makes the target tables what the records of a task say they should be.
 *
 * "pages" tells where the records are and whether they are all.  Fills
 * "counts" except for what fetching counted, and *message, palloc'd in SPI's
 * memory.  Returns the status the task ends with; only with "success" and
 * "partial" anything was written, and not for a preview.  ERROR where nothing
 * may be applied; the caller's transaction then rolls back.
 */
const char *
uds_reconcile(UdsTask *task, const UdsSource *source,
			  const UdsPages *pages, UdsTaskCounts *counts, char **message)
{
	UdsRun		run = {0};
	UdsPart		part;
	char	   *obstacle;
	const char *status;

	uds_reconciling = true;
	run.pushed = pages->pushed;
	run.small = pages->pushed && pages->push->all <= UDS_SMALL_TASK;
	if (!run.small)
		take_memory();
	uds_run_prepare(&run, task, source, pages->complete);
	if (pages->events_of != 0)
		uds_events_rename(source->id, pages->events_of);
	uds_progress_phase(UDS_PHASE_MAP);
	uds_stage_create(&run);
	uds_resources_list(&run);
	uds_resources_create_stage(&run);

	/* what runs other people's code may look for the task */
	if (run.watched || run.registered)
		uds_task_store_push(task);
	if (pages->pushed)
	{
		*pages->takers = uds_resources_takers(&run, pages->pushed);
		uds_collect_pushed(&run, pages->push);
	}
	else
		uds_collect_pages(&run, pages);
	counts->fetched = uds_scan_count("uds_incoming") + uds_scan_count("uds_rejected");
	uds_progress_records(counts->fetched);
	if (pages->failed_of == 0 && !pages->pushed && !pages->incremental)
		refuse_vanished(&run);

	uds_part_begin(&part);
	apply(&run, pages, counts);
	counts->complete = pages->incremental ? -1 : pages->complete ? 1 : 0;
	*message = summarize(pages, counts);
	obstacle = judge(&run, pages, counts, &status);
	if (obstacle != NULL)
	{
		UdsKept    *kept = uds_outcome_keep(&run);

		uds_part_end(&part, false);
		uds_outcome_store(&run, kept);
		*message = psprintf("%s (%s)", obstacle, *message);
		end_run(&run);
		return status;
	}
	if (uds_filled("uds_rejected"))
		uds_task_store_push(task);
	uds_outcome_store(&run, NULL);
	uds_part_end(&part, true);
	uds_outcome_notify(&run, counts);
	end_run(&run);
	return counts->failed > 0 ? "partial" : "success";
}
