/*-------------------------------------------------------------------------
 *
 * ldap_channel.c
 *		The bytes between libldap and a server: buffered, and encrypted once
 *		that is asked for.
 *
 * libldap's own TLS would block in the handshake, depends in its words and
 * rules on the library that it was built with, and reads files of its own.
 * Here it sees a layer of ours below its messages, which never waits.
 *
 * Runs in background workers only, outside any transaction.  Takes no locks.
 * Nothing here raises an error: much of it runs with libldap on the stack, on
 * memory of malloc().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "fetch/ldap_channel.h"

#define BUFFER_SIZE (64 * 1024)

struct LdapChannel
{
	int			fd;
	SSL_CTX    *context;
	SSL		   *ssl;			/* NULL: in the clear */
	int			start;			/* of what was received and not taken */
	int			end;
	char		fault[160];		/* what broke it, or "" */
	char		buffer[BUFFER_SIZE];
};

/*
 * Makes a channel over a connected socket, which does not block and belongs to
 * the channel from now on.  NULL without memory; then it is closed.
 */
LdapChannel *
uds_ldap_channel_open(int fd)
{
	LdapChannel *channel = malloc(sizeof(LdapChannel));

	if (channel == NULL)
	{
		close(fd);
		return NULL;
	}
	memset(channel, 0, offsetof(LdapChannel, buffer));
	channel->fd = fd;
	return channel;
}

/*
 * Closes the socket, at once and without a word.
 */
void
uds_ldap_channel_close(LdapChannel *channel)
{
	if (channel->fd >= 0)
		close(channel->fd);
	channel->fd = -1;
}

/*
 * Frees a channel, which may be NULL; libldap must not use it any more.
 */
void
uds_ldap_channel_free(LdapChannel *channel)
{
	if (channel == NULL)
		return;
	uds_ldap_channel_close(channel);
	SSL_free(channel->ssl);
	SSL_CTX_free(channel->context);
	free(channel);
}

/*
 * What broke the channel, a phrase; "" if nothing did.
 */
const char *
uds_ldap_channel_fault(const LdapChannel *channel)
{
	return channel->fault;
}

/* The first error of OpenSSL's queue, in words; the queue is empty then. */
static void
describe_error(char *text, size_t size)
{
	unsigned long code = ERR_get_error();
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;

	if (ERR_GET_LIB(code) == ERR_LIB_SYS)
		reason = strerror(ERR_GET_REASON(code));
	strlcpy(text, reason ? reason : "unknown error", size);
	ERR_clear_error();
}

/* What a call of OpenSSL's that moves bytes has come to, as errno. */
static void
translate_error(LdapChannel *channel, int result)
{
	int			saved = errno;
	int			code = SSL_get_error(channel->ssl, result);

	if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE)
	{
		errno = EWOULDBLOCK;
		return;
	}
	if (code == SSL_ERROR_ZERO_RETURN)
		strlcpy(channel->fault, "connection closed by the server", sizeof(channel->fault));
	else if (code == SSL_ERROR_SYSCALL && saved != 0)
		strlcpy(channel->fault, strerror(saved), sizeof(channel->fault));
	else
		describe_error(channel->fault, sizeof(channel->fault));
	errno = ECONNRESET;
}

/* Receives into the buffer, which is empty; as recv() does. */
static ssize_t
receive(LdapChannel *channel)
{
	ssize_t		n;

	channel->start = channel->end = 0;
	if (channel->ssl != NULL)
	{
		ERR_clear_error();
		errno = 0;
		n = SSL_read(channel->ssl, channel->buffer, BUFFER_SIZE);
		if (n <= 0)
		{
			translate_error(channel, (int) n);
			return SSL_get_error(channel->ssl, (int) n) == SSL_ERROR_ZERO_RETURN ? 0 : -1;
		}
	}
	else
	{
		do
			n = recv(channel->fd, channel->buffer, BUFFER_SIZE, 0);
		while (n < 0 && errno == EINTR);
		if (n == 0)
			strlcpy(channel->fault, "connection closed by the server", sizeof(channel->fault));
		else if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
			strlcpy(channel->fault, strerror(errno), sizeof(channel->fault));
	}
	channel->end = Max((int) n, 0);
	return n;
}

/*
 * The layer, as libldap calls it
 */

static int
layer_setup(Sockbuf_IO_Desc *desc, void *arg)
{
	desc->sbiod_pvt = arg;
	return 0;
}

static int
layer_remove(Sockbuf_IO_Desc *desc)
{
	desc->sbiod_pvt = NULL;
	return 0;
}

static int
layer_ctrl(Sockbuf_IO_Desc *desc, int option, void *arg)
{
	LdapChannel *channel = desc->sbiod_pvt;

	if (option == LBER_SB_OPT_DATA_READY &&
		(channel->end > channel->start ||
		 (channel->ssl != NULL && SSL_pending(channel->ssl) > 0)))
		return 1;
	return LBER_SBIOD_CTRL_NEXT(desc, option, arg);
}

static ber_slen_t
layer_read(Sockbuf_IO_Desc *desc, void *data, ber_len_t len)
{
	LdapChannel *channel = desc->sbiod_pvt;
	ber_len_t	n;

	if (channel->start == channel->end)
	{
		ssize_t		received = receive(channel);

		if (received <= 0)
			return received;
	}
	n = Min(len, (ber_len_t) (channel->end - channel->start));
	memcpy(data, channel->buffer + channel->start, n);
	channel->start += (int) n;
	return (ber_slen_t) n;
}

static ber_slen_t
layer_write(Sockbuf_IO_Desc *desc, void *data, ber_len_t len)
{
	LdapChannel *channel = desc->sbiod_pvt;
	ssize_t		n;

	if (channel->ssl != NULL)
	{
		ERR_clear_error();
		errno = 0;
		n = SSL_write(channel->ssl, data, (int) Min(len, INT_MAX));
		if (n > 0)
			return n;
		translate_error(channel, (int) n);
		return -1;
	}
	do
		n = send(channel->fd, data, len, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
		strlcpy(channel->fault, strerror(errno), sizeof(channel->fault));
	return n;
}

/* The socket is the channel's, and closed with it. */
static int
layer_close(Sockbuf_IO_Desc *desc)
{
	return 0;
}

static Sockbuf_IO layer = {
	layer_setup, layer_remove, layer_ctrl, layer_read, layer_write, layer_close
};

/*
 * Puts the channel below the messages of a handle of libldap's.
 */
bool
uds_ldap_channel_attach(LdapChannel *channel, Sockbuf *sockbuf)
{
	return ber_sockbuf_add_io(sockbuf, &layer, LBER_SBIOD_LEVEL_TRANSPORT, channel) == 0;
}

/*
 * TLS
 */

/* Has the name, or address, of the server compared with its certificate. */
static bool
expect_host(SSL *ssl, const char *host)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
	unsigned char address[16];

	if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1;
	X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return SSL_set_tlsext_host_name(ssl, host) == 1 &&
		X509_VERIFY_PARAM_set1_host(param, host, 0) == 1;
}

/* Loads what is trusted, and our own certificate; what fails is *what. */
static bool
load_files(SSL_CTX *context, const LdapTlsSettings *settings, const char **what)
{
	*what = "ca_file";
	if (settings->ca_file != NULL ?
		SSL_CTX_load_verify_locations(context, settings->ca_file, NULL) != 1 :
		SSL_CTX_set_default_verify_paths(context) != 1)
		return false;
	if (settings->cert_file == NULL)
		return true;
	*what = "client_cert_file";
	if (SSL_CTX_use_certificate_chain_file(context, settings->cert_file) != 1)
		return false;
	*what = settings->key_file ? "client_key_file" : "client_cert_file";
	return SSL_CTX_use_PrivateKey_file(context,
									   settings->key_file ? settings->key_file : settings->cert_file,
									   SSL_FILETYPE_PEM) == 1;
}

/*
 * Prepares TLS.  False with *problem filled in where that cannot be done.
 * What came before in the clear must have been taken: a peer in the middle
 * could have put it there.
 */
bool
uds_ldap_channel_begin_tls(LdapChannel *channel, const LdapTlsSettings *settings,
						   char *problem, size_t size)
{
	const char *what = NULL;
	char		reason[128];

	ERR_clear_error();
	if (channel->start != channel->end)
	{
		strlcpy(problem, "the server sent more than its answer before TLS began", size);
		return false;
	}
	channel->context = SSL_CTX_new(TLS_client_method());
	if (channel->context == NULL)
	{
		strlcpy(problem, "out of memory", size);
		return false;
	}
	SSL_CTX_set_min_proto_version(channel->context, TLS1_2_VERSION);
	SSL_CTX_set_options(channel->context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_mode(channel->context, SSL_MODE_ENABLE_PARTIAL_WRITE |
					 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_verify(channel->context, SSL_VERIFY_PEER, NULL);
	if (!load_files(channel->context, settings, &what))
	{
		describe_error(reason, sizeof(reason));
		snprintf(problem, size, "the file of option \"%s\" cannot be used: %s", what, reason);
		return false;
	}
	channel->ssl = SSL_new(channel->context);
	if (channel->ssl == NULL || SSL_set_fd(channel->ssl, channel->fd) != 1 ||
		!expect_host(channel->ssl, settings->host))
	{
		strlcpy(problem, "out of memory, or a host name that is none", size);
		return false;
	}
	SSL_set_connect_state(channel->ssl);
	return true;
}

/* OpenSSL 3 has a code for it; before, it was an error of the system. */
static bool
is_eof(unsigned long code)
{
#ifdef SSL_R_UNEXPECTED_EOF_WHILE_READING
	return ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
#else
	return false;
#endif
}

/*
 * Goes on with the handshake as far as it goes without waiting.  *problem is
 * filled in if that is the end.
 */
LdapHandshake
uds_ldap_channel_handshake(LdapChannel *channel, char *problem, size_t size)
{
	int			result;
	int			code;
	int			saved;
	long		verdict;

	ERR_clear_error();
	errno = 0;
	result = SSL_do_handshake(channel->ssl);
	saved = errno;
	if (result == 1)
		return LDAP_HANDSHAKE_DONE;
	code = SSL_get_error(channel->ssl, result);
	if (code == SSL_ERROR_WANT_READ)
		return LDAP_HANDSHAKE_WANTS_READ;
	if (code == SSL_ERROR_WANT_WRITE)
		return LDAP_HANDSHAKE_WANTS_WRITE;
	verdict = SSL_get_verify_result(channel->ssl);
	if (verdict != X509_V_OK)
	{
		snprintf(problem, size, "certificate not trusted: %s",
				 X509_verify_cert_error_string(verdict));
		ERR_clear_error();
		return LDAP_HANDSHAKE_FAILED;
	}
	if (code == SSL_ERROR_SYSCALL || code == SSL_ERROR_ZERO_RETURN ||
		is_eof(ERR_peek_error()))
	{
		strlcpy(problem, saved != 0 ? strerror(saved) : "connection closed by the server", size);
		ERR_clear_error();
		return LDAP_HANDSHAKE_CUT;
	}
	describe_error(problem, size);
	return LDAP_HANDSHAKE_FAILED;
}
