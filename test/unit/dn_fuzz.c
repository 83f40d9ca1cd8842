/*-------------------------------------------------------------------------
 *
 * dn_fuzz.c
 *		libFuzzer target over distinguished names.
 *
 * A normal form is a name, and its own normal form; a comma in it parts.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/fetch/dn.c */
#include "arena.h"

#include "mb/pg_wchar.h"

#include "fetch/dn.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One that holds bytes as they are is marked, and not a name to be read. */
static bool
is_readable(const char *normal)
{
	return strstr(normal, "=\\") == NULL;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *normal = uds_dn_normalize((const char *) data, size);

	if (normal != NULL && is_readable(normal))
	{
		char	   *again = uds_dn_normalize(normal, strlen(normal));

		if (pg_encoding_verifymbstr(PG_UTF8, normal, (int) strlen(normal)) != (int) strlen(normal))
			abort();
		/* what a value begins with may be a sign of its own: "#", a quote */
		if (again != NULL && strpbrk(normal, "#\"<>;\\") == NULL && strcmp(again, normal) != 0)
			abort();
	}
	/* in two pieces it is the same name */
	if (normal != NULL && uds_dn_first((const char *) data, size) >= 0)
	{
		int			first = uds_dn_first((const char *) data, size);
		char	   *rdn = uds_dn_normalize((const char *) data, first);
		char	   *above = uds_dn_normalize((const char *) data + first + 1, size - first - 1);

		if (rdn == NULL || above == NULL || strcmp(psprintf("%s,%s", rdn, above), normal) != 0)
			abort();
	}
	for (const char *above = normal; above != NULL; above = uds_dn_parent(above))
	{
		if (!uds_dn_below(normal, above))
			abort();
	}
	if (normal != NULL)
		(void) uds_dn_in_rdn(normal, "cn", (const char *) data, size);
	arena_reset();
	return 0;
}
