# Active Directory as Samba does it: a domain controller that others wrote.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsSamba;
use UdsService;
use UdsSlapd;
use UdsTest qw(:DEFAULT query);

plan skip_all => 'a domain controller takes its time: only with make check-long' unless $ENV{UDS_TEST_LONG};

my ($samba, $why) = UdsSamba->start;

plan skip_all => "NOT TESTED AGAINST A REAL DOMAIN CONTROLLER: $why" unless $samba;

my $context = $UdsSamba::context;
my $sales = "OU=Sales,$context";
my $emea = "OU=EMEA,$sales";
my $count = 600;
my $node = new_node('autovacuum' => 'off');

sub modify
{
	$samba->client('ldapmodify', $_[0]);
	return;
}

sub modify_one
{
	my ($dn, $kind, $attribute, @values) = @_;

	modify("dn: $dn\nchangetype: modify\n$kind: $attribute\n" . join('', map { "$attribute: $_\n" } @values) . "-\n");
	return;
}

sub move
{
	my ($dn, $rdn, $above) = @_;

	modify("dn: $dn\nchangetype: modrdn\nnewrdn: $rdn\ndeleteoldrdn: 1\n" . ($above ? "newsuperior: $above\n" : ''));
	return;
}

sub bulk
{
	return sprintf 'CN=Bulk %05d,%s', $_[0], $_[0] % 2 ? $emea : $sales;
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

sub nothing_else
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sync_as('full', 'ad'), 'success', 'a full read');
	is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked)}), '0 0 0 0 0 0 0', 'finds nothing else');
	return;
}

my $ldif = entry($sales, objectClass => 'organizationalUnit') . entry($emea, objectClass => 'organizationalUnit');

$ldif .= entry(bulk($_), objectClass => 'user', sAMAccountName => sprintf('bulk%05d', $_), mail => "bulk$_\@corp.example.test", displayName => "Bulk $_", userAccountControl => 544)
  foreach 0 .. $count - 1;
$ldif .= entry("CN=biggrp,$sales", objectClass => 'group', sAMAccountName => 'biggrp', member => [ map { bulk($_) } 0 .. $count - 1 ], managedBy => bulk(3));
$ldif .= entry("CN=inner,$sales", objectClass => 'group', sAMAccountName => 'inner', member => [ bulk(1), bulk(2) ]);
$samba->client('ldapmodify', $ldif, '-a');
$samba->tool('user', 'create', 'alice', 'Pa55word!a', '--given-name=Älice', '--surname=Doe', '--userou=OU=EMEA,OU=Sales');
$samba->tool('user', 'create', 'bob', 'Pa55word!b', '--userou=OU=Sales');
$samba->tool('user', 'disable', 'bob');

#
# Units
#
query('CREATE EXTENSION uds');
service($node, undef, 'ldap', $samba->options(user_base => $sales, department_base => $sales));
create_source('ad');
is(query(q{SELECT count(*) FROM uds_test_source('ad') WHERE NOT ok}), 0, 'uds_test_source') or diag(query(q{SELECT string_agg(step || ': ' || detail, ', ') FROM uds_test_source('ad') WHERE NOT ok}));
is(sync_as('auto', 'ad'), 'success', 'Active Directory') or diag(field('message'));
is(query('SELECT count(*) FROM uds.users'), $count + 2, 'everybody comes');
is(query(q{SELECT string_agg(username || ' ' || enabled, ', ' ORDER BY username) FROM uds.users WHERE username IN ('alice', 'bob')}), 'alice true, bob false', 'disabled or not');
is(query(q{SELECT nickname FROM uds.users WHERE username = 'alice'}), 'Älice Doe', 'names as they are');
is(parent('EMEA'), 'Sales', 'units are a tree');
is(query(q{SELECT count(*) FROM uds.department_members m JOIN uds.departments d ON d.id = m.department_id WHERE d.title = 'EMEA'}), $count / 2 + 1, 'with their people');
like($samba->client('ldapsearch', '', '-LLL', '-o', 'ldif-wrap=no', '-b', '<GUID=' . query(q{SELECT uid FROM uds.records WHERE data->>'username' = 'alice'}) . '>', '-s', 'base', 'sAMAccountName'),
	qr/sAMAccountName: alice/, 'the server knows somebody by the GUID as we write it');
