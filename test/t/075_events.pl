# Change events of WeCom, DingTalk and Feishu: stored, acknowledged, gathered,
# and worked off by asking the service what has become of what they tell of.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Digest::MD5 qw(md5_hex);
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsCallback;
use UdsHttp;
use UdsService;
use UdsTest qw(:DEFAULT query);

my $mock = start_mock(tiny => 1);
my $node = new_http_node('uds.event_delay' => '100ms', 'autovacuum' => 'off');
my $aes_key = 'jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C';
my $sender;

my %services = (
	wecom => {
		options => { corpid => 'ww0123456789abcdef', secret => 'app-secret', base_url => $mock->base_url('wecom'),
			callback_token => 'tok', callback_aes_key => $aes_key },
		sender => [ token => 'tok', key => $aes_key, receiver => 'ww0123456789abcdef' ],
		user => sub { my ($what, $id) = @_; return (ChangeType => "${what}_user", UserID => $id); },
		department => sub { my ($what, $id) = @_; return (ChangeType => "${what}_party", Id => $id); },
		path => { user => '*/user/get', department => '*/department/get' }
	},
	dingtalk => {
		options => { client_id => 'dingmock0key00000001', client_secret => 'Dt-_s3cr3t.&=+%x',
			base_url => $mock->base_url('dingtalk/oapi'), api_base_url => $mock->base_url('dingtalk/api'),
			callback_token => 'tok', callback_aes_key => $aes_key },
		sender => [ token => 'tok', key => $aes_key, receiver => 'dingmock0key00000001' ],
		user => sub {
			my ($what, $id) = @_;
			return (EventType => { create => 'user_add_org', update => 'user_modify_org', delete => 'user_leave_org' }->{$what}, userId => [$id]);
		},
		department => sub {
			my ($what, $id) = @_;
			return (EventType => 'org_dept_' . { create => 'create', update => 'modify', delete => 'remove' }->{$what}, deptId => [ $id + 0 ]);
		},
		path => { user => '*/user/get', department => '*/department/get' }
	},
	feishu => {
		options => { app_id => 'cli_a1b2c3d4e5f60718', app_secret => 'S3cr3t/+&=x', base_url => $mock->base_url('feishu'),
			verification_token => 'vtok', encrypt_key => 'test key' },
		sender => [ token => 'vtok', key => 'test key', receiver => 'cli_a1b2c3d4e5f60718' ],
		user => sub {
			my ($what, $id) = @_;
			return (header => { event_type => "contact.user.${what}d_v3" }, event => { object => { user_id => $id, open_id => 'ou_x' } });
		},
		department => sub {
			my ($what, $id) = @_;
			return (header => { event_type => "contact.department.${what}d_v3" }, event => { object => { open_department_id => $id, name => 'lies' } });
		},
		path => { user => '*/users/*', department => '*/departments/*' }
	});

# the id that the service gives to a person or a department, as far as we know it
sub uid_of
{
	my ($type, $name) = @_;

	return query("SELECT uid FROM uds.records WHERE data_type = '$type' AND data ->> '"
		  . ($type eq 'user' ? 'nickname' : 'title') . "' = " . quote($name));
}

# sends an event and waits until it has been worked off; notes the task
sub event
{
	my ($what, %fields) = @_;

	is($sender->event(%fields), 200, "$what: acknowledged");
	$node->poll_query_until('postgres',
		q{SELECT status NOT IN ('received', 'processing') FROM uds.events ORDER BY id DESC LIMIT 1})
	  or die 'the event is not worked off';
	$task = query('SELECT task_id FROM uds.events ORDER BY id DESC LIMIT 1');
	return query('SELECT status FROM uds.events ORDER BY id DESC LIMIT 1');
}

# a full read finds nothing that the events have not brought
sub nothing_left
{
	my ($what) = @_;

	is(sync_as('full'), 'success', "$what: a full read");
	is(field(q{concat_ws(' ', created, updated, enabled, disabled, deleted, linked, unlinked, failed)}),
		'0 0 0 0 0 0 0 0', 'finds nothing that the events have not brought')
	  or diag(query("SELECT * FROM uds.changes WHERE task_id = $task"));
	return;
}

