package ca

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve answers HTTPS on loopback with a leaf of a for whatever name a client
// asks, or for the address it came to when it names none.
func serve(t *testing.T, a *Authority) (addr string) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			name := hello.ServerName
			if name == "" {
				name, _, _ = net.SplitHostPort(hello.Conn.LocalAddr().String())
			}
			return a.Leaf(hello.Context(), name)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		ErrorLog: log.New(io.Discard, "", 0), // some handshakes are meant to fail
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("hello from " + r.Host))
		}),
	}
	go server.Serve(listener) //nolint:errcheck // it ends with Close
	t.Cleanup(func() { server.Close() })
	return listener.Addr().String()
}

func TestHandshakes(t *testing.T) {
	root := newRoot(t)
	addr := serve(t, newAuthority(t, root, Options{}))
	long := strings.Repeat("a", 60) + "." + strings.Repeat("b", 60) + ".example"
	for _, tc := range []struct {
		what, name string
		behind     time.Duration // how late the client's clock is
		trusted    *Root
		ok         bool
	}{
		{"a host", "api.github.com", 0, root, true},
		{"a name that fits no CN", long, 0, root, true},
		{"an address", "127.0.0.1", 0, root, true},
		{"clock an hour behind", "late.example", time.Hour, root, true},
		{"clock two hours behind", "late.example", 2 * time.Hour, root, false},
		{"clock a day ahead", "early.example", -25 * time.Hour, root, false},
		{"another authority of the same name", "api.github.com", 0, newRoot(t), false},
	} {
		t.Run(tc.what, func(t *testing.T) {
			pool := x509.NewCertPool()
			pool.AddCert(tc.trusted.cert)
			conn, err := tls.Dial("tcp", addr, &tls.Config{
				ServerName: tc.name, RootCAs: pool,
				Time: func() time.Time { return time.Now().Add(-tc.behind) },
			})
			if (err == nil) != tc.ok {
				t.Fatalf("handshake error = %v, want success: %v", err, tc.ok)
			}
			if err == nil {
				conn.Close()
			}
		})
	}
}

// bundles are trust files for a root made here and for one made by Starpod.
func bundles(t *testing.T) map[string]struct{ addr, bundle string } {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{CertFile, KeyFile} {
		writeFile(t, filepath.Join(dir, name), readAll(t, filepath.Join("testdata", "starpod", name)), 0o600)
	}
	starpod, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]struct{ addr, bundle string })
	for what, root := range map[string]*Root{"our root": newRoot(t), "Starpod's root": starpod} {
		b, err := WriteBundle(filepath.Join(t.TempDir(), BundleFile), root.Roots())
		if err != nil {
			t.Fatal(err)
		}
		out[what] = struct{ addr, bundle string }{serve(t, newAuthority(t, root, Options{})), b.Path}
	}
	return out
}

func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestOpenSSLAcceptsTheLeaves(t *testing.T) {
	for what, s := range bundles(t) {
		for _, verify := range [][]string{
			{"-servername", "api.github.com", "-verify_hostname", "api.github.com"},
			{"-noservername", "-verify_ip", "127.0.0.1"},
		} {
			args := append([]string{"s_client", "-connect", s.addr, "-CAfile", s.bundle, "-verify_return_error", "-brief"}, verify...)
			if what == "our root" { // RFC 5280 to the letter, as Python 3.13 does by default
				args = append(args, "-x509_strict")
			}
			out, err := run(t, "openssl", args...)
			if err != nil || !strings.Contains(out, "Verification: OK") {
				t.Errorf("%s: openssl %v: %v\n%s", what, args, err, out)
			}
		}
		if out, err := run(t, "openssl", "s_client", "-connect", s.addr, "-CAfile", s.bundle, "-verify_return_error", "-brief",
			"-servername", "api.github.com", "-verify_hostname", "evil.example"); err == nil {
			t.Errorf("%s: openssl took a leaf for another name:\n%s", what, out)
		}
	}
}

func TestCurlAcceptsTheLeaves(t *testing.T) {
	for what, s := range bundles(t) {
		_, port, _ := net.SplitHostPort(s.addr)
		args := []string{"-sS", "--noproxy", "*", "--cacert", s.bundle, "--resolve", "api.github.com:" + port + ":127.0.0.1", "https://api.github.com:" + port + "/"}
		if out, err := run(t, "curl", args...); err != nil || out != "hello from api.github.com:"+port {
			t.Errorf("%s: curl %v: %v\n%s", what, args, err, out)
		}
	}
}
