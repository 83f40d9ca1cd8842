# SCIM against a service provider that others wrote: scimmy, from npm, with its
# peculiar paging.
use strict;
use warnings;

use HTTP::Tiny;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsPeer;
use UdsService;
use UdsTest qw(:DEFAULT query);

my ($folder, $why) = UdsPeer::install(qw(scimmy scimmy-routers express));

plan skip_all => "NOT TESTED AGAINST A SCIM SERVER THAT OTHERS WROTE: $why" unless $folder;

# 250 people, every tenth not active, in five groups
my $server = UdsPeer::start($folder, <<'JS');
import express from "express"; import SCIMMY from "scimmy"; import Routers from "scimmy-routers"; import qs from "node:querystring";
const users = new Map(), groups = new Map(), start = new Date("2026-01-01T08:00:00Z");
const pad = (i) => String(i).padStart(6, "0");
for (let i = 0; i < 250; i++)
	users.set("usr" + pad(i), {id: "usr" + pad(i), userName: `u${i}@example.test`, displayName: `User ${i}`, name: {givenName: `G${i}`, familyName: `F${i}`},
		active: i % 10 !== 0, emails: [{value: `u${i}@example.test`, type: "work", primary: true}], title: "Engineer", meta: {created: start, lastModified: start}});
for (let g = 0; g < 5; g++)
	groups.set("grp" + g, {id: "grp" + g, displayName: `Group ${g}`, members: [...users.keys()].filter((_, i) => i % 5 === g).map((value) => ({value})),
		meta: {created: start, lastModified: start}});
const missing = (id) => new SCIMMY.Types.Error(404, null, `Resource ${id} not found`);
for (const [Resource, map] of [[SCIMMY.Resources.User, users], [SCIMMY.Resources.Group, groups]]) {
	SCIMMY.Resources.declare(Resource);
	Resource.egress((r) => { if (r.id) { if (!map.has(r.id)) throw missing(r.id); return map.get(r.id); }
		return r.filter ? r.filter.match([...map.values()]) : [...map.values()]; });
	Resource.ingress((r, data) => { const old = map.get(r.id); const id = r.id ?? "new" + map.size; const value = {...data, id,
		meta: {created: old?.meta.created ?? new Date(), lastModified: new Date()}}; map.set(id, value); return value; });
	Resource.degress((r) => { if (!map.delete(r.id)) throw missing(r.id); });
}
const app = express();
let numbers = true;
app.set("query parser", (s) => { const o = {...qs.parse(s)}; if (numbers) for (const k of ["startIndex", "count"]) if (/^-?\d+$/.test(o[k] ?? "")) o[k] = +o[k]; return o; });
app.get("/strings", (_, reply) => { numbers = false; reply.send("ok"); });
app.use("/scim/v2", new Routers({type: "bearer", handler: (q) => { if (q.header("Authorization") !== "Bearer t0ken") throw new Error("bad token"); return "svc"; }}));
const listener = app.listen(0, "127.0.0.1", () => console.log(listener.address().port));
JS

my $base = 'http://127.0.0.1:' . $server->port;
my $node = new_node('autovacuum' => 'off');
my $json = JSON::PP->new->canonical;

# scim($method, $path, $document): a request to the server itself
sub scim
{
	my ($method, $path, $document) = @_;
	my $reply = HTTP::Tiny->new(proxy => undef, http_proxy => undef)->request($method, "$base/scim/v2/$path", {
			headers => { Authorization => 'Bearer t0ken', 'Content-Type' => 'application/scim+json' },
			$document ? (content => $json->encode($document)) : () });

	die "the server answered $reply->{status} to $method $path: $reply->{content}" unless $reply->{success};
	return $reply;
}

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
service($node, undef, 'scim');
create_source('scim', base_url => "$base/scim/v2", token => 't0ken');

is(sync_as('auto'), 'success', 'everything is read') or diag(field('message'));
is(counts(), '255 255 0 0 0 0 250 0 0 0', 'everybody, every group, every membership');
is(field('complete'), 't', 'as a whole');
is(query('SELECT count(*) FROM uds.users WHERE NOT enabled'), 25, 'who is not active is disabled');
is(query(q{SELECT concat_ws('|', username, nickname, email, title) FROM uds.users WHERE username = 'u7@example.test'}),
	'u7@example.test|User 7|u7@example.test|Engineer', 'with what the server says of them');
is(sync_as('full'), 'success', 'again');
is(counts(), '255 0 0 0 0 0 0 0 255 0', 'nothing has changed');

# by its own interface
scim('PATCH', 'Users/usr000007', { schemas => ['urn:ietf:params:scim:api:messages:2.0:PatchOp'],
		Operations => [ { op => 'replace', path => 'title', value => 'Chief' } ] });
scim('POST', 'Users', { schemas => ['urn:ietf:params:scim:schemas:core:2.0:User'], userName => 'new@example.test', displayName => 'New One' });
scim('PATCH', 'Groups/grp0', { schemas => ['urn:ietf:params:scim:api:messages:2.0:PatchOp'],
		Operations => [ { op => 'add', path => 'members', value => [ { value => 'usr000007' } ] } ] });
is(sync_as('auto'), 'success', 'changes are asked for') or diag(field('message'));
is(field('complete IS NULL OR NOT complete'), 't', 'by the time of the last change');
is(person('User 7', 'title'), 'Chief', 'a change arrives');
is(person('New One', 'username'), 'new@example.test', 'somebody new as well');
like(members('Group 0'), qr/\bUser 7\b/, 'and a new member');
is(sync_as('full'), 'success', 'a full read after that');
is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked)}), '0 0 0 0 0 0 0', 'finds nothing else');
scim('DELETE', 'Users/usr000008');
is(sync_as('full'), 'success', 'after a deletion');
is(person('User 8', 'enabled'), 'f', 'a full read misses who is gone');

# as its documentation has it wired up, it does not read the numbers of pages
HTTP::Tiny->new(proxy => undef, http_proxy => undef)->get("$base/strings");
is(sync_as('full'), 'failed', 'a server that ignores the numbers of pages is found out');
is(query('SELECT count(*) FROM uds.users WHERE enabled'), 225, 'and nobody goes missing');
query(q{SELECT uds_drop_source('scim')});
create_source('scim', base_url => "$base/scim/v2", token => 'wrong');
is(sync_as('auto'), 'failed', 'a wrong token fails');
like(field('message'), qr/401/, 'as the message says');

$server->stop;
$node->stop;
done_testing();
