package handler

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/starpod/caddy-starpod/tokens"
	"golang.org/x/net/http/httpguts"
)

// swapBody swaps in the body and keeps its framing: a body with a length leaves
// with a length, which has to be known before the first byte goes out, so it is
// read whole first (in memory, or spooled to disk as it came); a body without is
// streamed. A body is forwarded whole or not at all.
func (f *forwarding) swapBody(out *http.Request) error {
	if out.Body == nil || out.Body == http.NoBody || out.ContentLength == 0 {
		return nil
	}
	if !f.proxy.Swap.Scan.Has(PlaceBody) {
		return nil
	}
	applied := appliedCodings(out.Header)
	if why := unscannable(out.Header, applied); why != "" {
		f.unscanned = why
		return nil
	}
	form := formOf(out.Header.Get("Content-Type"))
	switch length := out.ContentLength; {
	case len(applied) > 0:
		return f.swapCoded(out, form, applied)
	case length < 0:
		f.streamBody(out, form)
		return nil
	case length <= f.proxy.Swap.BodyBuffer && f.reserve(2*length): // as it came, and swapped
		return f.bufferBody(out, form)
	default:
		return f.spoolBody(out, form)
	}
}

// unscannable says why a body cannot be looked into, "" if it can.
func unscannable(h http.Header, applied []string) string {
	for _, name := range applied {
		if _, known := codings[name]; !known {
			return "unknown content coding"
		}
	}
	if len(applied) > maxCodings {
		return "too many content codings"
	}
	media, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	switch {
	case strings.HasPrefix(media, "application/grpc"), strings.HasPrefix(media, "application/connect+"),
		media == "application/protobuf", media == "application/x-protobuf", media == "application/proto",
		media == "application/vnd.google.protobuf":
		return "length-prefixed messages"
	}
	return ""
}

// errBody marks an error of reading the client's body, which is not the
// destination's fault.
func errBody(err error) error {
	return &Refusal{
		Status: http.StatusBadRequest, Rule: RuleBody,
		Reason: "the request body broke off or is malformed", Err: err,
	}
}

// firstBuffer is what is allocated for a body before it has come, in bytes.
const firstBuffer = 64 << 10

func (f *forwarding) bufferBody(out *http.Request, form bodyForm) error {
	length := int(out.ContentLength)
	var original bytes.Buffer
	original.Grow(min(length, firstBuffer) + bytes.MinRead)
	// Reading meets the end, which makes HTTP/2 deliver its trailers.
	if _, err := original.ReadFrom(out.Body); err != nil {
		return errBody(err)
	}
	if original.Len() != length {
		return errBody(io.ErrUnexpectedEOF)
	}
	s := f.scanner(PlaceBody, form.form)
	swapped, err := form.bytes(s, original.Bytes())
	f.add(s.Result)
	if err != nil {
		return err
	}
	replay(out, int64(len(swapped)), func() io.Reader { return bytes.NewReader(swapped) })
	return nil
}

// replay gives the request a body that can be sent again, as the transport does
// when a pooled connection turns out to be closed.
func replay(out *http.Request, length int64, reader func() io.Reader) {
	out.ContentLength = length
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(reader()), nil }
	out.Body, _ = out.GetBody()
	if length == 0 {
		out.Body = http.NoBody
	}
}

// maxEdits is what the changes of a spooled body may take in memory, in bytes. One
// with more is looked through a second time.
const maxEdits = 16 << 10

func (f *forwarding) spoolBody(out *http.Request, form bodyForm) error {
	length := out.ContentLength
	original := f.newSpool()
	if err := original.check(length); err != nil {
		return err
	}
	// The swapped bytes are thrown away, and made again while they are sent.
	s := f.scanner(PlaceBody, form.form)
	s.Edits = &tokens.Edits{Limit: maxEdits}
	swapped, err := drain(out.Context(), form.reader(s, io.TeeReader(clientReader{out.Body}, original)))
	f.add(s.Result)
	if err != nil {
		return err
	}
	if err := original.complete(length); err != nil {
		return err
	}
	if s.Result.Replaced+s.Result.Stripped == 0 {
		replay(out, length, original.reader)
		return nil
	}
	if s.Edits.Complete() {
		replay(out, swapped, func() io.Reader { return s.Edits.Reader(original.readerAt(), length) })
		return nil
	}
	replay(out, swapped, func() io.Reader {
		again := f.scanner(PlaceBody, form.form)
		again.OnToken = nil // noted in the first pass
		return form.reader(again, original.reader())
	})
	return nil
}

// drain reads to the end, or of ctx, and returns how many bytes there were.
func drain(ctx context.Context, r io.Reader) (n int64, err error) {
	buffer := buffers.Get()
	defer buffers.Put(buffer)
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		m, err := r.Read(buffer)
		n += int64(m)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func (f *forwarding) streamBody(out *http.Request, form bodyForm) {
	s := f.scanner(PlaceBody, form.form)
	out.Body = &streamedBody{f: f, scanner: s, swapped: form.reader(s, clientReader{out.Body}), original: out.Body}
	out.GetBody = nil
}

// streamedBody counts the tokens of a streamed body at its end.
type streamedBody struct {
	f        *forwarding
	scanner  *tokens.Scanner
	swapped  io.Reader
	original io.Closer
	counted  bool
}

func (b *streamedBody) Read(p []byte) (int, error) {
	n, err := b.swapped.Read(p)
	if err != nil && !b.counted {
		b.counted = true
		b.f.add(b.scanner.Result)
	}
	return n, err
}

func (b *streamedBody) Close() error { return b.original.Close() }

// clientReader marks errors of the client's side, the end apart.
type clientReader struct{ io.Reader }

func (r clientReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = errBody(err)
	}
	return n, err
}

// swapTrailers arranges that the client's trailers, which are known when its
// body has been read to the end, follow the outgoing body with tokens swapped.
// HTTP/1 clients need not announce theirs.
func (f *forwarding) swapTrailers(out *http.Request) {
	if out.Body == nil || out.Body == http.NoBody || len(out.Trailer) == 0 && (f.in.ProtoMajor >= 2 || out.ContentLength >= 0) {
		return
	}
	trailer := make(http.Header, len(out.Trailer))
	for name := range out.Trailer {
		trailer[name] = nil
	}
	out.Trailer = trailer
	out.GetBody = nil // another body would come without them
	out.Body = &trailerBody{ReadCloser: out.Body, finish: func() error {
		swapped, err := f.swapFields(f.original.Trailer)
		if err != nil {
			return err
		}
		for name, values := range swapped {
			if httpguts.ValidTrailerHeader(name) {
				trailer[name] = values
			}
		}
		return nil
	}}
}

// trailerBody calls finish before it tells the end of the body.
type trailerBody struct {
	io.ReadCloser
	finish func() error
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && b.finish != nil {
		finish := b.finish
		b.finish = nil
		if failed := finish(); failed != nil {
			return n, failed
		}
	}
	return n, err
}
