package handler

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/starpod/caddy-starpod/internal/testbench"
)

// fault is what an upstream does to the first connection that it gets. The next
// one is served as it should be.
type fault struct {
	name  string
	early bool // before there is TLS
	harm  func(conn net.Conn)
	sees  string // what the client sees: a rule of a 502, or "an answer that breaks off"
}

const faultBody = 20 * smallBuffer // bytes

const brokenOff = "an answer that breaks off"

// reset ends a connection as a crash does.
func reset(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
		_ = tcp.Close()
	}
}

// breakingOff takes the whole request, so that what it answers arrives, and ends
// the connection behind an answer or the beginning of one.
func breakingOff(answer string) func(net.Conn) {
	return func(conn net.Conn) {
		if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(conn, answer)
		}
	}
}

const okHead = "HTTP/1.1 200 OK\r\n"

var faults = []fault{
	{"reset as it is accepted", true, reset, RuleUpstream},
	{"closed as it is accepted", true, func(net.Conn) {}, RuleUpstream},
	{"reset in the handshake", true, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 10)); reset(conn) }, RuleUpstream},
	{"closed in the answer to the handshake", true, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = io.WriteString(conn, "\x16\x03\x03\x00\x7a\x02\x00\x00")
	}, RuleUpstream},
	{"no TLS", true, func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 400 No\r\n\r\n") }, RuleUpstream},
	{"alert in the handshake", true, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = io.WriteString(conn, "\x15\x03\x03\x00\x02\x02\x28")
	}, RuleUpstream},

	{"reset behind the handshake", false, reset, RuleUpstream},
	{"closed behind the handshake", false, func(net.Conn) {}, RuleUpstream},
	{"reset behind the head of the request", false, func(conn net.Conn) {
		_, _ = readHead(bufio.NewReader(conn))
		reset(conn)
	}, RuleUpstream},
	{"reset in the body of the request", false, func(conn net.Conn) {
		_, _ = io.CopyN(io.Discard, conn, faultBody/2)
		reset(conn)
	}, RuleUpstream},
	{"closed behind the request", false, breakingOff(""), RuleUpstream},
	{"broken off in the status line", false, breakingOff("HTTP/1.1 20"), RuleUpstream},
	{"broken off in the header", false, breakingOff(okHead + "Content-Len"), RuleUpstream},
	{"broken off behind an early answer", false, breakingOff("HTTP/1.1 103 Early\r\nLink: <x>\r\n\r\n"), RuleUpstream},

	{"broken off in a body with a length", false, breakingOff(okHead + "Content-Length: 100\r\n\r\nbegin"), brokenOff},
	{"broken off in a chunk", false, breakingOff(okHead + "Transfer-Encoding: chunked\r\n\r\n20\r\nbegin"), brokenOff},
	{"broken off between chunks", false, breakingOff(okHead + "Transfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n"), brokenOff},
	{"broken off before the trailers", false, breakingOff(okHead + "Transfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n0\r\n"), brokenOff},
	{"broken off in the trailers", false, breakingOff(okHead + "Transfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n0\r\nX-Sum: "), brokenOff},
}

// faultyLeaf is a certificate that the proxy trusts.
func (b *bench) faultyLeaf() tls.Certificate {
	b.t.Helper()
	pki := testbench.NewPKI(b.t)
	b.proxy.Egress.Roots.AppendCertsFromPEM(pki.RootPEM)
	return pki.Leaf(b.t)
}

// faulty starts an upstream that has the fault once. The value of X-Key of each
// request that it serves comes back in the channel.
func (b *bench) faulty(f fault, leaf tls.Certificate) (authority string, keys chan string) {
	b.t.Helper()
	var used atomic.Bool
	keys = make(chan string, 1)
	port := b.rawUpstream(false, func(conn net.Conn) {
		first := used.CompareAndSwap(false, true)
		if first && f.early {
			f.harm(conn)
			return
		}
		secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{leaf}})
		defer secure.Close()
		if secure.Handshake() != nil {
			return
		}
		if first {
			f.harm(secure)
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(secure))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		keys <- r.Header.Get("X-Key")
		_, _ = io.WriteString(secure, okHead+"Content-Length: 2\r\nConnection: close\r\n\r\nok")
	})
	return fmt.Sprintf("api.starpod.test:%d", port), keys
}

