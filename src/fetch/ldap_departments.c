/*-------------------------------------------------------------------------
 *
 * ldap_departments.c
 *		Departments of a directory: organizational units, groups, who is in
 *		them, and what is below what.
 *
 * Entries refer to each other by name, in any order, so what is below what is
 * told at the end, as parts of the departments' records.
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "fetch/dn.h"
#include "fetch/ldap_read.h"

/* parents are looked at up to here */
#define MAX_DEPTH 1000

/* before a login in the table of people; no name begins with it */
#define LOGIN_MARK "\001"

/* What is taken from an entry beside what is shown. */
typedef struct Taking
{
	LdapReader *reader;
	bool		groups;
	List	   *owners;			/* of char *, normal forms */
	LdapDepartment *group;		/* whose members these are */
} Taking;

/* Without ";range=…" and other options. */
static const LdapAttribute *
find_described(const LdapAttributes *attributes, const char *name, int len)
{
	const char *semicolon = memchr(name, ';', len);

	return uds_ldap_attributes_find(attributes, name, semicolon ? (int) (semicolon - name) : len);
}

static void
take_owners(void *arg, const LdapEntry *entry, const char *name, int len, BerVarray values)
{
	Taking	   *taking = arg;

	uds_ldap_note_time(taking->reader, name, len, values);
	if (find_described(&taking->reader->settings->owner_attributes, name, len) == NULL)
		return;
	for (int i = 0; values != NULL && values[i].bv_val != NULL; i++)
	{
		char	   *normal = uds_dn_normalize(values[i].bv_val, values[i].bv_len);

		if (normal != NULL)
			taking->owners = lappend(taking->owners, normal);
	}
}

/* Makes a department known, unless the listing was begun again and it is. */
static void
add_department(Taking *taking, const LdapEntry *entry)
{
	LdapReader *reader = taking->reader;
	MemoryContext caller = MemoryContextSwitchTo(reader->context);
	LdapDepartment *department = uds_ldap_table_get(reader->departments, entry->normal);
	ListCell   *lc;

	if (department == NULL)
	{
		department = palloc0(sizeof(LdapDepartment));
		department->normal = pstrdup(entry->normal);
		uds_ldap_table_put(reader->departments, department->normal, department);
		reader->department_list = lappend(reader->department_list, department);
	}
	department->id = pstrdup(entry->id);
	department->group = taking->groups;
	department->owners = NIL;
	foreach(lc, taking->owners)
		department->owners = lappend(department->owners, pstrdup(lfirst(lc)));
	MemoryContextSwitchTo(caller);
}

static void
take_entry(LdapReader *reader, LdapClient *client, bool groups)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);
	StringInfo	out = uds_ldap_page_add(&reader->page);
	Taking		taking = {reader, groups};
	LdapEntry	entry;

	uds_ldap_entry_append(client, out,
						  groups ? &reader->settings->group_attributes :
						  &reader->settings->department_attributes,
						  &entry, take_owners, &taking);
	appendStringInfoChar(out, '}');
	if (entry.id != NULL && entry.normal != NULL)
		add_department(&taking, &entry);
	uds_ldap_page_cut(reader);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(reader->scratch);
}

static void
take_unit(void *arg, LdapClient *client)
{
	take_entry(arg, client, false);
}

static void
take_group(void *arg, LdapClient *client)
{
	take_entry(arg, client, true);
}

/*
 * Makes the listing of all organizational units, or of all groups without
 * their members, the reader's.
 */
void
uds_ldap_prepare_departments(LdapReader *reader, bool groups)
{
	const LdapSettings *settings = reader->settings;
	LdapSearch	search = {0};

	search.base = groups ? settings->group_base : settings->department_base;
	search.scope = LDAP_SCOPE_SUBTREE;
	search.filter = groups ? settings->group_filter : settings->department_filter;
	search.attributes = uds_ldap_wanted(reader, groups ? &settings->group_attributes :
										&settings->department_attributes,
										&settings->owner_attributes, "modifyTimestamp");
	search.page_size = settings->page_size;
	search.entry = groups ? take_group : take_unit;
	reader->search = search;
}

/*
 * Reads them.
 */
void
uds_ldap_read_departments(LdapReader *reader, bool groups)
{
	const char *stream = groups ? LDAP_STREAM_GROUPS : LDAP_STREAM_DEPARTMENTS;

	uds_ldap_prepare_departments(reader, groups);
	uds_ldap_list(reader, stream);
	reader->result->streams = lappend(reader->result->streams, unconstify(char *, stream));
}

/*
 * The organizational unit that is nearest above a name, or NULL.
 */
