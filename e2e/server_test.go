//go:build linux

package e2e

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// server is a `caddy run` with a Caddyfile whose one site is the proxy.
type server struct {
	*testbench.Caddy
	log *lockedBuffer
}

// startServer runs the binary until the test ends. The global options and the
// lines of the site may be empty.
func startServer(t *testing.T, binary string, pki *testbench.PKI, options, site string) *server {
	t.Helper()
	s := newServer(t)
	s.Caddy = testbench.StartCaddy(t, pki, testbench.Setup{
		Binary: binary, Log: s.log, Options: "metrics\n\t" + options,
		Hosts: []string{testbench.APIHost, testbench.EvilHost, testbench.GitHost, testbench.GitHubHost},
		Site:  "log {\n\t\toutput file {$HOME}/access.log\n\t}\n\t" + site,
	})
	return s
}

// newServer is one that has no process yet, whose log is looked at when it has ended.
func newServer(t *testing.T) *server {
	s := &server{log: new(lockedBuffer)}
	t.Cleanup(func() {
		checkRaces(t, s.log.String())
		if t.Failed() {
			t.Logf("the proxy's log:\n%s", s.log.tail())
		}
	})
	return s
}

// seal makes a token that the server opens.
func (s *server) seal(t *testing.T, value string, hosts ...string) string {
	t.Helper()
	return testbench.Seal(t, s.Key, value, hosts...)
}

// transport returns a client's transport through the proxy, which trusts the
// proxy's authority and speaks the protocols named.
func (s *server) transport(t *testing.T, protocols *http.Protocols) *http.Transport {
	t.Helper()
	transport := &http.Transport{
		Proxy:           http.ProxyURL(s.URL),
		TLSClientConfig: &tls.Config{RootCAs: s.Roots(t)},
		Protocols:       protocols,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// get asks the admin endpoint and returns the body of the answer, whatever its
// status.
func (s *server) get(t *testing.T, path string) []byte {
	t.Helper()
	body, err := s.Get(path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// goroutines is the number of goroutines of the server.
func (s *server) goroutines(t *testing.T) int {
	t.Helper()
	n, err := s.Goroutines()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// reload loads the Caddyfile again, as `caddy reload --force` does.
func (s *server) reload(t *testing.T) {
	t.Helper()
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
}

// usage is what the server holds right after a garbage collection.
func (s *server) usage(t *testing.T) testbench.Usage {
	t.Helper()
	s.get(t, "/debug/pprof/heap?gc=1")
	return testbench.ReadUsage(t, s.Pid)
}

func only(set func(*http.Protocols, bool)) *http.Protocols {
	protocols := new(http.Protocols)
	set(protocols, true)
	return protocols
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// lockedBuffer collects the output of a process while a test reads it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// tail is the end of it, as much as is of use under a failed test.
func (b *lockedBuffer) tail() string {
	text := b.String()
	if len(text) > 20_000 {
		text = "…" + strings.ToValidUTF8(text[len(text)-20_000:], "")
	}
	return text
}
