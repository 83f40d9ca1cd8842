# Secrets: given by value, by the environment or by a file, they are sent to
# the service and go nowhere else, whatever the service makes of them.
use strict;
use warnings;

use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest qw(:DEFAULT query);
use UdsSession;

# Each has a core that no way of escaping changes, but for two that are looked
# for on their own; around it is what they do change.
my %cores = (value => 'Zq7ByValueCanary', env => 'Zq7FromEnvCanary', file => 'Zq7FromFileCanary');
my %secrets = map { $_ => qq{p/"$cores{$_}"\\s+w&o%41=r <d>} } keys %cores;
my $secret_file = PostgreSQL::Test::Utils::tempdir() . '/secret';

append_to_file($secret_file, "$secrets{file}\n");

my $mock = start_mock(tiny => 1);
my $node;
{
	local $ENV{UDS_CANARY} = $secrets{env};
	local $ENV{UDS_NO_TEXT} = "\xff\xfe$cores{env}";

	$node = new_node(
		'shared_preload_libraries' => 'uds,pg_stat_statements',
		'pg_stat_statements.track' => 'all',
		'log_error_verbosity' => 'verbose',
		'log_statement' => 'none');
}
# not before: PostgreSQL logs its environment when it starts
configure($node, 'log_min_messages', 'debug5');

my %sources = (
	value => $secrets{value},
	env => { '$env' => 'UDS_CANARY' },
	file => { '$file' => $secret_file });
my @told;						# what a client was told by the server
my @tokens;

