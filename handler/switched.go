package handler

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"sync"
)

var errEarlySwitch = errors.New("the protocol was changed before the request had ended")

// Hijack hands over the connection for another protocol. ReverseProxy takes
// nothing from the buffer of the server, so what is in it is read first from the
// connection too.
func (w *mirrorWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.body != nil && !w.body.ended.Load() {
		// The transport is still reading from what would be handed over.
		return nil, nil, errEarlySwitch
	}
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	f := w.f
	f.status = http.StatusSwitchingProtocols
	if f.proxy.HandOver {
		return conn, rw, nil // the next handler's to use, for as long as it likes
	}
	c := &switchedConn{bufferedConn: bufferedConn{Conn: conn}}
	if rw.Reader.Buffered() > 0 {
		c.early = rw.Reader
	}
	f.client = c
	f.mu.Lock()
	defer f.mu.Unlock()
	f.proxy.live.add(c)
	f.cleanup = append(f.cleanup, func() { f.proxy.live.remove(c) }, c.stop)
	return c, bufio.NewReadWriter(bufio.NewReader(c), rw.Writer), nil
}

// switchedConn is the client's connection after a change of protocol. When one
// direction fails ReverseProxy returns while the other still uses it, which must
// not go on when the request is over: writers around this one count what passes.
type switchedConn struct {
	bufferedConn
	using sync.RWMutex // held for reading while the connection is in use
	ended bool
}

// Read implements net.Conn.
func (c *switchedConn) Read(p []byte) (int, error) {
	c.using.RLock()
	defer c.using.RUnlock()
	if c.ended {
		return 0, net.ErrClosed
	}
	return c.bufferedConn.Read(p)
}

// Write implements net.Conn.
func (c *switchedConn) Write(p []byte) (int, error) {
	c.using.RLock()
	defer c.using.RUnlock()
	if c.ended {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// stop closes, and returns when nobody uses the connection any more.
func (c *switchedConn) stop() {
	_ = c.Close()
	c.using.Lock()
	defer c.using.Unlock()
	c.ended = true
}
