package handler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/starpod/caddy-starpod/internal/testbench"
)

// talk is what a test's WebSocket server does with a connection.
type talk func(ctx context.Context, conn *websocket.Conn)

// message is one WebSocket message.
type message struct {
	kind websocket.MessageType
	data string
}

func (m message) String() string {
	if len(m.data) > 200 {
		return fmt.Sprintf("%v of %d bytes, %.100q...", m.kind, len(m.data), m.data)
	}
	return fmt.Sprintf("%v %q", m.kind, m.data)
}

// wsPath is where the upstream serves WebSockets.
const wsPath = "/ws"

// serveWebSocket lets the upstream serve WebSockets at wsPath.
func (b *bench) serveWebSocket(serve talk, options *websocket.AcceptOptions) {
	b.up.HandleStream(wsPath, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, options)
		if err != nil {
			return // which has been answered
		}
		defer conn.CloseNow()
		conn.SetReadLimit(-1)
		ctx, cancel := context.WithTimeout(context.Background(), longest)
		defer cancel()
		serve(ctx, conn)
	}))
}

// echoing sends each message back; what arrived goes into the channel as well.
func echoing(arrived chan<- message) talk {
	return func(ctx context.Context, conn *websocket.Conn) {
		for {
			kind, data, err := conn.Read(ctx)
			if err != nil {
				return
			}
			arrived <- message{kind, string(data)}
			if conn.Write(ctx, kind, data) != nil {
				return
			}
		}
	}
}

// dialWebSocket opens a WebSocket through the proxy. Its context ends with the test.
func (b *bench) dialWebSocket(base string, options websocket.DialOptions) (*websocket.Conn, context.Context) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	options.HTTPClient = b.client(false)
	conn, response, err := websocket.Dial(ctx, base+wsPath, &options)
	if err != nil {
		cancel()
		b.t.Fatalf("dialling %s: %v, %+v", base, err, response)
	}
	conn.SetReadLimit(-1)
	b.t.Cleanup(func() {
		_ = conn.CloseNow()
		cancel()
	})
	return conn, ctx
}

// webSocketBases are the two ways in: through a tunnel, and in absolute form.
func (b *bench) webSocketBases() map[string]string {
	return map[string]string{"wss": b.up.URL("api.starpod.test"), "ws": b.up.PlainURL("api.starpod.test")}
}

// answerTo sends a message and returns what came back.
func answerTo(t testing.TB, ctx context.Context, conn *websocket.Conn, m message) message {
	t.Helper()
	if err := conn.Write(ctx, m.kind, []byte(m.data)); err != nil {
		t.Fatalf("sending %v: %v", m, err)
	}
	kind, data, err := conn.Read(ctx)
	if err != nil {
		t.Fatalf("reading the answer to %v: %v", m, err)
	}
	return message{kind, string(data)}
}

// TestWebSocketMessages sends messages of all classes of length to and fro.
func TestWebSocketMessages(t *testing.T) {
	b := newBench(t, nil)
	arrived := make(chan message, 1)
	b.serveWebSocket(echoing(arrived), nil)
	for way, base := range b.webSocketBases() {
		t.Run(way, func(t *testing.T) {
			b.t = t
			conn, ctx := b.dialWebSocket(base, websocket.DialOptions{})
			for _, size := range []int{0, 1, 125, 126, 127, 128, 65535, 65536, 65537, 1<<20 - 1, 1 << 20, 1<<20 + 1, 4 << 20} {
				for _, kind := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary} {
					sent := message{kind, strings.Repeat("a", size)}
					back := answerTo(t, ctx, conn, sent)
					if got := <-arrived; got != sent || back != sent {
						t.Errorf("sent %v: %v arrived, and %v came back", sent, got, back)
					}
				}
			}
		})
	}
}

