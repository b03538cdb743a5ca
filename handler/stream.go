package handler

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// streamConn makes a net.Conn of the stream of a CONNECT over HTTP/2 or HTTP/3.
// It has no deadlines: one that passes ends a stream for good.
type streamConn struct {
	body   io.ReadCloser
	w      io.Writer
	ctrl   *http.ResponseController
	remote streamAddr
}

type streamAddr string

func (streamAddr) Network() string  { return "tcp" }
func (a streamAddr) String() string { return string(a) }

func (c *streamConn) Read(p []byte) (int, error) { return c.body.Read(p) }

func (c *streamConn) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, c.ctrl.Flush()
}

// lastWrite is how long a client may take to accept what a tunnel that has
// ended still has for it.
const lastWrite = 5 * time.Second

// Close ends the reads, and soon the writes; the stream itself ends when the
// handler returns.
func (c *streamConn) Close() error {
	return errors.Join(c.ctrl.SetReadDeadline(time.Unix(1, 0)),
		c.ctrl.SetWriteDeadline(time.Now().Add(lastWrite)), c.body.Close())
}

func (c *streamConn) LocalAddr() net.Addr              { return streamAddr("") }
func (c *streamConn) RemoteAddr() net.Addr             { return c.remote }
func (c *streamConn) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (c *streamConn) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }
func (c *streamConn) SetDeadline(time.Time) error      { return errors.ErrUnsupported }

// pipedStream is a stream behind a pipe. http.Server moves the read deadline to
// and fro between requests, which a pipe bears and a stream does not; and only
// the two copies touch the stream, so its handler knows when nobody does.
type pipedStream struct {
	net.Conn
	remote net.Addr
	copied chan struct{} // closed when the stream is not in use any more
}

func newPipedStream(stream *streamConn) *pipedStream {
	near, far := net.Pipe()
	c := &pipedStream{Conn: near, remote: stream.remote, copied: make(chan struct{})}
	up := make(chan struct{})
	go func() {
		defer close(up)
		_, _ = io.Copy(far, stream)
		_ = far.Close()
	}()
	go func() {
		defer close(c.copied)
		_, _ = io.Copy(stream, far)
		_, _ = far.Close(), stream.Close()
		<-up
	}()
	return c
}

func (c *pipedStream) RemoteAddr() net.Addr { return c.remote }
