package handler

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/starpod/caddy-starpod/tokens"
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
	if why := unscannable(out.Header); why != "" {
		f.unscanned = why
		return nil
	}
	form := formOf(out.Header.Get("Content-Type"))
	switch length := out.ContentLength; {
	case length < 0:
		f.streamBody(out, form)
		return nil
	case length <= f.proxy.Swap.BodyBuffer:
		return f.bufferBody(out, form)
	case length > f.proxy.Swap.MaxSpool:
		return &Refusal{
			Status: http.StatusRequestEntityTooLarge, Rule: RuleSpool,
			Reason: fmt.Sprintf("a body of %d bytes is over the limit of %d", length, f.proxy.Swap.MaxSpool),
			Mend:   "raise `max_spool`, or send the body chunked, which is streamed",
		}
	default:
		return f.spoolBody(out, form)
	}
}

// unscannable says why a body cannot be looked into, "" if it can.
func unscannable(h http.Header) string {
	for _, value := range h.Values("Content-Encoding") {
		if value = strings.TrimSpace(value); value != "" && !strings.EqualFold(value, "identity") {
			return "content coding"
		}
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

// formOf tells how values are written in a body of this media type.
func formOf(contentType string) tokens.Form {
	media, _, _ := mime.ParseMediaType(contentType)
	switch {
	case media == "application/x-www-form-urlencoded":
		return tokens.Percent
	case strings.HasSuffix(media, "/json"), strings.HasSuffix(media, "+json"),
		media == "application/x-ndjson", media == "application/jsonl", media == "application/json-seq":
		return tokens.JSON
	case strings.HasSuffix(media, "/xml"), strings.HasSuffix(media, "+xml"):
		return tokens.XML
	}
	return tokens.Raw
}

// errBody marks an error of reading the client's body, which is not the
// destination's fault.
func errBody(err error) error {
	return &Refusal{
		Status: http.StatusBadRequest, Rule: RuleBody,
		Reason: "the request body broke off or is malformed", Err: err,
	}
}

func (f *forwarding) bufferBody(out *http.Request, form tokens.Form) error {
	original := make([]byte, out.ContentLength)
	if _, err := io.ReadFull(out.Body, original); err != nil {
		return errBody(err)
	}
	// One more read meets the end, which makes HTTP/2 deliver its trailers.
	if n, err := out.Body.Read(make([]byte, 1)); n > 0 || err != nil && err != io.EOF {
		return errBody(fmt.Errorf("after the last byte: %w", err))
	}
	s := f.scanner(PlaceBody, form)
	swapped, err := s.Bytes(original)
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

func (f *forwarding) spoolBody(out *http.Request, form tokens.Form) error {
	original := out.ContentLength
	all := f.proxy.spooled.Add(original)
	f.cleanup = append(f.cleanup, func() { f.proxy.spooled.Add(-original) })
	if all > f.proxy.Swap.MaxSpool {
		return &Refusal{
			Status: http.StatusServiceUnavailable, Rule: RuleSpool,
			Reason: fmt.Sprintf("the bodies under way would take more than the limit of %d bytes", f.proxy.Swap.MaxSpool),
			Mend:   "try again when others have ended, raise `max_spool`, or send the body chunked, which is streamed",
		}
	}
	spooled := newSpool(f.proxy.Swap)
	f.cleanup = append(f.cleanup, spooled.close)
	s := f.scanner(PlaceBody, form)
	length, err := spooled.fill(out.Body, out.ContentLength, s)
	f.add(s.Result)
	if err != nil {
		return err
	}
	if s.Result.Replaced+s.Result.Stripped == 0 {
		replay(out, out.ContentLength, spooled.reader)
		return nil
	}
	replay(out, length, func() io.Reader {
		again := f.scanner(PlaceBody, form)
		again.OnToken = nil // noted in the first pass
		return again.Reader(spooled.reader())
	})
	return nil
}

func (f *forwarding) streamBody(out *http.Request, form tokens.Form) {
	s := f.scanner(PlaceBody, form)
	out.Body = &streamedBody{f: f, scanner: s, swapped: s.Reader(clientReader{out.Body}), original: out.Body}
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
func (f *forwarding) swapTrailers(out *http.Request) {
	if len(out.Trailer) == 0 || out.Body == nil {
		return
	}
	trailer := make(http.Header, len(out.Trailer))
	for name := range out.Trailer {
		trailer[name] = nil
	}
	out.Trailer = trailer
	out.Body = &trailerBody{ReadCloser: out.Body, finish: func() error {
		swapped, err := f.swapFields(f.in.Trailer)
		if err != nil {
			return err
		}
		for name := range trailer {
			trailer[name] = swapped[name]
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
