package handler

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/starpod/caddy-starpod/tokens"
)

// session is what one end sends: frames with the messages that they carry.
type session struct {
	frames []ws.Frame
	events []string // as eventsOf tells them
}

// newSession composes messages of the pieces and cuts them into fragments, with
// control frames anywhere in between.
func newSession(c *fuzzChoices, pieces []string) (s session) {
	for range c.IntN(5) + 1 {
		var text strings.Builder
		for range c.IntN(5) {
			text.WriteString(pick(c, pieces...))
		}
		op := pick(c, ws.OpText, ws.OpBinary)
		s.message(c, op, text.String())
	}
	s.control(c, ws.OpClose, "\x03\xe8"+pick(c, pieces...))
	return s
}

func (s *session) message(c *fuzzChoices, op ws.OpCode, text string) {
	rest := text
	for i := c.IntN(5); ; i-- {
		n := len(rest)
		if i > 0 {
			n = c.IntN(len(rest) + 1)
		}
		s.frames = append(s.frames, frameOf(op, i == 0, oneIn(c, 2), rest[:n]))
		rest, op = rest[n:], ws.OpContinuation
		if i == 0 {
			break
		}
		if oneIn(c, 3) {
			s.control(c, pick(c, ws.OpPing, ws.OpPong), strings.Repeat("c", c.IntN(126)))
		}
	}
	s.events = append(s.events, eventsOf([]ws.Frame{ws.NewFrame(s.first(text), true, []byte(text))})...)
}

// first is the opcode of the message that the newest frames carry.
func (s *session) first(text string) ws.OpCode {
	for _, f := range slices.Backward(s.frames) {
		if f.Header.OpCode == ws.OpText || f.Header.OpCode == ws.OpBinary {
			return f.Header.OpCode
		}
	}
	return 0
}

func (s *session) control(c *fuzzChoices, op ws.OpCode, payload string) {
	f := frameOf(op, true, oneIn(c, 2), payload[:min(len(payload), ws.MaxControlFramePayloadSize)])
	s.frames = append(s.frames, f)
	plain := ws.NewFrame(op, true, []byte(payload[:len(f.Payload)]))
	s.events = append(s.events, eventsOf([]ws.Frame{plain})...)
}

// feed gives bytes to a follower in pieces that the fuzzer chooses.
func feed(t *testing.T, c *fuzzChoices, f *frames, in []byte) (out []byte, err error) {
	const longestPiece = 64
	for len(in) > 0 {
		n := len(in)
		if len(c.data) > 0 {
			n = min(n, c.IntN(longestPiece)+1)
		}
		if out, err = f.append(out, in[:n]); err != nil {
			return out, err
		}
		if n <= longestPiece {
			checkMemory(t, f, longestPiece)
		}
		in = in[n:]
	}
	return out, nil
}

// checkMemory: what is held grows with the limit, not with what was announced.
func checkMemory(t *testing.T, f *frames, piece int) {
	t.Helper()
	if most := 4 * (int(f.limit) + piece + ws.MaxControlFramePayloadSize); cap(f.held) > max(most, keptBuffer) || len(f.held) > most || cap(f.head) > 4*ws.MaxHeaderSize {
		t.Fatalf("%d bytes held in %d, header in %d, want at most %d", len(f.held), cap(f.held), cap(f.head), most)
	}
}

