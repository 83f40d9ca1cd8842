#!/usr/bin/env perl
# apply.pl: what it costs to bring a large directory into the tables, against
# hand-made SQL that loads the same directory into the same tables.  Prints
# tables; exits 1 if a limit is missed.  See README.md.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use UdsBench;

use JSON::PP ();
use List::Util qw(max sum0);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use UdsTest;

my $users = $ENV{USERS} // 1_000_000;
my $departments = $ENV{DEPARTMENTS} // 5000;
my $seed = $ENV{SEED} // 1;
my $retention = $ENV{RETENTION};

my $here = $FindBin::RealBin;
my @targets = qw(users departments department_members records);

# How the source's records become ours: what handmade.sql does in SQL
my $manifest = {
	manifest => 1,
	title => 'Directory of the bench',
	options => { base_url => { required => JSON::PP::true } },
	base_url => '{options.base_url}',
	plans => [ { name => 'full', streams => [ 'departments', 'users' ] } ],
	streams => {
		departments => stream('department', {
			uid => '$.id',
			title => '$.name',
			sort => '$.order',
			parentUid => '$.parent',
		}),
		users => stream('user', {
			uid => '$.id',
			username => '$.login',
			nickname => '$.name',
			email => '$.mail',
			phone => { path => '$.mobile', apply => ['phone'] },
			avatar => '$.picture',
			title => '$.job',
			departments => {
				each => '$.departments[*]',
				fields => { uid => '$.id', isMain => '$.main', isOwner => '$.leader' },
			},
			city => '$.city',
		}),
	},
};

sub stream
{
	my ($type, $fields) = @_;

	return {
		type => $type,
		request => { path => "/${type}s", query => { page => '{cursor}' } },
		pagination => { type => 'cursor', next => '$.next' },
		records => '$.items[*]',
		expect => '$.items',
		fields => $fields,
	};
}

# What was written to our tables so far, rolled back or not
sub written
{
	my ($node) = @_;
	my $names = join ', ', map { quote($_) } @targets;

	return $node->safe_psql('uds',
		"SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables"
		  . " WHERE schemaname = 'uds' AND relname IN ($names)");
}

sub dead_tuples
{
	my ($node) = @_;
	my $names = join ', ', map { quote($_) } @targets;

	return $node->safe_psql('uds',
		"SELECT sum(n_dead_tup) FROM pg_stat_user_tables"
		  . " WHERE schemaname = 'uds' AND relname IN ($names)");
}

# Runs a sync and returns what it took: its row of uds.tasks, WAL of the
# apply, rows written, and the worker's peak of memory that it shares with
# nobody, looked at every 5 ms.
sub run_uds
{
	my ($node) = @_;
	my $before = written($node);
	my $dead = dead_tuples($node);
	my $peak = 0;
	my %run;

	$node->safe_psql('uds', 'CHECKPOINT');
	my $gate = start_gate($node, 'uds', 'bench',
		'pg_current_wal_insert_lsn(), 1000 * extract(epoch FROM clock_timestamp() - l.waitstart)');
	my $task = $node->safe_psql('uds', q{SELECT uds_sync('bench')});
	$node->poll_query_until('uds', "SELECT count(*) = 1 FROM uds.progress WHERE task_id = $task")
	  or die "task $task does not run";
	my $pid = $node->safe_psql('uds', "SELECT pid FROM uds.progress WHERE task_id = $task");

	# the worker ends when nothing is left to do, and what it did is in the
	# statistics then
	while (defined(my $kib = status_kib($pid, 'RssAnon')))
	{
		$peak = $kib if $kib > $peak;
		usleep(5_000);
	}

	my @columns = qw(status fetch_ms apply_ms fetched created updated unchanged enabled disabled linked unlinked);
	@run{@columns} = split /\|/, task_field($node, $task, join(', ', @columns), 'uds');
	die "task $task ended $run{status}: " . task_field($node, $task, 'message', 'uds')
	  if $run{status} ne 'success';
	my ($lsn, $waited_ms) = split /\|/, <$gate>;
	close $gate;
	$run{ms} = $run{apply_ms} - $waited_ms;
	$run{wal} = $node->safe_psql('uds', "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '$lsn')");
	$run{written} = written($node) - $before;
	$run{dead} = dead_tuples($node) - $dead;
	$run{mib} = $peak / 1024;
	return \%run;
}

# Runs the hand-made SQL and returns what it took
sub run_handmade
{
	my ($node, $folder) = @_;

	$node->safe_psql('handmade', 'CHECKPOINT');
	my $lsn = $node->safe_psql('handmade', 'SELECT pg_current_wal_insert_lsn()');
	my $out;
	IPC::Run::run(
		[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1',
			'-v', "departments=$folder/departments.jsonl", '-v', "users=$folder/users.jsonl",
			'-d', $node->connstr('handmade'), '-c', '\timing on', '-f', "$here/handmade.sql" ],
		'>', \$out) or die 'the hand-made SQL failed';
	return {
		ms => sum0($out =~ /^Time: ([\d.]+) ms/mg),
		wal => $node->safe_psql('handmade', "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '$lsn')"),
	};
}

