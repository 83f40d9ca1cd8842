# UdsCallback: sends change events as WeCom, DingTalk and Feishu do, and reads
# what they would make of the reply.
package UdsCallback;

use strict;
use warnings;

use Digest::SHA qw(sha1_hex sha256 sha256_hex);
use HTTP::Tiny;
use IPC::Run;
use JSON::PP ();
use MIME::Base64 qw(decode_base64 encode_base64);
use PostgreSQL::Test::Utils;

my $json = JSON::PP->new->canonical;
my $counter = 0;

# new(service => 'wecom', url => ..., token => ..., key => ..., receiver => ...):
# key is the EncodingAESKey, of Feishu the Encrypt Key, or undef for none
sub new
{
	my ($class, %self) = @_;

	return bless {%self}, $class;
}

# AES-256-CBC without padding, in either direction
sub aes
{
	my ($direction, $key, $iv, $bytes) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'openssl', 'enc', "-$direction", '-aes-256-cbc', '-nopad', '-K', unpack('H*', $key), '-iv', unpack('H*', $iv) ],
		'<', \$bytes, '>', \$out, '2>', \$err)
	  or die "openssl: $err";
	return $out;
}

sub aes_key
{
	my ($self) = @_;

	return $self->{service} eq 'feishu' ? sha256($self->{key}) : decode_base64("$self->{key}=");
}

