/*-------------------------------------------------------------------------
 *
 * ldap_settings.c
 *		The options of a directory, read.
 *
 * What the manifest's own checks cannot say is checked here: addresses,
 * filters, names.
 * Runs in background workers, the checks in backends.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fetch/dn.h"
#include "fetch/ldap.h"
#include "fetch/ldap_client.h"

#define MAX_PAGE_SIZE 10000
#define DEFAULT_PORT 389
#define DEFAULT_TLS_PORT 636

/* The values of the options, by name. */
typedef struct Options
{
	const UdsVariable *values;
	int			count;
} Options;

/* The value of an option; NULL if it has none, or an empty one. */
static const char *
option(const Options *options, const char *name)
{
	for (int i = 0; i < options->count; i++)
	{
		const UdsVariable *variable = &options->values[i];

		if (strcmp(variable->name + strlen("options."), name) == 0)
			return variable->value && variable->value[0] != '\0' ? variable->value : NULL;
	}
	return NULL;
}

static const char *
option_or(const Options *options, const char *name, const char *other)
{
	const char *value = option(options, name);

	return value ? value : other;
}

static bool
is_true(const Options *options, const char *name)
{
	return strcmp(option_or(options, name, ""), "true") == 0;
}

/* Takes %xx out of a text, in place; false if it is malformed. */
static bool
unescape(char *text)
{
	char	   *to = text;

	for (const char *p = text; *p != '\0'; p++)
	{
		if (*p == '%')
		{
			char		hex[3] = {p[1], p[1] ? p[2] : '\0', '\0'};
			char	   *end;

			*to = (char) strtol(hex, &end, 16);
			if (end != hex + 2 || *to == '\0')
				return false;
			p += 2;
			to++;
		}
		else
			*to++ = *p;
	}
	*to = '\0';
	return true;
}

/* "host", "host:port", "[address]:port", "" for the default port. */
static bool
parse_host(char *text, LdapUrl *url)
{
	char	   *port = NULL;
	char	   *end;

	if (text[0] == '[')
	{
		end = strchr(text, ']');
		if (end == NULL)
			return false;
		*end = '\0';
		url->host = text + 1;
		if (end[1] != '\0' && end[1] != ':')
			return false;
		port = end[1] == ':' ? end + 2 : NULL;
	}
	else
	{
		url->host = text;
		end = strchr(text, ':');
		if (end != NULL)
		{
			*end = '\0';
			port = end + 1;
		}
	}
	if (port != NULL)
	{
		if (port[0] == '\0' || strspn(port, "0123456789") != strlen(port) || strlen(port) > 5)
			return false;
		url->port = atoi(port);
	}
	return url->host[0] != '\0' && strpbrk(url->host, "/?#@%\\ ") == NULL &&
		url->port > 0 && url->port <= 65535;
}

/*
 * Reads an address: scheme, host and port, nothing more.  False if it is none.
 */
bool
uds_ldap_url_parse(const char *text, LdapUrl *url)
{
	char	   *rest;
	size_t		len;

	url->text = pstrdup(text);
	if (pg_strncasecmp(text, "ldap://", 7) == 0)
	{
		url->scheme = LDAP_SCHEME_PLAIN;
		url->port = DEFAULT_PORT;
		rest = pstrdup(text + 7);
	}
	else if (pg_strncasecmp(text, "ldaps://", 8) == 0)
	{
		url->scheme = LDAP_SCHEME_TLS;
		url->port = DEFAULT_TLS_PORT;
		rest = pstrdup(text + 8);
	}
	else if (pg_strncasecmp(text, "ldapi://", 8) == 0)
	{
		url->scheme = LDAP_SCHEME_SOCKET;
		rest = pstrdup(text + 8);
	}
	else
		return false;
	len = strlen(rest);
	if (len > 0 && rest[len - 1] == '/')
		rest[len - 1] = '\0';
	if (url->scheme != LDAP_SCHEME_SOCKET)
		return parse_host(rest, url);
	if (!unescape(rest))
		return false;
	url->host = rest;
	return url->host[0] == '/';
}

static char *
read_urls(const Options *options, LdapSettings *settings)
{
	static const char separators[] = ", \t\r\n";
	const char *text = option_or(options, "urls", "");
	size_t		len;

	settings->urls = palloc0((strlen(text) / 2 + 1) * sizeof(LdapUrl));
	for (;; text += len)
	{
		char	   *url;

		text += strspn(text, separators);
		len = strcspn(text, separators);
		if (len == 0)
			break;
		url = pnstrdup(text, len);
		if (!uds_ldap_url_parse(url, &settings->urls[settings->nurls++]))
			return psprintf("option \"urls\": \"%s\" is none of ldap://host:port, ldaps://host:port and ldapi://%%2Fpath",
							url);
	}
	return settings->nurls > 0 ? NULL : pstrdup("option \"urls\" has no address");
}

/* What is wrong with options that hold names, filters or files, or NULL. */
static char *
check_texts(const Options *options)
{
	static const char *const bases[] = {
		"base_dn", "user_base", "department_base", "group_base"
	};
	static const char *const filters[] = {
		"user_filter", "department_filter", "group_filter"
	};
	static const char *const files[] = {"client_cert_file", "client_key_file"};

	for (int i = 0; i < lengthof(bases); i++)
	{
		const char *value = option(options, bases[i]);

		if (value != NULL && uds_dn_normalize(value, strlen(value)) == NULL)
			return psprintf("option \"%s\" is no distinguished name, such as ou=people,dc=example,dc=com",
							bases[i]);
	}
	for (int i = 0; i < lengthof(filters); i++)
	{
		const char *value = option(options, filters[i]);

		if (value != NULL && !uds_ldap_filter_valid(value))
			return psprintf("option \"%s\" is no filter in parentheses, such as (objectClass=person)",
							filters[i]);
	}
	for (int i = 0; i < lengthof(files); i++)
	{
		const char *value = option(options, files[i]);

		if (value != NULL && value[0] != '/')
			return psprintf("option \"%s\" must be an absolute path", files[i]);
	}
	return NULL;
}

