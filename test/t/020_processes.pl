# Launcher, workers and waiting: when a task begins, how many run at a time, and
# what can be seen of it.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSession;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $other_mock = start_mock(tiny => 1);
my $directory = $mock->get_control->{directory};
my $node = new_node(
	'uds.http_timeout' => '10min',
	'log_min_messages' => 'warning',
	'max_prepared_transactions' => 2);

my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'uds worker'};
my $hang = { kind => 'hang', path => '*/department/list', times => 1 };
my ($task, $second, $third, $session);

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
# both bring the same people
create_wecom_source($node, $mock, match_keys => '{username}');
create_wecom_source($node, $other_mock, name => 'other', match_keys => '{username}');

# what a source without waiting tasks needs to go through the queue
sub pass_other
{
	return sync($node, 'other');
}

sub requests
{
	return $mock->get_control->{requests};
}

#
# The transaction that queued a task decides about it
#
my $queuing = $node->background_psql('postgres');
$queuing->query_safe('BEGIN');
$task = $queuing->query_safe(q{SELECT uds_sync('wecom')});
pass_other();
is(requests(), 0, 'a task does not begin before its transaction commits');
$queuing->query_safe('ROLLBACK');
pass_other();
is($node->safe_psql('postgres', "SELECT count(*) FROM uds.tasks WHERE id = $task"),
	0, 'after a rollback there is no task');
is(requests(), 0, 'and nothing is read');

$queuing->query_safe('BEGIN');
$queuing->query_safe('SAVEPOINT before');
$queuing->query_safe(q{SELECT uds_sync('wecom')});
$queuing->query_safe('ROLLBACK TO before');
$queuing->query_safe('COMMIT');
pass_other();
is(requests(), 0, 'nor after a rollback to a savepoint');

$queuing->query_safe('BEGIN');
$task = $queuing->query_safe(q{SELECT uds_sync('wecom')});
$queuing->query_safe('COMMIT');
is(wait_task($node, $task), 'success', 'a committed task begins');
$queuing->quit;

my ($code, $stdout, $stderr) =
  $node->psql('postgres', q{BEGIN; SELECT uds_sync('wecom'); PREPARE TRANSACTION 'queued'});
isnt($code, 0, 'a transaction that queued a task cannot be prepared');
like($stderr, qr/cannot PREPARE a transaction that has queued/, 'and says why');

#
# wait => true: on its own, whatever becomes of the caller's transaction
#
$node->safe_psql('postgres', q{DELETE FROM uds.users; DELETE FROM uds.departments;
	DELETE FROM uds.records; DELETE FROM uds.record_resources});
$task = $node->safe_psql('postgres', q{
	SET client_min_messages = warning;
	BEGIN;
	SELECT uds_sync('wecom', wait => true);
	ROLLBACK});
is(task_field($node, $task, 'status'), 'success', 'a task that was waited for stays after a rollback');
is($node->safe_psql('postgres', 'SELECT count(*) FROM uds.users'),
	$directory->{people}, 'and so does what it wrote');
is(task_field($node, $task, 'requested_by = current_user'), 't', 'it knows on whose behalf it ran');

$task = $node->safe_psql('postgres', q{
	BEGIN ISOLATION LEVEL REPEATABLE READ;
	SELECT count(*) FROM uds.tasks;
	SELECT uds_wait(uds_sync('other', wait => true));
	COMMIT});
like($task, qr/^success$/m, 'the end of a task is seen through an old snapshot');

#
# While a transfer hangs
#
$mock->control({ add_faults => [$hang] });
my $notices = start_sql($node, 'postgres', q{SELECT uds_sync('wecom', wait => true)});
$mock->wait_for('held');
my ($pid, $source);
ok($node->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM uds.progress WHERE phase = 'fetching' AND requests_done >= 1}),
	'uds.progress shows the running task');
($task, $source, $pid) = split /\|/,
  $node->safe_psql('postgres', 'SELECT task_id, source, pid FROM uds.progress');
