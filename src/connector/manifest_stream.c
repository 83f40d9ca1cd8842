/*-------------------------------------------------------------------------
 *
 * manifest_stream.c
 *		The parts of a manifest that describe its streams.
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

#include "connector/jsonpick.h"
#include "connector/manifest.h"

/* placeholders of a stream's request: those of pages, the value, and the end */
#define MAX_NAMES 6

static const struct
{
	const char *word;
	UdsPaginationKind kind;
	const char *placeholder;	/* or NULL */
}			pagination_types[] = {
	{"cursor", UDS_PAGES_CURSOR, "cursor"},
	{"next_link", UDS_PAGES_NEXT_LINK, NULL},
	{"link_header", UDS_PAGES_LINK_HEADER, NULL},
	{"page", UDS_PAGES_PAGE, "page"},
	{"offset", UDS_PAGES_OFFSET, "offset"},
};

static const char *const formats[] = {"iso", "iso_ms", "epoch", "epoch_ms", NULL};

static bool
read_feed(UdsManifestReader *reader, const cJSON *object, const char *path,
		  UdsStreamSpec *stream)
{
	static const char *const types[] = {"user", "department", NULL};
	UdsFeedSpec *feed = &stream->feeds[stream->nfeeds++];

	if (!uds_reader_text(reader, object, path, "event", false, &feed->event))
		return false;
	if (feed->event != NULL)
		return (uds_reader_is_one_of(feed->event, types) &&
				cJSON_GetObjectItemCaseSensitive(object, "stream") == NULL) ||
			uds_reader_fail(reader, uds_reader_at(path, "event"),
							"must be \"user\" or \"department\", without \"stream\"");
	return uds_reader_text(reader, object, path, "stream", true, &feed->stream) &&
		uds_reader_text(reader, object, path, "value", true, &feed->value);
}

/* "from" of a for_each: an object or a list of them. */
static bool
read_from(UdsManifestReader *reader, const cJSON *from, const char *path,
		  UdsStreamSpec *stream)
{
	static const char *const words[] = {"stream", "value", "event", NULL};
	const cJSON *item = cJSON_IsArray(from) ? from->child : from;

	stream->feeds = palloc0((cJSON_GetArraySize(from) + 1) * sizeof(UdsFeedSpec));
	for (; item != NULL; item = cJSON_IsArray(from) ? item->next : NULL)
	{
		if (!uds_reader_object(reader, item, path, words) ||
			!read_feed(reader, item, path, stream))
			return false;
	}
	return true;
}

/* "values" of a for_each: templates. */
static bool
read_values(UdsManifestReader *reader, const cJSON *object, const char *path,
			UdsStreamSpec *stream)
{
	static const char *const none[] = {NULL};
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, "values");
	const char *here = uds_reader_at(path, "values");
	const cJSON *item;

	if (list == NULL)
		return true;
	if (!cJSON_IsArray(list))
		return uds_reader_fail(reader, here, "must be an array");
	stream->values = palloc0((cJSON_GetArraySize(list) + 1) * sizeof(UdsTemplate *));
	cJSON_ArrayForEach(item, list)
	{
		if (!uds_reader_template(reader, item,
								 psprintf("%s[%d]", here, stream->nvalues), none,
								 &stream->values[stream->nvalues]))
			return false;
		stream->nvalues++;
	}
	return true;
}

static bool
read_for_each(UdsManifestReader *reader, const cJSON *object, const char *path,
			  UdsStreamSpec *stream)
{
	static const char *const words[] = {"as", "values", "from", "stream", "value", "event", NULL};
	static const char *const taken[] = {
		"cursor", "page", "offset", "size", "token", "jwt", NULL
	};
	const cJSON *for_each = cJSON_GetObjectItemCaseSensitive(object, "for_each");
	const cJSON *from = cJSON_GetObjectItemCaseSensitive(for_each, "from");
	const char *here = uds_reader_at(path, "for_each");

	if (for_each == NULL)
		return true;
	if (!uds_reader_object(reader, for_each, here, words) ||
		!uds_reader_text(reader, for_each, here, "as", true, &stream->as) ||
		!read_values(reader, for_each, here, stream))
		return false;
	if (!uds_reader_is_name(stream->as) || uds_reader_is_one_of(stream->as, taken))
		return uds_reader_fail(reader, uds_reader_at(here, "as"),
							   psprintf("\"%.100s\" cannot be used as a name",
										stream->as));
	if (from != NULL)
		return read_from(reader, from, uds_reader_at(here, "from"), stream);
	if (stream->nvalues > 0 &&
		cJSON_GetObjectItemCaseSensitive(for_each, "stream") == NULL &&
		cJSON_GetObjectItemCaseSensitive(for_each, "event") == NULL)
		return true;
	stream->feeds = palloc0(sizeof(UdsFeedSpec));
	return read_feed(reader, for_each, here, stream);
}

