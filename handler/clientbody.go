package handler

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// clientBody is the body of an HTTP/1 request, of which it has to be known
// whether it has ended when the answer begins.
type clientBody struct {
	io.ReadCloser
	left  int64 // bytes, negative where no length was stated
	ended atomic.Bool

	batcher *batcher // below the TLS that it comes by; nil where there is none
}

// Read tells the end by itself from then on: net/http may have closed the body
// by the time the transport looks whether there is more.
func (b *clientBody) Read(p []byte) (int, error) {
	if b.ended.Load() {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p)
	if b.left > 0 {
		if b.left -= int64(n); b.left == 0 {
			b.ended.Store(true)
		}
	}
	if err == io.EOF {
		b.ended.Store(true)
	}
	if b.batcher != nil {
		// Not at its end, where net/http begins to wait for what comes behind it.
		b.batcher.ahead.Store(err == nil && b.left > longBody)
	}
	return n, err
}

// openEnd prepares for an answer that begins before the body has ended. Left to
// itself, net/http would take the rest of the body for itself then, and the
// destination would get one with a hole. What it does after the answer on a
// connection like that is no good, however: so it is the last on it.
func (w *mirrorWriter) openEnd() {
	if w.body == nil || w.body.ended.Load() {
		return
	}
	if http.NewResponseController(w.ResponseWriter).EnableFullDuplex() == nil {
		w.duplex = true
		w.Header().Set("Connection", "close")
	}
}

// leaveBody gives a client whose answer is complete a moment to end its body.
func (w *mirrorWriter) leaveBody() {
	if w.duplex && !w.body.ended.Load() {
		_ = http.NewResponseController(w.ResponseWriter).SetReadDeadline(time.Now().Add(parting))
	}
}
