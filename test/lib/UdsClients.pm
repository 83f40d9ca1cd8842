# UdsClients: clients over HTTP that are many, slow, or broken.
package UdsClients;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use File::Spec;
use IO::Select;
use IO::Socket::INET;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Socket qw(SHUT_WR);
use Time::HiRes ();
use UdsHttp;
use UdsTest;

our @EXPORT = qw(
  ask
  connect_raw
  get_text
  listener_pids
  post_text
  read_replies
  restart_listener
  send_raw
  start_clients
  statuses
  users_json
);

my $program = File::Spec->rel2abs(dirname(__FILE__) . '/../mock/clients.py');
my $json = JSON::PP->new->utf8->allow_nonref;

# start_clients($command, $key, %arguments): starts clients.py, which says what
# the arguments are.  They end with the test, whatever becomes of it.
sub start_clients
{
	my ($command, $key, %arguments) = @_;
	my $self = bless { in => '', out => '', err => '' }, __PACKAGE__;

	local $ENV{UDS_KEY} = $key;
	$self->{run} = IPC::Run::start(
		[ 'python3', $program, $command, map { ("--$_" => $arguments{$_}) } sort keys %arguments ],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err},
		IPC::Run::timeout(3 * $PostgreSQL::Test::Utils::timeout_default));
	return $self;
}

# wait_event($event): until the clients say so; returns what they say of it
sub wait_event
{
	my ($self, $event) = @_;

	until ($self->{out} =~ /^\Q$event\E (.*)\n/m)
	{
		die "the clients ended without saying \"$event\": $self->{err}" unless $self->{run}->pumpable;
		$self->{run}->pump;
	}
	$self->{out} =~ /^\Q$event\E (.*)\n/m;
	return $json->decode($1);
}

# finish(): waits until they have ended by themselves; returns what "end" says
sub finish
{
	my ($self) = @_;
	my $end = $self->wait_event('end');

	$self->stop;
	return $end;
}

# stop(): ends them, by ending their input
sub stop
{
	my ($self) = @_;

	eval { $self->{run}->finish; 1 } or $self->{run}->kill_kill(grace => 5);
	return;
}

# connect_raw($port, [$from]): a connection, from an address of the loopback
# interface
sub connect_raw
{
	my ($port, $from) = @_;

	return IO::Socket::INET->new(
		PeerAddr => "127.0.0.1:$port",
		LocalAddr => $from // '127.0.0.1',
		Timeout => $PostgreSQL::Test::Utils::timeout_default) // die "could not connect: $!";
}

# post_text($key, $body, @headers): a push as it is on the wire.  Headers are
# whole lines; Content-Length is among them unless that or Transfer-Encoding is
# given.
sub post_text
{
	my ($key, $body, @headers) = @_;

	unshift @headers, "Authorization: Bearer $key" if defined $key;
	push @headers, 'Content-Length: ' . length($body) unless grep { /^(?:content-length|transfer-encoding):/i } @headers;
	return join("\r\n", 'POST /api/userData:push HTTP/1.1', 'Host: 127.0.0.1', @headers) . "\r\n\r\n$body";
}

# get_text($path): a request that asks for something
sub get_text
{
	my ($path) = @_;

	return "GET $path HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
}

# users_json(@uids): the body of a push of users
sub users_json
{
	return '{"dataType":"user","records":[' . join(',', map { qq({"uid":"$_","username":"$_"}) } @_) . ']}';
}

# send_raw($socket, $bytes): as much of it as the server takes before it closes
# the connection
sub send_raw
{
	my ($socket, $bytes) = @_;
	my $sent = 0;

	local $SIG{PIPE} = 'IGNORE';
	while ($sent < length $bytes)
	{
		my $n = syswrite $socket, $bytes, 65536, $sent;

		last unless defined $n;
		$sent += $n;
	}
	return $sent;
}

# read_replies($socket, $count): so many replies, or those that come before the
# server closes the connection, with count undef all until it does.  Each is a
# hash: status, headers (names in lower case), body.  An interim reply is one
# without body.
sub read_replies
{
	my ($socket, $count) = @_;
	my $select = IO::Select->new($socket);
	my $until = Time::HiRes::time() + $PostgreSQL::Test::Utils::timeout_default;
	my $text = '';
	my @replies;

	while (1)
	{
		while ($text =~ m{^HTTP/1\.1 (\d+)[^\r\n]*\r\n(.*?)\r\n\r\n}s || $text =~ m{^HTTP/1\.1 (\d+)[^\r\n]*\r\n()\r\n}s)
		{
			my $head = $+[0];
			my %reply = (status => $1, headers => { map { /^([^:]+):\s*(.*)$/ ? (lc $1 => $2) : () } split /\r\n/, $2 });
			my $length = $reply{headers}{'content-length'} // 0;

			last if length $text < $head + $length;
			$reply{body} = substr $text, $head, $length;
			substr $text, 0, $head + $length, '';
			push @replies, \%reply;
		}
		last if defined $count && @replies >= $count;
		die 'the server neither answers nor closes the connection' unless $select->can_read($until - Time::HiRes::time());
		last unless sysread $socket, $text, 65536, length $text;
	}
	return @replies;
}

# ask($port, $text, %options): the replies that come back; options: from (an
# address), count of replies (else all until the connection ends), half_close
sub ask
{
	my ($port, $text, %options) = @_;
	my $socket = connect_raw($port, $options{from});

	send_raw($socket, $text);
	shutdown $socket, SHUT_WR if $options{half_close};
	return read_replies($socket, $options{count});
}

# statuses(@replies): of replies, in a line
sub statuses
{
	return join ' ', map { $_->{status} } @_;
}

# listener_pids($node): the processes of the listener
sub listener_pids
{
	my ($node) = @_;

	return split /\n/, $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'uds http listener'});
}

# restart_listener($node, %settings): with the server, which has other settings then
sub restart_listener
{
	my ($node, %settings) = @_;

	$node->append_conf('postgresql.conf', "$_ = " . quote($settings{$_})) foreach sort keys %settings;
	$node->restart;
	wait_for_listener($node);
	return;
}

1;
