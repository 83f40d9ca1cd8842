# The straight line: a directory comes in, and a second sync writes nothing.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $node = new_node();

# what the directory holds, as the mock tells it
my $directory = $mock->get_control->{directory};

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock);

my $task = sync($node);
is(task_field($node, $task, 'status'), 'success', 'the first sync succeeds');
is(task_field($node, $task, 'complete'), 't', 'it saw everything');
is($node->safe_psql('postgres', 'SELECT count(*) FROM uds.departments'),
	$directory->{departments}, 'all departments are there');
is($node->safe_psql('postgres', 'SELECT count(*) FROM uds.users'),
	$directory->{people}, 'all users are there');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM uds.department_members'),
	'>=', 1, 'they are members of departments');
is($node->safe_psql('postgres', 'SELECT count(*) FROM uds.departments WHERE parent_id IS NULL'),
	1, 'the departments are one tree');
is($node->safe_psql('postgres', 'SELECT count(*) FROM uds.task_errors'), 0, 'no record was set aside');
cmp_ok(task_field($node, $task, 'created'),
	'==', $directory->{departments} + $directory->{people}, 'the task counts what it created');

# row versions of everything that a sync may write
my $versions = q{
	SELECT 'user', id::text, xmin::text, ctid::text FROM uds.users
	UNION ALL
	SELECT 'department', id::text, xmin::text, ctid::text FROM uds.departments
	UNION ALL
	SELECT 'member', department_id || ':' || user_id, xmin::text, ctid::text FROM uds.department_members
	UNION ALL
	SELECT 'record', id::text, xmin::text, ctid::text FROM uds.records
	ORDER BY 1, 2};
my $before = $node->safe_psql('postgres', $versions);

my $second = sync($node);
isnt($second, $task, 'the second sync is a task of its own');
is(task_field($node, $second, 'status'), 'success', 'the second sync succeeds');
is(task_field($node, $second, 'created + updated + deleted + disabled + enabled + linked + unlinked'),
	0, 'it counts no change');
is($node->safe_psql('postgres', $versions), $before, 'it leaves every row as it was');

# queued and waited for apart
my $third = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
is(wait_task($node, $third), 'success', 'a sync in the background succeeds');

$node->stop;
$mock->stop;
done_testing();
