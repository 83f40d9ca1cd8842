# Pushes over HTTP: what is taken, what is refused, and with which words; keys,
# health and metrics.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IO::Compress::Gzip qw(gzip);
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsHttp;
use UdsTest;

my $node = new_http_node('uds.http_max_body' => '1MB');
my $path = '/api/userData:push';

sub one
{
	return $node->safe_psql('postgres', $_[0]);
}

# push_users($key, @uids): status and reply
sub push_users
{
	my ($key, @uids) = @_;

	return http_json('POST', $path, key => $key,
		content => { dataType => 'user', records => [ map { { uid => $_, username => $_ } } @uids ] });
}

# is_error($name, $status, $message, @got): the shape of all errors
sub is_error
{
	my ($name, $status, $message, $got_status, $got) = @_;

	is($got_status, $status, "$name: $status");
	is(ref $got, 'HASH', "$name: a JSON object") or return diag explain $got;
	is($got->{code}, $status, "$name: with the code");
	like($got->{message}, $message, "$name: and a message");
	return;
}

my $key = create_key($node, 'hr system');
like($key, qr/^uds_1_[A-Za-z0-9_-]{43}$/, 'a key is shown when it is made');
unlike($node->safe_psql('postgres', 'SELECT row_to_json(k) FROM uds.api_keys AS k'), qr/\Q$key\E/,
	'and is not in the table');

#
# A push, as uds_push() would answer it
#
my ($status, $reply) = http_json('POST', $path, key => $key, content =>
	  '{"dataType":"user","matchKey":"email","records":[{"uid":"1","username":"ann","email":"ann@example.org"},{"username":"nobody"}]}');
is($status, 200, 'a push is taken');
is($reply->{code}, 0, 'code 0');
is($reply->{message}, 'success', 'message');
is($reply->{task}, one('SELECT max(id) FROM uds.tasks'), 'the number of the task');
is_deeply([ map { $_->{resource} } @{ $reply->{result} } ], [ 'users', 'departments' ], 'a result for each resource');
is_deeply($reply->{result}[0]{detail}{count}, { all => 2, success => 1, failed => 1 }, 'counts');
is($reply->{result}[0]{detail}{failedRecords}[0]{message}, 'record has no uid', 'the record that failed, and why');
is(one(q{SELECT nickname IS NULL, email FROM uds.users WHERE username = 'ann'}), 't|ann@example.org', 'the row is there');
is(one(q{SELECT kind, status, requested_by FROM uds.tasks ORDER BY id DESC LIMIT 1}), 'push|partial|key hr system',
	'the task says whose key it was');
is(one(q{SELECT last_used_at IS NOT NULL FROM uds.api_keys}), 't', 'and the key that it was used');

($status, $reply) = push_users($key, 'ann2');
is($status, 200, 'another one');
my $rows = one('SELECT count(*) FROM uds.users');
($status, $reply) = push_users($key, 'ann2');
is_deeply([ $status, one('SELECT count(*) FROM uds.users') ], [ 200, $rows ], 'the same again makes nobody');

#
# How a body may come
#
gzip(\'{"dataType":"user","records":[{"uid":"gz","username":"gz"}]}', \my $gzipped);
($status) = http_json('POST', $path, key => $key, content => $gzipped, headers => { 'Content-Encoding' => 'gzip' });
is($status, 200, 'gzip');
is(one(q{SELECT count(*) FROM uds.users WHERE username = 'gz'}), 1, 'and its record');

