/*-------------------------------------------------------------------------
 *
 * ldap_connect.c
 *		A connection to a directory: address, TLS, bind.
 *
 * The socket is made where those of HTTP are made, so the same addresses are
 * allowed and a name that does not resolve can be interrupted.
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <openldap.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "compat.h"
#include "fetch/address.h"
#include "fetch/http.h"
#include "fetch/ldap_client.h"
#include "uds.h"

/* largest message that is taken; a page is limited, too, but as a whole */
#define MAX_MESSAGE_KB uds_max_page_size

/* Ends the connection; raises nothing. */
static void
drop(LdapClient *client)
{
	uds_ldap_release(client);
	if (client->waits != NULL)
		FreeWaitEventSet(client->waits);
	client->waits = NULL;
	if (client->ld != NULL)
		ldap_unbind_ext(client->ld, NULL, NULL);
	client->ld = NULL;
	uds_ldap_channel_free(client->channel);
	client->channel = NULL;
	client->fd = -1;
	client->step = LDAP_STEP_ADDRESS;
}

/* Memory context callback. */
static void
free_client(void *arg)
{
	LdapClient *client = arg;

	drop(client);
	for (; client->reserved_fds > 0; client->reserved_fds--)
		ReleaseExternalFD();
}

/*
 * Makes a client without a connection, in a context of its own under the
 * current one.  ERROR if there is no file descriptor for it.
 */
LdapClient *
uds_ldap_open(const char *source, const LdapSettings *settings, UdsFetchProgress *totals)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "uds LDAP client",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	LdapClient *client = palloc0(sizeof(LdapClient));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

	client->context = context;
	client->source = source;
	client->settings = settings;
	client->totals = totals;
	client->fd = -1;
	callback->func = free_client;
	callback->arg = client;
	MemoryContextRegisterResetCallback(context, callback);
	MemoryContextSwitchTo(caller);

	/* files of the server's administrator, or of a user, shall not matter */
	setenv("LDAPNOINIT", "1", 1);
	/* the socket, and that of the waits */
	while (client->reserved_fds < 2 && AcquireExternalFD())
		client->reserved_fds++;
	if (client->reserved_fds < 2)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not read source \"%s\": out of file descriptors", source)));
	return client;
}

/*
 * Ends the connection, if there is one.
 */
void
uds_ldap_disconnect(LdapClient *client)
{
	drop(client);
}

/*
 * Ends the client, its faults with it.
 */
void
uds_ldap_close(LdapClient *client)
{
	MemoryContextDelete(client->context);
}

static bool
fail_text(LdapClient *client, int sqlstate, bool passing, const char *what, const char *hint)
{
	return uds_ldap_fail(client, LDAP_CONNECT_ERROR, sqlstate, passing,
						 MemoryContextStrdup(client->context, what), hint);
}

/* Connects over TCP; a socket that does not block, or -1. */
static int
connect_tcp(LdapClient *client, const LdapUrl *url)
{
	UdsHttpLimits limits = {0};
	UdsHttpRequest request = {0};
	UdsHttpClient *http;
	UdsHttpResponse *response;
	int			fd;

	limits.connections = 1;
	limits.connect_timeout = uds_http_connect_timeout;
	limits.timeout = uds_http_connect_timeout;
	limits.max_body = 1;
	http = uds_http_open(CurrentMemoryContext, &limits);
	request.url = psprintf(strchr(url->host, ':') ? "http://[%s]:%d" : "http://%s:%d",
						   url->host, url->port);
	request.connect_only = true;
	uds_http_send(http, &request);
	response = uds_http_next(http, -1);
	fd = response->socket;
	if (response->fault == UDS_HTTP_ADDRESS)
		fail_text(client, ERRCODE_CONNECTION_FAILURE, false, response->fault_text,
				  "A superuser can add the host to uds.allowed_hosts.");
	else if (response->fault != UDS_HTTP_OK)
		fail_text(client, ERRCODE_CONNECTION_FAILURE, response->fault != UDS_HTTP_URL,
				  response->fault_text, NULL);
	else if (fd < 0)
		fail_text(client, ERRCODE_CONNECTION_FAILURE, true, "no connection came about", NULL);
	uds_http_close(http);
	return fd;
}

/* A socket of this machine counts as its loopback address. */
static bool
socket_allowed(void)
{
	struct sockaddr_in loopback = {.sin_family = AF_INET};
	char	   *error;
	UdsHostRules *rules = uds_host_rules_parse(uds_allowed_hosts, &error);
	bool		allowed;

	loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	allowed = uds_address_allowed(rules, "localhost", (struct sockaddr *) &loopback);
	uds_host_rules_free(rules);
	free(error);
	return allowed;
}

