package handler

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// writes is a connection that keeps what each call of Write was given.
type writes struct {
	net.Conn
	each [][]byte
	err  error
}

func (w *writes) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.each = append(w.each, bytes.Clone(p))
	return len(p), nil
}

// records writes to a gatherer as crypto/tls does: a record for each 10 bytes.
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

func TestGatherer(t *testing.T) {
	conn := new(writes)
	g := &gatherer{Conn: conn}
	long := bytes.Repeat([]byte("0123456789"), 10<<10)

	if n, err := g.Write([]byte("by itself")); n != 9 || err != nil {
		t.Fatalf("Write: got %d, %v", n, err)
	}
	if n, err := g.write(records{g}, long); n != len(long) || err != nil {
		t.Fatalf("write: got %d, %v; want %d", n, err, len(long))
	}
	if n, err := g.Write([]byte("by itself")); n != 9 || err != nil {
		t.Fatalf("Write: got %d, %v", n, err)
	}
	if len(conn.each) != 3 || !bytes.Equal(conn.each[1], long) || string(conn.each[2]) != "by itself" {
		t.Errorf("got %d writes, want 3, the second with all records", len(conn.each))
	}

	conn.err = errors.New("reset")
	if n, err := g.write(records{g}, long); n != 0 || err != conn.err {
		t.Errorf("write to a connection that is gone: got %d, %v; want 0, %v", n, err, conn.err)
	}
	conn.err, conn.each = nil, nil
	if _, err := g.Write([]byte("next")); err != nil || len(conn.each) != 1 || string(conn.each[0]) != "next" {
		t.Errorf("what failed came again: %q, %v", conn.each, err)
	}
}

// A record that another goroutine writes meanwhile, as for a change of keys, is
// sent, and none is torn.
func TestGathererBesideOtherRecords(t *testing.T) {
	conn := new(writes)
	g := &gatherer{Conn: conn}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 {
			_, _ = g.Write([]byte("KEYUPDATE!"))
		}
	}()
	for range 100 {
		_, _ = g.write(records{g}, bytes.Repeat([]byte("0123456789"), 100))
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
