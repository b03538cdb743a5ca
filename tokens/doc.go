// Package tokens seals secrets into opaque tokens, opens them again, and swaps
// tokens for values in text on its way to a host.
//
// A token is the text
//
//	starpod:v1:<base64>
//
// where the base64 (RFC 4648 §4, padded) holds a 12-byte nonce followed by the
// AES-256-GCM ciphertext and its 16-byte tag, without associated data. The
// plaintext is a JSON object:
//
//	{"v":"the value","h":["api.example.com","*.example.org"]}
//
// This is the format of Starpod's vault; tokens travel in both directions. The
// optional members n (name), e (expiry, Unix seconds), m (methods) and p (path
// globs) narrow a token further. Starpod ignores them.
//
// A [Keyring] seals and opens. A [Scanner] finds tokens in a buffer or a
// stream, in the spellings that URL and JSON encoders give them, and writes the
// value in their place when the token permits the [Target]. It never guesses
// where a token ends: it decrypts while it reads and follows the JSON object to
// its closing brace, so the text behind a token survives.
package tokens
