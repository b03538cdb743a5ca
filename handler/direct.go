package handler

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// directTransport is a client of HTTP/1 that writes a request and reads its answer
// in the goroutine of its caller. http.Transport has two goroutines for each
// connection, and handing a request to them and its answer back costs more than
// parsing both. Both are net/http's here too (Request.Write, ReadResponse), so what
// goes over the wire is the same. A body that is not at hand takes a goroutine, as
// its answer may come before its end.
//
// http.Transport has what takes does not: changes of protocol, and Expect.
type directTransport struct {
	dial func(context.Context, Destination) (net.Conn, error)
	tls  *tls.Config
	idle idlePool
}

const (
	// atHand is how long a body in memory may be, in bytes, that is written before
	// the answer is read: it has to find room in the socket's buffer.
	atHand = 16 << 10

	// maxResponseHeader bounds the header of an answer with the early answers
	// before it, in bytes, as http.Transport does.
	maxResponseHeader = 10 << 20

	// longBody is how much of an answer has to have come, in bytes, before more of it
	// is read than is asked for.
	longBody = 4 * tlsRecord

	// lastWords is how long an answer may take when its request could not be written
	// to the end, and lastWrites how long that may take when the answer has ended.
	lastWords  = time.Second
	lastWrites = 50 * time.Millisecond
)

// takes reports whether req is one for this client.
func (t *directTransport) takes(req *http.Request) bool {
	if req.Close || req.Header["Upgrade"] != nil || req.Header["Expect"] != nil {
		return false
	}
	return canLook || replayable(req)
}

// writtenFirst reports whether req is written before its answer is read.
func writtenFirst(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil && req.ContentLength > 0 && req.ContentLength <= atHand
}

// RoundTrip sends req to dest. The caller reads the answer's body to its end, or
// closes it.
func (t *directTransport) RoundTrip(req *http.Request, dest Destination) (*http.Response, error) {
	if err := checkOutgoing(req); err != nil {
		return nil, err
	}
	if conn := t.idle.take(dest); conn != nil {
		res, err := conn.exchange(req)
		if err == nil || !conn.unused(req) || req.Context().Err() != nil {
			return res, err
		}
		// It was closed at the other end while it was idle.
		if req, err = rewound(req); err != nil {
			return nil, err
		}
	}
	conn, err := t.connect(req.Context(), dest)
	if err != nil {
		return nil, err
	}
	return conn.exchange(req)
}

// checkOutgoing refuses what must not be written: net/http leaves this to its
// Transport.
func checkOutgoing(req *http.Request) error {
	if !httpguts.ValidHeaderFieldName(req.Method) { // both are tokens (RFC 9110, section 5.6.2)
		return errors.New("the method is not a token")
	}
	for name, values := range req.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("the header name %s is malformed", quoteName(name))
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return fmt.Errorf("the value of header %s is malformed", name) // which may be secret
			}
		}
	}
	return nil
}

// replayable reports whether sending req twice is as good as once (RFC 9110,
// section 9.2.2), or its client says that it is, as http.Transport judges it.
func replayable(req *http.Request) bool {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return len(req.Header["Idempotency-Key"]) > 0 || len(req.Header["X-Idempotency-Key"]) > 0
}

// rewound returns req with its body from the start.
func rewound(req *http.Request) (*http.Request, error) {
	if req.GetBody == nil {
		return req, nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	again := *req
	again.Body = body
	return &again, nil
}

// connect dials, and verifies who answers.
func (t *directTransport) connect(ctx context.Context, dest Destination) (*directConn, error) {
	raw, err := t.dial(ctx, dest)
	if err != nil {
		return nil, err
	}
	c := &directConn{pool: &t.idle, dest: dest, raw: raw, conn: raw}
	if dest.Scheme == "https" {
		config := t.tls.Clone()
		config.ServerName, config.NextProtos = dest.Host, []string{"http/1.1"}
		c.batcher = &batcher{Conn: raw}
		secure := tls.Client(c.batcher, config)
		ctx, cancel := context.WithTimeout(ctx, upstreamHandshake)
		defer cancel()
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, err
		}
		c.conn = secure
	}
	c.reader = bufio.NewReader(c)
	return c, nil
}

// directConn is a connection to a destination. One exchange uses it at a time.
type directConn struct {
	pool    *idlePool
	dest    Destination
	raw     net.Conn
	conn    net.Conn // raw, or the TLS on it
	batcher *batcher // between the two, else nil
	reader  *bufio.Reader
	left    int64 // how much header may still come, in bytes; 0 while there is no limit
	since   time.Time

	// Of the exchange under way.
	writing *requestWriting // nil where the request is written first
	wrote   atomic.Bool     // something of the request
	heard   atomic.Bool     // something of its answer
}

// Read reads from the destination, for the reader.
func (c *directConn) Read(p []byte) (int, error) {
	if c.left == 0 && c.batcher != nil {
		return c.batcher.read(c.conn, p)
	}
	if c.left == 0 {
		return c.conn.Read(p)
	}
	if c.left == 1 {
		return 0, errors.New("the header of the answer is too long")
	}
	if int64(len(p)) >= c.left {
		p = p[:c.left-1]
	}
	n, err := c.conn.Read(p)
	c.left -= int64(n)
	return n, err
}

// Write writes to the destination, for the request.
func (c *directConn) Write(p []byte) (n int, err error) {
	if c.batcher != nil && len(p) > tlsRecord {
		n, err = c.batcher.write(c.conn, p)
	} else {
		n, err = c.conn.Write(p)
	}
	if n > 0 {
		c.wrote.Store(true)
	}
	return n, err
}

