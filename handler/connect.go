package handler

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/starpod/caddy-starpod/tokens"
	"go.uber.org/zap"
)

// tunnel is one CONNECT that is intercepted: the connection to the client with
// what is known of it. It is the net.Conn under the TLS that is terminated. Nothing
// in it holds the request, which is long over while the tunnel is open.
type tunnel struct {
	net.Conn
	proxy   *Proxy
	dest    Destination
	client  *client
	remote  string // address of the client
	reenter http.Handler
	asked   func() // called when the first request has been read
	trusted bool   // it came by a listener of a namespace

	batcher *batcher // between the TLS and it

	// bodyTimeout is how long a request body may take, from the server that the
	// CONNECT came in by; 0 is without limit.
	bodyTimeout time.Duration

	sniffed bool
	once    sync.Once
	ended   func() // called once, when the connection has been closed
}

var errNotTLS = errors.New("what came through the tunnel is not TLS")

// recordTypeHandshake is the first byte of every TLS connection (RFC 8446,
// section 5.1).
const recordTypeHandshake = 0x16

// Read reads from the client and ends the tunnel if it does not begin with TLS.
// Looking here spares a buffer and a hand-off between goroutines.
func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if !t.sniffed && n > 0 {
		t.sniffed = true
		if p[0] != recordTypeHandshake {
			t.refuseContent(p[0])
			return 0, errNotTLS
		}
	}
	return n, err
}

// refuseContent answers what looks like HTTP in a way that its client
// understands; to anything else the connection just closes.
func (t *tunnel) refuseContent(first byte) {
	refusal := &Refusal{
		Status: http.StatusBadRequest, Rule: RuleTunnel,
		Reason: "only TLS is served inside a tunnel to " + t.dest.String(),
		Mend:   "use an https:// URL, ask for http:// without CONNECT, or name the host in `tunnel`",
	}
	t.proxy.refused(&http.Request{Method: http.MethodConnect, URL: new(url.URL), RemoteAddr: t.remote}, t.dest, refusal)
	if first >= 'A' && first <= 'Z' {
		body := refusal.body()
		response := http.Response{
			StatusCode: refusal.Status, ProtoMajor: 1, ProtoMinor: 1, Close: true,
			Header:        http.Header{"Content-Type": {"application/json"}},
			ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
		}
		_ = t.Conn.SetWriteDeadline(time.Now().Add(time.Second))
		_ = response.Write(t.Conn)
	}
}

// Close ends the tunnel. Whoever hijacks the connection inside it closes it in
// the end too, so this is the end of WebSockets as well.
func (t *tunnel) Close() error {
	err := t.Conn.Close()
	t.once.Do(t.ended)
	return err
}

// isNearby reports whether the client is on this machine: behind loopback, or in a
// namespace that only programs of this machine can be in.
func (t *tunnel) isNearby() bool {
	addr, ok := t.RemoteAddr().(*net.TCPAddr)
	return t.trusted || ok && addr.IP.IsLoopback()
}

// serveConnect answers a CONNECT.
func (p *Proxy) serveConnect(w http.ResponseWriter, r *http.Request, reenter http.Handler) (Destination, error) {
	if refusal := p.checkCredentials(r); refusal != nil {
		return Destination{}, refusal
	}
	if r.RequestURI != r.Host {
		// net/http drops user information and path from the line.
		return Destination{}, refuseAuthority("CONNECT takes host:port and nothing else")
	}
	dest, err := parseDestination("https", r.Host, 0)
	if err != nil {
		return dest, refuseAuthority(err.Error())
	}
	if contradicted(r, dest) {
		return dest, &Refusal{
			Status: http.StatusMisdirectedRequest, Rule: RuleMisdirected,
			Reason: "the field Host of the CONNECT names another than its authority, " + dest.HostPort(),
		}
	}
	if err := p.checkName(dest); err != nil {
		return dest, err
	}
	client, done, refusal := p.clients.take(p.clientOf(r), kindTunnel)
	if refusal != nil {
		return dest, refusal
	}
	if !p.intercepts(r.Context(), client, dest) {
		defer done()
		return dest, p.serveBlind(w, r, dest)
	}
	return dest, p.serveIntercepted(w, r, &tunnel{proxy: p, dest: dest, client: client, reenter: reenter}, done)
}

// serveIntercepted opens a tunnel whose TLS is terminated, and calls done when it
// has ended. It stays so long only where that makes a difference: what a handler
// holds on its way here is as much as the tunnel itself.
func (p *Proxy) serveIntercepted(w http.ResponseWriter, r *http.Request, t *tunnel, done func()) error {
	from := originFrom(r.Context())
	if err := from.refusesContent(t.dest); err != nil {
		done()
		return err
	}
	p.inner.opening.Add(1)
	t.asked = sync.OnceFunc(func() { p.inner.opening.Add(-1) })
	conn, err := accept(w, r)
	if err != nil {
		t.asked()
		done()
		return err
	}
	p.Stats.Intercepted.Add(1)
	var returned func()
	t.Conn, returned = lend(conn, isObserved(w) || r.ContentLength != 0) // Caddy gives what is left of a body its time
	t.remote, t.trusted = r.RemoteAddr, from != nil && from.trusted
	if outer, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		t.bodyTimeout = outer.ReadTimeout
	}
	closed := make(chan struct{})
	t.ended = func() {
		p.live.remove(t)
		t.asked()
		done()
		close(closed)
	}
	p.live.add(t)
	p.inner.serve(t)
	if returned != nil {
		<-closed
		returned()
	}
	return nil
}

