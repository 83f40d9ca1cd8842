# Feishu and Lark: the whole company, a part of it, one too large to be listed
# at once; page tokens, permissions, leavers, limits.
use strict;
use warnings;

use Digest::MD5 qw(md5_hex);
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsService;
use UdsTest qw(:DEFAULT query);

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $mock = start_mock(tiny => 1);
my $node = new_node('autovacuum' => 'off');
my $app = 'cli_a1b2c3d4e5f60718';
my $secret = 'S3cr3t/+&=x';
my $zhang = "\x{e5}\x{bc}\x{a0}\x{e4}\x{bc}\x{9f}";
my $before;

# requests of the task for paths like this
sub asked
{
	my ($like) = @_;

	return query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND request LIKE " . quote($like));
}

# title of somebody's main department
sub main_of
{
	my ($nickname) = @_;

	return query(q{SELECT d.title FROM uds.departments d JOIN uds.users u ON d.id = u.main_department_id WHERE u.nickname = }
		  . quote($nickname));
}

sub tree
{
	return query(q{SELECT string_agg(array_to_string(path, ' > '), ', ' ORDER BY path COLLATE "C") FROM uds.department_tree});
}

# a full read that must end well and find everything as it was
sub unchanged
{
	my ($what) = @_;

	is(sync_as('full'), 'success', "$what: the read succeeds") or diag(field('message'));
	is(field(q{concat_ws(' ', complete, created, updated, enabled, disabled, deleted, linked, unlinked, failed)}),
		't 0 0 0 0 0 0 0 0', "$what: it is complete, and all is as it was")
	  or diag(query("SELECT * FROM uds.changes WHERE task_id = $task"));
	return;
}

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
service($node, $mock, 'feishu',
	app_id => $app,
	app_secret => $secret,
	base_url => $mock->base_url('feishu'));
create_source('feishu');

#
# A full read of the whole company
#
settings(page_size => 2, end_token => 'stale', leave_out_items => $true, token_length => 4096);
is(sync_as('auto'), 'success', 'a full read succeeds, over short pages whose tokens must be encoded')
  or BAIL_OUT(field('message'));
is(field('complete'), 't', 'it is complete');
is(counts(), '16 16 0 0 0 0 14 0 0 0', 'it brings everybody, every department and every membership');
is(person('Anna Keller', q{concat_ws('|', username, email, phone, avatar, title, enabled)}),
	'anna.keller|anna.keller@bluebird.test|+8613800000002|https://img.test/bluebird/2/0?240|Head of sales|t',
	'a person has what Feishu says of it');
is(person('Marco Rossi', 'phone'), '+8613800000004', 'phones come without spaces and hyphens');
is(person('Emma Dubois', 'enabled'), 'f', 'who is frozen is disabled');
is(person('Wang Fang', 'enabled'), 't', 'who has not yet accepted is not');
is(tree(), 'Engineering, Engineering > Platform Team, Finance & People, Sales', 'the company itself is no department');
is(person('Chen Jing', 'main_department_id IS NULL'), 't', 'who is directly in the company is in no department');
is(members('Sales'), 'Anna Keller*, Li Na, Marco Rossi, Sofia Lind', 'a department has its members, and its leader');
is(members('Engineering'), "Grace Obi, Wang Fang, $zhang*", 'also those whose main department is another one');
is(main_of('Grace Obi') . ', ' . main_of('Marco Rossi'), 'Platform Team, Sales', 'the main department is the primary one');
is(query('SELECT string_agg(title, \', \' ORDER BY sort) FROM uds.departments'),
	'Finance & People, Platform Team, Engineering, Sales', 'the order is that of the service, though it comes as text');
is(asked('%/scopes?%') + asked('%/departments/od-%'), 0, 'one list has all departments');

