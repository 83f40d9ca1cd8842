/*-------------------------------------------------------------------------
 *
 * keys.c
 *		Keys with which others may push over HTTP.
 *
 * A key is "uds_", the number of its row, "_" and 32 random bytes in
 * base64url.  The row is found by the number, and only then the hashes are
 * compared, in constant time; so how long a refusal takes tells nothing about
 * a key.
 *
 * Owns uds.api_keys.  Runs in backends, and in the listener for checks; row
 * locks only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "listen/listen.h"

PG_FUNCTION_INFO_V1(uds_create_api_key);
PG_FUNCTION_INFO_V1(uds_drop_api_key);

#define KEY_PREFIX "uds_"
#define SECRET_BYTES 32
#define HASH_BYTES 32

/* $1 name, $2 source, $3 scopes, $4 expires at, $5 created by, $6 id, $7 hash */
static const char *const insert_sql =
"INSERT INTO uds.api_keys (id, name, source_id, scopes, expires_at, created_by, hash)"
" VALUES ($6, $1, $2, $3, $4, $5, $7)";

static const char *const problem_sql =
"SELECT CASE WHEN $1 = '' OR octet_length($1) > 100"
"            THEN '22023'"
"            WHEN EXISTS (SELECT FROM uds.api_keys WHERE name = $1)"
"            THEN '42710'"
"            ELSE '22023' END,"
"       CASE WHEN $1 = '' OR octet_length($1) > 100"
"            THEN 'the name of an API key must have 1 to 100 bytes'"
"            WHEN EXISTS (SELECT FROM uds.api_keys WHERE name = $1)"
"            THEN format('API key \"%s\" already exists', $1)"
"            WHEN $2 = '{}' OR array_position($2, NULL) IS NOT NULL"
"                 OR NOT $2 <@ '{push,metrics}'"
"            THEN format('unknown scopes of API key \"%s\": %s', $1, $2::text)"
"            WHEN $3 <= clock_timestamp()"
"            THEN format('API key \"%s\" would have expired already', $1) END,"
"       CASE WHEN NOT $2 <@ '{push,metrics}' THEN 'Known are push and metrics.' END"
" WHERE $1 = '' OR octet_length($1) > 100"
"    OR EXISTS (SELECT FROM uds.api_keys WHERE name = $1)"
"    OR $2 = '{}' OR array_position($2, NULL) IS NOT NULL OR NOT $2 <@ '{push,metrics}'"
"    OR $3 <= clock_timestamp()";

static const char *const find_sql =
"SELECT k.name, k.source_id, s.name, k.hash, $2 = ANY (k.scopes),"
"       coalesce(k.expires_at <= clock_timestamp(), false),"
"       k.last_used_at IS NULL OR k.last_used_at < clock_timestamp() - interval '1 minute'"
"  FROM uds.api_keys k"
"  JOIN uds.source_settings s ON s.id = k.source_id"
" WHERE k.id = $1";

/* Nobody waits for the one who notes it. */
static const char *const used_sql =
"UPDATE uds.api_keys"
"   SET last_used_at = clock_timestamp()"
" WHERE id = (SELECT id FROM uds.api_keys WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)";

static const char *const owner_sql =
"SELECT s.name"
"  FROM uds.api_keys k"
"  JOIN uds.source_settings s ON s.id = k.source_id"
" WHERE k.name = $1";

