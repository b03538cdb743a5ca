package starpod

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestWebSocket goes through the response writers that Caddy wraps around each
// other, with an access log among them.
func TestWebSocket(t *testing.T) {
	log := filepath.Join(t.TempDir(), "access.log")
	s := startSite(t, siteLines{lines: "log {\n\toutput file " + log + "\n}\nencode"})
	arrived := make(chan string, 2)
	s.up.HandleStream("/ws", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			kind, data, err := conn.Read(context.Background())
			if err != nil {
				return
			}
			arrived <- string(data)
			_ = conn.Write(context.Background(), kind, data)
		}
	}))
	stars := strings.Repeat("*", len(canary))
	for _, target := range []string{s.target("/ws"), s.up.PlainURL("127.0.0.1") + "/ws"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		conn, _, err := websocket.Dial(ctx, target, &websocket.DialOptions{HTTPClient: s.client()})
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Write(ctx, websocket.MessageText, []byte(s.token()))
		_, back, err := conn.Read(ctx)
		if got := <-arrived; got != canary || string(back) != stars || err != nil {
			t.Errorf("%s: %q arrived and %q came back (%v), want the value and asterisks", target, got, back, err)
		}
		if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Errorf("%s: closing: %v", target, err)
		}
	}
	s.earlyFrame(t, arrived, stars)
	testbench.Await(t, 20*time.Second, func() error {
		text, err := os.ReadFile(log)
		if lines := strings.Count(string(text), `"uri":"/ws"`); err != nil || lines < 2 {
			return fmt.Errorf("got %d lines in the access log (%w), want one for each WebSocket", lines, err)
		}
		if found := testbench.FindSecret(text, canary); len(found) > 0 {
			t.Errorf("the access log holds the value as %v", found)
		}
		return nil
	})
}

// earlyFrame sends a frame right behind the request for a WebSocket.
func (s *site) earlyFrame(t *testing.T, arrived <-chan string, want string) {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	authority := fmt.Sprintf("127.0.0.1:%d", s.up.Port())
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", authority)
	if response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect}); err != nil || response.StatusCode != 200 {
		t.Fatalf("CONNECT: got %v (%v), want 200", response, err)
	}
	secure := tls.Client(conn, &tls.Config{RootCAs: s.bundle(), ServerName: "127.0.0.1"})
	frame := ws.MaskFrame(ws.NewTextFrame([]byte(s.token())))
	head := "GET /ws HTTP/1.1\r\nHost: " + authority + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
	raw, err := ws.CompileFrame(frame)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := secure.Write(append([]byte(head), raw...)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(secure)
	if response, err := http.ReadResponse(r, nil); err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v (%v), want status 101", response, err)
	}
	back, err := testbench.ReadFrame(r)
	if err != nil || string(back.Payload) != want {
		t.Errorf("early frame: got %q back (%v), want %q", back.Payload, err, want)
	}
	if got := <-arrived; got != canary {
		t.Errorf("early frame: got %q, want the value", got)
	}
}
