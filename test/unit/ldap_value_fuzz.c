/*-------------------------------------------------------------------------
 *
 * ldap_value_fuzz.c
 *		libFuzzer target over values of a directory, and filters.
 *
 * Whatever the bytes are, what comes out is JSON in UTF-8; a value escaped for
 * a filter makes a filter.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/fetch/ldap_value.c src/connector/datetime.c */
#include "arena.h"

#include <cJSON.h>

#include "mb/pg_wchar.h"

#include "fetch/ldap_value.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_json(const char *json)
{
	cJSON	   *parsed = cJSON_Parse(json);

	if (parsed == NULL ||
		pg_encoding_verifymbstr(PG_UTF8, json, (int) strlen(json)) != (int) strlen(json))
		abort();
	cJSON_Delete(parsed);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *bytes = (const char *) data;
	char	   *text = pnstrdup(bytes, size);
	LdapAttributes attributes = {0};
	StringInfoData out;

	for (int kind = LDAP_KIND_TEXT; kind <= LDAP_KIND_ACCOUNT; kind++)
	{
		initStringInfo(&out);
		uds_ldap_append_value(&out, kind, bytes, (int) size);
		check_json(out.data);
	}
	initStringInfo(&out);
	appendStringInfoString(&out, "(cn=");
	uds_ldap_filter_escape(&out, bytes, (int) size);
	appendStringInfoChar(&out, ')');
	if (!uds_ldap_filter_valid(out.data))
		abort();
	(void) uds_ldap_filter_valid(text);
	(void) uds_ldap_range(bytes, (int) size);
	if (size < 200)
		uds_ldap_attributes_add(&attributes, text);
	arena_reset();
	return 0;
}
