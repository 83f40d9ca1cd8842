# Looking before writing: previews, the guard, approvals and rejections; a
# blocked task is decided on once.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSession;
use UdsTest qw(:DEFAULT query);

my $mock = start_mock(seed => 5, departments => 20, users => 200);
my $node = new_node('log_min_messages' => 'warning');

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock, guard_percent => 5);
sync($node);

# what a reader sees, xmin included: nothing may have been written
sub rows
{
	return $node->safe_psql('postgres', q{
		SELECT 'u', xmin, id, username, enabled, main_department_id FROM uds.users
		UNION ALL SELECT 'd', xmin, id, title, enabled, parent_id FROM uds.departments
		UNION ALL SELECT 'm', xmin, user_id, NULL, is_owner, department_id FROM uds.department_members
		UNION ALL SELECT 'r', xmin, id, uid, deleted, NULL FROM uds.records
		ORDER BY 1, 3, 6});
}

sub fails_like
{
	my ($sql, $pattern, $what, $db) = @_;
	my ($ret, $out, $err) = $node->psql($db // 'postgres', $sql);

	isnt($ret, 0, "$what: ERROR");
	like($err, $pattern, "$what: says why");
	return;
}

#
# Preview
#
my $before = rows();
$mock->control({ mutate => { seed => 1, percent => 5 } });
my $preview = query(q{SELECT uds_preview('wecom')});
is(task_field($node, $preview, 'status'), 'success', 'a preview ends as success');
is(task_field($node, $preview, 'kind'), 'preview', 'and is of its own kind');
is(rows(), $before, 'it writes no row of the targets and no record');
my $shown = query("SELECT count(*) FROM uds.changes WHERE task_id = $preview AND NOT applied");
cmp_ok($shown, '>', 0, 'its change set is there to be read');
is(query("SELECT count(*) FROM uds.changes WHERE task_id = $preview AND applied"), 0, 'none of it applied');
fails_like("SELECT uds_reject($preview)", qr/waits for no decision: its status is "success"/,
	'a preview cannot be rejected');

my $approval = query("SET client_min_messages = warning; SELECT uds_approve($preview, wait => true)");
is(task_field($node, $approval, 'status'), 'success', 'it can be approved');
is(task_field($node, $approval, 'requests'), 0, 'and is applied from the pages already fetched');
is(query("SELECT count(*) FROM uds.changes WHERE task_id = $approval AND applied"), $shown,
	'what was shown is what was done');
isnt(rows(), $before, 'now the rows are written');
fails_like("SELECT uds_approve($preview)", qr/was approved already, as task $approval/,
	'it is approved once');

$before = rows();
my $again = sync($node);
is(task_field($node, $again, 'created + updated + enabled + disabled + deleted + linked + unlinked'), 0,
	'a sync after that has nothing to do');
is(rows(), $before, 'and writes nothing');

#
# Guard
#
$mock->control({ mutate => { seed => 2, percent => 40 } });
my ($ret, $out, $err) = $node->psql('postgres', q{SELECT uds_sync('wecom', wait => true)});
isnt($ret, 0, 'a sync that would disable too many is an ERROR');
like($err, qr/was blocked: \d+ of \d+ enabled users would be disabled or deleted/, 'which says why');
my $blocked = query('SELECT max(id) FROM uds.tasks');
is(task_field($node, $blocked, 'status'), 'blocked', 'its task is blocked');
is(rows(), $before, 'it wrote nothing');
cmp_ok(query("SELECT count(*) FROM uds.changes WHERE task_id = $blocked AND action = 'disable' AND NOT applied"),
	'>', 10, 'its change set says who would go');

query("SELECT uds_reject($blocked)");
is(task_field($node, $blocked, 'status'), 'canceled', 'rejected it is canceled');
fails_like("SELECT uds_approve($blocked)", qr/waits for no decision: its status is "canceled"/,
	'and cannot be approved any more');

# the same again, but meanwhile somebody changes a row that it would change
$node->psql('postgres', q{SELECT uds_sync('wecom', wait => true)});
$blocked = query('SELECT max(id) FROM uds.tasks');
my $touched = query("SELECT pk FROM uds.changes WHERE task_id = $blocked AND resource = 'users' AND action = 'update' ORDER BY seq LIMIT 1");
query("UPDATE uds.users SET nickname = 'by hand' WHERE id = $touched");
$before = rows();
fails_like("SELECT uds_approve($blocked, wait => true)",
	qr/was blocked: what was approved would come out differently now/, 'an approval of what is no longer so');
my $stale = query('SELECT max(id) FROM uds.tasks');
is(task_field($node, $stale, 'status'), 'blocked', 'blocks again');
is(rows(), $before, 'and writes nothing');
$approval = query("SET client_min_messages = warning; SELECT uds_approve($stale, wait => true)");
is(task_field($node, $approval, 'status'), 'success', 'its fresh change set can be approved');
is(query("SELECT nickname = 'by hand' FROM uds.users WHERE id = $touched"), 'f',
	'and is applied, guard or not');

# forced, and without history
$mock->control({ mutate => { seed => 3, percent => 40 } });
query('ALTER SYSTEM SET uds.history_retention = 0');
query('SELECT pg_reload_conf()');
$node->poll_query_until('postgres', q{SELECT current_setting('uds.history_retention') = '0'});
my $forced = query(q{SET client_min_messages = warning; SELECT uds_sync('wecom', wait => true, force => true)});
is(task_field($node, $forced, 'status'), 'success', 'force passes the guard');
cmp_ok(task_field($node, $forced, 'disabled'), '>', 10, 'and disables them');
is(query("SELECT count(*) FROM uds.changes WHERE task_id = $forced"), 0,
	'with uds.history_retention = 0 no history is kept');

# pages gone
$mock->control({ mutate => { seed => 4, percent => 5 } });
$preview = query(q{SELECT uds_preview('wecom')});
cmp_ok(query("SELECT count(*) FROM uds.changes WHERE task_id = $preview"), '>', 0,
	'a preview has its change set all the same');
query("DELETE FROM uds.raw_log WHERE task_id = $preview");
fails_like("SELECT uds_approve($preview)", qr/the pages of task $preview are gone/,
	'a preview whose pages are gone');

# retry of the records that were set aside
query(q{ALTER TABLE uds.users ADD CONSTRAINT no_a CHECK (username <> 'retry.me')});
$mock->control({ edit => { people => { 'retry.me' => { name => 'Retry Me', departments => [1] } } } });
my $partial = query(q{SET client_min_messages = warning; SELECT uds_sync('wecom', wait => true)});
is(task_field($node, $partial, 'status'), 'partial', 'a record that the database refuses makes a task partial');
is(query("SELECT uid || ' ' || sqlstate FROM uds.task_errors WHERE task_id = $partial"), 'retry.me 23514',
	'and is set aside');
is(query(q{SELECT count(*) FROM uds.records WHERE uid = 'retry.me'}), 0, 'its record is not taken for known');
query('ALTER TABLE uds.users DROP CONSTRAINT no_a');
my $retry = query("SET client_min_messages = warning; SELECT uds_retry($partial, wait => true)");
is(task_field($node, $retry, 'status'), 'success', 'retried it succeeds');
is(task_field($node, $retry, 'requests'), 0, 'without asking the service again');
is(task_field($node, $retry, 'fetched'), 1, 'for that record alone');
is(query(q{SELECT count(*) FROM uds.users WHERE username = 'retry.me' AND enabled}), 1, 'which is there now');

#
# Approved or rejected, never both, also by two at the same time
#
my $small = start_mock(tiny => 1);
my $enabled = 'SELECT count(*) FROM uds.users WHERE enabled';

# somebody leaves, and the guard blocks the sync; returns the task
sub blocked_task
{
	my ($person) = @_;

	$small->control({ edit => { people => { $person => undef } } }) if defined $person;
	my $task = query(q{SELECT uds_sync('wecom')}, 'once');
	is(wait_task($node, $task, 'once'), 'blocked', 'a task that would disable somebody is blocked');
	return $task;
}

# asserts that both decisions on a task raise this
sub decided
{
	my ($task, $message) = @_;

	fails_like("SELECT $_($task)", $message, "$_() after that", 'once') foreach 'uds_approve', 'uds_reject';
	return;
}

query('CREATE DATABASE once');
query('CREATE EXTENSION uds', 'once');
create_wecom_source($node, $small, db => 'once');
sync($node, 'wecom', 'once');
query(q{SELECT uds_alter_source('wecom', guard_min => 0, guard_percent => 0)}, 'once');
my $people = query($enabled, 'once');

my $task = blocked_task('li.na');
query("SELECT uds_reject($task)", 'once');
is(task_field($node, $task, 'status', 'once'), 'canceled', 'a rejected task is canceled');
decided($task, qr/ERROR:  task $task \(sync\) waits for no decision: its status is "canceled"/);

$task = blocked_task();
$approval = query("SET client_min_messages = warning; SELECT uds_approve($task, wait => true)", 'once');
is(task_field($node, $approval, 'status', 'once'), 'success', 'an approved task is applied');
is(query($enabled, 'once'), $people - 1, 'by the approval');
decided($task, qr/ERROR:  task $task was approved already, as task $approval/);

$task = blocked_task('anna.keller');
my $first = $node->background_psql('once');
$first->query_safe("BEGIN; SELECT uds_approve($task)");
my $second = start_sql($node, 'once', "SELECT uds_reject($task)");
poll($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'session' AND wait_event_type = 'Lock'},
	'who decides second waits for the first');
$first->query_safe('COMMIT');
$first->quit;
ok(!$second->finish, 'and comes too late');
like($second->err, qr/ERROR:  task $task was approved already/, 'as the error says');

$node->stop;
done_testing();
