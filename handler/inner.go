package handler

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starpod/caddy-starpod/tokens"
	"go.uber.org/zap"
)

const (
	// firstRequest is how long a tunnel without a request is waited for when the
	// proxy closes: its client may be in the middle of the TLS handshake.
	firstRequest = 10 * time.Second

	// lastRequest is how long a tunnel is idle before it counts as such when the
	// proxy closes: until then a request may be under way to us, and a client
	// that sent a POST cannot know what became of it.
	lastRequest = time.Second
)

// innerServer terminates TLS in tunnels and serves the requests inside, all of
// them with one http.Server.
type innerServer struct {
	proxy  *Proxy
	tls    *tls.Config
	nearby *tls.Config // for clients on this machine
	server *http.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once

	// opening counts the tunnels whose client has been promised one and whose first
	// request has not been read yet.
	opening atomic.Int64

	// leaving says that every answer is the last one of its connection.
	leaving atomic.Bool
}

func newInnerServer(p *Proxy) *innerServer {
	s := &innerServer{proxy: p, conns: make(chan net.Conn), closed: make(chan struct{})}
	s.tls = &tls.Config{
		GetCertificate: s.certificate,
		NextProtos:     []string{"h2", "http/1.1"},
		MinVersion:     tls.VersionTLS12,
	}
	// Who could record what does not leave this machine can read its memory: there
	// is nothing to keep from the computers of the future, and that costs a tenth
	// of a new tunnel.
	s.nearby = s.tls.Clone()
	s.nearby.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}
	s.nearby.DynamicRecordSizingDisabled = true // no packet of theirs is late
	s.server = s.newServer()
	go func() { _ = s.server.Serve(s) }()
	return s
}

func (s *innerServer) newServer() *http.Server {
	p := s.proxy
	errorLog, err := zap.NewStdLogAt(p.Log, zap.DebugLevel)
	if err != nil {
		errorLog = log.New(io.Discard, "", 0)
	}
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: time.Duration(p.Limits.HandshakeTimeout),
		IdleTimeout:       time.Duration(p.Limits.IdleTimeout),
		MaxHeaderBytes:    p.Limits.MaxHeaderBytes(),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: p.Limits.Streams},
		// OPTIONS * is the destination's to answer.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     errorLog,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, tunnelKey{}, conn.(*tls.Conn).NetConn().(*batcher).Conn)
		},
	}
}

type tunnelKey struct{}

// serve takes a tunnel over. Its done channel tells when it has ended. One that
// comes late, by a connection that was made before the proxy was replaced, is
// served all the same: its client has done nothing wrong.
func (s *innerServer) serve(t *tunnel) {
	config := s.tls
	if t.isNearby() {
		config = s.nearby
	}
	t.batcher = &batcher{Conn: t}
	conn := tls.Server(t.batcher, config)
	select {
	case s.conns <- conn:
	case <-s.closed:
		go func() { _ = s.newServer().Serve(&oneConn{Conn: conn}) }()
	}
}

// oneConn is a listener with one connection to accept.
type oneConn struct{ net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	conn := l.Conn
	if conn == nil {
		return nil, net.ErrClosed
	}
	l.Conn = nil
	return conn, nil
}

func (l *oneConn) Addr() net.Addr { return streamAddr("tunnels") }

// Close does nothing: what was accepted goes on.
func (l *oneConn) Close() error { return nil }

// certificate mints for the name the client asks for, even where it is not the
// tunnel's destination: the client shall learn why in an answer it understands.
func (s *innerServer) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	t := hello.Conn.(*batcher).Conn.(*tunnel)
	name := t.dest.Host
	if hello.ServerName != "" {
		canonical, err := tokens.CanonicalHost(hello.ServerName)
		if err != nil {
			return nil, err
		}
		name = canonical
	}
	return s.proxy.leaf(hello.Context(), t.client, name)
}

// ServeHTTP gives a request from inside a tunnel to the server that the tunnel
// came from, or refuses it there and then.
func (s *innerServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := r.Context().Value(tunnelKey{}).(*tunnel)
	t.asked()
	ex, err := newExchange(t.dest, t.client.name, r)
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
		s.proxy.refused(r, t.dest, refusal)
		refusal.Write(w)
		return
	}
	if t.bodyTimeout > 0 && r.Body != http.NoBody {
		limitBody(w, r, t.bodyTimeout)
	}
	t.reenter.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, ex)))
}

// Accept, Close and Addr make the server its own listener.
func (s *innerServer) Accept() (net.Conn, error) {
	select {
	case conn := <-s.conns:
		return conn, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Close stops Accept.
func (s *innerServer) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Addr is asked for by nobody, but a net.Listener has one.
func (s *innerServer) Addr() net.Addr { return streamAddr("tunnels") }

// shutdown serves the tunnels that are being opened, tells clients with their next
// answer to go elsewhere, closes the tunnels that have no next request, and waits
// for the others as long as ctx lasts.
//
// It takes no more tunnels first: net/http closes one of HTTP/2 whose first request
// it has not read.
func (s *innerServer) shutdown(ctx context.Context, idle func() bool) error {
	s.leaving.Store(true)
	_ = s.Close()
	patient, cancel := context.WithTimeout(ctx, firstRequest)
	defer cancel()
	await(patient, func() bool { return s.opening.Load() == 0 })
	hurried, cancel := context.WithTimeout(ctx, lastRequest) // net/http drops what it reads later
	defer cancel()
	await(hurried, idle)
	if err := s.server.Shutdown(ctx); err != nil {
		// Their connections first: one after the other, TLS would wait to say goodbye to
		// each client that does not read.
		s.proxy.live.drain(ctx)
		return errors.Join(err, s.server.Close())
	}
	return nil
}

// await returns when the condition holds, or with ctx.
func await(ctx context.Context, condition func() bool) {
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// limitBody ends the request if its body takes longer than limit. The inner
// server cannot do so by itself: it serves tunnels of servers with and without
// a limit.
func limitBody(w http.ResponseWriter, r *http.Request, limit time.Duration) {
	ctrl := http.NewResponseController(w)
	if ctrl.SetReadDeadline(time.Now().Add(limit)) == nil {
		r.Body = &limitedBody{r.Body, ctrl}
	}
}

// limitedBody lifts the limit when the body has been read: the answer may take
// longer.
type limitedBody struct {
	io.ReadCloser
	ctrl *http.ResponseController
}

func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.ctrl.SetReadDeadline(time.Time{})
	}
	return n, err
}