static LdapDepartments
read_mode(const char *mode)
{
	if (strcmp(mode, "ou") == 0)
		return LDAP_DEPARTMENTS_OU;
	if (strcmp(mode, "groups") == 0)
		return LDAP_DEPARTMENTS_GROUPS;
	return strcmp(mode, "both") == 0 ? LDAP_DEPARTMENTS_BOTH : LDAP_DEPARTMENTS_NONE;
}

/* Adds what a stream of the manifest asks for, and what the options add. */
static void
read_attributes(const UdsManifest *manifest, const Options *options, const char *stream,
				const char *name, LdapAttributes *attributes)
{
	for (int i = 0; i < manifest->nstreams; i++)
	{
		const UdsStreamSpec *spec = &manifest->streams[i];

		for (int j = 0; strcmp(spec->name, stream) == 0 && j < spec->attributes.count; j++)
			uds_ldap_attributes_add(attributes, spec->attributes.items[j]);
	}
	uds_ldap_attributes_add(attributes, option(options, name));
}

/* A number of few digits, or -1. */
static int
read_size(const char *text)
{
	return strlen(text) > 6 || strspn(text, "0123456789") < strlen(text) ? -1 : atoi(text);
}

static void
read_all(const UdsManifest *manifest, const Options *options, LdapSettings *settings)
{
	LdapAttributes uid = {0};

	settings->start_tls = is_true(options, "start_tls");
	settings->ca_file = option(options, "ca_file");
	settings->cert_file = option(options, "client_cert_file");
	settings->key_file = option(options, "client_key_file");
	settings->bind_dn = option(options, "bind_dn");
	settings->password = option(options, "password");
	settings->sasl_external = is_true(options, "sasl_external");
	settings->base_dn = option_or(options, "base_dn", "");
	settings->ad = strcmp(option_or(options, "preset", ""), "ad") == 0;
	settings->user_base = option_or(options, "user_base", settings->base_dn);
	settings->user_scope = strcmp(option_or(options, "user_scope", ""), "onelevel") == 0 ?
		LDAP_SCOPE_ONELEVEL : LDAP_SCOPE_SUBTREE;
	settings->user_filter = option_or(options, "user_filter", "(objectClass=person)");
	settings->department_base = option_or(options, "department_base", settings->base_dn);
	settings->department_filter = option_or(options, "department_filter", "(objectClass=organizationalUnit)");
	settings->group_base = option_or(options, "group_base", settings->base_dn);
	settings->group_filter = option_or(options, "group_filter", "(objectClass=groupOfNames)");
	settings->departments = read_mode(option_or(options, "department_mode", "none"));
	settings->manager_as_owner = is_true(options, "manager_as_owner");
	settings->follow_referrals = is_true(options, "follow_referrals");
	settings->page_size = read_size(option_or(options, "page_size", "0"));
	settings->incremental = option_or(options, "incremental", "none");
	uds_ldap_attributes_add(&uid, option_or(options, "uid_attribute", "entryUUID"));
	if (uid.count == 1)
		settings->uid = uid.items[0];
	read_attributes(manifest, options, "users", "user_attributes", &settings->user_attributes);
	read_attributes(manifest, options, "departments", "department_attributes",
					&settings->department_attributes);
	read_attributes(manifest, options, "groups", "group_attributes", &settings->group_attributes);
	uds_ldap_attributes_add(&settings->member_attributes, option(options, "member_attributes"));
	uds_ldap_attributes_add(&settings->owner_attributes, option(options, "owner_attributes"));
}

/*
 * Reads the options of a source, secrets in place; in the current memory
 * context.  NULL with *problem set, a phrase, if they cannot be used.
 */
LdapSettings *
uds_ldap_settings(const UdsManifest *manifest, const char *options_json, char **problem)
{
	LdapSettings *settings = palloc0(sizeof(LdapSettings));
	Options		options;

	options.values = uds_manifest_option_values(manifest, options_json, &options.count);
	*problem = read_urls(&options, settings);
	if (*problem == NULL)
		*problem = check_texts(&options);
	if (*problem != NULL)
		return NULL;
	read_all(manifest, &options, settings);
	if (settings->page_size < 0 || settings->page_size > MAX_PAGE_SIZE)
		*problem = psprintf("option \"page_size\" must be a number from 0 to %d", MAX_PAGE_SIZE);
	else if (settings->uid.name == NULL)
		*problem = pstrdup("option \"uid_attribute\" must be one attribute");
	else if (settings->sasl_external && settings->bind_dn != NULL)
		*problem = pstrdup("option \"bind_dn\" does not go with \"sasl_external\"");
	return *problem == NULL ? settings : NULL;
}

/*
 * What is wrong with the options of a source, a phrase, or NULL; secrets need
 * not be there.
 */
char *
uds_ldap_check_options(const UdsManifest *manifest, const char *options_json)
{
	char	   *problem;

	(void) uds_ldap_settings(manifest, options_json, &problem);
	return problem;
}
