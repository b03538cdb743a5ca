package handler

import (
	"net"
	"sync"
)

// lentConn is the connection of a client for as long as a handler has it: writers
// around the handler's count what passes, and look at the count when it returns.
type lentConn struct {
	net.Conn
	using sync.RWMutex // held for reading while the connection is in use
	ended bool
}

// Read implements net.Conn.
func (c *lentConn) Read(p []byte) (int, error) {
	c.using.RLock()
	defer c.using.RUnlock()
	if c.ended {
		return 0, net.ErrClosed
	}
	return c.Conn.Read(p)
}

// Write implements net.Conn.
func (c *lentConn) Write(p []byte) (int, error) {
	c.using.RLock()
	defer c.using.RUnlock()
	if c.ended {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// CloseWrite ends one half, where that can be.
func (c *lentConn) CloseWrite() error { return closeWrite(c.Conn) }

// end returns when nobody uses the connection any more, which has been closed.
func (c *lentConn) end() {
	c.using.Lock()
	defer c.using.Unlock()
	c.ended = true
}
