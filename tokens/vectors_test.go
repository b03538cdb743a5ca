package tokens

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// vector is a token made by testdata/vectors.mjs.
type vector struct {
	Name, Key, Nonce   string
	Token, TokenSHA256 string
	Payload            struct {
		Head, Unit, Tail string
		Times            int
	}
	Want *struct {
		V         string
		H         []string
		N         string
		E         int64
		M, P      []string
		HostCount int
		Repeat    string
		Times     int
	}
}

func (v *vector) payload() string {
	return v.Payload.Head + strings.Repeat(v.Payload.Unit, v.Payload.Times) + v.Payload.Tail
}

func (v *vector) secret() Secret {
	w := v.Want
	s := Secret{Value: Value(w.V + strings.Repeat(w.Repeat, w.Times)), Name: w.N, Methods: w.M, Paths: w.P}
	if len(w.H) > 0 {
		s.Hosts = w.H
	}
	for i := range w.HostCount {
		s.Hosts = append(s.Hosts, fmt.Sprintf("host-%d.example.com", i))
	}
	if w.E != 0 {
		s.Expires = time.Unix(w.E, 0)
	}
	return s
}

func (v *vector) key(t *testing.T) *Key {
	raw, err := hex.DecodeString(v.Key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func readVectors(t *testing.T) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	return vectors
}

func TestVectors(t *testing.T) {
	for _, v := range readVectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			key := v.key(t)
			nonce, _ := hex.DecodeString(v.Nonce)
			// Ours is theirs, byte for byte.
			token := sealPayload(key, string(nonce), v.payload())
			sum := sha256.Sum256([]byte(token))
			if v.Token != token && v.TokenSHA256 != hex.EncodeToString(sum[:]) {
				t.Fatalf("token differs from the vector's: %s", abbreviate([]byte(token)))
			}
			for _, ring := range []*Keyring{NewKeyring(key), NewKeyring(testKey(1), testKey(2), key)} {
				checkVector(t, v, ring, token)
			}
		})
	}
}

func checkVector(t *testing.T, v vector, ring *Keyring, token string) {
	t.Helper()
	text := []byte("before=" + token + "behind")
	got, err := ring.Open(token)
	if v.Want == nil {
		if err != ErrUndecodable {
			t.Errorf("Open: got error %v, want %v", err, ErrUndecodable)
		}
		out, result := Scan(ring, text, testTarget)
		if string(out) != string(text) || result != (Result{Undecodable: 1}) {
			t.Errorf("Scan: got %q, %+v, want the text as it was and one undecodable", abbreviate(out), result)
		}
		return
	}
	want := v.secret()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("Open: got %+v, %v, want %+v", got, err, want)
	}
	target := testTarget
	if len(want.Hosts) > 0 {
		target = Target{Host: want.Hosts[0], Method: "GET", Path: "/v1/x", Time: testTime}
		if host, port, err := splitPort(want.Hosts[0]); err == nil && port != 0 {
			target.Host, target.Port = host, port
		}
	}
	out, result := Scan(ring, text, target)
	if string(out) != "before="+want.Value.Reveal()+"behind" || result != (Result{Replaced: 1}) {
		t.Errorf("Scan: got %s, %+v, want the value", abbreviate(out), result)
	}
	target.Host = "evil.example"
	out, result = Scan(ring, text, target)
	if len(want.Hosts) > 0 && (string(out) != "before=behind" || result != (Result{Stripped: 1})) {
		t.Errorf("Scan for another host: got %s, %+v, want it stripped", abbreviate(out), result)
	}
}

