# Bad input: whatever is wrong with a source or with what it answers, the task
# ends failed, says why, and leaves all tables as they were; once the fault is
# gone, uds_retry() brings what was missed.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest;

my $secret = 'Kq7-mN4vTz91-app';
my $ids_secret = 'Kq7-mN4vTz91-ids';
my $wrong_secret = 'Kq7-mN4vTz91-wrong';

# what a failed task must say, up to what came back
my $no_token = qr/^could not get an access token for source "wecom": /;
my $no_departments = qr/^could not read stream "departments" of source "wecom": /;
my $no_users = qr/^could not read stream "users" of source "wecom": /;
my $no_ids = qr/^could not read stream "user_ids" of source "wecom": /;

# and how it ends: with the request
my $token_request = qr{ \(GET /wecom/cgi-bin/gettoken\)};
my $departments_request = qr{ \(GET /wecom/cgi-bin/department/list\)};
my $users_request = qr{ \(GET /wecom/cgi-bin/user/list, department \d+\)};
my $ids_request = qr{ \(POST /wecom/cgi-bin/user/list_id\)};

# everything a sync writes to, row versions included
my $dump_sql = join "\nUNION ALL\n", map {
	"SELECT '$_ ' || xmin::text || ' ' || t.*::text FROM uds.$_ AS t"
} qw(users departments department_members records record_resources disabled_rows);

my $mock = start_mock(departments => 12, users => 60);
my $node = new_node(
	'uds.max_page_size' => '1MB',
	'uds.max_pages' => 40,
	'uds.http_timeout' => "${PostgreSQL::Test::Utils::timeout_default}s",

	# the statements that create sources hold secrets
	'log_statement' => 'none');
my $base_url = $mock->base_url;
my $here = '127.0.0.1 port ' . $mock->port;
my $nobody = PostgreSQL::Test::Cluster::get_free_port();
my $changes = 0;

# "synced" had a good sync before each fault, "fresh" never had one
my @databases = qw(fresh synced);

$mock->control(
	{
		settings => {
			wecom => {
				credentials => {
					$secret => { mode => 'app' },
					$ids_secret => { mode => 'ids' }
				}
			}
		}
	});
foreach my $db (@databases)
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION uds');
	create_wecom_source($node, $mock, db => $db, options => { secret => $secret });
}
is(task_field($node, sync($node, 'wecom', 'synced'), 'status', 'synced'),
	'success', 'a sync without faults succeeds');

sub dump_tables
{
	my ($db) = @_;

	return $node->safe_psql($db, "$dump_sql ORDER BY 1");
}

# Changes the directory, so that a task that applied some of it would show.
# Returns the name of a new person.
sub change_directory
{
	my $uid = 'new.' . ++$changes;

	$mock->control(
		{
			edit => {
				people => { $uid => { name => "Newcomer $changes", departments => [1] } },
				departments => { 1 => { name => "Company $changes" } }
			}
		});
	return $uid;
}

sub set_options
{
	my ($db, %options) = @_;

	$node->safe_psql($db,
		"SELECT uds_alter_source('wecom', options => jsonb_build_object("
		  . join(', ', map { quote($_) . ', ' . quote($options{$_}) } sort keys %options) . '))');
	return;
}

# Syncs and returns the id of a task that is meant to fail.
sub failing_task
{
	my ($db) = @_;
	my $task = $node->safe_psql($db, q{SELECT uds_sync('wecom')});

	wait_task($node, $task, $db);
	return $task;
}

