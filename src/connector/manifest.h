/*-------------------------------------------------------------------------
 *
 * manifest.h
 *		A connector manifest, parsed: how a source is to be read.
 *
 * doc/extending.md describes the language.  Parsing is pure C: it runs in
 * any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_CONNECTOR_MANIFEST_H
#define UDS_CONNECTOR_MANIFEST_H

#ifndef FRONTEND
#include "nodes/pg_list.h"
#endif
#include <cJSON.h>

#include "connector/template.h"

#define UDS_MANIFEST_VERSION 1

/* the stream name under which token requests go to the raw log */
#define UDS_STREAM_AUTH "auth"

/* A name and the template of its value: query, headers, form. */
typedef struct UdsPair
{
	char	   *name;
	UdsTemplate *value;
} UdsPair;

typedef struct UdsPairs
{
	int			count;
	UdsPair    *items;
} UdsPairs;

/* A JSON body: texts in it are templates. */
typedef enum UdsBodyKind
{
	UDS_BODY_TEXT,
	UDS_BODY_LITERAL,			/* number, true, false, null */
	UDS_BODY_OBJECT,
	UDS_BODY_ARRAY
} UdsBodyKind;

typedef struct UdsBodyNode
{
	UdsBodyKind kind;
	char	   *name;			/* of a member of an object */
	UdsTemplate *text;
	char	   *literal;
	int			count;
	struct UdsBodyNode *children;
} UdsBodyNode;

typedef struct UdsRequestSpec
{
	char	   *method;
	UdsTemplate *base_url;		/* NULL = the manifest's */
	UdsTemplate *path;
	UdsPairs	query;
	UdsPairs	headers;
	UdsPairs	form;
	UdsBodyNode *json;
} UdsRequestSpec;

typedef struct UdsOptionSpec
{
	char	   *name;
	char	   *default_value;	/* as text, or NULL */
	bool		required;
	bool		secret;
} UdsOptionSpec;

typedef struct UdsAuthSpec
{
	UdsRequestSpec request;
	char	   *token;			/* simple path */
	char	   *expires_in;		/* simple path, or NULL */
	int			lifetime;		/* seconds, where the reply names none */
	UdsPairs	query;			/* sent with every request of a stream */
	UdsPairs	headers;
} UdsAuthSpec;

typedef enum UdsCodeClass
{
	UDS_CODE_OK,
	UDS_CODE_REAUTH,
	UDS_CODE_THROTTLE,
	UDS_CODE_TRANSIENT,
	UDS_CODE_GONE,
	UDS_CODE_SCOPE,
	UDS_CODE_CONFIG,
	UDS_CODE_DEGRADE,
	UDS_CODE_RESTART
} UdsCodeClass;

typedef struct UdsCodeRule
{
	char	   *code;			/* as text; NULL = no code in the body */
	UdsCodeClass code_class;
	int			wait;			/* throttle: seconds, the first time */
	int			concurrency;	/* throttle: requests in flight for a while;
								 * 0 = as before */
} UdsCodeRule;

typedef struct UdsHintSpec
{
	char	   *code;			/* "*" = any other */
	char	   *hint;
} UdsHintSpec;

typedef struct UdsErrorsSpec
{
	char	   *code;			/* simple paths, or NULL */
	char	   *message;
	int			nrules;
	UdsCodeRule *rules;
	int			nhints;
	UdsHintSpec *hints;
} UdsErrorsSpec;

typedef struct UdsStreamSpec
{
	char	   *name;
	char	   *type;			/* of its records: user, department */
	char	   *parent;			/* for_each: a stream read before, or NULL */
	char	   *parent_value;	/* jsonpath over the parent's pages */
	char	   *parent_as;		/* name of the value */
	UdsRequestSpec request;
	char	   *next_cursor;	/* pagination: simple path, or NULL */
	char	   *more;			/* pagination: simple path to a flag, or NULL */
	char	   *records;		/* jsonpath */
	char	   *expect;			/* simple path to an array, or NULL */
	bool		merge;
} UdsStreamSpec;

typedef struct UdsPlanSpec
{
	char	   *name;
	char	   *warning;		/* or NULL */
	int			count;
	int		   *streams;		/* indexes, in the order of reading */
} UdsPlanSpec;

typedef struct UdsManifest
{
	char	   *title;
	int			noptions;
	UdsOptionSpec *options;
	UdsTemplate *base_url;
	UdsAuthSpec *auth;			/* or NULL */
	UdsErrorsSpec errors;
	int			nplans;
	UdsPlanSpec *plans;
	int			nstreams;
	UdsStreamSpec *streams;
	bool		ignore_case_user;
	bool		ignore_case_department;
} UdsManifest;

/* manifest.c */
extern UdsManifest *uds_manifest_parse(const char *json, char **error);

/* options.c */
extern char *uds_manifest_check_options(const UdsManifest *manifest,
										const char *options_json,
										char **hint);
extern char *uds_manifest_check_secrets(const UdsManifest *manifest,
										const char *options_json,
										char **hint);
extern UdsVariable *uds_manifest_option_values(const UdsManifest *manifest,
											   const char *options_json,
											   int *count);
#ifndef FRONTEND
extern List *uds_manifest_secrets(const UdsManifest *manifest);
#endif

/* what the parts of the parser share: the first error, named by its path */
typedef struct UdsManifestReader
{
	UdsManifest *manifest;
	char	   *error;			/* NULL = none so far */
} UdsManifestReader;

/* reader.c: each returns false once there is an error */
extern bool uds_reader_fail(UdsManifestReader *reader, const char *path,
							const char *problem);
extern bool uds_reader_object(UdsManifestReader *reader, const cJSON *object,
							  const char *path, const char *const *words);
extern bool uds_reader_text(UdsManifestReader *reader, const cJSON *object,
							const char *path, const char *word, bool required,
							char **text);
extern bool uds_reader_path(UdsManifestReader *reader, const cJSON *object,
							const char *path, const char *word, bool required,
							char **text);
extern bool uds_reader_bool(UdsManifestReader *reader, const cJSON *object,
							const char *path, const char *word, bool *value);
extern bool uds_reader_int(UdsManifestReader *reader, const cJSON *object,
						   const char *path, const char *word, int min,
						   int max, int *value);
extern bool uds_reader_template(UdsManifestReader *reader, const cJSON *item,
								const char *path, const char *const *names,
								UdsTemplate **template);
extern char *uds_reader_at(const char *path, const char *word);
extern bool uds_reader_is_name(const char *text);

/* manifest_request.c, manifest_fields.c: parts of the parser */
extern bool uds_manifest_read_request(UdsManifestReader *reader,
									  const cJSON *object, const char *path,
									  const char *const *names,
									  UdsRequestSpec *request);
extern bool uds_manifest_read_pairs(UdsManifestReader *reader,
									const cJSON *object, const char *path,
									const char *word, const char *const *names,
									UdsPairs *pairs);
extern bool uds_manifest_check_fields(UdsManifestReader *reader,
									  const cJSON *fields, const char *path,
									  const char *context);

#endif							/* UDS_CONNECTOR_MANIFEST_H */