// The payload we write is the one that Starpod writes.
func TestSealWritesStarpodsPayload(t *testing.T) {
	tests := []struct {
		name string
		s    Secret
		want string
	}{
		{"no hosts", Secret{Value: "x"}, `{"v":"x","h":[]}`},
		{"hosts in order", Secret{Value: "x", Hosts: []string{"b.example", "*.a.example"}}, `{"v":"x","h":["b.example","*.a.example"]}`},
		{"nothing but JSON escapes", Secret{Value: "<\"\\&\n>"}, `{"v":"<\"\\&\n>","h":[]}`},
		{"every member", Secret{
			Value: "x", Hosts: []string{"a:1"}, Name: "N", Expires: time.Unix(12, 5), Methods: []string{"GET"}, Paths: []string{"/p"},
		}, `{"v":"x","h":["a:1"],"n":"N","e":12,"m":["GET"],"p":["/p"]}`},
		{"expiry at the epoch", Secret{Value: "x", Expires: time.Unix(0, 0)}, `{"v":"x","h":[],"e":0}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			token := mustSeal(t, testRing, tt.s)
			blob, err := base64Strict.DecodeString(token[len(prefix):])
			if err != nil {
				t.Fatal(err)
			}
			got, err := testRing.keys[0].aead.Open(nil, blob[:nonceSize], blob[nonceSize:], nil)
			if err != nil || string(got) != tt.want {
				t.Errorf("payload: got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestSealIsFreshEachTime(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		token := mustSeal(t, testRing, Secret{Value: "same"})
		if nonce := token[len(prefix) : len(prefix)+16]; seen[nonce] {
			t.Fatalf("nonce %s came twice", nonce)
		} else {
			seen[nonce] = true
		}
	}
}

func TestRotation(t *testing.T) {
	older, newer := testKey(1), testKey(2)
	before := NewKeyring(older)
	after := NewKeyring(newer, older)
	old := mustSeal(t, before, Secret{Value: "old"})
	fresh := mustSeal(t, after, Secret{Value: "new"})
	if _, err := before.Open(fresh); err != ErrUndecodable {
		t.Errorf("the old ring opens a token of the new key: %v", err)
	}
	out, result := Scan(after, []byte(old+" "+fresh), testTarget)
	if string(out) != "old new" || result.Replaced != 2 {
		t.Errorf("got %q, %+v, want both replaced", out, result)
	}
	if _, err := NewKeyring(newer).Open(old); err != ErrUndecodable {
		t.Errorf("a token of a retired key: got %v, want %v", err, ErrUndecodable)
	}
}

func TestOpenRefuses(t *testing.T) {
	token := mustSeal(t, testRing, Secret{Value: "x"})
	tests := []struct {
		name, token string
		want        error
	}{
		{"empty", "", ErrMalformed},
		{"other text", "not:a:token", ErrMalformed},
		{"other version", strings.Replace(token, "v1", "v2", 1), ErrMalformed},
		{"nothing behind the prefix", prefix, ErrUndecodable},
		{"too short for a nonce", prefix + "AAAA", ErrUndecodable},
		{"text behind it", token + "x", ErrMalformed},
		{"newline in it", token[:20] + "\n" + token[20:], ErrMalformed},
		{"missing padding", strings.TrimRight(token, "="), ErrMalformed},
		{"URL alphabet", prefix + strings.Repeat("-_", 40), ErrMalformed},
		{"percent-encoded", escapings["percent"](token), ErrMalformed},
		{"too long", prefix + strings.Repeat("A", MaxTokenLen), ErrMalformed},
	}
	if !strings.HasSuffix(token, "=") {
		t.Fatal("the test needs a token with padding")
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := testRing.Open(tt.token); err != tt.want {
				t.Errorf("got error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestSealValidates(t *testing.T) {
	tests := []struct {
		name string
		s    Secret
		want string // in the error
	}{
		{"value is not text", Secret{Value: "\xff"}, "not valid UTF-8"},
		{"name is not text", Secret{Name: "\xff"}, "not valid UTF-8"},
		{"star for any host", Secret{Hosts: []string{"*"}}, "leave the list empty for no restriction"},
		{"URL for a host", Secret{Hosts: []string{"https://a.example/x"}}, "write the host alone"},
		{"star inside", Secret{Hosts: []string{"a.*.example"}}, "such as *.example.com"},
		{"star without dot", Secret{Hosts: []string{"*example.com"}}, "such as *.example.com"},
		{"port 0", Secret{Hosts: []string{"a.example:0"}}, "1 to 65535"},
		{"port too large", Secret{Hosts: []string{"a.example:65536"}}, "1 to 65535"},
		{"empty port", Secret{Hosts: []string{"a.example:"}}, "1 to 65535"},
		{"empty host", Secret{Hosts: []string{""}}, "empty"},
		{"host is not text", Secret{Hosts: []string{"\xff"}}, "not valid UTF-8"},
		{"subdomains of an address", Secret{Hosts: []string{"*.192.0.2.1"}}, `leave out the "*."`},
		{"short IPv4", Secret{Hosts: []string{"127.1"}}, "192.0.2.1"},
		{"empty method", Secret{Methods: []string{""}}, "such as GET"},
		{"method with space", Secret{Methods: []string{"GET /"}}, "such as GET"},
		{"path without slash", Secret{Paths: []string{"v1"}}, "such as /v1/*"},
		{"path that climbs", Secret{Paths: []string{"/a/../b"}}, "never match"},
		{"path with query", Secret{Paths: []string{"/a?b"}}, "never match"},
		{"expiry before 1970", Secret{Expires: time.Unix(-1, 0)}, "1970"},
		{"value too long", Secret{Value: Value(strings.Repeat("x", MaxTokenLen))}, "shorter value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := testRing.Seal(tt.s)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestKnownHosts(t *testing.T) {
	for name, want := range map[string][]string{
		"GITHUB_TOKEN":          {"api.github.com"},
		"openai_api_key":        {"api.openai.com"},
		"Aws_Secret_Access_Key": {"*.amazonaws.com"},
		"MY_VAR":                nil,
		"":                      nil,
	} {
		if got := KnownHosts(name); !slices.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("KnownHosts(%q): got %v, want %v", name, got, want)
		}
	}
	KnownHosts("GITHUB_TOKEN")[0] = "evil.example"
	if got := KnownHosts("GITHUB_TOKEN")[0]; got != "api.github.com" {
		t.Errorf("the table can be written through its result: got %s", got)
	}
	for name, hosts := range knownHosts {
		if _, err := testRing.Seal(Secret{Value: "x", Hosts: hosts}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
