# UdsDocument: the statements that a document shows, so that tests run what
# people read.
package UdsDocument;

use strict;
use warnings;

use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;

# new($path): the document, from the root of the tree
sub new
{
	my ($class, $path) = @_;

	return bless { text => slurp_file(dirname(__FILE__) . "/../../$path") }, $class;
}

# Statements in the indented blocks of a text: from a line that begins with a
# word in capitals to one that ends in a semicolon.
sub statements
{
	my ($text) = @_;
	my @found;
	my $open;

	foreach my $line (split /\n/, $text)
	{
		unless ($line =~ s/^ {4}//)
		{
			$open = undef if $line ne '';
			next;
		}
		if (defined $open)
		{
			$open .= "\n$line";
		}
		elsif ($line =~ /^(SELECT|CREATE|INSERT|UPDATE|ALTER|DELETE|IMPORT|TABLE)\b/)
		{
			$open = $line;
		}
		else
		{
			next;
		}

		# a body in dollars goes on to its end
		my $dollars = () = $open =~ /\$\$/g;

		if ($line =~ /;$/ && $dollars % 2 == 0)
		{
			push @found, $open;
			$open = undef;
		}
	}
	return @found;
}

# statements_until($heading): those before it
sub statements_until
{
	my ($self, $heading) = @_;
	my $end = index $self->{text}, "\n$heading\n";

	die "the document has no heading \"$heading\"" if $end < 0;
	return statements(substr $self->{text}, 0, $end);
}

# statements_after($heading, $next): those after it, up to the next one if it
# is given
sub statements_after
{
	my ($self, $heading, $next) = @_;
	my $start = index $self->{text}, "\n$heading\n";

	die "the document has no heading \"$heading\"" if $start < 0;
	my $end = defined $next ? index $self->{text}, "\n$next\n", $start : length $self->{text};

	die "the document has no heading \"$next\"" if $end < 0;
	return statements(substr $self->{text}, $start, $end - $start);
}

1;
