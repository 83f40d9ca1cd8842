# Reconcile: after each sync the tables are what the directory says, row by
# row; what did not change is not touched; who leaves and comes back does so in
# the same row; what was made by hand stays.
use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsTest qw(:DEFAULT query);

my $json = JSON::PP->new->canonical;
my $json_bytes = JSON::PP->new->utf8;

# autovacuum would clear away the dead tuples that are counted
my $node = new_node('autovacuum' => 'off');

# ids of rows by uid, whatever their case, and back
my $link_sql = q{
	SELECT r.data_type, lower(r.uid) AS uid, l.resource_pk::bigint AS id
	  FROM uds.records r
	  JOIN uds.record_resources l ON l.record_id = r.id};

# rows($sql, $db): each an array of its values, as text, undef for NULL
sub rows
{
	my ($sql, $db) = @_;

	return $json_bytes->decode(query(qq{
		SELECT coalesce(json_agg(q.v), '[]')
		  FROM (SELECT ARRAY(SELECT value FROM json_each_text(to_json(s))) AS v
				  FROM ($sql) AS s) AS q}, $db));
}

# by_key($rows): a hash of rows by their first value, each as one text
sub by_key
{
	my ($rows) = @_;
	my %by_key;

	foreach my $row (@$rows)
	{
		my ($key, @rest) = @$row;

		die "two rows for $key" if exists $by_key{$key};
		$by_key{$key} = $json->encode(\@rest);
	}
	return \%by_key;
}

sub actual_departments
{
	return by_key(rows(qq{
		SELECT k.uid, d.title, p.uid AS parent, d.sort, d.is_leaf, d.enabled
		  FROM uds.departments d
		  LEFT JOIN ($link_sql) AS k ON k.data_type = 'department' AND k.id = d.id
		  LEFT JOIN ($link_sql) AS p ON p.data_type = 'department' AND p.id = d.parent_id},
		$_[0]));
}

sub actual_users
{
	return by_key(rows(qq{
		SELECT lower(u.username), u.username, u.nickname, u.email, u.phone, u.avatar, u.title,
			   u.enabled, k.uid AS main
		  FROM uds.users u
		  LEFT JOIN ($link_sql) AS k ON k.data_type = 'department' AND k.id = u.main_department_id},
		$_[0]));
}

sub actual_members
{
	return by_key(rows(qq{
		SELECT d.uid || ' ' || u.uid, m.is_owner
		  FROM uds.department_members m
		  LEFT JOIN ($link_sql) AS d ON d.data_type = 'department' AND d.id = m.department_id
		  LEFT JOIN ($link_sql) AS u ON u.data_type = 'user' AND u.id = m.user_id},
		$_[0]));
}

# the first of the texts that is there and not empty
sub first_filled
{
	foreach my $text (@_)
	{
		return $text if defined $text && $text ne '';
	}
	return undef;
}

sub bool
{
	return $_[0] ? 'true' : 'false';
}

