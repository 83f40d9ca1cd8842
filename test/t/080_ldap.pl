# Directories: a slapd with ten thousand people, in units and in groups, under
# names that have everything names may have.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsService;
use UdsSlapd;
use UdsTest qw(:DEFAULT query);

my $why = UdsSlapd::missing();

plan skip_all => "NOT TESTED AGAINST A DIRECTORY: $why" if $why;

my $base = $UdsSlapd::base;
my @units = UdsSlapd::units();

# somebody of the company, by number
sub dn_of
{
	return (UdsSlapd::person($_[0], \@units))[0];
}

# People whose names are odd, in a unit of their own; and groups that write the
# names otherwise than the entries do.
my @odd = ('Brown, Jr.', '# of the house', ' led by a blank', 'followed by one ', 'Plus + Minus', 'Back\\slash', 'The "Quote"',
	'Semi;colon', 'Less < More >', 'A = B', 'Łukasz Żółć', '张伟', "two\nlines", 'Ann  With   Blanks');
my $odd_unit = "ou=Odd\\2C and o\\64d,$base";
my $ldif = entry($odd_unit, objectClass => 'organizationalUnit', ou => 'Odd, and odd');

foreach my $i (0 .. $#odd)
{
	my $rdn = 'cn=' . escape_value($odd[$i]) =~ s/\n/\\0A/r;

	$ldif .= entry("$rdn,$odd_unit", objectClass => 'inetOrgPerson', cn => $odd[$i], sn => 'Odd', uid => "odd$i", employeeType => 'odd');
}
$ldif .= entry("cn=Two+uid=odd-two,$odd_unit", objectClass => 'inetOrgPerson', cn => 'Two', sn => 'Odd', uid => 'odd-two',
	employeeType => 'odd', mail => [ 'z@odd.test', 'a@odd.test' ]);

# the same names as above, as others write them
my @spelled = (
	'cn="Brown, Jr."', 'CN=\\23 of the house', 'commonName=\\20led by a blank', 'cn=FOLLOWED BY ONE\\20', 'cn=plus \\2b minus', 'cn=back\\5Cslash',
	'cn=The \\22quote\\22', 'cn=semi\\3Bcolon', 'cn=less \\3c more \\3e', 'cn=a \\3D b', 'cn=\\c5\\81ukasz \\c5\\bb\\c3\\b3\\c5\\82\\c4\\87',
	'2.5.4.3=\\e5\\bc\\a0\\e4\\bc\\9f', 'cn=two\\0alines', 'cn=ann with blanks');
my @members = map { "$_ , OU=odd\\, AND odd,$base" } @spelled;

$members[0] =~ s/^cn="Brown, Jr."/cn=brown\\2c JR./;
push @members, "UID=ODD-TWO + cn=two,$odd_unit", "cn=nobody,$odd_unit", 'cn=dummy';
$ldif .= entry("cn=Odd \\2B Co,ou=Groups,$base", objectClass => 'groupOfNames', cn => 'Odd + Co', description => 'Names of all kinds', member => \@members);

# groups within groups, one of them in a circle, and of two other kinds
$ldif .= entry("cn=outer,ou=Groups,$base", objectClass => 'groupOfNames', cn => 'outer', member => [ "cn=inner,ou=Groups,$base", dn_of(20) ]);
$ldif .= entry("cn=inner,ou=Groups,$base", objectClass => 'groupOfUniqueNames', cn => 'inner',
	uniqueMember => [ dn_of(21), dn_of(22) . "#'0101'B", "cn=innermost,ou=Groups,$base" ], owner => [ dn_of(21), dn_of(23) ]);
$ldif .= entry("cn=innermost,ou=Groups,$base", objectClass => 'posixGroup', cn => 'innermost', gidNumber => 1000,
	memberUid => [ 'u00024', 'u00025', 'nobody' ]);
$ldif .= entry("cn=circle $_,ou=Groups,$base", objectClass => 'groupOfNames', cn => "circle $_",
	member => [ "cn=circle " . ($_ % 3 + 1) . ",ou=Groups,$base", dn_of(29 + $_) ]) foreach 1 .. 3;
$ldif .= entry("cn=itself,ou=Groups,$base", objectClass => 'groupOfNames', cn => 'itself', member => "cn=itself,ou=Groups,$base");

# accounts, by what says whether they may be used
my $accounts = "ou=Accounts,$base";
my %account = (
	locked => [ pwdAccountLockedTime => '000001010000Z' ],
	'locked-for-a-while' => [ pwdAccountLockedTime => '20260101000000Z' ],
	expired => [ shadowExpire => 1 ],
	'expires-one-day' => [ shadowExpire => 99999 ],
	'expires-never' => [ shadowExpire => -1 ]);

$ldif .= entry($accounts, objectClass => 'organizationalUnit', ou => 'Accounts');
$ldif .= entry("uid=$_,$accounts", objectClass => [ 'inetOrgPerson', 'shadowAccount' ], uid => $_, cn => $_, sn => $_, @{ $account{$_} }) foreach sort keys %account;

my $slapd = UdsSlapd->start(people => 10000, ldif => $ldif, overlays => "overlay memberof\noverlay ppolicy");
my $node = new_node('autovacuum' => 'off');

# people by unit: of the directory, and of the tables
sub expected_units
{
	my (%people, @lines);

	$people{ $units[ $_ % @units ] }++ foreach 0 .. 9999;
	foreach my $unit (@units)
	{
		my ($ou) = $unit =~ /^ou=((?:\\.|[^,\\])*)/;

		push @lines, ($ou =~ s/\\(.)/$1/gr) . " $people{$unit}";
	}
	return join "\n", sort @lines, 'Accounts ' . keys %account, 'Groups 0', 'Odd, and odd ' . (@odd + 1), 'People 0';
}

my $everybody = 10000 + @odd + 1 + keys %account;
my $all_units = 4 + @units;
my $by_department = q{
	SELECT d.title || ' ' || count(m.user_id)
	  FROM uds.departments d LEFT JOIN uds.department_members m ON m.department_id = d.id
	 GROUP BY d.id
	 ORDER BY (d.title || ' ' || count(m.user_id)) COLLATE "C"};

#
# Units
#
query('CREATE EXTENSION uds');
service($node, undef, 'ldap', $slapd->options);
create_source('units', incremental => 'none');
is(sync_as('auto', 'units'), 'success', 'everything is read') or diag(field('message'));
is(field('complete'), 't', 'as a whole');
is(query('SELECT count(*) FROM uds.users'), $everybody, 'everybody is there');
is(query(q{SELECT string_agg(username, ', ' ORDER BY username) FROM uds.users WHERE NOT enabled}), 'expired, locked', 'disabled is whose account is locked for good, or has expired');
is(query('SELECT count(*) FROM uds.departments'), $all_units, 'with all units');
is(query($by_department), expected_units(), 'in which everybody is where the directory has them');
is(query('SELECT count(*) FROM uds.users WHERE main_department_id IS NULL'), 0, 'and has a main department');
is(query(q{SELECT count(DISTINCT department_id) || ' ' || count(*) FROM uds.department_members GROUP BY user_id ORDER BY count(*) DESC LIMIT 1}), '1 1', 'and no other');
is(query(q{SELECT array_to_string(path, ' / ') FROM uds.department_tree WHERE depth = 4 ORDER BY path COLLATE "C" LIMIT 4}),
	join("\n", 'People /  In between  / Team 9-0 / Squad 9-0 / Cell 9', 'People / #Labs / Team 7-0 / Squad 7-0 / Cell 7',
		'People / A=B; <C> / Team 8-0 / Squad 8-0 / Cell 8', 'People / C:\\Temp / Team 6-0 / Squad 6-0 / Cell 6'), 'the tree is five deep');
is(query('SELECT count(*), max(depth), min(depth) FROM uds.department_tree'), "$all_units|4|0", 'and whole');
is(query(q{SELECT concat_ws('|', username, nickname, email, phone, title, enabled) FROM uds.users WHERE username = 'u00013'}),
	"u00013|Dörte Garcia 13|u00013\@example.test|+15550000013|Manager|t", 'a person is what the entry says');
is(query(q{SELECT string_agg(nickname, '|' ORDER BY username COLLATE "C") FROM uds.users WHERE username LIKE 'odd%'}),
	join('|', 'Two', map { $odd[$_] } sort { "odd$a" cmp "odd$b" } 0 .. $#odd), 'odd names arrive as they are');
is(person('Two', 'email'), 'a@odd.test', 'of several values it is always the same that counts');
is(query(q{SELECT uid FROM uds.records WHERE data->>'username' = 'odd0'}), $slapd->value("cn=brown\\2c jr.,$odd_unit", 'entryUUID'), 'who somebody is tells the entryUUID');
is(field('fetched'), $everybody + $all_units, 'each counts once');
is(field(q{concat_ws(' ', pages, requests)}), '23 24', 'what departments refer to is a page and no request, binding and a look at the server are requests and no page');
is(query("SELECT count(*) FROM uds.raw_log WHERE task_id = $task AND stream = 'users'"), 21, 'pages are of 500');
unlike(query("SELECT string_agg(request || body, '') FROM uds.raw_log WHERE task_id = $task"), qr/\Q$UdsSlapd::password\E/, 'the password is not in the raw log');

my $versions = row_versions();

is(sync_as('full', 'units'), 'success', 'again');
is(field(q{concat_ws(' ', created, updated, deleted, linked, unlinked, unchanged)}), '0 0 0 0 0 ' . ($everybody + $all_units), 'nothing has changed');
is(row_versions(), $versions, 'and not a row was touched');

# smaller parts of it
drop_source('units');
create_source('part', user_base => "ou=Odd\\, and odd,$base", user_filter => '(&(objectClass=inetOrgPerson)(!(cn=*\\2a*))(|(cn=Łu*)(cn=Two)))',
	department_base => $odd_unit, page_size => '1', user_attributes => 'employeeType', user_fields => { title => '$.employeeType[0]' });
is(sync_as('auto', 'part'), 'success', 'a base, a filter and an attribute of one\'s own') or diag(field('message'));
is(query(q{SELECT string_agg(nickname || ' ' || title, ', ' ORDER BY nickname) FROM uds.users}), 'Two odd, Łukasz Żółć odd', 'who fits comes, with what was asked for');
is(members('Odd, and odd'), 'Two, Łukasz Żółć', 'in the unit');
drop_source('part');
create_source('flat', user_base => $units[7], user_scope => 'onelevel', department_mode => 'none');
is(sync_as('auto', 'flat'), 'success', 'one level below a base');
is(query('SELECT count(*), min(username) FROM uds.users'), '143|u00007', 'is who is there and not below');
is(query('SELECT count(*) FROM uds.departments'), 0, 'without departments');
drop_source('flat');

#
# Groups
#
create_source('groups', department_mode => 'groups');
is(sync_as('auto', 'groups'), 'success', 'groups') or diag(field('message'));
is(query($by_department), join("\n", 'Odd + Co ' . (@odd + 1), 'circle 1 1', 'circle 2 1', 'circle 3 1', 'group of 1 1', 'group of 5 5',
		'group of 50 50', 'group of 500 500', 'group of 5000 5000', 'inner 2', 'innermost 2', 'itself 0', 'outer 1'), 'each has its members, however their names are written');
is(field('complete'), 't', 'members that are not there make nothing incomplete');
is(query(q{SELECT string_agg(title, ', ' ORDER BY title) FROM uds.departments WHERE parent_id IS NULL}),
	'Odd + Co, circle 1, group of 1, group of 5, group of 50, group of 500, group of 5000, itself, outer', 'a circle is cut at one place');
is(parent('innermost') . ', ' . parent('inner'), 'inner, outer', 'groups within groups');
is(query(q{SELECT string_agg(d.title || ' ' || u.username, ', ' ORDER BY d.title, u.username) FROM uds.department_members m
	JOIN uds.users u ON u.id = m.user_id JOIN uds.departments d ON d.id = m.department_id WHERE m.is_owner}),
	join(', ', (map { "group of $_ u00000" } 1, 5, 50, 500, 5000), 'inner u00021'), 'who is named as owner and is a member');
$versions = row_versions();
is(sync_as('full', 'groups'), 'success', 'again');
is(row_versions(), $versions, 'and not a row was touched');

# as memberOf, which is kept for groups that are changed, here all at once
$slapd->add(entry("cn=late,ou=Groups,$base", objectClass => 'groupOfNames', cn => 'late', member => [ dn_of(7), "CN=TWO+UID=odd-two,$odd_unit" ]));
drop_source('groups');
create_source('member-of', department_mode => 'both', member_attributes => 'memberOf', group_filter => '(cn=late)');
is(sync_as('auto', 'member-of'), 'success', 'units and groups, by the memberOf of people') or diag(field('message'));
is(members('late', 'username'), 'odd-two, u00007', 'who says so is a member');
is(query(q{SELECT d.title FROM uds.users u JOIN uds.departments d ON d.id = u.main_department_id WHERE u.username = 'odd-two'}), 'Odd, and odd',
	'the main department is the unit');
is(parent('late'), 'Groups', 'a group is below its unit');
drop_source('member-of');

#
# Managers
#
create_source('managers', manager_as_owner => 'true', user_base => $units[7], department_base => "ou=People,$base");
is(sync_as('auto', 'managers'), 'success', 'managers as owners') or diag(field('message'));

# somebody's manager is of the same ten, so in another unit, unless somebody moves
is(query('SELECT count(*) FROM uds.users'), 1001, 'those of an area');
is(query('SELECT count(*) FROM uds.department_members WHERE is_owner'), 0, 'who is not in the department does not own it');
$slapd->rename(dn_of(11), 'uid=u00011', $units[10]);
is(sync_as('full', 'managers'), 'success', 'somebody moves to the manager');
is(query(q{SELECT string_agg(u.username || ' ' || d.title, ', ') FROM uds.department_members m
	JOIN uds.users u ON u.id = m.user_id JOIN uds.departments d ON d.id = m.department_id WHERE m.is_owner}), 'u00010 Team 1-2', 'who owns the department then');
is(field(q{concat_ws(' ', created, deleted, disabled)}), '0 0 0', 'a move is no leaving');
drop_source('managers');

$slapd->stop;
$node->stop;
done_testing();
