package handler

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/tokens"
)

// TestAnswersBeforeTheBodyEnds: a connection on which a request was answered
// before its body had been read is either of use for the next request, or closed
// after the answer. Nothing of the body is ever taken for a request.
func TestAnswersBeforeTheBodyEnds(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.OnMismatch = tokens.Deny })
	b.up.HandleStream("/early", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Content-Length", "2")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_, _ = io.WriteString(w, "no")
		_ = http.NewResponseController(w).Flush()
		// Left unread, net/http might close the connection without having said so, and
		// the next POST come on it before its end, which nobody may send twice.
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	const next = "GET /next HTTP/1.1\r\nHost: {host}\r\n\r\n"
	foreign := b.token("other.test")
	for _, test := range []struct {
		name, head, body string
		status           int
	}{
		{"refused by a header, short body", "POST / HTTP/1.1\r\nHost: {host}\r\nX-Key: " + foreign + "\r\nContent-Length: 5\r\n\r\n", "GET /", 403},
		{"refused by a header, chunked", "POST / HTTP/1.1\r\nHost: {host}\r\nX-Key: " + foreign + "\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", 403},
		{"refused by a header, long body", "POST / HTTP/1.1\r\nHost: {host}\r\nX-Key: " + foreign + "\r\nContent-Length: 1000000\r\n\r\n", strings.Repeat("GET / HTTP/1.1\r\n\r\n", 1000000/18)[:1000000-10] + "GET / HTTP", 403},
		{"upstream answers early, sized", "POST /early HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/protobuf\r\nContent-Length: 5\r\n\r\n", "GET /", 413},
		{"upstream answers early, chunked", "POST /early HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", 413},
		{"upstream answers early, long", "POST /early HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/protobuf\r\nContent-Length: 1000000\r\n\r\n", strings.Repeat("x", 1000000), 413},
	} {
		for _, late := range []bool{false, true} {
			if late && test.status == 403 {
				continue // net/http reads on before it refuses, and clients do not wait
			}
			t.Run(fmt.Sprintf("%s, late %v", test.name, late), func(t *testing.T) {
				b.logs.TakeAll()
				for round := range 20 {
					conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
					raw := func(s string) string { return strings.ReplaceAll(s, "{host}", b.apiAuthority()) }
					r := bufio.NewReader(conn)
					_, _ = io.WriteString(conn, raw(test.head))
					rest := func() {
						_, _ = io.WriteString(conn, test.body+raw(next)) // fails where the connection was closed
					}
					if !late {
						go rest()
					}
					response, err := http.ReadResponse(r, &http.Request{Method: "POST"})
					if err != nil {
						t.Fatalf("reading the answer: %v", err)
					}
					if late {
						go rest()
					}
					_, _ = io.Copy(io.Discard, response.Body)
					if response.StatusCode != test.status {
						t.Fatalf("got status %d, want %d", response.StatusCode, test.status)
					}
					if response.Close && round%5 < 4 {
						_ = conn.Close() // waiting for its end takes net/http half a second
						continue
					}
					second, err := http.ReadResponse(r, nil)
					switch {
					case response.Close && err == nil:
						t.Fatalf("got another answer behind Connection: close: %d", second.StatusCode)
					case !response.Close && err != nil:
						t.Fatalf("no second answer, though the connection was not said to close: %v", err)
					case err == nil:
						if second.StatusCode != 200 || b.up.Last(t).Target != "/next" {
							t.Fatalf("second request: got %d of %s, want 200 of /next", second.StatusCode, b.up.Last(t).Target)
						}
					}
					_ = conn.Close()
					for _, entry := range b.logs.All() {
						if strings.Contains(entry.Message, "panic") {
							t.Fatalf("the server panicked: %s", entry.Message)
						}
					}
				}
			})
		}
	}
}

// TestClosedBodyIsStillAtItsEnd: the transport looks once more behind the last
// byte, when net/http may have closed the body for the answer that has begun.
func TestClosedBodyIsStillAtItsEnd(t *testing.T) {
	for _, length := range []int64{5, -1} {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(map[int64]string{
			5:  "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
			-1: "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		}[length])))
		if err != nil {
			t.Fatal(err)
		}
		body := &clientBody{ReadCloser: r.Body, left: r.ContentLength}
		got := make([]byte, 5)
		if _, err := io.ReadFull(body, got); err != nil || string(got) != "hello" {
			t.Fatalf("length %d: got %q (%v)", length, got, err)
		}
		if length < 0 { // its end is told by a chunk
			if _, err := body.Read(got); err != io.EOF {
				t.Fatalf("length %d: got %v, want the end", length, err)
			}
		}
		_ = r.Body.Close()
		if n, err := body.Read(got); n != 0 || err != io.EOF {
			t.Errorf("length %d: behind the end got %d bytes and %v, want the end", length, n, err)
		}
	}
}
