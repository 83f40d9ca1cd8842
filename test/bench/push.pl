#!/usr/bin/env perl
# push.pl: what one pushed record costs, whether that grows with what is in the
# tables, and what bad records cost.  Prints tables; exits 1 if a limit is
# missed.  See README.md.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use UdsBench;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use UdsTest;

my $pushes = $ENV{PUSHES} // 600;
my $records = $ENV{RECORDS} // 100_000;
my @sizes = split / /, $ENV{SIZES} // ($ENV{LONG} ? '1000 100000 1000000' : '1000 100000');
my $group = $ENV{GROUP} // 50_000;
my $joins = 300;

my $rounds = 3;
my $warm_up = 100;
my $at_a_time = 20_000;
my $number = 0;

# with TOP, statements inside functions are what one wants to see
my $node = bench_node($ENV{TOP} ? ('pg_stat_statements.track' => 'all') : ());

# The records number $from to $to, as a jsonb array; %over replaces members by
# other SQL expressions of n.
sub records_sql
{
	my ($from, $to, %over) = @_;
	my %members = (
		uid => q{'u' || n},
		username => q{'login' || n},
		nickname => q{'Name of ' || n},
		email => q{'login' || n || '@example.com'},
		phone => q{(13000000000 + n)::text},
		avatar => q{'https://cdn.example.com/avatar/' || md5(n::text) || '.png'},
		title => q{'Title ' || n % 50},
		departments => q{jsonb_build_array('d' || n % 500)},
		%over);

	return 'SELECT jsonb_agg(jsonb_build_object('
	  . join(', ', map { quote($_) . ", $members{$_}" } sort keys %members)
	  . ")) FROM generate_series($from, $to) AS n";
}

sub push_sql
{
	my ($type, $select) = @_;

	return "SELECT uds_push(jsonb_build_object('dataType', '$type', 'records', ($select)))";
}

# A database with 500 departments and so many users, pushed some at a time
sub fill
{
	my ($db, $users, %over) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION uds');
	$node->safe_psql($db, push_sql('department',
		q{SELECT jsonb_agg(jsonb_build_object('uid', 'd' || n, 'title', 'Department ' || n))
			FROM generate_series(0, 499) AS n}));
	for (my $from = 1; $from <= $users; $from += $at_a_time)
	{
		my $to = $from + $at_a_time - 1;

		$node->safe_psql($db, push_sql('user', records_sql($from, $to < $users ? $to : $users, %over)));
	}
	$node->safe_psql($db, 'VACUUM ANALYZE');
	$node->safe_psql($db, 'CHECKPOINT');
	return;
}

# Runs scripts in turn over one connection, each so often, after a warm-up;
# returns the milliseconds of each statement, a list per script.
sub run_pushes
{
	my ($db, $times, $settings, @scripts) = @_;
	my $log = PostgreSQL::Test::Utils::tempdir() . '/log' . ++$number;
	my @options;
	my @ms = map { [] } @scripts;

	foreach my $script (@scripts)
	{
		my $file = "$log.script" . @options;

		append_to_file($file, $script);
		push @options, '-f', $file;
	}
	my ($out, $err);
	local $ENV{PGOPTIONS} = $settings;
	IPC::Run::run(
		[ 'pgbench', '-n', '-c', 1, '-t', @scripts * ($warm_up + $times), '-l', '--log-prefix', $log,
			'--random-seed', $number, '-D', 'i=0', '-D', 'k=0', @options, $node->connstr($db) ],
		'>', \$out, '2>', \$err) or die "pgbench failed: $err";
	my ($lines) = glob "$log.[0-9]*";
	my @left = ($warm_up) x @scripts;
	foreach my $line (split /\n/, slurp_file($lines))
	{
		my (undef, undef, $us, $script) = split / /, $line;

		push @{ $ms[$script] }, $us / 1000 if $left[$script]-- <= 0;
	}
	return @ms;
}

sub row
{
	my ($name, @ms) = @_;

	say_out "| %-49s | %6d | %9.3f | %9.3f |\n", $name, scalar @ms, percentile(50, @ms), percentile(95, @ms);
	return percentile(50, @ms);
}

#
# One user pushed, with other data each time.  Without waiting for the disk:
# that is a matter of the disk, and the same for every commit.
#
my $no_flush = '-c synchronous_commit=off';
my $one_user = q{\set n random(1, :size)
\set d :n % 500
\set r random(1, 1000000000)
SELECT uds_push('{"dataType":"user","records":[{"uid":"u:n","username":"login:n","nickname":"Name :r","email":"login:n@example.com","title":"Title :r","departments":["d:d"]}]}');
};
my (%one, %median);

