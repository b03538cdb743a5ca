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

// TestRequestBytes sends requests byte for byte through a tunnel and compares
// them with what the upstream received. want is empty where that is the same.
func TestRequestBytes(t *testing.T) {
	b := newBench(t, nil)
	simple := func(line string) string { return line + " HTTP/1.1\r\nHost: {host}\r\n\r\n" }
	get := func(fields string) string { return "GET / HTTP/1.1\r\nHost: {host}\r\n" + fields + "\r\n" }
	for _, test := range []struct{ name, sent, want string }{
		{"GET", simple("GET /"), ""},
		{"PUT with a body", "PUT /a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello", ""},
		{"PATCH with a body", "PATCH /a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n{}", ""},
		{"POST of nothing", "POST /a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n", ""},
		{"DELETE", simple("DELETE /a"), ""},
		{"DELETE of nothing", "DELETE /a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n", ""},
		{"custom method with nothing", "FROB /a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n", ""},
		{"DELETE with a body", "DELETE /a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n[]", ""},
		{"GET with a body", "GET /a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n[]", ""},
		{"OPTIONS of a path", simple("OPTIONS /a"), ""},
		{"PROPFIND", simple("PROPFIND /a"), ""},
		{"custom method in lower case", simple("frob-nicate /a"), ""},
		{"TRACE", simple("TRACE /a"), ""},

		{"escaped slash", simple("GET /a%2Fb"), ""},
		{"path parameters", simple("GET /a;b=c;d"), ""},
		{"slashes in front", simple("GET //double//slash"), ""},
		{"dot segments", simple("GET /a/../b/./c"), ""},
		{"empty query", simple("GET /?"), ""},
		{"semicolons in the query", simple("GET /?a;b"), ""},
		{"duplicate and malformed parameters", simple("GET /x?a=1&a=2&b=%zz&&=&a"), ""},
		{"raw bytes in the path", simple("GET /\xc3\xbc\xff"), ""},
		{"raw bytes in the query", simple("GET /?\xc3\xbc"), ""},
		{"quote, bar and caret", simple(`GET /a"b|c^d`), ""},
		{"escaped tilde", simple("GET /%7euser"), ""},
		{"lower-case escapes", simple("GET /%c3%bc/%2f?%2f"), ""},
		{"question marks in the query", simple("GET /?a?b?"), ""},
		{"a URL in the path", simple("GET /http://other/x"), ""},
		{"8 kB query", simple("GET /?q=" + strings.Repeat("x", 8<<10)), ""},
		{"absolute form", "GET https://{host}/x?y HTTP/1.1\r\nHost: evil.starpod.test\r\n\r\n", simple("GET /x?y")},
		{"absolute form without path", "GET https://{host}?y HTTP/1.1\r\nHost: {host}\r\n\r\n", simple("GET /?y")},
		{"absolute form, two slashes", "GET https://{host}//x HTTP/1.1\r\nHost: {host}\r\n\r\n", simple("GET //x")},
		{"host in capitals", "GET / HTTP/1.1\r\nHost: " + strings.ToUpper(b.apiAuthority()) + "\r\n\r\n", ""},

		{"duplicate fields", get("X-A: 1\r\nX-A: 2\r\nX-A: 1\r\nx-a: 3\r\n"), ""},
		{"underscores, dots and digits in names", get("access_token: 1\r\nX.Dotted: 2\r\n3-x: 4\r\n!#$%&'*+-^`|~: 5\r\n"), ""},
		{"forwarding fields of the client", get("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5\r\nForwarded: for=x\r\nVia: 1.1 me\r\nX-Forwarded-Host: h\r\nX-Forwarded-Proto: p\r\nX-Real-IP: 1\r\n"), ""},
		{"empty value", get("X-Empty:\r\nUser-Agent:\r\n"), get("X-Empty:\r\n")},
		{"own user agent", get("User-Agent: mine/1\r\n"), ""},
		{"own codings", get("Accept-Encoding: br;q=0.5, zstd\r\n"), ""},
		{"trailers accepted", get("Te: trailers\r\n"), ""},
		{"cookies", get("Cookie: a=1; b=2\r\nCookie: c=3\r\n"), ""},
		{"15 kB of cookies", get("Cookie: " + strings.Repeat("a=1; ", 3000) + "\r\n"), ""},
		{"bytes over 127 in a value", get("X-Latin: \xe4\xc3\xa4\r\n"), ""},
		{"range and conditions", get("Range: bytes=1-2\r\nIf-None-Match: \"x\"\r\n"), ""},

		{"fields of one hop", get("Connection: keep-alive, X-Hop, X-Forwarded-For, a_b\r\nX-Hop: 1\r\nX-Forwarded-For: 2\r\na_b: 3\r\nKeep-Alive: 5\r\nX-Stay: 4\r\n"), get("X-Stay: 4\r\n")},
		{"fields of the proxy", get("Proxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\nX-Stay: 4\r\n"), get("X-Stay: 4\r\n")},
		{"other transfer codings accepted", get("TE: gzip\r\n"), get("")},

		{"chunked", "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", ""},
		{"chunked, tiny", "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", ""},
		{"chunked, empty", "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
		{"chunked GET", "GET / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
		{"trailers", "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTrailer: X-B, X-A\r\n\r\n1\r\nx\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTrailer: X-A,X-B\r\n\r\n1\r\nx\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"},
		{"old version", "GET /a HTTP/1.0\r\nHost: {host}\r\n\r\n", simple("GET /a")},
		{"length and chunks", "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			b.up.Forget()
			if test.want == "" {
				test.want = test.sent
			}
			if response := b.send(test.sent); response.StatusCode != 200 {
				t.Fatalf("got status %d, want 200", response.StatusCode)
			}
			got := plainMessage(string(b.up.Last(t).Raw))
			if want := plainMessage(strings.ReplaceAll(test.want, "{host}", b.apiAuthority())); got != want {
				t.Errorf("upstream got %q\nwant         %q", got, want)
			}
			if proto := b.up.Last(t).Proto; proto != "HTTP/1.1" {
				t.Errorf("upstream was spoken to in %s, want HTTP/1.1 as the client does", proto)
			}
		})
	}
}

// TestOptionsOfTheServer goes to the upstream: net/http's server would answer
// it by itself.
func TestOptionsOfTheServer(t *testing.T) {
	for _, way := range []struct{ name, sent string }{
		{"in a tunnel", "OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n"},
		{"in absolute form", "OPTIONS http://{host} HTTP/1.1\r\nHost: {host}\r\n\r\n"}, // RFC 9112, section 3.2.4
	} {
		t.Run(way.name, func(t *testing.T) {
			b := newBench(t, nil)
			heads := make(chan string, 1)
			secure := way.name == "in a tunnel"
			authority := fmt.Sprintf("api.starpod.test:%d", b.rawUpstream(secure, func(conn net.Conn) {
				head, _ := readHead(bufio.NewReader(conn))
				heads <- head
				io.WriteString(conn, "HTTP/1.1 204 None\r\nAllow: GET\r\n\r\n")
			}))
			conn := b.dialFront()
			if secure {
				conn = b.tunnel(authority, "api.starpod.test", "http/1.1")
			}
			response := b.sendOver(conn, strings.ReplaceAll(way.sent, "{host}", authority))
			if response.Header.Get("Allow") != "GET" {
				t.Fatalf("got status %d %v, want the upstream's answer", response.StatusCode, response.Header)
			}
			if got, want := <-heads, "OPTIONS * HTTP/1.1\r\nHost: "+authority+"\r\n\r\n"; got != want {
				t.Errorf("upstream got %q, want %q", got, want)
			}
		})
	}
}

func TestPipelinedRequests(t *testing.T) {
	b := newBench(t, nil)
	b.up.Handle("/", testbench.Echo)
	conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
	var all strings.Builder
	for i := range 5 {
		body := strings.Repeat("x", i) + b.token("api.starpod.test")
		fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", i, b.apiAuthority(), len(body), body)
	}
	if _, err := io.WriteString(conn, all.String()); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for i := range 5 {
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(response.Body)
		want := strings.Repeat("x", i) + canary
		if err != nil || len(got) != len(want) || !strings.HasPrefix(string(got), strings.Repeat("x", i)) {
			t.Errorf("answer %d: got %q (%v), want one for %q", i, got, err, want)
		}
		if sent := b.up.Requests()[i]; string(sent.Body) != want || sent.Target != fmt.Sprintf("/%d", i) {
			t.Errorf("request %d: upstream got %s %q, want %q", i, sent.Target, sent.Body, want)
		}
	}
}

// TestRequestTrailers has tokens in the trailers, announced, over HTTP/1 and 2.
func TestRequestTrailers(t *testing.T) {
	b := newBench(t, nil)
	token := b.token("api.starpod.test")
	t.Run("h1", func(t *testing.T) {
		b.send("POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\nx\r\n0\r\nX-Sum: a" + token + "b\r\n\r\n")
		if got := b.up.Last(t).Trailer.Get("X-Sum"); got != "a"+canary+"b" {
			t.Errorf("got trailer %q, want the value", got)
		}
	})
	for length, name := range map[int64]string{-1: "h2", 1: "h2 with a length"} {
		t.Run(name, func(t *testing.T) {
			r := b.request("POST", b.up.URL("api.starpod.test")+"/", "x")
			r.ContentLength = length
			r.Trailer = http.Header{"X-Sum": {"a" + token + "b"}}
			b.do(b.client(true), r)
			if got := b.up.Last(t); got.Trailer.Get("X-Sum") != "a"+canary+"b" || got.Proto != "HTTP/2.0" {
				t.Errorf("got trailer %q by %s, want the value by HTTP/2.0", got.Trailer, got.Proto)
			}
		})
	}
}

// TestExpectContinue: the client may send its body once the proxy, or the
// upstream, has asked for it.
func TestExpectContinue(t *testing.T) {
	for _, framing := range []struct{ name, field, body string }{
		{"with a length", "Content-Length: 3", "abc"},
		{"chunked", "Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n"},
	} {
		t.Run("accepted "+framing.name, func(t *testing.T) {
			b := newBench(t, nil)
			conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\n%s\r\n\r\n", b.apiAuthority(), framing.field)
			r := bufio.NewReader(conn)
			response, err := http.ReadResponse(r, nil)
			if err != nil || response.StatusCode != 100 {
				t.Fatalf("got %v (%v), want status 100", response, err)
			}
			io.WriteString(conn, framing.body)
			for response.StatusCode == 100 {
				if response, err = http.ReadResponse(r, nil); err != nil {
					t.Fatal(err)
				}
			}
			got := b.up.Last(t)
			if response.StatusCode != 200 || string(got.Body) != "abc" || got.Header.Get("Expect") != "100-continue" {
				t.Errorf("got status %d and %q %v, want 200 with the expectation", response.StatusCode, got.Body, got.Header)
			}
		})
	}
	t.Run("refused before the body", func(t *testing.T) {
		b := newBench(t, nil)
		rest := make(chan string, 1)
		port := b.rawUpstream(true, func(conn net.Conn) {
			r := bufio.NewReader(conn)
			readHead(r)
			io.WriteString(conn, "HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			after, _ := io.ReadAll(r)
			rest <- string(after)
		})
		authority := fmt.Sprintf("api.starpod.test:%d", port)
		conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n", authority)
		if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != 417 {
			t.Fatalf("got %v (%v), want status 417 at once", response, err)
		}
		conn.Close()
		if got := <-rest; got != "" {
			t.Errorf("behind the head the upstream got %q, want nothing", got)
		}
	})
}
