package handler

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/internal/testbench"
	"go.uber.org/zap/zapcore"
)

// TestUpstreamCertificates that nobody should accept: 502, and the upstream has
// not received one byte of the request.
func TestUpstreamCertificates(t *testing.T) {
	trusted := testbench.NewPKI(t)
	for _, test := range []struct {
		name string
		leaf tls.Certificate
	}{
		{"untrusted", testbench.NewPKI(t).Leaf(t)},
		{"expired", trusted.Expired(t)},
		{"wrong name", trusted.WrongName(t)},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s h2=%v", test.name, h2), func(t *testing.T) {
				b := newBench(t, func(p *Proxy) { p.Egress.Roots = trusted.Pool() })
				b.up = testbench.NewUpstreamWith(t, test.leaf, "h2", "http/1.1")
				token := b.token("api.starpod.test")
				response, body := b.do(b.client(h2), b.request("POST", b.up.URL("api.starpod.test")+"/"+token, token, "X-Key", token))
				if response.StatusCode != 502 || !strings.Contains(body, RuleCertificate) {
					t.Errorf("got %d %s, want 502 by the rule %s", response.StatusCode, body, RuleCertificate)
				}
				b.nothingReached()
			})
		}
	}
}

// oneByte reads no further than it has to.
type oneByte struct{ io.Reader }

func (r oneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:1]) }

// segmented writes each byte by itself.
type segmented struct{ net.Conn }