is(query(q{SELECT state->'state'->>'kind' FROM uds.source_state WHERE state ? 'state'}), 'usn', 'noted is a number');
changes_are('0 0 0 0 0 0 0', 'nothing has happened');
modify_one(bulk(5), 'replace', 'title', 'Chief');
changes_are('0 1 0 0 0 0 0', 'a change');
$samba->tool('user', 'enable', 'bob');
changes_are('0 0 1 0 0 0 0', 'somebody is enabled');
move(bulk(7), 'CN=Lucky Seven', $sales);
changes_are('0 1 0 0 0 1 1', 'somebody moves and gets another name');
move($emea, 'OU=Europe');
changes_are('0 1 0 0 0 0 0', 'a unit is renamed');
is(query(q{SELECT count(*) FROM uds.department_members m JOIN uds.departments d ON d.id = m.department_id WHERE d.title = 'Europe'}), $count / 2, 'and keeps its people');
nothing_else();
$samba->tool('user', 'delete', 'bulk00000');
modify('dn: ' . bulk(9) =~ s/EMEA/Europe/r . "\nchangetype: delete\n");
changes_are('0 0 0 0 2 0 2', 'two are deleted');
$samba->tool('user', 'create', 'bulk00000', 'Pa55word!c', '--userou=OU=Sales');
changes_are('1 0 0 0 0 1 0', 'the same login again is somebody else');
move(bulk(11) =~ s/EMEA/Europe/r, 'CN=Bulk 00011', "CN=Users,$context");
is(sync_as('incremental', 'ad'), 'success', 'somebody moves out of the base') or diag(field('message'));
is(field('disabled + deleted'), 1, 'and has left');
is(sync_as('full', 'ad'), 'success', 'a full read');
is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked)}), '0 0 0 0 0 0 0', 'finds nothing else');
drop_source('ad');

#
# Groups
#
create_source('ad', department_mode => 'groups', group_base => $sales, page_size => '1000');
is(sync_as('auto', 'ad'), 'success', 'groups') or diag(field('message'));
is(query(q{SELECT string_agg(d.title || ' ' || (SELECT count(*) FROM uds.department_members m WHERE m.department_id = d.id), ', ' ORDER BY d.title) FROM uds.departments d}),
	'biggrp ' . ($count - 3) . ', inner 2', 'with all members that are where people are looked for');
is(query(q{SELECT string_agg(u.username, ', ') FROM uds.department_members m JOIN uds.users u ON u.id = m.user_id WHERE m.is_owner}), 'bulk00003', 'and an owner');
modify_one("CN=inner,$sales", 'add', 'member', bulk(4), "CN=biggrp,$sales");
modify_one("CN=inner,$sales", 'delete', 'member', bulk(2));
changes_are('0 1 0 0 0 1 1', 'members come and go');
is(parent('biggrp'), 'inner', 'and a group is within another');
drop_source('ad');

#
# Its words
#
$samba->tool('user', 'disable', 'bob');
foreach my $case (
	[ $UdsSamba::admin, 'wrong', qr/wrong password.*49 invalidCredentials/ ],
	[ 'nobody@corp.example.test', 'wrong', qr/(no such user|wrong password).*49 invalidCredentials/ ],
	[ 'bob@corp.example.test', 'Pa55word!b', qr/the account is disabled.*49 invalidCredentials/ ],
	[ undef, undef, qr/1 operationsError.*Hint: Active Directory says so if nobody is bound/ ])
{
	my ($account, $secret, $expected) = @$case;
	my @as = $account ? (bind_dn => $account, password => $secret) : (bind_dn => undef, password => undef);

	create_source('ad', @as);
	is(sync_as('full', 'ad'), 'failed', 'who binds as ' . ($account // 'nobody') . ' is refused');
	like(field('message'), $expected, 'in words');
	drop_source('ad');
}
create_source('ad', bind_dn => 'alice@corp.example.test', password => 'Pa55word!a');
is(sync_as('auto', 'ad'), 'success', 'an account without special rights') or diag(field('message'));
$samba->tool('user', 'delete', 'bulk00020');
is(sync_as('incremental', 'ad'), 'success', 'which may not see tombstones') or diag(field('message'));
is(sync_as('full', 'ad'), 'success', 'learns who was deleted');
is(query(q{SELECT enabled FROM uds.users WHERE username = 'bulk00020'}), 'f', 'by a full read at the latest');

$samba->stop;
$node->stop;
done_testing();
