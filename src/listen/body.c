/*-------------------------------------------------------------------------
 *
 * body.c
 *		The body of a request as it arrives, decompressed on the way.
 *
 * There is one buffer, which becomes the argument of the entry function as it
 * is: what is compressed is never kept, and nothing is copied.  It grows with
 * what has arrived, not with what was announced.  Uses malloc, and raises
 * nothing: it is called from within libmicrohttpd.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "listen/body.h"

#define FIRST_SIZE 4096
#define INFLATE_STEP 65536

/* Makes room for some more bytes. */
static UdsBodyResult
reserve(UdsBody *body, size_t more)
{
	size_t		size = body->size > 0 ? body->size : FIRST_SIZE;
	char	   *data;

	if (more <= body->size - body->len)
		return UDS_BODY_TAKEN;
	while (size - body->len < more)
		size *= 2;
	data = realloc(body->data, UDS_BODY_HEAD + size + 1);
	if (data == NULL)
		return UDS_BODY_NO_MEMORY;
	body->data = data;
	body->size = size;
	return UDS_BODY_TAKEN;
}

/*
 * Prepares for a body of at most "limit" bytes, after decompression.
 */
UdsBodyResult
uds_body_begin(UdsBody *body, size_t limit, bool gzip)
{
	memset(body, 0, sizeof(UdsBody));
	body->limit = limit;
	body->gzip = gzip;
	/* 16: the format of gzip, and no other */
	if (gzip && inflateInit2(&body->stream, 16 + MAX_WBITS) != Z_OK)
	{
		body->gzip = false;
		return UDS_BODY_NO_MEMORY;
	}
	return reserve(body, 1);
}

/* Decompresses what came. */
static UdsBodyResult
inflate_bytes(UdsBody *body, const char *bytes, size_t len)
{
	z_stream   *stream = &body->stream;

	stream->next_in = (unsigned char *) bytes;
	stream->avail_in = len;
	for (;;)
	{
		UdsBodyResult result;
		size_t		room;
		int			status;

		/* one more than allowed, to see that there is more */
		room = Min(body->limit + 1 - body->len, INFLATE_STEP);
		result = reserve(body, room);
		if (result != UDS_BODY_TAKEN)
			return result;
		if (body->ended)
		{
			if (stream->avail_in == 0)
				return UDS_BODY_TAKEN;
			/* another member follows */
			if (inflateReset(stream) != Z_OK)
				return UDS_BODY_BROKEN;
			body->ended = false;
		}
		stream->next_out = (unsigned char *) body->data + UDS_BODY_HEAD + body->len;
		stream->avail_out = room;
		status = inflate(stream, Z_NO_FLUSH);
		body->len += room - stream->avail_out;
		if (body->len > body->limit)
			return UDS_BODY_TOO_LARGE;
		if (status == Z_MEM_ERROR)
			return UDS_BODY_NO_MEMORY;
		if (status == Z_STREAM_END)
			body->ended = true;
		else if (status != Z_OK && status != Z_BUF_ERROR)
			return UDS_BODY_BROKEN;
		else if (stream->avail_in == 0 && stream->avail_out > 0)
			return UDS_BODY_TAKEN;
	}
}

/*
 * Takes some bytes as they came.
 */
UdsBodyResult
uds_body_add(UdsBody *body, const char *bytes, size_t len)
{
	UdsBodyResult result;

	if (body->gzip)
		return inflate_bytes(body, bytes, len);
	if (len > body->limit - body->len)
		return UDS_BODY_TOO_LARGE;
	result = reserve(body, len);
	if (result != UDS_BODY_TAKEN)
		return result;
	memcpy(body->data + UDS_BODY_HEAD + body->len, bytes, len);
	body->len += len;
	return UDS_BODY_TAKEN;
}

/*
 * Ends the body: it must have come whole.
 */
UdsBodyResult
uds_body_end(UdsBody *body)
{
	if (body->gzip && !body->ended)
		return UDS_BODY_BROKEN;
	body->data[UDS_BODY_HEAD + body->len] = '\0';
	return UDS_BODY_TAKEN;
}

/*
 * Frees what a body has, also one that was not begun, if it is all zeroes.
 */
void
uds_body_free(UdsBody *body)
{
	if (body->gzip)
		inflateEnd(&body->stream);
	free(body->data);
	memset(body, 0, sizeof(UdsBody));
}
