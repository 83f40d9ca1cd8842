# What is in the tables, as text that two moments, or two databases, can be
# compared by.
package UdsState;

use strict;
use warnings;

use Exporter 'import';
use UdsTest qw(query);

our @EXPORT = qw(directory_now rows_now state_now);

# Everything that a sync writes, ids included; when a row was touched last is
# no part of it.
sub state_now
{
	my ($db) = @_;

	return query(q{
		SELECT 'user ' || (to_jsonb(u) - 'updated_at')::text FROM uds.users u
		UNION ALL
		SELECT 'department ' || (to_jsonb(d) - 'updated_at')::text FROM uds.departments d
		UNION ALL
		SELECT 'member ' || m::text FROM uds.department_members m
		UNION ALL
		SELECT 'record ' || (to_jsonb(r) - '{id,last_data,changed_at,first_seen_at,task_id,restored}'::text[])::text
			|| coalesce(l.resource_pk || l.created, ' no row') FROM uds.records r LEFT JOIN uds.record_resources l ON l.record_id = r.id
		UNION ALL
		SELECT 'disabled ' || o::text FROM uds.disabled_rows o
		ORDER BY 1}, $db);
}

# The same without records that never stood behind a row: of who had left
# before the first read.
sub rows_now
{
	my ($db) = @_;

	return join "\n", grep { !/no row$/ } split /\n/, state_now($db);
}

# The same as people see it, without ids and times
sub directory_now
{
	my ($db) = @_;

	return query(q{
		SELECT 'user ' || (to_jsonb(u) - '{id,main_department_id,created_at,updated_at}'::text[])::text || coalesce(d.title, '')
		FROM uds.users u LEFT JOIN uds.departments d ON d.id = u.main_department_id
		UNION ALL
		SELECT 'department ' || d.title || d.sort || d.is_leaf || d.enabled || coalesce(p.title, '')
		FROM uds.departments d LEFT JOIN uds.departments p ON p.id = d.parent_id
		UNION ALL
		SELECT 'member ' || u.username || ' ' || d.title || m.is_owner || (m.source_id IS NULL)
		FROM uds.department_members m JOIN uds.users u ON u.id = m.user_id JOIN uds.departments d ON d.id = m.department_id
		ORDER BY 1}, $db);
}

1;
