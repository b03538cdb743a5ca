package starpod

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
)

// startProxy starts a proxy with the API and an upstream behind it.
func startProxy(t *testing.T, change func(*Config)) (*Handle, *testbench.Upstream) {
	t.Helper()
	pki := testbench.NewPKI(t)
	up := testbench.NewUpstream(t, pki)
	rules, err := handler.ParseEgressRule(true, "127.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	config := Config{
		Rules: rules, Trust: []string{pki.RootFile(t)},
		Resolver: testbench.Resolver(t, map[string][]string{testbench.APIHost: {"127.0.0.1"}, testbench.EvilHost: {"127.0.0.1"}}),
	}
	if change != nil {
		change(&config)
	}
	h, err := Start(t.Context(), config)
	if err != nil {
		t.Fatalf("starting: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := h.Shutdown(ctx); err != nil {
			t.Errorf("shutting down: %v", err)
		}
	})
	return h, up
}

// clientOf is a Go client that knows only what Environ says.
func clientOf(t *testing.T, h *Handle) *http.Client {
	t.Helper()
	env := make(map[string]string)
	for _, entry := range h.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	proxy, err := url.Parse(env["HTTPS_PROXY"])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if pem, err := os.ReadFile(env["SSL_CERT_FILE"]); err == nil {
		pool.AppendCertsFromPEM(pem)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func send(t *testing.T, client *http.Client, target, token string) int {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Key", token)
	response, err := client.Do(r)
	if err != nil {
		t.Fatalf("GET %s: %v", target, err)
	}
	response.Body.Close()
	return response.StatusCode
}

// TestStart swaps towards the right host and strips towards the wrong one, over
// TLS and without, with nothing but what the handle tells.
func TestStart(t *testing.T) {
	h, up := startProxy(t, nil)
	token, err := h.Seal(tokens.Secret{Value: canary, Hosts: []string{testbench.APIHost}})
	if err != nil {
		t.Fatal(err)
	}
	client := clientOf(t, h)
	for target, want := range map[string]string{
		up.URL(testbench.APIHost): canary, up.PlainURL(testbench.APIHost): canary,
		up.URL(testbench.EvilHost): "", up.PlainURL(testbench.EvilHost): "",
	} {
		if status := send(t, client, target, token); status != http.StatusOK {
			t.Errorf("%s: got status %d, want 200", target, status)
		}
		if got := up.Last(t).Header.Get("X-Key"); got != want {
			t.Errorf("%s got %q, want %q", target, got, want)
		}
	}
	if got := h.Counts(); got.Replaced != 2 || got.Stripped != 2 {
		t.Errorf("got counts %+v, want 2 replaced and 2 stripped", got)
	}
	if h.Port() == 0 || h.Port() != int(h.Addr.Port()) {
		t.Errorf("got port %d, want the one the system chose, %d", h.Port(), h.Addr.Port())
	}
}

// TestStartAsksForCredentials refuses whoever was not told them.
func TestStartAsksForCredentials(t *testing.T) {
	h, up := startProxy(t, nil)
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: h.Addr.String()})}
	defer transport.CloseIdleConnections()
	if status := send(t, &http.Client{Transport: transport}, up.PlainURL(testbench.APIHost), "x"); status != http.StatusProxyAuthRequired {
		t.Errorf("without credentials: got status %d, want 407", status)
	}
	if n := len(up.Requests()); n != 0 {
		t.Errorf("the upstream got %d requests, want none", n)
	}
}

func TestStartFailures(t *testing.T) {
	taken, _ := startProxy(t, nil)
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, ca.CertFile), []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		config Config
		want   string
	}{
		"the port is taken":          {Config{Addr: taken.Addr.String()}, "cannot listen on " + taken.Addr.String()},
		"a short key":                {Config{MasterKey: []byte("short")}, "32"},
		"a damaged authority":        {Config{DataDir: damaged}, filepath.Join(damaged, ca.CertFile)},
		"an isolation that is none":  {Config{Isolation: "total"}, "total"},
		"a root that is not there":   {Config{Trust: []string{"/nowhere.pem"}}, "/nowhere.pem"},
		"an upstream that is no URL": {Config{Upstream: "://"}, "upstream"},
	} {
		t.Run(name, func(t *testing.T) {
			temp := t.TempDir()
			t.Setenv("TMPDIR", temp)
			h, err := Start(t.Context(), test.config)
			if err == nil {
				_ = h.Shutdown(t.Context())
				t.Fatal("got no error")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %q, want it to name %q", err, test.want)
			}
			if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
				t.Errorf("a failed start left %v (%v), want nothing", left, err)
			}
		})
	}
}

