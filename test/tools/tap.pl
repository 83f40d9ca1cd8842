# tap.pl --counts FILE [--jobs N] [--programs] TEST...
#
# Runs tests that print TAP, in Perl or (--programs) as they are, and writes
# "passed failed skipped" to FILE.  What counts is the assertion; a test that
# ends badly with every assertion passed counts as one failure more.
use strict;
use warnings;

use Getopt::Long;
use TAP::Harness;

my ($counts, $jobs, $programs) = (undef, 1, 0);
GetOptions(
	'counts=s' => \$counts,
	'jobs=i' => \$jobs,
	'programs' => \$programs) or exit 2;

my ($passed, $failed, $skipped) = (0, 0, 0);
my $harness = TAP::Harness->new(
	{
		jobs => $jobs,
		timer => 1,
		verbosity => 1,
		($programs ? (exec => []) : ()),
	});
my $result = $harness->runtests(@ARGV);

foreach my $parser ($result->parsers)
{
	my $bad = $parser->failed;

	$bad = 1 if $bad == 0 && $parser->has_problems;
	$failed += $bad;
	$skipped += $parser->skipped;
	$passed += $parser->passed - $parser->skipped;

	# a file that skips itself as a whole has no assertion to count
	$skipped++ if defined $parser->skip_all;
}

open my $out, '>', $counts or die "could not write $counts: $!";
print $out "$passed $failed $skipped\n";
close $out or die "could not write $counts: $!";
exit($failed ? 1 : 0);
