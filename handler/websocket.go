package handler

import (
	"crypto/sha1" //nolint:gosec // RFC 6455, section 4.2.2, asks for it; nothing is kept secret by it
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
)

// isWebSocket reports whether a header asks for, or grants, the change to
// WebSocket.
func isWebSocket(h http.Header) bool { return strings.EqualFold(h.Get("Upgrade"), "websocket") }

// followsWebSocket reports whether the messages of this request's WebSocket are
// looked into: for tokens, or for values that must not come back.
func (f *forwarding) followsWebSocket() bool {
	return f.proxy.Swap.Scan.Has(PlaceWebSocket) || f.currentMask() != nil ||
		f.late()
}

// askFollowable takes back the client's offer of extensions: messages that are
// compressed could not be looked into.
func (f *forwarding) askFollowable(out *http.Request) {
	if _, offers := out.Header["Sec-Websocket-Extensions"]; offers && isWebSocket(out.Header) && f.followsWebSocket() {
		out.Header = out.Header.Clone()
		out.Header.Del("Sec-WebSocket-Extensions")
	}
}

// switched deals with an answer 101: what a WebSocket carries from now on is
// looked into, any other protocol passes.
func (f *forwarding) switched(res *http.Response) error {
	if res.Request.Header.Get("Upgrade") == "" {
		return &Refusal{
			Status: http.StatusBadGateway, Rule: RuleUpstream,
			Reason: f.dest.String() + " changed to a protocol that it was not asked for",
		}
	}
	server, ok := res.Body.(io.ReadWriteCloser)
	if ok && isWebSocket(res.Header) && f.followsWebSocket() {
		if why := badAccept(res.Header, res.Request.Header); why != "" {
			return &Refusal{
				Status: http.StatusBadGateway, Rule: RuleUpstream,
				Reason: "the answer of " + f.dest.String() + " to the WebSocket handshake " + why,
			}
		}
		res.Body = newWebSocket(f, server)
	}
	if m := f.currentMask(); m != nil {
		m.header(res.Header)
	}
	return nil
}

// acceptGUID makes the answer to a key (RFC 6455, section 1.3).
const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// badAccept says what is wrong with a 101 (RFC 6455, section 4.1), "" if nothing.
func badAccept(answer, asked http.Header) string {
	if key := asked.Get("Sec-WebSocket-Key"); key != "" {
		sum := sha1.Sum([]byte(key + acceptGUID)) //nolint:gosec // as above
		if answer.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]) {
			return "is not for the key that was asked with"
		}
	}
	if strings.Join(answer.Values("Sec-WebSocket-Extensions"), "") != "" {
		return "turns on an extension that was not offered"
	}
	return ""
}

// webSocket is the connection to the server of a WebSocket, in the place of the
// transport's. What is written to it, messages of the client, is scanned; what
// is read from it is masked. So values exist on its far side only.
type webSocket struct {
	f      *forwarding
	server io.ReadWriteCloser

	writing  sync.Mutex // held while a piece of the client's is dealt with
	stopped  bool       // the request has ended, and takes note of no more tokens
	scanning bool
	up       frames
	sent     []byte

	down     frames
	received []byte // read from the server
	settled  []byte // followed and masked
	next     int    // settled[next:] has not been read
	err      error  // what Read returns behind that

	farewell atomic.Pointer[[]byte] // the Close frame of a refusal
	ended    chan struct{}          // closed when the client has ended, or all has
	end      func()
}

func newWebSocket(f *forwarding, server io.ReadWriteCloser) *webSocket {
	limit := f.proxy.Swap.BodyBuffer
	w := &webSocket{
		f: f, server: server, scanning: f.proxy.Swap.Scan.Has(PlaceWebSocket),
		up:       frames{hooks: &messageScanner{f: f}, limit: limit, memory: &allowance{client: f.holder}},
		down:     frames{hooks: &messageMask{f: f}, limit: limit, memory: &allowance{client: f.holder}},
		received: make([]byte, copyBuffer),
		ended:    make(chan struct{}),
	}
	w.end = sync.OnceFunc(func() { close(w.ended) })
	f.mu.Lock()
	f.cleanup = append(f.cleanup, w.stop)
	f.mu.Unlock()
	return w
}

