#!/usr/bin/env perl
# fetch.pl: how close a read of a large directory comes to what its latency
# allows, and how much memory the worker takes.  Prints a table; exits 1 if a
# limit is missed.  See README.md.
use strict;
use warnings;

# the table goes to where the test library does not redirect its remarks
my ($table, $remarks);

BEGIN
{
	open $table, '>&', \*STDOUT or die "could not keep the output: $!";
}

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IO::Handle;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use UdsTest;

my $departments = $ENV{DEPARTMENTS} // 2000;
my $users = $ENV{USERS} // 20000;
my $latency_ms = $ENV{LATENCY_MS} // 50;
my $connections = $ENV{CONNECTIONS} // 8;

my $max_ratio = 1.3;
my $max_mib = 100;
my $missed = 0;

$table->autoflush(1);
Test::More->builder->$_(\$remarks) foreach qw(output failure_output);

# A line of /proc/PID/status in KiB; undef when the process is gone
sub status_kib
{
	my ($pid, $key) = @_;

	open my $file, '<', "/proc/$pid/status" or return undef;
	while (my $line = <$file>)
	{
		return $1 if $line =~ /^$key:\s+(\d+) kB/;
	}
	return undef;
}

# Waits for a task and returns its row, and the worker's peak of memory that it
# shares with nobody, in KiB: looked at every 5 ms while it runs.
sub watch
{
	my ($node, $task) = @_;
	my $peak = 0;
	my $pid;

	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM uds.progress WHERE task_id = $task")
	  or die "task $task does not run";
	$pid = $node->safe_psql('postgres', "SELECT pid FROM uds.progress WHERE task_id = $task");

	# the worker ends when nothing is left to do
	while (defined(my $kib = status_kib($pid, 'RssAnon')))
	{
		$peak = $kib if $kib > $peak;
		usleep(5_000);
	}

	my %row;
	@row{qw(status requests fetch_ms apply_ms)} = split /\|/,
	  task_field($node, $task, 'status, requests, fetch_ms, apply_ms');
	die "task $task ended $row{status}: " . task_field($node, $task, 'message')
	  if $row{status} ne 'success';
	return (\%row, $peak);
}

sub report
{
	my ($name, $row, $peak) = @_;
	my $ideal = $row->{requests} * $latency_ms / $connections;
	my $ratio = $row->{fetch_ms} / $ideal;
	my $mib = $peak / 1024;

	$missed++ if $ratio > $max_ratio || $mib >= $max_mib;
	printf $table "| %-9s | %8d | %8d | %8d | %5.2f | %8d | %11.2f | %5.1f |\n",
	  $name, $row->{requests}, $ideal, $row->{fetch_ms}, $ratio,
	  $row->{apply_ms}, $row->{apply_ms} / $row->{fetch_ms}, $mib;
	return;
}

my $mock = start_mock(departments => $departments, users => $users, latency_ms => $latency_ms);
my $node = new_node(
	'uds.max_connections_per_source' => $connections,
	'log_statement' => 'none',
	'shared_buffers' => '256MB');

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock);
my $directory = $mock->get_control->{directory};
printf $table "%d departments, %d people, %s ms per request, %d connections\n\n",
  $directory->{departments}, $directory->{people}, $latency_ms, $connections;
print $table <<"EOT";
|           | requests | ideal ms | fetch ms | ratio | apply ms | apply/fetch |   MiB |
|-----------|---------:|---------:|---------:|------:|---------:|------------:|------:|
EOT
foreach my $name ('first', 'unchanged')
{
	my $task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});

	report($name, watch($node, $task));
}
my $in_flight = $mock->get_control->{in_flight_max};
print $table "\nideal = requests x latency / connections; at most $in_flight requests were in flight;\n"
  . "MiB = peak of the worker's own memory (RssAnon)\n";
print $table $missed ? "MISSED: ratio <= $max_ratio, memory < $max_mib MiB\n"
  : "reached: ratio <= $max_ratio, memory < $max_mib MiB\n";

$node->stop;
$mock->stop;
plan skip_all => 'a measurement, no test';
END { $? = 1 if $missed; }
