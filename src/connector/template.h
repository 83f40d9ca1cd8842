/*-------------------------------------------------------------------------
 *
 * template.h
 *		Texts with placeholders, escaped for where they go.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_TEMPLATE_H
#define UDS_CONNECTOR_TEMPLATE_H

#include "lib/stringinfo.h"

/* Where an expanded placeholder goes, hence how its value is escaped. */
typedef enum UdsEscape
{
	UDS_ESCAPE_RAW = 0,			/* as it is: base URL, header */
	UDS_ESCAPE_QUERY,			/* one value in a query string or a form */
	UDS_ESCAPE_PATH,			/* one segment of a path */
	UDS_ESCAPE_JSON				/* inside a JSON string */
} UdsEscape;

typedef struct UdsVariable
{
	const char *name;			/* as between the braces */
	const char *value;			/* NULL = no value (yet) */
	bool		secret;
} UdsVariable;

typedef struct UdsTemplatePart
{
	bool		variable;		/* text is the name of a variable */
	char	   *text;
} UdsTemplatePart;

typedef struct UdsTemplate
{
	int			count;
	UdsTemplatePart *parts;
} UdsTemplate;

extern UdsTemplate *uds_template_parse(const char *text, char **error);
extern bool uds_template_expand(StringInfo out, const UdsTemplate *template,
								UdsEscape escape, const UdsVariable *variables,
								int count, const char *redacted);
extern void uds_template_escape(StringInfo out, const char *value,
								UdsEscape escape);

#endif							/* UDS_CONNECTOR_TEMPLATE_H */
