# UdsHttp: a server whose listener takes HTTP, and requests to it.
package UdsHttp;

use strict;
use warnings;

use Exporter 'import';
use HTTP::Tiny;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use UdsTest;

our @EXPORT = qw(
  create_key
  http
  http_json
  http_url
  new_http_node
  set_up_listener
  wait_for_listener
);

my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my $port;

# set_up_listener($node, $db): the extension and the role of the listener
sub set_up_listener
{
	my ($node, $db) = @_;

	$node->safe_psql($db // 'postgres',
		q{CREATE EXTENSION IF NOT EXISTS uds;
		DO $$ BEGIN
			IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'uds_http') THEN
				CREATE ROLE uds_http LOGIN;
			END IF;
		END $$;
		GRANT USAGE ON SCHEMA uds TO uds_http;
		GRANT EXECUTE ON FUNCTION uds.http_request TO uds_http});
	return;
}

# new_http_node(%settings): a running server with a listener on a free port,
# extension and role in place; settings as for new_node
sub new_http_node
{
	my (%settings) = @_;
	my $node;

	$port = PostgreSQL::Test::Cluster::get_free_port();
	$node = new_node('uds.http_port' => $port, %settings);
	set_up_listener($node, $settings{'uds.http_database'});
	# without its role the listener could not begin, and would come again later
	$node->restart;
	wait_for_listener($node);
	return $node;
}

# wait_for_listener($node): until all its processes are connected
sub wait_for_listener
{
	my ($node) = @_;

	$node->poll_query_until('postgres',
		q{SELECT count(*) = current_setting('uds.http_workers')::int
		  FROM pg_stat_activity WHERE backend_type = 'uds http listener' AND state = 'idle'})
	  or die 'the listener does not come';
	return;
}

# http_url($path): the address of something
sub http_url
{
	my ($path) = @_;

	return "http://127.0.0.1:$port$path";
}

# create_key($node, $name, $source, $rest): a key, with more arguments as SQL
sub create_key
{
	my ($node, $name, $source, $rest) = @_;

	return $node->safe_psql('postgres',
		'SELECT uds_create_api_key(' . quote($name) . ', ' . quote($source // 'api') . ($rest ? ", $rest" : '') . ')');
}

# http($method, $path, %options): HTTP::Tiny's response; options: key, content,
# headers
sub http
{
	my ($method, $path, %options) = @_;
	my %headers = %{ $options{headers} // {} };
	my $client = HTTP::Tiny->new(
		proxy => undef,
		http_proxy => undef,
		timeout => $PostgreSQL::Test::Utils::timeout_default,
		%{ $options{client} // {} });

	$headers{Authorization} = "Bearer $options{key}" if defined $options{key};
	$headers{'Content-Type'} //= 'application/json' if defined $options{content};
	return $client->request($method, $path =~ /^http/ ? $path : http_url($path),
		{ headers => \%headers, defined $options{content} ? (content => $options{content}) : () });
}

# http_json($method, $path, %options): status, and the body decoded
sub http_json
{
	my ($method, $path, %options) = @_;
	my $response;

	$options{content} = $json->encode($options{content}) if ref $options{content} eq 'HASH';
	$response = http($method, $path, %options);
	return ($response->{status}, eval { $json->decode($response->{content}) } // $response->{content});
}

1;
