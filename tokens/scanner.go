package tokens

import (
	"bytes"
	"slices"
	"strings"
)

// Scanner swaps the tokens in a text for their values. Set the fields, then
// feed it one text, by Append or Reader, or any number of whole texts, by Bytes
// or ScanString. It is not safe for concurrent use. After an error it returns
// that error only.
type Scanner struct {
	Keys   *Keyring
	Target Target
	// Form is how text is written here. A token that is itself percent-encoded
	// or has JSON escapes shows its own form, which goes before this one; JSON in
	// a Percent text is written as both.
	Form Form
	// OnMismatch is for tokens that do not permit the target. Default: Strip.
	OnMismatch Policy
	// OnUndecodable is for tokens that do not open. Default: Pass.
	OnUndecodable Policy
	// Refuse, if set, makes every token that opens a mismatch, with this reason.
	Refuse Reason
	// OnToken, if set, is told about each token before anything is written in
	// its place. Its error ends the scan.
	OnToken func(Token) error
	// Edits, if set, notes what changes in the one text that Append or Reader reads.
	Edits *Edits
	// Result counts over all texts.
	Result Result

	display   bool // write ⟨token id⟩ for what is stripped
	err       error
	matched   int             // letters of "starpod" that the text so far ends with
	open      bool            // "starpod" was read, and candidate is reading on
	candidate *candidate      // from the first token on
	held      []byte          // what candidate read in earlier calls
	paths     map[string]bool // by globs: whether they match the path pathsFor
	pathsFor  string
	whole     []byte // the text of Bytes, while nothing in it changed
	same      int    // how much of it is settled
}

// Append reads p, the next piece of a text, and appends what is settled to dst.
// It holds back only bytes that may belong to a token. With final the text
// ends: nothing is held back, and the next call begins another text.
func (s *Scanner) Append(dst, p []byte, final bool) ([]byte, error) {
	if s.err != nil {
		return dst, s.err
	}
	dst, err := s.feed(dst, p)
	if err == nil && final {
		dst, err = s.flush(dst)
	}
	s.err = err
	return dst, err
}

// Bytes scans a whole text. When nothing changes it returns p itself.
func (s *Scanner) Bytes(p []byte) ([]byte, error) {
	if s.err != nil || !Contains(p) {
		return p, s.err
	}
	s.whole, s.same = p, 0
	dst, err := s.Append(nil, p, true)
	unchanged := s.whole != nil
	s.whole = nil
	switch {
	case err != nil:
		return nil, err
	case unchanged:
		return p, nil
	}
	return dst, nil
}

// ScanString is Bytes for a string.
func (s *Scanner) ScanString(p string) (string, error) {
	if s.err != nil || !ContainsString(p) {
		return p, s.err
	}
	in := []byte(p)
	out, err := s.Bytes(in)
	if err != nil {
		return "", err
	}
	if len(out) == len(in) && &out[0] == &in[0] {
		return p, nil
	}
	return string(out), nil
}

// Contains reports whether p could hold a token.
func Contains(p []byte) bool { return index(p) >= 0 }

// ContainsString reports whether p could hold a token.
func ContainsString(p string) bool { return strings.Contains(p, marker) }

// Scan swaps the tokens in data on its way to t: a token that permits t for its
// value, one that does not for nothing. What does not open stays.
func Scan(keys *Keyring, data []byte, t Target) ([]byte, Result) {
	s := Scanner{Keys: keys, Target: t}
	out, err := s.Bytes(data)
	if err != nil {
		return nil, s.Result // only policies and hooks fail, and there are none
	}
	return out, s.Result
}

func (s *Scanner) feed(dst, p []byte) (_ []byte, err error) {
	for len(p) > 0 && err == nil {
		if !s.open {
			dst, p = s.search(dst, p)
			continue
		}
		n, result := s.candidate.read(p)
		switch result {
		case readMore:
			s.held = append(s.held, p...)
			s.trim()
			return dst, nil
		case readOpened:
			dst, err = s.opened(dst, p[:n])
			p = p[n:]
		case readTooLong:
			dst, p, err = s.tooLong(dst, p, n)
		default:
			dst, p, err = s.ended(dst, p, result)
		}
	}
	return dst, err
}