sub number
{
	my ($format, $value) = @_;

	return defined $value ? sprintf($format, $value) : '';
}

sub report
{
	my ($name, $run) = @_;

	say_out "| %-19s | %8s | %8.0f | %9.2f | %8s | %6s | %6s |\n", $name,
	  number('%d', $run->{fetch_ms}), $run->{ms}, $run->{wal} / 1024 / 1024,
	  map { number($_->[0], $run->{ $_->[1] }) } [ '%d', 'written' ], [ '%d', 'dead' ], [ '%.1f', 'mib' ];
	return;
}

my $data = PostgreSQL::Test::Utils::tempdir();
system('python3', "$here/generate.py", '--seed', $seed, '--users', $users,
	'--departments', $departments, $data) == 0 or die 'the directory could not be generated';

my $node = bench_node(defined $retention ? ('uds.history_retention' => $retention) : ());

say_out "%d users, %d departments, seed %s, uds.history_retention = %s\n\n",
  $users, $departments, $seed, $node->safe_psql('postgres', q{LOAD 'uds'; SHOW uds.history_retention});
say_out <<"EOT";
|                     | fetch ms |       ms |   WAL MiB |  written |   dead |    MiB |
|---------------------|---------:|---------:|----------:|---------:|-------:|-------:|
EOT

$node->safe_psql('postgres', 'CREATE DATABASE handmade');
$node->safe_psql('handmade', slurp_file("$here/handmade_tables.sql"));
my %handmade;
foreach my $name ('first', 'unchanged')
{
	$handmade{$name} = run_handmade($node, "$data/first");
	report("hand-made $name", $handmade{$name});
	report_statements($node, 'handmade');
	$node->safe_psql('handmade', 'VACUUM ANALYZE');
}

$node->safe_psql('postgres', 'CREATE DATABASE uds');
$node->safe_psql('uds', 'CREATE EXTENSION uds');
my ($url, $server) = serve_pages("$data/served");
$node->safe_psql('uds', q{INSERT INTO uds.source_types (name, title, manifest) VALUES ('bench', 'Bench', }
	  . quote(JSON::PP->new->canonical->encode($manifest)) . ')');
$node->safe_psql('uds', 'SELECT uds_create_source('
	  . join(', ', map { quote($_) } 'bench', 'bench', JSON::PP->new->encode({ base_url => $url })) . ')');
my $idle = $node->background_psql('uds');
my $idle_mib = status_kib($idle->query_safe('SELECT pg_backend_pid()'), 'RssAnon') / 1024;
$idle->quit;

# Syncs once and says what it took; the directory served is $folder.
sub sync_once
{
	my ($name, $folder) = @_;
	my $run;

	unlink "$data/served";
	symlink "$data/$folder", "$data/served" or die "could not link: $!";
	$run = run_uds($node);
	report("uds $name", $run);
	report_statements($node, 'uds');

	# what autovacuum comes to do within a minute, so that it is not at it
	# during the next run
	$node->safe_psql('uds', 'VACUUM ANALYZE');
	return $run;
}

# The run that took neither longest nor shortest
sub middle
{
	my @runs = sort { $a->{ms} <=> $b->{ms} } @_;

	return $runs[ $#runs / 2 ];
}

my %runs = (first => [ sync_once('first', 'first') ]);
die 'the first run did not load everything'
  unless $runs{first}[0]{created} == $users + $departments;

# There and back again: each run that changes something follows on one that
# does not.
my $there = 'first';
for (1 .. 3)
{
	push @{ $runs{unchanged} }, sync_once('unchanged', $there);
	die 'the unchanged run changed something'
	  unless $runs{unchanged}[-1]{unchanged} == $users + $departments;
	$there = $there eq 'first' ? 'changed' : 'first';
	push @{ $runs{changed} }, sync_once('changed', $there);
	my $run = $runs{changed}[-1];
	die 'the changed run did not change what it should'
	  unless $run->{updated} && $run->{created} + $run->{enabled} && $run->{disabled}
	  && $run->{linked} && $run->{unlinked};
}
my %uds = map { $_ => middle(@{ $runs{$_} }) } keys %runs;

limit_head();
limit('first / hand-made first, time', $uds{first}{ms} / $handmade{first}{ms}, 1.5);
limit('unchanged / first, time', $uds{unchanged}{ms} / $uds{first}{ms}, 0.25);
limit('unchanged / first, WAL', $uds{unchanged}{wal} / $uds{first}{wal}, 0.01);
limit('unchanged, rows written or dead', max(map { $_->{written} + $_->{dead} } @{ $runs{unchanged} }), 0);
limit('1 % changed / unchanged, time', $uds{changed}{ms} / $uds{unchanged}{ms}, 1.2);
foreach my $name ('first', 'unchanged', 'changed')
{
	limit("$name, MiB above an idle backend", max(map { $_->{mib} } @{ $runs{$name} }) - $idle_mib, 256);
}
say_out "\nan idle backend has %.1f MiB; hand-made unchanged / hand-made first: %.3f\n",
  $idle_mib, $handmade{unchanged}{ms} / $handmade{first}{ms};

end_bench($node);
