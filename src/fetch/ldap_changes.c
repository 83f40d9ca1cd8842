/*-------------------------------------------------------------------------
 *
 * ldap_changes.c
 *		What changed in a directory since the last read, and what is noted for
 *		the next one.
 *
 * Departments are few and read whole each time: renaming one changes the name
 * of all below it, and no more than its own entry tells of that.  Of people
 * those are read that changed.  Whatever is odd about what was noted makes a
 * full read.
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <cJSON.h>

#include "utils/memutils.h"

#include "fetch/dn.h"
#include "fetch/ldap_changes.h"
#include "fetch/ldap_sync.h"
#include "uds.h"

/* the container of deleted objects, wherever it is (Active Directory) */
#define DELETED_OBJECTS "<WKGUID=18E2EA80684F11D2B9AA00C04F79F805,%s>"
#define SHOW_DELETED "1.2.840.113556.1.4.417"

/* An incremental read. */
typedef struct LdapChanges
{
	LdapMethod	method;
	cJSON	   *state;			/* as noted */
	LdapSyncInfo sync;
	char	   *cookie;			/* SYNC: made by us, should none come */
	LdapTable  *seen;			/* ids of those who were shown */
	List	   *left;			/* of char *, ids */
	char	   *base;			/* USN: normal form of where people are */
	char	   *from;			/* USN, MODIFIED: what changes have */
} LdapChanges;


static const char *
state_text(const LdapChanges *changes, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(changes->state, name);

	return cJSON_IsString(item) ? item->valuestring : NULL;
}

static void
add_left(LdapReader *reader, const char *id)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->context);

	reader->changes->left = lappend(reader->changes->left, pstrdup(id));
	MemoryContextSwitchTo(caller);
}

/* A person who changed, or one whose entry has moved away. */
static void
take_changed(void *arg, LdapClient *client)
{
	LdapReader *reader = arg;
	LdapChanges *changes = reader->changes;
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);
	StringInfo	json = &reader->page.json;
	int			len = json->len;
	int			records = reader->page.records;
	char		uuid[37];
	LdapEntry	entry;

	if (changes->method == LDAP_METHOD_SYNC &&
		uds_ldap_sync_state(client, uuid) == LDAP_SYNC_STATE_DELETE)
		add_left(reader, uuid);
	else
	{
		uds_ldap_take_user(reader, client, &entry);
		if (entry.id != NULL)
			uds_ldap_table_put(changes->seen, entry.id, changes);
		if (entry.id != NULL && entry.normal != NULL && changes->base != NULL &&
			!uds_dn_below(entry.normal, changes->base))
		{
			/* it is of the directory, but not where people are looked for */
			json->data[len] = '\0';
			json->len = len;
			reader->page.records = records;
			add_left(reader, entry.id);
		}
	}
	uds_ldap_page_cut(reader);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(reader->scratch);
}

static void
take_message(void *arg, LdapClient *client)
{
	LdapReader *reader = arg;

	uds_ldap_sync_message(&reader->changes->sync, client);
}

/* The end of a refresh; its entries are one page, or several cut by us. */
static void
take_refresh(void *arg, LdapClient *client, bool last)
{
	LdapReader *reader = arg;

	uds_ldap_sync_done(&reader->changes->sync, client);
	uds_ldap_page_emit(reader, &reader->page, reader->shown);
}

/* Everybody known who was neither shown nor named is gone. */
static void
find_absent(LdapReader *reader)
{
	LdapChanges *changes = reader->changes;
	MemoryContext caller = CurrentMemoryContext;
	List	   *known;
	ListCell   *lc;

	foreach(lc, changes->sync.present)
		uds_ldap_table_put(changes->seen, lfirst(lc), changes);
	known = reader->hooks->known(reader->hooks->arg, UDS_TYPE_USER);
	MemoryContextSwitchTo(caller);
	foreach(lc, known)
	{
		if (uds_ldap_table_get(changes->seen, lfirst(lc)) == NULL)
			add_left(reader, lfirst(lc));
	}
}

