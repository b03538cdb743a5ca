package tokens

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// payload is the JSON in a token, as Starpod writes it, with our members after
// Starpod's.
type payload struct {
	V string   `json:"v"`
	H []string `json:"h"`
	N string   `json:"n,omitempty"`
	E *int64   `json:"e,omitempty"`
	M []string `json:"m,omitempty"`
	P []string `json:"p,omitempty"`
}

// maxExpiry bounds e, in Unix seconds (about the year 36800), so that no value
// of it overflows a time.Time or stands for "never".
const maxExpiry = 1 << 40

func (s *Secret) encode() ([]byte, error) {
	p := payload{V: string(s.Value), H: s.Hosts, N: s.Name, M: s.Methods, P: s.Paths}
	if p.H == nil {
		p.H = []string{} // Starpod wants a list
	}
	if !s.Expires.IsZero() {
		e := s.Expires.Unix()
		p.E = &e
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(p); err != nil {
		return nil, errors.New("writing payload: not representable as JSON")
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// validate refuses what a proxy could not enforce or JSON would alter.
func (s *Secret) validate() error {
	if !utf8.ValidString(string(s.Value)) {
		return errors.New("value is not valid UTF-8; encode it first, for example as base64")
	}
	if !utf8.ValidString(s.Name) {
		return errors.New("name is not valid UTF-8")
	}
	if e := s.Expires.Unix(); !s.Expires.IsZero() && (e < 0 || e > maxExpiry) {
		return errors.New("expiry lies outside of the years 1970 to 36000; leave it zero for no expiry")
	}
	for _, h := range s.Hosts {
		if !utf8.ValidString(h) {
			return errors.New("host pattern is not valid UTF-8")
		}
		if _, err := parsePattern(h); err != nil {
			return fmt.Errorf("host pattern %q: %w", h, err)
		}
	}
	for _, m := range s.Methods {
		if m == "" || strings.ContainsFunc(m, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-'
		}) {
			return fmt.Errorf("method %q: write a method such as GET", m)
		}
	}
	for _, p := range s.Paths {
		if !utf8.ValidString(p) || !strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "*") {
			return fmt.Errorf("path %q: write a path that begins with a slash, such as /v1/*", p)
		}
		if strings.ContainsAny(p, "?#") || climbs(p) {
			return fmt.Errorf("path %q: leave out queries and the segments . and .., which never match", p)
		}
	}
	return nil
}

// decodePayload reads a payload as strictly as Starpod does: v and h must be
// there, nothing may be null or twice, and other members are ignored. The
// result aliases nothing.
func decodePayload(plain []byte) (Secret, bool) {
	if len(plain) < 2 || plain[0] != '{' || plain[len(plain)-1] != '}' || !utf8.Valid(plain) {
		return Secret{}, false
	}
	if s, ok := decodeSimple(plain); ok {
		return s, true
	}
	return decodeAny(plain)
}

// decodeSimple reads the usual payload fast: {"v":"…","h":["…"]} without white
// space, escapes or other members. It reports false for anything else.
func decodeSimple(plain []byte) (Secret, bool) {
	for _, c := range plain {
		if c == '\\' || c < ' ' {
			return Secret{}, false
		}
	}
	text := string(plain) // the one allocation that value and hosts share
	rest, ok := strings.CutPrefix(text, `{"v":"`)
	value, rest, ok2 := strings.Cut(rest, `"`)
	rest, ok3 := strings.CutPrefix(rest, `,"h":[`)
	if !ok || !ok2 || !ok3 {
		return Secret{}, false
	}
	s := Secret{Value: Value(value)}
	if rest == "]}" {
		return s, true
	}
	s.Hosts = make([]string, 0, strings.Count(rest, ",")+1)
	for {
		if rest == "" || rest[0] != '"' {
			return Secret{}, false
		}
		var host string
		if host, rest, ok = strings.Cut(rest[1:], `"`); !ok {
			return Secret{}, false
		}
		s.Hosts = append(s.Hosts, host)
		if rest == "]}" {
			return s, true
		}
		if rest, ok = strings.CutPrefix(rest, ","); !ok {
			return Secret{}, false
		}
	}
}

// decodeAny reads any payload. It walks the members itself, because
// json.Unmarshal would take "H" for "h", the last of two for both, and null for
// an empty string.
func decodeAny(plain []byte) (Secret, bool) {
	if !json.Valid(plain) || hasLoneSurrogate(plain) {
		return Secret{}, false
	}
	dec := json.NewDecoder(bytes.NewReader(plain))
	if _, err := dec.Token(); err != nil {
		return Secret{}, false
	}
	members := map[string]json.RawMessage{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return Secret{}, false
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return Secret{}, false
		}
		switch name := name.(string); name {
		case "v", "h", "n", "e", "m", "p":
			if members[name] != nil {
				return Secret{}, false
			}
			members[name] = raw
		}
	}
	return fromMembers(members)
}

func fromMembers(members map[string]json.RawMessage) (Secret, bool) {
	var s Secret
	if members["v"] == nil || members["h"] == nil {
		return s, false
	}
	var value string
	var e int64
	ok := into(members["v"], &value) && list(members["h"], &s.Hosts) &&
		into(members["n"], &s.Name) && into(members["e"], &e) &&
		list(members["m"], &s.Methods) && list(members["p"], &s.Paths)
	if !ok {
		return Secret{}, false
	}
	s.Value = Value(value)
	if members["e"] != nil {
		if e < 0 || e > maxExpiry {
			return Secret{}, false
		}
		s.Expires = time.Unix(e, 0)
	}
	return s, true
}

// into decodes a member that may be missing but not null.
func into[T any](raw json.RawMessage, dst *T) bool {
	if raw == nil {
		return true
	}
	var p *T
	if json.Unmarshal(raw, &p) != nil || p == nil {
		return false
	}
	*dst = *p
	return true
}

// list decodes a list of strings that may be missing; none of them may be null.
func list(raw json.RawMessage, dst *[]string) bool {
	var items []*string
	if !into(raw, &items) {
		return false
	}
	for _, item := range items {
		if item == nil {
			return false
		}
		*dst = append(*dst, *item)
	}
	return true
}

// hasLoneSurrogate reports whether valid JSON holds half of a UTF-16 pair,
// which encoding/json would silently turn into another character.
func hasLoneSurrogate(plain []byte) bool {
	high := -1 // where a high surrogate's escape ended, if one is open
	for i := 0; i < len(plain); i++ {
		if plain[i] != '\\' {
			continue
		}
		i++ // the escaped character
		if plain[i] != 'u' {
			continue
		}
		first, second := plain[i+1]|0x20, plain[i+2]|0x20
		isHigh := first == 'd' && (second == '8' || second == '9' || second == 'a' || second == 'b')
		isLow := first == 'd' && second >= 'c' && second <= 'f'
		if isLow != (high == i-1) {
			return true
		}
		i += 4
		if high = -1; isHigh {
			high = i + 1
			if !bytes.HasPrefix(plain[high:], []byte(`\u`)) {
				return true
			}
		}
	}
	return false
}
