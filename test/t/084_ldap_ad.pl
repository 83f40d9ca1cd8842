# Active Directory, as far as slapd cannot show it: ids in bytes, ranges of values,
# flags of accounts, numbers of changes, tombstones, its words, referrals.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsReplay;
use UdsService;
use UdsTest qw(:DEFAULT query);

my $directory = UdsReplay->start;
my $node = new_node('uds.http_retries' => '1', 'autovacuum' => 'off');
my $context = $UdsReplay::context;
my $sales = "OU=Sales,$context";
my $emea = "OU=EMEA,$sales";
my $staff = "OU=Staff,$context";

# account($login, $unit, %more): an entry to put
sub account
{
	my ($login, $unit, %more) = @_;

	return ("CN=\u$login,$unit" => { objectClass => [ 'top', 'person', 'organizationalPerson', 'user' ],
			objectCategory => "CN=Person,CN=Schema,CN=Configuration,$context", cn => ucfirst $login, displayName => "\u$login Doe", sAMAccountName => $login,
			userPrincipalName => "$login\@corp.example.test", mail => "$login\@corp.example.test", userAccountControl => '512', primaryGroupID => '513',
			accountExpires => '9223372036854775807', %more });
}

sub unit
{
	my ($dn) = @_;

	return ($dn => { objectClass => 'organizationalUnit', ou => $dn =~ /^OU=([^,]*)/ });
}

sub put
{
	$directory->control(put => {@_});
	return;
}

sub noted
{
	return query(q{SELECT state->'state'->>} . quote($_[0]) . q{ FROM uds.source_state WHERE source_id = (SELECT id FROM uds.sources WHERE name = 'ad')});
}

# searches(): bases and filters of the last task
sub searches
{
	return join "\n", map { "$_->{base} $_->{filter}" } grep { $_->{op} eq 'search' } @{ $directory->control(forget => 1)->{requests} };
}

sub changes_are
{
	my ($expected, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sync_as('incremental', 'ad'), 'success', $name) or diag(field('message'));
	is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked)}), $expected, '... as counted');
	is(field('complete IS NULL OR NOT complete'), 't', '... by what changed');
	return;
}

sub full_read
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sync_as('incremental', 'ad'), 'success', $_[0]) or diag(field('message'));
	is(field('complete'), 't', '... everything is read');
	is(field(q{concat_ws(' ', created, deleted, disabled)}), '0 0 0', '... and nobody goes');
	return;
}

put(unit($sales), unit($staff));
put(unit($emea));
put(account('alice', $emea, title => 'Chief', objectGUID => { base64 => 'SWPbWDaRik+uxFA/T+ir+A==' },
		objectSid => { base64 => 'AQUAAAAAAAUVAAAACkZJ9ygL654VAonqTgQAAA==' }, thumbnailPhoto => { base64 => '/9j/4AAQ' }, whenCreated => '20260101080000.0Z'));
put(account('bob', $sales, userAccountControl => '514', manager => "cn=alice,$emea"));
put(account('cara', $sales, accountExpires => '132539328000000000'));
put(account('dan', $staff, userAccountControl => '66048', accountExpires => '0', manager => "CN=Alice,$emea"));
put(account("m$_", $staff)) foreach 1 .. 12;
put("CN=PC1,$staff" => { objectClass => [ 'top', 'person', 'user', 'computer' ], objectCategory => "CN=Computer,CN=Schema,CN=Configuration,$context", cn => 'PC1' });
put("CN=devs,$sales" => { objectClass => [ 'top', 'group' ], cn => 'devs', name => 'devs', sAMAccountName => 'devs', managedBy => "CN=Alice,$emea",
		member => [ "CN=Alice,$emea", (map { "CN=M$_,$staff" } 1 .. 12), "CN=leads,$sales" ] });
put("CN=leads,$sales" => { objectClass => [ 'top', 'group' ], cn => 'leads', name => 'leads', member => [ "CN=Dan,$staff", "CN=S-1-5-11,CN=ForeignSecurityPrincipals,$context" ] });

query('CREATE EXTENSION uds');
service($node, undef, 'ldap', $directory->options);

