# Tokens of an OAuth 2.0 server that others wrote: oidc-provider, from npm, which
# checks secrets, signatures, audiences and that no assertion comes twice.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsManifest;
use UdsPeer;
use UdsTest qw(:DEFAULT query);

my ($folder, $why) = UdsPeer::install(qw(oidc-provider jose));

plan skip_all => "NOT TESTED AGAINST AN OAUTH SERVER THAT OTHERS WROTE: $why" unless $folder;

# the server has to know its own address, so it is told to find a port first; a
# resource behind it shows who the token is for
my $server = UdsPeer::start($folder, <<'JS');
import Provider from "oidc-provider"; import { createRemoteJWKSet, exportJWK, exportPKCS8, generateKeyPair, jwtVerify } from "jose";
import fs from "node:fs"; import http from "node:http";
const { publicKey, privateKey } = await generateKeyPair("RS256", { extractable: true });
fs.writeFileSync("client.pem", await exportPKCS8(privateKey));
const key = { ...(await exportJWK(publicKey)), kid: "k1", alg: "RS256", use: "sig" };
const plain = { grant_types: ["client_credentials"], redirect_uris: [], response_types: [] };
const listener = http.createServer();
listener.listen(0, "127.0.0.1", () => {
	const own = `http://127.0.0.1:${listener.address().port}`;
	const provider = new Provider(own, {
		features: { clientCredentials: { enabled: true }, devInteractions: { enabled: false },
			resourceIndicators: { enabled: true, defaultResource: () => "urn:api",
				getResourceServerInfo: () => ({ scope: "people.read", audience: "urn:api", accessTokenFormat: "jwt", accessTokenTTL: 600 }) } },
		scopes: ["people.read"],
		clients: [
			{ ...plain, client_id: "post", client_secret: "s3cr+t%&", token_endpoint_auth_method: "client_secret_post" },
			{ ...plain, client_id: "ba:sic", client_secret: "s3cr+t%&", token_endpoint_auth_method: "client_secret_basic" },
			{ ...plain, client_id: "key", token_endpoint_auth_method: "private_key_jwt", token_endpoint_auth_signing_alg: "RS256", jwks: { keys: [key] } }] });
	const keys = createRemoteJWKSet(new URL(own + "/jwks"));
	const people = async (request, reply) => {
		const token = (request.headers.authorization ?? "").replace(/^Bearer /, "");
		const { payload } = await jwtVerify(token, keys, { issuer: own, audience: "urn:api" });
		reply.setHeader("Content-Type", "application/json");
		reply.end(JSON.stringify({ items: [{ id: "ann", name: payload.client_id + " " + payload.scope }] }));
	};
	listener.on("request", (request, reply) => {
		if (request.url === "/people")
			people(request, reply).catch((e) => { reply.statusCode = 401; reply.end(JSON.stringify({ error: { code: e.code, message: e.message } })); });
		else
			provider.callback()(request, reply);
	});
	console.log(listener.address().port);
});
JS

my $node = new_node();
my $base = 'http://127.0.0.1:' . $server->port;
my %send = (token => '$.access_token', expires_in => '$.expires_in', send => { headers => { Authorization => 'Bearer {token}' } });
my %scope = (grant_type => 'client_credentials', scope => 'people.read');
my %ways = (
	'a secret in the form' => [ 'post', 'client_secret_post',
		{ request => { method => 'POST', path => '/token', form => { %scope, client_id => '{options.id}', client_secret => '{options.secret}' } }, %send } ],
	'a secret by HTTP Basic' => [ 'ba:sic', 'client_secret_basic',
		{ request => { method => 'POST', path => '/token', form => \%scope,
				basic => { user => '{options.id}', password => '{options.secret}', form_encoded => JSON::PP::true } }, %send } ],
	'a signed assertion' => [ 'key', 'private_key_jwt',
		{ request => { method => 'POST', path => '/token',
				form => { %scope, client_assertion_type => 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer', client_assertion => '{jwt}' } },
			jwt => { key => '{options.key}', key_id => 'k1', lifetime => 60,
				claims => { iss => '{options.id}', sub => '{options.id}', aud => '{options.base_url}/token' } }, %send } ]);

# read_people($auth, %options): a source that logs in like that; the task's status
sub read_people
{
	my ($auth, %options) = @_;

	query(q{SELECT uds_drop_source('plain', keep_data => false)}) if query(q{SELECT count(*) FROM uds.sources WHERE name = 'plain'});
	return read_by(
		people_manifest(auth => $auth, errors => { code => '$.error', message => '$.error_description' }, options => { key => { secret => JSON::PP::true } }, people => { request => { path => '/people' } }),
		base_url => $base, secret => 's3cr+t%&', key => slurp_file("$folder/client.pem"), %options);
}

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
source_of($node, undef);
foreach my $way (sort keys %ways)
{
	my ($id, $method, $auth) = @{ $ways{$way} };

	is(read_people($auth, id => $id), 'success', "$way ($method) is taken") or diag(field('message'));
	is(query(q{SELECT nickname FROM uds.users}), "$id people.read", "$way: the token is good, and for this client and scope");
	is(sync_now('full'), 'success', "$way: again");
	is(field('requests'), 1, "$way: with the token that is kept");
	is(query(q{SELECT count(*) FROM uds.raw_log WHERE concat_ws(' ', request, body) ~ 's3cr|eyJ|PRIVATE'}), 0, "$way: nothing secret is in the raw log");
}
is(read_people($ways{'a secret in the form'}[2], id => 'post', secret => 'wrong'), 'failed', 'a wrong secret is refused');
like(field('message'), qr/invalid_client|client authentication failed/, 'as the server says');

my $other = PostgreSQL::Test::Utils::tempdir() . '/other.pem';

system_or_bail('openssl', 'genpkey', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048', '-out', $other);
is(read_people($ways{'a signed assertion'}[2], id => 'key', key => slurp_file($other)), 'failed', 'so is the signature of another key');
like(field('message'), qr/invalid_client|client authentication failed/, 'as the server says');

my %elsewhere = %{ $ways{'a signed assertion'}[2] };

$elsewhere{jwt} = { %{ $elsewhere{jwt} }, claims => { iss => '{options.id}', sub => '{options.id}', aud => 'https://elsewhere.example.com' } };
is(read_people(\%elsewhere, id => 'key'), 'failed', 'and an assertion for somebody else');

$server->stop;
$node->stop;
done_testing();
