/*-------------------------------------------------------------------------
 *
 * ldap_sync.c
 *		Controls and messages of LDAP content synchronization (RFC 4533), as
 *		far as a refresh has them.
 *
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "fetch/ldap_sync.h"

/*
 * The request for what changed since a cookie, palloc'd.
 */
LDAPControl *
uds_ldap_sync_control(const char *cookie)
{
	LDAPControl *control = palloc0(sizeof(LDAPControl));
	BerElement *ber = ber_alloc_t(LBER_USE_DER);
	struct berval value = {0, NULL};
	bool		made = ber != NULL &&
		ber_printf(ber, "{es}", (ber_int_t) LDAP_SYNC_REFRESH_ONLY, cookie) != -1 &&
		ber_flatten2(ber, &value, 0) != -1;

	if (made)
	{
		/* no more than the cookie and a few bytes: this does not fail */
		control->ldctl_value.bv_val = palloc(value.bv_len);
		control->ldctl_value.bv_len = value.bv_len;
		memcpy(control->ldctl_value.bv_val, value.bv_val, value.bv_len);
	}
	ber_free(ber, 1);
	if (!made)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	control->ldctl_oid = LDAP_CONTROL_SYNC;
	control->ldctl_iscritical = 1;
	return control;
}

/*
 * What client->message, an entry, says of itself; "uuid" has room for 37
 * bytes.
 */
LdapSyncState
uds_ldap_sync_state(LdapClient *client, char *uuid)
{
	LDAPControl *control;
	BerElement *ber;
	struct berval id = {0, NULL};
	ber_int_t	state = 0;
	bool		ok;

	if (client->controls != NULL)
		ldap_controls_free(client->controls);
	client->controls = NULL;
	if (ldap_get_entry_controls(client->ld, client->message, &client->controls) != LDAP_SUCCESS)
		return LDAP_SYNC_STATE_NONE;
	control = client->controls ? ldap_control_find(LDAP_CONTROL_SYNC_STATE, client->controls, NULL) : NULL;
	if (control == NULL || (ber = ber_init(&control->ldctl_value)) == NULL)
		return LDAP_SYNC_STATE_NONE;
	ok = ber_scanf(ber, "{em", &state, &id) != LBER_ERROR &&
		uds_ldap_uuid_text(id.bv_val, (int) id.bv_len, uuid);
	ber_free(ber, 1);
	return ok && state >= LDAP_SYNC_STATE_PRESENT && state <= LDAP_SYNC_STATE_DELETE ?
		(LdapSyncState) state : LDAP_SYNC_STATE_NONE;
}

static void
take_cookie(LdapSyncInfo *info, const struct berval *cookie)
{
	/* it is text wherever it is of use: one with a zero byte is none of ours */
	if (cookie->bv_len == 0 || memchr(cookie->bv_val, '\0', cookie->bv_len) != NULL)
		return;
	info->cookie = MemoryContextAlloc(info->context, cookie->bv_len + 1);
	memcpy(info->cookie, cookie->bv_val, cookie->bv_len);
	info->cookie[cookie->bv_len] = '\0';
}

/* A cookie, if that is what comes next. */
static bool
read_cookie(LdapSyncInfo *info, BerElement *ber)
{
	struct berval cookie = {0, NULL};
	ber_len_t	len;

	if (ber_peek_tag(ber, &len) != LDAP_TAG_SYNC_COOKIE)
		return true;
	if (ber_scanf(ber, "m", &cookie) == LBER_ERROR)
		return false;
	take_cookie(info, &cookie);
	return true;
}

/* A flag, if that is what comes next. */
static bool
read_flag(BerElement *ber, bool *flag)
{
	ber_int_t	value = 0;
	ber_len_t	len;

	if (ber_peek_tag(ber, &len) != LBER_BOOLEAN)
		return true;
	if (ber_scanf(ber, "b", &value) == LBER_ERROR)
		return false;
	*flag = value != 0;
	return true;
}

/* The ids that a message lists: gone, or still there. */
static bool
read_ids(LdapSyncInfo *info, BerElement *ber)
{
	bool		gone = false;
	ber_len_t	len;
	char	   *end;
	ber_tag_t	tag;

	if (ber_scanf(ber, "{") == LBER_ERROR || !read_cookie(info, ber) || !read_flag(ber, &gone))
		return false;
	info->present_phase |= !gone;
	for (tag = ber_first_element(ber, &len, &end); tag != LBER_DEFAULT; tag = ber_next_element(ber, &len, end))
	{
		struct berval id = {0, NULL};
		char		text[37];
		MemoryContext caller;

		if (ber_scanf(ber, "m", &id) == LBER_ERROR ||
			!uds_ldap_uuid_text(id.bv_val, (int) id.bv_len, text))
			return false;
		caller = MemoryContextSwitchTo(info->context);
		if (gone)
			info->deleted = lappend(info->deleted, pstrdup(text));
		else
			info->present = lappend(info->present, pstrdup(text));
		MemoryContextSwitchTo(caller);
	}
	return true;
}

/* One of the kinds that there are. */
static bool
read_message(LdapSyncInfo *info, BerElement *ber)
{
	struct berval cookie = {0, NULL};
	ber_len_t	len;

	switch (ber_peek_tag(ber, &len))
	{
		case LDAP_TAG_SYNC_NEW_COOKIE:
			if (ber_scanf(ber, "m", &cookie) == LBER_ERROR)
				return false;
			take_cookie(info, &cookie);
			return true;
		case LDAP_TAG_SYNC_REFRESH_PRESENT:
			info->present_phase = true;
			return ber_scanf(ber, "{") != LBER_ERROR && read_cookie(info, ber);
		case LDAP_TAG_SYNC_REFRESH_DELETE:
			return ber_scanf(ber, "{") != LBER_ERROR && read_cookie(info, ber);
		case LDAP_TAG_SYNC_ID_SET:
			return read_ids(info, ber);
		default:
			return false;
	}
}

/*
 * Takes client->message, one between the entries.
 */
void
uds_ldap_sync_message(LdapSyncInfo *info, LdapClient *client)
{
	char	   *oid = NULL;
	struct berval *data = NULL;
	bool		ours = ldap_parse_intermediate(client->ld, client->message, &oid, &data, NULL, 0) == LDAP_SUCCESS &&
		oid != NULL && strcmp(oid, LDAP_SYNC_INFO) == 0 && data != NULL;

	if (ours)
		client->element = ber_init(data);
	ldap_memfree(oid);
	ber_bvfree(data);
	if (!ours)
		return;
	if (client->element == NULL || !read_message(info, client->element))
		info->malformed = true;
	ber_free(client->element, 1);
	client->element = NULL;
}

/*
 * Takes what the end of a refresh says, in client->controls.
 */
void
uds_ldap_sync_done(LdapSyncInfo *info, LdapClient *client)
{
	LDAPControl *control = client->controls ?
		ldap_control_find(LDAP_CONTROL_SYNC_DONE, client->controls, NULL) : NULL;
	bool		deletes = false;

	if (control != NULL && control->ldctl_value.bv_len > 0)
		client->element = ber_init(&control->ldctl_value);
	if (client->element == NULL || ber_scanf(client->element, "{") == LBER_ERROR ||
		!read_cookie(info, client->element) || !read_flag(client->element, &deletes))
		info->malformed = true;
	if (!deletes)
		info->present_phase = true;
	ber_free(client->element, 1);
	client->element = NULL;
}