#
# Everything, by units
#
$directory->control(settings => { max_page => 5 });
create_source('ad', user_attributes => 'objectSid whenCreated thumbnailPhoto pwdLastSet', user_fields => { avatar => '$.objectSid[0]' });
is(sync_as('auto', 'ad'), 'success', 'Active Directory') or diag(field('message'));
is(field('complete'), 't', 'as a whole');
is(query(q{SELECT count(*) FROM uds.users}), 16, 'people, and no computers, in pages smaller than asked for');
is(query(q{SELECT string_agg(username || ' ' || enabled, ', ' ORDER BY username) FROM uds.users WHERE username !~ '^m'}),
	'alice true, bob false, cara false, dan true', 'who is disabled, or has expired');
is(query(q{SELECT concat_ws('|', nickname, email, title, avatar) FROM uds.users WHERE username = 'alice'}),
	'Alice Doe|alice@corp.example.test|Chief|S-1-5-21-4148774410-2666203944-3934847509-1102', 'a person; a SID is text');
is(query(q{SELECT uid FROM uds.records WHERE data->>'username' = 'alice'}), '58db6349-9136-4f8a-aec4-503f4fe8abf8', 'a GUID as everybody writes it');
is(parent('EMEA'), 'Sales', 'units are a tree');
is(members('EMEA', 'username') . '; ' . members('Sales', 'username'), 'alice; bob, cara', 'with people in it');

my $shown = query("SELECT body FROM uds.raw_log WHERE task_id = $task AND stream = 'users' AND body ~ 'alice\@' LIMIT 1");

like($shown, qr/"whenCreated": ?"2026-01-01T08:00:00/, 'times are those of ISO 8601');
like($shown, qr/"thumbnailPhoto": ?\{"\$base64": ?"\/9j\/4AAQ"/, 'bytes are Base64');
like($shown, qr/"accountExpires": ?null/, 'never is null');
like($shown, qr/"_account": ?\["disabled", ?"normal_account"\]/, 'bits have names');
is(join(', ', map { noted($_) } 'kind', 'host', 'invocation_id', 'usn'), 'usn, dc1.corp.example.test, 58db6349-9136-4f8a-aec4-503f4fe8abf8, ' . $directory->control->{usn},
	'noted is the number of the last change, and whose it is');

my $versions = row_versions();

is(sync_as('full', 'ad'), 'success', 'again');
is(row_versions(), $versions, 'and not a row was touched');

#
# Changes
#
searches();
changes_are('0 0 0 0 0 0 0', 'nothing has happened');
like(searches(), qr/'ge', 'uSNChanged', b'\d+'/, 'changes are asked for by number');
put("CN=Bob,$sales" => { userAccountControl => '512', title => 'Clerk' });
changes_are('0 0 1 0 0 0 0', 'somebody is enabled, and has a title');
is(query(q{SELECT title FROM uds.users WHERE username = 'bob'}), 'Clerk', 'which arrives');
is(query("SELECT sum(jsonb_array_length(body::jsonb)) FROM uds.raw_log WHERE task_id = $task AND stream = 'users'"), 1, 'nobody else was read');
put(account('eve', $emea));
changes_are('1 0 0 0 0 1 0', 'somebody new');
$directory->control(move => { "CN=Eve,$emea" => "CN=Eve Two,$staff" });
changes_are('0 1 0 0 0 1 1', 'moves, and gets another name');
$directory->control(move => { $emea => "OU=EU,$staff" });
changes_are('0 1 0 0 0 0 0', 'a unit moves, and with it who is in it');
is(query(q{SELECT array_to_string(path, '/') FROM uds.department_tree WHERE title = 'EMEA' OR title = 'EU'}) =~ s/EMEA|EU/unit/r, 'Staff/unit', 'to another one');
$directory->control(delete => [ "CN=Eve Two,$staff", "CN=M12,$staff" ]);
changes_are('0 0 0 0 2 0 2', 'two are deleted, and leave tombstones');
$directory->control(delete => ["CN=PC1,$staff"]);
changes_are('0 0 0 0 0 0 0', 'a tombstone of somebody else');
is(sync_as('full', 'ad'), 'success', 'a full read');
is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked)}), '0 0 0 0 0 0 0', 'finds nothing else');