# check_failure($db, $task, $case, $before): the task of that case failed as
# it should, and nothing is other than before
sub check_failure
{
	my ($db, $task, $case, $before) = @_;
	my $name = "$case->{name}, database $db";
	my $message = task_field($node, $task, 'message', $db);
	my $token = $node->safe_psql($db, 'SELECT token FROM uds.source_tokens');

	is(task_field($node, $task, 'status', $db), 'failed', "$name: the task fails");
	like($message, $case->{doing}, "$name: it says what was being done");
	like($message, $case->{answer}, "$name: it says what came back");
	like($message, $case->{request}, "$name: it names the request");
	if ($case->{hint})
	{
		like($message, qr/ Hint: $case->{hint}/, "$name: it has a hint");
	}
	foreach my $known ($secret, $ids_secret, $wrong_secret, $token)
	{
		is(index($message, $known), -1, "$name: it keeps the secrets to itself") if $known ne '';
	}
	is(dump_tables($db), $before, "$name: the tables are as before");
	is(task_field($node, $task, 'created + updated + deleted + disabled + linked + unlinked', $db),
		0, "$name: it counts no change");
	cmp_ok($node->safe_psql($db,
			"SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND NOT usable AND $case->{log}"),
		'>=', 1, "$name: the raw log has what came back");
	return;
}

sub check_retry
{
	my ($failed, $case, $before, $newcomer) = @_;
	my $task = $node->safe_psql('synced', "SELECT uds_retry($failed)");

	isnt($task, $failed, "$case->{name}: the retry is another task");
	is(wait_task($node, $task, 'synced'), 'success', "$case->{name}: the retry succeeds");
	is(task_field($node, $task, 'retry_of', 'synced'),
		$failed, "$case->{name}: it knows what it is a retry of");
	isnt(dump_tables('synced'), $before, "$case->{name}: the retry changes the tables");
	is($node->safe_psql('synced',
			"SELECT count(*) FROM uds.users WHERE username = '$newcomer' AND enabled"),
		1, "$case->{name}: the retry brings what was missed");
	return;
}

