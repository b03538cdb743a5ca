package tokens

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"
)

func FuzzSealOpen(f *testing.F) {
	f.Add("value", "api.example.com", "*.example.org:8443", "NAME", "GET", "/v1/*", int64(2_000_000_000))
	f.Add("", "", "", "", "", "", int64(0))
	f.Add("key\"with\\\x00\n\u2028🔐", "bücher.example", "[::1]:443", "ключ", "POST", "**", int64(1))
	f.Add("}", "192.0.2.1", "A.EXAMPLE.", "n", "M-SEARCH", "/a b", int64(1<<40))
	f.Fuzz(func(t *testing.T, value, host1, host2, name, method, path string, expires int64) {
		want := Secret{Value: Value(value), Name: name}
		for _, h := range []string{host1, host2} {
			if h != "" {
				want.Hosts = append(want.Hosts, h)
			}
		}
		if method != "" {
			want.Methods = []string{method}
		}
		if path != "" {
			want.Paths = []string{path}
		}
		if expires != 0 {
			want.Expires = time.Unix(expires, 0)
		}
		token, err := testRing.Seal(want)
		if err != nil {
			return // refused, as TestSealValidates has it
		}
		got, err := testRing.Open(token)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("Open: got %#v, %v, want %#v", got, err, want)
		}
		wantText, wantResult := "<A", Result{Stripped: 1}
		if want.Permits(testTarget) == ReasonNone {
			wantText, wantResult = "<"+value+"A", Result{Replaced: 1}
		}
		for name, spell := range escapings {
			s := newScanner()
			s.OnToken = func(tok Token) error {
				if tok.Action == Replaced && tok.Value != want.Value {
					t.Errorf("%s: another value was reported", name)
				}
				return nil
			}
			if out, err := s.ScanString("<" + spell(token) + "A"); err != nil || s.Result != wantResult {
				t.Fatalf("%s: got %q, %+v, %v, want %+v", name, out, s.Result, err, wantResult)
			}
		}
		if out, _ := Scan(testRing, []byte("<"+token+"A"), testTarget); string(out) != wantText {
			t.Fatalf("Scan: got %q, want %q", out, wantText)
		}
	})
}

// fuzzTokens are the tokens that pieces stand for: ours and permitted, ours and
// not, foreign, and ours with a broken tag.
var fuzzTokens = func() []string {
	permitted := sealPayload(testKey(1), "nonce number", `{"v":"<\"v\" &\\>","h":["api.example.com"]}`)
	long := sealPayload(testKey(2), "nonce numbes", `{"v":"`+strings.Repeat("long", 60)+`","h":[]}`)
	other := sealPayload(testKey(2), "nonce numbet", `{"v":"other","h":["other.example"]}`)
	foreign := sealPayload(testKey(9), "nonce numbeu", `{"v":"foreign","h":[]}`)
	broken := []byte(permitted)
	broken[len(broken)-5] ^= 1
	return []string{permitted, long, other, foreign, string(broken), sealPayload(testKey(1), "nonce numbev", `{"v":"x"}`)}
}()

var fuzzRing = NewKeyring(testKey(1), testKey(2))

// fuzzWants are the values of the first of them under fuzzRing on the way to
// testTarget; the others but the stripped third stay.
var fuzzWants = []string{`<"v" &\>`, strings.Repeat("long", 60)}

const fuzzStripped = 2

