package handler

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// What becomes of an answer is the same in directTransport and in http.Transport,
// but for what directDeviation lists.
func FuzzDirect(f *testing.F) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", "HTTP/1.1 200 OK\r\n\r\nuntil the end",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5;ext\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "HTTP/1.1 099 Early\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 000 None\r\n\r\n",
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\noka",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", "HTTP/1.1 200 OK\nX: a\n b\nContent-Length: 0\n\n", "HTTP/1.1 2000 OK\r\n\r\n",
		"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n", "\r\n", "",
	} {
		for shape := range uint8(32) {
			f.Add([]byte(answer), shape%7, uint16(shape)*900, shape)
		}
	}
	f.Fuzz(func(t *testing.T, answer []byte, method uint8, length uint16, shape uint8) {
		x := directExchange{
			answer: answer, length: int(length), unknown: shape&1 != 0, stream: shape&2 != 0, early: shape&4 != 0, unread: shape&8 != 0,
			method: []string{"GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "PATCH"}[method%7],
		}
		complete, rest := x.complete()
		x.stays = complete && shape&16 != 0
		if rest {
			// http.Transport finds what follows an answer at a time of its own.
			if got := x.direct(); x.stays && (got.Failed || got.Dials != 2) {
				t.Fatalf("%q has more behind its end: got %+v, want another connection for the next request", answer, got)
			}
			x.stays = false
		}
		got, want := x.direct(), x.standard()
		if reason := directDeviation(&got, &want); reason != "" {
			t.Log(reason)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s with %d bytes (%+v)\nof %q:\ngot  %+v\nwant %+v", x.method, length, x, answer, got, want)
		}
	})
}

// directDeviation makes equal what is meant to differ, and says why.
func directDeviation(got, want *directOutcome) string {
	switch {
	case want.Status == http.StatusSwitchingProtocols && got.Failed:
		*want = *got
		return "requests for another protocol do not come here, so nobody could use the connection"
	case want.Status < 100 && !want.Failed && got.Failed:
		*want = *got
		return "no status is below 100 (RFC 9110, section 15): ReverseProxy would panic as it passes it on"
	}
	return ""
}

// directExchange is a request and what comes back.
type directExchange struct {
	answer          []byte
	method          string
	length          int
	unknown, stream bool // the body's length; it cannot be had again
	early           bool // the answer begins before the request has ended
	unread          bool // the client closes the body
	stays           bool // the connection stays open behind the answer, and is asked again
}

// directOutcome is what a client has of it.
type directOutcome struct {
	Failed, Broken bool // before and in the body
	Status         int
	Proto          string
	Header         http.Header
	Length         int64
	Coding         []string
	Close          bool
	Body           string
	Trailer        http.Header
	Early          []directEarly
	Requests       []string // as they went over the wire
	Dials          int      // 2 if the connection was not used again
}

type directEarly struct {
	Status int
	Header textproto.MIMEHeader
}

func (x directExchange) request(ctx context.Context, url string) *http.Request {
	r, _ := http.NewRequestWithContext(ctx, x.method, url, nil)
	if x.length == 0 {
		return r
	}
	text := strings.Repeat("x", x.length)
	if !x.stream && !x.unknown {
		r, _ = http.NewRequestWithContext(ctx, x.method, url, strings.NewReader(text))
		return r
	}
	r.Body, r.ContentLength = io.NopCloser(struct{ io.Reader }{strings.NewReader(text)}), int64(x.length)
	if x.unknown {
		r.ContentLength = -1
	}
	return r
}

// complete tells whether the answer ends without an end of the connection, and
// whether something follows it.
func (x directExchange) complete() (complete, rest bool) {
	r := bufio.NewReader(bytes.NewReader(x.answer))
	request := x.request(context.Background(), "http://a.test/")
	for {
		res, err := http.ReadResponse(r, request)
		if err != nil {
			return false, false
		}
		switch {
		case res.StatusCode < 100 || res.StatusCode == http.StatusSwitchingProtocols: // see directDeviation
			return false, false
		case res.StatusCode/100 == 1:
			continue
		}
		_, err = io.Copy(io.Discard, res.Body)
		_, ending := r.Peek(1)
		open := res.Body != http.NoBody && res.ContentLength < 0 && len(res.TransferEncoding) == 0
		return err == nil && !open, ending == nil
	}
}