# What the tables should be after a complete sync of the directory.  The
# state before, if any, tells who was there and which department was main.
sub expect_directory
{
	my ($directory, $before) = @_;
	my %state = (departments => {}, users => {}, members => {}, main => {});
	my %leads;
	my %has_children;

	$has_children{ $_->{parent} } = 1 foreach @{ $directory->{departments} };
	foreach my $department (@{ $directory->{departments} })
	{
		$state{departments}{ $department->{id} } = $json->encode(
			[
				$department->{name},
				$department->{parent} ? "$department->{parent}" : undef,
				'' . (4294967295 - $department->{order}),
				bool(!$has_children{ $department->{id} }),
				'true'
			]);
		$leads{"$department->{id} " . lc $_} = 1 foreach @{ $department->{leaders} };
	}
	foreach my $person (@{ $directory->{people} })
	{
		my $uid = lc $person->{uid};
		my @places = map { $_->{department} } @{ $person->{memberships} };
		my ($main) = grep { defined $person->{main_department} && $_ == $person->{main_department} } @places;
		my $phone = first_filled($person->{mobile});

		next if $person->{status} eq 'left';
		if (!defined $main)
		{
			my $current = $before ? $before->{main}{$uid} : undef;

			($main) = grep { defined $current && $_ == $current } @places;
			$main //= $places[0];
		}
		$phone =~ s/[ -]//g if defined $phone;
		$state{main}{$uid} = $main;
		$state{users}{$uid} = $json->encode(
			[
				$person->{uid}, $person->{name},
				first_filled($person->{biz_email}, $person->{email}),
				$phone, $person->{avatar}, $person->{title},
				bool($person->{status} ne 'disabled'),
				defined $main ? "$main" : undef
			]);
		foreach my $place (@{ $person->{memberships} })
		{
			$state{members}{"$place->{department} $uid"} =
			  $json->encode([ bool($place->{leader} || $leads{"$place->{department} $uid"}) ]);
		}
	}

	# who left is disabled, in no department
	foreach my $uid ($before ? keys %{ $before->{users} } : ())
	{
		next if exists $state{users}{$uid};

		my $row = $json->decode($before->{users}{$uid});

		@$row[ 6, 7 ] = ('false', undef);
		$state{users}{$uid} = $json->encode($row);
	}
	return \%state;
}

sub check_tables
{
	my ($expected, $name, $db) = @_;

	is_deeply(actual_departments($db), $expected->{departments}, "$name: the departments, row by row");
	is_deeply(actual_users($db), $expected->{users}, "$name: the users, row by row");
	is_deeply(actual_members($db), $expected->{members}, "$name: the memberships, row by row");
	return;
}

# every version of every row that a sync may write
sub versions
{
	my ($db) = @_;

	return query(
		join(' UNION ALL ', map {
			"SELECT '$_ ' || t.xmin || ' ' || t.ctid || ' ' || t.*::text FROM uds.$_ AS t"
		} qw(users departments department_members records record_resources disabled_rows))
		. ' ORDER BY 1', $db);
}

# What the tables have been through.  A worker hands its numbers in before it
# is gone.
sub dead_tuples
{
	my ($db) = @_;

	$node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'uds%worker%' OR application_name = 'uds worker'})
	  or die 'the worker did not end';
	return query(q{
		SELECT relname, n_dead_tup, n_tup_ins, n_tup_upd, n_tup_del
		  FROM pg_stat_user_tables
		 WHERE schemaname = 'uds'
		   AND relname IN ('users', 'departments', 'department_members', 'records', 'record_resources')
		 ORDER BY relname}, $db);
}

sub create_database
{
	my ($db, $mock, %over) = @_;

	query("CREATE DATABASE $db");
	query('CREATE EXTENSION uds', $db);
	create_wecom_source($node, $mock, db => $db, %over);
	return;
}