/* Connects to a socket in the file system; as above. */
static int
connect_socket(LdapClient *client, const LdapUrl *url)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int			fd;

	if (!socket_allowed())
	{
		fail_text(client, ERRCODE_CONNECTION_FAILURE, false,
				  "sockets of this machine are not allowed",
				  "A superuser can add localhost to uds.allowed_hosts.");
		return -1;
	}
	if (strlcpy(address.sun_path, url->host, sizeof(address.sun_path)) >= sizeof(address.sun_path))
	{
		fail_text(client, ERRCODE_CONNECTION_FAILURE, false, "the path of the socket is too long", NULL);
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *) &address, sizeof(address)) != 0)
	{
		int			saved = errno;

		close(fd);
		fd = -1;
		errno = saved;
	}
	if (fd < 0)
		fail_text(client, ERRCODE_CONNECTION_FAILURE, true,
				  psprintf("could not connect to socket %s (%s)", url->host, strerror(errno)), NULL);
	return fd;
}

/* Sets what libldap is to do, and above all not to do, with a handle. */
static bool
set_options(LDAP *ld)
{
	int			version = LDAP_VERSION3;
	int			deref = LDAP_DEREF_NEVER;
	ber_len_t	max = (ber_len_t) MAX_MESSAGE_KB * 1024;
	Sockbuf    *sockbuf = NULL;

	return ldap_set_option(ld, LDAP_OPT_PROTOCOL_VERSION, &version) == LDAP_OPT_SUCCESS &&
		ldap_set_option(ld, LDAP_OPT_REFERRALS, LDAP_OPT_OFF) == LDAP_OPT_SUCCESS &&
		ldap_set_option(ld, LDAP_OPT_RESTART, LDAP_OPT_ON) == LDAP_OPT_SUCCESS &&
		ldap_set_option(ld, LDAP_OPT_DEREF, &deref) == LDAP_OPT_SUCCESS &&
		ldap_get_option(ld, LDAP_OPT_SOCKBUF, &sockbuf) == LDAP_OPT_SUCCESS &&
		ber_sockbuf_ctrl(sockbuf, LBER_SB_OPT_SET_MAX_INCOMING, &max) >= 0;
}

/* Puts a handle of libldap's over a socket, which is the client's then. */
static bool
make_handle(LdapClient *client, int fd)
{
	Sockbuf    *sockbuf = NULL;

	client->channel = uds_ldap_channel_open(fd);
	client->fd = fd;
	if (client->channel == NULL ||
		ldap_init_fd(fd, LDAP_PROTO_EXT, NULL, &client->ld) != LDAP_SUCCESS ||
		!set_options(client->ld) ||
		ldap_get_option(client->ld, LDAP_OPT_SOCKBUF, &sockbuf) != LDAP_OPT_SUCCESS ||
		!uds_ldap_channel_attach(client->channel, sockbuf))
	{
		drop(client);
		return fail_text(client, ERRCODE_OUT_OF_MEMORY, false, "out of memory", NULL);
	}
	return true;
}

