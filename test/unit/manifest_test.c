/*-------------------------------------------------------------------------
 *
 * manifest_test.c
 *		Unit test of the manifest parser: each error with its path, and the
 *		check of options.
 *
 * A program of its own that prints TAP and needs no server.
 *
 *-------------------------------------------------------------------------
 */
/* sources: src/connector/manifest.c src/connector/manifest_auth.c
 * src/connector/manifest_errors.c src/connector/manifest_stream.c
 * src/connector/manifest_request.c src/connector/manifest_fields.c
 * src/connector/manifest_events.c
 * src/connector/reader.c src/connector/options.c src/connector/jsonpick.c
 * src/connector/template.c
 */
#include "tap.h"

#include "connector/jsonpick.h"
#include "connector/manifest.h"

static const char *const good =
"{\"manifest\": 1, \"title\": \"T\","
" \"options\": {\"id\": {\"required\": true, \"comment\": \"c\"},"
"  \"key\": {\"required\": true, \"secret\": true},"
"  \"n\": {\"default\": 5}, \"base_url\": {\"default\": \"https://a.test\"}, \"ca_file\": {}},"
" \"base_url\": \"{options.base_url}\","
" \"auth\": {\"request\": {\"method\": \"POST\", \"path\": \"/token\","
"   \"json\": {\"k\": \"{options.key}\", \"deep\": [1, true, null, {\"i\": \"{options.id}\"}]}},"
"  \"token\": \"$.t\", \"expires_in\": \"$.e\", \"lifetime\": 60,"
"  \"send\": {\"headers\": {\"Authorization\": \"Bearer {token}\"}}},"
" \"errors\": {\"code\": \"$.code\", \"message\": \"$.msg\", \"ok\": [0, null], \"reauth\": [\"x\", 2],"
"  \"throttle\": [9, {\"code\": 10, \"wait\": 60, \"concurrency\": 1}], \"transient\": [-1],"
"  \"gone\": [3], \"scope\": [4], \"config\": [5], \"degrade\": [6], \"restart\": [7],"
"  \"hints\": {\"5\": \"Do.\", \"*\": \"Ask.\"}},"
" \"plans\": [{\"name\": \"full\", \"streams\": [\"deps\", \"users\"]},"
"  {\"name\": \"few\", \"streams\": [\"deps\"], \"warning\": \"Few.\"}],"
" \"streams\": {"
"  \"users\": {\"type\": \"user\", \"merge\": true,"
"   \"for_each\": {\"as\": \"dep\", \"from\": [{\"stream\": \"deps\", \"value\": \"$.d[*].id\"},"
"    {\"stream\": \"tops\", \"value\": \"$.t[*]\"}]},"
"   \"request\": {\"path\": \"/users/{dep}\", \"query\": {\"c\": \"{cursor}\", \"n\": \"{options.n}\"}},"
"   \"pagination\": {\"type\": \"cursor\", \"next\": \"$.next\", \"more\": \"$.more\"},"
"   \"records\": \"$.u[*]\", \"expect\": \"$.u\","
"   \"fields\": {\"uid\": \"$.id\", \"a\": {\"path\": \"$.x\", \"when\": \"$.y == 1\", \"apply\": [\"trim\"]},"
"    \"b\": {\"const\": null}, \"c\": {\"context\": \"dep\"}, \"d\": {\"coalesce\": [\"$.p\", {\"text\": \"$.q\"}]},"
"    \"e\": {\"all\": \"$.l[*]\"}, \"f\": {\"template\": \"{$.a} {$.b}\"},"
"    \"g\": {\"map\": \"$.g\", \"values\": {\"1\": \"m\"}, \"default\": \"x\"},"
"    \"h\": {\"zip\": {\"p\": \"$.p[*]\"}}, \"i\": {\"each\": {\"zip\": {\"p\": \"$.p[*]\"}}, \"fields\": {\"uid\": \"$.p\"}},"
"    \"j\": {\"each\": \"$.l[*]\", \"fields\": {\"uid\": \"$\"}}}},"
"  \"deps\": {\"type\": \"department\", \"request\": {\"path\": \"/deps\"}, \"records\": \"$.d[*]\","
"   \"fields\": {\"uid\": \"$.id\"}},"
"  \"tops\": {\"request\": {\"path\": \"/tops\"}}},"
" \"ignore_case\": [\"user\"]}";