is($source, 'wecom', 'it names the source');
is($node->safe_psql('postgres',
		q{SELECT requests_total >= requests_done AND started_at <= clock_timestamp() FROM uds.progress}),
	't', 'it tells how far the task has come');
is(task_field($node, $task, 'status'), 'processing', 'its task is being processed');
poll($node, qq{
	SELECT backend_xmin IS NULL AND backend_xid IS NULL AND xact_start IS NULL AND state = 'idle'
	FROM pg_stat_activity WHERE pid = $pid},
	'a worker whose transfer hangs has no transaction and no snapshot');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE pid = $pid"),
	0, 'and holds no lock');
is($node->safe_psql('postgres', qq{
		SELECT backend_type, application_name, datname, wait_event_type
		FROM pg_stat_activity WHERE pid = $pid}),
	'uds worker|uds worker|postgres|Extension', 'pg_stat_activity tells what the process is');
ok($notices->until_error_output(qr/NOTICE:  uds task $task: fetching, \d+ of \d+ requests, 0 records/),
	'who waits is told of the progress');
is($mock->get_control->{held}, 1, 'all this while the transfer hung');

# the source has one running task: a second one waits, a third one is the second
$second = $node->safe_psql('postgres', q{SELECT uds_sync('wecom', mode => 'incremental')});
isnt($second, $task, 'a second task is queued behind the one that runs');
pass_other();
is(task_field($node, $second, 'status'), 'init', 'it waits');
is(task_field($node, $second, 'mode, force'), 'incremental|f', 'with the mode asked for');
is($node->safe_psql('postgres', q{SELECT uds_sync('wecom', mode => 'full')}),
	$second, 'a third call returns the waiting task');
is(task_field($node, $second, 'mode, force'), 'full|f', 'made stronger in its mode');
is($node->safe_psql('postgres', q{SELECT uds_sync('wecom', force => true)}),
	$second, 'so does a fourth');
is(task_field($node, $second, 'mode, force'), 'full|t', 'made stronger by force, its mode kept');
$session = start_sql($node, 'postgres', q{SELECT uds_sync('wecom', mode => 'incremental', wait => true)});
ok($session->until_error_output(qr/NOTICE:  uds task $second: joined/), 'a call that waits joins it');
is(task_field($node, $second, 'mode, force'), 'full|t', 'and makes it no weaker');

# uds_health, uds_wait
is($node->safe_psql('postgres', q{
		SELECT h.workers, h.queued, h.running,
			   h.oldest_queued = (SELECT min(created_at) FROM uds.tasks WHERE status = 'init')
		FROM uds_health() AS h
		JOIN pg_stat_activity a ON a.pid = h.launcher_pid AND a.backend_type = 'uds launcher'}),
	'1|1|1|t', 'uds_health() counts');
is($node->safe_psql('postgres', "SELECT uds_wait($task, '100 ms'), uds_wait($second, '0')"),
	'processing|init', 'uds_wait() tells the status so far at its timeout');

$mock->control({ release => JSON::PP::true });
ok($notices->finish, 'the first call returns when its task has ended');
is($notices->out, $task, 'with the id of its task');
ok($session->finish, 'so does the one that joined');
is($session->out, $second, 'with the id of the task that it joined');
is($node->safe_psql('postgres', qq{
		SELECT a.status, b.status, b.started_at >= a.finished_at
		FROM uds.tasks a, uds.tasks b WHERE a.id = $task AND b.id = $second}),
	'success|success|t', 'the second task began after the end of the first');

#
# uds_wait
#
($code, $stdout, $stderr) = $node->psql('postgres', 'SELECT uds_wait(987654321)');
like($stderr, qr/ERROR:  task 987654321 does not exist/, 'there is no waiting for an unknown task');
($code, $stdout, $stderr) = $node->psql('postgres',
	q{BEGIN; SELECT uds_sync('wecom') AS task \gset
	SELECT uds_wait(:task)});
