package handler

import (
	"time"

	"github.com/gobwas/ws"
	"github.com/starpod/caddy-starpod/tokens"
)

// messageScanner swaps the tokens in the messages of a client.
type messageScanner struct {
	f       *forwarding
	scanner *tokens.Scanner
	inside  bool // a message has begun
	decided bool // how its values are written is known
}

func (s *messageScanner) data(dst, payload []byte, opcode ws.OpCode, final bool) ([]byte, error) {
	if s.scanner == nil {
		s.scanner = s.f.scanner(PlaceWebSocket, tokens.Raw)
	}
	if !s.inside {
		s.scanner.Target.Time = time.Now() // a token may expire before its connection ends
		s.scanner.Form, s.decided = tokens.Raw, opcode != ws.OpText
	}
	s.inside = !final
	if !s.decided {
		s.scanner.Form, s.decided = formOfText(payload)
	}
	dst, err := s.scanner.Append(dst, payload, final)
	if s.scanner.Result != (tokens.Result{}) {
		s.f.add(s.scanner.Result)
		s.scanner.Result = tokens.Result{}
	}
	return dst, err
}

// control leaves the client's pings and reasons alone: they are of the
// connection, and nobody authenticates by them.
func (*messageScanner) control([]byte) {}

// formOfText tells by the beginning of a text whether it is JSON. It is decided
// when something other than white space and digits, which Socket.IO writes in
// front of its JSON, has been seen.
func formOfText(text []byte) (form tokens.Form, decided bool) {
	for _, c := range text {
		switch {
		case c == ' ', c == '\t', c == '\r', c == '\n', '0' <= c && c <= '9':
		case c == '{', c == '[', c == '"':
			return tokens.JSON, true
		default:
			return tokens.Raw, true
		}
	}
	return tokens.Raw, false
}

// messageMask hides values in the messages of a server.
type messageMask struct {
	f *forwarding
	seam
}

func (m *messageMask) data(dst, payload []byte, _ ws.OpCode, final bool) ([]byte, error) {
	start := len(dst)
	dst = append(append(dst, m.held...), payload...)
	// Asked for with each piece: the client may have sent another token.
	settled := m.settle(m.f.currentMask(), dst[start:], final)
	return dst[:start+settled], nil
}

func (m *messageMask) control(payload []byte) {
	if current := m.f.currentMask(); current != nil {
		current.apply(payload)
	}
}
