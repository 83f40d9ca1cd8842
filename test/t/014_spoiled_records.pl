# A record that jsonb cannot hold is set aside by itself, also where its page
# tells how to go on: neither its page nor the run suffers.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $node = new_node();
my $task;

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock);
is(task_field($node, sync($node), 'status'), 'success', 'a first sync');
my $people = $node->safe_psql('postgres', 'SELECT count(*) FROM uds.users WHERE enabled');

foreach my $kind ('nul_escape', 'lone_surrogate')
{
	# users are asked for by department, so the list of these matters most
	foreach my $stream ([ 'department', '*/department/list' ], [ 'user', '*/user/list' ])
	{
		my ($type, $path) = @$stream;

		$mock->control({ faults => [ { kind => $kind, path => $path, index => 0, field => 'name', times => 1 } ] });
		$task = sync($node);
		is(task_field($node, $task, q{status || ', ' || failed}),
			'partial, 1', "$kind in a $type: the task goes on");
		is($node->safe_psql('postgres', "SELECT data_type FROM uds.task_errors WHERE task_id = $task"),
			$type, 'with an error row');
		is($node->safe_psql('postgres', 'SELECT count(*) FROM uds.users WHERE enabled'),
			$people, 'and nobody is lost');
	}
}

done_testing();
