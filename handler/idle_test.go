package handler

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// TestNoDoublePost: a POST that the upstream has read is never sent again, even
// where the connection ends instead of an answer.
func TestNoDoublePost(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	var posts atomic.Int32
	port := b.rawUpstream(true, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, request.Body); err != nil {
				return
			}
			if request.Method == http.MethodPost {
				posts.Add(1)
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	target := fmt.Sprintf("https://api.starpod.test:%d/", port)
	for _, h2 := range []bool{false, true} {
		client := b.client(h2)
		for _, size := range []int{0, 10, 3 * smallBuffer} {
			posts.Store(0)
			b.do(client, b.request("GET", target, "")) // leaves a connection in the pool
			response, _ := b.do(client, b.request("POST", target, strings.Repeat("x", size)))
			if got := posts.Load(); response.StatusCode != 502 || got != 1 {
				t.Errorf("%d bytes, h2=%v: got status %d and %d POSTs, want 502 and 1", size, h2, response.StatusCode, got)
			}
		}
	}
}

// TestIdleConnectionsEnd: an upstream that closes its connection after every
// answer, without saying so, loses no request that can be repeated.
func TestIdleConnectionsEnd(t *testing.T) {
	b := newBench(t, nil)
	var served atomic.Int32
	port := b.rawUpstream(true, func(conn net.Conn) {
		if request, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.Copy(io.Discard, request.Body)
			served.Add(1)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	client := b.client(false)
	const rounds = 50
	for i := range rounds {
		method := []string{"GET", "PUT", "DELETE"}[i%3]
		r := b.request(method, fmt.Sprintf("https://api.starpod.test:%d/%d", port, i), "", "X-Key", b.token("api.starpod.test"))
		if method == "PUT" {
			// Go takes a PUT for repeatable only where it says so.
			r = b.request(method, r.URL.String(), "body", "Idempotency-Key", "x")
		} else if method == "DELETE" {
			r.Header.Set("Idempotency-Key", "x")
		}
		if response, body := b.do(client, r); response.StatusCode != 200 || body != "ok" {
			t.Fatalf("%s %d: got status %d %s, want 200", method, i, response.StatusCode, body)
		}
	}
	if got := served.Load(); got != rounds {
		t.Errorf("upstream served %d requests, want %d", got, rounds)
	}
}

// TestConnectionsThatAreLoggedIn are nobody else's: some hosts take each request on
// a connection for one of the user who has logged in on it.
func TestConnectionsThatAreLoggedIn(t *testing.T) {
	for _, test := range []struct {
		scheme string
		shared bool // the connection is used again
	}{
		{"NTLM", false}, {"ntlm", false}, {"Negotiate", false},
		{"Basic", true},
	} {
		for method, body := range map[string]string{"GET": "", "POST": "some text"} {
			t.Run(test.scheme+" "+method, func(t *testing.T) {
				b := newBench(t, nil)
				port := b.rawUpstream(true, rememberUser)
				target := fmt.Sprintf("https://api.starpod.test:%d/", port)
				login := b.request(method, target, body, "Authorization", test.scheme+" "+b.token("api.starpod.test"))
				if _, user := b.do(b.client(false), login); !strings.HasPrefix(user, test.scheme+" *") {
					t.Fatalf("the host takes the first user for %q, want %s and a masked value", user, test.scheme)
				}
				_, user := b.do(b.client(false), b.request("GET", target, ""))
				if shared := user != "nobody"; shared != test.shared {
					t.Errorf("the host takes the next user for %q", user)
				}
			})
		}
	}
}

// rememberUser answers each request with the Authorization of the last one on its
// connection that had one. It does not care whether the connection was to end.
func rememberUser(conn net.Conn) {
	r, user := bufio.NewReader(conn), "nobody"
	for {
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, request.Body); err != nil {
			return
		}
		if login := request.Header.Get("Authorization"); login != "" {
			user = login
		}
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(user), user)
	}
}