// Write takes what the client sent, in any pieces.
func (w *webSocket) Write(p []byte) (int, error) {
	w.writing.Lock()
	defer w.writing.Unlock()
	switch {
	case w.stopped:
		return 0, net.ErrClosed
	case w.farewell.Load() != nil:
		return len(p), nil // the client may still be talking when it is sent away
	case !w.scanning:
		return w.server.Write(p)
	}
	settled, bad := w.up.append(w.sent[:0], p)
	w.sent = emptied(settled)
	if len(settled) > 0 {
		if _, err := w.server.Write(settled); err != nil {
			return 0, err
		}
	}
	if bad != nil {
		w.refuse(bad, clientFrames)
	}
	return len(p), nil
}

// Read returns what is for the client.
func (w *webSocket) Read(p []byte) (int, error) {
	for w.next == len(w.settled) {
		if w.err != nil {
			if w.farewell.Load() != nil {
				<-w.ended // closing at once could make the client lose the Close frame
			}
			return 0, w.err
		}
		w.fill()
	}
	n := copy(p, w.settled[w.next:])
	w.next += n
	return n, nil
}

// fill reads once from the server. What is settled ends with a whole frame, so
// that is where the Close frame of a refusal can go.
func (w *webSocket) fill() {
	n, err := w.server.Read(w.received)
	settled, bad := w.down.append(emptied(w.settled), w.received[:n])
	if bad != nil {
		w.refuse(bad, serverFrames)
		err = io.EOF
	}
	if farewell := w.farewell.Load(); farewell != nil && err != nil {
		settled, err = append(settled, *farewell...), io.EOF
	}
	w.settled, w.next, w.err = settled, 0, err
}

// Refusals of what cannot be followed, from either side.
var (
	clientFrames = Refusal{
		Status: http.StatusBadRequest, Rule: RuleWebSocket,
		Reason: "the client sent what is no WebSocket frame",
	}
	serverFrames = Refusal{
		Status: http.StatusBadGateway, Rule: RuleWebSocket,
		Reason: "the server sent what is no WebSocket frame",
	}
)

// parting is how long a client that is sent away may take to close.
const parting = 2 * time.Second

// refuse ends the WebSocket: nothing more goes to the server, and the client is
// told why in a Close frame (RFC 6455, section 7.4.1).
func (w *webSocket) refuse(bad error, unfollowable Refusal) {
	refusal, code := &unfollowable, ws.StatusProtocolError
	if denied := (*Refusal)(nil); errors.As(bad, &denied) {
		refusal, code = denied, ws.StatusPolicyViolation
	}
	f := frames{}
	f.frame = ws.Header{Fin: true, OpCode: ws.OpClose}
	farewell := f.write(nil, ws.NewCloseFrameBody(code, refusal.Reason))
	if !w.farewell.CompareAndSwap(nil, &farewell) {
		return // one side was faster
	}
	w.f.proxy.refused(w.f.in, w.f.dest, refusal)
	_ = w.f.client.SetReadDeadline(time.Now().Add(parting))
	_ = w.server.Close()
}

// CloseWrite passes on that the client has ended.
func (w *webSocket) CloseWrite() error {
	w.end()
	if half, ok := w.server.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close closes the connection to the server.
func (w *webSocket) Close() error {
	w.end()
	return w.server.Close()
}

// stop closes, and waits until what is under way has been taken note of.
func (w *webSocket) stop() {
	_ = w.Close()
	w.writing.Lock()
	defer w.writing.Unlock()
	w.stopped = true
	w.up.memory.close()
	w.down.memory.close() // what still comes leaves in fragments
}
