package handler

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestEarlySwitch: a server that changes the protocol before the request has
// ended gets nothing, for the request is still being read.
func TestEarlySwitch(t *testing.T) {
	b := newBench(t, nil)
	for _, protocol := range []string{"foo", "websocket"} {
		t.Run(protocol, func(t *testing.T) {
			port := b.rawUpstream(true, func(conn net.Conn) {
				if _, err := readHead(bufio.NewReader(conn)); err == nil {
					fmt.Fprintf(conn, "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
					_, _ = io.Copy(io.Discard, conn)
				}
			})
			for range 10 {
				authority := fmt.Sprintf("api.starpod.test:%d", port)
				conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
				go func() {
					fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\nTransfer-Encoding: chunked\r\n\r\n", authority, protocol)
					for {
						if _, err := io.WriteString(conn, strings.Repeat("3\r\nabc\r\n", 2000)); err != nil {
							return
						}
					}
				}()
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err == nil && response.StatusCode != http.StatusBadGateway {
					t.Errorf("got status %d, want 502", response.StatusCode)
				}
				_ = conn.NetConn().Close()
			}
		})
	}
}

// TestUnaskedSwitch: a change of protocol that was taken out of the request
// opens no way around the mask.
func TestUnaskedSwitch(t *testing.T) {
	b := newBench(t, nil)
	port := b.rawUpstream(true, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, _ := io.ReadAll(request.Body)
		fmt.Fprintf(conn, "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n%s %s", body, request.Header.Get("X-Key"))
	})
	authority := fmt.Sprintf("api.starpod.test:%d", port)
	token := b.token("api.starpod.test")
	for name, raw := range map[string]string{
		"token in a chunk":  fmt.Sprintf("POST / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: foo\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", authority, len(token), token),
		"token in a header": fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: foo\r\nX-Key: %s\r\n\r\n", authority, token),
	} {
		t.Run(name, func(t *testing.T) {
			conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
			_, _ = io.WriteString(conn, raw)
			r := bufio.NewReader(conn)
			response, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(response.Body)
			if response.StatusCode != http.StatusBadGateway || bytes.Contains(body, []byte(canary)) {
				t.Errorf("got %d %q, want 502 and no value", response.StatusCode, body)
			}
		})
	}
}

// TestTokenInTrailersOfASizedBody: HTTP/2 has trailers behind a body with a
// length as well, and they come when the answer may be under way.
func TestTokenInTrailersOfASizedBody(t *testing.T) {
	b := newBench(t, nil)
	b.up.HandleStream("/early", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "echo "+r.Trailer.Get("X-Key"))
	}))
	r := b.request("POST", b.up.URL("api.starpod.test")+"/early", strings.Repeat("x", 3<<20))
	r.Trailer = http.Header{"X-Key": {b.token("api.starpod.test")}}
	if _, got := b.do(b.client(true), r); got != "echo "+strings.Repeat("*", len(canary)) {
		t.Errorf("got %q, want the value masked", got)
	}
}

// TestStatedLengthTakesNoPlace: a body that is announced and does not come keeps
// nobody else's from being spooled.
func TestStatedLengthTakesNoPlace(t *testing.T) {
	b := newBench(t, nil)
	conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\nx", b.apiAuthority(), int64(DefaultMaxSpool))
	response, text := b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", strings.Repeat("a", 2<<20)))
	if response.StatusCode != http.StatusOK {
		t.Errorf("got %d %s, want 200", response.StatusCode, text)
	}
	testbench.Await(t, longest, func() error {
		if held := b.proxy.spooled.Load(); held != 0 {
			return fmt.Errorf("%d bytes are still counted as spooled", held)
		}
		return nil
	})
}

// TestTrimmedEcho: servers trim what they read.
func TestTrimmedEcho(t *testing.T) {
	b := newBench(t, nil)
	b.up.Handle("/", func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
		var sent struct{ Key string }
		_ = json.Unmarshal(got.Body, &sent)
		fmt.Fprintf(w, "unknown key %s.", strings.TrimSpace(sent.Key))
	})
	token := testbench.Seal(t, b.key, canary+"\n", "api.starpod.test")
	_, got := b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", `{"key":"`+token+`"}`, "Content-Type", "application/json"))
	if want := "unknown key " + strings.Repeat("*", len(canary)) + "."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
