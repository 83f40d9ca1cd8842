# Memory and open files of a worker stay flat over many tasks and over a task
# of many requests, with pg_stat_statements loaded.  "make check-long" does both
# at length.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use UdsSession;
use UdsTest;

my $long = $ENV{UDS_TEST_LONG};
my $syncs = $long ? 500 : 50;
my $departments = $long ? 10_000 : 600;
my $mock = start_mock(tiny => 1);
my $node = new_node(
	'shared_preload_libraries' => 'uds, pg_stat_statements',
	'uds.max_workers' => 1,
	'temp_buffers' => '800kB',	# which are taken as needed, and kept
	'log_min_messages' => 'warning');

# what caches and the allocator may still take after the first part, in kB; and connections
my ($slack, $more_files) = (512, 10);

plan skip_all => 'needs /proc' unless -d "/proc/$$/fd";
$node->safe_psql('postgres', 'CREATE EXTENSION uds; CREATE EXTENSION pg_stat_statements');
create_wecom_source($node, $mock);

# Memory of the process that is its own, in kB, and its open files; nothing once it has ended
sub usage
{
	my ($pid) = @_;

	open my $status, '<', "/proc/$pid/status" or return;
	my ($kb) = map { /^RssAnon:\s+(\d+)/ ? $1 : () } <$status>;
	my @files = glob "/proc/$pid/fd/*";
	return unless $kb && @files;
	return ($kb, scalar @files);
}

# watch($query, $end): looks at the worker until the query, "done|pid", says
# that $end are done.  Asserts that the most it had in the last two fifths is
# what it had in the two fifths before those.
sub watch
{
	my ($query, $end, $what) = @_;
	my (@memory, @files, %workers);
	my $done = 0;
	my $before = '';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for (my $try = 0; $try < 100 * $PostgreSQL::Test::Utils::timeout_default && $done < $end; $try++)
	{
		# it counts if the worker was at it before and is afterwards
		my ($kb, $count) = $before ne '' ? usage($before) : ();

		($done, my $pid) = split /\|/, $node->safe_psql('postgres', $query);
		my $same = ($pid // '') eq $before;

		$before = $pid // '';
		if ($kb && $same)
		{
			my $part = $done < $end / 5 ? 0 : $done < 3 * $end / 5 ? 1 : 2;

			$workers{$pid} = 1;
			$memory[$part] = $kb if $kb > ($memory[$part] // 0);
			$files[$part] = $count if $count > ($files[$part] // 0);
		}
		usleep(10_000);
	}
	is(scalar keys %workers, 1, "$what: one worker did it all");
	ok($memory[1] && $memory[2] && $memory[2] <= $memory[1] + $slack, 'its memory does not grow')
	  or diag(join ', ', map { $_ // 'not seen' } @memory);
	ok($files[1] && $files[2] && $files[2] <= $files[1] + $more_files, 'nor does the number of its files')
	  or diag(join ', ', map { $_ // 'not seen' } @files);
	note(sprintf '%s: kB %s, files %s', $what, "@memory", "@files");
	return;
}

#
# Many tasks, queued at once for one worker
#
sync($node);
poll($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'uds worker'}, 'the first worker is gone');
$node->safe_psql('postgres', qq{
	BEGIN;
	INSERT INTO uds.tasks (source_id, kind, mode, requested_by)
	SELECT s.id, 'sync', 'full', current_user FROM uds.sources s, generate_series(2, $syncs) WHERE s.name = 'wecom';
	SELECT uds_sync('wecom');
	COMMIT});
watch(qq{
	SELECT count(*) FILTER (WHERE status = 'success') - 1,
		   (SELECT pid FROM pg_stat_activity WHERE application_name = 'uds worker' LIMIT 1)
	FROM uds.tasks}, $syncs - 1, "$syncs syncs");
is($node->safe_psql('postgres', q{SELECT count(*) FROM uds.tasks WHERE status NOT IN ('init', 'processing', 'success')}),
	0, 'all of them succeed');

# statements are the same from task to task, so statistics of them are of use
my $statements = q{FROM pg_stat_statements WHERE query LIKE '%uds.%' AND query NOT LIKE '%pg_stat%'};
sync($node);
$node->safe_psql('postgres', "CREATE TABLE seen AS SELECT DISTINCT query $statements");
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM seen'), '>', 20, 'pg_stat_statements sees the statements of workers');
sync($node);
sync($node);
is($node->safe_psql('postgres', "SELECT query $statements AND query NOT IN (SELECT query FROM seen)"), '', 'and further tasks add none');

#
# Many requests in one task
#
my $large = start_mock(users => 100, departments => $departments);
create_wecom_source($node, $large, name => 'large');
$node->safe_psql('postgres', q{SELECT uds_sync('large')});
watch(qq{
	SELECT coalesce((SELECT requests FROM uds.tasks t JOIN uds.sources s ON s.id = t.source_id
					  WHERE s.name = 'large' AND t.status = 'success'),
					(SELECT requests_done FROM uds.progress), 0),
		   (SELECT pid FROM uds.progress WHERE phase = 'fetching')}, $departments, "$departments requests");

$node->stop;
done_testing();
