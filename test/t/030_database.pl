# Commands that need a database to themselves, while a worker is in it whose
# transfer hangs: they get it, and tasks go on after them.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSession;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $node = new_node('uds.http_timeout' => '10min', 'log_min_messages' => 'warning');

# Queues a task in a database and returns when its transfer hangs.
sub hanging_task
{
	my ($db) = @_;

	$mock->control({ faults => [ { kind => 'hang', path => '*/user/list', times => 1 } ] });
	my $id = $node->safe_psql($db, q{SELECT uds_sync('wecom')});
	$mock->wait_for('held');
	return $id;
}

sub release
{
	$mock->control({ faults => [], release => JSON::PP::true });
	return;
}

# A database with the extension and a source
sub make_database
{
	my ($name) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION uds');
	create_wecom_source($node, $mock, db => $name);
	return;
}

# Runs a command that must be through within 3 s.
sub in_time
{
	my ($command, $what) = @_;
	my ($code, $out, $err) = $node->psql('postgres', "SET statement_timeout = '3s'; $command");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($err, '', $what);
	return;
}

#
# ALTER DATABASE ... RENAME
#
make_database('one');
my $task = hanging_task('one');
in_time('ALTER DATABASE one RENAME TO two', 'a database is renamed while a transfer hangs in it');
is(wait_task($node, $task, 'two'), 'success', 'its task goes on by itself after that');
is(task_field($node, $task, 'attempt', 'two'), 2, 'in its second attempt');
release();

# a command that fails opens the database again
$task = hanging_task('two');
my ($code, $out, $err) = $node->psql('postgres', 'ALTER DATABASE two RENAME TO postgres');
like($err, qr/already exists/, 'a rename that fails');
is(wait_task($node, $task, 'two'), 'success', 'leaves the database to its workers again');
release();

#
# CREATE DATABASE ... TEMPLATE
#
$task = hanging_task('two');
in_time('CREATE DATABASE copy TEMPLATE two', 'a database is copied while a transfer hangs in it');
is(wait_task($node, $task, 'two'), 'success', 'the task of the one that was copied goes on');
release();

#
# who may not, ends nobody's worker
#
$node->safe_psql('postgres', 'CREATE ROLE stranger LOGIN CREATEDB');
$task = hanging_task('two');
foreach my $command ('DROP DATABASE two', 'ALTER DATABASE two RENAME TO three', 'CREATE DATABASE more TEMPLATE two')
{
	($code, $out, $err) = $node->psql('postgres', "SET ROLE stranger; $command");
	like($err, qr/must be owner|permission denied/, "a stranger's $command is refused");
}
release();
is(wait_task($node, $task, 'two'), 'success', 'and the task was not disturbed');
is(task_field($node, $task, 'attempt', 'two'), 1, 'in its only attempt');

#
# a session of people is in the way, as ever
#
my $session = start_sql($node, 'two', q{SELECT pg_advisory_lock(1), pg_sleep(600)});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND granted})
  or die 'the session did not start';
($code, $out, $err) = $node->psql('postgres', 'DROP DATABASE two');
like($err, qr/is being accessed by other users/, 'a session of somebody else is in the way, as ever');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'});
$session->finish;
is(task_field($node, sync($node, 'wecom', 'two'), 'status', 'two'), 'success', 'syncs go on after that');

#
# DROP DATABASE
#
hanging_task('two');
in_time('DROP DATABASE two', 'a database is dropped while a transfer hangs in it');
release();
$node->poll_query_until('copy', 'SELECT workers = 0 FROM uds_health()') or die 'a worker is left behind';
pass('no slot is left behind');

# another one than that in which it hangs
make_database('three');
$task = hanging_task('three');
in_time('DROP DATABASE copy', 'another database is dropped while a transfer hangs');
release();
is(wait_task($node, $task, 'three'), 'success', 'which does not mind');
is(task_field($node, $task, 'attempt', 'three'), 1, 'in its only attempt');

$node->stop;
$mock->stop;
done_testing();