# the same with nothing but events running or not
sub tasks_run
{
	my ($on) = @_;

	query("ALTER SYSTEM SET uds.enabled = '$on'");
	query('SELECT pg_reload_conf()');
	$node->poll_query_until('postgres', "SELECT current_setting('uds.enabled') = '$on'") or die;
	return;
}

foreach my $name (sort keys %services)
{
	my $service = $services{$name};
	my ($user, $department) = @$service{qw(user department)};
	my ($id, $li, $team);

	note("== $name");
	$mock->control({ reset => JSON::PP::true });
	service($node, $mock, $name, %{ $service->{options} });
	create_source($name);
	$sender = UdsCallback->new(service => $name, url => http_url("/callback/$name"), @{ $service->{sender} });
	is($sender->verify, 200, "$name: the handshake");
	is(sync_as('full'), 'success', "$name: a first read");
	($li, $team) = (uid_of('user', 'Li Na'), uid_of('department', 'Platform Team'));

	# a person
	edit(people => { 'li.na' => { title => 'Key account manager', departments => [ 2, 5 ] } });
	is(event('update', $user->('update', $li)), 'success', 'a person who changed');
	is(person('Li Na', 'title'), 'Key account manager', 'is as the service says');
	is(members('Finance & People'), 'Emma Dubois, Li Na, Marco Rossi, Tom Becker*', 'and where');
	is(field(q{concat_ws(' ', kind, fetched, updated, linked, complete IS NULL)}), 'event 1 1 1 t', 'by a task that asked for this one');
	cmp_ok(field('requests'), '<=', 2, 'with a request, and one for the token');
	is(event('the same', $user->('update', $li)), 'success', 'an event that tells nothing new');
	is(field(q{concat_ws(' ', fetched, created, updated, unchanged)}), '1 0 0 1', 'changes nothing');
	nothing_left($name);

	# out of order: what counts is what the service says now
	is(event('too late', $user->('delete', $li)), 'success', 'an event that somebody left who is there');
	is(person('Li Na', 'enabled'), 't', 'does not make her leave');

	edit(people => { 'li.na' => undef });
	is(event('leaver', $user->('delete', $li)), 'success', 'somebody who left');
	is(query(q{SELECT count(*) FROM uds.users WHERE nickname = 'Li Na'}), 0, 'is gone');
	is(field(q{concat_ws(' ', fetched, deleted)}), '1 1', 'by a task that knows only this');
	is(event('nobody', $user->('update', 'nobody')), 'success', 'somebody whom nobody knows');
	is(field('deleted + created + failed'), 0, 'makes nobody and harms nobody');
	nothing_left($name);

	# departments
	edit(departments => { 4 => { name => 'Platform & Tools', parent => 2 } });
	is(event('department', $department->('update', $team)), 'success', 'a department that changed');
	is(parent('Platform & Tools'), 'Sales', 'is as the service says');
	is(members('Platform & Tools'), "Grace Obi, Jonas Holm, Priya Nair*, \x{e5}\x{bc}\x{a0}\x{e4}\x{bc}\x{9f}", 'its people stay');
	edit(departments => { 9 => { name => 'Lab', parent => 4 } });
	my $lab = $name eq 'feishu' ? 'od-' . md5_hex('department:9') : 9;
	is(event('department', $department->('create', $lab)), 'success', 'a new one');
	is(parent('Lab'), 'Platform & Tools', 'is where it belongs');
	edit(departments => { 9 => undef });
	is(event('department', $department->('delete', $lab)), 'success', 'one that is gone');
	is(query(q{SELECT count(*) FROM uds.departments WHERE title = 'Lab'}), 0, 'goes');

	# many at once are one task
	my @people = qw(anna.keller marco.rossi sofia.lind wang.fang tom.becker);
	my %nicknames = map { $_->{uid} => $_->{name} } @{ $mock->call('GET', '/directory')->{people} };
	tasks_run('off');
	my $first = query('SELECT coalesce(max(id), 0) FROM uds.events');
	edit(people => { map { $_ => { title => "Burst $_" } } @people });
	foreach my $round (1 .. 4)
	{
		is(scalar(grep { $sender->event($user->('update', uid_of('user', $nicknames{$_}))) != 200 } @people), 0,
			"$name: a burst");
	}
	is(query("SELECT DISTINCT status FROM uds.events WHERE id > $first"), 'received', 'is stored');
	is(query(q{SELECT count(*) FROM uds.tasks WHERE kind = 'event' AND status = 'init'}), 1, 'for one task');
	tasks_run('on');
	$node->poll_query_until('postgres', "SELECT count(*) = 20 FROM uds.events WHERE id > $first AND status = 'success'")
	  or die 'the burst is not worked off';
	$task = query("SELECT DISTINCT task_id FROM uds.events WHERE id > $first");
	is(field('fetched'), 5, 'which asked for each person once');
	is(query(q{SELECT count(*) FROM uds.users WHERE title LIKE 'Burst %'}), 5, 'and all are as they are');

	# duplicates
	my $envelope = $sender->envelope($sender->message($user->('update', uid_of('user', 'Anna Keller'))));
	is($sender->accepted($sender->send($envelope)), 200, 'an event') for 1 .. 3;
	is(query(q{SELECT deliveries FROM uds.events ORDER BY id DESC LIMIT 1}), 3, 'that comes three times is one');

	# the service does not answer
	edit(people => { 'tom.becker' => { title => 'CFO' } });
	faults({ path => $service->{path}{user}, kind => 'status', status => 503 });
	is(event('service down', $user->('update', uid_of('user', 'Tom Becker'))), 'failed', 'a service that does not answer');
	is(person('Tom Becker', 'title'), 'Burst tom.becker', 'changes nothing');
	faults();
	query("SELECT uds_retry($task)");
	$node->poll_query_until('postgres', q{SELECT status = 'success' FROM uds.events ORDER BY id DESC LIMIT 1}) or die;
	is(person('Tom Becker', 'title'), 'CFO', 'the task can be tried again');

	# what tells of nothing that is kept
	is($sender->event($name eq 'feishu' ? (header => { event_type => 'contact.employee_type_enum.created_v3' })
			: $name eq 'wecom' ? (ChangeType => 'update_tag', TagId => 1) : (EventType => 'label_conf_add')), 200, 'another event');
	is(query('SELECT status FROM uds.events ORDER BY id DESC LIMIT 1'), 'ignored', 'is ignored');
	nothing_left($name);
	is(query(q{SELECT count(*) FROM uds.raw_log WHERE body LIKE '%} . $aes_key . q{%'}), 0, 'no key in the raw log');
	drop_source($name);
	is(query('SELECT count(*) FROM uds.event_log'), 0, 'events go with their source');
}

