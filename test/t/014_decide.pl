# Looking before writing: previews, the guard, approvals and rejections.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest;

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

sub one
{
	return $node->safe_psql('postgres', $_[0]);
}

sub fails_like
{
	my ($sql, $pattern, $what) = @_;
	my ($ret, $out, $err) = $node->psql('postgres', $sql);

	isnt($ret, 0, "$what: ERROR");
	like($err, $pattern, "$what: says why");
	return;
}

#
# Preview
#
my $before = rows();
$mock->control({ mutate => { seed => 1, percent => 5 } });
my $preview = one(q{SELECT uds_preview('wecom')});
is(task_field($node, $preview, 'status'), 'success', 'a preview ends as success');
is(task_field($node, $preview, 'kind'), 'preview', 'and is of its own kind');
is(rows(), $before, 'it writes no row of the targets and no record');
my $shown = one("SELECT count(*) FROM uds.changes WHERE task_id = $preview AND NOT applied");
cmp_ok($shown, '>', 0, 'its change set is there to be read');
is(one("SELECT count(*) FROM uds.changes WHERE task_id = $preview AND applied"), 0, 'none of it applied');
fails_like("SELECT uds_reject($preview)", qr/waits for no decision: its status is "success"/,
	'a preview cannot be rejected');

my $approval = one("SET client_min_messages = warning; SELECT uds_approve($preview, wait => true)");
is(task_field($node, $approval, 'status'), 'success', 'it can be approved');
is(task_field($node, $approval, 'requests'), 0, 'and is applied from the pages already fetched');
is(one("SELECT count(*) FROM uds.changes WHERE task_id = $approval AND applied"), $shown,
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
my $blocked = one('SELECT max(id) FROM uds.tasks');
is(task_field($node, $blocked, 'status'), 'blocked', 'its task is blocked');
is(rows(), $before, 'it wrote nothing');
cmp_ok(one("SELECT count(*) FROM uds.changes WHERE task_id = $blocked AND action = 'disable' AND NOT applied"),
	'>', 10, 'its change set says who would go');

one("SELECT uds_reject($blocked)");
is(task_field($node, $blocked, 'status'), 'canceled', 'rejected it is canceled');
fails_like("SELECT uds_approve($blocked)", qr/waits for no decision: its status is "canceled"/,
	'and cannot be approved any more');

# the same again, but meanwhile somebody changes a row that it would change
$node->psql('postgres', q{SELECT uds_sync('wecom', wait => true)});
$blocked = one('SELECT max(id) FROM uds.tasks');
my $touched = one("SELECT pk FROM uds.changes WHERE task_id = $blocked AND resource = 'users' AND action = 'update' ORDER BY seq LIMIT 1");
one("UPDATE uds.users SET nickname = 'by hand' WHERE id = $touched");
$before = rows();
fails_like("SELECT uds_approve($blocked, wait => true)",
	qr/was blocked: what was approved would come out differently now/, 'an approval of what is no longer so');
my $stale = one('SELECT max(id) FROM uds.tasks');
is(task_field($node, $stale, 'status'), 'blocked', 'blocks again');
is(rows(), $before, 'and writes nothing');
$approval = one("SET client_min_messages = warning; SELECT uds_approve($stale, wait => true)");
is(task_field($node, $approval, 'status'), 'success', 'its fresh change set can be approved');
is(one("SELECT nickname = 'by hand' FROM uds.users WHERE id = $touched"), 'f',
	'and is applied, guard or not');

# forced, and without history
$mock->control({ mutate => { seed => 3, percent => 40 } });
one('ALTER SYSTEM SET uds.history_retention = 0');
one('SELECT pg_reload_conf()');
$node->poll_query_until('postgres', q{SELECT current_setting('uds.history_retention') = '0'});
my $forced = one(q{SET client_min_messages = warning; SELECT uds_sync('wecom', wait => true, force => true)});
is(task_field($node, $forced, 'status'), 'success', 'force passes the guard');
cmp_ok(task_field($node, $forced, 'disabled'), '>', 10, 'and disables them');
is(one("SELECT count(*) FROM uds.changes WHERE task_id = $forced"), 0,
	'with uds.history_retention = 0 no history is kept');

# pages gone
$mock->control({ mutate => { seed => 4, percent => 5 } });
$preview = one(q{SELECT uds_preview('wecom')});
cmp_ok(one("SELECT count(*) FROM uds.changes WHERE task_id = $preview"), '>', 0,
	'a preview has its change set all the same');
one("DELETE FROM uds.raw_log WHERE task_id = $preview");
fails_like("SELECT uds_approve($preview)", qr/the pages of task $preview are gone/,
	'a preview whose pages are gone');

# retry of the records that were set aside
one(q{ALTER TABLE uds.users ADD CONSTRAINT no_a CHECK (username <> 'retry.me')});
$mock->control({ edit => { people => { 'retry.me' => { name => 'Retry Me', departments => [1] } } } });
my $partial = one(q{SET client_min_messages = warning; SELECT uds_sync('wecom', wait => true)});
is(task_field($node, $partial, 'status'), 'partial', 'a record that the database refuses makes a task partial');
is(one("SELECT uid || ' ' || sqlstate FROM uds.task_errors WHERE task_id = $partial"), 'retry.me 23514',
	'and is set aside');
is(one(q{SELECT count(*) FROM uds.records WHERE uid = 'retry.me'}), 0, 'its record is not taken for known');
one('ALTER TABLE uds.users DROP CONSTRAINT no_a');
my $retry = one("SET client_min_messages = warning; SELECT uds_retry($partial, wait => true)");
is(task_field($node, $retry, 'status'), 'success', 'retried it succeeds');
is(task_field($node, $retry, 'requests'), 0, 'without asking the service again');
is(task_field($node, $retry, 'fetched'), 1, 'for that record alone');
is(one(q{SELECT count(*) FROM uds.users WHERE username = 'retry.me' AND enabled}), 1, 'which is there now');

$node->stop;
done_testing();
