/*-------------------------------------------------------------------------
 *
 * ldap_read.h
 *		A read of a directory: what its parts share.
 *
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_FETCH_LDAP_READ_H
#define UDS_FETCH_LDAP_READ_H

#include "compat.h"
#include "fetch/ldap_client.h"

/* Streams of the manifest, by what is read. */
#define LDAP_STREAM_DEPARTMENTS "departments"
#define LDAP_STREAM_GROUPS "groups"
#define LDAP_STREAM_USERS "users"
#define LDAP_STREAM_MEMBERS "members"
#define LDAP_STREAM_LINKS "department_links"
#define LDAP_STREAM_LEFT "left"
#define LDAP_STREAM_DEPARTMENTS_LEFT "departments_left"

/* Things found by a text, mostly the normal form of a name. */
typedef struct LdapTable LdapTable;

typedef struct LdapPerson
{
	char	   *id;
	char	   *manager;		/* normal form, or NULL */
} LdapPerson;

typedef struct LdapDepartment
{
	char	   *id;
	char	   *normal;			/* its name */
	bool		group;
	struct LdapDepartment *parent;
	List	   *owners;			/* of char *, normal forms */
} LdapDepartment;

/* Values that are yet to be asked for. */
typedef struct LdapRange
{
	char	   *dn;
	char	   *attribute;
	int64		next;			/* the first one of them */
	LdapDepartment *group;
} LdapRange;

/* A page that is being put together. */
typedef struct LdapPage
{
	const char *stream;
	StringInfoData json;		/* an array without its end */
	int			records;
	int			number;
} LdapPage;

typedef struct LdapReader
{
	const char *source;
	const LdapSettings *settings;
	const UdsFetchHooks *hooks;
	UdsFetchResult *result;
	MemoryContext context;		/* of the read */
	MemoryContext scratch;		/* reset after each entry */
	LdapClient *client;
	LdapServer	server;
	LdapTable  *departments;	/* of LdapDepartment *, by name */
	List	   *department_list;
	LdapTable  *people;			/* of LdapPerson *, by name; by login, too */
	bool		keeps_people;	/* all of them are needed */
	LdapPage	page;			/* of the listing */
	LdapPage	members;		/* beside it */
	LdapSearch	search;			/* the listing */
	const char *shown;			/* it, for the raw log */
	List	   *referrals;		/* of char *, where it goes on */
	char	   *latest;			/* greatest modifyTimestamp */
	int64		begun;			/* on uds_ldap_clock() */
	List	   *ranges;			/* of LdapRange *, to be read yet */
	bool		has_members;	/* they were put already, of all people */
	struct LdapChanges *changes;	/* an incremental read, or NULL */
} LdapReader;

/* ldap_read.c */
extern LdapTable *uds_ldap_table_make(MemoryContext parent);
extern void uds_ldap_table_put(LdapTable *table, const char *key, void *value);
extern void *uds_ldap_table_get(const LdapTable *table, const char *key);
extern LdapReader *uds_ldap_reader_open(const char *source, const LdapSettings *settings,
										const UdsFetchHooks *hooks, UdsFetchResult *result);
extern void uds_ldap_reader_require(LdapReader *reader);
uds_noreturn extern void uds_ldap_reader_raise(LdapReader *reader, const char *stream);
extern void uds_ldap_page_begin(LdapPage *page, const char *stream);
extern StringInfo uds_ldap_page_add(LdapPage *page);
extern void uds_ldap_page_emit(LdapReader *reader, LdapPage *page, const char *request);
extern void uds_ldap_page_cut(LdapReader *reader);
extern bool uds_ldap_page_is_full(const LdapPage *page);
extern void uds_ldap_list(LdapReader *reader, const char *stream);
extern bool uds_ldap_try_list(LdapReader *reader, const char *stream);
extern char **uds_ldap_wanted(const LdapReader *reader, const LdapAttributes *attributes,
							  const LdapAttributes *more, const char *last);
extern void uds_ldap_note_time(LdapReader *reader, const char *name, int len, BerVarray values);

/* ldap.c */
extern void uds_ldap_prepare_users(LdapReader *reader);
extern void uds_ldap_take_user(LdapReader *reader, LdapClient *client, LdapEntry *entry);
extern void uds_ldap_read_structure(LdapReader *reader, bool people);

/* ldap_changes.c */
typedef struct LdapNote LdapNote;
extern LdapNote *uds_ldap_note_begin(LdapReader *reader);
extern char *uds_ldap_note_end(LdapReader *reader, const LdapNote *note);
extern char *uds_ldap_read_changes(LdapReader *reader, const char *state);

/* ldap_departments.c */
extern void uds_ldap_prepare_departments(LdapReader *reader, bool groups);
extern void uds_ldap_read_departments(LdapReader *reader, bool groups);
extern void uds_ldap_read_members(LdapReader *reader);
extern void uds_ldap_put_links(LdapReader *reader);
extern LdapDepartment *uds_ldap_department_above(LdapReader *reader, const char *normal);
extern void uds_ldap_add_owner(LdapReader *reader, LdapDepartment *department, const char *normal);
extern void uds_ldap_put_member(LdapReader *reader, const LdapPerson *person,
								LdapDepartment *department, bool is_main);

#endif							/* UDS_FETCH_LDAP_READ_H */