#
# WeCom tells of new ids
#
my $wecom = $services{wecom};
$mock->control({ reset => JSON::PP::true });
service($node, $mock, 'wecom', %{ $wecom->{options} });
create_source('wecom');
$sender = UdsCallback->new(service => 'wecom', url => http_url('/callback/wecom'), @{ $wecom->{sender} });
is(sync_as('full'), 'success', 'a first read');
my $row = person('Li Na', 'id');
my $other = person('Grace Obi', 'id');
edit(people => { 'li.na' => { uid => 'Lina.Li', title => 'Renamed' }, 'grace.obi' => { uid => 'step1' } });
edit(people => { 'step1' => { uid => 'grace.wei' } });
tasks_run('off');
is($sender->event(ChangeType => 'update_user', UserID => 'LI.NA', NewUserID => 'Lina.Li'), 200, 'somebody is renamed');
is($sender->event(ChangeType => 'update_user', UserID => 'grace.obi', NewUserID => 'step1'), 200, 'another one');
is($sender->event(ChangeType => 'update_user', UserID => 'grace.obi', Department => '3'), 200, 'with an event under the old id');
is($sender->event(ChangeType => 'update_user', UserID => 'step1', NewUserID => 'grace.wei'), 200, 'twice');
tasks_run('on');
$node->poll_query_until('postgres', q{SELECT bool_and(status NOT IN ('received', 'processing')) FROM uds.events}) or die;
$task = query('SELECT max(task_id) FROM uds.events');
is(field('status'), 'success', 'the task succeeds') or diag(field('message'));
is(query("SELECT username, title FROM uds.users WHERE id = $row"), 'Lina.Li|Renamed', 'the row is the same, with the new name');
is(query("SELECT username FROM uds.users WHERE id = $other"), 'grace.wei', 'over two steps, too');
is(query('SELECT count(*) FROM uds.users'), 12, 'nobody came, nobody went');
is(query(q{SELECT string_agg(uid, ' ' ORDER BY uid) FROM uds.records WHERE data_type = 'user' AND uid ~* 'li|grace|step' AND NOT deleted}),
	'Lina.Li grace.wei sofia.lind', 'the records have the new ids');