LdapDepartment *
uds_ldap_department_above(LdapReader *reader, const char *normal)
{
	const char *above = normal;

	while ((above = uds_dn_parent(above)) != NULL)
	{
		LdapDepartment *department = uds_ldap_table_get(reader->departments, above);

		if (department != NULL && !department->group)
			return department;
	}
	return NULL;
}

/*
 * Makes the person of a name an owner of a department, once.
 */
void
uds_ldap_add_owner(LdapReader *reader, LdapDepartment *department, const char *normal)
{
	MemoryContext caller;
	ListCell   *lc;

	foreach(lc, department->owners)
	{
		if (strcmp(lfirst(lc), normal) == 0)
			return;
	}
	caller = MemoryContextSwitchTo(reader->context);
	department->owners = lappend(department->owners, pstrdup(normal));
	MemoryContextSwitchTo(caller);
}

/*
 * Puts a membership onto the page of members.
 */
void
uds_ldap_put_member(LdapReader *reader, const LdapPerson *person,
					LdapDepartment *department, bool is_main)
{
	StringInfo	out = uds_ldap_page_add(&reader->members);

	appendStringInfoString(out, "{\"user\":");
	uds_ldap_append_text(out, person->id, (int) strlen(person->id));
	appendStringInfoString(out, ",\"department\":");
	uds_ldap_append_text(out, department->id, (int) strlen(department->id));
	appendStringInfoString(out, is_main ? ",\"isMain\":true}" : "}");
	if (reader->settings->manager_as_owner && person->manager != NULL)
		uds_ldap_add_owner(reader, department, person->manager);
	if (uds_ldap_page_is_full(&reader->members))
		uds_ldap_page_emit(reader, &reader->members, "members");
}

/* A name with an optional bit string after it: "cn=x#'0101'B". */
static size_t
name_len(const struct berval *value)
{
	size_t		len = value->bv_len;
	const char *text = value->bv_val;
	size_t		i;

	if (len < 4 || text[len - 1] != 'B' || text[len - 2] != '\'')
		return len;
	for (i = len - 2; i > 1 && (text[i - 1] == '0' || text[i - 1] == '1'); i--)
		;
	return i > 1 && text[i - 1] == '\'' && text[i - 2] == '#' ? i - 2 : len;
}

/* One member of a group: a person, another group, or nobody we know. */
static void
take_member(LdapReader *reader, LdapDepartment *group, const LdapAttribute *attribute,
			const struct berval *value)
{
	LdapPerson *person;
	LdapDepartment *child;
	char	   *key;

	if (pg_strcasecmp(attribute->name, "memberUid") == 0)
		key = psprintf(LOGIN_MARK "%.*s", (int) value->bv_len, value->bv_val);
	else
		key = uds_dn_normalize(value->bv_val, name_len(value));
	if (key == NULL)
		return;
	person = uds_ldap_table_get(reader->people, key);
	child = person ? NULL : uds_ldap_table_get(reader->departments, key);
	if (person != NULL)
		uds_ldap_put_member(reader, person, group, false);
	else if (child != NULL && child->group && child != group &&
			 (child->parent == NULL || strcmp(group->normal, child->parent->normal) < 0))
		child->parent = group;	/* of several, always the same */
	pfree(key);
}

/* More members are to be asked for: an array that is too long comes in ranges. */
static void
add_range(LdapReader *reader, const LdapEntry *entry, const LdapAttribute *attribute,
		  int64 next, LdapDepartment *group)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->context);
	LdapRange  *range = palloc0(sizeof(LdapRange));

	range->dn = pnstrdup(entry->dn, entry->dn_len);
	range->attribute = attribute->name;
	range->next = next;
	range->group = group;
	reader->ranges = lappend(reader->ranges, range);
	MemoryContextSwitchTo(caller);
}

static void
take_members(void *arg, const LdapEntry *entry, const char *name, int len, BerVarray values)
{
	Taking	   *taking = arg;
	LdapReader *reader = taking->reader;
	const LdapAttribute *attribute = find_described(&reader->settings->member_attributes, name, len);
	int64		next = uds_ldap_range(name, len);

	if (attribute == NULL || entry->normal == NULL)
		return;
	if (taking->group == NULL)
		taking->group = uds_ldap_table_get(reader->departments, entry->normal);
	if (taking->group == NULL)
		return;					/* it came into being just now */
	for (int i = 0; values != NULL && values[i].bv_val != NULL; i++)
	{
		/* the scratch context is reset after the entry; a group may be large */
		take_member(reader, taking->group, attribute, &values[i]);
	}
	if (next > 0)
		add_range(reader, entry, attribute, next, taking->group);
}

