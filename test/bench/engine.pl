#!/usr/bin/env perl
# engine.pl: what CPU time the connector engine takes for a request and for the
# bytes of a page, over a bare transfer of the same with libcurl.  Prints a
# table; exits 1 if a limit is missed.  See README.md.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use UdsBench;

use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use UdsTest;

my $requests = $ENV{REQUESTS} // 10_000;
my $megabytes = $ENV{MEGABYTES} // 100;
my $connections = $ENV{CONNECTIONS} // 8;
my $rounds = $ENV{ROUNDS} // 3;

my $max_request_us = 50;
my $max_seconds_per_100_mb = 1.0;

my $folder = PostgreSQL::Test::Utils::tempdir();
my $bare = "$folder/bare_transfer";
my $ticks = POSIX::sysconf(&POSIX::_SC_CLK_TCK);

# write_page($name, $number, $text): what the server sends for /name?page=number
sub write_page
{
	my ($name, $number, $text) = @_;

	open my $file, '>', "$folder/$name.$number.json" or die "could not write a page: $!";
	print $file $text;
	close $file;
	return;
}

# one person's record, about 300 bytes
sub person
{
	my ($number) = @_;

	return sprintf q({"id":"u%07d","login":"user%07d","name":"Person Number %07d","mail":"user%07d@example.com","mobile":"+86 138 0000 %07d",)
	  . q("job":"Clerk of department %d","picture":"https://img.example.com/avatar/%07d/0","city":"Town","departments":[{"id":%d,"main":true,"leader":false}]}),
	  ($number) x 5, $number % 100, $number, $number % 100;
}

# write_pages($name, $pages, $people): so many people on each page, and an index
# of the pages
sub write_pages
{
	my ($name, $pages, $people) = @_;

	write_page("${name}_index", 0, '{"pages":[' . join(',', 1 .. $pages) . ']}');
	foreach my $page (1 .. $pages)
	{
		write_page($name, $page, '{"items":[' . join(',', map { person(($page - 1) * $people + $_) } 1 .. $people) . ']}');
	}
	return;
}

# The source that reads them: an index, then each of its pages
sub create_source
{
	my ($node, $name, $base_url) = @_;
	my %stream = (
		index => { request => { path => "/${name}_index", query => { page => '0' } } },
		people => {
			type => 'user',
			for_each => { stream => 'index', value => '$.pages[*]', as => 'number' },
			request => { path => "/$name", query => { page => '{number}' } },
			records => '$.items[*]',
			expect => '$.items',
			fields => { uid => '$.id', nickname => '$.name' }
		});
	my %options = (
		base_url => $base_url,
		manifest => {
			manifest => 1,
			title => 'Directory of the bench',
			options => { base_url => { required => JSON::PP::true } },
			base_url => '{options.base_url}',
			streams => \%stream,
			plans => [ { name => 'full', streams => [ 'index', 'people' ] } ]
		});

	$node->safe_psql('uds', 'SELECT uds_create_source(' . quote($name) . ", 'http', " . quote(JSON::PP->new->canonical->encode(\%options)) . ')');
	return;
}

# by_engine($node, $source): CPU time of the worker, user and system, in
# microseconds, from its start to the end of the fetch: the task then waits for
# the row of its source, which a session holds, and is canceled
sub by_engine
{
	my ($node, $source) = @_;
	my $gate = start_gate($node, 'uds', $source, q{pg_read_file('/proc/' || p.pid || '/stat'), uds_cancel(p.task_id)});
	my $task = $node->safe_psql('uds', "SELECT uds_sync('$source')");

	my ($stat) = <$gate> =~ /\) (.*)/;
	my @fields = split / /, $stat;

	close $gate;
	$node->safe_psql('uds', "SELECT uds_wait($task)");
	$node->safe_psql('uds', 'TRUNCATE uds.raw_log');
	return ($fields[11] + $fields[12]) * 1_000_000 / $ticks;
}

# by_libcurl($base_url, $name, $pages): CPU time of the bare transfer, and bytes
sub by_libcurl
{
	my ($base_url, $name, $pages) = @_;
	my ($out, $err);

	IPC::Run::run([ $bare, $connections ],
		'<', \join('', map { "$base_url/$name?page=$_\n" } 1 .. $pages), '>', \$out, '2>', \$err)
	  or die "the bare transfer failed: $err";
	my ($done, $bytes, $cpu) = split / /, $out;
	die "only $done of $pages requests were made" if $done != $pages;
	return ($cpu, $bytes);
}

sub median
{
	return percentile(50, @_);
}

my $node = bench_node('uds.max_connections_per_source' => $connections, 'uds.raw_log_retention' => '1h');
my $people = int(1024 * 1024 / (1 + length person(1)));

system_or_bail('sh', '-c', "gcc -O2 -Wall -o $bare $FindBin::RealBin/bare_transfer.c \$(pkg-config --cflags --libs libcurl)");
write_pages('one', 1, 1);
write_pages('small', $requests, 1);
write_pages('large', $megabytes, $people);
my ($base_url, $server) = serve_pages($folder);

$node->safe_psql('postgres', 'CREATE DATABASE uds');
$node->safe_psql('uds', 'CREATE EXTENSION uds');
create_source($node, $_, $base_url) foreach qw(one small large);
by_engine($node, 'one');

my (%engine, %bare_cpu, %bytes);
my %pages = (small => $requests, large => $megabytes);

say_out "%d requests of one record, %d pages of 1 MB, %d connections, the middle one of %d rounds\n\n", $requests, $megabytes, $connections, $rounds;
say_out "|        | requests |    MB | bare, CPU ms | engine, CPU ms |\n|--------|---------:|------:|-------------:|---------------:|\n";
foreach my $round (1 .. $rounds)
{
	my $idle = by_engine($node, 'one');

	foreach my $name (qw(small large))
	{
		push @{ $engine{$name} }, by_engine($node, $name) - $idle;
		(my $cpu, $bytes{$name}) = by_libcurl($base_url, $name, $pages{$name});
		push @{ $bare_cpu{$name} }, $cpu;
	}
}
foreach my $name (qw(small large))
{
	say_out "| %-6s | %8d | %5.1f | %12.1f | %14.1f |\n", $name, $pages{$name}, $bytes{$name} / 1e6,
	  median(@{ $bare_cpu{$name} }) / 1000, median(@{ $engine{$name} }) / 1000;
}
limit_head();
limit('small request, µs of CPU more', (median(@{ $engine{small} }) - median(@{ $bare_cpu{small} })) / $requests, $max_request_us);
limit('100 MB of pages, s of CPU more', (median(@{ $engine{large} }) - median(@{ $bare_cpu{large} })) / $bytes{large} * 100, $max_seconds_per_100_mb);
end_bench($node);