like($stderr, qr/ERROR:  cannot wait for task \d+: this transaction queued it\nHINT:  .*commits/s,
	'nor for one that the same transaction queued');

#
# A failed task
#
$mock->control({ add_faults => [ { kind => 'errcode', code => 40013, path => '*/department/list', times => 1 } ] });
($code, $stdout, $stderr) = $node->psql('postgres', q{SELECT uds_sync('wecom', wait => true)});
isnt($code, 0, 'uds_sync raises an error when the task it waits for fails');
$task = $node->safe_psql('postgres', 'SELECT max(id) FROM uds.tasks');
is(task_field($node, $task, 'status'), 'failed', 'the task has failed');
my $message = task_field($node, $task, 'message');
like($stderr, qr/ERROR:  task $task \(sync of source "wecom"\) failed: \Q$message\E/,
	'the error has the message of the task');
is($node->safe_psql('postgres', 'SELECT last_error FROM uds_health()'),
	$message, 'and uds_health() has it too');
$second = $node->safe_psql('postgres', "SELECT uds_retry($task)");
is(wait_task($node, $second), 'success', 'uds_retry() runs it again');
is(task_field($node, $second, 'retry_of'), $task, 'as a task that knows of which');

#
# uds.enabled
#
poll($node, $workers, 'no worker is left', undef, 0);
configure($node, 'uds.enabled', 'off');
my $before = requests();
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
$session = start_sql($node, 'postgres', q{SET statement_timeout = '2s'},
	q{SELECT uds_sync('other', wait => true)});
ok($session->until_error_output(qr/NOTICE:  uds\.enabled is off/),
	'who waits is told that tasks do not begin');
ok(!$session->finish, 'a statement timeout ends the waiting');
poll($node, q{SELECT status = 'canceled' FROM uds.tasks ORDER BY id DESC LIMIT 1},
	'and cancels the task');
is(task_field($node, $task, 'status'), 'init', 'while uds.enabled is off a task waits');
is(requests(), $before, 'and nothing is read');
configure($node, 'uds.enabled', 'on');
is(wait_task($node, $task), 'success', 'it begins when uds.enabled is on again');

$mock->control({ add_faults => [$hang] });
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
$mock->wait_for('held');
configure($node, 'uds.enabled', 'off');
$second = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
$mock->control({ release => JSON::PP::true });
is(wait_task($node, $task), 'success', 'a task that runs when uds.enabled is set off goes on');
poll($node, $workers, 'its worker ends after it', undef, 0);
is(task_field($node, $second, 'status'), 'init', 'what is queued stays queued');
configure($node, 'uds.enabled', 'on');
is(wait_task($node, $second), 'success', 'until it is on again');

#
# Several databases, "plain" without the extension; and uds.max_workers
#
my @databases = qw(first second third);
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach @databases, 'plain';
foreach my $db (@databases)
{
	$node->safe_psql($db, 'CREATE EXTENSION uds');
	create_wecom_source($node, $mock, db => $db);
}

configure($node, 'uds.max_workers', 1);
$mock->control({ latency_ms => 20 });
my %task;
$task{$_} = $node->safe_psql($_, q{SELECT uds_sync('wecom')}) foreach @databases;
is(wait_task($node, $task{$_}, $_), 'success', "database $_ is served") foreach @databases;
is($node->safe_psql($_, 'SELECT count(*) FROM uds.users'), $directory->{people}, "$_ has its users")
  foreach @databases;
my @times = sort { $a->[0] <=> $b->[0] } map {
	[ split /\|/, task_field($node, $task{$_}, 'extract(epoch FROM started_at), extract(epoch FROM finished_at)', $_) ]
} @databases;
ok($times[0][1] <= $times[1][0] && $times[1][1] <= $times[2][0],
	'one after the other with uds.max_workers = 1');

