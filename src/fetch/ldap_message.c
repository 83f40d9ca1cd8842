/*-------------------------------------------------------------------------
 *
 * ldap_message.c
 *		Waiting for the answers of a directory, and what they mean for people.
 *
 * libldap never waits here: it is asked whether a message is there, and the
 * wait is on the latch and the socket.
 * Runs in background workers only, outside any transaction.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "fetch/ldap_client.h"
#include "uds.h"

/* looked at again this often, should libldap want more than to read (ms) */
#define LOOK_AGAIN 200

/* What a result code means. */
static const struct
{
	int			code;
	bool		passing;
	int			sqlstate;
	const char *name;
	const char *hint;
}			codes[] =
{
	{LDAP_OPERATIONS_ERROR, false, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, "operationsError",
	"Active Directory says so if nobody is bound: set \"bind_dn\" and \"password\"."},
	{LDAP_PROTOCOL_ERROR, false, ERRCODE_PROTOCOL_VIOLATION, "protocolError", NULL},
	{LDAP_TIMELIMIT_EXCEEDED, true, ERRCODE_CONNECTION_FAILURE, "timeLimitExceeded", NULL},
	{LDAP_SIZELIMIT_EXCEEDED, false, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "sizeLimitExceeded",
	"The server gives this account no more entries. Raise its limit (size.prtotal in OpenLDAP)."},
	{LDAP_STRONG_AUTH_REQUIRED, false, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, "strongerAuthRequired",
	"The server wants TLS: use an ldaps address, or start_tls."},
	{LDAP_CONFIDENTIALITY_REQUIRED, false, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, "confidentialityRequired",
	"The server wants TLS: use an ldaps address, or start_tls."},
	{LDAP_REFERRAL, false, ERRCODE_INVALID_PARAMETER_VALUE, "referral",
	"This server does not hold the base; use the one that it refers to."},
	{LDAP_ADMINLIMIT_EXCEEDED, false, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "adminLimitExceeded",
	"Set a smaller \"page_size\", or raise the server's limit (size.pr in OpenLDAP)."},
	{LDAP_UNAVAILABLE_CRITICAL_EXTENSION, false, ERRCODE_FEATURE_NOT_SUPPORTED, "unavailableCriticalExtension",
	"If the server cannot give results in pages, set \"page_size\" to 0."},
	{LDAP_NO_SUCH_OBJECT, false, ERRCODE_INVALID_PARAMETER_VALUE, "noSuchObject",
	"There is no such entry, or this account may not see it: check the base."},
	{LDAP_INVALID_DN_SYNTAX, false, ERRCODE_INVALID_PARAMETER_VALUE, "invalidDNSyntax",
	"Check the base, and \"bind_dn\"."},
	{LDAP_INAPPROPRIATE_AUTH, false, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, "inappropriateAuthentication", NULL},
	{LDAP_INVALID_CREDENTIALS, false, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, "invalidCredentials",
	"Check \"bind_dn\" and \"password\"."},
	{LDAP_INSUFFICIENT_ACCESS, false, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, "insufficientAccessRights",
	"The account of \"bind_dn\" needs the right to read there."},
	{LDAP_BUSY, true, ERRCODE_CONNECTION_FAILURE, "busy", NULL},
	{LDAP_UNAVAILABLE, true, ERRCODE_CONNECTION_FAILURE, "unavailable", NULL},
	{LDAP_UNWILLING_TO_PERFORM, false, ERRCODE_INVALID_PARAMETER_VALUE, "unwillingToPerform", NULL},
	{LDAP_OTHER, true, ERRCODE_CONNECTION_FAILURE, "other", NULL},
	{LDAP_FILTER_ERROR, false, ERRCODE_INVALID_PARAMETER_VALUE, "bad filter",
	"Check the filters, which look like (objectClass=person)."}
};

/* What Active Directory adds to invalidCredentials, after "data ". */
static const struct
{
	const char *data;
	const char *what;
	const char *hint;
}			credentials[] =
{
	{"525", "no such user", "Check \"bind_dn\"."},
	{"52e", "wrong password", "Check \"password\", and that \"bind_dn\" names the account."},
	{"530", "the account may not log on at this time", NULL},
	{"531", "the account may not log on from this machine", NULL},
	{"532", "the password has expired", "Set a new one for the account, and give it with uds_alter_source()."},
	{"533", "the account is disabled", "Enable it, or use another one."},
	{"568", "the account is a member of too many groups", NULL},
	{"701", "the account has expired", "Extend it, or use another one."},
	{"773", "the password must be changed first", "Log on once as the account and change it, and give it with uds_alter_source()."},
	{"775", "the account is locked", "Unlock it; somebody may have tried it with wrong passwords."}
};

/*
 * Milliseconds on a clock that only goes forward.
 */
