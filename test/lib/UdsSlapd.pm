# UdsSlapd: a real slapd on loopback, in a directory of the test, with a company
# in it; what others do to it meanwhile; certificates for it.  Ends with the test.
package UdsSlapd;

use strict;
use warnings;

use Exporter 'import';
use IO::Socket::INET;
use IPC::Run ();
use MIME::Base64 qw(encode_base64);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);

our @EXPORT = qw(entry escape_value make_authority make_certificate);

my ($slapd) = grep { -x $_ } map { "$_/slapd" } '/usr/sbin', '/usr/libexec', '/usr/lib/openldap', split /:/, $ENV{PATH};
my $schemas = '/etc/ldap/schema';
my @started;

our $base = 'dc=example,dc=test';
our $admin = "cn=admin,$base";
our $password = 'S3cret-of-slapd';

# missing(): what a test needs and is not there, or undef
sub missing
{
	return 'slapd is not there' unless $slapd;
	return "slapd has no schemas in $schemas" unless -r "$schemas/inetorgperson.schema";
	return 'slapd has no modules in /usr/lib/ldap' unless -r '/usr/lib/ldap/back_mdb.la';
	foreach my $program ('ldapsearch', 'ldapmodify', 'setpriv')
	{
		return "$program is not there" unless grep { -x "$_/$program" } split /:/, $ENV{PATH};
	}
	return undef;
}

#
# LDIF
#

# line($attribute, $value): in Base64 where it has to be; text is UTF-8 already
sub line
{
	my ($attribute, $value) = @_;

	return "$attribute: $value\n" if $value =~ /^[\x21-\x39\x3b\x3d-\x7e][\x20-\x7e]*$/ && $value !~ / $/;
	return "${attribute}:: " . encode_base64($value, '') . "\n";
}

# entry($dn, @pairs): an entry in LDIF; a value may be an array
sub entry
{
	my ($dn, @pairs) = @_;
	my $text = line('dn', $dn);

	while (my ($attribute, $value) = splice @pairs, 0, 2)
	{
		$text .= line($attribute, $_) foreach ref $value ? @$value : $value;
	}
	return "$text\n";
}

