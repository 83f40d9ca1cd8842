/*-------------------------------------------------------------------------
 *
 * manifest_auth.c
 *		The part of a manifest that says how to authenticate.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "connector/manifest.h"

/* seconds a token lives where neither reply nor manifest says */
#define DEFAULT_LIFETIME 3600

/* seconds an assertion is good for; what services take at most */
#define MAX_JWT_LIFETIME 3600

static const char *const no_names[] = {NULL};

/* What goes along with every request of a stream: "send". */
static bool
read_send(UdsManifestReader *reader, const cJSON *object, const char *path,
		  UdsAuthSpec *auth)
{
	static const char *const words[] = {
		"query", "headers", "json", "form", "basic", NULL
	};
	static const char *const token_names[] = {"token", NULL};
	const char *const *names = auth->has_request ? token_names : no_names;
	const cJSON *send = cJSON_GetObjectItemCaseSensitive(object, "send");
	const char *here = uds_reader_at(path, "send");

	if (send == NULL)
		return uds_reader_fail(reader, path, "missing \"send\"");
	if (!uds_reader_object(reader, send, here, words) ||
		!uds_manifest_read_pairs(reader, send, here, "query", names, &auth->query) ||
		!uds_manifest_read_pairs(reader, send, here, "headers", names, &auth->headers) ||
		!uds_manifest_read_pairs(reader, send, here, "form", names, &auth->form) ||
		!uds_manifest_read_json(reader, send, here, "json", names, &auth->json) ||
		!uds_manifest_read_basic(reader, send, here, names, &auth->basic))
		return false;
	if (send->child == NULL)
		return uds_reader_fail(reader, here, "is empty");
	return true;
}

/* "jwt": an assertion to be signed. */
static bool
read_jwt(UdsManifestReader *reader, const cJSON *object, const char *path,
		 UdsAuthSpec *auth)
{
	static const char *const words[] = {"key", "key_id", "claims", "lifetime", NULL};
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, "jwt");
	const char *here = uds_reader_at(path, "jwt");
	const cJSON *key = cJSON_GetObjectItemCaseSensitive(item, "key");
	const cJSON *key_id = cJSON_GetObjectItemCaseSensitive(item, "key_id");
	UdsJwtSpec *jwt;

	if (item == NULL)
		return true;
	jwt = auth->jwt = palloc0(sizeof(UdsJwtSpec));
	jwt->lifetime = MAX_JWT_LIFETIME;
	if (!uds_reader_object(reader, item, here, words) ||
		!uds_reader_int(reader, item, here, "lifetime", 1, MAX_JWT_LIFETIME, &jwt->lifetime) ||
		!uds_manifest_read_pairs(reader, item, here, "claims", no_names, &jwt->claims))
		return false;
	if (key == NULL)
		return uds_reader_fail(reader, here, "missing \"key\"");
	if (key_id != NULL &&
		!uds_reader_template(reader, key_id, uds_reader_at(here, "key_id"),
							 no_names, &jwt->key_id))
		return false;
	return uds_reader_template(reader, key, uds_reader_at(here, "key"), no_names,
							   &jwt->key);
}

/* The request for a token, and where the token is in its reply. */
static bool
read_token(UdsManifestReader *reader, const cJSON *object, const char *path,
		   UdsAuthSpec *auth)
{
	static const char *const jwt_names[] = {"jwt", NULL};
	const cJSON *request = cJSON_GetObjectItemCaseSensitive(object, "request");

	auth->has_request = request != NULL;
	if (!read_jwt(reader, object, path, auth))
		return false;
	if (request == NULL)
	{
		if (auth->jwt != NULL || cJSON_GetObjectItemCaseSensitive(object, "token") != NULL)
			return uds_reader_fail(reader, path, "missing \"request\"");
		return true;
	}
	return uds_manifest_read_request(reader, request, uds_reader_at(path, "request"),
									 auth->jwt ? jwt_names : no_names, &auth->request) &&
		uds_reader_path(reader, object, path, "token", true, &auth->token) &&
		uds_reader_path(reader, object, path, "expires_in", false, &auth->expires_in) &&
		uds_reader_int(reader, object, path, "lifetime", 1, 366 * 86400, &auth->lifetime);
}

static bool
read_way(UdsManifestReader *reader, const cJSON *object, const char *path,
		 UdsAuthSpec *auth)
{
	static const char *const words[] = {
		"when", "request", "jwt", "token", "expires_in", "lifetime", "send", NULL
	};

	auth->lifetime = DEFAULT_LIFETIME;
	return uds_reader_object(reader, object, path, words) &&
		uds_reader_when(reader, object, path, &auth->when) &&
		read_token(reader, object, path, auth) &&
		read_send(reader, object, path, auth);
}

/* Reads "auth" of a manifest: one way to authenticate, or a list of them. */
bool
uds_manifest_read_auth(UdsManifestReader *reader, const cJSON *root)
{
	UdsManifest *manifest = reader->manifest;
	const cJSON *auth = cJSON_GetObjectItemCaseSensitive(root, "auth");
	const cJSON *item;

	if (auth == NULL)
		return true;
	if (!cJSON_IsArray(auth))
	{
		manifest->auths = palloc0(sizeof(UdsAuthSpec));
		manifest->nauths = 1;
		return read_way(reader, auth, "$.auth", manifest->auths);
	}
	manifest->auths = palloc0((cJSON_GetArraySize(auth) + 1) * sizeof(UdsAuthSpec));
	cJSON_ArrayForEach(item, auth)
	{
		if (!read_way(reader, item, psprintf("$.auth[%d]", manifest->nauths),
					  &manifest->auths[manifest->nauths]))
			return false;
		manifest->nauths++;
	}
	return true;
}
