# SCIM 2.0: pages by number and by cursor, what real servers make of them,
# groups within groups, changes since a time, three ways to log in.
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
my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $base = $mock->base_url('scim');
my %by_token = (base_url => "$base/v2", token => 't0ken', page_size => 5);
my $zhang = "\x{e5}\x{bc}\x{a0}\x{e4}\x{bc}\x{9f}";

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
service($node, $mock, 'scim');
create_source('scim', %by_token);
query('ALTER TABLE uds.users ADD external_id text, ADD manager_id text');

#
# A full read
#
edit(people => { 'marco.rossi' => { managers => ['anna.keller'] } });
is(sync_as('auto'), 'success', 'a full read succeeds, over several pages') or BAIL_OUT(field('message'));
is(field('complete'), 't', 'it is complete');
is(counts(), '17 17 0 0 0 0 15 0 0 0', 'it brings everybody, every group and every membership');
is(person('Anna Keller', q{concat_ws('|', username, email, phone, title, enabled, external_id)}),
	'anna.keller@corp.test|anna.keller@bluebird.test|13800000002|Head of sales|t|hr-anna.keller', 'a person has what SCIM says of it');
is(person('Marco Rossi', q{concat_ws('|', phone, manager_id)}), '+8613800000004|usr-anna.keller', 'phones come without tel:, spaces and hyphens; managers as ids');
is(person('Emma Dubois', 'enabled'), 'f', 'who is not active is disabled');
is(members('Sales'), 'Anna Keller, Li Na, Marco Rossi, Sofia Lind', 'a group has its members');
is(parent('Platform Team'), 'Engineering', 'a group within a group is below it');
is(parent('Bluebird Tea Company'), 'none', 'a group in no other is a root');
is(query(q{SELECT count(*) FROM uds.users WHERE main_department_id IS NULL}), 0, 'everybody has a main department');
is(query(q{SELECT count(*) FROM uds.raw_log WHERE concat_ws(' ', request, body) LIKE '%t0ken%'}), 0, 'the token is not in the raw log');

#
# What servers make of the standard: it comes to the same
#
my $before = dump_tables();
my $rows = query('SELECT count(*), sum(u.xmin::text::bigint) FROM uds.users u');

# as_ever($name, %settings): reads all with that, and finds nothing new
sub as_ever
{
	my ($name, %changed) = @_;
	my %normal = (cursors => undef, wraps => $false, absent_resources => $false, totals => 'number', list_members => $true,
		member_types => $true, content_type => 'application/scim+json', page_size => 100);

	settings(%changed);
	is(sync_as('full'), 'success', "$name: it is read") or diag(field('message'));
	is(field('complete'), 't', "$name: as a whole");
	is(field(q{concat_ws(' ', fetched, created, updated, enabled, disabled, deleted, linked, unlinked)}), '17 0 0 0 0 0 0 0', "$name: and nothing has changed")
	  or diag(query('SELECT * FROM uds.changes WHERE task_id = ' . field('id')));
	settings(map { $_ => $normal{$_} } keys %changed);
	return;
}

as_ever('the same again');
is(query('SELECT count(*), sum(u.xmin::text::bigint) FROM uds.users u'), $rows, 'no row of a user was written');
as_ever('cursors that nobody asked for', cursors => 'always');
as_ever('cursors where numbers are asked for', cursors => 'asked');
as_ever('pages that begin again after the last', wraps => $true);
as_ever('numbers as texts', totals => 'text');
as_ever('no totals', totals => undef);
as_ever('no totals, and no list where it is empty', totals => undef, absent_resources => $true);
as_ever('pages shorter than asked for', page_size => 3);
as_ever('groups that are listed without members', list_members => $false);
as_ever('members without types', member_types => $false);
as_ever('another content type', content_type => 'text/html');
is(dump_tables(), $before, 'the tables are as ever');

