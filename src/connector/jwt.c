/*-------------------------------------------------------------------------
 *
 * jwt.c
 *		Signed assertions (RFC 7523) for token requests, and HTTP Basic.
 *
 * The signature is OpenSSL's.  A key that it does not take is reported
 * without a word of what it said, since that may quote the key.
 *
 * Runs in background workers, outside any transaction; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <time.h>

#include "connector/engine.h"

/* bytes of the random number that names an assertion */
#define JTI_BYTES 16

/* Base64 of some bytes, in the current memory context. */
static char *
encode(const unsigned char *bytes, size_t len)
{
	char	   *text = palloc(4 * ((len + 2) / 3) + 1);

	EVP_EncodeBlock((unsigned char *) text, bytes, (int) len);
	return text;
}

/* The same in the alphabet for URLs, without padding (RFC 7515). */
static char *
encode_url(const unsigned char *bytes, size_t len)
{
	char	   *text = encode(bytes, len);
	char	   *p;

	for (p = text; *p != '\0' && *p != '='; p++)
	{
		if (*p == '+')
			*p = '-';
		else if (*p == '/')
			*p = '_';
	}
	*p = '\0';
	return text;
}

static char *
expand(const UdsRun *run, const UdsTemplate *template, UdsEscape escape)
{
	StringInfoData text;

	initStringInfo(&text);
	uds_template_expand(&text, template, escape, run->options, run->noptions, NULL);
	return text.data;
}

static void
fail(const UdsRun *run, const char *problem)
{
	ERR_clear_error();
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("could not sign the token request of source \"%s\": %s",
					run->source, problem),
			 errhint("The private key must be an RSA key in PEM, not protected by a password.")));
}

/* OpenSSL asks for a password, and gets none. */
static int
no_password(char *buffer, int size, int writing, void *arg)
{
	return -1;
}

/* The private key of a text, for the caller to free. */
static EVP_PKEY *
read_key(const UdsRun *run, const char *pem)
{
	BIO		   *bio = BIO_new_mem_buf(pem, -1);
	EVP_PKEY   *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;

	BIO_free(bio);
	if (key == NULL)
		fail(run, "the private key is not valid");
	if (EVP_PKEY_base_id(key) != EVP_PKEY_RSA)
	{
		EVP_PKEY_free(key);
		fail(run, "the private key is no RSA key");
	}
	return key;
}

/* RS256 over a text, encoded. */
static char *
sign(const UdsRun *run, const char *pem, const char *text)
{
	EVP_PKEY   *key = read_key(run, pem);
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	unsigned char *bytes = palloc(EVP_PKEY_size(key));
	size_t		len = EVP_PKEY_size(key);
	bool		ok = md != NULL &&
		EVP_DigestSignInit(md, NULL, EVP_sha256(), NULL, key) == 1 &&
		EVP_DigestSign(md, bytes, &len, (const unsigned char *) text, strlen(text)) == 1;

	EVP_MD_CTX_free(md);
	EVP_PKEY_free(key);
	if (!ok)
		fail(run, "OpenSSL refused");
	return encode_url(bytes, len);
}

static char *
make_header(const UdsRun *run, const UdsJwtSpec *spec)
{
	StringInfoData header;

	initStringInfo(&header);
	appendStringInfoString(&header, "{\"alg\":\"RS256\",\"typ\":\"JWT\"");
	if (spec->key_id != NULL)
	{
		char	   *key_id = expand(run, spec->key_id, UDS_ESCAPE_JSON);

		if (*key_id != '\0')
			appendStringInfo(&header, ",\"kid\":\"%s\"", key_id);
	}
	appendStringInfoChar(&header, '}');
	return header.data;
}

static char *
make_claims(const UdsRun *run, const UdsJwtSpec *spec)
{
	StringInfoData claims;
	unsigned char jti[JTI_BYTES];
	int64		now = (int64) time(NULL);

	if (RAND_bytes(jti, sizeof(jti)) != 1)
		fail(run, "no random numbers");
	initStringInfo(&claims);
	appendStringInfo(&claims, "{\"iat\":" INT64_FORMAT ",\"exp\":" INT64_FORMAT ",\"jti\":\"%s\"",
					 now, now + spec->lifetime, encode_url(jti, sizeof(jti)));
	for (int i = 0; i < spec->claims.count; i++)
	{
		const UdsPair *claim = &spec->claims.items[i];

		appendStringInfoString(&claims, ",\"");
		uds_template_escape(&claims, claim->name, UDS_ESCAPE_JSON);
		appendStringInfo(&claims, "\":\"%s\"", expand(run, claim->value, UDS_ESCAPE_JSON));
	}
	appendStringInfoChar(&claims, '}');
	return claims.data;
}

/*
 * A fresh assertion as the run's way to authenticate wants it, in the current
 * memory context.  Raises an error if the key is not usable.
 */
char *
uds_jwt_make(const UdsRun *run)
{
	const UdsJwtSpec *spec = run->auth->jwt;
	char	   *header = make_header(run, spec);
	char	   *claims = make_claims(run, spec);
	char	   *text = psprintf("%s.%s",
								encode_url((unsigned char *) header, strlen(header)),
								encode_url((unsigned char *) claims, strlen(claims)));

	return psprintf("%s.%s", text, sign(run, expand(run, spec->key, UDS_ESCAPE_RAW), text));
}

/*
 * What HTTP Basic sends behind the word "Basic", in the current memory
 * context.  Variables are those of the request.
 */
char *
uds_basic_make(const UdsBasicSpec *spec, const UdsVariable *variables, int count)
{
	UdsEscape	escape = spec->form_encoded ? UDS_ESCAPE_QUERY : UDS_ESCAPE_RAW;
	StringInfoData pair;

	initStringInfo(&pair);
	uds_template_expand(&pair, spec->user, escape, variables, count, NULL);
	appendStringInfoChar(&pair, ':');
	uds_template_expand(&pair, spec->password, escape, variables, count, NULL);
	return encode((unsigned char *) pair.data, pair.len);
}
