/*-------------------------------------------------------------------------
 *
 * ldap_read.c
 *		A read of a directory: its listings, their pages, and what is known by
 *		name.
 *
 * A connection that is lost takes the place in a listing with it: the listing
 * begins again.  What was handed over of it comes twice then, which does no
 * harm.
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "connector/backoff.h"
#include "fetch/ldap_read.h"
#include "uds.h"

/* a page that is not one of the server's is cut here */
#define PAGE_RECORDS 5000
#define PAGE_BYTES (1024 * 1024)

#define MAX_DELAY 60000			/* ms */

/* a server may refer to one that refers to one */
#define MAX_REFERENCES 5

/* Two hashes stand for the text: it would take most of the memory. */
typedef struct TableKey
{
	uint64		hash[2];
} TableKey;

typedef struct TableEntry
{
	TableKey	key;
	void	   *value;
} TableEntry;

struct LdapTable
{
	HTAB	   *hash;
};

static TableKey
table_key(const char *text)
{
	TableKey	key;
	size_t		len = strlen(text);

	key.hash[0] = hash_bytes_extended((const unsigned char *) text, (int) len, UINT64CONST(0x5d1f63a7c0de9b21));
	key.hash[1] = hash_bytes_extended((const unsigned char *) text, (int) len, UINT64CONST(0x91c44e0ab7d3f586));
	return key;
}

/*
 * Makes an empty table under a context.
 */