/* "first": a number to count from, or what a cursor begins with. */
static bool
read_first(UdsManifestReader *reader, const cJSON *object, const char *path,
		   UdsPaginationSpec *pages)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, "first");

	if (pages->kind != UDS_PAGES_CURSOR)
		return uds_reader_int(reader, object, path, "first", 0, 1, &pages->first);
	if (item == NULL)
		return true;
	if (cJSON_IsString(item) || cJSON_IsNumber(item))
		pages->first_cursor = uds_json_text(item);
	return pages->first_cursor != NULL ||
		uds_reader_fail(reader, uds_reader_at(path, "first"), "must be a text or a number");
}

/* The words of one way of paging. */
static bool
read_pages(UdsManifestReader *reader, const cJSON *object, const char *path,
		   const char *as, UdsPaginationSpec *pages)
{
	static const char *const cursor_words[] = {"type", "first", "next", "more", NULL};
	static const char *const link_words[] = {"type", "next", "more", NULL};
	static const char *const count_words[] = {
		"type", "first", "size", "step", "count", "total", "at_least", "until", NULL
	};
	const char *const *words = link_words;
	bool		counts;
	char	   *type;
	char	   *until;
	char	   *step;
	char	   *at_least;
	int			i;

	if (!cJSON_IsObject(object))
		return uds_reader_fail(reader, path, "must be an object");
	if (!uds_reader_text(reader, object, path, "type", true, &type))
		return false;
	for (i = 0; i < (int) lengthof(pagination_types); i++)
	{
		if (strcmp(pagination_types[i].word, type) == 0)
			break;
	}
	if (i == (int) lengthof(pagination_types))
		return uds_reader_fail(reader, uds_reader_at(path, "type"),
							   "must be cursor, next_link, link_header, page or offset");
	pages->kind = pagination_types[i].kind;
	counts = pages->kind == UDS_PAGES_PAGE || pages->kind == UDS_PAGES_OFFSET;
	pages->first = pages->kind == UDS_PAGES_PAGE ? 1 : 0;
	if (counts)
		words = count_words;
	else if (pages->kind == UDS_PAGES_CURSOR)
		words = cursor_words;
	if (!uds_reader_object(reader, object, path, words) ||
		!uds_reader_path(reader, object, path, "next",
						 !counts && pages->kind != UDS_PAGES_LINK_HEADER, &pages->next) ||
		!uds_reader_path(reader, object, path, "more", false, &pages->more) ||
		!read_first(reader, object, path, pages) ||
		!uds_reader_int(reader, object, path, "size", 1, 100000, &pages->size) ||
		!uds_reader_path(reader, object, path, "count", false, &pages->count) ||
		!uds_reader_path(reader, object, path, "total", false, &pages->total) ||
		!uds_reader_text(reader, object, path, "step", false, &step) ||
		!uds_reader_text(reader, object, path, "at_least", false, &at_least) ||
		!uds_reader_text(reader, object, path, "until", false, &until))
		return false;
	if (step != NULL && (strcmp(step, "size") != 0 || pages->size == 0 ||
						 pages->kind != UDS_PAGES_OFFSET))
		return uds_reader_fail(reader, uds_reader_at(path, "step"),
							   "must be \"size\", of an offset with \"size\"");
	if (at_least != NULL &&
		(as == NULL || strcmp(at_least, psprintf("{%s}", as)) != 0))
		return uds_reader_fail(reader, uds_reader_at(path, "at_least"),
							   "must be the placeholder of \"for_each\"");
	pages->by_size = step != NULL;
	pages->at_least = at_least != NULL;
	if (until != NULL && strcmp(until, "empty") != 0 && strcmp(until, "short") != 0)
		return uds_reader_fail(reader, uds_reader_at(path, "until"),
							   "must be \"empty\" or \"short\"");
	pages->until_empty = pages->size == 0 || (until != NULL && strcmp(until, "empty") == 0);
	return true;
}