my $lines = join '', map { qq({"uid":"l$_","username":"l$_"}\n) } 1 .. 500;
$lines .= qq(\n  \r\n{"uid":"broken",\n{"uid":"zero","nickname":"\\u0000"}\n[1]\n{"uid":"last","username":"last"});
($status, $reply) = http_json('POST', "$path?dataType=user&matchKey=username", key => $key, content => $lines,
	headers => { 'Content-Type' => 'application/x-ndjson; charset=utf-8' });
is($status, 200, 'JSON lines');
is_deeply($reply->{result}[0]{detail}{count}, { all => 504, success => 501, failed => 3 }, 'of which the bad ones are set aside');
is(one(q{SELECT count(*) FROM uds.users WHERE username ~ '^l[0-9]+$' OR username = 'last'}), 501, 'and the others taken');
is(one(q{SELECT count(*) FROM uds.tasks WHERE id = (SELECT max(id) FROM uds.tasks) AND fetched = 504}), 1, 'in one task');
like($reply->{result}[0]{detail}{failedRecords}[1]{message}, qr/u0000/, 'with the reason');

($status, $reply) = http_json('POST', $path, key => $key, content =>
	  '{"dataType":"user","records":[{"uid":"z1","nickname":"\u0000"},{"uid":"z2","username":"z2"}]}');
is($status, 200, 'an envelope with a record that jsonb cannot hold');
is_deeply($reply->{result}[0]{detail}{count}, { all => 2, success => 1, failed => 1 }, 'is that record\'s error');
is(one(q{SELECT count(*) FROM uds.users WHERE username = 'z2'}), 1, 'and the other one is there');

#
# More than the key is looked at for
#
my $large = '{"dataType":"user","records":[' . join(',', map { qq({"uid":"b$_","username":"b$_","nickname":") . 'x' x 100 . '"}' } 1 .. 3000) . ']}';
($status, $reply) = http_json('POST', $path, key => $key, content => $large);
is($status, 200, 'a large push');
is($reply->{result}[0]{detail}{count}{success}, 3000, 'all of it');
is_error('a large push with a wrong key', 401, qr/key is not valid/,
	http_json('POST', $path, key => "$key-", content => $large));
my $position = 0;
($status, $reply) = http_json('POST', $path, key => $key, content => sub {
		my $piece = substr($large, $position, 10000);
		$position += length $piece;
		return $piece;
	});
is($status, 200, 'the same in chunks, of a length not said');
is($reply->{result}[0]{detail}{count}{success}, 3000, 'all of it');
my ($out, $err);
$node->append_conf('large.json', $large);
run_log([ 'curl', '-s', '-S', '--noproxy', '*', '-H', "Authorization: Bearer $key", '-H', 'Content-Type: application/json',
		'-H', 'Expect: 100-continue', '--expect100-timeout', '1000', '--data-binary', '@' . $node->data_dir . '/large.json', http_url($path) ],
	'>', \$out, '2>', \$err);
like($out, qr/"code": ?0/, 'a client that waits to be told to go on') or diag $err;

#
# What is refused
#
is_error('no key', 401, qr/Authorization: Bearer/, http_json('POST', $path, content => '{}'));
is_error('another kind of key', 401, qr/Authorization: Bearer/,
	http_json('POST', $path, content => '{}', headers => { Authorization => 'Basic Zm9vOmJhcg==' }));
is_error('a key that is none', 401, qr/not valid/, http_json('POST', $path, key => 'x', content => '{}'));
is_error('nothing there', 404, qr/nothing here/, http_json('GET', '/'));
is_error('nor below', 404, qr/nothing here/, http_json('POST', "$path/x", key => $key, content => '{}'));
is_error('another method', 405, qr/not allowed/, http_json('GET', $path));
is(http('GET', $path)->{headers}{allow}, 'POST', 'which tells the one there is');
is_error('another type', 415, qr/content type/,
	http_json('POST', $path, key => $key, content => 'a=b', headers => { 'Content-Type' => 'application/x-www-form-urlencoded' }));
is_error('another charset', 415, qr/UTF-8/,
	http_json('POST', $path, key => $key, content => '{}', headers => { 'Content-Type' => 'application/json; charset=latin1' }));
is_error('another encoding', 415, qr/gzip/,
	http_json('POST', $path, key => $key, content => '{}', headers => { 'Content-Encoding' => 'br' }));
is_error('no gzip', 400, qr/not valid gzip/,
	http_json('POST', $path, key => $key, content => '{}', headers => { 'Content-Encoding' => 'gzip' }));
is_error('gzip that is cut', 400, qr/not valid gzip/,
	http_json('POST', $path, key => $key, content => substr($gzipped, 0, -10), headers => { 'Content-Encoding' => 'gzip' }));
is_error('too large', 413, qr/too large/, http_json('POST', $path, key => $key, content => ' ' x (1024 * 1024 + 1)));
gzip(\(' ' x (10 * 1024 * 1024)), \my $bomb);
is_error('too large when it is decompressed', 413, qr/too large/,
	http_json('POST', $path, key => $key, content => $bomb, headers => { 'Content-Encoding' => 'gzip' }));
foreach my $case (
	[ 'no JSON', '{"dataType":', qr/not valid JSON/ ],
	[ 'no UTF-8', qq({"dataType":"user\xff"}), qr/not UTF-8/ ],
	[ 'a zero byte', qq({"dataType":"user"}\0), qr/not UTF-8/ ],
	[ 'no object', '[]', qr/not a JSON object/ ],
	[ 'no type', '{"records":[{}]}', qr/no dataType/ ],
	[ 'another type', '{"dataType":"robot","records":[{}]}', qr/unknown dataType "robot"/ ],
	[ 'no records', '{"dataType":"user"}', qr/no records/ ],
	[ 'an empty list', '{"dataType":"user","records":[]}', qr/is empty/ ],
	[ 'another key', '{"dataType":"user","matchKey":"id","records":[{}]}', qr/unknown matchKey "id"/ ],
	[ 'deep', '{"dataType":"user","records":' . '[' x 100000, qr/not valid JSON/ ])
{
	my ($name, $body, $message) = @$case;

	is_error($name, 400, $message, http_json('POST', $path, key => $key, content => $body));
}
is_error('lines of no type', 400, qr/no dataType/,
	http_json('POST', $path, key => $key, content => '{}', headers => { 'Content-Type' => 'application/x-ndjson' }));
is_error('no lines', 400, qr/no records/,
	http_json('POST', "$path?dataType=user", key => $key, content => "\n\n", headers => { 'Content-Type' => 'application/x-ndjson' }));
is_error('too many parameters', 400, qr/too many/,
	http_json('POST', "$path?" . join('&', map { "a$_=1" } 1 .. 40), key => $key, content => '{}'));

#
# Keys
#
one(q{SELECT uds_create_source('hr', 'push')});
my $hr = create_key($node, 'hr', 'hr');
($status) = push_users($hr, 'from_hr');
is($status, 200, 'a key of another source');
is(one(q{SELECT s.name FROM uds.records r JOIN uds.sources s ON s.id = r.source_id WHERE r.uid = 'from_hr'}), 'hr',
	'pushes there, named or not');
is_error('to the source of somebody else', 403, qr/not for this source/,
	http_json('POST', $path, key => $hr, content => '{"dataType":"user","sourceName":"api","records":[{"uid":"x"}]}'));
one(q{SELECT uds_alter_source('hr', enabled => false)});
is_error('to a source that is disabled', 403, qr/does not take pushes/, push_users($hr, 'x'));
one(q{SELECT uds_alter_source('hr', enabled => true)});
my $short = create_key($node, 'short', 'hr', q{'{push}', clock_timestamp() + interval '1 hour'});
($status) = push_users($short, 'y');
is($status, 200, 'a key that will expire');
one(q{UPDATE uds.api_keys SET expires_at = now() WHERE name = 'short'});
is_error('one that has expired', 401, qr/not valid/, push_users($short, 'y'));
one(q{SELECT uds_drop_api_key('hr')});
is_error('one that was dropped', 401, qr/not valid/, push_users($hr, 'y'));

#
# Health and metrics
#
($status, $reply) = http_json('GET', '/healthz');
is_deeply([ $status, $reply ], [ 200, { code => 0, message => 'ok' } ], 'healthz');
my $metrics = http('GET', '/metrics');
is($metrics->{status}, 200, 'metrics, from this machine');
like($metrics->{headers}{'content-type'}, qr{^text/plain; version=0\.0\.4}, 'of the type that is wanted');
my $succeeded = one(q{SELECT count(*) FROM uds.tasks t JOIN uds.sources s ON s.id = t.source_id WHERE s.name = 'api' AND t.status = 'success'});
like($metrics->{content}, qr/^# TYPE uds_tasks gauge\n(?:.*\n)*?uds_tasks\{source="api",kind="push",status="success"\} $succeeded$/m, 'tasks');
like($metrics->{content}, qr/^uds_rows_total\{source="hr",action="create"\} 2$/m, 'rows');
like($metrics->{content}, qr/^uds_record_errors_total\{source="api"\} 5$/m, 'errors');
like($metrics->{content}, qr/^uds_last_success_seconds\{source="api"\} [0-9.]+$/m, 'lag');
is(scalar(grep { !/^(?:# (?:HELP|TYPE) uds_\w+ .+|uds_\w+\{[^{}]*\} -?[0-9.]+)$/ } split /\n/, $metrics->{content}), 0,
	'every line is as Prometheus reads it');
is_error('metrics for somebody whom a proxy passes on', 401, qr/key is needed/,
	http_json('GET', '/metrics', headers => { 'X-Forwarded-For' => '203.0.113.9' }));
is_error('with a key for pushes', 401, qr/not valid/, http_json('GET', '/metrics', key => $key));
my $watch = create_key($node, 'prometheus', 'hr', q{'{metrics}'});
$metrics = http('GET', '/metrics', key => $watch, headers => { 'X-Forwarded-For' => '203.0.113.9' });
is($metrics->{status}, 200, 'with one for metrics');
unlike($metrics->{content}, qr/source="api"/, 'those of its source');
is_error('which is not for pushes', 401, qr/not valid/, push_users($watch, 'y'));

#
# Nobody waits behind a push that waits
#
# begins a request and returns a handle to read its reply from
sub begin_push
{
	my ($content) = @_;

	$node->append_conf('body.json', $content);
	open my $reply, '-|', 'curl', '-s', '-S', '--noproxy', '*', '-H', "Authorization: Bearer $key", '-H', 'Content-Type: application/json',
	  '--data-binary', '@' . $node->data_dir . '/body.json', http_url($path)
	  or die "could not run curl: $!";
	return $reply;
}

my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN');
$session->query_safe(q{SELECT uds_push('{"dataType":"user","records":[{"uid":"held","username":"held"}]}')});
unlink $node->data_dir . '/body.json';
my $waits = begin_push('{"dataType":"user","records":[{"uid":"behind","username":"behind"}]}');
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'uds http listener' AND wait_event_type = 'Lock'})
  or die 'the push does not wait';
is(scalar(grep { (http_json('GET', '/healthz'))[0] != 200 } 1 .. 20), 0, 'while a push waits for another transaction, others are answered');
is(one(q{SELECT count(*) FROM uds.users WHERE username = 'behind'}), 0, 'it waits');
$session->query_safe('COMMIT');
like(join('', <$waits>), qr/"success": 1/, 'and is done when it can be');

one(q{CREATE TABLE go (x int);
	CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NOT EXISTS (SELECT FROM public.go) LOOP
			PERFORM pg_sleep(0.01);
		END LOOP;
		RETURN NEW;
	END $$;
	CREATE TRIGGER hold BEFORE INSERT ON uds.users FOR EACH ROW WHEN (NEW.username = 'slow') EXECUTE FUNCTION hold()});
unlink $node->data_dir . '/body.json';
my $slow = begin_push('{"dataType":"user","records":[{"uid":"slow","username":"slow","nickname":"' . 'x' x 600_000 . '"}]}');
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'uds http listener' AND wait_event = 'PgSleep'})
  or die 'the push does not come to the trigger';
is(scalar(grep { (http_json('GET', '/healthz'))[0] != 200 } 1 .. 50), 0, 'while a process is at a large push, new connections go to the others');
one('INSERT INTO go VALUES (1)');
like(join('', <$slow>), qr/"success": 1/, 'and it ends well');
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'uds http listener' AND state <> 'idle'});
one('DROP TRIGGER hold ON uds.users');
$session->quit;

