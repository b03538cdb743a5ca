package testbench

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"hash"
	"io"
	"maps"
	"net/http"
	"strings"
)

// keepBytes is how much of a body, and of the bytes of a connection, is kept
// for comparison; size and hash always cover all of a body.
const keepBytes = 4 << 20

// Request is one request as the upstream received it.
type Request struct {
	Method string
	// Target is the request target as it was on the wire: the request line's
	// for HTTP/1, the :path for HTTP/2.
	Target   string
	Path     string // in front of the first "?", escapes untouched
	RawQuery string // behind it
	Host     string // Host or :authority
	Proto    string // "HTTP/1.1" or "HTTP/2.0"
	// ServerName is the SNI of the connection, empty for plain HTTP.
	ServerName string
	// Header has canonical names and no Host, as net/http gives it; Raw tells
	// the original spelling and order.
	Header http.Header
	// Trailer has what followed the body.
	Trailer http.Header
	// ContentLength is -1 where the request did not say.
	ContentLength    int64
	TransferEncoding []string

	Body       []byte // at most the first 4 MiB
	BodySize   int64
	BodySHA256 string // hex
	// BodyErr is what ended the body other than its end: a client that died.
	BodyErr error

	// Raw has the bytes of an HTTP/1 request exactly as received, from the
	// request line to the end of the body (at most the first 4 MiB of its
	// connection); nil for HTTP/2.
	Raw []byte
}

// recorder is the body of a request under way: it counts, hashes and keeps what
// the handler reads.
type recorder struct {
	io.ReadCloser
	got  *Request
	hash hash.Hash
}

func newRecorder(r *http.Request) *recorder {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	got := &Request{
		Method:           r.Method,
		Target:           r.RequestURI,
		Path:             path,
		RawQuery:         query,
		Host:             r.Host,
		Proto:            r.Proto,
		Header:           r.Header.Clone(),
		ContentLength:    r.ContentLength,
		TransferEncoding: r.TransferEncoding,
	}
	if state := tlsState(r.Context()); state != nil {
		got.ServerName = state.ServerName
	}
	return &recorder{ReadCloser: r.Body, got: got, hash: sha256.New()}
}

func (b *recorder) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.hash.Write(p[:n])
	b.got.BodySize += int64(n)
	if room := keepBytes - len(b.got.Body); room > 0 {
		b.got.Body = append(b.got.Body, p[:min(n, room)]...)
	}
	if err != nil && err != io.EOF {
		b.got.BodyErr = err
	}
	return n, err
}

// finish completes the record with what is known behind the body.
func (b *recorder) finish(r *http.Request) *Request {
	b.got.BodySHA256 = hex.EncodeToString(b.hash.Sum(nil))
	b.got.Trailer = maps.Clone(r.Trailer)
	if conn := connOf(r.Context()); conn != nil && r.ProtoMajor == 1 {
		b.got.Raw = conn.take()
	}
	return b.got
}

type connKey struct{}

func connOf(ctx context.Context) *recordedConn {
	conn, _ := ctx.Value(connKey{}).(*recordedConn)
	return conn
}

func tlsState(ctx context.Context) *tls.ConnectionState {
	if conn := connOf(ctx); conn != nil {
		return conn.state
	}
	return nil
}
