/*-------------------------------------------------------------------------
 *
 * envelope.c
 *		Envelopes of change events, as WeCom, DingTalk and Feishu send them.
 *
 * Who may have written one is told by its signature alone; nothing is taken
 * from an envelope before that is right, but the handshake of Feishu, which
 * has none and is known by its token.
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

#include <cJSON.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <time.h>

#include "listen/envelope.h"

#define TEXT_TYPE "text/plain; charset=utf-8"
#define JSON_TYPE "application/json"

/* Notes why an envelope is refused; always false. */
static bool
refuse(UdsEnvelope *envelope, int status, const char *problem)
{
	envelope->status = status;
	envelope->problem = problem;
	return false;
}

static bool
accept_with(UdsEnvelope *envelope, const char *type, char *reply)
{
	envelope->status = 200;
	envelope->reply_type = type;
	envelope->reply = reply;
	return true;
}

/* A member of a JSON object that is text, or NULL. */
static const char *
member_text(const cJSON *object, const char *name)
{
	const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);

	return cJSON_IsString(member) ? member->valuestring : NULL;
}

/* The member of a JSON text that is text, palloc'd, or NULL. */
static char *
pick_text(const char *json, size_t len, const char *name)
{
	cJSON	   *object = cJSON_ParseWithLength(json, len);
	const char *text = member_text(object, name);
	char	   *copy = text ? pstrdup(text) : NULL;

	cJSON_Delete(object);
	return copy;
}

static bool
is_object(const char *json)
{
	cJSON	   *object = cJSON_Parse(json);
	bool		is = cJSON_IsObject(object);

	cJSON_Delete(object);
	return is;
}

/* Whether the signature over an encrypted text is right. */
static bool
check_signature(UdsEnvelope *envelope, const char *encrypted)
{
	char		hex[41];

	if (envelope->token == NULL || envelope->key == NULL)
		return refuse(envelope, 404, "the source is not set up for events");
	if (encrypted == NULL || encrypted[0] == '\0')
		return refuse(envelope, 400, "nothing in it is encrypted");
	if (envelope->signature == NULL || envelope->timestamp == NULL || envelope->nonce == NULL)
		return refuse(envelope, 401, "it is not signed");
	{
		const char *parts[] = {envelope->token, envelope->timestamp, envelope->nonce, encrypted};

		uds_crypt_signature(parts, lengthof(parts), hex);
	}
	if (!uds_crypt_equal(hex, envelope->signature))
		return refuse(envelope, 401, "the signature is wrong");
	return true;
}

/* Decrypts what the signature was right for. */
static char *
decrypt(UdsEnvelope *envelope, const char *encrypted)
{
	const char *problem;
	char	   *message = uds_crypt_open(envelope->key, encrypted, envelope->receiver, &problem);

	if (message == NULL)
		refuse(envelope, 403, problem);
	return message;
}

/* base64 in a query: who leaves "+" as it is has it read as a blank. */
static char *
mend_base64(const char *text)
{
	char	   *copy = pstrdup(text);

	for (char *p = copy; *p != '\0'; p++)
		if (*p == ' ')
			*p = '+';
	return copy;
}

/*
 * WeCom: a handshake by GET, whose reply is what it encrypts; events by POST,
 * XML or, where so chosen in the console, JSON, which are answered with
 * "success".
 */
static bool
open_wecom(UdsEnvelope *envelope)
{
	const char *problem;
	char	   *encrypted;
	char	   *message;
	size_t		start = strspn(envelope->body, " \t\r\n");

	if (envelope->is_get)
	{
		encrypted = envelope->echo ? mend_base64(envelope->echo) : NULL;
		if (!check_signature(envelope, encrypted) ||
			(message = decrypt(envelope, encrypted)) == NULL)
			return false;
		return accept_with(envelope, TEXT_TYPE, message);
	}
	if (envelope->body[start] == '{')
		encrypted = pick_text(envelope->body, envelope->body_len, "encrypt");
	else
	{
		char	   *json = uds_xml_to_json(envelope->body, envelope->body_len, &problem);

		if (json == NULL)
			return refuse(envelope, 400, problem);
		encrypted = pick_text(json, strlen(json), "Encrypt");
	}
	if (!check_signature(envelope, encrypted) ||
		(message = decrypt(envelope, encrypted)) == NULL)
		return false;
	start = strspn(message, " \t\r\n");
	if (message[start] != '{')
		message = uds_xml_to_json(message, strlen(message), &problem);
	if (message == NULL || !is_object(message))
		return refuse(envelope, 400, "it is neither XML nor JSON of an event");
	envelope->event = message;
	return accept_with(envelope, TEXT_TYPE, pstrdup("success"));
}

