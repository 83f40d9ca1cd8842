/*-------------------------------------------------------------------------
 *
 * listed.c
 *		The departments that a user's record lists.
 *
 * An entry is a uid or an object with one, and with flags.  A department that
 * is named again is the same one, with the flags of all its entries.  Runs in
 * any process that reconciles; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/jsonb.h"

#include "connector/value.h"

PG_FUNCTION_INFO_V1(uds_listed);
PG_FUNCTION_INFO_V1(uds_main_stands);

typedef struct Entry
{
	char	   *uid;			/* NULL where the entry is no reference */
	int			len;			/* of it, in bytes */
	int64		ord;			/* place in the list, from 1 */
	int64		main_ord;		/* the place where it is called main, or 0 */
	bool		is_owner;
} Entry;

static bool
is_true(const JsonbValue *object, const char *key)
{
	JsonbValue	member;

	return uds_value_member(object, key, strlen(key), &member) &&
		member.type == jbvBool && member.val.boolean;
}

/* Reads what one element of the list says. */
static void
read_entry(JsonbValue *item, int64 ord, bool fold, Entry *entry)
{
	JsonbValue	uid = *item;
	StringInfoData text;

	memset(entry, 0, sizeof(Entry));
	entry->ord = ord;
	if (uds_value_is_object(item))
	{
		entry->is_owner = is_true(item, "isOwner");
		entry->main_ord = is_true(item, "isMain") ? ord : 0;
		if (!uds_value_member(item, "uid", strlen("uid"), &uid))
			return;
	}
	if (uid.type == jbvNull)
		return;
	initStringInfo(&text);
	uds_value_append_text(&text, &uid);
	entry->uid = fold ? str_tolower(text.data, text.len, DEFAULT_COLLATION_OID) : text.data;
	entry->len = strlen(entry->uid);
}

/* Entries of one department are neighbours then, the first of them in front. */
static int
compare_entries(const void *a, const void *b)
{
	const Entry *left = a;
	const Entry *right = b;
	int			order;

	if (left->uid == NULL || right->uid == NULL)
		order = (left->uid == NULL) - (right->uid == NULL);
	else if ((order = left->len - right->len) == 0)
		order = memcmp(left->uid, right->uid, left->len);
	if (order != 0)
		return order;
	return left->ord < right->ord ? -1 : left->ord > right->ord;
}

static void
put_entry(ReturnSetInfo *result, const Entry *entry, bool is_choice)
{
	Datum		values[5];
	bool		nulls[5] = {entry->uid == NULL, false, entry->main_ord == 0, false, false};

	values[0] = entry->uid == NULL ? (Datum) 0 :
		PointerGetDatum(cstring_to_text_with_len(entry->uid, entry->len));
	values[1] = Int64GetDatum(entry->ord);
	values[2] = Int64GetDatum(entry->main_ord);
	values[3] = BoolGetDatum(entry->is_owner);
	values[4] = BoolGetDatum(is_choice);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * Makes one of entries that name the same department, in place; returns how
 * many are left.
 */
static int
merge_entries(Entry *entries, int count)
{
	int			n = 0;

	qsort(entries, count, sizeof(Entry), compare_entries);
	for (int i = 0; i < count; i++)
	{
		Entry	   *entry = &entries[i];
		Entry	   *last = n > 0 ? &entries[n - 1] : NULL;

		if (last != NULL && last->uid != NULL && entry->uid != NULL &&
			last->len == entry->len && memcmp(last->uid, entry->uid, entry->len) == 0)
		{
			last->is_owner |= entry->is_owner;
			if (last->main_ord == 0)
				last->main_ord = entry->main_ord;
		}
		else
			entries[n++] = *entry;
	}
	return n;
}

/* The first that is called main, else the first of all; there is one. */
static const Entry *
choose_main(const Entry *entries, int count)
{
	const Entry *main = NULL;
	const Entry *first = entries;

	for (const Entry *entry = entries; entry < entries + count; entry++)
	{
		if (entry->main_ord > 0 && (main == NULL || entry->main_ord < main->main_ord))
			main = entry;
		if (entry->ord < first->ord)
			first = entry;
	}
	return main != NULL ? main : first;
}

/*
 * listed(list jsonb, fold boolean)
 *
 * Returns a row for each department in a list: its uid, in lower case if
 * "fold", the first place, the first place where it is called main, whether
 * the user leads it, and whether it is the one to be main if all are there.
 * No rows for what is not a list.
 */
Datum
uds_listed(PG_FUNCTION_ARGS)
{
	Jsonb	   *list = PG_GETARG_JSONB_P(0);
	bool		fold = PG_GETARG_BOOL(1);
	UdsValueList items = {0};
	JsonbValue	root;
	Entry	   *entries;
	const Entry *choice;
	int			n;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (!JB_ROOT_IS_ARRAY(list) || JB_ROOT_IS_SCALAR(list) || JB_ROOT_COUNT(list) == 0)
		return (Datum) 0;

	uds_value_from_jsonb(list, &root);
	uds_value_elements(&root, &items);
	entries = palloc_array(Entry, items.count);
	for (int i = 0; i < items.count; i++)
		read_entry(&items.items[i], i + 1, fold, &entries[i]);
	n = merge_entries(entries, items.count);
	choice = choose_main(entries, n);
	for (int i = 0; i < n; i++)
		put_entry((ReturnSetInfo *) fcinfo->resultinfo, &entries[i], &entries[i] == choice);
	return (Datum) 0;
}

/*
 * main_stands(list jsonb, main text, fold boolean)
 *
 * Returns whether a list leaves the department with the uid "main" the main one,
 * or NULL, none: it is the first that the list calls so, or one of a list that
 * calls none so.
 */
Datum
uds_main_stands(PG_FUNCTION_ARGS)
{
	UdsValueList items = {0};
	JsonbValue	root;
	char	   *main = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	bool		fold = PG_GETARG_BOOL(2);
	bool		listed = main == NULL;

	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(main == NULL);
	uds_value_from_jsonb(PG_GETARG_JSONB_P(0), &root);
	if (!uds_value_is_array(&root))
		PG_RETURN_BOOL(main == NULL);
	uds_value_elements(&root, &items);
	for (int i = 0; i < items.count; i++)
	{
		Entry		entry;
		bool		is_main;

		read_entry(&items.items[i], i + 1, fold, &entry);
		if (entry.uid == NULL)
			continue;
		is_main = main != NULL && strcmp(entry.uid, main) == 0;
		if (entry.main_ord > 0)
			PG_RETURN_BOOL(is_main);
		if (main == NULL)
			listed = false;
		listed |= is_main;
	}
	PG_RETURN_BOOL(listed);
}