static void
hash_key(const char *key, unsigned char *hash)
{
	unsigned int len = 0;

	if (EVP_Digest(key, strlen(key), hash, &len, EVP_sha256(), NULL) != 1 || len != HASH_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute the hash of an API key")));
}

/* Makes the text of a key. */
static char *
make_key(int64 id)
{
	unsigned char secret[SECRET_BYTES];
	unsigned char text[4 * ((SECRET_BYTES + 2) / 3) + 1];
	char	   *p;

	if (!pg_strong_random(secret, sizeof(secret)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate an API key: no random bytes to be had")));
	EVP_EncodeBlock(text, secret, sizeof(secret));
	OPENSSL_cleanse(secret, sizeof(secret));
	/* base64url, without padding */
	for (p = (char *) text; *p != '\0'; p++)
	{
		if (*p == '+')
			*p = '-';
		else if (*p == '/')
			*p = '_';
		else if (*p == '=')
			*p = '\0';
	}
	return psprintf(KEY_PREFIX INT64_FORMAT "_%s", id, (char *) text);
}

static Datum
hash_datum(const char *key)
{
	bytea	   *hash = palloc(VARHDRSZ + HASH_BYTES);

	SET_VARSIZE(hash, VARHDRSZ + HASH_BYTES);
	hash_key(key, (unsigned char *) VARDATA(hash));
	return PointerGetDatum(hash);
}

/* Stores a new key and returns it, in SPI's memory. */
static char *
create_key(FunctionCallInfo fcinfo, Oid caller)
{
	Oid			types[7] = {TEXTOID, TEXTARRAYOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, INT8OID, BYTEAOID};
	Datum		values[7] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(2), PG_GETARG_DATUM(3)};
	char		nulls[8] = "       ";
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *source = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *owner;
	char	   *type;
	char	   *key;
	int64		source_id = uds_source_find(source, caller, &owner, &type, NULL);
	int64		id;
	bool		isnull;

	nulls[2] = nulls[3] = PG_ARGISNULL(3) ? 'n' : ' ';
	uds_spi_raise(uds_spi_exec(problem_sql, 3, types, values, nulls));
	if (strcmp(type, "push") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("API key \"%s\" cannot be for source \"%s\", which is read", name, source),
				 errhint("Create a source of type \"push\" for what is pushed.")));

	id = DatumGetInt64(uds_spi_value("SELECT nextval(pg_get_serial_sequence('uds.api_keys', 'id'))",
									 0, NULL, NULL, NULL, &isnull));
	key = make_key(id);
	types[1] = INT8OID;
	values[1] = Int64GetDatum(source_id);
	types[2] = TEXTARRAYOID;
	values[2] = PG_GETARG_DATUM(2);
	nulls[2] = ' ';
	values[3] = PG_GETARG_DATUM(3);
	values[4] = CStringGetTextDatum(GetUserNameFromId(caller, false));
	values[5] = Int64GetDatum(id);
	values[6] = hash_datum(key);
	uds_spi_exec(insert_sql, 7, types, values, nulls);
	return key;
}

/*
 * uds_create_api_key(name, source, scopes, expires_at) → text, the key, which is
 * shown this once
 *
 * ERROR unless the caller owns the source, and that is pushed to; or if there is
 * a key of this name.
 */
Datum
uds_create_api_key(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"name", "source", "scopes"};
	MemoryContext context = CurrentMemoryContext;
	Oid			caller = GetUserId();
	UdsIdentity saved;
	char	   *key;

	for (int i = 0; i < lengthof(names); i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s of an API key must not be null", names[i])));
	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	key = MemoryContextStrdup(context, create_key(fcinfo, caller));
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_TEXT_P(cstring_to_text(key));
}

/*
 * uds_drop_api_key(name) → void
 *
 * ERROR if there is none of this name, or its source is somebody else's.
 */
Datum
uds_drop_api_key(PG_FUNCTION_ARGS)
{
	Oid			caller = GetUserId();
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {PG_GETARG_DATUM(0)};
	UdsIdentity saved;
	char	   *owner;
	char	   *type;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of an API key must not be null")));
	uds_become(uds_extension_owner(), &saved);
	SPI_connect();
	if (uds_spi_exec(owner_sql, 1, types, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("API key \"%s\" does not exist", text_to_cstring(PG_GETARG_TEXT_PP(0))),
				 errhint("SELECT name FROM uds.api_keys lists the keys.")));
	(void) uds_source_find(uds_spi_text(0, 1), caller, &owner, &type, NULL);
	uds_spi_exec("DELETE FROM uds.api_keys WHERE name = $1", 1, types, values, NULL);
	SPI_finish();
	uds_unbecome(&saved);
	PG_RETURN_VOID();
}

/* The number in a key, or 0. */
static int64
key_number(const char *text)
{
	int64		number = 0;
	const char *p = text + strlen(KEY_PREFIX);

	if (strncmp(text, KEY_PREFIX, strlen(KEY_PREFIX)) != 0)
		return 0;
	for (; *p >= '0' && *p <= '9' && p - text < 20; p++)
		number = number * 10 + (*p - '0');
	return *p == '_' ? number : 0;
}

/* Whether a stored hash, NULL if there is no row, is that of a text. */
static bool
hash_fits(const char *text, bytea *stored)
{
	unsigned char hash[HASH_BYTES];
	unsigned char other[HASH_BYTES] = {0};

	if (stored != NULL && VARSIZE_ANY_EXHDR(stored) == HASH_BYTES)
		memcpy(other, VARDATA_ANY(stored), HASH_BYTES);
	else
		stored = NULL;
	hash_key(text, hash);
	return CRYPTO_memcmp(hash, other, HASH_BYTES) == 0 && stored != NULL;
}

/*
 * Looks whether a text is a key that is good for "scope".
 *
 * Returns NULL if not, and in *problem, for the server's log, why.  Needs SPI;
 * the result is in its memory.  Notes the use, at most once a minute.
 */
UdsKey *
uds_key_check(const char *text, const char *scope, const char **problem)
{
	Oid			types[2] = {INT8OID, TEXTOID};
	Datum		values[2] = {Int64GetDatum(key_number(text)), CStringGetTextDatum(scope)};
	UdsKey	   *key = NULL;
	bytea	   *hash = NULL;
	bool		stale = false;
	bool		isnull;

	*problem = NULL;
	if (uds_spi_exec(find_sql, 2, types, values, NULL) > 0)
	{
		key = palloc0(sizeof(UdsKey));
		key->id = key_number(text);
		key->name = uds_spi_text(0, 1);
		key->source_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
													 SPI_tuptable->tupdesc, 2, &isnull));
		key->source = uds_spi_text(0, 3);
		hash = DatumGetByteaPP(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 4, &isnull));
		if (uds_spi_text(0, 5)[0] != 't')
			*problem = psprintf("key \"%s\" is not good for this", key->name);
		if (uds_spi_text(0, 6)[0] == 't')
			*problem = psprintf("key \"%s\" has expired", key->name);
		stale = uds_spi_text(0, 7)[0] == 't';
	}
	if (!hash_fits(text, hash))
		*problem = "unknown key";
	if (*problem != NULL)
		return NULL;
	if (stale)
		uds_spi_exec(used_sql, 1, types, values, NULL);
	return key;
}
