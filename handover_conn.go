package starpod

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// An http.Server that is being replaced closes the connections whose first request it
// has just read. Nothing was done with such a request and nothing answered, but its
// client cannot know, and does not ask again where that might do harm. So we do: what
// the server has read goes to the newest listener, with the connection.

// mostReplayed is how many bytes of a first request are kept to be read again. One whose
// head is longer is lost.
const mostReplayed = 16 << 10

// handedConn is a connection that its server may close without having begun.
type handedConn struct {
	net.Conn
	again func(net.Conn) bool // false where no other listener takes it

	// begun says that the server has written, or read beyond the head of the first
	// request, as it does at once when it serves one.
	begun  atomic.Bool
	forget sync.Once

	reading sync.Mutex // guards what follows, and is held by Read until begun
	read    []byte
	moved   bool
}

// handTo makes the connection one for a listener.
func handTo(l *handedListener, conn net.Conn, newest func() *handedListener) *handedConn {
	return &handedConn{Conn: conn, again: func(conn net.Conn) bool {
		if next := newest(); next == nil || next == l {
			return false
		}
		go func() {
			if !deliver(conn, newest) {
				_ = conn.Close()
			}
		}()
		return true
	}}
}

// Read implements net.Conn.
func (c *handedConn) Read(p []byte) (int, error) {
	if c.begun.Load() {
		c.forget.Do(c.drop)
		return c.Conn.Read(p)
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.moved {
		return 0, net.ErrClosed
	}
	if len(c.read) > mostReplayed || bytes.Contains(c.read, []byte("\r\n\r\n")) {
		c.begun.Store(true)
		return c.Conn.Read(p)
	}
	n, err := c.Conn.Read(p)
	c.read = append(c.read, p[:n]...)
	return n, err
}

// drop gives back the memory of what was read.
func (c *handedConn) drop() {
	c.reading.Lock()
	defer c.reading.Unlock()
	c.read = nil
}

// Write implements net.Conn.
func (c *handedConn) Write(p []byte) (int, error) {
	c.begun.Store(true)
	return c.Conn.Write(p)
}

// CloseWrite is for half-closed tunnels.
func (c *handedConn) CloseWrite() error {
	c.begun.Store(true)
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// Close implements net.Conn.
func (c *handedConn) Close() error {
	if c.move() {
		return nil
	}
	return c.Conn.Close()
}

// move hands the connection on if it can be, and reports whether it has been. One that
// is being read, or of which nothing has come, is not.
func (c *handedConn) move() bool {
	if c.begun.Load() || !c.reading.TryLock() {
		return false
	}
	defer c.reading.Unlock()
	if !c.moved && len(c.read) > 0 && c.SetDeadline(time.Time{}) == nil {
		c.moved = c.again(&replayedConn{c.Conn, c.read})
	}
	return c.moved
}

// replayedConn is a connection of which some bytes were read before.
type replayedConn struct {
	net.Conn
	again []byte
}

// Read implements net.Conn.
func (c *replayedConn) Read(p []byte) (int, error) {
	if len(c.again) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.again)
	c.again = c.again[n:]
	return n, nil
}

// CloseWrite is for half-closed tunnels.
func (c *replayedConn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}