my @requests = grep { $_->{path} =~ m{/contact/} } @{ $mock->get_control(last => 1000)->{last} };
is(scalar(grep { join(' ', sort @{ $_->{query_keys} }) !~ /department_id_type.*user_id_type/ || $_->{body} ne '' } @requests),
	0, 'every request says which ids it means, and none has a body');
cmp_ok(scalar @requests, '>', 10, 'of which there were some');
unlike(query("SELECT string_agg(request || coalesce(body, ''), ' ') FROM uds.raw_log WHERE task_id = $task"),
	qr/S3cr3t|t-[0-9a-f]{20}/, 'neither secret nor token is in the raw log');
is(query(q{SELECT string_agg(DISTINCT ok::text, ',') FROM uds_test_source('feishu')}), 'true', 'each step of trying it out succeeds');

#
# Nothing changed
#
my $rows = query('SELECT count(*), sum(u.xmin::text::bigint) FROM uds.users u');

$before = dump_tables();
is(sync_as('full'), 'success', 'the same again succeeds');
is(counts(), '16 0 0 0 0 0 0 0 16 0', 'and finds everything unchanged');
is(query('SELECT count(*), sum(u.xmin::text::bigint) FROM uds.users u'), $rows, 'no row of a user was written');
is(dump_tables(), $before, 'all is as it was');
is(sync_as('incremental'), 'success', 'asked for changes, which the service cannot tell,');
is(field('complete'), 't', 'it reads everything');
settings(page_size => 50, end_token => 'absent', company_listed => $false);
unchanged('whole pages, no token at the end, no 0 among departments');
settings(primary => $false);
unchanged('without a word on the primary department');
edit(people => { 'marco.rossi' => { main_department => 5 } });
is(sync_as('full'), 'success', 'the rank of a department changes');
is(main_of('Marco Rossi'), 'Finance & People', 'the highest one is the main department then');
edit(people => { 'marco.rossi' => { main_department => 2 } });
sync_as('full');

#
# Permissions for fields: what an app does not get, it leaves alone
#
settings(withheld => [ map { "contact:$_:readonly" }
	  qw(user.base user.email user.phone user.gender user.department user.employee department.base) ]);
unchanged('without permissions for fields');
is(dump_tables(), $before, 'neither names nor memberships are lost by that');
settings(withheld => ['contact:user.employee_id:readonly']);
is(sync_as('full'), 'failed', 'without the ids of users the read fails');
settings(withheld => ['contact:contact.base:readonly']);
is(sync_as('full'), 'failed', 'without the permission to read contacts it fails');
like(field('message'), qr/99991672.*contact:contact\.base:readonly/, 'the message names the permission');
is(dump_tables(), $before, 'nothing was changed');
settings(withheld => ['contact:department.organize:readonly']);
is(sync_as('full'), 'success', 'without the permission for the structure of departments the read succeeds');
is(tree(), 'Engineering, Engineering > Platform Team, Finance & People, Sales', 'the tree stays as it was');

#
# Changes, leavers, leaders
#
settings(withheld => [], primary => $true, end_token => 'empty', company_listed => $true);
query(q{UPDATE uds.users SET phone = '0' WHERE nickname = 'Grace Obi'});
edit(
	people => {
		'anna.keller' => { title => 'Vice president', mobile => '' },
		'grace.obi' => { title => 'Architect', mobile => undef, main_department => 3,
			attributes => [ { name => 'Hobby', text => 'chess' } ] },
		'li.na' => { departments => [5] },
		'tom.becker' => { status => 'left' },
		'sofia.lind' => undef,
		'jonas.holm' => { status => 'disabled' },
		'emma.dubois' => { status => 'active' },
		'new.one' => { name => 'New One', departments => [ 2, 4 ] }
	},
	departments => {
		2 => { leaders => [] },
		4 => { parent => 1, leaders => [ 'priya.nair', 'grace.obi' ] },
		7 => { name => 'Night shift', parent => 2, leaders => ['new.one'] }
	});
