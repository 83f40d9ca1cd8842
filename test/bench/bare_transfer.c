/*-------------------------------------------------------------------------
 *
 * bare_transfer.c
 *		Fetches addresses with libcurl and does nothing with what comes.
 *
 *		bare_transfer CONNECTIONS < ADDRESSES
 *
 * What the engine is measured against: the same requests over as many
 * connections, each body gathered in memory and let go.  Prints requests, bytes
 * and the CPU time of user and system, in microseconds, that this took.
 *
 *-------------------------------------------------------------------------
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

typedef struct Transfer
{
	CURL	   *curl;
	char	   *body;
	size_t		len;
	size_t		size;
} Transfer;

static long long total_bytes;
static long total_requests;

static size_t
take(char *bytes, size_t one, size_t len, void *arg)
{
	Transfer   *transfer = arg;

	if (transfer->len + len > transfer->size)
	{
		transfer->size = 2 * (transfer->len + len);
		transfer->body = realloc(transfer->body, transfer->size);
		if (transfer->body == NULL)
			abort();
	}
	memcpy(transfer->body + transfer->len, bytes, len);
	transfer->len += len;
	return one * len;
}

/* Begins the next request; false if there is none. */
static int
begin(CURLM *multi, Transfer *transfer)
{
	char		line[4096];

	if (fgets(line, sizeof(line), stdin) == NULL)
		return 0;
	line[strcspn(line, "\n")] = '\0';
	transfer->len = 0;
	curl_easy_setopt(transfer->curl, CURLOPT_URL, line);
	curl_multi_add_handle(multi, transfer->curl);
	return 1;
}

static void
end(CURLM *multi, const CURLMsg *message)
{
	Transfer   *transfer;
	long		status;

	curl_easy_getinfo(message->easy_handle, CURLINFO_RESPONSE_CODE, &status);
	if (message->data.result != CURLE_OK || status != 200)
	{
		fprintf(stderr, "a transfer failed: %s, HTTP %ld\n",
				curl_easy_strerror(message->data.result), status);
		exit(1);
	}
	curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &transfer);
	total_requests++;
	total_bytes += transfer->len;
	curl_multi_remove_handle(multi, transfer->curl);
	begin(multi, transfer);
}

static long long
cpu(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000LL +
		usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

int
main(int argc, char **argv)
{
	int			connections = argc > 1 ? atoi(argv[1]) : 8;
	CURLM	   *multi;
	int			running;
	long long	start;

	curl_global_init(CURL_GLOBAL_ALL);
	multi = curl_multi_init();
	start = cpu();
	for (int i = 0; i < connections; i++)
	{
		Transfer   *transfer = calloc(1, sizeof(Transfer));

		transfer->curl = curl_easy_init();
		curl_easy_setopt(transfer->curl, CURLOPT_WRITEFUNCTION, take);
		curl_easy_setopt(transfer->curl, CURLOPT_WRITEDATA, transfer);
		curl_easy_setopt(transfer->curl, CURLOPT_PRIVATE, transfer);
		curl_easy_setopt(transfer->curl, CURLOPT_PROXY, "");
		if (!begin(multi, transfer))
			break;
	}
	do
	{
		CURLMsg    *message;
		int			left;

		curl_multi_perform(multi, &running);
		while ((message = curl_multi_info_read(multi, &left)) != NULL)
		{
			end(multi, message);
			running = 1;
		}
		if (running)
			curl_multi_poll(multi, NULL, 0, 1000, NULL);
	} while (running);
	printf("%ld %lld %lld\n", total_requests, total_bytes, cpu() - start);
	return 0;
}
