# Directories: what happens between two reads.  Each change is looked for by an
# incremental read, by whatever the server offers; a full one after it must find
# nothing more.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsService;
use UdsSlapd;
use UdsTest qw(:DEFAULT query);

my $why = UdsSlapd::missing();

plan skip_all => "CHANGES OF A DIRECTORY ARE NOT TESTED: $why" if $why;

my $base = $UdsSlapd::base;
my @units = UdsSlapd::units();
my $syncprov = "overlay syncprov\nsyncprov-sessionlog 1000";
my $slapd = UdsSlapd->start(people => 600, overlays => $syncprov);
my $node = new_node('autovacuum' => 'off');
my %dn = map { my ($dn) = UdsSlapd::person($_, \@units); ("u" . sprintf('%05d', $_) => $dn) } 0 .. 599;

# noted($name): of what was noted for the next read
sub noted
{
	return query(q{SELECT state->'state'->>} . quote($_[0]) . q{ FROM uds.source_state WHERE source_id = (SELECT id FROM uds.sources WHERE name = 'ldap')});
}

# an incremental read, with what it is to count: users and memberships
sub changes_are
{
	my ($expected, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sync_as('incremental'), 'success', $name) or diag(field('message'));
	is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked)}), $expected, '... as counted');
	is(field(q{complete IS NULL OR NOT complete}), 't', '... by what changed');
	return;
}

# a full read finds nothing that was not found
sub nothing_else
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sync_as('full'), 'success', 'a full read after that');
	is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked)}), '0 0 0 0 0 0 0', 'finds nothing else');
	return;
}

sub unit_of
{
	return query('SELECT d.title FROM uds.users u JOIN uds.departments d ON d.id = u.main_department_id WHERE u.username = ' . quote($_[0]));
}

# how many people the pages of the last task are about
sub people_read
{
	return query("SELECT coalesce(sum(jsonb_array_length(body::jsonb)), 0) FROM uds.raw_log WHERE task_id = $task AND stream = 'users'");
}


# dn($i): of somebody of the company
sub dn
{
	return (UdsSlapd::person($_[0], \@units))[0];
}

# Everything that can be done to people and units, in an area of their own, by a
# way of asking.  $tells_leavers says whether that tells who has gone.
sub play
{
	my ($method, $area, $tells_leavers) = @_;
	my @unit = @units[ 7 * $area .. 7 * $area + 6 ];
	my @i = map { 140 + 7 * $area + $_ } 0 .. 6;
	my @uid = map { sprintf 'u%05d', $_ } @i;
	my $next = $units[ 7 * $area + 7 ];

	is(sync_as('auto'), 'success', "$method: the first read") or diag(field('message'));
	is(field('complete'), 't', 'is a full one');
	is(noted('kind'), $method, 'and notes what the next one is to ask for');
	changes_are('0 0 0 0 0 0 0', "$method: nothing has happened");
	cmp_ok(people_read(), '<', 600, 'and not everybody was read again');

	$slapd->change(dn($i[1]), replace => title => 'Chief');
	$slapd->change(dn($i[2]), delete => title => undef);
	changes_are('0 2 0 0 0 0 0', "$method: changed attributes");
	is(query("SELECT string_agg(coalesce(title, 'none'), ', ' ORDER BY username) FROM uds.users WHERE username IN ('$uid[1]', '$uid[2]')"),
		'Chief, none', 'a value that is there no more is gone here, too');
	cmp_ok(people_read(), '<', 600, 'of those who changed, and few others');

	$slapd->add(entry("uid=new $area\\, one,$unit[3]", objectClass => 'inetOrgPerson', uid => "new $area, one", cn => 'New One', sn => 'One'));
	changes_are('1 0 0 0 0 1 0', "$method: somebody new");
	is(unit_of("new $area, one"), "Team $area-2", 'is where the entry is');

	$slapd->rename(dn($i[3]), "uid=$uid[3]", $unit[1]);
	changes_are('0 1 0 0 0 1 1', "$method: somebody moves");
	is(unit_of($uid[3]), "Team $area-0", 'to where the entry is now');

	my $id = query(qq{SELECT id FROM uds.users WHERE username = 'new $area, one'});

	$slapd->rename("uid=new $area\\2C one,$unit[3]", "uid=newer $area+cn=New One");
	changes_are('0 1 0 0 0 0 0', "$method: somebody gets another name");
	is(query("SELECT username FROM uds.users WHERE id = $id"), "newer $area", 'and stays the same row');

	# of all below a unit, no entry changes with it
	$slapd->rename($unit[1], 'ou=Renamed');
	changes_are('0 1 0 0 0 0 0', "$method: a unit is renamed");
	is(parent("Squad $area-0"), 'Renamed', 'and keeps what is below');
	$slapd->rename("ou=Renamed,$unit[0]", 'ou=Renamed', $next);
	changes_are('0 1 0 0 0 0 0', "$method: a unit moves");
	is(query(q{SELECT path[2] FROM uds.department_tree WHERE title = } . quote("Cell $area")),
		parent('Team ' . ($area + 1) . '-0'), 'with all that is below');
	is(unit_of($uid[4]), "Squad $area-0", 'and all who are there');
	nothing_else();
	$slapd->rename("ou=Renamed,$next", "ou=Team $area-0", $unit[0]);
	changes_are('0 1 0 0 0 0 0', "$method: it moves back and has its old name again");

	$slapd->delete(dn($i[5]), "cn=New One+uid=newer $area,$unit[3]");
	is(sync_as('incremental'), 'success', "$method: two leave");
	is(field(q{concat_ws(' ', deleted, disabled, unlinked)}), $tells_leavers ? '2 0 2' : '0 0 0', $tells_leavers ? 'which is told' : 'which this way does not tell');
	is(sync_as('full'), 'success', 'a full read');
	is(field(q{concat_ws(' ', deleted, disabled, unlinked)}), $tells_leavers ? '0 0 0' : '0 2 2', $tells_leavers ? 'finds no more' : 'misses them');
	is(query("SELECT count(*) FROM uds.users WHERE enabled AND username IN ('$uid[5]', 'newer $area')"), 0, 'they are gone');
	return;
}

