/*-------------------------------------------------------------------------
 *
 * ldap_client.h
 *		What the parts of the reader of directories share among themselves.
 *
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 * A client lives in a memory context of its own, whose end is the end of its
 * connection.  What libldap allocates is malloc()ed: whatever is in use when
 * an ERROR may come belongs to the client.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_FETCH_LDAP_CLIENT_H
#define UDS_FETCH_LDAP_CLIENT_H

#define LDAP_DEPRECATED 0
#include <ldap.h>

#include "connector/connector.h"
#include "fetch/ldap_channel.h"
#include "fetch/ldap_value.h"

typedef enum LdapScheme
{
	LDAP_SCHEME_PLAIN,
	LDAP_SCHEME_TLS,
	LDAP_SCHEME_SOCKET
} LdapScheme;

typedef struct LdapUrl
{
	char	   *text;			/* as given, for messages */
	LdapScheme	scheme;
	char	   *host;			/* without brackets; the path of a socket */
	int			port;
} LdapUrl;

/* How departments are made. */
typedef enum LdapDepartments
{
	LDAP_DEPARTMENTS_NONE = 0,
	LDAP_DEPARTMENTS_OU = 1,
	LDAP_DEPARTMENTS_GROUPS = 2,
	LDAP_DEPARTMENTS_BOTH = 3
} LdapDepartments;

/* The options of a source, read and checked. */
typedef struct LdapSettings
{
	int			nurls;
	LdapUrl    *urls;
	bool		start_tls;
	const char *ca_file;
	const char *cert_file;
	const char *key_file;
	const char *bind_dn;
	const char *password;
	bool		sasl_external;
	const char *base_dn;
	bool		ad;
	const char *user_base;
	int			user_scope;
	const char *user_filter;
	const char *department_base;
	const char *department_filter;
	const char *group_base;
	const char *group_filter;
	LdapDepartments departments;
	LdapAttribute uid;
	LdapAttributes user_attributes; /* all but uid */
	LdapAttributes department_attributes;
	LdapAttributes group_attributes;
	LdapAttributes member_attributes;
	LdapAttributes owner_attributes;
	bool		manager_as_owner;
	bool		follow_referrals;
	int			page_size;
	const char *incremental;
} LdapSettings;

/* Why something was not done; texts are in the client's context. */
typedef struct LdapFault
{
	int			code;			/* of LDAP, or of libldap if negative */
	int			sqlstate;
	bool		passing;		/* worth another try */
	const char *what;			/* a phrase; NULL = there is none */
	const char *hint;			/* a sentence, or NULL */
} LdapFault;

/* How far a connection has come; each is a step of a test. */
typedef enum LdapStep
{
	LDAP_STEP_ADDRESS,
	LDAP_STEP_TLS,
	LDAP_STEP_BIND,
	LDAP_STEP_READY
} LdapStep;

typedef struct LdapClient
{
	MemoryContext context;
	const char *source;			/* its name */
	const LdapSettings *settings;
	UdsFetchProgress *totals;
	const LdapUrl *url;			/* connected to */
	LdapStep	step;			/* reached */
	LDAP	   *ld;
	LdapChannel *channel;
	int			fd;
	int			reserved_fds;
	struct WaitEventSet *waits; /* latch and socket; NULL = not connected */
	int64		heard;			/* when the last message came */

	/* in use, to be freed */
	LDAPMessage *message;
	BerElement *element;
	BerVarray	values;
	LDAPControl **controls;

	/* entries come in the order of their names: what is above was so before */
	char	   *above;			/* as sent */
	size_t		above_len;
	char	   *above_normal;

	LdapFault	fault;
} LdapClient;

/* A search, and who is told what it brings. */
typedef struct LdapSearch
{
	const char *what;			/* for messages: "users" */
	const char *base;
	int			scope;
	const char *filter;
	char	  **attributes;		/* ended by NULL */
	int			page_size;		/* 0 = all at once */
	bool		first_page_only;
	LDAPControl *control;		/* one more, or NULL */
	void	   *arg;
	void		(*entry) (void *arg, LdapClient *client);	/* client->message */
	void		(*intermediate) (void *arg, LdapClient *client);	/* or NULL */
	void		(*reference) (void *arg, const char *url);	/* or NULL */
	/* a page, or all, is here; client->controls are those of its end */
	void		(*page) (void *arg, LdapClient *client, bool last);
} LdapSearch;

/* What the server says of itself. */
typedef struct LdapServer
{
	List	   *controls;		/* of char * */
	List	   *contexts;		/* of char *, as given */
	char	   *default_context;
	char	   *highest_usn;
	char	   *service_name;
	char	   *host;
} LdapServer;

/* ldap_settings.c */
extern LdapSettings *uds_ldap_settings(const UdsManifest *manifest, const char *options_json,
									   char **problem);
extern bool uds_ldap_url_parse(const char *text, LdapUrl *url);

/* ldap_connect.c */
extern LdapClient *uds_ldap_open(const char *source, const LdapSettings *settings,
								 UdsFetchProgress *totals);
extern bool uds_ldap_connect(LdapClient *client);
extern bool uds_ldap_connect_to(LdapClient *client, const LdapUrl *url);
extern void uds_ldap_disconnect(LdapClient *client);
extern void uds_ldap_close(LdapClient *client);

/* ldap_message.c */
extern bool uds_ldap_fail(LdapClient *client, int code, int sqlstate, bool passing,
						  char *what, const char *hint);
extern bool uds_ldap_fail_code(LdapClient *client, int code, const char *doing,
							   const char *text);
extern bool uds_ldap_next(LdapClient *client, int msgid, int64 *deadline);
extern bool uds_ldap_result(LdapClient *client, const char *doing);
extern void uds_ldap_release(LdapClient *client);
extern int64 uds_ldap_clock(void);
extern void uds_ldap_pause(int64 ms);

/* ldap_search.c */
extern bool uds_ldap_search(LdapClient *client, const LdapSearch *search);
extern bool uds_ldap_read_entry(LdapClient *client, const LdapSearch *search);
extern bool uds_ldap_read_server(LdapClient *client, LdapServer *server);
extern char **uds_ldap_names(int count,...);

/* ldap_entry.c */
typedef struct LdapEntry
{
	char	   *dn;				/* as sent; valid while the message is */
	int			dn_len;
	char	   *normal;			/* palloc'd, or NULL if it is no name */
	char	   *id;				/* palloc'd, or NULL if there is none */
	bool		enabled;
	bool		tells_enabled;	/* an attribute says so */
} LdapEntry;

/* told each value of attributes that are not part of the JSON */
typedef void (*LdapValueFunction) (void *arg, const LdapEntry *entry,
								   const char *name, int name_len,
								   BerVarray values);

extern void uds_ldap_entry_append(LdapClient *client, StringInfo out,
								  const LdapAttributes *shown, LdapEntry *entry,
								  LdapValueFunction other, void *arg);

#endif							/* UDS_FETCH_LDAP_CLIENT_H */
