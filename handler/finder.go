package handler

import (
	"bytes"
	"encoding/binary"
	"math"
)

// finder looks for many needles in one pass (Wu and Manber, "A fast algorithm for
// multi-pattern searching", 1994): of every two bytes it knows how far away the next
// needle is at least that holds them, so most of a text is never looked at.
//
// Each of these steps waits for the one before. So what is without needles it passes
// faster, by steps of one length: no needle is where none of a few groups of three
// bytes is one of theirs, like tokens.Contains.
type finder struct {
	needles [][]byte // the longest first
	least   int      // the length of the shortest, or what counts of it

	// By a hash of two bytes: how far the window can move, and where that is 0, the
	// needles whose first bytes end in them, by their index.
	shift [pairs]uint8
	ends  map[uint16][]int

	// By a hash of three bytes: 1 if they stand somewhere in the beginnings of needles,
	// each of which has so many groups of three.
	groups [triples]uint8
	stride int
}

const (
	pairs   = 1 << 12
	triples = 1 << 12

	groupSize   = 3 // bytes
	groupsAhead = 4 // are looked at before a decision
)

func pair(a, b byte) uint16 { return (uint16(a)<<4 ^ uint16(b)) & (pairs - 1) }

// triple is a hash of the first three of four bytes: the shift drops the fourth.
func triple(p []byte) uint32 { return binary.LittleEndian.Uint32(p) << 8 * 0x9E3779B1 >> 20 }

// newFinder makes one of needles of two bytes and more, the longest first.
func newFinder(needles [][]byte) *finder {
	f := &finder{needles: needles, ends: make(map[uint16][]int, len(needles))}
	f.least = min(len(needles[len(needles)-1]), math.MaxUint8)
	for i := range f.shift {
		f.shift[i] = uint8(f.least - 1)
	}
	f.stride = f.least - groupSize + 1
	for i, needle := range needles {
		head := needle[:f.least]
		for at := range f.stride {
			f.groups[triple([]byte{head[at], head[at+1], head[at+2], 0})] = 1
		}
		for end := 1; end < f.least; end++ {
			p := pair(head[end-1], head[end])
			f.shift[p] = min(f.shift[p], uint8(f.least-1-end))
		}
		p := pair(head[f.least-2], head[f.least-1])
		f.ends[p] = append(f.ends[p], i)
	}
	return f
}

// each calls found with every stretch of text that needles cover, from where to where;
// those that overlap are one. number says how many begin in it, those within others not
// counted. found may change the stretch.
func (f *finder) each(text []byte, found func(from, to, number int)) {
	start, end, number := 0, 0, 0 // the stretch so far
	step := f.least - 1           // up to where single steps are taken
	for at := f.least - 1; ; {
		if at >= step {
			at = f.pass(text, at)
			step = at + groupsAhead*f.stride
		}
		if at >= len(text) {
			break
		}
		p := pair(text[at-1], text[at])
		if s := f.shift[p]; s > 0 {
			at += int(s)
			continue
		}
		begin := at - f.least + 1
		at++
		n := f.at(p, text[begin:])
		switch {
		case n == 0, begin+n <= end: // nothing, or within another
		case begin < end:
			end, number = begin+n, number+1
		default:
			if number > 0 {
				found(start, end, number)
			}
			start, end, number = begin, begin+n, 1
		}
	}
	if number > 0 {
		found(start, end, number)
	}
}

// at returns the length of the longest needle that text begins with, whose first bytes
// end in the pair; 0 where there is none.
func (f *finder) at(p uint16, text []byte) int {
	for _, i := range f.ends[p] {
		if needle := f.needles[i]; bytes.HasPrefix(text, needle) {
			return len(needle)
		}
	}
	return 0
}

// pass moves the window, whose end is at, to where a needle may begin soon.
func (f *finder) pass(text []byte, at int) int {
	if f.stride < 1 {
		return at
	}
	stride, group := f.stride, func(i int) uint8 { return f.groups[triple(text[i:])] }
	for next := at - f.least + f.stride; next+(groupsAhead-1)*stride+4 <= len(text); next += groupsAhead * stride {
		if group(next)|group(next+stride)|group(next+2*stride)|group(next+3*stride) != 0 {
			break
		}
		at += groupsAhead * stride
	}
	return at
}
