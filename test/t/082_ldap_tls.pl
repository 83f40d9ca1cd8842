# Directories: whom we trust, as whom we bind, what the server does not allow, and
# a server that dies; with the words that an administrator gets.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsReplay;
use UdsService;
use UdsSession;
use UdsSlapd;
use UdsTest qw(:DEFAULT query);

my $why = UdsSlapd::missing();

plan skip_all => "TLS AND RIGHTS OF A DIRECTORY ARE NOT TESTED: $why" if $why;

my $folder = PostgreSQL::Test::Utils::tempdir();
my $base = $UdsSlapd::base;
my $people = 300;

make_authority($folder, $_) foreach 'ours', 'theirs';
make_certificate($folder, 'ours', 'good', 'IP:127.0.0.1');
make_certificate($folder, 'ours', 'other', 'DNS:other.test,IP:127.0.0.2');
make_certificate($folder, 'theirs', 'foreign', 'IP:127.0.0.1');
make_certificate($folder, 'ours', 'client', 'DNS:client.test');

my $slapd = UdsSlapd->start(people => $people, certificate => "$folder/good", authority => "$folder/ours.pem",
	ldif => entry("cn=reader,$base", objectClass => [ 'applicationProcess', 'simpleSecurityObject' ], cn => 'reader', userPassword => 'Reader-of-it-1'));
my $node = new_node('uds.http_timeout' => '5s', 'uds.http_connect_timeout' => '1s', 'uds.http_retries' => '1', 'autovacuum' => 'off');
my %trust = (start_tls => 'true', ca_file => "$folder/ours.pem");

# set_options(%options): of the source; undef takes one away
sub set_options
{
	my (%options) = @_;
	my $pairs = join ', ', map { quote($_) . ', ' . quote($options{$_}) . '::text' } sort keys %options;

	query("SELECT uds_alter_source('ldap', options => jsonb_build_object($pairs))");
	return;
}

# steps(): of uds_test_source, those that failed with what they say
sub steps
{
	return query(q{SELECT string_agg(step || CASE WHEN ok THEN '' ELSE ': ' || detail END, ', ') FROM uds_test_source('ldap')});
}

# what a task that is meant to fail says, once it is seen to have changed nothing
my $before;

sub failure
{
	my $status = sync_as('full', 'ldap');

	return 'ROWS WERE CHANGED' if $status ne 'success' && row_versions() ne $before;
	return "$status: " . field(q{coalesce(message, '')});
}

query('CREATE EXTENSION uds');
service($node, undef, 'ldap', $slapd->options);
create_source('ldap', %trust);
like(failure(), qr/^success/, 'StartTLS with the certificate of an authority that is trusted');
is(query('SELECT count(*) FROM uds.users'), $people, 'everybody comes');
$before = row_versions();
is(steps(), 'options, address, tls, bind, base, departments, departments: record, users, users: record', 'uds_test_source goes step by step');
like(query(q{SELECT detail FROM uds_test_source('ldap') WHERE step = 'users: record'}), qr/"username": "u\d+"/, 'up to a person as it is mapped');
like(query(q{SELECT detail FROM uds_test_source('ldap') WHERE step = 'departments: record'}), qr/"title": /, 'and a department');

#
# Whom we trust
#
my $untrusted = qr/^failed: could not connect .*no trusted TLS connection to/;

