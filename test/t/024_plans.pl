# The shape of plans on tables that were filled and never analyzed: a large
# push loops over nothing, a small one reads no large table from end to end.
#
# autovacuum is off, so the planner knows nothing of the tables but their size.
# auto_explain writes each plan, with the rows it met, into the server's log.
use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest qw(:DEFAULT query);

my $users = 20_000;
my $departments = 500;
my $node = new_node(
	'shared_preload_libraries' => 'uds,auto_explain',
	'autovacuum' => 'off',
	'fsync' => 'off',
	'work_mem' => '16MB',
	'auto_explain.log_min_duration' => '-1',
	'auto_explain.log_nested_statements' => 'on',
	'auto_explain.log_analyze' => 'on',
	'auto_explain.log_timing' => 'off',
	'auto_explain.log_format' => 'json');

# tables that grow with the directory
my %large = map { $_ => 1 } qw(users records record_resources department_members changes);

# push_sql($type, $records): the statement; $records is SQL that makes the list
sub push_sql
{
	my ($type, $records) = @_;

	return "SELECT uds_push(jsonb_build_object('dataType', '$type', 'records', ($records))) ->> 'message'";
}

# users from one number to another, each in the first department and in one
# more
sub people
{
	my ($from, $to) = @_;

	return qq{SELECT jsonb_agg(jsonb_build_object('uid', 'u' || i, 'username', 'user' || i, 'email', 'user' || i || '\@example.com',
		'nickname', 'User ' || i, 'departments', jsonb_build_array('d1', 'd' || 2 + i % ($departments - 1)))) FROM generate_series($from, $to) AS i};
}

# Runs statements in one session; returns the plans of the last one that took
# so many milliseconds: each the tree of nodes, with its query.
sub plans_of
{
	my ($milliseconds, @statements) = @_;
	my $last = pop @statements;
	my $offset = -s $node->logfile;
	my @plans;

	query(join(";\n", @statements, "SET auto_explain.log_min_duration = $milliseconds", $last));
	my $log = slurp_file($node->logfile, $offset);

	while ($log =~ /plan:\n(\t\{\n.*?^\t\}\n)/msg)
	{
		push @plans, JSON::PP->new->utf8(0)->decode($1);
	}
	return @plans;
}

