/*-------------------------------------------------------------------------
 *
 * secrets.c
 *		Who may have secrets read from where; statements that hold secrets, kept
 *		out of sight; and the source that a dump brings although it is there.
 *
 * Runs in backends.  Takes a row lock on the source "api" when that is
 * restored.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"

#include "catalog/catalog.h"
#include "uds.h"

PG_FUNCTION_INFO_V1(uds_replace_api);

/*
 * ERROR if an option of the source "name" (options: jsonb) has a value that
 * only a superuser may give, and "caller" is none; or one that says that it
 * was taken out.  With SPI connected.
 */
void
uds_secrets_check_options(const char *name, Datum options, Oid caller)
{
	Oid			types[1] = {JSONBOID};
	uint64		n;

	n = uds_spi_exec("SELECT key, value = '\"" UDS_REDACTED "\"', value ->> '$env'"
					 "  FROM jsonb_each($1)"
					 " WHERE value = '\"" UDS_REDACTED "\"'"
					 "    OR key IN ('ca_file', 'client_cert_file', 'client_key_file')"
					 "    OR (jsonb_typeof(value) = 'object'"
					 "        AND (value ? '$file' OR value ->> '$env' NOT LIKE 'UDS\\_%'))",
					 1, types, &options, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		char	   *option = uds_spi_text(i, 1);

		if (uds_spi_text(i, 2)[0] == 't')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" of source \"%s\" is redacted",
							option, name),
					 errhint("No value is stored that \"" UDS_REDACTED "\" could stand for; give the value itself.")));
		if (superuser_arg(caller))
			continue;
		if (uds_spi_text(i, 3) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to have option \"%s\" of source \"%s\" read from environment variable \"%s\"",
							option, name, uds_spi_text(i, 3)),
					 errhint("Only superusers may name variables that do not begin with \"UDS_\": the value goes to whatever host the source names.")));
		else
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to have option \"%s\" of source \"%s\" read from a file",
							option, name),
					 errhint("Only superusers may name files of the server.")));
	}
}

/* Error context callback: what is logged of an error is not the statement. */
static void
hide_statement(void *arg)
{
	errhidestmt(true);
}

/*
 * With "hide", the statement that runs is from now on shown neither in
 * pg_stat_activity, where it would stay until the session's next one, nor in
 * the server's log with an error; "function" is named instead.  Nor does the
 * context of an error lead outside: a procedural language would add the
 * statement there.  To be ended with uds_secrets_show_statement(), which an
 * ERROR does by itself.
 */
void
uds_secrets_hide_statement(ErrorContextCallback *callback, const char *function,
						   bool hide)
{
	char	   *shown;

	callback->callback = hide_statement;
	callback->previous = NULL;
	callback->arg = error_context_stack;
	if (!hide)
		return;
	shown = psprintf("SELECT %s(...) -- not shown, it may hold secrets", function);
	pgstat_report_activity(STATE_RUNNING, shown);
	pfree(shown);
	error_context_stack = callback;
}

/*
 * Errors have their statements and contexts again.  What pg_stat_activity
 * shows stays.
 */
void
uds_secrets_show_statement(ErrorContextCallback *callback)
{
	error_context_stack = callback->arg;
}

/*
 * Trigger before INSERT of the source "api".  CREATE EXTENSION makes one, and
 * a dump brings what became of it: that takes its place.
 */
Datum
uds_replace_api(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("uds.replace_api() can only be used as a trigger before INSERT")));
	SPI_connect();
	uds_spi_exec("DELETE FROM uds.source_settings WHERE name = 'api'",
				 0, NULL, NULL, NULL);
	SPI_finish();
	return PointerGetDatum(trigger->tg_trigtuple);
}
