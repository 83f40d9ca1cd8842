/*-------------------------------------------------------------------------
 *
 * filled.c
 *		Which stage relations hold rows.
 *
 * A push of one record fills few of them.  Knowing which, it need not clear
 * and read the others: what it costs is the number of its statements.  What
 * is not known to be empty is looked at.
 *
 * Private to the process.  A rollback brings back rows that were deleted
 * since, so after one nothing is known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"

#include "reconcile/stage.h"

/* Relations that are filled by statements over the stage alone. */
static struct
{
	const char *name;
	bool		empty;
}			known[] =
{
	{"uds_settled"}, {"uds_suspect"}, {"uds_work"}, {"uds_desired"}, {"uds_referred"},
	{"uds_leavers"}, {"uds_leaving"}, {"uds_differing"}, {"uds_needed"}, {"uds_arrived"},
	{"uds_cut"}, {"uds_matched"}, {"uds_department_ref"}, {"uds_owners"},
	{"uds_asserted"}, {"uds_member_scope"}, {"uds_member_diff"}
};

/*
 * Forgets which relations are empty.
 */
void
uds_filled_forget(void)
{
	for (int i = 0; i < lengthof(known); i++)
		known[i].empty = false;
}

static void
forget_at_subxact_abort(SubXactEvent event, SubTransactionId mine,
						SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		uds_filled_forget();
}

static void
forget_at_abort(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		uds_filled_forget();
}

static bool *
find(const char *relation)
{
	for (int i = 0; i < lengthof(known); i++)
		if (strcmp(known[i].name, relation) == 0)
			return &known[i].empty;
	return NULL;
}

/*
 * Notes that a relation was cleared.
 */
void
uds_filled_note_empty(const char *relation)
{
	static bool registered = false;
	bool	   *empty = find(relation);

	if (empty == NULL)
		return;
	if (!registered)
	{
		RegisterSubXactCallback(forget_at_subxact_abort, NULL);
		RegisterXactCallback(forget_at_abort, NULL);
		registered = true;
	}
	*empty = true;
}

/*
 * Notes that a statement may have put rows into the relations that it names.
 */
void
uds_filled_note(const char *sql)
{
	const char *const insert = "INSERT INTO ";

	while ((sql = strstr(sql, insert)) != NULL)
	{
		char		name[NAMEDATALEN];
		bool	   *empty;

		sql += strlen(insert);
		strlcpy(name, sql, Min(sizeof(name), strcspn(sql, " (") + 1));
		if ((empty = find(name)) != NULL)
			*empty = false;
	}
}

/*
 * Whether a relation is known to be empty.
 */
bool
uds_filled_not(const char *relation)
{
	const bool *empty = find(relation);

	return empty != NULL && *empty;
}

/*
 * Whether a relation holds rows.
 */
bool
uds_filled(const char *relation)
{
	return !uds_filled_not(relation) && uds_scan_any(relation);
}
