package handler

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// What reaches the upstream of a request that the proxy let pass. Everything is
// parsed once and written anew, so nothing that two parsers could read in two
// ways leaves.
const (
	bare    = "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"
	sized   = "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello"
	empty   = "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"
	chunked = "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
	smuggle = "GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"

	nothing   = ""
	cutShort  = "a message without its end" // whatever came of it, the upstream cannot take it for whole
	helloBody = "5\r\nhello\r\n0\r\n\r\n"
)

// smuggling is one row: what the client sends, the statuses of all answers until
// the connection ends, and the messages that reached the upstream.
type smuggling struct{ name, sent, answers, reached string }

func post(fields, body string) string {
	return "POST {target} HTTP/1.1\r\nHost: {host}\r\n" + fields + "\r\n" + body
}

func get(fields string) string { return "GET {target} HTTP/1.1\r\nHost: {host}\r\n" + fields + "\r\n" }

// framings have a length, chunks, or both, in every way that has fooled a parser.
var framings = []smuggling{
	{"length and chunks", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", helloBody), "200", chunked},
	{"chunks and length", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", helloBody), "200", chunked},
	{"length of 0 and chunks (CL.TE)", post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", helloBody), "200", chunked},
	{"length longer than the chunks (TE.CL)", post("Content-Length: 500\r\nTransfer-Encoding: chunked\r\n", helloBody), "200", chunked},
	{"coding in capitals", post("TRANSFER-ENCODING: CHUNKED\r\n", helloBody), "200", chunked},
	{"coding in a folded field (CVE-2022-32215, Node)", post("Transfer-Encoding:\r\n chunked\r\n", helloBody), "200", chunked},
	{"coding behind a tab", post("Transfer-Encoding:\tchunked\r\n", helloBody), "200", chunked},
	{"coding behind spaces", post("Transfer-Encoding:   chunked  \r\n", helloBody), "200", chunked},
	{"coding behind a vertical tab (CVE-2019-18277, HAProxy)", post("Transfer-Encoding: \x0bchunked\r\n", helloBody), "400", nothing},
	{"coding before a vertical tab", post("Transfer-Encoding: chunked\x0b\r\n", helloBody), "400", nothing},
	{"coding with a NUL", post("Transfer-Encoding: chunked\x00\r\n", helloBody), "400", nothing},
	{"chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", helloBody), "501", nothing},
	{"identity, chunked", post("Transfer-Encoding: identity, chunked\r\n", helloBody), "501", nothing},
	{"identity and a length", post("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", "hello"), "501", nothing},
	{"another coding and chunked", post("Transfer-Encoding: gzip, chunked\r\n", helloBody), "501", nothing},
	{"chunked twice in a list", post("Transfer-Encoding: chunked, chunked\r\n", helloBody), "501", nothing},
	{"two fields, the same (CVE-2020-8287, Node)", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", helloBody), "501", nothing},
	{"two fields, the second another", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n", helloBody), "501", nothing},
	{"two fields, the first another", post("Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n", helloBody), "501", nothing},
	{"xchunked", post("Transfer-Encoding: xchunked\r\n", helloBody), "501", nothing},
	{"chunkedx and a length", post("Transfer-Encoding: chunkedx\r\nContent-Length: 5\r\n", "hello"), "501", nothing},
	{"coding in quotes", post("Transfer-Encoding: \"chunked\"\r\n", helloBody), "501", nothing},
	{"coding with a parameter", post("Transfer-Encoding: chunked;q=1\r\n", helloBody), "501", nothing},
	{"empty coding (CVE-2022-1705, Go)", post("Transfer-Encoding:\r\nContent-Length: 5\r\n", "hello"), "501", nothing},
	{"space before the colon of the coding (CVE-2019-16276, Go; CVE-2021-39214, mitmproxy)", post("Transfer-Encoding : chunked\r\n", helloBody), "400", nothing},
	{"tab before the colon of the coding", post("Transfer-Encoding\t: chunked\r\n", helloBody), "400", nothing},
	{"coding of HTTP/1.0", "POST {target} HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n" + helloBody, "200", empty},
	{"coding and length of HTTP/1.0", "POST {target} HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello", "200", sized},
	{"coding with an underscore", post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "hello"), "200", "*" + sized},

	{"two lengths, the same", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), "200", sized},
	{"two lengths, different (CVE-2015-5740, Go)", post("Content-Length: 5\r\nContent-Length: 0\r\n", "hello"), "400", nothing},
	{"lengths in a list", post("Content-Length: 5, 5\r\n", "hello"), "400", nothing},
	{"different lengths in a list", post("Content-Length: 5, 0\r\n", "hello"), "400", nothing},
	{"length with a plus", post("Content-Length: +5\r\n", "hello"), "400", nothing},
	{"length of minus zero", post("Content-Length: -0\r\n", ""), "400", nothing},
	{"negative length", post("Content-Length: -5\r\n", "hello"), "400", nothing},
	{"length in hex", post("Content-Length: 0x5\r\n", "hello"), "400", nothing},
	{"length with an underscore in it", post("Content-Length: 0_5\r\n", "hello"), "400", nothing},
	{"length with a fraction", post("Content-Length: 5.0\r\n", "hello"), "400", nothing},
	{"length with a space in it (CVE-2018-7159, Node)", post("Content-Length: 5 5\r\n", "hello"), "400", nothing},
	{"empty length (CVE-2023-40225, HAProxy)", post("Content-Length:\r\n", ""), "400", nothing},
	{"length with leading zeros", post("Content-Length: 0005\r\n", "hello"), "200", sized},
	{"length over 63 bits", post("Content-Length: 9223372036854775808\r\n", "hello"), "400", nothing},
	{"length that wraps around 64 bits", post("Content-Length: 18446744073709551621\r\n", "hello"), "400", nothing},
	{"length of another script", post("Content-Length: \xd9\xa5\r\n", "hello"), "400", nothing},
	{"less than the length", post("Content-Length: 50\r\n", "hello"), "499", nothing},
	{"more than the length", post("Content-Length: 5\r\n", "hello!!\r\n\r\n"), "200 400", sized},

	{"chunk size with 0x", post("Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n"), "400", cutShort},
	{"negative chunk size", post("Transfer-Encoding: chunked\r\n", "-5\r\nhello\r\n0\r\n\r\n"), "400", cutShort},
	{"chunk size with a plus", post("Transfer-Encoding: chunked\r\n", "+5\r\nhello\r\n0\r\n\r\n"), "400", cutShort},
	{"chunk size over 64 bits", post("Transfer-Encoding: chunked\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n"), "400", cutShort},
	{"chunk size with junk behind (CVE-2023-46846, Squid)", post("Transfer-Encoding: chunked\r\n", "5 5\r\nhello\r\n0\r\n\r\n"), "400", cutShort},
	{"empty chunk size", post("Transfer-Encoding: chunked\r\n", "\r\nhello\r\n0\r\n\r\n"), "400", cutShort},
	{"chunk longer than its size", post("Transfer-Encoding: chunked\r\n", "4\r\nhello\r\n0\r\n\r\n"), "400", cutShort},
	{"no line break behind the data", post("Transfer-Encoding: chunked\r\n", "5\r\nhello0\r\n\r\n"), "400", cutShort},
	{"LF alone behind the data", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\n0\r\n\r\n"), "400", cutShort},
	{"LF alone behind the size (CVE-2025-22871, Go)", post("Transfer-Encoding: chunked\r\n", "5\nhello\r\n0\r\n\r\n"), "400", cutShort},
	{"LF in a chunk extension", post("Transfer-Encoding: chunked\r\n", "5;x\nhello\r\n0\r\n\r\n"), "400", cutShort},
	{"CR in a chunk extension", post("Transfer-Encoding: chunked\r\n", "5;x\ry\r\nhello\r\n0\r\n\r\n"), "400", cutShort},
	{"a request in a chunk extension (CVE-2021-22960, Node)", post("Transfer-Encoding: chunked\r\n", "5;x=\"GET /smuggled HTTP/1.1\"\r\nhello\r\n0\r\n\r\n"), "200", chunked},
	{"long chunk extension (CVE-2023-39326, Go)", post("Transfer-Encoding: chunked\r\n", "5;"+strings.Repeat("x", 8<<10)+"\r\nhello\r\n0\r\n\r\n"), "400", cutShort},
	{"no last chunk", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"), "499", cutShort},
	{"no end of the trailers", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX-A: b\r\n"), "499", cutShort},
	{"framing in the trailers", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\nHost: evil.starpod.test\r\n\r\n"), "200", chunked},
	{"announced framing in the trailers", post("Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n", "5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n"), "400", nothing},
	{"a request for a trailer", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n"), "400", cutShort},
}

// headers are malformed, or name the destination twice.
var headers = []smuggling{
	{"CR alone in a value", get("X-A: a\rTransfer-Encoding: chunked\r\n"), "400", nothing},
	{"CR alone for line ends (CVE-2023-30589, Node)", "GET {target} HTTP/1.1\rHost: {host}\r\r", "400", nothing},
	{"LF alone for line ends", "GET {target} HTTP/1.1\nHost: {host}\n\n", "200", bare},
	{"NUL in a value", get("X-A: a\x00b\r\n"), "400", nothing},
	{"NUL in a name", get("X\x00A: b\r\n"), "400", nothing},
	{"space before a colon", get("X-A : b\r\n"), "400", nothing},
	{"space in a name", get("X A: b\r\n"), "400", nothing},
	{"empty name", get(": b\r\n"), "400", nothing},
	{"no colon", get("X-A\r\n"), "400", nothing},
	{"bracket in a name", get("X[A]: b\r\n"), "400", nothing},
	{"slash in a name", get("X/A: b\r\n"), "400", nothing},
	{"letter of Latin-1 in a name", get("X-\xe4: b\r\n"), "400", nothing},
	{"first field indented", "GET {target} HTTP/1.1\r\n Host: {host}\r\n\r\n", "400", nothing},
	{"folded value", get("X-A: b\r\n\tc\r\n"), "200", "GET / HTTP/1.1\r\nHost: {host}\r\nX-A: b c\r\n\r\n"},
	{"a request folded into a value", get("X-A: b\r\n GET /smuggled HTTP/1.1\r\n"), "200", "GET / HTTP/1.1\r\nHost: {host}\r\nX-A: b GET /smuggled HTTP/1.1\r\n\r\n"},

	{"two Hosts", get("Host: evil.starpod.test\r\n"), "400", nothing},
	{"two Hosts, the same", get("Host: {host}\r\n"), "400", nothing},
	{"a list for Host", "GET {target} HTTP/1.1\r\nHost: {host}, evil.starpod.test\r\n\r\n", "400", nothing},
	{"Host with a path", "GET {target} HTTP/1.1\r\nHost: {host}/x\r\n\r\n", "400", nothing},
	{"Host with a space", "GET {target} HTTP/1.1\r\nHost: {host} evil\r\n\r\n", "400", nothing},
	{"no Host", "GET {target} HTTP/1.1\r\n\r\n", "400", nothing},
}

// lines are odd request lines.
var lines = []smuggling{
	{"two spaces behind the method", "GET  {target} HTTP/1.1\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"two spaces behind the target", "GET {target}  HTTP/1.1\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"tabs in place of spaces", "GET\t{target}\tHTTP/1.1\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"space in front", " GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"space behind", "GET {target} HTTP/1.1 \r\nHost: {host}\r\n\r\n", "400", nothing},
	{"space in the target", "GET {target} /x HTTP/1.1\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"control character in the target", "GET {target}\x01 HTTP/1.1\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"fragment in the target (CVE-2023-45539, HAProxy)", "GET {target}#x HTTP/1.1\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"version 1.2", "GET {target} HTTP/1.2\r\nHost: {host}\r\n\r\n", "200", bare},
	{"version 0.9", "GET {target} HTTP/0.9\r\nHost: {host}\r\n\r\n", "505", nothing},
	{"version 2.0", "GET {target} HTTP/2.0\r\nHost: {host}\r\n\r\n", "505", nothing},
	{"version of three digits", "GET {target} HTTP/1.10\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"version in small letters", "GET {target} http/1.1\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"no version", "GET {target}\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"method in small letters", "get {target} HTTP/1.1\r\nHost: {host}\r\n\r\n", "200", "get / HTTP/1.1\r\nHost: {host}\r\n\r\n"},
	{"method that is no token", "GE(T {target} HTTP/1.1\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"target of a query alone", "GET ? HTTP/1.1\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"no method", " {target} HTTP/1.1\r\nHost: {host}\r\n\r\n", "400", nothing},
	{"2 MiB of target", "GET {target}" + strings.Repeat("x", 2<<20) + " HTTP/1.1\r\nHost: {host}\r\n\r\n", "431", nothing},
	{"empty lines in front", "\r\n\r\nGET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n", "400", nothing},
}

// sequences have something behind the first request.
var sequences = []smuggling{
	{"a request behind a malformed one", get("X A: b\r\n") + smuggle, "400", nothing},
	{"a request behind an unknown coding", post("Transfer-Encoding: xchunked\r\n", helloBody) + smuggle, "501", nothing},
	{"a request behind a bad chunk", post("Transfer-Encoding: chunked\r\n", "z\r\n") + smuggle, "400", cutShort},
	{"a request for a body", post("Content-Length: 5\r\n", "GET /"), "200", strings.Replace(sized, "hello", "GET /", 1)},
	{"a request behind Connection: close", get("Connection: close\r\n") + smuggle, "200", bare},
	{"a request behind an unknown expectation", post("Expect: 200-ok\r\nContent-Length: 5\r\n", "hello") + smuggle, "417", nothing},
	{"an expectation without a body", get("Expect: 100-continue\r\n"), "200", "GET / HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\n\r\n"},
	{"an upgrade to h2c (CVE-2022-41721, Go)", get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"), "200", bare},
	{"an upgrade to h2c in a list", get("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"), "200", bare},
	{"an upgrade that nobody takes, and a body", post("Connection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 5\r\n", "hello"), "200",
		"POST / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 5\r\n\r\nhello"},
	{"Connection names the length", post("Connection: Content-Length\r\nContent-Length: 5\r\n", "hello"), "200", sized},
	{"Connection names the coding", post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", helloBody), "200", chunked},
	{"Connection names Host", get("Connection: Host\r\n"), "200", bare},
}

// TestSmuggling sends requests that peers of this proxy have read otherwise than
// their upstreams did, byte for byte, in a tunnel and plainly. CVE
// numbers tell who did.
func TestSmuggling(t *testing.T) {
	b := newBench(t, nil)
	b.proxy.Init()
	pki := testbench.NewPKI(t)
	b.proxy.Egress.Roots.AppendCertsFromPEM(pki.RootPEM)
	leaf := pki.Leaf(t)
	for _, table := range [][]smuggling{framings, headers, lines, sequences} {
		for _, row := range table {
			t.Run("tunnel/"+row.name, func(t *testing.T) {
				b.t, b.up = t, testbench.NewUpstreamWith(t, leaf, "http/1.1")
				b.smuggle(row, b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1"), b.apiAuthority(), "/")
			})
			t.Run("plain/"+row.name, func(t *testing.T) {
				b.t, b.up = t, testbench.NewUpstreamWith(t, leaf, "http/1.1")
				host := fmt.Sprintf("api.starpod.test:%d", b.up.PlainPort())
				b.smuggle(row, b.dialFront(), host, "http://"+host+"/")
			})
		}
	}
}

// smuggle sends a row over a connection to the proxy and compares.
func (b *bench) smuggle(row smuggling, conn net.Conn, host, target string) {
	b.t.Helper()
	fill := strings.NewReplacer("{host}", host, "{target}", target)
	go func() {
		_, _ = io.WriteString(conn, fill.Replace(row.sent))
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	raw, _ := io.ReadAll(conn) // ends with the connection, by a reset where more was sent than read
	if got := statuses(raw); got != row.answers {
		b.t.Errorf("got the answers %q, want %q:\n%.500q", got, row.answers, raw)
	}
	var got strings.Builder
	var whole int
	for _, request := range b.up.Requests() {
		whole += len(request.Raw)
		got.WriteString(plainMessage(string(request.Raw)))
	}
	if row.reached == cutShort {
		b.noCompleteRequest()
		return
	}
	want := row.reached
	if want != nothing {
		want = plainMessage(fill.Replace(strings.TrimPrefix(want, "*")))
	}
	switch {
	case strings.HasPrefix(row.reached, "*"): // and fields that mean nothing
		if len(b.up.Requests()) != 1 || !strings.HasSuffix(got.String(), "\r\n\r\nhello") {
			b.t.Errorf("the upstream got %q, want one request with the body", got.String())
		}
	case got.String() != want:
		b.t.Errorf("the upstream got %q\nwant            %q", got.String(), want)
	case int64(whole) != b.up.Received():
		b.t.Errorf("the upstream got %d bytes, %d of them in requests: %.300q", b.up.Received(), whole, b.up.Dump())
	}
}

// statuses reads all answers of a connection.
func statuses(raw []byte) string {
	var all []string
	r := bufio.NewReader(bytes.NewReader(raw))
	for {
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			return strings.Join(all, " ")
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			all = append(all, "broken")
		}
		all = append(all, fmt.Sprint(response.StatusCode))
	}
}
