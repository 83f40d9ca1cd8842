# UdsService: what the tests of one service share: syncs of it, what is in the
# tables then, steering its mock.
package UdsService;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP ();
use UdsTest qw(:DEFAULT query);

our @EXPORT = qw(
  $task
  counts
  create_source
  drop_source
  dump_tables
  edit
  faults
  field
  members
  parent
  person
  row_versions
  service
  settings
  sync_as
);

my $json = JSON::PP->new->canonical;
my ($node, $mock, $name, %defaults);

# the task of the last sync_as()
our $task;

# service($node, $mock, $name, %options): which one it is about, and what its
# sources are created with unless they say otherwise
sub service
{
	($node, $mock, $name, %defaults) = @_;
	return;
}

# create_source($source, %options): of the type of the service, with a guard that
# does not mind a few leavers
sub create_source
{
	my ($source, %over) = @_;
	my %options = (%defaults, %over);
	my $options = $json->encode(\%options);

	# text of bytes is to stay so
	utf8::downgrade($options, 1);
	query('SELECT uds_create_source(' . quote($source) . ', ' . quote($name) . ', ' . quote($options) . ', guard_min => 1000)');
	return;
}

# drop_source($source): with all that came from it
sub drop_source
{
	my ($source) = @_;

	query('SELECT uds_drop_source(' . quote($source) . ', keep_data => false)');
	return;
}

# row_versions(): changes when a row of any of the tables is written
sub row_versions
{
	return query(q{
		SELECT sum(x::text::bigint), count(*)
		  FROM (SELECT xmin AS x FROM uds.users
		         UNION ALL SELECT xmin FROM uds.departments
		         UNION ALL SELECT xmin FROM uds.department_members
		         UNION ALL SELECT xmin FROM uds.records) AS t});
}

# sync_as($mode, $source): syncs and notes the task, which may end in any way
sub sync_as
{
	my ($mode, $source) = @_;

	$task = query('SELECT uds_sync(' . quote($source // $name) . ', ' . quote($mode) . ')');
	return wait_task($node, $task);
}

# field($expression): of that task
sub field
{
	my ($expression) = @_;

	return task_field($node, $task, $expression);
}

# counts(): of that task, in one line
sub counts
{
	return field(q{concat_ws(' ', fetched, created, updated, enabled, disabled, deleted, linked, unlinked, unchanged, failed)});
}

# settings(%settings): of the mock's service
sub settings
{
	$mock->control({ settings => { $name => {@_} } });
	return;
}

# edit(%changes): of the mock's directory
sub edit
{
	$mock->control({ edit => {@_} });
	return;
}

# faults(@faults): the only ones from now on
sub faults
{
	$mock->control({ faults => [@_] });
	return;
}

# person($nickname, $expression): of one person's row
sub person
{
	my ($nickname, $expression) = @_;

	return query("SELECT $expression FROM uds.users WHERE nickname = " . quote($nickname));
}

# members($title, $by): who is in a department, by nickname or another column,
# leaders with a star
sub members
{
	my ($title, $by) = @_;

	$by //= 'nickname';
	return query(qq{
		SELECT string_agg(u.$by || CASE WHEN m.is_owner THEN '*' ELSE '' END, ', ' ORDER BY u.$by COLLATE "C")
		  FROM uds.department_members m
		  JOIN uds.users u ON u.id = m.user_id
		  JOIN uds.departments d ON d.id = m.department_id
		 WHERE d.title = } . quote($title));
}

# parent($title): the title of the department above, or "none"
sub parent
{
	my ($title) = @_;

	return query(q{
		SELECT coalesce(p.title, 'none')
		  FROM uds.departments d
		  LEFT JOIN uds.departments p ON p.id = d.parent_id
		 WHERE d.title = } . quote($title));
}

# dump_tables(): everything but times and ids, to compare
sub dump_tables
{
	return query(q{
		SELECT 'u', u.username, u.nickname, u.email, u.phone, u.title, u.avatar, u.enabled::text, d.title
		  FROM uds.users u LEFT JOIN uds.departments d ON d.id = u.main_department_id
		 UNION ALL
		SELECT 'd', d.title, p.title, d.enabled::text, d.sort::text, NULL, NULL, NULL, NULL
		  FROM uds.departments d LEFT JOIN uds.departments p ON p.id = d.parent_id
		 UNION ALL
		SELECT 'm', d.title, u.username, m.is_owner::text, NULL, NULL, NULL, NULL, NULL
		  FROM uds.department_members m
		  JOIN uds.users u ON u.id = m.user_id
		  JOIN uds.departments d ON d.id = m.department_id
		 ORDER BY 1, 2, 3});
}

1;
