package starpod

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestScrubArguments overwrites values where the kernel shows them, in a process
// of this test's own, and leaves the flags what they were.
func TestScrubArguments(t *testing.T) {
	t.Parallel()
	const value = "sk-s3cret-0123456789"
	for _, test := range []struct {
		name  string
		flags []string
		want  string // of the command line
	}{
		{"in a word of its own", []string{"--secret", "MY_KEY=" + value + "@h.test"}, "--secret MY_KEY=" + strings.Repeat("*", len(value+"@h.test"))},
		{"behind the flag", []string{"--secret=MY_KEY=" + value + "@h.test"}, "--secret=MY_KEY=" + strings.Repeat("*", len(value+"@h.test"))},
		{"with an equals sign in it", []string{"--secret", "MY_KEY=a=" + value + "@h.test"}, "MY_KEY=" + strings.Repeat("*", len("a="+value+"@h.test"))},
		{"twice", []string{"--secret", "A=" + value + "@h.test", "--secret", "B=" + value + "@h.test"}, "B=" + strings.Repeat("*", len(value+"@h.test"))},
		{"none", []string{"--secret", "MY_KEY@h.test"}, "--secret MY_KEY@h.test"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			line := typed{args: runLine(test.flags, "sh", "-c", `tr '\0' ' ' </proc/$PPID/cmdline; env`)}
			if test.name == "none" {
				line.env = []string{"MY_KEY=" + value}
			}
			got := line.succeed(t)
			got.holdsNo(t, value)
			if line, _, _ := strings.Cut(got.stdout, "\n"); !strings.Contains(line, test.want) {
				t.Errorf("got the command line %q, want %q", line, test.want)
			}
			if !strings.Contains(got.stdout, "=starpod:v1:") {
				t.Errorf("got %s, want a token", got.stdout)
			}
		})
	}
}

// TestScrubbedArgumentsAreKept: what is returned is a copy.
func TestScrubbedArgumentsAreKept(t *testing.T) {
	flag := strings.Clone("MY_KEY=sk-s3cret@h.test")
	before := os.Args
	t.Cleanup(func() { os.Args = before })
	os.Args = []string{"caddy", flag}
	kept := scrubArguments([]string{flag})
	if !slices.Equal(kept, []string{"MY_KEY=sk-s3cret@h.test"}) || strings.Contains(os.Args[1], "s3cret") {
		t.Errorf("got %q and the arguments %q, want the value in the first alone", kept, os.Args)
	}
}
