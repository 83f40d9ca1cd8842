# Google Workspace: signed assertions, full reads with organizational units or
# groups, deleted people, and what the reasons of a refusal mean.
use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsService;
use UdsTest qw(:DEFAULT query);

my $json = JSON::PP->new->canonical;
my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $zhang = "\x{e5}\x{bc}\x{a0}\x{e4}\x{bc}\x{9f}";
my $mock = start_mock(tiny => 1);
my $node = new_node('autovacuum' => 'off');

my $key_file = PostgreSQL::Test::Utils::tempdir() . '/key.pem';
system_or_bail('openssl', 'genpkey', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048', '-out', $key_file);
my $private = slurp_file($key_file);
my ($public) = run_command([ 'openssl', 'pkey', '-in', $key_file, '-pubout' ]);
my %account = (
	type => 'service_account',
	client_email => 'sync@proj.iam.gserviceaccount.com',
	private_key_id => 'f00d',
	private_key => $private);

# how often the token endpoint, or any other path like this, was asked in the task
sub asked
{
	my ($like) = @_;

	return query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND request LIKE " . quote("%$like%"));
}

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
service($node, $mock, 'google',
	service_account => $json->encode(\%account),
	subject => 'admin@corp.test',
	base_url => $mock->base_url('google'),
	token_url => $mock->base_url('google') . '/token');
settings(public_key => $public);
create_source('google');

#
# A full read, by organizational units
#
edit(people => { 'marco.rossi' => { telephone => '020-1', alias => 'Mac' } });
settings(page_size => 5, archived => ['li.na'], gzip => $true);
is(sync_as('auto'), 'success', 'a full read succeeds, over several pages')
  or BAIL_OUT(field('message'));
is(field('complete'), 't', 'it is complete');
is(counts(), '17 17 0 0 0 0 12 0 0 0', 'it brings everybody, every unit, and one membership each');
is(person('Anna Keller', q{concat_ws('|', username, email, phone, title, avatar, enabled)}),
	'anna.keller@corp.test|anna.keller@corp.test|13800000002|Head of sales|https://img.test/bluebird/2/0|t',
	'a person has what Google says of it');
is(person('Mac', 'phone'), '+8613800000004', 'of several phones the mobile one is taken, without spaces and hyphens; of names the display name');
is(person('Sofia Lind', 'phone IS NULL'), 't', 'who has no phone has none');
is(person('Emma Dubois', 'enabled'), 'f', 'who is suspended is disabled');
is(person('Li Na', 'enabled'), 'f', 'so is who is archived');
is(query(q{SELECT count(*) FROM uds.records WHERE data_type = 'user' AND uid ~ '^[0-9]{21}$'}), 12, 'ids of 21 digits keep all of them');
is(members('Sales'), 'Anna Keller, Li Na, Mac, Sofia Lind', 'a unit has its people; nobody leads one');
is(parent('Platform Team'), 'Engineering', 'a unit is below another one');
is(parent('Bluebird Tea Company'), 'none', 'the root is a unit, too');
is(query(q{SELECT d.title FROM uds.users u JOIN uds.departments d ON d.id = u.main_department_id WHERE nickname = 'Grace Obi'}),
	'Platform Team', 'the unit is the main department');
unlike(query("SELECT string_agg(request || coalesce(body, ''), ' ') FROM uds.raw_log WHERE task_id = $task"),
	qr/PRIVATE KEY|ya29|eyJ|assertion=[^*]/, 'neither key nor assertion nor token is in the raw log');

#
# Again
#
my $before = dump_tables();
my $rows = row_versions();
is(sync_as('auto'), 'success', 'the next sync succeeds');
is(field('complete'), 't', 'it reads everything again: there are no changes to ask for');
is(asked('/token'), 0, 'the token is the same');
is(counts(), '17 0 0 0 0 0 0 0 17 0', 'everything is unchanged');
is(row_versions(), $rows, 'no row was written');
settings(gzip => $false, odd_types => $true, vary_case => $true);
is(sync_as('auto'), 'success', 'where lists of one are no lists, and paths of units are in another case');
is(dump_tables(), $before, 'it comes to the same');
settings(odd_types => $false, vary_case => $false);

#
# Changes and leavers
#
edit(
	people => {
		'anna.keller' => { title => 'Vice president', mobile => undef },
		'jonas.holm' => { uid => 'jonas.berg', status => 'disabled' },
		'emma.dubois' => { status => 'active', main_department => 2 },
		'tom.becker' => { status => 'left' },
		'sofia.lind' => undef,
		'new.one' => { name => 'New One', departments => [2], main_department => 2 }
	});
settings(archived => []);
is(sync_as('auto'), 'success', 'changes are read');
is(field(q{concat_ws(' ', created, enabled, disabled, deleted, failed)}), '1 2 2 1 0', 'the task counts who is new, back, disabled and gone');
is(person('Anna Keller', q{concat_ws('|', title, phone IS NULL)}), 'Vice president|t', 'changed values arrive, and that one is gone');
is(person('Jonas Holm', q{concat_ws('|', username, enabled)}), 'jonas.berg@corp.test|f', 'who is renamed and suspended is the same row');
is(person('Li Na', 'enabled'), 't', 'who is not archived any more is enabled');
is(person('Tom Becker', 'enabled'), '', 'who is listed as deleted is deleted');
is(person('Sofia Lind', 'enabled'), 'f', 'who is in no list any more is a leaver that went missing');
is(members('Sales'), 'Anna Keller, Emma Dubois, Li Na, Mac, New One', 'who moved is in the other unit');
edit(people => { 'tom.becker' => { status => 'active' } });
is(sync_as('auto'), 'success', 'somebody is restored');
is(person('Tom Becker', q{concat_ws('|', username, enabled)}), 'tom.becker@corp.test|t', 'and back');
edit(people => { 'wang.fang' => { status => 'left' } });
settings(purged => ['wang.fang']);
is(sync_as('auto'), 'success', 'somebody was deleted long ago');
is(person('Wang Fang', 'enabled'), 'f', 'and is a leaver as well');
edit(people => { 'wang.fang' => { status => 'active' } });
settings(purged => []);
is(sync_as('auto'), 'success', 'even that can be undone');

# units that get another path
edit(departments => { 3 => { name => 'Making' }, 4 => { parent => 2 } });
is(sync_as('auto'), 'success', 'a unit is renamed, another one moved');
is(members('Making'), "Wang Fang, $zhang", 'the people are in the one with the new name');
is(query(q{SELECT count(*) FROM uds.departments WHERE title = 'Engineering' AND enabled}), 0, 'which takes the place of the old one');
is(query(q{SELECT string_agg(p.title, ',') FROM uds.departments d JOIN uds.departments p ON p.id = d.parent_id WHERE d.title = 'Platform Team' AND d.enabled}),
	'Sales', 'the moved one is where it belongs');
is(members('Platform Team'), 'Grace Obi, Jonas Holm, Priya Nair', 'with its people');
query(q{SELECT uds_drop_source('google', keep_data => false)});
$mock->control({ reset => $true });
settings(public_key => $public, page_size => 5);
create_source('google', customer => 'C03az79cb');
is(sync_as('auto'), 'success', 'the company as at the start, by its customer ID');
$before = dump_tables();

#
# A token that ends, reasons of refusal, a break
#
faults({ path => '*/users', after => 1, times => 1, kind => 'expire_token' });
is(sync_as('auto'), 'success', 'the token ends during the read: another one is fetched');
is(asked('/token'), 1, 'one is enough');
is(field('complete'), 't', 'nothing is missing then');
foreach my $reason (qw(userRateLimitExceeded quotaExceeded rateLimitExceeded))
{
	settings(throttle => $reason);
	faults({ path => '*/orgunits', kind => 'throttle', seconds => 0, times => 1 });
	is(sync_as('auto'), 'success', "$reason is waited out");
	cmp_ok(field('throttled_ms'), '>=', 500, "$reason: the task says for how long");
}
settings(retry_after => '2');
faults({ path => '*/orgunits', kind => 'throttle', seconds => 0, times => 1 });
is(sync_as('auto'), 'success', 'so is one that says for how long');
cmp_ok(field('throttled_ms'), '>=', 1900, 'which is heeded');
foreach my $reason (qw(dailyLimitExceeded accessNotConfigured forbidden))
{
	faults({ path => '*/orgunits', kind => 'errcode', code => $reason });
	is(sync_as('auto'), 'failed', "$reason is not");
	is(asked('/orgunits'), 1, "$reason: it is tried once");
}
faults({ path => '*/users', kind => 'busy', times => 2 });
is(sync_as('auto'), 'success', 'an error of the server passes');
faults({ path => '*/users', after => 2, kind => 'errcode', code => 'invalid', times => 1 });
is(sync_as('auto'), 'success', 'a page token that is refused: the list is read again from its start');
is(asked('/users'), 6, 'once: deleted people, two pages, and three');
is(field(q{concat_ws(' ', fetched, complete)}), '17 t', 'nobody is missing');
faults({ path => '*/users', after => 2, kind => 'raw', text => "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" });
is(sync_as('auto'), 'failed', 'a page that says nothing is not the end of a list');
faults({ path => '*/users', kind => 'cursor_repeat' });
is(sync_as('auto'), 'failed', 'a page token that leads back fails');
edit(people => { 'anna.keller' => { title => 'never seen' }, 'li.na' => undef });
faults({ path => '*/users', after => 2, kind => 'drop' });
is(sync_as('auto'), 'failed', 'a read that breaks off fails');
is(dump_tables(), $before, 'and changes nothing');
faults();
query(q{SELECT uds_drop_source('google', keep_data => false)});

#
# Groups
#
$mock->control({ reset => $true });
settings(public_key => $public, page_size => 3, delegated => [ 'user', 'group' ]);
create_source('groups', departments => 'groups');
is(sync_as('auto', 'groups'), 'success', 'with groups as departments, without the scope for units') or diag(field('message'));
is(counts(), '17 17 0 0 0 0 15 0 0 0', 'it brings everybody, every group and every membership');
is(members('Sales'), 'Anna Keller*, Li Na, Marco Rossi, Sofia Lind', 'who owns a group leads it');
is(members('Platform Team'), "Grace Obi, Jonas Holm, Priya Nair*, $zhang", 'people can be in several');
is(members('Bluebird Tea Company'), 'Chen Jing*', 'neither the company as a whole nor somebody else is a member');
is(parent('Platform Team'), 'Engineering', 'a group within a group is below it');
is(parent('Bluebird Tea Company'), 'none', 'a group in no other is a root');
$rows = row_versions();
is(sync_as('auto', 'groups'), 'success', 'again');
is(counts(), '17 0 0 0 0 0 0 0 17 0', 'everything is unchanged');
is(row_versions(), $rows, 'no row was written');

$before = dump_tables();
edit(people => { 'grace.obi' => { departments => [ 3, { department => 4, leader => $true } ] }, 'li.na' => { departments => [5] }, 'sofia.lind' => { departments => [] } });
foreach my $way ([ hidden_groups => 'may not be seen' ], [ missing_groups => 'is gone' ])
{
	my ($setting, $name) = @$way;

	settings($setting => [ 2, 3 ]);
	is(sync_as('auto', 'groups'), 'partial', "a group that $name: partial");
	is(field('complete'), 'f', "a group that $name: not complete");
	is(query("SELECT count(*) FROM uds.task_errors WHERE task_id = $task AND message LIKE '%\"members\"%'"), 2, "a group that $name: each has an error");
	is(members('Sales'), 'Anna Keller*, Li Na, Marco Rossi, Sofia Lind', "a group that $name keeps its members");
	is(parent('Platform Team'), 'Engineering', "a group that $name keeps those below it");
	settings($setting => []);
}
is(sync_as('auto', 'groups'), 'success', 'then they can be seen again');
is(members('Sales'), 'Anna Keller*, Marco Rossi', 'and who left them is gone');
is(members('Platform Team'), "Grace Obi*, Jonas Holm, Priya Nair*, $zhang", 'and who leads now does');
edit(departments => { 4 => { parent => 2 } });
is(sync_as('auto', 'groups'), 'success', 'a group is taken out of one and put into another');
is(parent('Platform Team'), 'Sales', 'it is below that one');
query(q{SELECT uds_alter_source('groups', options => '{"user_fields": {"title": "$.customSchemas.HR.badge"}}')});
is(sync_as('auto', 'groups'), 'success', 'fields of custom schemas are read, too');
like(person('Jonas Holm', 'title'), qr/^B\d{4}$/, 'for those who ask for them');
query(q{SELECT uds_drop_source('groups', keep_data => false)});

#
# What is wrong is said at once
#
foreach my $case (
	[ 'account', { service_account => $json->encode({ %account, client_email => 'other@proj.iam.gserviceaccount.com' }) }, qr/invalid_grant.*account not found/ ],
	[ 'subject', { subject => 'nobody@corp.test' }, qr/invalid_grant.*Invalid email/ ],
	[ 'delegation', {}, qr/unauthorized_client.*domain-wide delegation/is ])
{
	my ($name, $over, $like) = @$case;

	create_source($name, %$over);
	is(sync_as('auto', $name), 'failed', "a wrong $name fails");
	like(field('message'), $like, "a wrong $name: the message tells");
	is(field('requests'), 1, "a wrong $name: it is tried once");
}
settings(delegated => [ 'user', 'orgunit' ], clock_skew => 7200);
create_source('google');
is(sync_as('auto'), 'failed', 'a wrong clock fails');
like(field('message'), qr/reasonable timeframe.*clock of this server/s, 'and the message says what to check');
settings(clock_skew => 0);
query(q{SELECT uds_alter_source('google', options => '{"subject": "anna.keller@corp.test"}')});
is(sync_as('auto'), 'failed', 'a subject who is no administrator fails');
like(field('message'), qr/Not Authorized.*must be an administrator/s, 'and the message says so');
is(query(q{SELECT count(*) FROM uds.sources WHERE options::text ~ 'PRIVATE KEY'}), 0, 'the key is not shown with the options');
isnt($node->psql('postgres', q{SELECT uds_create_source('x', 'google', '{"service_account": "{}", "subject": "a@b.test"}')}),
	0, 'a key file without its members is refused');

done_testing();
