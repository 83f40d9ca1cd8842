# What ends a task early, and what becomes of it: cancel, shutdown, a dead
# worker, a library that is not preloaded.  All but the last while the server
# on the other side hangs.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use UdsSession;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $directory = $mock->get_control->{directory};
my $node = new_node('uds.http_timeout' => '10min', 'log_min_messages' => 'warning');

# a cancel is to take effect within a second; twice that on a busy machine
my $soon = 2;

my $nothing = q{
	SELECT (SELECT count(*) FROM uds.users) + (SELECT count(*) FROM uds.departments)
		 + (SELECT count(*) FROM uds.department_members) + (SELECT count(*) FROM uds.records)};
my ($task, $second, $pid, $session, $log);
my ($code, $stdout, $stderr);

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock);

# From now on this many transfers hang: 1 by default, undef for all of them.
sub hang
{
	my ($times) = @_ ? @_ : 1;

	$mock->control({ faults => [ { kind => 'hang', path => '*/user/list', times => $times } ] });
	return;
}

sub release
{
	$mock->control({ faults => [], release => JSON::PP::true });
	return;
}

# Queues a task and returns when it hangs.
sub hanging_task
{
	my ($db) = @_;

	hang();
	my $id = $node->safe_psql($db // 'postgres', q{SELECT uds_sync('wecom')});
	$mock->wait_for('held');
	return $id;
}

# The worker that runs a task, as soon as one does
sub worker_of
{
	my ($id) = @_;

	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM uds.progress WHERE task_id = $id")
	  or die "task $id does not run";
	return $node->safe_psql('postgres', "SELECT pid FROM uds.progress WHERE task_id = $id");
}

# Asserts that a task is canceled soon, and has written nothing.
sub canceled_soon
{
	my ($id, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', "SELECT uds_wait($id, '$soon s')"),
		'canceled', "$what cancels the task within a second or two");
	is(task_field($node, $id, q{message || ', ' || (finished_at IS NOT NULL)::text || ', ' || attempt}),
		'canceled, true, 1', 'which says so');
	is($node->safe_psql('postgres', $nothing), 0, 'and wrote nothing');
	is($node->safe_psql('postgres', "SELECT count(*) FROM uds.raw_log WHERE task_id = $id AND stream = 'departments'"),
		1, 'but what it had read is in the raw log');
	release();
	return;
}

#
# Cancel
#
$task = hanging_task();
$second = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
$node->safe_psql('postgres', "BEGIN; SELECT uds_cancel($second); ROLLBACK");
is(task_field($node, $second, 'status'), 'init', 'canceling a waiting task can be rolled back');
is($node->safe_psql('postgres', "SELECT uds_cancel($second)"), 't', 'uds_cancel() of a waiting task');
is(task_field($node, $second, 'status'), 'canceled', 'it is canceled');
is($node->safe_psql('postgres', "SELECT uds_cancel($second)"), 'f', 'once only');
is(task_field($node, $task, 'status'), 'processing', 'the task that runs is not meant by that');
is($node->safe_psql('postgres', "SELECT uds_cancel($task)"), 't', 'uds_cancel() of a hanging task');
canceled_soon($task, 'uds_cancel()');
is($node->safe_psql('postgres', "SELECT uds_cancel($task)"), 'f', 'it has ended then');

# a second cancel while the first one's task is being ended
my $blocker = $node->background_psql('postgres');
$task = hanging_task();
$pid = worker_of($task);
$blocker->query_safe("BEGIN; SELECT FROM uds.tasks WHERE id = $task FOR UPDATE");
is($node->safe_psql('postgres', "SELECT uds_cancel($task)"), 't', 'uds_cancel() of a task whose row is locked');
poll($node, "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid",
	'the worker waits to note its end');
is($node->safe_psql('postgres', "SELECT uds_cancel($task)"), 't', 'uds_cancel() once more');
$blocker->query_safe('COMMIT');
canceled_soon($task, 'the first of two cancels');

$task = hanging_task();
$pid = worker_of($task);
is($node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)"), 't', 'pg_cancel_backend() of the worker');
canceled_soon($task, 'pg_cancel_backend()');

hang();
$session = start_sql($node, 'postgres', q{SELECT uds_sync('wecom', wait => true)});
$mock->wait_for('held');
$task = $node->safe_psql('postgres', 'SELECT task_id FROM uds.progress');
$session->interrupt;
canceled_soon($task, 'Ctrl-C in the session that waits');
ok(!$session->finish, 'the statement fails');
like($session->err, qr/ERROR:  canceling statement due to user request/, 'as a canceled statement does');

$task = hanging_task();
$session = start_sql($node, 'postgres', q{SELECT uds_wait(uds_sync('wecom', wait => true))});
poll($node, q{SELECT count(*) = 1 FROM uds.tasks WHERE status = 'init'}, 'a task waits for another');
$second = $node->safe_psql('postgres', q{SELECT id FROM uds.tasks WHERE status = 'init'});
is($node->safe_psql('postgres', q{
		SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'session'}),
	't', 'pg_cancel_backend() of the session that waits');
is($node->safe_psql('postgres', "SELECT uds_wait($second, '$soon s')"),
	'canceled', 'cancels the task that it waits for');
ok(!$session->finish, 'the statement fails');
is(task_field($node, $task, 'status'), 'processing', 'the task before it goes on');

$session = start_sql($node, 'postgres', "SELECT uds_wait($task)");
poll($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'session' AND wait_event_type = 'Extension'},
	'uds_wait() waits');
