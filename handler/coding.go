package handler

import (
	"compress/zlib"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// codings are the content codings that can be undone.
var codings = map[string]func(io.Reader) (io.Reader, error){
	"gzip":    openGzip,
	"x-gzip":  openGzip,
	"deflate": openZlib,
	"br":      func(r io.Reader) (io.Reader, error) { return brotli.NewReader(r), nil },
	"zstd":    openZstd,
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

func openZlib(r io.Reader) (io.Reader, error) {
	decoder, err := zlib.NewReader(r)
	if err != nil {
		return nil, err
	}
	return decoder, nil
}

func openZstd(r io.Reader) (io.Reader, error) {
	decoder, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(decodeWindow))
	if err != nil {
		return nil, err
	}
	return decoder, nil
}

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
		open, known := codings[coding]
		if !known {
			return nil, refuseCoding("the coding " + quoteName(coding))
		}
		body = &decodedBody{Closer: body, encoded: body, open: open}
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

// decodeWindow bounds the memory that a zstd frame may ask for (RFC 8878,
// section 3.1.1.1.2, recommends support of 8 MiB).
const decodeWindow = 8 << 20

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
