/*-------------------------------------------------------------------------
 *
 * ldap_state.c
 *		How changes of a directory are found, and what is noted for the next
 *		read.
 *
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include <cJSON.h>

#include "utils/memutils.h"

#include "fetch/dn.h"
#include "fetch/ldap_changes.h"

/* modifyTimestamp has seconds, and entries may become visible out of order */
#define OVERLAP 5

static const char *const method_names[] = {"none", "usn", "sync", "modified"};

/* What is true before a full read begins. */
struct LdapNote
{
	LdapMethod	method;
	char	   *host;			/* USN: of the domain controller */
	char	   *invocation_id;
	char	   *usn;
	char	   *cookie;			/* SYNC */
};

/*
 * Whether the server offers a control.
 */
bool
uds_ldap_has_control(const LdapReader *reader, const char *oid)
{
	ListCell   *lc;

	foreach(lc, reader->server.controls)
	{
		if (strcmp(lfirst(lc), oid) == 0)
			return true;
	}
	return false;
}

/*
 * The name of a method, as the option "incremental" and the state have it.
 */
const char *
uds_ldap_method_name(LdapMethod method)
{
	return method_names[method];
}

/*
 * How changes of this directory are found.
 */
LdapMethod
uds_ldap_method(const LdapReader *reader)
{
	const char *word = reader->settings->incremental;

	/* what other servers have is not asked for by what this one notes */
	if (reader->settings->follow_referrals)
		return LDAP_METHOD_NONE;
	for (int i = 0; i < lengthof(method_names); i++)
	{
		if (strcmp(method_names[i], word) == 0)
			return (LdapMethod) i;
	}
	if (reader->settings->ad)
		return LDAP_METHOD_USN;
	/* the ids of what is gone are UUIDs */
	if (uds_ldap_has_control(reader, LDAP_CONTROL_SYNC) && reader->settings->uid.kind == LDAP_KIND_UUID)
		return LDAP_METHOD_SYNC;
	return LDAP_METHOD_MODIFIED;
}

/* For reading single attributes of single entries. */
typedef struct Lookup
{
	const char *name;
	LdapKind	kind;
	List	   *values;			/* of char * */
	MemoryContext context;
} Lookup;

static void
take_lookup(void *arg, const LdapEntry *entry, const char *name, int len, BerVarray values)
{
	Lookup	   *lookup = arg;
	MemoryContext caller = MemoryContextSwitchTo(lookup->context);

	for (int i = 0; len == strlen(lookup->name) && pg_strncasecmp(name, lookup->name, len) == 0 &&
		 values != NULL && values[i].bv_val != NULL; i++)
	{
		char		guid[37];

		if (lookup->kind == LDAP_KIND_GUID)
		{
			if (uds_ldap_guid_text(values[i].bv_val, (int) values[i].bv_len, guid))
				lookup->values = lappend(lookup->values, pstrdup(guid));
		}
		else
			lookup->values = lappend(lookup->values, pnstrdup(values[i].bv_val, values[i].bv_len));
	}
	MemoryContextSwitchTo(caller);
}

static void
take_lookup_entry(void *arg, LdapClient *client)
{
	static const LdapAttributes none = {0};
	LdapEntry	entry;

	uds_ldap_entry_append(client, NULL, &none, &entry, take_lookup, arg);
}

/* The values of an attribute of an entry; NIL if there are none to be seen. */
static List *
look_up(LdapReader *reader, const char *dn, const char *name, LdapKind kind)
{
	Lookup		lookup = {name, kind, NIL, reader->context};
	LdapSearch	search = {.what = name,.base = dn,.arg = &lookup,.entry = take_lookup_entry};

	search.attributes = uds_ldap_names(1, name);
	if (!uds_ldap_read_entry(reader->client, &search) && reader->client->fault.passing)
		uds_ldap_disconnect(reader->client);
	return lookup.values;
}

/* The naming context that a base is in, as the server writes it; or NULL. */
static const char *
find_context(const LdapReader *reader, const char *base)
{
	char	   *normal = uds_dn_normalize(base, strlen(base));
	const char *found = NULL;
	size_t		found_len = 0;
	ListCell   *lc;

	foreach(lc, reader->server.contexts)
	{
		char	   *context = uds_dn_normalize(lfirst(lc), strlen(lfirst(lc)));

		if (context == NULL || !uds_dn_below(normal, context) ||
			(found != NULL && strlen(context) < found_len))
			continue;
		found = lfirst(lc);
		found_len = strlen(context);
	}
	return found;
}

/*
 * A cookie for what is to come from now on: the time of the last change, as
 * the server's own cookies have it.
 */
char *
uds_ldap_make_cookie(LdapReader *reader)
{
	const char *context = find_context(reader, reader->settings->user_base);
	StringInfoData cookie;
	const char *separator = "rid=000,csn=";
	ListCell   *lc;

	initStringInfo(&cookie);
	if (context != NULL)
	{
		foreach(lc, look_up(reader, context, "contextCSN", LDAP_KIND_TEXT))
		{
			appendStringInfo(&cookie, "%s%s", separator, (char *) lfirst(lc));
			separator = ";";
		}
	}
	return cookie.len > 0 ? cookie.data : NULL;
}

