package tokens

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

const (
	marker = "starpod" // what a search looks for: always written as it is
	colons = ":v1:"    // what follows it, perhaps escaped
	prefix = marker + colons
)

// MaxTokenLen is the length of the longest token, in characters before any URL
// or JSON escaping. Anything longer is text.
const MaxTokenLen = 2 << 20

// Errors of [Keyring.Open].
var (
	// ErrMalformed means that the text is not a token: no prefix, or not base64.
	ErrMalformed = errors.New("not a token: want starpod:v1: and base64")
	// ErrUndecodable means that no key opens the token, or that what it holds
	// is not a secret.
	ErrUndecodable = errors.New("token does not open: made with another key, or damaged")
)

// base64Strict is the one spelling of a token: canonical padding, zero trailing
// bits.
var base64Strict = base64.StdEncoding.Strict()

// Keyring holds keys. The first seals; all open, so that keys can be rotated.
// It is safe for concurrent use and prints as [redacted].
type Keyring struct {
	keys []*Key
}

// NewKeyring makes a keyring.
func NewKeyring(first *Key, others ...*Key) *Keyring {
	return &Keyring{keys: append([]*Key{first}, others...)}
}

// Format prints [redacted] under every verb.
func (Keyring) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// MarshalText returns [redacted]; encoding/json uses it too.
func (Keyring) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Seal makes a token. Two tokens for one secret differ. It refuses what could
// not be enforced, such as a malformed host pattern, and tells what to write
// instead.
func (r *Keyring) Seal(s Secret) (string, error) {
	if err := s.validate(); err != nil {
		return "", fmt.Errorf("sealing: %w", err)
	}
	plain, err := s.encode()
	if err != nil {
		return "", fmt.Errorf("sealing: %w", err)
	}
	size := nonceSize + len(plain) + tagSize
	if n := len(prefix) + base64Strict.EncodedLen(size); n > MaxTokenLen {
		return "", fmt.Errorf("sealing: the token would have %d characters, more than %d; use a shorter value", n, MaxTokenLen)
	}
	blob := make([]byte, nonceSize, size)
	rand.Read(blob)
	blob = r.keys[0].aead.Seal(blob, blob, plain, nil)
	return prefix + base64Strict.EncodeToString(blob), nil
}

// Open decrypts a token: the whole text, unescaped. The error is
// [ErrMalformed] or [ErrUndecodable].
func (r *Keyring) Open(token string) (Secret, error) {
	text, ok := strings.CutPrefix(token, prefix)
	if !ok || len(token) > MaxTokenLen || strings.ContainsAny(text, "\r\n") {
		return Secret{}, ErrMalformed
	}
	blob, err := base64Strict.DecodeString(text)
	if err != nil {
		return Secret{}, ErrMalformed
	}
	if len(blob) < nonceSize+tagSize {
		return Secret{}, ErrUndecodable
	}
	for _, key := range r.keys {
		plain, err := key.aead.Open(nil, blob[:nonceSize], blob[nonceSize:], nil)
		if err != nil {
			continue
		}
		if s, ok := decodePayload(plain); ok {
			return s, nil
		}
		break
	}
	return Secret{}, ErrUndecodable
}

// Len returns how many keys open tokens.
func (r *Keyring) Len() int { return len(r.keys) }
