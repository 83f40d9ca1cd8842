# A task that is halted in each of its phases: there it is canceled, by each
# way there is, and there its worker is killed, the postmaster too.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use UdsSession;
use UdsTest;

my $mock = start_mock(tiny => 1);
my $people = $mock->get_control->{directory}{people};
my $node = new_node('uds.http_timeout' => '10min', 'log_min_messages' => 'warning');

# a cancel is to take effect within a second; twice that on a busy machine
my $soon = 2;
my $limit = $PostgreSQL::Test::Utils::timeout_default;
my $written = q{
	SELECT (SELECT count(*) FROM uds.users) + (SELECT count(*) FROM uds.departments)
		 + (SELECT count(*) FROM uds.department_members) + (SELECT count(*) FROM uds.records)};

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
$node->safe_psql('postgres', q{
	CREATE FUNCTION halt() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN PERFORM pg_catalog.pg_advisory_xact_lock(1); RETURN NULL; END$$;
	CREATE CONSTRAINT TRIGGER halt AFTER UPDATE ON uds.tasks DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW WHEN (OLD.status <> 'success' AND NEW.status = 'success') EXECUTE FUNCTION halt()});

# What keeps a task from going on: sessions that hold a lock each
my %blockers;

# Holds what a statement locks, in a session of its own, until let_go($number).
sub hold
{
	my ($number, $statement) = @_;

	$blockers{$number} = start_sql($node, 'postgres',
		"BEGIN; $statement; SELECT pg_advisory_xact_lock(100 + $number); SELECT pg_sleep(600)");
	return;
}

sub wait_until_held
{
	my ($number) = @_;

	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 100 + $number AND granted")
	  or die "blocker $number did not get its lock";
	return;
}

sub let_go
{
	my ($number) = @_;

	$node->safe_psql('postgres', qq{
		SELECT pg_terminate_backend(pid, 60000) FROM pg_locks
		WHERE locktype = 'advisory' AND objid = 100 + $number AND granted});
	$blockers{$number}->finish;
	delete $blockers{$number};
	return;
}

# of a server that is no more
sub forget_blockers
{
	$_->finish foreach values %blockers;
	%blockers = ();
	return;
}

sub hang
{
	$mock->control({ faults => [ { kind => 'hang', path => '*/user/list', times => 1 } ] });
	return;
}

sub release
{
	$mock->control({ faults => [], release => JSON::PP::true });
	return;
}

# The worker of a task, once it waits for a lock
sub wait_until_halted
{
	my ($task, $phase) = @_;

	$node->poll_query_until('postgres', qq{
		SELECT count(*) = 1 FROM uds.progress p JOIN pg_stat_activity a USING (pid)
		WHERE p.task_id = $task AND p.phase = '$phase' AND a.wait_event_type = 'Lock'})
	  or die "task $task does not halt while it is $phase";
	return $node->safe_psql('postgres', "SELECT pid FROM uds.progress WHERE task_id = $task");
}

# Phases in their order.  Each halts a task that hangs in its fetch at a later
# point, and returns the worker.
my %halt = (
	fetching => sub {
		return $node->safe_psql('postgres', "SELECT pid FROM uds.progress WHERE task_id = $_[0]");
	},
	'keeping pages' => sub {
		hold(1, 'LOCK TABLE uds.raw_log IN SHARE MODE');
		wait_until_held(1);
		release();
		return wait_until_halted($_[0], 'fetching');
	},
	mapping => sub {
		hold(1, q{SELECT FROM uds.source_settings WHERE name = 'wecom' FOR UPDATE});
		wait_until_held(1);
		release();
		wait_until_halted($_[0], 'fetching');
		hold(2, 'LOCK TABLE uds.raw_log IN ACCESS EXCLUSIVE MODE');
		wait_until_held(2);
		let_go(1);
		return wait_until_halted($_[0], 'mapping');
	},
	applying => sub {
		hold(1, 'LOCK TABLE uds.users IN SHARE MODE');
		wait_until_held(1);
		release();
		return wait_until_halted($_[0], 'applying');
	},
	committing => sub {
		hold(1, 'SELECT pg_advisory_xact_lock(1)');
		wait_until_held(1);
		release();
		return wait_until_halted($_[0], 'finishing');
	},
	committed => sub {
		hold(1, 'SELECT pg_advisory_xact_lock(1)');
		wait_until_held(1);
		release();
		my $worker = wait_until_halted($_[0], 'finishing');

		# in line behind the task, in front of what its worker does after it
		hold(2, 'LOCK TABLE uds.tasks IN ACCESS EXCLUSIVE MODE');
		$node->poll_query_until('postgres',
			q{SELECT count(*) = 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted})
		  or die 'nobody waits behind the task';
		let_go(1);
		wait_until_held(2);
		return $worker;
	});
