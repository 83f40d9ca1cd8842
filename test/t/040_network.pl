# The network: which addresses are talked to, whom we trust, and what a service
# can do to us that answers badly, slowly, or not at all.
use strict;
use warnings;

use File::Basename qw(dirname);
use IO::Socket::INET;
use JSON::PP ();
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest qw(:DEFAULT query);
use UdsSession;

my $directory = PostgreSQL::Test::Utils::tempdir();
my $resolver = "$directory/resolver.so";
my $mock = start_mock(tiny => 1);
my $port = $mock->port;

# names that a DNS server of the attacker's could resolve to anything
my %hosts = (
	'app.corp.test' => '127.0.0.1',
	'app.corp.test.' => '127.0.0.1',
	'corp.test' => '127.0.0.1',
	'private.test' => '10.1.2.3',
	'metadata.test' => '169.254.169.254',
	'six.test' => '::1',
	'mapped.test' => '::ffff:127.0.0.1',
	'nat64.test' => '64:ff9b::7f00:1',
	'unique.test' => 'fd12:3456::1',
	'both.test' => '10.1.2.3,::1,127.0.0.1',
	'hang.test' => 'hang');

system_or_bail('cc', '-shared', '-fPIC', '-o', $resolver, dirname(__FILE__) . '/../mock/resolver.c', '-ldl');

my $node;
{
	local $ENV{LD_PRELOAD} = $resolver;
	# no proxy either, whatever the environment says
	local @ENV{qw(http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY)} = ('http://10.0.0.1:1') x 5;
	local $ENV{UDS_TEST_HOSTS} = join ' ', map { "$_=$hosts{$_}" } sort keys %hosts;

	$node = new_node(
		'uds.allowed_hosts' => '',
		'uds.http_timeout' => '2s',
		'uds.http_connect_timeout' => '2s',
		'log_min_messages' => 'warning');
}
my $task;

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($node, $mock);

# set_option($name, $value): of the source
sub set_option
{
	my ($name, $value) = @_;

	query("SELECT uds_alter_source('wecom', options => jsonb_build_object("
		  . quote($name) . ', ' . quote($value) . '::text))');
	return;
}

# try_url($url): what uds_test_source() says of that address
sub try_url
{
	my ($url) = @_;

	set_option('base_url', $url);
	return query(q{SELECT ok || ' ' || detail FROM uds_test_source('wecom') WHERE step = 'address'});
}

# what a task that is meant to fail says
sub failure
{
	$task = query(q{SELECT uds_sync('wecom')});
	wait_task($node, $task);
	return task_field($node, $task, q{status || ': ' || message});
}

sub allow
{
	my ($hosts) = @_;

	configure($node, 'uds.allowed_hosts', $hosts);
	return;
}

#
# uds.allowed_hosts is the superuser's
#
query(q{
	CREATE ROLE operator LOGIN;
	GRANT EXECUTE ON FUNCTION uds_create_source, uds_alter_source TO operator});
foreach my $case (
	[ 'a plain role', 'SET ROLE operator; SHOW uds.allowed_hosts', qr/must be superuser|permission denied to examine/ ],
	[ 'a plain role', q{SET ROLE operator; ALTER SYSTEM SET uds.allowed_hosts = '127.0.0.1'}, qr/permission denied/ ],
	[ 'a session', q{SET uds.allowed_hosts = '127.0.0.1'}, qr/cannot be changed now/ ],
	[ 'a database', q{ALTER DATABASE postgres SET uds.allowed_hosts = '127.0.0.1'}, qr/cannot be changed now/ ])
{
	my ($who, $sql, $error) = @$case;
	my ($status, undef, $err) = $node->psql('postgres', $sql);

	isnt($status, 0, "$who has nothing to do with uds.allowed_hosts");
	like($err, $error, 'and is told so');
}
foreach my $entry ('10.0.0.0/33', '::1/129', '*.', '*', 'a..b', '10.0.0', 'http://host', 'host:80', 'good.test,', '*.*.test', 'a b')
{
	my ($status, undef, $err) = $node->psql('postgres', 'ALTER SYSTEM SET uds.allowed_hosts = ' . quote($entry));

	isnt($status, 0, "\"$entry\" cannot be set as uds.allowed_hosts");
	like($err, qr/invalid value for parameter "uds\.allowed_hosts".*is not a host name, \*\.domain, address or CIDR range/s,
		'and the error says what is wrong');
}

