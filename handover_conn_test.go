package starpod

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestHandedConnMoves hands a connection on that its server closes unanswered, and only
// such a one.
func TestHandedConnMoves(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: example.com\r\n"
	for _, test := range []struct {
		name   string
		sent   string
		alone  bool // no newer listener
		serve  func(conn net.Conn)
		closed bool
	}{
		{name: "a whole request", sent: head + "\r\nbody"},
		{name: "half a head", sent: head},
		{name: "no newer listener", sent: head + "\r\n", alone: true, closed: true},
		{name: "an answer", sent: head + "\r\n", closed: true, serve: func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 100\r\n\r\n") }},
		{name: "a request that is served", sent: head + "\r\n", closed: true, serve: func(conn net.Conn) {
			_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v, want a deadline", err)
			}
		}},
		{name: "a long head", sent: head + strings.Repeat("x", mostReplayed) + "\r\n\r\n", closed: true, serve: func(conn net.Conn) {
			_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, _ = conn.Read(make([]byte, 1))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, socket := newSpaceSocket(t)
			old, next := newHandedListener(socket.Addr(), nil), newHandedListener(socket.Addr(), nil)
			newest := func() *handedListener { return next }
			if test.alone {
				newest = func() *handedListener { return old }
			}
			client, server := net.Pipe()
			go func() { _, _ = io.WriteString(client, test.sent) }()
			conn := handTo(old, server, newest)
			first := make([]byte, len(test.sent))
			if _, err := io.ReadFull(conn, first); err != nil {
				t.Fatal(err)
			}
			if test.serve != nil {
				go func() { _, _ = io.Copy(io.Discard, client) }()
				test.serve(conn)
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			if test.closed {
				if _, err := server.Write(nil); !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("got %v, want the connection closed", err)
				}
				return
			}
			moved, err := next.Accept()
			if err != nil {
				t.Fatal(err)
			}
			again := make([]byte, len(test.sent))
			if _, err := io.ReadFull(moved, again); err != nil || string(again) != test.sent {
				t.Errorf("got %q, %v, want what was sent", again, err)
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.WriteString(moved, "hello") }()
			answer := make([]byte, 5)
			if _, err := io.ReadFull(client, answer); err != nil {
				t.Errorf("after the first server closed it once more: %v", err)
			}
			if _, err := conn.Read(answer); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the first server reads: got %v, want net.ErrClosed", err)
			}
		})
	}
}