/* The good manifest with one piece of it put otherwise, parsed. */
static void
breaks(const char *piece, const char *other, const char *expected)
{
	const char *at = strstr(good, piece);
	char	   *error = NULL;
	char	   *text;

	if (at == NULL)
	{
		printf("Bail out! not in the manifest: %s\n", piece);
		exit(1);
	}
	text = psprintf("%.*s%s%s", (int) (at - good), good, other, at + strlen(piece));
	is(uds_manifest_parse(text, &error) != NULL ? "accepted" : error, expected,
	   expected);
}

static void
check_top(void)
{
	breaks("{\"manifest\"", "[\"manifest\"", "$: not valid JSON");
	breaks("\"manifest\": 1,", "", "$: missing \"manifest\"");
	breaks("\"manifest\": 1", "\"manifest\": 2", "$.manifest: must be an integer from 1 to 1");
	breaks("\"manifest\": 1", "\"manifest\": \"1\"", "$.manifest: must be an integer from 1 to 1");
	breaks("\"title\": \"T\",", "", "$: missing \"title\"");
	breaks("\"title\": \"T\"", "\"title\": \"\"", "$.title: must be a non-empty string");
	breaks("\"title\"", "\"titel\"", "$: unknown word \"titel\"");
	breaks("\"base_url\": \"{", "\"base\": \"{", "$: unknown word \"base\"");
	breaks("{options.base_url}", "{options.url}", "$.base_url: unknown placeholder \"{options.url}\"");
	breaks("{options.base_url}", "{token}", "$.base_url: unknown placeholder \"{token}\"");
	breaks("\"base_url\": \"{options.base_url}\"", "\"base_url\": 3", "$.base_url: must be a string");
	breaks("\"ignore_case\": [\"user\"]", "\"ignore_case\": [\"tag\"]",
		   "$.ignore_case: must hold \"user\" or \"department\"");
	breaks("\"ignore_case\": [\"user\"]", "\"ignore_case\": true", "$.ignore_case: must be an array");
}

static void
check_options_part(void)
{
	breaks("\"secret\": true", "\"secret\": 1", "$.options.key.secret: must be true or false");
	breaks("\"secret\": true", "\"secret\": true, \"default\": \"x\"",
		   "$.options.key: a required or secret option has no default");
	breaks("{\"default\": 5}", "{\"default\": []}",
		   "$.options.n.default: must be a string, number or boolean");
	breaks("{\"default\": 5}", "5", "$.options.n: must be an object");
	breaks("\"n\": {\"default\": 5}", "\"ca_file\": {\"default\": \"/tmp/ca\"}",
		   "$.options.ca_file: has no default, since only superusers may name files");
	breaks("\"comment\": \"c\"", "\"coment\": \"c\"", "$.options.id: unknown word \"coment\"");
	breaks("\"n\": {", "\"n-n\": {", "$.options.n-n: is no name of an option");
}

static void
check_auth(void)
{
	breaks("\"token\": \"$.t\"", "\"tokn\": \"$.t\"", "$.auth: unknown word \"tokn\"");
	breaks("\"token\": \"$.t\",", "", "$.auth: missing \"token\"");
	breaks("\"$.t\"", "\"$.t[*]\"",
		   "$.auth.token: must be a simple path like \"$.a.b\" or \"$.a[0]\"");
	breaks("\"lifetime\": 60", "\"lifetime\": 0", "$.auth.lifetime: must be an integer from 1 to 31622400");
	breaks("\"lifetime\": 60", "\"lifetime\": 1.5", "$.auth.lifetime: must be an integer from 1 to 31622400");
	breaks("\"headers\": {\"Authorization\": \"Bearer {token}\"}", "", "$.auth.send: is empty");
	breaks("Bearer {token}", "Bearer {cursor}",
		   "$.auth.send.headers.Authorization: unknown placeholder \"{cursor}\"");
	breaks("\"Authorization\"", "\"A b\"", "$.auth.send.headers: bad header name \"A b\"");
	breaks("\"path\": \"/token\",", "", "$.auth.request: missing \"path\"");
	breaks("\"/token\"", "\"token\"", "$.auth.request.path: must begin with a slash and have no query");
	breaks("\"/token\"", "\"/token?a=b\"", "$.auth.request.path: must begin with a slash and have no query");
	breaks("\"POST\"", "\"FETCH\"", "$.auth.request.method: must be GET, POST or PUT");
	breaks("\"method\": \"POST\",", "", "$.auth.request: a GET request takes no \"json\"");
	breaks("\"json\": {", "\"form\": {\"a\": \"b\"}, \"json\": {", "$.auth.request: has both \"json\" and \"form\"");
	breaks("{options.id}\"}]", "{options.ix}\"}]",
		   "$.auth.request.json.deep[3].i: unknown placeholder \"{options.ix}\"");
	breaks("{options.key}", "{options.key",
		   "$.auth.request.json.k: no placeholder ends what begins at \"{options.key\"");
}