/* Most of a read is waiting: what for is told to the system once. */
static void
make_waits(LdapClient *client)
{
	MemoryContext caller = MemoryContextSwitchTo(client->context);

	client->waits = uds_make_wait_set(3);
	AddWaitEventToSet(client->waits, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(client->waits, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(client->waits, WL_SOCKET_READABLE, client->fd, NULL, NULL);
	MemoryContextSwitchTo(caller);
}

/* Makes the handshake, not longer than a connection may take. */
static bool
handshake(LdapClient *client)
{
	int64		deadline = uds_ldap_clock() + uds_http_connect_timeout;
	LdapTlsSettings tls = {0};
	LdapHandshake state;
	char		problem[256] = "";

	tls.host = client->url->host;
	tls.ca_file = client->settings->ca_file;
	tls.cert_file = client->settings->cert_file;
	tls.key_file = client->settings->key_file;
	if (!uds_ldap_channel_begin_tls(client->channel, &tls, problem, sizeof(problem)))
		return fail_text(client, ERRCODE_CONNECTION_FAILURE, false,
						 psprintf("no trusted TLS connection to %s: %s", client->url->text, problem), NULL);
	for (;;)
	{
		int64		left = deadline - uds_ldap_clock();

		state = uds_ldap_channel_handshake(client->channel, problem, sizeof(problem));
		if (state == LDAP_HANDSHAKE_DONE)
			return true;
		if (state == LDAP_HANDSHAKE_FAILED)
			return fail_text(client, ERRCODE_CONNECTION_FAILURE, false,
							 psprintf("no trusted TLS connection to %s: %s", client->url->text, problem),
							 client->settings->ca_file ? NULL :
							 "The certificate must be for that name, and from an authority that the system trusts or that is in the file of option \"ca_file\".");
		if (state == LDAP_HANDSHAKE_CUT || left <= 0)
			return fail_text(client, ERRCODE_CONNECTION_FAILURE, true,
							 left <= 0 ?
							 psprintf("no TLS connection to %s within %d ms", client->url->text, uds_http_connect_timeout) :
							 psprintf("connection to %s lost in the TLS handshake: %s", client->url->text, problem),
							 NULL);
		if (WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH |
							  (state == LDAP_HANDSHAKE_WANTS_WRITE ? WL_SOCKET_WRITEABLE : WL_SOCKET_READABLE),
							  client->fd, left, uds_wait_event("UdsLdapHandshake")) & WL_LATCH_SET)
			ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Waits for the only answer of a request that was begun with "code". */
static bool
finish(LdapClient *client, int code, int msgid, const char *doing)
{
	int64		deadline = uds_ldap_clock() + uds_http_timeout;
	bool		ok;

	client->totals->requests++;
	if (code != LDAP_SUCCESS)
		return uds_ldap_fail_code(client, code, doing, NULL);
	ok = uds_ldap_next(client, msgid, &deadline) && uds_ldap_result(client, doing);
	uds_ldap_release(client);
	return ok;
}

static bool
start_tls(LdapClient *client)
{
	int			msgid = -1;
	int			code = ldap_extended_operation(client->ld, LDAP_EXOP_START_TLS, NULL, NULL, NULL, &msgid);

	if (finish(client, code, msgid, "StartTLS"))
		return true;
	client->fault.hint = "The server has no TLS on this address. Give an ldaps address, or set \"start_tls\" to false if all may be read on the way.";
	return false;
}

static bool
bind_client(LdapClient *client)
{
	const LdapSettings *settings = client->settings;
	struct berval credentials = {0, ""};
	int			msgid = -1;
	int			code;

	if (settings->sasl_external)
	{
		code = ldap_sasl_bind(client->ld, NULL, "EXTERNAL", &credentials, NULL, NULL, &msgid);
		return finish(client, code, msgid, "bind with SASL EXTERNAL");
	}
	if (settings->bind_dn == NULL)
		return true;			/* who does not bind is anonymous */
	if (settings->password == NULL)
		return fail_text(client, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, false,
						 psprintf("bind as \"%s\": there is no password", settings->bind_dn),
						 "Set option \"password\". Without one, many servers bind nobody and call that a success.");
	credentials.bv_val = unconstify(char *, settings->password);
	credentials.bv_len = strlen(settings->password);
	code = ldap_sasl_bind(client->ld, settings->bind_dn, LDAP_SASL_SIMPLE, &credentials,
						  NULL, NULL, &msgid);
	return finish(client, code, msgid, psprintf("bind as \"%s\"", settings->bind_dn));
}

/*
 * Connects to one address and binds, as the settings say.  False with the
 * fault noted; client->step tells how far it came.
 */
bool
uds_ldap_connect_to(LdapClient *client, const LdapUrl *url)
{
	int			fd;

	drop(client);
	client->url = url;
	fd = url->scheme == LDAP_SCHEME_SOCKET ? connect_socket(client, url) : connect_tcp(client, url);
	if (fd < 0 || !make_handle(client, fd))
		return false;
	make_waits(client);
	client->step = LDAP_STEP_TLS;
	if (url->scheme == LDAP_SCHEME_PLAIN && client->settings->start_tls && !start_tls(client))
		return false;
	if ((url->scheme == LDAP_SCHEME_TLS ||
		 (url->scheme == LDAP_SCHEME_PLAIN && client->settings->start_tls)) && !handshake(client))
		return false;
	client->step = LDAP_STEP_BIND;
	if (!bind_client(client))
		return false;
	client->step = LDAP_STEP_READY;
	return true;
}

/*
 * Connects to the first of the addresses that answers.  One that refuses who
 * we are is not asked to be another: only what may pass, or an address that
 * cannot be reached, leads to the next.  False with the fault of the last.
 */
bool
uds_ldap_connect(LdapClient *client)
{
	const LdapSettings *settings = client->settings;

	for (int i = 0; i < settings->nurls; i++)
	{
		if (uds_ldap_connect_to(client, &settings->urls[i]))
			return true;
		if (!client->fault.passing && client->step == LDAP_STEP_BIND)
			return false;
	}
	return false;
}
