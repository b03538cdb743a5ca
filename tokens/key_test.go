package tokens

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sameKey compares keys by what they seal.
func sameKey(a, b *Key) bool {
	nonce := make([]byte, nonceSize)
	return bytes.Equal(a.aead.Seal(nil, nonce, nil, nil), b.aead.Seal(nil, nonce, nil, nil))
}

// rawKey has bytes that both alphabets of base64 write differently.
var rawKey = []byte("\xfb\xff\xbf0123456789abcdefghijklmnopqrs")

func TestParseKey(t *testing.T) {
	want, err := NewKey(rawKey)
	if err != nil {
		t.Fatal(err)
	}
	hexed := hex.EncodeToString(rawKey)
	std := base64.StdEncoding.EncodeToString(rawKey)
	tests := []struct {
		name, text string
		ok         bool
	}{
		{"raw", string(rawKey), true},
		{"raw that is all white space", strings.Repeat("\n", 32), true},
		{"hex", hexed, true},
		{"upper-case hex and newline", strings.ToUpper(hexed) + "\r\n", true},
		{"hex in groups", hexed[:20] + " " + hexed[20:40] + "\n\t" + hexed[40:], true},
		{"base64", std, true},
		{"base64 and newline", " " + std + "\n", true},
		{"unpadded base64", strings.TrimRight(std, "="), true},
		{"URL base64", base64.URLEncoding.EncodeToString(rawKey), true},
		{"unpadded URL base64", base64.RawURLEncoding.EncodeToString(rawKey), true},
		{"empty", "", false},
		{"31 bytes", string(rawKey[:31]), false},
		{"33 bytes", string(rawKey) + "x", false},
		{"hex of 31 bytes", hexed[:62], false},
		{"64 letters", strings.Repeat("z", 64), false},
		{"base64 of 33 bytes", base64.StdEncoding.EncodeToString(append(rawKey, 'x')), false},
		{"a token", "starpod:v1:AAAA", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseKey([]byte(tt.text))
			if (err == nil) != tt.ok {
				t.Fatalf("got error %v, want success: %v", err, tt.ok)
			}
			if err == nil && !strings.HasPrefix(tt.name, "raw that") && !sameKey(got, want) {
				t.Error("got another key")
			}
			if err != nil && tt.text != "" && strings.Contains(err.Error(), tt.text) {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func TestNewKeySizes(t *testing.T) {
	for _, n := range []int{0, 16, 24, 31, 33} {
		if _, err := NewKey(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes was accepted", n)
		}
	}
}

func TestGenerateKey(t *testing.T) {
	key, raw := GenerateKey()
	again, err := NewKey(raw)
	if err != nil || !sameKey(key, again) {
		t.Errorf("the bytes are not the key's: %v", err)
	}
	if other, _ := GenerateKey(); sameKey(key, other) {
		t.Error("two keys are the same")
	}
}

func TestKeyFileRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "dir", "key")
	if _, err := ReadKeyFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading a missing file: got %v, want %v", err, fs.ErrNotExist)
	}
	created, err := CreateKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	read, err := ReadKeyFile(path)
	if err != nil || !sameKey(created, read) {
		t.Fatalf("got another key than was created, or error %v", err)
	}
	for p, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700 | fs.ModeDir} {
		if info, err := os.Stat(p); err != nil || info.Mode() != want {
			t.Errorf("%s: got mode %v, %v, want %v", p, info.Mode(), err, want)
		}
	}
	if _, err := CreateKeyFile(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating it again: got %v, want %v", err, fs.ErrExist)
	}
	if again, err := ReadKeyFile(path); err != nil || !sameKey(created, again) {
		t.Error("creating it again changed the file")
	}
}

func TestReadKeyFileRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := hex.EncodeToString(rawKey)
	tests := []struct{ name, path, want string }{
		{"readable by the group", write("group", key, 0o640), "chmod 600 " + filepath.Join(dir, "group")},
		{"readable by all", write("all", key, 0o604), "chmod 600 " + filepath.Join(dir, "all")},
		{"a directory", dir, "is a directory"},
		{"huge", write("huge", strings.Repeat(" ", maxKeyFile+1)+key, 0o600), "no key file"},
		{"no key", write("none", "hello", 0o600), "caddy starpod keygen"},
		{"empty", write("empty", "", 0o600), "caddy starpod keygen"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ReadKeyFile(tt.path)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want one with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), key) {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
	if _, err := ReadKeyFile(write("fine", key, 0o400)); err != nil {
		t.Errorf("a read-only key file: %v", err)
	}
}

func TestCreateKeyFileFails(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateKeyFile(filepath.Join(file, "key")); err == nil {
		t.Error("a file served as a directory")
	}
	if _, err := CreateKeyFile(dir); err == nil {
		t.Error("a directory was taken for a new file")
	}
}

// No way to print shows a secret.
func TestNothingPrintsSecrets(t *testing.T) {
	const value = "hunter2-hunter2"
	raw := []byte("0123456789abcdefghijklmnopqrstuv")
	key, err := NewKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	secret := Secret{Value: value, Hosts: []string{"a.example"}}
	things := map[string]any{
		"key": key, "key value": *key, "keys": []*Key{key}, "ring": NewKeyring(key), "ring value": *NewKeyring(key),
		"value": Value(value), "values": []Value{value}, "map": map[string]Value{"name": value},
		"secret": secret, "secret pointer": &secret, "token": Token{Value: value}, "pointer": new(Value(value)),
	}
	for name, thing := range things {
		var shown strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%c", "%U", "%b", "%t", "%10.3s"} {
			fmt.Fprintf(&shown, verb+"\n", thing)
		}
		fmt.Fprintln(&shown, thing)
		if text, err := json.Marshal(thing); err == nil {
			shown.Write(text)
		}
		if s, ok := thing.(fmt.Stringer); ok {
			shown.WriteString(s.String())
		}
		if s, ok := thing.(fmt.GoStringer); ok {
			shown.WriteString(s.GoString())
		}
		for _, leak := range []string{value[:4], hex.EncodeToString([]byte(value[:4])), "68756e", string(raw[:4]), "0x30", "[104 117"} {
			if strings.Contains(shown.String(), leak) {
				t.Errorf("%s shows %q: %s", name, leak, shown.String())
			}
		}
	}
	if got := Value(value).Reveal(); got != value {
		t.Errorf("Reveal: got %q, want the value", got)
	}
}
