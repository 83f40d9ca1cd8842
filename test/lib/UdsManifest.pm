# UdsManifest: sources of type http over the mock's plain service, each with a
# manifest of its own.
package UdsManifest;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP ();
use UdsTest qw(:DEFAULT query);

our @EXPORT = qw(
  field
  people_manifest
  read_by
  seen
  source_of
  sync_now
);

my $json = JSON::PP->new->utf8->canonical;
my ($node, $mock);
my %before;

# what the last sync_now() ran
our $task;

# source_of($node, $mock): whose sources these are; without a mock, sources say
# themselves where to read
sub source_of
{
	($node, $mock) = @_;
	return;
}

# people_manifest(%over): a manifest with one stream, people, that reads
# everybody; $over{people} adds to the stream, the rest to the manifest
sub people_manifest
{
	my (%over) = @_;
	my %people = (
		type => 'user',
		request => { path => '/all/people' },
		records => '$.items[*]',
		expect => '$.items',
		fields => { uid => '$.id', nickname => '$.name' },
		%{ delete $over{people} // {} });

	return {
		manifest => 1,
		title => 'Plain service',
		options => {
			base_url => { required => JSON::PP::true },
			id => { default => 'us & them' },
			secret => { secret => JSON::PP::true },
			kind => { default => 'x' },
			%{ delete $over{options} // {} }
		},
		base_url => '{options.base_url}',
		errors => {
			code => '$.error.code',
			message => '$.error.message',
			ok => [undef],
			%{ delete $over{errors} // {} }
		},
		streams => { people => \%people, %{ delete $over{streams} // {} } },
		plans => [ { name => 'all', streams => ['people'] } ],
		%over
	};
}

# read_by($manifest, %options): makes a source of it, or changes the one there
# is, and reads all of it; returns the status of the task
sub read_by
{
	my ($manifest, %options) = @_;
	my $call = query(q{SELECT count(*) FROM uds.sources WHERE name = 'plain'}) ? 'uds_alter_source' : 'uds_create_source';
	my $given = $json->encode({
		base_url => $mock ? $mock->base_url('rest') : undef,
		secret => 's3cr+t/%:=',
		manifest => $manifest,
		%options
	});

	query("SELECT $call('plain', " . ($call =~ /create/ ? "'http', " : '') . 'options => ' . quote($given) . ')');
	return sync_now('full');
}

# sync_now($mode): syncs and notes the task, which may end in any way
sub sync_now
{
	my ($mode) = @_;

	%before = %{ $mock->get_control->{by_path} } if $mock;
	$task = query("SELECT uds_sync('plain', '$mode')");
	return wait_task($node, $task);
}

# field($expression): of that task
sub field
{
	my ($expression) = @_;

	return task_field($node, $task, $expression);
}

# seen($like): requests of that task for paths like this
sub seen
{
	my ($like) = @_;
	my $by_path = $mock->get_control->{by_path};
	my $sum = 0;

	$sum += $by_path->{$_} - ($before{$_} // 0) foreach grep { $_ =~ $like } keys %$by_path;
	return $sum;
}

1;
