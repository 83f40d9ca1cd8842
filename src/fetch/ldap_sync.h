/*-------------------------------------------------------------------------
 *
 * ldap_sync.h
 *		Controls and messages of LDAP content synchronization (RFC 4533).
 *
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_FETCH_LDAP_SYNC_H
#define UDS_FETCH_LDAP_SYNC_H

#include "fetch/ldap_client.h"

typedef enum LdapSyncState
{
	LDAP_SYNC_STATE_PRESENT = 0,
	LDAP_SYNC_STATE_ADD = 1,
	LDAP_SYNC_STATE_MODIFY = 2,
	LDAP_SYNC_STATE_DELETE = 3,
	LDAP_SYNC_STATE_NONE = -1	/* no control came with the entry */
} LdapSyncState;

/* What has been said of the whole. */
typedef struct LdapSyncInfo
{
	MemoryContext context;		/* of what is in here */
	char	   *cookie;			/* the last one, or NULL */
	List	   *deleted;		/* of char *, UUIDs as text */
	List	   *present;		/* the same */
	bool		present_phase;	/* who was not named is gone */
	bool		malformed;
} LdapSyncInfo;

extern LDAPControl *uds_ldap_sync_control(const char *cookie);
extern LdapSyncState uds_ldap_sync_state(LdapClient *client, char *uuid);
extern void uds_ldap_sync_message(LdapSyncInfo *info, LdapClient *client);
extern void uds_ldap_sync_done(LdapSyncInfo *info, LdapClient *client);

#endif							/* UDS_FETCH_LDAP_SYNC_H */