// FuzzWebSocket: whatever is sent, in whatever fragments and pieces, the messages
// that leave are those that came with their tokens swapped, or values masked; and
// control frames keep their place. Bytes that are no frames do no harm.
func FuzzWebSocket(f *testing.F) {
	const short, quoted = "v-12", "a \"long\"\\value\n " + canary + canary
	pieces := []string{
		"", "x", "starpod", "starpod:v1:AAAA", `{"k":"`, `"}`, "\xff\xfe", canary, canary[:9], strings.Repeat("y", 120), strings.Repeat("z", 65400),
		sealFixed(f, randomKey, short, "api.starpod.test"), sealFixed(f, randomKey, quoted, "api.starpod.test"),
		sealFixed(f, randomKey, canary), sealFixed(f, randomKey, canary, "evil.starpod.test"),
		sealFixed(f, bytes.Repeat([]byte{9}, 32), canary),
	}
	pieces = append(pieces, pieces[12][:30], strings.ReplaceAll(pieces[13], "/", `\/`))
	f.Add([]byte{}, []byte{}, uint8(0))
	f.Add([]byte{0, 3, 4, 12, 5, 0, 2, 0, 20, 0, 1, 0, 0, 9, 9}, []byte("\x81\x85\x01\x02\x03\x04hello"), uint8(10))
	f.Add([]byte{2, 2, 10, 11, 0, 1, 255, 250, 1, 1, 0, 60, 3, 1, 13, 4, 2, 100, 7, 1, 1}, []byte("\x01\x7f\x00\x00\x00\x00\xff\xff\xff\xffabc"), uint8(255))
	f.Add([]byte{4, 4, 7, 8, 13, 1, 4, 0, 3, 0, 3, 1, 1, 1, 0, 50, 0, 40, 1}, []byte("\x88\x7e\x01\x00"), uint8(64))
	f.Fuzz(func(t *testing.T, script, raw []byte, limit uint8) {
		c := &fuzzChoices{script}
		s := newSession(c, pieces)
		up := messageForwarding(t)
		out, err := feed(t, c, &frames{hooks: &messageScanner{f: up}, limit: int64(limit)}, wire(s.frames...))
		if err != nil {
			t.Fatalf("client's frames: %v", err)
		}
		if got, want := eventsOf(unwire(t, out)), swappedEvents(t, s.events); !slices.Equal(got, want) {
			t.Errorf("client's messages: got %.500q, want %.500q", got, want)
		}
		down := messageForwarding(t)
		down.tokens = []foundToken{{Token: tokens.Token{Action: tokens.Replaced, Value: tokens.Value(canary)}, place: PlaceBody}}
		if out, err = feed(t, c, &frames{hooks: &messageMask{f: down}, limit: int64(limit)}, wire(s.frames...)); err != nil {
			t.Fatalf("server's frames: %v", err)
		}
		checkMasked(t, eventsOf(unwire(t, out)), s.events)

		follower := &frames{hooks: &messageScanner{f: up}, limit: int64(limit)}
		for piece := range slices.Chunk(raw, 64) {
			if out, err = follower.append(out[:0], piece); err != nil {
				break
			}
			checkMemory(t, follower, len(piece))
		}
	})
}

// swappedEvents are the events with each message scanned as a whole.
func swappedEvents(t *testing.T, events []string) (swapped []string) {
	t.Helper()
	f := messageForwarding(t)
	for _, event := range events {
		text, isMessage := strings.CutPrefix(event, "message ")
		if !isMessage {
			swapped = append(swapped, event)
			continue
		}
		form := tokens.Raw
		if strings.HasPrefix(text, "1 ") {
			form, _ = formOfText([]byte(text[2:]))
		}
		whole, err := f.scanner(PlaceWebSocket, form).ScanString(text[2:])
		if err != nil {
			t.Fatal(err)
		}
		swapped = append(swapped, "message "+text[:2]+whole)
	}
	return swapped
}

// checkMasked: nothing but asterisks is new, and no value is left.
func checkMasked(t *testing.T, got, sent []string) {
	t.Helper()
	if len(got) != len(sent) {
		t.Fatalf("server's messages: got %d, want %d", len(got), len(sent))
	}
	for i := range got {
		if len(got[i]) != len(sent[i]) || strings.Contains(got[i], canary) {
			t.Fatalf("server's message %d: got %.200q of %.200q", i, got[i], sent[i])
		}
		masked := strings.Contains(sent[i], canary)
		for j := range got[i] {
			if got[i][j] != sent[i][j] && (got[i][j] != '*' || !masked) {
				t.Fatalf("server's message %d: got %q at %d, want %q", i, got[i][j], j, sent[i][j])
			}
		}
	}
}
