# DingTalk: full reads from the departments and users that the app may see,
# pages by cursor, the ways in which the service says no, and its limits.
use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsService qw($task counts drop_source dump_tables edit field members parent service settings);
use UdsTest qw(:DEFAULT query);

my $json = JSON::PP->new->canonical;
my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $mock = start_mock(tiny => 1);
my $node = new_node('autovacuum' => 'off');
my ($before, $rows);

# sync_as($source, $mode): syncs and notes the task, which may end in any way
sub sync_as
{
	my ($source, $mode) = @_;

	$task = query('SELECT uds_sync(' . quote($source // 'dingtalk') . ', ' . quote($mode // 'auto') . ')');
	return wait_task($node, $task);
}

# faults of the calls below /oapi/topapi/v2; without any, there are none
sub faults
{
	$mock->control({ faults => [ map { { %$_, path => "*/oapi/$_->{path}" } } @_ ] });
	return;
}

sub create_source
{
	my ($name, %over) = @_;
	my $type = delete $over{type} // 'dingtalk';
	my %options = (
		client_id => 'dingmock0key00000001',
		client_secret => 'Dt-_s3cr3t.&=+%x',
		base_url => $mock->base_url('dingtalk/oapi'),
		api_base_url => $mock->base_url('dingtalk/api'),
		%over);

	query('SELECT uds_create_source(' . join(', ', quote($name), quote($type), quote($json->encode(\%options)))
		  . ', guard_min => 100)');
	return;
}

# one person, as one text
sub person
{
	my ($username, $expression) = @_;

	return query("SELECT $expression FROM uds.users WHERE username = " . quote($username));
}

# what is kept of a person's record besides the columns
sub kept
{
	my ($uid, $path) = @_;

	return query("SELECT data #>> '{$path}' FROM uds.records WHERE data_type = 'user' AND uid = " . quote($uid));
}

sub main_department
{
	my ($username) = @_;

	return query(q{
		SELECT d.title
		  FROM uds.users u
		  JOIN uds.departments d ON d.id = u.main_department_id
		 WHERE u.username = } . quote($username));
}

# which transactions wrote the rows that there are
sub writers
{
	return query(join ' UNION ALL ',
		map { "SELECT '$_', count(*), sum(x.xmin::text::bigint) FROM uds.$_ x" }
		  ('users', 'departments', 'department_members', 'records'));
}

# how often something is in the log of the last task
sub logged
{
	my ($condition) = @_;

	return query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND $condition");
}

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
service($node, $mock, 'dingtalk');
create_source('dingtalk');

#
# A full read
#
edit(
	people => {
		'ZhangWei' => { name => 'Zhang Wei' },
		'grace.obi' => { biz_email => 'grace@corp.test', attributes => [ { name => 'Hobby', text => 'go' } ] },
		'priya.nair' => { mobile => '138-0000 0007' },
		'jonas.holm' => { departments => [ { department => 4, leader => $true } ] }
	},
	departments => { 5 => { leaders => ['emma.dubois'] } });
settings(home_school => $true, empty_result => $false, page_size => 2);
is(sync_as(), 'success', 'a full read succeeds')
  or BAIL_OUT(field('message'));
is(field('complete'), 't', 'it is complete');
is(counts(), '17 17 0 0 0 0 15 0 0 0', 'it brings everybody, every department and every membership');
is(person('anna.keller', q{concat_ws('|', nickname, email, phone, title, avatar, enabled)}),
	'Anna Keller|anna.keller@bluebird.test|13800000002|Head of sales|https://img.test/bluebird/2/0|t',
	'a person has what DingTalk says of it');
is(person('grace.obi', 'email'), 'grace@corp.test', 'the address of the company goes before the private one');
is(person('priya.nair', 'phone'), '13800000007', 'phones come without spaces and hyphens');
is(person('emma.dubois', 'enabled'), 'f', 'an account that is disabled is so here');
is(person('wang.fang', 'enabled'), 't', 'one that was never activated is not');
is(kept('grace.obi', 'extension,Hobby'), 'go', 'JSON inside a text is read');
is(kept('grace.obi', 'hired_date'), '2020-08-16T10:26:56.828Z', 'times are as ISO 8601');
is(members('Sales', 'username'), 'anna.keller*, li.na, marco.rossi, sofia.lind', 'a department has its members, over several pages');
is(logged(q{request LIKE '%dept_id=2%' AND request ~ 'cursor=0\M' AND stream = 'users'}), 1, 'which begin with cursor 0');
is(logged(q{request LIKE '%dept_id=2%' AND request ~ 'cursor=2\M' AND stream = 'users'}), 1, 'and go on with the next one');
is(members('Platform Team', 'username'), 'ZhangWei, grace.obi, jonas.holm*, priya.nair*', 'who is flagged as leader, or is a manager, leads it');
is(members('Engineering', 'username'), 'ZhangWei*, grace.obi, wang.fang', 'who leads one department does not lead the others');
is(members('Finance & People', 'username'), 'emma.dubois*, marco.rossi, tom.becker*', 'each kind of leader alone is enough');
is(main_department('marco.rossi'), 'Sales', 'the main department is the first one');
is(parent('Bluebird Tea Company'), 'none', 'the root is a department by its name');
is(parent('Platform Team'), 'Engineering', 'departments below departments are found');
is(query(q{SELECT string_agg(title, ', ' ORDER BY sort) FROM uds.departments WHERE parent_id IS NOT NULL}),
	'Finance & People, Platform Team, Engineering, Sales', 'with their order');
is(query(q{SELECT count(*) FROM uds.departments WHERE title LIKE 'Home%'}), 0, 'the directory of home and school is none');
is(logged(q{request LIKE '%dept_id=-%'}), 0, 'and is not asked for');
is(query("SELECT string_agg(request || coalesce(body, ''), ' ') ~ 's3cr3t|accessToken\"|[0-9a-f]{32}' FROM uds.raw_log WHERE task_id = $task"),
	'f', 'neither secret nor token is in the raw log');
is(query(q{SELECT string_agg(step, ', ') FROM uds_test_source('dingtalk') WHERE NOT ok}), '', 'trying the source out finds nothing wrong');

#
# The same again, also if it is said in another way
#
$before = dump_tables();
$rows = writers();
is(sync_as(), 'success', 'a second read succeeds');
is(counts(), '17 0 0 0 0 0 0 0 17 0', 'and finds everything unchanged');
is(writers(), $rows, 'no row was written');
settings(home_school => $false, empty_result => $true, page_size => 100, as_text => $true);
is(sync_as(), 'success', 'a service that sends numbers and flags as texts is understood');
is(dump_tables(), $before, 'and comes to the same');
settings(as_text => $false);
is(sync_as(), 'success', 'so does one that sends them as they are');
is(dump_tables(), $before, 'again');

#
# Changes.  The service tells none, so each read is a full one
#
edit(
	people => {
		'anna.keller' => { title => 'Vice president', mobile => '1380000000' },
		'marco.rossi' => { departments => [ 5, 2 ] },
		'li.na' => { departments => [3] },
		'tom.becker' => { status => 'left' },
		'sofia.lind' => undef,
		'emma.dubois' => { status => 'active' },
		'wang.fang' => { status => 'disabled' },
		'new.one' => { name => 'New One', departments => [ { department => 6, leader => $true }, 2 ] }
	},
	departments => {
		4 => { parent => 1 },
		5 => { leaders => [] },
		6 => { name => 'Night shift', parent => 2 }
	});
is(sync_as('dingtalk', 'incremental'), 'success', 'a read for changes succeeds')
  or diag(field('message'));
is(field('complete'), 't', 'and is a full one, the service has no other');
is(counts(), '17 2 3 1 3 0 3 3 10 0', 'every change counts, once');
is(person('anna.keller', q{concat_ws('|', title, phone)}), 'Vice president|1380000000', 'changed values arrive');
is(person('emma.dubois', 'enabled'), 't', 'who is enabled again is so here');
is(person('wang.fang', 'enabled'), 'f', 'who is disabled is, too');
is(person('tom.becker', 'enabled'), 'f', 'who has left is disabled');
is(person('sofia.lind', 'enabled'), 'f', 'so is who was deleted');
is(members('Sales', 'username'), 'anna.keller*, marco.rossi, new.one', 'who moved or left is no member any more');
is(members('Night shift', 'username'), 'new.one*', 'a new department has its leader');
is(members('Finance & People', 'username'), 'emma.dubois, marco.rossi', 'who was a manager only by the list leads no more');
is(parent('Night shift'), 'Sales', 'it is where it belongs');
is(parent('Platform Team'), 'Bluebird Tea Company', 'a department that moved is below another one');
is(main_department('marco.rossi'), 'Sales', 'another order of the list leaves the main department');
edit(
	people => { 'tom.becker' => { status => 'active' }, 'marco.rossi' => { departments => [5] } },
	departments => { 6 => undef });
is(sync_as(), 'success', 'more changes are read');
is(person('tom.becker', 'enabled'), 't', 'who comes back is enabled, in the same row');
is(main_department('marco.rossi'), 'Finance & People', 'who leaves the main department has another');
is(query(q{SELECT string_agg(title, ', ') FROM uds.departments WHERE NOT enabled}), 'Night shift', 'a deleted department is disabled');

#
# Phones of other countries, fields that the app may not see
#
edit(people => { 'anna.keller' => { mobile => '170-1234567' }, 'tom.becker' => { mobile => '+41 79 1234567' } });
settings(state_code => '49');
is(sync_as(), 'success', 'phones of another country are read');
is(person('anna.keller', 'phone'), '+491701234567', 'with the code of the country');
is(person('tom.becker', 'phone'), '+41791234567', 'unless it is there already');
$before = dump_tables();
settings(state_code => '86',
	permissions => [ 'qyapi_get_department_list', 'qyapi_get_department_member', 'qyapi_get_member' ]);
is(sync_as(), 'success', 'an app that may not see phones and addresses reads the rest');
is(dump_tables(), $before, 'and leaves them as they were');
settings(permissions => [ 'qyapi_get_department_list', 'qyapi_get_department_member', 'qyapi_get_member', 'mobile', 'email' ]);
edit(people => { 'anna.keller' => { mobile => '13800000002' }, 'tom.becker' => { mobile => '13800000011' } });
is(sync_as(), 'success', 'all is readable again');

#
# A token that ends in the middle of a listing, in each wording
#
settings(page_size => 2);
is(sync_as(), 'success', 'small pages are read');
my $pages = logged(q{stream = 'users'});
foreach my $form ('plain', 'wrapped', 'camel', 'text')
{
	settings(token_errors => $form);
	faults({ path => 'topapi/v2/user/list', after => $pages - 1, times => 1, kind => 'expire_token' });
	is(sync_as(), 'success', "the token ends, $form: another one is fetched");
	is(logged(q{stream = 'auth'}), 1, "the token ends, $form: one is enough");
	is(query(qq{
			SELECT string_agg(substring(request FROM 'cursor=\\d+') || ' ' || usable, ', ' ORDER BY seq)
			  FROM uds.raw_log
			 WHERE task_id = $task AND request IN (SELECT request FROM uds.raw_log
			        WHERE task_id = $task AND stream = 'users' AND NOT usable)}),
		'cursor=2 false, cursor=2 true', "the token ends, $form: the page that was refused is asked for again, with its cursor");
	is(field('complete'), 't', "the token ends, $form: nothing is missing");
}
settings(token_errors => 'plain', page_size => 100);
faults({ path => 'topapi/v2/department/get', after => 2, times => 1, kind => 'errcode', code => 40014 });
is(sync_as(), 'success', 'so it is with a token that is invalid');
is(logged(q{stream = 'auth'}), 1, 'by one request, too');

#
# Limits
#
foreach my $case ([ 'plain', 90018 ], [ 'text', 90018 ], [ 'plain', 90002 ])
{
	my ($form, $code) = @$case;

	settings(token_errors => $form);
	faults({ path => 'topapi/v2/user/list', after => 1, times => 1, kind => 'errcode', code => $code });
	is(sync_as(), 'success', "limit $code, $form: it is waited out");
	cmp_ok(field('throttled_ms'), '>=', 1000, "limit $code, $form: for a second, and the task says so");
	is(field('complete'), 't', "limit $code, $form: nothing is missing");
}
settings(token_errors => 'plain');
faults({ path => 'topapi/v2/department/*', every => 3, times => 3, kind => 'busy' });
is(sync_as(), 'success', 'a busy service is asked again');
is(field('throttled_ms'), 0, 'which is no wait that it asked for');

foreach my $case ([ 90005, 60 ], [ 'blocked', 300 ], [ 'blocked_page', 300 ])
{
	my ($code, $seconds) = @$case;

	faults({ path => 'topapi/v2/department/get', kind => 'errcode', code => $code });
	$task = query(q{SELECT uds_sync('dingtalk')});
	ok( $node->poll_query_until('postgres',
			"SELECT throttled_ms >= 1000 * $seconds FROM uds.progress WHERE task_id = $task"),
		"answer $code: the service is left alone for $seconds seconds");
	query("SELECT uds_cancel($task)");
	is(wait_task($node, $task), 'canceled', "answer $code: cancelling ends the wait");
}
faults();

# the same, but for a shorter time
query(q{
	SELECT uds_register_source_type('brisk', replace(manifest::text, '"wait": 300', '"wait": 1')::jsonb)
	  FROM uds.source_types WHERE name = 'dingtalk'});
drop_source('dingtalk');
create_source('brisk', type => 'brisk');
foreach my $code ('blocked', 'blocked_page')
{
	faults({ path => 'topapi/v2/department/get', times => 1, kind => 'errcode', code => $code });
	is(sync_as('brisk'), 'success', "answer $code: it is no broken page, the read goes on after the wait");
	cmp_ok(field('throttled_ms'), '>=', 1000, "answer $code: which the task shows");
}
drop_source('brisk');

# the limit of the service, for as many calls of each kind as could break it
$mock->control({ directory => { seed => 7, departments => 24, users => 60 } });
settings(calls_per_second => 20);
create_source('dingtalk');
is(sync_as(), 'success', 'a company with more departments than calls are allowed in a second is read');
is(field('throttled_ms'), 0, 'without ever being told to wait');
is(logged(q{body LIKE '%90018%'}), 0, 'no call was one too many');
is(logged(q{stream = 'departments'}), 24, 'each department was asked for');
settings(calls_per_second => undef);
drop_source('dingtalk');
$mock->control({ reset => $true });

#
# An app that may see only a part
#
settings(scope => [3], authed_users => [ 'priya.nair', 'anna.keller' ]);
create_source('dingtalk', user_fields => { username => { coalesce => [ '$.login_id', '$.userid' ] } });
is(sync_as(), 'success', 'an app with a part of the directory reads that');
is(field('complete'), 't', 'completely');
is(query(q{SELECT string_agg(title, ', ' ORDER BY title) FROM uds.departments}), 'Engineering, Platform Team', 'the departments');
is(parent('Engineering'), 'none', 'the uppermost of which is a root');
is(members('Platform Team', 'username'), 'ZhangWei, grace.obi, jonas.holm, priya.nair*', 'their people and leaders');
is(person('anna.keller', q{concat_ws('|', nickname, email, phone, enabled)}),
	'Anna Keller|anna.keller@bluebird.test|13800000002|t', 'and who is named one by one');
is(counts(), '8 8 0 0 0 0 7 0 0 0', 'nobody else');
is(sync_as(), 'success', 'it is read again');
is(counts(), '8 0 0 0 0 0 0 0 8 0', 'and unchanged, also who came by both ways');
settings(scope => [ 1, 2 ], authed_users => []);
is(sync_as(), 'success', 'a department that is named twice is read once');
is(counts(), '17 9 2 0 0 0 8 0 6 0', 'the rest comes when the app may see it')
  or diag(query("SELECT * FROM uds.changes WHERE task_id = $task"));
is(query(q{SELECT username FROM uds.users WHERE nickname = 'Emma Dubois'}), 'emma.dubois@corp.test',
	'a source may name accounts by what they log in with');

$before = dump_tables();
settings(authed_users => [ 'li.na', 'ghost' ]);
is(sync_as(), 'partial', 'a user who is gone when asked for makes the read partial');
is(field('complete'), 'f', 'and not complete');
is(query("SELECT count(*) FROM uds.task_errors WHERE task_id = $task AND message LIKE '%\"ghost\"%60121%'"), 1, 'the error names the user');
is(dump_tables(), $before, 'nobody goes missing by it');
settings(authed_users => []);
foreach my $case ([ 'plain', 50004, 'user/list' ], [ 'text', 50004, 'user/list' ], [ 'plain', 60003, 'department/listsub' ], [ 'plain', 60019, 'user/list' ])
{
	my ($form, $code, $call) = @$case;

	settings(token_errors => $form);
	faults({ path => "topapi/v2/$call", after => 1, times => 1, kind => 'errcode', code => $code });
	is(sync_as(), 'partial', "refusal $code of $call, $form: the read is partial");
	is(field('complete'), 'f', "refusal $code of $call, $form: it is not complete");
	is(dump_tables(), $before, "refusal $code of $call, $form: nobody goes missing");
}
settings(token_errors => 'plain', scope => []);
faults();
is(sync_as(), 'failed', 'an app that may see nothing any more fails');
is(dump_tables(), $before, 'and nobody is lost');
settings(scope => [1]);

#
# A break, a circle, a broken page
#
edit(people => { 'li.na' => undef, 'grace.obi' => { title => 'never seen' } });
foreach my $fault (
	{ path => 'topapi/v2/user/list', after => 2, kind => 'drop' },
	{ path => 'topapi/v2/user/list', after => 2, kind => 'invalid_json' },
	{ path => 'topapi/v2/user/list', after => 2, kind => 'wrong_shape', shape => 'array' },
	{ path => 'topapi/v2/user/list', kind => 'cursor_circle', pages => 3 },
	{ path => 'auth/scopes', kind => 'wrong_shape', shape => 'array' })
{
	faults($fault);
	is(sync_as(), 'failed', "$fault->{kind} of $fault->{path}: the read fails");
	is(dump_tables(), $before, "$fault->{kind} of $fault->{path}: nothing changes");
}
faults();
is(sync_as(), 'success', 'after that, all is well');
is(person('li.na', 'enabled'), 'f', 'and what had changed is seen');

#
# What is wrong is said at once
#
foreach my $case ([ 'id', { client_id => 'wrong' } ], [ 'secret', { client_secret => 'wr-ong' } ])
{
	my ($name, $over) = @$case;

	create_source($name, %$over);
	is(sync_as($name), 'failed', "a wrong $name fails");
	like(field('message'), qr/invalidClientIdOrSecret.*Check options "client_id" and "client_secret"/s,
		"a wrong $name: the message says what to check");
	is(field('requests'), 1, "a wrong $name: it is tried once");
}
foreach my $case (
	[ 'token', 'address', '*/api/*', qr/request ip=127\.0\.0\.1.*egress IP/s, 1 ],
	[ 'call', 'address', '*/oapi/*', qr/request ip=127\.0\.0\.1 appKey.*egress IP/s, 2 ])
{
	my ($what, $kind, $path, $like, $requests) = @$case;

	create_source($what);
	$mock->control({ faults => [ { kind => 'trusted_ip', path => $path } ] });
	is(sync_as($what), 'failed', "an address that is not on the list, at the $what, fails");
	like(field('message'), $like, "an address that is not on the list, at the $what: the message has it");
	is(field('requests'), $requests, "an address that is not on the list, at the $what: it is tried once");
}
faults();
settings(permissions => ['qyapi_get_department_list']);
is(sync_as(), 'failed', 'a permission that is missing fails');
like(field('message'), qr/60011.*qyapi_get_department_member.*Grant them/s, 'and the message names it');

done_testing();
