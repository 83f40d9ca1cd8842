/*-------------------------------------------------------------------------
 *
 * callback_fuzz.c
 *		libFuzzer target over the envelopes of change events.
 *
 * The first byte chooses the service and how far the input comes: as the
 * request, as what is encrypted under a right signature, or as the message in
 * it.  What is taken must have a reply, what is refused a reason.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/listen/envelope.c src/listen/crypt.c src/listen/xml.c */
#include "arena.h"

#include <cJSON.h>
#include <openssl/evp.h>

#include "listen/envelope.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char key[] = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";
static const char random_bytes[] = "0123456789abcdef";

static char *
base64(const char *bytes, size_t len)
{
	char	   *text = palloc((len + 2) / 3 * 4 + 1);

	EVP_EncodeBlock((unsigned char *) text, (const unsigned char *) bytes, (int) len);
	return text;
}

/* Puts a text that is encrypted into the request of a service, signed. */
static void
sign(UdsEnvelope *envelope, const char *encrypted)
{
	static char signature[65];
	const char *parts[] = {envelope->token, envelope->timestamp, envelope->nonce, encrypted};

	if (strcmp(envelope->scheme, "feishu") == 0)
	{
		const char *pieces[] = {envelope->timestamp, envelope->nonce, envelope->key, NULL};
		size_t		lens[] = {strlen(envelope->timestamp), strlen(envelope->nonce), strlen(envelope->key), 0};

		envelope->body = psprintf("{\"encrypt\":\"%s\"}", encrypted);
		pieces[3] = envelope->body;
		lens[3] = strlen(envelope->body);
		uds_crypt_sha256(pieces, lens, 4, signature);
	}
	else
	{
		uds_crypt_signature(parts, 4, signature);
		envelope->body = strcmp(envelope->scheme, "wecom") == 0 ?
			psprintf("<xml><Encrypt><![CDATA[%s]]></Encrypt></xml>", encrypted) :
			psprintf("{\"encrypt\":\"%s\"}", encrypted);
		envelope->echo = encrypted;
	}
	envelope->signature = signature;
	envelope->body_len = strlen(envelope->body);
}

static void
check(UdsEnvelope *envelope)
{
	bool		good = uds_envelope_open(envelope);

	if (good != (envelope->status == 200) || good != (envelope->reply != NULL) ||
		good == (envelope->problem != NULL))
		abort();
	/* an event is a JSON object */
	if (good && envelope->event != NULL)
	{
		cJSON	   *event = cJSON_Parse(envelope->event);

		if (!cJSON_IsObject(event))
			abort();
		cJSON_Delete(event);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const schemes[] = {"wecom", "dingtalk", "feishu"};
	UdsEnvelope envelope = {0};
	char	   *text;

	if (size < 1)
		return 0;
	text = pnstrdup((const char *) data + 1, size - 1);
	envelope.scheme = schemes[data[0] % 3];
	envelope.token = "token";
	envelope.key = key;
	envelope.receiver = "receiver";
	envelope.timestamp = "1700000000";
	envelope.nonce = "nonce";
	envelope.is_get = (data[0] & 0x80) != 0;
	switch ((data[0] / 3) % 4)
	{
		case 0:					/* the request, not signed */
			envelope.body = text;
			envelope.body_len = strlen(text);
			break;
		case 1:					/* what is encrypted, as text */
			sign(&envelope, text);
			break;
		case 2:					/* the same, whatever bytes */
			sign(&envelope, base64((const char *) data + 1, size - 1));
			break;
		case 3:					/* the message */
			if (strcmp(envelope.scheme, "feishu") == 0)
			{
				envelope.key = NULL;
				envelope.body = text;
				envelope.body_len = strlen(text);
			}
			else
				sign(&envelope, uds_crypt_seal(key, random_bytes, text, "receiver"));
			break;
	}
	check(&envelope);
	arena_reset();
	return 0;
}
