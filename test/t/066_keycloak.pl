# Keycloak: full reads with groups in the three ways in which versions list
# them, short tokens, and what tells a whole list from one that is not.
use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsService;
use UdsTest qw(:DEFAULT query);

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $secret = 's&cret: 100%/+=?';
my $mock = start_mock(tiny => 1);
my $node = new_node('autovacuum' => 'off');

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
service($node, $mock, 'keycloak',
	base_url => $mock->base_url('keycloak'),
	realm => 'staff',
	client_id => 'user sync',
	client_secret => $secret);
create_source('keycloak');

#
# A full read
#
settings(federated => ['marco.rossi']);
is(sync_as('auto'), 'success', 'a full read succeeds')
  or BAIL_OUT(field('message'));
is(field('complete'), 't', 'it is complete');
is(counts(), '17 17 0 0 0 0 15 0 0 0', 'it brings everybody, every group and every membership');
is(person('Anna Keller', q{concat_ws('|', username, email, phone, title, avatar, enabled)}),
	'anna.keller|anna.keller@bluebird.test|13800000002|Head of sales|https://img.test/bluebird/2/0|t',
	'a person has what the account and its attributes say');
is(person('Emma Dubois', 'enabled'), 'f', 'an account that is not enabled is disabled');
is(person('Sofia Lind', 'phone IS NULL'), 't', 'an attribute that is not there is null');
is(person('Marco Rossi', 'phone'), '+8613800000004', 'phones come without spaces and hyphens');
is(query(q{SELECT count(*) FROM uds.records WHERE uid LIKE 'f:%:marco.rossi'}), 1, 'ids of federated users are kept as they are');
is(members('Sales'), 'Anna Keller*, Li Na, Marco Rossi, Sofia Lind', 'a group has its members, and who is in its attribute leads it');
is(members('Platform Team'), 'Grace Obi, Jonas Holm, Priya Nair*, ' . "\x{e5}\x{bc}\x{a0}\x{e4}\x{bc}\x{9f}", 'so has one below another');
is(parent('Platform Team'), 'Engineering', 'a group within a group is below it');
is(parent('Bluebird Tea Company'), 'none', 'a group in no other is a root');
is(query('SELECT count(*) FROM uds.users WHERE main_department_id IS NULL'), 0, 'everybody has a main department');
unlike(query("SELECT string_agg(request || coalesce(body, ''), ' ') FROM uds.raw_log WHERE task_id = $task"),
	qr/s&cret|s%26cret|eyJ|Basic [A-Za-z0-9]/, 'neither secret nor token is in the raw log');

#
# Again
#
my $before = dump_tables();
my $rows = row_versions();
is(sync_as('auto'), 'success', 'the next sync succeeds');
is(field('complete'), 't', 'it reads everything again: there are no changes to ask for');
is(counts(), '17 0 0 0 0 0 0 0 17 0', 'and finds everything unchanged');
is(row_versions(), $rows, 'no row was written');

#
# The ways in which versions list groups
#
foreach my $way ([ nested => 'up to version 22' ], [ hierarchy => 'with a part of the tree' ], [ lazy => 'since version 23' ])
{
	my ($dialect, $name) = @$way;

	settings(dialect => $dialect, leave_out_empty => $dialect eq 'lazy' ? $true : $false);
	is(sync_as('full'), 'success', "groups $name are read") or diag(field('message'));
	is(counts(), '17 0 0 0 0 0 0 0 17 0', "groups $name: they come to the same");
	edit(departments => { 7 => { name => 'Night shift', parent => 4, leaders => ['grace.obi'] }, 8 => { name => 'A "side" group', parent => 0 } },
		people => { 'grace.obi' => { departments => [ 4, 3, 7 ] } });
	is(sync_as('full'), 'success', "groups $name: a new one is read, at the bottom of the tree");
	is(parent('Night shift'), 'Platform Team', "groups $name: it is where it belongs");
	is(members('Night shift'), 'Grace Obi*', "groups $name: it has its member, who leads it");
	is(parent('A "side" group'), 'none', "groups $name: a second tree has a root of its own");
	edit(departments => { 7 => undef, 8 => undef });
	is(sync_as('full'), 'success', "groups $name: they go again");
	is(field('deleted + disabled'), 2, "groups $name: which is seen");
	query(q{DELETE FROM uds.departments WHERE NOT enabled});
	is(dump_tables(), $before, "groups $name: all is as it was");
}