static void
check_errors(void)
{
	breaks("\"code\": \"$.code\",", "", "$.errors: missing \"code\"");
	breaks("\"ok\": [0, null],", "", "$.errors: missing \"ok\"");
	breaks("[0, null]", "0", "$.errors.ok: must be an array");
	breaks("[\"x\", 2]", "[\"x\", {}]", "$.errors.reauth[1]: needs a code, a status, a path or a body");
	breaks("[\"x\", 2]", "[null]", "$.errors.reauth[0]: must be a code: a number or a string");
	breaks("[\"x\", 2]", "[0]", "$.errors.reauth[0]: code 0 is listed twice");
	breaks("\"wait\": 60", "\"wait\": 4000", "$.errors.throttle[1].wait: must be an integer from 0 to 3600");
	breaks("\"wait\": 60", "\"weit\": 60", "$.errors.throttle[1]: unknown word \"weit\"");
	breaks("\"code\": 10,", "", "$.errors.throttle[1]: needs a code, a status, a path or a body");
	breaks("\"5\": \"Do.\"", "\"5\": 1", "$.errors.hints.5: must be a non-empty string");
}

static void
check_streams(void)
{
	breaks("\"path\": \"/users/{dep}\",", "", "$.streams.users.request: missing \"path\"");
	breaks("/users/{dep}", "/users/{dept}", "$.streams.users.request.path: unknown placeholder \"{dept}\"");
	breaks("\"type\": \"user\"", "\"type\": \"tag\"", "$.streams.users.type: must be \"user\", \"department\" or \"member\"");
	breaks("\"merge\": true", "\"merge\": \"yes\"", "$.streams.users.merge: must be true or false");
	breaks("\"type\": \"cursor\"", "\"type\": \"magic\"", "$.streams.users.pagination.type: must be cursor, next_link, link_header, page or offset");
	breaks("\"next\": \"$.next\",", "", "$.streams.users.pagination: missing \"next\"");
	breaks("\"type\": \"cursor\"", "\"type\": \"cursor\", \"first\": null",
		   "$.streams.users.pagination.first: must be a text or a number");
	breaks("\"type\": \"cursor\"", "\"type\": \"next_link\", \"first\": 0",
		   "$.streams.users.pagination: unknown word \"first\"");
	breaks("\"type\": \"cursor\"", "\"type\": \"cursor\", \"first\": 0", "accepted");
	breaks("\"type\": \"cursor\"", "\"type\": \"cursor\", \"first\": \"*\"", "accepted");
	breaks("\"pagination\"", "\"paging\"", "$.streams.users: unknown word \"paging\"");
	breaks("\"as\": \"dep\"", "\"as\": \"token\"", "$.streams.users.for_each.as: \"token\" cannot be used as a name");
	breaks("\"records\": \"$.u[*]\",", "", "$.streams.users: missing \"records\"");
	breaks("\"expect\": \"$.u\"", "\"expect\": \"$.u[*]\"",
		   "$.streams.users.expect: must be a simple path like \"$.a.b\" or \"$.a[0]\"");
	breaks("{\"uid\": \"$.id\", \"a\"", "{\"a\"", "$.streams.users.fields: missing \"uid\"");
	breaks("\"deps\": {\"type\"", "\"auth\": {\"type\"", "$.streams.auth: cannot be used as a name");
	breaks("[\"deps\", \"users\"]", "[\"deps\", \"user\"]", "$.plans[0].streams[1]: unknown stream \"user\"");
	breaks("[\"deps\", \"users\"]", "[\"users\", \"deps\"]",
		   "$.plans[0].streams[0]: stream \"users\" comes before \"deps\", on which it depends");
	breaks("[\"deps\", \"users\"]", "[\"tops\", \"users\"]", "accepted");
	breaks("[\"deps\", \"users\"]", "[\"deps\", \"users\", \"tops\"]",
		   "$.plans[0].streams[2]: stream \"users\" comes before \"tops\", on which it depends");
	breaks("{\"stream\": \"tops\"", "{\"stream\": \"top\"", "$.streams.users.for_each: unknown stream \"top\"");
	breaks("[\"deps\", \"users\"]", "[\"deps\", \"deps\"]",
		   "$.plans[0].streams[1]: stream \"deps\" is listed twice");
	breaks("\"streams\": [\"deps\"]", "\"streams\": []", "$.plans[1].streams: must be a non-empty array");
}

