# Undo of what was read: a sync, an approval, and the undo of these.  Rows,
# memberships, records and links are as they were, and the next sync does it
# again.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsState;
use UdsTest qw(:DEFAULT query);

my $mock = start_mock(seed => 7, departments => 12, users => 80);
my $node = new_node();

# what a task counts, which is all that it did
sub counts
{
	my ($task) = @_;

	return task_field($node, $task,
		q{format('%s created, %s updated, %s enabled, %s disabled, %s deleted, %s linked, %s unlinked, %s failed',
			created, updated, enabled, disabled, deleted, linked, unlinked, failed)});
}

sub undo
{
	my ($task) = @_;

	return query("SET client_min_messages = warning; SELECT uds_undo($task, wait => true)");
}

# who($n): the username of the n-th enabled person that a sync made
sub who
{
	my ($n) = @_;

	return query("SELECT username FROM uds.users WHERE enabled AND username NOT LIKE 'new.%' ORDER BY id LIMIT 1 OFFSET $n");
}

my $nothing = '0 created, 0 updated, 0 enabled, 0 disabled, 0 deleted, 0 linked, 0 unlinked, 0 failed';

query('CREATE EXTENSION uds');
create_wecom_source($node, $mock, guard_percent => 100);

#
# The very first sync
#
my $first = sync($node);
my $state = state_now();
my $first_counts = counts($first);
my $undo = undo($first);

is(task_field($node, $undo, 'status'), 'success', 'the first sync can be undone');
is(rows_now(), '', 'nothing of it is left, no row and no record behind one');
my $redo = undo($undo);
is(task_field($node, $redo, 'status'), 'success', 'that can be undone as well');
is(state_now(), $state, 'everything is there again, in the same rows');
is(counts(sync($node)), $nothing, 'a sync has nothing to do then');
undo($redo);
is(rows_now(), '', 'and once more nothing is left');
is(counts(sync($node)), $first_counts, 'the next sync does it all again');

#
# A sync of many kinds of changes
#
my @gone = map { who($_) } 0 .. 2;

query("INSERT INTO uds.departments (title) VALUES ('by hand')");
query("INSERT INTO uds.department_members (department_id, user_id)
	SELECT d.id, u.id FROM uds.departments d, uds.users u WHERE d.title = 'by hand' AND u.username IN ('$gone[0]', '" . who(5) . "')");
my $before = state_now();
$mock->control(
	{
		mutate => { seed => 1, percent => 30 },
		edit => {
			people => { (map { $_ => undef } @gone), 'new.one' => { name => 'New One', departments => [1] } },
			departments => { 4 => { name => 'Renamed' } } }
	});
my $task = sync($node);
my $after = state_now();
my $directory_after = directory_now();
my $task_counts = counts($task);

isnt($after, $before, 'a directory changes');
cmp_ok(task_field($node, $task, 'disabled'), '>=', 3, 'people leave');
cmp_ok(task_field($node, $task, 'least(created, updated, linked, unlinked)'), '>=', 1, 'come, change and move');
$undo = undo($task);
is(task_field($node, $undo, q{status || ', ' || failed}), 'success, 0', 'the sync is undone');
is(state_now(), $before, 'all is as before, to the id, with what was made by hand');

my $again = sync($node);
is(counts($again), $task_counts, 'the next sync does the same again');
is(directory_now(), $directory_after, 'with the same result');

$after = state_now();
$undo = undo($again);
is(state_now(), $before, 'undone again');
$redo = undo($undo);
is(state_now(), $after, 'the undo is undone: the same rows, records and links');
is(counts(sync($node)), $nothing, 'and a sync has nothing to do');
my (undef, undef, $err) = $node->psql('postgres', "SELECT uds_undo($again)");
like($err, qr/ERROR:  task $again was undone already, by task $undo/, 'what was undone is not undone twice');

#
# Leavers that are deleted
#
query(q{SELECT uds_alter_source('wecom', on_missing => 'delete')});
my $leaver = who(5);
$before = state_now();
$mock->control({ edit => { people => { $leaver => undef } } });
$task = sync($node);
is(query("SELECT count(*) FROM uds.users WHERE username = '$leaver'"), 0, 'a leaver is deleted');
$undo = undo($task);
is(state_now(), $before, 'the undo brings the row back, with its id and the membership made by hand');
undo($undo);
is(query("SELECT count(*) FROM uds.users WHERE username = '$leaver'"), 0, 'and the undo of that deletes it again');
is(counts(sync($node)), $nothing, 'as the source says');

#
# An approval
#
query(q{SELECT uds_alter_source('wecom', on_missing => 'disable', guard_percent => 1, guard_min => 0)});
$before = state_now();
# one after the other: who is gone cannot be removed
$mock->control({ edit => { people => { who(1) => undef, who(3) => undef, who(6) => undef } } });
$mock->control({ mutate => { seed => 2, percent => 40 } });
$task = query(q{SELECT uds_sync('wecom')});
is(wait_task($node, $task), 'blocked', 'a sync is blocked');
(undef, undef, $err) = $node->psql('postgres', "SELECT uds_undo($task)");
like($err, qr/ERROR:  .*task $task/, 'there is nothing of it to undo');
my $approval = query("SET client_min_messages = warning; SELECT uds_approve($task, wait => true)");
$after = state_now();
isnt($after, $before, 'approved it is applied');
$undo = undo($approval);
is(task_field($node, $undo, q{status || ', ' || failed}), 'success, 0', 'the approval is undone');
is(state_now(), $before, 'all is as before');

# the records are as before too, so the guard stands before it again
$again = query(q{SELECT uds_sync('wecom')});
is(wait_task($node, $again), 'blocked', 'the next sync wants to do it again, and is blocked again');
is(state_now(), $before, 'which changes nothing');
$redo = undo($undo);
is(state_now(), $after, 'the undo of the approval is undone');
is(counts(sync($node)), $nothing, 'and a sync has nothing to do');

#
# What was changed since is left alone
#
query(q{SELECT uds_alter_source('wecom', guard_percent => 100)});
my $person = who(0);
my $other = who(1);
$mock->control({ edit => { people => { $person => { title => 'Captain' }, $other => { title => 'Pilot' } } } });
$task = sync($node);
query("UPDATE uds.users SET title = 'Admiral' WHERE username = '$person'");
$undo = undo($task);
is(task_field($node, $undo, q{status || ', ' || updated || ', ' || failed}), 'partial, 1, 1', 'an undo over a change by hand is partial');
is(query("SELECT title FROM uds.users WHERE username = '$person'"), 'Admiral', 'the change stays');
is(query("SELECT count(*) FROM uds.users WHERE username = '$other' AND title = 'Pilot'"), 0, 'the rest is undone');
is(query("SELECT uid || ' ' || message FROM uds.task_errors WHERE task_id = $undo"), "$person changed since, left alone", 'and it is said');

sync($node);
is(query("SELECT count(*) FROM uds.users WHERE username IN ('$person', '$other') AND title IN ('Captain', 'Pilot')"),
	2, 'the next sync does it again');

$node->stop;
done_testing();
