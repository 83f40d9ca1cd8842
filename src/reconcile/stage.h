/*-------------------------------------------------------------------------
 *
 * stage.h
 *		What the steps of reconciling share: the run, the resources, the
 *		stage relations and the runner of their statements.
 *
 * Runs inside the one transaction of a task, with SPI connected.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_RECONCILE_STAGE_H
#define UDS_RECONCILE_STAGE_H

#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "utils/resowner.h"

#include "catalog/catalog.h"
#include "reconcile/reconcile.h"
#include "uds.h"

/* records pushed up to which statistics of the stage do not pay */
#define UDS_SMALL_TASK 500

/* bytes that a uid may have: it must fit into an index */
#define UDS_MAX_UID 2000

/* One target table and how records become its rows. */
typedef struct UdsResource
{
	const char *name;			/* in uds.changes, uds.record_resources */
	const char *table;			/* qualified and quoted */
	const char *sequence;		/* of its primary key */
	const char *data_type;		/* of the records it accepts */
	const char *unsettable;		/* text[] literal: never from a record */
	const char *const *unique;	/* columns where '' means NULL; ends with NULL */
	const char *required;		/* column that falls back to the uid, or NULL */
	const char *reference;		/* column that points to a department */
	bool		has_protected;	/* has rows that no sync disables or deletes */
} UdsResource;

/*
 * A record without what no source may set.  Most have nothing of it, and taking
 * nothing away would make a copy.
 */
#define UDS_SETTABLE(data) \
	"CASE WHEN " data " ?| '{unsettable}'::text[]" \
	" THEN " data " - '{unsettable}'::text[] ELSE " data " END"

typedef struct UdsRun
{
	const UdsTask *task;
	const UdsSource *source;
	const char *owner;			/* quoted name of the role that writes targets */
	bool		shared;			/* records of other sources may back the rows */
	bool		complete;		/* what is absent has left, if ... */
	bool		reads_users;	/* ... its type was read at all */
	bool		reads_departments;
	bool		guarded;		/* too many leavers block it */
	bool		kept;			/* its change set goes to uds.changes */
	bool		small;			/* few records, and no more than those */
	int64		settled;		/* users that need nothing */
	bool		few_left;		/* nearly all do not */
	const char *pushed;			/* data type of all its records, or NULL */
	bool		watched;		/* target tables have triggers of other people */
	List	   *entries;		/* of UdsEntry *: resources, in order */
	bool		registered;		/* some that were registered take part */
} UdsRun;

/* One of the resources in the list, as uds.resources has it. */
typedef struct UdsEntry
{
	const char *name;
	const char *literal;		/* the name, quoted as a literal */
	bool		builtin;
	bool		takes_users;
	bool		takes_departments;
	Oid			target;			/* of a mapped table */
	const char *key;			/* its column */
	const char *columns;		/* JSON: column to expression */
	const char *function;		/* "f(bigint)", instead of a table */
} UdsEntry;

/* A mapped table as it is now, its names quoted. */
typedef struct UdsMappedTable
{
	UdsResource resource;		/* for error rows */
	char	   *name;			/* qualified */
	char	   *key;
	char	   *key_literal;
	char	   *key_type;
} UdsMappedTable;

/* A subtransaction. */
typedef struct UdsPart
{
	MemoryContext context;
	ResourceOwner owner;
} UdsPart;

/* A statement that records may make fail, see isolate.c. */
typedef struct UdsStatement
{
	const char *sql;			/* with {rows} for a condition over part of it */
	const char *const *words;	/* put in last, or NULL; see uds_stage_expand() */
	const char *rows;			/* that condition, over the array $3 */
	const char *relation;		/* stage relation whose column n numbers rows */
	const char *pk;				/* its column that holds the target's key */
	const char *blamed;			/* resource named in the error rows */
	const char *reference;		/* for {reference} over parts, see rows.c */
	bool		keeps_rows;		/* the record's other effects stand */
	int64		written;		/* result: rows that it processed */
} UdsStatement;

/*
 * Whether a service ignores case in uids of a data type; t is its row of
 * uds.source_manifests.
 */
#define UDS_IGNORES_CASE(data_type) \
"coalesce(t.manifest -> 'ignore_case' ? '" data_type "', false)"