#
# Changes and leavers
#
edit(
	people => {
		'anna.keller' => { title => 'Vice president', mobile => undef },
		'li.na' => { departments => [5] },
		'sofia.lind' => undef,
		'jonas.holm' => { uid => 'jonas.berg', status => 'disabled' },
		'emma.dubois' => { status => 'active' },
		'new.one' => { name => 'New One', departments => [ 2, 4 ] }
	},
	departments => { 4 => { parent => 2, name => 'Platform', leaders => [ 'grace.obi', 'chen.jing' ] } });
is(sync_as('auto'), 'success', 'changes are read');
is(field(q{concat_ws(' ', created, enabled, disabled, deleted, failed)}), '1 1 2 0 0', 'the task counts who is new, back, disabled and gone');
is(person('Anna Keller', q{concat_ws('|', title, phone IS NULL)}), 'Vice president|t', 'changed values arrive, and that one is gone');
is(person('Jonas Holm', q{concat_ws('|', username, enabled)}), 'jonas.berg|f', 'who is renamed and disabled is the same row');
is(person('Emma Dubois', 'enabled'), 't', 'who is enabled again is so here');
is(person('Sofia Lind', 'enabled'), 'f', 'who is not listed any more is disabled, as a leaver');
is(members('Sales'), 'Anna Keller*, Marco Rossi, New One', 'and is no member any more');
is(members('Finance & People'), 'Emma Dubois, Li Na, Marco Rossi, Tom Becker*', 'who moved is in the other group');
is(parent('Platform'), 'Sales', 'a group that was moved and renamed is the same, below another one');
is(members('Platform'), 'Grace Obi*, Jonas Holm, New One, Priya Nair, ' . "\x{e5}\x{bc}\x{a0}\x{e4}\x{bc}\x{9f}", 'another one leads it; who leads without being a member is none');
$before = dump_tables();

#
# What is not whole
#
edit(people => { 'wang.fang' => { title => 'hidden' } });
settings(hidden_people => ['wang.fang']);
is(sync_as('auto'), 'partial', 'somebody is taken out of the pages: the read is partial');
is(field('complete'), 'f', 'and not complete');
is(query("SELECT count(*) FROM uds.task_errors WHERE task_id = $task AND message LIKE '%gave 11 of the 12 records%'"),
	1, 'the error says how many are missing');
is(dump_tables(), $before, 'nobody goes missing');
settings(hidden_people => [], rights => [ 'query-users', 'query-groups' ]);
faults({ path => '*/members', kind => 'status', status => 404 });
is(sync_as('auto'), 'failed', 'without view-users nobody is listed, and nothing is applied');
is(dump_tables(), $before, 'nobody goes');
faults();
settings(rights => [ 'view-users', 'query-groups' ], hidden_groups => [2], old_errors => $true);
is(sync_as('auto'), 'partial', 'a group whose members may not be seen makes the read partial');
is(field('complete'), 'f', 'which is not complete, either');
is(members('Sales'), 'Anna Keller*, Marco Rossi, New One', 'its members stay');
settings(hidden_groups => [], old_errors => $false);
$before = dump_tables();
faults({ path => '*/children', kind => 'status', status => 403 });
is(sync_as('auto'), 'partial', 'groups below one that may not be seen: partial');
is(dump_tables(), $before, 'they stay, and so do their members');
faults();
edit(people => { 'wang.fang' => { title => 'Test engineer' } });

edit(people => { 'emma.dubois' => { name => '' }, 'li.na' => { name => '', alias => 'Lina' } });
is(sync_as('auto'), 'success', 'some have no names');
is(query(q{SELECT string_agg(nickname, ' ' ORDER BY username) FROM uds.users WHERE username IN ('emma.dubois', 'li.na')}),
	'emma.dubois Lina', 'who has none goes by the display name, or by the username');
query(q{SELECT uds_alter_source('keycloak', options => '{"user_fields": {"nickname": {"template": "{$.lastName}{$.firstName}"}, "title": "$.attributes.locale[0]"}}')});
is(sync_as('auto'), 'success', 'a source can do it its own way');
is(person('KellerAnna', 'title'), 'en', 'with names the other way round, and other attributes');
query(q{SELECT uds_alter_source('keycloak', options => '{"user_fields": null}')});

# what several pages can do that one cannot
$mock->control({ directory => { seed => 5, departments => 130, users => 260 } });
create_source('large');
is(sync_as('auto', 'large'), 'success', 'many people and groups are read, over several pages') or diag(field('message'));
my $there = grep { $_->{status} ne 'left' } @{ $mock->call('GET', '/directory')->{people} };
is(query(q{SELECT count(*) FROM uds.records r JOIN uds.sources s ON s.id = r.source_id WHERE s.name = 'large' AND data_type = 'user'}),
	$there, 'everybody is there');