# needles($text): the text as any of the spellings would have it
sub needles
{
	my ($text) = @_;
	my @needles = ($text, join('', map { sprintf 'u%04x', ord } split //, $text), unpack('H*', $text));

	foreach my $before (0 .. 2)
	{
		my $coded = encode_base64('x' x $before . $text, '');

		# at both ends base64 depends on what is there
		push @needles, substr($coded, (0, 2, 3)[$before], int((length($text) + $before) * 8 / 6) - (0, 2, 3)[$before]);
	}
	return @needles;
}

# found_in($haystack): which of the secrets and tokens are in it
sub found_in
{
	my ($haystack) = @_;
	my %known = %cores;

	@known{ map { "token $_" } 0 .. $#tokens } = @tokens;
	return join ', ', grep {
		my $name = $_;

		grep { index(lc $haystack, lc $_) >= 0 } needles($known{$name})
	} sort keys %known;
}

# the text of all tables and views of uds, but for those that hold secrets
sub all_tables
{
	my $list = query(q{
		SELECT c.relname FROM pg_class c
		 WHERE c.relnamespace = 'uds'::regnamespace AND c.relkind IN ('r', 'v', 'm')
		   AND c.relname NOT IN ('source_secrets', 'source_tokens')});

	return join "\n", map { query("SELECT t::text FROM uds.$_ AS t") } split /\n/, $list;
}

# run($sql): whatever becomes of it; what the client is told is kept
sub run
{
	my ($sql, $db) = @_;
	my ($status, $out, $err) = $node->psql($db // 'postgres', $sql);

	push @told, $out, $err;
	return "$out$err";
}

sub keep_tokens
{
	my %seen = map { $_ => 1 } @tokens;

	push @tokens, grep { !$seen{$_}++ } split /\n/, query('SELECT token FROM uds.source_tokens');
	return;
}

query('CREATE EXTENSION pg_stat_statements; CREATE EXTENSION uds');
my $listener = $node->background_psql('postgres');

$listener->query_safe('LISTEN uds_changes');
$mock->control(
	{ settings => { wecom => { credentials => { map { $secrets{$_} => { mode => 'app' } } keys %secrets } } } });
foreach my $name (sort keys %sources)
{
	create_wecom_source($node, $mock, name => $name, match_keys => '{username}', options => { secret => $sources{$name} });
	is(task_field($node, sync($node, $name), 'status'), 'success', "a secret given by $name is sent to the service");
	keep_tokens();
}
is(scalar @tokens, 3, 'each has got a token');
is(found_in(query('SELECT t::text FROM uds.source_secrets AS t')), 'value', 'the one given by value is kept');
is(found_in(query('SELECT t::text FROM uds.source_tokens AS t')), 'token 0, token 1, token 2', 'so are the tokens');

#
# A service that repeats what it was sent, however it writes it
#
foreach my $name (sort keys %sources)
{
	foreach my $where (qw(error html page))
	{
		foreach my $path (qw(gettoken department/list user/list))
		{
			query('DELETE FROM uds.source_tokens');
			$mock->control(
				{
					faults => [ {
						kind => 'echo', path => "*/$path", where => $where,
						$where eq 'page' ? (field => $path eq 'user/list' ? 'position' : 'name') : () } ]
				});
			run("SELECT uds_sync('$name', wait => true)");
			run("SELECT * FROM uds_test_source('$name')");
			keep_tokens();
			cmp_ok($mock->get_control->{faults}[0]{hits}, '>=', 2, "$name: $path answers with an echo ($where)");
		}
	}
}
$mock->control({ faults => [] });
cmp_ok(scalar @tokens, '>=', 3, 'tokens came and went');
cmp_ok(query(q{SELECT count(*) FROM uds.raw_log WHERE body LIKE '%********%'}), '>=', 15, 'much was taken out of the raw log');
cmp_ok(query(q{SELECT count(*) FROM uds.tasks WHERE message LIKE '%********%'}), '>=', 6, 'and out of messages');
cmp_ok(query(q{SELECT count(*) FROM uds.users WHERE title LIKE '%********%'}), '>=', 1, 'and out of what became a row');
is(query('SELECT count(*) FROM uds.raw_log WHERE usable AND body::jsonb IS NULL'), 0, 'pages can still be read');

#
# Calls that fail, sessions that idle
#
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $literal = quote(JSON::PP->new->encode({ corpid => 'c', secret => $secrets{value} })) . '::jsonb';

$session->query("SELECT uds_create_source('idle', 'wecom', $literal)");
is(query(q{SELECT query FROM pg_stat_activity WHERE query LIKE '%uds_create_source%' AND pid <> pg_backend_pid()}),
	'SELECT uds_create_source(...) -- not shown, it may hold secrets',
	'a session that created a source and idles does not show how');
foreach my $sql (
	"SELECT uds_create_source('idle', 'wecom', $literal)",
	"SELECT uds_create_source('bad name', 'wecom', $literal)",
	"SELECT uds_create_source('other', 'nothing', $literal)",
	"SELECT uds_create_source('other', 'wecom', $literal, on_missing => 'explode')",
	"SELECT uds_create_source('other', 'wecom', $literal || '{\"unknown\": 1}'::jsonb)",
	"SELECT uds_create_source('other', 'wecom', '{\"corpid\": \"c\", \"secret\": [\"$cores{value}\"]}')",
	"SELECT uds_alter_source('idle', options => $literal || '{\"base_url\": \"http://u:$cores{value}\@host/\"}'::jsonb)",
	"SELECT uds_alter_source('nobody', options => $literal)",
	"DO \$\$ BEGIN PERFORM uds_alter_source('nobody', options => $literal); END \$\$")
{
	$session->query($sql);
	push @told, $session->{stderr};
	like($session->{stderr}, qr/ERROR/, 'a call fails');
	$session->{stderr} = '';
}
$session->quit;

query(q{SELECT uds_create_source('no_text', 'wecom', '{"corpid": "c", "secret": {"$env": "UDS_NO_TEXT"}}')});
like(run(q{SELECT uds_sync('no_text', wait => true)}), qr/environment variable "UDS_NO_TEXT" is not text/,
	'a variable that is no text is an error');
query(qq{SELECT uds_create_source('no_file', 'wecom', '{"corpid": "c", "secret": {"\$file": "/dev/zero"}}')});
like(run(q{SELECT uds_sync('no_file', wait => true)}), qr/"\/dev\/zero" is not a regular file/,
	'so is a file that is none');
query(qq{SELECT uds_create_source('long', 'wecom', '{"corpid": "c", "secret": {"\$env": "UDS_NOT_SET"}}')});
like(run(q{SELECT uds_sync('long', wait => true)}), qr/environment variable "UDS_NOT_SET" is not set/,
	'and a variable that is not set');

#
# While requests with secrets in them are under way
#
query('DELETE FROM uds.source_tokens');
$mock->control({ faults => [ map { { kind => 'hang', path => "*/$_", times => 1 } } qw(gettoken user/list) ] });
my $task = query(q{SELECT uds_sync('value')});
foreach my $held (qw(gettoken user/list))
{
	$mock->get_control(wait => 'held', path => "*/$held", timeout => $PostgreSQL::Test::Utils::timeout_default - 1);
	keep_tokens();
	push @told, query('SELECT a::text FROM pg_stat_activity AS a'), query('SELECT p::text FROM uds.progress AS p'),
	  query('SELECT h::text FROM uds_health() AS h'), all_tables();
	is($mock->get_control->{held}, 1, "a request for $held hangs meanwhile");
	$mock->control({ release => JSON::PP::true });
}
is(wait_task($node, $task), 'success', 'and then goes on');

#
# None of it is where it should not be
#
query(qq{
	INSERT INTO uds.source_types (name, title, manifest)
	SELECT 'two', 'two', jsonb_set(manifest, '{options,more}', '{"secret": true}') FROM uds.source_types WHERE name = 'wecom';
	SELECT uds_create_source('two', 'two', '{"corpid": "c", "secret": {"\$env": "UDS_CANARY"}, "more": "$cores{value}"}')});
query(q{SELECT uds_alter_source('api', title => 'Our HR system', priority => 7, on_deleted => 'keep')});
command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', "$secret_file.dump" ], 'the database can be dumped');
cmp_ok(query(q{SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%uds_create_source%'}), '>=', 1,
	'pg_stat_statements has seen it all');
my %places = (
	'tables and views' => all_tables(),
	'what clients were told' => join("\n", @told),
	'pg_stat_statements' => query('SELECT s::text FROM pg_stat_statements AS s'),
	'pg_stat_activity' => query('SELECT a::text FROM pg_stat_activity AS a'),
	'notifications' => scalar $listener->query('SELECT 1'),
	'the server log' => slurp_file($node->logfile),
	'the dump' => slurp_file("$secret_file.dump"));

$listener->quit;
foreach my $place (sort keys %places)
{
	cmp_ok(length $places{$place}, '>', 500, "there is something in $place");
	is(found_in($places{$place}), '', "but no secret in $place");
}
like($places{'the dump'}, qr/UDS_CANARY/, 'the dump has the names of variables');

#
# Restored elsewhere: sources and policies are there, secrets are asked for
#
my $policies = 'SELECT id, name, type, title, policies, owner FROM uds.sources ORDER BY id';

query('CREATE DATABASE restored');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', "$secret_file.dump" ],
	'the dump can be restored');
is(query($policies, 'restored'), query($policies), 'the sources are there, with their policies, api included');
like(run(q{SELECT uds_sync('env', wait => true)}, 'restored'), qr/source "env" is not armed in this database/,
	'none is read until it is armed');
is(query('SELECT uds_arm()', 'restored'), query('SELECT count(*) FROM uds.sources'), 'which uds_arm() does for all');
like(run(q{SELECT uds_sync('value', wait => true)}, 'restored'),
	qr/failed: invalid options of source "value": secret option "secret" has no value in this database\. Hint: Secrets are not part of a dump\. Give it again with uds_alter_source\(\)\./,
	'the one with a secret by value asks for it');
like(run(q{SELECT uds_sync('two', wait => true)}, 'restored'),
	qr/invalid options of source "two": secret option "more" has no value in this database/,
	'so does one with a secret that is not required');
like(run(q{SELECT uds_alter_source('two', options => '{"corpid": "c2"}'); SELECT uds_sync('two', wait => true)}, 'restored'),
	qr/invalid options of source "two": secret option "more" has no value in this database/,
	'and does not forget it while other options change');
unlike(run(q{SELECT uds_alter_source('two', options => '{"more": null}'); SELECT uds_sync('two', wait => true)}, 'restored'),
	qr/option/, 'until it is told to');
like(run(q{SELECT * FROM uds_test_source('value')}, 'restored'), qr/secret option "secret" has no value in this database/,
	'so does uds_test_source()');
is(run(q{SELECT uds_alter_source('value', enabled => false); SELECT uds_alter_source('value', enabled => true)}, 'restored'),
	"\n", 'it can be disabled meanwhile');
foreach my $name (qw(env file))
{
	is(task_field($node, sync($node, $name, 'restored'), 'status', 'restored'), 'success',
		"the one with a secret by $name can be synced as it is");
}
query("SELECT uds_alter_source('value', options => jsonb_build_object('secret', " . quote($secrets{value}) . '))', 'restored');
$task = sync($node, 'value', 'restored');
is(task_field($node, $task, q{status || ' ' || created}, 'restored'), 'success 0', 'with its secret, it finds its rows again');
is(found_in(slurp_file($node->logfile)), '', 'and the server log has no secret still');

$node->stop;
done_testing();
