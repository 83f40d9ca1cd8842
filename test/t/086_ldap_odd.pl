# Entries of a directory that are odd: values that are no text, too long, not
# there, twice; listings without an end; pages that are none any more.
use strict;
use warnings;

use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsReplay;
use UdsService;
use UdsSession;
use UdsTest qw(:DEFAULT query);

my $directory = UdsReplay->start;
my $node = new_node('uds.http_retries' => '1', 'autovacuum' => 'off');
my $context = $UdsReplay::context;

sub bytes
{
	return { base64 => encode_base64($_[0], '') };
}

# account($login, %more): an entry to put
sub account
{
	my ($login, %more) = @_;

	return ("CN=$login,$context" => { objectClass => [ 'top', 'person', 'user' ], objectCategory => "CN=Person,CN=Schema,CN=Configuration,$context", cn => $login,
			displayName => $login, sAMAccountName => $login, userAccountControl => '512', %more });
}

sub put
{
	$directory->control(put => {@_});
	return;
}

sub nickname
{
	return query('SELECT nickname FROM uds.users WHERE username = ' . quote($_[0]));
}

put(account('plain'));
put(account('latin', displayName => bytes("J\xf6rg")));
put(account('zero', displayName => bytes("a\0b")));
put(account('cut', displayName => bytes("caf\xc3")));
put(account('surrogate', displayName => bytes("x\xed\xa0\x80y")));
put(account('control', displayName => bytes("a\tb\x01c\x7f\"d\\e")));
put(account('empty', displayName => [ bytes('') ], title => [ bytes('') ]));
put(account('long', displayName => 'long', title => 'y' x 1_000_000));
put(account('several', mail => [ 'z@odd.test', 'b@odd.test', 'B@odd.test' ], telephoneNumber => [ map { "+49 30 $_" } 1 .. 500 ]));
put(account('quote\'s "and" \\', displayName => q{'"\\; $$ %s {0}}));
put(account('noid', objectGUID => undef));
put(account('shortid', objectGUID => bytes('tooshort')));
put(account('flags', userAccountControl => 'many'));
put(account('flagged', userAccountControl => '4294967298'));
put(account('negative', userAccountControl => '-2147483646'));
put(account('expired', accountExpires => '1'));
put(account('never', accountExpires => '9223372036854775808'));
put(account('when', whenCreated => 'yesterday', pwdLastSet => '-1', lastLogon => '99999999999999999999'));
put(account('himself', manager => "CN=himself,$context"));
put(account('nobodys', manager => 'no name, at all'));
put("CN=group,$context" => { objectClass => [ 'top', 'group' ], cn => 'group',
		member => [ "CN=plain,$context", "cn=PLAIN , $context", '', 'no name', bytes("CN=\xff\xfe,$context"), "CN=group,$context", ('CN=a+' x 2000) . "CN=b,$context" ] });

query('CREATE EXTENSION uds');
service($node, undef, 'ldap', $directory->options(page_size => '7'));
create_source('ldap', department_mode => 'groups', manager_as_owner => 'true', user_attributes => 'whenCreated pwdLastSet lastLogon');
is(sync_as('auto'), 'partial', 'odd entries') or diag(field('message'));
is(query("SELECT string_agg(DISTINCT message, ', ') FROM uds.task_errors WHERE task_id = $task") =~ /uid/ ? 'uid' : 'else', 'uid', 'those without an id are set aside');
is(field('failed'), 2, 'and nobody else');
is(query('SELECT count(*) FROM uds.users'), 18, 'all others come');
is(nickname('plain'), 'plain', 'plain ones');
is(nickname('control'), "a\tb\x01c\x7f\"d\\e", 'control characters that are text stay');
is(nickname(q{quote's "and" \\}), q{'"\\; $$ %s {0}}, 'and quotes');
is(query(q{SELECT length(title) FROM uds.users WHERE username = 'long'}), 1_000_000, 'a value of a megabyte');
unlike(query(q{SELECT string_agg(coalesce(nickname, ''), '|') FROM uds.users WHERE username IN ('latin', 'zero', 'cut', 'surrogate')}), qr/J\xf6|\xed\xa0/, 'bytes that are no text do not become text');
is(query(q{SELECT string_agg(username, ' ' ORDER BY username) FROM uds.users WHERE NOT enabled}), 'expired flagged negative', 'the bit of an account counts, whatever else is in the number');
is(query(q{SELECT email FROM uds.users WHERE username = 'several'}), 'B@odd.test', 'of several values always the same');
is(members('group', 'username'), 'plain', 'of members those that are somebody, once');
is(query(q{SELECT count(*) FROM uds.department_members WHERE is_owner}), 0, 'who manages himself elsewhere owns nothing');

my $versions = row_versions();

is(sync_as('full'), 'partial', 'again');
is(row_versions(), $versions, 'and not a row was touched');
put("CN=latin,$context" => { displayName => 'Joerg' });
is(sync_as('incremental'), 'success', 'one becomes text') or diag(field('message'));
is(nickname('latin'), 'Joerg', 'and arrives');

#
# Listings without an end, pages that are gone
#
$versions = row_versions();
put("CN=noid,$context" => { objectGUID => bytes('0123456789abcdef') }, "CN=shortid,$context" => { objectGUID => bytes('fedcba9876543210') });
is(sync_as('full'), 'success', 'when those without an id are mended');
$versions = row_versions();
$directory->control(settings => { refused_cookies => 1 });
is(sync_as('full'), 'failed', 'a cookie of pages that the server does not know any more');
like(field('message'), qr/53 unwillingToPerform/, 'is told');
is(row_versions(), $versions, 'and changes nothing');
$directory->control(settings => { refused_cookies => 0, endless => JSON::PP::true });
configure($node, 'uds.max_pages', '40');
is(sync_as('full'), 'failed', 'a listing that has no end');
like(field('message'), qr/more pages than uds\.max_pages/, 'has one at uds.max_pages');
is(row_versions(), $versions, 'and changes nothing');
cmp_ok($directory->count('requests'), '<', 400, 'soon');
$directory->control(settings => { endless => JSON::PP::false });
configure($node, 'uds.max_pages', '1000');

# a page that is larger than what is taken
configure($node, 'uds.max_page_size', '1MB');
put("CN=plain,$context" => { title => 'z' x 3_000_000 });
is(sync_as('full'), 'failed', 'an entry that is larger than uds.max_page_size');
isnt(field('message'), '', 'is told');
is(row_versions(), $versions, 'and changes nothing');
put("CN=plain,$context" => { title => undef });
configure($node, 'uds.max_page_size', '64MB');
is(sync_as('full'), 'success', 'after all that') or diag(field('message'));
is(row_versions(), $versions, 'everything is as before');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC/, 'no process died');

$directory->stop;
$node->stop;
done_testing();
