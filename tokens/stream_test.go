package tokens

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// streamTexts are texts that are hard to cut.
func streamTexts(t testing.TB) map[string]string {
	good := mustSeal(t, testRing, Secret{Value: "g", Hosts: []string{"api.example.com"}})
	bad := mustSeal(t, testRing, Secret{Value: "bad", Hosts: []string{"b.example"}})
	foreign := mustSeal(t, NewKeyring(testKey(9)), Secret{Value: "f"})
	texts := map[string]string{
		"plain":         "x=" + good + "/y starpo",
		"mismatch":      bad + good,
		"foreign":       foreign + "z",
		"cut":           "a" + good[:70] + good + "starpod",
		"near misses":   "starpod:v1:starpod:starpod%3starpod%3Av1starpod\\u00starpod:v1%3A=starpod:v1:A%2",
		"wrong padding": good[:len(good)-2] + "=" + good[:len(good)-2] + "===",
	}
	for name, escape := range escapings {
		texts[name] = "\"" + escape(good) + "\",%2"
	}
	return texts
}

// outcome is all that a scan does.
type outcome struct {
	out    string
	tokens string
	result Result
	err    string
}

func scanPieces(t testing.TB, policy Policy, pieces ...[]byte) outcome {
	t.Helper()
	var o outcome
	s := newScanner()
	s.Edits = &Edits{Limit: 1 << 20}
	s.OnMismatch, s.OnUndecodable = policy, policy
	s.OnToken = func(t Token) error { o.tokens += fmt.Sprintf("%+v%s\n", t, t.Value.Reveal()); return nil }
	out, err := appendAll(s, pieces...)
	checkEdits(t, s.Edits, slices.Concat(pieces...), out, err)
	o.out, o.result = string(out), s.Result
	if err != nil {
		o.err = err.Error()
	}
	return o
}

func TestStreamCutAnywhere(t *testing.T) {
	for name, text := range streamTexts(t) {
		t.Run(name, func(t *testing.T) {
			in := []byte(text)
			for _, policy := range []Policy{Default, Strip, Pass, Deny} {
				want := scanPieces(t, policy, in)
				for i := range len(in) + 1 {
					if got := scanPieces(t, policy, in[:i], in[i:]); got != want {
						t.Fatalf("policy %d, cut at %d: got %+v, want %+v", policy, i, got, want)
					}
				}
				if got := scanPieces(t, policy, slices.Collect(slices.Chunk(in, 1))...); got != want {
					t.Fatalf("policy %d, byte by byte: got %+v, want %+v", policy, got, want)
				}
			}
			// In the long texts the second cut stays near the first: as far as
			// any escape or the word starpod reaches.
			reach := len(in)
			if reach > 200 {
				reach = 2 * len(marker)
			}
			want := scanPieces(t, Default, in)
			for i := range len(in) + 1 {
				for j := i; j <= min(i+reach, len(in)); j++ {
					if got := scanPieces(t, Default, in[:i], in[i:j], in[j:]); got != want {
						t.Fatalf("cut at %d and %d: got %+v, want %+v", i, j, got, want)
					}
				}
			}
		})
	}
}

// Only bytes that may become a token wait for more.
func TestStreamHoldsBackLittle(t *testing.T) {
	good := mustSeal(t, testRing, Secret{Value: "good"})
	for _, tt := range []struct{ in, settled string }{
		{"text", "text"},
		{"text s", "text "},
		{"text starpo", "text "},
		{"text starpostar", "text starpo"},
		{"text starpod", "text "},
		{"text starpodx", "text starpodx"},
		{"text starpod:v1 ", "text starpod:v1 "},
		{"text starpod:v1:AAAA ", "text starpod:v1:AAAA "},
		{"text " + good, "text good"},
		{"text " + good + "s", "text good"},
		{"text " + good[:len(good)-1], "text "},
	} {
		out, err := newScanner().Append(nil, []byte(tt.in), false)
		if string(out) != tt.settled || err != nil {
			t.Errorf("%q: got %q, %v, want %q", tt.in, out, err, tt.settled)
		}
	}
}

