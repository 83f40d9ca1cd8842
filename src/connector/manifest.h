/*-------------------------------------------------------------------------
 *
 * manifest.h
 *		A connector manifest, parsed: how a source is to be read.
 *
 * doc/manifest.md describes the language.  Parsing is pure C: it runs in
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

/* the word for sources that are read over LDAP */
#define UDS_NATIVE_LDAP "ldap"

/* the option whose value chooses among "presets" */
#define UDS_PRESET_OPTION "preset"

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

/* Texts, such as simple paths of which the first that leads somewhere counts. */
typedef struct UdsTexts
{
	int			count;
	char	  **items;
} UdsTexts;

/* HTTP Basic. */
typedef struct UdsBasicSpec
{
	UdsTemplate *user;			/* NULL = not used */
	UdsTemplate *password;
	bool		form_encoded;	/* both, before they are put together */
} UdsBasicSpec;

typedef struct UdsRequestSpec
{
	char	   *method;
	UdsTemplate *base_url;		/* NULL = the manifest's */
	UdsTemplate *path;			/* NULL = url is given */
	UdsTemplate *url;			/* whole, to where base_url is; or NULL */
	UdsPairs	query;
	UdsPairs	headers;
	UdsPairs	form;
	UdsBodyNode *json;			/* an object, or NULL */
	UdsBasicSpec basic;
	UdsTexts	states;			/* each X of {state.X} in it, maybe twice */
} UdsRequestSpec;

typedef struct UdsOptionSpec
{
	char	   *name;
	char	   *default_value;	/* as text, or NULL */
	bool		required;
	bool		secret;
	UdsTexts	choices;		/* none = any value */
	UdsTexts	members;		/* of the JSON object that the value is */
} UdsOptionSpec;

/* What depends on an option. */
typedef struct UdsWhenSpec
{
	char	   *option;			/* NULL = depends on nothing */
	bool		about_given;	/* whether it has a value ... */
	bool		given;
	UdsTexts	values;			/* ... else, that it has one of these */
} UdsWhenSpec;

/* A signed assertion (RFC 7523). */
typedef struct UdsJwtSpec
{
	UdsTemplate *key;			/* PEM */
	UdsTemplate *key_id;		/* or NULL */
	UdsPairs	claims;
	int			lifetime;		/* seconds */
} UdsJwtSpec;

typedef struct UdsAuthSpec
{
	UdsWhenSpec when;
	bool		has_request;	/* else there is no token */
	UdsRequestSpec request;
	UdsJwtSpec *jwt;			/* or NULL */
	char	   *token;			/* simple path */
	char	   *expires_in;		/* simple path, or NULL */
	int			lifetime;		/* seconds, where the reply names none */
	UdsPairs	query;			/* sent with every request of a stream */
	UdsPairs	headers;
	UdsPairs	form;
	UdsBodyNode *json;			/* an object, or NULL */
	UdsBasicSpec basic;
} UdsAuthSpec;

typedef enum UdsCodeClass
{
	UDS_CODE_OK,
	UDS_CODE_REAUTH,
	UDS_CODE_THROTTLE,
	UDS_CODE_TRANSIENT,
	UDS_CODE_GONE,
	UDS_CODE_SCOPE,
	UDS_CODE_EMPTY,
	UDS_CODE_CONFIG,
	UDS_CODE_DEGRADE,
	UDS_CODE_RESTART
} UdsCodeClass;

/* A rule about answers; conditions that are not set hold. */
typedef struct UdsCodeRule
{
	UdsCodeClass code_class;
	bool		plain;			/* a code and nothing else */
	char	   *code;			/* as text; NULL in a plain rule = no code */
	int			status;			/* HTTP; 0 = any */
	char	   *path;			/* simple path to ... */
	UdsTexts	values;			/* ... one of these, or ... */
	char	   *pattern;		/* ... a text like this */
	char	   *body;			/* pattern of the body's beginning */
	char	   *stream;			/* its name */
	int			wait;			/* throttle: seconds, the first time */
	int			concurrency;	/* throttle: requests in flight for a while;
								 * 0 = as before */
} UdsCodeRule;

typedef struct UdsHintSpec
{
	char	   *code;			/* "HTTP 403" = a status, "*" = any other */
	char	   *hint;
} UdsHintSpec;

/* Where a service says how long it wants to be left alone. */
typedef struct UdsWaitSpec
{
	char	   *header;			/* or ... */
	char	   *path;			/* ... simple path */
	bool		epoch;			/* a time, not a number of seconds */
} UdsWaitSpec;

