package handler

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// longest bounds what a test waits for; nothing but a failure reaches it.
const longest = 20 * time.Second

// rawUpstream is a server below HTTP: serve gets each connection, behind TLS if
// secure, and the connection is closed when it returns.
func (b *bench) rawUpstream(secure bool, serve func(conn net.Conn)) (port int) {
	b.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = listener.Close() })
	var config *tls.Config
	if secure {
		pki := testbench.NewPKI(b.t)
		b.proxy.Egress.Roots.AppendCertsFromPEM(pki.RootPEM)
		config = &tls.Config{Certificates: []tls.Certificate{pki.Leaf(b.t)}}
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(longest))
				if secure {
					conn = tls.Server(conn, config)
					defer conn.Close() // says goodbye first
				}
				serve(conn)
			}()
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port
}

// answering serves one request per connection with fixed bytes. It reads the
// head of the request only.
func answering(answer string) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := readHead(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, answer)
		}
	}
}

// readHead returns the bytes up to the empty line.
func readHead(r *bufio.Reader) (string, error) {
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" {
			return head.String(), err
		}
	}
}

// readRaw returns the bytes of the next response, the informational ones before
// it included. err is what broke it off, if anything did.
func readRaw(conn io.Reader, method string) (raw string, err error) {
	var all bytes.Buffer
	r := bufio.NewReader(io.TeeReader(conn, &all))
	for {
		response, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return all.String(), err
		}
		if response.StatusCode == http.StatusSwitchingProtocols || response.StatusCode >= 200 {
			_, err = io.Copy(io.Discard, response.Body)
			return all.String()[:all.Len()-r.Buffered()], err
		}
	}
}

// plainMessage makes one HTTP/1 message comparable: names in lower case and in
// order (fields of one name stay as they were), chunks joined, the reason
// phrase gone.
func plainMessage(raw string) string {
	head, body, _ := strings.Cut(raw, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	first, fields := lines[0], lines[1:]
	if words := strings.SplitN(first, " ", 3); strings.HasPrefix(first, "HTTP/") && len(words) == 3 {
		first = words[0] + " " + words[1]
	}
	fields = plainFields(fields)
	if slices.Contains(fields, "transfer-encoding: chunked") {
		var payload strings.Builder
		for {
			size, rest, ok := strings.Cut(body, "\r\n")
			var n int
			if _, err := fmt.Sscanf(size, "%x", &n); err != nil || !ok || n+2 > len(rest) && n > 0 {
				payload.WriteString("<broken>" + body)
				break
			}
			if n == 0 {
				trailers := plainFields(strings.Split(strings.TrimSuffix(rest, "\r\n"), "\r\n"))
				payload.WriteString("|" + strings.Join(trailers, "\r\n"))
				break
			}
			payload.WriteString(rest[:n])
			body = rest[n+2:]
		}
		body = payload.String()
	}
	return first + "\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n" + body
}

func plainFields(fields []string) []string {
	var plain []string
	for _, field := range fields {
		if name, value, ok := strings.Cut(field, ":"); ok {
			plain = append(plain, strings.ToLower(name)+": "+strings.TrimSpace(value))
		}
	}
	slices.SortStableFunc(plain, func(a, b string) int {
		nameA, _, _ := strings.Cut(a, ":")
		nameB, _, _ := strings.Cut(b, ":")
		return strings.Compare(nameA, nameB)
	})
	return plain
}

// send writes raw bytes into a new tunnel to the API and returns the answer.
// {host} stands for the API's authority.
func (b *bench) send(raw string) *http.Response {
	b.t.Helper()
	conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
	return b.sendOver(conn, raw)
}

func (b *bench) sendOver(conn net.Conn, raw string) *http.Response {
	b.t.Helper()
	raw = strings.ReplaceAll(raw, "{host}", b.apiAuthority())
	go func() { _, _ = io.WriteString(conn, raw) }() // an early answer must not block it
	method, _, _ := strings.Cut(raw, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		b.t.Fatalf("reading the answer to %.60q: %v", raw, err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatalf("reading the answer to %.60q: %v", raw, err)
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response
}

// dialFront opens a connection to the proxy.
func (b *bench) dialFront() net.Conn {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.front.Listener.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(longest))
	return conn
}

// nothingReached fails the test if anything of a request came to the upstream.
func (b *bench) nothingReached() {
	b.t.Helper()
	if got := b.up.Received(); got != 0 || len(b.up.Requests()) != 0 {
		b.t.Errorf("the upstream received %d bytes: %.300q", got, b.up.Dump())
	}
}

// noCompleteRequest fails the test if the upstream took anything for a whole
// request.
func (b *bench) noCompleteRequest() {
	b.t.Helper()
	for _, got := range b.up.Requests() {
		if got.BodyErr == nil {
			b.t.Errorf("the upstream got a complete request: %s %s %.100q", got.Method, got.Target, got.Body)
		}
	}
}

// h2Front serves the bench over TLS with HTTP/2 and returns a function that
// opens tunnels by CONNECT over one HTTP/2 connection.
func (b *bench) h2Front() func(authority string, header http.Header) (net.Conn, *http.Response) {
	b.t.Helper()
	front := httptest.NewUnstartedServer(b)
	front.EnableHTTP2 = true
	front.StartTLS()
	b.t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
	})
	transport := front.Client().Transport.(*http.Transport).Clone()
	b.t.Cleanup(transport.CloseIdleConnections)
	return func(authority string, header http.Header) (net.Conn, *http.Response) {
		b.t.Helper()
		reader, writer := io.Pipe()
		ctx, cancel := context.WithCancel(context.Background())
		r, err := http.NewRequestWithContext(ctx, http.MethodConnect, front.URL, reader)
		if err != nil {
			b.t.Fatal(err)
		}
		r.Host = authority
		r.ContentLength = -1
		if header != nil {
			r.Header = header
		}
		response, err := transport.RoundTrip(r)
		if err != nil {
			b.t.Fatalf("CONNECT %s over HTTP/2: %v", authority, err)
		}
		if response.ProtoMajor != 2 {
			b.t.Fatalf("CONNECT: got %s, want HTTP/2", response.Proto)
		}
		conn := &pipedConn{Reader: response.Body, PipeWriter: writer, cancel: cancel}
		b.t.Cleanup(func() { _ = conn.Close() })
		return conn, response
	}
}

