package testbench

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"testing"
)

// Seal makes a token in Starpod's format with nothing but the standard library,
// so that tests do not judge the product by its own sealing: "starpod:v1:" and
// the standard base64 of nonce (12 bytes), AES-256-GCM ciphertext and tag (16)
// over the JSON {"v": value, "h": hosts}. The key has 32 bytes.
func Seal(tb testing.TB, key []byte, value string, hosts ...string) string {
	tb.Helper()
	return SealPayload(tb, key, map[string]any{"v": value, "h": append([]string{}, hosts...)})
}

// SealPayload is Seal for a payload with other members, or hostile ones.
func SealPayload(tb testing.TB, key []byte, members map[string]any) string {
	tb.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		tb.Fatalf("sealing: %v", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		tb.Fatalf("sealing: %v", err)
	}
	payload, err := json.Marshal(members)
	if err != nil {
		tb.Fatalf("sealing: %v", err)
	}
	nonce := make([]byte, gcm.NonceSize())
	rand.Read(nonce)
	return "starpod:v1:" + base64.StdEncoding.EncodeToString(gcm.Seal(nonce, nonce, payload, nil))
}