# who may not see tombstones
$directory->control(settings => { sees_deleted => JSON::PP::false });
$directory->control(delete => ["CN=M11,$staff"]);
changes_are('0 0 0 0 0 0 0', 'an account that may not see the deleted');
is(sync_as('full', 'ad'), 'success', 'learns of them');
is(field('disabled'), 1, 'by the next full read');
$directory->control(settings => { sees_deleted => JSON::PP::true });

# numbers mean something to one domain controller, and one life of it
$directory->control(directory => { invocation_id => 'aaaaaaaa-9136-4f8a-aec4-503f4fe8abf8' });
full_read('a domain controller that was restored');
changes_are('0 0 0 0 0 0 0', 'numbers of its new life');
$directory->control(directory => { usn => 1000 });
full_read('one whose numbers are smaller than ours');
$directory->control(directory => { usn => 9000, host => 'dc2.corp.example.test', invocation_id => 'bbbbbbbb-9136-4f8a-aec4-503f4fe8abf8' });
full_read('another one');
is(noted('host'), 'dc2.corp.example.test', 'is the one that is noted');
changes_are('0 0 0 0 0 0 0', 'and asked by its numbers');
drop_source('ad');

# who moves out of the base
create_source('ad', user_base => $sales, department_base => $sales);
put(account('fay', $sales));
is(sync_as('auto', 'ad'), 'success', 'a part of the directory');
is(query('SELECT count(*) FROM uds.users'), 3, 'has its people');
$directory->control(move => { "CN=Fay,$sales" => "CN=Fay,$staff" });
is(sync_as('incremental', 'ad'), 'success', 'somebody moves out of it');
is(field(q{concat_ws(' ', complete IS NOT TRUE, disabled + deleted, unlinked)}), 't 1 1', 'and has left');
$directory->control(move => { "CN=Fay,$staff" => "CN=Fay,$sales" });
is(sync_as('incremental', 'ad'), 'success', 'and back');
is(query(q{SELECT count(*) FROM uds.users WHERE enabled AND username = 'fay'}), 1, 'is there again');
put("CN=M1,$staff" => { title => 'Elsewhere' });
changes_are('0 0 0 0 0 0 0', 'what happens elsewhere does not matter');
is(query(q{SELECT count(*) FROM uds.users WHERE username = 'm1'}), 0, 'nobody comes from there');
drop_source('ad');

#
# Groups, whose members come in ranges
#
foreach my $range (1500, 13, 12, 5, 1)
{
	$directory->control(settings => { max_range => $range, max_page => 1000 });
	create_source('ad', department_mode => 'groups');
	is(sync_as('auto', 'ad'), 'success', "groups, with $range members at a time") or diag(field('message'));
	is(members('devs', 'username'), 'alice*, m1, m10, m2, m3, m4, m5, m6, m7, m8, m9', 'have all of them, and their owner');
	is(members('leads', 'username') . ' ' . parent('leads'), 'dan devs', 'and a group within');
	drop_source('ad') unless $range == 1;
}
put("CN=devs,$sales" => { member => [ map { "CN=M$_,$staff" } 1 .. 3 ] });
changes_are('0 9 0 0 0 0 8', 'members go, and a group is no longer within');
is(members('devs', 'username'), 'm1, m2, m3', 'all but three');
put("CN=leads,$sales" => { member => [ "CN=Dan,$staff", "CN=M4,$staff", "CN=Bob,$sales" ] });
changes_are('0 2 0 0 0 2 0', 'members come');
$directory->control(move => { "CN=M4,$staff" => "CN=M Four,$sales" });
is(sync_as('incremental', 'ad'), 'success', 'a member gets another name');
is(field(q{concat_ws(' ', linked, unlinked)}), '0 0', 'and stays');
drop_source('ad');

#
# Its words
#
create_source('ad');
is(sync_as('auto', 'ad'), 'success', 'once more');
$versions = row_versions();

