# Manifests of one's own, in a source of type http: every way to page, every
# way to log in, what errors mean, how long to wait.
use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsManifest;
use UdsTest qw(:DEFAULT query);

my $people = 120;
my $mock = start_mock(service => 'rest', users => $people, departments => 12);
my $node = new_node();
my ($true, $false) = (JSON::PP::true, JSON::PP::false);

sub settings
{
	$mock->control({ settings => { rest => {@_} } });
	return;
}

sub faults
{
	$mock->control({ faults => [@_] });
	return;
}

# the requests that the mock saw last, oldest first
sub last_requests
{
	my ($number) = @_;

	return @{ $mock->get_control(last => $number)->{last} };
}

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
source_of($node, $mock);

#
# Ways to page
#
is(read_by(people_manifest()), 'success', 'a page that has everybody is read');
is(field('fetched'), $people, 'everybody is there');
is(query('SELECT count(*) FROM uds.users'), $people, 'and in the table');

# paged($name, $style, $request, $pagination, $requests): all is read, as
# before, with so many requests
sub paged
{
	my ($name, $style, $request, $pagination, $requests) = @_;
	my $manifest = people_manifest(people => { request => { path => "/$style/people", %$request }, pagination => $pagination });

	is(read_by($manifest), 'success', "$name: it is read") or diag(field('message'));
	is(field(q{concat_ws(' ', fetched, unchanged, complete)}), "$people $people t", "$name: everybody came, and nobody else");
	is(seen(qr{/$style/people}), $requests, "$name: with $requests requests");
	return $manifest;
}

paged('page numbers', 'page', { query => { page => '{page}', size => '{size}' } },
	{ type => 'page', size => 50 }, 3);
paged('page numbers to an empty page', 'page', { query => { page => '{page}' } }, { type => 'page', until => 'empty' }, 4);
paged('full pages to the end', 'page', { query => { page => '{page}', size => '{size}' } }, { type => 'page', size => 40 }, 4);
paged('full pages and a total', 'page', { query => { page => '{page}', size => '{size}' } },
	{ type => 'page', size => 40, total => '$.total' }, 3);
settings(short_pages => $true);
paged('offsets with short pages', 'offset', { query => { start => '{offset}', size => '{size}' } },
	{ type => 'offset', size => 50, total => '$.total', until => 'empty' }, 3);
settings(short_pages => $false);
paged('a cursor in the query', 'cursor', { query => { cursor => '{cursor}' } },
	{ type => 'cursor', next => '$.cursor', more => '$.more' }, 3);
paged('a cursor in the body', 'cursor', { method => 'POST', json => { cursor => '{cursor}', all => $true } },
	{ type => 'cursor', next => '$.cursor', more => '$.more' }, 3);
is((last_requests(1))[0]{query_keys}[0], undef, 'which then is not in the query');
my $by_link = paged('a link in the body', 'next', {}, { type => 'next_link', next => '$.links.next' }, 3);
my $by_header = paged('a link in a header', 'link', {}, { type => 'link_header' }, 3);
paged('the first that leads on', 'link', {}, [ { type => 'next_link', next => '$.links.next' }, { type => 'link_header' } ], 3);

settings(wrong_total => 2);
is(read_by(people_manifest(people => { request => { path => '/page/people', query => { page => '{page}' } },
	pagination => { type => 'page', total => '$.total', until => 'empty' } })), 'partial', 'a listing that breaks off is read');
is(field('complete'), 'f', 'but fewer than the service counts are not everybody');
settings(wrong_total => 0);

# counted($count): reads by offsets that go up by the size, after somebody
# counted so many
sub counted
{
	my ($count) = @_;

	return read_by(people_manifest(people => {
		for_each => { values => ["$count"], as => 'count' },
		request => { path => '/offset/people', query => { start => '{offset}', size => '{size}' } },
		pagination => { type => 'offset', size => 50, step => 'size', until => 'empty', at_least => '{count}' } }));
}

is(counted($people), 'success', 'as many came as were counted before');
is(field(q{concat_ws(' ', fetched, complete)}), "$people t", 'which is everybody');
is(counted(1), 'success', 'more came than were counted');
is(field(q{concat_ws(' ', fetched, complete)}), "$people t", 'which ends no listing');
is(counted($people + 1), 'partial', 'fewer came than were counted');
is(field('complete'), 'f', 'which is not everybody');
settings(short_pages => $true);
is(counted($people), 'partial', 'pages that somebody is taken out of are not everybody, either');
is(field('fetched'), $people - 2, 'nobody on the other pages is passed over');
settings(short_pages => $false);

foreach my $way ([ 'body', $by_link ], [ 'header', $by_header ])
{
	my ($where, $manifest) = @$way;

	settings(link_base => 'http://localhost:' . $mock->port);
	is(read_by($manifest), 'failed', "a link in the $where that leads elsewhere is not followed");
	like(field('message'), qr/link/, 'as the message says');
	is(seen(qr/./), 1, 'nothing was asked for after the first page');
	settings(link_base => undef);
}
faults({ path => '/rest/next/people', kind => 'cursor_repeat' });
is(read_by($by_link), 'failed', 'a link that leads to where it stands ends the read');
faults();

