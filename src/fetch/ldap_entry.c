/*-------------------------------------------------------------------------
 *
 * ldap_entry.c
 *		An entry of a directory, as JSON.
 *
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "fetch/dn.h"
#include "fetch/ldap_client.h"

#define ACCOUNT_DISABLED 0x2

/* what ppolicy writes where an administrator has locked an account for good */
#define LOCKED_FOR_GOOD "000001010000Z"

static int
compare_values(const void *a, const void *b)
{
	const struct berval *left = a;
	const struct berval *right = b;
	int			order = memcmp(left->bv_val, right->bv_val, Min(left->bv_len, right->bv_len));

	return order != 0 ? order : (left->bv_len > right->bv_len) - (left->bv_len < right->bv_len);
}

/*
 * Puts values into an order that does not depend on the server: the one that
 * names the entry first, then by their bytes.
 */
static void
order_values(const LdapEntry *entry, const char *name, int name_len, BerVarray values, int count)
{
	char	   *attribute;

	qsort(values, count, sizeof(struct berval), compare_values);
	if (entry->normal == NULL)
		return;
	attribute = pnstrdup(name, name_len);
	for (int i = 1; i < count; i++)
	{
		struct berval naming = values[i];

		if (!uds_dn_in_rdn(entry->normal, attribute, naming.bv_val, naming.bv_len))
			continue;
		memmove(values + 1, values, i * sizeof(struct berval));
		values[0] = naming;
		break;
	}
	pfree(attribute);
}

static bool
is_name(const char *name, int len, const char *word)
{
	return len == (int) strlen(word) && pg_strncasecmp(name, word, len) == 0;
}

static bool
is_value(const struct berval *value, const char *word)
{
	return value->bv_len == strlen(word) && pg_strncasecmp(value->bv_val, word, value->bv_len) == 0;
}

/* A number in decimal, or 0. */
static int64
to_number(const struct berval *value)
{
	char		text[24];
	size_t		len = Min(value->bv_len, sizeof(text) - 1);

	memcpy(text, value->bv_val, len);
	text[len] = '\0';
	return strtoll(text, NULL, 10);
}

/* What a value says about whether the account can be used. */
static void
judge_enabled(LdapEntry *entry, const LdapAttribute *attribute, const struct berval *value)
{
	const char *name = attribute->name;
	int			len = attribute->len;

	if (attribute->kind == LDAP_KIND_ACCOUNT)
	{
		entry->tells_enabled = true;
		if ((to_number(value) & ACCOUNT_DISABLED) != 0)
			entry->enabled = false;
	}
	else if (is_name(name, len, "accountExpires"))
	{
		int64		ticks = to_number(value);

		if (ticks > 0 && ticks != PG_INT64_MAX &&
			ticks / 10000000 - INT64CONST(11644473600) <= (int64) time(NULL))
			entry->enabled = false;
	}
	else if ((is_name(name, len, "pwdAccountLockedTime") && is_value(value, LOCKED_FOR_GOOD)) ||
			 (is_name(name, len, "nsAccountLock") && is_value(value, "true")) ||
			 (is_name(name, len, "loginDisabled") && is_value(value, "true")))
		entry->enabled = false;
	else if (is_name(name, len, "shadowExpire"))
	{
		int64		days = to_number(value);

		if (days > 0 && days <= (int64) time(NULL) / 86400)
			entry->enabled = false;
	}
}

/* The id of the entry as text. */
static char *
id_text(const LdapAttribute *attribute, const struct berval *value)
{
	char		text[40];

	if (attribute->kind == LDAP_KIND_GUID)
		return uds_ldap_guid_text(value->bv_val, (int) value->bv_len, text) ? pstrdup(text) : NULL;
	if (attribute->kind == LDAP_KIND_SID)
		return uds_ldap_sid_text(value->bv_val, (int) value->bv_len);
	if (memchr(value->bv_val, '\0', value->bv_len) != NULL ||
		pg_encoding_verifymbstr(PG_UTF8, value->bv_val, (int) value->bv_len) != (int) value->bv_len)
		return NULL;
	if (attribute->kind == LDAP_KIND_UUID)
	{
		char	   *id = pnstrdup(value->bv_val, value->bv_len);

		for (char *p = id; *p != '\0'; p++)
			*p = pg_ascii_tolower((unsigned char) *p);
		return id;
	}
	return pnstrdup(value->bv_val, value->bv_len);
}