set_options(urls => $slapd->tls_uri, start_tls => undef);
like(failure(), qr/^success/, 'ldaps with the same');
foreach my $case (
	[ 'ldaps', undef, qr/$untrusted.*certificate/ ],
	[ 'ldaps', 'theirs', qr/$untrusted.*certificate/ ],
	[ 'StartTLS', undef, qr/$untrusted.*certificate/ ],
	[ 'StartTLS', 'theirs', qr/$untrusted.*certificate/ ],
	[ 'StartTLS', 'nothing', qr/$untrusted.*file of option "ca_file" cannot be used/ ])
{
	my ($how, $trusted, $expected) = @$case;

	set_options(urls => $how eq 'ldaps' ? $slapd->tls_uri : $slapd->uri, ca_file => $trusted && "$folder/$trusted.pem");
	like(failure(), $expected, "$how, where ca_file " . ($trusted ? "has \"$trusted\"" : 'is not set'));
	like(steps(), qr/^options, address, tls: .*no trusted TLS connection/, 'is what uds_test_source says, too');
}
set_options(%trust);
foreach my $name ('other', 'foreign')
{
	$slapd->restart(certificate => "$folder/$name");
	foreach my $url ($slapd->uri, $slapd->tls_uri)
	{
		set_options(urls => $url);
		like(failure(), $untrusted, "a certificate \"$name\" is not taken, " . ($url =~ /ldaps/ ? 'ldaps' : 'StartTLS'));
	}
}
$slapd->restart(certificate => undef);
set_options(urls => $slapd->uri);
like(failure(), qr/^failed: .*StartTLS.*Hint: The server has no TLS on this address/, 'a server that refuses StartTLS gets no password');
like(steps(), qr/^options, address, tls: StartTLS: .*hint: /, 'nor from uds_test_source');
unlike(slurp_file("$slapd->{folder}/slapd.log"), qr/\Q$UdsSlapd::password\E/, 'indeed');
set_options(start_tls => 'false');
like(failure(), qr/^success/, 'unless that is wanted');
$slapd->restart(certificate => "$folder/good");

#
# Several addresses
#
my $nobody = 'ldap://127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
my $silent = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') or die "could not listen: $!";
my $mute = 'ldaps://127.0.0.1:' . $silent->sockport;

set_options(urls => "$nobody, $mute " . $slapd->uri, start_tls => undef);
like(failure(), qr/^success/, 'the first address that answers is taken');
set_options(urls => "$nobody $mute");
like(failure(), qr/^failed: .*no TLS connection to \Q$mute\E within 1000 ms/, 'if none does, the last one is told');
like(steps(), qr/^options, address: .*refused.*, address, tls: no TLS connection/, 'uds_test_source tells each');
set_options(urls => $slapd->uri . ' ' . $nobody, password => 'wrong');
like(failure(), qr/^failed: .*49 invalidCredentials/, 'where we are refused, no other server is asked');
close $silent;

#
# As whom we bind
#
set_options(urls => $slapd->uri, password => 'wrong');
like(failure(), qr/^failed: could not connect .*bind as "cn=admin,.*": server answered 49 invalidCredentials.*Hint: Check "bind_dn" and "password"/, 'a wrong password');
is(field('requests'), 2, 'is tried once, after StartTLS');
like(steps(), qr/^options, address, tls, bind: .*invalidCredentials.*hint: Check/, 'uds_test_source says so');
set_options(bind_dn => "cn=nobody,$base");
like(failure(), qr/^failed: .*49 invalidCredentials/, 'somebody unknown');
set_options(bind_dn => 'no name at all');
like(failure(), qr/^failed: .*34 invalidDNSyntax/, 'who is no name');

my (undef, undef, $err) = $node->psql('postgres', q{SELECT uds_alter_source('ldap', options => '{"password": ""}')});
my $refused = $err ne '' ? $err : failure();

like($refused, qr/password/, 'a name without a password is not tried: servers take that for nobody');
set_options(bind_dn => "cn=reader,$base", password => 'Reader-of-it-1');
like(failure(), qr/^success/, 'an account that may only read');
set_options(bind_dn => undef, password => undef);
like(failure(), qr/^success/, 'nobody, where everybody may read');
$slapd->restart(access => 'access to * by dn.regex="^gidNumber=[0-9]+[+]uidNumber=[0-9]+,cn=peercred,cn=external,cn=auth$" read by dn.exact="cn=client" read by * auth');
like(failure(), qr/^failed: .*(noSuchObject|insufficientAccess)/, 'and where they may not');
set_options(urls => $slapd->socket_uri, sasl_external => 'true');
like(failure(), qr/^success/, 'who we are on a socket');
set_options(urls => $slapd->uri, client_cert_file => "$folder/client.pem", client_key_file => "$folder/client.key");
like(failure(), qr/^success/, 'and by a certificate');
set_options(client_cert_file => undef, client_key_file => undef);
like(failure(), qr/^failed: .*SASL EXTERNAL/, 'without one nobody');
set_options(sasl_external => undef, bind_dn => $UdsSlapd::admin, password => $UdsSlapd::password);
$slapd->restart(access => undef);