my $renaming = $task;
nothing_left('after renames');
query("SELECT uds_undo($renaming, wait => true)");
is(query("SELECT title FROM uds.users WHERE id = $row"), 'Account manager', 'what an event brought can be undone');
is(sync_as('full'), 'success', 'a full read brings it again');
is(query("SELECT username, title FROM uds.users WHERE id = $row"), 'Lina.Li|Renamed', 'to the same row');

#
# Too many leavers at once are looked at first
#
query(q{SELECT uds_alter_source('wecom', guard_min => 1)});
my @leavers = qw(anna.keller marco.rossi sofia.lind wang.fang);
edit(people => { map { $_ => undef } @leavers });
tasks_run('off');
is($sender->event(ChangeType => 'delete_user', UserID => $_), 200, 'somebody leaves') foreach @leavers;
tasks_run('on');
$node->poll_query_until('postgres', q{SELECT status = 'blocked' FROM uds.events ORDER BY id DESC LIMIT 1}) or die 'not blocked';
pass('so many that the guard blocks the task');
$task = query('SELECT max(task_id) FROM uds.events');
query("SELECT uds_approve($task, wait => true)");
is(query('SELECT count(*) FROM uds.users'), 8, 'approved, they go');

#
# The secret that may only read ids: what an event cannot tell, a full read does
#
query(q{SELECT uds_drop_source('wecom', keep_data => false)});
$mock->control({ reset => JSON::PP::true });
service($node, $mock, 'wecom', %{ $wecom->{options} }, secret => 'ids-secret');
create_source('wecom');
is(sync_as('full'), 'success', 'a source of ids');
edit(people => { 'new.one' => { name => 'New', departments => [2] } });
is(event('ids', ChangeType => 'create_user', UserID => 'new.one', Department => '2'), 'success', 'an event that cannot be asked about');
is(query(q{SELECT count(*) FROM uds.users WHERE username = 'new.one'}), 1, 'is answered by a full read');
is(field('complete'), 't', 'of all there is');

#
# Feishu tells that the range of the app has changed
#
query(q{SELECT uds_drop_source('wecom', keep_data => false)});
my $feishu = $services{feishu};
service($node, $mock, 'feishu', %{ $feishu->{options} });
create_source('feishu');
$sender = UdsCallback->new(service => 'feishu', url => http_url('/callback/feishu'), @{ $feishu->{sender} });
is(event('scope', header => { event_type => 'contact.scope.updated_v3' }), 'success', 'the range of the app');
is(field(q{concat_ws(' ', kind, mode, complete)}), 'sync full t', 'asks for a full read');

like(http('GET', '/metrics')->{content}, qr/^uds_events\{source="feishu",status="success"\} 1$/m, 'metrics count events');

done_testing();
