/*-------------------------------------------------------------------------
 *
 * columns.c
 *		The columns of a target table, as pieces of the statements over it.
 *
 * Tables have columns of the user's own, so these statements are put together
 * when these change.  Runs in the transaction of a task, as the extension's
 * owner; reads the system catalogs, locks nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "reconcile/stage.h"

/*
 * Settable columns in order: name, default, whether '' means NULL, whether
 * the uid is its default, whether its type is a domain, whether its values may
 * become objects or lists in JSON, and whether they are text.
 */
static const char *const columns_sql =
"SELECT quote_ident(a.attname), quote_literal(a.attname),"
"       coalesce(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(t.typdefaultbin, 0)),"
"       a.attname = ANY ($2::text[]), a.attname = $3, t.typtype = 'd',"
"       t.typcategory NOT IN ('S', 'N', 'D', 'B', 'E', 'I', 'T', 'V', 'G'),"
"       t.oid IN ('text'::regtype, 'varchar'::regtype)"
"  FROM pg_attribute a"
"  JOIN pg_type t ON t.oid = a.atttypid"
"  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
" WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped"
"   AND a.attgenerated = '' AND a.attidentity = ''"
"   AND a.attname <> ALL ($4::text[]) AND a.attname <> 'enabled'"
" ORDER BY a.attnum";

/*
 * Returns what enabled should be, of row n in rows.c: it follows transitions of
 * the sources only, so that a row disabled or enabled by hand stays so.
 */
const char *
uds_columns_enabled(const UdsResource *resource)
{
	return resource->has_protected ?
		"CASE WHEN n.was_disabled = n.is_disabled OR (n.old).protected AND n.is_disabled"
		"     THEN (n.old).enabled ELSE NOT n.is_disabled END" :
		"CASE WHEN n.was_disabled = n.is_disabled"
		"     THEN (n.old).enabled ELSE NOT n.is_disabled END";
}

/* Adds a member to lists of arguments of jsonb_build_object(). */
static void
add_pair(StringInfo pairs, int *n, const char *literal, const char *value)
{
	/* a function takes a hundred arguments */
	if (*n > 0)
		appendStringInfoString(pairs, *n % 50 > 0 ? ", " : ") || jsonb_build_object(");
	appendStringInfo(pairs, "%s, %s", literal, value);
	(*n)++;
}

static void
add_column(UdsColumns *lists, const char *name, const char *literal,
		   const char *value, const char *insert, bool may_default, bool is_nested,
		   bool is_text)
{
	const char *comma = lists->names.len > 0 ? ", " : "";
	char	   *set = psprintf("w.%s", name);

	appendStringInfo(&lists->names, "%s%s", comma, name);
	appendStringInfo(&lists->values, "%s%s", comma, value);
	appendStringInfo(&lists->old, "%s(n.old).%s", comma, name);
	if (insert != NULL)
		appendStringInfo(&lists->inserts, "%s%s", comma, insert);
	add_pair(&lists->pairs, &lists->n_pairs, literal, value);
	if (is_nested)
		appendStringInfo(&lists->nested,
						 " || CASE WHEN w.%s IS NOT NULL AND d.merged ? %s"
						 " THEN jsonb_build_object(%s, w.%s) ELSE '{}' END",
						 name, literal, literal, name);
	else if (is_text && !may_default)
	{
		/* several times as fast as what takes values of any type */
		appendStringInfo(&lists->text_names, "%s%s", lists->text_names.len > 0 ? ", " : "",
						 literal);
		appendStringInfo(&lists->text_values, "%s%s", lists->text_values.len > 0 ? ", " : "",
						 set);
	}
	else
	{
		if (may_default)
			set = psprintf("CASE WHEN d.merged ? %s THEN to_jsonb(w.%s) END",
						   literal, name);
		add_pair(&lists->set, &lists->n_set, literal, set);
	}
}