#
# A dump has the keys
#
$node->command_ok([ 'pg_dump', '-f', $node->data_dir . '/dump.sql', '-p', $node->port, '-h', $node->host, 'postgres' ], 'a dump');
like(slurp_file($node->data_dir . '/dump.sql'), qr/^COPY uds\.api_keys .*\n1\thr system\t/m, 'has the keys');

#
# What the log has, and has not
#
my $log = slurp_file($node->logfile);
like($log, qr/refused a request for push over HTTP from 127\.0\.0\.1: key "short" has expired/, 'the log tells who was refused, and why');
unlike($log, qr/\Q$_\E/, 'and no key') foreach map { substr($_, 6) } ($key, $hr, $short, $watch);

#
# The role may do nothing else
#
is(one(q{SELECT usename FROM pg_stat_activity WHERE backend_type = 'uds http listener' LIMIT 1}), 'uds_http', 'the role of the listener');
foreach my $sql ('SELECT * FROM uds.users', q{SELECT uds_push('{}')}, 'SELECT * FROM uds.api_keys', q{SELECT uds_sync('hr')})
{
	my ($ret, undef, $stderr) = $node->psql('postgres', "SET SESSION AUTHORIZATION uds_http; $sql");

	like($stderr, qr/permission denied/, "may not $sql");
}
is(one(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'uds http listener' AND (backend_xmin IS NOT NULL OR xact_start IS NOT NULL)}),
	0, 'between requests it holds neither transaction nor snapshot');

done_testing();