/* "pagination": one way, or a list of ways. */
static bool
read_pagination(UdsManifestReader *reader, const cJSON *object,
				const char *path, UdsStreamSpec *stream)
{
	const cJSON *pagination = cJSON_GetObjectItemCaseSensitive(object, "pagination");
	const char *here = uds_reader_at(path, "pagination");
	const cJSON *item = cJSON_IsArray(pagination) ? pagination->child : pagination;

	if (pagination == NULL)
		return true;
	stream->paginations = palloc0((cJSON_GetArraySize(pagination) + 1) *
								  sizeof(UdsPaginationSpec));
	for (; item != NULL; item = cJSON_IsArray(pagination) ? item->next : NULL)
	{
		if (!read_pages(reader, item,
						cJSON_IsArray(pagination) ?
						psprintf("%s[%d]", here, stream->npaginations) : here,
						stream->as, &stream->paginations[stream->npaginations]))
			return false;
		stream->npaginations++;
	}
	return true;
}

/* One thing to be noted for an incremental plan. */
static bool
read_note(UdsManifestReader *reader, const cJSON *object, const char *path,
		  UdsNoteSpec *note)
{
	static const char *const words[] = {"date", "overlap", "last", "max", NULL};
	char	   *max;

	note->name = pstrdup(object->string);
	if (!uds_reader_object(reader, object, path, words) ||
		!uds_reader_text(reader, object, path, "date", false, &note->format) ||
		!uds_reader_int(reader, object, path, "overlap", 0, 7 * 86400, &note->overlap) ||
		!uds_reader_path(reader, object, path, "last", false, &note->path) ||
		!uds_reader_text(reader, object, path, "max", false, &max))
		return false;
	if ((note->format != NULL) + (note->path != NULL) + (max != NULL) != 1)
		return uds_reader_fail(reader, path, "needs one of \"date\", \"last\" and \"max\"");
	if (note->format != NULL && !uds_reader_is_one_of(note->format, formats))
		return uds_reader_fail(reader, uds_reader_at(path, "date"),
							   "must be iso, iso_ms, epoch or epoch_ms");
	note->kind = note->format != NULL ? UDS_NOTE_DATE :
		max != NULL ? UDS_NOTE_MAX : UDS_NOTE_LAST;
	if (max != NULL)
		note->path = max;
	return true;
}

static bool
read_notes(UdsManifestReader *reader, const cJSON *object, const char *path,
		   UdsStreamSpec *stream)
{
	const cJSON *state = cJSON_GetObjectItemCaseSensitive(object, "state");
	const char *here = uds_reader_at(path, "state");
	const cJSON *item;

	if (state == NULL)
		return true;
	stream->notes = palloc0((cJSON_GetArraySize(state) + 1) * sizeof(UdsNoteSpec));
	cJSON_ArrayForEach(item, state)
	{
		if (!read_note(reader, item, uds_reader_at(here, item->string),
					   &stream->notes[stream->nnotes]))
			return false;
		stream->nnotes++;
	}
	return true;
}

/*
 * The name of the for_each value that pages of a stream were asked for, also
 * where they are those of another stream; NULL if there is none.
 */
static const char *
value_name(const UdsManifestReader *reader, const UdsStreamSpec *stream)
{
	const cJSON *other = stream->pages_of ?
		cJSON_GetObjectItemCaseSensitive(reader->streams, stream->pages_of) : NULL;
	const cJSON *for_each = cJSON_GetObjectItemCaseSensitive(other, "for_each");
	const cJSON *as = cJSON_GetObjectItemCaseSensitive(for_each, "as");

	return other ? (cJSON_IsString(as) ? as->valuestring : NULL) : stream->as;
}

