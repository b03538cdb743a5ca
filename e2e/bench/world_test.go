//go:build linux

package bench

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/internal/testbench"
)

const apiHost = testbench.APIHost

// world is what all proxies are measured in.
type world struct {
	pki    *testbench.PKI
	port   int      // of the host behind all names
	hosts  []string // those that proxies find, beside apiHost
	binary string   // of this module
	still  int      // how many readings of memory must be the same, see settled
	dir    string   // for files that proxies under other users read, too

	// What peers write in the place of what. The placeholder is as long as a token.
	value, placeholder string
}

// newWorld makes one; a short form waits for less.
func newWorld(tb testing.TB, hosts int, full bool) *world {
	tb.Helper()
	w := &world{
		pki: testbench.NewPKI(tb), still: 1,
		value: "bench-value-" + rand.Text(), placeholder: "placeholder-" + strings.Repeat(rand.Text(), 5),
	}
	if full {
		w.still = 5
	}
	certificate := w.pki.Leaf(tb)
	w.port = startUpstream(tb, certificate)
	for i := range hosts {
		w.hosts = append(w.hosts, fmt.Sprintf("host-%d.starpod.test", i))
	}
	dir, err := os.MkdirTemp("", "sp-bench-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	w.dir = dir
	if w.binary, err = binary(); err != nil {
		tb.Fatal(err)
	}
	w.writeAuthority(tb)
	w.write(tb, "upstream.pem", w.pki.RootPEM)
	w.write(tb, "leaf.pem", pemBlock("CERTIFICATE", certificate.Certificate[0]))
	key, err := x509.MarshalECPrivateKey(certificate.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		tb.Fatal(err)
	}
	w.write(tb, "leaf.key", pemBlock("EC PRIVATE KEY", key))
	return w
}

// writeAuthority makes one for peers that mint.
func (w *world) writeAuthority(tb testing.TB) {
	tb.Helper()
	root, err := ca.Generate(time.Now())
	if err == nil {
		err = root.Save(w.dir)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// authority are its certificate and key.
func (w *world) authority() (cert, key string) { return w.path(ca.CertFile), w.path(ca.KeyFile) }

func (w *world) at(host string) string { return net.JoinHostPort(host, strconv.Itoa(w.port)) }

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(tb testing.TB, name string, text []byte) string {
	tb.Helper()
	if err := os.WriteFile(w.path(name), text, 0o644); err != nil {
		tb.Fatal(err)
	}
	return w.path(name)
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// proxy is one that runs.
type proxy struct {
	pid    int
	addr   string
	direct bool // it is spoken to as if it were the host, without a tunnel
	roots  *x509.CertPool
	token  string // what clients send

	// profile is what the processor does for so many seconds, as pprof reads it; nil
	// for peers.
	profile func(seconds int) ([]byte, error)
}

// peer is a kind of proxy.
type peer struct {
	name  string
	needs string // a program
	slow  bool   // bodies are shorter for it
	start func(testing.TB, *world) *proxy
}

var peers = []peer{ours, goproxy, caddy, squid, mitmproxy}

func (p peer) installed() bool {
	_, err := exec.LookPath(p.needs)
	return p.needs == "" || err == nil
}

// run starts the process of a peer at a port and waits for it to listen there.
// The client trusts the authority of the world.
func (w *world) run(tb testing.TB, port int, name string, args ...string) *proxy {
	tb.Helper()
	p := &proxy{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), token: w.placeholder, roots: w.pki.Pool()}
	cert, _ := w.authority()
	root, err := os.ReadFile(cert)
	if err != nil || !p.roots.AppendCertsFromPEM(root) {
		tb.Fatalf("the authority: %v", err)
	}
	var log bytes.Buffer
	cmd := testbench.CommandKnowing(tb, append(w.hosts, apiHost), name, args...)
	cmd.Env = append(os.Environ(), "HOME="+w.dir, "PLACEHOLDER="+w.placeholder, "VALUE="+w.value)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	tb.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if tb.Failed() {
			tb.Logf("%s:\n%.4000s", name, log.String())
		}
	})
	testbench.Await(tb, time.Minute, func() error {
		select {
		case <-ended:
			return errors.New("it has ended: " + log.String())
		default:
		}
		conn, err := net.Dial("tcp", p.addr)
		if err == nil {
			conn.Close()
		}
		return err
	})
	return p
}

// client checks that the proxy does what it is measured for.
func (w *world) client(tb testing.TB, p *proxy) *client {
	tb.Helper()
	c := &client{proxy: p, world: w}
	testbench.Await(tb, 20*time.Second, func() error { return c.once(apiHost) })
	return c
}
