/*-------------------------------------------------------------------------
 *
 * address_fuzz.c
 *		libFuzzer target over the rules of uds.allowed_hosts.
 *
 * The input is one byte for the family, 16 for the address, a host name up
 * to a newline, and the rules.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/fetch/address.c */
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fetch/address.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sockaddr_storage storage;
	struct sockaddr_in *v4 = (struct sockaddr_in *) &storage;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *) &storage;
	struct sockaddr *address = (struct sockaddr *) &storage;
	UdsHostRules *rules;
	char	   *host;
	char	   *text;
	char	   *error = NULL;

	if (size < 17)
		return 0;
	memset(&storage, 0, sizeof(storage));
	if (data[0] & 1)
	{
		v6->sin6_family = AF_INET6;
		memcpy(&v6->sin6_addr, data + 1, 16);
	}
	else
	{
		v4->sin_family = AF_INET;
		memcpy(&v4->sin_addr, data + 1, 4);
	}

	host = malloc(size - 17 + 1);
	memcpy(host, data + 17, size - 17);
	host[size - 17] = '\0';
	text = strchr(host, '\n');
	if (text != NULL)
		*text++ = '\0';

	rules = uds_host_rules_parse(text, &error);
	if ((rules == NULL) != (error != NULL))
		abort();
	if (rules != NULL)
	{
		bool		allowed = uds_address_allowed(rules, host, address);

		/* rules only ever add to what is public */
		if (uds_address_is_public(address) && !allowed)
			abort();
		if (uds_address_allowed(NULL, host, address) && !allowed)
			abort();
	}
	uds_host_rules_free(rules);
	free(error);
	free(host);
	return 0;
}
