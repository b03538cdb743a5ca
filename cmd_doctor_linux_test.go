package starpod

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// ordinaryUser is one that nobody is.
const ordinaryUser = 12345

// asOrdinaryUser makes a command one of an ordinary user with a home and this
// program, and gives it folders of the test.
func asOrdinaryUser(t *testing.T, cmd *exec.Cmd, folders ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	dir, err := os.MkdirTemp("", "ordinary-") // t.TempDir is in a folder that is root's alone
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	program := filepath.Join(dir, "caddy")
	text, err := os.ReadFile(self(t))
	must(t, err)
	must(t, os.WriteFile(program, text, 0o755))
	cmd.Path = program
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
	home := filepath.Join(dir, "home")
	must(t, os.Mkdir(home, 0o700))
	must(t, os.Chown(home, ordinaryUser, ordinaryUser))
	cmd.Env = mergeEnv(cmd.Env, []string{"HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_CONFIG_HOME=" + home, "TMPDIR=" + home})
	cmd.Dir = home
}

// examineAs runs doctor as an ordinary user.
func examineAs(t *testing.T, args ...string) (outcome, string) {
	t.Helper()
	cmd := typed{args: append([]string{"doctor"}, args...)}.prepare(t)
	asOrdinaryUser(t, cmd)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, cmd.Dir
}

func TestCmdDoctorOfAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	got, dir := examineAs(t, "--json")
	if got.status != 0 || got.stderr != "" {
		t.Errorf("got status %d and %q, want 0 and nothing", got.status, got.stderr)
	}
	var found examination
	if err := json.Unmarshal([]byte(got.stdout), &found); err != nil {
		t.Fatalf("got %v, want JSON:\n%s", err, got.stdout)
	}
	swapped := false
	for _, f := range found.Findings {
		swapped = swapped || f.Check == "isolation" && f.Subject == driverEnv && f.Grade == gradeGood && strings.Contains(f.Detail, "receives the value")
		if f.Grade == gradeBroken {
			t.Errorf("got %+v, want nothing broken", f)
		}
	}
	if !found.OK || !swapped {
		t.Errorf("got OK %t, swapped %t, want both:\n%s", found.OK, swapped, got.stdout)
	}
	if os.Geteuid() == 0 {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("got %s left behind, want nothing", left)
		}
	}
}

func TestCmdDoctorEndsWithOneForWhatIsBroken(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "keys-") // t.TempDir is in a folder that root alone may enter
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	key := filepath.Join(dir, "key")
	put(t, key, canaryKey)
	theirs := "you may not read it: it belongs to root"
	if os.Geteuid() != 0 {
		must(t, os.Chmod(key, 0))
		theirs = "mode 0000: not even its owner may read it"
	}
	got, _ := examineAs(t, "--key-file", "/etc/passwd", "--key-file", key, "--address", "127.0.0.1:1")
	got.holdsNo(t, canaryKey[:12])
	if got.status != 1 {
		t.Errorf("status: got %d, want 1", got.status)
	}
	for _, want := range []string{"✗  /etc/passwd: mode 0644", "→ chmod 600 /etc/passwd", "✗  " + key + ": " + theirs, "✗  127.0.0.1:1: asking the proxy", "3 broken"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("got %s\n%s, want %q in it", got.stdout, got.stderr, want)
		}
	}
}
