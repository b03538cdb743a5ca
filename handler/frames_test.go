package handler

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
)

// plainHooks change nothing.
type plainHooks struct{}

func (plainHooks) data(dst, payload []byte, _ ws.OpCode, _ bool) ([]byte, error) {
	return append(dst, payload...), nil
}
func (plainHooks) control([]byte) {}

// frameOf makes a frame; masked ones bear a fixed key.
func frameOf(op ws.OpCode, fin, masked bool, payload string) ws.Frame {
	f := ws.NewFrame(op, fin, []byte(payload))
	if masked {
		f = ws.MaskFrameWith(f, [4]byte{1, 2, 3, 4})
	}
	return f
}

// wire writes frames as they travel.
func wire(frames ...ws.Frame) []byte {
	var b bytes.Buffer
	for _, f := range frames {
		_ = ws.WriteFrame(&b, f)
	}
	return b.Bytes()
}

// unwire reads whole frames, and takes their masks off.
func unwire(t *testing.T, b []byte) (all []ws.Frame) {
	t.Helper()
	for r := bytes.NewReader(b); r.Len() > 0; {
		f, err := testbench.ReadFrame(r)
		if err != nil {
			t.Fatalf("reading frame %d of %d bytes: %v", len(all), len(b), err)
		}
		if f.Header.Masked {
			ws.Cipher(f.Payload, f.Header.Mask, 0)
		}
		all = append(all, f)
	}
	return all
}

// describe makes frames comparable, without their keys.
func describe(frames []ws.Frame) (all []string) {
	for _, f := range frames {
		h := f.Header
		payload := fmt.Sprintf("%q", f.Payload)
		if len(f.Payload) > 100 {
			payload = fmt.Sprintf("%d bytes, %x", len(f.Payload), sha256.Sum256(f.Payload))
		}
		all = append(all, fmt.Sprintf("op %x fin %v rsv %x masked %v: %s", h.OpCode, h.Fin, h.Rsv, h.Masked, payload))
	}
	return all
}

// follow feeds bytes in pieces of the given size.
func follow(f *frames, b []byte, piece int) (out []byte, err error) {
	for chunk := range slices.Chunk(b, piece) {
		if out, err = f.append(out, chunk); err != nil {
			return out, err
		}
	}
	return out, nil
}

// oddFrames are sequences that ends may or may not like. The proxy does not
// judge them.
var oddFrames = map[string]func(op func(op ws.OpCode, fin bool, payload string) ws.Frame) []ws.Frame{
	"one text": func(op oddOp) []ws.Frame { return []ws.Frame{op(ws.OpText, true, "hello")} },
	"empty":    func(op oddOp) []ws.Frame { return []ws.Frame{op(ws.OpBinary, true, ""), op(ws.OpText, true, "")} },
	"fragments, empty ones too": func(op oddOp) []ws.Frame {
		return []ws.Frame{op(ws.OpText, false, ""), op(ws.OpContinuation, false, "a"), op(ws.OpContinuation, false, ""), op(ws.OpContinuation, true, "")}
	},
	"pings between fragments": func(op oddOp) []ws.Frame {
		return []ws.Frame{
			op(ws.OpBinary, false, "a"), op(ws.OpPing, true, "1"), op(ws.OpContinuation, false, "b"), op(ws.OpPong, true, ""),
			op(ws.OpPing, true, strings.Repeat("p", 125)), op(ws.OpContinuation, true, "c"), op(ws.OpPong, true, "2"),
		}
	},
	"closes": func(op oddOp) []ws.Frame {
		return []ws.Frame{op(ws.OpClose, true, "\x03\xe8bye"), op(ws.OpClose, true, ""), op(ws.OpClose, true, "\x00"), op(ws.OpClose, true, "\xff\xff\xff")}
	},
	"not UTF-8": func(op oddOp) []ws.Frame {
		return []ws.Frame{op(ws.OpText, true, "\xc3\x28\xff"), op(ws.OpText, false, "\xf0\x9f"), op(ws.OpContinuation, true, "\x94\x91")}
	},
	"reserved opcodes": func(op oddOp) []ws.Frame {
		return []ws.Frame{op(3, true, "3"), op(7, false, "7"), op(0xb, true, "b"), op(0xf, false, "f"), op(ws.OpContinuation, true, "-")}
	},
	"reserved bits": func(op oddOp) []ws.Frame {
		var all []ws.Frame
		for rsv := range byte(8) {
			f := op(ws.OpText, true, "bits")
			f.Header.Rsv = rsv
			all = append(all, f)
		}
		return all
	},
	"messages out of turn": func(op oddOp) []ws.Frame {
		return []ws.Frame{op(ws.OpContinuation, true, "?"), op(ws.OpText, false, "a"), op(ws.OpBinary, false, "b"), op(ws.OpText, true, "c"), op(ws.OpPing, false, "d")}
	},
	"all classes of length": func(op oddOp) []ws.Frame {
		var all []ws.Frame
		for _, n := range []int{1, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537} {
			all = append(all, op(ws.OpBinary, true, strings.Repeat("x", n)))
		}
		return all
	},
}