say_out <<"EOT";
|                                                   | pushes | median ms |    95 % ms |
|---------------------------------------------------|-------:|----------:|-----------:|
EOT
fill("size$_", $_) foreach @sizes;
report_statements($node, "size$sizes[-1]");
foreach my $round (1 .. $rounds)
{
	foreach my $size (@sizes)
	{
		my $script = $one_user =~ s/:size/$size/r;

		push @{ $one{$size} }, @{ (run_pushes("size$size", $pushes / $rounds, $no_flush, $script))[0] };
	}
}
foreach my $size (@sizes)
{
	$median{$size} = row("one of $size users changed", @{ $one{$size} });
}
row("the same, the commit waiting for the disk",
	@{ (run_pushes("size$sizes[-1]", $pushes, '', $one_user =~ s/:size/$sizes[-1]/r))[0] });

report_statements($node, "size$sizes[-1]");

#
# One member added to a large group, and in turn to a small one: nearly 500
# groups of five, each of which gets one.
#
my $small_groups = 499;
my $first_loner = $group + 5 * $small_groups + 1;

fill('members', $first_loner + 2 * ($joins + $warm_up),
	departments => "CASE WHEN n <= $group THEN '[\"d0\"]'"
	  . " WHEN n < $first_loner THEN jsonb_build_array('d' || 1 + (n - $group - 1) / 5) ELSE '[]' END");
my @join = map { "\\set i :i + 1\n\\set n $first_loner - 1 + :i\n$_" } (
	q{SELECT uds_push('{"dataType":"user","records":[{"uid":"u:n","departments":["d0"]}]}');},
	q{\set k :k + 1
SELECT uds_push('{"dataType":"user","records":[{"uid":"u:n","departments":["d:k"]}]}');});
my ($to_large, $to_small) = run_pushes('members', $joins, $no_flush, @join);
my $large = row("one member added to a group of $group", @$to_large);
my $small = row('one member added to a group of 5', @$to_small);
die 'the members were not added'
  unless $node->safe_psql('members', "SELECT count(*) FROM uds.department_members WHERE user_id >= "
	  . "(SELECT min(id) FROM uds.users WHERE username = 'login$first_loner')") == 2 * ($joins + $warm_up);

#
# Many records in one call, some of which a constraint refuses
#
say_out <<"EOT";

|                                                   |        s |  created |   failed | errors kept |
|---------------------------------------------------|---------:|---------:|---------:|------------:|
EOT

my $step = int($records / 10);
my %seconds;

foreach my $case (
	[ clean => 'false', 0 ],
	[ ten_bad => "n % $step = $step / 2", 10 ],
	[ all_bad => 'true', $records ])
{
	my ($db, $bad, $failures) = @$case;

	fill($db, 0);
	$node->safe_psql($db, q{ALTER TABLE uds.users ADD CHECK (title <> 'bad')});
	$node->safe_psql($db, 'CREATE TABLE input AS SELECT (' . records_sql(1, $records,
			title => "CASE WHEN $bad THEN 'bad' ELSE 'Title ' || n % 50 END") . ') AS records');
	$node->safe_psql($db, 'CHECKPOINT');

	my $start = time;
	$node->safe_psql($db, push_sql('user', 'SELECT records FROM input'));
	$seconds{$db} = time - $start;

	my ($created, $failed, $kept) = split /\|/, $node->safe_psql($db,
		q{SELECT t.created, t.failed, (SELECT count(*) FROM uds.task_errors e WHERE e.task_id = t.id)
		FROM uds.tasks t ORDER BY t.id DESC LIMIT 1});
	say_out "| %-49s | %8.1f | %8d | %8d | %11d |\n", "$records new users, $failures of them bad",
	  $seconds{$db}, $created, $failed, $kept;
	report_statements($node, $db);
	die 'wrong counts' unless $failed == $failures && $created == $records - $failures
	  && $kept == ($failures < 10_000 ? $failures : 10_000)
	  && $node->safe_psql($db, 'SELECT count(*) FROM uds.users') == $created;
}

limit_head();
limit("one of $_ users, ms", $median{$_}, 2) foreach @sizes;
limit("one of $sizes[-1] / one of $sizes[0]", $median{ $sizes[-1] } / $median{ $sizes[0] }, 1.3);
limit("a group of $group / a group of 5", $large / $small, 1.3);
limit('10 bad / clean', $seconds{ten_bad} / $seconds{clean}, 2);

end_bench($node);