$session->interrupt;
ok(!$session->finish, 'Ctrl-C ends uds_wait()');
is(task_field($node, $task, 'status'), 'processing', 'but not the task');
$node->safe_psql('postgres', "SELECT uds_cancel($task)");
canceled_soon($task, 'uds_cancel()');

# other waits than that for an answer
$mock->control({ faults => [ { kind => 'errcode', code => 45009, path => '*/user/list', times => undef } ] });
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
$mock->wait_for('requests', $mock->get_control->{requests} + 1);
worker_of($task);
is($node->safe_psql('postgres', "SELECT uds_cancel($task)"), 't', 'uds_cancel() of a task that is throttled');
canceled_soon($task, 'uds_cancel()');

$mock->control({ faults => [ { kind => 'slow', path => '*/user/list', bytes => 1, interval_ms => 100, times => undef } ] });
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
poll($node, q{SELECT requests_done > 2 FROM uds.progress}, 'an answer comes byte by byte');
is($node->safe_psql('postgres', "SELECT uds_cancel($task)"), 't', 'uds_cancel() of its task');
canceled_soon($task, 'uds_cancel()');

$blocker->query_safe('BEGIN; LOCK TABLE uds.users IN SHARE MODE');
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
$pid = worker_of($task);
poll($node, "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid",
	'a task waits for a lock while it writes');
is($node->safe_psql('postgres', "SELECT uds_cancel($task)"), 't', 'uds_cancel() of it');
canceled_soon($task, 'uds_cancel()');
$blocker->query_safe('COMMIT');
$blocker->quit;

hang();
$session = start_sql($node, 'postgres', q{SELECT * FROM uds_test_source('wecom')});
$mock->wait_for('held');
$session->interrupt;
ok(!$session->finish, 'Ctrl-C ends uds_test_source()');
like($session->err, qr/ERROR:  canceling statement due to user request/, 'as a canceled statement does');
poll($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'uds request'},
	'and what tested in the background');
release();

# nobody gets canceled by what was meant for somebody else
$task = sync($node);
is(task_field($node, $task, 'status'), 'success', 'the next sync succeeds');
is($node->safe_psql('postgres', 'SELECT count(*) FROM uds.users'), $directory->{people}, 'and writes everything');
is($node->safe_psql('postgres', "SELECT uds_cancel($task)"), 'f', 'a successful task cannot be canceled');
($code, $stdout, $stderr) = $node->psql('postgres', 'SELECT uds_cancel(987654321)');
like($stderr, qr/ERROR:  task 987654321 does not exist\nHINT:/, 'nor one that there is not');

# a session that ends leaves its task alone
hang();
$session = start_sql($node, 'postgres', q{SELECT uds_sync('wecom', wait => true)});
$mock->wait_for('held');
$task = $node->safe_psql('postgres', 'SELECT task_id FROM uds.progress');
$node->safe_psql('postgres', q{
	SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = 'session'});
ok(!$session->finish, 'a session that waits is terminated');
release();
is(wait_task($node, $task), 'success', 'its task goes on');

#
# A worker that ends: its task begins again
#
$task = hanging_task();
$pid = worker_of($task);
is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, ${soon}000)"),
	't', 'a terminated worker ends within a second or two');
is(wait_task($node, $task), 'success', 'its task begins again and succeeds');
is(task_field($node, $task, 'attempt'), 2, 'in its second attempt');
release();

$task = hanging_task();
$pid = worker_of($task);
$log = -s $node->logfile;
is(kill('KILL', $pid), 1, 'a worker is killed');
$node->wait_for_log(qr/database system is ready to accept connections/, $log);
poll($node, "SELECT status = 'success' FROM uds.tasks WHERE id = $task",
	'after crash recovery its task begins again by itself and succeeds');
is(task_field($node, $task, 'attempt'), 2, 'in its second attempt');
release();

# while such a task waits it can be joined and canceled
configure($node, 'uds.retry_interval', '1h');
$task = hanging_task();
$pid = worker_of($task);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 60000)");
poll($node, "SELECT status = 'init' FROM uds.tasks WHERE id = $task",
	'the task of a worker that ended waits');
like(task_field($node, $task, 'message'), qr/^the worker ended unexpectedly in attempt 1 of 3/, 'it says why');
is(task_field($node, $task, q{due_at - clock_timestamp() BETWEEN '5 min' AND '10 min'}),
	't', 'for uds.retry_interval, but not longer than uds.retry_max_interval');