/* Asks by cookie.  False if that leads nowhere. */
static bool
read_sync(LdapReader *reader)
{
	LdapChanges *changes = reader->changes;
	const char *cookie = state_text(changes, "cookie");
	ListCell   *lc;

	if (cookie == NULL || reader->settings->uid.kind != LDAP_KIND_UUID ||
		!uds_ldap_has_control(reader, LDAP_CONTROL_SYNC))
		return false;
	changes->sync.context = reader->context;
	changes->cookie = uds_ldap_make_cookie(reader);
	uds_ldap_prepare_users(reader);
	reader->search.page_size = 0;
	reader->search.control = uds_ldap_sync_control(cookie);
	reader->search.entry = take_changed;
	reader->search.intermediate = take_message;
	reader->search.page = take_refresh;
	if (!uds_ldap_try_list(reader, LDAP_STREAM_USERS) || changes->sync.malformed)
		return false;
	foreach(lc, changes->sync.deleted)
		add_left(reader, lfirst(lc));
	if (changes->sync.present_phase && reader->hooks->known == NULL)
		return false;
	if (changes->sync.present_phase)
		find_absent(reader);
	return true;
}

/* Those deleted, as Active Directory remembers them. */
static void
take_tombstone(void *arg, LdapClient *client)
{
	static const LdapAttributes none = {0};
	LdapReader *reader = arg;
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);
	LdapEntry	entry;

	uds_ldap_entry_append(client, NULL, &none, &entry, NULL, NULL);
	if (entry.id != NULL)
		add_left(reader, entry.id);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(reader->scratch);
}

static void
ignore_page(void *arg, LdapClient *client, bool last)
{
}

static void
read_tombstones(LdapReader *reader, const char *context)
{
	static LDAPControl show_deleted = {SHOW_DELETED, {0, NULL}, 1};
	LdapSearch	search = {0};

	search.base = psprintf(DELETED_OBJECTS, context);
	search.scope = LDAP_SCOPE_SUBTREE;
	search.filter = psprintf("(&(isDeleted=TRUE)(uSNChanged>=%s))", reader->changes->from);
	search.attributes = uds_ldap_wanted(reader, NULL, NULL, NULL);
	search.page_size = reader->settings->page_size;
	search.control = &show_deleted;
	search.entry = take_tombstone;
	search.page = ignore_page;
	reader->search = search;
	if (!uds_ldap_try_list(reader, LDAP_STREAM_LEFT))
		reader->result->warnings = lappend(reader->result->warnings,
										   "Deleted entries may not be seen by this account; who was deleted is noticed by the next full read.");
}

/* Asks by number of change.  False if the numbers are those of another server. */
static bool
read_usn(LdapReader *reader)
{
	LdapChanges *changes = reader->changes;
	const LdapSettings *settings = reader->settings;
	const char *id = state_text(changes, "invocation_id");
	const char *usn = state_text(changes, "usn");
	const char *context = reader->server.default_context;
	const char *host = reader->server.host;
	char	   *now = uds_ldap_invocation_id(reader);
	char	   *base = uds_dn_normalize(settings->user_base, strlen(settings->user_base));

	if (id == NULL || usn == NULL || now == NULL || strcmp(id, now) != 0 ||
		reader->server.highest_usn == NULL || host == NULL ||
		strtoll(reader->server.highest_usn, NULL, 10) < strtoll(usn, NULL, 10))
		return false;
	changes->from = psprintf("%lld", strtoll(usn, NULL, 10) + 1);
	uds_ldap_prepare_users(reader);
	if (context != NULL && settings->user_scope == LDAP_SCOPE_SUBTREE &&
		uds_dn_below(base, uds_dn_normalize(context, strlen(context))))
	{
		/* who moved out of the base is seen from above only */
		reader->search.base = context;
		changes->base = base;
	}
	reader->search.filter = psprintf("(&%s(uSNChanged>=%s))", settings->user_filter, changes->from);
	reader->search.entry = take_changed;
	if (!uds_ldap_try_list(reader, LDAP_STREAM_USERS))
		return false;
	if (context != NULL)
		read_tombstones(reader, context);
	/* a lost connection may have led to another server */
	return reader->server.host != NULL && strcmp(reader->server.host, host) == 0;
}

static bool
read_modified(LdapReader *reader)
{
	const char *since = state_text(reader->changes, "since");

	if (since == NULL || uds_ldap_time_iso(since, (int) strlen(since)) == NULL)
		return false;
	uds_ldap_prepare_users(reader);
	reader->search.filter = psprintf("(&%s(modifyTimestamp>=%s))", reader->settings->user_filter, since);
	reader->search.entry = take_changed;
	return uds_ldap_try_list(reader, LDAP_STREAM_USERS);
}