query('ALTER TABLE uds.users ADD COLUMN badge text');
query(q{SELECT uds_alter_source('feishu', options => '{"user_fields": {"badge": "$.custom_attrs[*] ? (@.id == \"C-1\").value.text"}}')});
is(sync_as('full'), 'success', 'changes are read') or diag(field('message'));
is(person('Anna Keller', q{concat_ws('|', title, coalesce(phone, 'none'))}), 'Vice president|none', 'a value that is empty now is cleared');
is(person('Grace Obi', q{concat_ws('|', title, phone)}), 'Architect|0', 'one that is absent leaves the column alone');
is(main_of('Grace Obi'), 'Engineering', 'the main department follows');
is(person('Jonas Holm', 'enabled') . person('Emma Dubois', 'enabled'), 'ft', 'who is frozen is disabled, who no longer is enabled');
is(query(q{SELECT string_agg(username || ' ' || enabled, ', ' ORDER BY username) FROM uds.users WHERE username ~ 'tom|sofia'}),
	'sofia.lind false, tom.becker false', 'who is in no list any more has left');
is(field('disabled'), 3, 'leavers and the frozen are counted');
is(members('Finance & People'), 'Emma Dubois, Li Na, Marco Rossi', 'a department has who moved there, and not who left');
is(members('Sales'), 'Anna Keller, Marco Rossi, New One', 'a leader who is none any more has no star');
is(members('Platform Team'), "Grace Obi*, Jonas Holm, New One, Priya Nair*, $zhang", 'a second leader has one, too');
is(tree(), 'Engineering, Finance & People, Platform Team, Sales, Sales > Night shift', 'departments are where they moved');
is(members('Night shift'), '', 'to lead a department makes nobody a member');
is(person('Grace Obi', 'badge'), 'chess', 'an attribute of the company itself fills a column of one\'s own');
is(query(q{SELECT jsonb_array_length(data -> 'custom_attrs') || ' ' || (data ->> 'join_time') FROM uds.records WHERE uid = 'grace.obi'}),
	'4 2021-03-10T13:12:05Z', 'what has no column is kept in the record');
unchanged('the same after that');

settings(leavers => 'resigned');
edit(people => { 'li.na' => { status => 'left' } });
is(sync_as('full'), 'success', 'somebody is listed as resigned');
is(person('Li Na', 'count(*)') . field('deleted'), '02', 'and is deleted, as is who was missed before');
settings(leavers => 'exited');
edit(people => { 'new.one' => { status => 'left' }, 'li.na' => { status => 'active' } });
is(sync_as('full'), 'success', 'somebody is listed as gone of his own');
is(person('New One', 'count(*)') . person('Li Na', 'count(*)'), '01', 'and is deleted, and who returned is back');
settings(deleted_departments => [7]);
is(sync_as('full'), 'success', 'a department is listed as deleted');
is(field('complete') . tree(), 'tEngineering, Finance & People, Platform Team, Sales', 'it is gone, and was not asked for');
edit(departments => { 7 => undef });
settings(deleted_departments => [], leavers => 'absent');