# visit($node, $visit): calls it with each node below, and whether that is on
# the inner side of a nested loop
sub visit
{
	my ($node, $visit, $inner) = @_;

	$visit->($node, $inner);
	foreach my $child (@{ $node->{Plans} // [] })
	{
		my $is_inner = $node->{'Node Type'} eq 'Nested Loop' && $child->{'Parent Relationship'} eq 'Inner';

		visit($child, $visit, $inner || $is_inner);
	}
	return;
}

# a node in a line, with its query, for people who look at a failure
sub describe
{
	my ($plan, $node) = @_;
	my $text = $plan->{'Query Text'} =~ s/\s+/ /gr;

	return sprintf "%s on %s, %d rows in %d loops: %s", $node->{'Node Type'}, $node->{'Relation Name'} // '-',
		$node->{'Actual Rows'} // 0, $node->{'Actual Loops'} // 0, substr($text, 0, 300);
}

# Asserts that none of the plans has a node of which $bad is true
sub no_node
{
	my ($name, $plans, $bad) = @_;
	my @found;

	foreach my $plan (@$plans)
	{
		visit($plan->{Plan}, sub { push @found, describe($plan, $_[0]) if $bad->(@_); });
	}
	is(join("\n", @found), '', $name);
	return;
}

sub check_small
{
	my ($name, @statements) = @_;
	my @plans = plans_of(0, @statements);

	cmp_ok(scalar @plans, '>', 5, "$name: there are plans");
	no_node("$name: no large table is read from end to end", \@plans,
		sub { $_[0]{'Node Type'} eq 'Seq Scan' && $large{ $_[0]{'Relation Name'} // '' } });
	return;
}

sub check_large
{
	my ($name, $statement) = @_;

	# checks of foreign keys, row by row, are below that
	my @plans = plans_of(1, $statement);

	cmp_ok(scalar @plans, '>', 5, "$name: there are plans");
	no_node("$name: nothing on the inner side of a loop reads a table whole", \@plans,
		sub { my ($node, $inner) = @_; $inner && $node->{'Node Type'} =~ /^(Seq|CTE) Scan$/ && $node->{'Actual Loops'} > 100; });

	# a function takes the list of each record apart
	no_node("$name: no inner side of a loop is read as often as there are people", \@plans,
		sub { my ($node, $inner) = @_; $inner && $node->{'Node Type'} ne 'Function Scan' && ($node->{'Actual Loops'} // 0) >= $users; });
	no_node("$name: no condition is tried on each pair of rows", \@plans,
		sub { ($_[0]{'Rows Removed by Join Filter'} // 0) > 10 * $users });
	no_node("$name: no hash is cut into more than 32 parts", \@plans,
		sub { ($_[0]{'Hash Batches'} // 0) > 32 });
	no_node("$name: no hash was planned for few rows and met many times as many parts", \@plans,
		sub { ($_[0]{'Hash Batches'} // 0) > 8 * ($_[0]{'Original Hash Batches'} // 1) });
	return;
}

query('CREATE EXTENSION uds');
query(push_sql('department', "SELECT jsonb_agg(jsonb_build_object('uid', 'd' || i, 'title', 'D' || i, 'parentUid', CASE WHEN i > 1 THEN 'd' || i / 10 + 1 END)) FROM generate_series(1, $departments) AS i"));

#
# Everybody at once, into empty tables; then all of it again
#
check_large('first load', push_sql('user', people(1, $users)));
is(query('SELECT count(*) FROM uds.users'), $users, 'everybody is there');
is(query('SELECT count(*) FROM uds.department_members WHERE department_id = (SELECT id FROM uds.departments WHERE title = \'D1\')'), $users, 'one department has all of them');
is(query("SELECT count(*) FROM pg_class WHERE relnamespace = 'uds'::regnamespace AND relname IN ('users', 'records', 'record_resources', 'department_members') AND reltuples > 0"),
	0, 'no table was ever analyzed');
check_large('unchanged', push_sql('user', people(1, $users)));
is(query('SELECT unchanged FROM uds.tasks ORDER BY id DESC LIMIT 1'), $users, 'nobody has changed');
check_large('a tenth changed', push_sql('user', people(1, $users) =~ s/'User '/CASE WHEN i % 10 = 0 THEN 'Mr ' ELSE 'User ' END/r));
is(query('SELECT updated FROM uds.tasks ORDER BY id DESC LIMIT 1'), $users / 10, 'a tenth has');

#
# Small pushes, the first in a session, and one that finds plans kept from before
#
my %small = (
	'one user' => push_sql('user', people(17, 17) =~ s/'User '/'Mrs '/r),
	'one new user' => push_sql('user', people($users + 1, $users + 1)),
	'one user who leaves' => push_sql('user', q{SELECT '[{"uid": "u18", "isDeleted": true}]'::jsonb}),
	'one member of a large group' => push_sql('user', q{SELECT '[{"uid": "u19", "departments": ["d1", "d2", "d3", "d4"]}]'::jsonb}),
	'one who leaves a large group' => push_sql('user', q{SELECT '[{"uid": "u20", "departments": ["d2"]}]'::jsonb}),
	'one department' => push_sql('department', q{SELECT '[{"uid": "d7", "title": "Seven", "parentUid": "d3"}]'::jsonb}),
	'one new department' => push_sql('department', q{SELECT '[{"uid": "new", "title": "New", "parentUid": "d3"}]'::jsonb}),
	'a match' => push_sql('user', q{SELECT '[{"uid": "m1", "username": "USER21"}]'::jsonb}) =~ s/'dataType'/'matchKey', 'username', 'dataType'/r);

foreach my $name (sort keys %small)
{
	check_small($name, $small{$name});
}
foreach my $name ('one user', 'one member of a large group')
{
	my $other = $small{$name} =~ s/u19/u29/r =~ s/\(17, 17\)/(27, 27)/r =~ s/Mrs/Dr/r;

	check_small("$name, with kept plans", ($small{$name}) x 8, $other);
}

$node->stop;
done_testing();