settings(cursors => 'always', expired_cursors => 1);
is(sync_as('full'), 'success', 'a cursor that has expired: the listing begins again');
is(field(q{concat_ws(' ', fetched, complete)}), '17 t', 'and nobody is missed');
settings(cursors => undef);
faults({ path => '/scim/v2/Users', kind => 'cursor_repeat' });
settings(cursors => 'always');
is(sync_as('full'), 'failed', 'a cursor that leads to where it stands ends the read');
settings(cursors => undef);
faults();
settings(extra_total => 2);
is(sync_as('full'), 'partial', 'a server that counts more than it shows');
is(field('complete'), 'f', 'has not shown everybody');
settings(extra_total => 0);

# a server that does not read the query
settings(ignores_paging => $true);
$mock->control({ directory => { seed => 3, departments => 4, users => 60 } });
is(sync_as('full'), 'failed', 'a server that ignores the numbers of pages is found out');
like(field('message'), qr/page repeats/, 'as the message says');
settings(ignores_paging => $false);
$mock->control({ directory => 'tiny' });
edit(people => { 'marco.rossi' => { managers => ['anna.keller'] } });
is(sync_as('full'), 'success', 'back to the company');

#
# Changes
#
is(sync_as('auto'), 'success', 'the next sync asks for changes');
is(field('complete IS NULL OR NOT complete'), 't', 'which is no complete read');
is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked)}), '0 0 0 0 0 0 0', 'there are none');
edit(
	people => {
		'anna.keller' => { title => '', mobile => undef },
		'li.na' => { departments => [5] },
		'jonas.holm' => { uid => 'jonas.berg', status => 'disabled' },
		'new.one' => { name => 'New One', departments => [2] }
	},
	departments => { 4 => { parent => 1 }, 5 => { name => 'Finance' } });
is(sync_as('auto'), 'success', 'changes are asked for') or diag(field('message'));
is(field('complete IS NULL OR NOT complete'), 't', 'and nothing else');
is(person('Anna Keller', q{concat_ws('|', coalesce(title, 'none'), coalesce(phone, 'none'))}), 'none|none', 'values that are not there any more go');
is(person('Jonas Holm', q{concat_ws('|', username, enabled)}), 'jonas.berg@corp.test|f', 'who is renamed and deactivated is the same row');
is(members('Sales'), 'Anna Keller, Marco Rossi, New One, Sofia Lind', 'a group has its new members');
is(members('Finance'), 'Emma Dubois, Li Na, Marco Rossi, Tom Becker', 'so has the one that somebody moved to, with its new name');
is(members('Engineering'), "Grace Obi, Wang Fang, $zhang", 'the members of others are left alone');
is(parent('Platform Team'), 'Bluebird Tea Company', 'a group that moved is below another one');
$before = dump_tables();
is(sync_as('full'), 'success', 'a full read after that succeeds');
is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked)}), '0 0 0 0 0 0 0', 'and finds nothing that the changes had not brought')
  or diag(query('SELECT * FROM uds.changes WHERE task_id = ' . field('id')));
is(dump_tables(), $before, 'the tables are as the changes left them');

edit(people => { 'sofia.lind' => undef });
is(sync_as('auto'), 'success', 'a deletion');
is(person('Sofia Lind', 'enabled'), 't', 'is no change that is told');
is(sync_as('full'), 'success', 'a full read');
is(person('Sofia Lind', 'enabled'), 'f', 'misses who is deleted, and disables them');

settings(filters => $false);
edit(people => { 'anna.keller' => { title => 'Chair' } });
is(sync_as('auto'), 'success', 'a server that knows no such filter');
is(field('complete'), 't', 'is read as a whole');
is(person('Anna Keller', 'title'), 'Chair', 'and nothing is missed');
query(q{SELECT uds_alter_source('scim', options => '{"incremental": "no"}')});
is(sync_as('auto'), 'success', 'told not to ask for changes');
is(query('SELECT count(*) FROM uds.raw_log WHERE request LIKE $$%filter%$$ AND task_id = ' . field('id')), 0, 'it does not');
settings(filters => $true);

