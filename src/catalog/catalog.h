/*-------------------------------------------------------------------------
 *
 * catalog.h
 *		The extension's own tables: sources, secrets, tasks, raw log.
 *
 * Functions here run inside a transaction with SPI connected, unless said
 * otherwise; uds_xact_begin() makes both in a worker.  They take ordinary
 * row and table locks on the tables of schema uds and nothing else.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CATALOG_H
#define UDS_CATALOG_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "compat.h"
#include "connector/connector.h"

typedef struct UdsSource
{
	int64		id;
	char	   *name;
	char	   *type;
	Oid			owner;
	bool		enabled;
	bool		armed;			/* may be read from this database */
	char	   *on_deleted;
	char	   *on_missing;
	char	   *manifest;		/* JSON text; NULL for types without one */
	char	   *pull;			/* function that reads it instead, or NULL */
	char	   *options;		/* JSON text, stored secrets merged in */
	char	   *match_keys;		/* JSON array of text */
	int			priority;
	char	   *columns;		/* JSON array of text, or NULL = all */
	double		guard_percent;
	int			guard_min;
} UdsSource;

/* The numbers of a task row. */
typedef struct UdsTaskCounts
{
	int64		pages,
				requests,
				throttled_ms,
				fetched,
				created,
				updated,
				unchanged,
				enabled,
				disabled,
				deleted,
				linked,
				unlinked,
				skipped,
				failed;
	int64		fetch_ms,
				apply_ms;
	int			complete;		/* 1, 0, or -1 = nothing full was read */
	char	   *failed_by;		/* JSON object, failed by resource; NULL if none
								 * failed */
} UdsTaskCounts;

typedef struct UdsTask
{
	int64		id;
	int64		source_id;
	char		kind[16];
	char		mode[16];		/* as asked: auto, full, incremental */
	bool		force;
	int			attempt;
	int64		retry_of;		/* 0 = none */
	UdsTaskCounts counts;		/* what it did so far */
	bool		unstored;		/* a push whose row is yet to be made */
	const char *requested_by;	/* then: the role, or the key */
	TimestampTz started_at;		/* and when it began */
} UdsTask;

/* spi.c: short transactions of a worker, and SPI with errors named */
extern void uds_xact_begin(const char *activity);
extern void uds_xact_commit(void);
extern void uds_xact_abort(void);
extern void uds_xact_idle_activity(const char *activity);
extern void uds_spi_keep_plans(bool keep);
extern void uds_spi_forget_plans(void);
extern uint64 uds_spi_exec(const char *sql, int nargs, Oid *types,
						   Datum *values, const char *nulls);
extern Datum uds_spi_value(const char *sql, int nargs, Oid *types,
						   Datum *values, const char *nulls, bool *isnull);
extern char *uds_spi_text(int row, int column);	/* of SPI_tuptable; NULL = null */
extern void uds_spi_raise(uint64 found);

/* bulk.c: many rows for a table of ours */
typedef struct UdsBulk UdsBulk;
extern UdsBulk *uds_bulk_begin(const char *schema, const char *table);
extern void uds_bulk_add(UdsBulk *bulk, const Datum *values, const bool *isnull);
extern void uds_bulk_end(UdsBulk *bulk);
extern uint64 uds_bulk_insert(const char *schema, const char *table, const char *sql, int nargs,
							  Oid *types, Datum *values);

/* spi.c: acting as the extension's owner in a caller's session */
typedef struct UdsIdentity
{
	Oid			user;
	int			context;
} UdsIdentity;
extern Oid	uds_extension_owner(void);
extern void uds_become(Oid role, UdsIdentity *saved);
extern void uds_become_trusted(Oid role, UdsIdentity *saved);
extern void uds_unbecome(const UdsIdentity *saved);

/* constraints.c: those that may be checked as late as at commit */
extern bool uds_constraints_check_now(Oid relid, Oid role);
extern bool uds_constraints_check_targets_now(Oid role);

/* source.c */
extern UdsSource *uds_source_load(int64 id);
extern UdsSource *uds_source_load_by_name(const char *name);	/* ERROR if unknown */
extern UdsSource *uds_source_copy(const UdsSource *source);
extern char *uds_source_load_token(const UdsSource *source);
extern void uds_source_save_token(const UdsSource *source, const char *token,
								  TimestampTz expires_at);
extern void uds_source_note_success(int64 id, int64 task);
extern void uds_source_note_failure(int64 id, int64 task, const char *message);

/* state.c */
extern char *uds_source_load_state(int64 id, bool *full_is_recent);
extern void uds_source_save_state(int64 id, const char *state, bool full);

/* sources.c */
extern int64 uds_source_find(const char *name, Oid caller, char **owner, char **type,
							 Datum *options);

/* source_types.c */
extern Datum uds_source_type_check_options(const char *name, const char *type, Oid owner,
										   Datum options);

/* arming.c */
uds_noreturn extern void uds_arming_refuse(const char *source);

/* secrets.c */
extern void uds_secrets_check_options(const char *name, Datum options, Oid caller);
extern void uds_secrets_hide_statement(struct ErrorContextCallback *callback,
									   const char *function, bool hide);
extern void uds_secrets_show_statement(struct ErrorContextCallback *callback);

/* raw_log.c */
typedef struct UdsRawPage
{
	int			seq;			/* within the attempt, from 1 */
	const char *stream;
	const char *request;
	const char *context;		/* JSON, or NULL */
	int			status;
	bool		usable;
	TimestampTz received_at;
	const char *body;			/* or NULL */
	size_t		body_len;
} UdsRawPage;

extern void uds_raw_log_append(int64 task, int attempt, List *pages);
extern void uds_raw_log_cleanup(void);	/* outside a transaction */

/* events.c */
extern bool uds_event_store(int64 source, const char *event_id, const char *event_type,
							Datum changes, Datum message, bool resync, Oid requested_by);
extern List *uds_events_take(const UdsTask *task);
extern void uds_events_rename(int64 source, int64 task);
extern void uds_events_cleanup(void);	/* outside a transaction */

/* history.c */
extern void uds_history_cleanup(void);	/* outside a transaction */

/* tasks.c */
extern int64 uds_task_queue(int64 source, const char *kind, const char *mode,
							bool force, int64 retry_of, Oid requested_by,
							bool *joined);
extern bool uds_task_claim(UdsTask *task, void (*announce) (const UdsTask *));
extern void uds_task_finish(int64 task, const char *status, const char *message,
							const UdsTaskCounts *counts);
extern void uds_task_begin_push(UdsTask *task, int64 source,
								const char *requested_by);
extern void uds_task_store_push(UdsTask *task);
extern void uds_task_finish_push(const UdsTask *task, const char *status,
								 const char *message);
extern bool uds_task_cancel_waiting(int64 task);
extern void uds_task_reap(void);
extern TimestampTz uds_task_next_due(void);
extern bool uds_extension_installed(void);

#endif							/* UDS_CATALOG_H */