/* Appends an attribute and its values as a member of the object. */
static void
append_attribute(StringInfo out, LdapEntry *entry, const LdapAttribute *attribute,
				 const char *options, int options_len, BerVarray values, int count)
{
	char	   *key = psprintf("%s%.*s", attribute->name, options_len, options);

	if (count > 1)
		order_values(entry, attribute->name, attribute->len, values, count);
	appendStringInfoChar(out, ',');
	uds_ldap_append_text(out, key, (int) strlen(key));
	appendStringInfoString(out, count > 1 ? ":[" : ":");
	for (int i = 0; i < count; i++)
	{
		if (i > 0)
			appendStringInfoChar(out, ',');
		uds_ldap_append_value(out, attribute->kind, values[i].bv_val, (int) values[i].bv_len);
		judge_enabled(entry, attribute, &values[i]);
	}
	if (count > 1)
		appendStringInfoChar(out, ']');
	if (attribute->kind == LDAP_KIND_ACCOUNT)
	{
		appendStringInfoString(out, ",\"_account\":");
		uds_ldap_append_account(out, (uint32) to_number(&values[0]));
	}
	pfree(key);
}

/* One attribute, as the server describes it. */
static void
take_attribute(LdapClient *client, StringInfo out, const LdapAttributes *shown,
			   LdapEntry *entry, const struct berval *description,
			   LdapValueFunction other, void *arg)
{
	const LdapAttribute *uid = &client->settings->uid;
	const LdapAttribute *attribute;
	const char *name = description->bv_val;
	int			len = (int) description->bv_len;
	const char *semicolon = memchr(name, ';', len);
	int			base_len = semicolon ? (int) (semicolon - name) : len;
	const char *options = name + base_len;
	int			options_len = len - base_len;
	int			count = 0;

	while (client->values != NULL && client->values[count].bv_val != NULL)
		count++;
	if (count > 0 && options_len == 0 && is_name(name, len, uid->name))
		entry->id = id_text(uid, &client->values[0]);
	attribute = uds_ldap_attributes_find(shown, name, base_len);
	if (attribute != NULL && count > 0 && out != NULL)
	{
		if (is_name(options, options_len, ";binary"))
			options_len = 0;
		append_attribute(out, entry, attribute, options, options_len, client->values, count);
	}
	if (other != NULL)
		other(arg, entry, name, len, client->values);
}

/*
 * The normal form of an entry's name.  That of what is above it is kept, since
 * the next entry is mostly in the same place.
 */
static char *
normalize(LdapClient *client, const struct berval *dn)
{
	int			first = uds_dn_first(dn->bv_val, dn->bv_len);
	const char *above = dn->bv_val + first + 1;
	size_t		len = dn->bv_len - first - 1;
	char	   *rdn;

	if (first < 0)
		return uds_dn_normalize(dn->bv_val, dn->bv_len);
	if (client->above == NULL || client->above_len != len || memcmp(client->above, above, len) != 0)
	{
		char	   *normal = uds_dn_normalize(above, len);
		MemoryContext caller;

		if (normal == NULL || normal[0] == '\0')
			return NULL;
		if (client->above != NULL)
		{
			pfree(client->above);
			pfree(client->above_normal);
		}
		caller = MemoryContextSwitchTo(client->context);
		client->above_normal = pstrdup(normal);
		client->above = pnstrdup(above, len);
		client->above_len = len;
		MemoryContextSwitchTo(caller);
	}
	rdn = uds_dn_normalize(dn->bv_val, first);
	return rdn && rdn[0] != '\0' ? psprintf("%s,%s", rdn, client->above_normal) : NULL;
}

/*
 * Reads client->message, an entry.  To "out" (NULL = nothing) goes the
 * beginning of a JSON object with its attributes, without the closing brace;
 * what concerns the reader of the entry is in *entry.  "other" (or NULL) is
 * told all attributes.
 */
void
uds_ldap_entry_append(LdapClient *client, StringInfo out, const LdapAttributes *shown,
					  LdapEntry *entry, LdapValueFunction other, void *arg)
{
	struct berval dn = {0, NULL};
	struct berval description;

	memset(entry, 0, sizeof(*entry));
	entry->enabled = true;
	if (ldap_get_dn_ber(client->ld, client->message, &client->element, &dn) != LDAP_SUCCESS ||
		dn.bv_val == NULL)
	{
		/* an entry that cannot be read is one without an id */
		if (out != NULL)
			appendStringInfoString(out, "{\"_dn\":null");
		return;
	}
	entry->dn = dn.bv_val;
	entry->dn_len = (int) dn.bv_len;
	entry->normal = normalize(client, &dn);
	if (out != NULL)
	{
		appendStringInfoString(out, "{\"_dn\":");
		uds_ldap_append_value(out, LDAP_KIND_TEXT, dn.bv_val, (int) dn.bv_len);
	}
	while (ldap_get_attribute_ber(client->ld, client->message, client->element, &description,
								  &client->values) == LDAP_SUCCESS &&
		   description.bv_val != NULL)
	{
		take_attribute(client, out, shown, entry, &description, other, arg);
		if (client->values != NULL)
			ldap_memfree(client->values);
		client->values = NULL;
	}
	ber_free(client->element, 0);
	client->element = NULL;
	if (out != NULL && entry->id != NULL)
	{
		appendStringInfoString(out, ",\"_id\":");
		uds_ldap_append_text(out, entry->id, (int) strlen(entry->id));
	}
}
