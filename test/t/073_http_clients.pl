# Clients of the listener that are many, slow, or of no good will, and good ones
# among them; TLS; proxies.

use strict;
use warnings;

use IO::Select;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use UdsClients;
use UdsHttp;
use UdsTest qw(:DEFAULT query);

plan skip_all => 'this test looks at /proc' unless -d "/proc/$$/fd";

my $directory = PostgreSQL::Test::Utils::tempdir();
my $limit = $PostgreSQL::Test::Utils::timeout_default;
my $node = new_http_node(
	'uds.http_workers' => 4,
	'uds.http_client_timeout' => '10min',
	'uds.http_max_connections' => 400,
	'uds.http_max_connections_per_address' => 100,
	'uds.http_max_body' => '1MB');
my $port = query('SHOW uds.http_port');
my $key = create_key($node, 'good');

# sockets that the listener has open, in all its processes
sub sockets
{
	return scalar grep { (readlink($_) // '') =~ /^socket:/ } map { glob "/proc/$_/fd/*" } listener_pids($node);
}

# comes_true($condition, $name): an assertion that it does
sub comes_true
{
	my ($condition, $name) = @_;
	my $until = time + $limit;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	while (!$condition->())
	{
		return fail($name) if time > $until;
		usleep(20_000);
	}
	return pass($name);
}

# there(@uids): how many users, records and tasks there are of these
sub there
{
	my $list = quote('{' . join(',', @_) . '}');

	return query("SELECT (SELECT count(*) FROM uds.users WHERE username = ANY ($list)),"
		  . " (SELECT count(*) FROM uds.records WHERE uid = ANY ($list)),"
		  . " (SELECT count(DISTINCT task_id) FROM uds.records WHERE uid = ANY ($list))");
}

my $health = get_text('/healthz');

#
# A thousand clients that send a byte per second, or nothing
#
my $slow = start_clients('slow', $key, port => $port, count => 1000, addresses => 20);
is($slow->wait_event('open')->{connections}, 1000, 'a thousand slow clients');
comes_true(sub { sockets() >= 1000 }, 'the listener has them all');

my (@pushed, %seen);
foreach my $i (1 .. 20)
{
	my ($status) = http_json('POST', '/api/userData:push', key => $key, content => users_json("among$i"));

	push @pushed, $status;
	$seen{$_}++ foreach split /\n/, query(q{
		SELECT backend_type FROM pg_stat_activity
		 WHERE backend_type IN ('uds http listener', 'client backend') AND pid <> pg_backend_pid()
		   AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL OR xact_start IS NOT NULL)});
}
cmp_ok(sockets(), '>=', 1000, 'while they are all there');
is(statuses(map { { status => $_ } } @pushed), join(' ', (200) x 20), 'a good one is served');
is_deeply(\%seen, {}, 'and nobody holds a transaction or a snapshot');

$slow->stop;
comes_true(sub { sockets() < 30 }, 'who goes away is not kept');

#
# They are cut off; and who never reads is
#
restart_listener($node, 'uds.http_client_timeout' => '3s');
$slow = start_clients('slow', $key, port => $port, count => 1000, addresses => 20);

# it asks as long as the server reads, which it stops doing when nobody takes
# the replies
my $deaf = connect_raw($port, '127.0.0.3');
$deaf->blocking(0);
my $cut = 0;
my $sent = 0;
my $until = time + $limit;
{
	local $SIG{PIPE} = 'IGNORE';
	my $requests = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" x 500;

	while (!$cut && time < $until)
	{
		IO::Select->new($deaf)->can_write(1) or next;
		my $n = syswrite $deaf, $requests;

		$sent += $n // 0;
		$cut = !defined $n && !$!{EAGAIN};
	}
}
ok($cut, "who asks and never reads is cut off, after $sent bytes");

my $end = $slow->finish;
my $cut_off = ($end->{ends}{closed} // 0) + ($end->{ends}{reset} // 0);
is($cut_off, 1000, 'slow ones are cut off');
is_deeply([ grep { !/^(?:closed|reset|408)$/ } keys %{ $end->{ends} } ], [], 'and had no answer') or diag explain $end;
cmp_ok($end->{shortest}, '>=', 2.9, 'but not before uds.http_client_timeout');
comes_true(sub { sockets() < 30 }, 'the listener has closed them');

#
# Ten thousand pushes
#
restart_listener($node, 'uds.http_workers' => 2, 'uds.http_client_timeout' => '10min');

my $before = query('SELECT coalesce(max(id), 0) FROM uds.tasks');
my $pushes = start_clients('push', $key, port => $port, connections => 50, pushes => 10000, people => 4000,
	outcomes => "$directory/outcomes");
is_deeply($pushes->finish->{outcomes}, { 200 => 10000 }, 'ten thousand pushes over fifty connections');
is(query(q{SELECT count(*), count(DISTINCT username) FROM uds.users WHERE username ~ '^u[0-9]+$'}), '4000|4000',
	'users: nobody lost, nobody doubled');
is(query(q{SELECT count(*), count(DISTINCT uid) FROM uds.records WHERE uid ~ '^u[0-9]+$' AND NOT deleted}), '4000|4000', 'records');
is(query(qq{
		SELECT count(*), sum(fetched), sum(created), sum(created + updated + unchanged), sum(failed), min(status), max(status)
		  FROM uds.tasks WHERE id > $before}),
	'10000|10000|4000|10000|0|success|success', 'tasks');
is(query(q{
		SELECT count(*) FROM uds.users
		 WHERE username ~ '^u[0-9]+$' AND substr(nickname, 2)::int % 4000 <> substr(username, 2)::int}),
	0, 'each as one of its own pushes said');

#
# Connections: per address, and in all
#
restart_listener(
	$node,
	'uds.http_workers' => 1,
	'uds.http_client_timeout' => '5min',
	'uds.http_max_connections' => 20,
	'uds.http_max_connections_per_address' => 8);

# connections that have been answered, and are kept
sub kept
{
	my ($count, $from) = @_;
	my @kept;

	foreach (1 .. $count)
	{
		my $socket = connect_raw($port, $from);

		send_raw($socket, $health);
		is(statuses(read_replies($socket, 1)), '200', "a connection from $from");
		push @kept, $socket;
	}
	return @kept;
}

my @first = kept(8, '127.0.0.1');
is(statuses(ask($port, $health)), '', 'one more from the same address is not served');
my @second = kept(8, '127.0.0.2');
close pop @first;
comes_true(
	sub {
		my $socket = connect_raw($port);

		send_raw($socket, $health);
		return statuses(read_replies($socket, 1)) eq '200' && push @first, $socket;
	},
	'when one is closed there is room again');
my @third = kept(4, '127.0.0.3');

my $waiting = connect_raw($port, '127.0.0.4');
send_raw($waiting, $health);
foreach (1 .. 3)
{
	# after this reply the server has had the other request, too
	send_raw($first[0], $health);
	is(statuses(read_replies($first[0], 1)), '200', 'with twenty there, these are served');
}
ok(!IO::Select->new($waiting)->can_read(0) || $waiting->eof, 'one more in all is not');
close $_ foreach @second;
is(statuses(read_replies($waiting, 1)), '200', 'until there is room');
undef $_ foreach (@first, @second, @third);

#
# TLS
#
sub openssl
{
	my (@arguments) = @_;
	my $output = '';

	IPC::Run::run([ 'openssl', @arguments ], '<', \undef, '>&', \$output) or die "openssl @arguments: $output";
	return $output;
}

# a certificate of an authority of our own, in server.pem and server.key
sub make_certificate
{
	my ($name) = @_;

	openssl('req', '-newkey', 'rsa:2048', '-nodes', '-keyout', "$directory/new.key", '-out', "$directory/new.csr", '-subj', "/CN=$name");
	append_to_file("$directory/$name.ext", "subjectAltName=IP:127.0.0.1\n");
	openssl('x509', '-req', '-in', "$directory/new.csr", '-CA', "$directory/ca.pem", '-CAkey', "$directory/ca.key",
		'-CAcreateserial', '-days', '2', '-extfile', "$directory/$name.ext", '-out', "$directory/new.pem");
	chmod 0600, "$directory/new.key";
	rename "$directory/new.key", "$directory/server.key";
	rename "$directory/new.pem", "$directory/server.pem";
	return;
}

# what curl gets from a path, status first; '' if it gets nothing
sub curl
{
	my ($path, @arguments) = @_;
	my ($out, $err);

	IPC::Run::run([ 'curl', '-s', '-S', '-m', $limit, '--noproxy', '*', '-w', ' %{http_code}', @arguments, "https://127.0.0.1:$port$path" ],
		'<', \undef, '>', \$out, '2>', \$err) or return '';
	return $out =~ /^(.*) (\d+)$/s ? "$2 $1" : $out;
}

openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', "$directory/ca.key", '-out', "$directory/ca.pem",
	'-days', '2', '-subj', '/CN=authority');
make_certificate('one');
restart_listener(
	$node,
	'uds.http_workers' => 2,
	'uds.http_max_connections' => 256,
	'uds.http_max_connections_per_address' => 64,
	'uds.http_client_timeout' => '5s',
	'uds.http_tls_cert' => "$directory/server.pem",
	'uds.http_tls_key' => "$directory/server.key");

my @trust = ('--cacert', "$directory/ca.pem");
like(curl('/healthz', @trust), qr/^200 /, 'over TLS it can be asked');
is(curl('/healthz'), '', 'who does not trust the certificate gets nothing');
my @uids = map { "tls$_" } 1 .. 3000;
append_to_file("$directory/push.json", users_json(@uids));
like(curl('/api/userData:push', @trust, '-H', "Authorization: Bearer $key", '-H', 'Content-Type: application/json',
		'--data-binary', "\@$directory/push.json"), qr/^200 /, 'and pushed to');
is(there(@uids), '3000|3000|1', 'by which everything comes');
is(statuses(ask($port, $health)), '', 'HTTP without TLS');
is(statuses(ask($port, "\0" x 1000, half_close => 1)), '', 'and other bytes');
like(curl('/healthz', @trust), qr/^200 /, 'are no trouble');

$end = start_clients('slow', $key, port => $port, count => 100, addresses => 5, kinds => 'silent,headers')->finish;
is(($end->{ends}{closed} // 0) + ($end->{ends}{reset} // 0), 100, 'who does not get through the handshake is cut off');

# another certificate
my $subject = sub {
	openssl('s_client', '-connect', "127.0.0.1:$port", '-CAfile', "$directory/ca.pem") =~ /subject=.*CN ?= ?(\w+)/ ? $1 : '';
};
is($subject->(), 'one', 'the certificate');
my $idle = start_clients('slow', $key, port => $port, count => 10, kinds => 'silent');
$idle->wait_event('open');
make_certificate('two');
$node->reload;
comes_true(sub { $subject->() eq 'two' }, 'is another one after a reload');
$idle->finish;
like(curl('/healthz', @trust), qr/^200 /, 'and good');

# those that cannot be used
my @pids = sort(listener_pids($node));

sub stays
{
	my ($name, $pattern) = @_;
	my $log = -s $node->logfile;

	$node->reload;
	# both processes say so
	$node->wait_for_log(qr/$pattern.*$pattern/s, $log);
	is($subject->(), 'two', "after a reload with $name, the one before stays");
	is_deeply([ sort(listener_pids($node)) ], \@pids, 'and so do the processes');
	return;
}

rename "$directory/server.pem", "$directory/two.pem";
stays('a certificate that is not there', qr/uds: could not read "[^"]*" for TLS: No such file/);
append_to_file("$directory/server.pem", 'none');
stays('a certificate that is none', qr/uds: "[^"]*" and "[^"]*" are not a certificate and its private key/);
chmod 0644, "$directory/server.key";
stays('a key that others can read', qr/uds: private key file "[^"]*" can be read by others/);
chmod 0600, "$directory/server.key";
rename "$directory/server.key", "$directory/two.key";
make_certificate('three');
rename "$directory/two.key", "$directory/server.key";
stays('a key of another one', qr/uds: "[^"]*" and "[^"]*" are not a certificate and its private key/);


# with requests on their way
append_to_file("$directory/requests", get_text('/healthz') x 20_000);
foreach my $name ('four', 'five', 'six')
{
	make_certificate($name);
	my @busy = map {
		IPC::Run::start([ 'openssl', 's_client', '-quiet', '-ign_eof', '-connect', "127.0.0.1:$port" ],
			'<', "$directory/requests", '>', "$directory/replies$_", '2>', '/dev/null', IPC::Run::timeout($limit))
	} 1 .. 4;
	comes_true(sub { !grep { (-s "$directory/replies$_" // 0) < 1000 } 1 .. 4 }, 'clients have requests on their way');
	$node->reload;
	comes_true(sub { $subject->() eq $name }, 'and the certificate changes');
	$_->finish foreach @busy;
	unlink map { "$directory/replies$_" } 1 .. 4;
}
is_deeply([ sort(listener_pids($node)) ], \@pids, 'which the processes survive');

#
# Behind a proxy; keys that are wrong
#
restart_listener(
	$node,
	'uds.http_tls_cert' => '',
	'uds.http_tls_key' => '',
	'uds.http_client_timeout' => '5min',
	'uds.http_trusted_proxies' => '127.0.0.7, 10.0.0.0/8');
my $log = -s $node->logfile;
my $wrong = 0;

# one push with a good or a wrong key, from an address, passed on for others
sub push_from
{
	my ($address, $good, @for) = @_;

	$wrong++ unless $good;
	my ($reply) = ask(
		$port,
		post_text($good ? $key : "wrong-key-$wrong", users_json('proxied'), map { "X-Forwarded-For: $_" } @for),
		count => 1,
		from => $address);
	return $reply;
}

my @refused = map { push_from('127.0.0.7', 0, '203.0.113.5') } 1 .. 30;
like(statuses(@refused), qr/^(?:401 ){5,20}(?:429 )+429$/, 'after some wrong keys an address has to wait');
my $last = $refused[-1];
like($last->{headers}{'retry-after'}, qr/^[1-9]\d*$/, 'and is told for how long');
like($last->{body}, qr/^\{"code": ?429, ?"message": ?"[^"]+"\}$/, 'in the usual form');
is(push_from('127.0.0.7', 1, '203.0.113.5')->{status}, 429, 'with a good key, too');
is(push_from('127.0.0.7', 1, '192.0.2.1, 203.0.113.5')->{status}, 429, 'whatever it says that it passes on');
is(push_from('127.0.0.7', 1, '203.0.113.6')->{status}, 200, 'another one behind the same proxy does not');
is(push_from('127.0.0.7', 1, '2001:db8::5')->{status}, 200, 'nor one of IPv6');
is(push_from('127.0.0.7', 1)->{status}, 200, 'nor the proxy itself');
is(push_from('127.0.0.8', 1, '203.0.113.5')->{status}, 200, 'whoever is no proxy of ours is who it is');
@refused = map { push_from('127.0.0.9', 0, "203.0.113.$_") } 100 .. 130;
like(statuses(@refused), qr/^(?:401 ){5,20}(?:429 )+429$/, 'and does not get round it by saying otherwise');
is(push_from('127.0.0.8', 1)->{status}, 200, 'nobody else is concerned');
is(statuses(ask($port, $health, from => '127.0.0.9', count => 1)), '200', 'nor health');

my $text = slurp_file($node->logfile, $log);
ok($text =~ /refused a request .* from 203\.0\.113\.5:/, 'the log has the address behind the proxy');
ok($text =~ /refused a request .* from 127\.0\.0\.9:/, 'and of the other one the real one');
ok($text !~ /from 203\.0\.113\.1\d\d/, 'not what it said');
ok($text !~ /wrong-key-/, 'no wrong key');

#
# More connections than there may be files
#
$log = -s $node->logfile;
restart_listener(
	$node,
	'uds.http_workers' => 1,
	'uds.http_max_connections' => 1000,
	'max_files_per_process' => 200);
$node->wait_for_log(qr/uds: the listener takes at most \d+ connections, and not 1000/, $log);
my ($early) = kept(1, '127.0.0.1');
my $many = start_clients('slow', $key, port => $port, count => 600, addresses => 20);
$many->wait_event('open');
comes_true(sub { sockets() > 50 }, 'where the server may open few files, and hundreds connect');
@uids = map { "few$_" } 1 .. 1000;
send_raw($early, post_text($key, users_json(@uids)));
is(statuses(read_replies($early, 1)), '200', 'a push is taken');
is(there(@uids), '1000|1000|1', 'and done');
cmp_ok(sockets(), '<', 150, 'and half of the files are left to the server');
$many->stop;

#
# After all that
#
$text = slurp_file($node->logfile);
ok($text !~ /\Q$key\E/, 'no key is in the log');
is(join(' ', $text =~ /(?:terminated by signal|PANIC).*/g), '', 'no process died');
is(query(q{
		SELECT count(*) FROM uds.users u
		 WHERE NOT EXISTS (SELECT FROM uds.records r JOIN uds.record_resources l ON l.record_id = r.id
		                    WHERE r.uid = u.username AND l.resource_pk = u.id::text)}), 0, 'every user has its record');

$node->stop;
done_testing();
