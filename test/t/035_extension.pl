# CREATE and DROP EXTENSION, committed and rolled back, while tasks run; and
# pg_upgrade.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSession;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $people = $mock->get_control->{directory}{people};
my %settings = ('uds.http_timeout' => '10min', 'log_min_messages' => 'warning');
my $node = new_node(%settings, name => 'old');
my $is_left = 'SELECT workers FROM uds_health()';
my ($task, $other, $session);

# What creates a source by SQL
sub source
{
	my $options = '{"corpid": "ww0123456789abcdef", "secret": "app-secret", "base_url": "' . $mock->base_url . '"}';

	return "SELECT uds_create_source('wecom', 'wecom', '$options');";
}

sub requests { return $mock->get_control->{requests}; }

# Queues a task and returns when its transfer hangs.
sub hanging_task
{
	my ($db) = @_;

	$mock->control({ faults => [ { kind => 'hang', path => '*/user/list', times => 1 } ] });
	my $id = $node->safe_psql($db // 'postgres', q{SELECT uds_sync('wecom')});
	$mock->wait_for('held');
	return $id;
}

sub release
{
	$mock->control({ faults => [], release => JSON::PP::true });
	return;
}

# another database, for which none of it is meant
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION uds; ' . source());

#
# CREATE EXTENSION
#
$node->safe_psql('postgres', 'BEGIN; CREATE EXTENSION uds; ' . source() . q{SELECT uds_sync('wecom'); ROLLBACK});
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'uds'}), 0,
	'CREATE EXTENSION is rolled back, with a task that was queued');
is(task_field($node, sync($node, 'wecom', 'other'), 'status', 'other'), 'success', 'another database is served meanwhile');
my $before = requests();
$node->safe_psql('postgres', 'BEGIN; CREATE EXTENSION uds; ' . source() . q{SELECT uds_sync('wecom'); COMMIT});
is($node->safe_psql('postgres', q{SELECT uds_wait(max(id)) FROM uds.tasks}), 'success',
	'with the commit of CREATE EXTENSION a task begins that the same transaction queued');
cmp_ok(requests(), '>', $before, 'it has read the source');

#
# DROP EXTENSION that is rolled back
#
$task = hanging_task();
$node->safe_psql('postgres', 'BEGIN; DROP EXTENSION uds; ROLLBACK');
$node->safe_psql('postgres', 'BEGIN; SAVEPOINT s; DROP EXTENSION uds; ROLLBACK TO s; CREATE TABLE kept (); COMMIT');
release();
is(wait_task($node, $task), 'success', 'DROP EXTENSION is rolled back while a transfer hangs');
is(task_field($node, $task, 'attempt'), 1, 'its task did not notice');

#
# DROP EXTENSION that is committed, while it is read
#
$other = hanging_task('other');
$task = hanging_task();
$session = start_sql($node, 'postgres', 'DROP EXTENSION uds');
ok($session->finish, 'DROP EXTENSION while a transfer hangs') or diag $session->err;
poll($node, $is_left, 'its worker ends', 'other', 1);
release();
is(wait_task($node, $other, 'other'), 'success', 'the task of another database goes on');
is(task_field($node, $other, 'attempt', 'other'), 1, 'undisturbed');
poll($node, $is_left, 'no slot is left behind', 'other', 0);
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'uds'}), 0, 'nothing of the extension is left');

# tasks are numbered from 1 again: none may be taken for one from before
$node->safe_psql('postgres', 'CREATE EXTENSION uds; ' . source());
$task = hanging_task();
$node->safe_psql('postgres', 'DROP EXTENSION uds; CREATE EXTENSION uds; ' . source());
is($node->safe_psql('postgres', 'SELECT count(*) FROM uds.progress'), 0, 'a new extension has no task of the one before');
is(hanging_task(), $task, 'its first task has the same number');
release();
is(wait_task($node, $task), 'success', 'and succeeds');
is(task_field($node, $task, q{attempt || ' ' || (created > 0)::text}), '1 true', 'as a task of its own');

# while it writes
my $blocker = $node->background_psql('postgres');
$node->safe_psql('postgres', q{SELECT uds_drop_source('wecom', keep_data => false)});
$node->safe_psql('postgres', source());
$blocker->query_safe('BEGIN; LOCK TABLE uds.users IN SHARE MODE');
$node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
poll($node, q{
		SELECT count(*) = 1 FROM uds.progress JOIN pg_stat_activity USING (pid)
		WHERE phase = 'applying' AND wait_event_type = 'Lock'},
	'a task waits for a lock while it writes');
$session = start_sql($node, 'postgres', 'DROP EXTENSION uds');
poll($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'session' AND wait_event_type = 'Lock'},
	'DROP EXTENSION waits for it');
$blocker->query_safe('COMMIT');
$blocker->quit;
ok($session->finish, 'and is done after it') or diag $session->err;
poll($node, $is_left, 'no slot is left behind', 'other', 0);

#
# pg_upgrade
#
$node->safe_psql('postgres', 'CREATE EXTENSION uds; ' . source());
$node->safe_psql('postgres', q{
	CREATE FUNCTION read_it() RETURNS void LANGUAGE sql AS '';
	INSERT INTO uds.source_types (name, title, pull) VALUES ('mine', 'Mine', 'read_it()');
	CREATE TABLE staff (login text PRIMARY KEY, name text);
	SELECT uds_map_table('staff', 'staff', 'user', 'login', '{"login": "$.username", "name": "$.nickname"}')});
sync($node);
is($node->safe_psql('postgres', 'SELECT count(*) FROM staff'), $people, 'a mapped table is filled');
configure($node, 'uds.enabled', 'off');
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
$node->safe_psql('other', q{SELECT uds_sync('wecom')});
$node->stop;
$before = requests();

my $new = new_node(%settings, name => 'new');
$new->stop;
my $bin = $node->config_data('--bindir');
chdir $PostgreSQL::Test::Utils::tmp_check;
command_ok(
	[
		'pg_upgrade', '--no-sync', '-b', $bin, '-B', $bin, '-d', $node->data_dir, '-D', $new->data_dir,
		'-p', $node->port, '-P', $new->port, '-s', $new->host
	],
	'pg_upgrade of a server with the extension');
is(requests(), $before, 'meanwhile nothing is read');
$new->start;
is($new->safe_psql('postgres', 'SELECT count(*) FROM uds.users'), $people, 'all users are there');
is(wait_task($new, $task), 'canceled', 'a task that was queued is canceled');
is($new->safe_psql('postgres', q{SELECT armed FROM uds.sources WHERE name = 'wecom'}), 'f', 'because sources are not armed');
is($new->safe_psql('postgres', 'SELECT uds_arm()'), 2, 'uds_arm() arms them');
is(task_field($new, sync($new), q{status || ' ' || created || ' ' || updated}), 'success 0 0',
	'then they are read, and everything is as it was');

$new->stop;
$mock->stop;
done_testing();
