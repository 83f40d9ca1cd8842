# Faults that pass: they are waited out within the task, request by request;
# what the service does not show is left out, and said so.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest qw(:DEFAULT query);

my $mock = start_mock(departments => 10, users => 60);
my $node = new_node('autovacuum' => 'off');

my $changes = 0;
my $task;
my $before;

sub field
{
	my ($expression) = @_;

	return task_field($node, $task, $expression);
}

# dump_tables([$uid]): all rows but those of that user
sub dump_tables
{
	my ($uid) = @_;

	return query(
		join(' UNION ALL ', map {
			my ($table, $key) = @$_;

			"SELECT '$table ' || t.*::text FROM uds.$table AS t"
			  . (defined $uid && $key ? " WHERE $key <> (SELECT id FROM uds.users WHERE username = '$uid')" : '')
		} [ 'users', 'id' ], [ 'department_members', 'user_id' ], ['departments'])
		. ' ORDER BY 1');
}

# Syncs with these faults and notes the task, which may end in any way.
# Someone new is in the directory then, whose name is returned.
sub sync_with
{
	my (@faults) = @_;
	my $uid = 'new.' . ++$changes;

	$mock->control(
		{
			edit => { people => { $uid => { name => "Newcomer $changes", departments => [1] } } },
			faults => \@faults
		});
	$task = query(q{SELECT uds_sync('wecom')});
	wait_task($node, $task);
	return $uid;
}

# hits($kind): how often faults of that kind have acted
sub hits
{
	my ($kind) = @_;
	my $sum = 0;

	$sum += $_->{hits} foreach grep { $_->{kind} eq $kind } @{ $mock->get_control->{faults} };
	return $sum;
}

sub arrived
{
	my ($uid) = @_;

	return query("SELECT count(*) FROM uds.users WHERE username = '$uid' AND enabled");
}

# The task of sync_with() succeeded although requests had to be repeated.
sub check_success
{
	my ($name, $uid) = @_;

	is(field('status'), 'success', "$name: the task succeeds")
	  or diag(field('message'));
	is(field('complete'), 't', "$name: it saw everything");
	is(arrived($uid), 1, "$name: it brings what is new");
	is(query("SELECT count(*) FROM uds.task_errors WHERE task_id = $task"),
		0, "$name: no record is set aside");
	is(field('requests'), query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task"),
		"$name: each request is in the raw log");
	return;
}

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock);

#
# The token is kept from one task to the next
#
$task = sync($node);
my $tokens = $mock->seen('gettoken');
is($tokens, 1, 'the first sync asks for one token');
$task = sync($node);
is($mock->seen('gettoken'), $tokens, 'the second sync asks for none');
is(query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND stream = 'auth'"),
	0, 'nor does its raw log say so');
is(field('requests'), 11, 'it asks for the list of departments, and for each of them once');

#
# Faults that a second or third try mends.  Each fault acts on the requests
# of one department, so that they are repetitions of one request.
#
foreach my $case (
	[ '502 twice', 2, { kind => 'status', status => 502 } ],
	[ 'system busy twice', 2, { kind => 'busy' } ],
	[ 'dropped connection', 1, { kind => 'drop' } ],
	[ 'reset connection', 1, { kind => 'reset' } ],
	[ 'truncated body', 1, { kind => 'truncate' } ],
	[ 'HTML once', 1, { kind => 'html' } ],
	[ 'wrong shape once', 1, { kind => 'wrong_shape' } ])
{
	my ($name, $times, $fault) = @$case;
	my $uid = sync_with({ %$fault, path => '*/user/list', query => { department_id => 3 }, times => $times });

	is(hits($fault->{kind}), $times, "$name: the fault acted");
	check_success($name, $uid);
	is(field('throttled_ms'), 0, "$name: that is no throttling");

	# where a connection was used before, libcurl itself tries a new one
	next if $fault->{kind} =~ /^(drop|reset)$/;
	is(field('requests'), 11 + $times, "$name: only what failed is repeated");
	is(query(qq{SELECT string_agg(usable::text, ' ' ORDER BY seq) FROM uds.raw_log
				WHERE task_id = $task AND context = '{"department": "3"}'}),
		'false ' x $times . 'true', "$name: the raw log has each try");
}

