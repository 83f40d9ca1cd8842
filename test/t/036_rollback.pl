# What a rollback takes back, and the one thing that it does not.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSession;
use UdsTest;

my $mock = start_mock(seed => 5, departments => 10, users => 100);
my $node = new_node('uds.http_timeout' => '10min', 'log_min_messages' => 'warning');
my ($task, $before);

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock, guard_percent => 5, guard_min => 1);
my $first = sync($node);

# everything that there is, physical versions included
sub everything
{
	return $node->safe_psql('postgres', q{
		SELECT 'u', xmin, u::text FROM uds.users u
		UNION ALL SELECT 'd', xmin, d::text FROM uds.departments d
		UNION ALL SELECT 'm', xmin, m::text FROM uds.department_members m
		UNION ALL SELECT 'r', xmin, r::text FROM uds.records r
		UNION ALL SELECT 'l', xmin, l::text FROM uds.record_resources l
		UNION ALL SELECT 's', xmin, s::text FROM uds.source_settings s
		UNION ALL SELECT 'x', xmin, x::text FROM uds.source_secrets x
		UNION ALL SELECT 'o', xmin, o::text FROM uds.resources o
		UNION ALL SELECT 't', xmin, t::text FROM uds.tasks t
		ORDER BY 1, 3});
}

# Goes through the queue, and leaves no trace of it.
sub pass_other
{
	sync($node, 'other');
	$node->safe_psql('postgres', q{
		DELETE FROM uds.tasks t USING uds.source_settings s WHERE s.id = t.source_id AND s.name = 'other'});
	return;
}

# Statements in a transaction that is rolled back; that they worked is asserted.
sub rolled_back
{
	my ($sql, $what) = @_;
	my $before = everything();
	my ($code, $out, $err) = $node->psql('postgres', "BEGIN; $sql; ROLLBACK");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($code, 0, "$what: done") or diag $err;
	# what was queued would have begun by then
	pass_other();
	is(everything(), $before, 'and nothing is left of it after a rollback');
	return;
}

# a source that has what the other one has, to let the queue pass
create_wecom_source($node, $mock, name => 'other', match_keys => '{username}', columns => '{nickname}');
pass_other();

rolled_back("SELECT uds_undo($first)", 'uds_undo()');
rolled_back(q{SELECT uds_preview('wecom', wait => false)}, 'uds_preview()');
rolled_back(q{SELECT uds_drop_source('wecom', keep_data => false)}, 'uds_drop_source() with its rows');
rolled_back(q{SELECT uds_drop_source('wecom')}, 'uds_drop_source()');
rolled_back(q{SELECT uds_alter_source('wecom', options => '{"secret": "other"}', enabled => false)}, 'uds_alter_source()');
rolled_back(q{
	CREATE TABLE staff (login text PRIMARY KEY);
	SELECT uds_map_table('staff', 'staff', 'user', 'login', '{"login": "$.username"}')}, 'uds_map_table()');
$node->safe_psql('postgres', q{
	CREATE TABLE staff (login text PRIMARY KEY);
	SELECT uds_map_table('staff', 'staff', 'user', 'login', '{"login": "$.username"}')});
sync($node);
pass_other();
rolled_back(q{SELECT uds_drop_resource('staff')}, 'uds_drop_resource()');

#
# Decisions
#
$node->safe_psql('postgres', q{SELECT uds_drop_source('other')});
$mock->control({ mutate => { seed => 2, percent => 40 } });
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
is(wait_task($node, $task), 'blocked', 'so many would go that a task is blocked');
$before = everything();
$node->safe_psql('postgres', "BEGIN; SELECT uds_approve($task); ROLLBACK");
is(everything(), $before, 'an approval that is rolled back leaves the task to be decided on');
$node->safe_psql('postgres', "BEGIN; SELECT uds_reject($task); ROLLBACK");
is(everything(), $before, 'so does a rejection');
is(wait_task($node, $node->safe_psql('postgres', "SELECT uds_approve($task)")), 'success', 'it can be approved after that');

#
# The exception: a signal cannot be taken back
#
$mock->control({ faults => [ { kind => 'hang', path => '*/user/list', times => 1 } ] });
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
$mock->wait_for('held');
$node->safe_psql('postgres', "BEGIN; SELECT uds_cancel($task); ROLLBACK");
is(wait_task($node, $task), 'canceled', 'a task that runs is canceled at once, and stays so after a rollback');
$mock->control({ faults => [], release => JSON::PP::true });

$node->stop;
$mock->stop;
done_testing();