// unused reports whether a failed exchange can be tried on another connection: the
// destination has seen nothing of it, or it does no harm to send it again; and its
// body is there once more.
func (c *directConn) unused(req *http.Request) bool {
	whole := req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
	return whole && (!c.wrote.Load() || !c.heard.Load() && replayable(req))
}

// exchange writes req and reads the answer up to its body. The connection is closed
// when that fails, or req's context ends.
func (c *directConn) exchange(req *http.Request) (*http.Response, error) {
	c.wrote.Store(false)
	c.heard.Store(false)
	ctx := req.Context()
	stop := context.AfterFunc(ctx, func() { _ = c.raw.Close() })
	res, err := c.send(req)
	if err != nil {
		stop()
		_ = c.raw.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	body := &directBody{ReadCloser: res.Body, ctx: ctx, conn: c, stop: stop, last: res.Close}
	if res.Body == http.NoBody {
		body.end(true)
		return res, nil
	}
	res.Body = body
	return res, nil
}

func (c *directConn) send(req *http.Request) (*http.Response, error) {
	c.writing = nil
	if writtenFirst(req) {
		if err := c.write(req); err != nil {
			return nil, err
		}
		return c.receive(req)
	}
	w := &requestWriting{done: make(chan struct{})}
	c.writing = w
	body := &bodyErrors{ReadCloser: req.Body}
	out := *req
	out.Body = body
	go func() {
		defer close(w.done)
		if w.err = c.write(&out); w.err == nil {
			return
		}
		if w.ofBody = body.seen(); w.ofBody != nil {
			_ = c.raw.Close() // the destination must not take a part for the whole
			return
		}
		// It may have answered before it closed the connection.
		_ = c.raw.SetReadDeadline(time.Now().Add(lastWords))
	}()
	res, err := c.receive(req)
	if err == nil {
		return res, nil
	}
	_ = c.raw.Close()
	if w.over() && w.ofBody != nil {
		err = w.ofBody
	}
	return nil, err
}

// requestWriting is a request that is written while its answer is awaited.
type requestWriting struct {
	done   chan struct{}
	err    error // known when done is closed
	ofBody error // of reading the body, not of writing it
}

// over waits for the end of the writing, for a moment.
func (w *requestWriting) over() bool {
	timer := time.NewTimer(lastWrites)
	defer timer.Stop()
	select {
	case <-w.done:
		return true
	case <-timer.C:
		return false
	}
}

// bodyErrors remembers what went wrong when a body was read: Request.Write may
// return while its probe of the body, a goroutine of its own, still reads.
type bodyErrors struct {
	io.ReadCloser
	err atomic.Pointer[error]
}

func (b *bodyErrors) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.err.Store(&err)
	}
	return n, err
}

// seen returns what went wrong, or nil.
func (b *bodyErrors) seen() error {
	if err := b.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (c *directConn) write(req *http.Request) error {
	pool := &writers
	if c.writing != nil {
		pool = &bodyWriters
	}
	w := pool.Get().(*bufio.Writer)
	w.Reset(c)
	err := req.Write(w)
	if err == nil {
		err = w.Flush()
	}
	w.Reset(nil)
	pool.Put(w)
	return err
}

// receive reads early answers, which it hands on, and the header of the final one.
func (c *directConn) receive(req *http.Request) (*http.Response, error) {
	c.left = maxResponseHeader
	defer func() { c.left = 0 }()
	if _, err := c.reader.Peek(1); err != nil {
		return nil, err
	}
	c.heard.Store(true)
	trace := httptrace.ContextClientTrace(req.Context())
	for {
		res, err := http.ReadResponse(c.reader, req)
		switch {
		case err != nil:
			return nil, err
		case res.StatusCode == http.StatusSwitchingProtocols:
			return nil, errors.New("the answer changes to a protocol that nobody asked for")
		case res.StatusCode < 100: // no early answer: nothing would follow it
			return nil, fmt.Errorf("the status of the answer is %03d", res.StatusCode)
		case res.StatusCode >= 200:
			return res, nil
		}
		if trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header)); err != nil {
				return nil, err
			}
		}
	}
}

// writers are shared by all connections: between requests none needs one. Those for
// bodies hold what four reads of a body bring.
var (
	writers     = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, tlsRecord) }}
	bodyWriters = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 4*tlsRecord) }}
)

// directBody is the body of an answer. With its end the connection is free for the
// next exchange.
type directBody struct {
	io.ReadCloser
	ctx  context.Context
	conn *directConn
	stop func() bool
	last bool        // the connection ends with this answer
	read int         // bytes
	over error       // what ended the reading
	done atomic.Bool // a Close may come beside a Read, see maskReader.wait
}

func (b *directBody) Read(p []byte) (int, error) {
	if b.over != nil {
		return 0, b.over
	}
	if b.done.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.ReadCloser.Read(p)
	if b.read += n; b.read > longBody && b.conn.batcher != nil {
		b.conn.batcher.ahead.Store(true)
	}
	if err == nil {
		return n, nil
	}
	b.end(err == io.EOF)
	if err != io.EOF && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	b.over = err
	return n, err
}

// Close ends the connection with a body that has not been read to its end. net/http
// would read the rest.
func (b *directBody) Close() error {
	b.end(false)
	return nil
}

// end puts the connection back, or closes it, the first time it is called.
func (b *directBody) end(whole bool) {
	if !b.done.CompareAndSwap(false, true) {
		return
	}
	if b.stop() && whole && !b.last && b.conn.free() {
		b.conn.pool.put(b.conn)
		return
	}
	_ = b.conn.raw.Close()
}

// free reports whether an exchange whose answer has ended has ended itself.
func (c *directConn) free() bool {
	w := c.writing
	if c.reader.Buffered() > 0 || w != nil && (!w.over() || w.err != nil) {
		return false
	}
	return c.batcher == nil || c.batcher.rest(c.conn)
}
