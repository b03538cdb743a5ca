package testbench

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// inside binds the hosts file and becomes the command.
const inside = `mount --bind "$0" /etc/hosts && exec "$@"`

// Command prepares a command that resolves the test names ([APIHost] and the
// others) to 127.0.0.1: it runs in a mount namespace of its own with another
// /etc/hosts, while the machine keeps its file. The process id is the
// command's. An ordinary user needs unprivileged user namespaces. The command
// is killed when the test ends.
func Command(tb testing.TB, name string, args ...string) *exec.Cmd {
	tb.Helper()
	return CommandKnowing(tb, []string{APIHost, EvilHost, GitHost, GitHubHost}, name, args...)
}

// CommandKnowing is Command with other names at 127.0.0.1, or at the address in
// front of the name: "10.0.0.1 db.test".
func CommandKnowing(tb testing.TB, hosts []string, name string, args ...string) *exec.Cmd {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("looking for %s (scripts/test-deps.sh installs what the tests need): %v", name, err)
	}
	argv := []string{"--mount"}
	if os.Geteuid() != 0 {
		argv = append(argv, "--map-root-user")
	}
	argv = append(argv, "sh", "-c", inside, hostsFile(tb, hosts), path)
	cmd := exec.Command("unshare", append(argv, args...)...)
	cmd.WaitDelay = 5 * time.Second
	// Not by tb.Context, which ends before other cleanups could stop it kindly.
	tb.Cleanup(func() {
		if cmd.Process != nil {
			cmd.Process.Kill()
		}
	})
	return cmd
}

func hostsFile(tb testing.TB, names []string) string {
	tb.Helper()
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		tb.Fatalf("reading the machine's hosts file: %v", err)
	}
	hosts = append(bytes.TrimRight(hosts, "\n"), '\n')
	for _, name := range names {
		if !strings.Contains(name, " ") {
			name = "127.0.0.1 " + name
		}
		hosts = append(append(hosts, name...), '\n')
	}
	path := filepath.Join(tb.TempDir(), "hosts")
	if err := os.WriteFile(path, hosts, 0o644); err != nil {
		tb.Fatalf("writing a hosts file: %v", err)
	}
	return path
}
