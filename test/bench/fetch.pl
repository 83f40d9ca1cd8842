#!/usr/bin/env perl
# fetch.pl: how close a read of a large directory comes to what its latency
# allows, and how much memory the worker takes.  Prints a table; exits 1 if a
# limit is missed.  See README.md.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use UdsBench;

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

my %found;

sub report
{
	my ($name, $row, $peak) = @_;
	my $ideal = $row->{requests} * $latency_ms / $connections;
	my $ratio = $row->{fetch_ms} / $ideal;
	my $mib = $peak / 1024;

	say_out "| %-9s | %8d | %8d | %8d | %5.2f | %8d | %11.2f | %5.1f |\n",
	  $name, $row->{requests}, $ideal, $row->{fetch_ms}, $ratio,
	  $row->{apply_ms}, $row->{apply_ms} / $row->{fetch_ms}, $mib;
	$found{$name} = { ratio => $ratio, mib => $mib };
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
say_out "%d departments, %d people, %s ms per request, %d connections\n\n",
  $directory->{departments}, $directory->{people}, $latency_ms, $connections;
say_out <<"EOT";
|           | requests | ideal ms | fetch ms | ratio | apply ms | apply/fetch |   MiB |
|-----------|---------:|---------:|---------:|------:|---------:|------------:|------:|
EOT
foreach my $name ('first', 'unchanged')
{
	my $task = $node->safe_psql('postgres', q{SELECT uds_sync('wecom')});

	report($name, watch($node, $task));
}
my $in_flight = $mock->get_control->{in_flight_max};
say_out "\nideal = requests x latency / connections; at most %d requests were in flight;\n"
  . "MiB = peak of the worker's own memory (RssAnon)\n", $in_flight;
limit_head();
foreach my $name ('first', 'unchanged')
{
	limit("$name, fetch / ideal", $found{$name}{ratio}, $max_ratio);
	limit("$name, MiB", $found{$name}{mib}, $max_mib);
}
end_bench($node);
