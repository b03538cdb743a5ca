package isolation

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// snapshot is all that isolation may touch on the host, as text.
func (w *world) snapshot(t testing.TB) string {
	t.Helper()
	text := shell(t, `ip netns list | sort; ip -o link | sed 's/^[0-9]*: //'; ip -o address; ip route show table all; ip -6 route show table all
		iptables-save; ip6tables-save; nft list ruleset; sysctl -a 2>/dev/null | grep -E 'ip_forward|conf.*(forwarding|route_localnet)'
		find /run /etc/netns "$1" -maxdepth 2 2>/dev/null | grep -E 'netns|starpod' | sort; cut -d' ' -f4- /proc/self/mountinfo`, filepath.Join(w.dir, "tmp"))
	// Counters, times, and what changes by itself.
	text = regexp.MustCompile(`\[\d+:\d+\]|(?m)^# .*$|counter packets \d+ bytes \d+|expires \d+sec|valid_lft \S+|preferred_lft \S+|(link-netnsid|@if|if)\d*`).ReplaceAllString(text, "")
	return text
}

func (w *world) compare(t testing.TB, before string) {
	t.Helper()
	after := w.snapshot(t)
	if after == before {
		return
	}
	left, right := t.TempDir()+"/before", t.TempDir()+"/after"
	_ = os.WriteFile(left, []byte(before), 0o600)
	_ = os.WriteFile(right, []byte(after), 0o600)
	out, _ := exec.Command("diff", left, right).CombinedOutput()
	t.Errorf("got left behind:\n%s", out)
}

// TestNothingIsLeftBehind compares the host before and after commands that end,
// are killed, or whose proxy is.
func TestNothingIsLeftBehind(t *testing.T) {
	w := newWorld(t)
	// The tools make tables when they look for the first time.
	w.snapshot(t)
	for _, driver := range []string{"sealed", "veth"} {
		flags := []string{"--isolation", driver}
		for _, test := range []struct {
			name string
			do   func(t *testing.T)
		}{
			{"after the end", func(t *testing.T) { output(t, w.run(t, false, flags, "true")) }},
			{"after a failure", func(t *testing.T) {
				if out, err := w.run(t, false, flags, "false").CombinedOutput(); err == nil {
					t.Errorf("got status 0, want 1: %s", out)
				}
			}},
			{"after an interrupt", func(t *testing.T) {
				cmd := w.started(t, flags)
				if err := cmd.Process.Signal(os.Interrupt); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
			}},
			{"after two at once", func(t *testing.T) {
				first, second := w.started(t, flags), w.started(t, flags)
				for _, cmd := range []*exec.Cmd{first, second} {
					if err := cmd.Process.Signal(os.Interrupt); err != nil {
						t.Fatal(err)
					}
					_ = cmd.Wait()
				}
			}},
			{"after a killed proxy and another start", func(t *testing.T) {
				cmd := w.started(t, flags)
				child := childOf(t, cmd.Process.Pid)
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
				// The command outlives its proxy, and has no network any more.
				shell(t, `kill -9 "$1"`, child)
				output(t, w.run(t, false, flags, "true"))
				if left, _ := os.ReadDir(filepath.Join(w.dir, "tmp")); len(left) > 0 {
					t.Errorf("got %s left, want the next start to remove what the killed proxy left", left)
				}
			}},
		} {
			t.Run(driver+" "+test.name, func(t *testing.T) {
				before := w.snapshot(t)
				test.do(t)
				testbench.Await(t, 10*time.Second, func() error {
					if left := commandsIn(w.openDir); len(left) > 0 {
						return fmt.Errorf("still there: %s", left)
					}
					return nil
				})
				w.compare(t, before)
			})
		}
	}
}

// started runs a command that waits, and returns when it runs.
func (w *world) started(t testing.TB, flags []string) *exec.Cmd {
	t.Helper()
	cmd := w.run(t, false, flags, "sh", "-c", "echo started; exec sleep 1000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "started\n" {
		t.Fatalf("got %q (%v), want the command's output", line, err)
	}
	return cmd
}

func childOf(t testing.TB, pid int) string {
	t.Helper()
	return strings.TrimSpace(shell(t, fmt.Sprintf("cat /proc/%d/task/*/children", pid)))
}

// commandsIn lists processes that work in a folder.
func commandsIn(dir string) []string {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	var found []string
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == dir {
			found = append(found, link)
		}
	}
	return found
}
