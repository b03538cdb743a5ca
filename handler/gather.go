package handler

import (
	"io"
	"net"
	"sync"
)

// gatherer stands below TLS and sends several records by one system call, where
// crypto/tls makes one for each.
type gatherer struct {
	net.Conn

	// What is read may call for a record as well (a change of keys), from another
	// goroutine than that which writes.
	mu       sync.Mutex
	gathered *[]byte // while it gathers, else nil
}

// gathering is room for the records of one write.
var gathering = sync.Pool{New: func() any { room := make([]byte, 0, 5*tlsRecord); return &room }}

// write writes p to what stands above, and then what that has written.
func (g *gatherer) write(above io.Writer, p []byte) (int, error) {
	room := gathering.Get().(*[]byte)
	g.mu.Lock()
	g.gathered = room
	g.mu.Unlock()
	n, err := above.Write(p)

	g.mu.Lock()
	defer g.mu.Unlock()
	if len(*room) > 0 {
		if _, failed := g.Conn.Write(*room); failed != nil {
			n, err = 0, failed // how much has arrived nobody knows
		}
	}
	*room = (*room)[:0]
	gathering.Put(room)
	g.gathered = nil
	return n, err
}

// Write implements net.Conn.
func (g *gatherer) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gathered == nil {
		return g.Conn.Write(p)
	}
	*g.gathered = append(*g.gathered, p...)
	return len(p), nil
}
