/*-------------------------------------------------------------------------
 *
 * ldap_search.c
 *		A search, page by page.
 *
 * Any result but success ends it, so that nobody takes a part for the whole.
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "fetch/ldap_client.h"
#include "uds.h"

/*
 * Names of attributes as libldap wants them, ended by NULL; palloc'd.
 */
char **
uds_ldap_names(int count,...)
{
	char	  **names = palloc0((count + 1) * sizeof(char *));
	va_list		args;

	va_start(args, count);
	for (int i = 0; i < count; i++)
		names[i] = va_arg(args, char *);
	va_end(args);
	return names;
}

/* Sends the request for a page. */
static int
send_request(LdapClient *client, const LdapSearch *search, struct berval *cookie, int *msgid)
{
	LDAPControl *paged = NULL;
	LDAPControl *controls[3] = {NULL};
	int			n = 0;
	int			code = LDAP_SUCCESS;

	if (search->page_size > 0)
		code = ldap_create_page_control(client->ld, search->page_size, cookie, 1, &paged);
	if (paged != NULL)
		controls[n++] = paged;
	if (search->control != NULL)
		controls[n++] = search->control;
	if (code == LDAP_SUCCESS)
		code = ldap_search_ext(client->ld, search->base, search->scope, search->filter,
							   search->attributes, 0, controls, NULL, NULL, LDAP_NO_LIMIT,
							   msgid);
	if (paged != NULL)
		ldap_control_free(paged);
	client->totals->requests++;
	return code;
}

/* Hands on where a reference leads: it is up to others to go there. */
static void
take_reference(LdapClient *client, const LdapSearch *search)
{
	char	  **urls = NULL;
	char	   *copy = NULL;

	if (ldap_parse_reference(client->ld, client->message, &urls, NULL, 0) == LDAP_SUCCESS &&
		urls != NULL && urls[0] != NULL)
		copy = strdup(urls[0]);
	ldap_memvfree((void **) urls);
	if (copy == NULL)
		return;
	if (search->reference != NULL)
	{
		char	   *url = pstrdup(copy);

		free(copy);
		search->reference(search->arg, url);
		pfree(url);
	}
	else
		free(copy);
}

/* The cookie of the next page, palloc'd; empty if there is none. */
static bool
take_cookie(LdapClient *client, const LdapSearch *search, struct berval *cookie)
{
	LDAPControl *control = client->controls ?
		ldap_control_find(LDAP_CONTROL_PAGEDRESULTS, client->controls, NULL) : NULL;
	struct berval next = {0, NULL};
	ber_int_t	estimate = 0;
	int			code;

	cookie->bv_len = 0;
	if (search->page_size == 0)
		return true;
	if (control == NULL)
		return uds_ldap_fail(client, LDAP_CONTROL_NOT_FOUND, ERRCODE_PROTOCOL_VIOLATION, false,
							 "the server did not give the results in pages as asked for", NULL);
	code = ldap_parse_pageresponse_control(client->ld, control, &estimate, &next);
	if (code == LDAP_SUCCESS && next.bv_len > 0)
	{
		cookie->bv_val = MemoryContextAlloc(client->context, next.bv_len);
		memcpy(cookie->bv_val, next.bv_val, next.bv_len);
		cookie->bv_len = next.bv_len;
	}
	ldap_memfree(next.bv_val);
	return code == LDAP_SUCCESS || uds_ldap_fail_code(client, code, "control of paged results", NULL);
}

/* Takes the messages that a request is answered with. */
static bool
read_page(LdapClient *client, const LdapSearch *search, int msgid)
{
	int64		deadline = uds_ldap_clock() + uds_http_timeout;

	while (uds_ldap_next(client, msgid, &deadline))
	{
		switch (ldap_msgtype(client->message))
		{
			case LDAP_RES_SEARCH_ENTRY:
				search->entry(search->arg, client);
				break;
			case LDAP_RES_SEARCH_REFERENCE:
				take_reference(client, search);
				break;
			case LDAP_RES_INTERMEDIATE:
				if (search->intermediate != NULL)
					search->intermediate(search->arg, client);
				break;
			case LDAP_RES_SEARCH_RESULT:
				return uds_ldap_result(client,
									   psprintf(search->scope == LDAP_SCOPE_BASE ?
												"read of %s \"%s\"" : "search of %s below \"%s\"",
												search->what, search->base));
			default:
				break;
		}
	}
	return false;
}

