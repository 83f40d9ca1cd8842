# Microsoft Entra ID: full reads, changes by delta links, groups within groups,
# members and owners; what Graph does that others do not.
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

# requests of the mock for paths like this, since the counters were cleared
sub seen
{
	my ($like) = @_;
	my $by_path = $mock->get_control->{by_path};
	my $sum = 0;

	$sum += $by_path->{$_} foreach grep { $_ =~ $like } keys %$by_path;
	return $sum;
}

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
service($node, $mock, 'entra',
	tenant_id => '3a1e6c1c-5a0b-4a51-9f0e-2b8e6a7d1f00',
	client_id => '11111111-2222-3333-4444-555555555555',
	client_secret => 's3~cr.et-_&=+%x',
	base_url => $mock->base_url('entra/graph'),
	login_url => $mock->base_url('entra/login'));
create_source('entra');

#
# A full read
#
settings(page_size => 5, empty_pages => JSON::PP::true, duplicates => JSON::PP::true, chunked => JSON::PP::true);
is(sync_as('auto'), 'success', 'a full read succeeds, over several pages, one of them empty')
  or BAIL_OUT(field('message'));
is(field('complete'), 't', 'it is complete');
is(counts(), '17 17 0 0 0 0 15 0 0 0', 'it brings everybody, every group and every membership');
is(person('Anna Keller', q{concat_ws('|', username, email, phone, title, enabled)}),
	'anna.keller@corp.test|anna.keller@bluebird.test|13800000002|Head of sales|t',
	'a person has what Graph says of it');
is(person('Emma Dubois', 'enabled'), 'f', 'an account that is not enabled is disabled');
is(person('Marco Rossi', 'phone'), '+8613800000004', 'phones come without spaces and hyphens');
is(query(q{SELECT count(*) FROM uds.users WHERE nickname = 'of yesterday'}),
	0, 'of an object that comes twice, the last entry counts');
is(members('Sales'), 'Anna Keller*, Li Na, Marco Rossi, Sofia Lind', 'a group has its members, and its owner leads it');
is(members('Bluebird Tea Company'), 'Chen Jing*', 'what is no user is no member');
is(parent('Platform Team'), 'Engineering', 'a group within a group is below it');
is(parent('Bluebird Tea Company'), 'none', 'a group in no other is a root');
is(query(q{SELECT count(*) FROM uds.users WHERE main_department_id IS NULL}),
	0, 'everybody has a main department');
unlike(query("SELECT string_agg(request || coalesce(body, ''), ' ') FROM uds.raw_log WHERE task_id = $task"),
	qr/s3~cr|s3%7E|eyJ0/, 'neither secret nor token is in the raw log');

#
# Nothing changed: by the delta links, and by another full read
#
my $before = dump_tables();
my $rows = query('SELECT count(*), sum(u.xmin::text::bigint) FROM uds.users u');

$mock->control({ reset => JSON::PP::false });
is(sync_as('auto'), 'success', 'the next sync asks for changes');
is(field('complete IS NULL OR NOT complete'), 't', 'which is no complete read');
is(field('requests'), 2, 'two requests tell that nothing changed');
is(counts(), '0 0 0 0 0 0 0 0 0 0', 'and nothing did');
is(sync_as('full'), 'success', 'a full read again succeeds');
is(counts(), '17 0 0 0 0 0 0 0 17 0', 'and finds everything unchanged');
is(query('SELECT count(*), sum(u.xmin::text::bigint) FROM uds.users u'), $rows, 'no row of a user was written');
is(dump_tables(), $before, 'all is as it was');

#
# Changes
#
edit(
	people => {
		'anna.keller' => { title => 'Vice president', mobile => undef },
		'li.na' => { departments => [5] },
		'tom.becker' => { status => 'left' },
		'sofia.lind' => undef,
		'jonas.holm' => { uid => 'jonas.berg', status => 'disabled' },
		'new.one' => { name => 'New One', main_department => 2, departments => [ 2, { department => 4, leader => JSON::PP::true } ] }
	},
	departments => {
		4 => { parent => 1, leaders => [ 'priya.nair', 'grace.obi' ] },
		7 => { name => 'Night shift', parent => 2 }
	});
is(sync_as('auto'), 'success', 'changes are read by the delta links')
  or diag(field('message'));
