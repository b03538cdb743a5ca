//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// runLimit bounds one `caddy starpod run`.
const runLimit = 2 * time.Minute

// sandbox is one `caddy starpod run` to be.
type sandbox struct {
	flags   []string // in front of the "--"
	command []string
	env     []string // added to the caller's, as NAME=VALUE
	stdin   string
	dir     string
}

// outcome is how it went.
type outcome struct {
	stdout, stderr string
	status         int
}

// loopback is what lets the proxy reach an upstream of this package.
func loopback(t *testing.T, pki *testbench.PKI) []string {
	return []string{"--isolation", "env", "--allow", "127.0.0.0/8", "--trust", pki.RootFile(t)}
}

// prepare makes the command with a home of its own and the test names.
func (s sandbox) prepare(t *testing.T) *exec.Cmd {
	t.Helper()
	args := append([]string{"starpod", "run"}, s.flags...)
	args = append(append(args, "--"), s.command...)
	cmd := testbench.Command(t, raceBinary(t), args...)
	cmd.Env = append(cleanEnviron(t), s.env...)
	cmd.Stdin = strings.NewReader(s.stdin)
	cmd.Dir = s.dir
	return cmd
}

// run runs it to its end, whatever its status.
func (s sandbox) run(t *testing.T) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runLimit)
	defer cancel()
	cmd := s.prepare(t)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting the binary: %v", err)
	}
	stop := context.AfterFunc(ctx, func() {
		cmd.Process.Signal(syscall.SIGQUIT) // for its stacks
		time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
	})
	defer stop()
	err := cmd.Wait()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatalf("running the binary: %v\n%s", err, &stderr)
	}
	if ctx.Err() != nil {
		t.Fatalf("not done within %v; standard error:\n%s\nstandard output:\n%s", runLimit, &stderr, &stdout)
	}
	checkRaces(t, stderr.String())
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// succeed is run, with a failure of the test when the status is not 0.
func (s sandbox) succeed(t *testing.T) outcome {
	t.Helper()
	got := s.run(t)
	if got.status != 0 {
		t.Fatalf("status: got %d, want 0; standard error:\n%s\nstandard output:\n%s", got.status, got.stderr, got.stdout)
	}
	return got
}

// holdsNo fails the test if the value was printed in any form.
func (o outcome) holdsNo(t *testing.T, value string) {
	t.Helper()
	for name, text := range map[string]string{"standard output": o.stdout, "standard error": o.stderr} {
		if forms := testbench.FindSecret([]byte(text), value); len(forms) > 0 {
			t.Errorf("%s holds the value as %v:\n%s", name, forms, text)
		}
	}
}

// cleanEnviron is an environment with a home of its own and with nothing of the
// caller's but what programs need to be found: tests print environments.
func cleanEnviron(t *testing.T) []string {
	t.Helper()
	home := t.TempDir()
	env := []string{
		"HOME=" + home,
		"XDG_DATA_HOME=" + home + "/data",
		"XDG_CONFIG_HOME=" + home + "/config",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_CONFIG_NOSYSTEM=1",
	}
	for _, name := range []string{"PATH", "TMPDIR", "LANG"} {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// received fails the test unless exactly one request arrived, and returns it.
func received(t *testing.T, upstream *testbench.Upstream, log outcome) *testbench.Request {
	t.Helper()
	requests := upstream.Requests()
	if len(requests) != 1 {
		t.Fatalf("requests: got %d, want 1; standard error:\n%s\nstandard output:\n%s", len(requests), log.stderr, log.stdout)
	}
	return requests[0]
}
