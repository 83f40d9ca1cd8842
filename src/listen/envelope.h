/*-------------------------------------------------------------------------
 *
 * envelope.h
 *		Envelopes of change events: signature, decryption, receiver, and the
 *		reply that the service wants.
 *
 * Pure C: runs in any process and outside the server; takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UDS_LISTEN_ENVELOPE_H
#define UDS_LISTEN_ENVELOPE_H

/* random bytes in front of an encrypted message of WeCom and DingTalk */
#define UDS_ENVELOPE_RANDOM 16

typedef struct UdsEnvelope
{
	/* what the source is set up with; NULL = not given */
	const char *scheme;			/* wecom, dingtalk, feishu */
	const char *token;
	const char *key;
	const char *receiver;

	/* what came; NULL = absent */
	bool		is_get;
	const char *signature;
	const char *timestamp;
	const char *nonce;
	const char *echo;
	const char *body;			/* NUL-terminated */
	size_t		body_len;

	/* what it is, palloc'd */
	int			status;			/* HTTP: 200, or why it is refused */
	const char *problem;		/* then: for the log */
	char	   *event;			/* a JSON object; NULL = nothing to be stored */
	const char *reply_type;
	char	   *reply;			/* for the service, if it is good */
} UdsEnvelope;

extern bool uds_envelope_open(UdsEnvelope *envelope);

/* crypt.c */
extern void uds_crypt_signature(const char *const *parts, int count, char *hex);
extern void uds_crypt_sha256(const char *const *parts, const size_t *lens, int count, char *hex);
extern bool uds_crypt_equal(const char *hex, const char *given);
extern char *uds_crypt_open(const char *key, const char *encrypted, const char *receiver,
							const char **problem);
extern char *uds_crypt_seal(const char *key, const char *random, const char *message,
							const char *receiver);
extern char *uds_crypt_open_feishu(const char *key, const char *encrypted, const char **problem);

/* xml.c */
extern char *uds_xml_to_json(const char *xml, size_t len, const char **problem);

#endif							/* UDS_LISTEN_ENVELOPE_H */