my @before = ('fetching', 'keeping pages', 'mapping', 'applying', 'committing');

# A task of a source that has never been read, halted; returns both
sub halted_task
{
	my ($phase, $session) = @_;
	my $task;

	$node->safe_psql('postgres', q{
		SELECT uds_drop_source(name, keep_data => false) FROM uds.sources WHERE name = 'wecom'});
	create_wecom_source($node, $mock);
	hang();
	if ($session)
	{
		$$session = start_sql($node, 'postgres', q{SELECT uds_sync('wecom', wait => true)});
	}
	else
	{
		$node->safe_psql('postgres', q{SELECT uds_sync('wecom')});
	}
	$mock->wait_for('held');
	$node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM uds.progress') or die 'no task runs';
	$task = $node->safe_psql('postgres', 'SELECT task_id FROM uds.progress');
	return ($task, $halt{$phase}->($task));
}

#
# Cancel
#
foreach my $phase ('fetching', 'mapping', 'applying', 'committing')
{
	foreach my $way ('uds_cancel()', 'pg_cancel_backend()', 'Ctrl-C')
	{
		my $session;
		my ($task, $worker) = halted_task($phase, $way eq 'Ctrl-C' ? \$session : undef);

		$node->safe_psql('postgres', "SELECT uds_cancel($task)") if $way eq 'uds_cancel()';
		$node->safe_psql('postgres', "SELECT pg_cancel_backend($worker)") if $way eq 'pg_cancel_backend()';
		$session->interrupt if $session;
		is($node->safe_psql('postgres', "SELECT uds_wait($task, '$soon s')"),
			'canceled', "$way while $phase: the task is canceled within a second or two");
		is($node->safe_psql('postgres', $written), 0, 'and wrote nothing');
		ok(!$session->finish, 'the statement that waits fails') if $session;
		release();
		let_go($_) foreach keys %blockers;
	}
}

#
# Crash
#
# The server stops as told.  What it finds after its start must be the tables
# as before the task, until uds.enabled lets the task begin again.
sub crashes
{
	my ($phase, $how, $stop) = @_;
	my ($task, $worker) = halted_task($phase);

	configure($node, 'uds.enabled', 'off');
	$stop->($worker);
	forget_blockers();
	release();
	is(task_field($node, $task, 'status'), 'processing', "$how while $phase: the task had not ended");
	is($node->safe_psql('postgres', $written), 0, 'the tables are as before');
	configure($node, 'uds.enabled', 'on');
	is(wait_task($node, $task), 'success', 'the task begins again by itself and succeeds');
	is(task_field($node, $task, q{attempt || ' ' || created}),
		"2 " . $node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM uds.users) + (SELECT count(*) FROM uds.departments)'),
		'in its second attempt, which wrote all there is');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM uds.users'), $people, 'everybody is there once');
	return;
}

sub kill_worker
{
	my ($worker) = @_;
	my $log = -s $node->logfile;

	kill('KILL', $worker);
	$node->wait_for_log(qr/database system is ready to accept connections/, $log);
	return;
}

crashes($_, 'kill -9 of the worker', \&kill_worker) foreach @before;

sub kill_postmaster
{
	my ($worker) = @_;
	my $began = time;

	$node->kill9;
	usleep(10_000) while kill(0, $worker) && time - $began < $limit;
	$node->start;
	return;
}

crashes($_, 'kill -9 of the postmaster', \&kill_postmaster) foreach 'fetching', 'committing';

sub stop_immediately
{
	$node->stop('immediate');
	$node->start;
	return;
}

crashes($_, 'immediate stop', \&stop_immediately) foreach 'fetching', 'committing';

# a task that has committed is not done again
foreach my $stop (\&kill_worker, \&stop_immediately)
{
	my ($task, $worker) = halted_task('committed');

	$stop->($worker);
	forget_blockers();
	is(task_field($node, $task, q{status || ' ' || attempt}), 'success 1', 'a task that had committed stays a success');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM uds.users'), $people, 'with what it wrote');
	is(task_field($node, sync($node), q{status || ' ' || created || ' ' || updated}), 'success 0 0',
		'the next one finds nothing to do');
	is(task_field($node, $task, 'attempt'), 1, 'and the first was not begun again');
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM uds.tasks WHERE status = 'processing'}), 0,
	'in the end no task is left in processing');

#
# Fast shutdown
#
foreach my $phase ('fetching', 'applying', 'committing')
{
	my ($task, $worker) = halted_task($phase);
	my $began = time;

	$node->stop('fast');
	cmp_ok(time - $began, '<', $soon + 1, "a fast shutdown while $phase takes no longer than two seconds or so");
	forget_blockers();
	release();
	$node->start;
	is(wait_task($node, $task), 'success', 'after the start the task goes on by itself');
}

$node->stop;
$mock->stop;
done_testing();
