# UdsPeer: servers that others wrote, from npm, to test against.
package UdsPeer;

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils;

my $seconds = 60;

# install(@packages): installs npm packages by name into a folder of the test;
# returns that, or undef and why not
sub install
{
	my (@packages) = @_;
	my $folder = PostgreSQL::Test::Utils::tempdir();
	my ($out, $err) = ('', '');
	my $run = eval {
		IPC::Run::run([ 'node', '--version' ], '>', \$out, '2>', \$err);
	};

	return (undef, 'node is not there') unless $run;
	local $ENV{HOME} = $folder;
	local $ENV{npm_config_cache} = "$folder/cache";
	local $ENV{npm_config_update_notifier} = 'false';
	$run = eval {
		IPC::Run::run(
			[ 'npm', 'install', '--prefix', $folder, '--no-audit', '--no-fund', '--ignore-scripts', '--loglevel', 'error', @packages ],
			'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout($seconds));
	};
	return (undef, "npm could not install @packages in $seconds s: " . substr($@ || $err || $out, 0, 300)) unless $run;
	return ($folder);
}

# start($folder, $program, %environment): runs a program, JavaScript text, in a
# folder that install() made.  It prints its port in a line of its own when it
# listens, on the loopback address, and ends when its input does.  Returns an
# object.
sub start
{
	my ($folder, $program, %environment) = @_;
	my $self = bless { in => '', out => '', err => '' }, __PACKAGE__;
	my $guard = "process.stdin.resume(); process.stdin.on('end', () => process.exit(0));\n";

	open my $file, '>', "$folder/server.mjs" or die "could not write the server: $!";
	print $file $guard, $program;
	close $file;
	{
		local %ENV = (%ENV, %environment);
		local $ENV{HTTP_PROXY};
		$self->{harness} = IPC::Run::start([ 'sh', '-c', 'cd "$0" && exec node server.mjs', $folder ],
			'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err}, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	}
	until ($self->{out} =~ /^(\d+)$/m)
	{
		die "the server did not start: $self->{err}" unless $self->{harness}->pumpable;
		$self->{harness}->pump;
	}
	($self->{port}) = $self->{out} =~ /^(\d+)$/m;
	return $self;
}

sub port { return $_[0]->{port}; }

sub stop
{
	my ($self) = @_;

	$self->{harness}->kill_kill(grace => 5) if $self->{harness};
	$self->{harness} = undef;
	return;
}

1;
