/*-------------------------------------------------------------------------
 *
 * ldap.c
 *		Reads a directory: which listings, in which order, and the people.
 *
 * Departments come first, since a person's department is the unit above; then
 * people; then, since they refer to people, the members of groups.
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "fetch/dn.h"
#include "fetch/ldap.h"
#include "fetch/ldap_read.h"

/* What is taken from a person's entry beside what is shown. */
typedef struct Taking
{
	LdapReader *reader;
	char	   *manager;		/* normal form */
	List	   *logins;			/* of char * */
	List	   *groups;			/* of LdapDepartment *: memberOf */
} Taking;

static bool
is_name(const char *name, int len, const char *word)
{
	return len == (int) strlen(word) && pg_strncasecmp(name, word, len) == 0;
}

static void
take_value(void *arg, const LdapEntry *entry, const char *name, int len, BerVarray values)
{
	Taking	   *taking = arg;
	LdapReader *reader = taking->reader;

	if (values == NULL || values[0].bv_val == NULL)
		return;
	uds_ldap_note_time(reader, name, len, values);
	if (!reader->keeps_people)
		return;
	if (is_name(name, len, "manager"))
		taking->manager = uds_dn_normalize(values[0].bv_val, values[0].bv_len);
	for (int i = 0; is_name(name, len, "uid") && values[i].bv_val != NULL; i++)
		taking->logins = lappend(taking->logins, pnstrdup(values[i].bv_val, values[i].bv_len));
	for (int i = 0; is_name(name, len, "memberOf") && values[i].bv_val != NULL; i++)
	{
		char	   *normal = uds_dn_normalize(values[i].bv_val, values[i].bv_len);
		LdapDepartment *group = normal ? uds_ldap_table_get(reader->departments, normal) : NULL;

		if (group != NULL)
			taking->groups = lappend(taking->groups, group);
	}
}

/* Keeps a person for those who refer to it. */
static LdapPerson *
keep_person(Taking *taking, const LdapEntry *entry)
{
	LdapReader *reader = taking->reader;
	MemoryContext caller = MemoryContextSwitchTo(reader->context);
	LdapPerson *person = palloc(sizeof(LdapPerson));
	ListCell   *lc;

	person->id = pstrdup(entry->id);
	person->manager = reader->settings->manager_as_owner && taking->manager ?
		pstrdup(taking->manager) : NULL;
	uds_ldap_table_put(reader->people, entry->normal, person);
	foreach(lc, taking->logins)
		uds_ldap_table_put(reader->people, psprintf("\001%s", (char *) lfirst(lc)), person);
	MemoryContextSwitchTo(caller);
	return person;
}

/* The departments of a person: with the record, or as memberships. */
static void
put_departments(Taking *taking, const LdapEntry *entry, StringInfo out)
{
	LdapReader *reader = taking->reader;
	LdapDepartments mode = reader->settings->departments;
	LdapPerson *person = NULL;
	LdapDepartment *unit = NULL;
	ListCell   *lc;

	if (entry->normal == NULL || entry->id == NULL)
		return;
	if (reader->keeps_people)
		person = keep_person(taking, entry);
	if (mode & LDAP_DEPARTMENTS_OU)
		unit = uds_ldap_department_above(reader, entry->normal);
	if (mode == LDAP_DEPARTMENTS_OU)
	{
		if (unit != NULL && person != NULL && person->manager != NULL)
			uds_ldap_add_owner(reader, unit, person->manager);
		if (out == NULL)
			return;
		appendStringInfoString(out, ",\"_departments\":[");
		if (unit != NULL)
		{
			appendStringInfoString(out, "{\"uid\":");
			uds_ldap_append_text(out, unit->id, (int) strlen(unit->id));
			appendStringInfoString(out, ",\"isMain\":true}");
		}
		appendStringInfoChar(out, ']');
		return;
	}
	if (reader->has_members)
		return;
	if (unit != NULL)
		uds_ldap_put_member(reader, person, unit, true);
	foreach(lc, taking->groups)
		uds_ldap_put_member(reader, person, lfirst(lc), false);
}

/*
 * Puts the entry of a person onto the page; in the scratch context, where
 * *entry is valid until that is reset.
 */
void
uds_ldap_take_user(LdapReader *reader, LdapClient *client, LdapEntry *entry)
{
	StringInfo	out = uds_ldap_page_add(&reader->page);
	Taking		taking = {reader};

	uds_ldap_entry_append(client, out, &reader->settings->user_attributes, entry,
						  take_value, &taking);
	put_departments(&taking, entry, out);
	if (entry->tells_enabled || !reader->settings->ad)
		appendStringInfo(out, ",\"_enabled\":%s", entry->enabled ? "true" : "false");
	appendStringInfoChar(out, '}');
}

static void
take_user(void *arg, LdapClient *client)
{
	LdapReader *reader = arg;
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);
	LdapEntry	entry;

	uds_ldap_take_user(reader, client, &entry);
	uds_ldap_page_cut(reader);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(reader->scratch);
}

