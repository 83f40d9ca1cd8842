/*-------------------------------------------------------------------------
 *
 * expression.h
 *		The "fields" of a manifest's stream: target -> expression.
 *
 * "absent" below means that the target is left out.
 *
 *	"$.a.b"				first item of a jsonpath; absent if there is none
 *	{"path", "when"}	the same, absent unless the predicate is true
 *	{"const"}			the value itself
 *	{"context"}			a value of the page's context
 *	{"coalesce"}		first value neither null nor ""; else the last one there
 *	{"all"}				array of all items; absent or null where the members
 *						that the path begins with are so, not where it selects
 *						nothing else
 *	{"text"}			value as text; null stays null
 *	{"template"}		absent (null) if all placeholders are absent (or null),
 *						else these are empty
 *	{"map", "values", "default"}
 *						entry of "values" for the value as text, else the
 *						default, else absent; absent and null stay so
 *	{"zip"}				array of objects from arrays, by index; as long as the
 *						longest; absent only where all are
 *	{"each", "fields"}	array of objects, one per item of a jsonpath or a zip
 *
 *	{"join", "separator"?}	the texts of an array as one; absent if empty
 *	{"json"}			JSON inside a text; absent if it is none
 *	{"date", "from"?}	a time, as ISO 8601 in UTC; absent if it is none
 *
 * All but the first may have "apply", for a text or the texts of an array.
 *
 * Runs in any process that is connected to a database; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_EXPRESSION_H
#define UDS_CONNECTOR_EXPRESSION_H

#include "connector/path.h"

typedef struct UdsFields UdsFields; /* compiled */

extern UdsFields *uds_fields_compile(JsonbValue *spec);
extern void uds_fields_map(const UdsFields *fields, UdsPathScope *scope,
						   JsonbValue *object);

#endif							/* UDS_CONNECTOR_EXPRESSION_H */