is(query(q{SELECT count(*) FROM uds.records r JOIN uds.sources s ON s.id = r.source_id WHERE s.name = 'large' AND data_type = 'department'}),
	130, 'and every group');
$rows = row_versions();
is(sync_as('auto', 'large'), 'success', 'again');
is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked, failed)}),
	'0 0 0 0 0 0 0 0', 'nothing changed, whatever the order of the answers');
is(row_versions(), $rows, 'and no row was written');
settings(shift => 2);
is(sync_as('auto', 'large'), 'partial', 'people go while the list is read, and others slip onto pages that were read: partial');
is(field(q{concat_ws(' ', complete, deleted, disabled)}), 'f 0 0', 'who slipped does not go missing');
query(q{SELECT uds_alter_source('large', options => '{"users_at_least": "200"}')});
is(sync_as('auto', 'large'), 'success', 'with a number of users that is enough, the server is not asked for it');
is(field(q{concat_ws(' ', complete, disabled)}), 't 2', 'and they do');
query(q{SELECT uds_drop_source('large', keep_data => false)});
$mock->control({ reset => $true });
settings(federated => ['marco.rossi']);
is(sync_as('auto'), 'success', 'the small company is back');
$before = dump_tables();

#
# Tokens, waiting, a break
#
faults({ path => '*/members', after => 2, times => 1, kind => 'expire_token' });
is(sync_as('full'), 'success', 'the token ends during the read: another one is fetched')
  or diag(field('message'));
cmp_ok(query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND status = 401"), '>=', 1, 'when the server refuses the old one');
is(query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND stream = 'auth'"), 1, 'one is enough');
is(field('complete'), 't', 'nothing is missing then');

faults({ path => '*/members', kind => 'throttle', seconds => 0, times => 1 });
is(sync_as('full'), 'success', 'a proxy that wants us to wait is waited for');
cmp_ok(field('throttled_ms'), '>=', 900, 'for as long as it says, and the task says so');
faults({ path => '*/users', kind => 'status', status => 502, times => 1 }, { path => '*/groups', kind => 'busy', times => 1 });
is(sync_as('full'), 'success', 'a proxy without a server, and an error of the server, pass');
is(dump_tables(), $before, 'with the same result');

edit(people => { 'anna.keller' => { title => 'never seen' }, 'li.na' => undef });
faults({ path => '*/members', after => 2, kind => 'drop' });
is(sync_as('full'), 'failed', 'a read that breaks off fails');
is(dump_tables(), $before, 'and changes nothing');
faults();

#
# Without groups
#
query(q{SELECT uds_drop_source('keycloak', keep_data => false)});
create_source('none', departments => 'none');
is(sync_as('auto', 'none'), 'success', 'without departments');
is(query('SELECT count(*) FROM uds.departments'), 0, 'there are none');
is(field('requests'), 4, 'a token, the count and two pages are all that is asked for');
query(q{SELECT uds_drop_source('none', keep_data => false)});

# a new source has no token kept
settings(token_lifetime => 1);
create_source('short', departments => 'none');
faults({ path => '*/users', kind => 'throttle', seconds => 0, times => 1 });
is(sync_as('full', 'short'), 'success', 'a token ends while we wait for something else');
cmp_ok(query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND stream = 'auth'"), '>=', 2, 'another one has been fetched');
settings(token_lifetime => 60);
query(q{SELECT uds_drop_source('short', keep_data => false)});

#
# What is wrong is said at once
#
foreach my $case (
	[ 'secret', { client_secret => 'wrong' }, qr/invalid_client.*client credentials/, 1 ],
	[ 'client', { client_id => 'wrong' }, qr/invalid_client/, 1 ],
	[ 'realm', { realm => 'other' }, qr/Realm does not exist/, 1 ])
{
	my ($name, $over, $like, $requests) = @$case;

	create_source($name, %$over);
	is(sync_as('auto', $name), 'failed', "a wrong $name fails");
	like(field('message'), $like, "a wrong $name: the message tells");
	is(field('requests'), $requests, "a wrong $name: it is tried once");
}
create_source('keycloak');
settings(rights => ['query-groups']);
is(sync_as('auto'), 'failed', 'without a role the read fails');
like(field('message'), qr/view-users and query-groups/, 'and says which ones it takes');

done_testing();
