# UdsSamba: a real domain controller, Samba's, provisioned for the test in a
# directory of its own, without rights of root: in namespaces, so that it has the
# ports that it wants; reached by its socket.  Ends with the test.
package UdsSamba;

use strict;
use warnings;

use IPC::Run ();
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);

our $context = 'DC=corp,DC=example,DC=test';
our $admin = 'Administrator@corp.example.test';
our $password = 'Passw0rd!x9';

my @started;

# What would need root: files of the domain get owners, which nobody reads here.
my $tool = <<'PY';
import sys
import samba.provision
samba.provision.setsysvolacl = samba.provision.checksysvolacl = lambda *a, **k: None
from samba.netcmd.main import cmd_sambatool
sys.exit(cmd_sambatool()._run("samba-tool", *sys.argv[1:]) or 0)
PY

# run(@command): in a namespace where we are root; returns whether it succeeded,
# and its output
sub run
{
	my (@command) = @_;
	my $out = '';
	my $ok = eval { IPC::Run::run([ 'unshare', '-Ur', @command ], '<', \undef, '>', \$out, '2>&1', IPC::Run::timeout(3 * $PostgreSQL::Test::Utils::timeout_default)) };

	return ($ok, $out . ($@ // ''));
}

# start(): the object, or undef and why it could not be
sub start
{
	my ($class) = @_;
	my $folder = PostgreSQL::Test::Utils::tempdir_short() . '/ad';
	my $self = bless { folder => $folder, owner => $$ }, $class;
	my @here = ('--option=interfaces=lo', '--option=bind interfaces only=yes');

	return (undef, 'samba is not there (package samba-ad-dc)') unless -x '/usr/sbin/samba';
	foreach my $program ('ip', 'setpriv', 'ldapmodify')
	{
		return (undef, "$program is not there") unless grep { -x "$_/$program" } split(/:/, $ENV{PATH}), '/usr/sbin', '/sbin';
	}
	my ($ok, $out) = run('-n', 'true');
	return (undef, "no namespaces of our own: $out") unless $ok;
	($ok, $out) = run('python3', '-c', $tool, 'domain', 'provision', '--realm=CORP.EXAMPLE.TEST', '--domain=CORP', '--server-role=dc', '--dns-backend=NONE',
		"--adminpass=$password", "--targetdir=$folder", '--host-name=dc1', '--host-ip=127.0.0.1', @here);
	return (undef, 'it could not be provisioned: ' . substr($out, -500)) unless $ok;

	my $pid = fork();
	die "could not fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', "$folder/samba.out";
		open STDERR, '>&', \*STDOUT;
		no warnings 'exec';
		exec 'unshare', '-Urn', 'sh', '-c', 'PATH=$PATH:/usr/sbin:/sbin; ip link set lo up; exec setpriv --pdeathsig KILL samba "$@"', 'samba',
		  '-F', '--no-process-group', '-M', 'single', '-s', "$folder/etc/smb.conf", '--option=server services=ldap', @here,
		  '--option=ldap server require strong auth=no', "--option=pid directory=$folder", "--option=log file=$folder/samba.log",
		  "--option=ncalrpc dir=$folder/ncalrpc", "--option=lock directory=$folder/lock";
		POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	push @started, $self;
	for (my $try = 0; $try < 10 * $PostgreSQL::Test::Utils::timeout_default; $try++)
	{
		return ($self) if eval { $self->client('ldapsearch', '', '-b', '', '-s', 'base', 'dnsHostName') };
		last if waitpid($pid, POSIX::WNOHANG()) == $pid;
		usleep(100_000);
	}
	return (undef, 'it did not start: ' . substr(slurp_file("$folder/samba.out"), -500));
}

sub uri { return 'ldapi://' . "$_[0]->{folder}/private/ldapi" =~ s{/}{%2F}gr; }

# options(%over): of a source that reads all of it
sub options
{
	my ($self, %over) = @_;

	return (urls => $self->uri, bind_dn => $admin, password => $password, base_dn => $context, preset => 'ad', %over);
}

# client($program, $input, @arguments): of OpenLDAP's, as the administrator; its output
sub client
{
	my ($self, $program, $input, @arguments) = @_;
	my ($out, $err) = ('', '');

	local $ENV{LDAPNOINIT} = 1;
	IPC::Run::run([ $program, '-x', '-H', $self->uri, '-D', $admin, '-w', $password, @arguments ], '<', \$input, '>', \$out, '2>', \$err,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default))
	  or die "$program failed: $err";
	return $out;
}

# tool(@arguments): of samba-tool, on the database itself
sub tool
{
	my ($self, @arguments) = @_;
	my ($ok, $out) = run('python3', '-c', $tool, @arguments, '-s', "$self->{folder}/etc/smb.conf", '-H', "$self->{folder}/private/sam.ldb");

	die "samba-tool @arguments failed: $out" unless $ok;
	return;
}

sub stop
{
	my ($self) = @_;

	return if !$self->{pid} || $self->{owner} != $$;
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	$self->{pid} = undef;
	return;
}

END
{
	# stopping must not change how the test ends
	my $status = $?;

	$_->stop foreach @started;
	$? = $status;
}

1;
