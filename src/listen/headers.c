/*-------------------------------------------------------------------------
 *
 * headers.c
 *		What the headers of a request say, as libmicrohttpd has them.
 *
 * Called from within libmicrohttpd: raises nothing, and uses malloc.  Runs in
 * the listener, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "listen/connection.h"
#include "listen/server.h"

static const char *const passed_headers[] = {
	"authorization", "content-type", "forwarded", "x-forwarded-for",
	"x-lark-request-nonce", "x-lark-request-timestamp", "x-lark-signature"
};

/* Keeps a copy of a pair; false if there is no room. */
static bool
keep_pair(const char **pairs, int *count, const char *name, const char *value)
{
	if (*count >= UDS_MAX_PAIRS)
		return false;
	pairs[2 * *count] = strdup(name);
	pairs[2 * *count + 1] = strdup(value ? value : "");
	(*count)++;
	return pairs[2 * *count - 2] != NULL && pairs[2 * *count - 1] != NULL;
}

static enum MHD_Result
keep_parameter(void *arg, enum MHD_ValueKind kind, const char *name, const char *value)
{
	UdsHttpCall *call = arg;

	return keep_pair(call->query, &call->nquery, name, value) ? MHD_YES : MHD_NO;
}

/*
 * The length of the body that the headers announce; -1 if they do not.
 */
int64
uds_headers_length(struct MHD_Connection *mhd)
{
	const char *text = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND,
												   MHD_HTTP_HEADER_CONTENT_LENGTH);

	/* libmicrohttpd has refused what is no number */
	return text == NULL ? -1 : strtoll(text, NULL, 10);
}

static enum MHD_Result
count_lengths(void *arg, enum MHD_ValueKind kind, const char *name, const char *value)
{
	int		   *count = arg;

	if (pg_strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0 ||
		pg_strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0)
		(*count)++;
	return MHD_YES;
}

/*
 * Whether it can be told in more than one way where the body ends (RFC 9112,
 * 6.3).  A proxy may see a request within it that is not there.
 */
bool
uds_headers_ambiguous(struct MHD_Connection *mhd)
{
	int			count = 0;

	MHD_get_connection_values(mhd, MHD_HEADER_KIND, count_lengths, &count);
	return count > 1;
}

/*
 * Whether the client waits to be told that it may send its body.
 */
bool
uds_headers_wait(struct MHD_Connection *mhd)
{
	return MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT) != NULL &&
		(uds_headers_length(mhd) > 0 ||
		 MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, MHD_HTTP_HEADER_TRANSFER_ENCODING) != NULL);
}

/*
 * Copies the parameters of the query, and the headers that are passed on, into
 * a call.  False if there are too many, or there is no memory; what was copied
 * is freed with the call.
 */
bool
uds_headers_keep(struct MHD_Connection *mhd, UdsHttpCall *call)
{
	bool		kept = true;

	for (int i = 0; i < (int) lengthof(passed_headers); i++)
	{
		const char *value = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, passed_headers[i]);

		if (value != NULL)
			kept &= keep_pair(call->headers, &call->nheaders, passed_headers[i], value);
	}
	return kept &&
		MHD_get_connection_values(mhd, MHD_GET_ARGUMENT_KIND, keep_parameter, call) >= 0 &&
		call->nquery < UDS_MAX_PAIRS;
}
