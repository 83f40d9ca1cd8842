/*-------------------------------------------------------------------------
 *
 * manifest_fuzz.c
 *		libFuzzer target over the parser of manifests and of options.
 *
 * The input is a manifest; after a zero byte come options.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/manifest.c src/connector/manifest_auth.c
 * src/connector/manifest_errors.c src/connector/manifest_stream.c
 * src/connector/manifest_request.c src/connector/manifest_fields.c
 * src/connector/manifest_events.c
 * src/connector/reader.c src/connector/options.c src/connector/jsonpick.c
 * src/connector/template.c
 */
#include "arena.h"

#include "connector/jsonpick.h"
#include "connector/manifest.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every stream of every plan is there, and after what it depends on. */
static void
check_plans(const UdsManifest *manifest)
{
	int			i;
	int			j;

	for (i = 0; i < manifest->nplans; i++)
	{
		for (j = 0; j < manifest->plans[i].count; j++)
		{
			int			stream = manifest->plans[i].streams[j];

			if (stream < 0 || stream >= manifest->nstreams)
				abort();
			/* what it depends on comes before it, or is itself */
			if (manifest->streams[stream].pages_of != NULL && j == 0)
				abort();
		}
	}
}

static void
try_options(const UdsManifest *manifest, const char *options)
{
	char	   *hint = NULL;
	char	   *problem = uds_manifest_check_options(manifest, options, &hint);
	int			count;
	int			i;

	if ((problem == NULL) != (hint == NULL))
		abort();
	if (problem != NULL)
		return;
	if ((uds_manifest_check_secrets(manifest, options, &hint) == NULL) != (hint == NULL))
		abort();
	uds_manifest_option_values(manifest, options, &count);
	for (i = 0; i < manifest->noptions; i++)
	{
		if (manifest->options[i].required && manifest->options[i].default_value)
			abort();
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *json = pnstrdup((const char *) data, size);
	size_t		len = strlen(json);
	char	   *error = NULL;
	UdsManifest *manifest = uds_manifest_parse(json, &error);

	if ((manifest == NULL) != (error != NULL))
		abort();
	if (manifest != NULL)
	{
		check_plans(manifest);
		try_options(manifest, len < size ?
					pnstrdup((const char *) data + len + 1, size - len - 1) : "{}");
	}
	if (uds_json_path_valid(json))
	{
		cJSON	   *root = cJSON_Parse("{\"a\": [{\"b\": 1}], \"c\": \"x\"}");
		const cJSON *item = uds_json_pick(root, json);

		if (item != NULL)
			uds_json_text(item);
		cJSON_Delete(root);
	}
	arena_reset();
	return 0;
}