type oddOp = func(op ws.OpCode, fin bool, payload string) ws.Frame

// TestFramesStayAsTheyAre, however they are cut on their way.
func TestFramesStayAsTheyAre(t *testing.T) {
	for name, sequence := range oddFrames {
		for _, masked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, masked %v", name, masked), func(t *testing.T) {
				in := wire(sequence(func(op ws.OpCode, fin bool, payload string) ws.Frame { return frameOf(op, fin, masked, payload) })...)
				for _, piece := range []int{1, 2, 3, 7, 1000, len(in)} {
					out, err := follow(&frames{hooks: plainHooks{}, limit: 1 << 20}, in, piece)
					if err != nil {
						t.Fatalf("in pieces of %d: %v", piece, err)
					}
					if !masked && !bytes.Equal(out, in) {
						t.Errorf("in pieces of %d: got %d other bytes than the %d sent", piece, len(out), len(in))
					}
					if got, want := describe(unwire(t, out)), describe(unwire(t, in)); !slices.Equal(got, want) {
						t.Errorf("in pieces of %d: got\n%s\nwant\n%s", piece, strings.Join(got, "\n"), strings.Join(want, "\n"))
					}
				}
			})
		}
	}
}

// TestKeysAreFresh: the client's choice of key says nothing about the wire.
func TestKeysAreFresh(t *testing.T) {
	seen := map[[4]byte]bool{}
	f := &frames{hooks: plainHooks{}, limit: 1 << 20}
	for _, op := range []ws.OpCode{ws.OpText, ws.OpPing, ws.OpClose, ws.OpBinary} {
		out, err := f.append(nil, wire(frameOf(op, true, true, "payload")))
		if err != nil {
			t.Fatal(err)
		}
		h, err := ws.ReadHeader(bytes.NewReader(out))
		if err != nil || !h.Masked || h.Mask == [4]byte{1, 2, 3, 4} || seen[h.Mask] {
			t.Errorf("opcode %x: got key %x (%v), want a fresh one", op, h.Mask, err)
		}
		seen[h.Mask] = true
	}
}

// TestLongFramesLeaveInFragments of the same message, as they come.
func TestLongFramesLeaveInFragments(t *testing.T) {
	text := strings.Repeat("0123456789", 100)
	for _, piece := range []int{300, 70} {
		for _, c := range []struct {
			op  ws.OpCode
			fin bool
		}{{ws.OpText, true}, {ws.OpText, false}, {ws.OpContinuation, true}, {ws.OpContinuation, false}} {
			op, fin := c.op, c.fin
			long := frameOf(op, fin, true, text)
			long.Header.Rsv = 4
			in := wire(long, frameOf(ws.OpPing, true, true, strings.Repeat("p", 100)))
			out, err := follow(&frames{hooks: plainHooks{}, limit: 64}, in, piece)
			if err != nil {
				t.Fatal(err)
			}
			got := unwire(t, out)
			var joined string
			for i, f := range got[:len(got)-1] {
				joined += string(f.Payload)
				first, last := i == 0, i == len(got)-2
				if first != (f.Header.Rsv == 4) || (f.Header.OpCode == op) != (first || op == ws.OpContinuation) || f.Header.Fin != (fin && last) {
					t.Errorf("fragment %d of %d: got %+v", i, len(got)-1, f.Header)
				}
			}
			if ping := got[len(got)-1]; joined != text || len(got) < 1000/piece || ping.Header.OpCode != ws.OpPing || len(ping.Payload) != 100 {
				t.Errorf("got %d frames with %q, want fragments of the text, and the ping", len(got), joined)
			}
		}
	}
}

// TestFramesThatCannotBeFollowed: what came before them is settled.
func TestFramesThatCannotBeFollowed(t *testing.T) {
	for name, bad := range map[string]string{
		"a length with the first bit set": "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
		"a ping of 126 bytes":             "\x89\x7e\x00\x7e" + strings.Repeat("p", 126),
		"a close without end":             "\x88\x7f\x7f\xff\xff\xff\xff\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			good := wire(frameOf(ws.OpText, true, false, "good"))
			for _, piece := range []int{1, 1000} {
				out, err := follow(&frames{hooks: plainHooks{}, limit: 1 << 20}, append(good[:len(good):len(good)], bad...), piece)
				if !errors.Is(err, errFrame) || !bytes.Equal(out, good) {
					t.Errorf("got %q (%v), want %q and an error", out, err, good)
				}
			}
		})
	}
}

