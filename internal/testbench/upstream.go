package testbench

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// Upstream is an API as tests want one: it listens with TLS (HTTP/1.1 and
// HTTP/2) and plainly on two ports of 127.0.0.1, records every request both as
// bytes and as fields, and answers from a script. What has no script is
// answered with 200 and "ok\n".
type Upstream struct {
	tls, plain net.Listener
	server     *http.Server
	mux        *http.ServeMux
	accepted   atomic.Int64

	mu            sync.Mutex
	requests      []*Request
	conns         []*recordedConn
	handshakeErrs []error
}

// Responder writes the answer to a request whose body was read whole.
type Responder func(w http.ResponseWriter, r *http.Request, got *Request)

// NewUpstream starts an upstream with the default leaf of the PKI.
func NewUpstream(tb testing.TB, pki *PKI) *Upstream {
	tb.Helper()
	return NewUpstreamWith(tb, pki.Leaf(tb), "h2", "http/1.1")
}

// NewUpstreamWith starts an upstream with the given certificate, offering the
// given protocols by ALPN (none: TLS without ALPN, which is HTTP/1.1).
func NewUpstreamWith(tb testing.TB, certificate tls.Certificate, protocols ...string) *Upstream {
	tb.Helper()
	return NewUpstreamOn(tb, listen(tb), listen(tb), certificate, protocols...)
}

// NewUpstreamOn is NewUpstreamWith on listeners for https and http.
func NewUpstreamOn(tb testing.TB, https, http1 net.Listener, certificate tls.Certificate, protocols ...string) *Upstream {
	tb.Helper()
	u := &Upstream{mux: http.NewServeMux()}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: protocols}
	u.tls = newRecordingListener(https, config, u)
	u.plain = newRecordingListener(http1, nil, u)

	// TLS ends in the listener, so that its bytes can be kept; to net/http an
	// HTTP/2 connection is one with prior knowledge.
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	u.server = &http.Server{
		Handler:   http.HandlerFunc(u.serve),
		Protocols: both,
		ErrorLog:  log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
	}
	go u.server.Serve(u.tls)
	go u.server.Serve(u.plain)
	tb.Cleanup(func() { u.server.Close() })
	return u
}

// Handle answers requests that match the pattern of http.ServeMux.
func (u *Upstream) Handle(pattern string, respond Responder) {
	u.mux.Handle(pattern, responderHandler{respond})
}

// HandleStream leaves the body to the handler, which may answer before it ends.
// The request is recorded when the handler returns.
func (u *Upstream) HandleStream(pattern string, handler http.Handler) {
	u.mux.Handle(pattern, handler)
}

type responderHandler struct{ respond Responder }

func (responderHandler) ServeHTTP(http.ResponseWriter, *http.Request) {}

func (u *Upstream) serve(w http.ResponseWriter, r *http.Request) {
	if state := tlsState(r.Context()); state != nil {
		r.TLS = state
	}
	body := newRecorder(r)
	r.Body = body
	handler, pattern := u.mux.Handler(r)
	scripted, drains := handler.(responderHandler)
	if pattern == "" {
		scripted, drains = responderHandler{OK}, true
	}
	if !drains {
		defer func() { u.record(body.finish(r)) }()
		handler.ServeHTTP(w, r)
		return
	}
	io.Copy(io.Discard, r.Body) // an error is in the record
	got := body.finish(r)
	u.record(got)
	scripted.respond(w, r, got)
}

// URL returns https://host:port.
func (u *Upstream) URL(host string) string { return fmt.Sprintf("https://%s:%d", host, u.Port()) }

// PlainURL returns http://host:port.
func (u *Upstream) PlainURL(host string) string {
	return fmt.Sprintf("http://%s:%d", host, u.PlainPort())
}

// Port is the port that speaks TLS.
func (u *Upstream) Port() int { return u.tls.Addr().(*net.TCPAddr).Port }

// PlainPort is the port that speaks plain HTTP.
func (u *Upstream) PlainPort() int { return u.plain.Addr().(*net.TCPAddr).Port }

// Requests returns what was received so far, oldest first.
func (u *Upstream) Requests() []*Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.requests)
}

// Last returns the newest request and fails the test if there is none.
func (u *Upstream) Last(tb testing.TB) *Request {
	tb.Helper()
	requests := u.Requests()
	if len(requests) == 0 {
		tb.Fatal("upstream received no request")
	}
	return requests[len(requests)-1]
}

// Forget drops all records, as between the rows of a table.
func (u *Upstream) Forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests, u.handshakeErrs = nil, nil
	u.conns = nil
	u.accepted.Store(0)
}

// Accepted is the number of TCP connections, with or without a handshake.
func (u *Upstream) Accepted() int { return int(u.accepted.Load()) }

// HandshakeErrors returns the TLS handshakes that failed.
func (u *Upstream) HandshakeErrors() []error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.handshakeErrs)
}

// Connections returns the bytes received on each connection that got past its
// handshake (at most 4 MiB each), also those that were no request.
func (u *Upstream) Connections() [][]byte {
	u.mu.Lock()
	conns := slices.Clone(u.conns)
	u.mu.Unlock()
	var all [][]byte
	for _, conn := range conns {
		kept, _ := conn.snapshot()
		all = append(all, kept)
	}
	return all
}

// Received is the number of bytes behind the handshakes, of all connections.
func (u *Upstream) Received() int64 {
	u.mu.Lock()
	conns := slices.Clone(u.conns)
	u.mu.Unlock()
	var sum int64
	for _, conn := range conns {
		_, total := conn.snapshot()
		sum += total
	}
	return sum
}

// Dump is everything that reached the upstream, to search in: the bytes of the
// connections and, since HTTP/2 compresses them, the fields of the requests.
func (u *Upstream) Dump() []byte {
	var dump bytes.Buffer
	for _, kept := range u.Connections() {
		dump.Write(kept)
		dump.WriteByte('\n')
	}
	for _, got := range u.Requests() {
		fmt.Fprintln(&dump, got.Method, got.Target, got.Host, got.Header, got.Trailer)
		dump.Write(got.Body)
		dump.WriteByte('\n')
	}
	return dump.Bytes()
}

// Saw tells whether the text is anywhere in what reached the upstream.
func (u *Upstream) Saw(text string) bool { return bytes.Contains(u.Dump(), []byte(text)) }

func (u *Upstream) record(got *Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests = append(u.requests, got)
}

func (u *Upstream) track(conn *recordedConn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.conns = append(u.conns, conn)
}

func (u *Upstream) handshakeFailed(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.handshakeErrs = append(u.handshakeErrs, err)
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listening: %v", err)
	}
	return listener
}
