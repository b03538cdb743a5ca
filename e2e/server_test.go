//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// server is a `caddy run` with a Caddyfile whose one site is the proxy.
type server struct {
	dir   string // holds everything it writes
	key   []byte // its master key
	proxy *url.URL
	admin *http.Client
	log   *lockedBuffer
	cmd   *exec.Cmd
	done  chan struct{} // closed when the process has ended
}

// caddyfile has the folder, the port, and the lines of the test in the site.
// Everything lies in the folder, so that runs do not meet; the admin endpoint
// is a unix socket in it.
const caddyfile = `{
	%[4]s
	admin unix/%[1]s/admin.sock
	storage file_system %[1]s/storage
	auto_https off
	skip_install_trust
	metrics
	starpod {
		data_dir %[1]s/starpod
		isolation env
	}
}
:%[2]d {
	bind 127.0.0.1
	log {
		output file %[1]s/access.log
	}
	starpod_secrets {
		master_key_file %[1]s/key
		egress {
			allow 127.0.0.0/8
			trust %[1]s/upstream.pem
		}
	}
	%[3]s
}
`

// startServer runs the binary until the test ends. The global options and the
// lines of the site may be empty.
func startServer(t *testing.T, binary string, pki *testbench.PKI, options, site string) *server {
	t.Helper()
	dir := serverFolder(t)
	s := &server{dir: dir, key: randomKey(), log: new(lockedBuffer)}
	port := testbench.FreePort(t)
	s.proxy = &url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	write(t, s.path("key"), s.key)
	write(t, s.path("upstream.pem"), pki.RootPEM)
	write(t, s.path("Caddyfile"), fmt.Appendf(nil, caddyfile, dir, port, site, options))
	s.admin = s.adminClient()
	s.start(t, binary)
	return s
}

func (s *server) adminClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.path("admin.sock"))
		},
		DisableKeepAlives: true,
	}}
}

func (s *server) start(t *testing.T, binary string) {
	t.Helper()
	s.launch(t, binary)
	s.awaitPort(t)
}

// launch starts the process, and ends it with the test.
func (s *server) launch(t *testing.T, binary string) {
	t.Helper()
	s.cmd = testbench.Command(t, binary, "run", "--config", s.path("Caddyfile"))
	s.cmd.Env = append(cleanEnviron(t), "XDG_CONFIG_HOME="+s.path("config"), "XDG_DATA_HOME="+s.path("data"))
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("starting caddy: %v", err)
	}
	cmd, done := s.cmd, make(chan struct{})
	s.done = done
	go func() {
		cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		s.stop(t)
		checkRaces(t, s.log.String())
		if t.Failed() {
			t.Logf("the proxy's log:\n%s", s.log.tail())
		}
	})
}

// awaitPort waits until the server listens.
func (s *server) awaitPort(t *testing.T) {
	t.Helper()
	testbench.Await(t, time.Minute, func() error {
		select {
		case <-s.done:
			t.Fatalf("caddy ended with %v", s.cmd.ProcessState)
		default:
		}
		conn, err := net.Dial("tcp", s.proxy.Host)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// stop ends the server as a service manager does and waits for its last line.
func (s *server) stop(t *testing.T) {
	t.Helper()
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(30 * time.Second):
		s.cmd.Process.Kill()
		<-s.done
		t.Errorf("caddy did not end within 30 s of SIGTERM")
	}
}

func (s *server) path(name string) string { return filepath.Join(s.dir, name) }

// seal makes a token that the server opens.
func (s *server) seal(t *testing.T, value string, hosts ...string) string {
	t.Helper()
	return testbench.Seal(t, s.key, value, hosts...)
}

// transport returns a client's transport through the proxy, which trusts the
// proxy's authority and speaks the protocols named.
func (s *server) transport(t *testing.T, protocols *http.Protocols) *http.Transport {
	t.Helper()
	pool := x509.NewCertPool()
	testbench.Await(t, 10*time.Second, func() error {
		root, err := os.ReadFile(s.path("starpod/proxy-ca.pem"))
		if err == nil && !pool.AppendCertsFromPEM(root) {
			err = fmt.Errorf("the proxy's root: got %q, want a certificate", root)
		}
		return err
	})
	transport := &http.Transport{
		Proxy:           http.ProxyURL(s.proxy),
		TLSClientConfig: &tls.Config{RootCAs: pool},
		Protocols:       protocols,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// get asks the admin endpoint and returns the body of the answer, whatever its
// status.
func (s *server) get(t *testing.T, path string) []byte {
	t.Helper()
	resp, err := s.admin.Get("http://admin" + path)
	if err != nil {
		t.Fatalf("asking the admin endpoint for %s: %v", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("asking the admin endpoint for %s: %v", path, err)
	}
	return body
}

var goroutineTotal = regexp.MustCompile(`^goroutine profile: total (\d+)`)

// goroutines is the number of goroutines of the server.
func (s *server) goroutines(t *testing.T) int {
	t.Helper()
	profile := s.get(t, "/debug/pprof/goroutine?debug=1")
	total := goroutineTotal.FindSubmatch(profile)
	if total == nil {
		t.Fatalf("goroutine profile: got %.200q", profile)
	}
	n, _ := strconv.Atoi(string(total[1]))
	return n
}

// usage is what the server holds right after a garbage collection.
func (s *server) usage(t *testing.T) testbench.Usage {
	t.Helper()
	s.get(t, "/debug/pprof/heap?gc=1")
	return testbench.ReadUsage(t, s.cmd.Process.Pid)
}

// serverFolder is a temporary folder with a path short enough for a unix socket
// in it (108 bytes, unix(7)).
func serverFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
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
