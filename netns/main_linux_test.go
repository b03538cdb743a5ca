package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// probeMode makes the test binary a process that confines itself: what it does
// to itself could not be undone. Its arguments are a name and what that takes.
const probeMode = "probe"

// probes confine the process and tell what became of each attempt, by its name.
// They are where their tests are.
var probes = map[string]func(args []string) (results map[string]string, err error){}

func TestMain(m *testing.M) {
	if len(os.Args) < 3 || os.Args[1] != probeMode {
		goleak.VerifyTestMain(m) // fails where a test leaves a goroutine behind
		return
	}
	runtime.LockOSThread() // filters and capabilities belong to a thread
	results, err := probes[os.Args[2]](os.Args[3:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(results)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// probe runs one in a process of its own.
func probe(t *testing.T, attr *syscall.SysProcAttr, args ...string) map[string]string {
	t.Helper()
	results, err := probeInside(attr, args...)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func probeInside(attr *syscall.SysProcAttr, args ...string) (results map[string]string, err error) {
	cmd := exec.Command("/proc/self/exe", append([]string{probeMode}, args...)...)
	cmd.SysProcAttr = attr
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, &stderr)
	}
	return results, json.Unmarshal(out, &results)
}

// outcome is the name of an errno, or "ok".
func outcome(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno) && errno == 0:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// ownMounts gives a process a mount namespace, and the right to mount in it. Root
// needs no more than that; others become root of a user namespace.
func ownMounts(t *testing.T) *syscall.SysProcAttr {
	t.Helper()
	attr := helperAttributes(nil, CellConfig{Namespace: "none"})
	if os.Geteuid() != 0 && !hasUserNamespaces() {
		t.Skip("needs root or user namespaces: it mounts")
	}
	return attr
}
