package tokens

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"
)

// testKey returns a fixed key; keys of different n differ.
func testKey(n byte) *Key {
	key, err := NewKey(bytes.Repeat([]byte{n}, keySize))
	if err != nil {
		panic(err)
	}
	return key
}

var testRing = NewKeyring(testKey(1))

func mustSeal(t testing.TB, ring *Keyring, s Secret) string {
	t.Helper()
	token, err := ring.Seal(s)
	if err != nil {
		t.Fatalf("Seal: %v", err)
	}
	return token
}

// sealPayload seals any plaintext, under a nonce of its own.
func sealPayload(key *Key, nonce, payload string) string {
	blob := key.aead.Seal([]byte(nonce), []byte(nonce), []byte(payload), nil)
	return prefix + base64.StdEncoding.EncodeToString(blob)
}

const testNonce = "twelve bytes"

// escapings spell a token as encoders do.
var escapings = map[string]func(string) string{
	"percent":       strings.NewReplacer(":", "%3A", "+", "%2B", "/", "%2F", "=", "%3D").Replace,
	"lower percent": strings.NewReplacer(":", "%3a", "+", "%2b", "/", "%2f", "=", "%3d").Replace,
	"slashes":       strings.NewReplacer("/", `\/`).Replace,
	"unicode":       strings.NewReplacer(":", `\u003a`, "+", `\u002B`, "/", `\u002f`, "=", `\u003D`).Replace,
	"all percent": func(s string) string {
		return escapeEach(s, func(c byte) string { return "%" + string(upperHex[c>>4]) + string(upperHex[c&15]) })
	},
	"all unicode": func(s string) string {
		return escapeEach(s, func(c byte) string { return `\u00` + string(upperHex[c>>4]) + string(upperHex[c&15]) })
	},
}

func escapeEach(token string, escape func(byte) string) string {
	out := bytes.NewBufferString(marker)
	for _, c := range []byte(token[len(marker):]) {
		out.WriteString(escape(c))
	}
	return out.String()
}

var testTime = time.Unix(1_700_000_000, 0)

// testTarget is where the tests' requests go.
var testTarget = Target{Host: "api.example.com", Port: 443, Method: "GET", Path: "/", Time: testTime}

func newScanner() *Scanner { return &Scanner{Keys: testRing, Target: testTarget} }

// appendAll scans the pieces of one text.
func appendAll(s *Scanner, pieces ...[]byte) ([]byte, error) {
	var out []byte
	var err error
	for i, p := range pieces {
		if out, err = s.Append(out, p, i == len(pieces)-1); err != nil {
			return out, err
		}
	}
	return out, nil
}

func abbreviate(b []byte) string {
	if len(b) > 300 {
		return string(b[:150]) + "…" + string(b[len(b)-150:])
	}
	return string(b)
}
