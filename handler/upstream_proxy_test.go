package handler

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// corporateProxy is a small forward proxy that wants credentials and notes what
// it is asked for. It resolves every name to this machine.
type corporateProxy struct {
	mu    sync.Mutex
	asked []string
}

func (c *corporateProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, _ := proxyBasicAuth(r)
	c.mu.Lock()
	c.asked = append(c.asked, fmt.Sprintf("%s %s %s:%s", r.Method, r.RequestURI, user, password))
	c.mu.Unlock()
	if user != "corp" || password != "p@ss" {
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if r.Method != http.MethodConnect {
		out := r.Clone(r.Context())
		out.Header.Del("Proxy-Authorization")
		out.RequestURI, out.Host = "", r.Host
		out.URL.Host = "127.0.0.1:" + r.URL.Port()
		response, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer response.Body.Close()
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, response.Body)
		return
	}
	_, port, _ := net.SplitHostPort(r.Host)
	target, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer target.Close()
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	go func() { _, _ = io.Copy(target, conn); _ = target.Close() }()
	_, _ = io.Copy(conn, target)
}

func (c *corporateProxy) last() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.asked) == 0 {
		return ""
	}
	return c.asked[len(c.asked)-1]
}

// startCorporate starts one that speaks http or https and returns it with its URL.
func startCorporate(t *testing.T, scheme string, p *Proxy, credentials *url.Userinfo) *corporateProxy {
	t.Helper()
	corporate := new(corporateProxy)
	server := httptest.NewUnstartedServer(corporate)
	if scheme == "https" {
		pki := testbench.NewPKI(t)
		p.Egress.Roots.AppendCertsFromPEM(pki.RootPEM)
		server.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Leaf(t)}}
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	p.Egress.Upstream = &url.URL{Scheme: scheme, Host: server.Listener.Addr().String(), User: credentials}
	return corporate
}

// TestUpstreamProxy sends everything through another proxy.
func TestUpstreamProxy(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		var corporate *corporateProxy
		b := newBench(t, func(p *Proxy) { corporate = startCorporate(t, scheme, p, url.UserPassword("corp", "p@ss")) })
		token := b.token("api.starpod.test")
		for _, test := range []struct{ name, base, asked string }{
			{"https", b.up.URL("api.starpod.test"), "CONNECT " + b.apiAuthority() + " corp:p@ss"},
			{"http", b.up.PlainURL("api.starpod.test"), fmt.Sprintf("POST http://api.starpod.test:%d/a%%2Fb;c?x=1;2 corp:p@ss", b.up.PlainPort())},
		} {
			for _, h2 := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s by %s h2=%v", test.name, scheme, h2), func(t *testing.T) {
					response, body := b.do(b.client(h2), b.request("POST", test.base+"/a%2Fb;c?x=1;2", token, "X-Key", token))
					if response.StatusCode != 200 {
						t.Fatalf("got status %d %s, want 200", response.StatusCode, body)
					}
					got := b.up.Last(t)
					if got.Header.Get("X-Key") != canary || string(got.Body) != canary || got.Target != "/a%2Fb;c?x=1;2" || got.Header.Get("Proxy-Authorization") != "" {
						t.Errorf("upstream got %s %v %q, want the values", got.Target, got.Header, got.Body)
					}
					if asked := corporate.last(); asked != test.asked {
						t.Errorf("the other proxy was asked for %q, want %q", asked, test.asked)
					}
				})
			}
		}
	}
}

// TestBlindTunnelThroughUpstreamProxy opens its tunnel with CONNECT, too.
func TestBlindTunnelThroughUpstreamProxy(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			var corporate *corporateProxy
			b := newBench(t, func(p *Proxy) {
				p.Authority = nil
				corporate = startCorporate(t, scheme, p, url.UserPassword("corp", "p@ss"))
			})
			port := b.rawUpstream(false, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
			authority := fmt.Sprintf("api.starpod.test:%d", port)
			conn, response := b.connect(authority)
			if response.StatusCode != 200 {
				t.Fatalf("got status %d, want 200", response.StatusCode)
			}
			_, _ = io.WriteString(conn, "ping")
			echo := make([]byte, 4)
			if _, err := io.ReadFull(conn, echo); err != nil || string(echo) != "ping" {
				t.Errorf("got %q (%v), want ping", echo, err)
			}
			if asked := corporate.last(); asked != "CONNECT "+authority+" corp:p@ss" {
				t.Errorf("the other proxy was asked for %q", asked)
			}
		})
	}
}

