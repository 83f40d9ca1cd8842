# What becomes of the listener, and of clients that are connected, when databases,
# processes and servers end and begin again.

use strict;
use warnings;

use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsClients;
use UdsHttp;
use UdsSession;
use UdsTest;

my $directory = PostgreSQL::Test::Utils::tempdir();
my $listeners = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'uds http listener'};
my $crowds = 0;

# make_database($node): for the listener, with a key, which is returned
sub make_database
{
	my ($node) = @_;

	$node->safe_psql('postgres', 'CREATE DATABASE hr');
	set_up_listener($node, 'hr');
	return $node->safe_psql('hr', q{SELECT uds_create_api_key('good')});
}

# make_node($name, %settings): a server whose listener serves the database hr,
# and the key
sub make_node
{
	my ($name, %settings) = @_;
	my $node = new_node(
		name => $name,
		'uds.http_database' => 'hr',
		'uds.http_port' => PostgreSQL::Test::Cluster::get_free_port(),
		%settings);
	my $key = make_database($node);

	# it has missed its database at the first start
	$node->restart;
	wait_for_listener($node);
	return ($node, $key);
}

sub port_of
{
	return $_[0]->safe_psql('postgres', 'SHOW uds.http_port');
}

# asked($port, $text): the status of the reply; '' if there is none
sub asked
{
	my ($port, $text) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or return '';

	send_raw($socket, $text // get_text('/healthz'));
	return statuses(read_replies($socket, 1));
}

# serves($node, $key, $name): an assertion that it takes a push
sub serves
{
	my ($node, $key, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(asked(port_of($node), post_text($key, users_json('one'))), '200', $name);
}

# crowd($node, $key): clients that are connected: some idle, some slow, and some
# that push, three people each time
sub crowd
{
	my ($node, $key, %arguments) = @_;
	my $port = port_of($node);
	my $self = { file => "$directory/crowd" . ++$crowds, first => 100_000 * $crowds };

	$self->{idle} = start_clients('idle', $key, port => $port, count => 10);
	$self->{slow} = start_clients('slow', $key, port => $port, count => 20, addresses => 2);
	$self->{idle}->wait_event('answered');
	$self->{slow}->wait_event('open');
	$self->{push} = start_clients('push', $key,
		port => $port, connections => 10, addresses => 2, pushes => 20_000, records => 3, announce => 50,
		first => $self->{first}, outcomes => $self->{file},
		%arguments);
	$self->{push}->wait_event('some');
	return $self;
}

# closed($crowd, $name): an assertion that all of them see their connections end
sub closed
{
	my ($self, $name) = @_;
	my @ends = map { $self->{$_}->finish } qw(idle slow push);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_deeply(
		[ map { ($_->{ends}{closed} // 0) + ($_->{ends}{reset} // 0) } @ends[ 0, 1 ] ],
		[ 10, 20 ],
		"$name: clients see their connections closed") or diag explain \@ends;
	return;
}

# is_true($crowd, $node, $name): an assertion that what was answered is what is
# in the tables: a success is there, an error is not, and the rest is whole
sub is_true
{
	my ($self, $node, $name) = @_;
	my @outcomes = map { [split] } split /\n/, slurp_file($self->{file});
	my $pushes = join ',', map { $_->[0] } @outcomes;
	my $said = join ',', map { $_->[1] } @outcomes;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	cmp_ok(scalar(grep { $_->[1] eq '200' } @outcomes), '>=', 50, "$name: pushes were answered");
	is($node->safe_psql('hr', qq{
			SELECT o.said, count(u.id), count(r.id), count(DISTINCT r.task_id), count(DISTINCT t.id)
			  FROM unnest('{$pushes}'::int[], '{$said}'::text[]) AS o (push, said)
			 CROSS JOIN generate_series(0, 2) AS g (i)
			  LEFT JOIN uds.users u ON u.username = 'u' || (o.push * 3 + g.i)
			  LEFT JOIN uds.records r ON r.uid = 'u' || (o.push * 3 + g.i)
			  LEFT JOIN uds.tasks t ON t.id = r.task_id AND t.status = 'success'
			 GROUP BY o.push, o.said
			HAVING (count(u.id), count(r.id), count(DISTINCT r.task_id), count(DISTINCT t.id)) NOT IN ((3, 3, 1, 1), (0, 0, 0, 0))
			    OR (count(u.id) = 3) <> (o.said = '200') AND o.said <> 'broken'}),
		'', "$name: what was answered is true, and nothing is half done");
	return;
}

# in_time($node, $command, $name, $db): an assertion that it is done, within 3 s
sub in_time
{
	my ($node, $command, $name, $db) = @_;
	my ($code, $out, $err) = $node->psql($db // 'postgres', "SET statement_timeout = '3s'; $command");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($err, '', $name);
}

# The postmaster waits 10 s before it starts again what has ended; so several
# servers go through this at a time.
my $mock = start_mock(tiny => 1);
my ($one, $key_one) = make_node('one');
my ($two, $key_two) = make_node('two', 'wal_level' => 'replica', 'max_wal_senders' => 5, 'hot_standby' => 'on');
# 'log' leaves errors out
my ($three, $key_three) = make_node('three', 'log_min_messages' => 'warning');

#
# pg_terminate_backend(); ALTER DATABASE ... RENAME; DROP DATABASE ... WITH (FORCE)
#
my $crowd = crowd($one, $key_one, pushes => 600);
my $pid = $one->safe_psql('postgres', q{
	SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'uds http listener' LIMIT 1}) =~ s/\|.*//r;
poll($one, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid", 'a process of the listener is terminated, and ends');
serves($one, $key_one, 'the other one serves');
my $end = $crowd->{push}->finish;
cmp_ok($end->{outcomes}{broken} // 0, '<=', 10, 'clients see broken connections');
is_true($crowd, $one, 'one is terminated');
$crowd->{$_}->stop foreach qw(idle slow);

$crowd = crowd($two, $key_two);
in_time($two, 'ALTER DATABASE hr RENAME TO staff', 'a database is renamed while clients are connected and push');
closed($crowd, 'its database is renamed');
in_time($two, 'ALTER DATABASE staff RENAME TO hr', 'and back');
is_true($crowd, $two, 'its database is renamed');

$crowd = crowd($three, $key_three);
in_time($three, 'DROP DATABASE hr WITH (FORCE)', 'a database is dropped by force');
closed($crowd, 'its database is dropped by force');
my $key_before = $key_three;
$key_three = make_database($three);

wait_for_listener($_) foreach ($one, $two, $three);
serves($one, $key_one, 'one that was terminated comes back');
serves($two, $key_two, 'in a database that was renamed there and back it serves again');
serves($three, $key_three, 'in one that was made anew, too');
isnt($key_before, $key_three, 'with another key');
is(asked(port_of($three), post_text($key_before, '{}')), '401', 'the old one is no good');

#
# DROP EXTENSION; DROP DATABASE; the port is taken
#
my @pids = sort(listener_pids($one));
in_time($one, 'BEGIN; DROP EXTENSION uds; ROLLBACK', 'the extension is dropped, and that is rolled back', 'hr');
serves($one, $key_one, 'the listener did not notice');
is_deeply([ sort(listener_pids($one)) ], \@pids, 'and is the same');

$crowd = crowd($one, $key_one);
in_time($one, 'DROP EXTENSION uds', 'the extension is dropped while clients are connected and push', 'hr');
closed($crowd, 'its extension is dropped');

$crowd = crowd($two, $key_two);
my $log = -s $two->logfile;
in_time($two, 'DROP DATABASE hr', 'a database is dropped while clients are connected and push');
closed($crowd, 'its database is dropped');

my $port = port_of($three);
$crowd = crowd($three, $key_three);
$three->stop('smart');
closed($crowd, 'its server stops');
my $squatter = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1:$port", ReuseAddr => 1) or die "could not listen: $!";
my $start = -s $three->logfile;
$three->start;
$three->wait_for_log(qr/ERROR:  uds: could not listen on address "127\.0\.0\.1", port $port: Address already in use/, $start);
pass('if somebody else has the port, the log says so');
is($three->safe_psql('hr', 'SELECT launcher_pid IS NOT NULL FROM uds_health()'), 't', 'the launcher runs all the same');
is($three->safe_psql('hr', q{SELECT uds_push(} . quote(users_json('two')) . q{) ->> 'code'}), '0',
	'and pushes in SQL are taken');
is_true($crowd, $three, 'its server stops');
close $squatter;

# meanwhile, things go on where the database is missing
$two->wait_for_log(qr/FATAL:  database "hr" does not exist/, $log);
pass('without its database the listener says so');
$two->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($two, $mock);
is(task_field($two, sync($two), 'status'), 'success', 'others go on');
$key_two = make_database($two);

wait_for_listener($_) foreach ($one, $two, $three);
serves($three, $key_three, 'when the port is free again, it is served');
serves($two, $key_two, 'when the database is there again, it is served');
is(asked(port_of($one)), '503', 'where the extension is missing, the listener says that it is not ready');
is(asked(port_of($one), post_text($key_one, '{}')), '503', 'nor for pushes');
set_up_listener($one, 'hr');
$key_before = $key_one;
$key_one = $one->safe_psql('hr', q{SELECT uds_create_api_key('good')});
serves($one, $key_one, 'until it is created again');
is(asked(port_of($one), post_text($key_before, '{}')), '401', 'keys of before are no good');

#
# kill -9 during pushes; immediate and fast shutdown
#
foreach my $announce (50, 120, 250)
{
	$crowd = crowd($three, $key_three, announce => $announce);
	$pid = $three->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'uds http listener' ORDER BY random() LIMIT 1});
	kill 'KILL', $pid;
	closed($crowd, 'kill -9');
	$three->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	wait_for_listener($three);
	is_true($crowd, $three, 'kill -9');
	serves($three, $key_three, 'and after it the listener serves');
}
foreach my $mode ('immediate', 'fast')
{
	$crowd = crowd($three, $key_three);
	$three->stop($mode);
	closed($crowd, "$mode shutdown");
	$three->start;
	wait_for_listener($three);
	is_true($crowd, $three, "$mode shutdown");
	serves($three, $key_three, 'and after the start the listener serves');
}

#
# Another server with the same settings, as a copy has
#
my $copy = new_node(
	name => 'copy',
	'uds.http_database' => 'hr',
	'uds.http_port' => port_of($three),
	'log_min_messages' => 'warning');
my $key_copy = make_database($copy);
$log = -s $copy->logfile;
$copy->restart;
$copy->wait_for_log(qr/ERROR:  uds: could not listen on address "127\.0\.0\.1", port \d+: Address already in use/, $log);
is(asked(port_of($three), post_text($key_three, users_json("copy$_"))), '200', 'a second server does not get the port') foreach 1 .. 10;
$copy->stop;

#
# A standby
#
$two->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($two, 'backup', has_streaming => 1);
$port = PostgreSQL::Test::Cluster::get_free_port();
$standby->append_conf('postgresql.conf', "uds.http_port = $port");
$standby->start;
$crowd = crowd($two, $key_two);
$two->wait_for_catchup($standby, 'replay', $two->lsn('write'));
is($standby->safe_psql('hr', 'SELECT count(*) > 100 FROM uds.users'), 't', 'a standby has what is pushed');
is($standby->safe_psql('postgres', $listeners), 0, 'but no listener');
is(asked($port), '', 'nothing is on its port');
$two->stop('fast');
closed($crowd, 'the primary stops');
$standby->promote;
wait_for_listener($standby);
is_true($crowd, $standby, 'promotion');
serves($standby, $key_two, 'after the promotion it serves');
$standby->stop;

#
# Too few background workers
#
$log = -s $one->logfile;
$one->append_conf('postgresql.conf', 'max_worker_processes = 3');
$one->restart;
$one->poll_query_until('postgres', $listeners, '1') or die 'there is no listener';
$one->wait_for_log(qr/LOG:  too many background workers/, $log);
pass('there is room for one process of the listener only, and the log says so');
$one->poll_query_until('postgres', "$listeners AND state = 'idle'", '1') or die 'it does not begin';
serves($one, $key_one, 'which serves');
create_wecom_source($one, $mock, db => 'hr');
my ($code, $out, $err) = $one->psql('hr', q{SELECT uds_sync('wecom', wait => true)});
like($err, qr/no background worker is free/, 'no worker is left for syncs');
is(asked(port_of($one)), '200', 'the listener does not mind');
$log = -s $one->logfile;
$one->append_conf('postgresql.conf', 'max_worker_processes = 2');
$one->restart;
$one->wait_for_log(qr/LOG:  too many background workers/, $log);
is($one->safe_psql('hr', q{SELECT uds_push(} . quote(users_json('two')) . q{) ->> 'code'}), '0',
	'without any room there is no listener, but a server');
is($one->safe_psql('postgres', $listeners), 0, 'that is, none');

foreach my $node ($one, $two, $three, $standby)
{
	my $text = slurp_file($node->logfile);
	my $killed = $node == $three ? 3 : 0;

	is(() = $text =~ /terminated by signal/g, $killed, 'of ' . $node->name . ' no process died but those that were killed');
	is(() = $text =~ /PANIC|TRAP/g, 0, 'and none in a panic');
	ok($text !~ /uds_\d+_[A-Za-z0-9_-]{20}/, 'no key is in its log');
}
$_->stop foreach ($one, $three);
$mock->stop;
done_testing();