// TestWebSocketFragments writes messages with tokens in pieces of many sizes.
func TestWebSocketFragments(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	arrived := make(chan message, 1)
	b.serveWebSocket(echoing(arrived), nil)
	conn, ctx := b.dialWebSocket(b.up.URL("api.starpod.test"), websocket.DialOptions{})
	text := strings.Repeat("x", 3*smallBuffer) + b.token() + strings.Repeat("y", 300) + b.token("api.starpod.test") + "!"
	want := strings.Repeat("x", 3*smallBuffer) + canary + strings.Repeat("y", 300) + canary + "!"
	for _, size := range []int{1, 2, 10, 125, 126, smallBuffer - 1, smallBuffer, smallBuffer + 1, len(text)} {
		w, err := conn.Writer(ctx, websocket.MessageText)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(text); i += size {
			if _, err := io.WriteString(w, text[i:min(i+size, len(text))]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		_, back, err := conn.Read(ctx)
		masked := strings.ReplaceAll(want, canary, strings.Repeat("*", len(canary)))
		if got := <-arrived; got.data != want || string(back) != masked || err != nil {
			t.Errorf("in pieces of %d: %v arrived, and %.100q came back (%v)", size, got, back, err)
		}
	}
}

// TestWebSocketTokens puts tokens into messages.
func TestWebSocketTokens(t *testing.T) {
	b := newBench(t, nil)
	arrived := make(chan message, 1)
	b.serveWebSocket(echoing(arrived), nil)
	seal := func(value string, hosts ...string) string { return testbench.Seal(t, b.key, value, hosts...) }
	const quoted = "a \"b\" \\ \n é"
	good, odd := b.token("api.starpod.test"), seal(quoted)
	foreign := testbench.Seal(t, bytes.Repeat([]byte{9}, 32), canary)
	evil := b.token("evil.starpod.test")
	long := strings.Repeat("0123456789", 7000)
	text, binary := websocket.MessageText, websocket.MessageBinary
	type row struct {
		name       string
		sent, want message
	}
	rows := []row{
		{"alone", message{text, good}, message{text, canary}},
		{"at the start", message{text, good + " rest"}, message{text, canary + " rest"}},
		{"at the end", message{binary, "rest " + good}, message{binary, "rest " + canary}},
		{"several", message{text, good + good + "/" + odd}, message{text, canary + canary + "/" + quoted}},
		{"for another host", message{text, "<" + evil + ">"}, message{text, "<>"}},
		{"of another key", message{text, "<" + foreign + ">"}, message{text, "<" + foreign + ">"}},
		{"all kinds", message{binary, good + evil + foreign + "|" + good}, message{binary, canary + foreign + "|" + canary}},
		{"in JSON", message{text, ` {"k":"` + odd + `"}`}, message{text, ` {"k":"a \"b\" \\ \n é"}`}},
		{"in JSON of Socket.IO", message{text, `42["login","` + odd + `"]`}, message{text, `42["login","a \"b\" \\ \n é"]`}},
		{"in JSON as binary", message{binary, `{"k":"` + odd + `"}`}, message{binary, `{"k":"` + quoted + `"}`}},
		{"plain text behind JSON", message{text, "k=" + odd}, message{text, "k=" + quoted}},
		{"value without length", message{text, seal("")}, message{text, ""}},
		{"value longer than its token", message{text, seal(long)}, message{text, long}},
	}
	for _, size := range []int{125, 126, 127, 65535, 65536, 65537} {
		for _, value := range []string{"v", canary, long[:size-2]} {
			pad := strings.Repeat("-", max(0, size-len(value)))
			rows = append(rows, row{fmt.Sprintf("%d bytes with a value of %d", size, len(value)),
				message{binary, pad + seal(value)}, message{binary, pad + value}})
		}
	}
	for way, base := range b.webSocketBases() {
		conn, ctx := b.dialWebSocket(base, websocket.DialOptions{})
		for _, row := range rows {
			t.Run(way+" "+row.name, func(t *testing.T) {
				back := answerTo(t, ctx, conn, row.sent)
				if got := <-arrived; got != row.want {
					t.Errorf("got %v, want %v", got, row.want)
				}
				if strings.Contains(back.data, canary) || len(back.data) != len(row.want.data) {
					t.Errorf("came back: %v, want it masked", back)
				}
			})
		}
	}
}

// TestWebSocketCompression: the client's offer does not reach a server whose
// messages are looked into, and its messages are found all the same.
func TestWebSocketCompression(t *testing.T) {
	for _, test := range []struct {
		name      string
		configure func(*Proxy)
		header    bool // a token goes out in a header too
		offered   bool
	}{
		{"scanned and masked", nil, false, false},
		{"scanned only", func(p *Proxy) { p.Swap.Unmasked = true }, false, false},
		{"masked only", func(p *Proxy) { p.Swap.Scan = 1 << PlaceHeader }, true, false},
		{"nothing to mask", func(p *Proxy) { p.Swap.Scan = 1 << PlaceHeader }, false, true},
		{"neither", func(p *Proxy) { p.Swap.Scan, p.Swap.Unmasked = 1<<PlaceHeader, true }, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, test.configure)
			arrived := make(chan message, 1)
			b.serveWebSocket(echoing(arrived), &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover})
			options := websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover, HTTPHeader: http.Header{}}
			if test.header {
				options.HTTPHeader.Set("X-Key", b.token())
			}
			conn, ctx := b.dialWebSocket(b.up.URL("api.starpod.test"), options)
			sent := message{websocket.MessageText, strings.Repeat("compress me ", 100) + b.token()}
			want := sent
			if b.proxy.Swap.Scan.Has(PlaceWebSocket) {
				want.data = strings.Repeat("compress me ", 100) + canary
			}
			for range 3 {
				back := answerTo(t, ctx, conn, sent)
				if got := <-arrived; got != want {
					t.Errorf("got %v, want %v", got, want)
				}
				if !b.proxy.Swap.Unmasked && strings.Contains(back.data, canary) {
					t.Errorf("came back: %v, want it masked", back)
				}
			}
			_ = conn.Close(websocket.StatusNormalClosure, "")
			b.upstreamIdle()
			if got := b.up.Last(t).Header.Get("Sec-WebSocket-Extensions"); (got != "") != test.offered {
				t.Errorf("the upstream was offered %q, want an offer: %v", got, test.offered)
			}
		})
	}
}