// TestMemoryGrowsWithWhatArrived, not with what was announced, and goes back.
func TestMemoryGrowsWithWhatArrived(t *testing.T) {
	for _, announced := range []int64{1 << 20, 1 << 62} {
		f := &frames{hooks: plainHooks{}, limit: 1 << 20}
		var head bytes.Buffer
		_ = ws.WriteHeader(&head, ws.Header{OpCode: ws.OpBinary, Fin: true, Length: announced})
		out, err := f.append(nil, append(head.Bytes(), make([]byte, 1000)...))
		if err != nil || cap(f.held) > 4096 || cap(out) > 4096 {
			t.Errorf("of %d announced: %d bytes held, %d out (%v), want those of 1000", announced, cap(f.held), cap(out), err)
		}
	}
	f := &frames{hooks: plainHooks{}, limit: 1 << 20}
	if _, err := f.append(nil, wire(frameOf(ws.OpBinary, true, false, strings.Repeat("x", 1<<20)))); err != nil || cap(f.held)+cap(f.altered) > 2*keptBuffer {
		t.Errorf("behind a long frame: %d bytes kept (%v), want at most %d", cap(f.held)+cap(f.altered), err, 2*keptBuffer)
	}
}

// messageForwarding is a forwarding to api.starpod.test outside any request.
func messageForwarding(tb testing.TB) *forwarding {
	tb.Helper()
	key, err := tokens.NewKey(randomKey)
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{}
	p.Swap.setDefaults()
	return &forwarding{
		proxy: p, dest: Destination{Scheme: "https", Host: "api.starpod.test", Port: 443},
		in: httptest.NewRequest("GET", "/", nil), path: "/", keys: tokens.NewKeyring(key),
	}
}

// TestTokenOverFragments is cut at every offset.
func TestTokenOverFragments(t *testing.T) {
	text := "<" + sealFixed(t, randomKey, canary, "api.starpod.test") + ">"
	for cut := range len(text) + 1 {
		for _, limit := range []int64{1 << 20, 10} {
			f := &frames{hooks: &messageScanner{f: messageForwarding(t)}, limit: limit}
			in := wire(frameOf(ws.OpText, false, true, text[:cut]), frameOf(ws.OpPing, true, true, "?"), frameOf(ws.OpContinuation, true, true, text[cut:]))
			out, err := follow(f, in, 50)
			if err != nil {
				t.Fatal(err)
			}
			got, want := eventsOf(unwire(t, out)), []string{"9 ?", "message 1 <" + canary + ">"}
			if !slices.Equal(got, want) {
				t.Errorf("cut at %d: got %q, want %q", cut, got, want)
			}
		}
	}
}

// eventsOf are the messages and control frames in the order in which they end.
func eventsOf(frames []ws.Frame) (events []string) {
	var message []byte
	var op ws.OpCode
	inside := false
	for _, f := range frames {
		if f.Header.OpCode.IsControl() {
			events = append(events, fmt.Sprintf("%x %s", f.Header.OpCode, f.Payload))
			continue
		}
		if !inside {
			op, message = f.Header.OpCode, nil
		}
		message = append(message, f.Payload...)
		if inside = !f.Header.Fin; !inside {
			events = append(events, fmt.Sprintf("message %x %s", op, message))
		}
	}
	return events
}

func TestFormOfText(t *testing.T) {
	for text, want := range map[string]tokens.Form{
		`{"a":1}`: tokens.JSON, " \r\n\t[1]": tokens.JSON, `"x"`: tokens.JSON, `42["event",{}]`: tokens.JSON,
		"": tokens.Raw, " ": tokens.Raw, "hello {": tokens.Raw, "\x00{": tokens.Raw, "<a/>": tokens.Raw, "42": tokens.Raw,
	} {
		if got, _ := formOfText([]byte(text)); got != want {
			t.Errorf("%q: got form %d, want %d", text, got, want)
		}
	}
}

// BenchmarkFrames follows frames of a client that hold no tokens.
func BenchmarkFrames(b *testing.B) {
	for _, size := range []int{100, 4 << 10, 32 << 10} {
		b.Run(fmt.Sprintf("%d bytes", size), func(b *testing.B) {
			f := &frames{hooks: &messageScanner{f: messageForwarding(b)}, limit: 1 << 20}
			in := wire(frameOf(ws.OpText, true, true, strings.Repeat("x", size)))
			var out []byte
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if out, err = f.append(out[:0], in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
