package ca

import (
	"fmt"
	"testing"
)

func BenchmarkMint(b *testing.B) {
	a := newAuthority(b, newRoot(b), Options{})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := a.Leaf(b.Context(), fmt.Sprintf("host-%d.example", i)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLeafCached(b *testing.B) {
	a := newAuthority(b, newRoot(b), Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Leaf(b.Context(), "api.github.com"); err != nil {
			b.Fatal(err)
		}
	}
}
