/*-------------------------------------------------------------------------
 *
 * ldap_changes.h
 *		What is shared by those who read changes of a directory.
 *
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_FETCH_LDAP_CHANGES_H
#define UDS_FETCH_LDAP_CHANGES_H

#include "fetch/ldap_read.h"

/* How changes are found. */
typedef enum LdapMethod
{
	LDAP_METHOD_NONE,
	LDAP_METHOD_USN,
	LDAP_METHOD_SYNC,
	LDAP_METHOD_MODIFIED
} LdapMethod;

/* ldap_state.c */
extern bool uds_ldap_has_control(const LdapReader *reader, const char *oid);
extern LdapMethod uds_ldap_method(const LdapReader *reader);
extern const char *uds_ldap_method_name(LdapMethod method);
extern char *uds_ldap_make_cookie(LdapReader *reader);
extern char *uds_ldap_invocation_id(LdapReader *reader);
extern char *uds_ldap_modified_state(const LdapReader *reader);
extern char *uds_ldap_since_state(const char *since);
extern char *uds_ldap_usn_state(const char *host, const char *invocation_id, const char *usn);
extern char *uds_ldap_sync_state_text(const char *cookie);

#endif							/* UDS_FETCH_LDAP_CHANGES_H */