/* The reply that DingTalk wants to everything: "success", encrypted. */
static char *
make_dingtalk_reply(const UdsEnvelope *envelope)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef0123456789";
	unsigned char random[2 * UDS_ENVELOPE_RANDOM];
	char		nonce[UDS_ENVELOPE_RANDOM + 1];
	char		timestamp[32];
	char		hex[41];
	struct timespec now;
	char	   *encrypted;

	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(timestamp, sizeof(timestamp), "%lld",
			 (long long) now.tv_sec * 1000 + now.tv_nsec / 1000000);
	if (RAND_bytes(random, sizeof(random)) != 1)
		return NULL;
	for (int i = 0; i < UDS_ENVELOPE_RANDOM; i++)
		nonce[i] = letters[random[UDS_ENVELOPE_RANDOM + i] % (sizeof(letters) - 1)];
	nonce[UDS_ENVELOPE_RANDOM] = '\0';
	encrypted = uds_crypt_seal(envelope->key, (const char *) random, "success",
							   envelope->receiver ? envelope->receiver : "");
	if (encrypted == NULL)
		return NULL;
	{
		const char *parts[] = {envelope->token, timestamp, nonce, encrypted};

		uds_crypt_signature(parts, lengthof(parts), hex);
	}
	return psprintf("{\"msg_signature\":\"%s\",\"timeStamp\":\"%s\",\"nonce\":\"%s\",\"encrypt\":\"%s\"}",
					hex, timestamp, nonce, encrypted);
}

/* DingTalk: all by POST, the handshake an event of type check_url. */
static bool
open_dingtalk(UdsEnvelope *envelope)
{
	char	   *encrypted;
	char	   *message;
	char	   *type;
	char	   *reply;

	if (envelope->is_get)
		return refuse(envelope, 405, "DingTalk sends all events by POST");
	encrypted = pick_text(envelope->body, envelope->body_len, "encrypt");
	if (!check_signature(envelope, encrypted) ||
		(message = decrypt(envelope, encrypted)) == NULL)
		return false;
	type = pick_text(message, strlen(message), "EventType");
	if (type == NULL)
		return refuse(envelope, 400, "it is not the JSON of an event");
	if (strcmp(type, "check_url") != 0)
		envelope->event = message;
	reply = make_dingtalk_reply(envelope);
	return reply != NULL ? accept_with(envelope, JSON_TYPE, reply) :
		refuse(envelope, 503, "there are no random bytes to be had");
}

/* Whether two texts are equal, in time that does not tell how far they are. */
static bool
same_text(const char *expected, const char *given)
{
	return given != NULL && strlen(given) == strlen(expected) &&
		CRYPTO_memcmp(expected, given, strlen(expected)) == 0;
}

/* The signature of Feishu, over the bytes of the body. */
static bool
check_feishu_signature(UdsEnvelope *envelope)
{
	char		hex[65];

	if (envelope->signature == NULL || envelope->timestamp == NULL || envelope->nonce == NULL)
		return refuse(envelope, 401, "it is not signed");
	{
		const char *parts[] = {envelope->timestamp, envelope->nonce, envelope->key, envelope->body};
		const size_t lens[] = {strlen(envelope->timestamp), strlen(envelope->nonce),
		strlen(envelope->key), envelope->body_len};

		uds_crypt_sha256(parts, lens, lengthof(parts), hex);
	}
	return uds_crypt_equal(hex, envelope->signature) ||
		refuse(envelope, 401, "the signature is wrong");
}

