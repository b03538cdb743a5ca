package handler

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestConnectOverHTTP2 has HTTP/1 and HTTP/2 inside of tunnels that share one
// HTTP/2 connection to the proxy.
func TestConnectOverHTTP2(t *testing.T) {
	b := newBench(t, nil)
	b.up.Handle("/echo", testbench.Echo)
	b.up.Handle("/big", testbench.Big(3_000_000))
	open := b.h2Front()
	var clients []*http.Client
	for _, h2 := range []bool{false, true} {
		conn, response := open(b.apiAuthority(), nil)
		if response.StatusCode != 200 {
			t.Fatalf("CONNECT: got status %d, want 200", response.StatusCode)
		}
		protocol := "http/1.1"
		if h2 {
			protocol = "h2"
		}
		clients = append(clients, inTunnel(t, b.secure(conn, protocol), h2))
	}
	var wg sync.WaitGroup
	for i, client := range clients {
		wg.Go(func() {
			for range 5 {
				response, err := client.Post(b.up.URL("api.starpod.test")+"/echo", "", strings.NewReader(b.token("api.starpod.test")))
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || len(body) != len(canary) || response.ProtoMajor != i+1 {
					t.Errorf("client %d: got %s %q (%v), want an echo of the value's length", i, response.Proto, body, err)
				}
				if response, err = client.Get(b.up.URL("api.starpod.test") + "/big"); err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				if n, err := io.Copy(io.Discard, response.Body); err != nil || n != 3_000_000 {
					t.Errorf("client %d: got %d bytes (%v)", i, n, err)
				}
				response.Body.Close()
			}
		})
	}
	wg.Wait()
}

// TestHTTP2TunnelsThatBreak ends tunnels in the middle of a download that the
// client does not read, when the proxy is busy writing to it. What writes must
// have stopped before the stream is given back, or the process panics.
func TestHTTP2TunnelsThatBreak(t *testing.T) {
	testbench.NoGoroutineLeak(t)
	b := newBench(t, nil)
	b.up.Handle("/big", testbench.Big(50_000_000))
	open := b.h2Front()
	for round := range 20 {
		conn, _ := open(b.apiAuthority(), nil)
		client := inTunnel(t, b.secure(conn, "http/1.1"), false)
		response, err := client.Get(b.up.URL("api.starpod.test") + "/big")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.CopyN(io.Discard, response.Body, int64(round)*100_000)
		if round%2 == 0 {
			_ = conn.(*pipedConn).CloseWrite() // the client's half ends, the stream goes on
		}
		_ = conn.Close()
		client.CloseIdleConnections()
		_ = response.Body.Close()
	}
	testbench.Await(t, longest, func() error {
		if got := b.proxy.Stats.Requests.Load(); got < 20 {
			return fmt.Errorf("ended: got %d requests, want 20", got)
		}
		return nil
	})
	if n := b.logs.FilterMessageSnippet("panic").Len(); n > 0 {
		t.Errorf("got %d panics: %v", n, b.logs.FilterMessageSnippet("panic").All()[0].Message)
	}
}