# a database with much to do does not keep the only worker from another
$mock->control({ latency_ms => 0, add_faults => [$hang] });
$task = $node->safe_psql('first', q{SELECT uds_sync('wecom')});
$mock->wait_for('held');
$third = $node->safe_psql('first', q{SELECT uds_sync('wecom')});
$second = $node->safe_psql('second', q{SELECT uds_sync('wecom')});
is($node->safe_psql('postgres', 'SELECT workers FROM uds_health()'), 1, 'one worker runs');
is(task_field($node, $second, 'status', 'second'), 'init', 'the second database waits for it');
$mock->control({ release => JSON::PP::true });
is(wait_task($node, $_->[1], $_->[0]), 'success', "task $_->[1] of database $_->[0] gets its turn")
  foreach [ 'first', $task ], [ 'second', $second ], [ 'first', $third ];

# upwards at once, while the one worker is busy
$mock->control({ add_faults => [ { %$hang, times => 3 } ] });
$task{$_} = $node->safe_psql($_, q{SELECT uds_sync('wecom')}) foreach @databases;
$mock->wait_for('held', 1);
configure($node, 'uds.max_workers', 3);
$mock->wait_for('held', 3);
is($node->safe_psql('postgres', $workers), 3, 'three workers with uds.max_workers = 3');
is($node->safe_psql('postgres', 'SELECT workers, queued, running FROM uds_health()'),
	'3|0|0', 'uds_health() counts workers of the server, tasks of the database');
is($node->safe_psql('second', 'SELECT count(*), min(task_id) FROM uds.progress'),
	"1|$task{second}", 'uds.progress shows tasks of the database only');
$mock->control({ release => JSON::PP::true });
is(wait_task($node, $task{$_}, $_), 'success', "the task of database $_ ends") foreach @databases;

#
# Idle
#
poll($node, $workers, 'idle databases have no worker', undef, 0);
is($node->safe_psql('postgres', 'SELECT workers, queued, running FROM uds_health()'),
	'0|0|0', 'and no slot is taken');
is($node->safe_psql('postgres', q{
		SELECT count(*) FROM pg_stat_activity
		WHERE backend_type LIKE 'uds%' AND backend_type <> 'uds launcher' OR application_name LIKE 'uds%'}),
	0, 'nor is there any other process but the launcher');

# at its start the server looks into every database once, those without the
# extension too
my $log = -s $node->logfile;
$node->restart;
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
is(wait_task($node, $task), 'success', 'tasks run after a restart');
poll($node, $workers, 'and idle means no worker again', undef, 0);
$node->safe_psql('postgres', 'DROP DATABASE plain');
pass('a database without the extension can be dropped');
unlike(slurp_file($node->logfile, $log), qr/\bERROR:|exited with exit code [^01]/,
	'and nothing of it is an error in the log');

# the launcher is started again when it ends
my $launcher = $node->safe_psql('postgres', 'SELECT launcher_pid FROM uds_health()');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
is(wait_task($node, $task), 'success', 'a launcher that was ended comes back and finds what is queued');
isnt($node->safe_psql('postgres', 'SELECT launcher_pid FROM uds_health()'), $launcher, 'as a new process');

#
# No background worker is free: the launcher and that of logical replication
# take two
#
poll($node, $workers, 'idle again', undef, 0);
$node->append_conf('postgresql.conf', 'max_worker_processes = 2');
$log = -s $node->logfile;
$node->restart;
($code, $stdout, $stderr) = $node->psql('postgres', q{SELECT uds_sync('wecom', wait => true)});
like($stderr,
	qr/ERROR:  could not queue a task of source "wecom": no background worker is free\nHINT:  .*max_worker_processes/,
	'who wants to wait for a task is told what to set');
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
ok($node->wait_for_log(qr/LOG:  uds: could not start a worker.*HINT:  .*max_worker_processes/s, $log),
	'so is the log');
is(task_field($node, $task, 'status'), 'init', 'a task stays queued');
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->restart;
is(wait_task($node, $task), 'success', 'and runs as soon as it can');

$node->stop;
done_testing();
