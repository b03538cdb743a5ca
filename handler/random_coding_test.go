package handler

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// randomCoding is a value of Content-Encoding and what it means, by libraries
// other than the product's where there are two.
type randomCoding struct {
	field  string
	encode func(io.Writer) (io.WriteCloser, error)
	decode func(io.Reader) (io.Reader, error)
}

var randomCodings = []randomCoding{
	{"gzip", toGzip, fromGzip},
	{"x-gzip", toGzip, fromGzip},
	{"GZip", toGzip, fromGzip},
	{"identity, gzip", toGzip, fromGzip},
	{"deflate", func(w io.Writer) (io.WriteCloser, error) { return zlib.NewWriter(w), nil },
		func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }},
	{"deflate", func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, 1) },
		func(r io.Reader) (io.Reader, error) { return flate.NewReader(r), nil }},
	{"br", func(w io.Writer) (io.WriteCloser, error) { return brotli.NewWriterLevel(w, 1), nil },
		func(r io.Reader) (io.Reader, error) { return brotli.NewReader(r), nil }},
	{"zstd", func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)) },
		func(r io.Reader) (io.Reader, error) {
			decoder, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
			if err != nil {
				return nil, err
			}
			return decoder.IOReadCloser(), nil
		}},
}

func toGzip(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }
func fromGzip(r io.Reader) (io.Reader, error)    { return gzip.NewReader(r) }
func (c *randomCoding) coded(tb testing.TB, text string) string {
	tb.Helper()
	if c == nil {
		return text
	}
	var out bytes.Buffer
	w, err := c.encode(&out)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		tb.Fatalf("encoding in %s: %v", c.field, err)
	}
	return out.String()
}

// plain decodes the body of a message that plainMessage made, and the length
// that goes with it.
func (c *randomCoding) plain(tb testing.TB, message string) string {
	tb.Helper()
	line, fields, body := splitPlain(message)
	rest := ""
	for i, field := range fields {
		switch {
		case strings.HasPrefix(field, "content-length: "):
			fields[i] = "content-length: of the coded body"
		case field == "transfer-encoding: chunked":
			end := strings.LastIndexByte(body, '|')
			body, rest = body[:end], body[end:]
		}
	}
	return joinPlain(line, fields, c.decoded(tb, body)+rest)
}

func (c *randomCoding) decoded(tb testing.TB, body string) string {
	tb.Helper()
	r, err := c.decode(strings.NewReader(body))
	if err != nil {
		tb.Fatalf("decoding %s: %v\nfor %.100q", c.field, err, body)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		tb.Fatalf("decoding %s: %v", c.field, err)
	}
	return string(text)
}