int64
uds_ldap_clock(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

/*
 * Sleeps, and can be interrupted.
 */
void
uds_ldap_pause(int64 ms)
{
	int64		end = uds_ldap_clock() + ms;
	int64		now;

	while ((now = uds_ldap_clock()) < end)
	{
		if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					  end - now, uds_wait_event("UdsLdapPause")) & WL_LATCH_SET)
			ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Notes why something was not done, and returns false.  "what" and "hint" are
 * kept as they are.
 */
bool
uds_ldap_fail(LdapClient *client, int code, int sqlstate, bool passing,
			  char *what, const char *hint)
{
	client->fault.code = code;
	client->fault.sqlstate = sqlstate;
	client->fault.passing = passing;
	client->fault.what = what;
	client->fault.hint = hint;
	return false;
}

/* What a server says, as one line of text that can be shown. */
static char *
shown_text(const char *text)
{
	char	   *copy = pstrdup(text);

	for (char *p = copy; *p != '\0'; p++)
	{
		if ((unsigned char) *p < ' ' || *p == 0x7f)
			*p = ' ';
	}
	if (!pg_verifymbstr(copy, strlen(copy), true))
	{
		for (char *p = copy; *p != '\0'; p++)
		{
			if (IS_HIGHBIT_SET(*p))
				*p = '?';
		}
	}
	return copy;
}

/*
 * Notes what a code stands for, with what the server said (may be NULL), and
 * returns false.  "doing" names what was done: "bind", "search of …".
 */
bool
uds_ldap_fail_code(LdapClient *client, int code, const char *doing, const char *text)
{
	MemoryContext caller = MemoryContextSwitchTo(client->context);
	const char *data = text ? strstr(text, ", data ") : NULL;
	const char *name = NULL;
	const char *hint = NULL;
	int			sqlstate = ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
	bool		passing = code < 0;
	StringInfoData what;

	for (int i = 0; i < lengthof(codes); i++)
	{
		if (codes[i].code != code)
			continue;
		name = codes[i].name;
		hint = codes[i].hint;
		sqlstate = codes[i].sqlstate;
		passing = codes[i].passing;
	}
	initStringInfo(&what);
	appendStringInfo(&what, "%s: ", doing);
	for (int i = 0; code == LDAP_INVALID_CREDENTIALS && data != NULL && i < lengthof(credentials); i++)
	{
		size_t		len = strlen(credentials[i].data);

		if (pg_strncasecmp(data + 7, credentials[i].data, len) != 0 || isalnum((unsigned char) data[7 + len]))
			continue;
		appendStringInfo(&what, "%s; ", credentials[i].what);
		if (credentials[i].hint != NULL)
			hint = credentials[i].hint;
	}
	if (code < 0)
		appendStringInfoString(&what, ldap_err2string(code));
	else
		appendStringInfo(&what, "server answered %d %s", code, name ? name : ldap_err2string(code));
	if (text != NULL && text[0] != '\0')
		appendStringInfo(&what, " \"%s\"", shown_text(text));
	MemoryContextSwitchTo(caller);
	return uds_ldap_fail(client, code, sqlstate, passing, what.data, hint);
}

/*
 * Frees what is in use of the current message.
 */
void
uds_ldap_release(LdapClient *client)
{
	if (client->values != NULL)
		ldap_memfree(client->values);
	client->values = NULL;
	if (client->element != NULL)
		ber_free(client->element, 0);
	client->element = NULL;
	if (client->controls != NULL)
		ldap_controls_free(client->controls);
	client->controls = NULL;
	if (client->message != NULL)
		ldap_msgfree(client->message);
	client->message = NULL;
}

/* The connection is gone, or silent. */
static bool
fail_connection(LdapClient *client, const char *why)
{
	MemoryContext caller = MemoryContextSwitchTo(client->context);

	if (why == NULL)
		why = uds_ldap_channel_fault(client->channel);
	uds_ldap_fail(client, LDAP_SERVER_DOWN, ERRCODE_CONNECTION_FAILURE, true,
				  psprintf("connection to %s lost: %s", client->url->text,
						   why[0] != '\0' ? why : "no reason given"), NULL);
	MemoryContextSwitchTo(caller);
	return false;
}

/*
 * Waits for the next message of an operation, which is client->message until
 * the next call.  False with the fault noted if none comes; *deadline, on
 * uds_ldap_clock(), is moved on with each that does.  Services interrupts.
 */
bool
uds_ldap_next(LdapClient *client, int msgid, int64 *deadline)
{
	static uint32 wait_event = 0;
	struct timeval at_once = {0, 0};

	if (wait_event == 0)
		wait_event = uds_wait_event("UdsLdapAnswer");
	uds_ldap_release(client);
	for (;;)
	{
		int			kind = ldap_result(client->ld, msgid, LDAP_MSG_ONE, &at_once, &client->message);
		int64		left = *deadline - uds_ldap_clock();
		int			events;

		if (kind > 0)
		{
			client->heard = uds_ldap_clock();
			*deadline = client->heard + uds_http_timeout;
			return true;
		}
		if (kind < 0)
			return fail_connection(client, NULL);
		if (left <= 0)
			return fail_connection(client, psprintf("no answer within %d ms", uds_http_timeout));
		events = WaitLatchOrSocket(MyLatch,
								   WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								   client->fd, Min(left, LOOK_AGAIN), wait_event);
		if (events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * What client->message, the last one of an operation, says: false with the
 * fault noted unless it was a success.  Its controls are client->controls.
 */
bool
uds_ldap_result(LdapClient *client, const char *doing)
{
	int			code = LDAP_OTHER;
	char	   *text = NULL;
	char	  **referrals = NULL;
	int			parsed;
	bool		ok;

	parsed = ldap_parse_result(client->ld, client->message, &code, NULL, &text, &referrals,
							   &client->controls, 0);
	if (parsed != LDAP_SUCCESS)
		ok = uds_ldap_fail_code(client, parsed, doing, NULL);
	else if (code == LDAP_REFERRAL && referrals != NULL)
		ok = uds_ldap_fail_code(client, code, doing, referrals[0]);
	else if (code != LDAP_SUCCESS)
		ok = uds_ldap_fail_code(client, code, doing, text);
	else
		ok = true;
	ldap_memfree(text);
	ldap_memvfree((void **) referrals);
	return ok;
}
