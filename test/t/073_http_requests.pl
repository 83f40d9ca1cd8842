# Requests as they are on the wire: bodies and headers that are too long, cut,
# broken, or meant to be misread; several at once; connections that end too early.

use strict;
use warnings;

use IO::Compress::Gzip qw(gzip $GzipError);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket qw(SHUT_WR SOL_SOCKET SO_LINGER);
use Test::More;
use UdsClients;
use UdsHttp;
use UdsSession;
use UdsTest qw(:DEFAULT query);

plan skip_all => 'this test looks at /proc' unless -d "/proc/$$/fd";

my $node = new_http_node(
	'uds.http_workers' => 1,
	'uds.http_client_timeout' => '5min',
	'uds.http_max_body' => '1MB');
my $port = query('SHOW uds.http_port');
my $key = create_key($node, 'good');

# memory that the one process of the listener has had at most, in kB
sub peak_memory
{
	my ($pid) = listener_pids($node);

	return slurp_file("/proc/$pid/status") =~ /^VmHWM:\s*(\d+) kB/m ? $1 : die 'no VmHWM';
}

# there(@uids): how many users, records and tasks there are of these
sub there
{
	my $list = quote('{' . join(',', @_) . '}');

	return query("SELECT (SELECT count(*) FROM uds.users WHERE username = ANY ($list)),"
		  . " (SELECT count(*) FROM uds.records WHERE uid = ANY ($list)),"
		  . " (SELECT count(DISTINCT task_id) FROM uds.records WHERE uid = ANY ($list))");
}

# answers($name, $expected, $bytes, %options): which statuses come back
sub answers
{
	my ($name, $expected, $bytes, %options) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @replies = ask($port, $bytes, %options);

	return ref $expected ? like(statuses(@replies), $expected, $name) : is(statuses(@replies), $expected, $name);
}

# ask_all($half_close, @texts): many clients at once, which may close their end,
# and take what comes until the listener closes its own; statuses of each
sub ask_all
{
	my ($half_close, @texts) = @_;
	my @sockets;

	foreach my $text (@texts)
	{
		my $socket = connect_raw($port);

		send_raw($socket, $text);
		shutdown $socket, SHUT_WR if $half_close;
		push @sockets, $socket;
	}
	return map { statuses(read_replies($_)) } @sockets;
}

# answer_all($half_close, [ name, expected, bytes ], ...): assertions of them
sub answer_all
{
	my ($half_close, @cases) = @_;
	my @got = ask_all($half_close, map { $_->[2] } @cases);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like(shift @got, $_->[1], $_->[0]) foreach @cases;
	return;
}

my $health = get_text('/healthz');

#
# Bodies that are too long
#
my $before = query('SELECT coalesce(max(id), 0) FROM uds.tasks');

my $taken = 0;
my $large = ' ' x (2 * 1024 * 1024);
my $small = users_json('small');

# chunks of some bytes
sub chunked
{
	my ($body, $size) = @_;

	return join('', map { sprintf "%x\r\n%s\r\n", length $_, $_ } unpack "(a$size)*", $body) . "0\r\n\r\n";
}

# gzipped($text, %options): the same as gzip
sub gzipped
{
	my ($text, %options) = @_;

	gzip(\$text => \my $compressed, %options) or die $GzipError;
	return $compressed;
}

my $te = 'Transfer-Encoding: chunked';
my $gz = 'Content-Encoding: gzip';

ask($port, $health, count => 1);
my $memory = peak_memory();
answers('a body of 2 MB', qr/^413/, post_text($key, $large), count => 1);
answers('the same in chunks', qr/^413/, post_text($key, chunked($large, 10000), $te), count => 1);
answers('one that is announced, by a client that waits', '413',
	post_text($key, '', 'Content-Length: 2000000', 'Expect: 100-continue'), count => 1);