query('CREATE EXTENSION uds');
service($node, undef, 'ldap', $slapd->options);

#
# By the cookie of syncrepl
#
create_source('ldap', user_filter => '(&(objectClass=inetOrgPerson)(!(employeeType=external)))');
play('sync', 0, 1);

# who does not fit any more has left
$slapd->change(dn(210), add => employeeType => 'external');
changes_are('0 0 0 0 1 0 1', 'somebody does not fit the filter any more');
$slapd->change(dn(210), delete => employeeType => undef);
changes_are('1 0 0 0 0 1 0', 'and does again');

# units that go
$slapd->delete(map { dn($_) } grep { $_ % 70 == 6 } 210 .. 599);
$slapd->delete(map { dn($_) } grep { $_ % 70 == 6 } 0 .. 209);
$slapd->delete($units[6]);
is(sync_as('incremental'), 'success', 'a unit goes, and who was there') or diag(field('message'));
is(field(q{concat_ws(' ', deleted, disabled, unlinked)}), '10 0 9', 'as is told');
is(query(q{SELECT count(*) FROM uds.departments WHERE title = 'Cell 0'}), 0, 'it is not there any more');
nothing_else();

# the log of deletions goes with the server
my $cookie = noted('cookie');

$slapd->change(dn(229), replace => title => 'Before');
$slapd->delete(dn(217));
$slapd->restart;
$slapd->delete(dn(218));
$slapd->change(dn(219), replace => title => 'After');
changes_are('0 2 0 0 2 0 2', 'after a restart of the server');
isnt(noted('cookie'), $cookie, 'a new cookie came');
nothing_else();

# a database that is older than the cookie
$slapd->save('older');
$slapd->change(dn(220), replace => title => 'Lost');
$slapd->delete(dn(221));
changes_are('0 1 0 0 1 0 1', 'changes');
$slapd->restore('older');
is(sync_as('incremental'), 'success', 'which are lost when an older database is restored') or diag(field('message'));
is(field(q{complete}), 't', 'all is read then');
is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted)}), '1 1 0 0 0', 'and as it was');
changes_are('0 0 0 0 0 0 0', 'after that, changes again');

