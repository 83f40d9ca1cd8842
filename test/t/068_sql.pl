# Sources of type sql: queries with the rights of the source's owner, in a
# transaction that cannot write, over tables of this and of another database.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsDocument;
use UdsTest qw(:DEFAULT query);

my $node = new_node();
my $task;

# sync_of($source): syncs and notes the task, which may end in any way
sub sync_of
{
	my ($source) = @_;

	$task = query('SELECT uds_sync(' . quote($source) . ')');
	return wait_task($node, $task);
}

sub field
{
	my ($expression) = @_;

	return task_field($node, $task, $expression);
}

sub alter
{
	my ($source, $option, $sql) = @_;

	return query('SELECT uds_alter_source(' . quote($source) . ', options => jsonb_build_object(' . quote($option) . ', ' . quote($sql) . '::text))');
}

query('CREATE EXTENSION uds');

#
# What the document shows, from its first line to its last
#
my $document = UdsDocument->new('doc/connectors/sql.md');
my $shown = '';

$shown = query($_) foreach $document->statements_until('## From another server');
is($shown, "Ann|Sales|t\nBob|Sales|f", 'the example of the document works');
is(query(q{SELECT string_agg(step || CASE WHEN ok THEN '' ELSE ' failed' END, ', ') FROM uds_test_source('personnel')}),
	'departments_query, first row, record, users_query, first row, record', 'uds_test_source runs both queries and looks at a row of each');

#
# Everything is read each time
#
is(sync_of('personnel'), 'success', 'again');
is(field(q{concat_ws(' ', complete, fetched, unchanged, created, updated)}), 't 4 4 0 0', 'nothing has changed');
query(q{UPDATE staff SET name = 'Robert' WHERE login = 'bob'});
query(q{DELETE FROM staff WHERE login = 'ann'});
is(sync_of('personnel'), 'success', 'after changes');
is(field(q{concat_ws(' ', updated, disabled + deleted)}), '1 1', 'a change comes, and who is not there any more has left');
is(query(q{SELECT nickname FROM uds.users WHERE enabled}), 'Robert', 'the table says so');
like(query("SELECT string_agg(request, ', ' ORDER BY seq) FROM uds.raw_log WHERE task_id = $task"),
	qr/departments_query.*1 to 2.*users_query.*1 to 1/, 'the raw log has the rows');

# many rows make several pages
query(q{INSERT INTO staff SELECT 'p' || i, 'Person ' || i, NULL, 2, false, true FROM generate_series(1, 2500) AS i});
is(sync_of('personnel'), 'success', 'many rows');
is(query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND stream = 'users'"), 3, 'come in pages of a thousand');
is(field('created'), 2500, 'nobody is lost between two');

# many leavers are stopped by the guard, and nobody at all is a fault
query(q{DELETE FROM staff WHERE login <> 'bob'});
is(sync_of('personnel'), 'blocked', 'a table that somebody nearly emptied is stopped by the guard');
query("SELECT uds_reject($task)");
query('DELETE FROM staff');
is(sync_of('personnel'), 'failed', 'an empty table is a fault');
like(field('message'), qr/not a single user/, 'as the message says');
is(query('SELECT count(*) FROM uds.users WHERE enabled'), 2501, 'and nobody goes');

# whole records in one column
alter('personnel', 'users_query', q{SELECT jsonb_build_object('uid', 'j' || i, 'nickname', 'Json', 'extra', 12345678901234567890) FROM generate_series(1, 3) AS i});
is(query(q{SELECT uds_sync('personnel', wait => true, force => true) > 0}), 't', 'one column of jsonb gives whole records');
is(query(q{SELECT count(*) FROM uds.users WHERE nickname = 'Json'}), 3, 'which become users');

#
# Rights: those of the owner, and no more
#
query('CREATE ROLE clerk LOGIN; CREATE SCHEMA office; CREATE TABLE office.people (login text); INSERT INTO office.people VALUES ($$zoe$$);'
	. ' CREATE TABLE public.written (x integer); GRANT INSERT ON public.written TO PUBLIC');
query('GRANT USAGE ON SCHEMA uds, public TO clerk; GRANT EXECUTE ON FUNCTION uds_create_source, uds_alter_source, uds_sync TO clerk;'
	. ' GRANT SELECT, INSERT, UPDATE, DELETE ON uds.users, uds.departments, uds.department_members TO clerk');

# as_clerk($sql): its error, or what it returns
sub as_clerk
{
	my ($sql) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "SET ROLE clerk; $sql", on_error_stop => 1);

	return $status ? $err : $out;
}

like(as_clerk(q{SELECT uds_create_source('clerk', 'sql', '{"users_query": "SELECT login AS uid FROM office.people"}')}),
	qr/permission denied for schema office.*HINT.*"clerk", the owner of the source/s, 'a query that the owner may not run is refused when the source is created');
