package handler

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestResponseBytes compares what the client receives with what the upstream
// sent. want is empty where that is the same.
func TestResponseBytes(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, test := range []struct{ name, method, sent, want string }{
		{"with a length", "GET", ok + "Content-Length: 2\r\n\r\nhi", ""},
		{"nothing added", "GET", ok + "Content-Length: 0\r\n\r\n", ""},
		{"own date and server", "GET", ok + "Date: yesterday\r\nServer: x\r\nContent-Type: a/b\r\nContent-Length: 0\r\n\r\n", ""},
		{"chunked", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n2\r\nho\r\n0\r\n\r\n", ""},
		{"chunked, tiny", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", ""},
		{"chunked, empty", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
		{"trailers", "GET", ok + "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n1\r\nx\r\n0\r\nX-T: 1\r\n\r\n", ""},
		{"trailers not announced", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-T: 1\r\n\r\n", ""},
		{"until the connection closes", "GET", ok + "\r\nhello", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"old version", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", ok + "Content-Length: 2\r\n\r\nhi"},
		{"old version until the connection closes", "GET", "HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\nhello", ok + "X-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"chunk extensions", "GET", ok + "Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0;c\r\n\r\n", ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"},
		{"404 with a long body", "GET", "HTTP/1.1 404 N\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100_000), ""},
		{"15 kB of cookies", "GET", ok + "Set-Cookie: a=" + strings.Repeat("x", 15<<10) + "\r\nContent-Length: 0\r\n\r\n", ""},
		{"several cookies", "GET", ok + "Set-Cookie: b=1\r\nSet-Cookie: a=2; Secure\r\nSet-Cookie: b=1\r\nContent-Length: 0\r\n\r\n", ""},
		{"names with dots and underscores", "GET", ok + "X_a: 1\r\nX.b: 2\r\nContent-Length: 0\r\n\r\n", ""},
		{"HEAD with a length", "HEAD", ok + "Content-Length: 1234\r\nContent-Type: a/b\r\n\r\n", ""},
		{"HEAD without a length", "HEAD", ok + "X-A: 1\r\n\r\n", ""},
		{"204", "DELETE", "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n", ""},
		{"205", "POST", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", ""},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n", ""},
		// A 304 need not repeat the fields of the content, and net/http does not.
		{"304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\nEtag: \"x\"\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n"},
		{"299", "GET", "HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n", ""},
		{"401", "GET", "HTTP/1.1 401 U\r\nWww-Authenticate: Basic realm=a\r\nWww-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n", ""},
		{"503", "GET", "HTTP/1.1 503 S\r\nRetry-After: 5\r\nContent-Length: 1\r\n\r\n-", ""},
		{"early hints", "GET", "HTTP/1.1 103 Early Hints\r\nLink: </s>; rel=preload\r\n\r\n" + ok + "Content-Length: 2\r\n\r\nhi", ""},
		{"fields of one hop", "GET", ok + "Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=1\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", ok + "Content-Length: 0\r\n\r\n"},
		{"301", "GET", "HTTP/1.1 301 M\r\nLocation: https://evil.starpod.test/\r\nContent-Length: 0\r\n\r\n", ""},
		{"302", "POST", "HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", ""},
		{"303", "POST", "HTTP/1.1 303 S\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", ""},
		{"307", "POST", "HTTP/1.1 307 T\r\nLocation: https://evil.starpod.test/\r\nContent-Length: 0\r\n\r\n", ""},
		{"308", "POST", "HTTP/1.1 308 P\r\nLocation: https://evil.starpod.test/\r\nContent-Length: 0\r\n\r\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, nil)
			authority := fmt.Sprintf("api.starpod.test:%d", b.rawUpstream(true, answering(test.sent)))
			conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
			fmt.Fprintf(conn, "%s / HTTP/1.1\r\nHost: %s\r\n\r\n", test.method, authority)
			got, err := readRaw(conn, test.method)
			if err != nil {
				t.Fatal(err)
			}
			if test.want == "" {
				test.want = test.sent
			}
			if got, want := plainMessage(got), plainMessage(test.want); got != want {
				t.Errorf("client got %q\nwant       %q", got, want)
			}
		})
	}
}

// TestBrokenResponses end for the client as they ended for the proxy.
func TestBrokenResponses(t *testing.T) {
	for _, test := range []struct{ name, sent string }{
		{"with a length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"},
		{"in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc"},
		{"before the trailers", "HTTP/1.1 200 OK\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s h2=%v", test.name, h2), func(t *testing.T) {
				b := newBench(t, nil)
				port := b.rawUpstream(true, answering(test.sent))
				response, err := b.client(h2).Get(fmt.Sprintf("https://api.starpod.test:%d/", port))
				if err != nil {
					return // broken off before the head got through
				}
				defer response.Body.Close()
				if body, err := io.ReadAll(response.Body); err == nil {
					t.Errorf("got %q without an error, want a body that breaks off", body)
				}
			})
		}
	}
}

// TestUpgrade switches protocols; what follows the 101 at once arrives.
func TestUpgrade(t *testing.T) {
	b := newBench(t, nil)
	port := b.rawUpstream(true, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		head, _ := readHead(r)
		if !strings.Contains(head, "Upgrade: odd/1") || !strings.Contains(head, "Connection: Upgrade") {
			io.WriteString(conn, "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n")
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: odd/1\r\n\r\nearly;")
		io.Copy(conn, r)
	})
	authority := fmt.Sprintf("api.starpod.test:%d", port)
	conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: odd/1\r\n\r\n", authority)
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	if err != nil || response.StatusCode != 101 || response.Header.Get("Upgrade") != "odd/1" {
		t.Fatalf("got %v (%v), want status 101", response, err)
	}
	io.WriteString(conn, "more")
	got := make([]byte, len("early;more"))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "early;more" {
		t.Errorf("got %q (%v)", got, err)
	}
}

// TestUpgradeRefused: an upstream that answers as if nothing had been asked.
func TestUpgradeRefused(t *testing.T) {
	b := newBench(t, nil)
	response := b.send("POST / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: odd/1\r\nContent-Length: 3\r\n\r\nabc")
	if got := b.up.Last(t); response.StatusCode != 200 || string(got.Body) != "abc" || got.Header.Get("Upgrade") != "odd/1" {
		t.Errorf("got status %d and %+v, want 200, the body and the upgrade", response.StatusCode, got)
	}
}

// TestEventsArriveOneByOne: each event is seen before the next is sent.
func TestEventsArriveOneByOne(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			b := newBench(t, nil)
			values := make(chan string)
			b.up.HandleStream("/events", testbench.Events(values))
			response, err := b.client(h2).Get(b.up.URL("api.starpod.test") + "/events")
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			lines := bufio.NewScanner(response.Body)
			for _, value := range []string{"one", "two", "three"} {
				values <- value
				if !lines.Scan() || lines.Text() != "data: "+value {
					t.Fatalf("got %q (%v), want event %q", lines.Text(), lines.Err(), value)
				}
				lines.Scan()
			}
			close(values)
			if lines.Scan() || lines.Err() != nil {
				t.Errorf("got %q (%v), want the end", lines.Text(), lines.Err())
			}
		})
	}
}
