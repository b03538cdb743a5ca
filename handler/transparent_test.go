package handler

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// scriptedConn reads what a client sent, in pieces, and keeps what it is told.
type scriptedConn struct {
	net.Conn
	from io.Reader
	to   bytes.Buffer
}

func (c *scriptedConn) Read(p []byte) (int, error)      { return c.from.Read(p) }
func (c *scriptedConn) Write(p []byte) (int, error)     { return c.to.Write(p) }
func (c *scriptedConn) SetReadDeadline(time.Time) error { return nil }

func sniffed(from io.Reader, name string) *transparentConn {
	o := &origin{Addr: streamAddr("here"), dialled: netip.MustParseAddrPort("198.18.0.9:8443"), name: name}
	return &transparentConn{Conn: &scriptedConn{from: from}, origin: o}
}

// clientHello is what Go's client sends first: with a post-quantum key share.
func clientHello(t testing.TB, name string, protocols ...string) []byte {
	t.Helper()
	conn := &scriptedConn{from: strings.NewReader("")}
	_ = tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: protocols}).Handshake()
	if conn.to.Len() == 0 {
		t.Fatal("got no ClientHello")
	}
	return conn.to.Bytes()
}

// inRecords cuts the handshake message of one record into records of n bytes.
func inRecords(hello []byte, n int) []byte {
	var out []byte
	for rest := hello[5:]; len(rest) > 0; {
		part := rest[:min(n, len(rest))]
		rest = rest[len(part):]
		out = append(append(out, 0x16, 3, 1, byte(len(part)>>8), byte(len(part))), part...)
	}
	return out
}

func longProtocols(bytes int) []string {
	var all []string
	for range bytes / 256 {
		all = append(all, strings.Repeat("p", 255))
	}
	return all
}

// TestTransparentConnections become a CONNECT and every byte of the client, in
// whatever pieces they came.
func TestTransparentConnections(t *testing.T) {
	connect := func(target string) string { return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n" }
	hello := string(clientHello(t, "api.test"))
	for _, test := range []struct {
		name, sent, service string
		content             content
		head                string // in front of what was sent
	}{
		{"TLS with a name", hello, "other.test", contentTLS, connect("api.test:8443")},
		{"TLS with a name in capitals", string(clientHello(t, "API.test")), "", contentTLS, connect("api.test:8443")},
		{"TLS without, at an address of the name service", string(clientHello(t, "")), "named.test", contentTLS, connect("named.test:8443")},
		{"TLS without any name", string(clientHello(t, "")), "", contentTLS, connect("198.18.0.9:8443")},
		{"a hello in many records", string(inRecords([]byte(hello), 100)), "", contentTLS, connect("api.test:8443")},
		{"a hello of 60 kB", string(clientHello(t, "api.test", longProtocols(59<<10)...)), "", contentTLS, connect("api.test:8443")},
		{"what only begins like TLS", "\x16\x03\x01\x00\x05hello, and more", "named.test", contentOther, connect("named.test:8443")},
		{"HTTP", "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n", "api.test", contentHTTP, ""},
		{"HTTP in absolute form", "POST http://api.test/ HTTP/1.1\r\n\r\n", "", contentHTTP, ""},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\n\r\n", "", contentHTTP, ""},
		{"a CONNECT of the client's", connect("evil.test:443"), "", contentHTTP, ""},
		{"HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", contentOther, connect("198.18.0.9:8443")},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", "git.test", contentOther, connect("git.test:8443")},
		{"capitals without end", strings.Repeat("A", 5000), "", contentOther, connect("198.18.0.9:8443")},
	} {
		for how, pieces := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "halves": iotest.HalfReader,
		} {
			t.Run(test.name+", "+how, func(t *testing.T) {
				conn := sniffed(pieces(strings.NewReader(test.sent)), test.service)
				got, err := io.ReadAll(conn)
				if err != nil {
					t.Fatal(err)
				}
				if conn.origin.content != test.content {
					t.Errorf("got content %d, want %d", conn.origin.content, test.content)
				}
				if head, found := strings.CutSuffix(string(got), test.sent); !found || head != test.head {
					t.Errorf("got %q in front of what was sent (%v), want %q", head, found, test.head)
				}
			})
		}
	}
}

