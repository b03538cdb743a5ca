package handler

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// sealPayload makes a token of any plaintext.
func (b *bench) sealPayload(payload string) string {
	b.t.Helper()
	block, err := aes.NewCipher(b.key)
	if err != nil {
		b.t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		b.t.Fatal(err)
	}
	nonce := []byte("twelve bytes")
	return "starpod:v1:" + base64.StdEncoding.EncodeToString(gcm.Seal(nonce, nonce, []byte(payload), nil))
}

// TestOddSecrets go through the proxy to the host they are for, in a header, a
// Basic credential and a body of either framing, and nowhere else.
func TestOddSecrets(t *testing.T) {
	b := newBench(t, nil)
	many := make([]string, 500)
	for i := range many {
		many[i] = fmt.Sprintf("host-%d.example.com", i)
	}
	many[499] = "api.starpod.test"
	hosts, _ := json.Marshal(many)
	const unicode = "wörd \U0001f511 値"
	for _, test := range []struct{ name, payload, value string }{
		{"no value", `{"v":"","h":["api.starpod.test"]}`, ""},
		{"Unicode", `{"v":"` + unicode + `","h":["api.starpod.test"]}`, unicode},
		{"Unicode in escapes", `{"v":"w\u00f6rd \ud83d\udd11 \u5024","h":["api.starpod.test"]}`, unicode},
		{"500 hosts", `{"v":"` + canary + `","h":` + string(hosts) + `}`, canary},
		{"extra members", `{"x":{"h":[1,{"v":"no"}]},"v":"` + canary + `","vv":"no","h":["api.starpod.test"],"H2":[],"z":1.5e9}`, canary},
		{"white space", "{\n\t\"h\" : [ \"api.starpod.test\" ] ,\r\"v\" : \"" + canary + "\" }", canary},
	} {
		t.Run(test.name, func(t *testing.T) {
			token := b.sealPayload(test.payload)
			for host, value := range map[string]string{"api.starpod.test": test.value, "evil.starpod.test": ""} {
				for _, sized := range []bool{true, false} {
					r := b.request("POST", b.up.URL(host)+"/", "<"+token+">", "X-Key", "<"+token+">", "Authorization", basic("u", token))
					if !sized {
						r.ContentLength = -1
					}
					response, _ := b.do(b.client(!sized), r)
					got := b.up.Last(t)
					if response.StatusCode != 200 || string(got.Body) != "<"+value+">" || got.Header.Get("X-Key") != "<"+value+">" || got.Header.Get("Authorization") != basic("u", value) {
						t.Errorf("%s, sized %v: got %d, header %q, credentials %q and body %q, want %q", host, sized, response.StatusCode, got.Header.Get("X-Key"), got.Header.Get("Authorization"), got.Body, value)
					}
				}
			}
		})
	}
	if counts := b.proxy.Stats.Counts(); counts.Undecodable != 0 || counts.Replaced == 0 || counts.Stripped == 0 {
		t.Errorf("got %+v, want nothing undecodable: a value of no length is replaced", counts)
	}
}

// TestTokensWithoutHosts that say so in a way Starpod does not read are no tokens
// for anybody, and least of all ones without a restriction.
func TestTokensWithoutHosts(t *testing.T) {
	b := newBench(t, nil)
	for _, payload := range []string{
		`{"v":"` + canary + `","h":null}`, `{"v":"` + canary + `","h":[null]}`, `{"v":"` + canary + `"}`, `{"v":"` + canary + `","H":[]}`,
	} {
		token := b.sealPayload(payload)
		b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", token, "X-Key", token))
		if got := b.up.Last(t); string(got.Body) != token || got.Header.Get("X-Key") != token {
			t.Errorf("%s: got header %q and body %q, want the token left", payload, got.Header.Get("X-Key"), got.Body)
		}
	}
}

// TestValueOfAMegabyte in a body of either framing, and its echo masked.
func TestValueOfAMegabyte(t *testing.T) {
	value := strings.Repeat("0123456789abcdef", 1<<16)
	for _, buffer := range []int64{smallBuffer, 8 << 20} {
		b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = buffer })
		b.up.Handle("/", testbench.Echo)
		token := testbench.Seal(t, b.key, value, "api.starpod.test")
		for _, sized := range []bool{true, false} {
			if !sized && buffer > smallBuffer {
				continue // streamed whatever the buffer
			}
			t.Run(fmt.Sprintf("buffer of %d, sized %v", buffer, sized), func(t *testing.T) {
				r := b.request("POST", b.up.URL("api.starpod.test")+"/", "<"+token+">")
				if !sized {
					r.ContentLength = -1
				}
				_, echo := b.do(b.client(false), r)
				if got := b.up.Last(t); string(got.Body) != "<"+value+">" || sized != (got.ContentLength == int64(len(value)+2)) {
					t.Errorf("got %d bytes with the length %d, want the value", len(got.Body), got.ContentLength)
				}
				if want := "<" + strings.Repeat("*", len(value)) + ">"; echo != want {
					t.Errorf("got an echo of %d bytes, want the value masked in %d", len(echo), len(want))
				}
			})
		}
	}
}

// TestUnicodeHosts: names with letters beyond ASCII are one name, however token
// and client spell it.
func TestUnicodeHosts(t *testing.T) {
	b := newBench(t, nil)
	for _, pattern := range []string{"bücher.starpod.test", "BÜCHER.Starpod.test.", "xn--bcher-kva.starpod.test", "*.starpod.test"} {
		token := testbench.Seal(t, b.key, canary, pattern)
		for _, host := range []string{"bücher.starpod.test", "xn--bcher-kva.starpod.test", "XN--BCHER-kva.starpod.test"} {
			b.do(b.client(false), b.request("GET", b.up.URL(host)+"/", "", "X-Key", token))
			if got := b.up.Last(t); got.Header.Get("X-Key") != canary || got.ServerName != "xn--bcher-kva.starpod.test" {
				t.Errorf("%s at %s: got %q at %q, want the value", pattern, host, got.Header.Get("X-Key"), got.ServerName)
			}
		}
		b.do(b.client(false), b.request("GET", b.up.URL("evil.starpod.test")+"/", "", "X-Key", token))
		if got, want := b.up.Last(t).Header.Get("X-Key") == canary, pattern[0] == '*'; got != want {
			t.Errorf("%s at another host: the value went along: got %v, want %v", pattern, got, want)
		}
	}
}

// TestMaskOverChunks: a value that is echoed over two chunks, split at every
// offset, raw and in spellings of other lengths.
func TestMaskOverChunks(t *testing.T) {
	b := newBench(t, nil)
	spellings := map[string]string{
		"raw":  awkward,
		"JSON": `a\"b\\c\nd<e>&f%g+h=i/j`,
		"form": "a%22b%5Cc%0Ad%3Ce%3E%26f%25g%2Bh%3Di%2Fj",
	}
	b.up.HandleStream("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		text := spellings[r.URL.Query().Get("as")]
		for split := range len(text) + 1 {
			for _, piece := range []string{"<" + text[:split], text[split:] + ">"} {
				_, _ = io.WriteString(w, piece)
				_ = http.NewResponseController(w).Flush()
			}
		}
	}))
	token := testbench.Seal(t, b.key, awkward, "api.starpod.test")
	for as, text := range spellings {
		_, got := b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/?as="+as, token))
		if want := strings.Repeat("<"+strings.Repeat("*", len(text))+">", len(text)+1); got != want {
			t.Errorf("%s: got %.200q…, want nothing but stars and brackets", as, got)
		}
	}
}
