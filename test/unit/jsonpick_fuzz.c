/*-------------------------------------------------------------------------
 *
 * jsonpick_fuzz.c
 *		libFuzzer target over what is done to a page before it is mapped.
 *
 * The input is a path, a zero byte, and a page.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/jsonpick.c src/connector/jsoncheck.c */
#include "arena.h"

#include "connector/jsoncheck.h"
#include "connector/jsonpick.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *path = pnstrdup((const char *) data, size);
	size_t		used = Min(strlen(path) + 1, size);
	size_t		len = size - used;
	char	   *page = palloc(len + 1);
	const char *mended;
	const char *broken;
	cJSON	   *root;

	memcpy(page, data + used, len);
	page[len] = '\0';
	mended = uds_json_mend(page, len);
	if (mended[len] != '\0')
		abort();
	if (uds_json_mend(mended, len) != mended)
		abort();
	if (uds_json_refuse(page, len, &broken) == NULL)
	{
		root = cJSON_ParseWithLength(mended, len);
		if (root != NULL && uds_json_path_valid(path))
		{
			const cJSON *item = uds_json_pick(root, path);

			if (item != NULL)
				uds_json_text(item);
		}
		cJSON_Delete(root);
	}
	arena_reset();
	return 0;
}
