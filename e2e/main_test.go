//go:build linux

// Package e2e tests the built binary as its users meet it: real, unmodified
// clients inside `caddy starpod run`, and a server started from a Caddyfile.
//
// The binary is built once per run, with the race detector. STARPOD_TEST_BINARY
// names one to use instead. What measures memory needs one without the race
// detector, whose shadow memory it would measure: STARPOD_TEST_BINARY_PLAIN.
package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// buildDir is where binaries are built.
var buildDir string

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "starpod-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	return m.Run(), nil
}

// raceBinary returns the path of the binary under test.
func raceBinary(t *testing.T) string {
	t.Helper()
	return built(t, buildRace)
}

// plainBinary returns the path of the one whose memory can be measured.
func plainBinary(t *testing.T) string {
	t.Helper()
	return built(t, buildPlain)
}

var (
	buildRace  = sync.OnceValues(func() (string, error) { return testbench.BuildRaceCaddy(buildDir) })
	buildPlain = sync.OnceValues(func() (string, error) { return testbench.BuildCaddy(buildDir) })
)

func built(t *testing.T, build func() (string, error)) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// newValue returns a secret value that no chance finds in a log, with
// characters that JSON, URLs, HTML and shells write in different ways.
func newValue() string { return `sk-test/` + rand.Text() + `+"&<=%>` }

// randomKey returns a master key.
func randomKey() []byte {
	key := make([]byte, 32)
	rand.Read(key)
	return key
}

// checkRaces fails the test if the race detector of the binary wrote a report.
func checkRaces(t *testing.T, log string) {
	t.Helper()
	if _, report, found := strings.Cut(log, "WARNING: DATA RACE"); found {
		t.Errorf("data race in the binary:%.4000s", report)
	}
}
