package tokens

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

var cleanText = []byte(strings.Repeat("The quick brown fox jumps over the lazy dog; start, stop, spot. ", 16<<10))

func BenchmarkIndex(b *testing.B) {
	b.SetBytes(int64(len(cleanText)))
	for b.Loop() {
		bytes.Index(cleanText, []byte(marker))
	}
}

// BenchmarkScanClean tells its speed as a multiple of that of bytes.Index, too.
func BenchmarkScanClean(b *testing.B) {
	b.SetBytes(int64(len(cleanText)))
	b.ReportAllocs()
	s := newScanner()
	for b.Loop() {
		s.Bytes(cleanText)
	}
	b.ReportMetric(float64(timeOf(func() { bytes.Index(cleanText, []byte(marker)) }))*float64(b.N)/float64(b.Elapsed()), "of-Index")
}

// timeOf is the shortest of some runs.
func timeOf(f func()) time.Duration {
	shortest := time.Hour
	for range 50 {
		began := time.Now()
		f()
		shortest = min(shortest, time.Since(began))
	}
	return shortest
}

// Nothing is allocated where nothing is found, and little to open a token.
func TestAllocations(t *testing.T) {
	s := newScanner()
	in := []byte("Bearer " + mustSeal(t, testRing, Secret{Value: "ghp_0123456789abcdefghijklmnopqrstuvwxyz", Hosts: []string{"api.example.com"}}))
	for _, row := range []struct {
		name string
		most float64
		f    func()
	}{
		{"text without tokens", 0, func() { s.Bytes(cleanText) }},
		{"a token of 150 characters", 4, func() {
			one := Scanner{Keys: testRing, Target: testTarget}
			if out, err := one.Bytes(in); err != nil || len(out) != 47 {
				t.Fatalf("got %q, %v", out, err)
			}
		}},
	} {
		if got := testing.AllocsPerRun(50, row.f); got > row.most {
			t.Errorf("%s: got %v allocations, want %v at most", row.name, got, row.most)
		}
	}
}

func BenchmarkStreamClean(b *testing.B) {
	b.SetBytes(int64(len(cleanText)))
	b.ReportAllocs()
	buf := make([]byte, 32<<10)
	for b.Loop() {
		// Without the WriterTo of bytes.Reader, as a body has none.
		r := newScanner().Reader(struct{ io.Reader }{bytes.NewReader(cleanText)})
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen150 replaces a token of 150 characters in a header.
func BenchmarkOpen150(b *testing.B) {
	token := mustSeal(b, testRing, Secret{Value: "ghp_0123456789abcdefghijklmnopqrstuvwxyz", Hosts: []string{"api.example.com"}})
	in := []byte("Bearer " + token)
	b.Logf("token of %d characters", len(token))
	b.ReportAllocs()
	for b.Loop() {
		s := Scanner{Keys: testRing, Target: testTarget}
		out, err := s.Bytes(in)
		if err != nil || len(out) != 47 {
			b.Fatal(string(out), err)
		}
	}
}

func BenchmarkKeyringOpen150(b *testing.B) {
	token := mustSeal(b, testRing, Secret{Value: "ghp_0123456789abcdefghijklmnopqrstuvwxyz", Hosts: []string{"api.example.com"}})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := testRing.Open(token); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHostile reads the beginnings of tokens that lead nowhere.
func BenchmarkHostile(b *testing.B) {
	in := bytes.Repeat([]byte(prefix+strings.Repeat("A", 23)+"."), 32<<10)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		newScanner().Bytes(in)
	}
}