#
# Throttling, what is not allowed, a break, no groups
#
faults({ path => '/scim/v2/Groups', kind => 'throttle', seconds => 0, times => 1 });
is(sync_as('full'), 'success', 'being told to wait is waited out');
cmp_ok(field('throttled_ms'), '>=', 900, 'for as long as Retry-After says, and the task says so');
faults({ path => '/scim/v2/Groups', kind => 'busy', times => 1 });
is(sync_as('full'), 'success', 'a server error that passes is tried again');

$before = dump_tables();
edit(people => { 'new.one' => { title => 'never seen' }, 'li.na' => undef });
foreach my $kind (qw(drop truncate invalid_json))
{
	faults({ path => '/scim/v2/Users', after => 1, kind => $kind });
	is(sync_as('full'), 'failed', "a read that breaks off ($kind) fails");
}
is(dump_tables(), $before, 'and changes nothing');
settings(list_members => $false);
faults({ path => '/scim/v2/Groups/grp-2', kind => 'status', status => 404 });
is(sync_as('full'), 'partial', 'a group that went away meanwhile makes the read partial');
is(field('complete'), 'f', 'and not complete');
is(members('Sales'), 'Anna Keller, Marco Rossi, New One', 'its members stay');
is(person('Li Na', 'enabled'), 't', 'so nobody goes missing by it');
faults();
settings(list_members => $true);
is(sync_as('full'), 'success', 'then all is read again');
is(person('Li Na', 'enabled'), 'f', 'and who is missing is disabled');
query(q{SELECT uds_drop_source('scim', keep_data => false)});

settings(groups => $false);
create_source('plain', %by_token);
is(sync_as('auto', 'plain'), 'success', 'a server without groups');
is(query('SELECT count(*) FROM uds.departments'), 0, 'gives none');
query(q{SELECT uds_drop_source('plain', keep_data => false)});
create_source('units', %by_token, departments => 'department');
is(sync_as('auto', 'units'), 'success', 'with the departments written at users');
is(members('Engineering'), "Wang Fang, $zhang", 'those for whom it is written are in them');
query(q{SELECT uds_drop_source('units', keep_data => false)});
settings(groups => $true);

#
# Other ways to log in
#
create_source('basic', base_url => "$base/v2", username => 'reader', password => 'pa:ss w0rd/%');
is(sync_as('auto', 'basic'), 'success', 'name and password') or diag(field('message'));
query(q{SELECT uds_drop_source('basic', keep_data => false)});

my %by_client = (base_url => "$base/v2", client_id => 'cl&ient', client_secret => 's3cr+et%', token_url => "$base/oauth/token", scope => 'read');

create_source('client', %by_client, page_size => 5);
faults({ path => '/scim/v2/Users', after => 1, times => 1, kind => 'expire_token' });
is(sync_as('auto', 'client'), 'success', 'client credentials, whose token may end meanwhile') or diag(field('message'));
is(field('complete'), 't', 'and nothing is missing then');
is(query(q{SELECT count(*) FROM uds.raw_log WHERE concat_ws(' ', request, body) ~ 's3cr|oauth-'}), 0, 'neither secret nor token is in the raw log');
faults();
query(q{SELECT uds_drop_source('client', keep_data => false)});

my %wrong = (
	token => [ { %by_token, token => 'wrong' }, qr/token/ ],
	password => [ { base_url => "$base/v2", username => 'reader', password => 'wrong' }, qr/password/ ],
	client => [ { %by_client, client_secret => 'wrong' }, qr/client_secret/ ],
	address => [ { %by_token, base_url => $base }, qr/base_url/ ]);

foreach my $what (sort keys %wrong)
{
	my ($options, $like) = @{ $wrong{$what} };

	create_source("wrong_$what", %$options);
	is(sync_as('auto', "wrong_$what"), 'failed', "a wrong $what fails");
	like(field('message'), $like, "a wrong $what: the message says where to look");
	is(field('requests'), 1, "a wrong $what: it is tried once");
}

create_source('nothing', base_url => "$base/v2");
is(sync_as('auto', 'nothing'), 'failed', 'without credentials it fails');
like(field('message'), qr/nothing to authenticate with/, 'and says why');
is(field('requests'), 0, 'before anything is asked');

$node->stop;
done_testing();
