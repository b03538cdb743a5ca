package isolation

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// examine runs doctor as root or as the ordinary user, and sees that the host is
// as it was.
func (w *world) examine(t *testing.T, user bool, flags ...string) string {
	t.Helper()
	cmd := w.run(t, user, nil)
	i := slices.Index(cmd.Args, "run")
	cmd.Args = append(append(cmd.Args[:i], "doctor"), flags...)
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
	t.Run("beside an interface that is taken", func(t *testing.T) {
		config := filepath.Join(w.openDir, "doctor.json")
		if err := os.WriteFile(config, []byte(`{"admin": {"disabled": true}, "apps": {"starpod": {"isolation": "veth"}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		shell(t, `ip link add sp-veth0 type veth peer name other0`)
		t.Cleanup(func() { shell(t, `ip link del sp-veth0`) })
		found := w.examine(t, false, "--config", config)
		for _, want := range []string{
			"!  starpod-ns: the interface sp-veth0 is taken by others, so the next free one will be used",
			"✓  veth: a program does not get around the proxy",
		} {
			if !strings.Contains(found, want) {
				t.Errorf("got no %q in\n%s", want, found)
			}
		}
	})
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
