/*-------------------------------------------------------------------------
 *
 * arming.c
 *		uds_arm(): from which database a source may be read.
 *
 * A copy of a database, or one restored from a dump, has the sources of the
 * first, and often its secrets.  It must not read from production by itself,
 * nor use up its rate limits, just because somebody wanted a copy to try
 * things in.  So each source notes where it is armed: in the database of the
 * server it was created in.  Elsewhere it is not read until somebody says so
 * here.
 *
 * Runs in backends, in the caller's transaction, its tables accessed as the
 * extension's owner; takes row locks on sources.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"

#include "catalog/catalog.h"

/* $1: the name, or NULL for all; $2: who calls; $3: whether a superuser */
static const char *const arm_sql =
"UPDATE uds.source_settings s"
"   SET armed_in = i.id"
"  FROM uds.installation i"
" WHERE s.armed_in IS DISTINCT FROM i.id"
"   AND ($1 IS NULL OR s.name = $1)"
"   AND ($3 OR EXISTS (SELECT FROM pg_roles r"
"                       WHERE r.rolname = s.owner"
"                         AND pg_has_role($2, r.oid, 'USAGE')))";

PG_FUNCTION_INFO_V1(uds_arm);

/*
 * Raises the ERROR that "source" is not armed in this database.
 */
void
uds_arming_refuse(const char *source)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("source \"%s\" is not armed in this database", source),
			 errdetail("It was set up in another one, of which this is a copy or was restored from."),
			 errhint("If it shall be read from here, call uds_arm(%s).",
					 quote_literal_cstr(source))));
}

/*
 * uds_arm(source) → integer, how many sources were not armed before
 */
Datum
uds_arm(PG_FUNCTION_ARGS)
{
	UdsIdentity saved;
	Oid			caller = GetUserId();
	Oid			types[3] = {TEXTOID, OIDOID, BOOLOID};
	Datum		values[3] = {(Datum) 0, ObjectIdGetDatum(caller), BoolGetDatum(superuser())};
	char		nulls[4] = "   ";
	uint64		armed;

	PreventCommandDuringRecovery("uds_arm()");
	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	if (PG_ARGISNULL(0))
		nulls[0] = 'n';
	else
	{
		char	   *owner;
		char	   *type;

		values[0] = PG_GETARG_DATUM(0);
		(void) uds_source_find(TextDatumGetCString(values[0]), caller, &owner, &type, NULL);
	}
	armed = uds_spi_exec(arm_sql, 3, types, values, nulls);
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_INT32((int32) armed);
}
