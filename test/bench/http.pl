#!/usr/bin/env perl
# http.pl: pushes over HTTP beside the same pushes in SQL.  Prints tables; exits
# 1 if a limit is missed.  See README.md.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use UdsBench;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use UdsHttp;
use UdsTest;

my $pushes = $ENV{PUSHES} // 3000;
my $users = $ENV{USERS} // 10_000;
my $records = $ENV{RECORDS} // 100_000;
my @connections = (1, 8, 64);
my $rounds = 3;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $port = PostgreSQL::Test::Cluster::get_free_port();
# how long the disk takes is the disk's matter, and the same for both
my $node = bench_node('uds.http_port' => $port, 'synchronous_commit' => 'off', 'max_connections' => 200);
my $number = 0;

set_up_listener($node);
$node->restart;
wait_for_listener($node);
my $key = create_key($node, 'bench');

system('cc', '-O2', '-pthread', '-o', "$dir/http_load", "$FindBin::RealBin/http_load.c") == 0
  or die 'http_load.c could not be compiled';

# envelope($n, $r): one user; about every other push changes one
sub envelope
{
	my ($n, $r) = @_;
	my $d = $n % 500;

	return qq({"dataType":"user","records":[{"uid":"u$n","username":"login$n","nickname":"Name $r","email":"login$n\@example.com","title":"Title $r","departments":["d$d"]}]});
}

sub fill
{
	$node->safe_psql('postgres', q{SELECT uds_push(jsonb_build_object('dataType', 'department', 'records',
		(SELECT jsonb_agg(jsonb_build_object('uid', 'd' || n, 'title', 'Department ' || n)) FROM generate_series(0, 499) AS n)))});
	$node->safe_psql('postgres', qq{SELECT uds_push(jsonb_build_object('dataType', 'user', 'records',
		(SELECT jsonb_agg(jsonb_build_object('uid', 'u' || n, 'username', 'login' || n, 'nickname', 'Name ' || n,
				'email', 'login' || n || '\@example.com', 'title', 'Title ' || n % 50, 'departments', jsonb_build_array('d' || n % 500)))
			FROM generate_series(1, $users) AS n)))});
	$node->safe_psql('postgres', 'VACUUM ANALYZE');
	return;
}

# over_http($connections, $pushes): seconds, and the milliseconds of each
sub over_http
{
	my ($connections, $pushes) = @_;
	my $file = "$dir/bodies" . ++$number;
	my ($out, $err);

	append_to_file($file, join '', map { envelope(1 + int(rand $users), int(rand 2)) . "\n" } 1 .. $pushes);
	IPC::Run::run([ "$dir/http_load", $port, $connections, $pushes, '/api/userData:push', $key, $file ], '>', \$out, '2>', \$err)
	  or die $err;
	unlink $file;
	my ($seconds, @us) = split /\n/, $out;
	return ($seconds, map { $_ / 1000 } @us);
}

# in_sql($clients, $pushes): the same through pgbench
sub in_sql
{
	my ($clients, $pushes) = @_;
	my $log = "$dir/log" . ++$number;
	my $script = "\\set n random(1, $users)\n\\set d :n % 500\n\\set r random(0, 1)\n"
	  . q{SELECT uds_push('{"dataType":"user","records":[{"uid":"u:n","username":"login:n","nickname":"Name :r","email":"login:n@example.com","title":"Title :r","departments":["d:d"]}]}');};
	my ($out, $err);

	append_to_file("$log.script", $script);
	IPC::Run::run([ 'pgbench', '-n', '-c', $clients, '-j', 1, '-t', int($pushes / $clients), '-l', '--log-prefix', $log,
			'--random-seed', $number, '-f', "$log.script", $node->connstr('postgres') ], '>', \$out, '2>', \$err)
	  or die "pgbench failed: $err";
	my ($lines) = glob "$log.[0-9]*";
	my ($tps) = $out =~ /^tps = ([0-9.]+) \(without/m or die $out;
	return ($pushes / $tps, map { (split / /)[2] / 1000 } split /\n/, slurp_file($lines));
}

#
# One user at a time
#
fill();
over_http(2, 500);
in_sql(2, 500);
say_out <<"EOT";
|                                                   | per second |    p50 ms |    p99 ms |
|---------------------------------------------------|-----------:|----------:|----------:|
EOT
my %share;
foreach my $connections (@connections)
{
	my (%seconds, %ms);

	foreach my $round (1 .. $rounds)
	{
		# each begins in turn
		foreach my $way ($round % 2 ? (\&in_sql, \&over_http) : (\&over_http, \&in_sql))
		{
			my ($seconds, @ms) = $way->($connections, $pushes);

			push @{ $seconds{$way} }, $seconds;
			push @{ $ms{$way} }, @ms;
		}
	}
	foreach my $way ([ 'SELECT uds_push(...)', \&in_sql, 'clients' ], [ 'over HTTP', \&over_http, 'connections' ])
	{
		my ($name, $code, $what) = @$way;

		say_out "| %-49s | %10.0f | %9.2f | %9.2f |\n", "$name, $connections $what",
		  $pushes / percentile(50, @{ $seconds{$code} }), percentile(50, @{ $ms{$code} }), percentile(99, @{ $ms{$code} });
	}
	$share{$connections} = percentile(50, @{ $seconds{ \&over_http } }) / percentile(50, @{ $seconds{ \&in_sql } });
}

#
# Many, as JSON lines
#
my @lines = map {
	my $d = $_ % 500;
	qq({"uid":"u$_","username":"login$_","nickname":"Name of $_","email":"login$_\@example.com","phone":"13$_","title":"Title $_","departments":["d$d"]})
} 1 .. $records;
append_to_file("$dir/lines", join "\n", @lines);
append_to_file("$dir/push.sql", q|SELECT count(*) FROM uds_push('{"dataType":"user","records":[| . join(',', @lines) . "]}');\n");

my %many;

foreach my $way (qw(sql http http sql sql http))
{
	my ($out, $err);

	$node->safe_psql('postgres', 'TRUNCATE uds.users, uds.department_members, uds.records, uds.record_resources');
	$node->safe_psql('postgres', 'DELETE FROM uds.changes; VACUUM ANALYZE; CHECKPOINT');
	my $start = time;

	if ($way eq 'sql')
	{
		IPC::Run::run([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', "$dir/push.sql" ], '>', \$out, '2>', \$err) or die $err;
	}
	else
	{
		IPC::Run::run([ 'curl', '-s', '-S', '-f', '--noproxy', '*', '-H', "Authorization: Bearer $key", '-H', 'Content-Type: application/x-ndjson',
				'-H', 'Expect:', '--data-binary', "\@$dir/lines", "http://127.0.0.1:$port/api/userData:push?dataType=user" ],
			'>', \$out, '2>', \$err) or die $err;
	}
	push @{ $many{$way} }, time - $start;
	die "not all are there: $out" unless $node->safe_psql('postgres', 'SELECT count(*) FROM uds.users') == $records;
}
say_out <<"EOT";

|                                                   |         s |
|---------------------------------------------------|----------:|
EOT
say_out "| %-49s | %9.2f |\n", "$records new users, uds_push() in SQL", percentile(50, @{ $many{sql} });
say_out "| %-49s | %9.2f |\n", "$records new users, JSON lines over HTTP", percentile(50, @{ $many{http} });

limit_head();
limit("time over HTTP / in SQL, $_ connections", $share{$_}, '1.43') foreach @connections;
limit("$records as JSON lines / in SQL", percentile(50, @{ $many{http} }) / percentile(50, @{ $many{sql} }), 1.3);

end_bench($node);
