package handler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
)

// TestWebSocketInHTTP2Tunnel goes through a CONNECT over HTTP/2.
func TestWebSocketInHTTP2Tunnel(t *testing.T) {
	b := newBench(t, nil)
	arrived := make(chan message, 1)
	b.serveWebSocket(echoing(arrived), nil)
	stream, response := b.h2Front()(b.apiAuthority(), nil)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT: got status %d, want 200", response.StatusCode)
	}
	ctx, cancel := context.WithTimeout(t.Context(), longest)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, b.up.URL("api.starpod.test")+wsPath,
		&websocket.DialOptions{HTTPClient: inTunnel(t, b.secure(stream, "http/1.1"), false)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	answerTo(t, ctx, conn, message{websocket.MessageText, b.token()})
	if got := <-arrived; got.data != canary {
		t.Errorf("got %v, want the value", got)
	}
	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("closing: %v", err)
	}
}

// TestManyWebSockets come and go, and leave nothing behind.
func TestManyWebSockets(t *testing.T) {
	b := newBench(t, nil)
	b.warm()
	testbench.NoGoroutineLeak(t)
	b.serveWebSocket(func(ctx context.Context, conn *websocket.Conn) {
		if _, data, err := conn.Read(ctx); err != nil || string(data) != canary {
			t.Errorf("got %q (%v), want the value", data, err)
		}
	}, nil)
	token := []byte(b.token())
	client := b.client(false)
	bases := b.webSocketBases()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 50 {
				base := bases[[]string{"ws", "wss"}[i%2]]
				conn, _, err := websocket.Dial(t.Context(), base+wsPath, &websocket.DialOptions{HTTPClient: client})
				if err != nil {
					t.Error(err)
					return
				}
				if err := conn.Write(t.Context(), websocket.MessageText, token); err != nil {
					t.Error(err)
				}
				if i%3 == 0 {
					_, _, _ = conn.Read(t.Context())
				}
				_ = conn.CloseNow()
			}
		})
	}
	wg.Wait()
}

// TestWebSocketAtCloseOfTheProxy: one that does not end in time is cut, tunnel or not.
func TestWebSocketAtCloseOfTheProxy(t *testing.T) {
	for _, way := range []string{"wss", "ws"} {
		t.Run(way, func(t *testing.T) {
			b := newBench(t, nil)
			arrived := make(chan message, 1)
			b.serveWebSocket(echoing(arrived), nil)
			conn, ctx := b.dialWebSocket(b.webSocketBases()[way], websocket.DialOptions{})
			answerTo(t, ctx, conn, message{websocket.MessageText, "open"})
			short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			_ = b.proxy.Close(short)
			if _, _, err := conn.Read(ctx); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the end", err)
			}
		})
	}
}

// TestWebSocketHandOver: the next handler serves the WebSocket as it is.
func TestWebSocketHandOver(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.HandOver = true })
	arrived := make(chan message, 1)
	b.serveWebSocket(echoing(arrived), &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover})
	next := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", b.up.PlainPort())})
	b.front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = b.proxy.Serve(w, r, nil, func(w http.ResponseWriter, r *http.Request) error {
			next.ServeHTTP(w, r)
			return nil
		})
	})
	conn, ctx := b.dialWebSocket(b.up.PlainURL("api.starpod.test"), websocket.DialOptions{
		CompressionMode: websocket.CompressionContextTakeover, HTTPHeader: http.Header{"X-Key": {b.token()}},
	})
	sent := message{websocket.MessageText, b.token()}
	if back := answerTo(t, ctx, conn, sent); back != sent || <-arrived != sent {
		t.Errorf("came back: %v, want the token", back)
	}
	_ = conn.Close(websocket.StatusNormalClosure, "")
	b.upstreamIdle()
	if got := b.up.Last(t).Header; got.Get("X-Key") != canary || got.Get("Sec-WebSocket-Extensions") == "" {
		t.Errorf("the upstream got %v, want the value, and the client's offer", got)
	}
}

// TestWebSocketTokenExpires while its connection is open.
func TestWebSocketTokenExpires(t *testing.T) {
	f := messageForwarding(t)
	now := time.Now()
	f.started = now.Add(-time.Hour)
	token, err := f.keys.Seal(tokens.Secret{Value: canary, Expires: now.Add(-time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := (&messageScanner{f: f}).data(nil, []byte("<"+token+">"), ws.OpText, true)
	if err != nil || string(got) != "<>" {
		t.Errorf("got %q (%v), want the token gone", got, err)
	}
}

// TestWebSocketRefusedFromBothSides at once is told of once.
func TestWebSocketRefusedFromBothSides(t *testing.T) {
	f := messageForwarding(t)
	f.proxy.Init()
	defer f.proxy.Close(t.Context())
	client, proxy := net.Pipe()
	defer client.Close()
	f.client = proxy
	server, far := net.Pipe()
	defer far.Close()
	w := newWebSocket(f, server)
	var both sync.WaitGroup
	for _, side := range []Refusal{clientFrames, serverFrames} {
		both.Go(func() { w.refuse(errFrame, side) })
	}
	both.Wait()
	if got := f.proxy.Stats.Counts().Refused; got != 1 {
		t.Errorf("refused: got %d, want 1", got)
	}
}