# seal($message, random => ..., receiver => ...): base64; "random" are 16 bytes,
# of Feishu the IV
sub seal
{
	my ($self, $message, %over) = @_;
	my $key = $self->aes_key;
	my $random = $over{random} // sprintf('%016d', ++$counter);
	my ($bytes, $pad, $block);

	utf8::encode($message) if utf8::is_utf8($message);
	if ($self->{service} eq 'feishu')
	{
		$pad = 16 - length($message) % 16;
		return encode_base64($random . aes('e', $key, $random, $message . chr($pad) x $pad), '');
	}
	$bytes = $random . pack('N', $over{length} // length $message) . $message . ($over{receiver} // $self->{receiver});
	$pad = 32 - length($bytes) % 32;
	$bytes .= chr($over{pad} // $pad) x $pad;
	return encode_base64(aes('e', $key, substr($key, 0, 16), $bytes), '');
}

# open($base64): the message and the receiver
sub open
{
	my ($self, $text) = @_;
	my $key = $self->aes_key;
	my $bytes = decode_base64($text);
	my $length;

	if ($self->{service} eq 'feishu')
	{
		my $plain = aes('d', $key, substr($bytes, 0, 16), substr($bytes, 16));

		return substr($plain, 0, length($plain) - ord(substr($plain, -1)));
	}
	$bytes = aes('d', $key, substr($key, 0, 16), $bytes);
	$bytes = substr($bytes, 0, length($bytes) - ord(substr($bytes, -1)));
	$length = unpack('N', substr($bytes, 16, 4));
	return (substr($bytes, 20, $length), substr($bytes, 20 + $length));
}

sub signature
{
	my ($self, $timestamp, $nonce, $text) = @_;

	return sha1_hex(join '', sort($self->{token}, $timestamp, $nonce, $text));
}

sub escape
{
	my ($text) = @_;

	$text =~ s/([^A-Za-z0-9_.~-])/sprintf '%%%02X', ord $1/ge;
	return $text;
}

# address($encrypted, %over): the URL with the signature
sub address
{
	my ($self, $encrypted, %over) = @_;
	my $timestamp = $over{timestamp} // time;
	my $nonce = $over{nonce} // 'nonce' . ++$counter;
	my $signature = $over{signature} // $self->signature($timestamp, $nonce, $encrypted);
	my $name = $self->{service} eq 'wecom' ? 'msg_signature' : 'signature';

	return "$self->{url}?$name=$signature&timestamp=$timestamp&nonce=" . escape($nonce);
}

# message(%fields): an event in the service's own form, in clear.  No two have
# the same time: of WeCom's this is all that tells one from another.
sub message
{
	my ($self, %fields) = @_;

	if ($self->{service} eq 'wecom')
	{
		my %all = (ToUserName => $self->{receiver}, FromUserName => 'sys', CreateTime => time + ++$counter,
			MsgType => 'event', Event => 'change_contact', %fields);

		return '<xml>' . join('', map { "<$_><![CDATA[$all{$_}]]></$_>" } sort keys %all) . '</xml>';
	}
	if ($self->{service} eq 'dingtalk')
	{
		return $json->encode({ CorpId => 'ding1', EventTime => time * 1000, eventId => 'e' . ++$counter . $$, %fields });
	}
	return $json->encode({
		schema => '2.0',
		header => { event_id => 'e' . ++$counter . $$, create_time => time . '000', token => $self->{token} // '',
			app_id => $self->{receiver}, tenant_key => 'tk1', %{ $fields{header} // {} } },
		event => $fields{event} // {} });
}

# envelope($message, %over): the request, to be spoiled or sent
sub envelope
{
	my ($self, $message, %over) = @_;
	my ($encrypted, $content);

	if ($self->{service} eq 'feishu')
	{
		my ($timestamp, $nonce) = ($over{timestamp} // time, $over{nonce} // 'nonce' . ++$counter);

		$content = defined $self->{key} ? $json->encode({ encrypt => $self->seal($message, %over) }) : $message;
		return {
			method => 'POST',
			url => $self->{url},
			headers => {
				'Content-Type' => 'application/json; charset=utf-8',
				defined $self->{key} ? (
					'X-Lark-Request-Timestamp' => $timestamp,
					'X-Lark-Request-Nonce' => $nonce,
					'X-Lark-Signature' => $over{signature} // sha256_hex($timestamp . $nonce . $self->{key} . $content)) : ()
			},
			content => $content
		};
	}
	$encrypted = $over{encrypted} // $self->seal($message, %over);
	$content = $self->{service} eq 'wecom'
	  ? "<xml><ToUserName><![CDATA[$self->{receiver}]]></ToUserName><AgentID><![CDATA[]]></AgentID><Encrypt><![CDATA[$encrypted]]></Encrypt></xml>"
	  : $json->encode({ encrypt => $encrypted });
	return {
		method => 'POST',
		url => $self->address($encrypted, %over),
		headers => { 'Content-Type' => $self->{service} eq 'wecom' ? 'text/xml' : 'application/json' },
		content => $content
	};
}

# send($envelope): HTTP::Tiny's response
sub send
{
	my ($self, $envelope) = @_;
	my $http = HTTP::Tiny->new(proxy => undef, http_proxy => undef, timeout => $PostgreSQL::Test::Utils::timeout_default);

	return $http->request($envelope->{method}, $envelope->{url},
		{ headers => $envelope->{headers} // {}, defined $envelope->{content} ? (content => $envelope->{content}) : () });
}

# event(%fields): sends one; the status of the reply, which is 0 where the
# service would not take it for a success
sub event
{
	my ($self, %fields) = @_;

	return $self->accepted($self->send($self->envelope($self->message(%fields))));
}

# accepted($response): its status, or 0 as above
sub accepted
{
	my ($self, $response) = @_;
	my $reply;

	return $response->{status} if $response->{status} != 200 || $self->{service} ne 'dingtalk';
	$reply = eval { $json->decode($response->{content}) } // return 0;
	return 0 if $reply->{msg_signature} ne $self->signature($reply->{timeStamp}, $reply->{nonce}, $reply->{encrypt});
	return 0 if join(' ', $self->open($reply->{encrypt})) ne "success $self->{receiver}";
	return 200;
}

# verify(): the handshake; the status of the reply, 0 as above
sub verify
{
	my ($self) = @_;
	my $challenge = "challenge$$" . ++$counter;
	my $response;

	if ($self->{service} eq 'wecom')
	{
		my $echo = $self->seal($challenge);

		$response = $self->send({ method => 'GET', url => $self->address($echo) . '&echostr=' . escape($echo) });
		return $response->{status} == 200 && $response->{content} ne $challenge ? 0 : $response->{status};
	}
	return $self->accepted($self->send($self->envelope('{"EventType":"check_url"}')))
	  if $self->{service} eq 'dingtalk';
	$response = $self->send($self->envelope(
			$json->encode({ challenge => $challenge, token => $self->{token} // '', type => 'url_verification' })));
	return $response->{status} if $response->{status} != 200;
	return $response->{content} eq qq({"challenge":"$challenge"}) ? 200 : 0;
}

1;
