package handler

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/tokens"
	"golang.org/x/net/http/httpguts"
)

var fuzzSpellings = []spelling{spellPlain, spellPercent, spellLower, spellQuery, spellSlashes, spellUnicode}

// A request line goes out as it came, but for the value, percent-encoded, in the
// place of the token.
func FuzzURL(f *testing.F) {
	f.Add("bot", "/sendMessage?a=b%2Fc", "va/l ue", byte(0), byte(0))
	f.Add("a%2fb/..;x//", "=", "", byte(1), byte(1))
	f.Add("/double?k=1&k=2;k=%zz&t=", "", "é🔐\n", byte(2), byte(2))
	f.Add("?", "", "", byte(3), byte(0))
	f.Add("", "/x", "", byte(0), byte(1))
	f.Add("/\xfc%2F", `"|^{}`, "%", byte(0), byte(0))
	f.Add("?j={\"k\":\"", "\"}", "a b#c", byte(5), byte(0))
	f.Add("starpod:v1:AAAAstarpod%3Av1%3", "starpod", "..", byte(1), byte(0))
	s := newSwapper(f)
	f.Fuzz(func(t *testing.T, before, after, value string, spell, fate byte) {
		secret := fatedSecret(t, fate, value)
		spelled := fuzzSpellings[int(spell)%len(fuzzSpellings)](secret.token)
		sent := "/" + before + spelled + after
		out, _, err := s.swap("GET " + sent + " HTTP/1.1\r\nHost: api.starpod.test\r\n\r\n")
		if errors.Is(err, errUnread) {
			return
		}
		if err != nil {
			if secret.fate == tokens.Stripped && refusalRule(err) == RuleAuthority {
				return // another path would come of it
			}
			t.Fatalf("%q: %v", sent, err)
		}
		want := acceptedLine("GET /" + before + secret.arrives(spelled, tokens.Percent) + after + " HTTP/1.1")
		if got := "GET " + out.URL.RequestURI() + " HTTP/1.1"; got != want {
			t.Errorf("%q:\ngot  %q\nwant %q", sent, got, want)
		}
	})
}

// A field goes out as it came, but for the value; one that no field may carry is
// refused.
func FuzzHeader(f *testing.F) {
	f.Add("Bearer ", "", "value", byte(0), byte(0))
	f.Add("a=1; s=", "; b=2", `"v"; \`, byte(1), byte(0))
	f.Add("", ", x", "a\r\nX-Evil: 1", byte(0), byte(0))
	f.Add("\t\"", "\"\xe4", "\x00", byte(2), byte(0))
	f.Add("", "", " spaces ", byte(0), byte(0))
	f.Add("x ", " ", "", byte(3), byte(1))
	s := newSwapper(f)
	f.Fuzz(func(t *testing.T, before, after, value string, spell, fate byte) {
		secret := fatedSecret(t, fate, value)
		spelled := fuzzSpellings[int(spell)%len(fuzzSpellings)](secret.token)
		for _, name := range []string{"X-Key", "Cookie"} {
			field := before + spelled + after
			if strings.ContainsAny(field, "\r\n") || !httpguts.ValidHeaderFieldValue(field) {
				continue // the server reads no such request
			}
			out, _, err := s.swap("GET / HTTP/1.1\r\nHost: api.starpod.test\r\n" + name + ": " + field + "\r\n\r\n")
			if secret.fate == tokens.Replaced && !httpguts.ValidHeaderFieldValue(secret.value) {
				if refusalRule(err) != RuleHeaderValue {
					t.Errorf("%q with value %q: got %v, want a refusal", field, secret.value, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%q: %v", field, err)
			}
			want := strings.Trim(before+secret.arrives(spelled, tokens.Raw)+after, " \t")
			if got := out.Header.Get(name); got != want || len(out.Header) != 1 {
				t.Errorf("%s: %q:\ngot  %q\nwant %q", name, field, out.Header, want)
			}
		}
	})
}

// Basic credentials decode to what they did, with the value; the scheme and the
// space behind it stay as they were.
func FuzzBasic(f *testing.F) {
	f.Add("user:", "", "value", byte(0), byte(0), byte(0))
	f.Add("", ":x-oauth-basic", `v:"\`, byte(31), byte(5), byte(0))
	f.Add("us", "er:\x00pass", "a\r\nb", byte(7), byte(2), byte(0))
	f.Add("", "", "", byte(1), byte(7), byte(1))
	f.Add("ü:", ":", "v", byte(3), byte(9), byte(2))
	s := newSwapper(f)
	f.Fuzz(func(t *testing.T, before, after, value string, capitals, style, fate byte) {
		secret := fatedSecret(t, fate, value)
		scheme := []byte("basic")
		for i := range scheme {
			if capitals>>i&1 == 1 {
				scheme[i] -= 'a' - 'A'
			}
		}
		prefix := string(scheme) + [...]string{" ", "  ", "\t", " \t "}[style%4]
		encoding := base64.StdEncoding
		if style&4 != 0 {
			encoding = base64.RawStdEncoding
		}
		field := prefix + encoding.EncodeToString([]byte(before+secret.token+after))
		out, _, err := s.swap("GET / HTTP/1.1\r\nHost: api.starpod.test\r\nAuthorization: " + field + "\r\n\r\n")
		if err != nil {
			t.Fatalf("%q: %v", field, err)
		}
		got := out.Header.Get("Authorization")
		if secret.fate == tokens.Left {
			if got != field {
				t.Errorf("got %q, want it as it came: %q", got, field)
			}
			return
		}
		want := before + secret.value + after
		if want == "" {
			prefix = strings.TrimRight(prefix, " \t")
		}
		blob, found := strings.CutPrefix(got, prefix)
		padded, padErr := base64.StdEncoding.DecodeString(blob)
		bare, bareErr := base64.RawStdEncoding.DecodeString(blob)
		if !found || (padErr != nil || string(padded) != want) && (bareErr != nil || string(bare) != want) {
			t.Errorf("%q: got %q, want credentials %q", field, got, want)
		}
	})
}
