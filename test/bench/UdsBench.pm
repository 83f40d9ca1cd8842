# UdsBench: what the programs of this directory share: where their tables go,
# limits, a server set up as a DBA would.  To be used before the test library,
# which redirects the output.
package UdsBench;

use strict;
use warnings;

# kept before the modules below redirect it
my ($out, $remarks);

BEGIN
{
	open $out, '>&', \*STDOUT or die "could not keep the output: $!";
}

use Exporter 'import';
use FindBin;
use lib "$FindBin::RealBin/../lib";

use IO::Handle;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest;

our @EXPORT = qw(
  bench_node
  end_bench
  limit
  limit_head
  percentile
  report_statements
  say_out
  serve_pages
  start_gate
  status_kib
);

my $missed = 0;
my $top = $ENV{TOP};

$out->autoflush(1);
$SIG{__DIE__} = sub { print $out @_ unless $^S; };

# when the test library has set its own
INIT
{
	Test::More->builder->$_(\$remarks) foreach qw(output failure_output todo_output);
}

# say_out($format, ...): as printf, to where the user sees it
sub say_out
{
	my ($format, @values) = @_;

	printf $out $format, @values;
	return;
}

# limit_head(): begins the table of limits
sub limit_head
{
	print $out <<"EOT";

|                                                   |     found |  limit | held   |
|---------------------------------------------------|----------:|-------:|--------|
EOT
	return;
}

# limit($name, $found, $limit): a line of it; what was found must not be more
sub limit
{
	my ($name, $found, $limit) = @_;
	my $held = $found <= $limit;

	$missed++ unless $held;
	printf $out "| %-49s | %9.3f | %6s | %-6s |\n", $name, $found, $limit, $held ? 'yes' : 'MISSED';
	return;
}

# end_bench($node): to be called last
sub end_bench
{
	my ($node) = @_;

	$node->stop;
	plan skip_all => 'a measurement, no test';
	return;
}

# percentile($percent, @values): the smallest value that so many are not above
sub percentile
{
	my ($percent, @values) = @_;
	my @sorted = sort { $a <=> $b } @values;

	return $sorted[ int(($#sorted) * $percent / 100 + 0.5) ];
}

# status_kib($pid, $key): a line of /proc/PID/status; undef when the process
# is gone
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

# What PostgreSQL's documentation recommends for shared_buffers: a quarter of
# the memory, in MB
sub quarter_of_memory
{
	my ($kib) = slurp_file('/proc/meminfo') =~ /^MemTotal:\s+(\d+) kB$/m;

	return int($kib / 1024 / 4) . 'MB';
}

# bench_node(%settings): a server with the settings it is installed with, but
# for shared_buffers and max_wal_size, which any DBA would raise.  The test
# library's own settings are taken back.
sub bench_node
{
	my (%settings) = @_;
	my %counting = (
		'shared_preload_libraries' => 'uds, pg_stat_statements',
		'pg_stat_statements.track_utility' => 'off');
	my $node = new_node(
		'fsync' => 'on',
		'log_statement' => 'none',
		'max_connections' => 100,
		'max_wal_senders' => 10,
		'max_wal_size' => '4GB',
		'shared_buffers' => quarter_of_memory(),
		'wal_level' => 'replica',
		($top ? %counting : ()),
		%settings);

	$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements') if $top;
	return $node;
}

# report_statements($node, $db): with TOP=N in the environment the N statements
# that the server has spent most of its time with in a database, since the
# last call
sub report_statements
{
	my ($node, $db) = @_;

	return unless $top;
	say_out("%s\n", $node->safe_psql('postgres',
		q{SELECT format('    %10s ms %8s calls  %s', round(s.total_exec_time::numeric, 1), s.calls,
			left(regexp_replace(s.query, '\s+', ' ', 'g'), 160))
		FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
		WHERE d.datname = } . quote($db) . " ORDER BY s.total_exec_time DESC LIMIT $top"));
	$node->safe_psql('postgres', 'SELECT pg_stat_statements_reset()');
	return;
}

# serve_pages($folder): starts the server of the pages and returns its address,
# and a handle: when that is closed the server ends
sub serve_pages
{
	my ($folder) = @_;

	pipe my $in, my $keep or die "could not make a pipe: $!";
	pipe my $port, my $out or die "could not make a pipe: $!";
	my $pid = fork();
	die "could not fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		close $keep;
		open STDIN, '<&', $in;
		open STDOUT, '>&', $out;
		no warnings 'exec';
		exec 'python3', "$FindBin::RealBin/serve.py", $folder;
		POSIX::_exit(127);
	}
	close $out;
	chomp(my $number = <$port> // die 'the server of the pages did not start');
	return ("http://127.0.0.1:$number", $keep);
}

# start_gate($node, $db, $source, $columns): starts a session that holds the
# row of the source, for which every task asks before it writes anything, and
# gives it free when the task has come there.  It then prints $columns: of p, the
# task in uds.progress, and l, the lock that it waits for in pg_locks.
sub start_gate
{
	my ($node, $db, $source, $columns) = @_;
	my $waiting = q{
		FROM uds.progress p JOIN pg_locks l ON l.pid = p.pid AND NOT l.granted};
	my @statements = (
		'BEGIN',
		"SELECT 'held' FROM uds.source_settings WHERE name = " . quote($source) . ' FOR NO KEY UPDATE',
		qq{DO \$\$
		BEGIN
			WHILE NOT EXISTS (SELECT $waiting)
				AND NOT EXISTS (SELECT FROM uds.tasks WHERE status = 'failed')
			LOOP
				PERFORM pg_sleep(0.002);
			END LOOP;
		END \$\$},
		"SELECT $columns $waiting",
		'COMMIT');

	open my $gate, '-|', 'psql', '-XAtq', '-d', $node->connstr($db), map { ('-c', $_) } @statements
	  or die "could not run psql: $!";
	die 'the row of the source could not be locked' unless <$gate> eq "held\n";
	return $gate;
}

END { $? = 1 if $missed; }

1;
