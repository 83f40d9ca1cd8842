/*-------------------------------------------------------------------------
 *
 * ldap_test.c
 *		A directory tried out step by step: what works, and what came back.
 *
 * Runs in request workers, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fetch/ldap.h"
#include "fetch/ldap_read.h"

typedef struct Trial
{
	LdapReader *reader;
	List	   *steps;			/* of UdsTestStep * */
	int64		begun;			/* the current one */
	StringInfoData page;		/* the first one of a listing */
	int			records;
	bool		more;			/* it is not the last */
} Trial;

static void
add_step(Trial *trial, const char *name, bool ok, const char *detail)
{
	UdsTestStep *step = palloc0(sizeof(UdsTestStep));
	int64		now = uds_ldap_clock();

	step->step = name;
	step->ok = ok;
	step->detail = detail;
	step->elapsed = (int) (now - trial->begun);
	trial->steps = lappend(trial->steps, step);
	trial->begun = now;
}

/* A step that failed, as the client's fault says. */
static bool
add_fault(Trial *trial, const char *name)
{
	const LdapFault *fault = &trial->reader->client->fault;

	add_step(trial, name, false, psprintf("%s%s%s", fault->what, fault->hint ? "; hint: " : "",
										  fault->hint ? fault->hint : ""));
	return false;
}

/* Connects to one address; its steps. */
static bool
try_address(Trial *trial, const LdapUrl *url)
{
	const LdapSettings *settings = trial->reader->settings;
	LdapClient *client = trial->reader->client;
	bool		ready = uds_ldap_connect_to(client, url);

	if (client->step == LDAP_STEP_ADDRESS)
		return add_fault(trial, "address");
	add_step(trial, "address", true, psprintf("%s is there", url->text));
	if (client->step == LDAP_STEP_TLS)
		return add_fault(trial, "tls");
	if (url->scheme == LDAP_SCHEME_TLS || (url->scheme == LDAP_SCHEME_PLAIN && settings->start_tls))
		add_step(trial, "tls", true, "the certificate is good");
	if (!ready)
		return add_fault(trial, "bind");
	add_step(trial, "bind", true, settings->sasl_external ? "bound by SASL EXTERNAL" :
			 settings->bind_dn ? psprintf("bound as \"%s\"", settings->bind_dn) :
			 "not bound: anonymous");
	return true;
}

static bool
try_addresses(Trial *trial)
{
	const LdapSettings *settings = trial->reader->settings;

	for (int i = 0; i < settings->nurls; i++)
	{
		if (try_address(trial, &settings->urls[i]))
			return uds_ldap_read_server(trial->reader->client, &trial->reader->server) ||
				add_fault(trial, "server");
	}
	return false;
}

static void
ignore_entry(void *arg, LdapClient *client)
{
	*(bool *) arg = true;
}

/* Whether a base is there. */
static bool
try_base(Trial *trial, const char *base)
{
	LdapSearch	search = {.what = "the base",.base = base};
	bool		found = false;

	search.attributes = uds_ldap_names(1, LDAP_NO_ATTRS);
	search.arg = &found;
	search.entry = ignore_entry;
	if (!uds_ldap_read_entry(trial->reader->client, &search))
		return add_fault(trial, "base");
	if (!found)
	{
		add_step(trial, "base", false,
				 psprintf("no entry \"%s\"; hint: There is no such entry, or this account may not see it.", base));
		return false;
	}
	add_step(trial, "base", true, psprintf("\"%s\" is there", base));
	return true;
}

static void
take_page(void *arg, LdapClient *client, bool last)
{
	Trial	   *trial = arg;
	LdapPage   *page = &trial->reader->page;

	resetStringInfo(&trial->page);
	if (page->records == 0)
		appendStringInfoChar(&trial->page, '[');
	appendBinaryStringInfo(&trial->page, page->json.data, page->json.len);
	appendStringInfoChar(&trial->page, ']');
	trial->records = page->records;
	trial->more = !last;
}

/* The entry functions are told about the reader, the page function about us. */
static Trial *current;

