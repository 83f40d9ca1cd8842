# Many databases, few background workers, and who comes first.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSession;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $people = $mock->get_control->{directory}{people};
my $limit = $PostgreSQL::Test::Utils::timeout_default;
my $hang = { kind => 'hang', path => '*/user/list', times => 1 };

# The launchers of logical replication and of uds have one each: one is left
my $node = new_node('uds.http_timeout' => '10min', 'max_worker_processes' => 3);
my ($task, $second, $before);

$node->safe_psql('postgres', 'CREATE DATABASE one');
$node->safe_psql('one', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock, db => 'one');
$node->safe_psql('postgres', 'CREATE DATABASE two TEMPLATE one');
$node->safe_psql('two', 'SELECT uds_arm()');

#
# max_worker_processes is used up
#
$mock->control({ faults => [$hang] });
$task = $node->safe_psql('one', q{SELECT uds_sync('wecom')});
$mock->wait_for('held');
$before = -s $node->logfile;
$second = $node->safe_psql('two', q{SELECT uds_sync('wecom')});
$node->wait_for_log(
	qr/LOG:  uds: could not start a worker, tasks stay queued meanwhile\n.*HINT:  You may need to increase max_worker_processes\./,
	$before);
pass('without a background worker, the log says so and what to set');
is(task_field($node, $second, 'status', 'two'), 'init', 'the task stays queued');
my ($code, $out, $err) = $node->psql('two', q{SELECT uds_sync('wecom', wait => true)});
like($err, qr/ERROR:  could not queue a task of source "wecom": no background worker is free\nHINT:  .* max_worker_processes/,
	'who wants to wait is told the same');

# some more attempts, which is to say some time
is($node->safe_psql('two', "SELECT uds_wait($second, '3 s')"), 'init', 'it stays queued as long as it must');
$mock->control({ faults => [], release => JSON::PP::true });
is(wait_task($node, $task, 'one'), 'success', 'the task that had the worker ends');
is(wait_task($node, $second, 'two'), 'success', 'then the one that was queued runs');
is(task_field($node, $second, 'attempt', 'two'), 1, 'in its first attempt');
is(() = slurp_file($node->logfile, $before) =~ /could not start a worker/g, 1, 'one line in the log was enough');

#
# Fifty databases with a source each
#
$node->adjust_conf('postgresql.conf', 'max_worker_processes', '10');
$node->restart;

my @databases = map { "many$_" } 1 .. 50;
my $is_left = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'uds worker'};

# One session that goes through all databases
sub in_each
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', join("\n", map { "\\connect $_\n$sql" } @databases));
}

poll($node, $is_left, 'no worker is left of before', undef, 0);
$node->safe_psql('postgres', join("\n", map { "CREATE DATABASE $_ TEMPLATE two;" } @databases));
in_each('SELECT uds_arm();');
$before = $mock->get_control->{by_path}{'/wecom/cgi-bin/department/list'};
configure($node, 'uds.max_workers', 3);
in_each(q{SELECT uds_sync('wecom');});
is(in_each("SELECT uds_wait(max(id), '$limit s') FROM uds.tasks;"), join("\n", ('success') x 50), 'fifty databases are all served');
is($mock->get_control->{by_path}{'/wecom/cgi-bin/department/list'} - $before, 50, 'each once');
is(in_each('SELECT count(*) FROM uds.users;'), join("\n", ($people) x 50), 'and have their users');
poll($node, $is_left, 'after that there is no worker', undef, 0);

if ($ENV{UDS_TEST_LONG})
{
	$node->restart;
	in_each(q{SELECT uds_sync('wecom');});
	is(in_each("SELECT uds_wait(max(id), '$limit s') FROM uds.tasks;"), join("\n", ('success') x 50),
		'after a restart they are served again');
}

#
# Oldest first; a source that is disabled
#
$node->safe_psql('one', q{SELECT uds_drop_source('wecom', keep_data => false)});
create_wecom_source($node, $mock, db => 'one', name => $_, match_keys => '{username}') foreach qw(first second third fourth);
configure($node, 'uds.max_workers', 1);
configure($node, 'uds.enabled', 'off');
my %task = map { $_ => $node->safe_psql('one', "SELECT uds_sync('$_')") } qw(third first);
$task{$_} = $node->safe_psql('one', "SELECT uds_sync('$_')") foreach qw(second fourth);
$node->safe_psql('one', q{SELECT uds_alter_source('second', enabled => false)});
configure($node, 'uds.enabled', 'on');
is(wait_task($node, $task{$_}, 'one'), 'success', "the task of the $_ source runs") foreach qw(third first fourth);
is($node->safe_psql('one', qq{
		SELECT string_agg(id::text, ' ' ORDER BY started_at) = string_agg(id::text, ' ' ORDER BY id)
		FROM uds.tasks WHERE status = 'success' AND id IN ($task{third}, $task{first}, $task{fourth})}),
	't', 'the oldest first');
is(wait_task($node, $task{second}, 'one'), 'canceled', 'that of a source that was disabled meanwhile does not');
is(task_field($node, $task{second}, 'message', 'one'), 'the source is disabled', 'and says why');
($code, $out, $err) = $node->psql('one', q{SELECT uds_sync('second')});
like($err, qr/ERROR:  source "second" is disabled\nHINT:  Enable it with uds_alter_source\('second', enabled => true\)/,
	'nor can another one be queued');
$node->safe_psql('one', q{SELECT uds_alter_source('second', enabled => true)});
is(task_field($node, sync($node, 'second', 'one'), 'status', 'one'), 'success', 'until it is enabled again');

#
# SIGHUP: the launcher takes new settings (uds.max_workers above), and so does a
# worker in the middle of a task
#
$mock->control({
	faults => [$hang],
	edit => { people => { 'li.na' => { title => 'Somebody else' } } } });
$before = $mock->get_control->{held};
my $running = $node->safe_psql('one', q{SELECT uds_sync('first')});
$mock->wait_for('held', $before + 1);
configure($node, 'uds.history_retention', '0');
$mock->control({ faults => [], release => JSON::PP::true });
is(wait_task($node, $running, 'one'), 'success', 'a task runs while settings change');
is(task_field($node, $running, 'updated', 'one'), 1, 'it changes a row');
is($node->safe_psql('one', "SELECT count(*) FROM uds.changes WHERE task_id = $running"),
	0, 'and keeps no history, as was set meanwhile');

$node->stop;
$mock->stop;
done_testing();
