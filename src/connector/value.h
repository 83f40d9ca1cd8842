/*-------------------------------------------------------------------------
 *
 * value.h
 *		JSON values in memory, and faults of data caught without a
 *		subtransaction.
 *
 * A value is a JsonbValue.  Containers are either as stored (jbvBinary,
 * pointing into a jsonb) or in memory (jbvArray, jbvObject); all functions
 * take both.  Runs in any process that is connected to a database; takes no
 * locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_VALUE_H
#define UDS_CONNECTOR_VALUE_H

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

/* A growing array of values; starts as all zeroes. */
typedef struct UdsValueList
{
	JsonbValue *items;
	int			count;
	int			size;
} UdsValueList;

extern void uds_value_list_add(UdsValueList *list, const JsonbValue *value);

extern void uds_value_from_jsonb(Jsonb *jsonb, JsonbValue *value);
extern void uds_value_from_text(char *text, int len, JsonbValue *value);
extern void uds_value_from_list(const UdsValueList *list, JsonbValue *value);
extern Jsonb *uds_value_to_jsonb(JsonbValue *value);
extern void uds_value_unpack(JsonbValue *value);

extern bool uds_value_is_array(const JsonbValue *value);
extern bool uds_value_is_object(const JsonbValue *value);
extern bool uds_value_member(const JsonbValue *object, const char *key,
							 int len, JsonbValue *member);
extern void uds_value_elements(const JsonbValue *array, UdsValueList *list);
extern void uds_value_append_text(StringInfo out, JsonbValue *value);

extern char *uds_value_try(void (*function) (void *arg), void *arg,
						   int *sqlstate);

#endif							/* UDS_CONNECTOR_VALUE_H */