// lend returns the connection for a tunnel. If it is to be had back when the tunnel has
// been closed, as a stream is in any case, returned waits until nobody uses it any more;
// else that is nil.
func lend(conn net.Conn, wanted bool) (lent net.Conn, returned func()) {
	if stream, ok := conn.(*streamConn); ok {
		piped := newPipedStream(stream)
		return piped, func() { <-piped.copied }
	}
	if !wanted {
		return conn, nil
	}
	c := &lentConn{Conn: conn}
	return c, c.end
}

// isObserved reports whether somebody takes note of an answer when its handler
// returns, as Caddy's access log and metrics do: of how long it took, of a tunnel too.
func isObserved(w http.ResponseWriter) bool {
	for {
		if _, ok := w.(interface{ Status() int }); ok {
			return true
		}
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = outer.Unwrap()
	}
}

// intercepts reports whether TLS towards dest is terminated here. An authority
// that cannot mint makes the tunnel blind: nothing is swapped in it, and the
// destination is guarded all the same.
func (p *Proxy) intercepts(ctx context.Context, c *client, dest Destination) bool {
	if p.Authority == nil || len(p.Tunnel) > 0 && tokens.HostMatches(p.Tunnel, dest.Host, dest.Port) {
		return false
	}
	_, err := p.leaf(ctx, c, dest.Host)
	if err != nil && ctx.Err() != nil {
		return true // it is the client that has gone, or has ended its half
	}
	if err != nil {
		p.Log.Warn("cannot mint a certificate; tunnelling without interception, tokens in it stay tokens",
			zap.String("destination", dest.String()), zap.Error(err))
		return false
	}
	return true
}

// leaf returns a certificate for name, made for this client if it is not there.
func (p *Proxy) leaf(ctx context.Context, c *client, name string) (*tls.Certificate, error) {
	authority, err := p.Authority(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.minting.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer c.minting.Release(1)
	return authority.Leaf(ctx, name)
}

// serveBlind copies bytes between the client and dest.
func (p *Proxy) serveBlind(w http.ResponseWriter, r *http.Request, dest Destination) error {
	target, err := p.upstream.dial(r.Context(), dest)
	if err != nil {
		return refuseUpstream(dest, err)
	}
	defer target.Close()
	conn, err := accept(w, r)
	if err != nil {
		return err
	}
	defer conn.Close()
	p.live.add(conn)
	defer p.live.remove(conn)
	p.Stats.Tunnelled.Add(1)

	idle := time.Duration(p.Limits.BlindTimeout)
	timer := time.AfterFunc(idle, func() { _, _ = conn.Close(), target.Close() })
	defer timer.Stop()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		copyHalf(target, conn, func() { timer.Reset(idle) })
	}()
	copyHalf(conn, target, func() { timer.Reset(idle) })
	<-finished
	return nil
}

// copyHalf copies one direction and passes the end of it on, so that half-close
// works. Where the other side cannot be closed by half it is closed whole. busy
// is called for all that comes.
func copyHalf(dst, src net.Conn, busy func()) {
	_, err := io.Copy(dst, busyReader{src, busy})
	if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil && half.CloseWrite() == nil {
		return
	}
	_ = dst.Close()
	if err != nil {
		_ = src.Close()
	}
}

type busyReader struct {
	io.Reader
	busy func()
}

func (r busyReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.busy()
	}
	return n, err
}

// accept answers 200 to a CONNECT and returns the connection to the client: the
// hijacked one of HTTP/1, the stream of HTTP/2 and HTTP/3.
func accept(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	ctrl := http.NewResponseController(w)
	if r.ProtoMajor >= 2 {
		clear(w.Header())
		w.WriteHeader(http.StatusOK)
		if err := ctrl.Flush(); err != nil {
			return nil, err
		}
		return &streamConn{body: r.Body, w: w, ctrl: ctrl, remote: streamAddr(r.RemoteAddr)}, nil
	}
	conn, rw, err := ctrl.Hijack()
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		_ = conn.Close()
		return nil, err
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection Established\r\n\r\n"); err != nil {
		_ = conn.Close()
		return nil, err
	}
	if n := rw.Reader.Buffered(); n > 0 {
		return &bufferedConn{Conn: conn, early: rw.Reader}, nil
	}
	return conn, nil
}

// bufferedConn reads first what the server had already read of the client when
// the connection was hijacked, which may be a whole ClientHello.
type bufferedConn struct {
	net.Conn
	early *bufio.Reader // nil once it is empty
}

func (c *bufferedConn) Read(p []byte) (int, error) {
	if c.early == nil {
		return c.Conn.Read(p)
	}
	if n := c.early.Buffered(); n < len(p) {
		p = p[:n]
	}
	n, err := c.early.Read(p)
	if c.early.Buffered() == 0 {
		c.early = nil
	}
	return n, err
}

// NetConn returns what is below, as that of *tls.Conn does.
func (c *bufferedConn) NetConn() net.Conn { return c.Conn }

func (c *bufferedConn) CloseWrite() error { return closeWrite(c.Conn) }