func (c segmented) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// TestClientHello comes in many segments, or is large, or right behind CONNECT.
func TestClientHello(t *testing.T) {
	b := newBench(t, nil)
	many := make([]string, 200)
	for i := range many {
		many[i] = fmt.Sprintf("protocol-number-%d", i)
	}
	get := func(t *testing.T, conn *tls.Conn) {
		t.Helper()
		b.t = t
		if response := b.sendOver(conn, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"); response.StatusCode != 200 {
			t.Errorf("got status %d, want 200", response.StatusCode)
		}
	}
	t.Run("one byte at a time", func(t *testing.T) {
		conn, _ := b.connect(b.apiAuthority())
		get(t, b.secure(segmented{conn}))
	})
	t.Run("over 2 kB", func(t *testing.T) {
		conn, _ := b.connect(b.apiAuthority())
		get(t, b.secure(conn, append(many, "http/1.1")...))
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		conn, _ := b.connect(b.apiAuthority())
		secure := tls.Client(conn, &tls.Config{ServerName: "api.starpod.test", RootCAs: b.roots, MaxVersion: tls.VersionTLS12})
		get(t, secure)
	})
	t.Run("in one segment with CONNECT", func(t *testing.T) {
		conn := b.dialFront()
		eager := &eagerConn{Conn: conn, connect: fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", b.apiAuthority())}
		get(t, b.secure(eager))
	})
}

// eagerConn sends CONNECT together with the first bytes that follow it, without
// waiting for the answer, which the first Read takes away.
type eagerConn struct {
	net.Conn
	connect string
	once    sync.Once
}

func (c *eagerConn) Write(p []byte) (int, error) {
	_, err := c.Conn.Write(append([]byte(c.connect), p...))
	c.connect = ""
	return len(p), err
}

func (c *eagerConn) Read(p []byte) (int, error) {
	var err error
	c.once.Do(func() {
		var answer []byte
		for one := make([]byte, 1); err == nil && !strings.HasSuffix(string(answer), "\r\n\r\n"); {
			_, err = c.Conn.Read(one)
			answer = append(answer, one...)
		}
	})
	if err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// TestBlindTunnels: no interception where it is off, not wanted or impossible.
func TestBlindTunnels(t *testing.T) {
	for _, test := range []struct {
		name      string
		configure func(*Proxy)
		warns     bool
	}{
		{"interception is off", func(p *Proxy) { p.Authority = nil }, false},
		{"the host is listed", func(p *Proxy) { p.Tunnel = []string{"*.starpod.test"} }, false},
		{"the authority fails", func(p *Proxy) {
			p.Authority = func(context.Context) (*ca.Authority, error) { return nil, errors.New("disk on fire") }
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, test.configure)
			pki := testbench.NewPKI(t)
			b.up = testbench.NewUpstreamWith(t, pki.Leaf(t), "http/1.1")
			conn, response := b.connect(b.apiAuthority())
			if response.StatusCode != 200 {
				t.Fatalf("got status %d, want 200", response.StatusCode)
			}
			b.roots = pki.Pool() // the client sees the upstream's own certificate
			token := b.token("api.starpod.test")
			b.sendOver(b.secure(conn), "GET / HTTP/1.1\r\nHost: {host}\r\nX-Key: "+token+"\r\n\r\n")
			if got := b.up.Last(t).Header.Get("X-Key"); got != token {
				t.Errorf("upstream got %q, want the token as it was", got)
			}
			if warned := b.logs.FilterLevelExact(zapcore.WarnLevel).Len() > 0; warned != test.warns {
				t.Errorf("warned: got %v, want %v: %v", warned, test.warns, b.logs.All())
			}
			if counts := b.proxy.Stats.Counts(); counts.Tunnelled != 1 || counts.Intercepted != 0 {
				t.Errorf("got %+v, want one blind tunnel", counts)
			}
		})
	}
}

// TestHalfClose goes through a blind tunnel from either side.
func TestHalfClose(t *testing.T) {
	for _, first := range []string{"client", "upstream"} {
		t.Run(first+" first", func(t *testing.T) {
			b := newBench(t, func(p *Proxy) { p.Authority = nil })
			received := make(chan string, 1)
			port := b.rawUpstream(false, func(conn net.Conn) {
				if first == "upstream" {
					_, _ = io.WriteString(conn, "answer")
					_ = conn.(*net.TCPConn).CloseWrite()
				}
				all, _ := io.ReadAll(conn)
				received <- string(all)
				if first == "client" {
					_, _ = io.WriteString(conn, "answer")
				}
			})
			conn := b.dialFront()
			fmt.Fprintf(conn, "CONNECT api.starpod.test:%d HTTP/1.1\r\nHost: x\r\n\r\n", port)
			if head, err := readHead(bufio.NewReaderSize(oneByte{conn}, 16)); err != nil || !strings.Contains(head, " 200 ") {
				t.Fatalf("got %q (%v), want 200", head, err)
			}
			if first == "upstream" {
				if got, err := io.ReadAll(conn); err != nil || string(got) != "answer" {
					t.Errorf("client got %q (%v), want the answer and the end", got, err)
				}
			}
			_, _ = io.WriteString(conn, "question")
			_ = conn.(*net.TCPConn).CloseWrite()
			if got := <-received; got != "question" {
				t.Errorf("upstream got %q, want the question and the end", got)
			}
			if first == "client" {
				if got, err := io.ReadAll(conn); err != nil || string(got) != "answer" {
					t.Errorf("client got %q (%v), want the answer", got, err)
				}
			}
		})
	}
}

func TestConnectOverHTTP2IsGuarded(t *testing.T) {
	b := newBench(t, nil)
	open := b.h2Front()
	for authority, want := range map[string]int{
		"169.254.169.254:80": 403, "api.starpod.test": 400, "api.starpod.test:0": 400,
	} {
		if _, response := open(authority, nil); response.StatusCode != want {
			t.Errorf("%s: got status %d, want %d", authority, response.StatusCode, want)
		}
	}
}

// around is a writer around another.
type around struct{ http.ResponseWriter }

func (w around) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// recording notes the status of an answer and counts what passes in a tunnel, as
// Caddy's access log and metrics do.
type recording struct {
	around
	conn *sizedConn
}

// sizedConn counts the bytes that have been read.
type sizedConn struct {
	net.Conn
	read int
}

func (c *sizedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read += n
	return n, err
}

func (*recording) Status() int { return http.StatusOK }

func (r *recording) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(r.ResponseWriter).Hijack()
	r.conn = &sizedConn{Conn: conn}
	return r.conn, rw, err
}

