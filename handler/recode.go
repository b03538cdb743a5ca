package handler

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// Limits of what a coded request body may decode to.
const (
	// maxRatio is how many times its own length a body may decode to. Text does
	// not compress that well; what does was made to fill memory or disks.
	maxRatio = 200

	// freeDecoded is what any body may decode to, in bytes, whatever its length.
	freeDecoded = 16 << 20
)

// swapCoded swaps in a body with content codings. It is read whole first, since
// the original bytes go out unless there is something to swap in it.
func (f *forwarding) swapCoded(out *http.Request, form bodyForm, applied []string) error {
	length := out.ContentLength
	original := f.newSpool()
	if err := original.check(length); err != nil {
		return err
	}
	if _, err := io.Copy(original, clientReader{out.Body}); err != nil {
		return err
	}
	if err := original.complete(length); err != nil {
		return err
	}
	swapped, err := f.recode(out.Context(), original, form, applied)
	if err != nil {
		return err
	}
	if swapped == nil {
		replay(out, length, original.reader)
		return nil
	}
	if length < 0 {
		replay(out, -1, swapped)
		return nil
	}
	// The new length has to be known, and the encoders make the same of the
	// same each time.
	encoded := &counted{keep: f.proxy.Swap.BodyBuffer}
	if _, err := io.Copy(encoded, swapped()); err != nil {
		return err
	}
	if encoded.size <= encoded.keep {
		swapped = func() io.Reader { return bytes.NewReader(encoded.kept) }
	}
	replay(out, encoded.size, swapped)
	return nil
}

// recode looks into a body. swapped makes readers of the body with its tokens
// swapped; it is nil where nothing is to be changed.
func (f *forwarding) recode(ctx context.Context, original *spool, form bodyForm, applied []string) (swapped func() io.Reader, err error) {
	if original.size == 0 {
		return nil, nil
	}
	limit := decodedLimit{
		bytes:  min(f.proxy.Swap.MaxDecoded, max(freeDecoded, maxRatio*original.size)),
		option: f.proxy.Swap.MaxDecoded,
	}
	f.mu.Lock()
	noted := len(f.tokens)
	f.mu.Unlock()
	if err := f.awaitDecoding(ctx); err != nil {
		return nil, err
	}
	s := f.scanner(PlaceBody, form.form)
	plain, err := undo(original.reader(), applied, limit)
	if err == nil {
		defer plain.close()
		_, err = drain(ctx, form.reader(s, plain))
	}
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) || ctx.Err() != nil {
		return nil, err
	}
	if err != nil {
		// It goes out as it came, and so do the tokens that were met.
		f.mu.Lock()
		f.tokens = f.tokens[:noted]
		f.mu.Unlock()
		f.unscanned = "content coding that does not decode"
		return nil, nil
	}
	f.add(s.Result)
	if s.Result.Replaced+s.Result.Stripped == 0 {
		return nil, nil
	}
	encoders := plain.encoders
	return func() io.Reader {
		s := f.scanner(PlaceBody, form.form)
		s.OnToken = nil // noted when it was looked into
		plain, err := undo(original.reader(), applied, limit)
		if err != nil {
			return failedReader{err}
		}
		return redo(form.reader(s, plain), encoders, plain.close)
	}, nil
}

type failedReader struct{ error }

func (r failedReader) Read([]byte) (int, error) { return 0, r.error }

// decoded is a body without its codings.
type decoded struct {
	io.Reader
	encoders []func(io.Writer) (io.WriteCloser, error) // what was undone, the first applied first
	decoders []io.Reader
}

// close gives the decoders back. Nobody must read any more.
func (d *decoded) close() {
	for _, decoder := range d.decoders {
		switch decoder := decoder.(type) {
		case *zstd.Decoder:
			decoder.Close()
		case *brotli.Reader:
			brotliReaders.Put(decoder)
		}
	}
	d.decoders = nil
}