#
# Addresses that are nobody's on the public internet, however they are written
#
foreach my $case (
	[ '127.0.0.1', '127.0.0.1' ],
	[ '127.8.9.10', '127.8.9.10' ],
	[ '127.1', '127.0.0.1' ],
	[ '2130706433', '127.0.0.1' ],
	[ '0x7f000001', '127.0.0.1' ],
	[ '0177.0.0.1', '127.0.0.1' ],
	[ '0.0.0.0', '0.0.0.0' ],
	[ '10.0.0.1', '10.0.0.1' ],
	[ '172.16.0.1', '172.16.0.1' ],
	[ '192.168.0.1', '192.168.0.1' ],
	[ '169.254.169.254', '169.254.169.254' ],
	[ '100.64.0.1', '100.64.0.1' ],
	[ '[::1]', '::1' ],
	[ '[::]', '::' ],
	[ '[::ffff:127.0.0.1]', '::ffff:127.0.0.1' ],
	[ '[::ffff:7f00:1]', '::ffff:127.0.0.1' ],
	[ '[64:ff9b::7f00:1]', '64:ff9b::7f00:1' ],
	[ '[2002:7f00:1::1]', '2002:7f00:1::1' ],
	[ '[fe80::1]', 'fe80::1' ],
	[ '[fd12:3456::1]', 'fd12:3456::1' ],
	[ 'localhost', qr/127\.0\.0\.1|::1/ ],
	map { [ $_, qr/.*/ ] } sort grep { $_ ne 'hang.test' } keys %hosts)
{
	my ($host, $address) = @$case;

	$address = quotemeta $address unless ref $address;
	like(try_url("http://$host:$port/wecom"), qr/^false .*: address $address of host ".*" is not allowed$/,
		"http://$host is refused");
}
is($mock->get_control->{requests}, 0, 'and nothing of it has reached the service');

set_option('base_url', "http://app.corp.test:$port/wecom");
like(failure(), qr/^failed: .*address 127\.0\.0\.1 of host "app\.corp\.test" is not allowed .* Hint: A superuser can add the host to uds\.allowed_hosts\.$/,
	'a sync fails, with a hint');
is(task_field($node, $task, 'requests'), 1, 'at once');

#
# Unless they are allowed: by name, by domain, by address, by range
#
my $good = qr/^true /;
my $refused = qr/^false .* is not allowed$/;
my $nobody = qr/^false .*: connection to \S+ port $port refused$/;

foreach my $case (
	[ '127.0.0.1', '127.0.0.1' => $good, 'app.corp.test' => $good, '127.0.0.2' => $refused, 'six.test' => $refused ],
	[ 'app.corp.test', 'app.corp.test' => $good, 'APP.Corp.Test' => $good, 'app.corp.test.' => $good, 'corp.test' => $refused, '127.0.0.1' => $refused ],
	[ '*.corp.test', 'app.corp.test' => $good, 'corp.test' => $refused, 'mapped.test' => $refused ],
	[ '127.0.0.0/8', 'corp.test' => $good, 'mapped.test' => $good, '127.1' => $good, 'private.test' => $refused, '[::1]' => $refused ],
	[ '::1, 169.254.0.0/16', 'six.test' => $nobody, '[::1]' => $nobody, 'both.test' => $nobody, '127.0.0.1' => $refused ])
{
	my ($allowed, @tries) = @$case;

	allow($allowed);
	while (my ($host, $expected) = splice @tries, 0, 2)
	{
		like(try_url("http://$host:$port/wecom"), $expected, "with $allowed allowed, http://$host is "
			  . ($expected == $refused ? 'refused' : 'tried'));
	}
}
allow('127.0.0.1');

# what is wrong in the file is not taken over
$node->append_conf('postgresql.conf', q{uds.allowed_hosts = '10.0.0.0/99'});
my $log = -s $node->logfile;
$node->reload;
$node->wait_for_log(qr/"10\.0\.0\.0\/99" is not a host name, \*\.domain, address or CIDR range/, $log);
is(query('SHOW uds.allowed_hosts'), '127.0.0.1', 'after a malformed uds.allowed_hosts in the file, the one before stays');

