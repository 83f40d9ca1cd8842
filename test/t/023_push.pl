# Pushes that are disturbed: by a timeout, by a trigger, by another push.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest;

my $node = new_node('log_min_messages' => 'warning');

$node->safe_psql('postgres', 'CREATE EXTENSION uds');

sub push_sql
{
	my ($type, $records) = @_;

	return qq{SELECT uds_push('{"dataType":"$type","records":$records}')};
}

sub one
{
	return $node->safe_psql('postgres', $_[0]);
}

#
# An error in the middle leaves the session usable
#
my $blocker = $node->background_psql('postgres');
$blocker->query_safe('BEGIN; LOCK TABLE uds.users IN EXCLUSIVE MODE');

my ($ret, $out, $err) = $node->psql('postgres',
	"SET statement_timeout = '300ms';\n" . push_sql('user', '[{"uid":"t1","username":"t1"}]')
	  . ";\nRESET statement_timeout;\nSELECT 'still here';",
	on_error_stop => 0);
like($err, qr/canceling statement due to statement timeout/, 'a push that waits too long is canceled');
unlike($err, qr/current transaction is aborted|FATAL/, 'and leaves no transaction behind');
like($out, qr/still here/, 'the session goes on');
$blocker->query_safe('COMMIT');
is(one('SELECT count(*) FROM uds.users'), 0, 'nothing was written');
is(one("SELECT count(*) FROM uds.tasks WHERE kind = 'push'"), 0, 'not even a task');

#
# A trigger that pushes
#
one(q{CREATE FUNCTION pushes() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM public.uds_push('{"dataType":"user","records":[{"uid":"inner"}]}');
		RETURN NEW;
	END $$;
	CREATE TRIGGER pushes BEFORE INSERT ON uds.users FOR EACH ROW EXECUTE FUNCTION pushes()});
($ret, $out, $err) = $node->psql('postgres', push_sql('user', '[{"uid":"outer","username":"o"}]'));
like("$out$err", qr/cannot push from within another push/, 'a trigger on a target cannot push');
is(one('SELECT count(*) FROM uds.users'), 0, 'and its record is not written');
one('DROP TRIGGER pushes ON uds.users');

#
# What is due of others' constraints does not run as a superuser
#
one(q{CREATE ROLE app LOGIN;
	GRANT USAGE ON SCHEMA uds TO app;
	GRANT EXECUTE ON FUNCTION uds_push(jsonb) TO app;
	CREATE SCHEMA app AUTHORIZATION app});
one(q{SET ROLE app;
	CREATE TABLE app.t (id integer);
	CREATE FUNCTION app.grab() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE 'ALTER ROLE app SUPERUSER';
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER grab AFTER INSERT ON app.t DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION app.grab()});
$node->psql('postgres', "SET ROLE app; BEGIN; INSERT INTO app.t VALUES (1);\n"
	  . push_sql('user', '[{"uid":"r1","username":"r1"}]') . '; ROLLBACK');
is(one(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'app'}), 'f',
	'a role that may push does not become a superuser');
$node->safe_psql('postgres', 'SET ROLE app; ' . push_sql('user', '[{"uid":"r1","username":"r1"}]'));
is(one(q{SELECT count(*) FROM uds.users WHERE username = 'r1'}), 1, 'EXECUTE is all it takes to push');

#
# Two at once, of the same records in opposite order
#
my @sessions = map { $node->background_psql('postgres') } 1 .. 2;
$sessions[0]->query_safe('BEGIN');
$sessions[0]->query_safe(push_sql('user', '[{"uid":"a","username":"a","nickname":"1"},{"uid":"b","username":"b","nickname":"1"}]'));
$sessions[1]->query_until(qr/begun/, "\\echo begun\n"
	  . push_sql('user', '[{"uid":"b","username":"b","nickname":"2"},{"uid":"a","username":"a","nickname":"2"}]') . ";\n");
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%uds_push%' AND wait_event_type = 'Lock'})
  or die 'the second push does not wait';
pass('a second push waits for the first');
$sessions[0]->query_safe('COMMIT');
$sessions[1]->quit;
$sessions[0]->quit;
is(one(q{SELECT string_agg(username || nickname, ' ' ORDER BY username) FROM uds.users WHERE username IN ('a', 'b')}),
	'a2 b2', 'both are taken, the later one last');
is(one(q{SELECT count(*) FROM uds.records WHERE uid IN ('a', 'b')}), 2, 'and no record is there twice');
$blocker->quit;

$node->stop;
done_testing();
