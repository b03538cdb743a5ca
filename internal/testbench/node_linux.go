package testbench

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Node returns the path of a Node that takes its proxy from the environment,
// fetching one through npm if the machine has none (scripts/test-deps.sh).
func Node(tb testing.TB) string {
	tb.Helper()
	root, err := ModuleRoot()
	if err != nil {
		tb.Fatal(err)
	}
	script := filepath.Join(root, "scripts", "test-deps.sh")
	var stderr bytes.Buffer
	cmd := exec.CommandContext(tb.Context(), "sh", script, "--node")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("looking for a current Node: %v\n%s", err, &stderr)
	}
	return strings.TrimSpace(string(out))
}