#
# Nothing but http and https
#
foreach my $url ("ftp://127.0.0.1:$port/", 'file:///etc/passwd', 'gopher://127.0.0.1:1/', '//127.0.0.1/')
{
	my (undef, undef, $err) = $node->psql('postgres',
		q{SELECT uds_alter_source('wecom', options => jsonb_build_object('base_url', } . quote($url) . '::text))');

	like($err, qr/option "base_url" must begin with http/, "$url cannot be a base_url");

	# a manifest may name it all the same
	query(q{
		INSERT INTO uds.source_types (name, title, manifest)
		SELECT 'odd', 'odd', jsonb_set(manifest, '{base_url}', to_jsonb(} . quote($url) . q{::text))
		  FROM uds.source_types WHERE name = 'wecom'
		ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest;
		SELECT uds_alter_source('wecom', type => 'odd')});
	like(failure(), qr/^failed: could not get an access token for source "wecom": the URL is (neither http nor https|not valid) /,
		'and what a manifest sends there does not leave');
}
query(q{SELECT uds_alter_source('wecom', type => 'wecom')});
my (undef, undef, $err) = $node->psql('postgres', qq{
	SELECT uds_alter_source('wecom', options => '{"base_url": "http://user:Pa55-word\@127.0.0.1:$port/"}')});
like($err, qr/option "base_url" must not have a user name in it/, 'nor can a base_url have a password in it');
unlike($err, qr/Pa55-word/, 'which the error does not repeat');

#
# TLS
#
sub make_certificate
{
	my ($name, $subject) = @_;

	system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes',
		'-keyout', "$directory/$name.key", '-out', "$directory/$name.pem",
		'-days', '2', '-subj', '/CN=uds', '-addext', "subjectAltName=$subject");
	return;
}

sub start_tls
{
	my ($name, $key) = @_;

	return start_mock(
		tiny => 1,
		tls_cert => "$directory/$name.pem",
		tls_key => "$directory/" . ($key // $name) . '.key');
}

make_certificate('good', 'IP:127.0.0.1');
make_certificate('other', 'DNS:other.test');

# older versions of openssl count days back, newer ones are told the dates
my @expired = ('openssl', 'x509', '-in', "$directory/good.pem", '-signkey', "$directory/good.key", '-out', "$directory/expired.pem");

system_or_bail(@expired, '-not_before', '20200101000000Z', '-not_after', '20200102000000Z')
  unless IPC::Run::run([ @expired, '-days', '-1' ], '>', '/dev/null', '2>', '/dev/null');

my %tls = (
	good => start_tls('good'),
	other => start_tls('other'),
	expired => start_tls('expired', 'good'));
my $untrusted = qr/^failed: could not get an access token .*: no trusted TLS connection to 127\.0\.0\.1 port \d+ /;

foreach my $case (
	[ 'good', undef, qr/$untrusted\(.*self.signed/ ],
	[ 'good', 'other', qr/$untrusted\(.*self.signed/ ],
	[ 'other', 'other', qr/$untrusted\(.*127\.0\.0\.1/ ],
	[ 'expired', 'expired', qr/$untrusted\(.*expired/ ],
	[ 'good', 'good', qr/^success: / ])
{
	my ($server, $trusted, $expected) = @$case;

	set_option('base_url', 'https://127.0.0.1:' . $tls{$server}->port . '/wecom');
	set_option('ca_file', $trusted ? "$directory/$trusted.pem" : undef);
	like(failure(), $expected, "the certificate \"$server\", where ca_file " . ($trusted ? "has \"$trusted\"" : 'is not set'));
	is(task_field($node, $task, 'requests'), 1, 'is refused at once') if $expected !~ /success/;
}

# who is no superuser does not choose whom to trust
foreach my $sql (
	qq{SELECT uds_create_source('mine', 'wecom', '{"corpid": "c", "secret": "s3cret", "ca_file": "$directory/good.pem"}')},
	q{SELECT uds_create_source('mine', 'wecom', '{"corpid": "c", "secret": "s3cret"}');
	  SELECT uds_alter_source('mine', options => '{"ca_file": "/etc/passwd"}')})
{
	(undef, undef, $err) = $node->psql('postgres', "SET ROLE operator; $sql");
	like($err, qr/permission denied to have option "ca_file" of source "mine" read from a file/,
		'only superusers set ca_file');
}
(undef, undef, $err) = $node->psql('postgres', q{
	UPDATE uds.source_types SET manifest = jsonb_set(manifest, '{options,ca_file,default}', '"/etc/passwd"') WHERE name = 'odd';
	SELECT uds_create_source('odd', 'odd', '{"corpid": "c", "secret": "s3cret"}')});
like($err, qr/\$\.options\.ca_file: has no default, since only superusers may name files/,
	'nor does a manifest choose whom to trust');

set_option('ca_file', undef);
set_option('base_url', $mock->base_url);
like(failure(), qr/^success: /, 'a sync without faults succeeds, whatever proxy the environment names');

#
# Redirects: nothing is sent to another host, the token least of all
#
my $elsewhere = start_mock(tiny => 1);

foreach my $status (301, 302, 303, 307, 308)
{
	$mock->control(
		{
			faults => [ {
				kind => 'redirect', status => $status, path => '*/department/list',
				location => $elsewhere->base_url . '/cgi-bin/department/list' } ]
		});
	like(failure(), qr/^failed: .*service answered HTTP status $status, a redirect to host "127\.0\.0\.1:\d+"/,
		"a redirect with status $status is an error");
}
is($elsewhere->get_control->{requests}, 0, 'and the host it leads to hears nothing');

#
# Whatever a service answers: the task fails, says why, and changes nothing
#
my $before = query('SELECT count(*), sum(hashtext(u::text)) FROM uds.users AS u');
my $here = "127\\.0\\.0\\.1 port $port";
my $broken = qr/^failed: .*: broken response from $here \(.+\), tried 5 times/;
my $ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
my $page = '{"errcode": 0, "department": []}';

sub fails_with
{
	my ($name, $fault, $expected) = @_;

	$mock->control({ faults => [ { path => '*/department/list', %$fault } ] });
	like(failure(), $expected, $name);
	return;
}

fails_with('RST in the middle of the body', { kind => 'reset_body' }, $broken);
fails_with('chunks that end early', { kind => 'truncate_chunked' }, $broken);
fails_with('a length that is too large', { kind => 'truncate' }, $broken);
fails_with('a gzip bomb', { kind => 'gzip_bomb', mb => 128 },
	qr/^failed: .*: response from $here larger than \d+ bytes .* Hint: uds\.max_page_size is the limit/);
fails_with('10,000 headers', { kind => 'many_headers', count => 10000, size => 1 }, qr/$broken/);
foreach my $case (
	[ 'a length that is too small', "${ok}Content-Length: 20\r\n\r\n$page", '', 0, qr/not valid JSON: .*tried 5 times/ ],
	[ 'a negative length', "${ok}Content-Length: -1\r\n\r\n$page", '', 0, $broken ],
	[ 'a chunk of no length', "${ok}Transfer-Encoding: chunked\r\n\r\nzz\r\n$page\r\n0\r\n\r\n", '', 0, $broken ],
	[ 'a chunk of unheard-of length', "${ok}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n$page\r\n0\r\n\r\n", '', 0, $broken ],
	[ 'what claims to be gzip', "${ok}Content-Encoding: gzip\r\nContent-Length: 32\r\n\r\n$page", '', 0, $broken ],
	[ 'a header of a megabyte', "${ok}X-Long: ", 'a', 1_000_000, $broken ],
	[ '10,000 interim responses', '', "HTTP/1.1 100 Continue\r\n\r\n", 10_000, $broken ],
	[ 'another protocol', "SSH-2.0-OpenSSH_9.2\r\n", '', 0, $broken ],
	[ 'a page without headers', $page, '', 0, $broken ],
	[ 'a page that is nested deeply', "$ok\r\n", '[', 1_000_000, qr/answered with JSON that is nested too deeply, tried 5 times/ ],
	[ 'a page of too many values', "$ok\r\n" . '{"department":[0', ',0', 4_000_001, qr/answered with JSON of too many values, tried 5 times/ ])
{
	my ($name, $text, $more, $times, $expected) = @$case;

	fails_with($name, { kind => 'raw', text => $text, more => $more, times_more => $times }, $expected);
}

#
# Waiting has an end
#
my $in_vain = qr/^failed: .*: no complete response from $here within 2\d\d\d ms, tried 2 times/;

fails_with('a body of ten bytes a second', { kind => 'slow', bytes => 1, interval_ms => 100 }, $in_vain);
fails_with('headers of ten bytes a second',
	{ kind => 'raw', text => $ok, more => "X-More: more\r\n", times_more => 1000, bytes => 1, interval_ms => 100 }, $in_vain);
$mock->control({ faults => [] });

# it accepts connections, and that is all
my $silent = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') or die "could not listen: $!";

set_option('base_url', 'https://127.0.0.1:' . $silent->sockport . '/wecom');
like(failure(), qr/^failed: .*: no connection to 127\.0\.0\.1 port \d+ within 2\d\d\d ms, tried 2 times/,
	'a TLS server that does not say hello');
set_option('base_url', 'http://127.0.0.1:' . $silent->sockport . '/wecom');
like(failure(), qr/^failed: .*: no complete response from 127\.0\.0\.1 port \d+ within 2\d\d\d ms, tried 2 times/,
	'a server that says nothing');
set_option('base_url', "http://hang.test:$port/wecom");
like(failure(), qr/^failed: .*: could not resolve host "hang\.test" within 2\d\d\d ms, tried 2 times/,
	'a DNS server that does not answer');

# nor does such a one keep a task from being canceled, or a worker from ending
configure($node, 'uds.http_connect_timeout', '10min');
configure($node, 'uds.http_timeout', '10min');
$task = query(q{SELECT uds_sync('wecom')});
poll($node, "SELECT requests_done = 1 FROM uds.progress WHERE task_id = $task", 'while the name is looked up');
my $pid = query("SELECT pid FROM uds.progress WHERE task_id = $task");
is(query("SELECT uds_cancel($task)"), 't', 'the task can be canceled');
is(wait_task($node, $task), 'canceled', 'and is');
poll($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid", 'and its worker ends');

# nor a database from being dropped
foreach my $case (
	[ 'a name is looked up', "http://hang.test:$port/wecom" ],
	[ 'nobody says hello', 'https://127.0.0.1:' . $silent->sockport . '/wecom' ],
	[ 'a body trickles in', $mock->base_url, { kind => 'slow', path => '*/department/list', bytes => 1, interval_ms => 100 } ])
{
	my ($what, $url, @faults) = @$case;
	my $requests = 1 + @faults;

	query('CREATE DATABASE doomed');
	$node->safe_psql('doomed', 'CREATE EXTENSION uds');
	create_wecom_source($node, $mock, db => 'doomed', options => { base_url => $url });
	$mock->control({ faults => \@faults });
	$task = $node->safe_psql('doomed', q{SELECT uds_sync('wecom')});
	$node->poll_query_until('doomed',
		"SELECT requests_done = $requests FROM uds.progress WHERE task_id = $task")
	  or die "task $task does not run";
	query('DROP DATABASE doomed');
	pass("a database can be dropped while $what");
}
close $silent;
$mock->control({ faults => [] });

#
# Listings without an end
#
set_option('base_url', $mock->base_url);
set_option('secret', 'ids-secret');
foreach my $pages (1, 2, 5, 17)
{
	fails_with("a circle of $pages pages", { kind => 'cursor_circle', pages => $pages, path => '*/user/list_id' },
		qr/^failed: could not read stream "user_ids" .*: cursor repeats/);
	cmp_ok(task_field($node, $task, 'requests'), '<', 10 + 5 * $pages, 'is found out soon');
}

#
# After all that
#
$mock->control({ faults => [] });
set_option('secret', 'app-secret');
is(query('SELECT count(*), sum(hashtext(u::text)) FROM uds.users AS u'), $before, 'the users are as before');
like(failure(), qr/^success: /, 'a sync succeeds again');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC/, 'no process died');

# with the resolver hanging once more
set_option('base_url', "http://hang.test:$port/wecom");
$task = query(q{SELECT uds_sync('wecom')});
poll($node, "SELECT requests_done = 1 FROM uds.progress WHERE task_id = $task", 'while a name is looked up');
$node->stop('fast');
pass('the server can be stopped');
done_testing();