is(person('Anna Keller', 'title'), 'Vice president', 'a changed value arrives');
is(person('Anna Keller', 'phone IS NULL'), 't', 'a value that is null now is cleared');
is(person('Anna Keller', 'email'), 'anna.keller@bluebird.test', 'what did not change stays');
is(person('Jonas Holm', q{concat_ws('|', username, enabled)}),
	'jonas.berg@corp.test|f', 'who is renamed and disabled is the same row');
is(person('Tom Becker', 'enabled'), '', 'who is deleted, and can be restored, is gone');
is(person('Sofia Lind', 'enabled'), '', 'who is deleted for good is gone');
is(members('Sales'), 'Anna Keller*, Marco Rossi, New One', 'a changed group has its new members');
is(members('Finance & People'), 'Emma Dubois, Li Na, Marco Rossi', 'so has the one that somebody moved to');
is(members('Engineering'), 'Grace Obi, Wang Fang, ' . "\x{e5}\x{bc}\x{a0}\x{e4}\x{bc}\x{9f}*", 'the members of others are left alone');
is(members('Platform Team'), 'Grace Obi*, Jonas Holm, New One, Priya Nair*, ' . "\x{e5}\x{bc}\x{a0}\x{e4}\x{bc}\x{9f}", 'owners are read again, too');
is(parent('Platform Team'), 'Bluebird Tea Company', 'a group that moved is below another one');
is(parent('Night shift'), 'Sales', 'a new group is where it belongs');
$before = dump_tables();
is(sync_as('full'), 'success', 'a full read after that succeeds');
is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked)}),
	'0 0 0 0 0 0 0', 'and finds nothing that the changes had not brought')
  or diag(query("SELECT * FROM uds.changes WHERE task_id = $task"));
is(dump_tables(), $before, 'the tables are as the changes left them');

edit(people => { 'tom.becker' => { status => 'active' }, 'priya.nair' => { mobile => undef } },
	departments => { 7 => undef });
is(sync_as('incremental'), 'success', 'more changes are read');
is(person('Tom Becker', q{concat_ws('|', username, enabled)}), 'tom.becker@corp.test|t', 'who is restored is back');
is(members('Finance & People'), 'Emma Dubois, Li Na, Marco Rossi, Tom Becker*', 'and in the group again');
is(query(q{SELECT count(*) FROM uds.departments WHERE title = 'Night shift'}), 0, 'a deleted group is gone');

#
# Absent is not null: what was never set is left out, and left alone
#
query(q{UPDATE uds.users SET phone = '0' WHERE nickname = 'New One'});
edit(people => { 'new.one' => { title => 'Trainee' } });
is(sync_as('auto'), 'success', 'somebody without a phone changes');
is(person('New One', q{concat_ws('|', title, phone)}), 'Trainee|0', 'a property that is absent leaves the column alone');

#
# Delta links that are not good any more
#
foreach my $state ('gone', 'expired')
{
	edit(people => { 'new.one' => { title => "Trainee, $state" } });
	settings(delta_tokens => $state);
	is(sync_as('auto'), 'success', "delta link $state: a full read follows");
	is(field('complete'), 't', "delta link $state: it is complete");
	is(person('New One', 'title'), "Trainee, $state", "delta link $state: it brings what changed");
	settings(delta_tokens => 'valid');
	is(sync_as('auto'), 'success', "delta link $state: the next sync succeeds");
	is(field('requests'), 2, "delta link $state: with new links");
}

