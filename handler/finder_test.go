package handler

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// coveredBy marks every byte of text that some needle covers, place by place.
func coveredBy(needles [][]byte, text []byte) []byte {
	marked := bytes.Clone(text)
	for i := range text {
		for _, needle := range needles {
			if bytes.HasPrefix(text[i:], needle) {
				copy(marked[i:], bytes.Repeat([]byte("*"), len(needle)))
			}
		}
	}
	return marked
}

// TestFinder compares with looking at each place for each needle, with texts in which
// there is much to find, at the ends and overlapping.
func TestFinder(t *testing.T) {
	source := rand.New(rand.NewPCG(1, 2))
	word := func(letters, length int) []byte {
		w := make([]byte, length)
		for i := range w {
			w[i] = byte('a' + source.IntN(letters))
		}
		return w
	}
	for round := range 5000 {
		letters, longest := 2+source.IntN(3), 200
		if round%2 == 0 {
			letters, longest = 20, 800 // most of it is passed
		}
		needles := make([][]byte, 1+source.IntN(12))
		for i := range needles {
			needles[i] = word(letters, 2+source.IntN(12))
		}
		if round%100 == 0 {
			needles = append(needles, word(letters, 300)) // longer than a window can be
		}
		slices.SortStableFunc(needles, func(a, b []byte) int { return len(b) - len(a) })
		text := word(letters, source.IntN(longest))
		if source.IntN(2) == 0 {
			text = slices.Concat(needles[0], text, needles[len(needles)-1])
		}
		if at := source.IntN(len(text) + 1); source.IntN(2) == 0 {
			text = slices.Insert(text, at, needles[source.IntN(len(needles))]...)
		}
		want, got := coveredBy(needles, text), bytes.Clone(text)
		newFinder(needles).each(got, func(from, to, _ int) { stars(got[from:to]) })
		if !bytes.Equal(got, want) {
			t.Fatalf("round %d, needles %q in %q:\ngot  %q\nwant %q", round, needles, text, got, want)
		}
	}
}

func TestFinderCounts(t *testing.T) {
	for _, tt := range []struct {
		needles []string
		text    string
		want    string
	}{
		{[]string{"abcdefgh"}, "abcdefgh", "[abcdefgh 1]"},
		{[]string{"abcdefgh"}, "-abcdefghabcdefgh-", "[abcdefgh 1] [abcdefgh 1]"},
		{[]string{"abcdefgh", "efghijkl"}, "abcdefghijkl", "[abcdefghijkl 2]"},
		{[]string{"abcdefghijkl", "cdefghij"}, "abcdefghijkl", "[abcdefghijkl 1]"},
		{[]string{"abcdefghij", "abcdefgh"}, "abcdefghij abcdefgh", "[abcdefghij 1] [abcdefgh 1]"},
		{[]string{"aaaaaaaa"}, "aaaaaaaaaa", "[aaaaaaaaaa 3]"},
		{[]string{"abcdefgh"}, "abcdefg", ""},
		{[]string{"abcdefgh"}, "yxxxxxxgh", ""}, // ends like it
		{[]string{"abcdefgh"}, "", ""},
	} {
		var needles [][]byte
		for _, n := range tt.needles {
			needles = append(needles, []byte(n))
		}
		got := ""
		newFinder(needles).each([]byte(tt.text), func(from, to, number int) {
			if got != "" {
				got += " "
			}
			got += fmt.Sprintf("[%s %d]", tt.text[from:to], number)
		})
		if got != tt.want {
			t.Errorf("%q in %q: got %s, want %s", tt.needles, tt.text, got, tt.want)
		}
	}
}

// TestLongValueThatRepeatsItself: what a client chose to stand before a value, and its
// host to repeat, takes no longer than other text.
func TestLongValueThatRepeatsItself(t *testing.T) {
	run := bytes.Repeat([]byte("YWFh"), 64<<10)
	needle := slices.Concat(run, []byte("c2VjcmV0"))
	m := &mask{needles: [][]byte{needle, []byte("secret-value")}}
	text := slices.Concat(bytes.Repeat(run, 8), []byte("c2VjcmV0 secret-value"))
	want := slices.Concat(bytes.Repeat(run, 7), bytes.Repeat([]byte("*"), len(needle)), []byte(" ************"))
	done := make(chan []byte, 1)
	go func() {
		got := bytes.Clone(text)
		for range 20 {
			copy(got, text)
			m.apply(got)
		}
		done <- got
	}()
	select {
	case got := <-done:
		if !bytes.Equal(got, want) {
			t.Error("got other bytes, want the value and what stands before it hidden")
		}
	case <-time.After(longest):
		t.Errorf("still looking after %v", longest)
	}
}