// TestTransparentAnswer keeps the answer to the CONNECT from the client: what
// follows a 200 is for it, anything else is an alert to a client of TLS.
func TestTransparentAnswer(t *testing.T) {
	const alert = "\x15\x03\x03\x00\x02\x02\x31"
	hello := string(clientHello(t, "api.test"))
	for _, test := range []struct{ name, sent, answer, want string }{
		{"accepted", hello, "HTTP/1.1 200 Connection Established\r\n\r\nthen TLS", "then TLS"},
		{"refused", hello, "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nsecret", alert},
		{"refused without TLS", "SSH-2.0-x\r\n", "HTTP/1.1 400 Bad Request\r\n\r\nwhy", ""},
		{"an answer to HTTP", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 403 Forbidden\r\n\r\nwhy", "HTTP/1.1 403 Forbidden\r\n\r\nwhy"},
		{"an answer without end", hello, "HTTP/1.1 200 " + strings.Repeat("x", 2*maxAnswer), alert},
	} {
		for _, size := range []int{1, 7, 1 << 20} {
			conn := sniffed(strings.NewReader(test.sent), "")
			if _, err := conn.Read(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			for rest := test.answer; rest != ""; {
				n := min(size, len(rest))
				if _, err := conn.Write([]byte(rest[:n])); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if got := conn.Conn.(*scriptedConn).to.String(); got != test.want {
				t.Errorf("%s, in pieces of %d: the client got %q, want %q", test.name, size, got, test.want)
			}
			if test.want == alert {
				if n, err := conn.Read(make([]byte, 10)); n != 0 || err != io.EOF {
					t.Errorf("%s: after the refusal got %d bytes (%v), want none", test.name, n, err)
				}
			}
		}
	}
}

// TestTransparentHelloIsBounded stops reading a ClientHello that never ends.
func TestTransparentHelloIsBounded(t *testing.T) {
	endless := io.MultiReader(strings.NewReader("\x16\x03\x01\x40\x00\x01\x00\xff\xf0"), zeros{})
	conn := sniffed(endless, "")
	if _, err := conn.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if held := len(conn.head); held > maxHello+16<<10 || conn.origin.content != contentOther {
		t.Errorf("got %d bytes held and content %d, want at most %d and something that is refused", held, conn.origin.content, maxHello+16<<10)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// FuzzTransparentConn gives the server what the client sent and nothing else,
// behind a CONNECT if it is not HTTP.
func FuzzTransparentConn(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint8(1))
	f.Add([]byte("SSH-2.0-x\r\n"), uint8(3))
	f.Add([]byte("\x16\x03\x01\x00\x05hello"), uint8(2))
	f.Add(clientHello(f, "api.test"), uint8(50))
	f.Fuzz(func(t *testing.T, sent []byte, size uint8) {
		conn := sniffed(&pieceReader{bytes.NewReader(sent), int(size) + 1}, "named.test")
		got, err := io.ReadAll(conn)
		if err != nil || conn.origin.content == contentUnknown {
			return // a client that left before anything was known
		}
		head, found := bytes.CutSuffix(got, sent)
		isHTTP := conn.origin.content == contentHTTP
		if !found || isHTTP != (len(head) == 0) {
			t.Fatalf("got %q for %q", got, sent)
		}
		if !isHTTP && (!bytes.HasPrefix(head, []byte("CONNECT ")) || bytes.Count(head, []byte("\r\n")) != 3) {
			t.Fatalf("got the head %q", head)
		}
	})
}

type pieceReader struct {
	io.Reader
	size int
}

func (r *pieceReader) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), r.size)]) }
