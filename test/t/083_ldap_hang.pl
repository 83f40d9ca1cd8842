# Directories that hang, in whatever they do, and directories that break off or
# talk nonsense: who waits for them can be ended, and nothing is changed by them.
use strict;
use warnings;

use IO::Socket::INET;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use UdsReplay;
use UdsService;
use UdsSession;
use UdsTest qw(:DEFAULT query);

my $directory = UdsReplay->start;
my $node = new_node('uds.http_retries' => '2', 'uds.http_timeout' => '1s', 'uds.http_connect_timeout' => '1s');
my $context = $UdsReplay::context;
my $people = 30;

# a cancel is to take effect within a second; twice that on a busy machine
my $soon = 2;

sub fill
{
	my %put = ("OU=Sales,$context" => { objectClass => 'organizationalUnit', ou => 'Sales' });

	$directory->control(reset => 1);
	$directory->control(put => \%put);
	%put = map { ("CN=Person $_,OU=Sales,$context" => { objectClass => [ 'top', 'person', 'user' ], objectCategory => "CN=Person,CN=Schema,CN=Configuration,$context",
				cn => "Person $_", displayName => "Person $_", sAMAccountName => "p$_", userAccountControl => 512 }) } 1 .. $people;
	$directory->control(put => \%put);
	return;
}

# set_options(%options): of the source; undef takes one away
sub set_options
{
	my (%options) = @_;
	my $pairs = join ', ', map { quote($_) . ', ' . quote($options{$_}) . '::text' } sort keys %options;

	query("SELECT uds_alter_source('ldap', options => jsonb_build_object($pairs))");
	return;
}

query('CREATE EXTENSION uds');
service($node, undef, 'ldap', $directory->options(page_size => '10'));
fill();
create_source('ldap');
is(sync_as('auto'), 'success', 'a directory') or diag(field('message'));
is(query('SELECT count(*) FROM uds.users'), $people, 'with people');

#
# What breaks off, or is broken
#
my $before = row_versions();

# fails_with($expected, $name, @faults): so that nothing is changed
sub fails_with
{
	my ($expected, $name, @faults) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$directory->faults(@faults);
	is(sync_as('full'), 'failed', "$name: the task fails");
	like(field('message'), $expected, 'and says why');
	is(row_versions(), $before, 'nothing is changed');
	$directory->faults();
	return;
}

my %people = (op => 'search', base => $context, skip => 2);
my $lost = qr/connection to ldap:\S+ lost/;

# the listings are departments in one page and people in three
foreach my $kind ('reset', 'cut')
{
	fails_with($lost, "$kind at the first request", { op => 'search', kind => $kind });
	fails_with($lost, "$kind when we bind", { op => 'bind', kind => $kind });
	fails_with($lost, "$kind in the middle of people", { %people, kind => $kind });
	fails_with($lost, "$kind in the middle of a page", { %people, kind => $kind, after => 3 });
}
foreach my $case (
	[ 'another protocol', '5353482d322e302d4f70656e5353480d0a' ],
	[ 'nothing but zeros', '00' x 64 ],
	[ 'a message without end', '3080020101' ],
	[ 'a message of two gigabytes', '30847ffffff0020101' . '64847fffffe0' ],
	[ 'a length of nine bytes', '3089010000000000000000' . '020101' ],
	[ 'an entry whose parts are longer than itself', '3014020104640f04ff646e3d783006300404026e6d3100' ],
	[ 'notice of disconnection', '302402010078' . '1f0a013404000400' . '8a16312e332e362e312e342e312e313436362e3230303336' ])
{
	my ($name, $hex) = @$case;

	fails_with(qr/could not/, "$name, when we bind", { op => 'bind', kind => 'raw', hex => $hex }, { op => 'any', kind => 'reset' });
	fails_with(qr/could not/, "$name, among people", { %people, kind => 'raw', hex => $hex, after => 3 }, { op => 'any', kind => 'reset', skip => 8 });
}
foreach my $case (
	[ 1, 'operationsError', 0 ], [ 3, 'timeLimitExceeded', 1 ], [ 4, 'sizeLimitExceeded', 0 ], [ 8, 'strongerAuthRequired', 0 ], [ 11, 'adminLimitExceeded', 0 ],
	[ 12, 'unavailableCriticalExtension', 0 ], [ 32, 'noSuchObject', 0 ], [ 50, 'insufficientAccessRights', 0 ], [ 51, 'busy', 1 ], [ 52, 'unavailable', 1 ],
	[ 53, 'unwillingToPerform', 0 ], [ 80, 'other', 1 ], [ 4096, '', 0 ])
{
	my ($code, $name, $passing) = @$case;
	my %fault = (%people, kind => 'result', code => $code, text => "because of a\nreason");

	fails_with(qr/server answered $code $name.*"because of a reason"/, "result $code after entries", { %fault, after => 3 });
	$directory->faults({ %fault, times => 2 });
	is(sync_as('full'), $passing ? 'success' : 'failed', $passing ? 'which passes' : 'which does not pass');
	is(row_versions(), $before, 'and changes nothing');
	$directory->faults();
}
fails_with(qr/10 referral.*ldap:\/\/other\.test.*Hint: This server does not hold the base/s, 'a referral of the base',
	{ %people, kind => 'result', code => 10, referrals => [ 'ldap://other.test/DC=x' ] });
