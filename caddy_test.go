package starpod

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/internal/testbench"
)

const canary = "CANARY-9b74c9897bac770f"

// site is a Caddy in this process whose one site is a proxy.
type site struct {
	t     *testing.T
	dir   string
	port  int
	admin int
	key   []byte
	pki   *testbench.PKI
	up    *testbench.Upstream
}

// startSite loads a Caddyfile around the given lines: options stand in
// starpod_secrets, egress in its egress block, and lines after it in the site.
type siteLines struct{ global, starpod, options, egress, lines, scheme string }

func startSite(t *testing.T, l siteLines) *site {
	t.Helper()
	s := newSite(t)
	s.load(l)
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	return s
}

// newSite is one that nobody serves yet.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{
		t: t, dir: t.TempDir(), port: testbench.FreePort(t), admin: testbench.FreePort(t),
		key: []byte(strings.Repeat("k", 32)), pki: testbench.NewPKI(t),
	}
	s.up = testbench.NewUpstream(t, s.pki)
	for name, content := range map[string][]byte{"key": s.key, "upstream.pem": s.pki.RootPEM} {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *site) load(l siteLines) {
	s.t.Helper()
	adapter := caddyconfig.GetAdapter("caddyfile")
	config, _, err := adapter.Adapt([]byte(s.caddyfile(l)), nil)
	if err != nil {
		s.t.Fatalf("adapting: %v\n%s", err, s.caddyfile(l))
	}
	if err := caddy.Load(config, true); err != nil {
		s.t.Fatalf("loading: %v", err)
	}
}

func (s *site) caddyfile(l siteLines) string {
	if l.lines == "" {
		l.lines = "respond \"ordinary\" 404"
	}
	return fmt.Sprintf(`{
	admin localhost:%d
	storage file_system %s/storage
	persist_config off
	auto_https disable_redirects
	skip_install_trust
	http_port 0
	%s
	starpod {
		data_dir %[2]s/db
		%[4]s
	}
}
%[5]s:%[6]d {
	bind 127.0.0.1
	starpod_secrets %[2]s/key {
		egress {
			allow 127.0.0.0/8 *.starpod.test
			trust %[2]s/upstream.pem
			%[8]s
		}
		%[7]s
	}
	%[9]s
}
`, s.admin, s.dir, l.global, l.starpod, l.scheme, s.port, l.options, l.egress, l.lines)
}

// client trusts the proxy's bundle.
func (s *site) client() *http.Client {
	s.t.Helper()
	transport := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", s.port)}),
		TLSClientConfig: &tls.Config{RootCAs: s.bundle()},
	}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func (s *site) bundle() *x509.CertPool {
	s.t.Helper()
	pem, err := os.ReadFile(filepath.Join(s.dir, "db", ca.BundleFile))
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

func (s *site) token(hosts ...string) string { return testbench.Seal(s.t, s.key, canary, hosts...) }

// target is the upstream by address: names under test need no resolver then.
func (s *site) target(path string) string {
	return fmt.Sprintf("https://127.0.0.1:%d%s", s.up.Port(), path)
}

func (s *site) get(client *http.Client, target string, header ...string) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodGet, target, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header[header[i]] = append(r.Header[header[i]], header[i+1])
	}
	response, err := client.Do(r)
	if err != nil {
		s.t.Fatalf("GET %s: %v", target, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatalf("GET %s: %v", target, err)
	}
	return response, string(body)
}

// TestInterceptedRequestIsOfTheSite shows that what comes out of a tunnel passes
// through the site's own routes: matchers, headers, and other handlers.
func TestInterceptedRequestIsOfTheSite(t *testing.T) {
	s := startSite(t, siteLines{lines: `
	@blocked path /blocked
	handle @blocked {
		respond "by the site" 451
	}
	header X-Site yes
	respond "ordinary" 404`, global: "order handle before starpod_secrets"})
	client := s.client()

	response, body := s.get(client, s.target("/blocked"))
	if response.StatusCode != 451 || body != "by the site" {
		t.Errorf("a route of the site: got %d %q, want 451 and its text", response.StatusCode, body)
	}
	response, _ = s.get(client, s.target("/x"), "Authorization", "Bearer "+s.token("127.0.0.1"))
	if got := s.up.Last(t).Header.Get("Authorization"); got != "Bearer "+canary {
		t.Errorf("upstream got %q, want the value", got)
	}
	if response.Header.Get("X-Site") != "yes" {
		t.Errorf("the site's header is missing from %v", response.Header)
	}
	if got := response.Header.Values("Server"); len(got) != 0 {
		t.Errorf("got Server %q, want none, as the upstream sent none", got)
	}
	if response, body = s.get(http.DefaultClient, fmt.Sprintf("http://127.0.0.1:%d/", s.port)); body != "ordinary" {
		t.Errorf("an ordinary request: got %d %q, want the site's own answer", response.StatusCode, body)
	}
}

