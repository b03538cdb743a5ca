package handler

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// TestClosingWhileATunnelOpens serves a client that has been promised a tunnel
// although its proxy is being replaced, and says that the answer is the last one.
func TestClosingWhileATunnelOpens(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			b := newBench(t, nil)
			conn, _ := b.connect(b.apiAuthority())
			closed := closing(t, b.proxy)
			client := inTunnel(t, b.secure(conn, protocols(h2)...), h2)
			response, body := b.do(client, b.request("POST", b.up.URL("api.starpod.test"), "x"))
			if response.StatusCode != 200 {
				t.Errorf("got %d %s, want 200", response.StatusCode, body)
			}
			if !h2 && !response.Close {
				t.Error("the answer does not say that it is the last of its connection")
			}
			awaitClosed(t, closed)
		})
	}
}

// TestClosingWhileASlowClientOpensATunnel serves one that needs longer to its first
// request than a busy client may between two.
func TestClosingWhileASlowClientOpensATunnel(t *testing.T) {
	b := newBench(t, nil)
	conn, _ := b.connect(b.apiAuthority())
	closed := closing(t, b.proxy)
	<-time.After(lastRequest + 10*drainPoll)
	client := inTunnel(t, b.secure(conn, protocols(false)...), false)
	if response, body := b.do(client, b.request("POST", b.up.URL("api.starpod.test"), "x")); response.StatusCode != 200 {
		t.Errorf("got %d %s, want 200", response.StatusCode, body)
	}
	awaitClosed(t, closed)
}

// TestClosingWhileALateClientOpensATunnel serves one that came by a connection made
// before, when the proxy no longer waits for others to open theirs.
func TestClosingWhileALateClientOpensATunnel(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			b := newBench(t, nil)
			other, _ := b.connect(b.apiAuthority())
			b.do(inTunnel(t, b.secure(other, protocols(h2)...), h2), b.request("GET", b.up.URL("api.starpod.test"), ""))
			closed := closing(t, b.proxy)
			<-time.After(2 * drainPoll)
			conn, _ := b.connect(b.apiAuthority())
			<-time.After(lastRequest)
			client := inTunnel(t, b.secure(conn, protocols(h2)...), h2)
			response, body := b.do(client, b.request("POST", b.up.URL("api.starpod.test"), "x"))
			if response.StatusCode != 200 {
				t.Errorf("got %d %s, want 200", response.StatusCode, body)
			}
			awaitClosed(t, closed)
		})
	}
}

// TestClosingBetweenRequests lets a client that is busy learn of the end from an
// answer, rather than by its connection being closed on its next request.
func TestClosingBetweenRequests(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			b := newBench(t, nil)
			conn, _ := b.connect(b.apiAuthority())
			client := inTunnel(t, b.secure(conn, protocols(h2)...), h2)
			post := func() { b.do(client, b.request("POST", b.up.URL("api.starpod.test"), "x")) }
			post()
			closed := closing(t, b.proxy)
			post() // fails the test unless it is answered
			awaitClosed(t, closed)
		})
	}
}

// closing closes the proxy and returns when it takes nothing but last requests.
func closing(t *testing.T, p *Proxy) (closed <-chan error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- p.Close(t.Context()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	await(ctx, p.inner.leaving.Load)
	return done
}

func awaitClosed(t *testing.T, closed <-chan error) {
	t.Helper()
	select {
	case err := <-closed:
		if err != nil {
			t.Errorf("closing: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the proxy does not come to an end")
	}
}

func protocols(h2 bool) []string {
	if h2 {
		return []string{"h2"}
	}
	return []string{"http/1.1"}
}
