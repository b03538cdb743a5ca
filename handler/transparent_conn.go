package handler

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starpod/caddy-starpod/tokens"
)

const (
	// maxHello bounds the bytes of a ClientHello: the message, which TLS
	// implementations limit to 64 kB, and the headers of its records.
	maxHello = 96 << 10

	// handshakeTimeout is how long the whole of a ClientHello may take.
	handshakeTimeout = time.Minute

	// silenceTimeout is how long a client may wait before it is taken for one
	// that waits for the server to begin, as those of SSH and SMTP do.
	silenceTimeout = 2 * time.Second

	// maxAnswer bounds the head of our server's answer to the CONNECT.
	maxAnswer = 64 << 10
)

// transparentConn is a connection that was dialled to somebody else, with a
// CONNECT in front of what its client sends unless that is HTTP. The server's
// answer to the CONNECT is kept from the client.
//
// Everything is found out in the first Read, so that the deadlines of the server
// count and nobody but this connection waits.
type transparentConn struct {
	net.Conn
	origin *origin

	sniffed bool
	head    []byte // what the server reads next: the CONNECT, and what was read to know

	deadline struct {
		sync.Mutex
		read time.Time // what the server wants
	}

	writing sync.Mutex
	answer  []byte // of the server, as far as it has come; nil once it is complete
	asked   atomic.Bool
	refused atomic.Bool
}

// LocalAddr is how the engine recognises the connection.
func (c *transparentConn) LocalAddr() net.Addr { return c.origin }

// CloseWrite is for half-closed tunnels.
func (c *transparentConn) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetDeadline is net.Conn's.
func (c *transparentConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline keeps what the server wants, for when sniffing has ended.
func (c *transparentConn) SetReadDeadline(t time.Time) error {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	c.deadline.read = t
	return c.Conn.SetReadDeadline(t)
}

// patience sets a deadline of our own unless the server's is sooner, and 0 only
// the server's.
func (c *transparentConn) patience(d time.Duration) error {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	until := c.deadline.read
	if own := time.Now().Add(d); d > 0 && (until.IsZero() || own.Before(until)) {
		until = own
	}
	return c.Conn.SetReadDeadline(until)
}

// Read gives the server the CONNECT, and then what the client sent.
func (c *transparentConn) Read(p []byte) (int, error) {
	if !c.sniffed {
		c.sniffed = true
		if err := c.sniff(); err != nil {
			return 0, err
		}
	}
	if c.refused.Load() {
		return 0, io.EOF // the rest is no second request
	}
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// sniff finds out what the client sends, and writes the CONNECT.
func (c *transparentConn) sniff() error {
	if err := c.patience(silenceTimeout); err != nil {
		return err
	}
	host, err := c.look()
	if err != nil {
		return err
	}
	if c.origin.content != contentHTTP {
		target := net.JoinHostPort(host, strconv.Itoa(int(c.origin.dialled.Port())))
		c.head = append([]byte("CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n"), c.head...)
		c.asked.Store(true)
	}
	return c.patience(0)
}

// look sets the origin's content and returns the host that it is for. The error
// is of a client that has gone.
func (c *transparentConn) look() (host string, err error) {
	o := c.origin
	for looking := true; looking; {
		var timeout net.Error
		switch err := c.more(); {
		case errors.As(err, &timeout) && timeout.Timeout():
			o.content, looking = contentOther, false
			if len(c.head) == 0 {
				o.content = contentSilence
			}
			continue
		case err != nil:
			return "", err
		}
		o.content = judge(c.head)
		looking = o.content == contentUnknown
	}
	if o.content != contentTLS {
		return o.host(), nil
	}
	name, err := c.serverName()
	if err != nil {
		o.content = contentOther
	}
	if name == "" {
		name = o.host()
	}
	return name, nil
}

// more reads what there is into head.
func (c *transparentConn) more() error {
	buffer := make([]byte, 4096)
	n, err := c.Conn.Read(buffer)
	c.head = append(c.head, buffer[:n]...)
	if n > 0 {
		return nil
	}
	return err
}

// judge tells TLS and HTTP by how they begin; contentUnknown if more is needed.
// An HTTP request begins with a method in capitals and a target in origin,
// absolute or asterisk form (RFC 9112, section 3). CONNECT is HTTP, to be refused
// as such; PRI begins HTTP/2 without TLS, which no client dares unasked.
func judge(head []byte) content {
	const longestMethod = 24
	if head[0] == recordTypeHandshake {
		return contentTLS
	}
	end := bytes.IndexFunc(head, func(c rune) bool { return (c < 'A' || c > 'Z') && c != '-' })
	switch {
	case end < 0 && len(head) <= longestMethod, end >= 0 && end == len(head)-1 && head[end] == ' ' && end > 0:
		return contentUnknown
	case end <= 0 || end > longestMethod || head[end] != ' ':
		return contentOther
	}
	switch method := string(head[:end]); {
	case method == "PRI":
		return contentOther
	case method == "CONNECT", bytes.IndexByte([]byte("/*hH"), head[end+1]) >= 0:
		return contentHTTP
	}
	return contentOther
}

// serverName reads the whole ClientHello into head and returns its server name,
// "" if there is none (RFC 6066, section 3).
func (c *transparentConn) serverName() (string, error) {
	if err := c.patience(handshakeTimeout); err != nil {
		return "", err
	}
	var hello *tls.ClientHelloInfo
	stop := errors.New("seen enough")
	err := tls.Server(&helloConn{Conn: c.Conn, from: c}, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			hello = h
			return nil, stop
		},
	}).Handshake()
	if hello == nil {
		return "", err
	}
	if hello.ServerName == "" {
		return "", nil
	}
	return tokens.CanonicalHost(hello.ServerName)
}

// helloConn lets crypto/tls read a ClientHello, and keeps it from answering.
type helloConn struct {
	net.Conn
	from *transparentConn
	read int // bytes of from.head that have been given
}

var errLongHello = errors.New("a ClientHello that is too long")

func (h *helloConn) Read(p []byte) (int, error) {
	if h.read == len(h.from.head) {
		if h.read > maxHello {
			return 0, errLongHello
		}
		if err := h.from.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, h.from.head[h.read:])
	h.read += n
	return n, nil
}

func (h *helloConn) Write(p []byte) (int, error) { return len(p), nil }
func (h *helloConn) Close() error                { return nil }

// Write passes on what is for the client: what follows a 200 to the CONNECT. Any
// other answer is one to our CONNECT, of which the client knows nothing.
func (c *transparentConn) Write(p []byte) (int, error) {
	if !c.asked.Load() {
		return c.Conn.Write(p)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.refused.Load() {
		return len(p), nil
	}
	c.answer = append(c.answer, p...)
	_, rest, complete := bytes.Cut(c.answer, []byte("\r\n\r\n"))
	if !complete && len(c.answer) <= maxAnswer {
		return len(p), nil
	}
	if !complete || !bytes.HasPrefix(c.answer, []byte("HTTP/1.1 200 ")) {
		c.refused.Store(true)
		c.sayDenied()
		return len(p), nil
	}
	c.answer = nil
	c.asked.Store(false)
	if len(rest) > 0 {
		if _, err := c.Conn.Write(rest); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// sayDenied tells a client of TLS why nothing comes: a fatal alert (RFC 8446,
// section 6).
func (c *transparentConn) sayDenied() {
	const fatal, accessDenied = 2, 49
	if c.origin.content == contentTLS {
		_, _ = c.Conn.Write([]byte{0x15, 3, 3, 0, 2, fatal, accessDenied})
	}
	_ = closeWrite(c.Conn)
}
