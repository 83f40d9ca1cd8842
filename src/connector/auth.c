/*-------------------------------------------------------------------------
 *
 * auth.c
 *		The access token of a run: kept, fetched, and fetched again.
 *
 * A token is asked for by one request at a time; others wait for it.  What
 * services do to those who ask too often is worse than a failed run, so a
 * refused secret is never tried twice, and a token that is refused fresh
 * ends the run.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "connector/engine.h"

/* a token is given up this long before its end, in seconds, at most */
#define MAX_MARGIN 300

/* the longest life that is believed, in seconds */
#define MAX_LIFETIME (366 * INT64CONST(86400))

/*
 * Chooses the way to authenticate: the first that fits the options.
 */
void
uds_auth_choose(UdsRun *run)
{
	const UdsManifest *manifest = run->manifest;

	for (int i = 0; i < manifest->nauths; i++)
	{
		if (!uds_manifest_holds(&manifest->auths[i].when, run->options, run->noptions))
			continue;
		run->auth = &manifest->auths[i];
		break;
	}
	if (run->auth == NULL && manifest->nauths > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the options of source \"%s\" have nothing to authenticate with",
						run->source),
				 errhint("See the documentation of the source's type.")));
}

/*
 * Whether requests of streams can be sent: no token is needed, or one is at
 * hand.  Asks for a kept one first.
 */
bool
uds_auth_ready(UdsRun *run)
{
	if (run->auth == NULL || !run->auth->has_request)
		return true;
	if (!run->token_asked)
	{
		run->token_asked = true;
		run->token = uds_hook_load_token(run);
		run->token_serial++;
		run->token_until = PG_INT64_MAX;
	}
	return run->token != NULL && run->token_until > uds_clock();
}

/* Asks the service for a token, unless that is being done already. */
void
uds_auth_begin(UdsRun *run)
{
	if (run->token_request != NULL)
		return;
	run->token_request = uds_call_new(run, NULL, NULL);
	uds_exchange_add(run, run->token_request, true);
}

/* No longer uses the token at hand. */
static void
retire_token(UdsRun *run)
{
	if (run->token == NULL)
		return;
	if (run->old_token != NULL)
		pfree(unconstify(char *, run->old_token));
	run->old_token = run->token;
	run->token = NULL;
}

/* Takes over the token of a good answer, and has it kept. */
void
uds_auth_finish(UdsRun *run, const UdsCall *request)
{
	int64		lifetime = Min(request->answer.lifetime, MAX_LIFETIME);

	lifetime -= Min(lifetime / 10, MAX_MARGIN);
	retire_token(run);
	run->token = MemoryContextStrdup(run->context, request->answer.token);
	run->token_serial++;
	run->token_until = uds_clock() + lifetime * 1000;
	run->token_request = NULL;
	uds_hook_save_token(run, run->token, lifetime);
}

/*
 * The service no longer takes the token a request was sent with.  Returns
 * true if the request may be sent again with another one, false if it was
 * already.
 */
bool
uds_auth_again(UdsRun *run, UdsCall *request)
{
	if (request->reauthed)
		return false;
	request->reauthed = true;
	/* others may have found out before, and brought a new one */
	if (request->token_serial == run->token_serial && run->token != NULL)
	{
		retire_token(run);
		uds_hook_save_token(run, NULL, 0);
	}
	return true;
}