/* What a stream of records has, and one that only feeds others has not. */
static bool
read_records(UdsManifestReader *reader, const cJSON *object, const char *path,
			 UdsStreamSpec *stream)
{
	static const char *const types[] = {"user", "department", "member", NULL};
	static const char *const only_with_type[] = {
		"records", "fields", "unnest", "where", "merge", "partial", NULL
	};
	const cJSON *fields = cJSON_GetObjectItemCaseSensitive(object, "fields");
	const char *here = uds_reader_at(path, "fields");
	bool		is_member;
	bool		flag;
	char	   *text;
	int			i;

	for (i = 0; stream->type == NULL && only_with_type[i] != NULL; i++)
	{
		if (cJSON_GetObjectItemCaseSensitive(object, only_with_type[i]) != NULL)
			return uds_reader_fail(reader, path, "missing \"type\"");
	}
	if (stream->type == NULL)
		return true;
	if (!uds_reader_is_one_of(stream->type, types))
		return uds_reader_fail(reader, uds_reader_at(path, "type"),
							   "must be \"user\", \"department\" or \"member\"");
	if (!uds_reader_text(reader, object, path, "records", true, &stream->records) ||
		!uds_reader_text(reader, object, path, "unnest", false, &text) ||
		!uds_reader_text(reader, object, path, "where", false, &text) ||
		!uds_reader_bool(reader, object, path, "merge", &flag) ||
		!uds_reader_bool(reader, object, path, "partial", &flag))
		return false;
	if (fields == NULL)
		return uds_reader_fail(reader, path, "missing \"fields\"");
	if (!uds_manifest_check_fields(reader, fields, here, value_name(reader, stream)))
		return false;
	is_member = strcmp(stream->type, "member") == 0;
	if (cJSON_GetObjectItemCaseSensitive(fields, "uid") == NULL)
		return uds_reader_fail(reader, here, "missing \"uid\"");
	if (is_member && cJSON_GetObjectItemCaseSensitive(fields, "department") == NULL)
		return uds_reader_fail(reader, here, "missing \"department\"");
	if (is_member && (cJSON_GetObjectItemCaseSensitive(object, "merge") != NULL ||
					  cJSON_GetObjectItemCaseSensitive(object, "partial") != NULL))
		return uds_reader_fail(reader, path, "a stream of members is neither \"merge\" nor \"partial\"");
	return true;
}

/* Refuses words that only a stream with requests can have. */
static bool
read_no_request(UdsManifestReader *reader, const cJSON *object, const char *path,
				const char *instead)
{
	static const char *const words[] = {
		"request", "for_each", "pagination", "expect", "state", NULL
	};

	for (int i = 0; words[i] != NULL; i++)
	{
		if (cJSON_GetObjectItemCaseSensitive(object, words[i]) != NULL)
			return uds_reader_fail(reader, path,
								   psprintf("\"%s\" does not go with \"%s\"",
											instead, words[i]));
	}
	return true;
}

/* A stream that is read by code of its own. */
static bool
read_native(UdsManifestReader *reader, const cJSON *object, const char *path,
			UdsStreamSpec *stream)
{
	static const char *const words[] = {"pages_of", "synthesize", NULL};

	for (int i = 0; words[i] != NULL; i++)
	{
		if (cJSON_GetObjectItemCaseSensitive(object, words[i]) != NULL)
			return uds_reader_fail(reader, path,
								   psprintf("\"native\" does not go with \"%s\"", words[i]));
	}
	return read_no_request(reader, object, path, "native") &&
		uds_reader_texts(reader, object, path, "attributes", &stream->attributes);
}

/*
 * The request of a stream, or "pages_of" instead, or nothing but a page that is
 * made up.
 */