static void
take_group_members(void *arg, LdapClient *client)
{
	LdapReader *reader = arg;
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);
	static const LdapAttributes none = {0};
	Taking		taking = {reader};
	LdapEntry	entry;

	uds_ldap_entry_append(client, NULL, &none, &entry, take_members, &taking);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(reader->scratch);
}

/* The pages of this listing are those of the members, cut as they come. */
static void
take_member_page(void *arg, LdapClient *client, bool last)
{
}

/* Reads the rest of what came in ranges; each may bring one more. */
static void
read_ranges(LdapReader *reader)
{
	while (reader->ranges != NIL)
	{
		LdapRange  *range = linitial(reader->ranges);
		LdapSearch	search = {0};

		reader->ranges = list_delete_first(reader->ranges);
		search.base = range->dn;
		search.scope = LDAP_SCOPE_BASE;
		search.filter = "(objectClass=*)";
		search.attributes = uds_ldap_names(1, psprintf("%s;range=" INT64_FORMAT "-*",
													   range->attribute, range->next));
		search.entry = take_group_members;
		search.page = take_member_page;
		reader->search = search;
		uds_ldap_list(reader, LDAP_STREAM_MEMBERS);
	}
}

/*
 * Reads the members of all groups, when groups and people are known.
 */
void
uds_ldap_read_members(LdapReader *reader)
{
	const LdapSettings *settings = reader->settings;
	LdapSearch	search = {0};

	search.base = settings->group_base;
	search.scope = LDAP_SCOPE_SUBTREE;
	search.filter = settings->group_filter;
	search.attributes = uds_ldap_wanted(reader, &settings->member_attributes, NULL, NULL);
	search.page_size = settings->page_size;
	search.entry = take_group_members;
	search.page = take_member_page;
	reader->search = search;
	uds_ldap_list(reader, LDAP_STREAM_MEMBERS);
	read_ranges(reader);
	uds_ldap_page_emit(reader, &reader->members, "members");
	reader->result->streams = lappend(reader->result->streams, LDAP_STREAM_MEMBERS);
}

static int
compare_departments(const ListCell *a, const ListCell *b)
{
	return strcmp(((LdapDepartment *) lfirst(a))->normal, ((LdapDepartment *) lfirst(b))->normal);
}

/* Whether a department is above itself. */
static bool
is_in_circle(const LdapDepartment *department)
{
	const LdapDepartment *above = department->parent;

	for (int i = 0; above != NULL && above != department && i < MAX_DEPTH; i++)
		above = above->parent;
	return above == department;
}

/*
 * What is above each department: for a group the one that it is a member of,
 * else the unit that it is in.  Groups in a circle: the first by name is cut
 * off.
 */
static void
find_parents(LdapReader *reader)
{
	ListCell   *lc;

	list_sort(reader->department_list, compare_departments);
	foreach(lc, reader->department_list)
	{
		LdapDepartment *department = lfirst(lc);

		if (is_in_circle(department))
			department->parent = NULL;
		if (department->parent == NULL)
			department->parent = uds_ldap_department_above(reader, department->normal);
	}
}

/*
 * Hands over what is below what, and whose departments are.
 */
void
uds_ldap_put_links(LdapReader *reader)
{
	LdapPage   *page = &reader->page;
	ListCell   *lc;
	ListCell   *owner;

	find_parents(reader);
	uds_ldap_page_begin(page, LDAP_STREAM_LINKS);
	foreach(lc, reader->department_list)
	{
		const LdapDepartment *department = lfirst(lc);
		StringInfo	out = uds_ldap_page_add(page);
		const char *separator = "";

		appendStringInfoString(out, "{\"id\":");
		uds_ldap_append_text(out, department->id, (int) strlen(department->id));
		appendStringInfoString(out, ",\"parent\":");
		if (department->parent != NULL)
			uds_ldap_append_text(out, department->parent->id, (int) strlen(department->parent->id));
		else
			appendStringInfoString(out, "null");
		appendStringInfoString(out, ",\"owners\":[");
		foreach(owner, department->owners)
		{
			const LdapPerson *person = uds_ldap_table_get(reader->people, lfirst(owner));

			if (person == NULL)
				continue;
			appendStringInfoString(out, separator);
			uds_ldap_append_text(out, person->id, (int) strlen(person->id));
			separator = ",";
		}
		appendStringInfoString(out, "]}");
		if (uds_ldap_page_is_full(page))
			uds_ldap_page_emit(reader, page, "what departments refer to");
	}
	uds_ldap_page_emit(reader, page, "what departments refer to");
	reader->result->streams = lappend(reader->result->streams, LDAP_STREAM_LINKS);
}
