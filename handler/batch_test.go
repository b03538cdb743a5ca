package handler

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// writes is a connection that keeps what each call of Write was given.
type writes struct {
	net.Conn
	each [][]byte
	err  error
	sent int // before err
}

func (w *writes) Write(p []byte) (int, error) {
	if w.err != nil {
		return w.sent, w.err
	}
	w.each = append(w.each, bytes.Clone(p))
	return len(p), nil
}

// records writes to a batcher as crypto/tls does: a record for each 10 bytes.
type records struct{ below io.Writer }

func (r records) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		m := min(len(p), 10)
		if _, err := r.below.Write(p[:m]); err != nil {
			return n, err
		}
		n, p = n+m, p[m:]
	}
	return n, nil
}

func TestBatcher(t *testing.T) {
	conn := new(writes)
	b := &batcher{Conn: conn}
	long := bytes.Repeat([]byte("0123456789"), 10<<10)

	if n, err := b.Write([]byte("by itself")); n != 9 || err != nil {
		t.Fatalf("Write: got %d, %v", n, err)
	}
	if n, err := b.write(records{b}, long); n != len(long) || err != nil {
		t.Fatalf("write: got %d, %v; want %d", n, err, len(long))
	}
	if n, err := b.Write([]byte("by itself")); n != 9 || err != nil {
		t.Fatalf("Write: got %d, %v", n, err)
	}
	if len(conn.each) != 3 || !bytes.Equal(conn.each[1], long) || string(conn.each[2]) != "by itself" {
		t.Errorf("got %d writes, want 3, the second with all records", len(conn.each))
	}

	conn.err = errors.New("reset")
	if n, err := b.write(records{b}, long); n != 0 || err != conn.err {
		t.Errorf("write to a connection that is gone: got %d, %v; want 0, %v", n, err, conn.err)
	}
	// Then the request must not be sent once more as one that nobody has seen.
	conn.sent = 7
	if n, err := b.write(records{b}, long); n != conn.sent || err != conn.err {
		t.Errorf("write to a connection that breaks off: got %d, %v; want %d, %v", n, err, conn.sent, conn.err)
	}
	conn.err, conn.each = nil, nil
	if _, err := b.Write([]byte("next")); err != nil || len(conn.each) != 1 || string(conn.each[0]) != "next" {
		t.Errorf("what failed came again: %q, %v", conn.each, err)
	}
}

// A record that another goroutine writes meanwhile, as for a change of keys, is
// sent, and none is torn.
func TestBatcherBesideOtherRecords(t *testing.T) {
	conn := new(writes)
	b := &batcher{Conn: conn}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 {
			_, _ = b.Write([]byte("KEYUPDATE!"))
		}
	}()
	for range 100 {
		_, _ = b.write(records{b}, bytes.Repeat([]byte("0123456789"), 100))
	}
	<-done
	all := bytes.Join(conn.each, nil)
	if got := bytes.Count(all, []byte("KEYUPDATE!")); got != 1000 {
		t.Errorf("records of the other goroutine: got %d, want 1000", got)
	}
	if rest := bytes.ReplaceAll(all, []byte("KEYUPDATE!"), nil); !bytes.Equal(rest, bytes.Repeat([]byte("0123456789"), 100*100)) {
		t.Errorf("got %d other bytes, torn or lost; want %d", len(rest), 100*1000)
	}
}

// countedConn counts the calls of Read.
type countedConn struct {
	net.Conn
	reads int
}

func (c *countedConn) Read(p []byte) (int, error) {
	c.reads++
	return c.Conn.Read(p)
}

// batchedPair returns TLS over a batcher, with its other end.
func batchedPair(t *testing.T) (above *tls.Conn, b *batcher, below *countedConn, far *tls.Conn) {
	t.Helper()
	pki := testbench.NewPKI(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := listener.Accept()
		accepted <- conn
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far = tls.Server(<-accepted, &tls.Config{Certificates: []tls.Certificate{pki.Leaf(t, "host.test")}})
	below = &countedConn{Conn: conn}
	b = &batcher{Conn: below}
	above = tls.Client(b, &tls.Config{RootCAs: pki.Pool(), ServerName: "host.test"})
	t.Cleanup(func() { _, _ = conn.Close(), far.NetConn().Close() })
	shaken := make(chan error, 1)
	go func() { shaken <- far.Handshake() }()
	if err := errors.Join(above.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	return above, b, below, far
}

// TestBatcherReads: what has come is read at once, TLS goes on where nothing had come
// yet, and what nobody asked for is noticed.
func TestBatcherReads(t *testing.T) {
	above, b, below, far := batchedPair(t)
	// Few enough for the sockets to hold all of it. The records are small at first.
	sent := bytes.Repeat([]byte("0123456789abcdef"), 5*tlsRecord/16)
	if _, err := far.Write(sent); err != nil {
		t.Fatal(err)
	}
	b.ahead.Store(true)
	below.reads = 0
	p, got, calls := make([]byte, 4*tlsRecord), []byte(nil), 0
	for len(got) < len(sent) {
		n, err := b.read(above, p)
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(got), err)
		}
		got, calls = append(got, p[:n]...), calls+1
	}
	if !bytes.Equal(got, sent) {
		t.Fatal("what was read is not what was sent")
	}
	if calls > 3 || below.reads > 3 {
		t.Errorf("got %d calls and %d reads of the connection, want 3 at most", calls, below.reads)
	}
	if !b.rest(above) || b.room != nil || b.ahead.Load() {
		t.Error("at rest: got something that is left, want nothing")
	}
	for _, step := range []struct {
		name string
		send func() error
	}{
		{"an answer that nobody asked for", func() error { _, err := far.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")); return err }},
		{"the end", far.CloseWrite},
	} {
		b.ahead.Store(true)
		if err := step.send(); err != nil {
			t.Fatal(err)
		}
		// Two bytes of room, so that TLS has the record and hands out a part of it.
		if _, err := b.read(above, p[:2]); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if b.rest(above) {
			t.Errorf("%s: got nothing left, want that it is noticed", step.name)
		}
		for {
			if n, err := b.probe(above, p); n == 0 || err != nil {
				break
			}
		}
	}
}
