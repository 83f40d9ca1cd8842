# A copy of a database does not read from the service until somebody arms its
# sources.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSession;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $node = new_node('uds.http_timeout' => '10min');
my ($code, $out, $err);

# What a statement says on failure, in the copy
sub refusal
{
	my ($sql) = @_;

	($code, $out, $err) = $node->psql('copy', $sql);
	return $err;
}

sub requests { return $mock->get_control->{requests}; }

$node->safe_psql('postgres', 'CREATE DATABASE one');
$node->safe_psql('one', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock, db => 'one');
create_wecom_source($node, $mock, db => 'one', name => 'second');
is($node->safe_psql('one', q{SELECT bool_and(armed) FROM uds.sources}), 't', 'sources are armed where they are created');
is($node->safe_psql('one', 'SELECT uds_arm()'), 0, 'so uds_arm() finds nothing to do');
$node->safe_psql('one', q{SELECT uds_alter_source('second', enabled => false)});
sync($node, 'wecom', 'one');

#
# A copy that is made while one task runs and another one waits
#
$mock->control({ faults => [ { kind => 'hang', path => '*/user/list', times => 1 } ] });
my $running = $node->safe_psql('one', q{SELECT uds_sync('wecom')});
$mock->wait_for('held');
my $waiting = $node->safe_psql('one', q{SELECT uds_preview('wecom', wait => false)});
configure($node, 'uds.enabled', 'off');
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE one');
$node->safe_psql('postgres', 'ALTER DATABASE one ALLOW_CONNECTIONS false');
is($node->safe_psql('copy', qq{SELECT string_agg(status, ' ' ORDER BY id) FROM uds.tasks WHERE id IN ($running, $waiting)}),
	'processing init', 'the copy has both tasks');
$mock->control({ faults => [], release => JSON::PP::true });
my $before = requests();

# what is queued in any database, is looked at after a start
configure($node, 'uds.enabled', 'on');
$node->restart;
is(wait_task($node, $_, 'copy'), 'canceled', 'in the copy it is canceled') foreach $running, $waiting;
like(task_field($node, $waiting, 'message', 'copy'),
	qr/^the source is not armed in this database, a copy .* Hint: .* uds_arm\(\)/, 'and says why');
is(requests(), $before, 'the service has heard nothing of the copy');

$node->safe_psql('postgres', 'ALTER DATABASE one ALLOW_CONNECTIONS true');
$node->restart;
is(wait_task($node, $_, 'one'), 'success', 'in the one that was copied it goes on') foreach $running, $waiting;

#
# What works in the copy, and what does not
#
is($node->safe_psql('copy', q{SELECT string_agg(name || ' ' || armed, ', ' ORDER BY name) FROM uds.sources}),
	'api false, second false, wecom false', 'the copy shows that its sources are not armed');
$before = requests();
foreach my $call (q{uds_sync('wecom')}, q{uds_sync('wecom', wait => true)}, q{uds_preview('wecom')}, "uds_retry($running)")
{
	like(refusal("SELECT $call"),
		qr/ERROR:  source "wecom" is not armed in this database\nDETAIL:  .* copy .*\nHINT:  .* uds_arm\('wecom'\)\./,
		"SELECT $call is refused, with a hint");
}
is(requests(), $before, 'without a request');
is($node->safe_psql('copy', q{SELECT uds_push('{"dataType": "user", "records": [{"uid": "1"}]}') ->> 'code'}),
	0, 'pushes are taken: nobody is asked for them');
is($node->safe_psql('copy', q{SELECT bool_and(ok) FROM uds_test_source('wecom')}),
	't', 'a source can be tried out before it is armed');

#
# uds_arm()
#
$node->safe_psql('copy', 'CREATE ROLE stranger');
$node->safe_psql('copy', 'GRANT EXECUTE ON FUNCTION uds_arm TO stranger');
like(refusal(q{SET ROLE stranger; SELECT uds_arm('wecom')}), qr/must be owner of source "wecom"/,
	'a stranger cannot arm a source');
is($node->safe_psql('copy', q{SET ROLE stranger; SELECT uds_arm()}), 0, 'nor all of them');
like(refusal(q{SELECT uds_arm('nosuch')}), qr/source "nosuch" does not exist/, 'nor anybody one that there is not');
$node->safe_psql('copy', q{BEGIN; SELECT uds_arm(); ROLLBACK});
like(refusal(q{SELECT uds_sync('wecom')}), qr/not armed/, 'what is rolled back arms nothing');
is($node->safe_psql('copy', q{SELECT uds_arm('wecom')}), 1, 'the owner arms a source');
is($node->safe_psql('copy', q{SELECT string_agg(name || ' ' || armed, ', ' ORDER BY name) FROM uds.sources}),
	'api false, second false, wecom true', 'that one only');
is(task_field($node, sync($node, 'wecom', 'copy'), q{status || ' ' || created}, 'copy'), 'success 0',
	'then it is read, and finds its rows');
is($node->safe_psql('copy', 'SELECT uds_arm()'), 2, 'without an argument all others are armed');
like(refusal(q{SELECT uds_sync('second')}), qr/source "second" is disabled/, 'a disabled one stays disabled');

# its own database is not concerned, whatever it is called now
$node->safe_psql('postgres', 'ALTER DATABASE one RENAME TO renamed');
is(task_field($node, sync($node, 'wecom', 'renamed'), 'status', 'renamed'), 'success', 'a renamed database stays armed');

$node->stop;
$mock->stop;
done_testing();
