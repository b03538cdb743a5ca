package tokens

import (
	"bytes"
	"encoding/binary"
)

// Text holds most of the letters of "starpod" again and again, so to go from one
// to the next, as bytes.Index does, is slow. Every fifth byte is enough: wherever
// the word stands, one of its five groups of three letters begins there.
const (
	groupSize = 3
	stride    = len(marker) - groupSize + 1 // so many groups there are in the word
	groups    = 8                           // that are looked at before a decision
	window    = stride*groups + len(marker) - 1
)

// groupBits is the size of the table of groups. With 5 of 2048 places taken, one
// group of other letters in 400 looks like one of ours.
const groupBits = 11

var inMarker = func() (table [1 << groupBits]uint8) {
	letters := []byte(marker + "\x00")
	for i := range stride {
		table[groupPlace(letters[i:])] = 1
	}
	return table
}()

// groupPlace is where the first three of four bytes are in the table. The shift
// drops the fourth.
func groupPlace(p []byte) uint32 {
	return binary.LittleEndian.Uint32(p) << 8 * 0x9E3779B1 >> (32 - groupBits)
}

func group(p []byte) uint8 { return inMarker[groupPlace(p)] }

// index is [bytes.Index] of "starpod" in p.
func index(p []byte) int {
	at := 0
	for ; at+window <= len(p); at += stride * groups {
		// Words that begin in the first stride*groups bytes end in the window.
		w := p[at : at+window : at+window]
		if group(w[4:])|group(w[9:])|group(w[14:])|group(w[19:])|
			group(w[24:])|group(w[29:])|group(w[34:])|group(w[39:]) == 0 {
			continue
		}
		if i := bytes.Index(w, []byte(marker)); i >= 0 {
			return at + i
		}
	}
	if i := bytes.Index(p[at:], []byte(marker)); i >= 0 {
		return at + i
	}
	return -1
}