LdapTable *
uds_ldap_table_make(MemoryContext parent)
{
	LdapTable  *table = MemoryContextAlloc(parent, sizeof(LdapTable));
	HASHCTL		control = {0};

	control.keysize = sizeof(TableKey);
	control.entrysize = sizeof(TableEntry);
	control.hcxt = parent;
	table->hash = hash_create("uds LDAP names", 1024, &control,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return table;
}

/*
 * Puts something into a table, in the place of what has the same key.
 */
void
uds_ldap_table_put(LdapTable *table, const char *key, void *value)
{
	TableKey	hashed = table_key(key);
	TableEntry *entry = hash_search(table->hash, &hashed, HASH_ENTER, NULL);

	entry->value = value;
}

/*
 * What has a key, or NULL.
 */
void *
uds_ldap_table_get(const LdapTable *table, const char *key)
{
	TableKey	hashed = table_key(key);
	TableEntry *entry = hash_search(table->hash, &hashed, HASH_FIND, NULL);

	return entry ? entry->value : NULL;
}

/*
 * Begins a read, without a connection yet; in the current memory context.
 */
LdapReader *
uds_ldap_reader_open(const char *source, const LdapSettings *settings,
					 const UdsFetchHooks *hooks, UdsFetchResult *result)
{
	LdapReader *reader = palloc0(sizeof(LdapReader));

	reader->source = source;
	reader->settings = settings;
	reader->hooks = hooks;
	reader->result = result;
	reader->begun = uds_ldap_clock();
	reader->context = CurrentMemoryContext;
	reader->scratch = AllocSetContextCreate(CurrentMemoryContext, "uds LDAP entry",
											ALLOCSET_DEFAULT_SIZES);
	reader->departments = uds_ldap_table_make(CurrentMemoryContext);
	reader->people = uds_ldap_table_make(CurrentMemoryContext);
	uds_ldap_page_begin(&reader->page, NULL);
	uds_ldap_page_begin(&reader->members, LDAP_STREAM_MEMBERS);
	reader->client = uds_ldap_open(source, settings, &result->totals);
	return reader;
}

/*
 * Raises the fault of the client as an ERROR; "stream" is what was read, NULL
 * if that had not begun.
 */
void
uds_ldap_reader_raise(LdapReader *reader, const char *stream)
{
	const LdapFault *fault = &reader->client->fault;

	if (stream == NULL)
		ereport(ERROR,
				(errcode(fault->sqlstate),
				 errmsg("could not connect to the directory of source \"%s\": %s",
						reader->source, fault->what),
				 fault->hint ? errhint("%s", fault->hint) : 0));
	ereport(ERROR,
			(errcode(fault->sqlstate),
			 errmsg("could not read stream \"%s\" of source \"%s\": %s",
					stream, reader->source, fault->what),
			 fault->hint ? errhint("%s", fault->hint) : 0));
}

/* Hands a page to the hook; it may change the current context. */
static void
hand_over(LdapReader *reader, const UdsPage *page)
{
	MemoryContext caller = CurrentMemoryContext;

	if (reader->hooks->page != NULL)
		reader->hooks->page(reader->hooks->arg, page);
	MemoryContextSwitchTo(caller);
	if (reader->hooks->progress != NULL)
		reader->hooks->progress(reader->hooks->arg, &reader->result->totals);
	MemoryContextSwitchTo(caller);
}

/* Puts a fault into the raw log, where one looks for what went wrong. */
static void
log_fault(LdapReader *reader, const char *stream, const char *request)
{
	UdsPage		page = {0};

	page.stream = stream;
	page.request = request;
	page.status = Max(reader->client->fault.code, 0);
	page.body = reader->client->fault.what;
	page.body_len = strlen(page.body);
	hand_over(reader, &page);
}

/*
 * After a fault: waits, and returns if it is worth another try; else ERROR.
 * One that says nothing is not asked for ever.
 */
static void
wait_or_raise(LdapReader *reader, const char *stream, int tries, int64 begun)
{
	int64		limit = Max(uds_http_timeout, uds_http_connect_timeout);

	uds_ldap_disconnect(reader->client);
	if (!reader->client->fault.passing || tries > uds_http_retries ||
		uds_ldap_clock() - Max(begun, reader->client->heard) > limit + limit / 2)
		uds_ldap_reader_raise(reader, stream);
	uds_ldap_pause(uds_backoff_delay(tries, uds_http_retry_delay,
									 Max(MAX_DELAY, uds_http_retry_delay),
									 pg_prng_double(&pg_global_prng_state)));
}

/*
 * Connects, unless that is done, and learns what the server is.  ERROR if it
 * does not come about.
 */
void
uds_ldap_reader_require(LdapReader *reader)
{
	LdapClient *client = reader->client;
	int64		begun = uds_ldap_clock();

	for (int tries = 1; client->step != LDAP_STEP_READY; tries++)
	{
		client->fault.what = NULL;
		if (uds_ldap_connect(client) && uds_ldap_read_server(client, &reader->server))
			return;
		log_fault(reader, UDS_STREAM_AUTH, client->url ? client->url->text : "connect");
		wait_or_raise(reader, NULL, tries, begun);
	}
}

/*
 * Makes a page empty.
 */
void
uds_ldap_page_begin(LdapPage *page, const char *stream)
{
	if (page->json.data == NULL)
		initStringInfo(&page->json);
	resetStringInfo(&page->json);
	page->stream = stream;
	page->records = 0;
}

/*
 * Where one more record of a page is to be appended.
 */
StringInfo
uds_ldap_page_add(LdapPage *page)
{
	appendStringInfoChar(&page->json, page->records++ == 0 ? '[' : ',');
	return &page->json;
}

/*
 * Whether it is time to hand a page over.
 */
bool
uds_ldap_page_is_full(const LdapPage *page)
{
	return page->records >= PAGE_RECORDS || page->json.len >= PAGE_BYTES;
}

/*
 * Hands the page of a listing over, if it is time to and the server does not
 * make pages itself.
 */
void
uds_ldap_page_cut(LdapReader *reader)
{
	if (reader->search.page_size == 0 && uds_ldap_page_is_full(&reader->page))
		uds_ldap_page_emit(reader, &reader->page,
						   psprintf("%s, part %d", reader->shown, reader->page.number + 1));
}

/*
 * Hands a page over, an empty one, too, and begins the next one.  ERROR if
 * there are more than may be.
 */
void
uds_ldap_page_emit(LdapReader *reader, LdapPage *page, const char *request)
{
	UdsFetchProgress *totals = &reader->result->totals;
	UdsPage		out = {0};

	if (totals->pages >= uds_max_pages)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("could not read stream \"%s\" of source \"%s\": more pages than uds.max_pages allows",
						page->stream, reader->source)));
	if (page->records == 0)
		appendStringInfoChar(&page->json, '[');
	appendStringInfoChar(&page->json, ']');
	totals->pages++;
	totals->bytes += page->json.len;
	page->number++;
	out.stream = page->stream;
	out.request = request;
	out.body = page->json.data;
	out.body_len = page->json.len;
	out.usable = true;
	hand_over(reader, &out);
	uds_ldap_page_begin(page, page->stream);
}

