package tokens

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

var cleanText = []byte(strings.Repeat("The quick brown fox jumps over the lazy dog; start, stop, spot. ", 16<<10))

func BenchmarkIndex(b *testing.B) {
	b.SetBytes(int64(len(cleanText)))
	for b.Loop() {
		bytes.Index(cleanText, []byte(marker))
	}
}

func BenchmarkScanClean(b *testing.B) {
	b.SetBytes(int64(len(cleanText)))
	b.ReportAllocs()
	s := newScanner()
	for b.Loop() {
		s.Bytes(cleanText)
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