static void
check_fields(void)
{
	breaks("{\"const\": null}", "7", "$.streams.users.fields.b: must be a jsonpath or an object");
	breaks("{\"const\": null}", "{}", "$.streams.users.fields.b: is an expression without a word");
	breaks("{\"const\": null}", "{\"konst\": 1}", "$.streams.users.fields.b: unknown word \"konst\"");
	breaks("{\"const\": null}", "{\"const\": 1, \"when\": \"$.x\"}",
		   "$.streams.users.fields.b: unknown word \"when\"");
	breaks("\"context\": \"dep\"", "\"context\": \"xyz\"",
		   "$.streams.users.fields.c.context: the stream's \"for_each\" has no value \"xyz\"");
	breaks("\"$.p\", {\"text\": \"$.q\"}", "\"$.p\", {\"text\": 1}",
		   "$.streams.users.fields.d.coalesce[1].text: must be a jsonpath or an object");
	breaks("[\"trim\"]", "[\"rot13\"]", "$.streams.users.fields.a.apply: unknown transform \"rot13\"");
	breaks("\"values\": {\"1\": \"m\"},", "", "$.streams.users.fields.g: missing \"values\"");
	breaks("{\"zip\": {\"p\": \"$.p[*]\"}}, \"i\"", "{\"zip\": {}}, \"i\"",
		   "$.streams.users.fields.h.zip: must be a non-empty object");
	breaks("\"fields\": {\"uid\": \"$.p\"}", "\"fields\": {\"uid\": 1}",
		   "$.streams.users.fields.i.fields.uid: must be a jsonpath or an object");
	breaks(", \"fields\": {\"uid\": \"$\"}", "", "$.streams.users.fields.j: missing \"fields\"");
}

