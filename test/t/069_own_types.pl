# Types of one's own: a manifest in a source, a manifest as a type, a function
# that reads.  What is run is what doc/extending.md shows.
use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsDocument;
use UdsTest qw(:DEFAULT query);

my $mock = start_mock(service => 'rest', tiny => 1);
my $node = new_node();
my $document = UdsDocument->new('doc/extending.md');
my $people = @{ $mock->call('GET', '/directory')->{people} };
my $task;

sub sync_of
{
	my ($source, $mode) = @_;

	$task = query('SELECT uds_sync(' . quote($source) . ', ' . quote($mode // 'auto') . ')');
	return wait_task($node, $task);
}

sub field
{
	my ($expression) = @_;

	return task_field($node, $task, $expression);
}

# run_all(@statements): each, with the address of the mock, and returns what
# they gave
sub run_all
{
	my @given;
	my $address = $mock->base_url('rest');

	foreach my $statement (@_)
	{
		push @given, query($statement =~ s{https://staff\.example\.com}{$address}gr);
	}
	return @given;
}

query('CREATE EXTENSION uds');
$mock->control({ settings => { rest => { login => 'key_header', page_size => 5 } } });

#
# A service, in an afternoon
#
my @given = run_all($document->statements_after('## A service, in an afternoon', '### The same for many sources'));

is(@given, 5, 'the document shows five statements');
like($given[1], qr/^options\|t\|.*^address\|t\|.*^units: record\|t\|.*^people: record\|t\|/ms, 'the test of its source walks to a record of each stream');
unlike($given[1], qr/\|f\|/, 'and nothing is wrong');
like($given[3], qr/^users\|create\|$people$/m, 'the preview shows whom it would create');
is(query('SELECT count(*) FROM uds.users'), $people, 'the sync creates them');
is(query(q{SELECT count(*) FROM uds.users WHERE main_department_id IS NOT NULL}), $people, 'with their main departments');
is(query(q{SELECT count(*) FROM uds.raw_log WHERE concat_ws(' ', request, body) LIKE '%k3y%'}), 0, 'the key is not in the raw log');
is(sync_of('staff'), 'success', 'again');
is(field(q{concat_ws(' ', complete, created, updated, linked, unlinked)}), 't 0 0 0 0', 'nothing has changed');
ok(query(q{SELECT uds_explain_user('staff', 'anna.keller') ->> 'raw' LIKE '%Anna Keller%'}) eq 't', 'uds_explain_user shows what the service sent');

#
# The same for many sources
#
run_all($document->statements_after('### The same for many sources', '## A function that reads'));
is(query(q{SELECT status FROM uds.tasks ORDER BY id DESC LIMIT 1}), 'success', 'a manifest that is registered reads as well');
is(query(q{SELECT count(*) FROM uds.records r JOIN uds.sources s ON s.id = r.source_id WHERE s.name = 'branch' AND data_type = 'user'}),
	$people, 'everybody');
my $changed = query(q{SELECT jsonb_set(options -> 'manifest', '{streams,people,fields,title}', '"$.job"') FROM uds.sources WHERE name = 'staff'});

query('SELECT uds_register_source_type($$stafflist$$, ' . quote($changed) . ')');
query(q{SELECT uds_alter_source('branch', priority => 1)});
is(sync_of('branch'), 'success', 'a manifest that is registered again');
is(query(q{SELECT title FROM uds.users WHERE username = 'anna.keller'}), 'Head of sales', 'is what the sources of the type are read by');
like(($node->psql('postgres', q{SELECT uds_drop_source_type('stafflist')}))[2], qr/is in use.*branch/s, 'a type with sources is kept');
query(q{SELECT uds_drop_source('branch', keep_data => false)});
query(q{SELECT uds_drop_source('staff', keep_data => false)});
query(q{SELECT uds_drop_source_type('stafflist')});
is(query('SELECT count(*) FROM uds.users'), 0, 'all is gone');

#
# A function that reads
#
my @function = $document->statements_after('## A function that reads', '# Resources: filling tables of your own');

is(@function, 7, 'the document shows seven statements');
run_all(@function);
is(query(q{SELECT string_agg(nickname, ' ' ORDER BY nickname) FROM uds.users}), 'Ann Bob', 'what the function returns are the records');
is(query(q{SELECT status FROM uds.tasks ORDER BY id DESC LIMIT 1}), 'success', 'the task is well');
query(q{UPDATE hr.people SET changed_at = now() - interval '1 day'});
query(q{UPDATE hr.people SET name = 'Anna', changed_at = now() WHERE login = 'ann'});
is(sync_of('hr'), 'success', 'the next sync');
is(field(q{concat_ws(' ', fetched, updated, coalesce(complete::text, '-'))}), '1 1 -', 'hands over the state, and gets what changed');
query(q{UPDATE hr.people SET left_on = now(), changed_at = now() WHERE login = 'bob'});
is(sync_of('hr'), 'success', 'and the next');
is(query(q{SELECT string_agg(nickname, ' ' ORDER BY nickname) FROM uds.users WHERE enabled}), 'Anna', 'brings who is said to have left');
query(q{DELETE FROM hr.people WHERE login = 'ann'});
is(sync_of('hr', 'incremental'), 'success', 'who is deleted without a word');
is(query(q{SELECT string_agg(nickname, ' ' ORDER BY nickname) FROM uds.users WHERE enabled}), 'Anna', 'is not missed by a read of changes');
is(sync_of('hr', 'full'), 'success', 'but by a full one');
is(field(q{concat_ws(' ', fetched, complete)}), '1 t', 'which is given no state');
is(query(q{SELECT count(*) FROM uds.users WHERE enabled}), 0, 'and finds who is not there');

# what it is given, whose rights it has
query('CREATE ROLE clerk LOGIN; GRANT USAGE ON SCHEMA uds TO clerk; GRANT EXECUTE ON FUNCTION uds_create_source TO clerk;'
	. ' GRANT SELECT, INSERT, UPDATE, DELETE ON uds.users, uds.departments, uds.department_members TO clerk');
query(q{ALTER TABLE uds.users ADD given text});
query(q{CREATE FUNCTION public.tell(options jsonb, old_state jsonb) RETURNS TABLE (data_type text, record jsonb, state jsonb)
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
	BEGIN
		IF options ? 'fail' THEN RAISE EXCEPTION 'the disk is full'; END IF;
		IF options ? 'odd' THEN RETURN QUERY SELECT 'person'::text, '{"uid": "x"}'::jsonb, NULL::jsonb; END IF;
		IF options ? 'write' THEN CREATE TABLE public.written (x integer); END IF;
		RETURN QUERY SELECT 'user'::text, jsonb_build_object('uid', 'x', 'nickname', current_user,
			'given', md5(options ->> 'api_token')), NULL::jsonb;
	END $$});
query(q{SELECT uds_register_source_type('tell', pull => 'public.tell(jsonb, jsonb)')});
query(q{SET ROLE clerk; SELECT uds_create_source('tell', 'tell', '{"api_token": "canary-4711"}')});
is(sync_of('tell'), 'success', 'a function in another language');
is(query(q{SELECT nickname FROM uds.users WHERE given = md5('canary-4711')}), 'clerk', 'runs as the owner of the source, and gets the value of a secret');
is(query(q{SELECT options FROM uds.sources WHERE name = 'tell'}), '{"api_token": "********"}', 'which nobody else is shown');
foreach my $case ([ fail => qr/the disk is full/ ], [ odd => qr/record of type "person"/ ], [ write => qr/read-only transaction/ ])
{
	my ($option, $like) = @$case;

	query("SELECT uds_alter_source('tell', options => '{\"$option\": true}')");
	is(sync_of('tell'), 'failed', "a function that goes wrong ($option) fails the task");
	like(field('message'), $like, "the message says what is wrong ($option)");
	query("SELECT uds_alter_source('tell', options => '{\"$option\": null}')");
}
is(query('SELECT count(*) FROM uds.users WHERE given IS NOT NULL'), 1, 'and nothing changes');
query('REVOKE EXECUTE ON FUNCTION public.tell FROM PUBLIC');
is(sync_of('tell'), 'failed', 'an owner who may not execute it');
like(field('message'), qr/permission denied for function tell/, 'is told so');
query('GRANT EXECUTE ON FUNCTION public.tell TO clerk');
query('ALTER FUNCTION public.tell RENAME TO told');
is(sync_of('tell'), 'failed', 'a function that is not there any more');
like(field('message'), qr/tell\(jsonb,jsonb\)/, 'is named');

$node->stop;
done_testing();
