# The raw log: every request with what came back, no secret anywhere, and gone
# when its time is over.
use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest qw(:DEFAULT query);

# what is written in another way in URLs and in JSON
my $secret = 'Zt5+q/W8"x%Lk2&=9';
my %spellings = (
	plain => $secret,
	url => 'Zt5%2Bq%2FW8%22x%25Lk2%26%3D9',
	json => 'Zt5+q/W8\\"x%Lk2&=9');

my $mock = start_mock(departments => 8, users => 40);
my $node = new_node(
	'uds.raw_log_retention' => '1h',

	# the statements of this test hold secrets
	'log_statement' => 'none');
my $task;

sub field
{
	my ($expression) = @_;

	return task_field($node, $task, $expression);
}

# log_of($expression): an expression over the rows of the task
sub log_of
{
	my ($expression, $condition) = @_;

	return query("SELECT $expression FROM uds.raw_log WHERE task_id = $task AND "
		  . ($condition // 'true'));
}

sub run_sync
{
	my ($source) = @_;

	$task = query('SELECT uds_sync(' . quote($source // 'wecom') . ')');
	return wait_task($node, $task);
}

# tables of the extension that have a text in some row, but for those that
# are there to hold secrets
sub tables_with
{
	my ($text) = @_;
	my @tables = split /\n/, query(q{
		SELECT tablename FROM pg_tables
		 WHERE schemaname = 'uds' AND tablename NOT IN ('source_secrets', 'source_tokens')
		 ORDER BY tablename});

	return join ' ', grep {
		query("SELECT count(*) FROM uds.$_ AS t WHERE strpos(t::text, " . quote($text) . ') > 0') > 0
	} @tables;
}

$mock->control(
	{
		settings => { wecom => { credentials => {
			$secret => { mode => 'app' },
			'app-secret' => { mode => 'app' } } } }
	});
query('CREATE EXTENSION uds');
create_wecom_source($node, $mock, options => { secret => $secret });

#
# Every request is there
#
is(run_sync(), 'success', 'the first sync succeeds');
my $first = $task;
my $token = query('SELECT token FROM uds.source_tokens');
my $paths = $mock->seen();

is(length $token, 214, 'there is a token');
is(log_of('count(*)'), field('requests'), 'there is a row for each request');
is(log_of('count(*)'), $mock->get_control->{requests}, 'of those that the service has seen');
foreach my $path (sort keys %$paths)
{
	is(log_of('count(*)', "request LIKE 'GET http://127.0.0.1:%$path%'"), $paths->{$path}, "each of $path is there");
}
is(log_of('min(seq) = 1 AND max(seq) = count(*) AND count(DISTINCT seq) = count(*)'), 't', 'they are numbered');
is(log_of('array_agg(DISTINCT attempt)'), '{1}', 'all are of the first attempt');
is(log_of('array_agg(DISTINCT status)'), '{200}', 'each has its status');
is(log_of('bool_and(usable)', q{stream <> 'auth'}), 't', 'pages are marked as usable');
is(log_of('count(*)', q{stream <> 'auth' AND usable}), field('pages'), 'the task counts the pages');
is(log_of('bool_and(bytes = octet_length(body) AND bytes > 0)', q{stream <> 'auth'}),
	't', 'sizes are those of the bodies');
is(query(qq{
	SELECT bool_and(r.received_at BETWEEN t.started_at AND t.finished_at)
	  FROM uds.raw_log r JOIN uds.tasks t ON t.id = r.task_id WHERE t.id = $task}),
	't', 'times are those of the task');
is(query(qq{
	SELECT bool_and(received_at >= before)
	  FROM (SELECT received_at, lag(received_at) OVER (ORDER BY seq) AS before
			  FROM uds.raw_log WHERE task_id = $task) AS r
	 WHERE before IS NOT NULL}),
	't', 'in the order of the numbers');
is(log_of(q{string_agg(context ->> 'department', ' ' ORDER BY (context ->> 'department')::bigint)}, q{stream = 'users'}),
	query(q{SELECT string_agg(uid, ' ' ORDER BY uid::bigint) FROM uds.records WHERE data_type = 'department'}),
	'pages of users say for which department');
is(log_of(q{body::jsonb #>> '{department,0,id}'}, q{stream = 'departments'}),
	$mock->call('GET', '/directory')->{departments}[0]{id}, 'bodies are there as they came');

#
# But no secrets
#
is(log_of('bool_and(body IS NULL)', q{stream = 'auth'}), 't', 'the reply with the token is not kept');
like(log_of('request', q{stream = 'auth'}), qr/[?&]corpsecret=\*{3,}(&|$)/, 'the secret is redacted');
like(log_of('request', q{stream = 'departments'}), qr/[?&]access_token=\*{3,}(&|$)/, 'the token is redacted');

# a service that says in its errors what it was sent, as it is or URL-escaped
foreach my $spelling (qw(plain url))
{
	my $echo = "no use in $spellings{$spelling} and so on";

	query('DELETE FROM uds.source_tokens');
	$mock->control({ faults => [ { kind => 'errcode', code => 40001, errmsg => $echo, path => '*/gettoken' } ] });
	is(run_sync(), 'failed', "the service echoes the secret ($spelling): the task fails");
	like(field('message'), qr/service answered error 40001 "no use in \*{3,} and so on,/, "the secret is redacted in its message ($spelling)");
	like(log_of('body'), qr/no use in \*{3,} and so on,/, "and in the raw log ($spelling)");
	$mock->control({ faults => [] });
	is(run_sync(), 'success', "the next sync succeeds ($spelling)");

	# the token is one that this run knows
	$token = query('SELECT token FROM uds.source_tokens');
	$echo = "no use in $token and $spellings{$spelling}";
	$mock->control({ faults => [ { kind => 'errcode', code => 60011, errmsg => $echo, path => '*/user/list', times => 1 } ] });
	is(run_sync(), 'partial', "the service echoes the token ($spelling): a node is skipped");
	like(query("SELECT message FROM uds.task_errors WHERE task_id = $task"),
		qr/service answered error 60011 "no use in \*{3,} and \*{3,},/, "both are redacted in the error row ($spelling)");
	like(log_of('body', 'NOT usable'), qr/no use in \*{3,} and \*{3,},/, "and in the raw log ($spelling)");
}

# redirects have addresses, and HTML pages what they were asked for
query('DELETE FROM uds.source_tokens');
$mock->control(
	{
		faults => [ { kind => 'redirect', path => '*/department/list',
				location => "http://user:$spellings{url}\@elsewhere.invalid/?access_token=$spellings{url}" } ]
	});
is(run_sync(), 'failed', 'a redirect with a secret: the task fails');
like(field('message'), qr/a redirect to host "elsewhere\.invalid"/, 'the message names the host only');

# neither does a request that hangs show them
my $token_before = $token;
query('DELETE FROM uds.source_tokens');
$mock->control({ faults => [ { kind => 'hang', path => '*/gettoken', times => 1 },
		{ kind => 'hang', path => '*/department/list', times => 1 } ] });
$task = query(q{SELECT uds_sync('wecom')});
foreach my $held (qw(gettoken department/list))
{
	my $state = $mock->get_control(
		wait => 'held',
		path => "*/$held",
		timeout => $PostgreSQL::Test::Utils::timeout_default - 1);

	is($state->{held}, 1, "a request for $held hangs");

	my $activity = query('SELECT pg_stat_activity::text FROM pg_stat_activity');
	my $known = query('SELECT token FROM uds.source_tokens');

	foreach my $text (values %spellings, $known ne '' ? $known : ())
	{
		is(index($activity, $text), -1, "pg_stat_activity has no secret while $held hangs");
	}
	$mock->control({ release => JSON::PP::true });
}
is(wait_task($node, $task), 'success', 'the task goes on when the service does');
$mock->control({ faults => [] });
$token = query('SELECT token FROM uds.source_tokens');

foreach my $text (values %spellings, $token, $token_before)
{
	is(tables_with($text), '', 'no table has a secret but those that are for it');
	is(index(slurp_file($node->logfile), $text), -1, 'nor has the server log');
}
isnt(tables_with('40001'), '', 'what is looked for that way is found');
is(query(q{SELECT options ->> 'secret' FROM uds.sources WHERE name = 'wecom'}), '********', 'the view shows none');
command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', "${PostgreSQL::Test::Utils::tmp_check}/dump.sql" ],
	'the database can be dumped');
my $dump = slurp_file("${PostgreSQL::Test::Utils::tmp_check}/dump.sql");
foreach my $text (values %spellings, $token)
{
	is(index($dump, $text), -1, 'nor has the dump');
}

#
# Retention.  A worker cleans up before it goes.
#
create_wecom_source($node, $mock, name => 'other', match_keys => '{username}', options => { secret => 'app-secret' });
is(run_sync('other'), 'success', 'another source is synced');

# wait until no worker is left, so that what is aged now is not yet due for it
sub workers_gone
{
	$node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'uds worker'})
	  or die 'the worker did not end';
	return;
}

sub pages_of
{
	my ($id) = @_;

	return query("SELECT count(*) FROM uds.raw_log WHERE task_id = $id");
}

workers_gone();
my $open = query(q{SELECT min(task_id) FROM uds.raw_log WHERE task_id > } . $first);
my $old = $first;
my $old_pages = pages_of($old);
my $open_pages = pages_of($open);
my $young = query('SELECT max(task_id) FROM uds.raw_log');
my $young_pages = pages_of($young);

cmp_ok($old_pages, '>', 0, 'there are old pages');
cmp_ok($open_pages, '>', 0, 'there are pages of the task that is to be open');

# two tasks of long ago, one of which waits to go on
query(qq{
	UPDATE uds.raw_log SET received_at = received_at - interval '2 hours' WHERE task_id IN ($old, $open);
	UPDATE uds.raw_log SET received_at = received_at - interval '30 minutes' WHERE task_id = $young;
	UPDATE uds.tasks SET status = 'init', due_at = now() + interval '1 day' WHERE id = $open});
is(run_sync('other'), 'success', 'a task runs');
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM uds.raw_log WHERE task_id = $old"),
	'pages older than uds.raw_log_retention go');
workers_gone();
is(pages_of($open), $open_pages, 'those of an open task stay');
is(pages_of($young), $young_pages, 'as do younger ones');
is(pages_of($task), field('requests'), 'and those of the task itself');
is(query("SELECT status FROM uds.tasks WHERE id = $old"), 'success', 'the task of the old ones stays');

query("UPDATE uds.tasks SET status = 'canceled' WHERE id = $open");
is(run_sync('other'), 'success', 'another task runs');
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM uds.raw_log WHERE task_id = $open"),
	'pages of a task that has ended go as well');

# for ever
workers_gone();
$node->append_conf('postgresql.conf', 'uds.raw_log_retention = -1');
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT current_setting('uds.raw_log_retention') = '-1'}),
	'the retention is changed');
query("UPDATE uds.raw_log SET received_at = received_at - interval '100 years' WHERE task_id = $young");
is(run_sync('other'), 'success', 'a further task runs');
workers_gone();
is(pages_of($young), $young_pages, 'with a retention of -1, pages stay for ever');

$node->stop;
done_testing();