/* What the manifest above has not, each word wrong in its way. */
static void
check_more(void)
{
	breaks("\"ignore_case\"", "\"budget\": [{\"requests\": 5}], \"ignore_case\"",
		   "$.budget[0]: needs \"requests\" and \"seconds\"");
	breaks("\"ignore_case\"", "\"concurrency\": 0, \"ignore_case\"",
		   "$.concurrency: must be an integer from 1 to 64");
	breaks("\"auth\": {", "\"auth\": {\"when\": {\"option\": \"x\", \"given\": true},",
		   "$.auth.when: unknown option \"x\"");
	breaks("\"auth\": {", "\"auth\": {\"when\": {\"option\": \"n\"},",
		   "$.auth.when: needs either \"is\" or \"given\"");
	breaks("\"auth\": {", "\"auth\": {\"jwt\": {\"claims\": {}},", "$.auth.jwt: missing \"key\"");
	breaks("\"auth\": {", "\"auth\": {\"jwt\": {\"key\": \"k\", \"lifetime\": 7200},",
		   "$.auth.jwt.lifetime: must be an integer from 1 to 3600");
	breaks("\"send\": {\"headers\"", "\"send\": {\"basic\": {\"user\": \"u\"}, \"headers\"",
		   "$.auth.send.basic: needs \"user\" and \"password\"");
	breaks("\"gone\": [3]", "\"gone\": [{\"path\": \"$.a\"}]",
		   "$.errors.gone[0]: needs \"path\" together with \"in\" or \"matches\"");
	breaks("\"gone\": [3]", "\"gone\": [{\"status\": 404, \"wait\": 1}]",
		   "$.errors.gone[0]: \"wait\" and \"concurrency\" go with \"throttle\" only");
	breaks("\"gone\": [3]", "\"gone\": [{\"status\": 4}]",
		   "$.errors.gone[0].status: must be an integer from 100 to 599");
	breaks("\"gone\": [3]", "\"wait\": [{\"header\": \"H\", \"as\": \"days\"}]",
		   "$.errors.wait[0].as: must be \"seconds\" or \"epoch\"");
	breaks("\"merge\": true", "\"pages_of\": \"deps\"",
		   "$.streams.users: \"pages_of\" does not go with \"request\"");
	breaks("\"merge\": true", "\"state\": {\"s\": {\"date\": \"iso\", \"max\": \"$.x\"}}",
		   "$.streams.users.state.s: needs one of \"date\", \"last\" and \"max\"");
	breaks("\"merge\": true", "\"state\": {\"s\": {\"date\": \"julian\"}}",
		   "$.streams.users.state.s.date: must be iso, iso_ms, epoch or epoch_ms");
	breaks("\"c\": \"{cursor}\"", "\"c\": \"{state.s}\"",
		   "$.streams.users.request.query.c: unknown placeholder \"{state.s}\"");
	breaks("\"path\": \"/users/{dep}\"", "\"path\": \"/users\", \"url\": \"{cursor}\"",
		   "$.streams.users.request: has \"url\" and also \"path\" or \"base_url\"");
	breaks("{\"type\": \"cursor\", \"next\": \"$.next\"", "{\"type\": \"page\", \"size\": 0",
		   "$.streams.users.pagination: unknown word \"more\"");
	breaks("{\"type\": \"cursor\", \"next\": \"$.next\", \"more\": \"$.more\"}",
		   "[{\"type\": \"offset\", \"until\": \"full\"}]",
		   "$.streams.users.pagination[0].until: must be \"empty\" or \"short\"");
	breaks("{\"type\": \"cursor\", \"next\": \"$.next\", \"more\": \"$.more\"}",
		   "{\"type\": \"offset\", \"step\": \"size\"}",
		   "$.streams.users.pagination.step: must be \"size\", of an offset with \"size\"");
	breaks("{\"type\": \"cursor\", \"next\": \"$.next\", \"more\": \"$.more\"}",
		   "{\"type\": \"offset\", \"at_least\": \"{other}\"}",
		   "$.streams.users.pagination.at_least: must be the placeholder of \"for_each\"");
	breaks("{\"type\": \"cursor\", \"next\": \"$.next\", \"more\": \"$.more\"}",
		   "{\"type\": \"offset\"}",
		   "$.streams.users.request.query.c: unknown placeholder \"{cursor}\"");
	breaks("\"name\": \"few\"", "\"name\": \"few\", \"mode\": \"delta\"",
		   "$.plans[1].mode: must be \"full\", \"incremental\" or \"events\"");
	breaks("\"streams\": [\"deps\", \"users\"]", "\"streams\": [\"users\", \"deps\"]",
		   "$.plans[0].streams[0]: stream \"users\" comes before \"deps\", on which it depends");
	breaks("{\"all\": \"$.l[*]\"}", "{\"date\": \"$.l\", \"from\": \"mars\"}",
		   "$.streams.users.fields.e.from: must be epoch, epoch_ms or iso");
	breaks("{\"all\": \"$.l[*]\"}", "{\"join\": \"$.l\", \"separator\": 1}",
		   "$.streams.users.fields.e.separator: must be a string");
}

static void
check_result(const UdsManifest *manifest)
{
	const UdsStreamSpec *users = &manifest->streams[0];

	is(psprintf("%d %d %d", manifest->noptions, manifest->nstreams, manifest->nplans),
	   "5 3 2", "options, streams, plans");
	is(manifest->auths->request.method, "POST", "method");
	is(users->request.method, "GET", "method where none is given");
	is(users->as, "dep", "name of the for_each value");
	is(psprintf("%d %d", manifest->plans[0].streams[0], manifest->plans[0].streams[1]),
	   "1 0", "a plan's own order");
	is(manifest->errors.rules[1].code ? "code" : "none", "none", "no code as a good one");
	is(psprintf("%d %d", manifest->errors.rules[4].wait, manifest->errors.rules[5].wait),
	   "1 60", "waits");
}

