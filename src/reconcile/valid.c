/*-------------------------------------------------------------------------
 *
 * valid.c
 *		What is wrong with a record that its target would not find out in time.
 *
 * The members that steer us are looked at before anything is done with a
 * record; what becomes a column is left to the column's type.  Runs in any
 * process that reconciles, also in those that help to map pages; takes no
 * locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "connector/value.h"
#include "uds.h"

PG_FUNCTION_INFO_V1(uds_record_error);

static const char *const truths[] = {
	"true", "false", "t", "f", "yes", "no", "y", "n", "on", "off", "1", "0"
};

/* Whether the member is a truth value, or says nothing. */
static bool
is_truth(const JsonbValue *record, const char *key)
{
	JsonbValue	member;
	StringInfoData text;

	if (!uds_value_member(record, key, strlen(key), &member) ||
		member.type == jbvNull || member.type == jbvBool)
		return true;
	initStringInfo(&text);
	uds_value_append_text(&text, &member);
	for (int i = 0; i < lengthof(truths); i++)
		if (pg_strcasecmp(text.data, truths[i]) == 0)
			return true;
	return false;
}

/* Whether a value can be a uid: text, or an integer. */
static bool
is_uid(JsonbValue *value)
{
	StringInfoData text;
	const char *digits;

	if (value->type == jbvString)
		return true;
	if (value->type != jbvNumeric)
		return false;
	initStringInfo(&text);
	uds_value_append_text(&text, value);
	digits = text.data + (text.data[0] == '-');
	return digits[strspn(digits, "0123456789")] == '\0';
}

/* Whether an entry of a list names somebody; one that is null is none. */
static bool
is_reference(JsonbValue *item, bool objects)
{
	JsonbValue	uid;

	if (item->type == jbvNull)
		return true;
	if (!objects || !uds_value_is_object(item))
		return is_uid(item);
	return uds_value_member(item, "uid", strlen("uid"), &uid) && is_uid(&uid);
}

/*
 * What is wrong with a list of uids, or of objects that have one if "objects":
 * NULL, or a message that is palloc'd.
 */
static char *
list_error(const JsonbValue *record, const char *key, bool objects)
{
	UdsValueList items = {0};
	JsonbValue	list;

	if (!uds_value_member(record, key, strlen(key), &list) || list.type == jbvNull)
		return NULL;
	if (!uds_value_is_array(&list))
		return psprintf("%s of the record is not a list", key);
	uds_value_elements(&list, &items);
	for (int i = 0; i < items.count; i++)
		if (!is_reference(&items.items[i], objects))
			return psprintf("%s of the record has an entry without a uid, number %d of the list",
							key, i + 1);
	return NULL;
}

/*
 * record_error(record jsonb, data_type text)
 *
 * Returns what is wrong with the record's isDeleted, enabled, and, depending on
 * its type, departments or owners, or NULL.
 */
Datum
uds_record_error(PG_FUNCTION_ARGS)
{
	Jsonb	   *jsonb = PG_GETARG_JSONB_P(0);
	text	   *type = PG_GETARG_TEXT_PP(1);
	static const char *const flags[] = {"isDeleted", "enabled"};
	JsonbValue	record;
	char	   *error;

	if (!JB_ROOT_IS_OBJECT(jsonb))
		PG_RETURN_NULL();
	uds_value_from_jsonb(jsonb, &record);
	for (int i = 0; i < lengthof(flags); i++)
		if (!is_truth(&record, flags[i]))
			PG_RETURN_TEXT_P(cstring_to_text(psprintf("%s of the record is neither true nor false",
													  flags[i])));
	if (VARSIZE_ANY_EXHDR(type) == strlen(UDS_TYPE_USER) &&
		memcmp(VARDATA_ANY(type), UDS_TYPE_USER, strlen(UDS_TYPE_USER)) == 0)
		error = list_error(&record, "departments", true);
	else
		error = list_error(&record, "owners", false);
	if (error == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(error));
}
