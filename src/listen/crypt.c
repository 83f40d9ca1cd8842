/*-------------------------------------------------------------------------
 *
 * crypt.c
 *		Signatures and encryption of change events.
 *
 * WeCom (developer.work.weixin.qq.com, document 91144) and DingTalk
 * (open.dingtalk.com, configure-stream-push) use AES-256-CBC with the key as
 * its own IV, padding to 32 bytes, and a message between random bytes and the
 * id of its receiver.  Feishu (open.feishu.cn, event subscription) uses
 * AES-256-CBC with the IV in front, and plain PKCS#7.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 * Nothing here raises an error but out of memory.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "listen/envelope.h"

#define AES_KEY 32
#define AES_BLOCK 16

/* WeCom and DingTalk pad to this, which OpenSSL's own unpadding refuses */
#define PAD_BLOCK 32

/* length of an EncodingAESKey */
#define KEY_TEXT 43

/* bytes of the length in front of a message */
#define LENGTH_BYTES 4

static void
to_hex(const unsigned char *bytes, int len, char *hex)
{
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < len; i++)
	{
		hex[2 * i] = digits[bytes[i] >> 4];
		hex[2 * i + 1] = digits[bytes[i] & 15];
	}
	hex[2 * len] = '\0';
}

static int
compare_parts(const void *a, const void *b)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/*
 * The signature of WeCom and DingTalk: SHA-1 over the parts, sorted by their
 * bytes, in lower-case hex; empty if it cannot be made.  hex has 41 bytes.
 */
void
uds_crypt_signature(const char *const *parts, int count, char *hex)
{
	const char *sorted[8];
	unsigned char hash[EVP_MAX_MD_SIZE];
	unsigned int len = 0;
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	bool		good = context != NULL && EVP_DigestInit_ex(context, EVP_sha1(), NULL) == 1;

	hex[0] = '\0';
	memcpy(sorted, parts, Min(count, (int) lengthof(sorted)) * sizeof(char *));
	qsort(sorted, Min(count, (int) lengthof(sorted)), sizeof(char *), compare_parts);
	for (int i = 0; good && i < Min(count, (int) lengthof(sorted)); i++)
		good = EVP_DigestUpdate(context, sorted[i], strlen(sorted[i])) == 1;
	if (good && EVP_DigestFinal_ex(context, hash, &len) == 1)
		to_hex(hash, len, hex);
	EVP_MD_CTX_free(context);
}

/*
 * SHA-256 over the parts as they stand, in lower-case hex; empty if it cannot
 * be made.  hex has 65 bytes.
 */
void
uds_crypt_sha256(const char *const *parts, const size_t *lens, int count, char *hex)
{
	unsigned char hash[EVP_MAX_MD_SIZE];
	unsigned int len = 0;
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	bool		good = context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1;

	hex[0] = '\0';
	for (int i = 0; good && i < count; i++)
		good = EVP_DigestUpdate(context, parts[i], lens[i]) == 1;
	if (good && EVP_DigestFinal_ex(context, hash, &len) == 1)
		to_hex(hash, len, hex);
	EVP_MD_CTX_free(context);
}

/*
 * Whether a text that was given is the hex that it should be; how long that
 * takes does not tell how much of it is right.
 */
bool
uds_crypt_equal(const char *hex, const char *given)
{
	size_t		len = strlen(hex);

	return len > 0 && given != NULL && strlen(given) == len &&
		CRYPTO_memcmp(hex, given, len) == 0;
}

