package starpod

import (
	"net"
	"sync"
)

// maxAttachedConns bounds the connections of one attached command, so that it
// cannot take the descriptors of all.
const maxAttachedConns = 1000

// attachedConns are the connections of one attached command. They end with it.
type attachedConns struct {
	slots chan struct{}

	mu     sync.Mutex
	open   map[*attachedConn]struct{}
	closed chan struct{}
}

func newAttachedConns() *attachedConns {
	return &attachedConns{
		slots: make(chan struct{}, maxAttachedConns), open: make(map[*attachedConn]struct{}), closed: make(chan struct{}),
	}
}

// wrap returns a listener whose connections are among these, and which waits when
// there are too many.
func (c *attachedConns) wrap(l net.Listener) net.Listener { return &attachedListener{l, c} }

// close closes all, and those that come.
func (c *attachedConns) close() {
	c.mu.Lock()
	close(c.closed)
	open := make([]*attachedConn, 0, len(c.open))
	for conn := range c.open {
		open = append(open, conn)
	}
	c.mu.Unlock()
	for _, conn := range open {
		_ = conn.Close()
	}
}

func (c *attachedConns) add(tcp *net.TCPConn) *attachedConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := &attachedConn{TCPConn: tcp, all: c}
	select {
	case <-c.closed:
		_ = tcp.Close() // whoever gets it finds it closed
	default:
	}
	c.open[conn] = struct{}{}
	return conn
}

type attachedListener struct {
	net.Listener
	all *attachedConns
}

// Accept implements net.Listener.
func (l *attachedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	select {
	case l.all.slots <- struct{}{}:
	case <-l.all.closed:
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	return l.all.add(conn.(*net.TCPConn)), nil
}

// attachedConn is a connection of an attached command.
type attachedConn struct {
	*net.TCPConn
	all  *attachedConns
	once sync.Once
}

// RemoteAddr is a local one. In its own namespace the command can have any address
// that it likes, and Caddy's matchers are not to believe it.
func (c *attachedConn) RemoteAddr() net.Addr {
	addr, ok := c.TCPConn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	}
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: addr.Port}
}

// Close implements net.Conn.
func (c *attachedConn) Close() error {
	c.once.Do(func() {
		c.all.mu.Lock()
		delete(c.all.open, c)
		c.all.mu.Unlock()
		<-c.all.slots
	})
	return c.TCPConn.Close()
}