// TestNoIntercept lets TLS through unseen: the upstream gets the token.
func TestNoIntercept(t *testing.T) {
	h, up := startProxy(t, func(c *Config) { c.NoIntercept = true })
	token, err := h.Seal(tokens.Secret{Value: canary})
	if err != nil {
		t.Fatal(err)
	}
	if h.CABundle != "" {
		t.Errorf("got bundle %q, want none where nothing is intercepted", h.CABundle)
	}
	client := clientOf(t, h)
	client.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
	send(t, client, up.URL(testbench.APIHost), token)
	if got := up.Last(t).Header.Get("X-Key"); got != token {
		t.Errorf("upstream got %q, want the token as it was", got)
	}
}

// TestDataDir keeps the authority from one start to the next.
func TestDataDir(t *testing.T) {
	dir := t.TempDir()
	var roots []string
	for range 2 {
		startProxy(t, func(c *Config) { c.DataDir = dir })
		pem, err := os.ReadFile(filepath.Join(dir, ca.CertFile))
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, string(pem))
	}
	if roots[0] != roots[1] {
		t.Error("the second start made another authority, want the first's")
	}
}

// TestPrepare sets a child's environment; the child keeps the rest of its own. In
// a namespace the proxy has another address, and asks for no credentials.
func TestPrepare(t *testing.T) {
	t.Run("by environment", func(t *testing.T) { testPrepare(t, driverEnv) })
	if runtime.GOOS == "linux" {
		t.Run("sealed", func(t *testing.T) { testPrepare(t, driverSealed) })
	}
}

func testPrepare(t *testing.T, driver string) {
	h, _ := startProxy(t, func(c *Config) { c.Isolation = driver })
	cmd := exec.Command("env")
	cmd.Env = []string{"KEPT=1", "HTTPS_PROXY=http://elsewhere", "PATH=" + os.Getenv("PATH")}
	if err := h.Prepare(cmd); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		seen[name] = value
	}
	proxy := h.proxyURL()
	if driver == driverSealed {
		proxy = seen["HTTP_PROXY"]
		if u, err := url.Parse(proxy); err != nil || u.User != nil || u.Hostname() != "127.0.0.1" || u.Port() == "" {
			t.Errorf("got HTTP_PROXY %q, want a port of loopback without credentials", proxy)
		}
	}
	want := map[string]string{"KEPT": "1", "NODE_USE_ENV_PROXY": "1"}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		want[name] = proxy
	}
	for _, name := range append([]string{"NO_PROXY", "no_proxy"}, bundleVariables...) {
		want[name] = h.CABundle
		if strings.EqualFold(name, "NO_PROXY") {
			want[name] = noProxy
		}
	}
	for name, value := range want {
		if seen[name] != value {
			t.Errorf("%s: the child got %q, want %q", name, seen[name], value)
		}
	}
	if !strings.Contains(seen["JAVA_TOOL_OPTIONS"], trustStoreFile) {
		t.Errorf("JAVA_TOOL_OPTIONS: the child got %q, want the trust store named", seen["JAVA_TOOL_OPTIONS"])
	}
	if err := h.Prepare(cmd); err == nil {
		t.Error("preparing a command that has run: got no error")
	}
}

// TestShutdown removes what the proxy wrote and stops listening.
func TestShutdown(t *testing.T) {
	h, err := Start(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.CABundle); err != nil {
		t.Errorf("the bundle: %v", err)
	}
	if err := h.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.dir); !os.IsNotExist(err) {
		t.Errorf("after the shutdown %s is still there (%v)", h.dir, err)
	}
	if _, err := http.Get("http://" + h.Addr.String()); err == nil {
		t.Error("after the shutdown the proxy still answers")
	}
}