# cookies that are none, and ones of somebody else
foreach my $odd ('garbage', '', "rid=000,csn=x\x01", 'rid=000,csn=20200101000000.000000Z#000000#000#000000')
{
	query(q{UPDATE uds.source_state SET state = jsonb_set(state, '{state,cookie}', to_jsonb(} . quote($odd) . '::text))');
	$slapd->change(dn(222), replace => title => "Beside '$odd'" =~ s/\x01//r);
	is(sync_as('incremental'), 'success', 'a cookie that the server does not take: "' . ($odd =~ s/\x01/?/r) . '"') or diag(field('message'));
	is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted)}), '0 1 0 0 0', 'what changed arrives, and nobody goes');
}
foreach my $odd ('{"kind": "sync"}', '{"kind": "usn", "usn": "1"}', '{"kind": 7}', '[]')
{
	query(q{UPDATE uds.source_state SET state = jsonb_set(state, '{state}', } . quote($odd) . ')');
	is(sync_as('incremental'), 'success', "a note that says nothing: $odd") or diag(field('message'));
	is(field(q{concat_ws(' ', complete, created, updated, disabled, deleted)}), 't 0 0 0 0', 'makes a full read');
}

# a server that offers it and does not do it, and one that has it no more
$slapd->restart(overlays => '# syncprov');
$slapd->delete(dn(223));
is(sync_as('incremental'), 'success', 'a server with syncprov for another database') or diag(field('message'));
is(field(q{concat_ws(' ', complete, disabled + deleted)}), 't 1', 'is read as a whole');
$slapd->restart(overlays => '');
$slapd->delete(dn(224));
is(sync_as('incremental'), 'success', 'a server without syncprov') or diag(field('message'));
is(field(q{concat_ws(' ', complete, disabled + deleted)}), 't 1', 'is read as a whole');
is(noted('kind'), 'modified', 'and asked by times from then on');
drop_source('ldap');

#
# By times, and not at all
#
create_source('ldap');
play('modified', 2, 0);
drop_source('ldap');
create_source('ldap', incremental => 'none');
is(sync_as('auto'), 'success', 'a source that is to be read as a whole');
is(sync_as('incremental'), 'success', 'is so each time');
is(field('complete'), 't', 'whatever is asked for');
is(query(q{SELECT count(*) FROM uds.source_state WHERE state ? 'state'}), 0, 'and notes nothing');
drop_source('ldap');

#
# Groups
#
sub group
{
	return "cn=$_[0],ou=Groups,$base";
}

$slapd->restart(overlays => $syncprov);
create_source('ldap', department_mode => 'both', group_base => "ou=Groups,$base");
is(sync_as('auto'), 'success', 'units and groups') or diag(field('message'));
changes_are('0 0 0 0 0 0 0', 'nothing has happened');
$slapd->change(group('group of 5'), add => member => dn(300), delete => member => dn(1));
changes_are('0 0 0 0 0 1 1', 'somebody comes into a group, somebody goes');
is(members('group of 5', 'username'), 'u00000*, u00002, u00003, u00004, u00300', 'and is there');
$slapd->add(entry(group('inner'), objectClass => 'groupOfNames', cn => 'inner', member => [ dn(301), dn(302) ]));
$slapd->change(group('group of 50'), add => member => group('inner'));
changes_are('1 0 0 0 0 2 0', 'a group within a group');
is(parent('inner'), 'group of 50', 'is below it');
$slapd->rename(group('inner'), 'cn=innermost');
changes_are('0 1 0 0 0 0 0', 'it gets another name');
$slapd->rename(dn(301), 'uid=u00301', $units[69]);
changes_are('0 1 0 0 0 1 3', 'who moves is another name for the server, and no member of both groups then');
$slapd->change(group('innermost'), add => member => "UID=U00301,$units[69]");
changes_are('0 0 0 0 0 1 0', 'until a group says so');
$slapd->delete(group('innermost'));
changes_are('0 0 0 0 1 0 2', 'a group goes');
is(query(q{SELECT count(*) FROM uds.departments WHERE title = 'innermost'}), 0, 'and is not there any more');
nothing_else();

drop_source('ldap');

#
# What was read is what is applied: previews, approvals, explanations
#
create_source('ldap', department_mode => 'both', group_base => "ou=Groups,$base");
is(sync_as('auto'), 'success', 'everything once more') or diag(field('message'));
query(q{SELECT uds_alter_source('ldap', guard_min => 5, guard_percent => 1)});

my $before = row_versions();

$slapd->delete(map { dn($_) } 400 .. 419);
$slapd->change(dn(420), replace => title => 'Approved');
is(sync_as('incremental'), 'blocked', 'many who are deleted at once are stopped by the guard');
is(row_versions(), $before, 'nothing is written');

my $blocked = $task;

$slapd->change(dn(420), replace => title => 'Too late');
$task = query("SELECT uds_approve($blocked)");
is(wait_task($node, $task), 'success', 'what was shown is approved') or diag(field('message'));
is(field(q{concat_ws(' ', updated, deleted)}), '1 20', 'and applied');
is(query(q{SELECT title FROM uds.users WHERE username = 'u00420'}), 'Approved', 'as it was read then');
$task = query(q{SELECT uds_preview('ldap')});
is(wait_task($node, $task), 'success', 'a preview');
is(query("SELECT string_agg(after->>'title', ', ') FROM uds.changes WHERE task_id = $task AND resource = 'users'"), 'Too late', 'shows what will come');
is(query(q{SELECT title FROM uds.users WHERE username = 'u00420'}), 'Approved', 'and writes nothing');
is(sync_as('incremental'), 'success', 'then it comes') or diag(field('message'));
is(query(q{SELECT title FROM uds.users WHERE username = 'u00420'}), 'Too late', 'though it was seen before');
nothing_else();

my $uid = $slapd->value(dn(420), 'entryUUID');

like(query("SELECT uds_explain_user('ldap', '$uid')::text"), qr/Too late.*u00420|u00420.*Too late/s, 'somebody is explained, from the entry on');

$slapd->stop;
$node->stop;
done_testing();
