package tokens

import (
	"net/url"
	"strings"
)

// pathMatches reports whether one of the globs matches the escaped path. A path
// that a server could resolve to another one never matches.
func pathMatches(globs []string, path string) bool {
	path, _, _ = strings.Cut(path, "?")
	decoded, err := url.PathUnescape(path)
	if err != nil || climbs(decoded) {
		return false
	}
	for _, g := range globs {
		if globMatches(g, decoded) {
			return true
		}
	}
	return false
}

// maxDecoding is how often a path may be percent-encoded at most. Undoing
// every layer would take time that grows with the square of its length.
const maxDecoding = 4

// climbs reports whether a path has a . or .. segment, also for a server that
// decodes once more, takes \ for /, or drops parameters behind a semicolon.
func climbs(path string) bool {
	for range maxDecoding {
		for segment := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' || r == '\\' }) {
			segment, _, _ = strings.Cut(segment, ";")
			if segment == "." || segment == ".." {
				return true
			}
		}
		again, err := url.PathUnescape(path)
		if err != nil || again == path {
			return false
		}
		path = again
	}
	return true // nothing honest is encoded so often
}

// globMatches simulates the glob as an automaton, so its time is bounded by the
// product of both lengths whatever they hold.
func globMatches(glob, text string) bool {
	// live[i] means that glob[:i] matches what was read so far.
	live := make([]bool, len(glob)+1)
	next := make([]bool, len(glob)+1)
	live[0] = true
	skipStars(glob, live)
	for i := range len(text) {
		clear(next)
		for j, on := range live[:len(glob)] {
			switch {
			case !on:
			case glob[j] != '*':
				if glob[j] == text[i] {
					next[j+1] = true
				}
			case text[i] != '/' || isDoubleStar(glob, j):
				next[j] = true
			}
		}
		live, next = next, live
		skipStars(glob, live)
	}
	return live[len(glob)]
}

// isDoubleStar reports whether the star at j is one of several in a row.
func isDoubleStar(glob string, j int) bool {
	return j > 0 && glob[j-1] == '*' || j+1 < len(glob) && glob[j+1] == '*'
}

// skipStars lets every star match nothing.
func skipStars(glob string, live []bool) {
	for j := range len(glob) {
		if live[j] && glob[j] == '*' {
			live[j+1] = true
		}
	}
}