my $uid = sync_with({ kind => 'close', every => 3 });
cmp_ok(hits('close'), '>=', 3, 'connections closed after the reply: the fault acted');
check_success('connections closed after the reply', $uid);

$uid = sync_with({ kind => 'status', status => 503, path => '*/department/list', times => 4 });
is(hits('status'), 4, 'as many faults as uds.http_retries: the fault acted');
check_success('as many faults as uds.http_retries', $uid);

#
# Throttling.  The manifest's waits are for the real service.
#
query(q{
	UPDATE uds.source_types
	   SET manifest = jsonb_set(manifest, '{errors,throttle}',
			'[{"code": 45009, "wait": 0}, {"code": 45033, "wait": 0, "concurrency": 1}]')
	 WHERE name = 'wecom'});

$uid = sync_with({ kind => 'errcode', code => 45009, path => '*/user/list', times => 2 });
is(hits('errcode'), 2, '45009: the fault acted');
check_success('45009', $uid);
cmp_ok(field('throttled_ms'), '>', 0, '45009: the task counts the time it waited');

$mock->control({ latency_ms => 20 });
$uid = sync_with({ kind => 'concurrency', limit => 2, path => '*/user/list' });
cmp_ok(hits('concurrency'), '>=', 1, '45033: the fault acted');
check_success('45033', $uid);
cmp_ok(field('throttled_ms'), '>', 0, '45033: the task counts the time it waited');
$mock->control({ latency_ms => 0 });

$uid = sync_with({ kind => 'status', status => 429, retry_after => '1', path => '*/user/list', times => 1 });
is(hits('status'), 1, 'Retry-After: the fault acted');
check_success('Retry-After', $uid);
cmp_ok(field('throttled_ms'), '>=', 1000, 'Retry-After: the task waits as long as it was asked to');
cmp_ok(field('cost'), '>=', 1000, 'Retry-After: and really does');

#
# Tokens that end before their time
#
$tokens = $mock->seen('gettoken');
my $lists = $mock->seen('department/list');

$mock->control({ latency_ms => 20 });
$uid = sync_with({ kind => 'expire_token', path => '*/user/list', after => 3 });
$mock->control({ latency_ms => 0 });
is(hits('expire_token'), 1, 'token expired in the middle: the fault acted');
check_success('token expired in the middle', $uid);
is($mock->seen('gettoken'), $tokens + 1, 'token expired in the middle: one more is fetched, once');
is($mock->seen('department/list'), $lists + 1, 'token expired in the middle: what was read is not read again');

$tokens = $mock->seen('gettoken');
$mock->control({ expire_tokens => JSON::PP::true });
$uid = sync_with();
check_success('kept token expired', $uid);
is($mock->seen('gettoken'), $tokens + 1, 'kept token expired: another one is fetched, once');

$tokens = $mock->seen('gettoken');
$uid = sync_with({ kind => 'errcode', code => 42001, path => '*/user/list' });
is(field('status'), 'failed', 'a token that is refused fresh ends the task');
like(field('message'), qr/^could not read stream "users" of source "wecom": service answered error 42001 /,
	'with what the service said');
is($mock->seen('gettoken'), $tokens + 1, 'and no further one is asked for');