// pipedConn is the client's end of a tunnel over HTTP/2. Close resets the stream.
type pipedConn struct {
	io.Reader
	*io.PipeWriter
	cancel context.CancelFunc
}

func (c *pipedConn) Close() error {
	c.cancel()
	return c.PipeWriter.CloseWithError(errors.New("closed"))
}
func (c *pipedConn) CloseWrite() error              { return c.PipeWriter.Close() }
func (*pipedConn) LocalAddr() net.Addr              { return streamAddr("client") }
func (*pipedConn) RemoteAddr() net.Addr             { return streamAddr("proxy") }
func (*pipedConn) SetDeadline(time.Time) error      { return nil }
func (*pipedConn) SetReadDeadline(time.Time) error  { return nil }
func (*pipedConn) SetWriteDeadline(time.Time) error { return nil }

// secure makes the TLS handshake with the API in a tunnel.
func (b *bench) secure(conn net.Conn, protocols ...string) *tls.Conn {
	b.t.Helper()
	secure := tls.Client(conn, &tls.Config{ServerName: "api.starpod.test", RootCAs: b.roots, NextProtos: protocols})
	if err := secure.Handshake(); err != nil {
		b.t.Fatalf("handshake in the tunnel: %v", err)
	}
	return secure
}

// inTunnel is a client whose one connection is conn, speaking HTTP/2 if h2.
func inTunnel(t testing.TB, conn net.Conn, h2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	transport := &http.Transport{
		DialTLSContext:     func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		Protocols:          protocols,
		DisableCompression: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: longest}
}

// insecureTunnel opens an intercepted tunnel and makes a handshake in it that
// trusts any certificate; without a server name none is sent.
func (b *bench) insecureTunnel(authority, serverName string) *tls.Conn {
	b.t.Helper()
	conn, response := b.connect(authority)
	if response.StatusCode != http.StatusOK {
		b.t.Fatalf("CONNECT %s: got status %d, want 200", authority, response.StatusCode)
	}
	secure := tls.Client(conn, &tls.Config{ServerName: serverName, InsecureSkipVerify: true})
	if err := secure.Handshake(); err != nil {
		b.t.Fatalf("handshake in the tunnel: %v", err)
	}
	return secure
}
