# Okta: pages by Link headers, those who are deprovisioned, changes since a
# time, an API token or signed assertions, limits told by the clock.
use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsService;
use UdsTest qw(:DEFAULT query);

my $mock = start_mock(tiny => 1);
my $node = new_node('autovacuum' => 'off');
my %by_token = (base_url => $mock->base_url('okta'), api_token => '00QCjAl4MlV-WPXM');
my $zhang = "\x{e5}\x{bc}\x{a0}\x{e4}\x{bc}\x{9f}";

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
service($node, $mock, 'okta');
create_source('okta', %by_token);

#
# A full read
#
edit(people => { 'tom.becker' => { status => 'left' }, 'grace.obi' => { status => 'inactive' } });
settings(page_size => 3);
is(sync_as('auto'), 'success', 'a full read succeeds, over several pages')
  or BAIL_OUT(field('message'));
is(field('complete'), 't', 'it is complete');
is(field('fetched'), 17, 'it brings everybody, and every group but the one that is built in');
is(query(q{SELECT count(*) FROM uds.departments WHERE title = 'Everyone'}), 0, 'Everyone is no department');
is(person('Anna Keller', q{concat_ws('|', username, email, phone, title, enabled)}),
	'anna.keller@corp.test|anna.keller@bluebird.test|13800000002|Head of sales|t', 'a person has what the profile says');
is(person('Marco Rossi', 'phone'), '+8613800000004', 'phones come without spaces and hyphens');
is(person('Emma Dubois', 'enabled'), 'f', 'who is suspended is disabled');
is(person('Grace Obi', 'enabled'), 't', 'who is staged is not');
is(person('Tom Becker', 'enabled'), 'f', 'who is deprovisioned is disabled, and not gone');
is(members('Sales'), 'Anna Keller, Li Na, Marco Rossi, Sofia Lind', 'a group has its members');
is(members('Finance & People'), 'Emma Dubois, Marco Rossi', 'of whom a deprovisioned one is none');
is(parent('Sales'), 'none', 'groups have no tree');
is(query(q{SELECT count(*) FROM uds.users WHERE main_department_id IS NULL AND enabled}), 0, 'everybody has a main department');
is(query("SELECT count(*) FROM uds.raw_log WHERE concat_ws(' ', request, body) LIKE '%00QCj%'"), 0, 'the token is not in the raw log');

foreach my $style ('joined', 'lower')
{
	settings(link_style => $style);
	is(sync_as('full'), 'success', "links written otherwise ($style) are followed");
	is(field(q{concat_ws(' ', fetched, complete, created, updated, linked, unlinked)}), '17 t 0 0 0 0', "and nobody is missed ($style)");
}
settings(link_style => 'two');

#
# Nothing changed
#
my $before = dump_tables();
my $rows = query('SELECT count(*), sum(u.xmin::text::bigint) FROM uds.users u');

is(sync_as('full'), 'success', 'a full read again succeeds');
is(counts(), '17 0 0 0 0 0 0 0 17 0', 'and finds everything unchanged');
is(query('SELECT count(*), sum(u.xmin::text::bigint) FROM uds.users u'), $rows, 'no row of a user was written');
is(dump_tables(), $before, 'all is as it was');

#
# Changes
#
is(sync_as('auto'), 'success', 'the next sync asks for changes');
is(field('complete IS NULL OR NOT complete'), 't', 'which is no complete read');
edit(
	people => {
		'anna.keller' => { title => 'Vice president', mobile => undef },
		'li.na' => { departments => [5] },
		'sofia.lind' => { status => 'left' },
		'tom.becker' => { status => 'active' },
		'jonas.holm' => { uid => 'jonas.berg', status => 'disabled' },
		'new.one' => { name => 'New One', departments => [2] }
	},
	departments => { 4 => { name => 'Platform' }, 7 => { name => 'Night shift' } });
is(sync_as('auto'), 'success', 'changes are asked for')
  or diag(field('message'));
is(field('complete IS NULL OR NOT complete'), 't', 'and nothing else');
is(person('Anna Keller', q{concat_ws('|', title, coalesce(phone, 'none'))}), 'Vice president|none', 'a changed value arrives, and one that is not there any more goes');
is(person('Jonas Holm', q{concat_ws('|', username, enabled)}), 'jonas.berg@corp.test|f', 'who is renamed and suspended is the same row');
is(person('Sofia Lind', 'enabled'), 'f', 'who is deprovisioned now is disabled');
is(person('Tom Becker', 'enabled'), 't', 'who is back is enabled');
is(members('Sales'), 'Anna Keller, Marco Rossi, New One', 'a group has its new members');
is(members('Finance & People'), 'Emma Dubois, Li Na, Marco Rossi, Tom Becker', 'so has the one that somebody moved to');
is(members('Engineering'), "Grace Obi, Wang Fang, $zhang", 'the members of others are left alone');
is(query(q{SELECT count(*) FROM uds.departments WHERE title IN ('Platform', 'Night shift')}), 2, 'groups get new names, and new groups come');
$before = dump_tables();
is(sync_as('full'), 'success', 'a full read after that succeeds');
is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked)}), '0 0 0 0 0 0 0', 'and finds nothing that the changes had not brought')
  or diag(query('SELECT * FROM uds.changes WHERE task_id = ' . field('id')));