#
# A token that ends, throttling, passing faults
#
foreach my $status (400, 401)
{
	settings(token_status => $status, page_size => 2);
	faults({ path => '*/find_by_department', after => 3, times => 1, kind => 'expire_token' });
	unchanged("the token ends during the read, HTTP $status");
	is(query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND stream = 'auth'"), 1, 'another one is fetched, once');
}
settings(page_size => 50);
foreach my $reply ('429', '400', 'text')
{
	my $seconds = $reply eq '429' ? 2 : 1;

	settings(limit_reply => $reply, limit_reset => $seconds);
	faults({ path => '*/children', kind => 'throttle', seconds => 0, times => 1 });
	unchanged("told to wait, with $reply");
	cmp_ok(field('throttled_ms'), '>=', 1000 * $seconds - 100, "told to wait, with $reply: it is for as long as the header says");
}
faults({ path => '*/find_by_department', kind => 'busy', times => 2 }, { path => '*/internal', kind => 'busy', times => 1 });
$mock->control({ expire_tokens => $true });
unchanged('an internal error that passes, of the token, too');
settings(page_size => 2);
faults({ path => '*/find_by_department', after => 2, kind => 'errcode', code => 40012, times => 1 });
unchanged('a page token that is refused: the list begins again');

#
# What may not be seen, a break
#
edit(people => { 'chen.jing' => { title => 'Chair' }, 'priya.nair' => undef }, departments => { 8 => { name => 'Storage' } });
my %refused = (2 => 40004, 3 => 40014, 4 => 40015, 5 => 40008, 8 => 99992357);

settings(refused => \%refused);
is(sync_as('full'), 'partial', 'departments that may not be seen, or vanish meanwhile, make the read partial');
is(field('complete'), 'f', 'it is not complete');
foreach my $id (sort keys %refused)
{
	is(query("SELECT count(*) FROM uds.task_errors WHERE task_id = $task AND message LIKE '%error $refused{$id} %' AND message LIKE '%"
			  . 'od-' . md5_hex("department:$id") . "%'"), 1, "$refused{$id}: one error names the department");
}
is(person('Chen Jing', 'title'), 'Chair', 'what else changed is taken');
is(person('Priya Nair', 'enabled') . members('Platform Team'), "tGrace Obi*, Jonas Holm, Priya Nair, $zhang", 'nobody goes missing');
settings(refused => {});

$before = dump_tables();
edit(people => { 'anna.keller' => { title => 'never seen' } });
faults({ path => '*/find_by_department', after => 3, kind => 'drop' });
is(sync_as('full'), 'failed', 'a read that breaks off fails');
is(dump_tables(), $before, 'and changes nothing');
faults({ path => '*/find_by_department', kind => 'cursor_circle', pages => 3 });
is(sync_as('full'), 'failed', 'page tokens that lead in a circle end the read');
is(dump_tables(), $before, 'which changes nothing, either');
foreach my $case (
	[ { path => '*/children', kind => 'trusted_ip' }, qr/99991401.*allow-list/s ],
	[ { path => '*/children', kind => 'errcode', code => 99991403 }, qr/99991403.*month/s ])
{
	my ($fault, $like) = @$case;

	faults($fault);
	is(sync_as('full'), 'failed', "what only people can mend fails: $like");
	like(field('message'), $like, 'the message says what to do');
	is(asked('%/children%'), 1, 'it is tried once');
}
faults();

#
# A company too large to be listed at once: by its parts, and level by level
#
edit(departments => { 4 => { parent => 3 }, 8 => { parent => 4 } });
is(sync_as('full'), 'success', 'a company with three levels is read');
is(person('Priya Nair', 'enabled'), 'f', 'who was removed is missed now');
settings(page_size => 1, recursion_limit => 2);
unchanged('too large as a whole');
is(asked('%/scopes?%') > 0 && asked('%fetch_child=false%') == 0, 1, 'too large as a whole: it is read by its parts');
settings(recursion_limit => 1, page_size => 50);
unchanged('too large in its parts');
is(asked('%fetch_child=false%'), 5, 'too large in its parts: it is read level by level');
is(asked('%/users/chen.jing?%'), 1, 'who is directly in the company is read, too');
settings(recursion_limit => undef);
drop_source('feishu');

#
# An app that may see a part of the company
#
settings(apps => { $app => { secret => $secret, departments => [ 4, 8 ], people => ['tom.becker'] } }, page_size => 1);
edit(people => { 'tom.becker' => { status => 'active' } });
create_source('part');
is(sync_as('auto', 'part'), 'success', 'an app with a data range reads') or diag(field('message'));
is(field('complete'), 't', 'all of it');
is(tree(), 'Platform Team, Platform Team > Storage', 'departments in it, of which the upper one has a parent it may not see');
is(members('Platform Team'), "Grace Obi*, Jonas Holm, $zhang", 'with their people');
is(person('Tom Becker', 'main_department_id IS NULL'), 't', 'a person named in it comes without the department it may not see');
is(query('SELECT count(*) FROM uds.users'), 4, 'nobody else does');
is(sync_as('full', 'part'), 'success', 'the same again succeeds');
is(counts(), '6 0 0 0 0 0 0 0 6 0', 'and finds everything unchanged, though a department is named twice');
settings(refused => { 'tom.becker' => 41050, 8 => 40004 });
is(sync_as('full', 'part'), 'partial', 'a person and a department that are refused make it partial');
is(field('complete') . query('SELECT count(*) FROM uds.users WHERE enabled'), 'f3', 'nobody goes missing');
settings(refused => {}, recursion_limit => 0);
is(sync_as('full', 'part'), 'success', 'level by level it succeeds');
is(counts(), '6 0 0 0 0 0 0 0 6 0', 'with the same result');
settings(recursion_limit => undef, apps => { $app => { secret => $secret, departments => [] } });
is(sync_as('full', 'part'), 'failed', 'a range without anybody in it fails');
is(query('SELECT count(*) FROM uds.users WHERE enabled'), 3, 'and changes nothing');
settings(page_size => 50, apps => { $app => { secret => $secret } });
drop_source('part');

#
# Other ids, other hosts
#
foreach my $type ('union_id', 'open_id')
{
	$mock->control({ directory => 'tiny' });
	create_source($type, user_id_type => $type);
	is(sync_as('auto', $type), 'success', "$type: the read succeeds");
	is(members('Sales'), 'Anna Keller*, Li Na, Marco Rossi, Sofia Lind', "$type: leaders are found by it");
	my $id = person('Anna Keller', 'id');

	edit(people => { 'anna.keller' => { uid => 'anna.moser' } });
	is(sync_as('auto', $type), 'success', "$type: somebody has another user_id");
	is(person('Anna Keller', q{concat_ws(' ', id, username, enabled)}), "$id anna.moser t", "$type: it is the same row");
	drop_source($type);
}
$mock->control({ directory => 'tiny' });
create_source('lark', app_id => 'cli_9f8e7d6c5b4a3210', app_secret => 'L4rk-s3cr3t', base_url => $mock->base_url('lark'));
is(sync_as('auto', 'lark'), 'success', 'Lark is read in the same way');
is(counts(), '16 16 0 0 0 0 14 0 0 0', 'with the same result');
drop_source('lark');

#
# The service's limit, 50 requests of a kind in a second
#
$mock->control({ directory => { seed => 1, departments => 100, users => 100 } });
create_source('many');
is(sync_as('auto', 'many'), 'success', 'a company with many departments is read') or diag(field('message'));
is(asked('%find_by_department%'), 100, 'its people by a hundred requests');
cmp_ok(field('fetch_ms'), '>=', 2000, 'which begin in three different seconds, so as to stay below the limit');
is(field('throttled_ms'), 0, 'and the service has not to say so');
drop_source('many');

#
# What is wrong is said at once
#
foreach my $case (
	[ 'secret', { app_secret => 'wrong' }, qr/10014 "app secret invalid"/ ],
	[ 'app', { app_id => 'cli_0000000000000000' }, qr/10014 "app id not exists"/ ],
	[ 'form', { app_id => 'cli' }, qr/10003/ ],
	[ 'host', { base_url => $mock->base_url('lark') }, qr/10014.*larksuite\.com/s ])
{
	my ($name, $over, $like) = @$case;

	create_source($name, %$over);
	is(sync_as('auto', $name), 'failed', "a wrong $name fails");
	like(field('message'), $like, "a wrong $name: the message says what it is");
	is(field('requests'), 1, "a wrong $name: it is tried once");
}
is(query('SELECT count(*) FROM uds.users'), 0, 'nothing came of that');

done_testing();