static bool
read_request(UdsManifestReader *reader, const cJSON *object, const char *path,
			 UdsStreamSpec *stream)
{
	static const char *const none[] = {NULL};
	const char *names[MAX_NAMES] = {NULL};
	const char *value[] = {stream->as, NULL};
	const cJSON *request = cJSON_GetObjectItemCaseSensitive(object, "request");
	int			n = 0;
	int			i;

	if (reader->manifest->native != NULL)
		return read_native(reader, object, path, stream);
	if (cJSON_GetObjectItemCaseSensitive(object, "attributes") != NULL)
		return uds_reader_fail(reader, path, "\"attributes\" goes with \"native\" only");
	if (!uds_manifest_read_json(reader, object, path, "synthesize", none,
								&stream->synthesize) ||
		!uds_manifest_read_json(reader, object, path, "gone", value, &stream->gone))
		return false;
	if (stream->gone != NULL && stream->as == NULL)
		return uds_reader_fail(reader, path, "\"gone\" goes with \"for_each\" only");
	if (stream->pages_of != NULL && stream->synthesize != NULL)
		return uds_reader_fail(reader, path, "\"pages_of\" does not go with \"synthesize\"");
	if (stream->pages_of != NULL)
		return read_no_request(reader, object, path, "pages_of");
	if (request == NULL && stream->synthesize != NULL)
		return read_no_request(reader, object, path, "synthesize");
	if (request == NULL)
		return uds_reader_fail(reader, path, "missing \"request\"");
	stream->has_request = true;
	for (i = 0; i < stream->npaginations && n < MAX_NAMES - 3; i++)
	{
		const char *name = pagination_types[stream->paginations[i].kind].placeholder;

		if (name != NULL)
			names[n++] = name;
		if (name != NULL && stream->paginations[i].size > 0)
			names[n++] = "size";
	}
	if (stream->as != NULL)
		names[n++] = stream->as;
	return uds_manifest_read_request(reader, request,
									 uds_reader_at(path, "request"), names,
									 &stream->request) &&
		uds_reader_path(reader, object, path, "expect", false, &stream->expect);
}

static bool
read_stream(UdsManifestReader *reader, const cJSON *object, const char *path,
			UdsStreamSpec *stream)
{
	static const char *const words[] = {
		"type", "when", "for_each", "request", "pages_of", "pagination",
		"records", "unnest", "where", "expect", "merge", "partial", "fields",
		"synthesize", "state", "gone", "attributes", NULL
	};

	stream->name = pstrdup(object->string);
	if (!uds_reader_is_name(stream->name) ||
		strcmp(stream->name, UDS_STREAM_AUTH) == 0)
		return uds_reader_fail(reader, path, "cannot be used as a name");
	return uds_reader_object(reader, object, path, words) &&
		uds_reader_text(reader, object, path, "type", false, &stream->type) &&
		uds_reader_text(reader, object, path, "pages_of", false, &stream->pages_of) &&
		uds_reader_when(reader, object, path, &stream->when) &&
		read_for_each(reader, object, path, stream) &&
		read_pagination(reader, object, path, stream) &&
		read_request(reader, object, path, stream) &&
		read_notes(reader, object, path, stream) &&
		read_records(reader, object, path, stream);
}

/* Collects what streams note, so that the requests of all can ask for it. */
static bool
collect_notes(UdsManifestReader *reader, const cJSON *streams)
{
	UdsTexts   *notes = &reader->notes;
	const cJSON *stream;
	const cJSON *note;
	int			count = 0;

	cJSON_ArrayForEach(stream, streams)
		count += cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(stream, "state"));
	notes->items = palloc0((count + 1) * sizeof(char *));
	cJSON_ArrayForEach(stream, streams)
	{
		const cJSON *state = cJSON_GetObjectItemCaseSensitive(stream, "state");
		const char *path = psprintf("$.streams.%.100s.state", stream->string);

		if (state != NULL && !cJSON_IsObject(state))
			return uds_reader_fail(reader, path, "must be an object");
		cJSON_ArrayForEach(note, state)
		{
			if (!uds_reader_is_name(note->string))
				return uds_reader_fail(reader, path,
									   psprintf("\"%.100s\" cannot be used as a name",
												note->string));
			notes->items[notes->count++] = pstrdup(note->string);
		}
	}
	return true;
}

/* Reads "streams" of a manifest. */
bool
uds_manifest_read_streams(UdsManifestReader *reader, const cJSON *root)
{
	UdsManifest *manifest = reader->manifest;
	const cJSON *streams = cJSON_GetObjectItemCaseSensitive(root, "streams");
	const cJSON *item;

	if (streams == NULL)
		return uds_reader_fail(reader, "$", "missing \"streams\"");
	if (!cJSON_IsObject(streams) || streams->child == NULL)
		return uds_reader_fail(reader, "$.streams", "must be a non-empty object");
	reader->streams = streams;
	if (!collect_notes(reader, streams))
		return false;
	manifest->streams = palloc0(cJSON_GetArraySize(streams) * sizeof(UdsStreamSpec));
	cJSON_ArrayForEach(item, streams)
	{
		if (!read_stream(reader, item, uds_reader_at("$.streams", item->string),
						 &manifest->streams[manifest->nstreams]))
			return false;
		manifest->nstreams++;
	}
	return true;
}
