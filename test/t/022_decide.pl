# A blocked task is decided on once: approved or rejected, never both.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSession;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $node = new_node();
my ($stdout, $stderr);

# Somebody leaves.
sub remove
{
	my ($person) = @_;

	$mock->control({ edit => { people => { $person => undef } } });
	return;
}

# Syncs, which the guard blocks; returns the task.
sub blocked_task
{
	my $task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
	is(wait_task($node, $task), 'blocked', 'a task that would disable somebody is blocked');
	return $task;
}

# Asserts that both decisions on a task raise this.
sub decided
{
	my ($task, $message) = @_;

	foreach my $decision ('uds_approve', 'uds_reject')
	{
		(undef, $stdout, $stderr) = $node->psql('postgres', "SELECT $decision($task)");
		like($stderr, $message, "$decision() after that");
	}
	return;
}

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock);
is(task_field($node, sync($node), 'status'), 'success', 'a first sync');
$node->safe_psql('postgres', q{SELECT uds_alter_source('wecom', guard_min => 0, guard_percent => 0)});
my $enabled = 'SELECT count(*) FROM uds.users WHERE enabled';
my $people = $node->safe_psql('postgres', $enabled);

remove('li.na');
my $task = blocked_task();
$node->safe_psql('postgres', "SELECT uds_reject($task)");
is(task_field($node, $task, 'status'), 'canceled', 'a rejected task is canceled');
decided($task, qr/ERROR:  task $task \(sync\) waits for no decision: its status is "canceled"/);

$task = blocked_task();
my $approval = $node->safe_psql('postgres', "SELECT uds_approve($task, wait => true)");
is(task_field($node, $approval, 'status'), 'success', 'an approved task is applied');
is($node->safe_psql('postgres', $enabled), $people - 1, 'by the approval');
decided($task, qr/ERROR:  task $task was approved already, as task $approval/);

# two who decide at the same time
remove('anna.keller');
$task = blocked_task();
my $first = $node->background_psql('postgres');
$first->query_safe("BEGIN; SELECT uds_approve($task)");
my $second = start_sql($node, 'postgres', "SELECT uds_reject($task)");
poll($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'session' AND wait_event_type = 'Lock'},
	'who decides second waits for the first');
$first->query_safe('COMMIT');
$first->quit;
ok(!$second->finish, 'and comes too late');
like($second->err, qr/ERROR:  task $task was approved already/, 'as the error says');

done_testing();