# One fault in both databases.  A case has a name, what makes the fault
# (faults of the mock, options of the source), and what is to be seen of it:
# doing, answer, request, hint (of the message), log (a row of the raw log).
sub run_case
{
	my ($case) = @_;
	my $newcomer = change_directory();

	foreach my $db (@databases)
	{
		my $before = dump_tables($db);
		my $task;

		# so that each case asks for a token
		$node->safe_psql($db, 'DELETE FROM uds.source_tokens');
		set_options($db, %{ $case->{options} }) if $case->{options};
		$mock->control({ faults => $case->{faults} // [] });
		$task = failing_task($db);
		check_failure($db, $task, $case, $before);

		# the fault is gone
		$mock->control({ faults => [] });
		set_options($db,
			corpid => 'ww0123456789abcdef',
			secret => $secret,
			base_url => $base_url) if $case->{options};
		check_retry($task, $case, $before, $newcomer) if $db eq 'synced';
		is($before, '', "$case->{name}: it had an empty database before it") if $db eq 'fresh';
	}
	return;
}

#
# What is wrong with the options, or with the way to the service
#
run_case(
	{
		name => 'wrong secret',
		options => { secret => $wrong_secret },
		doing => $no_token,
		answer => qr/service answered error 40001 "invalid credential,/,
		request => $token_request,
		hint => 'Check option "secret"',
		log => q{stream = 'auth' AND status = 200 AND body LIKE '%40001%'}
	});
run_case(
	{
		name => 'wrong corpid',
		options => { corpid => 'ww-nobody' },
		doing => $no_token,
		answer => qr/service answered error 40013 "invalid corpid,/,
		request => $token_request,
		hint => 'Check option "corpid"',
		log => q{stream = 'auth' AND status = 200 AND body LIKE '%40013%'}
	});
run_case(
	{
		name => 'address of the server not trusted',
		faults => [ { kind => 'trusted_ip', path => '*/department/list' } ],
		doing => $no_departments,
		answer => qr/service answered error 60020 "not allow to access from your ip,.* from ip: 127\.0\.0\.1/,
		request => $departments_request,
		hint => 'Add the address named in the message to the trusted IP addresses',
		log => q{stream = 'departments' AND body LIKE '%60020%from ip: 127.0.0.1%'}
	});
run_case(
	{
		name => 'unknown host',
		options => { base_url => 'http://no-such-host.invalid/wecom' },
		doing => $no_token,
		answer => qr/could not resolve host "no-such-host\.invalid", tried 5 times/,
		request => $token_request,
		log => q{stream = 'auth' AND status = 0 AND request LIKE '%no-such-host.invalid%'}
	});
run_case(
	{
		name => 'refused connection',
		options => { base_url => "http://127.0.0.1:$nobody/wecom" },
		doing => $no_token,
		answer => qr/connection to 127\.0\.0\.1 port $nobody refused, tried 5 times/,
		request => $token_request,
		log => q{stream = 'auth' AND status = 0}
	});
run_case(
	{
		name => 'address not allowed',
		options => { base_url => 'http://127.0.0.2:' . $mock->port . '/wecom' },
		doing => $no_token,
		answer => qr/address 127\.0\.0\.2 of host "127\.0\.0\.2" is not allowed/,
		request => $token_request,
		hint => 'A superuser can add the host to uds\.allowed_hosts',
		log => q{stream = 'auth' AND status = 0}
	});

#
# What is wrong with an answer
#
run_case(
	{
		name => 'truncated body',
		faults => [ { kind => 'truncate', path => '*/department/list' } ],
		doing => $no_departments,
		answer => qr/broken response from $here \(.*\), tried 5 times/,
		request => $departments_request,
		log => q{stream = 'departments'}
	});
run_case(
	{
		name => 'truncated chunked body',
		faults => [ { kind => 'truncate_chunked', path => '*/user/list' } ],
		doing => $no_users,
		answer => qr/broken response from $here \(.*\), tried 5 times/,
		request => $users_request,
		log => q{stream = 'users'}
	});
run_case(
	{
		name => 'dropped connections',
		faults => [ { kind => 'drop' } ],
		doing => $no_token,
		answer => qr/connection to $here closed without a response, tried 5 times/,
		request => $token_request,
		log => q{stream = 'auth' AND status = 0}
	});
run_case(
	{
		name => 'invalid JSON',
		faults => [ { kind => 'invalid_json', path => '*/department/list' } ],
		doing => $no_departments,
		answer => qr/service answered with a body that is not valid JSON: .+, tried 5 times/,
		request => $departments_request,
		log => q{stream = 'departments' AND status = 200 AND body LIKE '%]]'}
	});
run_case(
	{
		name => 'HTML',
		faults => [ { kind => 'html', path => '*/user/list' } ],
		doing => $no_users,
		answer => qr/service answered with a body that is not valid JSON: .+, tried 5 times/,
		request => $users_request,
		log => q{stream = 'users' AND status = 200 AND body LIKE '%Please log in.%'}
	});
run_case(
	{
		name => 'HTML for a token',
		faults => [ { kind => 'html', path => '*/gettoken' } ],
		doing => $no_token,
		answer => qr/service answered with a body that is not valid JSON: .+, tried 5 times/,
		request => $token_request,
		log => q{stream = 'auth' AND status = 200}
	});
run_case(
	{
		name => 'empty body',
		faults => [ { kind => 'empty', path => '*/department/list' } ],
		doing => $no_departments,
		answer => qr/service answered with a body that is not valid JSON: .+, tried 5 times/,
		request => $departments_request,
		log => q{stream = 'departments' AND status = 200 AND bytes = 0}
	});
run_case(
	{
		name => 'bytes that are no UTF-8',
		faults => [ { kind => 'bad_utf8', path => '*/department/list' } ],
		doing => $no_departments,
		answer => qr/service answered with a body that is not valid JSON: it is not valid UTF-8, tried 5 times/,
		request => $departments_request,
		log => q{stream = 'departments' AND status = 200 AND body LIKE '%"bad??(%'}
	});
foreach my $shape (qw(object string null missing))
{
	run_case(
		{
			name => "departments of the shape $shape",
			faults => [ { kind => 'wrong_shape', shape => $shape, path => '*/department/list' } ],
			doing => $no_departments,
			answer => qr/service answered without a list in "\$\.department", tried 5 times/,
			request => $departments_request,
			log => q{stream = 'departments' AND status = 200 AND body LIKE '%errcode%'}
		});
}
run_case(
	{
		name => 'users of a wrong shape',
		faults => [ { kind => 'wrong_shape', path => '*/user/list' } ],
		doing => $no_users,
		answer => qr/service answered without a list in "\$\.userlist", tried 5 times/,
		request => $users_request,
		log => q{stream = 'users' AND status = 200 AND body LIKE '%userlist%'}
	});
run_case(
	{
		name => 'a list where an object should be',
		faults => [ { kind => 'wrong_shape', shape => 'array', path => '*/department/list' } ],
		doing => $no_departments,
		answer => qr/service answered without "\$\.errcode", tried 5 times/,
		request => $departments_request,
		log => q{stream = 'departments' AND status = 200 AND body LIKE '[%'}
	});
run_case(
	{
		name => 'page over the limit',
		faults => [ { kind => 'huge', mb => 2, path => '*/department/list' } ],
		doing => $no_departments,
		answer => qr/response from $here larger than 1048576 bytes/,
		request => $departments_request,
		hint => 'uds\.max_page_size is the limit',
		log => q{stream = 'departments'}
	});
run_case(
	{
		name => 'page that names a length over the limit',
		faults => [ { kind => 'huge', mb => 2, declare => JSON::PP::true, path => '*/user/list' } ],
		doing => $no_users,
		answer => qr/response from $here larger than 1048576 bytes/,
		request => $users_request,
		hint => 'uds\.max_page_size is the limit',
		log => q{stream = 'users'}
	});
run_case(
	{
		name => 'gzip bomb',
		faults => [ { kind => 'gzip_bomb', mb => 512, path => '*/department/list' } ],
		doing => $no_departments,
		answer => qr/response from $here larger than 1048576 bytes/,
		request => $departments_request,
		hint => 'uds\.max_page_size is the limit',
		log => q{stream = 'departments'}
	});
run_case(
	{
		name => 'stream that breaks in the middle',
		faults => [ { kind => 'status', status => 502, path => '*/user/list', after => 5 } ],
		doing => $no_users,
		answer => qr/service answered HTTP status 502, tried 5 times/,
		request => $users_request,
		log => q{stream = 'users' AND status = 502 AND body LIKE '%502%'
			AND (SELECT count(*) FROM uds.raw_log g
				  WHERE g.task_id = raw_log.task_id AND g.stream = 'users' AND g.usable) = 5}
	});
run_case(
	{
		name => 'permission lost in the middle',
		faults => [ { kind => 'errcode', code => 48002, path => '*/user/list', after => 5 } ],
		doing => $no_users,
		answer => qr/service answered error 48002 "api unauthorized,/,
		request => $users_request,
		hint => 'This kind of secret may not call this API',
		log => q{stream = 'users' AND body LIKE '%48002%'}
	});
run_case(
	{
		name => 'error code that nobody knows',
		faults => [ { kind => 'errcode', code => 99999, errmsg => 'moon phase', path => '*/department/list' } ],
		doing => $no_departments,
		answer => qr/service answered error 99999 "moon phase,/,
		request => $departments_request,
		log => q{stream = 'departments' AND body LIKE '%moon phase%'}
	});
run_case(
	{
		name => 'redirect',
		faults => [ {
			kind => 'redirect', path => '*/department/list',
			location => "$base_url/cgi-bin/elsewhere" } ],
		doing => $no_departments,
		answer => qr/service answered HTTP status 302, a redirect to host "127\.0\.0\.1:\d+"/,
		request => $departments_request,
		log => q{stream = 'departments' AND status = 302}
	});
is($mock->get_control->{by_path}{'/wecom/cgi-bin/elsewhere'},
	undef, 'a redirect is not followed');

#
# Cursors that lead nowhere
#
run_case(
	{
		name => 'repeating cursor',
		options => { secret => $ids_secret },
		faults => [ { kind => 'cursor_repeat', path => '*/user/list_id' } ],
		doing => $no_ids,
		answer => qr/cursor repeats/,
		request => $ids_request,
		log => q{stream = 'user_ids' AND body LIKE '%next_cursor%'}
	});
run_case(
	{
		name => 'endless cursor',
		options => { secret => $ids_secret },
		faults => [ { kind => 'endless_cursor', path => '*/user/list_id' } ],
		doing => $no_ids,
		answer => qr/more pages than uds\.max_pages allows/,
		request => $ids_request,
		log => q{stream = 'user_ids' AND body LIKE '%next_cursor%'
			AND (SELECT count(*) FROM uds.raw_log g
				  WHERE g.task_id = raw_log.task_id AND g.usable) = 40}
	});

#
# TLS: a certificate that nobody vouches for, until it is named
#
my $cert = PostgreSQL::Test::Utils::tempdir() . '/cert.pem';
my $key = PostgreSQL::Test::Utils::tempdir() . '/key.pem';

system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', $key,
	'-out', $cert, '-days', '2', '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1');

my $tls_mock = start_mock(tiny => 1, tls_cert => $cert, tls_key => $key);
my $tls_here = '127.0.0.1 port ' . $tls_mock->port;

run_case(
	{
		name => 'self-signed certificate',
		options => { base_url => 'https://127.0.0.1:' . $tls_mock->port . '/wecom' },
		doing => $no_token,
		answer => qr/no trusted TLS connection to $tls_here \(.*self.signed certificate.*\)/,
		request => $token_request,
		log => q{stream = 'auth' AND status = 0}
	});
$node->safe_psql('postgres', 'CREATE EXTENSION uds');
create_wecom_source($node, $tls_mock,
	options => {
		base_url => 'https://127.0.0.1:' . $tls_mock->port . '/wecom',
		ca_file => $cert
	});
is(task_field($node, sync($node), 'status'), 'success', 'a certificate that ca_file vouches for is trusted');
is($node->safe_psql('postgres', 'SELECT count(*) FROM uds.users'), 12, 'it brings the users');
$node->safe_psql('postgres',
	q{SELECT uds_alter_source('wecom', options => jsonb_build_object('ca_file', '/no/such/file.pem'))});
my $task = failing_task('postgres');
is(task_field($node, $task, 'status'), 'failed', 'without its file, the next sync fails');
like(task_field($node, $task, 'message'), $no_token, 'and says what it was doing');

#
# What waits for the task hears of it
#
$mock->control({ faults => [ { kind => 'trusted_ip' } ] });
$node->safe_psql('synced', 'DELETE FROM uds.source_tokens');
my ($status, $stdout, $stderr) = $node->psql('synced', q{SELECT uds_sync('wecom', wait => true)});
isnt($status, 0, 'uds_sync() that waits raises an error');
like($stderr, qr/ERROR:  task \d+ \(sync of source "wecom"\) failed: could not get an access token for source "wecom": service answered error 60020/,
	'which is the one of the task');

# after all that failed, the first success in a fresh database
$mock->control({ faults => [] });
$task = $node->safe_psql('fresh',
	q{SELECT uds_retry(max(id)) FROM uds.tasks WHERE status = 'failed'});
is(wait_task($node, $task, 'fresh'), 'success', 'a source that only ever failed can be retried');
is($node->safe_psql('fresh', 'SELECT count(*) FROM uds.departments'),
	12, 'and brings the departments');

foreach my $known ($secret, $ids_secret, $wrong_secret)
{
	is(index(slurp_file($node->logfile), $known), -1, 'the server log has no secret');
}

$node->stop;
done_testing();