#
# Ways to log in
#
# logged_in($name, $login, $auth, %options): reads with that, the service
# taking it only there
sub logged_in
{
	my ($name, $login, $auth, %options) = @_;
	my %people = (%{ delete $options{people} // {} });

	query(q{SELECT uds_drop_source('plain')});
	settings(login => $login);
	is(read_by(people_manifest(auth => $auth, people => \%people, options => delete $options{declared} // {}), %options),
		'success', "$name: the service lets us in")
	  or diag(field('message'));
	is(field('fetched'), $people, "$name: and shows everybody");
	is(query(q{SELECT count(*) FROM uds.raw_log WHERE concat_ws(' ', request, body) ~ 's3cr.?t|t0ken|k3y'}),
		0, "$name: nothing secret is in the raw log");
	return;
}

my %reply = (token => '$.data.token', expires_in => '$.data.lifetime');
my %bearer = (send => { headers => { Authorization => 'Bearer {token}' } });
my %by = (
	get => { path => '/token/get', query => { id => '{options.id}', secret => '{options.secret}' } },
	json => { method => 'POST', path => '/token/json', json => { id => '{options.id}', secret => '{options.secret}' } },
	form => { method => 'POST', path => '/token/form', form => { id => '{options.id}', secret => '{options.secret}' } },
	basic => { method => 'POST', path => '/token/basic', form => { grant_type => 'client_credentials' },
		basic => { user => '{options.id}', password => '{options.secret}', form_encoded => $true } });

foreach my $kind (sort keys %by)
{
	logged_in("a token by $kind", 'header', { request => $by{$kind}, %reply, %bearer });
	is(seen(qr/token/), 1, "a token by $kind: one is enough");
}
logged_in('a token from another address', 'header',
	{ request => { method => 'POST', url => '{options.token_url}', form => $by{form}{form} }, %reply, %bearer },
	declared => { token_url => {} }, token_url => 'http://localhost:' . $mock->port . '/rest/token/form');
like(query(q{SELECT request FROM uds.raw_log WHERE stream = 'auth' ORDER BY id DESC LIMIT 1}), qr{^POST http://localhost:}, 'which is the one of the option');
logged_in('a token in the query', 'query', { request => $by{json}, %reply, send => { query => { token => '{token}' } } });
logged_in('a token in the body', 'body', { request => $by{json}, %reply, send => { json => { token => '{token}' } } },
	people => { request => { method => 'POST', path => '/all/people', json => { x => 1 } } });
logged_in('a key in the query', 'key_query', { send => { query => { key => '{options.key}' } } },
	declared => { key => { secret => $true } }, key => 'k3y/+&=');
logged_in('a key in a header', 'key_header', { send => { headers => { 'X-Api-Key' => '{options.key}' } } },
	declared => { key => { secret => $true } }, key => 'k3y/+&=');
logged_in('name and password', 'basic', { send => { basic => { user => '{options.id}', password => '{options.secret}' } } });

my $key_file = PostgreSQL::Test::Utils::tempdir() . '/key.pem';
system_or_bail('openssl', 'genpkey', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048', '-out', $key_file);
my $private = slurp_file($key_file);
my ($public) = run_command([ 'openssl', 'pkey', '-in', $key_file, '-pubout' ]);
my %signed = (
	request => { method => 'POST', path => '/token/jwt', form => { assertion => '{jwt}' } },
	jwt => { key => '{options.file.private_key}', key_id => 'k1', claims => { iss => '{options.file.client}', scope => 'people units' } },
	%reply, %bearer);

settings(public_key => $public);
logged_in('a signed assertion', 'header', \%signed,
	declared => { file => { secret => $true, members => [ 'client', 'private_key' ] } },
	file => JSON::PP->new->encode({ client => 'us & them', private_key => $private, other => 1 }));
like((last_requests(2))[0]{body}, qr/^assertion=ey/, 'it is sent as a form');
is(query(q{SELECT count(*) FROM uds.raw_log WHERE concat_ws(' ', request, body) ~ 'PRIVATE KEY|eyJ'}), 0, 'neither key nor assertion is in the raw log');

# of several ways the one for which there are options
my @either = (
	{ when => { option => 'key', given => $true }, send => { query => { key => '{options.key}' } } },
	{ request => $by{json}, %reply, %bearer });
logged_in('the first way that fits', 'key_query', \@either, declared => { key => { secret => $true } }, key => 'k3y/+&=');
logged_in('or the next', 'header', \@either, declared => { key => { secret => $true } });

my %paged_people = (request => { path => '/page/people', query => { page => '{page}', size => '{size}' } }, pagination => { type => 'page', size => 10 });
my $paged = people_manifest(auth => { request => $by{json}, %reply, %bearer }, people => \%paged_people);
faults({ path => '/rest/page/people', after => 5, times => 1, kind => 'expire_token' });
is(read_by($paged), 'success', 'a token that ends in the middle is fetched again');
is(seen(qr/token/), 1, 'once');
is(field(q{concat_ws(' ', fetched, complete)}), "$people t", 'and nobody is missing');
faults();
settings(client_secret => 'another', login => 'header');
$mock->control({ expire_tokens => $true });
is(read_by($paged), 'failed', 'a secret that is wrong fails');
like(field('message'), qr/no such client or secret/, 'with what the service says');
is(seen(qr/token/), 1, 'it is tried once');
settings(client_secret => 's3cr+t/%:=', login => undef);

#
# Being told to wait
#
# waited($name, $throttle, %errors): told so once, with that, the read waits
sub waited
{
	my ($name, $throttle, $least, $most, %errors) = @_;

	settings(throttle => $throttle);
	faults({ path => '/rest/all/people', kind => 'throttle', seconds => 0, times => 1 });
	is(read_by(people_manifest(errors => \%errors)), 'success', "$name: the read goes on") or diag(field('message'));
	is(seen(qr/people/), 2, "$name: with the same request");
	cmp_ok(field('throttled_ms'), '>=', $least, "$name: it waited as long as it was told");
	cmp_ok(field('throttled_ms'), '<', $most, "$name: and no longer");
	faults();
	return;
}

waited('Retry-After', { status => 429, header => 'Retry-After', value => '1' }, 900, 5000);
waited('seconds in another header', { status => 429, header => 'X-Reset', value => '2' }, 1900, 7000, wait => [ { header => 'X-Reset' } ]);
settings(clock_skew => -7000);
waited('the time in a header, by a clock of its own', { status => 429, header => 'X-Reset', value => '+2' }, 900, 7000,
	wait => [ { header => 'X-Reset', as => 'epoch' } ]);
settings(clock_skew => 0);
waited('seconds in the body', { status => 200, wait => 2 }, 1900, 7000,
	wait => [ { path => '$.wait' } ], throttle => ['slow_down']);
waited('a code', { status => 200 }, 1900, 7000, throttle => [ { code => 'slow_down', wait => 2 } ]);
waited('a status', { status => 509 }, 900, 5000, throttle => [ { status => 509, wait => 1 } ]);
waited('a text in the body', { status => 400 }, 900, 5000, throttle => [ { body => '{"error"*slow*', wait => 1 } ]);
waited('a path', { status => 400 }, 900, 5000, throttle => [ { path => '$.error.message', matches => '*FAST', wait => 1 } ]);

# who looks while it waits sees it
settings(throttle => { status => 429, header => 'Retry-After', value => '600' });
faults({ path => '/rest/all/people', kind => 'throttle', seconds => 0, times => 1 });
my $task = query(q{SELECT uds_sync('plain', 'full')});
ok($node->poll_query_until('postgres', "SELECT throttled_ms > 0 FROM uds.progress WHERE task_id = $task"),
	'uds.progress shows that a sync waits because it was told to');
query("SELECT uds_cancel($task)");
is(wait_task($node, $task), 'canceled', 'such a wait can be canceled');
faults();

#
# Not asking too fast
#
my $slow = people_manifest(people => \%paged_people, budget => [ { requests => 4, seconds => 1 } ]);
is(read_by($slow), 'success', 'with a budget the read succeeds');
my @times = map { $_->{time} } last_requests(seen(qr/people/));
my $close = grep { $times[$_] - $times[ $_ - 4 ] < 0.99 } 4 .. $#times;
cmp_ok(scalar @times, '>', 8, 'it took several stretches of time');
is($close, 0, 'in no second there were more than four requests');
is(field('throttled_ms'), 0, 'which is not counted as being told to wait');

#
# What else errors mean
#
my %others = (
	transient => [ [ 'oops' ], 'success', 'an error that passes is tried again' ],
	config => [ [ 'oops' ], 'failed', 'an error of the configuration ends the read' ]);

foreach my $list (sort keys %others)
{
	my ($codes, $status, $name) = @{ $others{$list} };

	faults({ path => '/rest/all/people', kind => 'errcode', code => 'oops', times => 1 });
	is(read_by(people_manifest(errors => { $list => $codes, hints => { oops => 'Ask the porter.' } })), $status, $name) or diag(field('message'));
	like(field('message'), qr/Ask the porter/, 'with the hint of the manifest') if $status eq 'failed';
}
faults();

#
# Test of a source, step by step
#
is(read_by(people_manifest(auth => { request => $by{json}, %reply, %bearer })), 'success', 'with a token again');
my $steps = query(q{SELECT string_agg(step || CASE WHEN ok THEN '' ELSE ' failed' END, ', ') FROM uds_test_source('plain')});
like($steps, qr/^options, address, token, people, people: record$/, 'uds_test_source walks the steps');
unlike($steps, qr/failed/, 'and all of them are well') or diag(query(q{SELECT * FROM uds_test_source('plain')}));

$node->stop;
done_testing();