/* Pieces of statements that depend on the columns of a target table. */
typedef struct UdsColumns
{
	StringInfoData names;
	StringInfoData values;		/* what they should be, for rows there */
	StringInfoData old;			/* what they are */
	StringInfoData inserts;		/* what they should be, for new rows, but for
								 * the last: the reference */
	StringInfoData pairs;		/* 'name', value: for jsonb_build_object */
	int			n_pairs;
	StringInfoData set;			/* the same of a row just made, defaults left out */
	int			n_set;
	StringInfoData text_names;	/* text of those, for jsonb_object: 'name', … */
	StringInfoData text_values;
	StringInfoData nested;		/* the rest of those: || object, for each that
								 * may have nulls inside */
	StringInfoData domains;		/* object ||, with the default of each domain,
								 * which may refuse null */
} UdsColumns;

extern const UdsResource uds_users;
extern const UdsResource uds_departments;

/* reconcile.c */
extern bool uds_reconciling;
extern void uds_lock_reconciling(void);
extern void uds_run_prepare(UdsRun *run, const UdsTask *task,
							const UdsSource *source, bool complete);
extern bool uds_run_may_have(const UdsRun *run, const char *data_type);

/* stage.c */
extern void uds_stage_create(const UdsRun *run);
extern void uds_stage_release(void);
extern void uds_stage_claim_small(const char *name);
extern void uds_stage_clear(const UdsRun *run, const char *relation);
extern void uds_stage_analyze(const UdsRun *run, const char *relation);
extern char *uds_stage_expand_words(const char *sql, const char *const *words);
extern char *uds_stage_join(const UdsRun *run, const char *kind, const char *table,
							const char *alias, const char *condition);
extern char *uds_stage_expand(const char *sql,...);
extern uint64 uds_stage_exec(const UdsRun *run, const char *sql);
extern uint64 uds_stage_write(const UdsRun *run, const char *sql);
extern uint64 uds_stage_exec_as_owner(const UdsRun *run, const char *sql);
extern void uds_stage_bulk(const UdsRun *run, const char *table, const char *query);
extern int64 uds_stage_count(const UdsRun *run, const char *sql);
extern const char *uds_stage_live(const UdsRun *run, const UdsResource *resource);

/* filled.c */
extern void uds_filled_forget(void);
extern void uds_filled_note_empty(const char *relation);
extern void uds_filled_note(const char *sql);
extern bool uds_filled_not(const char *relation);
extern bool uds_filled(const char *relation);

/* scan.c */
extern void uds_scan(const char *relation,
					 bool (*see) (TupleTableSlot *row, void *arg), void *arg);
extern bool uds_scan_any(const char *relation);
extern int64 uds_scan_count(const char *relation);
extern void uds_scan_delete(const char *relation);
extern bool uds_scan_is_null(TupleTableSlot *row, const char *column);
extern bool uds_scan_is_true(TupleTableSlot *row, const char *column);
extern bool uds_scan_is_word(TupleTableSlot *row, const char *column, const char *word);

/* isolate.c */
extern void uds_part_begin(UdsPart *saved);
extern void uds_part_end(const UdsPart *saved, bool keep);
extern bool uds_stage_isolate(const UdsRun *run, const UdsResource *resource,
							  UdsStatement *statement);
extern void uds_stage_forget_rejected(const UdsResource *resource);
extern bool uds_stage_attempt(const UdsRun *run, const char *sql);

extern ErrorData *uds_part_try(const UdsRun *run, void (*work) (void *arg), void *arg);

/* resources.c */
extern void uds_resources_list(UdsRun *run);
extern List *uds_resources_takers(const UdsRun *run, const char *data_type);
extern bool uds_resources_takes(const UdsEntry *entry, const char *data_type);
extern void uds_resources_create_stage(const UdsRun *run);
extern void uds_resources_drop_stage(const UdsRun *run);
extern void uds_resources_capture(const UdsRun *run, const char *data_type);
extern void uds_resources_settle(const UdsRun *run);
extern bool uds_resources_has_records(const UdsRun *run, const UdsEntry *entry);
extern char *uds_resources_given(const UdsRun *run, const UdsEntry *entry,
								 const char *data_type);
extern void uds_resources_set_aside(const UdsRun *run, const UdsEntry *entry);
extern void uds_resources_settle_errors(const UdsRun *run, const UdsEntry *entry,
										const char *data_type);
extern void uds_resources_refuse(const UdsRun *run, const UdsEntry *entry,
								 const char *reason);

