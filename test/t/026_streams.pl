# Manifests of one's own, in a source of type http: which requests are made
# for which records, what becomes of a record, and reading only what changed.
use strict;
use warnings;

use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsManifest;
use UdsTest qw(:DEFAULT query);

my $mock = start_mock(service => 'rest', tiny => 1);
my $node = new_node();
my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $directory = $mock->call('GET', '/directory');
my $people = @{ $directory->{people} };
my $units = @{ $directory->{departments} };
my $memberships = 0;

$memberships += @{ $_->{memberships} } foreach @{ $directory->{people} };

my %unit_fields = (
	uid => '$.id',
	title => '$.name',
	parentUid => { coalesce => [ { path => '$.above', when => '$.above != 0' }, { path => 'null', when => '$.above == 0' } ] },
	owners => { all => '$.heads[*]' });
my %in_units = (departments => { each => '$.units[*]', fields => { uid => '$' } });

sub settings
{
	$mock->control({ settings => { rest => {@_} } });
	return;
}

sub edit
{
	$mock->control({ edit => {@_} });
	return;
}

# the directory as the tables show it
sub tables
{
	return query(q{
		SELECT 'd', d.title, p.title, NULL FROM uds.departments d LEFT JOIN uds.departments p ON p.id = d.parent_id WHERE d.enabled
		 UNION ALL
		SELECT 'u', nickname, phone, title FROM uds.users
		 UNION ALL
		SELECT 'm', d.title, u.nickname, m.is_owner::text
		  FROM uds.department_members m
		  JOIN uds.users u ON u.id = m.user_id
		  JOIN uds.departments d ON d.id = m.department_id
		 ORDER BY 1, 2, 3, 4});
}

# one person's row, as an expression
sub person
{
	my ($nickname, $expression) = @_;

	return query("SELECT $expression FROM uds.users WHERE nickname = " . quote($nickname));
}

sub counts
{
	return field(q{concat_ws(' ', fetched, created, updated, enabled, disabled, deleted, linked, unlinked, failed)});
}

$node->safe_psql('postgres', 'CREATE EXTENSION uds');
source_of($node, $mock);

#
# The same company by different requests
#
# by_streams($name, $streams, $plan, $requests): gives the same tables as ever
my $tables;