/* Reads the columns that the table has now, those of the user included. */
static void
read_columns(const UdsResource *resource, UdsColumns *lists)
{
	Oid			types[4] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[4];
	StringInfoData unique;
	uint64		n;
	char	   *name;

	initStringInfo(&lists->names);
	initStringInfo(&lists->values);
	initStringInfo(&lists->old);
	initStringInfo(&lists->inserts);
	initStringInfo(&lists->pairs);
	lists->n_pairs = 0;
	lists->n_set = 0;
	initStringInfo(&lists->set);
	initStringInfo(&lists->text_names);
	initStringInfo(&lists->text_values);
	initStringInfo(&lists->nested);
	initStringInfo(&lists->domains);

	values[0] = CStringGetTextDatum(resource->table);
	initStringInfo(&unique);
	for (const char *const *column = resource->unique; *column != NULL; column++)
		appendStringInfo(&unique, "%s%s", unique.len > 0 ? "," : "", *column);
	values[1] = CStringGetTextDatum(psprintf("{%s}", unique.data));
	values[2] = CStringGetTextDatum(resource->required ? resource->required : "");
	values[3] = CStringGetTextDatum(resource->unsettable);
	n = uds_spi_exec(columns_sql, 4, types, values, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		char	   *literal = uds_spi_text(i, 2);
		char	   *fallback = uds_spi_text(i, 3);
		char	   *value;

		name = uds_spi_text(i, 1);
		if (fallback != NULL && uds_spi_text(i, 6)[0] == 't')
			appendStringInfo(&lists->domains, "jsonb_build_object(%s, %s) || ",
							 literal, fallback);
		value = psprintf("(n.p).%s", name);
		if (uds_spi_text(i, 4)[0] == 't')
			value = psprintf("CASE WHEN %s = '' AND n.merged ? %s THEN NULL ELSE %s END",
							 value, literal, value);
		if (uds_spi_text(i, 5)[0] == 't')
			value = psprintf("coalesce(%s, n.uid)", value);
		add_column(lists, name, literal, value,
				   fallback == NULL ? value :
				   psprintf("CASE WHEN n.merged ? %s THEN %s ELSE %s END",
							literal, value, fallback),
				   fallback != NULL, uds_spi_text(i, 7)[0] == 't',
				   uds_spi_text(i, 8)[0] == 't');
	}

	add_column(lists, "enabled", "'enabled'", uds_columns_enabled(resource),
			   "NOT n.is_disabled", false, false, false);
	name = psprintf("CASE WHEN n.reference_known THEN n.reference ELSE (n.old).%s END",
					resource->reference);
	add_column(lists, resource->reference, quote_literal_cstr(resource->reference),
			   name, NULL, false, false, false);
}

/* What was read of each table, until it or a type changes. */
typedef struct Cached
{
	Oid			table;			/* InvalidOid: read it again */
	MemoryContext context;
	UdsColumns *columns;
} Cached;

static Cached cached[2];

static void
forget_table(Datum arg, Oid table)
{
	for (int i = 0; i < lengthof(cached); i++)
		if (table == InvalidOid || table == cached[i].table)
			cached[i].table = InvalidOid;
}

static void
forget_all(Datum arg, int cacheid, uint32 hash)
{
	forget_table(arg, InvalidOid);
}

/*
 * Returns the columns that the table of a resource has now, those of the user
 * included.  They are good until the next call for the same resource.
 */
const UdsColumns *
uds_columns_list(const UdsResource *resource)
{
	static bool registered = false;
	Cached	   *place = &cached[resource == &uds_users ? 0 : 1];
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext fresh;
	UdsColumns *columns;
	Oid			table;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget_table, (Datum) 0);
		CacheRegisterSyscacheCallback(TYPEOID, forget_all, (Datum) 0);
		registered = true;
	}
	if (OidIsValid(place->table))
		return place->columns;

	table = RangeVarGetRelid(makeRangeVar("uds", (char *) resource->name, -1),
							 AccessShareLock, false);
	place->table = table;
	fresh = AllocSetContextCreate(CurrentMemoryContext, "uds columns", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(fresh);
	columns = palloc0(sizeof(UdsColumns));
	read_columns(resource, columns);
	MemoryContextSwitchTo(caller);

	if (place->context != NULL)
		MemoryContextDelete(place->context);
	MemoryContextSetParent(fresh, TopMemoryContext);
	place->context = fresh;
	place->columns = columns;
	return columns;
}
