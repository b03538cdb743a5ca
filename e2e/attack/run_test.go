//go:build linux

package attack

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// ordinaryID is a user that nothing belongs to.
const ordinaryID = "64123"

// TestRunAttacks runs a command that looks for its secret in /proc, in the
// memory of other processes, in descriptors, the environment and files, while
// the proxy has just put the value into requests.
func TestRunAttacks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become an ordinary user")
	}
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(buildDir, 0o755)
	pki := testbench.NewPKI(t)
	for _, test := range []struct {
		name, isolation string
		user            bool
		ptrace          string
	}{
		{"sealed, an ordinary user", "sealed", true, "Operation not permitted"},
		{"sealed, root", "sealed", false, "Operation not permitted"},
		{"by environment, an ordinary user", "env", true, "Operation not permitted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			api := testbench.NewUpstream(t, pki)
			api.Handle("/", testbench.EchoHead)
			args := []string{"starpod", "run", "--isolation", test.isolation, "--log-level", "debug", "--allow", "127.0.0.0/8",
				"--trust", publicFile(t, "roots.pem", pki.RootPEM), "--secret", "API_TOKEN@" + testbench.APIHost, "--"}
			cmd := testbench.Command(t, binary, append(args, looker(t)...)...)
			if test.user {
				cmd = testbench.Command(t, "setpriv", append(append([]string{"--reuid=" + ordinaryID, "--regid=" + ordinaryID, "--clear-groups", binary}, args...), looker(t)...)...)
			}
			cmd.Env = append(environment(t), "API_TOKEN="+canary, "URL="+api.URL(testbench.APIHost)+"/")
			output := look(t, cmd)
			if forms := find(output, canary); len(forms) > 0 {
				i := max(bytes.Index(output, []byte("sk-canary")), 0)
				t.Errorf("the command finds the value as %v:\n%.500s", forms, output[max(i-200, 0):])
			}
			if n := len(api.Requests()); n != 2 || !api.Saw(canary) {
				t.Errorf("the API got %d requests, with the value: %v; want 2 with it\n%.2000s", n, api.Saw(canary), output)
			}
			if !bytes.Contains(output, []byte("== ptrace\n"+test.ptrace)) {
				t.Errorf("ptrace: want %q:\n%.300s", test.ptrace, output[max(len(output)-300, 0):])
			}
		})
	}
}

// TestTheCommandWouldFindTheValue is the control: in a process that is not
// protected the same program finds it, in environment and memory.
func TestTheCommandWouldFindTheValue(t *testing.T) {
	victim := exec.Command("sleep", "60")
	victim.Env = []string{"API_TOKEN=" + canary}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { victim.Process.Kill(); victim.Wait() }()
	program := looker(t)
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Env = append(environment(t), fmt.Sprintf("ONLY=%d", victim.Process.Pid))
	output := look(t, cmd)
	if !bytes.Contains(output, []byte("== ptrace\nattached")) {
		t.Errorf("ptrace: want attached:\n%.300s", output[max(len(output)-300, 0):])
	}
	for _, place := range []string{"environ", "mem"} {
		_, text, _ := bytes.Cut(output, fmt.Appendf(nil, "== /proc/%d/%s\n", victim.Process.Pid, place))
		text, _, _ = bytes.Cut(text, []byte("\n== "))
		if len(find(text, canary)) == 0 {
			t.Errorf("the %s of a process that has the value: got %.300q, want the value", place, text)
		}
	}
}

// looker is the command, where anybody can read it.
func looker(t *testing.T) []string {
	t.Helper()
	program, err := os.ReadFile("testdata/look.py")
	if err != nil {
		t.Fatal(err)
	}
	return []string{"python3", publicFile(t, "look.py", program)}
}

func look(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil || !strings.Contains(output.String(), "== done") {
		t.Fatalf("looking: %v\n%.3000s", err, &output)
	}
	return output.Bytes()
}

// publicFile is a file that every user can read, in a folder that every user can
// enter.
func publicFile(t *testing.T, name string, content []byte) string {
	t.Helper()
	dir := publicDir(t)
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func environment(t *testing.T) []string {
	t.Helper()
	dir := publicDir(t)
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, fmt.Sprintf("SINCE=%d", time.Now().Unix()-1)}
}
