# Sources that fail whatever one does never stop the others.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSession;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $node = new_node(
	'uds.max_workers' => 1,
	'uds.http_timeout' => '10min',
	'uds.retry_interval' => '10min',
	'uds.retry_max_interval' => '1h',
	'uds.max_attempts' => 4,
	'log_min_messages' => 'warning');
my ($code, $stdout, $stderr, $task, $other);

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock);

# Asserts that a task of the source fails with this message, that the source
# shows it, and that another source is synced by the same worker all the same.
sub poisonous
{
	my ($source, $message, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ids = $node->safe_psql('postgres', "SELECT uds_sync('$source'), uds_sync('wecom')");
	my ($bad, $good) = split /\|/, $ids;

	is(wait_task($node, $bad), 'failed', "$what: its task fails");
	like(task_field($node, $bad, 'message'), $message, 'and says why');
	is(task_field($node, $bad, 'attempt'), 1, 'it is not tried again by itself');
	is(wait_task($node, $good), 'success', 'the task behind it succeeds');
	is($node->safe_psql('postgres', qq{
			SELECT sync_state ->> 'last_error' = (SELECT message FROM uds.tasks WHERE id = $bad),
				   sync_state ->> 'last_error_task', (sync_state ->> 'failing_since')::timestamptz <= now()
			FROM uds.sources WHERE name = '$source'}),
		"t|$bad|t", 'uds.sources shows since when and why');
	return;
}

# Ends the worker that runs the task
sub kill_worker_of
{
	my ($id) = @_;

	$node->poll_query_until('postgres',
		"SELECT count(pg_terminate_backend(pid)) = 1 FROM uds.progress WHERE task_id = $id AND phase = 'fetching'")
	  or die "task $id does not run";
	return;
}

#
# Its owner is dropped
#
$node->safe_psql('postgres', q{
	CREATE ROLE gone;
	GRANT USAGE ON SCHEMA uds TO gone;
	GRANT EXECUTE ON FUNCTION uds_create_source TO gone});
$node->safe_psql('postgres', q{SET ROLE gone; SELECT uds_create_source('orphan', 'wecom', '}
	  . qq[{"corpid": "ww0123456789abcdef", "secret": "app-secret", "base_url": "@{[$mock->base_url]}"}', match_keys => '{username}')]);
$node->safe_psql('postgres', 'DROP OWNED BY gone; DROP ROLE gone');
poisonous('orphan', qr/^role "gone", the owner of source "orphan", does not exist\. Hint: /, 'a source without an owner');
$node->safe_psql('postgres', q{SELECT uds_alter_source('orphan')});
is(task_field($node, sync($node, 'orphan'), 'status'), 'success', 'a superuser can take it over');
is($node->safe_psql('postgres', q{SELECT sync_state ? 'failing_since' FROM uds.sources WHERE name = 'orphan'}),
	'f', 'then it does not fail any more');

#
# Its type is dropped or spoiled
#
$node->safe_psql('postgres', q{
	INSERT INTO uds.source_types (name, title, manifest) SELECT 'spoiled', title, manifest FROM uds.source_types WHERE name = 'wecom'});
create_wecom_source($node, $mock, name => 'spoiled', type => 'spoiled');
($code, $stdout, $stderr) = $node->psql('postgres', q{DELETE FROM uds.source_types WHERE name = 'spoiled'});
like($stderr, qr/violates foreign key constraint/, 'a type cannot be dropped while a source is of it');
$node->safe_psql('postgres', q{UPDATE uds.source_types SET manifest = '{"manifest": 1}' WHERE name = 'spoiled'});
poisonous('spoiled', qr/^source "spoiled" of type "spoiled" cannot be read: /, 'a manifest that cannot be read');
$node->safe_psql('postgres', q{UPDATE uds.source_types SET manifest = NULL WHERE name = 'spoiled'});
poisonous('spoiled', qr/the type has no manifest/, 'a type without a manifest');
$node->safe_psql('postgres', q{
	UPDATE uds.source_types SET manifest = jsonb_set(w.manifest, '{streams,departments,request,path}', '"/nowhere"')
	FROM (SELECT manifest FROM uds.source_types WHERE name = 'wecom') AS w WHERE name = 'spoiled'});
poisonous('spoiled', qr/404/, 'a manifest that always fails');
is($node->safe_psql('postgres', q{SELECT sync_state ->> 'failures' FROM uds.sources WHERE name = 'spoiled'}),
	3, 'uds.sources counts how often');

#
# Its workers die
#
my @delays;
$mock->control({ faults => [ { kind => 'hang', path => '*/user/list' } ] });
$task = $node->safe_psql('postgres', q{SELECT uds_sync('orphan')});
foreach my $attempt (1 .. 3)
{
	my $least = 10 * 2**($attempt - 1) * 0.75;
	my $most = 10 * 2**($attempt - 1) * 1.25;

	kill_worker_of($task);
	poll($node, "SELECT status = 'init' FROM uds.tasks WHERE id = $task", "after its worker died $attempt times the task waits");
	push @delays, task_field($node, $task, 'extract(epoch FROM due_at - clock_timestamp()) / 60');
	ok($delays[-1] > $least - 2 && $delays[-1] <= $most, "for $least to $most minutes")
	  or diag("$delays[-1] minutes");
	is($node->safe_psql('postgres', q{SELECT uds_sync('orphan')}), $task, 'who asks for it has it begin again');
}
kill_worker_of($task);
poll($node, "SELECT status = 'failed' FROM uds.tasks WHERE id = $task", 'after uds.max_attempts it fails');
is(task_field($node, $task, 'attempt'), 4, 'having had so many');
$mock->control({ faults => [], release => JSON::PP::true });
is($node->safe_psql('postgres', q{SELECT sync_state ->> 'last_error' FROM uds.sources WHERE name = 'orphan'}),
	'the worker ended unexpectedly in attempt 4 of 4. Hint: The server log tells why.', 'uds.sources shows why');
is(task_field($node, sync($node), 'status'), 'success', 'others are synced meanwhile');

# the longest delay
configure($node, 'uds.retry_max_interval', '11min');
@delays = ();
foreach my $source ('orphan', 'wecom')
{
	$mock->control({ faults => [ { kind => 'hang', path => '*/user/list' } ] });
	$task = $node->safe_psql('postgres', "SELECT uds_sync('$source')");
	foreach my $attempt (1 .. 2)
	{
		kill_worker_of($task);
		poll($node, "SELECT status = 'init' FROM uds.tasks WHERE id = $task", "$source waits after attempt $attempt");
		push @delays, task_field($node, $task, 'extract(epoch FROM due_at - clock_timestamp()) / 60');
		ok($delays[-1] <= 11, 'no longer than uds.retry_max_interval');
		$node->safe_psql('postgres', $attempt == 1 ? "SELECT uds_sync('$source')" : "SELECT uds_cancel($task)");
	}
	$mock->control({ faults => [], release => JSON::PP::true });
}

$node->stop;
done_testing();