static void
options_are(const UdsManifest *manifest, const char *options, const char *expected)
{
	char	   *hint;
	char	   *problem = uds_manifest_check_options(manifest, options, &hint);

	is(problem ? problem : "fine", expected, options);
	if (problem != NULL)
		is(hint, "The options are id (required), key (required), n, base_url, ca_file.",
		   "hint");
}

static void
secrets_are(const UdsManifest *manifest, const char *options, const char *expected)
{
	char	   *hint;
	char	   *problem = uds_manifest_check_secrets(manifest, options, &hint);

	is(problem ? problem : "fine", expected, options);
	is(hint ? hint : "none", problem == NULL ? "none" :
	   "Secrets are not part of a dump. Give it again with uds_alter_source().", "hint");
}

static void
check_secrets(const UdsManifest *manifest)
{
	secrets_are(manifest, "{\"id\": \"a\", \"key\": \"k\"}", "fine");
	secrets_are(manifest, "{\"key\": \"k\"}", "fine");
	secrets_are(manifest, "{\"id\": \"a\", \"key\": null}", "secret option \"key\" has no value in this database");
	secrets_are(manifest, "{\"id\": \"a\"}", "secret option \"key\" has no value in this database");
}

static void
check_options(const UdsManifest *manifest)
{
	UdsVariable *values;
	int			count;

	options_are(manifest, "{\"id\": \"a\", \"key\": \"k\"}", "fine");
	options_are(manifest, "{\"id\": 7, \"key\": {\"$env\": \"K\"}, \"n\": true}", "fine");
	options_are(manifest, "{\"id\": \"a\", \"key\": {\"$file\": \"/k\"}, \"base_url\": \"http://[::1]:80/x\"}", "fine");
	options_are(manifest, "{\"id\": \"a\"}", "required option \"key\" is missing");
	options_are(manifest, "{\"id\": \"a\", \"key\": null}", "required option \"key\" is missing");
	options_are(manifest, "{\"id\": \"\", \"key\": \"k\"}", "option \"id\" must not be empty");
	options_are(manifest, "{\"id\": {\"$env\": \"I\"}, \"key\": \"k\"}",
				"option \"id\" is no secret and must be given by value");
	options_are(manifest, "{\"id\": [], \"key\": \"k\"}", "option \"id\" must be a string, number or boolean");
	options_are(manifest, "{\"id\": \"a\", \"key\": {\"$env\": \"A\", \"$file\": \"b\"}}",
				"option \"key\" must be a string, {\"$env\": \"NAME\"} or {\"$file\": \"path\"}");
	options_are(manifest, "{\"id\": \"a\", \"key\": \"k\", \"kez\": 1}", "unknown option \"kez\"");
	options_are(manifest, "{\"base_url\": \"ftp://x\"}", "option \"base_url\" must begin with http:// or https://");
	options_are(manifest, "{\"base_url\": \"https:///x\"}", "option \"base_url\" names no host");
	options_are(manifest, "{\"base_url\": \"https://a:b@x\"}", "option \"base_url\" must not have a user name in it");
	options_are(manifest, "{\"base_url\": \"https://x?y\"}", "option \"base_url\" must not have a query");
	options_are(manifest, "{\"base_url\": \"https://x y\"}", "option \"base_url\" must not have spaces in it");
	options_are(manifest, "{\"ca_file\": \"x\"}", "option \"ca_file\" must be an absolute path");
	options_are(manifest, "[]", "options must be a JSON object");
	options_are(manifest, "{", "options must be a JSON object");

	values = uds_manifest_option_values(manifest, "{\"id\": 12, \"key\": \"k\"}", &count);
	is(psprintf("%d %s=%s %s=%s %s", count, values[0].name, values[0].value,
				values[2].name, values[2].value, values[4].value ? "?" : "none"),
	   "5 options.id=12 options.n=5 none", "values and defaults");
	is(values[1].secret && !values[0].secret ? "yes" : "no", "yes", "secrets are marked");
}