/* Decodes base64; NULL if it is none.  Spare bits may be anything. */
static unsigned char *
decode(const char *text, size_t len, size_t *out_len)
{
	unsigned char *bytes;
	int			n;

	if (len == 0 || len % 4 != 0 || len > (size_t) 64 * 1024 * 1024 ||
		strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") < len)
		return NULL;
	bytes = palloc(len / 4 * 3 + 1);
	n = EVP_DecodeBlock(bytes, (const unsigned char *) text, (int) len);
	if (n < 0)
		return NULL;
	/* padding counts as bytes */
	if (text[len - 1] == '=')
		n--;
	if (text[len - 2] == '=')
		n--;
	*out_len = n;
	return bytes;
}

static bool
decode_key(const char *text, unsigned char *key)
{
	char		padded[KEY_TEXT + 2];
	unsigned char *bytes;
	size_t		len;

	if (text == NULL || strlen(text) != KEY_TEXT)
		return false;
	memcpy(padded, text, KEY_TEXT);
	strcpy(padded + KEY_TEXT, "=");
	bytes = decode(padded, KEY_TEXT + 1, &len);
	if (bytes == NULL || len != AES_KEY)
		return false;
	memcpy(key, bytes, AES_KEY);
	return true;
}

/* AES-256-CBC without padding, in either direction; len is whole blocks. */
static bool
run_aes(bool encrypt, const unsigned char *key, const unsigned char *iv,
		const unsigned char *in, size_t len, unsigned char *out)
{
	EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
	int			n = 0;
	int			rest = 0;
	bool		good;

	good = context != NULL &&
		EVP_CipherInit_ex(context, EVP_aes_256_cbc(), NULL, key, iv, encrypt) == 1 &&
		EVP_CIPHER_CTX_set_padding(context, 0) == 1 &&
		EVP_CipherUpdate(context, out, &n, in, (int) len) == 1 &&
		EVP_CipherFinal_ex(context, out + n, &rest) == 1 &&
		n + rest == (int) len;
	EVP_CIPHER_CTX_free(context);
	return good;
}

/* Bytes without their padding to "block"; false if that is not as it must be. */
static bool
strip_padding(const unsigned char *bytes, size_t *len, int block)
{
	unsigned char pad = *len > 0 ? bytes[*len - 1] : 0;

	if (pad < 1 || pad > block || pad > *len)
		return false;
	for (size_t i = *len - pad; i < *len; i++)
	{
		if (bytes[i] != pad)
			return false;
	}
	*len -= pad;
	return true;
}

/*
 * Opens what WeCom or DingTalk has encrypted: returns the message, palloc'd,
 * or NULL and what is wrong in *problem.  The receiver must be the one given;
 * NULL or empty compares nothing.
 */
char *
uds_crypt_open(const char *key_text, const char *encrypted, const char *receiver,
			   const char **problem)
{
	unsigned char key[AES_KEY];
	unsigned char *cipher;
	unsigned char *plain;
	unsigned char *message;
	size_t		len;
	size_t		message_len;
	size_t		rest;

	*problem = "the key of the callback is not 43 letters and digits";
	if (!decode_key(key_text, key))
		return NULL;
	*problem = "what is encrypted is not base64 of whole blocks";
	cipher = decode(encrypted, strlen(encrypted), &len);
	if (cipher == NULL || len == 0 || len % AES_BLOCK != 0)
		return NULL;
	*problem = "it cannot be decrypted";
	plain = palloc(len + AES_BLOCK);
	if (!run_aes(false, key, key, cipher, len, plain) ||
		!strip_padding(plain, &len, PAD_BLOCK) ||
		len < UDS_ENVELOPE_RANDOM + LENGTH_BYTES)
		return NULL;
	message = plain + UDS_ENVELOPE_RANDOM;
	message_len = ((size_t) message[0] << 24) | ((size_t) message[1] << 16) |
		((size_t) message[2] << 8) | (size_t) message[3];
	message += LENGTH_BYTES;
	rest = len - UDS_ENVELOPE_RANDOM - LENGTH_BYTES;
	if (message_len > rest)
		return NULL;
	rest -= message_len;
	*problem = "it is for another receiver";
	if (receiver != NULL && receiver[0] != '\0' &&
		(strlen(receiver) != rest || memcmp(message + message_len, receiver, rest) != 0))
		return NULL;
	*problem = "the message has a zero byte";
	if (memchr(message, '\0', message_len) != NULL)
		return NULL;
	*problem = NULL;
	return pnstrdup((char *) message, message_len);
}

/*
 * Encrypts a message as WeCom and DingTalk want it, with UDS_ENVELOPE_RANDOM
 * random bytes: base64, palloc'd, or NULL if the key is none.
 */
char *
uds_crypt_seal(const char *key_text, const char *random, const char *message,
			   const char *receiver)
{
	unsigned char key[AES_KEY];
	size_t		message_len = strlen(message);
	size_t		len = UDS_ENVELOPE_RANDOM + LENGTH_BYTES + message_len + strlen(receiver);
	size_t		pad = PAD_BLOCK - len % PAD_BLOCK;
	unsigned char *plain;
	unsigned char *cipher;
	char	   *text;

	if (!decode_key(key_text, key))
		return NULL;
	plain = palloc(len + pad);
	memcpy(plain, random, UDS_ENVELOPE_RANDOM);
	plain[UDS_ENVELOPE_RANDOM] = (unsigned char) (message_len >> 24);
	plain[UDS_ENVELOPE_RANDOM + 1] = (unsigned char) (message_len >> 16);
	plain[UDS_ENVELOPE_RANDOM + 2] = (unsigned char) (message_len >> 8);
	plain[UDS_ENVELOPE_RANDOM + 3] = (unsigned char) message_len;
	memcpy(plain + UDS_ENVELOPE_RANDOM + LENGTH_BYTES, message, message_len);
	memcpy(plain + UDS_ENVELOPE_RANDOM + LENGTH_BYTES + message_len, receiver, strlen(receiver));
	memset(plain + len, (int) pad, pad);
	cipher = palloc(len + pad + AES_BLOCK);
	if (!run_aes(true, key, key, plain, len + pad, cipher))
		return NULL;
	text = palloc((len + pad + 2) / 3 * 4 + 1);
	EVP_EncodeBlock((unsigned char *) text, cipher, (int) (len + pad));
	return text;
}

/*
 * Opens what Feishu has encrypted: returns the message, palloc'd, or NULL and
 * what is wrong in *problem.
 */
char *
uds_crypt_open_feishu(const char *key_text, const char *encrypted, const char **problem)
{
	unsigned char key[EVP_MAX_MD_SIZE];
	unsigned int key_len = 0;
	unsigned char *bytes;
	unsigned char *plain;
	size_t		len;

	*problem = "what is encrypted is not base64 of whole blocks";
	bytes = decode(encrypted, strlen(encrypted), &len);
	if (bytes == NULL || len < 2 * AES_BLOCK || len % AES_BLOCK != 0)
		return NULL;
	*problem = "it cannot be decrypted";
	len -= AES_BLOCK;
	plain = palloc(len + AES_BLOCK);
	if (EVP_Digest(key_text, strlen(key_text), key, &key_len, EVP_sha256(), NULL) != 1 ||
		key_len != AES_KEY ||
		!run_aes(false, key, bytes, bytes + AES_BLOCK, len, plain) ||
		!strip_padding(plain, &len, AES_BLOCK))
		return NULL;
	*problem = "the message has a zero byte";
	if (memchr(plain, '\0', len) != NULL)
		return NULL;
	*problem = NULL;
	return pnstrdup((char *) plain, len);
}