$directory->control(settings => { paging => JSON::PP::false });
fails_with(qr/12 unavailableCriticalExtension/, 'a server without pages');
fill();

# in the clear, before TLS begins, somebody may have put in what he likes
$directory->control(settings => { start_tls => 'more' });
set_options(start_tls => 'true');
fails_with(qr/sent more than its answer before TLS began/, 'an answer in the clear after StartTLS');
$directory->control(settings => { start_tls => 'unavailable' });
fails_with(qr/StartTLS: server answered 52 unavailable/, 'a domain controller without a certificate');
set_options(start_tls => 'false');

#
# What hangs.  Each way: how to get there, and when it is there.
#
my $silent = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', Timeout => $PostgreSQL::Test::Utils::timeout_default)
  or die "could not listen: $!";
my $full = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die "could not listen: $!";
my @queue;

# The kernel accepts as many connections as may wait; who comes after that hears
# nothing.
sub connecting
{
	my $port = sprintf '%04X', $full->sockport;

	return slurp_file('/proc/net/tcp') =~ /0100007F:$port 02 /;
}

while (!connecting())
{
	push @queue, IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $full->sockport, Blocking => 0, Proto => 'tcp');
	die 'a queue that is never full' if @queue > 50;
}
close pop @queue;

sub until_held
{
	$directory->wait_for('held', 1);
	return;
}

sub until_connecting
{
	for (my $try = 0; $try < 100 * $PostgreSQL::Test::Utils::timeout_default; $try++)
	{
		return if connecting();
		usleep(10_000);
	}
	die 'nobody connects';
}

sub until_hello
{
	my $peer = $silent->accept or die 'nobody connects';

	sysread $peer, my $hello, 1 or die 'nobody says hello';
	push @queue, $peer;
	return;
}

my %search = (op => 'search', kind => 'hang');
my @ways = (
	[ 'connects', { urls => 'ldap://127.0.0.1:' . $full->sockport }, {}, \&until_connecting ],
	[ 'waits for the hello of TLS', { urls => 'ldaps://127.0.0.1:' . $silent->sockport }, {}, \&until_hello ],
	[ 'begins TLS after StartTLS', { start_tls => 'true' }, { settings => { start_tls => 'silent' } }, \&until_held ],
	[ 'waits for StartTLS', { start_tls => 'true' }, { faults => [ { op => 'extended', kind => 'hang' } ] }, \&until_held ],
	[ 'binds', {}, { faults => [ { op => 'bind', kind => 'hang' } ] }, \&until_held ],
	[ 'asks what the server is', {}, { faults => [ { %search, base => '' } ] }, \&until_held ],
	[ 'searches', {}, { faults => [ { %people, kind => 'hang' } ] }, \&until_held ],
	[ 'is in the middle of a page', {}, { faults => [ { %people, kind => 'hang', after => 3 } ] }, \&until_held ],
	[ 'gets a byte now and then', {}, { faults => [ { %people, kind => 'drip' } ] }, \&until_held ]);