// TestWebSocketSubprotocol passes.
func TestWebSocketSubprotocol(t *testing.T) {
	b := newBench(t, nil)
	b.serveWebSocket(echoing(make(chan message, 1)), &websocket.AcceptOptions{Subprotocols: []string{"graphql-ws"}})
	conn, _ := b.dialWebSocket(b.up.URL("api.starpod.test"), websocket.DialOptions{Subprotocols: []string{"other", "graphql-ws"}})
	if got := conn.Subprotocol(); got != "graphql-ws" {
		t.Errorf("got %q, want graphql-ws", got)
	}
}

// TestWebSocketAtSpeed sends many small messages both ways at once.
func TestWebSocketAtSpeed(t *testing.T) {
	const count = 10_000
	b := newBench(t, nil)
	token := b.token()
	sendAll := func(ctx context.Context, conn *websocket.Conn, text string) {
		for i := range count {
			if err := conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, "%d %s", i, text)); err != nil {
				t.Errorf("message %d: %v", i, err)
				return
			}
		}
	}
	readAll := func(ctx context.Context, conn *websocket.Conn, text string) {
		for i := range count {
			_, data, err := conn.Read(ctx)
			if want := fmt.Sprintf("%d %s", i, text); err != nil || string(data) != want {
				t.Errorf("message %d: got %q (%v), want %q", i, data, err, want)
				return
			}
		}
	}
	both := func(ctx context.Context, conn *websocket.Conn, send, read string) {
		var wg sync.WaitGroup
		wg.Go(func() { sendAll(ctx, conn, send) })
		readAll(ctx, conn, read)
		wg.Wait()
	}
	served := make(chan struct{})
	b.serveWebSocket(func(ctx context.Context, conn *websocket.Conn) {
		defer close(served)
		both(ctx, conn, "from the server", canary)
	}, nil)
	conn, ctx := b.dialWebSocket(b.up.URL("api.starpod.test"), websocket.DialOptions{})
	both(ctx, conn, token, "from the server")
	<-served
}

// TestWebSocketCloses: codes and reasons arrive at the other end, either way.
func TestWebSocketCloses(t *testing.T) {
	for _, code := range []websocket.StatusCode{websocket.StatusNormalClosure, websocket.StatusPolicyViolation, websocket.StatusMessageTooBig, 3999, 4000} {
		for _, closer := range []string{"client", "server"} {
			t.Run(fmt.Sprintf("%s closes with %d", closer, code), func(t *testing.T) {
				b := newBench(t, nil)
				b.warm()
				testbench.NoGoroutineLeak(t)
				told := make(chan error, 1)
				b.serveWebSocket(func(ctx context.Context, conn *websocket.Conn) {
					if closer == "server" {
						told <- conn.Close(code, "because")
						return
					}
					_, _, err := conn.Read(ctx)
					told <- err
				}, nil)
				conn, ctx := b.dialWebSocket(b.up.URL("api.starpod.test"), websocket.DialOptions{})
				var heard error
				if closer == "server" {
					_, _, heard = conn.Read(ctx)
					if err := <-told; err != nil {
						t.Errorf("closing: %v", err)
					}
				} else {
					if err := conn.Close(code, "because"); err != nil {
						t.Errorf("closing: %v", err)
					}
					heard = <-told
				}
				var got websocket.CloseError
				if !errors.As(heard, &got) || got != (websocket.CloseError{Code: code, Reason: "because"}) {
					t.Errorf("got %v, want %d because", heard, code)
				}
			})
		}
	}
}

// warm has the bench start what stays: servers, and goroutines of its libraries.
func (b *bench) warm() {
	b.t.Helper()
	conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
	b.sendOver(conn, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
	_ = conn.Close()
	b.proxy.upstream.closeIdle()
	b.upstreamIdle()
}

// TestWebSocketEnds: when one side is gone, so is the other.
func TestWebSocketEnds(t *testing.T) {
	for _, first := range []string{"client", "server"} {
		for _, scan := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, scanned %v", first, scan), func(t *testing.T) {
				b := newBench(t, func(p *Proxy) {
					if !scan {
						p.Swap.Scan, p.Swap.Unmasked = 1<<PlaceHeader, true
					}
				})
				b.warm()
				testbench.NoGoroutineLeak(t)
				gone := make(chan error, 1)
				b.serveWebSocket(func(ctx context.Context, conn *websocket.Conn) {
					if first == "server" {
						_ = conn.CloseNow()
						return
					}
					_, _, err := conn.Read(ctx)
					gone <- err
				}, nil)
				conn, ctx := b.dialWebSocket(b.up.URL("api.starpod.test"), websocket.DialOptions{})
				if first == "client" {
					_ = conn.CloseNow()
				} else {
					_, _, err := conn.Read(ctx)
					gone <- err
				}
				if err := <-gone; err == nil || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want the end", err)
				}
			})
		}
	}
}
