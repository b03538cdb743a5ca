package handler

import (
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
)

// envelopes decodes the compressed messages of a stream of gRPC, gRPC-Web or
// Connect. Each message stands behind five bytes: flags, the lowest of which says
// that it is compressed, and a length of 32 bits in network order (gRPC over
// HTTP/2, "Length-Prefixed-Message"; Connect, "Streaming RPCs").
type envelopes struct {
	io.Closer
	source io.Reader
	open   func(io.Reader) (io.Reader, error)
	ready  []byte // to be passed on before anything else
	left   int64  // bytes of a plain message still in source
}

const (
	envelopeHead       = 5
	envelopeCompressed = 1

	// maxEnvelope is how long a compressed message may become, in bytes. It is
	// held whole, since its length comes first; gRPC's own limit is 4 MiB unless
	// the client raises it.
	maxEnvelope = 16 << 20
)

var errEnvelope = errors.New("a compressed message of the answer is too long to be looked into")

// plainEnvelopes undoes the compression of an answer's messages, if it has
// messages and they may be compressed. Servers compress an answer as the request
// was, even where they were told that the client reads plain ones only.
func plainEnvelopes(res *http.Response, body io.ReadCloser) (io.ReadCloser, error) {
	h, name := res.Header, messageCoding(res.Header)
	if name == "" {
		return body, nil
	}
	coding, known := codings[name]
	if !known {
		return nil, refuseCoding("messages in the coding " + quoteName(name))
	}
	h.Del("Grpc-Encoding")
	h.Del("Connect-Content-Encoding")
	h.Del("Content-Length")
	res.ContentLength = -1
	return &envelopes{Closer: body, source: body, open: coding.decode}, nil
}

// messageCoding returns the coding of an answer's messages, "" where they have
// none or there are none.
func messageCoding(h http.Header) string {
	name := ""
	switch media := mediaType(h); {
	case strings.HasPrefix(media, "application/connect+"):
		name = h.Get("Connect-Content-Encoding")
	case strings.HasPrefix(media, "application/grpc"):
		name = h.Get("Grpc-Encoding")
	}
	if name = strings.ToLower(name); name == "identity" {
		return ""
	}
	return name
}

// mediaType returns the media type of a message in lower case.
func mediaType(h http.Header) string {
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(media))
}

// Read implements io.Reader.
func (e *envelopes) Read(p []byte) (int, error) {
	if len(e.ready) == 0 && e.left == 0 {
		if err := e.next(); err != nil {
			return 0, err
		}
	}
	if len(e.ready) > 0 {
		n := copy(p, e.ready)
		e.ready = e.ready[n:]
		return n, nil
	}
	n, err := e.source.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	if err == io.EOF && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next reads the head of a message, and all of it if it is compressed.
func (e *envelopes) next() error {
	head := make([]byte, envelopeHead)
	if _, err := io.ReadFull(e.source, head); err != nil {
		return err
	}
	length := int64(binary.BigEndian.Uint32(head[1:]))
	if head[0]&envelopeCompressed == 0 {
		e.ready, e.left = head, length
		return nil
	}
	head[0] &^= envelopeCompressed
	encoded := &io.LimitedReader{R: e.source, N: length}
	message, err := e.decode(encoded, length)
	if err == nil && encoded.N > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(head[1:], uint32(len(message)))
	e.ready = append(head, message...)
	return nil
}

func (e *envelopes) decode(encoded io.Reader, length int64) ([]byte, error) {
	if length == 0 {
		return nil, nil
	}
	body := &decodedBody{Closer: io.NopCloser(nil), encoded: encoded, open: e.open}
	message, err := io.ReadAll(io.LimitReader(body, maxEnvelope+1))
	_ = body.Close()
	switch {
	case err != nil:
		return nil, err
	case len(message) > maxEnvelope:
		return nil, errEnvelope
	}
	// What a decoder leaves behind its end is of this message all the same.
	_, err = io.Copy(io.Discard, encoded)
	return message, err
}
