/*-------------------------------------------------------------------------
 *
 * ldap_value.h
 *		Values of a directory's attributes, as JSON.
 *
 * Pure C: compiles with FRONTEND for unit tests and fuzzing.  Any process,
 * no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_FETCH_LDAP_VALUE_H
#define UDS_FETCH_LDAP_VALUE_H

#include "lib/stringinfo.h"

/* What the values of an attribute are. */
typedef enum LdapKind
{
	LDAP_KIND_TEXT,
	LDAP_KIND_BINARY,
	LDAP_KIND_GUID,				/* 16 bytes, as Microsoft writes them */
	LDAP_KIND_UUID,				/* text */
	LDAP_KIND_SID,
	LDAP_KIND_TIME,				/* generalized time */
	LDAP_KIND_FILETIME,			/* ticks of 100 ns since 1601 */
	LDAP_KIND_ACCOUNT			/* userAccountControl */
} LdapKind;

typedef struct LdapAttribute
{
	char	   *name;			/* as asked for */
	int			len;
	LdapKind	kind;
} LdapAttribute;

typedef struct LdapAttributes
{
	int			count;
	LdapAttribute *items;
} LdapAttributes;

/* a range of values that came of more: "member;range=0-1499" */
#define LDAP_RANGE_NONE (-1)	/* the name has none */
#define LDAP_RANGE_LAST 0		/* the rest is here */

extern LdapKind uds_ldap_kind(const char *name);
extern void uds_ldap_attributes_add(LdapAttributes *attributes, const char *names);
extern const LdapAttribute *uds_ldap_attributes_find(const LdapAttributes *attributes,
													 const char *name, int len);
extern int64 uds_ldap_range(const char *description, int len);
extern bool uds_ldap_guid_text(const char *bytes, int len, char *text);
extern bool uds_ldap_uuid_text(const char *bytes, int len, char *text);
extern char *uds_ldap_sid_text(const char *bytes, int len);
extern char *uds_ldap_time_iso(const char *text, int len);
extern bool uds_ldap_filetime_iso(const char *text, int len, char *iso, size_t size);
extern void uds_ldap_append_text(StringInfo out, const char *text, int len);
extern void uds_ldap_append_value(StringInfo out, LdapKind kind, const char *bytes, int len);
extern void uds_ldap_append_account(StringInfo out, uint32 control);
extern bool uds_ldap_filter_valid(const char *filter);
extern void uds_ldap_filter_escape(StringInfo out, const char *bytes, int len);

#endif							/* UDS_FETCH_LDAP_VALUE_H */
