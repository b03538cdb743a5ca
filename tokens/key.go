package tokens

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"unicode"
)

const (
	keySize   = 32 // AES-256
	nonceSize = 12 // GCM's standard nonce, NIST SP 800-38D §8.2
	tagSize   = 16
)

const redacted = "[redacted]"

// Key is an AES-256 key. It prints as [redacted] everywhere.
type Key struct {
	block cipher.Block
	aead  cipher.AEAD
}

// NewKey makes a key of exactly 32 bytes.
func NewKey(raw []byte) (*Key, error) {
	if len(raw) != keySize {
		return nil, fmt.Errorf("making key: want %d bytes, got %d", keySize, len(raw))
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	return &Key{block: block, aead: aead}, nil
}

// GenerateKey makes a random key and returns its 32 bytes beside it.
func GenerateKey() (key *Key, raw []byte) {
	raw = make([]byte, keySize)
	rand.Read(raw) // never fails: it ends the program instead
	key, err := NewKey(raw)
	if err != nil {
		panic(err) // 32 bytes always make a key
	}
	return key, raw
}

var errKeyFormat = errors.New("parsing key: want 32 raw bytes, 64 hex digits, " +
	"or the base64 of 32 bytes; make a new one with: caddy starpod keygen")

// ParseKey reads the contents of a key file: 32 raw bytes, or 64 hex digits, or
// base64 (standard or URL alphabet, padded or not), the latter two with any
// white space.
func ParseKey(text []byte) (*Key, error) {
	if len(text) == keySize {
		return NewKey(text)
	}
	compact := bytes.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, text)
	if len(compact) == hex.EncodedLen(keySize) {
		if raw, err := hex.DecodeString(string(compact)); err == nil {
			return NewKey(raw)
		}
	}
	for _, enc := range []*base64.Encoding{
		base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding, base64.RawURLEncoding,
	} {
		if raw, err := enc.Strict().DecodeString(string(compact)); err == nil && len(raw) == keySize {
			return NewKey(raw)
		}
	}
	return nil, errKeyFormat
}

// Format prints [redacted] under every verb.
func (Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// String returns [redacted].
func (Key) String() string { return redacted }

// GoString returns [redacted].
func (Key) GoString() string { return redacted }

// MarshalText returns [redacted]; encoding/json uses it too.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }
