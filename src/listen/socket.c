/*-------------------------------------------------------------------------
 *
 * socket.c
 *		What the listener opens when it begins: its socket, and the files for
 *		TLS.
 *
 * Runs in the listener, outside any transaction; takes the LWLock of the
 * extension.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "storage/fd.h"

#include "listen/server.h"
#include "process/process.h"
#include "uds.h"

#define BACKLOG 512
#define MAX_PEM (256 * 1024)

/* Opens a socket that listens; -1 if it cannot be had. */
static int
open_one(const struct addrinfo *address, bool shared)
{
	int			fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
	int			one = 1;
	int			zero = 0;
	int			problem;

	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
		(!shared || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) == 0) &&
		(address->ai_family != AF_INET6 ||
		 setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero)) == 0) &&
		fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0 &&
		bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
		return fd;
	problem = errno;
	close(fd);
	errno = problem;
	return -1;
}

/*
 * Opens a socket of the port, which others of ours may share.  A listener of
 * another server could share it as well, and half of what is meant for the one
 * would go to the other, a copy perhaps; so the first one of ours sees first
 * whether it can have the port for itself.
 */
static int
try_address(const struct addrinfo *address)
{
	bool		shared = uds_listen_workers > 1;
	bool		first = uds_listener_begin_port();
	int			fd = shared && !first ? -1 : open_one(address, false);
	int			problem;

	if (shared && (!first || fd >= 0))
	{
		if (fd >= 0)
			close(fd);
		fd = open_one(address, true);
	}
	problem = errno;
	uds_listener_end_port(fd >= 0);
	errno = problem;
	return fd;
}

/*
 * Opens the socket on which the listener listens; each process has its own, of
 * the same port.  It does not block.  ERROR if it cannot be had.
 */
int
uds_listen_open_socket(void)
{
	struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV,.ai_socktype = SOCK_STREAM};
	struct addrinfo *addresses = NULL;
	bool		any = strcmp(uds_listen_address, "*") == 0;
	char		port[16];
	int			status;
	int			fd = -1;
	int			problem;

	snprintf(port, sizeof(port), "%d", uds_listen_port);
	/* all of IPv6 is all of IPv4, too */
	status = getaddrinfo(any ? "::" : uds_listen_address, port, &hints, &addresses);
	if (status != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("uds: could not listen on \"%s\": %s", uds_listen_address,
						gai_strerror(status)),
				 errhint("uds.http_listen must be an IP address, or \"*\".")));
	fd = try_address(addresses);
	problem = errno;
	freeaddrinfo(addresses);
	if (fd < 0 && any && getaddrinfo("0.0.0.0", port, &hints, &addresses) == 0)
	{
		fd = try_address(addresses);
		problem = errno;
		freeaddrinfo(addresses);
	}
	errno = problem;
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("uds: could not listen on address \"%s\", port %d: %m",
						uds_listen_address, uds_listen_port)));
	return fd;
}

/* Reads a PEM file, palloc'd; ERROR if it cannot be read as it should be. */
static char *
read_pem(const char *path, bool is_key)
{
	struct stat found;
	char	   *text;
	FILE	   *file;
	size_t		len;

	if (stat(path, &found) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("uds: could not read \"%s\" for TLS: %m", path)));
	/* as the server asks of ssl_key_file */
	if (is_key && (found.st_mode & (S_IRWXO | (found.st_uid == geteuid() ? S_IRWXG : S_IWGRP | S_IXGRP))) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("uds: private key file \"%s\" can be read by others", path),
				 errhint("It must have permissions u=rw (0600) or less if owned by the server's user, or u=rw,g=r (0640) if owned by root.")));
	text = palloc(MAX_PEM + 1);
	file = AllocateFile(path, PG_BINARY_R);
	if (file == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("uds: could not read \"%s\" for TLS: %m", path)));
	len = fread(text, 1, MAX_PEM, file);
	FreeFile(file);
	text[len] = '\0';
	return text;
}

/* Whether the first certificate of a PEM text is that of a private key. */
static bool
belong_together(const char *certificate, const char *key)
{
	BIO		   *certificate_bio = BIO_new_mem_buf(certificate, -1);
	BIO		   *key_bio = BIO_new_mem_buf(key, -1);
	X509	   *x509 = certificate_bio ? PEM_read_bio_X509(certificate_bio, NULL, NULL, NULL) : NULL;
	EVP_PKEY   *private = key_bio ? PEM_read_bio_PrivateKey(key_bio, NULL, NULL, "") : NULL;
	bool		good = x509 != NULL && private != NULL && X509_check_private_key(x509, private) == 1;

	EVP_PKEY_free(private);
	X509_free(x509);
	BIO_free(key_bio);
	BIO_free(certificate_bio);
	ERR_clear_error();
	return good;
}

/*
 * Reads certificate and key for TLS, in malloc'ed memory.  ERROR if they cannot
 * be read, others may read the key, or they do not belong together.
 */
void
uds_listen_read_tls(char **certificate, char **key)
{
	char	   *new_certificate = read_pem(uds_listen_tls_cert, false);
	char	   *new_key = read_pem(uds_listen_tls_key, true);

	if (!belong_together(new_certificate, new_key))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("uds: \"%s\" and \"%s\" are not a certificate and its private key",
						uds_listen_tls_cert, uds_listen_tls_key),
				 errhint("Both must be PEM, the key without a passphrase.")));
	*certificate = strdup(new_certificate);
	*key = strdup(new_key);
	if (*certificate == NULL || *key == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	OPENSSL_cleanse(new_key, strlen(new_key));
	pfree(new_certificate);
	pfree(new_key);
}
