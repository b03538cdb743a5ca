# Asks for the URL in URL with the library in the argument, with the token as a
# bearer, and prints the answer.
use strict;
use warnings;

my %headers = (Authorization => "Bearer $ENV{API_KEY}");
if ($ARGV[0] eq 'HTTP::Tiny') {
    require HTTP::Tiny;
    my $answer = HTTP::Tiny->new(verify_SSL => 1)->get($ENV{URL}, { headers => \%headers });
    die "$answer->{status} $answer->{content}" unless $answer->{success};
    print $answer->{content};
} else {
    require LWP::UserAgent;
    my $answer = LWP::UserAgent->new(env_proxy => $ARGV[0] eq 'LWP env_proxy')->get($ENV{URL}, %headers);
    die $answer->status_line . ' ' . $answer->content unless $answer->is_success;
    print $answer->content;
}