#
# A department that the service does not show
#
sub check_hidden
{
	my ($code) = @_;
	my $leaver = "leaver.$code";
	my $name = "department refused with $code";

	# someone who is found only there, and someone else who is about to leave
	$mock->control(
		{
			edit => {
				people => {
					"hidden.$code" => { name => 'Hidden', departments => [3] },
					$leaver => { name => 'Leaver', departments => [2] }
				}
			}
		});
	$uid = sync_with();
	check_success("before $name", $uid);
	$before = dump_tables();
	$mock->control({ edit => { people => { $leaver => undef } } });
	$uid = sync_with({ kind => 'errcode', code => $code, path => '*/user/list', query => { department_id => 3 } });

	is(field('status'), 'partial', "$name: the task ends partial");
	is(field('complete'), 'f', "$name: it did not see everything");
	is(field('skipped'), 1, "$name: one node is skipped");
	is(field('failed'), 1, "$name: it counts as one failure");
	is(query(qq{SELECT data_type || ' ' || uid FROM uds.task_errors WHERE task_id = $task}),
		'user 3', "$name: the error row names it");
	like(query(qq{SELECT message FROM uds.task_errors WHERE task_id = $task}),
		qr/^could not read stream "users" for department "3": service answered error $code "/,
		"$name: and says what came back");
	is(arrived($uid), 1, "$name: the rest is applied");
	is(field('disabled + deleted + unlinked'), 0, "$name: nobody goes missing");
	is(arrived("hidden.$code"), 1, "$name: whom only this department shows stays");
	is(arrived($leaver), 1, "$name: who left stays until a complete read says so");
	is(dump_tables($uid), $before, "$name: all that was there is as before");

	# once it is shown again
	$uid = sync_with();
	check_success("after $name", $uid);
	is(field('disabled'), 1, "after $name: who left is disabled");
	is(arrived($leaver), 0, "after $name: and nobody else");
	is(arrived("hidden.$code"), 1, "after $name: whom it shows is there");
	return;
}

check_hidden(60011);
check_hidden(60003);

$uid = sync_with({ kind => 'errcode', code => 60011, path => '*/department/list' });
is(field('status'), 'failed', 'without the list of departments there is nothing to apply');
like(field('message'),
	qr/^could not read stream "departments" of source "wecom": service answered error 60011 .* Hint: It is outside the visible scope of the app\./,
	'and the message has the hint');

#
# A secret that may only read ids
#
$mock->control({ faults => [] });
my $last = query('SELECT max(id) FROM uds.users');
$before = query('SELECT id, nickname, email, phone, title FROM uds.users ORDER BY id');
query(q{SELECT uds_alter_source('wecom', options => '{"secret": "ids-secret"}')});
$uid = sync_with();
is(field('status'), 'success', 'a secret for ids only: the task succeeds');
like(field('message'), qr/The contacts-sync secret may only read ids from this address/,
	'a secret for ids only: the message warns');
is(arrived($uid), 1, 'a secret for ids only: it brings what is new');
is(query("SELECT nickname IS NULL AND title IS NULL FROM uds.users WHERE username = '$uid'"),
	't', 'a secret for ids only: without details');
is(query("SELECT id, nickname, email, phone, title FROM uds.users WHERE id <= $last ORDER BY id"),
	$before, 'a secret for ids only: details read before stay');
is(query("SELECT string_agg(DISTINCT stream, ' ' ORDER BY stream) FROM uds.raw_log WHERE task_id = $task AND usable"),
	'department_ids user_ids', 'a secret for ids only: the pages are those of the other plan');

# and from the first day
$node->safe_psql('postgres', 'CREATE DATABASE ids');
$node->safe_psql('ids', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock, db => 'ids', options => { secret => 'ids-secret' });
$task = sync($node, 'wecom', 'ids');
is(task_field($node, $task, 'status', 'ids'), 'success', 'a first sync of ids only succeeds');

my $directory = $mock->call('GET', '/directory');
my $expected = join "\n", sort map {
	my $person = $_;

	map { "$person->{uid} $_->{department}" } @{ $person->{memberships} };
} @{ $directory->{people} };
my $members = $node->safe_psql('ids', q{
	SELECT u.username || ' ' || r.uid
	  FROM uds.department_members m
	  JOIN uds.users u ON u.id = m.user_id
	  JOIN uds.record_resources l ON l.resource = 'departments' AND l.resource_pk = m.department_id::text
	  JOIN uds.records r ON r.id = l.record_id});
is(join("\n", sort split /\n/, $members), $expected, 'it knows who is in which department');
is($node->safe_psql('ids', 'SELECT count(*) FROM uds.departments'),
	scalar @{ $directory->{departments} }, 'it knows the departments');

$node->stop;
done_testing();
