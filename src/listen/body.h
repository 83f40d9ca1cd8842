/*-------------------------------------------------------------------------
 *
 * body.h
 *		The body of a request as it arrives, decompressed on the way.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_LISTEN_BODY_H
#define UDS_LISTEN_BODY_H

#include <zlib.h>

/* room for the length word of a varlena, in front of the bytes */
#define UDS_BODY_HEAD 4

typedef enum UdsBodyResult
{
	UDS_BODY_TAKEN,
	UDS_BODY_TOO_LARGE,
	UDS_BODY_BROKEN,			/* not what gzip makes */
	UDS_BODY_NO_MEMORY
} UdsBodyResult;

typedef struct UdsBody
{
	char	   *data;			/* malloc'ed: UDS_BODY_HEAD bytes, the bytes, and
								 * a NUL; NULL if there are none */
	size_t		len;			/* of the bytes */
	size_t		size;			/* room for so many */
	size_t		limit;			/* most bytes taken */
	bool		gzip;
	bool		ended;			/* gzip: a member has ended */
	z_stream	stream;
} UdsBody;

extern UdsBodyResult uds_body_begin(UdsBody *body, size_t limit, bool gzip);
extern UdsBodyResult uds_body_add(UdsBody *body, const char *bytes, size_t len);
extern UdsBodyResult uds_body_end(UdsBody *body);
extern void uds_body_free(UdsBody *body);

#endif							/* UDS_LISTEN_BODY_H */
