# A standby: what it has can be read, nothing runs; after its promotion work
# goes on by itself.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSession;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $people = $mock->get_control->{directory}{people};
my $primary = new_node(
	name => 'primary',
	'uds.http_timeout' => '10min',
	'wal_level' => 'replica',
	'max_wal_senders' => 5,
	'hot_standby' => 'on');

$primary->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($primary, $mock);
my $first = sync($primary);

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

sub caught_up
{
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
	return;
}

#
# Reading
#
$mock->control({ faults => [ { kind => 'hang', path => '*/user/list', times => 1 } ] });
my $task = $primary->safe_psql('postgres', q{SELECT uds_sync('wecom')});
$mock->wait_for('held');
caught_up();
is($standby->safe_psql('postgres', 'SELECT count(*) FROM uds.users'), $people, 'a standby has the users');
is($standby->safe_psql('postgres', q{SELECT name, armed FROM uds.sources WHERE name = 'wecom'}), 'wecom|t', 'and the sources');
is($standby->safe_psql('postgres', 'SELECT count(*) > 0 FROM uds.department_tree'), 't', 'views can be read');
is(task_field($standby, $task, 'status'), 'processing', 'the task that runs on the primary can be seen');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM uds.progress'), 0, 'as running here is none');
is($standby->safe_psql('postgres', 'SELECT launcher_pid IS NULL, workers, running FROM uds_health()'),
	't|0|1', 'uds_health() says that there is no launcher');
is($standby->safe_psql('postgres', "SELECT uds_wait($first)"), 'success', 'uds_wait() tells what has ended');
is($standby->safe_psql('postgres', "SELECT uds_wait($task, '100 ms')"), 'processing', 'and what has not');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'uds%'}),
	0, 'nothing of ours runs');

#
# Everything else is an error
#
my %calls = (
	q{uds_sync('wecom')} => 'uds_sync\(\)',
	q{uds_sync('wecom', wait => true)} => 'uds_sync\(\)',
	q{uds_preview('wecom')} => 'uds_preview\(\)',
	"uds_retry($first)" => 'uds_retry\(\)',
	"uds_approve($first)" => 'uds_approve\(\)',
	"uds_undo($first)" => 'uds_undo\(\)',
	"uds_cancel($task)" => 'uds_cancel\(\)',
	q{uds_test_source('wecom')} => 'uds_test_source\(\)',
	'uds_arm()' => 'uds_arm\(\)',
	q{uds_drop_source('wecom')} => '',
	q{uds_alter_source('wecom', title => 'x')} => '',
	"uds_reject($first)" => '',
	q{uds_push('{"dataType": "user", "records": [{"uid": "1"}]}')} => '');

foreach my $call (sort keys %calls)
{
	my ($code, $out, $err) = $standby->psql('postgres', "SELECT $call");

	like($err,
		$calls{$call} ne '' ? qr/ERROR:  cannot execute $calls{$call} during recovery/ :
		  qr/ERROR:  cannot execute .* (during recovery|in a read-only transaction)/,
		"SELECT $call is refused, with the reason");
}

#
# Promotion
#
caught_up();
$primary->stop('immediate');
$mock->control({ faults => [], release => JSON::PP::true });
$standby->promote;
poll($standby, 'SELECT launcher_pid IS NOT NULL FROM uds_health()', 'after the promotion the launcher runs');
is(wait_task($standby, $task), 'success', 'and the task of the old primary goes on by itself');
is(task_field($standby, $task, 'attempt'), 2, 'in its second attempt');
is($standby->safe_psql('postgres', 'SELECT bool_and(armed) FROM uds.sources'), 't', 'its sources are armed still');
is(task_field($standby, sync($standby), q{status || ' ' || unchanged}), "success " . ($standby->safe_psql('postgres',
		q{SELECT count(*) FROM uds.records WHERE NOT deleted})), 'a sync finds everything as it was');

$standby->stop;
$mock->stop;
done_testing();