/* A person of whom nothing is shown, for those who refer to people. */
static void
take_person(void *arg, LdapClient *client)
{
	static const LdapAttributes none = {0};
	LdapReader *reader = arg;
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);
	Taking		taking = {reader};
	LdapEntry	entry;

	uds_ldap_entry_append(client, NULL, &none, &entry, take_value, &taking);
	put_departments(&taking, &entry, NULL);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(reader->scratch);
}

/* Such a listing has no pages. */
static void
ignore_page(void *arg, LdapClient *client, bool last)
{
}

/* What people are asked for so that others can refer to them. */
static void
add_reference_attributes(const LdapSettings *settings, LdapAttributes *attributes)
{
	if (settings->manager_as_owner)
		uds_ldap_attributes_add(attributes, "manager");
	if (uds_ldap_attributes_find(&settings->member_attributes, "memberUid", 9) != NULL)
		uds_ldap_attributes_add(attributes, "uid");
	if (uds_ldap_attributes_find(&settings->member_attributes, "memberOf", 8) != NULL)
		uds_ldap_attributes_add(attributes, "memberOf");
}

/*
 * Makes the listing of all people the reader's.
 */
void
uds_ldap_prepare_users(LdapReader *reader)
{
	const LdapSettings *settings = reader->settings;
	LdapAttributes more = {0};
	LdapSearch	search = {0};

	add_reference_attributes(settings, &more);
	search.base = settings->user_base;
	search.scope = settings->user_scope;
	search.filter = settings->user_filter;
	search.attributes = uds_ldap_wanted(reader, &settings->user_attributes, &more, "modifyTimestamp");
	search.page_size = settings->page_size;
	search.entry = take_user;
	reader->search = search;
}

/* Reads who there is, and no more. */
static void
read_people(LdapReader *reader)
{
	LdapAttributes more = {0};

	add_reference_attributes(reader->settings, &more);
	uds_ldap_prepare_users(reader);
	reader->search.attributes = uds_ldap_wanted(reader, &more, NULL, NULL);
	reader->search.entry = take_person;
	reader->search.page = ignore_page;
	uds_ldap_list(reader, LDAP_STREAM_USERS);
}

static void
read_users(LdapReader *reader)
{
	uds_ldap_prepare_users(reader);
	uds_ldap_list(reader, LDAP_STREAM_USERS);
	reader->result->streams = lappend(reader->result->streams, LDAP_STREAM_USERS);
}

/* Whether somebody refers to people, so that all of them must be known. */
static bool
needs_people(const LdapReader *reader)
{
	ListCell   *lc;

	if (reader->settings->manager_as_owner ||
		(reader->settings->departments & LDAP_DEPARTMENTS_GROUPS))
		return true;
	foreach(lc, reader->department_list)
	{
		if (((LdapDepartment *) lfirst(lc))->owners != NIL)
			return true;
	}
	return false;
}

/*
 * Reads departments, and who is in them; people, too, or only who there is
 * where somebody refers to them.
 */
void
uds_ldap_read_structure(LdapReader *reader, bool people)
{
	LdapDepartments mode = reader->settings->departments;

	if (mode & LDAP_DEPARTMENTS_OU)
		uds_ldap_read_departments(reader, false);
	if (mode & LDAP_DEPARTMENTS_GROUPS)
		uds_ldap_read_departments(reader, true);
	reader->keeps_people = needs_people(reader);
	if (people)
		read_users(reader);
	else if (reader->keeps_people)
		read_people(reader);
	if (mode & LDAP_DEPARTMENTS_GROUPS)
		uds_ldap_read_members(reader);
	if (mode != LDAP_DEPARTMENTS_NONE)
		uds_ldap_put_links(reader);
}

/*
 * Reads a source whose manifest says that it is a directory, and hands its
 * pages to the hooks; as uds_connector_run() does.
 */
UdsFetchResult *
uds_ldap_run(const UdsManifest *manifest, const char *source_name, const char *options_json,
			 const char *state, bool incremental, const UdsFetchHooks *hooks)
{
	UdsFetchResult *result = palloc0(sizeof(UdsFetchResult));
	char	   *problem;
	LdapSettings *settings = uds_ldap_settings(manifest, options_json, &problem);
	LdapReader *reader;

	if (settings == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source \"%s\" cannot be read: %s", source_name, problem)));
	reader = uds_ldap_reader_open(source_name, settings, hooks, result);
	uds_ldap_reader_require(reader);
	result->incremental = incremental && state != NULL &&
		(result->state = uds_ldap_read_changes(reader, state)) != NULL;
	if (!result->incremental)
	{
		LdapNote   *note = uds_ldap_note_begin(reader);

		result->streams = NIL;
		uds_ldap_read_structure(reader, true);
		result->state = uds_ldap_note_end(reader, note);
	}
	uds_ldap_disconnect(reader->client);
	result->complete = true;
	return result;
}