#
# A token that ends, throttling, what is not allowed, a break
#
$mock->control({ faults => [ { path => '*/members', after => 2, times => 1, kind => 'expire_token' } ] });
is(sync_as('full'), 'success', 'the token ends during the read: another one is fetched');
is(query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND stream = 'auth'"), 1, 'one is enough');
is(field('complete'), 't', 'nothing is missing then');

$mock->control({ faults => [ { path => '*/owners', kind => 'throttle', seconds => 0, times => 1 } ] });
is(sync_as('full'), 'success', 'being told to wait is waited out');
cmp_ok(field('throttled_ms'), '>=', 900, 'for as long as Retry-After says, and the task says so');
settings(retry_after => undef, inner_error => 'innererror', gzip => JSON::PP::true);
$mock->control({ faults => [ { path => '*/owners', kind => 'throttle', seconds => 0, times => 1 } ] });
is(sync_as('full'), 'success', 'so is 429 without Retry-After');
cmp_ok(field('throttled_ms'), '>', 0, 'which is seen in the task, too');

$before = dump_tables();
settings(hidden_groups => [2]);
is(sync_as('full'), 'partial', 'a group whose members may not be seen makes the read partial');
is(field('complete'), 'f', 'and not complete');
is(query("SELECT count(*) FROM uds.task_errors WHERE task_id = $task AND message LIKE '%Insufficient privileges%'"),
	2, 'the errors say so, of members and owners');
is(dump_tables(), $before, 'its members stay, and its leader');
settings(hidden_groups => []);

edit(people => { 'new.one' => { title => 'never seen' }, 'li.na' => undef });
$mock->control({ faults => [ { path => '*/members', after => 2, kind => 'drop' } ] });
is(sync_as('full'), 'failed', 'a read that breaks off fails');
is(dump_tables(), $before, 'and changes nothing');
$mock->control({ faults => [] });

#
# Links lead where they came from
#
settings(link_base => 'http://localhost:' . $mock->port . '/entra');
is(sync_as('full'), 'failed', 'a next link to another host is not followed');
like(field('message'), qr/link/, 'the message says so');
is(query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND request LIKE '%localhost%'"),
	0, 'nothing was sent there');
settings(link_base => undef);
$mock->control({ faults => [ { path => '*/users/delta', kind => 'cursor_circle', pages => 3 } ] });
is(sync_as('full'), 'failed', 'links that lead in a circle end the read');
$mock->control({ faults => [] });

#
# What the other values of the option make of the same directory
#
settings(page_size => 100, empty_pages => JSON::PP::false, duplicates => JSON::PP::false);
query(q{SELECT uds_drop_source('entra', keep_data => false)});
create_source('none', departments => 'none');
is(sync_as('auto', 'none'), 'success', 'without departments');
is(query('SELECT count(*) FROM uds.departments'), 0, 'there are none');
is(field('requests'), 2, 'a token and one page are all that is asked for');
query(q{SELECT uds_drop_source('none', keep_data => false)});

create_source('units', departments => 'department');
is(sync_as('auto', 'units'), 'success', 'with the departments written at users');
is(parent('Sales'), 'none', 'they are departments without a tree');
is(members('Engineering'), 'Wang Fang, ' . "\x{e5}\x{bc}\x{a0}\x{e4}\x{bc}\x{9f}", 'with those for whom it is written');
is(query(q{SELECT count(*) FROM uds.users WHERE main_department_id IS NULL}), 0, 'and it is their main one');
edit(people => { 'wang.fang' => { main_department => 2 } }, departments => { 3 => { name => 'Building' } });
is(sync_as('auto', 'units'), 'success', 'changes of these are read by the delta link');
is(field('requests'), 1, 'by one request');
is(members('Sales'), 'Anna Keller, Marco Rossi, New One, Wang Fang', 'who moved is in the other one')
  or diag(query('SELECT * FROM uds.department_tree'));
is(members('Building'), "\x{e5}\x{bc}\x{a0}\x{e4}\x{bc}\x{9f}", 'a new name makes a new department');
query(q{SELECT uds_drop_source('units', keep_data => false)});

#
# What is wrong is said at once
#
foreach my $case (
	[ 'secret', { client_secret => 'wrong' }, qr/AADSTS7000215/ ],
	[ 'client', { client_id => 'wrong' }, qr/AADSTS700016/ ],
	[ 'tenant', { tenant_id => 'common' }, qr/AADSTS90002/ ])
{
	my ($name, $over, $like) = @$case;

	create_source($name, %$over);
	is(sync_as('auto', $name), 'failed', "a wrong $name fails");
	like(field('message'), $like, "a wrong $name: the message has the number to look for");
	is(field('requests'), 1, "a wrong $name: it is tried once");
}
create_source('entra');
settings(permissions => ['User.Read.All']);
is(sync_as('auto'), 'failed', 'without a permission the read fails');
like(field('message'), qr/GroupMember\.Read\.All/, 'and says which ones it takes');

done_testing();