query('GRANT USAGE ON SCHEMA office TO clerk; GRANT SELECT ON office.people TO clerk');
like(as_clerk(q{SELECT uds_create_source('clerk', 'sql', '{"users_query": "SELECT login AS uid FROM office.people"}')}),
	qr/^\d+$/, 'with the rights it is taken');
is(sync_of('clerk'), 'success', 'and read');
query('REVOKE SELECT ON office.people FROM clerk');
is(sync_of('clerk'), 'failed', 'rights that are taken away make the sync fail');
like(field('message'), qr/permission denied for table people/, 'the message says which');
query('GRANT SELECT ON office.people TO clerk');

# what a function in the query tries to do
my %tries = (
	writes => q{BEGIN INSERT INTO public.written VALUES (1); RETURN 'x'; END},
	'takes the session' => q{BEGIN RESET SESSION AUTHORIZATION; RETURN current_user; END},
	'becomes somebody else' => q{BEGIN SET ROLE postgres; RETURN current_user; END},
	'opens the transaction for writing' => q{BEGIN SET transaction_read_only = off; INSERT INTO public.written VALUES (1); RETURN 'x'; END},
	commits => q{BEGIN COMMIT; RETURN 'x'; END},
	'leaves a listener behind' => q{BEGIN LISTEN uds_changes; RETURN 'x'; END},
	'leaves a temporary table behind' => q{BEGIN CREATE TEMPORARY TABLE t (x integer); RETURN 'x'; END});

# what a foreign role made runs with the rights of that role
query('GRANT CREATE ON SCHEMA office TO clerk');
alter('clerk', 'users_query', 'SELECT office.f() AS uid') if as_clerk(q{CREATE FUNCTION office.f() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN current_user; END$$}) !~ /ERROR/;
is(sync_of('clerk'), 'success', 'a function in the query');
is(query(q{SELECT uid FROM uds.records WHERE source_id = (SELECT id FROM uds.sources WHERE name = 'clerk') AND NOT deleted}), 'clerk', 'runs as the owner');
foreach my $try (sort keys %tries)
{
	as_clerk("CREATE OR REPLACE FUNCTION office.f() RETURNS text LANGUAGE plpgsql AS \$\$$tries{$try}\$\$");
	is(sync_of('clerk'), 'failed', "a query that $try fails");
	is(query('SELECT count(*) FROM public.written'), 0, "a query that $try has written nothing") if $try =~ /writ/;
}

#
# Another database, through postgres_fdw
#
SKIP:
{
	skip 'postgres_fdw is not there: FOREIGN TABLES ARE NOT TESTED', 6
	  if query(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'}) == 0;
	$node->safe_psql('postgres', 'CREATE DATABASE hr');
	$node->safe_psql('hr', q{CREATE TABLE people (login text, name text); INSERT INTO people SELECT 'f' || i, 'Foreign ' || i FROM generate_series(1, 1500) AS i});
	my ($host, $port, $user) = ($node->host, $node->port, query('SELECT current_user'));
	my %real = ("host 'hr.example.com', dbname 'hr'" => "host '$host', port '$port', dbname 'hr'",
		"user 'reader', password '…'" => "user '$user'");

	foreach my $statement ($document->statements_after('## From another server'))
	{
		$statement =~ s/\Q$_\E/$real{$_}/g foreach keys %real;
		query($statement);
	}
	is(sync_of('hr'), 'success', 'foreign tables can be read') or diag(field('message'));
	is(query(q{SELECT count(*) FROM uds.users WHERE nickname LIKE 'Foreign %'}), 1500, 'everybody comes');
	$node->safe_psql('hr', q{DELETE FROM people WHERE login = 'f7'; UPDATE people SET name = 'Foreign Otto' WHERE login = 'f8'});
	is(sync_of('hr'), 'success', 'again');
	is(query(q{SELECT count(*) FROM uds.users WHERE nickname = 'Foreign Otto'}), 1, 'what changed there changes here');
	query(q{ALTER SERVER hr OPTIONS (SET port '1')});
	is(sync_of('hr'), 'failed', 'a server that cannot be reached fails the sync');
	is(query(q{SELECT count(*) FROM uds.users WHERE nickname LIKE 'Foreign %' AND enabled}), 1499, 'and nobody goes missing');
}

#
# Cancel while a query runs
#
alter('clerk', 'users_query', q{SELECT 'x' AS uid FROM (SELECT pg_catalog.pg_sleep(1000)) AS s});
$task = query(q{SELECT uds_sync('clerk')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_type LIKE 'uds%'}),
	'a query that takes its time');
query("SELECT uds_cancel($task)");
is(wait_task($node, $task), 'canceled', 'can be canceled');

$node->stop;
done_testing();