answers('a length beyond all numbers', qr/^4\d\d$/, post_text($key, '', 'Content-Length: 99999999999999999999'));
my $bomb = gzipped("\0" x (256 * 1024 * 1024), -Level => 9);
answers('256 MB in ' . length($bomb) . ' bytes of gzip', qr/^413/, post_text($key, $bomb, $gz), count => 1);
answers('the same in chunks', qr/^413/, post_text($key, chunked($bomb, 5000), $te, $gz), count => 1);
answers('256 MB in small members', qr/^413/, post_text($key, gzipped("\0" x 500_000) x 512, $gz), count => 1);
cmp_ok(peak_memory() - $memory, '<', 16 * 1024, 'for which the listener takes no memory, in kB');

# it would go on for ever
my $endless = connect_raw($port);
my $chunk = "10000\r\n" . ('x' x 65536) . "\r\n";
my $sent = send_raw($endless, post_text($key, '', $te));
while ($sent < 100_000_000)
{
	my $n = send_raw($endless, $chunk);

	$sent += $n;
	last if $n < length $chunk;
}
cmp_ok($sent, '<', 100_000_000, 'a body without an end is not read for ever');
close $endless;

#
# Bodies that are broken
#
my $gzipped = gzipped(users_json('gz1'));
my $members = gzipped(substr(users_json('gz2'), 0, 20)) . gzipped(substr(users_json('gz2'), 20));
my $spoiled = $gzipped;
substr($spoiled, -8, 4) = "\0\0\0\0";

foreach my $case (
	[ 'gzip whose sum is wrong', $spoiled ],
	[ 'gzip that ends early', substr($gzipped, 0, 30) ],
	[ 'gzip without its last byte', substr($gzipped, 0, -1) ],
	[ 'gzip and something behind it', "${gzipped}xyz" ],
	[ 'nothing, as gzip', '' ],
	[ 'JSON, as gzip', $small ])
{
	answers($case->[0], '400', post_text($key, $case->[1], $gz), count => 1);
	answers("$case->[0], byte by byte", '400', post_text($key, chunked($case->[1], 1), $te, $gz), count => 1);
}
is(there('gz1'), '0|0|0', 'of which nothing is taken');
answers('good gzip', '200', post_text($key, $gzipped, $gz), count => 1);
answers('gzip of two members', '200', post_text($key, $members, $gz), count => 1);
answers('and byte by byte', '200', post_text($key, chunked($members, 1), $te, $gz), count => 1);
$taken += 3;
is(there('gz1', 'gz2'), '2|2|2', 'are taken');

# the end of a connection may show only when its time is over
restart_listener($node, 'uds.http_client_timeout' => '3s');
my $nothing = qr/^(?:4\d\d)?$/;