hang();
is($node->safe_psql('postgres', q{SELECT uds_sync('wecom')}), $task, 'a new call joins it');
$mock->wait_for('held');
$pid = worker_of($task);
is(task_field($node, $task, 'attempt'), 2, 'and it begins at once');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 60000)");
poll($node, "SELECT status = 'init' FROM uds.tasks WHERE id = $task", 'it waits again');
is($node->safe_psql('postgres', "SELECT uds_cancel($task)"), 't', 'a task that waits for its next attempt can be canceled');
is(task_field($node, $task, 'status'), 'canceled', 'and is');
configure($node, 'uds.retry_interval', '100ms');
release();

# until the attempts are used up
configure($node, 'uds.max_attempts', 2);
hang(undef);
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
foreach my $attempt (1, 2)
{
	poll($node, "SELECT count(*) = 1 FROM uds.tasks t JOIN uds.progress p ON p.task_id = t.id WHERE t.id = $task AND t.attempt = $attempt",
		"attempt $attempt of 2 begins");
	$pid = worker_of($task);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 60000)");
}
is(wait_task($node, $task), 'failed', 'when all attempts are used up the task fails');
like(task_field($node, $task, 'message'), qr/^the worker ended unexpectedly in attempt 2 of 2/, 'and says why');
is($node->safe_psql('postgres', q{SELECT (sync_state ->> 'last_error_task')::bigint FROM uds.sources WHERE name = 'wecom'}),
	$task, 'the state of the source knows of it');
release();
is(wait_task($node, $node->safe_psql('postgres', "SELECT uds_retry($task)")), 'success', 'uds_retry() runs it again');

#
# DROP DATABASE, ALTER DATABASE
#
$node->safe_psql('postgres', 'CREATE DATABASE doomed');
$node->safe_psql('doomed', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock, db => 'doomed');
hanging_task('doomed');
my $began = time;
$node->safe_psql('postgres', 'DROP DATABASE doomed WITH (FORCE)');
cmp_ok(time - $began, '<', 5, 'a database can be dropped by force while a transfer hangs');
release();
is(task_field($node, sync($node), 'status'), 'success', 'other databases are served after that');
poll($node, 'SELECT workers = 0 FROM uds_health()', 'no slot is left behind');

# a source that is dropped while it is read
$task = hanging_task();
$session = start_sql($node, 'postgres', q{SELECT uds_drop_source('wecom', keep_data => false)});
ok($session->finish, 'a source can be dropped while it is read') or diag $session->err;
release();
like(wait_task($node, $task), qr/^(failed|canceled)$/, 'its task ends without success');
is($node->safe_psql('postgres', $nothing), 0, 'and writes nothing');
create_wecom_source($node, $mock);
sync($node);

#
# Shutdown
#
$task = hanging_task();
$pid = worker_of($task);
my $data = $node->data_dir;
$node->command_ok([ 'pg_ctl', '-D', $data, '-m', 'fast', '-W', 'stop' ], 'fast shutdown is asked for');
$began = time;
usleep(10_000) while kill(0, $pid) && time - $began < $soon;
ok(!kill(0, $pid), 'a worker whose transfer hangs ends within a second or two');
$node->stop('fast');
pass('the server has shut down');
$node->start;
is(wait_task($node, $task), 'success', 'after the next start its task goes on by itself');
is(task_field($node, $task, 'attempt'), 2, 'in its second attempt');
release();

# the postmaster dies
$task = hanging_task();
$began = time;
$pid = worker_of($task);
$node->kill9;
usleep(10_000) while kill(0, $pid) && time - $began < $PostgreSQL::Test::Utils::timeout_default;
ok(!kill(0, $pid), 'a worker whose postmaster dies ends');
$node->start;
is(wait_task($node, $task), 'success', 'after the next start its task goes on by itself');
release();
$node->stop;

#
# Not preloaded
#
my $plain = new_node(name => 'plain', shared_preload_libraries => '');
$plain->safe_psql('postgres', 'CREATE EXTENSION uds');
pass('CREATE EXTENSION works without preloading');
create_wecom_source($plain, $mock);
foreach my $call (q{uds_sync('wecom')}, q{uds_sync('wecom', wait => true)}, q{uds_test_source('wecom')}, 'uds_retry(1)')
{
	($code, $stdout, $stderr) = $plain->psql('postgres', "SELECT $call");
	like($stderr,
		qr/ERROR:  uds_\w+\(\) needs the library "uds" to be preloaded\nHINT:  Add uds to shared_preload_libraries and restart the server\./,
		"SELECT $call says what to set");
}
is($plain->safe_psql('postgres', 'SELECT count(*) FROM uds.tasks'), 0, 'nothing was queued');
is($plain->safe_psql('postgres', 'SELECT launcher_pid IS NULL, workers, queued FROM uds_health()'),
	't|0|0', 'uds_health() says that there is no launcher');
is($plain->safe_psql('postgres', 'SELECT count(*) FROM uds.progress'), 0, 'uds.progress is empty');
$plain->safe_psql('postgres', q{SELECT uds_drop_source('wecom')});
$plain->append_conf('postgresql.conf', "shared_preload_libraries = 'uds'");
create_wecom_source($plain, $mock);
$plain->restart;
is(task_field($plain, sync($plain), 'status'), 'success', 'done as it said, it works');
$plain->stop;

done_testing();