func recorded(w http.ResponseWriter) http.ResponseWriter { return &recording{around: around{w}} }

// TestHandlerOfATunnel is left when the tunnel is open, unless somebody wants to
// know how long it was. Either way it counts for as long as it is open.
func TestHandlerOfATunnel(t *testing.T) {
	for _, test := range []struct {
		name   string
		wrap   func(http.ResponseWriter) http.ResponseWriter
		header string
		stays  bool
	}{
		{name: "plain"},
		{name: "wrapped", wrap: func(w http.ResponseWriter) http.ResponseWriter { return around{w} }},
		{name: "recorded", wrap: recorded, stays: true},
		{name: "recorded and wrapped", wrap: func(w http.ResponseWriter) http.ResponseWriter { return around{recorded(w)} }, stays: true},
		{name: "with content", header: "Content-Length: 5\r\n", stays: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // a tunnel counts as idle after a second
			b := newBench(t, nil)
			left := make(chan struct{})
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(left)
				if test.wrap != nil {
					w = test.wrap(w)
				}
				b.ServeHTTP(w, r)
				if r, ok := w.(*recording); ok && r.conn.read == 0 {
					t.Error("nothing was read in the tunnel")
				}
			}))
			t.Cleanup(front.Close)
			conn, err := net.Dial("tcp", front.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(longest))
			fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n%s\r\n", b.apiAuthority(), test.header)
			if head, err := readHead(bufio.NewReader(conn)); err != nil || !strings.Contains(head, " 200 ") {
				t.Fatalf("got %q (%v), want status 200", head, err)
			}
			secure := b.secure(conn, "http/1.1")
			if !test.stays {
				awaitLeft(t, left)
			}
			if response := b.sendOver(secure, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"); response.StatusCode != 200 {
				t.Errorf("got status %d in the tunnel, want 200", response.StatusCode)
			}
			select {
			case <-left:
				if test.stays {
					t.Error("the handler was left while the tunnel was open")
				}
			default:
			}
			if got := b.proxy.live.count(); got != 1 {
				t.Errorf("%d tunnels count as open, want 1", got)
			}
			// Closed while somebody else waits for the next request on it.
			if err := b.proxy.Close(t.Context()); err != nil {
				t.Error(err)
			}
			awaitLeft(t, left)
			if got := b.proxy.live.count(); got != 0 {
				t.Errorf("%d tunnels count as open, want none", got)
			}
		})
	}
}

func awaitLeft(t *testing.T, left <-chan struct{}) {
	t.Helper()
	select {
	case <-left:
	case <-time.After(longest):
		t.Fatal("the handler is not left")
	}
}