/* Asks for a page; the cookie is used up. */
static bool
ask(LdapClient *client, const LdapSearch *search, struct berval *cookie, int *msgid)
{
	int			code = send_request(client, search, cookie, msgid);

	if (cookie->bv_val != NULL)
		pfree(cookie->bv_val);
	cookie->bv_val = NULL;
	return code == LDAP_SUCCESS ||
		uds_ldap_fail_code(client, code, psprintf("search of %s", search->what), NULL);
}

/*
 * Runs a search to its end.  False with the fault noted if it did not come
 * there; what was told until then is a part.  Raises what interrupts and
 * those who are told raise.
 *
 * The next page is asked for before anybody is told of this one, so that the
 * server works on it meanwhile.
 */
bool
uds_ldap_search(LdapClient *client, const LdapSearch *search)
{
	struct berval cookie = {0, NULL};
	int			msgid = -1;
	bool		more = true;

	if (!ask(client, search, &cookie, &msgid))
		return false;
	while (more)
	{
		if (!read_page(client, search, msgid) || !take_cookie(client, search, &cookie))
		{
			uds_ldap_release(client);
			return false;
		}
		more = cookie.bv_len > 0 && !search->first_page_only;
		if (more && !ask(client, search, &cookie, &msgid))
			return false;
		search->page(search->arg, client, cookie.bv_len == 0);
		uds_ldap_release(client);
	}
	return true;
}

/* For searches that are not told about pages. */
static void
ignore_page(void *arg, LdapClient *client, bool last)
{
}

/*
 * Reads one entry: a search whose pages nobody is told about.
 */
bool
uds_ldap_read_entry(LdapClient *client, const LdapSearch *search)
{
	LdapSearch	copy = *search;

	copy.scope = LDAP_SCOPE_BASE;
	copy.filter = "(objectClass=*)";
	copy.page_size = 0;
	copy.page = ignore_page;
	return uds_ldap_search(client, &copy);
}

/* The first value of an attribute as text, palloc'd, or NULL. */
static char *
first_value(BerVarray values)
{
	return values != NULL && values[0].bv_val != NULL ?
		pnstrdup(values[0].bv_val, values[0].bv_len) : NULL;
}

static List *
all_values(BerVarray values)
{
	List	   *list = NIL;

	for (int i = 0; values != NULL && values[i].bv_val != NULL; i++)
		list = lappend(list, pnstrdup(values[i].bv_val, values[i].bv_len));
	return list;
}

static void
take_server_value(void *arg, const LdapEntry *entry, const char *name, int len, BerVarray values)
{
	LdapServer *server = arg;

#define IS(word) (len == (int) strlen(word) && pg_strncasecmp(name, word, len) == 0)
	if (IS("supportedControl"))
		server->controls = all_values(values);
	else if (IS("namingContexts"))
		server->contexts = all_values(values);
	else if (IS("defaultNamingContext"))
		server->default_context = first_value(values);
	else if (IS("highestCommittedUSN"))
		server->highest_usn = first_value(values);
	else if (IS("dsServiceName"))
		server->service_name = first_value(values);
	else if (IS("dnsHostName"))
		server->host = first_value(values);
#undef IS
}

static void
take_server(void *arg, LdapClient *client)
{
	static const LdapAttributes none = {0};
	MemoryContext caller = MemoryContextSwitchTo(client->context);
	LdapEntry	entry;

	uds_ldap_entry_append(client, NULL, &none, &entry, take_server_value, arg);
	MemoryContextSwitchTo(caller);
}

/*
 * Asks the server what it is; in the client's context.  One that does not say
 * is taken to be able to do nothing special.
 */
bool
uds_ldap_read_server(LdapClient *client, LdapServer *server)
{
	LdapSearch	search = {.what = "the server's own entry",.base = "",.arg = server,.entry = take_server};

	memset(server, 0, sizeof(*server));
	search.attributes = uds_ldap_names(6, "supportedControl", "namingContexts",
									   "defaultNamingContext", "highestCommittedUSN",
									   "dsServiceName", "dnsHostName");
	return uds_ldap_read_entry(client, &search) || !client->fault.passing;
}
