# What can be seen of uds while it works and afterwards: progress, health,
# pg_stat_activity, the server log, statistics.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSession;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $node = new_node('uds.http_timeout' => '10min', 'autovacuum' => 'off');
my ($task, $error);

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock);

sub health
{
	my ($expression) = @_;

	return $node->safe_psql('postgres', "SELECT $expression FROM uds_health()");
}

# The lines of the server log about a task
sub lines
{
	my ($id, $pattern) = @_;
	my @lines = grep { /LOG:  uds: task $id \(/ } split /\n/, slurp_file($node->logfile);

	return scalar grep { /$pattern/ } @lines;
}

#
# While a task runs
#
is(health('workers || $$, $$ || queued || $$, $$ || running'), '0, 0, 0', 'at first nothing runs');
like(health('launcher_pid'), qr/^\d+$/, 'but the launcher');
$mock->control({ faults => [ { kind => 'hang', path => '*/user/list', times => 1 } ] });
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
$mock->wait_for('held');
poll($node, 'SELECT requests_done >= 1 AND requests_total >= requests_done FROM uds.progress',
	'uds.progress counts requests');
is($node->safe_psql('postgres', 'SELECT task_id, source, phase FROM uds.progress'),
	"$task|wecom|fetching", 'and says which task is at what');
is($node->safe_psql('postgres',
		q{SELECT count(*) FROM uds.progress p JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'uds worker' AND a.backend_type = 'uds worker'}),
	1, 'its process is in pg_stat_activity under a name');
poll($node, q{SELECT wait_event_type = 'Extension' AND backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE application_name = 'uds worker'},
	'it waits for the network with a wait event, and without a snapshot');
is($node->safe_psql('postgres', q{SELECT state, query FROM pg_stat_activity WHERE application_name = 'uds worker'}),
	qq{idle|uds: task $task (sync of source "wecom")}, 'and shows what it is doing');
is(health('workers || $$, $$ || queued || $$, $$ || running'), '1, 0, 1', 'uds_health() counts it');
$node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
is(health('queued || $$, $$ || (oldest_queued <= now())'), '1, true', 'and what waits, since when');
is(lines($task, 'started'), 1, 'a line in the log says that the task started');
is(lines($task, 'ended'), 0, 'and none that it ended');
$mock->control({ faults => [], release => JSON::PP::true });
is(wait_task($node, $task), 'success', 'the task goes on');
is($node->safe_psql('postgres', 'SELECT uds_wait(max(id)) FROM uds.tasks'), 'success', 'and so does the next one');

#
# Afterwards
#
poll($node, 'SELECT count(*) = 0 FROM uds.progress', 'nothing is in progress then');
poll($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'uds worker'}, 'nor does a worker stay');
is(lines($task, 'started$'), 1, 'one line for the start of a task');
is(lines($task, 'ended: success, 17 records, 17 created, .* ms: 17 records read, 17 created$'), 1,
	'one for its end, with what it came to');
is(lines($task, '.'), 2, 'and no other');
poll($node, q{SELECT n_tup_ins = n_live_tup AND n_mod_since_analyze > 0 AND n_ins_since_vacuum > 0 FROM pg_stat_user_tables WHERE relid = 'uds.users'::regclass},
	'autovacuum learns of the users that were written');
poll($node, q{SELECT n_tup_ins > 0 AND n_mod_since_analyze > 0 FROM pg_stat_user_tables WHERE relid = 'uds.records'::regclass},
	'and of the records');
poll($node, q{SELECT n_tup_ins > 0 FROM pg_stat_user_tables WHERE relid = 'uds.raw_log'::regclass}, 'and of the raw log');

#
# Errors that are over
#
is(health('last_error IS NULL'), 't', 'where nothing failed there is no last error');
$mock->control({ faults => [ { kind => 'errcode', code => 40013, path => '*/department/list', times => 1 } ] });
$task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
is(wait_task($node, $task), 'failed', 'a task fails');
$error = task_field($node, $task, 'message');
is(health('last_error'), $error, 'uds_health() has its error');
is(lines($task, 'ended: failed'), 1, 'and the log has its end');
is($node->safe_psql('postgres',
		"SELECT sync_state ->> 'last_error', sync_state ->> 'failures', (sync_state ->> 'failing_since')::timestamptz <= now() FROM uds.sources WHERE name = 'wecom'"),
	"$error|1|t", 'uds.sources has it too, with since when and how often');
$node->safe_psql('postgres', q{SELECT uds_alter_source('wecom', enabled => false)});
is(health('last_error IS NULL'), 't', 'of a disabled source uds_health() has none');
$node->safe_psql('postgres', q{SELECT uds_alter_source('wecom', enabled => true)});
is(health('last_error'), $error, 'of an enabled one it has');
sync($node);
is(health('last_error IS NULL'), 't', 'until it succeeds');

#
# log_min_messages
#
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET log_min_messages = fatal');
poll($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'uds worker'}, 'no worker has the old setting');
$task = sync($node);
poll($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'uds worker'}, 'the worker is done');
is(lines($task, '.'), 0, 'log_min_messages is respected');

$node->stop;
done_testing();