/*
 * Names of the attributes that a listing asks for, ended by NULL: the id, two
 * lists, and one more (or NULL).
 */
char **
uds_ldap_wanted(const LdapReader *reader, const LdapAttributes *attributes,
				const LdapAttributes *more, const char *last)
{
	int			size = (attributes ? attributes->count : 0) + (more ? more->count : 0) + 3;
	char	  **names = palloc0(size * sizeof(char *));
	int			n = 0;

	names[n++] = reader->settings->uid.name;
	for (int i = 0; attributes != NULL && i < attributes->count; i++)
		names[n++] = attributes->items[i].name;
	for (int i = 0; more != NULL && i < more->count; i++)
		names[n++] = more->items[i].name;
	if (last != NULL)
		names[n++] = unconstify(char *, last);
	return names;
}

/*
 * Notes the time of a change, if that is what the attribute is.
 */
void
uds_ldap_note_time(LdapReader *reader, const char *name, int len, BerVarray values)
{
	static const char modified[] = "modifyTimestamp";

	if (len != strlen(modified) || pg_strncasecmp(name, modified, len) != 0 ||
		values == NULL || values[0].bv_val == NULL || values[0].bv_len > 30)
		return;
	/* of one form, so they compare as text */
	if (reader->latest != NULL &&
		strncmp(values[0].bv_val, reader->latest, values[0].bv_len) <= 0)
		return;
	if (reader->latest == NULL)
		reader->latest = MemoryContextAlloc(reader->context, 32);
	memcpy(reader->latest, values[0].bv_val, values[0].bv_len);
	reader->latest[values[0].bv_len] = '\0';
}

/* A reference to another server: ours is not to go there unless asked. */
static void
take_reference(void *arg, const char *url)
{
	LdapReader *reader = arg;
	MemoryContext caller = MemoryContextSwitchTo(reader->context);

	reader->referrals = lappend(reader->referrals, pstrdup(url));
	MemoryContextSwitchTo(caller);
}

/* A page of the listing is here. */
static void
take_page(void *arg, LdapClient *client, bool last)
{
	LdapReader *reader = arg;
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);

	uds_ldap_page_emit(reader, &reader->page,
					   last && reader->referrals != NIL && !reader->settings->follow_referrals ?
					   psprintf("%s, page %d, references not followed: %d", reader->shown,
								reader->page.number + 1, list_length(reader->referrals)) :
					   psprintf("%s, page %d", reader->shown, reader->page.number + 1));
	MemoryContextSwitchTo(caller);
	MemoryContextReset(reader->scratch);
}

static const char *
scope_name(int scope)
{
	return scope == LDAP_SCOPE_SUBTREE ? "subtree" : scope == LDAP_SCOPE_ONELEVEL ? "onelevel" : "base";
}

