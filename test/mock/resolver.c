/*-------------------------------------------------------------------------
 *
 * resolver.c
 *		Names of our own for a server under test, by way of LD_PRELOAD.
 *
 * UDS_TEST_HOSTS holds "name=address,address" entries, parted by blanks; an
 * address "hang" never answers.  All other names go to the system.
 *
 * Build it with: cc -shared -fPIC -o resolver.so resolver.c -ldl
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int (*Resolve) (const char *, const char *, const struct addrinfo *,
						struct addrinfo **);

/* The addresses of a name, or NULL; "=" and what follows. */
static const char *
find_name(const char *hosts, const char *name)
{
	size_t		len = strlen(name);

	while (hosts != NULL && *hosts != '\0')
	{
		if (strncasecmp(hosts, name, len) == 0 && hosts[len] == '=')
			return hosts + len + 1;
		hosts += strcspn(hosts, " ");
		hosts += strspn(hosts, " ");
	}
	return NULL;
}

int
getaddrinfo(const char *name, const char *service,
			const struct addrinfo *hints, struct addrinfo **result)
{
	Resolve		next = (Resolve) dlsym(RTLD_NEXT, "getaddrinfo");
	const char *list = name ? find_name(getenv("UDS_TEST_HOSTS"), name) : NULL;
	struct addrinfo numeric = {0};
	struct addrinfo *first = NULL;
	struct addrinfo **last = &first;

	if (list == NULL)
		return next(name, service, hints, result);
	if (hints != NULL)
		numeric = *hints;
	numeric.ai_family = AF_UNSPEC;
	numeric.ai_flags |= AI_NUMERICHOST;
	for (;;)
	{
		char		address[64];
		size_t		len = strcspn(list, ", ");
		int			code;

		if (len >= sizeof(address))
			abort();
		memcpy(address, list, len);
		address[len] = '\0';
		while (strcmp(address, "hang") == 0)
			pause();
		code = next(address, service, &numeric, last);
		if (code != 0)
			return code;
		while (*last != NULL)
			last = &(*last)->ai_next;
		if (list[len] != ',')
			break;
		list += len + 1;
	}
	*result = first;
	return 0;
}