// TestUpstreamFaults lets an upstream fail at every moment of a request that has
// a token in its header and, by a length or in chunks, in its body. The client
// learns of it, the log says it, nothing tells the value, nothing is sent twice,
// nothing is left behind, and the next request works.
func TestUpstreamFaults(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	b.proxy.Init()
	watchSecrecy(b)
	b.serveWatched()
	token, leaf := b.token("api.starpod.test"), b.faultyLeaf()
	b.do(b.client(false), b.request("GET", b.up.URL("api.starpod.test")+"/", "")) // what is made once is there
	testbench.NoGoroutineLeak(t)
	for _, f := range faults {
		for _, h2 := range []bool{false, true} {
			for _, sized := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, h2 %v, sized %v", f.name, h2, sized), func(t *testing.T) {
					b.t = t
					b.logs.TakeAll()
					authority, keys := b.faulty(f, leaf)
					client := b.client(h2)
					r := b.request("POST", "https://"+authority+"/", strings.Repeat("x", faultBody)+token, "X-Key", token)
					if !sized {
						r.ContentLength = -1
					}
					b.suffer(client, r, f.sees)
					response, body := b.do(client, b.request("POST", "https://"+authority+"/", token, "X-Key", token))
					if response.StatusCode != 200 || body != "ok" {
						t.Fatalf("the next request: got status %d %s, want 200", response.StatusCode, body)
					}
					if key := <-keys; key != canary || len(keys) > 0 {
						t.Errorf("the next request: the upstream got %q and %d more, want the value once", key, len(keys))
					}
				})
			}
		}
	}
	b.t = t
	b.proxy.upstream.closeIdle()
}

