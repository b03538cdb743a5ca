//go:build linux

package e2e

import (
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

var tokenLine = regexp.MustCompile(`^starpod:v1:[A-Za-z0-9+/]+=*\n?$`)

func TestASealedTokenIsSwappedByAServerWithTheSameKey(t *testing.T) {
	t.Parallel()
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	s := startServer(t, raceBinary(t), pki, "", "")
	value := newValue()

	cmd := exec.CommandContext(t.Context(), raceBinary(t), "starpod", "seal", "--key-file", s.Path("key"), "--host", testbench.APIHost)
	cmd.Env = cleanEnviron(t)
	cmd.Stdin = strings.NewReader(value)
	out, err := cmd.Output()
	if err != nil || !tokenLine.Match(out) {
		t.Fatalf("sealing: got %q (%v), want a token on one line", out, err)
	}

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, upstream.URL(testbench.APIHost), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Key", strings.TrimSpace(string(out)))
	status, answer := send(t, &http.Client{Transport: s.transport(t, nil)}, req)
	if got := received(t, upstream, outcome{stderr: s.log.tail()}); status != http.StatusOK || got.Header.Get("X-Key") != value {
		t.Errorf("got %d %q and X-Key %q, want 200 and %q", status, answer, got.Header.Get("X-Key"), value)
	}
}
