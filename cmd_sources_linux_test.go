package starpod

import (
	"strings"
	"testing"
)

// The command, its neighbours and what they leave behind see neither the file nor
// what a command printed.
func TestCmdRunKeepsSourcesFromTheCommand(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "key", "sk-file-0123456789")
	got := typed{
		args: runLine([]string{"--isolation", "sealed", "--secret", "A=file:" + file + "@h.test", "--secret", "B=cmd:rev@h.test"},
			"sh", "-c", `echo "file: $(cat "$FILE")"; tr '\0' ' ' </proc/$PPID/cmdline; cat; env`),
		env:   []string{"FILE=" + file},
		stdin: "input of the command",
	}.run(t)
	if got.status != 1 || !strings.Contains(got.stderr, "B: is empty") {
		t.Errorf("a command that reads: got %d and %q, want it to have no input", got.status, got.stderr)
	}
	got = typed{
		args: runLine([]string{"--isolation", "sealed", "--secret", "A=file:" + file + "@h.test", "--secret", "B=cmd:echo 9876543210-dmc-ks | rev@h.test"},
			"sh", "-c", `echo "file: $(cat "$FILE")"; tr '\0' ' ' </proc/$PPID/cmdline; cat; env`),
		env:   []string{"FILE=" + file},
		stdin: "input of the command",
	}.succeed(t)
	got.holdsNo(t, "sk-file-0123456789")
	got.holdsNo(t, "sk-cmd-0123456789")
	if !strings.Contains(got.stdout, "file: \n") || !strings.Contains(got.stdout, "input of the command") {
		t.Errorf("got %s, want an empty file and the input", got.stdout)
	}
}

func TestCmdRunAsksForHostsOnATerminal(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, answer, want string }{
		{"named", "a.test, *.b.test", "A=starpod:v1:"},
		{"none", "", "no hosts named"},
		{"not hosts", "https://a.test/", "write the host alone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := typed{args: runLine([]string{"--secret", "A"}, "sh", "-c", "read line; echo got $line; env"), env: []string{"A=s3cret-value"}}.prepare(t)
			keyboard := onTerminal(t, cmd)
			readUntil(t, keyboard, "Which hosts may receive A?")
			// What follows the line is the command's.
			if _, err := keyboard.WriteString(test.answer + "\nrest\n"); err != nil {
				t.Fatal(err)
			}
			shown := readUntil(t, keyboard, test.want)
			if test.name == "named" && !strings.Contains(shown, "got rest") {
				t.Errorf("got %q, want the command to read the next line", shown)
			}
			_ = cmd.Wait()
		})
	}
}
