package testbench

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// handshakeTimeout bounds how long a silent client holds a goroutine.
const handshakeTimeout = 30 * time.Second

// recordedConn is a connection whose received bytes are kept, behind TLS where
// there is TLS.
type recordedConn struct {
	net.Conn
	state *tls.ConnectionState // nil for plain HTTP

	mu    sync.Mutex
	total int64
	kept  []byte // at most keepBytes
	taken int    // how much of kept belongs to requests already taken
}

func (c *recordedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total += int64(n)
	if room := keepBytes - len(c.kept); room > 0 {
		c.kept = append(c.kept, p[:min(n, room)]...)
	}
	return n, err
}

// take returns what arrived since the last call: one request, as long as the
// client does not pipeline.
func (c *recordedConn) take() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	raw := append([]byte{}, c.kept[c.taken:]...)
	c.taken = len(c.kept)
	return raw
}

func (c *recordedConn) snapshot() (kept []byte, total int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte{}, c.kept...), c.total
}

// recordingListener hands out connections that are past their TLS handshake,
// which one slow client must not delay for others.
type recordingListener struct {
	net.Listener
	config   *tls.Config // nil for plain HTTP
	upstream *Upstream
	ready    chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newRecordingListener(inner net.Listener, config *tls.Config, upstream *Upstream) *recordingListener {
	l := &recordingListener{
		Listener: inner,
		config:   config,
		upstream: upstream,
		ready:    make(chan net.Conn),
		closed:   make(chan struct{}),
	}
	go l.acceptAll()
	return l
}

func (l *recordingListener) acceptAll() {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return // the listener is closed
		}
		l.upstream.accepted.Add(1)
		go l.prepare(conn)
	}
}

func (l *recordingListener) prepare(conn net.Conn) {
	recorded := &recordedConn{Conn: conn}
	if l.config != nil {
		ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
		defer cancel()
		secured := tls.Server(conn, l.config)
		if err := secured.HandshakeContext(ctx); err != nil {
			l.upstream.handshakeFailed(err)
			conn.Close()
			return
		}
		state := secured.ConnectionState()
		recorded.Conn, recorded.state = secured, &state
	}
	l.upstream.track(recorded)
	select {
	case l.ready <- recorded:
	case <-l.closed:
		conn.Close()
	}
}

func (l *recordingListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.ready:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *recordingListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}
