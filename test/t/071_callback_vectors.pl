# Every published vector of the services, through the front door; and what
# must be refused.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use JSON::PP ();
use MIME::Base64 qw(decode_base64 encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use UdsCallback;
use UdsHttp;
use UdsTest;

my $node = new_http_node();
my $json = JSON::PP->new->canonical;
my $number = 0;

sub one
{
	return $node->safe_psql('postgres', $_[0]);
}

# source($service, %options): makes a source, returns its name
sub source
{
	my ($service, %options) = @_;
	my $name = "$service" . ++$number;

	# nobody answers there
	$options{base_url} = 'http://127.0.0.1:9';
	one('SELECT uds_create_source(' . join(', ', map { quote($_) } $name, $service, $json->encode(\%options)) . ')');
	return $name;
}

# sender($service, $name, $token, $key, $receiver)
sub sender
{
	my ($service, $name, $token, $key, $receiver) = @_;

	return UdsCallback->new(service => $service, url => http_url("/callback/$name"),
		token => $token, key => $key, receiver => $receiver);
}

sub wecom
{
	my ($token, $key, $corpid) = @_;
	my $name = source('wecom', corpid => $corpid, secret => 's', callback_token => $token, callback_aes_key => $key);

	return sender('wecom', $name, $token, $key, $corpid);
}

sub get
{
	my ($sender, $signature, $timestamp, $nonce, $echo) = @_;

	return http('GET', "$sender->{url}?msg_signature=$signature&timestamp=$timestamp&nonce=$nonce&echostr=$echo");
}

sub escape { return UdsCallback::escape($_[0]); }

my %wecom = (
	W1 => [ [ 'QDG6eK', 'jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C', 'wx5823bf96d3bd56c7' ],
		'5c45ff5e21c57e6ad56bac8758b79b1d9ac89fd3', '1409659589', '263014780',
		'P9nAzCzyDtyTWESHep1vC5X9xho/qYX3Zpb4yKa9SKld1DsH3Iyt3tP3zNdtp+4RPcs8TgAE7OaBO+FZXvnaqQ==', '1616140317555161061' ],
	W3 => [ [ 'kjr2TKI8umCBfVF3wAHk8JiPwma5VBme', '4Ma3YBrSBbX2aez8MJpXGBne5LSDwgGqHbhM9WPYIws', 'ww6a112864f8022910' ],
		'1ba3cb09c0d2c2b3ed6900d37f91a6efae6cb011', '1583940690', 'VHh7ymSeb0jc4lSb',
		'6KmUQuPVu7UhjyVqRdbo5SfcRqaHvbUlKSHFvBV2ZuR6TIlKsygcfeSd1GDplg1C5KSKr6UPHCaC/nIX3ZNt9w==', '94966531020182955848408' ],
	W5 => [ [ '123456', 'kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR', 'wx49f0ab532d5d035a' ],
		'dd6b9c95b495b3f7e2901bfbc76c664930ffdb96', '1411443780', '437374425',
		'4ByGGj+sVCYcvGeQYhaKIk1o0pQRNbRjxybjTGblXrBaXlTXeOo1+bXFXDQQb1o6co6Yh9Bv41n7hOchLF6p+Q==', '5927782489442352469' ]);

foreach my $vector (sort keys %wecom)
{
	my ($set_up, $signature, $timestamp, $nonce, $echo, $plain) = @{ $wecom{$vector} };
	my $sender = wecom(@$set_up);

	is(get($sender, $signature, $timestamp, $nonce, escape($echo))->{content}, $plain, "$vector: the handshake");
	is(get($sender, $signature, $timestamp, $nonce, $echo)->{content}, $plain, "$vector: with a plus that is not escaped");
	is(get($sender, $signature, $timestamp, $nonce + 1, escape($echo))->{status}, 401, "$vector: another nonce");
	is(get($sender, $signature, $timestamp, $nonce, escape('A' . substr($echo, 1)))->{status}, 401, "$vector: another text");
}

# W2 and W7 share their keys; chat messages are no events of ours
my $w1 = wecom(@{ $wecom{W1}[0] });
my $w2 = $w1->send($w1->envelope('', signature => '477715d11cdb4164915debcba66cb864d751f3e6', timestamp => '1409659813',
		nonce => '1372623149', encrypted => 'RypEvHKD8QQKFhvQ6QleEB4J58tiPdvo+rtK1I9qca6aM/wvqnLSV5zEPeusUiX5L5X/0lWfrf0QADHHhGd3QczcdCUpj911L3vg3W/sYYvuJTs3TUUkSUXxaccAS0qhxchrRYt66wiSpGLYL42aM6A8dTT+6k4aSknmPj48kzJs8qLjvd4Xgpue06DOdnLxAUHzM6+kDZ+HMZfJYuR+LtwGc2hgf5gsijff0ekUNXZiqATP7PF5mZxZ3Izoun1s4zG4LUMnvw2r+KqCKIw+3IQH03v+BCA9nMELNqbSf6tiWSrXJB3LAVGUcallcrw8V2t9EL4EhzJWrQUax5wLVMNS0+rUPA3k22Ncx4XXZS9o0MBH27Bo6BpNelZpS+/uh9KsNlY6bHCmJU9p8g7m3fVKn28H3KDYA5Pl/T8Z1ptDAVe0lXdQ2YoyyH2uyPIGHBZZIs2pDBS8R07+qN+E7Q==' ));
is($w2->{status}, 200, 'W2: padding of more than a block of AES');
is(one(q{SELECT event ->> 'Content', event ->> 'MsgId', status FROM uds.events ORDER BY id DESC LIMIT 1}),
	'hello|4561255354251345929|ignored', 'W2: what it says is kept, and tells of nobody');
my $w4 = wecom('kz7Yx62CH8SaLN', 'cD0d7jx4tYvVtzqrmh3Dm3QFCXe6f8SlHoMtMh3qQEP', 'ww6a112864f8022910');
is($w4->send($w4->envelope('', signature => 'f265ae551b1932727204c3d707628d01376a6940', timestamp => '1583995625',
			nonce => '1584392382', encrypted => 'EUCt7xMcNiyASzZj0Hjc5yDjFQrCum6AfQ3ntHiUzjGQ51xieKmbvtrZ40/EcB2W/W8yH0n4Lqx48gJl/T9HD/R309I0P/r5pIZucK3lyEn48FYMr4YdE0QdL2jIJ3xkcXUr6uzefzCxG6lMvwpAJaOyVCzN7sRRw47njfxy5EIqU6R9ZBhlTzfdnhhOhK/nTwzrZX3SoGlXFA9OBeZ6ru1NWpXFk76x9DUMe0lcxPPiUqK8ctnQcYXSGUHVqC6DfG7E7mab0OmruNN8cBZY5d3dYOBA4OgaH55Q0AJmUpdT8vNiXpXx+6TxT3TIjySXpDrHVyrsb772aYywgg/Nu4kUmGkALwFZlzhjNegR7wDwb9lr4ERXsSSS8JZ8lbBmaQ3F2Tq584xoPj5rIhXAF734ynm4no1g+SdHiNqR328='))->{status},
	200, 'W4: random bytes that are no text, a key with spare bits');
is(one(q{SELECT event ->> 'Content' FROM uds.events ORDER BY id DESC LIMIT 1}), 'x123', 'W4: what it says');
my $w5 = wecom(@{ $wecom{W5}[0] });
is($w5->seal("<xml>\n<MsgType><![CDATA[text]]></MsgType>\n<Content><![CDATA[test]]></Content>\n<FromUserName><![CDATA[wx49f0ab532d5d035a]]></FromUserName>\n<ToUserName><![CDATA[messense]]></ToUserName>\n<AgentID>1</AgentID>\n<CreateTime>1411525903</CreateTime>\n</xml>", random => '1234567890123456'),
	'9s4gMv99m88kKTh/H8IdkOiMg6bisoy3ypwy9H4hvSPe9nsGaqyw5hhSjdYbcrKk+j3nba4HMOTzHrluLBYqxgNcBqGsL8GqxlhZgURnAtObvesEl5nZ+uBE8bviY0LWke8Zy9V/QYKxNV2FqllNXcfmstttyIkMKCCmVbCFM2JTF5wY0nFhHZSjPUL2Q1qvSUCUld+/WIXrx0oyKQmpB6o8NRrrNrsDf03oxI1p9FxUgMnwKKZeOA/uu+2IEvEBtb7muXsVbwbgX05UPPJvFurDXafG0RQyPR+mf1nDnAtQmmNOuiR5MIkdQ39xn1vWwi1O5oazPoQJz0nTYjxxEE8kv3kFxtAGVRe3ypD3WeK2XeFYFMNMpatF9XiKzHo3',
	'W6: the sender of these tests encrypts as it should');
is($w1->send($w1->envelope('', signature => 'f9a8912006aa47962da87f7f3486a2efda8ba725', timestamp => '1700000001',
			nonce => '1372623149', encrypted => 'sKqRbbiSUnDhFHOvPjtUMR4K1OcI9xWlQtn2aOF9hrC85HLF518yC5PCzhtMxnig9olI58Nz3pGi/FYp2JusgPpqsx05sxwmgZqkSrZFV4pY+BzlPlblm5j6iW/Uxrt0BY84gtPsPcpNVuW4s5jgSFxmDEe6Nce4K6ybsGZo7accutuqyGigTRhzwnWvRgXl4RXkEwdEVLsWMCgzh5mUEtY98t4NuqWD5ZlePKLjdGsXpeAEq6DN1HlG/MTdhLT50kQiAdXZBzMwGJTGsYe4+q5gtPh/mP18Y7uE1wBo+hF+YcldIAYMWWLYpca7tCG2dwEJYepktyfPN6uQ58H012HNPlIxPFkk5R1zoVgp68jHHjQXITFAjhKTfZRdvJQQJwNhlxo2fH8iAPu5yYDbq9pd+EoqwA8YECrTE+rOH4arOKJlK+3R0SQhL70+xE63EXwwU7Y8PxP3ljI1fD4gWtcJes3wowFTuKgMZJ40VFFdYRPhtZiSr+bh78KpWXFyNP2SpipjXYnliXhIhVKB/PuocXyGkpKfyJOi/wOlSNn5tVDsYfrOY4lzbGL/srpWm+/QT7vL8U8ljjlRTbF05Q=='))->{status},
	200, 'W7: an event');
is(one(q{SELECT event_type, changes, event_id FROM uds.events ORDER BY id DESC LIMIT 1}),
	'update_user|[{"id": "zhangsan", "type": "user", "renamed": "zhangsan001"}]|1700000000/update_user/zhangsan/zhangsan001',
	'W7: who was renamed');

#
# DingTalk
#
sub dingtalk
{
	my ($token, $key, $owner, %more) = @_;
	my $name = source('dingtalk', client_id => $owner, client_secret => 's', callback_token => $token, callback_aes_key => $key, %more);

	return sender('dingtalk', $name, $token, $key, $owner);
}

my @v1 = ('123456', '4g5j64qlyl3zvetqxz5jiocdr586fn2zvjpa8zls3ij');
my $v1 = dingtalk(@v1, 'suite4xxxxxxxxxxxxxxx');
is($v1->accepted($v1->send($v1->envelope('', signature => '5a65ceeef9aab2d149439f82dc191dd6c5cbe2c0', timestamp => '1445827045067', nonce => 'nEXhMP4r',
				encrypted => '1a3NBxmCFwkCJvfoQ7WhJHB+iX3qHPsc9JbaDznE1i03peOk1LaOQoRz3+nlyGNhwmwJ3vDMG+OzrHMeiZI7gTRWVdUBmfxjZ8Ej23JVYa9VrYeJ5as7XM/ZpulX8NEQis44w53h1qAgnC3PRzM7Zc/D6Ibr0rgUathB6zRHP8PYrfgnNOS9PhSBdHlegK+AGGanfwjXuQ9+0pZcy0w9lQ=='))),
	200, 'V1: answered with "success", encrypted');
is(one(q{SELECT event ->> 'Random', status FROM uds.events ORDER BY id DESC LIMIT 1}), 'LPIdSnlF|ignored', 'V1: what it says');
my $v2 = dingtalk('mryue', 'Yue0EfdN5900c1ce5cf6A152c63DDe1808a60c5ecd7', 'ding6ccabc44d2c8d38b');
my $events = one('SELECT count(*) FROM uds.events');
is($v2->accepted($v2->send($v2->envelope('', signature => '03044561471240d4a14bb09372dfcfd4fd0e40cb', timestamp => '1608001896814', nonce => 'WL4PK6yA',
				encrypted => '0vJiX6vliEpwG3U45CtXqi+m8PXbQRARJ8p8BbDuD1EMTDf0jKpQ79QS93qEk7XHpP6u+oTTrd15NRPvNvmBKyDCYxxOK+HZeKju4yhELOFchzNukR+t8SB/qk4ROMu3'))),
	200, 'V2: the handshake');
is(one('SELECT count(*) FROM uds.events'), $events, 'V2: which is no event');
my $v3 = dingtalk('tokenxxxx', 'o1w0aum42yaptlz8alnhwikjd3jenzt9cb9wmzptgus', 'dingxxxxxx');
is($v3->seal('success', random => 'WelUQl6bCqcBa2fM'), 'X1VSe9cTJUMZu60d3kyLYTrBq5578ZRJtteU94wG0Q4Uk6E/wQYeJRIC0/UFW5Wkya1Ihz9oXAdLlyC9TRaqsQ==',
	'V3: the sender of these tests encrypts as it should');
is($v3->signature('1605695694141', 'WelUQl6bCqcBa2fM', $v3->seal('success', random => 'WelUQl6bCqcBa2fM')),
	'f36f4ba5337d426c7d4bca0dbcb06b3ddc1388fc', 'V3: and signs');
is($v3->verify, 200, 'V3: with its keys the handshake goes');
my $v4 = dingtalk('123456', '1234567890123456789012345678901234567890123', 'dingsnotzck6pm5veliw');
is(join(' ', $v4->open('YvkvaGe4hQxd3VxRmEty0dVlnCOAqwf56xwTRHDHoOURqhalbmBJQk5FNcRk42Gl5T0YQXZNwpwWSm1xAFJ5ZA==')), 'success dingsnotzck6pm5veliw',
	'V4: the sender of these tests reads a key with spare bits');
is($v4->verify, 200, 'V4: and so does the server');
my $v5 = dingtalk(@v1, 'dingappkeyexample1');
my @v5 = (signature => 'efecb51857f22165fd567cbfade2d243f09aa39a', timestamp => '1700000000200', nonce => 'nonceABC',
	encrypted => 'HcA0QDKRG/U9FnFvX30Rg6og66zobN+ZoOlxMtj4Wkzaa2XAqi8j+8PGFWdieAWddTFyDxkKUmgDAqdulzNe9RaMW8kZcSxvt8b0EIJIDuDOpo0F1XeYu2z2iwwzYl2GRzx89XZK9Qo4ejdMOgau5UnPw+w1qTksR3Je5XeTN+uEObycI+LdxxDBZz9hImplZRV2X7ATP/rGu0GoZOokertsVOiOYJe9g6nAmwxWH83s6VZgRUGSIdUB38vjJexWeTMXQAClY2d9suv6o2XdJg7NAI+j77wUbzNVrUzEstA=');
is($v5->accepted($v5->send($v5->envelope('', @v5))), 200, 'V5: an event');
is(one(q{SELECT event_id, event_type, changes FROM uds.events ORDER BY id DESC LIMIT 1}),
	'evt0001|user_leave_org|[{"id": "u-张三", "type": "user"}]', 'V5: who left');
is($v5->accepted($v5->send($v5->envelope('', @v5))), 200, 'V5: sent again it is acknowledged');
is(one(q{SELECT count(*), max(deliveries) FROM uds.events WHERE event_id = 'evt0001'}), '1|2', 'V5: and known');
my $captured = $v5->event(EventType => 'user_add_org', eventId => undef, UserId => ['184919295227658120'], OptStaffId => 'manager164', TimeStamp => '1640921671286');
is($captured, 200, 'an event in the spelling of older pages');
is(one(q{SELECT changes, length(event_id) FROM uds.events ORDER BY id DESC LIMIT 1}), '[{"id": "184919295227658120", "type": "user"}]|32',
	'without an id it gets one from what it says');
my $corp = dingtalk(@v1, 'appkey', callback_owner => 'dingcorp');
$corp->{receiver} = 'dingcorp';
is($corp->verify, 200, 'events of the old kind carry the id of the company');

# Refusals are counted, until the server starts anew.
sub forget_refusals
{
	$node->restart;
	wait_for_listener($node);
	return;
}

#
# Feishu
#
forget_refusals();

sub feishu
{
	my ($token, $key, $app) = @_;
	my $name = source('feishu', app_id => $app, app_secret => 's',
		defined $token ? (verification_token => $token) : (), defined $key ? (encrypt_key => $key) : ());

	return sender('feishu', $name, $token, $key, $app);
}

my $f3 = feishu('vtok', 'test key', 'cli_example');
is($f3->open('P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk='), 'hello world', 'F1: the sender of these tests decrypts as it should');
is($f3->send({ method => 'POST', url => $f3->{url}, content => '{"encrypt":"P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk="}' })->{status},
	400, 'F1: what is decrypted is no event');
my $f2 = feishu('v', '1212121212', 'cli_xxxxxxxx');
my $response = $f2->send({ method => 'POST', url => $f2->{url}, content => '{"encrypt":"bZ3L7yh6m3Fkuffl4g+3uGjIHnhOm5fVZbKVuyT8t7tcd5ABMYm8l28/X900ZL3knZ7n+sCREu/H2WnIzft0amC7+xWqNH8o25IU63N4BnZWfHh+4hyG76QPd19vkw2bPJCx9aqxK8Nz+xqFNbk0RdgyWhmgd30jSxHtcQXAllkI7FMpGpOCteJad3bLXPDBQIV/xkCtKICCS7Z63gakpxZCLaRZ3qCXP1fapHh+LBIupxenrU6ysc7I3nHmjmKie41IiWwS5puG4zQHhVbq6KWLcgWm/3NBZOPQy53ucMu75SXA55I7jarVLZXWUcqBGrcgE3vouWbtwgZuzmoTQl0GSh5VYSVvpW992BuGxUWj0XjPYdICJm6Cr7xouNXwMcdb7N8caVdkdSZeEnswG19qSyDoQhklwzNGW0yiaayulBqJNjfge/G5V3401c2XaIuAeEIo+QQ4RSNpRGfnHkbu/j55FGQAGWjpuBNaIwZbaUoVP3NkGP+vM5rpEDe3sL2GN+Xsd+g9yBs7FqdMV8mXTGgLjCqjrPrke5/km76Q3Pe6KPs2YexMRG4MkSx3xUTzZnNn7zIzShPcjeSwBd2pxk6ht5N+fzueZdxl6Oo="}' });
is($response->{content}, '{"challenge":"1212"}', 'F2: a challenge goes before the event that comes with it; padding of a whole block');
my $f3_body = '{"encrypt":"AAECAwQFBgcICQoLDA0ODzksK1XHDGhxTlKJKwLymcMyd1nZHD+oH9xjSv/KOaKKH2SLRVCSORNkqu2wPguzUILQ3j82jEM0msPJOaXlKIA3MReuyc2zycmOe413v7VSGSFAtaB1jU/Xk805M0ZL7n0/54HIguVFKzTYukNjFoDy8NaGorG3aqZj3pd50QQVw7+LNCTi/LSHGViZGokwwdR1X5HDoG8x3+z3wYUn/JRQOHuDN9Q55KE+BJbiJEgbI0Tox9PPp2vq8Hduq+trFnU3CY3cQJx92GxAFHU/YxeerJ6PgskrTU4e0nujnzM3ZywC4ozDjS27k/xB/kPJAcOUSsoEv3myHXVH8o7Z6hcT+3uTrCV8yvLF7husvud1s8l2AcYx6WEVx6Cj1dVIvA=="}';
my %f3_headers = ('X-Lark-Request-Timestamp' => '1700000000', 'X-Lark-Request-Nonce' => 'nonceXYZ',
	'X-Lark-Signature' => '69bc3e773149256560d74da6fe3893c3b979889b473a17c5be79eb0c96260d25');
my %f3_request = (method => 'POST', url => $f3->{url}, content => $f3_body, headers => \%f3_headers);
is($f3->send(\%f3_request)->{status}, 200, 'F3: an event');
is(one(q{SELECT event_id, changes FROM uds.events ORDER BY id DESC LIMIT 1}), 'evt0001|[{"id": "u1", "type": "user"}]', 'F3: who was deleted');
is($f3->send({ %f3_request, headers => { %f3_headers, 'X-Lark-Request-Nonce' => 'nonceXYz' } })->{status}, 401, 'F3: another nonce');
is($f3->send({ %f3_request, content => "$f3_body " })->{status}, 401, 'F3: another byte');
is($f3->send({ %f3_request, headers => {} })->{status}, 401, 'F3: not signed');
$response = $f3->send({ method => 'POST', url => $f3->{url}, content => '{"encrypt":"AAECAwQFBgcICQoLDA0ODw9mLTIAZS9jAmGTQ1wAhHpnBHVL2wRjH9rPunQdQC1vwzhK77Wzn1d6/JFDhwZWxOChlstOz3YOis28UxWSwyds59G3M3EHjlaYTtzRlChc"}' });
is($response->{content}, '{"challenge":"ajls384kdjx98XX"}', 'F4: a handshake, encrypted and not signed');
my $clear = feishu('vtok', undef, 'cli_example');
is($clear->verify, 200, 'a handshake in clear');
is($clear->event(header => { event_type => 'contact.user.created_v3' }, event => { object => { user_id => 'u9' } }), 200, 'an event in clear');
is($clear->event(header => { event_type => 'contact.user.created_v3', token => 'vtoK' }), 401, 'with another token');
is($clear->event(header => { event_type => 'contact.user.created_v3', app_id => 'cli_other' }), 403, 'for another app');
is($clear->send($clear->envelope('{"ts":"1","uuid":"1","token":"vtok","type":"event_callback","event":{"type":"user_add"}}'))->{status},
	200, 'an event of the first version is acknowledged');
is(one(q{SELECT count(*) FROM uds.events WHERE event ? 'uuid'}), 0, 'and not kept');

#
# What is wrong is refused, and not stored
#
$events = one('SELECT count(*) FROM uds.events');

sub refused
{
	my ($name, $status, $sender, $envelope) = @_;
	my $got;

	forget_refusals() if $number++ % 8 == 0;
	$got = $sender->send($envelope);
	is($got->{status}, $status, "$name is refused");
	like($got->{content}, qr/^\{"code":$status,"message":"[^"]+"\}$/, "$name: with a message that says little");
	return;
}

$number = 0;
foreach my $sender ($w1, $v5, $f3)
{
	my $what = $sender->{service};
	my $message = $sender->message($what eq 'wecom' ? (ChangeType => 'delete_user', UserID => 'victim')
		: $what eq 'dingtalk' ? (EventType => 'user_leave_org', userId => ['victim'])
		: (header => { event_type => 'contact.user.deleted_v3' }, event => { object => { user_id => 'victim' } }));
	my $good = $sender->envelope($message);
	my $text = $sender->seal($message);

	refused("$what: a wrong signature", 401, $sender, $sender->envelope($message, signature => '0' x ($what eq 'feishu' ? 64 : 40)));
	refused("$what: no signature", 401, $sender, { %$good, url => $sender->{url}, headers => {} });
	refused("$what: a body that is cut", 400, $sender, { %$good, content => substr($good->{content}, 0, -9) }) if $what ne 'feishu';
	refused("$what: no body", $what eq 'feishu' ? 401 : 400, $sender, { %$good, content => '' });
	refused("$what: another body", $what eq 'feishu' ? 401 : 400, $sender, { %$good, content => '[]' });
	refused("$what: by PUT", 405, $sender, { %$good, method => 'PUT' });
	if ($what ne 'feishu')
	{
		refused("$what: another receiver", 403, $sender, $sender->envelope($message, receiver => 'somebody'));
		refused("$what: a length beyond its end", 403, $sender, $sender->envelope($message, length => 100000));
		refused("$what: a length below zero", 403, $sender, $sender->envelope($message, length => 0xffffffff));
		refused("$what: padding 0", 403, $sender, $sender->envelope($message, pad => 0));
		refused("$what: padding 33", 403, $sender, $sender->envelope($message, pad => 33));
		refused("$what: no whole blocks", 403, $sender, $sender->envelope('', encrypted => encode_base64(substr(decode_base64($text), 0, -3), '')));
		refused("$what: no base64", 403, $sender, $sender->envelope('', encrypted => '!' . substr($text, 1)));
		refused("$what: nothing that is encrypted", 400, $sender, $sender->envelope('', encrypted => ''));
		refused("$what: other bytes under a right signature", 403, $sender,
			$sender->envelope('', encrypted => encode_base64('x' x 64, '')));
		refused("$what: a message that is none", 400, $sender, $sender->envelope('nothing'));
	}
	else
	{
		foreach my $case ([ 'one byte', 'x' ], [ 'no whole blocks', 'x' x 40 ], [ 'other bytes', 'x' x 64 ])
		{
			my $content = $json->encode({ encrypt => encode_base64($case->[1], '') });

			refused("$what: $case->[0] under a right signature", 403, $sender, {
					%$good,
					content => $content,
					headers => { 'X-Lark-Request-Timestamp' => 1, 'X-Lark-Request-Nonce' => 'n',
						'X-Lark-Signature' => Digest::SHA::sha256_hex("1n$sender->{key}$content") }
				});
		}
		refused("$what: in clear where there is a key", 401, $sender, { %$good, content => $message });
	}
}
refused('a document type', 400, $w1, { %{ $w1->envelope('') }, content => '<!DOCTYPE xml [<!ENTITY a "b">]><xml><Encrypt>&a;</Encrypt></xml>' });
refused('deep XML', 400, $w1, { %{ $w1->envelope('') }, content => '<xml>' x 100000 });
refused('a source that is not there', 404, $w1, { %{ $w1->envelope('') }, url => http_url('/callback/nobody') });
my $plain = source('wecom', corpid => 'c', secret => 's');
refused('one that is not set up for events', 404, $w1, { %{ $w1->envelope('x') }, url => http_url("/callback/$plain") });
refused('one of another type', 404, $w1, { %{ $w1->envelope('x') }, url => http_url('/callback/api') });
is(one('SELECT count(*) FROM uds.events'), $events, 'nothing of all this is stored');
my $log = slurp_file($node->logfile);
like($log, qr/refused an event for source "wecom\d+" from 127\.0\.0\.1: the signature is wrong/, 'the log tells why');
like($log, qr/refused an event for source "dingtalk\d+" from 127\.0\.0\.1: it is for another receiver/, 'each time');
unlike($log, qr/jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C.*ereport|refused.*victim/, 'and nothing of what was in it');

# replay: the same envelope, later, is known
forget_refusals();
my $replayed = $w1->envelope($w1->message(ChangeType => 'create_user', UserID => 'again'));
is($w1->send($replayed)->{status}, 200, 'an envelope') for 1 .. 3;
is(one(q{SELECT count(*), max(deliveries) FROM uds.events WHERE event ->> 'UserID' = 'again'}), '1|3', 'that is sent three times is one event');
one(qq{SELECT uds_alter_source('} . ($w1->{url} =~ s{.*/}{}r) . qq{', enabled => false)});
is($w1->event(ChangeType => 'create_user', UserID => 'late'), 403, 'a source that is disabled takes none');

done_testing();
