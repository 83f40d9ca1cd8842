# UdsReplay: the directory of test/mock/ldap_replay.py, which answers as Active
# Directory does, and misbehaves when told to.  Ends with the test.
package UdsReplay;

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils;

my $program = File::Spec->rel2abs(dirname(__FILE__) . '/../mock/ldap_replay.py');
my $json = JSON::PP->new->utf8->canonical;

our $context = 'DC=corp,DC=example,DC=test';
our $account = 'reader@corp.example.test';
our $password = 'Passw0rd!x9';

sub start
{
	my ($class) = @_;
	my $self = bless { in => '', out => '', err => '' }, $class;

	$self->{run} = IPC::Run::start([ 'python3', $program ], '<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err},
		IPC::Run::timer(10 * $PostgreSQL::Test::Utils::timeout_default));
	$self->{port} = $self->reply;
	return $self;
}

# The next line that it prints
sub reply
{
	my ($self) = @_;

	my $end;

	until (($end = index $self->{out}, "\n") >= 0)
	{
		die "the directory ended: $self->{err}" unless $self->{run}->pumpable;
		$self->{run}->pump;
	}
	my $line = substr $self->{out}, 0, $end + 1, '';
	chomp $line;
	return $line;
}

# control(%command): see test/mock/README.md
sub control
{
	my ($self, %command) = @_;

	$self->{in} .= $json->encode(\%command) . "\n";
	return $json->decode($self->reply);
}

# faults(@faults): the only ones from now on
sub faults
{
	my ($self, @faults) = @_;

	$self->control(faults => \@faults);
	return;
}

# count($counter): how often so far
sub count
{
	my ($self, $counter) = @_;

	return $self->control->{counters}{$counter};
}

# wait_for($counter, $at_least): dies if it does not come so far
sub wait_for
{
	my ($self, $counter, $at_least) = @_;
	my $found = $self->control(wait => $counter, at_least => $at_least, timeout => $PostgreSQL::Test::Utils::timeout_default)->{counters}{$counter};

	die "the directory's counter $counter is $found and not $at_least" if $found < $at_least;
	return;
}

sub uri { return "ldap://127.0.0.1:$_[0]->{port}"; }

# options(%over): of a source that reads all of it, in the clear
sub options
{
	my ($self, %over) = @_;

	return (urls => $self->uri, start_tls => 'false', bind_dn => $account, password => $password, base_dn => $context, preset => 'ad', %over);
}

sub stop
{
	my ($self) = @_;

	$self->{run}->kill_kill(grace => 5) if $self->{run};
	$self->{run} = undef;
	return;
}

1;