/* mapped.c */
extern UdsMappedTable *uds_mapped_open(const UdsRun *run, const UdsEntry *entry,
									   char **obstacle);
extern void uds_mapped_withdraw(const UdsRun *run, const UdsEntry *entry);
extern void uds_mapped_write(const UdsRun *run, const UdsEntry *entry);

/* applied.c */
extern void uds_applied_call(const UdsRun *run, const UdsEntry *entry);
extern void uds_applied_undo(const UdsRun *run, const UdsEntry *entry);

/* collect.c */
extern void uds_collect_pages(UdsRun *run, const UdsPages *pages);
extern void uds_collect_pushed(const UdsRun *run, UdsPush *push);

/* parts.c */
extern void uds_parts_join(const UdsRun *run, const UdsPages *pages, bool members,
						   bool fold);

/* records.c */
extern void uds_records_compare(const UdsRun *run, const UdsResource *resource,
								int64 settled);
extern int64 uds_records_store(const UdsRun *run, const UdsResource *resource);

/* journal.c */
extern void uds_journal_note(const UdsRun *run, const UdsResource *resource);
extern void uds_journal_pick(const UdsRun *run, const char *undone);
extern void uds_journal_note_undo(const UdsRun *run);
extern void uds_journal_put_back(const UdsRun *run, const char *undone);

/* undo_rows.c */
extern void uds_undo_look(const UdsRun *run);
extern void uds_undo_follow(const UdsRun *run);
extern void uds_undo_write(const UdsRun *run);
extern void uds_undo_write_last(const UdsRun *run);
extern void uds_undo_look_mapped(const UdsRun *run, StringInfo mapped);
extern void uds_undo_withdraw_mapped(const UdsRun *run);
extern void uds_undo_write_mapped(const UdsRun *run);

/* pending.c */
extern void uds_pending_recall(const UdsRun *run, const UdsResource *resource);
extern void uds_pending_announce(const UdsRun *run);
extern void uds_pending_forget_refused(const UdsRun *run);
extern void uds_pending_note(const UdsRun *run, const UdsResource *resource,
							 bool unresolved);
extern void uds_pending_note_leaving(const UdsRun *run);

/* settled.c */
extern int64 uds_settled_find(const UdsRun *run);

/* standing.c */
extern bool uds_standing_members(const UdsRun *run);

/* match.c */
extern void uds_match_users(const UdsRun *run);

/* columns.c */
extern const UdsColumns *uds_columns_list(const UdsResource *resource);
extern const char *uds_columns_enabled(const UdsResource *resource);

/* rows.c */
extern void uds_rows_desire(const UdsRun *run, const UdsResource *resource);
extern bool uds_rows_update_only(const UdsRun *run, const UdsResource *resource);
extern bool uds_rows_write(const UdsRun *run, const UdsResource *resource);
extern void uds_rows_delete(const UdsRun *run, const UdsResource *resource);

/* release.c */
extern void uds_rows_release(const UdsRun *run, const UdsResource *resource);
extern void uds_rows_give_back(const UdsRun *run, const UdsResource *resource);
extern struct ArrayType *uds_rows_hopeless(const UdsRun *run, const UdsResource *resource,
										   Datum *numbers, int n);

/* departments.c */
extern void uds_departments_resolve_parents(const UdsRun *run);
extern void uds_departments_resolve_again(const UdsRun *run);
extern void uds_departments_refer(const UdsRun *run, const UdsResource *resource);
extern void uds_departments_mark_leaves(const UdsRun *run);
extern const char *uds_departments_of_record(const UdsResource *resource);
extern const char *uds_departments_uids(const UdsResource *resource);

/* outcome.c */
typedef struct UdsKept UdsKept;
extern void uds_outcome_count(const UdsRun *run, UdsTaskCounts *counts);
extern char *uds_outcome_guard(const UdsRun *run);
extern UdsKept *uds_outcome_keep(const UdsRun *run);
extern void uds_outcome_store(const UdsRun *run, UdsKept *kept);
extern void uds_outcome_notify(const UdsRun *run, const UdsTaskCounts *counts);
extern bool uds_outcome_differs(const UdsRun *run, int64 shown);

/* members.c */
extern bool uds_members_desire(const UdsRun *run);
extern void uds_members_write(const UdsRun *run);

#endif							/* UDS_RECONCILE_STAGE_H */