// TestHeadersThatCaddyDrops come through a tunnel all the same.
func TestHeadersThatCaddyDrops(t *testing.T) {
	s := startSite(t, siteLines{})
	cookies := strings.Repeat("c=0123456789abcdef; ", 800) + "last=1"
	s.get(s.client(), s.target("/"), "access_token", s.token(), "X.Dotted", "b", "Cookie", cookies)
	got := s.up.Last(t)
	for name, want := range map[string]string{"Access_token": canary, "X.dotted": "b", "Cookie": cookies} {
		if value := got.Header.Get(name); value != want {
			t.Errorf("%s: upstream got %d bytes %.40q, want %d bytes %.40q", name, len(value), value, len(want), want)
		}
	}
}

// TestErrorRoutes shows that refusals take the site's error routes where it has any.
func TestErrorRoutes(t *testing.T) {
	s := startSite(t, siteLines{lines: `
	handle_errors {
		respond "site: {http.error.status_code} {http.error.message}"
	}`})
	_, body := s.get(s.client(), "http://10.0.0.1/")
	if !strings.HasPrefix(body, "site: 403 egress") {
		t.Errorf("got %q, want the text of the error route", body)
	}
}

// TestConnectOverHTTP2 opens two tunnels as streams of one connection to a site
// that is itself TLS.
func TestConnectOverHTTP2(t *testing.T) {
	s := startSite(t, siteLines{scheme: "https://", lines: `
	tls {
		get_certificate starpod
	}`})
	front := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.bundle(), ServerName: "proxy.starpod.test"}, Protocols: new(http.Protocols),
	}
	front.Protocols.SetHTTP2(true)
	conn, err := front.NewClientConn(t.Context(), "https", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		t.Fatalf("connecting to the proxy: %v", err)
	}
	defer conn.Close()
	authority := fmt.Sprintf("127.0.0.1:%d", s.up.Port())
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			body, toProxy := io.Pipe()
			request := &http.Request{
				Method: http.MethodConnect, Host: authority, URL: &url.URL{Host: authority},
				Header: http.Header{}, Body: body, ContentLength: -1,
			}
			response, err := conn.RoundTrip(request)
			if err != nil || response.StatusCode != 200 {
				t.Fatalf("CONNECT: got %v, %v, want 200", response, err)
			}
			stream := &pipeConn{Reader: response.Body, WriteCloser: toProxy}
			secure := tls.Client(stream, &tls.Config{RootCAs: s.bundle(), ServerName: "127.0.0.1", NextProtos: []string{protocol}})
			client := clientOver(t, secure)
			for range 2 {
				s.get(client, s.target("/"), "X-Key", s.token("127.0.0.1"))
			}
			if got := s.up.Last(t).Header.Get("X-Key"); got != canary {
				t.Errorf("upstream got %q, want the value", got)
			}
		})
	}
}

// pipeConn makes a net.Conn of the two halves of a stream.
type pipeConn struct {
	io.Reader
	io.WriteCloser
	net.Conn
}

func (c *pipeConn) Read(p []byte) (int, error)  { return c.Reader.Read(p) }
func (c *pipeConn) Write(p []byte) (int, error) { return c.WriteCloser.Write(p) }
func (c *pipeConn) Close() error                { return c.WriteCloser.Close() }
func (c *pipeConn) SetDeadline(time.Time) error { return nil }

func (c *pipeConn) SetReadDeadline(time.Time) error  { return nil }
func (c *pipeConn) SetWriteDeadline(time.Time) error { return nil }

