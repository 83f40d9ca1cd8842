/*-------------------------------------------------------------------------
 *
 * redact.h
 *		Texts of others, with the secrets taken out, however they are spelled.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_REDACT_H
#define UDS_CONNECTOR_REDACT_H

#include "connector/template.h"

/* shorter values are too common in honest text to be taken out of it ... */
#define UDS_SECRET_IN_MESSAGE 4

/* ... and these out of pages, where people's names are */
#define UDS_SECRET_IN_PAGE 8

extern char *uds_redact_text(const char *text, size_t len,
							 const UdsVariable *variables, int count,
							 size_t shortest, const char *redacted,
							 size_t *out_len);

#endif							/* UDS_CONNECTOR_REDACT_H */
