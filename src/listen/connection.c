/*-------------------------------------------------------------------------
 *
 * connection.c
 *		Connections to the listener, and how long they may take.
 *
 * libmicrohttpd gives up on clients that send nothing; those that send a byte
 * now and then are cut off here.  A connection has a deadline whenever it is
 * the client's turn.
 *
 * Runs in the listener, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>

#include "storage/fd.h"

#include "listen/connection.h"
#include "listen/server.h"

static dlist_head connections = DLIST_STATIC_INIT(connections);
static int	first_grant = 0;
static uint64 ended = 0;
static int	count = 0;

/*
 * Milliseconds on a clock that nobody sets.
 */
int64
uds_server_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * It is the client's turn, for so many milliseconds.
 */
void
uds_connection_grant(UdsConnection *connection, int ms)
{
	connection->deadline = uds_server_clock() + ms;
}

/*
 * Who the client is: behind one of our proxies, whom that has seen.
 */
void
uds_connection_client(const UdsConnection *connection, struct MHD_Connection *mhd,
					  const UdsHostRules *proxies, char *address, size_t size)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	const char *forwarded = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "X-Forwarded-For");

	if (forwarded != NULL && proxies != NULL && info != NULL &&
		uds_host_rules_name(proxies, info->client_addr) &&
		uds_route_forwarded(forwarded, address, size))
		return;
	strlcpy(address, connection->address, size);
}

/*
 * Connections that begin from now on get so many milliseconds for the headers
 * of their first request.
 */
void
uds_connections_limit(int ms)
{
	first_grant = ms;
}

/* The address of a peer as text; one of IPv4 within IPv6 as IPv4. */
static void
name_address(const struct sockaddr *address, char *text, size_t size)
{
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *) address;

	text[0] = '\0';
	if (address == NULL)
		return;
	if (address->sa_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *) address)->sin_addr, text, size);
	else if (address->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
		inet_ntop(AF_INET, six->sin6_addr.s6_addr + 12, text, size);
	else if (address->sa_family == AF_INET6)
		inet_ntop(AF_INET6, &six->sin6_addr, text, size);
}

/*
 * Called by libmicrohttpd when a connection begins and when it has ended.
 */
void
uds_connection_notify(void *arg, struct MHD_Connection *mhd, void **socket_context,
					  enum MHD_ConnectionNotificationCode what)
{
	UdsConnection *connection = *socket_context;

	if (what == MHD_CONNECTION_NOTIFY_CLOSED)
	{
		if (connection == NULL)
			return;
		dlist_delete(&connection->node);
		free(connection);
		ended++;
		count--;
		ReleaseExternalFD();
		*socket_context = NULL;
		return;
	}
	connection = calloc(1, sizeof(UdsConnection));
	*socket_context = connection;
	if (connection == NULL)
		return;
	/* the server keeps fewer of its own files open then */
	ReserveExternalFD();
	connection->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	uds_connection_grant(connection, first_grant);
	name_address(MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr,
				 connection->address, sizeof(connection->address));
	dlist_push_tail(&connections, &connection->node);
	count++;
}

/*
 * Cuts off those who take too long.
 */
void
uds_connections_expire(void)
{
	int64		now = uds_server_clock();
	dlist_iter	iter;

	dlist_foreach(iter, &connections)
	{
		UdsConnection *connection = dlist_container(UdsConnection, node, iter.cur);

		if (connection->deadline > now)
			continue;
		connection->deadline = PG_INT64_MAX;
		/* libmicrohttpd finds out and closes it */
		shutdown(connection->fd, SHUT_RDWR);
	}
}

/*
 * How many connections have ended since the process began.
 */
uint64
uds_connections_ended(void)
{
	return ended;
}

/*
 * How many there are.
 */
int
uds_connections_count(void)
{
	return count;
}

/*
 * When the next connection is to be cut off; PG_INT64_MAX if none is.
 */
int64
uds_connections_deadline(void)
{
	int64		at = PG_INT64_MAX;
	dlist_iter	iter;

	dlist_foreach(iter, &connections)
		at = Min(at, dlist_container(UdsConnection, node, iter.cur)->deadline);
	return at;
}