static void
check_pick(void)
{
	cJSON	   *root = cJSON_Parse("{\"a\": {\"b c\": [1, \"x\", true, -0, 1.5, 12345678901234567890, null]}}");
	static const char *const expected[] = {"1", "x", "true", "0", "1.5", NULL, NULL, NULL};
	int			i;

	for (i = 0; i < (int) lengthof(expected); i++)
	{
		char	   *path = psprintf("$.a.\"b c\"[%d]", i);
		const cJSON *item = uds_json_pick(root, path);
		char	   *text = item ? uds_json_text(item) : NULL;

		is(text ? text : "none", expected[i] ? expected[i] : "none", path);
	}
	is(uds_json_pick(root, "$.A") ? "found" : "none", "none", "names with case");
	is(uds_json_pick(root, "$") == root ? "root" : "none", "root", "the whole");
	is(uds_json_path_valid("$.a.\"@odata.nextLink\"[0]") ? "yes" : "no", "yes", "a valid path");
	is(uds_json_path_valid("$a") || uds_json_path_valid("$.") || uds_json_path_valid("$[") ||
	   uds_json_path_valid("$.a[x]") || uds_json_path_valid("$.\"a") || uds_json_path_valid("") ||
	   uds_json_path_valid("$.a b") ? "yes" : "no", "no", "paths that are not valid");
	cJSON_Delete(root);
}

static const char *const native =
"{\"manifest\": 1, \"title\": \"D\", \"native\": \"ldap\","
" \"options\": {\"preset\": {\"default\": \"a\"}, \"filter\": {}, \"key\": {\"secret\": true}},"
" \"presets\": {\"a\": {\"filter\": \"(a=1)\"}, \"b\": {\"filter\": \"(b=1)\"}},"
" \"plans\": [{\"name\": \"full\", \"streams\": [\"users\"]}],"
" \"streams\": {\"users\": {\"type\": \"user\", \"attributes\": [\"cn\", \"mail\"], \"records\": \"$[*]\","
"  \"fields\": {\"uid\": \"$._id\"}}}}";

/* The manifest of a directory with one piece put otherwise, parsed. */
static void
native_is(const char *piece, const char *other, const char *expected)
{
	const char *at = strstr(native, piece);
	char	   *error = NULL;
	char	   *text = psprintf("%.*s%s%s", (int) (at - native), native, other, at + strlen(piece));

	is(uds_manifest_parse(text, &error) != NULL ? "accepted" : error, expected, expected);
}

/* The value that an option has, given some. */
static void
preset_is(const char *options, const char *expected)
{
	char	   *error = NULL;
	int			count;
	UdsVariable *values = uds_manifest_option_values(uds_manifest_parse(native, &error), options, &count);

	for (int i = 0; i < count; i++)
	{
		if (strcmp(values[i].name, "options.filter") == 0)
			is(values[i].value, expected, psprintf("filter, given %s", options));
	}
}

static void
check_native(void)
{
	char	   *error = NULL;
	UdsManifest *manifest = uds_manifest_parse(native, &error);

	is(error, "none", "the manifest of a directory is accepted");
	is(manifest->native, UDS_NATIVE_LDAP, "it is native");
	ok(!manifest->streams[0].has_request && manifest->streams[0].attributes.count == 2,
	   "its stream has no request, but attributes");
	native_is("\"native\": \"ldap\",", "", "$: missing \"base_url\"");
	native_is("\"ldap\"", "\"ftp\"", "$.native: must be \"ldap\"");
	native_is("\"plans\"", "\"auth\": {}, \"plans\"", "$: \"native\" does not go with \"auth\"");
	native_is("\"type\": \"user\"", "\"type\": \"user\", \"request\": {\"path\": \"/\"}",
			  "$.streams.users: \"native\" does not go with \"request\"");
	native_is("\"type\": \"user\"", "\"type\": \"user\", \"synthesize\": {}",
			  "$.streams.users: \"native\" does not go with \"synthesize\"");
	native_is("[\"cn\", \"mail\"]", "[]", "$.streams.users.attributes: must not be empty");
	native_is("\"preset\": {\"default\": \"a\"}, ", "", "$.presets: needs an option \"preset\"");
	native_is("{\"filter\": \"(b=1)\"}", "{\"key\": \"x\"}",
			  "$.presets.b.key: must be an option that is neither required nor secret and has no default");
	native_is("{\"filter\": \"(b=1)\"}", "{\"filter\": 1}", "$.presets.b.filter: must be a text");
	native_is("{\"filter\": \"(b=1)\"}", "7", "$.presets.b: must be an object");
	breaks("\"merge\": true,", "\"attributes\": [\"cn\"],",
		   "$.streams.users: \"attributes\" goes with \"native\" only");
	preset_is("{}", "(a=1)");
	preset_is("{\"preset\": \"b\"}", "(b=1)");
	preset_is("{\"preset\": \"b\", \"filter\": \"(c=1)\"}", "(c=1)");
	preset_is("{\"preset\": \"c\"}", "none");
}