# a reference to another server does not get the password in the clear either
my $elsewhere = UdsReplay->start;

$slapd->add(entry("cn=elsewhere,$base", objectClass => [ 'referral', 'extensibleObject' ], cn => 'elsewhere', ref => $elsewhere->uri . "/$UdsReplay::context"));
foreach my $url ($slapd->tls_uri, $slapd->socket_uri)
{
	set_options(urls => $url, start_tls => 'false', follow_referrals => 'true');
	like(failure(), qr/^failed: .*StartTLS/, 'a reference to a server without TLS, from ' . ($url =~ /^(\w+)/)[0]);
	is(scalar(grep { $_->{op} eq 'bind' } @{ $elsewhere->control->{requests} }), 0, 'gets no password');
}
$slapd->run_client('ldapmodify', "dn: cn=elsewhere,$base\nchangetype: delete\n", '-M');
$elsewhere->stop;
set_options(urls => $slapd->uri, start_tls => undef, follow_referrals => undef);

# who is no superuser names no files
query('CREATE ROLE operator; GRANT EXECUTE ON FUNCTION uds_create_source TO operator');
foreach my $option ('ca_file', 'client_cert_file', 'client_key_file')
{
	(undef, undef, $err) = $node->psql('postgres',
		qq{SET ROLE operator; SELECT uds_create_source('mine', 'ldap', '{"urls": "ldap://127.0.0.1", "base_dn": "dc=x", "$option": "/etc/passwd"}')});
	like($err, qr/permission denied to have option "$option"/, "only superusers set $option");
}