// flush settles what is held back at the end of a text.
func (s *Scanner) flush(dst []byte) (_ []byte, err error) {
	for s.open {
		// What follows a dead candidate may hold another, shorter one.
		if dst, _, err = s.ended(dst, nil, s.candidate.stop()); err != nil {
			return dst, err
		}
	}
	dst = s.keep(dst, []byte(marker[:s.matched]))
	s.matched = 0
	if s.candidate != nil {
		s.candidate.free()
		s.candidate = nil
	}
	return dst, nil
}

// search settles p up to the next "starpod" and returns the rest.
func (s *Scanner) search(dst, p []byte) (_, rest []byte) {
	// No letter occurs twice in "starpod", so a match that breaks off can only
	// begin anew at the byte that broke it.
	for s.matched > 0 {
		if len(p) == 0 {
			return dst, p
		}
		if p[0] != marker[s.matched] {
			dst = s.keep(dst, []byte(marker[:s.matched]))
			s.matched = 0
			break
		}
		p = p[1:]
		if s.matched++; s.matched == len(marker) {
			s.begin()
			return dst, p
		}
	}
	i := index(p)
	if i < 0 {
		s.matched = markerSuffix(p)
		return s.keep(dst, p[:len(p)-s.matched]), nil
	}
	s.begin()
	return s.keep(dst, p[:i]), p[i+len(marker):]
}

// markerSuffix returns how many of the first letters of "starpod" p ends with.
func markerSuffix(p []byte) int {
	tail := p[max(0, len(p)-len(marker)+1):]
	if i := bytes.LastIndexByte(tail, marker[0]); i >= 0 && strings.HasPrefix(marker, string(tail[i:])) {
		return len(tail) - i
	}
	return 0
}

func (s *Scanner) begin() {
	if s.candidate == nil {
		s.candidate = candidates.Get().(*candidate)
	}
	s.candidate.reset(s.Keys)
	s.held = s.held[:0]
	s.open, s.matched = true, 0
}

// keep settles text that stays.
func (s *Scanner) keep(dst, p []byte) []byte {
	if s.Edits != nil {
		s.Edits.settled += int64(len(p))
	}
	if s.whole != nil {
		s.same += len(p)
		return dst
	}
	return append(dst, p...)
}

// change prepares dst for text that differs from what was read.
func (s *Scanner) change(dst []byte) []byte {
	if s.whole == nil {
		return dst
	}
	dst = append(make([]byte, 0, len(s.whole)), s.whole[:s.same]...)
	s.whole = nil
	return dst
}

// passes reports whether p can be settled as it is, but for s.matched bytes at
// its end.
func (s *Scanner) passes(p []byte) bool {
	if s.err != nil || s.open || s.matched > 0 || Contains(p) {
		return false
	}
	s.matched = markerSuffix(p)
	if s.Edits != nil {
		s.Edits.settled += int64(len(p) - s.matched)
	}
	return true
}

// changed notes that text stands for the next skip bytes of what was read.
func (s *Scanner) changed(skip int, text []byte) {
	if s.Edits != nil && skip > 0 {
		s.Edits.note(skip, text)
	}
}

// release settles "starpod" as text and looks for tokens in what is held.
func (s *Scanner) release(dst []byte) ([]byte, error) {
	return s.resume(s.keep(dst, []byte(marker)), 0)
}

// resume ends the candidate and looks for tokens in held[from:].
func (s *Scanner) resume(dst []byte, from int) ([]byte, error) {
	s.open = false
	if from >= len(s.held) {
		return dst, nil
	}
	return s.feed(dst, slices.Clone(s.held[from:])) // held is about to be written
}

// trim drops what is no longer needed of a run that is being removed.
func (s *Scanner) trim() {
	if !s.candidate.discard {
		return
	}
	cut := max(0, s.candidate.runEnd-len(marker))
	s.changed(cut, nil)
	s.held = append(s.held[:0], s.held[cut:]...)
	s.candidate.runEnd -= cut
	s.candidate.source -= cut
}

// Display returns text for people to read, in logs for example: each token is
// shown as ⟨token 1a2b3c4d⟩, by its ID, whether it opens or not.
func Display(keys *Keyring, text string) string {
	s := Scanner{Keys: keys, Refuse: "display", OnUndecodable: Strip, display: true}
	shown, err := s.ScanString(text)
	if err != nil {
		return "" // only policies and hooks fail, and there are none
	}
	return shown
}
