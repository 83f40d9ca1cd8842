# A large directory in which few change: where nearly all users are settled,
# the others are looked up one by one.  What comes of it is the same as when
# the directory is taken for the first time.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsState;
use UdsTest qw(:DEFAULT query);

my $node = new_node('shared_preload_libraries' => 'uds, pg_stat_statements', 'log_min_messages' => 'warning');
my %departments = map { ("d$_" => { uid => "d$_", title => "Department $_", parentUid => $_ > 3 ? 'd' . ($_ % 3 + 1) : '' }) } 1 .. 30;
my %users = map { ("u$_" => make_user($_)) } 1 .. 1200;

sub make_user
{
	my ($n) = @_;

	return {
		uid => "u$n",
		username => "user$n",
		email => "user$n\@example.com",
		title => "Title " . $n % 7,
		departments => [ { uid => 'd' . ($n % 30 + 1), isMain => JSON::PP::true }, 'd' . ($n % 7 + 1) ] };
}

# Pushes everything; returns the ids of the two tasks.
sub push_all
{
	my ($db) = @_;
	my @parts = ([ department => \%departments ], [ user => \%users ]);

	return map {
		my ($type, $records) = @$_;
		my $push = JSON::PP->new->canonical->encode(
			{ dataType => $type, records => [ map { $records->{$_} } sort keys %$records ] });

		query('SELECT uds_push(' . quote($push) . ") -> 'task'", $db)
	} @parts;
}

# Lines that only one of two texts has
sub differences
{
	my ($first, $second) = @_;
	my %in;

	$in{$_}++ foreach split /\n/, $first;
	$in{$_}-- foreach split /\n/, $second;
	return join "\n", map { ($in{$_} > 0 ? '+' : '-') . $_ } grep { $in{$_} } sort keys %in;
}

# Whether a statement that looks rows up has run
sub looked_up
{
	my ($what) = @_;

	return query('SELECT count(*) > 0 FROM pg_stat_statements WHERE query LIKE ' . quote("%$what%OFFSET%"));
}

query('CREATE EXTENSION uds; CREATE EXTENSION pg_stat_statements; ALTER SYSTEM SET pg_stat_statements.track = \'all\'');
query('SELECT pg_reload_conf()');
push_all('postgres');
is(looked_up('LATERAL (SELECT r.* FROM uds.records r WHERE r.id = p.record_id'), 'f', 'the first time nobody is looked up');

foreach my $round (1 .. 3)
{
	my $before = state_now();
	my $first = 100 * $round;
	my $db = "fresh$round";

	# names, a swap of unique values and a ring of three, moves, leavers, newcomers
	$users{"u$_"}{title} = "Changed $round" foreach $first .. $first + 20;
	@{ $users{"u$_->[0]"} }{ 'username', 'email' } = ("user$_->[1]", "user$_->[2]\@example.com")
	  foreach [ $first + 1, $first + 2, $first + 3 ], [ $first + 2, $first + 1, $first + 1 ], [ $first + 3, $first + 3, $first + 2 ];
	$users{ 'u' . ($first + 4) }{departments} = [ 'd9', { uid => 'd10', isMain => JSON::PP::true, isOwner => JSON::PP::true } ];
	$users{ 'u' . ($first + 5) }{departments} = [];
	$users{ 'u' . ($first + 6) }{title} = undef;
	$users{ 'u' . ($first + $_) }{isDeleted} = JSON::PP::true foreach 7 .. 9;
	$users{"n$round.$_"} = { %{ make_user(5000 + 10 * $round + $_) }, uid => "n$round.$_" } foreach 1 .. 3;

	# who leaves gives a unique value to who comes
	$users{"n$round.1"}{username} = $users{ 'u' . ($first + 7) }{username};
	$departments{ 'd' . (20 + $round) }{title} = "Renamed $round";
	$departments{ 'd' . (25 + $round) }{parentUid} = 'd20';
	my ($of_departments, $of_users) = push_all('postgres');
	my $after = state_now();

	is(task_field($node, $of_users, 'failed'), 0, "round $round: nobody is refused");
	is(task_field($node, $of_users, 'unchanged > 1100 AND least(created, updated, deleted, linked, unlinked) > 0'), 't',
		'nearly all stay as they are, some come, go, change and move');
	query("CREATE DATABASE $db");
	query('CREATE EXTENSION uds', $db);
	push_all($db);
	is(differences(directory_now(), directory_now($db)), '', 'the directory is as one that is filled now');
	query("SET client_min_messages = warning; SELECT uds_undo($_, wait => true)") foreach $of_users, $of_departments;
	is(differences(state_now(), $before), '', 'undone, all is as before');
	push_all('postgres');
	is(differences(directory_now(), directory_now($db)), '', 'and taken again, as it was made');
	query("DROP DATABASE $db");
}
foreach my $what (
	'LATERAL (SELECT r.* FROM uds.records r WHERE r.id = p.record_id',
	'LATERAL (SELECT t.* FROM uds.users t WHERE t.id = l.resource_pk',
	'LATERAL (SELECT m.* FROM uds.department_members m',
	'LATERAL (SELECT k AS u FROM uds.users k')
{
	is(looked_up($what), 't', "$what … has run");
}

$node->stop;
done_testing();