#
# What is not there, what we may not see, and what is none
#
set_options(base_dn => "ou=Nowhere,$base");
like(failure(), qr/^failed: .*32 noSuchObject.*Hint: .*check the base/, 'a base that is not there is no empty directory');
like(steps(), qr/^options, address, tls, bind, base: .*noSuchObject/, 'as uds_test_source says');
set_options(base_dn => $base, user_filter => '(objectClass=spaceship)');
like(failure(), qr/^failed: .*not a single user/, 'a filter that fits nobody');
like(steps(), qr/departments: record, users: no entry below "\Q$base\E" fits \(objectClass=spaceship\); hint: Check option "user_filter"/, 'as uds_test_source says');
foreach my $filter ('objectClass=person', '(cn=*', '((cn=x))', '(&(cn=a)(cn=b)', '(cn=a))', '(=x)', '(cn)', '')
{
	(undef, undef, $err) = $node->psql('postgres', q{SELECT uds_alter_source('ldap', options => jsonb_build_object('user_filter', } . quote($filter) . '::text))');
	if ($filter eq '') { is($err, '', 'an empty filter is the default'); }
	else { like($err, qr/option "user_filter" is no filter/, "\"$filter\" is refused"); }
}
foreach my $case ([ base_dn => 'example.test' ], [ group_base => 'ou=a,,dc=b' ], [ urls => 'http://127.0.0.1' ], [ urls => 'ldap://127.0.0.1:99999' ],
	[ urls => 'ldap://a b' ], [ urls => ' , ' ], [ urls => 'ldap://user:pw@host' ], [ page_size => '-1' ], [ page_size => '10001' ], [ page_size => 'many' ], [ uid_attribute => 'a b' ])
{
	my ($option, $value) = @$case;

	(undef, undef, $err) = $node->psql('postgres', "SELECT uds_alter_source('ldap', options => jsonb_build_object('$option', " . quote($value) . '::text))');
	like($err, qr/option "$option"/, "option $option is not \"$value\"");
}
set_options(user_filter => undef, bind_dn => "cn=reader,$base", password => 'Reader-of-it-1');
$slapd->restart(access => "access to filter=(objectClass=inetOrgPerson) by * none\naccess to * by * read");
like(failure(), qr/^failed: .*not a single user/, 'an account that may not see people');
like(steps(), qr/users: no entry .*hint: .*the account may see them/, 'as uds_test_source says');
$slapd->restart(access => "access to attrs=entryUUID by * none\naccess to * by * read");
like(failure(), qr/^(failed|partial): /, 'one that may not see who is who');
is(row_versions(), $before, 'changes nothing');
like(steps(), qr/departments: record: entries have no attribute entryUUID.*hint: Check option "uid_attribute"/, 'as uds_test_source says');
$slapd->restart(access => undef);

#
# Limits of the server: a part is never taken for the whole
#
set_options(page_size => '400');
foreach my $case (
	[ 'sizelimit size.soft=500 size.hard=1000 size.pr=200 size.prtotal=unlimited', qr/^failed: .*11 adminLimitExceeded.*Hint: Set a smaller "page_size"/, 'pages are larger than the server gives' ],
	[ 'sizelimit size.soft=100 size.hard=100 size.prtotal=200', qr/^failed: .*(4 sizeLimitExceeded|11 adminLimitExceeded)/, 'the server gives no more than a part' ],
	[ 'sizelimit size.prtotal=disabled', qr/^failed: .*(11 adminLimitExceeded|53 unwillingToPerform|12 unavailableCriticalExtension)/, 'the server gives no pages' ])
{
	my ($limits, $expected, $name) = @$case;

	$slapd->restart(limits => $limits);
	like(failure(), $expected, $name);
}
$slapd->restart(limits => 'sizelimit size.soft=unlimited size.prtotal=disabled');
set_options(page_size => '0');
like(failure(), qr/^success/, 'but may give all at once');
is(row_versions(), $before, 'which is the same');
set_options(page_size => undef);
$slapd->restart(limits => undef);
like(failure(), qr/^success/, 'after all that it is read again');
is(row_versions(), $before, 'and everything is as before');

#
# It dies in the middle of a listing, which takes a second for each page
#
set_options(page_size => '80');
configure($node, 'uds.http_retry_delay', '2s');
foreach my $comes_back (0, 1)
{
	$slapd->change((UdsSlapd::person(1, [ UdsSlapd::units() ]))[0], replace => title => "Chief $comes_back");
	$slapd->restart(overlays => "overlay retcode\nretcode-parent \"ou=RetCodes,$base\"\nretcode-sleep 1");
	$task = query(q{SELECT uds_sync('ldap', 'full')});
	poll($node, "SELECT requests_done >= 6 FROM uds.progress WHERE task_id = $task", 'in the middle of a listing');
	$slapd->kill_hard;
	is(field('status'), 'processing', 'the task is not done yet');
	$slapd->restart(overlays => '') if $comes_back;
	is(wait_task($node, $task), $comes_back ? 'success' : 'failed', $comes_back ? 'a server that was killed and is there again is read again' : 'a server is killed: the task fails');
	is(query(q{SELECT title FROM uds.users WHERE username = 'u00001'}), $comes_back ? 'Chief 1' : 'Manager', $comes_back ? 'with what changed' : 'and nothing has changed');
	is(field(q{concat_ws(' ', disabled, deleted)}), '0 0', 'nobody goes');
	cmp_ok(query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND stream = 'users' AND left(body, 1) = '['"), '>', 0, 'though a part of them was read');
	$slapd->restart(overlays => '') unless $comes_back;
}
is(query('SELECT count(*) FROM uds.users WHERE enabled'), $people, 'everybody is there');

#
# What must not be told
#
foreach my $secret ($UdsSlapd::password, 'Reader-of-it-1')
{
	is(query('SELECT count(*) FROM uds.raw_log WHERE position(' . quote($secret) . ' IN request || body) > 0'), 0, 'no password in the raw log');
	is(query('SELECT count(*) FROM uds.tasks WHERE position(' . quote($secret) . q{ IN coalesce(message, '')) > 0}), 0, 'nor in a message');
	is(query('SELECT count(*) FROM uds.sources WHERE position(' . quote($secret) . ' IN options::text) > 0'), 0, 'nor among the options');
}
$slapd->stop;
$node->stop;

# statements of the test itself have it
my $log = join '', grep { !/statement: / } split /^/, slurp_file($node->logfile);

unlike($log, qr/\Q$_\E/, 'nor in the log of the server') foreach $UdsSlapd::password, 'Reader-of-it-1';
done_testing();
