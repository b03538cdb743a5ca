package handler

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// batcher stands below TLS and moves several records by one system call, where
// crypto/tls makes one for each. It does so only while a long body is under way:
// between requests it holds nothing.
type batcher struct {
	net.Conn

	// What is read may call for a record as well (a change of keys), from another
	// goroutine than that which writes.
	mu       sync.Mutex
	gathered *[]byte // while it gathers, else nil

	ahead atomic.Bool // whether it reads more than it is asked for

	// Of whoever reads. One at a time does.
	probing bool    // whether it must not wait
	room    *[]byte // nil while nothing is there
	unread  []byte  // of room
	one     [1]byte // to see whether there is more
}

// batches are room for the records of one write, or one read.
var batches = sync.Pool{New: func() any { room := make([]byte, 0, 5*tlsRecord); return &room }}

// write writes p to what stands above, and then what that has written.
func (b *batcher) write(above io.Writer, p []byte) (int, error) {
	room := batches.Get().(*[]byte)
	b.mu.Lock()
	b.gathered = room
	b.mu.Unlock()
	n, err := above.Write(p)

	b.mu.Lock()
	defer b.mu.Unlock()
	if len(*room) > 0 {
		if sent, failed := b.Conn.Write(*room); failed != nil {
			n, err = min(n, sent), failed // of p, or of the records with it: 0 if nothing has left
		}
	}
	*room = (*room)[:0]
	batches.Put(room)
	b.gathered = nil
	return n, err
}

// Write implements net.Conn.
func (b *batcher) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gathered == nil {
		return b.Conn.Write(p)
	}
	*b.gathered = append(*b.gathered, p...)
	return len(p), nil
}

// read reads from what stands above, as much as has come already.
func (b *batcher) read(above io.Reader, p []byte) (int, error) {
	n, err := above.Read(p)
	for err == nil && b.ahead.Load() && len(p)-n >= tlsRecord {
		more, failed := b.probe(above, p[n:])
		if n += more; failed != nil {
			break // what it was, the next Read says
		}
	}
	return n, err
}

// probe reads from what stands above without waiting: where nothing has come it
// returns errNothing.
func (b *batcher) probe(above io.Reader, p []byte) (int, error) {
	b.probing = true
	defer func() { b.probing = false }()
	return above.Read(p)
}

// Read implements net.Conn.
func (b *batcher) Read(p []byte) (n int, err error) {
	if len(b.unread) == 0 {
		switch {
		case b.probing:
			return 0, errNothing
		case !b.ahead.Load():
			return b.Conn.Read(p)
		case b.room == nil:
			b.room = batches.Get().(*[]byte)
		}
		n, err = b.Conn.Read((*b.room)[:4*tlsRecord])
		b.unread = (*b.room)[:n]
	}
	n = copy(p, b.unread)
	if b.unread = b.unread[n:]; len(b.unread) == 0 && !b.ahead.Load() {
		b.release()
	}
	return n, err
}

func (b *batcher) release() {
	if b.room != nil {
		batches.Put(b.room)
		b.room, b.unread = nil, nil
	}
}

// rest ends reading ahead. It reports whether nothing is left unread here or in
// what stands above.
func (b *batcher) rest(above io.Reader) bool {
	b.ahead.Store(false)
	n, err := b.probe(above, b.one[:])
	if len(b.unread) > 0 {
		return false
	}
	b.release()
	return n == 0 && err == errNothing
}

// errNothing is told to TLS where nothing has come yet, which takes it for a
// deadline that has passed, and can go on.
var errNothing net.Error = nothingYet{}

type nothingYet struct{}

func (nothingYet) Error() string   { return "nothing has come yet" }
func (nothingYet) Timeout() bool   { return true }
func (nothingYet) Temporary() bool { return true }
