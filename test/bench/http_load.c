/*-------------------------------------------------------------------------
 *
 * http_load.c
 *		Sends requests over some connections that are kept open, and tells how
 *		long each reply took.
 *
 *		http_load PORT CONNECTIONS REQUESTS PATH KEY FILE
 *
 * FILE has a body on each line; each request takes the next one.  Prints
 * seconds, then the microseconds of each request, a line each.  Every reply
 * must have status 200 and no failed record.
 *
 *-------------------------------------------------------------------------
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int	port;
static int	requests;
static const char *path;
static const char *key;
static char **bodies;
static atomic_int next_request;
static long *latencies;

static long
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

static void
give_up(const char *what)
{
	fprintf(stderr, "http_load: %s\n", what);
	exit(1);
}

static int
connect_to_server(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET,.sin_port = htons(port)};
	int			fd = socket(AF_INET, SOCK_STREAM, 0);
	int			one = 1;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (struct sockaddr *) &address, sizeof(address)) != 0)
		give_up("could not connect");
	return fd;
}

/* Reads one reply, which must be good. */
static void
read_reply(int fd)
{
	static _Thread_local char reply[65536];
	size_t		len = 0;
	char	   *body = NULL;
	char	   *length;

	do
	{
		ssize_t		n = recv(fd, reply + len, sizeof(reply) - 1 - len, 0);

		if (n <= 0)
			give_up("the connection was closed");
		len += n;
		reply[len] = '\0';
		if (body == NULL && (body = strstr(reply, "\r\n\r\n")) != NULL)
			body += 4;
		length = body ? strstr(reply, "Content-Length: ") : NULL;
	} while (body == NULL || length == NULL ||
			 len < (size_t) (body - reply) + strtoul(length + 16, NULL, 10));
	if (strncmp(reply, "HTTP/1.1 200 ", 13) != 0 || strstr(body, "\"failed\": 0") == NULL)
		give_up(reply);
}

static void *
run(void *arg)
{
	int			fd = connect_to_server();
	char	   *request = malloc(1024 * 1024);
	int			i;

	while ((i = atomic_fetch_add(&next_request, 1)) < requests)
	{
		int			len = snprintf(request, 1024 * 1024,
								   "POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"
								   "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
								   path, key, strlen(bodies[i]), bodies[i]);
		long		start = now_us();

		if (send(fd, request, len, MSG_NOSIGNAL) != len)
			give_up("could not send");
		read_reply(fd);
		latencies[i] = now_us() - start;
	}
	close(fd);
	free(request);
	return NULL;
}

int
main(int argc, char **argv)
{
	pthread_t	threads[1024];
	char	   *line = NULL;
	size_t		size = 0;
	int			connections;
	long		start;
	FILE	   *file;

	if (argc != 7)
		give_up("usage: http_load PORT CONNECTIONS REQUESTS PATH KEY FILE");
	port = atoi(argv[1]);
	connections = atoi(argv[2]);
	requests = atoi(argv[3]);
	path = argv[4];
	key = argv[5];
	file = fopen(argv[6], "r");
	if (file == NULL || connections < 1 || connections > 1024 || requests < 1)
		give_up("cannot use these arguments");
	bodies = calloc(requests, sizeof(char *));
	latencies = calloc(requests, sizeof(long));
	for (int i = 0; i < requests; i++)
	{
		ssize_t		len = getline(&line, &size, file);

		if (len < 0)
			give_up("the file has too few lines");
		if (len > 0 && line[len - 1] == '\n')
			line[len - 1] = '\0';
		bodies[i] = strdup(line);
	}

	start = now_us();
	for (int i = 0; i < connections; i++)
		if (pthread_create(&threads[i], NULL, run, NULL) != 0)
			give_up("could not start a thread");
	for (int i = 0; i < connections; i++)
		pthread_join(threads[i], NULL);
	printf("%.6f\n", (now_us() - start) / 1e6);
	for (int i = 0; i < requests; i++)
		printf("%ld\n", latencies[i]);
	return 0;
}