is(dump_tables(), $before, 'the tables are as the changes left them');

# who is deleted for good is told of by nobody: a full read misses them
edit(people => { 'tom.becker' => undef }, departments => { 7 => undef });
is(sync_as('auto'), 'success', 'after a deletion a read of changes succeeds');
is(person('Tom Becker', 'enabled'), 't', 'and does not know of it');
is(sync_as('full'), 'success', 'a full read does');
is(person('Tom Becker', 'enabled'), 'f', 'and disables who is missing');
is(query(q{SELECT enabled FROM uds.departments WHERE title = 'Night shift'}), 'f', 'a group as well');

# the clock of the service counts, not ours
settings(clock_skew => -3600);
is(sync_as('full'), 'success', 'a service whose clock is slow by an hour');
edit(people => { 'anna.keller' => { title => 'Chair' } });
is(sync_as('auto'), 'success', 'is asked by its clock');
is(person('Anna Keller', 'title'), 'Chair', 'and misses no change');
settings(clock_skew => 0);
is(sync_as('full'), 'success', 'with the right time again');

#
# Cursors that end, limits, what is not allowed, a break
#
settings(expired_cursors => JSON::PP::true);
is(sync_as('full'), 'failed', 'cursors that are never good end the read');
like(field('message'), qr/E0000031/, 'the message has the code');
settings(expired_cursors => JSON::PP::false, loop => JSON::PP::true);
is(sync_as('full'), 'failed', 'a page that is its own next page ends the read');
settings(loop => JSON::PP::false);

settings(reset_in => 2);
faults({ path => '*/groups/*/users', kind => 'throttle', seconds => 0, times => 1 });
is(sync_as('full'), 'success', 'a limit that is reached is waited out');
cmp_ok(field('throttled_ms'), '>=', 1000, 'until the time that X-Rate-Limit-Reset says');
cmp_ok(field('throttled_ms'), '<', 5000, 'and no longer');
settings(clock_skew => 3600);
faults({ path => '*/groups/*/users', kind => 'concurrency', limit => 1, times => 1 });
is(sync_as('full'), 'success', 'so is the limit of requests at a time, by the clock of the service');
cmp_ok(field('throttled_ms'), '<', 5000, 'which is not ours');
settings(clock_skew => 0, reset_in => 1);
faults();
is(sync_as('full'), 'success', 'then it is read as ever');

$before = dump_tables();
settings(api_tokens => { '00QCjAl4MlV-WPXM' => { scope => [2] } });
is(sync_as('full'), 'success', 'a token that sees one group only');
is(query(q{SELECT count(*) FROM uds.departments WHERE enabled}), 1, 'sees one group') or diag(field('message'));
settings(api_tokens => { '00QCjAl4MlV-WPXM' => {} });
is(sync_as('full'), 'success', 'when it sees all again');
is(query(q{SELECT string_agg(title, ', ' ORDER BY title COLLATE "C") FROM uds.departments WHERE enabled}),
	'Bluebird Tea Company, Engineering, Finance & People, Platform, Sales', 'all are back');
is(members('Sales'), 'Anna Keller, Marco Rossi, New One', 'with their members');

$before = dump_tables();
edit(people => { 'new.one' => { title => 'never seen' }, 'li.na' => undef });
faults({ path => '*/groups/*/users', after => 2, kind => 'drop' });
is(sync_as('full'), 'failed', 'a read that breaks off fails');
is(dump_tables(), $before, 'and changes nothing');
faults({ path => '*/groups/*/users', kind => 'errcode', code => 'E0000006', times => 1 });
is(sync_as('full'), 'partial', 'a group whose members may not be seen makes the read partial');
is(field('complete'), 'f', 'and not complete');
is(person('Li Na', 'enabled'), 't', 'so nobody goes missing by it');
faults();

