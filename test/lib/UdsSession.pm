# UdsSession: statements that run while the test does something else, and
# settings changed while the server runs.
package UdsSession;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest;

our @EXPORT = qw(
  configure
  poll
  start_sql
);

# configure($node, $setting, $value): of the running server.  Returns when the
# postmaster has it, so that every process started from now on has it too.
sub configure
{
	my ($node, $setting, $value) = @_;
	my $log = -s $node->logfile;

	$node->append_conf('postgresql.conf', "$setting = " . quote($value));
	$node->reload;
	$node->wait_for_log(qr/parameter "\Q$setting\E" changed to "\Q$value\E"/, $log);
	return;
}

# poll($node, $query, $name, $db, $expected): an assertion that the query comes
# to return what is expected ("t")
sub poll
{
	my ($node, $query, $name, $db, $expected) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until($db // 'postgres', $query, $expected // 't'), $name);
}

# start_sql($node, $db, @statements): runs them one after the other in a
# session of its own, up to the first error.  Each is a transaction of its
# own unless it begins one.  The session's application_name is "session".
sub start_sql
{
	my ($node, $db, @statements) = @_;
	my $self = bless { out => '', err => '' }, __PACKAGE__;
	my @command = ('psql', '-XAtq', '-v', 'ON_ERROR_STOP=1',
		'-d', $node->connstr($db) . ' application_name=session');

	push @command, '-c', $_ foreach @statements;
	$self->{run} = IPC::Run::start(
		\@command,
		'<', \undef,
		'>', \$self->{out},
		'2>', \$self->{err},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return $self;
}

# until_error_output($pattern): waits for a NOTICE or an error
sub until_error_output
{
	my ($self, $pattern) = @_;

	return pump_until($self->{run}, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default),
		\$self->{err}, $pattern);
}

# interrupt(): as Ctrl-C does
sub interrupt
{
	my ($self) = @_;

	$self->{run}->signal('INT');
	return;
}

# finish(): waits for its end; true if no statement failed
sub finish
{
	my ($self) = @_;

	my $succeeded = $self->{run}->finish;
	chomp($self->{out}, $self->{err});
	return $succeeded;
}

# what it has printed, and its notices and errors
sub out { return $_[0]->{out}; }
sub err { return $_[0]->{err}; }

1;
