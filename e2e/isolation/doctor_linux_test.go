package isolation

import (
	"fmt"
	"strings"
	"testing"
)

// examine runs doctor as root or as the ordinary user, and sees that the host is
// as it was.
func (w *world) examine(t *testing.T, user bool) string {
	t.Helper()
	cmd := w.run(t, user, nil)
	for i, arg := range cmd.Args {
		if arg == "run" {
			cmd.Args = append(cmd.Args[:i], "doctor")
			break
		}
	}
	before := w.snapshot(t)
	found, log := output(t, cmd)
	w.compare(t, before)
	if log != "" {
		t.Errorf("standard error: got %q, want nothing", log)
	}
	return found
}

func TestDoctorTriesEachIsolationAndChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.snapshot(t) // the tools make tables when they look for the first time
	for _, test := range []struct {
		user   bool
		works  []string
		refuse string
	}{
		{false, []string{"env", "sealed", "veth"}, ""},
		{true, []string{"env", "sealed"}, "–  veth: not on this machine: missing CAP_NET_ADMIN"},
	} {
		t.Run(fmt.Sprintf("ordinary user %t", test.user), func(t *testing.T) {
			found := w.examine(t, test.user)
			for _, driver := range test.works {
				want := "✓  " + driver + ": the host of a token receives the value"
				if !strings.Contains(found, want) {
					t.Errorf("got no %q in\n%s", want, found)
				}
				want = "✓  " + driver + ": a program does not get around the proxy"
				if driver != "env" && !strings.Contains(found, want) {
					t.Errorf("got no %q in\n%s", want, found)
				}
			}
			if !strings.Contains(found, test.refuse) {
				t.Errorf("got no %q in\n%s", test.refuse, found)
			}
		})
	}
	t.Run("beside what a killed proxy has left", func(t *testing.T) {
		cmd := w.started(t, []string{"--isolation", "veth"})
		child := childOf(t, cmd.Process.Pid)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		shell(t, `kill -9 "$1"`, child)
		found := w.examine(t, false)
		for _, want := range []string{
			"!  starpod-ns: a namespace with firewall rules that a killed proxy has left", "caddy starpod run --isolation veth -- true",
			"a folder that a killed proxy has left", "–  veth: not on this machine: not tried beside what a killed proxy has left",
		} {
			if !strings.Contains(found, want) {
				t.Errorf("got no %q in\n%s", want, found)
			}
		}
		output(t, w.run(t, false, []string{"--isolation", "veth"}, "true"))
	})
}