answer_all(
	1,
	[ 'a body that ends early', $nothing, post_text($key, users_json('cut'), 'Content-Length: 1000') ],
	[ 'headers that end early', $nothing, substr(post_text($key, users_json('cut')), 0, 60) ],
	[ 'chunks that end early', $nothing, post_text($key, substr(chunked(users_json('cut'), 10), 0, -5), $te) ],
	[ 'a chunk that ends early', $nothing, post_text($key, substr(chunked(users_json('cut'), 10), 0, 20), $te) ],
	[ 'a chunk of no length', $nothing, post_text($key, "zz\r\n" . users_json('cut') . "\r\n0\r\n\r\n", $te) ],
	[ 'a chunk of unheard-of length', $nothing, post_text($key, "fffffffffffffffff\r\n" . users_json('cut') . "\r\n0\r\n\r\n", $te) ],
	[ 'a negative length', $nothing, post_text($key, users_json('cut'), 'Content-Length: -1') ],
	[ 'a length that is none', $nothing, post_text($key, users_json('cut'), 'Content-Length: many') ],
	[ 'another protocol', $nothing, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" . 'x' x 508 ],
	[ 'no protocol at all', $nothing, "\0" x 1000 ]);
is(there('cut'), '0|0|0', 'nothing of these is taken');

# what looks like a request within a body is none
my $inner = post_text($key, users_json('smuggled'));
my $length = 'Content-Length: ' . length $inner;

answer_all(
	0,
	map { [ "a request within $_->[0]", ref $_->[1] ? $_->[1] : qr/^$_->[1]$/, $_->[2] ] } (
		[ 'a body', 400, post_text($key, $inner) ],
		[ 'a body for nobody', 404, "POST /missing HTTP/1.1\r\nHost: x\r\n$length\r\n\r\n$inner" ],
		[ 'a body of the wrong type', 415, post_text($key, $inner, 'Content-Type: text/plain') ],
		[ 'a body without a key', 401, post_text(undef, $inner) ],
		[ 'a body of GET', 200, "GET /healthz HTTP/1.1\r\nHost: x\r\n$length\r\n\r\n$inner" ],
		[ 'a body that is too long', 413, post_text($key, ' ' x 1_100_000 . $inner) ],
		# with these the reply may be lost, since the body is not read
		[ 'one that was not waited for', qr/^(?:413)?$/, post_text($key, $inner . ' ' x 1_100_000, 'Expect: 100-continue') ],
		[ 'one for nobody, that was not waited for', qr/^(?:404)?$/,
			"POST /missing HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n$length\r\n\r\n$inner" ],
		[ 'a body of two lengths', $nothing, post_text($key, $inner, 'Content-Length: 0', $length) ],
		[ 'a body of chunks and a length', $nothing, post_text($key, "0\r\n\r\n$inner", $te, 'Content-Length: ' . length("0\r\n\r\n$inner")) ]));
is(there('smuggled'), '0|0|0', 'is not done');
restart_listener($node, 'uds.http_client_timeout' => '5min');

#
# Headers
#
foreach my $case (
	[ 'a header of 100 kB', "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " . 'a' x 100_000 . "\r\n\r\n" ],
	[ '10,000 headers', "GET /healthz HTTP/1.1\r\nHost: x\r\n" . join('', map { "X-$_: a\r\n" } 1 .. 10_000) . "\r\n" ],
	[ 'an address of 100 kB', 'GET /healthz?' . 'a' x 100_000 . " HTTP/1.1\r\nHost: x\r\n\r\n" ],
	[ 'a method of 100 kB', 'G' x 100_000 . " /healthz HTTP/1.1\r\nHost: x\r\n\r\n" ],
	[ 'no host', "GET /healthz HTTP/1.1\r\n\r\n" ],
	[ 'another version', "GET /healthz HTTP/7.3\r\nHost: x\r\n\r\n" ])
{
	answers($case->[0], qr/^(?:4\d\d|505)?$/, $case->[1]);
}
answers('HTTP/1.0', '200', "GET /healthz HTTP/1.0\r\n\r\n");

#
# Several requests in one piece
#
my @uids = map { "pipe$_" } 1 .. 30;
my %between = (
	pipe7 => [ 401, post_text(undef, users_json('nobody')) ],
	pipe9 => [ 404, get_text('/missing') ],
	pipe11 => [ 405, get_text('/api/userData:push') ],
	pipe13 => [ 415, post_text($key, users_json('nobody'), 'Content-Type: text/plain') ]);
my @replies = ask($port, join('', map { (post_text($key, users_json($_)), ($between{$_} // [ 200, $health ])->[1]) } @uids), count => 60);

is(statuses(@replies), join(' ', map { '200 ' . ($between{"pipe$_"} // [200])->[0] } 1 .. 30), 'sixty requests in one piece: each is answered, in order');
my @tasks = map { $_->{body} =~ /"task": ?(\d+)/ ? $1 : () } @replies;
is_deeply(\@tasks, [ sort { $a <=> $b } @tasks ], 'one after the other');
is(there(@uids), '30|30|30', 'and done once');
is(there('nobody'), '0|0|0', 'what is refused between them is not');
$taken += 30;


#
# Expect: 100-continue; chunks; connections that are closed at one end
#
my $socket = connect_raw($port);
send_raw($socket, post_text($key, '', 'Expect: 100-continue', 'Content-Length: ' . length users_json('expect')));
is(statuses(read_replies($socket, 1)), '100', 'who asks is told to go on');
send_raw($socket, users_json('expect'));
is(statuses(read_replies($socket, 1)), '200', 'and then answered');
send_raw($socket, post_text($key, '', 'Expect: 100-continue', 'Content-Length: 100000'));
is(statuses(read_replies($socket, 1)), '100', 'with a large body, too, if the key is good');
close $socket;
answers('else it is refused at once', '401',
	post_text("$key-", '', 'Expect: 100-continue', 'Content-Length: 100000'), count => 1);
answers('chunks', '200', post_text($key, chunked(users_json('chunks1'), 7), $te), count => 1);
answers('chunks with more to say, and a trailer', '200',
	post_text($key, sprintf("%x;name=\"value\"\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n", length users_json('chunks2'), users_json('chunks2')), $te), count => 1);
$taken += 3;
is(there(qw(expect chunks1 chunks2)), '3|3|3', 'all of them are done');
is(query("SELECT count(*) FROM uds.tasks WHERE id > $before"), $taken, 'and nothing else');

# who has closed his end has an answer, or sees the other end closed
restart_listener($node, 'uds.http_client_timeout' => '3s');
@uids = map { "half$_" } 1 .. 20;
my @got = ask_all(1, map { post_text($key, users_json($_)) } @uids);
like("$_:" . there(shift @uids), qr/^(?:200:1\|1\|1|:1\|1\|1|:0\|0\|0)$/, 'a client that has closed its end is told the truth')
  foreach @got;
restart_listener($node, 'uds.http_client_timeout' => '5min');

#
# Clients that go away while their push runs
#
query(q{
	CREATE TABLE gate (open boolean);
	CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NEW.username LIKE 'gone%3' AND NOT EXISTS (SELECT FROM public.gate) LOOP
			PERFORM pg_sleep(0.01);
		END LOOP;
		RETURN NEW;
	END $$;
	CREATE TRIGGER gate BEFORE INSERT ON uds.users FOR EACH ROW EXECUTE FUNCTION wait_at_gate()});
foreach my $how ('closes', 'resets')
{
	my @gone = map { "gone$how$_" } 1 .. 5;

	query('TRUNCATE gate');
	$socket = connect_raw($port);
	send_raw($socket, post_text($key, users_json(@gone)));
	poll($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'uds http listener' AND wait_event = 'PgSleep'},
		"a push runs, and its client $how the connection");
	setsockopt $socket, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0) if $how eq 'resets';
	close $socket;
	query('INSERT INTO gate VALUES (true)');
	answers('the next one is served', '200', $health, count => 1);
	like(there(@gone), qr/^(?:5\|5\|1|0\|0\|0)$/, 'the push is done or it is not');
}

# and while it waits for others
my $session = start_sql($node, 'postgres', 'BEGIN', 'LOCK TABLE uds.users IN EXCLUSIVE MODE',
	'SELECT pg_advisory_lock(1)', 'SELECT pg_sleep(600)');
poll($node, q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = 1}, 'a table is locked');
@uids = map { "stuck$_" } 1 .. 5;
$socket = connect_raw($port);
my $other = connect_raw($port);
send_raw($socket, post_text($key, users_json(@uids)));
send_raw($other, post_text($key, users_json('behind')));
poll($node, q{SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
	WHERE a.backend_type = 'uds http listener' AND NOT l.granted}, 'a push waits for it');
answers('others are answered meanwhile', '200', $health, count => 1);
close $socket;
my ($late) = read_replies($other, 1);
is($late->{status}, 503, 'after a while it is told to come again');
like($late->{headers}{'retry-after'}, qr/^[1-9]\d*$/, 'and when');
is(there('behind'), '0|0|0', 'and was not done');
send_raw($other, post_text($key, users_json('behind')));
answers('others are still answered', '200', $health, count => 1);
query(q{SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1});
$session->finish;
is(statuses(read_replies($other, 1)), '200', 'when nothing is in the way any more it is done');
is(there('behind'), '1|1|1', 'once');
like(there(@uids), qr/^(?:5\|5\|1|0\|0\|0)$/, 'and that of a client that has gone is done or it is not');

#
# After all that
#
my $text = slurp_file($node->logfile);
ok($text !~ /\Q$key\E/, 'no key is in the log');
is(join(' ', $text =~ /(?:terminated by signal|PANIC).*/g), '', 'no process died');
is(query(q{
		SELECT count(*) FROM uds.users u
		 WHERE NOT EXISTS (SELECT FROM uds.records r JOIN uds.record_resources l ON l.record_id = r.id
		                    WHERE r.uid = u.username AND l.resource_pk = u.id::text)}), 0, 'every user has its record');

$node->stop;
done_testing();