foreach my $case (
	[ '525', qr/no such user/ ], [ '52e', qr/wrong password/ ], [ '530', qr/not log on at this time/ ], [ '531', qr/from this machine/ ],
	[ '532', qr/the password has expired.*Set a new one/i ], [ '533', qr/the account is disabled/ ], [ '701', qr/the account has expired/ ],
	[ '773', qr/the password must be changed first/ ], [ '775', qr/the account is locked/ ])
{
	my ($data, $expected) = @$case;

	$directory->control(settings => { refused => { $UdsReplay::account => $data } }, forget => 1);
	is(sync_as('full', 'ad'), 'failed', "refused with data $data: the task fails");
	like(field('message'), $expected, 'in words');
	is(scalar(grep { $_->{op} eq 'bind' } @{ $directory->control->{requests} }), 1, 'and does not try again, which could lock the account');
	like(query(q{SELECT detail FROM uds_test_source('ad') WHERE step = 'bind' AND NOT ok}), $expected, 'uds_test_source says the same');
}
$directory->control(settings => { refused => {} });
query(q{SELECT uds_alter_source('ad', options => '{"bind_dn": null, "password": null}')});
is(sync_as('full', 'ad'), 'failed', 'nobody may read');
like(field('message'), qr/1 operationsError.*Hint: Active Directory says so if nobody is bound/, 'with a hint');
query('SELECT uds_alter_source(' . quote('ad') . ', options => jsonb_build_object(' . quote('bind_dn') . ', ' . quote($UdsReplay::account) . '::text, '
	  . quote('password') . ', ' . quote($UdsReplay::password) . '::text))');
query(q{SELECT uds_alter_source('ad', options => '{"base_dn": "DC=other,DC=test"}')});
is(sync_as('full', 'ad'), 'failed', 'a base of another domain');
like(field('message'), qr/10 referral "ldap:\/\/other\.example\.test.*Hint: This server does not hold the base/, 'is told with the address');
query("SELECT uds_alter_source('ad', options => jsonb_build_object('base_dn', " . quote($context) . '::text))');
is(row_versions(), $versions, 'nothing of that changes anything');

#
# Referrals
#
my $elsewhere = UdsReplay->start;

$elsewhere->control(put => { unit("OU=Far,$context") });
$elsewhere->control(put => { account('zoe', "OU=Far,$context") });
$directory->control(settings => { referrals => [ $elsewhere->uri . "/OU=Far,$context", "ldap://zones.example.test/DC=DomainDnsZones,$context" ] });
is(sync_as('full', 'ad'), 'success', 'references to other servers') or diag(field('message'));
is($elsewhere->count('connections'), 0, 'are not followed');
is(row_versions(), $versions, 'and change nothing');
$directory->control(settings => { referrals => [ $elsewhere->uri . "/OU=Far,$context" ] });
query(q{SELECT uds_alter_source('ad', options => '{"follow_referrals": "true"}')});
is(sync_as('full', 'ad'), 'success', 'unless that is wanted') or diag(field('message'));
cmp_ok($elsewhere->count('connections'), '>', 0, 'then they are');
is(query(q{SELECT count(*) FROM uds.users WHERE username = 'zoe'}), 1, 'and who is there comes');
is((grep { $_->{op} eq 'bind' } @{ $elsewhere->control->{requests} })[0]{name}, $UdsReplay::account, 'as the same account');
$elsewhere->faults({ op => 'search', kind => 'result', code => 52, text => 'down' });
is(sync_as('full', 'ad'), 'failed', 'another server that fails');
is(query(q{SELECT enabled FROM uds.users WHERE username = 'zoe'}), 't', 'makes nobody go');
$directory->control(settings => { referrals => [ "ldap://10.1.2.3/$context" ] });
is(sync_as('full', 'ad'), 'failed', 'addresses that are not allowed');
like(field('message'), qr/10\.1\.2\.3.*not allowed/, 'are not allowed here either');

$_->stop foreach $directory, $elsewhere;
$node->stop;
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC/, 'no process died');
done_testing();