func TestReader(t *testing.T) {
	for name, text := range streamTexts(t) {
		text = strings.Repeat("0123456789", 50) + text + strings.Repeat("s", 50)
		want := scanPieces(t, Default, []byte(text)).out
		for kind, source := range map[string]func(io.Reader) io.Reader{
			"whole":        func(r io.Reader) io.Reader { return r },
			"byte by byte": iotest.OneByteReader,
			"halves":       iotest.HalfReader,
			"data and EOF": iotest.DataErrReader,
		} {
			s := newScanner()
			if err := iotest.TestReader(s.Reader(source(strings.NewReader(text))), []byte(want)); err != nil {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
		}
		out, err := io.ReadAll(iotest.OneByteReader(newScanner().Reader(strings.NewReader(text))))
		if string(out) != want || err != nil {
			t.Errorf("%s, read byte by byte: got %q, %v, want %q", name, out, err, want)
		}
		noting := newScanner()
		noting.Edits = &Edits{Limit: 1 << 20}
		out, err = io.ReadAll(noting.Reader(iotest.OneByteReader(strings.NewReader(text))))
		checkEdits(t, noting.Edits, []byte(text), out, err)
	}
}

// A text that breaks off is not taken for a whole one.
func TestReaderKeepsErrors(t *testing.T) {
	good := mustSeal(t, testRing, Secret{Value: "good"})
	broken := errors.New("broken")
	for _, tt := range []struct{ in, want string }{
		{"a" + good + "b", "agoodb"},
		{"a" + good[:50], "a"},
		{"a starp", "a "},
	} {
		source := io.MultiReader(strings.NewReader(tt.in), iotest.ErrReader(broken))
		r := newScanner().Reader(source)
		out, err := io.ReadAll(r)
		if string(out) != tt.want || err != broken {
			t.Errorf("%q: got %q, %v, want %q, %v", tt.in, out, err, tt.want, broken)
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err != broken {
			t.Errorf("reading on: got %d, %v, want %v", n, err, broken)
		}
	}
	s := newScanner()
	s.OnUndecodable = Deny
	out, err := io.ReadAll(s.Reader(strings.NewReader("a" + prefix + "AAAA b")))
	if string(out) != "a" || !errors.Is(err, ErrDenied) {
		t.Errorf("denied: got %q, %v, want what stands before the token, and %v", out, err, ErrDenied)
	}
}

// idleReader has nothing to read, now and then.
type idleReader struct {
	io.Reader
	idle bool
}

func (r *idleReader) Read(p []byte) (int, error) {
	if r.idle = !r.idle; r.idle {
		return 0, nil
	}
	return r.Reader.Read(p)
}

func TestReaderPassesIdleReadsOn(t *testing.T) {
	r := newScanner().Reader(&idleReader{Reader: strings.NewReader("abc")})
	if n, err := r.Read(make([]byte, 8)); n != 0 || err != nil {
		t.Errorf("got %d, %v, want an idle read", n, err)
	}
	if n, err := r.Read(nil); n != 0 || err != nil {
		t.Errorf("reading into nothing: got %d, %v", n, err)
	}
	if out, err := io.ReadAll(r); string(out) != "abc" || err != nil {
		t.Errorf("got %q, %v, want abc", out, err)
	}
}

// One Scanner serves any number of whole texts.
func TestScannerCountsOverTexts(t *testing.T) {
	good := mustSeal(t, testRing, Secret{Value: "good"})
	s := newScanner()
	for range 3 {
		if out, err := s.ScanString("a" + good + " starp"); out != "agood starp" || err != nil {
			t.Fatalf("got %q, %v", out, err)
		}
		if out, err := s.Bytes([]byte(good[:60])); string(out) != good[:60] || err != nil {
			t.Fatalf("got %q, %v", out, err)
		}
	}
	if want := (Result{Replaced: 3, Undecodable: 3}); s.Result != want {
		t.Errorf("got %+v, want %+v", s.Result, want)
	}
}

// No text makes a scan slow, in one piece or in many.
func TestHostileTextsAreLinear(t *testing.T) {
	const size = 1 << 18 // a quadratic scan would take minutes
	long := mustSeal(t, testRing, Secret{Value: Value(strings.Repeat("x", 1_000_000))})
	short := mustSeal(t, testRing, Secret{Value: "x"})
	texts := map[string]string{
		"words":           "starpod",
		"prefixes":        prefix,
		"short runs":      prefix + "AAAA",
		"nonces":          prefix + strings.Repeat("A", 23),
		"one endless run": prefix + strings.Repeat("A", size),
		"cut tokens":      short[:len(short)-1],
		"long cut tokens": long[:len(long)-1],
		"long bad tags":   long[:len(long)-6] + "AAAA==",
		"tokens":          short,
		"escapes":         `starpod%3Av1%3A%41%41`,
		"long escapes":    prefix + strings.Repeat(`\u0041`, size/6),
		"words in a run":  prefix + strings.Repeat("starpod", size/7),
		"half escapes":    `starpod%3`,
	}
	for name, unit := range texts {
		in := bytes.Repeat([]byte(unit), max(1, size/len(unit)))
		for _, policy := range []Policy{Pass, Strip} {
			for _, piece := range []int{len(in), 1} {
				start := time.Now()
				s := newScanner()
				s.OnUndecodable = policy
				var dst []byte
				for chunk := range slices.Chunk(in, piece) {
					var err error
					if dst, err = s.Append(dst[:0], chunk, false); err != nil {
						t.Fatal(err)
					}
					if held := len(s.held); held > maxSource {
						t.Fatalf("%s: %d bytes are held back, more than %d", name, held, maxSource)
					}
				}
				// Far more than the slowest takes under the race detector.
				if took := time.Since(start); took > 10*time.Second {
					t.Errorf("%s, policy %d, pieces of %d: %v", name, policy, piece, took)
				} else if testing.Verbose() {
					t.Logf("%s, policy %d, pieces of %d: %v", name, policy, piece, took)
				}
			}
		}
	}
}

func TestLimits(t *testing.T) {
	// The payload's overhead is {"v":"","h":[]}: 15 bytes.
	longest := (MaxTokenLen-len(prefix))/4*3 - nonceSize - tagSize - 15
	token := mustSeal(t, testRing, Secret{Value: Value(strings.Repeat("x", longest))})
	if len(token) > MaxTokenLen || len(token) < MaxTokenLen-4 {
		t.Fatalf("the token has %d characters, want %d or nearly", len(token), MaxTokenLen)
	}
	out, result := Scan(testRing, []byte("<"+token+">"), testTarget)
	if len(out) != longest+2 || result.Replaced != 1 {
		t.Errorf("the longest token: got %d bytes, %+v, want its value", len(out), result)
	}
	if _, err := testRing.Open(token); err != nil {
		t.Errorf("Open of the longest token: %v", err)
	}
	longer := sealPayload(testRing.keys[0], testNonce, `{"v":"`+strings.Repeat("x", longest+3)+`","h":[]}`)
	out, result = Scan(testRing, []byte("<"+longer+">"), testTarget)
	if string(out) != "<"+longer+">" || result != (Result{Undecodable: 1}) {
		t.Errorf("a longer token: got %d bytes, %+v, want it left", len(out), result)
	}
	// Escapes may take twice the room, no more.
	escaped := prefix + escapings["all unicode"](token)[len(marker)+len(colons)*6:]
	out, result = Scan(testRing, []byte(escaped), testTarget)
	if string(out) != escaped || result != (Result{Undecodable: 1}) {
		t.Errorf("an overlong spelling: got %d bytes, %+v, want it left", len(out), result)
	}
}