// suffer sends a request that meets a fault and checks what is told of it.
func (b *bench) suffer(client *http.Client, r *http.Request, sees string) {
	b.t.Helper()
	response, err := client.Do(r)
	if err != nil {
		if sees == brokenOff { // before its beginning was on the way
			b.findSecret("the error", []byte(err.Error()))
			return
		}
		b.t.Fatalf("got no answer: %v", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	b.findSecret("the answer", fmt.Appendf(nil, "%v %s", response.Header, body))
	if sees == brokenOff {
		if response.StatusCode != 200 || err == nil {
			b.t.Errorf("got status %d and %q, want 200 and a body that breaks off", response.StatusCode, body)
		}
		b.awaitLine("tokens replaced", map[string]any{"status": int64(200)})
		return
	}
	var told struct{ Error, Rule string }
	if err := json.Unmarshal(body, &told); err != nil || response.StatusCode != 502 || told.Rule != sees || told.Error == "" {
		b.t.Errorf("got status %d and %q (%v), want 502 by the rule %s", response.StatusCode, body, err, sees)
	}
	b.awaitLine("request refused", map[string]any{"status": int64(502), "rule": sees, "reason": told.Error})
}

// awaitLine waits for the one line of that message in the audit log.
func (b *bench) awaitLine(message string, want map[string]any) {
	b.t.Helper()
	testbench.Await(b.t, longest, func() error {
		lines := b.logs.FilterLoggerName("audit").FilterMessage(message).AllUntimed()
		if len(lines) != 1 {
			return fmt.Errorf("audit log: got %d lines %q, want 1", len(lines), message)
		}
		for name, value := range want {
			if got := lines[0].ContextMap()[name]; got != value {
				return fmt.Errorf("audit log, %s: got %v, want %v", name, got, value)
			}
		}
		return nil
	})
}

// TestSilentHandshake: an upstream that accepts and says nothing holds a client
// no longer than upstreamHandshake.
func TestSilentHandshake(t *testing.T) {
	t.Parallel() // it waits, most of the time
	b := newBench(t, nil)
	b.proxy.Init()
	for _, transport := range []*http.Transport{b.proxy.upstream.h1, b.proxy.upstream.h2} {
		if transport.TLSHandshakeTimeout != upstreamHandshake {
			t.Errorf("handshake timeout: got %v, want %v", transport.TLSHandshakeTimeout, upstreamHandshake)
		}
		transport.TLSHandshakeTimeout = 100 * time.Millisecond
	}
	leaf := b.faultyLeaf()
	for _, h2 := range []bool{false, true} {
		b.logs.TakeAll()
		authority, _ := b.faulty(fault{early: true, harm: func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }}, leaf)
		r := b.request("GET", "https://"+authority+"/", "", "X-Key", b.token("api.starpod.test"))
		b.suffer(b.client(h2), r, RuleUpstream)
	}
}

// TestResetInAWebSocket ends the client's half as well.
func TestResetInAWebSocket(t *testing.T) {
	b := newBench(t, nil)
	warm := b.client(false)
	b.do(warm, b.request("GET", b.up.URL("api.starpod.test")+"/", ""))
	testbench.NoGoroutineLeak(t)
	warm.CloseIdleConnections()
	conn, r := b.rawWebSocket(nil, func(conn net.Conn, _ *bufio.Reader) { reset(conn) })
	if rest, err := io.ReadAll(r); len(rest) > 0 {
		t.Errorf("got %q (%v), want the end", rest, err)
	}
	_ = conn.Close()
	b.awaitNoTunnel()
	b.proxy.upstream.closeIdle()
}

// awaitNoTunnel waits until no tunnel is left.
func (b *bench) awaitNoTunnel() {
	b.t.Helper()
	testbench.Await(b.t, longest, func() error {
		if n := b.proxy.live.count(); n > 0 {
			return fmt.Errorf("%d tunnels are left", n)
		}
		return nil
	})
}

// TestResolverFaults: names that resolve slowly, wrongly or not at all.
func TestResolverFaults(t *testing.T) {
	good := testbench.Resolver(t, names)
	refusing := func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no way to the name server")
	}
	silent := func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		t.Cleanup(func() { _, _ = near.Close(), far.Close() })
		go func() { _, _ = io.Copy(io.Discard, far) }()
		return near, nil
	}
	for _, test := range []struct {
		name string
		dial func(context.Context, string, string) (net.Conn, error)
		says string
	}{
		{"no answer", silent, "in time|cannot be resolved"},
		{"no name server", refusing, "cannot be resolved"},
		{"an error", failing(t, dns.RcodeServerFailure), "cannot be resolved"},
		{"a refusal", failing(t, dns.RcodeRefused), "cannot be resolved"},
		{"no such name", failing(t, dns.RcodeNameError), "cannot be resolved"},
		{"no address", failing(t, dns.RcodeSuccess), "cannot be resolved"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var healed atomic.Bool
			b := newBench(t, func(p *Proxy) {
				p.Guard.Timeout = 300 * time.Millisecond
				p.Guard.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
					if healed.Load() {
						return good.Dial(ctx, network, addr)
					}
					return test.dial(ctx, network, addr)
				}}
			})
			watchSecrecy(b)
			client, token := b.client(false), b.token("api.starpod.test")
			for _, target := range []string{b.up.URL("api.starpod.test"), b.up.PlainURL("api.starpod.test")} {
				started := time.Now()
				response, body := b.do(client, b.request("POST", target+"/", token, "X-Key", token))
				said := false
				for text := range strings.SplitSeq(test.says, "|") {
					said = said || strings.Contains(body, text)
				}
				if response.StatusCode != 502 || !said || time.Since(started) > longest/2 {
					t.Errorf("%s: got status %d %s after %v, want 502 and %q soon", target, response.StatusCode, body, time.Since(started), test.says)
				}
				b.findSecret("the answer", []byte(body))
			}
			b.nothingReached()
			healed.Store(true)
			response, body := b.do(client, b.request("POST", b.up.URL("api.starpod.test")+"/", token, "X-Key", token))
			if response.StatusCode != 200 || string(b.up.Last(t).Body) != canary {
				t.Errorf("the next request: got status %d %s, want 200", response.StatusCode, body)
			}
		})
	}
}

// failing leads to a name server with the same answer to all.
func failing(t *testing.T, rcode int) func(context.Context, string, string) (net.Conn, error) {
	t.Helper()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(query, rcode))
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", packets.LocalAddr().String())
	}
}

// TestPanicBehindEgressNextTellsNoValue: the handler that is handed the values may
// panic with them in its text, which net/http would log.
func TestPanicBehindEgressNextTellsNoValue(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.HandOver = true })
	watchSecrecy(b)
	var handler http.HandlerFunc
	handler = func(w http.ResponseWriter, r *http.Request) {
		_, _ = b.proxy.Serve(w, r, handler, func(_ http.ResponseWriter, r *http.Request) error {
			panic(fmt.Sprintf("cannot go on with %s", r.Header.Get("X-Key")))
		})
	}
	b.front.Config.Handler = handler
	token := b.token("api.starpod.test")
	for _, target := range []string{"https://api.starpod.test:8443/", "http://api.starpod.test:8080/"} {
		for _, h2 := range []bool{false, true} {
			if response, err := b.client(h2).Do(b.request("GET", target, "", "X-Key", token)); err == nil {
				t.Errorf("%s: got status %d, want the connection to end", target, response.StatusCode)
			}
		}
	}
	if n := b.logs.FilterMessageSnippet("panicked").Len(); n == 0 {
		t.Error("nothing is logged of the panic")
	}
}
