package handler

import (
	"compress/zlib"
	"io"
	"net/http"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maskCache keeps the mask of a request for as long as no token is added.
type maskCache struct {
	mask  *mask
	count int // tokens and credentials it was made of
}

// currentMask returns what must not come back in the answer; nil if nothing.
func (f *forwarding) currentMask() *mask {
	if f.proxy.Swap.Unmasked {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.tokens) + len(f.credentials); n != f.masked.count {
		f.masked = maskCache{newMask(f.tokens, f.credentials), n}
	}
	return f.masked.mask
}

// askPlain asks for an answer that can be looked into, where there is something
// to look for.
func (f *forwarding) askPlain(out *http.Request) {
	if _, asks := out.Header["Accept-Encoding"]; asks && f.currentMask() != nil {
		out.Header = out.Header.Clone()
		out.Header.Set("Accept-Encoding", "identity")
	}
}

// maskResponse hides in an answer what was put into the request. An answer that
// is compressed all the same is decoded first.
func (f *forwarding) maskResponse(res *http.Response) {
	m := f.currentMask()
	streaming := f.in.ContentLength < 0 // more tokens may come while the answer is under way
	if m == nil && !streaming {
		return
	}
	if m != nil {
		m.header(res.Header)
	}
	if res.Body == nil || res.Body == http.NoBody || res.StatusCode == http.StatusSwitchingProtocols {
		return
	}
	body := res.Body
	if m != nil && f.in.Method != http.MethodHead {
		if decoded := decode(body, res.Header.Get("Content-Encoding")); decoded != body {
			body = decoded
			res.Header.Del("Content-Encoding")
			res.Header.Del("Content-Length")
			res.ContentLength = -1
		}
	}
	res.Body = &maskedTrailers{ReadCloser: newMaskReader(body, f.currentMask), f: f, res: res}
}

// maskedTrailers masks the trailers when the body has ended.
type maskedTrailers struct {
	io.ReadCloser
	f   *forwarding
	res *http.Response
}

func (b *maskedTrailers) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		if m := b.f.currentMask(); m != nil {
			m.header(b.res.Trailer)
		}
	}
	return n, err
}

// codings are the content codings that can be undone.
var codings = map[string]func(io.Reader) (io.Reader, error){
	"gzip":    func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	"x-gzip":  func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	"deflate": func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) },
	"br":      func(r io.Reader) (io.Reader, error) { return brotli.NewReader(r), nil },
	"zstd": func(r io.Reader) (io.Reader, error) {
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(decodeWindow))
	},
}

// decodeWindow bounds the memory that a zstd frame may ask for (RFC 8878,
// section 3.1.1.1.2, recommends support of 8 MiB).
const decodeWindow = 8 << 20

// decode undoes a content coding; a body in an unknown one is returned as it is.
func decode(body io.ReadCloser, coding string) io.ReadCloser {
	open, known := codings[strings.ToLower(strings.TrimSpace(coding))]
	if !known {
		return body
	}
	return &decodedBody{Closer: body, encoded: body, open: open}
}

// decodedBody opens the decoder with the first read, since decoders read ahead
// and the header of the answer must not wait for that.
type decodedBody struct {
	io.Closer
	encoded io.Reader
	open    func(io.Reader) (io.Reader, error)
	decoder io.Reader
}

func (b *decodedBody) Read(p []byte) (n int, err error) {
	if b.decoder == nil {
		if b.decoder, err = b.open(b.encoded); err != nil {
			return 0, err
		}
	}
	return b.decoder.Read(p)
}

func (b *decodedBody) Close() error {
	if decoder, ok := b.decoder.(*zstd.Decoder); ok {
		decoder.Close()
	}
	return b.Closer.Close()
}
