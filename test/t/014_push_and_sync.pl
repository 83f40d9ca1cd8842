# A push while a sync applies, and the other way about: the later one waits,
# and the same person makes one row.
#
# What makes the order certain: a trigger on uds.users waits as long as the
# test holds an advisory lock.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSession;
use UdsTest qw(:DEFAULT query);

my $mock = start_mock(tiny => 1);
my $node = new_node('deadlock_timeout' => '10ms');
my $gate = 4711;

sub push_sql
{
	my ($records, $type) = @_;

	$type //= 'user';
	return qq{SELECT uds_push('{"dataType": "$type", "matchKey": "username", "records": $records}') ->> 'message'};
}

# somebody in the directory has this title from now on
sub retitle
{
	my ($person, $title) = @_;

	$mock->control({ edit => { people => { $person => { title => $title } } } });
	return;
}

# waits until the worker, or a session, waits for a lock
sub wait_locked
{
	my ($who, $name) = @_;

	poll($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = '$who' AND wait_event_type = 'Lock'", $name);
	return;
}

# what there is of a person: rows, live records, the titles
sub person
{
	my ($username) = @_;

	return query(qq{
		SELECT count(DISTINCT u.id) || ' row, ' || count(r.id) || ' records, ' || string_agg(DISTINCT u.title, '/')
		FROM uds.users u
		JOIN uds.record_resources l ON l.resource = 'users' AND l.resource_pk = u.id::text
		JOIN uds.records r ON r.id = l.record_id AND NOT r.deleted
		WHERE u.username = '$username'});
}

query('CREATE EXTENSION uds');
create_wecom_source($node, $mock, match_keys => '{username}', priority => 200);
query(qq{
	CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		PERFORM pg_advisory_xact_lock_shared($gate);
		RETURN NULL;
	END \$\$;
	CREATE TRIGGER gate AFTER INSERT OR UPDATE ON uds.users FOR EACH STATEMENT EXECUTE FUNCTION wait_at_gate()});
my $keeper = $node->background_psql('postgres');

#
# The first sync has written its rows and waits; a push brings one of its
# people, and somebody else
#
$keeper->query_safe("SELECT pg_advisory_lock($gate)");
my $task = query(q{SELECT uds_sync('wecom')});
wait_locked('uds worker', 'a sync applies, and waits in a trigger');
is(query('SELECT count(*) FROM uds.users'), 0, 'nobody sees its rows yet');
my $push = start_sql($node, 'postgres',
	push_sql('[{"uid": "1", "username": "li.na", "title": "pushed"}, {"uid": "2", "username": "else", "title": "pushed"}]'));
wait_locked('session', 'a push waits for it');
$keeper->query_safe("SELECT pg_advisory_unlock($gate)");
is(wait_task($node, $task), 'success', 'the sync succeeds');
ok($push->finish, 'and the push');
is($push->err, '', 'without an error');
is(person('li.na'), '1 row, 2 records, pushed', 'who is in both has one row, and two records');
is(person('else'), '1 row, 1 records, pushed', 'who is in the push alone is there');
is(query('SELECT count(*) FROM uds.users'), query('SELECT count(DISTINCT username) FROM uds.users'), 'nobody is there twice');
is(query('SELECT count(*) FROM uds.task_errors'), 0, 'no record was set aside');

#
# Both change the same person
#
retitle('anna.keller', 'by sync');
query(push_sql('[{"uid": "3", "username": "anna.keller", "nickname": "A"}]'));
$keeper->query_safe("SELECT pg_advisory_lock($gate)");
$task = query(q{SELECT uds_sync('wecom')});
wait_locked('uds worker', 'a sync changes a person');
$push = start_sql($node, 'postgres', push_sql('[{"uid": "3", "nickname": "B"}]'));
wait_locked('session', 'a push of the same person waits');
$keeper->query_safe("SELECT pg_advisory_unlock($gate)");
is(wait_task($node, $task), 'success', 'the sync succeeds');
ok($push->finish, 'and the push');
is(query(q{SELECT nickname || ', ' || title FROM uds.users WHERE username = 'anna.keller'}), 'B, by sync', 'neither update is lost');

#
# The sync comes later, while a transaction that pushed is open
#
retitle('anna.keller', 'by sync again');
my $pusher = $node->background_psql('postgres');
$pusher->query_safe('BEGIN');
$pusher->query_safe(push_sql('[{"uid": "3", "nickname": "C"}, {"uid": "4", "username": "new.one", "title": "pushed"}]'));
$mock->control({ edit => { people => { 'new.one' => { name => 'New One', departments => [1] } } } });
$task = query(q{SELECT uds_sync('wecom')});
wait_locked('uds worker', 'a sync waits for a transaction that pushed');
$pusher->query_safe(push_sql('[{"uid": "5", "username": "li.na", "title": "again"}]'));
$pusher->query_safe('COMMIT');
is(wait_task($node, $task), 'success', 'and succeeds after it');
is(query(q{SELECT nickname || ', ' || title FROM uds.users WHERE username = 'anna.keller'}), 'C, by sync again', 'neither update is lost');
is(person('new.one'), '1 row, 2 records, pushed', 'who is new to both has one row');

#
# One of the two gives up
#
retitle('anna.keller', 'third');
$keeper->query_safe("SELECT pg_advisory_lock($gate)");
$task = query(q{SELECT uds_sync('wecom')});
wait_locked('uds worker', 'a sync applies');
$push = start_sql($node, 'postgres', push_sql('[{"uid": "3", "nickname": "never"}]'));
wait_locked('session', 'a push waits');
$push->interrupt;
ok(!$push->finish, 'and is canceled');
$keeper->query_safe("SELECT pg_advisory_unlock($gate)");
is(wait_task($node, $task), 'success', 'the sync succeeds');
is(query(q{SELECT nickname || ', ' || title FROM uds.users WHERE username = 'anna.keller'}), 'C, third', 'of the push nothing is left');

retitle('anna.keller', 'never');
$keeper->query_safe("SELECT pg_advisory_lock($gate)");
$task = query(q{SELECT uds_sync('wecom')});
wait_locked('uds worker', 'a sync applies');
$push = start_sql($node, 'postgres', push_sql('[{"uid": "3", "nickname": "D"}]'));
wait_locked('session', 'a push waits');
is(query("SELECT uds_cancel($task)"), 't', 'the sync is canceled');
$keeper->query_safe("SELECT pg_advisory_unlock($gate)");
is(wait_task($node, $task), 'canceled', 'it ends so');
ok($push->finish, 'and the push succeeds');
is(query(q{SELECT nickname || ', ' || title FROM uds.users WHERE username = 'anna.keller'}), 'D, third', 'of the sync nothing is left');

#
# Departments: one is pushed while its members are read
#
query(push_sql('[{"uid": "d"}]', 'department'));
$keeper->query_safe("SELECT pg_advisory_lock($gate)");
retitle('anna.keller', 'fourth');
$task = query(q{SELECT uds_sync('wecom')});
wait_locked('uds worker', 'a sync applies');
$push = start_sql($node, 'postgres', push_sql('[{"uid": "d", "isDeleted": true}]', 'department'),
	push_sql('[{"uid": "3", "departments": ["d"]}]'));
wait_locked('session', 'a department goes meanwhile, and somebody joins it');
$keeper->query_safe("SELECT pg_advisory_unlock($gate)");
is(wait_task($node, $task), 'success', 'the sync succeeds');
ok($push->finish, 'and both pushes');
is(query(q{SELECT count(*) FROM uds.department_members m JOIN uds.users u ON u.id = m.user_id
	WHERE u.username = 'anna.keller' AND NOT EXISTS (SELECT FROM uds.departments WHERE id = m.department_id)}), 0,
	'nobody is a member of what is gone');
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'there was no deadlock');

$_->quit foreach $keeper, $pusher;
$node->stop;
done_testing();