sub sync_to
{
	my ($db, $status) = @_;
	my $task = query(q{SELECT uds_sync('wecom')}, $db);

	is(wait_task($node, $task, $db), $status // 'success', "$db: the sync ends " . ($status // 'success'))
	  or diag(task_field($node, $task, 'message', $db));
	return $task;
}

sub field
{
	my ($db, $task, $expression) = @_;

	return task_field($node, $task, $expression, $db);
}

#
# A directory of some size: first sync, second sync, a tenth changed
#
{
	my $mock = start_mock(seed => 7, departments => 60, users => 800, latency_ms => 2);
	my $db = 'company';
	my ($directory, $expected, $task, $before, $dead);

	create_database($db, $mock);
	$directory = $mock->call('GET', '/directory');

	# the cases that this directory is to have
	my %place = map { $directory->{departments}[$_]{id} => $_ } 0 .. $#{ $directory->{departments} };
	cmp_ok(
		scalar(grep { $_->{parent} && $place{ $_->{parent} } > $place{ $_->{id} } } @{ $directory->{departments} }),
		'>=', 10, 'departments are listed before their parents');
	cmp_ok(scalar(grep { @{ $_->{memberships} } > 1 } @{ $directory->{people} }),
		'>=', 100, 'people are in several departments');
	cmp_ok(scalar(grep { $_->{status} eq 'left' } @{ $directory->{people} }),
		'>=', 5, 'some are marked as left');

	$task = sync_to($db);
	$expected = expect_directory($directory);
	check_tables($expected, 'first sync', $db);
	is(field($db, $task, 'created'),
		keys(%{ $expected->{users} }) + keys(%{ $expected->{departments} }),
		'first sync: it counts what it created');
	is(field($db, $task, 'linked'), scalar keys %{ $expected->{members} }, 'first sync: it counts the memberships');
	is(field($db, $task, 'fetched'), 860, 'first sync: each person counts once, in however many departments');

	$before = versions($db);
	$dead = dead_tuples($db);
	$task = sync_to($db);
	is(versions($db), $before, 'second sync: every row is the same version');
	is(dead_tuples($db), $dead, 'second sync: nothing was written and taken back');
	is(field($db, $task, 'unchanged'), field($db, $task - 1, 'created'), 'second sync: it counts them as unchanged');
	is(field($db, $task, 'created + updated + enabled + disabled + deleted + linked + unlinked'),
		0, 'second sync: it counts no change');

	foreach my $round (1 .. 3)
	{
		my $said = $mock->control({ mutate => { seed => $round, percent => 10 } })->{mutate};

		$directory = $mock->call('GET', '/directory');
		$expected = expect_directory($directory, $expected);
		$task = sync_to($db);
		check_tables($expected, "round $round of changes", $db);
		cmp_ok(scalar(@{ $said->{moved} }), '>=', 3, "round $round of changes: departments moved");
		cmp_ok(field($db, $task, 'updated'), '>=', 10, "round $round of changes: it counts updates");
		cmp_ok(field($db, $task, 'disabled'), '>=', 10, "round $round of changes: it counts leavers");
		isnt(dead_tuples($db), $dead, "round $round of changes: that leaves dead tuples");

		$before = versions($db);
		$dead = dead_tuples($db);
		sync_to($db);
		is(versions($db), $before, "round $round of changes: the same again touches no row");
		is(dead_tuples($db), $dead, "round $round of changes: nor leaves a dead tuple");
	}

	# another case of the same uid is the same person
	$mock->control({ settings => { wecom => { vary_case => JSON::PP::true } } });
	my $people = query('SELECT count(*) FROM uds.users', $db);
	$task = sync_to($db);
	is(query('SELECT count(*) FROM uds.users', $db), $people, 'uids in another case: nobody is there twice');
	is(field($db, $task, 'disabled + deleted + created'), 0, 'uids in another case: nobody comes or goes');
	is_deeply(actual_members($db), $expected->{members}, 'uids in another case: the memberships are the same');
	$before = versions($db);
	foreach my $every (2 .. 4)
	{
		# some pages come later than those that were asked for after them
		$mock->control({
				faults => [ {
					kind => 'slow', path => '*/user/list', every => $every,
					bytes => 5000, interval_ms => 30 } ]
			});
		sync_to($db);
	}
	is(versions($db), $before, 'uids in another case: in whatever order pages come, nothing changes');
	$mock->stop;
}

#
# Single cases, with the small directory
#
my $mock = start_mock(tiny => 1);

sub edit
{
	my (%edit) = @_;

	$mock->control({ edit => \%edit });
	return;
}

# one user as "enabled nickname: departments", * = owner, ! = main
sub user
{
	my ($db, $uid) = @_;

	return query(qq{
		SELECT u.enabled || ' ' || u.nickname || ':' ||
			   coalesce((SELECT string_agg(' ' || k.uid || CASE WHEN m.is_owner THEN '*' ELSE '' END
									|| CASE WHEN m.department_id = u.main_department_id THEN '!' ELSE '' END,
									'' ORDER BY k.uid)
						   FROM uds.department_members m
						   JOIN ($link_sql) AS k ON k.data_type = 'department' AND k.id = m.department_id
						  WHERE m.user_id = u.id), '')
		  FROM uds.users u
		 WHERE u.username = '$uid'}, $db);
}

sub user_id
{
	my ($db, $uid) = @_;

	return query("SELECT id FROM uds.users WHERE username = '$uid'", $db);
}

create_database('flags', $mock);
sync_to('flags');
is(user('flags', 'marco.rossi'), 'true Marco Rossi: 2! 5', 'one row for who is in two departments');
is(user('flags', 'ZhangWei'), 'true 张伟: 3*! 4', 'the owner of one of two departments');
edit(people => {
		'anna.keller' => {
			departments => [ { department => 4, leader => JSON::PP::true }, 5, { department => 2, leader => JSON::PP::true } ],
			main_department => 5
		}
	});
sync_to('flags');
is(user('flags', 'anna.keller'), 'true Anna Keller: 2* 4* 5!', 'owner and main flags follow the directory');
edit(people => { 'anna.keller' => { departments => [ 4, 2 ], main_department => 0 } });
sync_to('flags');
is(user('flags', 'anna.keller'), 'true Anna Keller: 2* 4!', 'without a main one, the first; an owner by the department stays one');

# made by hand: a new membership, and one that the source asserts as well
my $li = user_id('flags', 'li.na');
query(qq{
	INSERT INTO uds.department_members (department_id, user_id, is_owner)
	SELECT id, $li, true FROM ($link_sql) AS k WHERE data_type = 'department' AND uid = '4'}, 'flags');
my $by_hand = qq{SELECT xmin, ctid, * FROM uds.department_members WHERE user_id = $li AND source_id IS NULL};
my $manual = query($by_hand, 'flags');
isnt($manual, '', 'a membership is made by hand');
sync_to('flags');
is(query($by_hand, 'flags'), $manual, 'a membership made by hand survives a sync');
edit(people => { 'li.na' => { departments => [ 2, 4 ] } });
sync_to('flags');
is(query($by_hand, 'flags'), $manual, 'and a source that says the same, but for the owner');
is(user('flags', 'li.na'), 'true Li Na: 2! 4*', 'the source adds nothing to it');
edit(people => { 'li.na' => { departments => [5], main_department => 5 } });
sync_to('flags');
is(query($by_hand, 'flags'), $manual, 'and a source that no longer says so');
is(user('flags', 'li.na'), 'true Li Na: 4* 5!', 'which withdraws its own');

#
# Leavers, by on_missing
#
sub leaver
{
	my ($policy) = @_;
	my $db = "on_missing_$policy";

	$mock->control({ reset => JSON::PP::true });
	create_database($db, $mock, on_missing => $policy);
	sync_to($db);
	edit(people => { 'marco.rossi' => undef });
	return ($db, user_id($db, 'marco.rossi'), versions($db));
}

# who left comes back, with another main department
sub come_back
{
	edit(people => { 'marco.rossi' => { name => 'Marco Rossi', departments => [ 5, 2 ], main_department => 5 } });
	return;
}

{
	my ($db, $id) = leaver('disable');
	my $task = sync_to($db);

	is(user($db, 'marco.rossi'), 'false Marco Rossi:', 'on_missing disable: the leaver is disabled, in no department');
	is(user_id($db, 'marco.rossi'), $id, 'on_missing disable: in the same row');
	is(field($db, $task, q{disabled || ' ' || deleted || ' ' || unlinked}), '1 0 2', 'on_missing disable: it counts that');
	is(query(q{SELECT deleted FROM uds.records WHERE uid = 'marco.rossi'}, $db), 't', 'on_missing disable: the record is gone');

	my $before = versions($db);
	sync_to($db);
	is(versions($db), $before, 'on_missing disable: a further sync finds nothing to do');

	come_back();
	$task = sync_to($db);
	is(user($db, 'marco.rossi'), 'true Marco Rossi: 2 5!', 'on_missing disable: who comes back is enabled');
	is(user_id($db, 'marco.rossi'), $id, 'on_missing disable: in the same row again');
	is(field($db, $task, q{enabled || ' ' || created || ' ' || linked}), '1 0 2', 'on_missing disable: it counts that');

	# a hand that disabled counts for more
	query(qq{UPDATE uds.users SET enabled = false WHERE id = $id}, $db);
	edit(people => { 'marco.rossi' => { title => 'Advisor' } });
	sync_to($db);
	is(user($db, 'marco.rossi'), 'false Marco Rossi: 2 5!', 'on_missing disable: who was disabled by hand stays so');
	is(query("SELECT title FROM uds.users WHERE id = $id", $db), 'Advisor', 'on_missing disable: and is updated');
}

{
	my ($db, $id) = leaver('delete');
	my $task = sync_to($db);

	is(user_id($db, 'marco.rossi'), '', 'on_missing delete: the leaver is deleted');
	is(query("SELECT count(*) FROM uds.department_members WHERE user_id = $id", $db), 0, 'on_missing delete: memberships too');
	is(field($db, $task, q{disabled || ' ' || deleted}), '0 1', 'on_missing delete: it counts that');
	come_back();
	$task = sync_to($db);
	is(user($db, 'marco.rossi'), 'true Marco Rossi: 2 5!', 'on_missing delete: who comes back is there');
	isnt(user_id($db, 'marco.rossi'), $id, 'on_missing delete: in another row');
	is(field($db, $task, q{enabled || ' ' || created}), '0 1', 'on_missing delete: it counts that');

	# a department with one below it
	edit(departments => { 4 => { parent => 5 } });
	sync_to($db);
	edit(departments => { 5 => undef, 4 => { parent => 1 } },
		people => { 'tom.becker' => { departments => [1] }, 'emma.dubois' => { departments => [1] } });
	sync_to($db);
	is(query(q{SELECT count(*) FROM uds.departments WHERE title = 'Finance & People'}, $db),
		0, 'on_missing delete: a department goes as well');
	is(user($db, 'marco.rossi'), 'true Marco Rossi: 2!', 'on_missing delete: and its memberships');
	check_tables(expect_directory($mock->call('GET', '/directory')), 'on_missing delete', $db);
}

{
	my ($db, $id, $before) = leaver('keep');
	my $task = sync_to($db);

	is(versions($db), $before, 'on_missing keep: a leaver changes nothing');
	is(field($db, $task, 'created + updated + enabled + disabled + deleted + linked + unlinked'),
		0, 'on_missing keep: it counts that');
	is(query(q{SELECT deleted FROM uds.records WHERE uid = 'marco.rossi'}, $db), 'f', 'on_missing keep: the record stays');
	come_back();
	sync_to($db);
	is(user($db, 'marco.rossi'), 'true Marco Rossi: 2 5!', 'on_missing keep: who comes back has the row');
	is(user_id($db, 'marco.rossi'), $id, 'on_missing keep: which is the same');
}

#
# A read that shows nobody is a fault, not a fact
#
{
	my $db = 'nobody';
	my ($before, $task);

	$mock->control({ reset => JSON::PP::true });
	create_database($db, $mock, on_missing => 'delete');
	sync_to($db);
	$before = versions($db);

	$mock->control({ directory => { seed => 1, departments => 5, users => 0 } });
	$task = sync_to($db, 'failed');
	is(versions($db), $before, 'a read without users changes nothing');
	like(field($db, $task, 'message'), qr/source "wecom" showed not a single user although it had some before/,
		'and says so');

	$mock->control({ reset => JSON::PP::true, settings => { wecom => { credentials => { 'app-secret' => { mode => 'app', scope => [] } } } } });
	$task = sync_to($db, 'failed');
	is(versions($db), $before, 'a read without departments changes nothing');
	like(field($db, $task, 'message'), qr/source "wecom" showed not a single (user|department) although it had some before/,
		'and says so');

	# nor does the first read of a source that has nobody
	create_database('nobody_yet', $mock);
	sync_to('nobody_yet');
	is(query('SELECT count(*) FROM uds.users', 'nobody_yet'), 0, 'a source that never showed anybody may be empty');
}

$node->stop;
done_testing();