settings(link_base => 'http://localhost:' . $mock->port . '/okta');
is(sync_as('full'), 'failed', 'a link to another host is not followed');
is(query('SELECT count(*) FROM uds.raw_log WHERE task_id = ' . field('id') . " AND request LIKE '%localhost%'"), 0, 'nothing was sent there');
settings(link_base => undef);
settings(page_size => 200, slow_limit => 100);
is(sync_as('full'), 'failed', 'a service that cannot make a large page in time');
like(field('message'), qr/page_size/, 'is to be asked for smaller ones');
query(q{SELECT uds_alter_source('okta', options => '{"page_size": 50}')});
is(sync_as('full'), 'success', 'which it gives');
settings(slow_limit => undef);

#
# Owners, departments of another kind
#
query(q{SELECT uds_drop_source('okta', keep_data => false)});
edit(departments => { 2 => { leaders => ['marco.rossi'] } });
create_source('okta', %by_token, owners => 'yes');
is(sync_as('auto'), 'success', 'with owners') or diag(field('message'));
is(members('Sales'), 'Anna Keller, Marco Rossi*, New One', 'an owner leads the group');
edit(departments => { 2 => { leaders => ['anna.keller'] } }, people => { 'wang.fang' => { departments => [ 2, 3 ] } });
is(sync_as('auto'), 'success', 'changes of owners');
is(members('Sales'), 'Anna Keller*, Marco Rossi, New One, Wang Fang', 'come with those of the group');
settings(owners => JSON::PP::false);
is(sync_as('full'), 'success', 'where the service knows no owners');
is(members('Sales'), 'Anna Keller, Marco Rossi, New One, Wang Fang', 'there are none');
query(q{SELECT uds_drop_source('okta', keep_data => false)});

create_source('none', %by_token, departments => 'none');
is(sync_as('auto', 'none'), 'success', 'without departments');
is(query('SELECT count(*) FROM uds.departments'), 0, 'there are none');
query(q{SELECT uds_drop_source('none', keep_data => false)});
create_source('units', %by_token, departments => 'department');
is(sync_as('auto', 'units'), 'success', 'with the department written at each user');
is(members('Engineering'), "Wang Fang, $zhang", 'those for whom it is written are in it');
edit(people => { 'wang.fang' => { main_department => 2 } });
is(sync_as('auto', 'units'), 'success', 'changes of these');
like(members('Sales'), qr/Wang Fang/, 'arrive as well');
query(q{SELECT uds_drop_source('units', keep_data => false)});

#
# Signed assertions
#
my $key_file = PostgreSQL::Test::Utils::tempdir() . '/key.pem';
system_or_bail('openssl', 'genpkey', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048', '-out', $key_file);
my ($public) = run_command([ 'openssl', 'pkey', '-in', $key_file, '-pubout' ]);
my %by_key = (
	base_url => $by_token{base_url},
	client_id => '0oa1service0app00001',
	key_id => 'key-1',
	private_key => slurp_file($key_file));

settings(public_key => $public, page_size => 3);
create_source('okta', %by_key);
faults({ path => '*/groups/*/users', after => 2, times => 1, kind => 'expire_token' });
is(sync_as('auto'), 'success', 'an app with a key reads, and its token may end meanwhile') or diag(field('message'));
is(field('complete'), 't', 'nothing is missing then');
is(query('SELECT count(*) FROM uds.raw_log WHERE stream = $$auth$$ AND task_id = ' . field('id')), 2, 'a second token was asked for');
is(query(q{SELECT count(*) FROM uds.raw_log WHERE concat_ws(' ', request, body) ~ 'eyJ|PRIVATE'}), 0, 'neither key, assertion nor token is in the raw log');
faults();

#
# What is wrong is said at once
#
my %wrong = (
	token => [ { %by_token, api_token => 'wrong' }, qr/E0000011.*api_token/s ],
	client => [ { %by_key, client_id => 'wrong' }, qr/invalid_client/ ],
	'key id' => [ { %by_key, key_id => 'wrong' }, qr/invalid_client.*key_id/s ]);

foreach my $what (sort keys %wrong)
{
	my ($options, $like) = @{ $wrong{$what} };

	create_source("wrong $what" =~ tr/ /_/r, %$options);
	is(sync_as('auto', "wrong $what" =~ tr/ /_/r), 'failed', "a wrong $what fails");
	like(field('message'), $like, "a wrong $what: the message says where to look");
	is(field('requests'), 1, "a wrong $what: it is tried once");
}
settings(dpop => JSON::PP::true);
create_source('dpop', %by_key);
is(sync_as('auto', 'dpop'), 'failed', 'an app that demands DPoP cannot be read');
like(field('message'), qr/Switch off.*DPoP/, 'and the message says what to switch off');

create_source('nothing', base_url => $by_token{base_url});
is(sync_as('auto', 'nothing'), 'failed', 'without credentials it fails');
like(field('message'), qr/nothing to authenticate with/, 'and says why');
is(field('requests'), 0, 'before anything is asked');

$node->stop;
done_testing();
