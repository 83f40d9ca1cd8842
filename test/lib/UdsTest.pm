# UdsTest: what the TAP tests share: the mock service, a server with uds, a
# source of the one in the other.
package UdsTest;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use File::Spec;
use HTTP::Tiny;
use JSON::PP ();
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);

our @EXPORT = qw(
  create_wecom_source
  new_node
  quote
  start_mock
  sync
  task_field
  wait_task
);
our @EXPORT_OK = qw(query);

my $mock_program = File::Spec->rel2abs(dirname(__FILE__) . '/../mock/server.py');
my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my @mocks;
my $first_node;

# quote($text): as an SQL literal, undef as NULL
sub quote
{
	my ($text) = @_;

	return 'NULL' unless defined $text;
	$text =~ s/'/''/g;
	return "'$text'";
}

# start_mock(%arguments): starts the mock service on a free port and returns
# an object.  Arguments are those of server.py: tiny => 1, users => 200,
# latency_ms => 50, ...  The mock ends with the test, whatever becomes of it.
sub start_mock
{
	my (%arguments) = @_;
	my $number = @mocks;
	my $log = "${PostgreSQL::Test::Utils::test_logfile}_mock$number";
	my $port_file = PostgreSQL::Test::Utils::tempdir() . '/port';
	my @command = ('python3', $mock_program, '--port', $arguments{port} // 0,
		'--port-file', $port_file, '--parent-pid', $$);
	my $self;

	delete $arguments{port};
	foreach my $name (sort keys %arguments)
	{
		my $option = '--' . ($name =~ tr/_/-/r);

		push @command, $name eq 'tiny' ? $option : ($option, $arguments{$name});
	}

	my $pid = fork();
	die "could not fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', $log;
		open STDERR, '>&', \*STDOUT;
		no warnings 'exec';
		exec @command;
		POSIX::_exit(127);
	}
	$self = bless { pid => $pid, owner => $$ }, __PACKAGE__;
	push @mocks, $self;

	for (my $try = 0; $try < 10 * $PostgreSQL::Test::Utils::timeout_default; $try++)
	{
		if (open my $file, '<', $port_file)
		{
			chomp($self->{port} = <$file>);
			last;
		}
		die "the mock ended at its start, see $log"
		  if waitpid($pid, POSIX::WNOHANG()) == $pid;
		usleep(100_000);
	}
	die "the mock did not start" unless $self->{port};
	return $self;
}

sub port { return $_[0]->{port}; }

sub pid { return $_[0]->{pid}; }

# base_url([$service]): the option base_url of a source of that type
sub base_url
{
	my ($self, $service) = @_;

	return "http://127.0.0.1:$self->{port}/" . ($service // 'wecom');
}

# call($method, $path, $body): of the mock's control interface
sub call
{
	my ($self, $method, $path, $body) = @_;

	# a proxy of the environment is not meant for the loopback address
	my $http = HTTP::Tiny->new(
		proxy => undef,
		http_proxy => undef,
		timeout => $PostgreSQL::Test::Utils::timeout_default);
	my $response = $http->request(
		$method,
		"http://127.0.0.1:$self->{port}/_control$path",
		defined $body ? { content => $json->encode($body) } : {});

	die "the mock answered $response->{status} to $method /_control$path: $response->{content}"
	  unless $response->{success};
	return $json->decode($response->{content});
}

# control({...}): steers the mock, see test/mock/README.md
sub control
{
	my ($self, $changes) = @_;

	return $self->call('POST', '', $changes);
}

# get_control(%query): what the mock has seen
sub get_control
{
	my ($self, %query) = @_;
	my $query = join '&', map { "$_=$query{$_}" } sort keys %query;

	return $self->call('GET', $query eq '' ? '' : "?$query");
}

# wait_for($counter, $at_least): waits until the mock's counter (held,
# requests, in_flight) has come so far, and dies if it does not
sub wait_for
{
	my ($self, $counter, $at_least) = @_;
	my $timeout = $PostgreSQL::Test::Utils::timeout_default - 1;
	my $state = $self->get_control(
		wait => $counter,
		at_least => $at_least // 1,
		timeout => $timeout);

	die "the mock's counter $counter is $state->{$counter} and not $at_least after $timeout s"
	  if $state->{$counter} < ($at_least // 1);
	return $state;
}

# seen([$call]): requests that the mock has had, by path, or of one call
sub seen
{
	my ($self, $call) = @_;
	my $by_path = $self->get_control->{by_path};

	return defined $call ? $by_path->{"/wecom/cgi-bin/$call"} // 0 : $by_path;
}

sub stop
{
	my ($self) = @_;

	return if !$self->{pid} || $self->{owner} != $$;
	kill 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	$self->{pid} = undef;
	return;
}

# new_node(%settings): a running server with uds preloaded.  'name' names the
# node, everything else is a setting.
sub new_node
{
	my (%settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new(delete $settings{name} // 'main');
	my %defaults = (
		'shared_preload_libraries' => 'uds',
		'uds.allowed_hosts' => '127.0.0.1',
		'uds.http_retry_delay' => '10ms',
		'uds.retry_interval' => '100ms',
		'log_min_messages' => 'log',
		'restart_after_crash' => 'on');
	my %all = (%defaults, %settings);

	$node->init;
	$node->append_conf('postgresql.conf', "$_ = " . quote($all{$_})) foreach sort keys %all;
	$node->start;
	$first_node //= $node;
	return $node;
}

# query($sql, $db): what it returns, on the first node that the test made
sub query
{
	my ($sql, $db) = @_;

	return $first_node->safe_psql($db // 'postgres', $sql);
}

# create_wecom_source($node, $mock, %over): returns the id.  Of %over, 'db'
# is the database, 'options' adds to the options of the source, the rest are
# arguments of uds_create_source (name => 'wecom').
sub create_wecom_source
{
	my ($node, $mock, %over) = @_;
	my $db = delete $over{db} // 'postgres';
	my %options = (
		corpid => 'ww0123456789abcdef',
		secret => 'app-secret',
		base_url => $mock->base_url,
		%{ delete $over{options} // {} });
	my %arguments = (
		name => 'wecom',
		type => 'wecom',
		%over,
		options => JSON::PP->new->canonical->encode(\%options));

	return $node->safe_psql($db,
		'SELECT uds_create_source('
		  . join(', ', map { "$_ => " . quote($arguments{$_}) } sort keys %arguments)
		  . ')');
}

# sync($node, $source, $db): syncs and waits, returns the task's id; dies if
# the task fails
sub sync
{
	my ($node, $source, $db) = @_;

	return $node->safe_psql($db // 'postgres',
		'SET client_min_messages = warning; SELECT uds_sync(' . quote($source // 'wecom') . ', wait => true)');
}

# wait_task($node, $id, $db): waits until the task has ended, returns its status
sub wait_task
{
	my ($node, $id, $db) = @_;

	return $node->safe_psql($db // 'postgres',
		"SELECT uds_wait($id, '$PostgreSQL::Test::Utils::timeout_default s')");
}

# task_field($node, $id, $expression, $db): of the task's row
sub task_field
{
	my ($node, $id, $expression, $db) = @_;

	return $node->safe_psql($db // 'postgres', "SELECT $expression FROM uds.tasks WHERE id = $id");
}

END
{
	# stopping must not change how the test ends
	my $status = $?;

	$_->stop foreach @mocks;
	$? = $status;
}

1;
