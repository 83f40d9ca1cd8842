/*-------------------------------------------------------------------------
 *
 * callback_test.c
 *		Unit test of envelopes: encryption there and back, what is no
 *		encryption, and the XML of events.
 *
 * The published vectors are in test/t/071_callback_vectors.pl.  A program of
 * its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/listen/envelope.c src/listen/crypt.c src/listen/xml.c */
#include "tap.h"

#include "listen/envelope.h"

static const char key[] = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";

/* Encrypts and decrypts messages of all lengths around those of blocks. */
static void
there_and_back(void)
{
	int			good = 0;

	for (int len = 0; len <= 100; len++)
	{
		char	   *message = palloc0(len + 1);
		const char *problem;
		char	   *opened;

		memset(message, 'x', len);
		opened = uds_crypt_open(key, uds_crypt_seal(key, "0123456789abcdef", message, "me"), "me", &problem);
		good += opened != NULL && strcmp(opened, message) == 0;
	}
	ok(good == 101, "messages of all lengths come back as they were");
}

static void
refused(const char *with_key, const char *encrypted, const char *receiver, const char *expected)
{
	const char *problem;
	char	   *message = uds_crypt_open(with_key, encrypted, receiver, &problem);

	is(message ? message : problem, expected, expected);
}

static void
xml(const char *text, const char *expected)
{
	const char *problem;
	char	   *json = uds_xml_to_json(text, strlen(text), &problem);

	is(json ? json : problem, expected, text);
}

int
main(void)
{
	char	   *sealed = uds_crypt_seal(key, "0123456789abcdef", "hello", "me");

	there_and_back();
	refused("short", sealed, "me", "the key of the callback is not 43 letters and digits");
	refused(NULL, sealed, "me", "the key of the callback is not 43 letters and digits");
	refused(key, sealed, "you", "it is for another receiver");
	refused(key, sealed, "mee", "it is for another receiver");
	refused(key, sealed, NULL, "hello");
	refused(key, "", "me", "what is encrypted is not base64 of whole blocks");
	refused(key, "QUJD", "me", "what is encrypted is not base64 of whole blocks");
	refused(key, psprintf("%s\n", sealed), "me", "what is encrypted is not base64 of whole blocks");
	refused("QDG6eKjWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR", sealed, "me", "it cannot be decrypted");
	is(uds_crypt_seal("none", "0123456789abcdef", "m", "me"), "none", "no key, no encryption");

	xml("<xml><A><![CDATA[1]]></A><B>2</B></xml>", "{\"A\":\"1\",\"B\":\"2\"}");
	xml("<xml>\n<A>a &amp; b</A>\n<A>again</A>\n</xml>", "{\"A\":\"a & b\"}");
	xml("<xml><A/><B><C>below</C></B></xml>", "{\"A\":\"\"}");
	xml("<xml><A>\xe5\xbc\xa0&#x4e09;</A></xml>", "{\"A\":\"\xe5\xbc\xa0\xe4\xb8\x89\"}");
	xml("<xml></xml>", "{}");
	xml("<xml><A>", "it is not the XML of an event");
	xml("<xml><A>\xff</A></xml>", "it is not the XML of an event");
	xml("<xml><A>&nobody;</A></xml>", "it is not the XML of an event");
	xml("<xml><A>&#0;</A></xml>", "it is not the XML of an event");
	xml("<!DOCTYPE xml><xml/>", "it is not the XML of an event");
	xml("<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><xml><A>&b;</A></xml>", "it is not the XML of an event");
	xml("", "it is not the XML of an event");
	printf("1..%d\n", tests);
	return failures > 0;
}