configure($node, 'uds.http_timeout', '10min');
configure($node, 'uds.http_connect_timeout', '10min');

# hanging_task($way, $db): queues a task and returns when it hangs
sub hanging_task
{
	my ($way, $db) = @_;
	my (undef, undef, $control, $until) = @$way;

	fill();
	$directory->control(%$control);
	my $id = $node->safe_psql($db, q{SELECT uds_sync('ldap', 'full')});
	$until->();
	return $id;
}

foreach my $way (@ways)
{
	my ($what, $options) = @$way;
	my %all = $directory->options(page_size => '10', %$options);

	# cancel
	set_options(%all);
	my $id = hanging_task($way, 'postgres');
	is(query("SELECT uds_cancel($id)"), 't', "a task that $what is canceled");
	is(query("SELECT uds_wait($id, '$soon s')"), 'canceled', 'within a second or two');
	is(row_versions(), $before, 'and has changed nothing');

	# the statement that tries it out
	fill();
	$directory->control(%{ $way->[2] });
	my $session = start_sql($node, 'postgres', q{SELECT count(*) FROM uds_test_source('ldap')});
	$way->[3]->();
	$session->interrupt;
	ok(!$session->finish, "a trial that $what ends with the statement");
	poll($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'uds%' AND backend_type <> 'uds launcher'}, 'and no process is left');

	# DROP DATABASE
	query('CREATE DATABASE doomed');
	$node->safe_psql('doomed', 'CREATE EXTENSION uds');
	$node->safe_psql('doomed', q{SELECT uds_create_source('ldap', 'ldap', } . quote(JSON::PP->new->canonical->encode(\%all)) . ')');
	hanging_task($way, 'doomed');
	my (undef, undef, $err) = $node->psql('postgres', "SET statement_timeout = '3s'; DROP DATABASE doomed");
	is($err, '', "a database is dropped in time while a task $what");

	# shutdown
	$id = hanging_task($way, 'postgres');
	my $pid = query("SELECT pid FROM uds.progress WHERE task_id = $id");
	$node->command_ok([ 'pg_ctl', '-D', $node->data_dir, '-m', 'fast', '-W', 'stop' ], "fast shutdown while a task $what");
	my $began = time;
	usleep(10_000) while kill(0, $pid) && time - $began < $soon;
	ok(!kill(0, $pid), 'its worker ends within a second or two');
	# unless it is through already
	$node->stop('fast', fail_ok => 1);
	fill();
	$node->start;
	query("SELECT uds_cancel($id)");
	like(wait_task($node, $id), qr/^(canceled|success)$/, 'after the next start it goes on, or can be canceled');
}

#
# Waiting has an end
#
configure($node, 'uds.http_timeout', '1s');
configure($node, 'uds.http_connect_timeout', '1s');
foreach my $way (grep { $_->[0] !~ /waits for StartTLS|what the server is/ } @ways)
{
	my ($what, $options, $control) = @$way;

	fill();
	set_options($directory->options(page_size => '10', %$options));
	$directory->control(%$control);
	is(sync_as('full'), 'failed', "a task that $what for too long fails");
	like(field('message'), qr/within 1\d\d\d ms|timed? ?out/i, 'and says so');
}
set_options($directory->options(page_size => '10'));
fill();
is(sync_as('full'), 'success', 'after all that it is read again') or diag(field('message'));
is(row_versions(), $before, 'and nothing has changed');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC/, 'no process died');
is(query('SELECT count(*) FROM uds.raw_log WHERE position(' . quote($UdsReplay::password) . ' IN request || body) > 0'), 0, 'no password in the raw log');

$directory->stop;
$node->stop;
done_testing();
