// Package isolation tests that a command in a namespace has no way out but the
// proxy, and that namespaces leave nothing behind. It needs root: the tests run
// on a disposable host, which is a network and mount namespace of their own.
package isolation

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"testing"
)

// insideVariable marks the process that has entered the disposable host.
const insideVariable = "STARPOD_TEST_DISPOSABLE_HOST"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case attackMode:
			if err := attack(); err != nil {
				fmt.Fprintln(os.Stderr, "attack:", err)
				os.Exit(1)
			}
			return
		case stubbornMode:
			if err := stubborn(os.Args[2], os.Args[3]); err != nil {
				fmt.Fprintln(os.Stderr, "stubborn:", err)
				os.Exit(1)
			}
			return
		case politeMode:
			if err := show(http.DefaultClient, os.Args[2]); err != nil {
				fmt.Fprintln(os.Stderr, "polite:", err)
				os.Exit(1)
			}
			return
		case steadyMode:
			if err := steady(os.Args[2]); err != nil {
				fmt.Fprintln(os.Stderr, "steady:", err)
				os.Exit(1)
			}
			return
		case attemptMode:
			makeAttempt(os.Args[2], os.Args[3:])
			return
		}
	}
	if os.Geteuid() != 0 || os.Getenv(insideVariable) != "" {
		code := m.Run()
		_ = os.RemoveAll(buildDir())
		os.Exit(code)
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cmd := exec.Command("unshare", append([]string{"--net", "--mount", "--propagation", "private", self}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "entering a disposable host:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// onDisposableHost skips a test that would otherwise change the machine.
func onDisposableHost(t testing.TB) {
	t.Helper()
	if os.Getenv(insideVariable) == "" {
		t.Skip("needs root: it makes network namespaces and firewall rules")
	}
}
