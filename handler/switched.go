package handler

import (
	"bufio"
	"errors"
	"net"
	"net/http"
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
	// When one direction fails ReverseProxy returns while the other still uses the
	// connection, which must not go on when the request is over.
	c := &lentConn{Conn: conn}
	if rw.Reader.Buffered() > 0 {
		c.Conn = &bufferedConn{Conn: conn, early: rw.Reader}
	}
	f.client = c
	f.mu.Lock()
	defer f.mu.Unlock()
	f.proxy.live.add(c)
	f.cleanup = append(f.cleanup, func() { f.proxy.live.remove(c) }, func() {
		_ = c.Close()
		c.end()
	})
	return c, bufio.NewReadWriter(bufio.NewReader(c), rw.Writer), nil
}
