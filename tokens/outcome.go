package tokens

import (
	"fmt"
	"strings"
)

// opened deals with a token that opened; p is what was read of it in this call.
func (s *Scanner) opened(dst, p []byte) ([]byte, error) {
	c := s.candidate
	secret := &c.secret
	s.open = false
	length := len(marker) + len(s.held) + len(p)
	t := Token{Name: secret.Name, Unrestricted: len(secret.Hosts) == 0, Form: s.form()}
	if t.Reason = s.Refuse; t.Reason == ReasonNone {
		t.Reason = s.permits(secret)
	}
	if t.Reason == ReasonNone {
		t.Action, t.Value = Replaced, secret.Value
	} else {
		t.Action = s.OnMismatch.action(Strip)
	}
	if err := s.report(t); err != nil {
		return dst, err
	}
	switch t.Action {
	case Replaced:
		s.Result.Replaced++
		value := secret.Value.Reveal()
		if s.Form == Percent && s.candidate.escape.backslash && t.Form == Percent {
			value = Escape(value, JSON) // JSON that stands in a URL as it is
		}
		dst = s.change(dst)
		from := len(dst)
		dst = appendValue(dst, value, t.Form)
		s.changed(length, dst[from:])
	case Stripped:
		s.Result.Stripped++
		s.changed(length, nil)
		dst = s.change(dst)
		if s.display {
			dst = append(dst, "⟨token "+s.candidate.id()+"⟩"...)
		}
	default:
		dst = s.keep(s.keep(s.keep(dst, []byte(marker)), s.held), p)
	}
	return dst, nil
}

// permits is secret.Permits, but matches the path only once per list of globs:
// a body may repeat a token many times, and matching is slow.
func (s *Scanner) permits(secret *Secret) Reason {
	if len(secret.Paths) == 0 {
		return secret.Permits(s.Target)
	}
	rest := *secret
	rest.Paths = nil
	if reason := rest.Permits(s.Target); reason != ReasonNone {
		return reason
	}
	if s.paths == nil || s.pathsFor != s.Target.Path {
		s.paths, s.pathsFor = map[string]bool{}, s.Target.Path
	}
	key := strings.Join(secret.Paths, "\x00")
	matches, known := s.paths[key]
	if !known {
		matches = pathMatches(secret.Paths, s.Target.Path)
		s.paths[key] = matches
	}
	if !matches {
		return ReasonPath
	}
	return ReasonNone
}

// ended deals with a candidate that turned out to be no token, or none that
// opens. p is the piece in which that showed. It returns what is left of p.
func (s *Scanner) ended(dst, p []byte, result readResult) (_, rest []byte, err error) {
	c := s.candidate
	if result == readNoToken {
		dst, err = s.release(dst)
		return dst, p, err
	}
	if !c.discard {
		if err := s.undecodable(); err != nil {
			return dst, p, err
		}
	}
	if !c.discard && s.OnUndecodable != Strip {
		dst, err = s.release(dst)
		return dst, p, err
	}
	dst = s.change(dst)
	if s.display && !c.discard {
		dst = append(dst, "⟨token "+c.id()+"⟩"...)
	}
	cut := c.runEnd
	// The last letters of the run may be the first of the next token.
	if string(s.tail(p)) == marker {
		cut -= len(marker)
	}
	s.changed(len(marker)+cut, nil)
	held := len(s.held)
	if dst, err = s.resume(dst, cut); err != nil {
		return dst, p, err
	}
	return dst, p[max(0, cut-held):], nil
}

// tooLong deals with a run of base64 that is longer than any token, of which
// p[:n] was read in this call.
func (s *Scanner) tooLong(dst, p []byte, n int) (_, rest []byte, err error) {
	if err := s.undecodable(); err != nil {
		return dst, p, err
	}
	if s.OnUndecodable != Strip {
		dst, err = s.release(dst)
		return dst, p, err
	}
	s.candidate.discard, s.candidate.alive, s.candidate.digits = true, 0, 0
	s.held = append(s.held, p[:n]...)
	s.trim()
	return s.change(dst), p[n:], nil
}

// tail returns the last letters of the run, from what is held and from p.
func (s *Scanner) tail(p []byte) []byte {
	end := s.candidate.runEnd
	tail := make([]byte, 0, len(marker))
	for i := max(0, end-len(marker)); i < end; i++ {
		if i < len(s.held) {
			tail = append(tail, s.held[i])
		} else {
			tail = append(tail, p[i-len(s.held)])
		}
	}
	return tail
}

// undecodable counts and reports the candidate as a token that does not open.
func (s *Scanner) undecodable() error {
	t := Token{Action: s.OnUndecodable.action(Pass), Reason: ReasonUndecodable, Form: s.form()}
	if err := s.report(t); err != nil {
		return err
	}
	s.Result.Undecodable++
	if t.Action == Stripped {
		s.Result.Stripped++
	}
	return nil
}

// report tells OnToken about a token, and refuses it if it is denied.
func (s *Scanner) report(t Token) error {
	if s.OnToken == nil && t.Action != Denied {
		return nil
	}
	t.ID = s.candidate.id()
	if s.OnToken != nil {
		if err := s.OnToken(t); err != nil {
			return err
		}
	}
	if t.Action == Denied {
		return fmt.Errorf("%w: %s (token %s)", ErrDenied, t.Reason, t.ID)
	}
	return nil
}

// form is how the value of the candidate must be written.
func (s *Scanner) form() Form {
	switch e := &s.candidate.escape; {
	case e.percent:
		return Percent
	case e.backslash && s.Form != Percent: // a URL stays one
		return JSON
	}
	return s.Form
}