/*
 * The ids of what was listed whole.  To a server that is asked for people, a
 * department that changed is one more entry that is none of them, and it says
 * that it is gone.
 */
static LdapTable *
listed_departments(const LdapReader *reader)
{
	LdapTable  *listed = uds_ldap_table_make(reader->context);
	ListCell   *lc;

	foreach(lc, reader->department_list)
		uds_ldap_table_put(listed, ((LdapDepartment *) lfirst(lc))->id, listed);
	return listed;
}

/*
 * Hands over who left, but who is here.  Who is none of the records known does
 * no harm.
 */
static void
put_left(LdapReader *reader, const char *stream, const LdapTable *here)
{
	LdapChanges *changes = reader->changes;
	LdapPage   *page = &reader->page;
	ListCell   *lc;

	uds_ldap_page_begin(page, stream);
	foreach(lc, changes->left)
	{
		StringInfo	out;

		if (here != NULL && uds_ldap_table_get(here, lfirst(lc)) != NULL)
			continue;
		out = uds_ldap_page_add(page);
		appendStringInfoString(out, "{\"id\":");
		uds_ldap_append_text(out, lfirst(lc), (int) strlen(lfirst(lc)));
		appendStringInfoChar(out, '}');
		if (uds_ldap_page_is_full(page))
			uds_ldap_page_emit(reader, page, "who left");
	}
	uds_ldap_page_emit(reader, page, "who left");
	reader->result->streams = lappend(reader->result->streams, unconstify(char *, stream));
}

/* What is to be kept after an incremental read. */
static char *
next_state(LdapReader *reader, const char *usn)
{
	LdapChanges *changes = reader->changes;
	const char *cookie = changes->sync.cookie ? changes->sync.cookie : changes->cookie;
	char	   *state;

	switch (changes->method)
	{
		case LDAP_METHOD_SYNC:
			/* where nothing changed there is no new one */
			return uds_ldap_sync_state_text(cookie ? cookie : state_text(changes, "cookie"));
		case LDAP_METHOD_USN:
			return uds_ldap_usn_state(reader->server.host, state_text(changes, "invocation_id"), usn);
		default:
			state = uds_ldap_modified_state(reader);
			if (state == NULL)
				state = uds_ldap_since_state(state_text(changes, "since"));
			return state;
	}
}

static bool
read_by_method(LdapReader *reader)
{
	switch (reader->changes->method)
	{
		case LDAP_METHOD_SYNC:
			return read_sync(reader);
		case LDAP_METHOD_USN:
			return read_usn(reader);
		case LDAP_METHOD_MODIFIED:
			return read_modified(reader);
		case LDAP_METHOD_NONE:
			break;
	}
	return false;
}

/*
 * Reads what changed since "state" was noted, and returns what is to be noted
 * now.  NULL if that cannot be told: then everything is to be read.
 */
char *
uds_ldap_read_changes(LdapReader *reader, const char *state)
{
	LdapChanges *changes = palloc0(sizeof(LdapChanges));
	const char *kind;
	char	   *usn;
	char	   *next = NULL;

	changes->state = cJSON_Parse(state);
	changes->seen = uds_ldap_table_make(CurrentMemoryContext);
	changes->method = uds_ldap_method(reader);
	kind = state_text(changes, "kind");
	/* there may have been no cookie to be had */
	if (kind != NULL && changes->method == LDAP_METHOD_SYNC && strcmp(kind, "modified") == 0)
		changes->method = LDAP_METHOD_MODIFIED;
	if (kind != NULL && strcmp(kind, uds_ldap_method_name(changes->method)) == 0)
	{
		reader->changes = changes;
		usn = reader->server.highest_usn;
		uds_ldap_read_structure(reader, false);
		reader->has_members = true;
		reader->keeps_people = false;
		if (read_by_method(reader))
		{
			reader->result->streams = lappend(reader->result->streams, LDAP_STREAM_USERS);
			/* seen from above, those who moved away are among the seen */
			put_left(reader, LDAP_STREAM_LEFT, changes->base ? NULL : changes->seen);
			if (reader->settings->departments != LDAP_DEPARTMENTS_NONE)
				put_left(reader, LDAP_STREAM_DEPARTMENTS_LEFT, listed_departments(reader));
			next = next_state(reader, usn);
		}
		reader->has_members = false;
		reader->changes = NULL;
	}
	cJSON_Delete(changes->state);
	return next;
}