# escape_value($value): for use in a name
sub escape_value
{
	my ($value) = @_;

	$value =~ s/([,+"\\<>;=])/\\$1/g;
	$value =~ s/^([# ])/\\$1/;
	$value =~ s/ $/\\ /;
	return $value;
}

# The units of the company, in names that have everything names may have; the
# first team of each has two squads, the first squad a cell.
my @areas = ('Sales', 'R&D, Core', '研发部', 'Ops+Infra', 'Lehrgänge', 'The "Office"', 'C:\\Temp', '#Labs', 'A=B; <C>', ' In between ');
my @first = ('Ann', 'Bo', 'Cem', 'Dörte', 'Eva', 'Łukasz', '张伟', 'Émile', 'José', "O'Neil");
my @last = ('Smith', 'Müller', '李', 'Nguyễn', 'Garcia', 'Øst', 'Kim', 'Brown, Jr.', 'van der Berg');

# units(): names of all organizational units below ou=People, the upper ones first
sub units
{
	my @units;

	foreach my $i (0 .. $#areas)
	{
		my $area = 'ou=' . escape_value($areas[$i]) . ",ou=People,$base";

		push @units, $area, map { "ou=Team $i-$_,$area" } 0 .. 2;
		push @units, map { "ou=Squad $i-$_,ou=Team $i-0,$area" } 0, 1;
		push @units, "ou=Cell $i,ou=Squad $i-0,ou=Team $i-0,$area";
	}
	return @units;
}

# person($i): name and attributes of somebody of the company, who was there long
# before the test
sub person
{
	my ($i, $units) = @_;
	my $uid = sprintf 'u%05d', $i;
	my $surname = $last[ $i % @last ];
	my $name = "$first[ $i % @first ] $surname";

	return ("uid=$uid," . $units->[ $i % @$units ],
		objectClass => 'inetOrgPerson', uid => $uid, cn => $name, sn => $surname, displayName => "$name $i",
		mail => "$uid\@example.test", telephoneNumber => sprintf('+1 555 %07d', $i),
		title => ('Engineer', 'Manager', 'Analyst')[ $i % 3 ], employeeNumber => $i,
		modifyTimestamp => '20260101080000Z', createTimestamp => '20260101080000Z');
}

# company($people): in LDIF.  Everybody but every tenth has somebody of the
# same ten as manager.  Groups are of 1, 5, 50, 500 and 5000, as far as there
# are so many.
sub company
{
	my ($people) = @_;
	my @units = units();
	my $text = entry($base, objectClass => [ 'dcObject', 'organization' ], o => 'Example', dc => 'example');
	my @names;

	$text .= entry("ou=$_,$base", objectClass => 'organizationalUnit', ou => $_) foreach 'People', 'Groups';
	foreach my $unit (@units)
	{
		# what is written in a name is taken apart again
		my ($ou) = $unit =~ /^ou=((?:\\.|[^,\\])*)/;

		$ou =~ s/\\(.)/$1/g;
		$text .= entry($unit, objectClass => 'organizationalUnit', ou => $ou);
	}
	foreach my $i (0 .. $people - 1)
	{
		my ($dn, @pairs) = person($i, \@units);

		push @names, $dn;
		push @pairs, manager => $names[ $i - $i % 10 ] if $i % 10;
		$text .= entry($dn, @pairs);
	}
	foreach my $size (grep { $_ <= $people } 1, 5, 50, 500, 5000)
	{
		$text .= entry("cn=group of $size,ou=Groups,$base", objectClass => 'groupOfNames', cn => "group of $size",
			owner => $names[0], member => [ @names[ 0 .. $size - 1 ] ]);
	}
	return $text;
}

#
# Certificates
#

# make_authority($folder, $name): a CA of the test's own
sub make_authority
{
	my ($folder, $name) = @_;

	system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', "$folder/$name.key", '-out', "$folder/$name.pem",
		'-days', '2', '-subj', "/CN=$name", '-addext', 'basicConstraints=critical,CA:TRUE');
	return;
}

# make_certificate($folder, $authority, $name, $subject): signed by it, for
# "IP:127.0.0.1" or the like
sub make_certificate
{
	my ($folder, $authority, $name, $subject) = @_;

	system_or_bail('openssl', 'req', '-newkey', 'rsa:2048', '-nodes', '-keyout', "$folder/$name.key", '-out', "$folder/$name.csr", '-subj', "/CN=$name");
	append_to_file("$folder/$name.ext", "subjectAltName=$subject\n");
	system_or_bail('openssl', 'x509', '-req', '-in', "$folder/$name.csr", '-CA', "$folder/$authority.pem", '-CAkey', "$folder/$authority.key",
		'-set_serial', 1 + int(rand(1 << 30)), '-days', '2', '-extfile', "$folder/$name.ext", '-out', "$folder/$name.pem");
	return;
}

#
# The server
#

# start(%arguments): people => how many (100), ldif => more of it, access => rules
# instead of the free look for everybody, limits => lines before the database,
# overlays => lines in it, certificate => files without their endings, and
# authority => that of clients
sub start
{
	my ($class, %arguments) = @_;
	my $folder = PostgreSQL::Test::Utils::tempdir();
	my $self = bless {
		folder => $folder,
		socket => PostgreSQL::Test::Utils::tempdir_short() . '/ldapi',
		port => PostgreSQL::Test::Cluster::get_free_port(),
		tls_port => PostgreSQL::Test::Cluster::get_free_port(),
		owner => $$,
		arguments => {%arguments} }, $class;
	my $log = "$folder/slapadd.log";

	mkdir "$folder/db" or die "could not make $folder/db: $!";
	$self->write_configuration;
	append_to_file("$folder/data.ldif", company($arguments{people} // 100) . ($arguments{ldif} // ''));
	IPC::Run::run([ $slapd, '-T', 'add', '-q', '-w', '-f', "$folder/slapd.conf", '-l', "$folder/data.ldif" ], '<', \undef, '>', $log, '2>&1')
	  or die 'slapadd failed: ' . slurp_file($log);
	push @started, $self;
	$self->restart;
	return $self;
}

sub write_configuration
{
	my ($self) = @_;
	my %a = %{ $self->{arguments} };
	my @modules = grep { ($a{overlays} // '') =~ /\b$_\b/ } 'syncprov', 'memberof', 'retcode', 'ppolicy';
	my $tls = $a{certificate} ? "TLSCertificateFile $a{certificate}.pem\nTLSCertificateKeyFile $a{certificate}.key\n" : '';

	$tls .= "TLSCACertificateFile $a{authority}\nTLSVerifyClient try\n" if $a{certificate} && $a{authority};
	unlink "$self->{folder}/slapd.conf";
	append_to_file("$self->{folder}/slapd.conf", join "\n",
		(map { "include $schemas/$_.schema" } 'core', 'cosine', 'inetorgperson', 'nis'),
		'modulepath /usr/lib/ldap', (map { "moduleload $_.la" } 'back_mdb', @modules),
		"pidfile $self->{folder}/slapd.pid", "argsfile $self->{folder}/slapd.args", $tls,
		$a{limits} // 'sizelimit size.soft=500 size.hard=1000 size.pr=1000 size.prtotal=unlimited',
		'database mdb', "suffix \"$base\"", "rootdn \"$admin\"", "rootpw $password", "directory $self->{folder}/db", 'maxsize 1073741824',
		'index objectClass,entryUUID,entryCSN,member,modifyTimestamp eq', 'index uid eq',
		$a{access} // 'access to * by * read', $a{overlays} // '', '');
	return;
}

# restart(%arguments): with these changed, of what start() takes
sub restart
{
	my ($self, %arguments) = @_;
	my $urls = "ldap://127.0.0.1:$self->{port}/ ldapi://" . $self->{socket} =~ s{/}{%2F}gr;

	$self->stop;
	$self->{arguments} = { %{ $self->{arguments} }, %arguments };
	$self->write_configuration;
	$urls .= " ldaps://127.0.0.1:$self->{tls_port}/" if $self->{arguments}{certificate};
	my $pid = fork();
	die "could not fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$self->{folder}/slapd.log";
		open STDERR, '>&', \*STDOUT;
		no warnings 'exec';
		# it ends with the test, however that ends
		exec 'setpriv', '--pdeathsig', 'KILL', $slapd, '-d', '0', '-f', "$self->{folder}/slapd.conf", '-h', $urls;
		POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	for (my $try = 0; $try < 10 * $PostgreSQL::Test::Utils::timeout_default; $try++)
	{
		return if IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port});
		last if waitpid($pid, POSIX::WNOHANG()) == $pid;
		usleep(100_000);
	}
	die "slapd did not start: " . slurp_file("$self->{folder}/slapd.log");
}

# signal($name): of the process, such as STOP and CONT
sub signal
{
	my ($self, $name) = @_;

	kill $name, $self->{pid} or die "could not send SIG$name to slapd: $!";
	return;
}

# kill_hard(): as the kernel does that has no memory left
sub kill_hard
{
	my ($self) = @_;

	$self->signal('KILL');
	waitpid $self->{pid}, 0;
	$self->{pid} = undef;
	return;
}

sub stop
{
	my ($self) = @_;

	return if !$self->{pid} || $self->{owner} != $$;
	kill 'CONT', $self->{pid};
	kill 'INT', $self->{pid};
	waitpid $self->{pid}, 0;
	$self->{pid} = undef;
	return;
}

# save($name), restore($name): the whole database, while the server is stopped for
# a moment
sub save
{
	my ($self, $name) = @_;

	$self->stop;
	system_or_bail('cp', '-r', "$self->{folder}/db", "$self->{folder}/$name");
	$self->restart;
	return;
}

sub restore
{
	my ($self, $name) = @_;

	$self->stop;
	system_or_bail('rm', '-r', "$self->{folder}/db");
	system_or_bail('cp', '-r', "$self->{folder}/$name", "$self->{folder}/db");
	$self->restart;
	return;
}

sub port { return $_[0]->{port}; }

sub uri { return "ldap://127.0.0.1:$_[0]->{port}"; }

sub tls_uri { return "ldaps://127.0.0.1:$_[0]->{tls_port}"; }

sub socket_uri { return 'ldapi://' . $_[0]->{socket} =~ s{/}{%2F}gr; }

# options(%over): of a source that reads all of it, in the clear
sub options
{
	my ($self, %over) = @_;

	return (urls => $self->uri, start_tls => 'false', bind_dn => $admin, password => $password, base_dn => $base, %over);
}

# run_client($program, $input, @arguments): a client of OpenLDAP's, as the
# administrator; returns its output
sub run_client
{
	my ($self, $program, $input, @arguments) = @_;
	my ($out, $err) = ('', '');

	local $ENV{LDAPNOINIT} = 1;
	IPC::Run::run([ $program, '-x', '-H', $self->uri, '-D', $admin, '-w', $password, @arguments ], '<', \$input, '>', \$out, '2>', \$err,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default))
	  or die "$program failed: $err";
	return $out;
}

# change($dn, $kind => $attribute => value or array or undef, ...): of an entry
sub change
{
	my ($self, $dn, @changes) = @_;
	my $ldif = line('dn', $dn) . "changetype: modify\n";

	while (my ($kind, $attribute, $value) = splice @changes, 0, 3)
	{
		$ldif .= "$kind: $attribute\n" . join('', map { line($attribute, $_) } ref $value ? @$value : $value // ()) . "-\n";
	}
	$self->run_client('ldapmodify', $ldif);
	return;
}

# add($ldif)
sub add
{
	my ($self, $ldif) = @_;

	$self->run_client('ldapmodify', $ldif, '-a');
	return;
}

# rename($dn, $rdn, $above): $above is where it moves to, or undef
sub rename
{
	my ($self, $dn, $rdn, $above) = @_;

	$self->run_client('ldapmodify', line('dn', $dn) . "changetype: modrdn\n" . line('newrdn', $rdn) . "deleteoldrdn: 1\n"
		  . (defined $above ? line('newsuperior', $above) : ''));
	return;
}

# delete(@dns)
sub delete
{
	my ($self, @dns) = @_;

	$self->run_client('ldapmodify', join "\n", map { line('dn', $_) . "changetype: delete\n" } @dns);
	return;
}

# value($dn, $attribute): what an entry has there, joined by commas
sub value
{
	my ($self, $dn, $attribute) = @_;
	my $out = $self->run_client('ldapsearch', '', '-LLL', '-o', 'ldif-wrap=no', '-b', $dn, '-s', 'base', $attribute);

	return join ',', sort $out =~ /^\Q$attribute\E: (.*)$/mg;
}

END
{
	# stopping must not change how the test ends
	my $status = $?;

	$_->stop foreach @started;
	$? = $status;
}

1;
