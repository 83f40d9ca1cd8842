/*-------------------------------------------------------------------------
 *
 * manifest_events.c
 *		The part of a manifest that describes the change events of a service.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "connector/manifest.h"

static const char *const no_names[] = {NULL};

/* A template that may be absent. */
static bool
read_template(UdsManifestReader *reader, const cJSON *object, const char *path,
			  const char *word, UdsTemplate **template)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, word);

	return item == NULL ||
		uds_reader_template(reader, item, uds_reader_at(path, word), no_names, template);
}

/* "receiver": a template or a list of them. */
static bool
read_receivers(UdsManifestReader *reader, const cJSON *object, const char *path,
			   UdsEventsSpec *events)
{
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, "receiver");
	const cJSON *item = cJSON_IsArray(list) ? list->child : list;

	events->receivers = palloc0((cJSON_GetArraySize(list) + 1) * sizeof(UdsTemplate *));
	for (; item != NULL; item = cJSON_IsArray(list) ? item->next : NULL)
	{
		if (!uds_reader_template(reader, item, uds_reader_at(path, "receiver"), no_names,
								 &events->receivers[events->nreceivers]))
			return false;
		events->nreceivers++;
	}
	return true;
}

static bool
read_change(UdsManifestReader *reader, const cJSON *object, const char *path,
			UdsChangeSpec *change)
{
	static const char *const words[] = {
		"types", "user", "department", "renamed", "when", NULL
	};
	bool		is_user = cJSON_GetObjectItemCaseSensitive(object, "user") != NULL;

	if (!uds_reader_object(reader, object, path, words) ||
		!uds_reader_when(reader, object, path, &change->when) ||
		!uds_reader_texts(reader, object, path, "types", &change->types) ||
		!uds_reader_texts(reader, object, path, is_user ? "user" : "department", &change->ids) ||
		!uds_reader_text(reader, object, path, "renamed", false, &change->renamed))
		return false;
	if (change->types.count == 0)
		return uds_reader_fail(reader, path, "missing \"types\"");
	if (change->ids.count == 0 ||
		(is_user && cJSON_GetObjectItemCaseSensitive(object, "department") != NULL))
		return uds_reader_fail(reader, path, "needs either \"user\" or \"department\"");
	change->data_type = pstrdup(is_user ? "user" : "department");
	return true;
}

static bool
read_changes(UdsManifestReader *reader, const cJSON *object, const char *path,
			 UdsEventsSpec *events)
{
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, "changes");
	const char *here = uds_reader_at(path, "changes");
	const cJSON *item;

	if (!cJSON_IsArray(list) || list->child == NULL)
		return uds_reader_fail(reader, here, "must be a non-empty array");
	events->changes = palloc0(cJSON_GetArraySize(list) * sizeof(UdsChangeSpec));
	cJSON_ArrayForEach(item, list)
	{
		if (!read_change(reader, item, psprintf("%s[%d]", here, events->nchanges),
						 &events->changes[events->nchanges]))
			return false;
		events->nchanges++;
	}
	return true;
}

/* Reads "events" of a manifest, which may be absent. */
bool
uds_manifest_read_events(UdsManifestReader *reader, const cJSON *root)
{
	static const char *const words[] = {
		"scheme", "token", "key", "receiver", "type", "id", "changes", "resync", NULL
	};
	static const char *const schemes[] = {"wecom", "dingtalk", "feishu", NULL};
	const cJSON *object = cJSON_GetObjectItemCaseSensitive(root, "events");
	const char *path = "$.events";
	UdsEventsSpec *events;

	if (object == NULL)
		return true;
	events = reader->manifest->events = palloc0(sizeof(UdsEventsSpec));
	if (!uds_reader_object(reader, object, path, words) ||
		!uds_reader_text(reader, object, path, "scheme", true, &events->scheme) ||
		!read_template(reader, object, path, "token", &events->token) ||
		!read_template(reader, object, path, "key", &events->key) ||
		!read_receivers(reader, object, path, events) ||
		!uds_reader_texts(reader, object, path, "type", &events->type) ||
		!uds_reader_texts(reader, object, path, "id", &events->id) ||
		!read_changes(reader, object, path, events) ||
		!uds_reader_texts(reader, object, path, "resync", &events->resync))
		return false;
	if (!uds_reader_is_one_of(events->scheme, schemes))
		return uds_reader_fail(reader, uds_reader_at(path, "scheme"),
							   "must be \"wecom\", \"dingtalk\" or \"feishu\"");
	if (events->type.count == 0 || events->id.count == 0)
		return uds_reader_fail(reader, path, "needs \"type\" and \"id\"");
	return true;
}
