/*-------------------------------------------------------------------------
 *
 * jsoncheck_fuzz.c
 *		libFuzzer target: what is taken for JSON is what PostgreSQL takes.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/jsoncheck.c src/connector/jsonpick.c */
#include "arena.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

#include "compat.h"
#include "connector/jsoncheck.h"
#include "connector/jsonpick.h"

/* what cJSON takes for a number has at most 63 characters */
#define LONG_NUMBER 60

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool
has_long_number(const char *text, size_t len)
{
	size_t		run = 0;

	for (size_t i = 0; i < len; i++)
	{
		run = strchr("0123456789+-.eE", text[i]) != NULL ? run + 1 : 0;
		if (run > LONG_NUMBER)
			return true;
	}
	return false;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *text = palloc(size + 1);
	const char *broken;
	bool		taken;
	bool		valid;
	cJSON	   *root;

	memcpy(text, data, size);
	text[size] = '\0';
	if (uds_json_refuse(text, size, &broken) == NULL)
	{
		root = cJSON_ParseWithLength(uds_json_mend(text, size), size);
		taken = broken == NULL && root != NULL;
		cJSON_Delete(root);
		valid = memchr(text, '\0', size) == NULL &&
			pg_encoding_verifymbstr(PG_UTF8, text, size) == size &&
			pg_parse_json(uds_json_lexer(text, size), &nullSemAction) == JSON_SUCCESS;
		if (taken && !valid)
			abort();
		if (valid && !taken && !has_long_number(text, size))
			abort();
	}
	arena_reset();
	return 0;
}
