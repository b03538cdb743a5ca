package handler

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/gobwas/ws"
)

// frames follows one direction of a WebSocket (RFC 6455, section 5) and lets
// hooks alter what is in it. It judges nothing that the ends can judge: reserved
// opcodes and bits, text that is not UTF-8, messages out of turn all pass.
//
// A frame up to limit is held until it is whole and leaves as one frame with the
// same opcode and bits; a longer one leaves in fragments as it comes, which
// section 5.4 permits where no extension is in use. A frame that came masked
// leaves under another key: whoever chooses the payload must not know the bytes
// on the wire (section 10.3).
type frames struct {
	hooks  frameHooks
	limit  int64      // bytes of payload
	memory *allowance // what frames are held from; nil for any

	head    []byte // of a header that has not arrived whole
	reader  bytes.Reader
	writer  headerWriter
	scratch [ws.MaxHeaderSize]byte
	open    bool      // a frame is under way
	whole   bool      // it is held until it has come
	frame   ws.Header // its header; for a long one that of the next fragment
	fin     bool      // what the frame itself said
	message ws.OpCode // opcode of the first frame of the message
	inside  bool      // that message has not ended
	left    int64     // payload still to come
	offset  int       // payload read, modulo the length of a key
	held    []byte    // payload read and not handed on
	altered []byte    // what the hook made of it
}

// frameHooks see payloads, unmasked and in order.
type frameHooks interface {
	// data appends to dst what becomes of the next piece of a message. It may
	// hold bytes back until final, which the last piece of a message has.
	// opcode is that of the message's first frame.
	data(dst, payload []byte, opcode ws.OpCode, final bool) ([]byte, error)

	// control alters the payload of a control frame in place.
	control(payload []byte)
}

// errFrame is wrapped by errors about frames that cannot be followed.
var errFrame = errors.New("not a WebSocket frame")

// keptBuffer is how large a buffer may be that waits for the next frame, in
// bytes; an idle connection shall not hold its longest message.
const keptBuffer = 64 << 10

// append takes the next bytes off the wire, however they are cut, and appends
// to dst what is settled, which is whole frames. After an error the direction
// can be followed no further; what is in dst by then is settled all the same.
func (f *frames) append(dst, p []byte) (_ []byte, err error) {
	for {
		if !f.open {
			if p, err = f.begin(p); err != nil || !f.open {
				return dst, err
			}
		}
		n := int(min(f.left, int64(len(p))))
		f.read(p[:n])
		p = p[n:]
		if f.left > 0 {
			return f.fragment(dst)
		}
		if dst, err = f.end(dst); err != nil {
			return dst, err
		}
	}
}

// begin reads a header and returns the rest of p. The frame is not open where
// the header goes on in what follows p.
func (f *frames) begin(p []byte) (rest []byte, err error) {
	before := len(f.head)
	f.head = append(f.head, p[:min(len(p), ws.MaxHeaderSize-before)]...)
	f.reader.Reset(f.head)
	h, err := ws.ReadHeaderBuffer(&f.reader, f.scratch[:])
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errFrame, err)
	case h.OpCode.IsControl() && h.Length > ws.MaxControlFramePayloadSize:
		// Nobody could hold it whole, and it has no fragments (section 5.5).
		return nil, fmt.Errorf("%w: a control frame of %d bytes", errFrame, h.Length)
	}
	rest = p[len(f.head)-f.reader.Len()-before:]
	f.head = f.head[:0]
	f.open, f.frame, f.fin, f.left, f.offset = true, h, h.Fin, h.Length, 0
	if h.OpCode.IsData() && !f.inside {
		f.inside, f.message = true, h.OpCode
	}
	f.whole = h.OpCode.IsControl() || h.Length <= f.limit &&
		(h.Length <= keptBuffer || f.memory.reserve(2*h.Length)) // as it came, and altered
	return rest, nil
}

// read takes payload in.
func (f *frames) read(p []byte) {
	start := len(f.held)
	f.held = append(f.held, p...)
	if f.frame.Masked {
		ws.Cipher(f.held[start:], f.frame.Mask, f.offset)
		f.offset = (f.offset + len(p)) % len(f.frame.Mask)
	}
	f.left -= int64(len(p))
}

// fragment hands on what there is of a frame that is too long to be held.
func (f *frames) fragment(dst []byte) (_ []byte, err error) {
	if len(f.held) == 0 || f.whole {
		return dst, nil
	}
	f.altered, err = f.hooks.data(f.altered[:0], f.held, f.message, false)
	f.held = f.held[:0]
	if err != nil || len(f.altered) == 0 {
		return dst, err
	}
	f.frame.Fin = false
	dst = f.write(dst, f.altered)
	f.frame.OpCode, f.frame.Rsv = ws.OpContinuation, 0
	return dst, nil
}

// end hands on a frame, or its last fragment.
func (f *frames) end(dst []byte) (_ []byte, err error) {
	payload := f.held
	f.open, f.frame.Fin = false, f.fin
	if f.frame.OpCode.IsControl() {
		f.hooks.control(payload)
	} else {
		f.altered, err = f.hooks.data(f.altered[:0], payload, f.message, f.fin)
		if err != nil {
			return dst, err
		}
		payload, f.inside = f.altered, !f.fin
	}
	dst = f.write(dst, payload)
	f.held, f.altered = emptied(f.held), emptied(f.altered)
	f.memory.release()
	return dst, nil
}

// write appends a frame with the header of the one under way.
func (f *frames) write(dst, payload []byte) []byte {
	h := f.frame
	h.Length = int64(len(payload))
	if h.Masked {
		_, _ = rand.Read(h.Mask[:]) // never fails
	}
	f.writer.b = dst
	_ = ws.WriteHeaderBuffer(&f.writer, h, f.scratch[:]) // fails for negative lengths
	start := len(f.writer.b)
	dst = append(f.writer.b, payload...)
	f.writer.b = nil
	if h.Masked {
		ws.Cipher(dst[start:], h.Mask, 0)
	}
	return dst
}

type headerWriter struct{ b []byte }

func (w *headerWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// emptied makes a buffer ready for reuse, unless it has grown too large.
func emptied(b []byte) []byte {
	if cap(b) > keptBuffer {
		return nil
	}
	return b[:0]
}