// TestUpstreamProxyRefuses: 502 without the credentials in the answer or a log,
// and no way around it.
func TestUpstreamProxyRefuses(t *testing.T) {
	const password = "wrong-9e107d9d372b"
	for _, blind := range []bool{false, true} {
		t.Run(fmt.Sprintf("blind=%v", blind), func(t *testing.T) {
			b := newBench(t, func(p *Proxy) {
				startCorporate(t, "http", p, url.UserPassword("corp", password))
				if blind {
					p.Authority = nil
				}
			})
			watchSecrecy(b, password)
			b.serveWatched(password)
			conn, response := b.connect(b.apiAuthority())
			if !blind {
				response = b.sendOver(b.secure(conn), "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
			}
			body, _ := io.ReadAll(response.Body)
			if response.StatusCode != 502 {
				t.Errorf("got status %d %s, want 502", response.StatusCode, body)
			}
			b.findSecret("the answer", body, password)
			b.nothingReached()
		})
	}
}

// TestUpstreamProxyIsGuarded: names and addresses are judged all the same.
func TestUpstreamProxyIsGuarded(t *testing.T) {
	var corporate *corporateProxy
	b := newBench(t, func(p *Proxy) {
		p.Guard.Rules = mustRules(t, "deny evil.starpod.test")
		corporate = startCorporate(t, "http", p, url.UserPassword("corp", "p@ss"))
	})
	for _, authority := range []string{"evil.starpod.test:443", "169.254.169.254:80", "127.0.0.1:80",
		"localhost:80", "LOCALHOST.:80", "db.localhost:80", "metadata.google.internal:80", "[::ffff:10.0.0.1]:80"} {
		if _, response := b.connect(authority); response.StatusCode != 403 {
			t.Errorf("CONNECT %s: got status %d, want 403", authority, response.StatusCode)
		}
		response := b.sendOver(b.dialFront(), "GET http://"+authority+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
		if response.StatusCode != 403 {
			t.Errorf("GET %s: got status %d, want 403", authority, response.StatusCode)
		}
	}
	if asked := corporate.last(); asked != "" {
		t.Errorf("the other proxy was asked for %q, want nothing", asked)
	}
}

// TestUpstreamProxyMayBeAskedForLocalhost where a rule says so.
func TestUpstreamProxyMayBeAskedForLocalhost(t *testing.T) {
	for _, rule := range []string{"allow localhost", "allow 127.0.0.0/8", "allow private_ranges"} {
		b := newBench(t, func(p *Proxy) {
			p.Guard.Rules = mustRules(t, rule)
			startCorporate(t, "http", p, url.UserPassword("corp", "p@ss"))
		})
		response, body := b.do(b.client(false), b.request("GET", b.up.PlainURL("x.localhost")+"/", ""))
		if want := map[bool]int{true: 403, false: 200}[rule == "allow localhost"]; response.StatusCode != want {
			t.Errorf("%s: got status %d %s, want %d", rule, response.StatusCode, body, want)
		}
	}
}

// TestHandOver gives the swapped request to the next handler.
func TestHandOver(t *testing.T) {
	type seen struct {
		target, host, url, key, body, length, credentials string
		said                                              int64
	}
	requests := make(chan seen, 1)
	b := newBench(t, func(p *Proxy) { p.HandOver = true })
	var handler http.HandlerFunc
	handler = func(w http.ResponseWriter, r *http.Request) {
		_, err := b.proxy.Serve(w, r, handler, func(w http.ResponseWriter, r *http.Request) error {
			body, err := io.ReadAll(r.Body)
			requests <- seen{r.RequestURI, r.Host, r.URL.String(), r.Header.Get("X_key"), string(body),
				r.Header.Get("Content-Length"), r.Header.Get("Proxy-Authorization"), r.ContentLength}
			w.WriteHeader(http.StatusTeapot)
			return err
		})
		var refusal *Refusal
		if errors.As(err, &refusal) {
			refusal.Write(w)
		}
	}
	b.front.Config.Handler = handler
	token := b.token("api.starpod.test")
	for _, test := range []struct {
		name, base, sent, want string
	}{
		{"https", "https://api.starpod.test:8443", "/a%2Fb/" + token + "?q=" + token + ";x", "/a%2Fb/" + canary + "?q=" + canary + ";x"},
		{"http", "http://api.starpod.test:8080", "/a%2Fb/" + token + "?q=" + token + ";x", "/a%2Fb/" + canary + "?q=" + canary + ";x"},
		{"two slashes", "https://api.starpod.test:8443", "//a", "//a"},
		{"nothing to swap", "https://api.starpod.test:8443", "/?", "/?"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			authority := test.base[strings.Index(test.base, "//")+2:]
			conn, target := b.dialFront(), test.base+test.sent
			if strings.HasPrefix(test.base, "https") {
				conn, target = b.tunnel(authority, "api.starpod.test", "http/1.1"), test.sent
			}
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nx_key: %s\r\nProxy-Authorization: Basic eDp5\r\nContent-Length: %d\r\n\r\n%[3]s", target, authority, token, len(token))
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || response.StatusCode != http.StatusTeapot {
				t.Fatalf("got %v (%v), want the next handler's answer", response, err)
			}
			want := seen{test.want, authority, test.base + test.want, canary, canary, fmt.Sprint(len(canary)), "", int64(len(canary))}
			if got := <-requests; got != want {
				t.Errorf("the next handler saw %+v\nwant                  %+v", got, want)
			}
		})
	}
	t.Run("what is refused is not handed over", func(t *testing.T) {
		b.t = t
		broken := testbench.Seal(t, b.key, "a\r\nb", "api.starpod.test")
		conn := b.tunnel("api.starpod.test:8443", "api.starpod.test", "http/1.1")
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: api.starpod.test:8443\r\nX-Key: %s\r\n\r\n", broken)
		if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != 400 || len(requests) > 0 {
			t.Errorf("got %v (%v) and %d requests, want 400 and none", response, err, len(requests))
		}
	})
}