const directAgain = "HTTP/1.1 204 No Content\r\n\r\n"

func (x directExchange) direct() directOutcome {
	dialer := &answeringDialer{exchange: x}
	transport := &directTransport{dial: func(context.Context, Destination) (net.Conn, error) { return dialer.dial(), nil }}
	defer transport.idle.close()
	dest := Destination{Scheme: "http", Host: "a.test", Port: 80}
	return x.run(dialer, func(r *http.Request) (*http.Response, error) { return transport.RoundTrip(r, dest) })
}

func (x directExchange) standard() directOutcome {
	dialer := &answeringDialer{exchange: x}
	transport := &http.Transport{
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return dialer.dial(), nil },
		DisableCompression: true, WriteBufferSize: tlsRecord,
	}
	defer transport.CloseIdleConnections()
	return x.run(dialer, transport.RoundTrip)
}

// run makes the exchange, and another one if the connection may be there for it.
func (x directExchange) run(dialer *answeringDialer, roundTrip func(*http.Request) (*http.Response, error)) (got directOutcome) {
	defer dialer.close()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
		got.Early = append(got.Early, directEarly{status, header})
		return nil
	}})
	res, err := roundTrip(x.request(traced, "http://a.test/first"))
	if err != nil {
		got.Failed, got.Early = true, nil
		got.Dials = dialer.count()
		return got
	}
	got.Status, got.Proto, got.Header, got.Length, got.Coding, got.Close = res.StatusCode, res.Proto, res.Header, res.ContentLength, res.TransferEncoding, res.Close
	if !x.unread {
		body, err := io.ReadAll(res.Body)
		got.Body, got.Broken, got.Trailer = string(body), err != nil, res.Trailer
	}
	_ = res.Body.Close()
	if x.stays {
		again, _ := http.NewRequestWithContext(ctx, "GET", "http://a.test/again", nil)
		res, err := roundTrip(again)
		if got.Failed = err != nil || res.StatusCode != http.StatusNoContent; err == nil {
			_ = res.Body.Close()
		}
	}
	got.Requests, got.Dials = dialer.requests(), dialer.count()
	return got
}

// answeringDialer makes connections in memory to a destination that answers as the
// exchange says, and then with directAgain.
type answeringDialer struct {
	exchange directExchange
	mu       sync.Mutex
	conns    []*answeringConn
}

func (d *answeringDialer) dial() net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &answeringConn{answers: []string{directAgain}, early: d.exchange.early, ends: !d.exchange.stays}
	if len(d.conns) == 0 {
		c.answers = []string{string(d.exchange.answer), directAgain}
	}
	c.changed.L = &c.mu
	d.conns = append(d.conns, c)
	return c
}

func (d *answeringDialer) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// requests are those that were written to their ends.
func (d *answeringDialer) requests() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		c.mu.Lock()
		if !c.early { // else the client may have closed it before
			all = append(all, c.requests...)
		}
		c.mu.Unlock()
	}
	return all
}

func (d *answeringDialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		_ = c.Close()
	}
}

// answeringConn gives an answer for each request, as soon as it is whole, or has
// begun.
type answeringConn struct {
	net.Conn // nil
	early    bool
	ends     bool // behind the first answer

	mu       sync.Mutex
	changed  sync.Cond
	answers  []string
	wire     []byte // of the request that is coming
	given    bool   // it has its answer
	requests []string
	unread   string
	answered bool
	closed   bool
}

func (c *answeringConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	c.wire = append(c.wire, p...)
	if c.early {
		c.answer()
	}
	if whole(c.wire) {
		c.answer()
		c.requests = append(c.requests, string(c.wire))
		c.wire, c.given = nil, false
	}
	return len(p), nil
}

func (c *answeringConn) answer() {
	if c.given || len(c.answers) == 0 {
		return
	}
	c.unread += c.answers[0]
	c.answers = c.answers[1:]
	c.given, c.answered = true, true
	c.changed.Broadcast()
}

func (c *answeringConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.closed && c.unread == "" && !(c.ends && c.answered) {
		c.changed.Wait()
	}
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case c.unread == "":
		return 0, io.EOF
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

func (c *answeringConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.changed.Broadcast()
	return nil
}

func (c *answeringConn) SetReadDeadline(time.Time) error { return nil }

// whole tells whether text is a request to its end.
func whole(text []byte) bool {
	request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, request.Body)
	return err == nil
}
