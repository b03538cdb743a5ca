package handler

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestUpgradeAnsweredOtherwise: without a 101 it is a request like any other,
// and the connection goes on.
func TestUpgradeAnsweredOtherwise(t *testing.T) {
	for _, test := range []struct{ name, answer string }{
		{"200", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain"},
		{"200 in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nplain\r\n0\r\n\r\n"},
		{"400", "HTTP/1.1 400 Bad\r\nContent-Length: 5\r\n\r\nplain"},
		{"426", "HTTP/1.1 426 Upgrade Required\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nplain"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, nil)
			bodies := make(chan string, 2)
			authority := fmt.Sprintf("api.starpod.test:%d", b.rawUpstream(true, func(conn net.Conn) {
				r := bufio.NewReader(conn)
				for {
					request, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					body, _ := io.ReadAll(request.Body)
					bodies <- request.Header.Get("Upgrade") + " " + string(body)
					_, _ = io.WriteString(conn, test.answer)
				}
			}))
			conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
			for _, body := range []string{"", "abc"} {
				fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Length: %d\r\n\r\n%s", authority, len(body), body)
				got, err := readRaw(conn, "POST")
				if err != nil {
					t.Fatal(err)
				}
				if got, want := plainMessage(got), plainMessage(test.answer); got != want {
					t.Errorf("client got %q\nwant       %q", got, want)
				}
				if got := <-bodies; got != "foo "+body {
					t.Errorf("upstream got %q, want the upgrade and the body %q", got, body)
				}
			}
		})
	}
}

// TestUpgradeBytes: whatever either side sends at once behind the request or the
// 101 arrives, also where the request has a body.
func TestUpgradeBytes(t *testing.T) {
	for _, test := range []struct{ name, fields, body, behind string }{
		{"nothing", "", "", ""},
		{"bytes behind the request", "", "", "early of the client;"},
		{"a body", "Content-Length: 4\r\n", "body", ""},
		{"a body and bytes behind it", "Content-Length: 4\r\n", "body", "early of the client;"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, nil)
			bodies := make(chan string, 1)
			authority := fmt.Sprintf("api.starpod.test:%d", b.rawUpstream(true, func(conn net.Conn) {
				r := bufio.NewReader(conn)
				request, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				body, _ := io.ReadAll(request.Body)
				bodies <- string(body)
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nearly of the server;")
				_, _ = io.Copy(conn, r)
			}))
			conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: foo\r\n%s\r\n%s%s", authority, test.fields, test.body, test.behind)
			r := bufio.NewReader(conn)
			response, err := http.ReadResponse(r, nil)
			if err != nil || response.StatusCode != 101 || response.Header.Get("Upgrade") != "foo" {
				t.Fatalf("got %v (%v), want status 101", response, err)
			}
			if got := <-bodies; got != test.body {
				t.Errorf("upstream got the body %q, want %q", got, test.body)
			}
			_, _ = io.WriteString(conn, "late")
			want := "early of the server;" + test.behind + "late"
			got := make([]byte, len(want))
			if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
				t.Errorf("got %q (%v), want %q", got, err, want)
			}
		})
	}
}

// TestUpgradeWithAToken is not asked for: what follows a 101 of an unknown
// protocol could repeat the value and nobody could tell.
func TestUpgradeWithAToken(t *testing.T) {
	b := newBench(t, nil)
	response := b.send("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: foo\r\nX-Key: " + b.token("api.starpod.test") + "\r\n\r\n")
	got := b.up.Last(t)
	if response.StatusCode != 200 || got.Header.Get("Upgrade") != "" || got.Header.Get("Connection") != "" || got.Header.Get("X-Key") != canary {
		t.Errorf("got status %d, and the upstream %v, want 200 and the value without an upgrade", response.StatusCode, got.Header)
	}
	unmasked := newBench(t, func(p *Proxy) { p.Swap.Unmasked = true })
	unmasked.send("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: foo\r\nX-Key: " + unmasked.token("api.starpod.test") + "\r\n\r\n")
	if got := unmasked.up.Last(t).Header.Get("Upgrade"); got != "foo" {
		t.Errorf("without masking: got upgrade %q, want foo", got)
	}
}

// TestUpgradeEnds: when one side closes, the other is closed too.
func TestUpgradeEnds(t *testing.T) {
	for _, first := range []string{"client", "upstream"} {
		t.Run(first+" first", func(t *testing.T) {
			b := newBench(t, nil)
			ended, leave := make(chan error, 1), make(chan struct{})
			authority := fmt.Sprintf("api.starpod.test:%d", b.rawUpstream(true, func(conn net.Conn) {
				r := bufio.NewReader(conn)
				_, _ = readHead(r)
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n")
				if first == "upstream" {
					<-leave
					return
				}
				_, err := io.Copy(io.Discard, r)
				ended <- err
			}))
			conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n", authority)
			if head, err := readHead(bufio.NewReader(oneByte{conn})); err != nil || !strings.Contains(head, " 101 ") {
				t.Fatalf("got %q (%v), want 101", head, err)
			}
			if first == "client" {
				_ = conn.Close()
				if err := <-ended; err != nil {
					t.Errorf("upstream: got %v, want the end", err)
				}
				return
			}
			close(leave)
			if rest, err := io.ReadAll(conn); err != nil && err != io.ErrUnexpectedEOF || len(rest) > 0 {
				t.Errorf("client: got %q (%v), want the end", rest, err)
			}
		})
	}
}