typedef struct UdsErrorsSpec
{
	UdsTexts	code;			/* simple paths */
	UdsTexts	message;
	int			nrules;			/* plain ones last */
	UdsCodeRule *rules;
	int			nwaits;
	UdsWaitSpec *waits;
	int			nhints;
	UdsHintSpec *hints;
} UdsErrorsSpec;

/* At most so many requests in so many seconds. */
typedef struct UdsBudgetSpec
{
	int			requests;
	int			seconds;
	bool		per_stream;
} UdsBudgetSpec;

/* Where the values of a for_each come from. */
typedef struct UdsFeedSpec
{
	char	   *stream;			/* or ... */
	char	   *event;			/* ... type of what events told of */
	char	   *value;			/* jsonpath over its pages */
} UdsFeedSpec;

typedef enum UdsPaginationKind
{
	UDS_PAGES_CURSOR,
	UDS_PAGES_NEXT_LINK,
	UDS_PAGES_LINK_HEADER,
	UDS_PAGES_PAGE,
	UDS_PAGES_OFFSET
} UdsPaginationKind;

typedef struct UdsPaginationSpec
{
	UdsPaginationKind kind;
	char	   *next;			/* simple path to cursor or link */
	char	   *more;			/* simple path to a flag, or NULL */
	int			first;			/* number of the first page or record */
	char	   *first_cursor;	/* NULL = the first page is asked for without */
	int			size;			/* 0 = not said */
	char	   *count;			/* simple path to the list, or NULL */
	char	   *total;			/* simple path to a number, or NULL */
	bool		until_empty;	/* short pages are no end */
	bool		by_size;		/* the offset goes up by size, whatever came */
	bool		at_least;		/* the value of for_each counts the items */
} UdsPaginationSpec;

typedef enum UdsNoteKind
{
	UDS_NOTE_DATE,
	UDS_NOTE_LAST,
	UDS_NOTE_MAX
} UdsNoteKind;

/* Something that is noted for the next incremental read. */
typedef struct UdsNoteSpec
{
	char	   *name;
	UdsNoteKind kind;
	char	   *path;			/* LAST: simple path; MAX: jsonpath */
	char	   *format;			/* DATE: iso, iso_ms, epoch, epoch_ms */
	int			overlap;		/* DATE: seconds */
} UdsNoteSpec;

typedef struct UdsStreamSpec
{
	char	   *name;
	char	   *type;			/* of its records: user, department, member;
								 * NULL = it has none */
	UdsWhenSpec when;
	char	   *pages_of;		/* stream whose pages it takes, or NULL */
	char	   *as;				/* for_each: name of the value, or NULL */
	int			nvalues;		/* for_each: values to begin with */
	UdsTemplate **values;
	int			nfeeds;			/* for_each: where more come from */
	UdsFeedSpec *feeds;
	bool		has_request;	/* else the pages are those of another stream,
								 * or made up */
	UdsRequestSpec request;
	int			npaginations;
	UdsPaginationSpec *paginations;
	char	   *records;		/* jsonpath; NULL without type */
	char	   *expect;			/* simple path to an array, or NULL */
	UdsTexts	attributes;		/* native: what is asked for */
	UdsBodyNode *synthesize;	/* a page to begin with, or NULL */
	UdsBodyNode *gone;			/* page of what an event told of and is not
								 * there, or NULL */
	int			nnotes;
	UdsNoteSpec *notes;
} UdsStreamSpec;

typedef struct UdsPlanSpec
{
	char	   *name;
	char	   *warning;		/* or NULL */
	UdsWhenSpec when;
	bool		incremental;
	bool		events;			/* asks for what events told of */
	int			count;
	int		   *streams;		/* indexes, in the order of reading */
} UdsPlanSpec;

/* Defaults of options that go with a value of the option "preset". */
typedef struct UdsPresetSpec
{
	char	   *name;			/* that value */
	int			count;
	char	  **options;
	char	  **values;
} UdsPresetSpec;

/* What events of some types tell of. */
typedef struct UdsChangeSpec
{
	UdsWhenSpec when;
	UdsTexts	types;
	char	   *data_type;		/* user, department */
	UdsTexts	ids;			/* jsonpaths */
	char	   *renamed;		/* jsonpath to its new id, or NULL */
} UdsChangeSpec;

/* Change events that the service sends. */
typedef struct UdsEventsSpec
{
	char	   *scheme;			/* of the envelope */
	UdsTemplate *token;			/* each or NULL */
	UdsTemplate *key;
	int			nreceivers;		/* the first that has a value */
	UdsTemplate **receivers;
	UdsTexts	type;			/* jsonpaths; the first that leads somewhere */
	UdsTexts	id;				/* jsonpaths; all that lead somewhere */
	int			nchanges;
	UdsChangeSpec *changes;
	UdsTexts	resync;			/* types that ask for a full sync */
} UdsEventsSpec;

