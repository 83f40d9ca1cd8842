#!/usr/bin/env perl
# ldap.pl: how fast a large directory is read from a slapd on the same machine,
# against OpenLDAP's own client with the same pages and attributes, and whether
# the memory of the worker grows with it.  Prints tables; exits 1 if a limit is
# missed.  See README.md.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use UdsBench;

use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use UdsSlapd;
use UdsTest;

my $people = $ENV{USERS} // 100_000;
my $page = $ENV{PAGE} // 500;
my $rounds = $ENV{ROUNDS} // 3;

my $min_speed = 0.8;
my $max_growth = 8;
my $max_mib = 100;

my $why = UdsSlapd::missing();

if ($why)
{
	say_out "NOT MEASURED: %s\n", $why;
	plan skip_all => $why;
}

my $slapd = UdsSlapd->start(people => $people, limits => 'sizelimit unlimited');
my $node = bench_node();

# what the manifest asks for, so that the client gets no less
my $attributes = do
{
	my $manifest = JSON::PP->new->decode(slurp_file("$FindBin::RealBin/../../src/connectors/ldap.json"));

	$manifest->{streams}{users}{attributes};
};

# The milliseconds that ldapsearch takes for everybody
sub client_ms
{
	local $ENV{LDAPNOINIT} = 1;
	my $began = time;

	IPC::Run::run([ 'ldapsearch', '-x', '-LLL', '-H', $slapd->uri, '-D', $UdsSlapd::admin, '-w', $UdsSlapd::password, '-b', $UdsSlapd::base,
			'-E', "pr=$page/noprompt", '(objectClass=inetOrgPerson)', 'entryUUID', @$attributes ], '<', \undef, '>', '/dev/null')
	  or die 'ldapsearch failed';
	return 1000 * (time - $began);
}

# Reads the source of a database, and returns the milliseconds of the fetch and the peak of the
# worker's own memory until then, in MiB.  A session holds the task back from
# applying.
sub fetch
{
	my ($db) = @_;
	my $gate = start_gate($node, $db, 'directory', 'p.pid');
	my $task = $node->safe_psql($db, q{SELECT uds_sync('directory', 'full')});
	my $peak = 0;
	my $waiting = '';
	my $pid;

	$node->poll_query_until($db, "SELECT count(*) = 1 FROM uds.progress WHERE task_id = $task") or die "task $task does not run";
	$pid = $node->safe_psql($db, "SELECT pid FROM uds.progress WHERE task_id = $task");
	vec($waiting, fileno $gate, 1) = 1;
	until (select(my $ready = $waiting, undef, undef, 0.005))
	{
		my $kib = status_kib($pid, 'RssAnon') // 0;

		$peak = $kib if $kib > $peak;
	}
	1 while <$gate>;
	close $gate;
	die "task $task ended " . task_field($node, $task, q{status || ': ' || message}, $db) if wait_task($node, $task, $db) ne 'success';
	return (task_field($node, $task, 'fetch_ms', $db), $peak / 1024, task_field($node, $task, 'fetched', $db));
}

foreach my $case ([ tenth => '(uid=u0*)' ], [ everybody => '(objectClass=inetOrgPerson)' ])
{
	my ($db) = @$case;
	my %options = $slapd->options(page_size => "$page", incremental => 'none', user_filter => $case->[1]);

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION uds');
	$node->safe_psql($db, q{SELECT uds_create_source('directory', 'ldap', } . quote(JSON::PP->new->canonical->encode(\%options)) . ', guard_min => 1000000)');
}

say_out "%d people, pages of %d\n\n", $people, $page;
say_out <<'EOT';
|            |  entries |       ms | entries/s |   MiB |
|------------|---------:|---------:|----------:|------:|
EOT

my %ms;
my %mib;

foreach my $round (1 .. $rounds)
{
	my $ms = client_ms();

	push @{ $ms{client} }, $ms;
	say_out "| ldapsearch | %8d | %8d | %9d | %5s |\n", $people, $ms, 1000 * $people / $ms, '';
	foreach my $name ('tenth', 'everybody')
	{
		my ($fetch_ms, $peak, $fetched) = fetch($name);

		push @{ $ms{$name} }, $fetch_ms;
		push @{ $mib{$name} }, $peak;
		say_out "| %-10s | %8d | %8d | %9d | %5.1f |\n", $name, $fetched, $fetch_ms, 1000 * $fetched / $fetch_ms, $peak;
	}
}
say_out "\ntenth, everybody: fetch of the task, units and the raw log included; MiB = peak of the worker's own memory (RssAnon) until it applies\n";
limit_head();
limit('fetch of everybody, times that of ldapsearch', percentile(50, @{ $ms{everybody} }) / percentile(50, @{ $ms{client} }), 1 / $min_speed);
limit('everybody, MiB', percentile(100, @{ $mib{everybody} }), $max_mib);
limit('everybody, MiB more than a tenth', percentile(100, @{ $mib{everybody} }) - percentile(100, @{ $mib{tenth} }), $max_growth);
$slapd->stop;
end_bench($node);
