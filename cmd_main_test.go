package starpod

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"go.uber.org/goleak"
)

// actAsCaddy makes the test binary behave as caddy does.
const actAsCaddy = "STARPOD_TEST_ACT_AS_CADDY"

// commandLimit bounds one command.
const commandLimit = time.Minute

func TestMain(m *testing.M) {
	if os.Getenv(actAsCaddy) != "" {
		caddycmd.Main()
		os.Exit(0)
	}
	catchIgnoredSignals()
	// Fails where a test leaves a goroutine behind, apart from what caddy.Stop does.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/caddyserver/caddy/v2.replaceLocalAdminServer.func2"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"), // ends within 5 s
		goleak.IgnoreAnyFunction("github.com/DeRuina/timberjack.(*Logger).millRun"),    // of a log file that was closed
	)
}

// catchIgnoredSignals undoes for the commands of the tests what nohup, or a
// shell that runs the tests in the background, did: a signal that is ignored
// here would be ignored by them, and one that is caught is not.
func catchIgnoredSignals() {
	for _, sig := range forwardedSignals {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
}

// typed is a command line as a user types it, behind "caddy starpod".
type typed struct {
	args  []string
	env   []string // added, as NAME=value
	stdin string
	dir   string
}

// outcome is how it went.
type outcome struct {
	stdout, stderr string
	status         int
}

// home is an environment with a home of its own and nothing of the caller's but
// what programs need to be found.
func home(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	env := []string{
		actAsCaddy + "=1", "HOME=" + dir, "XDG_DATA_HOME=" + filepath.Join(dir, "data"),
		"XDG_CONFIG_HOME=" + filepath.Join(dir, "config"),
	}
	for _, name := range []string{"PATH", "TMPDIR"} {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (c typed) prepare(t *testing.T) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self(t), append([]string{"starpod"}, c.args...)...)
	cmd.Env = mergeEnv(home(t), c.env)
	cmd.Stdin = strings.NewReader(c.stdin)
	cmd.Dir = c.dir
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func (c typed) run(t *testing.T) outcome {
	t.Helper()
	cmd := c.prepare(t)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v\n%s", c.args, err, &stderr)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// succeed is run, for commands that have to.
func (c typed) succeed(t *testing.T) outcome {
	t.Helper()
	got := c.run(t)
	if got.status != 0 {
		t.Fatalf("%q: got status %d, want 0; standard error:\n%s", c.args, got.status, got.stderr)
	}
	return got
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// holdsNo fails the test if a text holds what must stay secret.
func (o outcome) holdsNo(t *testing.T, secret string) {
	t.Helper()
	if strings.Contains(o.stdout, secret) || strings.Contains(o.stderr, secret) {
		t.Errorf("got the secret in the output, want it nowhere:\n%s\n%s", o.stdout, o.stderr)
	}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newKeyFile makes a key with the command that is for it.
func newKeyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	typed{args: []string{"keygen", path}}.succeed(t)
	return path
}