// clientOver is an HTTP client on one given connection.
func clientOver(t *testing.T, conn *tls.Conn) *http.Client {
	t.Helper()
	if err := conn.Handshake(); err != nil {
		t.Fatalf("handshake in the tunnel: %v", err)
	}
	transport := &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		return conn, nil
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// TestIssuerModule intercepts with an authority that lives in Caddy's storage.
func TestIssuerModule(t *testing.T) {
	s := startSite(t, siteLines{
		starpod: "ca {\n issuer internal {\n ca fleet\n }\n }",
		global:  "pki {\n ca fleet {\n name \"Fleet\"\n }\n }",
	})
	s.get(s.client(), s.target("/"), "X-Key", s.token("127.0.0.1"))
	if got := s.up.Last(t).Header.Get("X-Key"); got != canary {
		t.Errorf("upstream got %q, want the value", got)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "db", ca.KeyFile)); !os.IsNotExist(err) {
		t.Errorf("the key of a file authority is there (%v), want none beside the issuer's", err)
	}
}

// TestEgressNext hands the swapped request to Caddy's own reverse_proxy.
func TestEgressNext(t *testing.T) {
	s := startSite(t, siteLines{egress: "next", lines: "reverse_proxy 127.0.0.1:{$STARPOD_TEST_PORT}"})
	t.Setenv("STARPOD_TEST_PORT", fmt.Sprint(s.up.PlainPort()))
	s.load(siteLines{egress: "next", lines: "reverse_proxy 127.0.0.1:{$STARPOD_TEST_PORT}"})
	token := s.token("127.0.0.1")
	s.get(s.client(), s.target("/a%2Fb/"+token+"?k="+url.QueryEscape(token)), "X-Key", token)
	got := s.up.Last(t)
	if want := "/a%2Fb/" + canary + "?k=" + canary; got.Target != want || got.Header.Get("X-Key") != canary {
		t.Errorf("upstream got %s with key %q, want %s with the value", got.Target, got.Header.Get("X-Key"), want)
	}
}

// TestStatus reads the admin API and finds what it should, and no secret.
func TestStatus(t *testing.T) {
	s := startSite(t, siteLines{})
	s.get(s.client(), s.target("/"), "X-Key", s.token("127.0.0.1"), "X-Other", s.token("elsewhere.test"))
	_, body := s.get(http.DefaultClient, fmt.Sprintf("http://localhost:%d/starpod/status", s.admin))
	var status Status
	if err := json.Unmarshal([]byte(body), &status); err != nil {
		t.Fatalf("reading %q: %v", body, err)
	}
	c := status.Counts
	if c.Requests != 1 || c.Replaced != 1 || c.Stripped != 1 || c.Intercepted != 1 {
		t.Errorf("got counts %+v, want one request, one token replaced, one stripped, one tunnel", c)
	}
	if want := fmt.Sprintf("127.0.0.1:%d", s.port); len(status.Proxies) != 1 || status.Proxies[0].Listen[0] != want {
		t.Errorf("got proxies %+v, want one on %s", status.Proxies, want)
	}
	if !filepath.IsAbs(status.CA.Bundle) {
		t.Errorf("got bundle %q, want an absolute path", status.CA.Bundle)
	}
	if found := testbench.FindSecret([]byte(body), canary); len(found) > 0 {
		t.Errorf("the status holds the value as %v", found)
	}
	response, err := http.Post(fmt.Sprintf("http://localhost:%d/starpod/status", s.admin), "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: got %d, want 405", response.StatusCode)
	}
}

// TestDamagedAuthority refuses a configuration over damaged files, and leaves them.
func TestDamagedAuthority(t *testing.T) {
	s := startSite(t, siteLines{})
	keyFile := filepath.Join(s.dir, "db", ca.KeyFile)
	if err := os.WriteFile(keyFile, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(s.caddyfile(siteLines{})), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err == nil || !strings.Contains(err.Error(), keyFile) {
		t.Errorf("got error %v, want one that names %s", err, keyFile)
	}
	if text, _ := os.ReadFile(keyFile); string(text) != "garbage" {
		t.Errorf("the damaged file was overwritten with %q", text)
	}
}

// TestAdminIsOutOfReach: a client of the proxy that reached the admin endpoint
// could have the key file served.
func TestAdminIsOutOfReach(t *testing.T) {
	s := startSite(t, siteLines{})
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"} {
		response, body := s.get(s.client(), fmt.Sprintf("http://%s:%d/config/", host, s.admin))
		if response.StatusCode != http.StatusForbidden {
			t.Errorf("%s: got %d %.80q, want 403", host, response.StatusCode, body)
		}
	}
}