// TestManyTunnels come and go, and leave nothing behind.
func TestManyTunnels(t *testing.T) {
	b := newBench(t, nil)
	warm := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
	b.sendOver(warm, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
	testbench.NoGoroutineLeak(t)
	var wg sync.WaitGroup
	for worker := range 5 {
		wg.Go(func() {
			for i := range 100 {
				conn, err := net.Dial("tcp", b.front.Listener.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.SetDeadline(time.Now().Add(longest))
				fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", b.apiAuthority())
				if head, err := readHead(bufio.NewReader(conn)); err != nil || !strings.Contains(head, " 200 ") {
					t.Errorf("got %q (%v)", head, err)
				}
				switch (worker + i) % 3 { // closed before, in and after the handshake
				case 1:
					_, _ = conn.Write([]byte{recordTypeHandshake, 3, 1})
				case 2:
					secure := tls.Client(conn, &tls.Config{ServerName: "api.starpod.test", RootCAs: b.roots})
					if err := secure.Handshake(); err != nil {
						t.Error(err)
					}
				}
				conn.Close()
			}
		})
	}
	wg.Wait()
}

// TestCloseOfTheProxy ends tunnels that do nothing, and waits for busy ones.
func TestCloseOfTheProxy(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("idle h2=%v", h2), func(t *testing.T) {
			b := newBench(t, nil)
			protocol := "http/1.1"
			if h2 {
				protocol = "h2"
			}
			conn := b.tunnel(b.apiAuthority(), "api.starpod.test", protocol)
			client := inTunnel(t, conn, h2)
			b.do(client, b.request("GET", b.up.URL("api.starpod.test")+"/", ""))
			ctx, cancel := context.WithTimeout(t.Context(), longest)
			defer cancel()
			if err := b.proxy.Close(ctx); err != nil {
				t.Errorf("got %v, want the tunnel closed in time", err)
			}
			if response, err := client.Get(b.up.URL("api.starpod.test") + "/"); err == nil {
				t.Errorf("got status %d in a closed tunnel", response.StatusCode)
			}
		})
	}
	t.Run("busy", func(t *testing.T) {
		b := newBench(t, nil)
		values := make(chan string)
		b.up.HandleStream("/events", testbench.Events(values))
		response, err := b.client(false).Get(b.up.URL("api.starpod.test") + "/events")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		closed := make(chan error, 1)
		go func() { closed <- b.proxy.Close(t.Context()) }()
		values <- "still here"
		line, err := bufio.NewReader(response.Body).ReadString('\n')
		if err != nil || line != "data: still here\n" {
			t.Errorf("got %q (%v), want the event", line, err)
		}
		select {
		case err := <-closed:
			t.Errorf("closed (%v) while a response was under way", err)
		default:
		}
		close(values)
		_, _ = io.Copy(io.Discard, response.Body)
		if err := <-closed; err != nil {
			t.Errorf("got %v, want nil", err)
		}
	})
	t.Run("busy for too long", func(t *testing.T) {
		b := newBench(t, nil)
		values := make(chan string)
		defer close(values)
		b.up.HandleStream("/events", testbench.Events(values))
		response, err := b.client(false).Get(b.up.URL("api.starpod.test") + "/events")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := b.proxy.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
		if _, err := io.ReadAll(response.Body); err == nil {
			t.Error("the response ended well, want it cut")
		}
	})
}

// TestCloseWithStalledClients: clients that do not read what they asked for hold up
// nobody who closes the proxy for good, however many they are.
func TestCloseWithStalledClients(t *testing.T) {
	b := newBench(t, nil)
	var sent atomic.Int64
	b.up.HandleStream("/endless", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for piece := make([]byte, 256<<10); ; {
			n, err := w.Write(piece)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}))
	const stalled = 3
	for range stalled {
		conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
		fmt.Fprintf(conn, "GET /endless HTTP/1.1\r\nHost: %s\r\n\r\n", b.apiAuthority())
	}
	last, since := int64(0), time.Now()
	testbench.Await(t, longest, func() error {
		if now := sent.Load(); now != last || now == 0 {
			last, since = now, time.Now()
		}
		if still := time.Since(since); still < 300*time.Millisecond {
			return fmt.Errorf("%d bytes were sent, the last of them %v ago", last, still)
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_ = b.proxy.Close(ctx)
	// crypto/tls waits 5 s for each connection that it cannot say goodbye on.
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("closing took %v with %d stalled clients, want that it does not wait for them", took, stalled)
	}
}

// TestAClientThatHasGoneIsNotTunnelled: that a certificate is not minted for one
// who has left, or has ended its half, says nothing about the authority.
func TestAClientThatHasGoneIsNotTunnelled(t *testing.T) {
	b := newBench(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.proxy.Init()
	client, done, refusal := b.proxy.clients.take("somebody", kindTunnel)
	if refusal != nil {
		t.Fatal(refusal)
	}
	defer done()
	if !b.proxy.intercepts(ctx, client, Destination{Scheme: "https", Host: "api.starpod.test", Port: 443}) {
		t.Error("got a tunnel without interception, want none")
	}
	if n := b.logs.FilterMessageSnippet("cannot mint").Len(); n != 0 {
		t.Errorf("got %d warnings of certificates that cannot be minted, want none", n)
	}
}
