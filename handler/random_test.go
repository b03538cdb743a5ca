package handler

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/tokens"
)

// choices is where random tests and fuzz tests take their decisions from: a
// seeded generator, or the bytes of a fuzzer.
type choices interface {
	IntN(n int) int
}

// fuzzChoices spends the bytes of a fuzzer. When they are gone every choice is
// the first one.
type fuzzChoices struct{ data []byte }

func (c *fuzzChoices) IntN(n int) int {
	number := 0
	for scale := 1; scale < n && len(c.data) > 0; scale <<= 8 {
		number = number<<8 | int(c.data[0])
		c.data = c.data[1:]
	}
	return number % n
}

func pick[T any](c choices, options ...T) T { return options[c.IntN(len(options))] }

// oneIn is true once in n times.
func oneIn(c choices, n int) bool { return c.IntN(n) == n-1 }

// randomKey is the master key of the random tests, as the one of a bench.
var randomKey = slices.Repeat([]byte{7}, 32)

// sealFixed makes a token in Starpod's format that depends on nothing but the
// arguments, so that what a fuzzer found can be found again.
func sealFixed(tb testing.TB, key []byte, value string, hosts ...string) string {
	tb.Helper()
	payload, err := json.Marshal(map[string]any{"v": value, "h": append([]string{}, hosts...)})
	if err != nil {
		tb.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		tb.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		tb.Fatal(err)
	}
	sum := sha256.Sum256(append(payload, key...))
	nonce := sum[:gcm.NonceSize()]
	return "starpod:v1:" + base64.StdEncoding.EncodeToString(gcm.Seal(nonce, nonce, payload, nil))
}

// randomSecret is a token and what becomes of it on the way to the API.
type randomSecret struct {
	token, value string
	fate         tokens.Action
}

// valuePieces are what values are made of: everything that some syntax gives a
// meaning to.
var valuePieces = []string{
	"a", "Z9", "key-", `"`, `\`, "'", "<", ">", "&", "%", "%41", "+", "=", "/", "?", "#", ";", ",", ":", " ", "\t", "&amp;", `\u0041`, "]]>", "a.b",
	"é", "🔐", "\u2028", "\uFFFD", "\n", "\r", "\x00", "\x1f", "\x7f",
}

// fieldPieces is how many of them, from the front, may stand in a header.
var fieldPieces = slices.Index(valuePieces, "\n")

// randomValue makes a value; inField keeps what no header may carry out of it.
func randomValue(c choices, inField bool) string {
	pieces := valuePieces
	if inField {
		pieces = valuePieces[:fieldPieces]
	}
	var value strings.Builder
	for range c.IntN(12) {
		value.WriteString(pick(c, pieces...))
	}
	return value.String()
}

// newRandomSecret seals a value in one of the ways that matter.
func newRandomSecret(tb testing.TB, c choices, inField bool) randomSecret {
	tb.Helper()
	value := randomValue(c, inField)
	switch c.IntN(10) {
	case 8:
		return randomSecret{token: sealFixed(tb, randomKey, value, "api.starpod.test.evil.test", "starpod.test"), fate: tokens.Stripped}
	case 9:
		return randomSecret{token: sealFixed(tb, slices.Repeat([]byte{9}, 32), value), fate: tokens.Left}
	}
	hosts := pick(c, nil, []string{"api.starpod.test"}, []string{"other.test", "*.Starpod.TEST"})
	return randomSecret{sealFixed(tb, randomKey, value, hosts...), value, tokens.Replaced}
}

// The ways in which encoders write the characters of a token.
var (
	spellPlain   = func(token string) string { return token }
	spellPercent = strings.NewReplacer(":", "%3A", "+", "%2B", "/", "%2F", "=", "%3D").Replace
	spellLower   = strings.NewReplacer(":", "%3a", "+", "%2b", "/", "%2f", "=", "%3d").Replace
	spellQuery   = strings.NewReplacer(":", "%3A", "+", "%2B").Replace // / and = may stand in a query
	spellSlashes = strings.NewReplacer("/", `\/`).Replace
	spellUnicode = strings.NewReplacer(":", `\u003a`, "+", `\u002B`, "/", `\u002f`, "=", `\u003D`).Replace
	spellSigns   = strings.NewReplacer("+", `\u002b`, "=", `\u003d`).Replace
)

type spelling = func(string) string

var (
	spelledURL  = []spelling{spellPlain, spellPercent, spellLower, spellQuery}
	spelledJSON = []spelling{spellPlain, spellSlashes, spellUnicode, spellSigns}
	spelledRaw  = []spelling{spellPlain}
)

// twin is one text in two versions: as a client of the proxy sends it, with
// tokens, and as the destination shall get it.
type twin struct{ sent, want strings.Builder }

func (t *twin) text(s string) {
	t.sent.WriteString(s)
	t.want.WriteString(s)
}

// secret writes a token in one of the spellings, and what becomes of it where
// text has the given form.
func (t *twin) secret(c choices, s randomSecret, form tokens.Form, spellings []spelling) {
	spelled := pick(c, spellings...)(s.token)
	t.sent.WriteString(spelled)
	switch s.fate {
	case tokens.Left:
		t.want.WriteString(spelled)
	case tokens.Replaced:
		value := s.value
		switch {
		case strings.Contains(spelled, "%"):
			form = tokens.Percent
		case strings.Contains(spelled, `\`) && form == tokens.Percent:
			value = tokens.Escape(value, tokens.JSON)
		case strings.Contains(spelled, `\`):
			form = tokens.JSON
		}
		t.want.WriteString(tokens.Escape(value, form))
	}
}

// filler writes n bytes that mean nothing in any syntax.
func (t *twin) filler(n int) { t.text(strings.Repeat("starpod is no token ", n/20+1)[:n]) }