/* Runs the listing on the server that the client is for. */
static bool
list_here(LdapReader *reader, const char *stream)
{
	LdapSearch *search = &reader->search;
	int64		begun = uds_ldap_clock();

	reader->shown = psprintf("search \"%s\", %s, %s", search->base, scope_name(search->scope),
							 search->filter);
	for (int tries = 1;; tries++)
	{
		MemoryContext caller = CurrentMemoryContext;
		bool		done;

		uds_ldap_reader_require(reader);
		uds_ldap_page_begin(&reader->page, stream);
		reader->page.number = 0;
		reader->referrals = NIL;
		reader->client->fault.what = NULL;
		done = uds_ldap_search(reader->client, search);
		MemoryContextSwitchTo(caller);
		if (done)
			return true;
		log_fault(reader, stream, reader->shown);
		if (!reader->client->fault.passing)
			return false;
		wait_or_raise(reader, stream, tries, begun);
	}
}

/* Where a reference leads: another server, and a base there. */
static bool
parse_reference(const char *reference, LdapUrl *url, char **base)
{
	LDAPURLDesc *parts = NULL;
	bool		ok;

	if (ldap_url_parse(reference, &parts) != LDAP_SUCCESS)
		return false;
	ok = parts->lud_host != NULL && parts->lud_host[0] != '\0';
	if (ok)
	{
		*base = parts->lud_dn && parts->lud_dn[0] != '\0' ? pstrdup(parts->lud_dn) : NULL;
		ok = uds_ldap_url_parse(psprintf(strchr(parts->lud_host, ':') ? "%s://[%s]:%d" : "%s://%s:%d",
										 parts->lud_scheme, parts->lud_host, parts->lud_port), url);
	}
	ldap_free_urldesc(parts);
	return ok && url->scheme != LDAP_SCHEME_SOCKET;
}

/*
 * Goes on with the listing where the server says that it goes on, as the same
 * account.  What cannot be read there is missing, so that it is an ERROR.
 */
static void
follow(LdapReader *reader, const char *stream, const char *reference, int depth)
{
	LdapSettings settings = *reader->settings;
	LdapClient *here = reader->client;
	LdapServer	server = reader->server;
	const char *base = reader->search.base;
	LdapUrl		url = {0};
	char	   *there = NULL;
	List	   *further;
	ListCell   *lc;

	if (depth > MAX_REFERENCES || !parse_reference(reference, &url, &there))
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("could not read stream \"%s\" of source \"%s\": the server refers to \"%.200s\"%s",
						stream, reader->source, reference,
						depth > MAX_REFERENCES ? ", and so on" : ", which is no address of another server")));
	settings.urls = &url;
	settings.nurls = 1;
	/* a password that nobody could read up to here stays so */
	if (here->url->scheme != LDAP_SCHEME_PLAIN)
		settings.start_tls = true;
	reader->client = uds_ldap_open(reader->source, &settings, here->totals);
	if (there != NULL)
		reader->search.base = there;
	if (!list_here(reader, stream))
		uds_ldap_reader_raise(reader, stream);
	further = reader->referrals;
	uds_ldap_close(reader->client);
	foreach(lc, further)
		follow(reader, stream, lfirst(lc), depth + 1);
	reader->client = here;
	reader->server = server;
	reader->search.base = base;
}

/*
 * Runs the listing reader->search, as often as it takes, and hands its pages
 * over as those of a stream.  The entry function appends to reader->page, in
 * the reader's scratch context.  False if the server refuses it; ERROR if it
 * does not come to its end otherwise.
 */
bool
uds_ldap_try_list(LdapReader *reader, const char *stream)
{
	LdapSearch *search = &reader->search;
	ListCell   *lc;

	search->arg = reader;
	search->what = stream;
	if (search->page == NULL)
		search->page = take_page;
	search->reference = take_reference;
	if (!list_here(reader, stream))
		return false;
	if (reader->settings->follow_referrals)
	{
		foreach(lc, reader->referrals)
			follow(reader, stream, lfirst(lc), 1);
	}
	return true;
}

/*
 * The same; ERROR also if it is refused.
 */
void
uds_ldap_list(LdapReader *reader, const char *stream)
{
	if (!uds_ldap_try_list(reader, stream))
		uds_ldap_reader_raise(reader, stream);
}