/* What a message of Feishu is, whose JSON has been parsed. */
static bool
judge_feishu(UdsEnvelope *envelope, const cJSON *message, const char *text)
{
	const cJSON *header = cJSON_GetObjectItemCaseSensitive(message, "header");
	const char *type = member_text(message, "type");
	const char *challenge = member_text(message, "challenge");
	const char *app = member_text(header, "app_id");
	const char *token = member_text(message, "token");

	if (token == NULL)
		token = member_text(header, "token");
	if (type != NULL && strcmp(type, "url_verification") == 0)
	{
		cJSON	   *reply;
		char	   *printed;
		char	   *copy;

		if (envelope->token != NULL && !same_text(envelope->token, token))
			return refuse(envelope, 401, "the verification token is wrong");
		if (challenge == NULL)
			return refuse(envelope, 400, "there is no challenge in it");
		reply = cJSON_CreateObject();
		cJSON_AddStringToObject(reply, "challenge", challenge);
		printed = cJSON_PrintUnformatted(reply);
		copy = printed ? pstrdup(printed) : NULL;
		free(printed);
		cJSON_Delete(reply);
		return copy != NULL ? accept_with(envelope, JSON_TYPE, copy) :
			refuse(envelope, 503, "out of memory");
	}
	if (envelope->key != NULL && !check_feishu_signature(envelope))
		return false;
	if (envelope->token != NULL && !same_text(envelope->token, token))
		return refuse(envelope, 401, "the verification token is wrong");
	if (envelope->receiver != NULL && app != NULL && strcmp(app, envelope->receiver) != 0)
		return refuse(envelope, 403, "it is for another receiver");
	/* events of the first version tell of nothing that we keep */
	if (header != NULL)
		envelope->event = pstrdup(text);
	return accept_with(envelope, JSON_TYPE, pstrdup("{}"));
}

/* Feishu: all by POST, encrypted if there is a key. */
static bool
open_feishu(UdsEnvelope *envelope)
{
	const char *problem;
	char	   *encrypted;
	const char *text = envelope->body;
	cJSON	   *message;
	bool		good;

	if (envelope->is_get)
		return refuse(envelope, 405, "Feishu sends all events by POST");
	if (envelope->token == NULL && envelope->key == NULL)
		return refuse(envelope, 404, "the source is not set up for events");
	encrypted = pick_text(envelope->body, envelope->body_len, "encrypt");
	if (envelope->key != NULL)
	{
		if (encrypted == NULL)
			return refuse(envelope, 401, "it is not encrypted");
		/* the handshake may have no signature; a wrong one is wrong anyway */
		if (envelope->signature != NULL && !check_feishu_signature(envelope))
			return false;
		text = uds_crypt_open_feishu(envelope->key, encrypted, &problem);
		if (text == NULL)
			return refuse(envelope, 403, problem);
	}
	else if (encrypted != NULL)
		return refuse(envelope, 403, "it is encrypted, and the source has no key");
	message = cJSON_Parse(text);
	if (!cJSON_IsObject(message))
	{
		cJSON_Delete(message);
		return refuse(envelope, 400, "it is not the JSON of an event");
	}
	good = judge_feishu(envelope, message, text);
	cJSON_Delete(message);
	return good;
}

/*
 * Opens an envelope.  Returns true with the reply, and the event if it is not a
 * handshake; or false with the status to refuse it with, and why.
 */
bool
uds_envelope_open(UdsEnvelope *envelope)
{
	static const struct
	{
		const char *scheme;
		bool		(*open) (UdsEnvelope *envelope);
	}			schemes[] = {
		{"wecom", open_wecom}, {"dingtalk", open_dingtalk}, {"feishu", open_feishu}
	};

	/* what is empty was not given */
	if (envelope->token != NULL && envelope->token[0] == '\0')
		envelope->token = NULL;
	if (envelope->key != NULL && envelope->key[0] == '\0')
		envelope->key = NULL;
	for (int i = 0; i < (int) lengthof(schemes); i++)
		if (strcmp(schemes[i].scheme, envelope->scheme) == 0)
			return schemes[i].open(envelope);
	return refuse(envelope, 404, "the source takes no events");
}
