/*-------------------------------------------------------------------------
 *
 * address.h
 *		Which hosts and addresses may be talked to (uds.allowed_hosts).
 *
 * Pure C: compiles with FRONTEND for unit tests and fuzzing.  Any process,
 * no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_FETCH_ADDRESS_H
#define UDS_FETCH_ADDRESS_H

#include <sys/socket.h>

typedef struct UdsHostRules UdsHostRules;

extern UdsHostRules *uds_host_rules_parse(const char *text, char **error);
extern void uds_host_rules_free(UdsHostRules *rules);
extern bool uds_host_rules_name(const UdsHostRules *rules,
								const struct sockaddr *address);
extern bool uds_address_is_public(const struct sockaddr *address);
extern bool uds_address_allowed(const UdsHostRules *rules, const char *host,
								const struct sockaddr *address);

#endif							/* UDS_FETCH_ADDRESS_H */
