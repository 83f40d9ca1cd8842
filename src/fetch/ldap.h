/*-------------------------------------------------------------------------
 *
 * ldap.h
 *		Sources that are directories, read over LDAP.
 *
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_FETCH_LDAP_H
#define UDS_FETCH_LDAP_H

#include "catalog/catalog.h"

/* ldap.c */
extern UdsFetchResult *uds_ldap_run(const UdsManifest *manifest, const char *source_name,
									const char *options_json, const char *state,
									bool incremental, const UdsFetchHooks *hooks);

/* ldap_test.c */
extern List *uds_ldap_test(const UdsManifest *manifest, const char *source_name,
						   const char *options_json, const UdsFetchHooks *hooks);

/* ldap_settings.c */
extern char *uds_ldap_check_options(const UdsManifest *manifest, const char *options_json);

#endif							/* UDS_FETCH_LDAP_H */