/* The good manifest with events, one piece of them put otherwise. */
static void
events_are(const char *piece, const char *other, const char *expected)
{
	static const char *const events =
		"\"events\": {\"scheme\": \"wecom\", \"token\": \"{options.key}\", \"receiver\": [\"{options.n}\", \"{options.id}\"],"
		" \"type\": \"$.t\", \"id\": [\"$.a\", \"$.b\"],"
		" \"changes\": [{\"types\": [\"new\"], \"user\": \"$.u\", \"renamed\": \"$.n\", \"when\": {\"option\": \"n\", \"is\": 5}},"
		"  {\"types\": \"moved\", \"department\": [\"$.d[*]\"]}], \"resync\": [\"all\"]}, \"ignore_case\"";
	const char *at = strstr(events, piece);

	breaks("\"ignore_case\"", psprintf("%.*s%s%s", (int) (at - events), events, other, at + strlen(piece)),
		   expected);
}

static void
check_events(void)
{
	events_are("\"scheme\"", "\"scheme\"", "accepted");
	events_are("\"wecom\"", "\"slack\"", "$.events.scheme: must be \"wecom\", \"dingtalk\" or \"feishu\"");
	events_are("\"scheme\": \"wecom\", ", "", "$.events: missing \"scheme\"");
	events_are("{options.key}", "{token}", "$.events.token: unknown placeholder \"{token}\"");
	events_are("{options.id}", "{cursor}", "$.events.receiver: unknown placeholder \"{cursor}\"");
	events_are("\"type\": \"$.t\", ", "", "$.events: needs \"type\" and \"id\"");
	events_are("\"id\": [\"$.a\", \"$.b\"],", "", "$.events: needs \"type\" and \"id\"");
	events_are("\"changes\": [", "\"changes\": 1, \"x\": [", "$.events: unknown word \"x\"");
	events_are("\"types\": [\"new\"], ", "", "$.events.changes[0]: missing \"types\"");
	events_are("\"user\": \"$.u\"", "\"department\": \"$.u\"", "accepted");
	events_are("\"user\": \"$.u\", ", "", "$.events.changes[0]: needs either \"user\" or \"department\"");
	events_are("\"renamed\"", "\"department\": \"$.d\", \"renamed\"",
			   "$.events.changes[0]: needs either \"user\" or \"department\"");
	events_are("\"option\": \"n\"", "\"option\": \"o\"", "$.events.changes[0].when: unknown option \"o\"");
	breaks("{\"stream\": \"tops\", \"value\": \"$.t[*]\"}", "{\"event\": \"tag\"}",
		   "$.streams.users.for_each.from.event: must be \"user\" or \"department\", without \"stream\"");
	breaks("{\"stream\": \"tops\", \"value\": \"$.t[*]\"}", "{\"event\": \"user\"}", "accepted");
	breaks("\"expect\": \"$.u\"", "\"gone\": {\"u\": [{\"id\": \"{dep}\"}]}", "accepted");
	breaks("\"expect\": \"$.u\"", "\"gone\": {\"u\": \"{user}\"}",
		   "$.streams.users.gone.u: unknown placeholder \"{user}\"");
	breaks("{\"path\": \"/tops\"}", "{\"path\": \"/tops\"}, \"gone\": {}",
		   "$.streams.tops: \"gone\" goes with \"for_each\" only");
	breaks("\"name\": \"few\"", "\"name\": \"few\", \"mode\": \"events\"", "accepted");
}

int
main(void)
{
	char	   *error = NULL;
	UdsManifest *manifest = uds_manifest_parse(good, &error);

	is(manifest != NULL ? "accepted" : error, "accepted", "a manifest with everything in it");
	if (manifest != NULL)
	{
		check_result(manifest);
		check_options(manifest);
		check_secrets(manifest);
	}
	check_top();
	check_options_part();
	check_auth();
	check_errors();
	check_streams();
	check_fields();
	check_more();
	check_pick();
	check_native();
	check_events();
	printf("1..%d\n", tests);
	return failures > 0;
}