static void
take_reader_page(void *arg, LdapClient *client, bool last)
{
	take_page(current, client, last);
}

/* Reads the first page of a listing, and maps an entry of it. */
static bool
try_listing(Trial *trial, const char *stream, const char *filter_option)
{
	LdapReader *reader = trial->reader;
	char	   *record;
	bool		ok = false;

	reader->search.arg = reader;
	reader->search.what = stream;
	reader->search.page = take_reader_page;
	reader->search.first_page_only = true;
	uds_ldap_page_begin(&reader->page, stream);
	current = trial;
	if (!uds_ldap_search(reader->client, &reader->search))
		return add_fault(trial, stream);
	if (trial->records == 0)
	{
		add_step(trial, stream, false,
				 psprintf("no entry below \"%s\" fits %s; hint: Check option \"%s\", and that the account may see them.",
						  reader->search.base, reader->search.filter, filter_option));
		return true;
	}
	add_step(trial, stream, true, psprintf("%d %s%s", trial->records,
										   trial->records == 1 ? "entry" : "entries",
										   trial->more ? " on the first page" : ""));
	if (strstr(trial->page.data, "\"_id\":") == NULL)
	{
		add_step(trial, psprintf("%s: record", stream), false,
				 psprintf("entries have no attribute %s, or this account may not see it; hint: Check option \"uid_attribute\".",
						  reader->settings->uid.name));
		return true;
	}
	if (reader->hooks->map == NULL)
		return true;
	record = reader->hooks->map(reader->hooks->arg, stream, trial->page.data, trial->page.len,
								NULL, &ok);
	if (record != NULL)
		add_step(trial, psprintf("%s: record", stream), ok, record);
	return true;
}

static void
try_listings(Trial *trial)
{
	LdapReader *reader = trial->reader;
	LdapDepartments mode = reader->settings->departments;
	bool		ok = true;

	if (mode & LDAP_DEPARTMENTS_OU)
	{
		uds_ldap_prepare_departments(reader, false);
		ok = try_listing(trial, LDAP_STREAM_DEPARTMENTS, "department_filter");
	}
	if (ok && (mode & LDAP_DEPARTMENTS_GROUPS))
	{
		uds_ldap_prepare_departments(reader, true);
		ok = try_listing(trial, LDAP_STREAM_GROUPS, "group_filter");
	}
	if (ok)
	{
		/* memberships go nowhere here, but take a person */
		reader->keeps_people = true;
		uds_ldap_prepare_users(reader);
		try_listing(trial, LDAP_STREAM_USERS, "user_filter");
	}
}

/*
 * Tries a directory: options, address, TLS, bind, base, the first page of each
 * listing and the mapping of an entry of it, stopping where going on makes no
 * sense.
 *
 * Returns a List of UdsTestStep *, all in the current memory context.  What
 * fails is a step that is not ok; only interrupts and hooks raise.
 */
List *
uds_ldap_test(const UdsManifest *manifest, const char *source_name, const char *options_json,
			  const UdsFetchHooks *hooks)
{
	Trial		trial = {NULL, NIL, uds_ldap_clock()};
	UdsFetchResult *result = palloc0(sizeof(UdsFetchResult));
	LdapSettings *settings;
	char	   *hint = NULL;
	char	   *problem = uds_manifest_check_secrets(manifest, options_json, &hint);

	if (problem == NULL)
		problem = uds_manifest_check_options(manifest, options_json, &hint);
	settings = problem == NULL ? uds_ldap_settings(manifest, options_json, &problem) : NULL;
	if (settings == NULL)
	{
		add_step(&trial, "options", false,
				 psprintf("%s%s%s", problem, hint ? "; hint: " : "", hint ? hint : ""));
		return trial.steps;
	}
	add_step(&trial, "options", true, "complete and well-formed");
	initStringInfo(&trial.page);
	trial.reader = uds_ldap_reader_open(source_name, settings, hooks, result);
	if (try_addresses(&trial) && try_base(&trial, settings->user_base))
		try_listings(&trial);
	uds_ldap_disconnect(trial.reader->client);
	return trial.steps;
}