// undo decodes a body, the coding applied last first. Reading fails where one
// of the codings makes more than limit of it, or has bytes left at its end.
func undo(body io.Reader, applied []string, limit decodedLimit) (*decoded, error) {
	d := new(decoded)
	for _, name := range slices.Backward(applied) {
		c := codings[name]
		source := bufio.NewReaderSize(body, copyBuffer)
		decoder, err := c.decode(source)
		if err != nil {
			d.close()
			return nil, err
		}
		d.decoders = append(d.decoders, decoder)
		encode := c.encode
		if _, raw := decoder.(rawDeflate); raw {
			encode = writeDeflate
		}
		d.encoders = slices.Insert(d.encoders, 0, encode)
		body = &decodedWhole{decoder: decoder, source: source, limit: limit, left: limit.bytes}
	}
	d.Reader = body
	return d, nil
}

// decodedLimit is how much may come out of a decoder, in bytes.
type decodedLimit struct{ bytes, option int64 }

func (l decodedLimit) refusal() *Refusal {
	refusal := &Refusal{
		Status: http.StatusRequestEntityTooLarge, Rule: RuleDecoded,
		Reason: "the body decodes to more than 200 times its length", // maxRatio
		Mend:   "send it without a content coding",
	}
	if l.bytes == l.option {
		refusal.Reason = "the body decodes to more than the limit"
		refusal.Mend = "raise `max_decoded`, or send it without a content coding"
	}
	return refusal
}

var errBehindEnd = errors.New("bytes behind the end of a coded body")

// decodedWhole reads from a decoder and sees that it took all there was.
type decodedWhole struct {
	decoder io.Reader
	source  *bufio.Reader
	limit   decodedLimit
	left    int64
}

func (r *decodedWhole) Read(p []byte) (int, error) {
	n, err := r.decoder.Read(p)
	if r.left -= int64(n); r.left < 0 {
		return 0, r.limit.refusal()
	}
	if err == io.EOF {
		if _, peeked := r.source.Peek(1); peeked == nil {
			return n, errBehindEnd
		}
	}
	return n, err
}

// redo encodes what it reads, with the codings in the order given. close is
// called at the end.
func redo(plain io.Reader, encoders []func(io.Writer) (io.WriteCloser, error), close func()) io.Reader {
	for _, encode := range encoders {
		r := &encodedReader{source: plain, chunk: make([]byte, copyBuffer)}
		if r.encoder, r.err = encode(&r.out); r.err != nil {
			return failedReader{r.err}
		}
		plain = r
	}
	return &closingReader{plain, close}
}

// encodedReader encodes what it reads, in pieces of one size, whatever the
// source hands out: what encoders make depends on it.
type encodedReader struct {
	source  io.Reader
	encoder io.WriteCloser
	out     bytes.Buffer
	chunk   []byte
	err     error // what comes behind out
}

func (r *encodedReader) Read(p []byte) (int, error) {
	for r.out.Len() == 0 {
		if r.err != nil {
			return 0, r.err
		}
		n, err := io.ReadFull(r.source, r.chunk)
		if _, failed := r.encoder.Write(r.chunk[:n]); failed != nil {
			return 0, failed
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = io.EOF
			if failed := r.encoder.Close(); failed != nil {
				return 0, failed
			}
		}
		r.err = err
	}
	return r.out.Read(p)
}

// closingReader calls close with the first error, the end included.
type closingReader struct {
	io.Reader
	close func()
}

func (r *closingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && r.close != nil {
		r.close()
		r.close = nil
	}
	return n, err
}

// counted counts what is written, and keeps it while it is short.
type counted struct {
	size, keep int64
	kept       []byte
}

func (c *counted) Write(p []byte) (int, error) {
	if c.size += int64(len(p)); c.size <= c.keep {
		c.kept = append(c.kept, p...)
	} else {
		c.kept = nil
	}
	return len(p), nil
}
