/*-------------------------------------------------------------------------
 *
 * ldap_channel.h
 *		The bytes between libldap and a server: buffered, and encrypted once
 *		that is asked for.
 *
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_FETCH_LDAP_CHANNEL_H
#define UDS_FETCH_LDAP_CHANNEL_H

#include <lber.h>

typedef struct LdapChannel LdapChannel;

/* What TLS is to be like. */
typedef struct LdapTlsSettings
{
	const char *host;			/* that the certificate is for */
	const char *ca_file;		/* PEM, or NULL for what the system trusts */
	const char *cert_file;		/* our own certificate, PEM, or NULL */
	const char *key_file;		/* its key; NULL = in the same file */
} LdapTlsSettings;

typedef enum LdapHandshake
{
	LDAP_HANDSHAKE_DONE,
	LDAP_HANDSHAKE_WANTS_READ,
	LDAP_HANDSHAKE_WANTS_WRITE,
	LDAP_HANDSHAKE_CUT,			/* may pass */
	LDAP_HANDSHAKE_FAILED
} LdapHandshake;

extern LdapChannel *uds_ldap_channel_open(int fd);
extern void uds_ldap_channel_close(LdapChannel *channel);
extern void uds_ldap_channel_free(LdapChannel *channel);
extern bool uds_ldap_channel_attach(LdapChannel *channel, Sockbuf *sockbuf);
extern bool uds_ldap_channel_begin_tls(LdapChannel *channel,
									   const LdapTlsSettings *settings,
									   char *problem, size_t size);
extern LdapHandshake uds_ldap_channel_handshake(LdapChannel *channel,
												char *problem, size_t size);
extern const char *uds_ldap_channel_fault(const LdapChannel *channel);

#endif							/* UDS_FETCH_LDAP_CHANNEL_H */