// fuzzPieces turns bytes into pieces of text and says what must become of it.
// Bytes below 0x80 stand for themselves; higher ones, each with an argument
// behind it, for a token, a token in another spelling, or the first part of one.
func fuzzPieces(data []byte, form Form) (in, want string) {
	spellings := []string{"percent", "slashes", "unicode", "lower percent"}
	for len(data) > 0 && len(in) < 10_000 {
		c := data[0]
		data = data[1:]
		if c < 0x80 {
			in += string(rune(c))
			want += string(rune(c))
			continue
		}
		var arg int
		if len(data) > 0 {
			arg, data = int(data[0]), data[1:]
		}
		which := int(c) % len(fuzzTokens)
		token, wrote, value := fuzzTokens[which], form, ""
		if which < len(fuzzWants) {
			value = fuzzWants[which]
		}
		if c >= 0xc0 {
			// So much is missing that no text behind it can make it whole.
			cut := token[:arg%(len(token)-tagSize)]
			in += cut
			want += cut
			continue
		}
		if c >= 0xa0 {
			token = escapings[spellings[arg%len(spellings)]](token)
			if strings.Contains(token, "%") {
				wrote = Percent
			} else if strings.Contains(token, `\`) && form == Percent {
				value = Escape(value, JSON)
			} else if strings.Contains(token, `\`) {
				wrote = JSON
			}
		}
		in += token
		switch {
		case which < len(fuzzWants):
			want += string(appendValue(nil, value, wrote))
		case which != fuzzStripped:
			want += token
		}
	}
	return in, want
}

var pieceSeeds = []string{
	"text", "\x90=/x\x91==\x92", "starpod:v1:\x96", "\xa2\x00\xa2\x01\xa2\x02\xa2\x03", "\xc0\x50\x90", "\xc3\xffstarpo\x90d",
	"starpod%3\x84starpod\\u00\x85", "AAAA\x93AAAA\x94", "\xe0\x0b\xe1\x0c\xe2\x2c\x86", "\x84\x85\x86\x87\x88\x89\x8a\x8b",
}

// Nothing but a token under one of our keys is ever changed.
func FuzzOnlyTokensChange(f *testing.F) {
	for i, seed := range pieceSeeds {
		f.Add([]byte(seed), byte(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, form byte) {
		in, want := fuzzPieces(data, Form(form%4))
		s := Scanner{Keys: fuzzRing, Target: testTarget, Form: Form(form % 4)}
		if got, err := s.ScanString(in); got != want || err != nil {
			t.Fatalf("%q:\ngot  %q, %v\nwant %q", in, got, err, want)
		}
	})
}

// FuzzIndex: the search for the word finds what bytes.Index does.
func FuzzIndex(f *testing.F) {
	for _, piece := range []string{"", marker, "star", "starstarpod", "podstarpostarpod"} {
		f.Add([]byte(strings.Repeat("some more text ", 9)+piece), uint8(3))
	}
	f.Fuzz(func(t *testing.T, text []byte, times uint8) {
		text = bytes.Repeat(text, int(times)%16)
		if got, want := index(text), bytes.Index(text, []byte(marker)); got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	})
}

// A streamed text becomes what the whole text does, however it is cut.
func FuzzStreamEqualsWhole(f *testing.F) {
	for i, seed := range pieceSeeds {
		f.Add([]byte(seed), byte(i), []byte{1, 7, byte(3 * i)})
	}
	f.Fuzz(func(t *testing.T, data []byte, policies byte, cuts []byte) {
		text, _ := fuzzPieces(data, Raw)
		in := []byte(text)
		scanner := func(reports *[]Token) *Scanner {
			return &Scanner{
				Keys: fuzzRing, Target: testTarget, Form: JSON,
				OnMismatch: Policy(policies % 4), OnUndecodable: Policy(policies / 4 % 4),
				OnToken: func(tok Token) error { *reports = append(*reports, tok); return nil },
			}
		}
		var wantTokens, gotTokens, readTokens []Token
		whole := scanner(&wantTokens)
		want, wantErr := whole.Append(nil, in, true)
		pieces := scanner(&gotTokens)
		pieces.Edits = &Edits{Limit: len(in) * 64}
		got, rest, err := []byte(nil), in, error(nil)
		for i := 0; len(rest) > 0 && err == nil; i++ {
			n := len(rest)
			if len(cuts) > 0 {
				n = min(n, int(cuts[i%len(cuts)])%64+1)
			}
			got, err = pieces.Append(got, rest[:n], false)
			rest = rest[n:]
		}
		if err == nil {
			got, err = pieces.Append(got, nil, true)
		}
		if !bytes.Equal(got, want) || (err == nil) != (wantErr == nil) || pieces.Result != whole.Result || !reflect.DeepEqual(gotTokens, wantTokens) {
			t.Fatalf("%q:\ngot  %q, %+v, %v\nwant %q, %+v, %v", in, got, pieces.Result, err, want, whole.Result, wantErr)
		}
		checkEdits(t, pieces.Edits, in, got, err)
		reading := scanner(&readTokens)
		reading.Edits = &Edits{Limit: len(in) * 64}
		got, err = io.ReadAll(reading.Reader(iotest.HalfReader(bytes.NewReader(in))))
		if !bytes.Equal(got, want) || (err == nil) != (wantErr == nil) || reading.Result != whole.Result {
			t.Fatalf("Reader of %q:\ngot  %q, %+v, %v\nwant %q, %+v", in, got, reading.Result, err, want, whole.Result)
		}
		checkEdits(t, reading.Edits, in, got, err)
		if got, err := scanner(new([]Token)).Bytes(in); err == nil && !bytes.Equal(got, want) {
			t.Fatalf("Bytes of %q:\ngot  %q\nwant %q", in, got, want)
		}
	})
}

// The follower finds the end of an object where encoding/json does.
func FuzzFollower(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{ }x`, `{"v":"a","h":[]}}`, `{"v":"}\"\\","h":["{"]} `, "{\n\"a\" : {\"b\":[1,-2.5E+3,true,false,null]}}", `{"\u007d":"\\"}"}`, "{\"\xff\":\"é\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dec := json.NewDecoder(bytes.NewReader(data))
		var object map[string]json.RawMessage
		if len(data) == 0 || data[0] != '{' || dec.Decode(&object) != nil {
			return
		}
		want := int(dec.InputOffset())
		var follow follower
		for i, b := range data {
			switch follow.step(b) {
			case followEnd:
				if i+1 != want {
					t.Fatalf("%q: got end at %d, want %d", data, i+1, want)
				}
				return
			case followDead:
				t.Fatalf("%q: given up at %d, want end at %d", data, i, want)
			}
		}
		t.Fatalf("%q: got no end, want %d", data, want)
	})
}

// Both readers of payloads agree, and agree with encoding/json where the
// payload is one that Starpod writes.
func FuzzDecodePayload(f *testing.F) {
	for _, seed := range []string{
		`{"v":"x","h":[]}`, `{"v":"x","h":["a","b"]}`, `{"v":"x","h":["a",]}`, `{"v":"x","h":[,]}`, `{"v":"x","h":["a"]}]}`,
		`{"v":"x","h":[]]}`, `{"v":"\ud83d\udd10","h":["\u0041"]}`, `{"v":"\\ud83d","h":[]}`, `{"h":[],"v":"","H":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		fast, ok := decodeSimple(plain)
		if ok && utf8.Valid(plain) {
			if slow, ok := decodeAny(plain); !ok || !reflect.DeepEqual(fast, slow) {
				t.Fatalf("%q: got %#v, want %#v, %v", plain, fast, slow, ok)
			}
		}
		secret, ok := decodePayload(plain)
		if !ok {
			return
		}
		var want struct{ V *string }
		var members map[string]json.RawMessage
		if err := json.Unmarshal(plain, &members); err != nil || members["v"] == nil || members["h"] == nil {
			t.Fatalf("%q: accepted, want it refused: %v", plain, err)
		}
		if err := json.Unmarshal(members["v"], &want.V); err != nil || want.V == nil || *want.V != secret.Value.Reveal() {
			t.Fatalf("%q: got %q, want %v, %v", plain, secret.Value.Reveal(), want.V, err)
		}
	})
}

func FuzzCanonicalHost(f *testing.F) {
	for _, seed := range []string{
		"api.example.com", "BÜCHER.example.", "[::FFFF:1.2.3.4]", "127.1", "0x7f.1", "例え。jp", "xn--bcher-kva.example", "a..b", "１２７.0.0.1", "ß.example", "a\u200d.b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, host string) {
		once, err := CanonicalHost(host)
		if err != nil {
			if once != "" || HostMatches([]string{"a.example", host}, host, 443) {
				t.Fatalf("%q: got %q, or a match, beside error %v", host, once, err)
			}
			return
		}
		if twice, err := CanonicalHost(once); err != nil || twice != once {
			t.Fatalf("%q: got %q, then %q, %v", host, once, twice, err)
		}
		if !isASCII(once) || once != strings.ToLower(once) || len(once) > maxHostLen {
			t.Fatalf("%q: got %q", host, once)
		}
		if !HostMatches([]string{once}, host, 443) || HostMatches([]string{"*." + once}, host, 443) {
			t.Fatalf("%q does not match itself, or is below itself", host)
		}
		if strings.Contains(host, ":") {
			return
		}
		if !HostMatches([]string{host}, once, 443) || !HostMatches([]string{host + ":8443"}, once, 8443) {
			t.Fatalf("%q as a pattern does not match %q", host, once)
		}
	})
}

// What is written is what the reader of the form reads.
func FuzzValueForms(f *testing.F) {
	for _, seed := range []string{"", "plain", "key\"with\\back/slash", "a b+c&d=e%41/?#", "<a href='x'>&amp;</a>", "\x00\t\r\n\x1f\x7f\u2028🔐", "\uFFFD", "]]>"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if !utf8.ValidString(value) {
			return // never in a token
		}
		var got string
		if err := json.Unmarshal([]byte(`"`+string(appendValue(nil, value, JSON))+`"`), &got); err != nil || got != value {
			t.Errorf("JSON of %q: got %q, %v", value, got, err)
		}
		percent := string(appendValue(nil, value, Percent))
		if got, err := url.QueryUnescape(percent); err != nil || got != value {
			t.Errorf("query of %q: got %q, %v", value, got, err)
		}
		if got, err := url.PathUnescape(percent); err != nil || got != value {
			t.Errorf("path of %q: got %q, %v", value, got, err)
		}
		if got := string(appendValue(nil, value, Raw)); got != value {
			t.Errorf("raw of %q: got %q", value, got)
		}
		if strings.ContainsFunc(value, func(r rune) bool {
			return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == '\uFFFE' || r == '\uFFFF'
		}) {
			return // XML 1.0 has no such text
		}
		written := string(appendValue(nil, value, XML))
		var doc struct {
			Attr string `xml:"b,attr"`
			Text string `xml:",chardata"`
		}
		if err := xml.Unmarshal([]byte(`<a b="`+written+`">`+written+`</a>`), &doc); err != nil || doc.Attr != value || doc.Text != value {
			t.Errorf("XML of %q: got %q and %q, %v", value, doc.Attr, doc.Text, err)
		}
	})
}
