package handler

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// canary is the value behind the tokens of these tests.
const canary = "CANARY-5d41402abc4b2a76"

// bench is a proxy between a client that trusts it and an upstream that keeps
// every byte.
type bench struct {
	t     testing.TB
	proxy *Proxy
	front *httptest.Server
	up    *testbench.Upstream
	key   []byte
	roots *x509.CertPool // what clients of the proxy trust
	logs  *observer.ObservedLogs
}

// names are what the proxy of a bench can resolve.
var names = map[string][]string{
	"api.starpod.test":           {"127.0.0.1"},
	"evil.starpod.test":          {"127.0.0.1"},
	"xn--bcher-kva.starpod.test": {"127.0.0.1"},
	"private.test":               {"10.1.2.3"},
	"metadata.test":              {"169.254.169.254"},
	"mapped.test":                {"::ffff:127.0.0.1"},
	"unspecified.test":           {"0.0.0.0"},
	"ula.test":                   {"fd00::1"},
	"cgnat.test":                 {"100.64.0.1"},
	"mixed.test":                 {"169.254.169.254", "127.0.0.1"},
}

// newBench starts a bench; configure may change the proxy before it serves.
func newBench(t testing.TB, configure func(*Proxy)) *bench {
	t.Helper()
	b := &bench{t: t, key: bytes.Repeat([]byte{7}, 32), roots: x509.NewCertPool()}
	pki := testbench.NewPKI(t)
	b.up = testbench.NewUpstream(t, pki)
	root, err := ca.Generate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ca.New(root, ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b.roots.AddCert(root.Roots()[0])
	key, err := tokens.NewKey(b.key)
	if err != nil {
		t.Fatal(err)
	}
	keys := tokens.NewKeyring(key)
	core, logs := observer.New(zapcore.DebugLevel)
	b.logs = logs
	b.proxy = &Proxy{
		Keys:      func() (*tokens.Keyring, error) { return keys, nil },
		Authority: func(context.Context) (*ca.Authority, error) { return authority, nil },
		Guard:     &Guard{Resolver: testbench.Resolver(t, names), Rules: mustRules(t, "allow 127.0.0.0/8")},
		Egress:    EgressOptions{Roots: pki.Pool()},
		OneClient: true,
		Log:       zap.New(core),
		Audit:     zap.New(core).Named("audit"),
	}
	if configure != nil {
		configure(b.proxy)
	}
	b.serve()
	return b
}

// serve starts the server that clients connect to, over TLS with HTTP/2 beside
// the plain one that most tests use.
func (b *bench) serve() {
	b.front = httptest.NewServer(b)
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = b.proxy.Close(ctx)
		b.front.CloseClientConnections()
		b.front.Close()
	})
}

// ServeHTTP stands for the Caddy server around the handler.
func (b *bench) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "Caddy")
	served, err := b.proxy.Serve(w, r, b, nil)
	var refusal *Refusal
	switch {
	case !served:
		_, _ = io.WriteString(w, "not for the proxy")
	case errors.As(err, &refusal):
		refusal.Write(w)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func mustRules(t testing.TB, lines ...string) (rules []EgressRule) {
	t.Helper()
	for _, line := range lines {
		verb, words, _ := strings.Cut(line, " ")
		for _, word := range strings.Fields(words) {
			parsed, err := ParseEgressRule(verb == "allow", word)
			if err != nil {
				t.Fatal(err)
			}
			rules = append(rules, parsed...)
		}
	}
	return rules
}

func (b *bench) token(hosts ...string) string {
	return testbench.Seal(b.t, b.key, canary, hosts...)
}

// client is an ordinary client of the proxy, speaking HTTP/2 if h2.
func (b *bench) client(h2 bool) *http.Client {
	front, err := url.Parse(b.front.URL)
	if err != nil {
		b.t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	transport := &http.Transport{
		Proxy:              http.ProxyURL(front),
		TLSClientConfig:    &tls.Config{RootCAs: b.roots},
		Protocols:          protocols,
		DisableCompression: true,
	}
	b.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		Timeout:       20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// do sends a request and returns the response and its body.
func (b *bench) do(client *http.Client, r *http.Request) (*http.Response, string) {
	b.t.Helper()
	response, err := client.Do(r)
	if err != nil {
		b.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatalf("%s %s: reading the response: %v", r.Method, r.URL, err)
	}
	return response, string(body)
}

func (b *bench) request(method, target, body string, header ...string) *http.Request {
	b.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r, err := http.NewRequest(method, target, reader)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// connect opens a connection to the proxy and asks for a tunnel.
func (b *bench) connect(authority string) (net.Conn, *http.Response) {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.front.Listener.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
	if err != nil {
		b.t.Fatalf("CONNECT %s: %v", authority, err)
	}
	return conn, response
}

// tunnel opens an intercepted tunnel and makes the TLS handshake in it.
func (b *bench) tunnel(authority, serverName string, protocols ...string) *tls.Conn {
	b.t.Helper()
	conn, response := b.connect(authority)
	if response.StatusCode != http.StatusOK {
		b.t.Fatalf("CONNECT %s: got status %d, want 200", authority, response.StatusCode)
	}
	secure := tls.Client(conn, &tls.Config{ServerName: serverName, RootCAs: b.roots, NextProtos: protocols})
	if err := secure.Handshake(); err != nil {
		b.t.Fatalf("handshake with %s in the tunnel: %v", serverName, err)
	}
	return secure
}

func (b *bench) apiAuthority() string { return fmt.Sprintf("api.starpod.test:%d", b.up.Port()) }

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}
