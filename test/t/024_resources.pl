# Resources that were registered, filled by a sync: with what is shown before
# and what is read twice.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest qw(:DEFAULT query);

my $mock = start_mock(seed => 5, departments => 20, users => 300);
my $node = new_node();

$node->safe_psql('postgres', q{
	CREATE EXTENSION uds;
	CREATE TABLE badges (badge text PRIMARY KEY, name text, mobile text, printed boolean DEFAULT false);
	CREATE TABLE units (id bigint PRIMARY KEY, name text);
	CREATE TABLE calls (task bigint, n bigint);
	CREATE FUNCTION count_calls(task bigint)
	RETURNS TABLE (uid text, pk text, action text, before jsonb, after jsonb)
	LANGUAGE sql VOLATILE SET search_path = public AS $$
		INSERT INTO calls SELECT task, count(*) FROM uds_task_records(task);
		SELECT r.uid, r.uid, NULL, NULL::jsonb, NULL::jsonb FROM uds_task_records(task) AS r
	$$;
	SELECT uds_map_table('badges', 'badges', 'user', 'badge', '{"name": "$.nickname", "mobile": "$.phone"}');
	SELECT uds_map_table('units', 'units', 'department', 'id', '{"name": "$.title"}');
	SELECT uds_register_resource('calls', '{user}', 'count_calls(bigint)');
});
create_wecom_source($node, $mock);

# rows that are not what the records behind them say, and records without one
my $differ = q{
	SELECT count(*)
	FROM (SELECT r.uid, r.data ->> 'nickname' AS name, r.data ->> 'phone' AS mobile FROM uds.records r
		  WHERE r.data_type = 'user' AND NOT r.deleted) AS r
	FULL JOIN badges b ON b.badge = r.uid
	WHERE b.badge IS NULL OR ROW(b.name, b.mobile) IS DISTINCT FROM ROW(r.name, r.mobile)
		AND (r.uid IS NOT NULL OR b.badge IN (SELECT uid FROM uds.records WHERE NOT deleted))};

# preview: all is shown, nothing is there
my $preview = query(q{SELECT uds_preview('wecom')});
my $people = query("SELECT count(*) FROM uds.changes WHERE task_id = $preview AND NOT applied AND resource = 'users'");
is(query("SELECT string_agg(format('%s %s', resource, n), ', ' ORDER BY resource)
	FROM (SELECT resource, count(*) AS n FROM uds.changes
		  WHERE task_id = $preview AND NOT applied AND resource <> 'members' GROUP BY resource) AS c"),
	"badges $people, departments 20, units 20, users $people", 'a preview shows mapped rows');
is(query('SELECT (SELECT count(*) FROM badges) + (SELECT count(*) FROM units) + (SELECT count(*) FROM calls)'),
	0, 'and writes none, nor what a function writes');

sync($node);
is(query($differ), 0, 'a sync fills a mapped table');
is(query('SELECT count(*) FROM badges'), $people, 'with a row for each');
is(query(q{SELECT count(*) FROM units n JOIN uds.records r ON r.uid = n.id::text AND r.data ->> 'title' = n.name
	WHERE r.data_type = 'department'}), 20, 'and one of departments');
is(query('SELECT count(*) FROM badges WHERE printed'), 0, 'with the defaults of other columns');
is(query('SELECT count(*), sum(n) FROM calls'), "1|$people", 'a function is called once, with all records but of who had left before');

# again: nothing is touched
my $before = query('SELECT sum(xmin::text::bigint) FROM badges');
my $task = sync($node);
is(query("SELECT count(*) FROM uds.changes WHERE task_id = $task"), 0, 'the same again changes nothing');
is(query('SELECT sum(xmin::text::bigint) FROM badges'), $before, 'and touches no row');
is(query('SELECT count(*) FROM calls'), 1, 'nor calls a function');

# what was altered by hand comes right, although no record changed
$node->safe_psql('postgres', q{
	DELETE FROM badges WHERE badge = (SELECT min(badge) FROM badges);
	UPDATE badges SET name = 'x', printed = true WHERE badge = (SELECT max(badge) FROM badges)});
$task = sync($node);
is(query("SELECT string_agg(action, ', ' ORDER BY action) FROM uds.changes WHERE task_id = $task AND resource = 'badges'"),
	'create, update', 'a full sync mends a mapped table');
is(query('SELECT count(*) FROM badges WHERE printed'), 1, 'and leaves other columns alone');

# some change, some leave, some come
$mock->control({ mutate => { seed => 1, percent => 5 } });
$task = sync($node);
is(query($differ), 0, 'changes arrive in a mapped table');
cmp_ok(query("SELECT count(*) FROM uds.changes WHERE task_id = $task AND resource = 'badges'"), '>', 0, 'and are told');
is(query("SELECT n = (SELECT count(*) FROM uds.records WHERE data_type = 'user' AND task_id = $task
	AND NOT (deleted AND last_data IS NULL)) FROM calls WHERE task = $task"),
	't', 'and a function gets the changed records only');
is(query('SELECT count(*) FROM uds.unapplied_records'), 0, 'nothing was refused');

# who listens is told, also where users stay as they are
my $push = q{SELECT uds_push('{"dataType": "user", "records": [{"uid": "quinn", "nickname": "Quinn"}]}') ->> 'message'};
query($push);
unlike($node->safe_psql('postgres', "LISTEN uds_changes; $push"), qr/Asynchronous notification/,
	'a push that changes nothing tells nobody');
query(q{UPDATE badges SET name = 'x' WHERE badge = 'quinn'});
like($node->safe_psql('postgres', "LISTEN uds_changes; $push"), qr/Asynchronous notification "uds_changes"/,
	'one that changes a mapped table alone does');
done_testing();
