/*-------------------------------------------------------------------------
 *
 * gate.c
 *		Where connections come in: the socket of the listener.
 *
 * Each process of the listener has a socket of its own, of the same port, and
 * the kernel deals connections out to them.  A process that is about to be
 * busy for long closes its socket, so that they all go to the others.
 *
 * One epoll descriptor stands for the socket and for the server behind it.
 * The socket is not in it while there is no room for another connection.
 *
 * Runs in the listener, outside any transaction; takes the LWLock of the
 * extension.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "storage/fd.h"

#include "listen/connection.h"
#include "listen/server.h"
#include "process/process.h"
#include "uds.h"

/* connections accepted before those that are there get their turn */
#define AT_A_TIME 64

static int	epoll = -1;
static int	gate = -1;			/* the socket, -1 while it is closed */
static bool watched = false;	/* it is in the epoll set */

static bool
watch(int fd, bool add)
{
	struct epoll_event event = {.events = EPOLLIN};

	return epoll_ctl(epoll, add ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &event) == 0;
}

/*
 * The descriptor that becomes readable when there is something to do.  ERROR if
 * there is none to be had.
 */
int
uds_gate_fd(void)
{
	if (epoll < 0)
		epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("uds: could not create an epoll descriptor: %m")));
	return epoll;
}

/*
 * Has the server's descriptor watched, too.  One that is closed is forgotten.
 */
void
uds_gate_add_server(int fd)
{
	(void) uds_gate_fd();
	if (!watch(fd, true))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("uds: could not watch the HTTP server: %m")));
}

/*
 * Lets connections in, if they are not let in already.  ERROR if the port
 * cannot be had.
 */
void
uds_gate_open(void)
{
	if (gate >= 0)
		return;
	(void) uds_gate_fd();
	gate = uds_listen_open_socket();
	watched = watch(gate, true);
}

/* Takes the next connection; false if there is none. */
static bool
accept_one(void)
{
	struct sockaddr_storage address;
	socklen_t	len = sizeof(address);
	int			one = 1;
	int			fd = accept4(gate, (struct sockaddr *) &address, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

	/* one that is gone already does not mean that there is no other */
	if (fd < 0)
		return errno == ECONNABORTED || errno == EINTR;
	(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	uds_server_add(fd, (struct sockaddr *) &address, len);
	return true;
}

/*
 * How many connections there may be: half of the files that the process may
 * open are for the server's own.  Without one of these requests fail, and if it
 * is one of WAL, the server does.
 */
int
uds_gate_limit(void)
{
	return Min(uds_listen_max_connections, max_safe_fds / 2);
}

/*
 * Takes the connections that have come, as far as there is room.
 */
void
uds_gate_accept(void)
{
	bool		room = true;

	if (gate < 0)
		return;
	for (int i = 0; i < AT_A_TIME; i++)
	{
		room = uds_connections_count() < uds_gate_limit();
		if (!room || !accept_one())
			break;
	}
	/* else we would be woken for it again and again */
	if (room != watched && watch(gate, room))
		watched = room;
}

/*
 * Lets nobody in any more, after those who have come already.
 */
void
uds_gate_close(void)
{
	if (gate < 0)
		return;
	while (uds_connections_count() < uds_gate_limit() && accept_one())
		;
	uds_listener_leave_port();
	close(gate);
	gate = -1;
	watched = false;
}