sub by_streams
{
	my ($name, $streams, $plan, $requests) = @_;
	my $manifest = people_manifest(streams => $streams, plans => [ { name => 'all', streams => $plan } ]);

	is(read_by($manifest), 'success', "$name: it is read") or diag(field('message'));
	is(field('complete'), 't', "$name: as a whole");
	is(seen(qr/./), $requests, "$name: with $requests requests");
	if (defined $tables)
	{
		is(counts() =~ s/^\S+ //r, '0 0 0 0 0 0 0 0', "$name: and comes to the same")
		  or diag(query('SELECT * FROM uds.changes WHERE task_id = ' . field('id')));
	}
	else
	{
		$tables = tables();
	}
	is(tables(), $tables, "$name: the tables are the same");
	return;
}

my %all_units = (type => 'department', request => { path => '/all/units' }, records => '$.items[*]', expect => '$.items', fields => \%unit_fields);
my %of_unit = (
	for_each => { stream => 'units', value => '$.items[*].id', as => 'unit' },
	request => { path => '/units/{unit}/people' },
	records => '$.items[*]',
	expect => '$.items');

by_streams('two lists', {
		units => \%all_units,
		people => { type => 'user', request => { path => '/all/people' }, records => '$.items[*]', expect => '$.items',
			fields => { uid => '$.id', nickname => '$.name', %in_units } }
	},
	[ 'units', 'people' ], 2);
is(query('SELECT count(*) FROM uds.department_members'), $memberships, 'every membership is there');
by_streams('people of each unit', {
		units => \%all_units,
		people => { %of_unit, type => 'user', merge => $true,
			fields => { uid => '$.id', nickname => '$.name', departments => { each => '$context.unit', fields => { uid => '$' } } } }
	},
	[ 'units', 'people' ], 1 + $units);
by_streams('memberships by themselves', {
		units => \%all_units,
		people => { type => 'user', request => { path => '/all/people' }, records => '$.items[*]', fields => { uid => '$.id', nickname => '$.name' } },
		places => { %of_unit, type => 'member', fields => { uid => '$.id', department => { context => 'unit' } } }
	},
	[ 'units', 'people', 'places' ], 2 + $units);
by_streams('memberships from the lists of people', {
		units => \%all_units,
		people => { type => 'user', request => { path => '/all/people' }, records => '$.items[*]', fields => { uid => '$.id', nickname => '$.name' } },
		places => { type => 'member', pages_of => 'people', records => '$.items[*]', unnest => '$.units[*]',
			fields => { uid => '$record.id', department => '$' } }
	},
	[ 'units', 'people', 'places' ], 2);
by_streams('the tree, from the root down', {
		root => { type => 'department', for_each => { values => ['1'], as => 'unit' }, request => { path => '/units/{unit}' },
			records => '$.unit', fields => \%unit_fields },
		units => { type => 'department', for_each => { as => 'unit', from => [ { stream => 'root', value => '$.unit.id' }, { stream => 'units', value => '$.items[*].id' } ] },
			request => { path => '/units/{unit}/children' }, records => '$.items[*]', expect => '$.items', fields => \%unit_fields },
		people => { type => 'user', request => { path => '/all/people' }, records => '$.items[*]',
			fields => { uid => '$.id', nickname => '$.name', %in_units } }
	},
	[ 'root', 'units', 'people' ], 2 + $units);
by_streams('a root that is made up', {
		root => { type => 'department', synthesize => { unit => { id => 1, name => $directory->{departments}[0]{name}, heads => $directory->{departments}[0]{leaders} } },
			records => '$.unit', fields => { %unit_fields, parentUid => { const => undef } } },
		units => { %all_units, where => '$.above != 0' },
		people => { type => 'user', request => { path => '/all/people' }, records => '$.items[*]',
			fields => { uid => '$.id', nickname => '$.name', %in_units } }
	},
	[ 'root', 'units', 'people' ], 2);
# which of the requests is answered first must not matter
is(query(q{SELECT count(*) FROM uds.records WHERE jsonb_array_length(data -> 'departments') > 1}), 3, 'some are in several units');
my %by_unit = (
	units => \%all_units,
	people => { type => 'user', request => { path => '/all/people' }, records => '$.items[*]', fields => { uid => '$.id', nickname => '$.name' } },
	places => { %of_unit, type => 'member', fields => { uid => '$.id', department => { context => 'unit' } } },
	heads => { type => 'department', partial => $true, pages_of => 'places', records => '$',
		fields => { uid => { const => 1 }, note => '$context.unit' } });
my @versions;

foreach my $late (1 .. $units)
{
	my @slow = map { { path => "/rest/units/$_/people", kind => 'status', status => 503, times => 1 } } grep { $_ != $late } 1 .. $units;

	$mock->control({ faults => \@slow });
	is(read_by(people_manifest(streams => \%by_unit, plans => [ { name => 'all', streams => [ 'units', 'people', 'places', 'heads' ] } ])),
		'success', "unit $late is answered before the others");
	is(query("SELECT stream || ' ' || (context ->> 'unit') FROM uds.raw_log WHERE task_id = " . field('id') . " AND usable AND stream = 'places' ORDER BY seq LIMIT 1"),
		"places $late", 'as it is');
	push @versions, query('SELECT sum(xmin::text::bigint) FROM uds.records');
}
$mock->control({ faults => [] });
is(join(' ', @versions[ 1 .. $#versions ]), join(' ', ($versions[0]) x $#versions), 'no record was written for that');
by_streams('units that come in parts', {
		units => { %all_units, fields => { uid => '$.id', title => '$.name', parentUid => $unit_fields{parentUid} } },
		heads => { type => 'department', partial => $true, pages_of => 'units', records => '$.items[*]',
			fields => { uid => '$.id', owners => { all => '$.heads[*]' } } },
		people => { type => 'user', request => { path => '/all/people' }, records => '$.items[*]',
			fields => { uid => '$.id', nickname => '$.name', %in_units } }
	},
	[ 'units', 'heads', 'people' ], 2);

#
# Listings that say "not found" for nobody, and nodes that are gone
#
my %two = (
	units => \%all_units,
	people => { %of_unit, type => 'user', merge => $true,
		fields => { uid => '$.id', nickname => '$.name', departments => { each => '$context.unit', fields => { uid => '$' } } } });
my @plan = (plans => [ { name => 'all', streams => [ 'units', 'people' ] } ]);

edit(departments => { 90 => { name => 'Nobody', parent => 1 } });
settings(not_found_is_empty => $true);
is(read_by(people_manifest(streams => \%two, errors => { empty => ['nobody'] }, @plan)), 'success', 'a list of nobody that is "not found" is empty');
is(field('complete'), 't', 'and nothing is missing');
edit(departments => { 90 => undef });
is(read_by(people_manifest(streams => \%two, errors => { scope => ['nobody'] }, @plan)), 'success', 'without such a list nothing is amiss');
edit(departments => { 90 => { name => 'Nobody', parent => 1 } });
is(read_by(people_manifest(streams => \%two, errors => { scope => ['nobody'] }, @plan)), 'partial', 'a node that may not be seen makes the read partial');
is(field('complete'), 'f', 'and incomplete, so that nobody goes missing by it');
is(query('SELECT string_agg(message, $$|$$) FROM uds.task_errors WHERE task_id = ' . field('id')) =~ /90/ ? 1 : 0, 1, 'the error names the node');
edit(departments => { 90 => undef });
settings(not_found_is_empty => $false);
is(read_by(people_manifest(streams => \%two, @plan)), 'success', 'all is well again');
is(tables(), $tables, 'and as it was');

#
# Fields
#
query('ALTER TABLE uds.users ADD hired timestamptz, ADD skills text, ADD nick text, ADD kind text, ADD floor integer');
is(read_by(people_manifest(people => { fields => {
		uid => '$.id',
		nickname => { path => '$.name', apply => ['trim'] },
		phone => { path => '$.tel', apply => [ 'tel', 'phone' ] },
		email => { coalesce => [ '$.mail', { template => '{$.id}@example.org' } ], apply => ['lower'] },
		enabled => { path => '$.state == "active"' },
		title => { map => '$.state', values => { active => 'there', disabled => 'away' }, default => 'neither' },
		hired => { date => '$.hired', from => 'epoch_ms' },
		skills => { join => { all => '$.skills[*]' }, separator => ' / ' },
		nick => { path => '$.alias', of => { json => '$.extra' } },
		kind => '$options.kind' } },
	streams => { units => \%all_units }), kind => 'staff'), 'success', 'every kind of expression is read') or diag(field('message'));

foreach my $person (@{ $directory->{people} })
{
	my $name = $person->{name};
	my $state = { active => 'there', disabled => 'away' }->{ $person->{status} } // 'neither';
	my $phone = defined $person->{mobile} ? $person->{mobile} =~ s/[ -]//gr : '';

	next if $name =~ /[^ -~]/;
	is(person($name, q{concat_ws('|', title, enabled, phone, kind, hired AT TIME ZONE 'UTC')}),
		join('|', $state, $person->{status} eq 'active' ? 't' : 'f', $phone || (), 'staff', '2020-01-01 00:00:00'), "fields of $name");
	is(person($name, q{concat_ws('|', nick, skills)}),
		join('|', grep { length } $person->{alias} // '', join(' / ', grep { length } map { $_->{text} // () } @{ $person->{attributes} })), "nested fields of $name");
}

# what a source adds for itself
edit(people => { 'anna.keller' => { alias => '2' } });
my $added = people_manifest();

is(read_by($added, user_fields => { nickname => '$.id', floor => { path => '$.alias.double()', of => { json => '$.extra' } } },
	user_where => '$.units[*] != 99 && $.id starts with "anna"'), 'success', 'a source has fields and a condition of its own') or diag(field('message'));
is(field('fetched'), 1, 'only those who fulfil the condition are taken');
is(query(q{SELECT concat_ws('|', nickname, floor) FROM uds.users WHERE enabled}), 'anna.keller|2', 'with these fields');

#
# Reading only what changed
#
# incremental($name, $state, $query): full, nothing, changes, a leaver, and
# another full read that finds nothing
sub incremental
{
	my ($name, $state, $query) = @_;
	my %changed = (type => 'user', request => { path => '/all/changes', query => $query }, records => '$.items[*]', expect => '$.items',
		state => $state, fields => { uid => '$.id', nickname => '$.name', title => '$.job', isDeleted => { path => 'exists($.gone)' } });
	my $manifest = people_manifest(
		people => { fields => { uid => '$.id', nickname => '$.name', title => '$.job' }, state => $state },
		errors => { restart => ['too_long_ago'] },
		streams => { changed => \%changed },
		plans => [ { name => 'all', streams => ['people'] }, { name => 'changes', mode => 'incremental', streams => ['changed'] } ]);

	$mock->control({ reset => $true });
	query(q{SELECT uds_drop_source('plain', keep_data => false)});
	is(read_by($manifest), 'success', "$name: everything first") or diag(field('message'));
	is(query('SELECT count(*) FROM uds.users'), $people, "$name: everybody is there");
	is(sync_now('auto'), 'success', "$name: then what changed");
	is(seen(qr/changes/), 1, "$name: by one request");
	is(seen(qr/people/), 0, "$name: and no other");
	is(field('complete IS NULL OR NOT complete'), 't', "$name: that is no complete read");
	is(query('SELECT count(*) FROM uds.users'), $people, "$name: nobody goes missing by it");

	edit(people => { 'anna.keller' => { title => 'Chair' }, 'li.na' => undef, 'new.one' => { name => 'New One' } });
	is(sync_now('auto'), 'success', "$name: after changes");
	is(person('Anna Keller', 'title'), 'Chair', "$name: a change arrives");
	is(query(q{SELECT count(*) FROM uds.users WHERE nickname = 'Li Na'}), 0, "$name: a leaver goes");
	is(person('New One', 'enabled'), 't', "$name: somebody new is there");
	my $after = tables();

	is(sync_now('full'), 'success', "$name: a full read after that");
	is(counts() =~ s/^\S+ //r, '0 0 0 0 0 0 0 0', "$name: finds nothing else");

	settings(changes => 'gone');
	edit(people => { 'anna.keller' => { title => 'Chief' } });
	is(sync_now('auto'), 'success', "$name: when the service has forgotten");
	is(seen(qr/people/), 1, "$name: everything is read");
	is(person('Anna Keller', 'title'), 'Chief', "$name: and nothing lost");
	settings(changes => 'known');
	is(sync_now('auto'), 'success', "$name: and after that");
	is(seen(qr/people/), 0, "$name: only changes again");
	return;
}

incremental('since a time', { since => { date => 'iso', overlap => 5 } }, { since => '{state.since}' });
incremental('since a time in milliseconds', { since => { date => 'epoch_ms', overlap => 5 } }, { since => '{state.since}' });

my %changed = (type => 'user', request => { path => '/all/changes', query => { after => '{state.number}' } }, records => '$.items[*]',
	fields => { uid => '$.id', nickname => '$.name', isDeleted => { path => 'exists($.gone)' } });
my %all = (%changed, request => { path => '/all/changes' });

foreach my $way ([ 'the greatest number', { max => '$.items[*].number' } ], [ 'the last number told', { last => '$.last' } ])
{
	my ($name, $state) = @$way;
	my $manifest = people_manifest(
		people => { %all, state => { number => $state } },
		streams => { changed => { %changed, state => { number => $state } } },
		plans => [ { name => 'all', streams => ['people'] }, { name => 'changes', mode => 'incremental', streams => ['changed'] } ]);

	$mock->control({ reset => $true });
	query(q{SELECT uds_drop_source('plain', keep_data => false)});
	is(read_by($manifest), 'success', "$name: everything first") or diag(field('message'));
	is(sync_now('auto'), 'success', "$name: then changes");
	is(field('fetched'), 0, "$name: there are none");
	edit(people => { 'anna.keller' => { name => 'Anna K.' } });
	is(sync_now('auto'), 'success', "$name: after a change");
	is(field(q{concat_ws(' ', fetched, updated)}), '1 1', "$name: that comes, and nothing else");
	is(query(q{SELECT sync_state ->> 'state' ~ '"number": "?[0-9]+' FROM uds.sources WHERE name = 'plain'}), 't', "$name: it is noted");
}

# a full read from time to time
is(sync_now('auto'), 'success', 'one more');
is(seen(qr/changes/), 1, 'is for changes');
my $state = query(q{SELECT sync_state ->> 'full_read_at' FROM uds.sources WHERE name = 'plain'});

query(q{ALTER SYSTEM SET uds.full_sync_interval = 0});
query('SELECT pg_reload_conf()');
$node->poll_query_until('postgres', q{SELECT current_setting('uds.full_sync_interval') = '0'}) or die 'the setting did not come';
is(sync_now('incremental'), 'success', 'changes can be asked for, however old the last full read is');
is(query(q{SELECT sync_state ->> 'full_read_at' FROM uds.sources WHERE name = 'plain'}), $state, 'which is no full read');
is(sync_now('auto'), 'success', 'without that word, it is time for a full read');
isnt(query(q{SELECT sync_state ->> 'full_read_at' FROM uds.sources WHERE name = 'plain'}), $state, 'which is noted');
query(q{ALTER SYSTEM RESET uds.full_sync_interval});
query('SELECT pg_reload_conf()');

# other options: what was noted for the old ones is not good for them
query(q{SELECT uds_alter_source('plain', options => '{"kind": "other"}')});
$node->poll_query_until('postgres', q{SELECT current_setting('uds.full_sync_interval') <> '0'}) or die 'the setting did not come';
is(sync_now('auto'), 'success', 'a source that was changed');
isnt(query(q{SELECT sync_state ->> 'full_read_at' FROM uds.sources WHERE name = 'plain'}), $state, 'is read as a whole');

# a sync that fails notes nothing
edit(people => { 'anna.keller' => { name => 'Anna L.' } });
$mock->control({ faults => [ { path => '/rest/all/changes', kind => 'drop' } ] });
is(sync_now('incremental'), 'failed', 'a read of changes that breaks off fails');
$mock->control({ faults => [] });
is(sync_now('incremental'), 'success', 'and the next one');
is(query(q{SELECT count(*) FROM uds.users WHERE nickname = 'Anna L.'}), 1, 'brings what changed');

$node->stop;
done_testing();
