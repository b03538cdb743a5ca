package handler

import (
	"bufio"
	"encoding/binary"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// coding is a content coding that can be undone and done again.
type coding struct {
	decode func(io.Reader) (io.Reader, error)
	encode func(io.Writer) (io.WriteCloser, error)
}

var codings = map[string]coding{
	"gzip":    {openGzip, writeGzip},
	"x-gzip":  {openGzip, writeGzip},
	"deflate": {openDeflate, writeZlib},
	"br":      {openBrotli, writeBrotli},
	"zstd":    {openZstd, writeZstd},
}

// The decoders' own functions return a nil pointer with their error, which would
// not be a nil io.Reader.

func openGzip(r io.Reader) (io.Reader, error) {
	decoder, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	return decoder, nil
}

// rawDeflate is a decoder of DEFLATE without the zlib format around it.
type rawDeflate struct{ io.Reader }

// openDeflate takes the zlib format, which "deflate" means (RFC 9110, section
// 8.4.1.2), and the bare DEFLATE that many send under this name.
func openDeflate(r io.Reader) (io.Reader, error) {
	source, ok := r.(*bufio.Reader)
	if !ok {
		source = bufio.NewReader(r)
	}
	head, err := source.Peek(2)
	if err != nil {
		return nil, err
	}
	// RFC 1950, section 2.2: the method is 8, the check bits make a multiple of 31.
	if head[0]&0xf != 8 || binary.BigEndian.Uint16(head)%31 != 0 {
		return rawDeflate{flate.NewReader(source)}, nil
	}
	decoder, err := zlib.NewReader(source)
	if err != nil {
		return nil, err
	}
	return decoder, nil
}

// brotliReaders wait for reuse, for their windows are large (16 MiB, RFC 7932,
// section 9.1). What has read values does not come back here.
var brotliReaders = sync.Pool{New: func() any { return new(brotli.Reader) }}

func openBrotli(r io.Reader) (io.Reader, error) {
	decoder := brotliReaders.Get().(*brotli.Reader)
	return decoder, decoder.Reset(r)
}

func openZstd(r io.Reader) (io.Reader, error) {
	decoder, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(decodeWindow))
	if err != nil {
		return nil, err
	}
	return decoder, nil
}

func writeGzip(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }
func writeZlib(w io.Writer) (io.WriteCloser, error) { return zlib.NewWriter(w), nil }
func writeDeflate(w io.Writer) (io.WriteCloser, error) {
	return flate.NewWriter(w, flate.DefaultCompression)
}

func writeBrotli(w io.Writer) (io.WriteCloser, error) {
	return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: 4, LGWin: 18}), nil
}

func writeZstd(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(encodeWindow))
}

const (
	// decodeWindow bounds the memory that a zstd frame may ask for (RFC 8878,
	// section 3.1.1.1.2, recommends support of 8 MiB).
	decodeWindow = 8 << 20

	// encodeWindow is what our own frames ask for.
	encodeWindow = 1 << 20
)

// appliedCodings returns the content codings of a message in the order in which
// they were applied (RFC 9110, section 8.4), identity left out.
func appliedCodings(h http.Header) []string {
	var applied []string
	for _, field := range h.Values("Content-Encoding") {
		for coding := range strings.SplitSeq(field, ",") {
			if coding = strings.ToLower(strings.TrimSpace(coding)); coding != "" && coding != "identity" {
				applied = append(applied, coding)
			}
		}
	}
	return applied
}

// maxCodings is how many codings one on top of the other are undone.
const maxCodings = 3

// decode undoes content codings, the last first. An answer in one that is not
// known is an error: it could not be looked into.
func decode(body io.ReadCloser, applied []string) (io.ReadCloser, error) {
	if len(applied) > maxCodings {
		return nil, refuseCoding("more than three codings")
	}
	for _, coding := range slices.Backward(applied) {
		c, known := codings[coding]
		if !known {
			return nil, refuseCoding("the coding " + quoteName(coding))
		}
		body = &decodedBody{Closer: body, encoded: body, open: c.decode}
	}
	return body, nil
}

func refuseCoding(what string) error {
	return &Refusal{
		Status: http.StatusBadGateway, Rule: RuleCoding,
		Reason: "the answer came in " + what + ", which cannot be looked into, though plain text was asked for",
		Mend:   "set `mask_responses off` if answers of this host may repeat the value",
	}
}

// decodedBody opens the decoder with the first read, since decoders read ahead
// and the header of the answer must not wait for that.
type decodedBody struct {
	io.Closer
	encoded io.Reader
	open    func(io.Reader) (io.Reader, error)

	mu      sync.Mutex // a Close may come beside a Read, see maskReader.wait
	decoder io.Reader
	closed  bool
}

func (b *decodedBody) Read(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.decoder == nil {
		if b.decoder, err = b.open(b.encoded); err != nil {
			return 0, err
		}
	}
	return b.decoder.Read(p)
}

func (b *decodedBody) Close() error {
	err := b.Closer.Close() // which ends a Read that waits
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if decoder, ok := b.decoder.(*zstd.Decoder); ok {
		decoder.Close()
	}
	return err
}