typedef struct UdsManifest
{
	char	   *title;
	int			noptions;
	UdsOptionSpec *options;
	int			npresets;
	UdsPresetSpec *presets;
	char	   *native;			/* how it is read, if not over HTTP; or NULL */
	UdsTemplate *base_url;		/* NULL where native */
	int			nauths;			/* ways to authenticate: the first that fits */
	UdsAuthSpec *auths;
	UdsErrorsSpec errors;
	int			nbudgets;
	UdsBudgetSpec *budgets;
	int			concurrency;	/* 0 = not said */
	int			nplans;
	UdsPlanSpec *plans;
	int			nstreams;
	UdsStreamSpec *streams;
	UdsEventsSpec *events;		/* or NULL */
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
extern bool uds_manifest_holds(const UdsWhenSpec *when,
							   const UdsVariable *options, int count);
#ifndef FRONTEND
extern List *uds_manifest_secrets(const UdsManifest *manifest);
#endif

/* what the parts of the parser share: the first error, named by its path */
typedef struct UdsManifestReader
{
	UdsManifest *manifest;
	char	   *error;			/* NULL = none so far */
	const cJSON *streams;		/* of the document */
	UdsTexts	notes;			/* names of all that streams note */
	UdsTexts	states;			/* those that templates asked for so far */
} UdsManifestReader;

/* reader.c: each returns false once there is an error */
extern bool uds_reader_fail(UdsManifestReader *reader, const char *path,
							const char *problem);
extern bool uds_reader_is_one_of(const char *text, const char *const *words);
extern bool uds_reader_object(UdsManifestReader *reader, const cJSON *object,
							  const char *path, const char *const *words);
extern bool uds_reader_text(UdsManifestReader *reader, const cJSON *object,
							const char *path, const char *word, bool required,
							char **text);
extern bool uds_reader_path(UdsManifestReader *reader, const cJSON *object,
							const char *path, const char *word, bool required,
							char **text);
extern bool uds_reader_paths(UdsManifestReader *reader, const cJSON *object,
							 const char *path, const char *word,
							 UdsTexts *texts);
extern bool uds_reader_texts(UdsManifestReader *reader, const cJSON *object,
							 const char *path, const char *word,
							 UdsTexts *texts);
extern bool uds_reader_bool(UdsManifestReader *reader, const cJSON *object,
							const char *path, const char *word, bool *value);
extern bool uds_reader_int(UdsManifestReader *reader, const cJSON *object,
						   const char *path, const char *word, int min,
						   int max, int *value);
extern bool uds_reader_when(UdsManifestReader *reader, const cJSON *object,
							const char *path, UdsWhenSpec *when);
extern bool uds_reader_template(UdsManifestReader *reader, const cJSON *item,
								const char *path, const char *const *names,
								UdsTemplate **template);
extern char *uds_reader_at(const char *path, const char *word);
extern bool uds_reader_is_name(const char *text);
extern const UdsOptionSpec *uds_reader_option(const UdsManifest *manifest,
											  const char *name);

/* parts of the parser: manifest_request.c, manifest_events.c */
extern bool uds_manifest_read_request(UdsManifestReader *reader,
									  const cJSON *object, const char *path,
									  const char *const *names,
									  UdsRequestSpec *request);
extern bool uds_manifest_read_pairs(UdsManifestReader *reader,
									const cJSON *object, const char *path,
									const char *word, const char *const *names,
									UdsPairs *pairs);
extern bool uds_manifest_read_json(UdsManifestReader *reader,
								   const cJSON *object, const char *path,
								   const char *word, const char *const *names,
								   UdsBodyNode **json);
extern bool uds_manifest_read_basic(UdsManifestReader *reader,
									const cJSON *object, const char *path,
									const char *const *names,
									UdsBasicSpec *basic);

/* manifest_auth.c, manifest_errors.c, manifest_stream.c, manifest_fields.c */
extern bool uds_manifest_read_auth(UdsManifestReader *reader, const cJSON *root);
extern bool uds_manifest_read_errors(UdsManifestReader *reader, const cJSON *root);
extern bool uds_manifest_read_streams(UdsManifestReader *reader, const cJSON *root);
extern bool uds_manifest_read_events(UdsManifestReader *reader, const cJSON *root);
extern bool uds_manifest_check_fields(UdsManifestReader *reader,
									  const cJSON *fields, const char *path,
									  const char *context);

#endif							/* UDS_CONNECTOR_MANIFEST_H */