/*
 * Which copy of the database a domain controller has; NULL if that cannot be
 * seen.
 */
char *
uds_ldap_invocation_id(LdapReader *reader)
{
	List	   *values = NIL;

	if (reader->server.service_name != NULL)
		values = look_up(reader, reader->server.service_name, "invocationId", LDAP_KIND_GUID);
	return values ? linitial(values) : NULL;
}

/*
 * Notes, before a full read, what the next read is to begin with.
 */
LdapNote *
uds_ldap_note_begin(LdapReader *reader)
{
	LdapNote   *note = palloc0(sizeof(LdapNote));

	uds_ldap_reader_require(reader);
	note->method = uds_ldap_method(reader);
	if (note->method == LDAP_METHOD_SYNC && (note->cookie = uds_ldap_make_cookie(reader)) == NULL)
		note->method = LDAP_METHOD_MODIFIED;
	if (note->method == LDAP_METHOD_USN)
	{
		note->host = reader->server.host;
		note->usn = reader->server.highest_usn;
		note->invocation_id = uds_ldap_invocation_id(reader);
	}
	return note;
}

/* A generalized time, moved back; NULL if it is none. */
static char *
earlier(const char *time, int64 by)
{
	char	   *iso = uds_ldap_time_iso(time, (int) strlen(time));
	struct tm	parts = {0};
	time_t		seconds;
	char		text[32];

	if (iso == NULL || sscanf(iso, "%d-%d-%dT%d:%d:%d", &parts.tm_year, &parts.tm_mon, &parts.tm_mday,
							  &parts.tm_hour, &parts.tm_min, &parts.tm_sec) != 6)
		return NULL;
	parts.tm_year -= 1900;
	parts.tm_mon -= 1;
	seconds = timegm(&parts) - by;
	gmtime_r(&seconds, &parts);
	strftime(text, sizeof(text), "%Y%m%d%H%M%SZ", &parts);
	return pstrdup(text);
}

static char *
print_state(cJSON *state)
{
	char	   *text = cJSON_PrintUnformatted(state);
	char	   *copy = text ? pstrdup(text) : NULL;

	cJSON_free(text);
	cJSON_Delete(state);
	return copy;
}

static cJSON *
make_state(LdapMethod method)
{
	cJSON	   *state = cJSON_CreateObject();

	cJSON_AddStringToObject(state, "kind", method_names[method]);
	return state;
}

/*
 * The state of the method that asks for times; NULL if none was seen.  Who
 * changed while others were read may have been read before that.
 */
char *
uds_ldap_modified_state(const LdapReader *reader)
{
	int64		took = (uds_ldap_clock() - reader->begun + 999) / 1000;
	char	   *since = reader->latest ? earlier(reader->latest, took + OVERLAP) : NULL;

	return since ? uds_ldap_since_state(since) : NULL;
}

/*
 * The same for a time that is known.
 */
char *
uds_ldap_since_state(const char *since)
{
	cJSON	   *state = make_state(LDAP_METHOD_MODIFIED);

	cJSON_AddStringToObject(state, "since", since);
	return print_state(state);
}

/*
 * The state of the method that asks by number of change.
 */
char *
uds_ldap_usn_state(const char *host, const char *invocation_id, const char *usn)
{
	cJSON	   *state = make_state(LDAP_METHOD_USN);

	cJSON_AddStringToObject(state, "invocation_id", invocation_id);
	cJSON_AddStringToObject(state, "host", host);
	cJSON_AddStringToObject(state, "usn", usn);
	return print_state(state);
}

/*
 * The state of the method that asks by cookie.
 */
char *
uds_ldap_sync_state_text(const char *cookie)
{
	cJSON	   *state = make_state(LDAP_METHOD_SYNC);

	cJSON_AddStringToObject(state, "cookie", cookie);
	return print_state(state);
}

/*
 * What is to be kept after a full read, a JSON object; NULL = nothing, and the
 * next read is a full one again.
 */
char *
uds_ldap_note_end(LdapReader *reader, const LdapNote *note)
{
	switch (note->method)
	{
		case LDAP_METHOD_SYNC:
			return uds_ldap_sync_state_text(note->cookie);
		case LDAP_METHOD_USN:
			/* numbers of one domain controller say nothing to another */
			if (note->host == NULL || note->usn == NULL || note->invocation_id == NULL ||
				reader->server.host == NULL || strcmp(note->host, reader->server.host) != 0)
				return NULL;
			return uds_ldap_usn_state(note->host, note->invocation_id, note->usn);
		case LDAP_METHOD_MODIFIED:
			return uds_ldap_modified_state(reader);
		case LDAP_METHOD_NONE:
			break;
	}
	return NULL;
}

