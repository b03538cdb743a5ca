package tokens

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// sealPadded returns a token with the wanted padding, by giving s a name.
func sealPadded(t testing.TB, s Secret, padding string) string {
	t.Helper()
	for range 4 {
		token := mustSeal(t, testRing, s)
		if strings.TrimRight(token, "=")+padding == token {
			return token
		}
		s.Name += "n"
	}
	t.Fatalf("no token with padding %q", padding)
	return ""
}

func TestScanTexts(t *testing.T) {
	good := mustSeal(t, testRing, Secret{Value: "good", Hosts: []string{"api.example.com"}})
	free := mustSeal(t, testRing, Secret{Value: "free"})
	bad := mustSeal(t, testRing, Secret{Value: "bad", Hosts: []string{"other.example"}})
	foreign := mustSeal(t, NewKeyring(testKey(9)), Secret{Value: "foreign"})
	empty := mustSeal(t, testRing, Secret{})
	dashes := strings.Repeat("-", 100_000)
	letters := strings.Repeat("QUJD", 25_000)
	tests := []struct {
		name, in, want                  string
		replaced, stripped, undecodable int
	}{
		{"nothing", "", "", 0, 0, 0},
		{"no token", "just text", "just text", 0, 0, 0},
		{"in a header", "Bearer " + good, "Bearer good", 1, 0, 0},
		{"alone", good, "good", 1, 0, 0},
		{"unrestricted", "key=" + free, "key=free", 1, 0, 0},
		{"for another host", "Bearer " + bad, "Bearer ", 0, 1, 0},
		{"empty value", "a" + empty + "b", "ab", 1, 0, 0},
		{"two", "a=" + good + "&b=" + free, "a=good&b=free", 2, 0, 0},
		{"match and mismatch", "a=" + good + "&b=" + bad, "a=good&b=", 1, 1, 0},
		{"good, foreign host, foreign key", good + "," + bad + "," + foreign, "good,," + foreign, 1, 1, 1},
		{"foreign key, then good", foreign + good, foreign + "good", 1, 0, 1},
		{"within 100 kB", dashes + "token=" + good + dashes, dashes + "token=good" + dashes, 1, 0, 0},
		{"within 100 kB of base64", letters + good + letters, letters + "good" + letters, 1, 0, 0},
		{"directly one after the other", good + bad + free + good, "goodfreegood", 3, 1, 0},
		{"in a path", "/bot" + good + "/sendMessage", "/botgood/sendMessage", 1, 0, 0},
		{"behind base64 letters", "QUJD" + good, "QUJDgood", 1, 0, 0},
		{"behind part of itself", "starpod:v1:starpod:starpo" + good, "starpod:v1:starpod:starpogood", 1, 0, 1},
		{"behind a cut token", good[:60] + good, good[:60] + "good", 1, 0, 1},
		{"behind a foreign token", strings.TrimRight(foreign, "=") + good, strings.TrimRight(foreign, "=") + "good", 1, 0, 1},
		{"prefix only", "starpod:v1:", "starpod:v1:", 0, 0, 0},
		{"prefix and space", "starpod:v1: x", "starpod:v1: x", 0, 0, 0},
		{"prefix and padding", "starpod:v1:==", "starpod:v1:==", 0, 0, 0},
		{"prefix and a letter", "starpod:v1:A", "starpod:v1:A", 0, 0, 1},
		{"the word", "a starpod for all", "a starpod for all", 0, 0, 0},
		{"part of the word", "starpo", "starpo", 0, 0, 0},
		{"upper-case word", "STARPOD:V1:AAAA", "STARPOD:V1:AAAA", 0, 0, 0},
		{"other version", strings.Replace(good, "v1", "v2", 1), strings.Replace(good, "v1", "v2", 1), 0, 0, 0},
		{"bytes that are not text", "\xff\x00" + good + "\xfe", "\xff\x00good\xfe", 1, 0, 0},
		{"bad escape", "starpod%3", "starpod%3", 0, 0, 0},
		{"escape of no ASCII", `starpod\u013av1:AAAA`, `starpod\u013av1:AAAA`, 0, 0, 0},
		{"escape of eight bits", "starpod%baAAAA", "starpod%baAAAA", 0, 0, 0},
		{"other JSON escape", `starpod\nv1:AAAA`, `starpod\nv1:AAAA`, 0, 0, 0},
		{"double escape", "starpod%253Av1", "starpod%253Av1", 0, 0, 0},
		{"newline in base64", good[:40] + "\n" + good[40:], good[:40] + "\n" + good[40:], 0, 0, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, result := Scan(testRing, []byte(tt.in), testTarget)
			want := Result{tt.replaced, tt.stripped, tt.undecodable}
			if string(out) != tt.want || result != want {
				t.Errorf("got %q, %+v, want %q, %+v", abbreviate(out), result, abbreviate([]byte(tt.want)), want)
			}
			s := newScanner()
			if text, err := s.ScanString(tt.in); text != tt.want || err != nil || s.Result != want {
				t.Errorf("ScanString: got %q, %v, want %q", abbreviate([]byte(text)), err, abbreviate([]byte(tt.want)))
			}
		})
	}
}

// What follows a token survives, whatever the token's padding.
func TestScanKeepsWhatFollows(t *testing.T) {
	for _, padding := range []string{"", "=", "=="} {
		token := sealPadded(t, Secret{Value: "value"}, padding)
		for _, behind := range []string{"", "/x", "/sendMessage", "=", "==", "===", "A", "AAAA", "letters", "+/", "%3D", `\u003d`, ":v1:", "&b=1", "\"", token[:11], "s"} {
			in, want := token+behind, "value"+behind
			out, result := Scan(testRing, []byte(in), testTarget)
			if string(out) != want || result.Replaced != 1 {
				t.Errorf("padding %q, followed by %q: got %q, %+v, want %q", padding, behind, out, result, want)
			}
		}
	}
}

func TestScanEscapedTokens(t *testing.T) {
	const value = "a \"b\"\\/+=\n&<é\u2028"
	jsonValue, percentValue := `a \"b\"\\/+=\n&<é\u2028`, "a%20%22b%22%5C%2F%2B%3D%0A%26%3C%C3%A9%E2%80%A8"
	var token string // with all characters that are escaped
	for !strings.Contains(token, "+") || !strings.Contains(token, "/") || !strings.HasSuffix(token, "=") {
		token = sealPadded(t, Secret{Value: value}, "=")
	}
	tests := []struct {
		name, token, want string
		form, wrote       Form
	}{
		{"raw", token, value, Raw, Raw},
		{"raw in a URL", token, percentValue, Percent, Percent},
		{"raw in JSON", token, jsonValue, JSON, JSON},
		{"raw in XML", token, "a &#34;b&#34;\\/+=&#10;&amp;&lt;é\u2028", XML, XML},
		{"percent", escapings["percent"](token), percentValue, Raw, Percent},
		{"lower-case percent", escapings["lower percent"](token), percentValue, Raw, Percent},
		{"all percent", escapings["all percent"](token), percentValue, Raw, Percent},
		{"percent in JSON", escapings["percent"](token), percentValue, JSON, Percent},
		{"slashes", escapings["slashes"](token), jsonValue, Raw, JSON},
		{"unicode", escapings["unicode"](token), jsonValue, Raw, JSON},
		{"all unicode", escapings["all unicode"](token), jsonValue, XML, JSON},
		{"slashes in a URL", escapings["slashes"](token), Escape(jsonValue, Percent), Percent, Percent},
		{"unicode in a URL", escapings["unicode"](token), Escape(jsonValue, Percent), Percent, Percent},
		{"percent and slashes", escapings["percent"](token[:11]) + escapings["slashes"](token[11:]), percentValue, Raw, Percent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var seen []Token
			s := newScanner()
			s.Form = tt.form
			s.OnToken = func(tok Token) error { seen = append(seen, tok); return nil }
			out, err := s.Bytes([]byte("<" + tt.token + "=>"))
			if string(out) != "<"+tt.want+"=>" || err != nil {
				t.Errorf("got %q, %v, want %q", out, err, "<"+tt.want+"=>")
			}
			if len(seen) != 1 || seen[0].Form != tt.wrote {
				t.Errorf("got tokens %+v, want one in form %d", seen, tt.wrote)
			}
		})
	}
	// A JSON document stays one.
	doc, _ := json.Marshal(map[string]string{"key": token})
	s := newScanner()
	s.Form = JSON
	out, _ := s.Bytes(doc)
	var back map[string]string
	if err := json.Unmarshal(out, &back); err != nil || back["key"] != value {
		t.Errorf("JSON: got %q, %v, want the value in it", out, err)
	}
}

func TestValueForms(t *testing.T) {
	const all = "\x00\x01\t\n\r\x1f !\"#'&<>\\/~\x7f\u2029🔐"
	for form, want := range map[Form]string{
		Raw:     all,
		Percent: "%00%01%09%0A%0D%1F%20%21%22%23%27%26%3C%3E%5C%2F~%7F%E2%80%A9%F0%9F%94%90",
		JSON:    `\u0000\u0001\t\n\r\u001F !\"#'&<>\\/~` + "\x7f" + `\u2029🔐`,
		XML:     "\x00\x01&#9;&#10;&#13;\x1f !&#34;#&#39;&amp;&lt;&gt;\\/~\x7f\u2029🔐",
	} {
		if got := string(appendValue(nil, all, form)); got != want {
			t.Errorf("form %d: got %q, want %q", form, got, want)
		}
	}
}

// A token that was changed in any byte, or cut at any length, is left.
func TestScanDamagedTokens(t *testing.T) {
	for _, padding := range []string{"", "=", "=="} {
		token := sealPadded(t, Secret{Value: "the value", Hosts: []string{"api.example.com"}}, padding)
		for i := range len(token) {
			for _, c := range []byte("A/9+z=:\x00 ") {
				damaged := []byte(token)
				if damaged[i] == c {
					continue
				}
				damaged[i] = c
				checkLeft(t, fmt.Sprintf("byte %d is %q", i, c), string(damaged)+" end")
			}
			checkLeft(t, fmt.Sprintf("cut to %d bytes", i), token[:i])
			checkLeft(t, fmt.Sprintf("cut to %d bytes, then text", i), token[:i]+"-x")
			checkLeft(t, fmt.Sprintf("without byte %d", i), token[:i]+token[i+1:])
		}
	}
	// Base64 has room for other spellings of the same bytes.
	token := sealPadded(t, Secret{Value: "x"}, "==")
	digit := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", token[len(token)-3])
	checkLeft(t, "trailing bits", token[:len(token)-3]+string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[digit+1])+"==")
}

func checkLeft(t *testing.T, what, in string) {
	t.Helper()
	out, result := Scan(testRing, []byte(in), testTarget)
	if string(out) != in || result.Replaced+result.Stripped > 0 {
		t.Errorf("%s: got %q, %+v, want it left", what, out, result)
	}
}

func TestPolicies(t *testing.T) {
	bad := mustSeal(t, testRing, Secret{Value: "bad", Hosts: []string{"other.example"}, Name: "BAD"})
	foreign := sealPadded(t, Secret{Value: "x"}, "==")
	foreign = foreign[:20] + "////" + foreign[24:]
	tests := []struct {
		name                  string
		mismatch, undecodable Policy
		in, want              string
		result                Result
		action                Action
		reason                Reason
		fails                 bool
	}{
		{"mismatch by default", Default, Default, "<" + bad + ">", "<>", Result{Stripped: 1}, Stripped, ReasonHost, false},
		{"mismatch, strip", Strip, Deny, "<" + bad + ">", "<>", Result{Stripped: 1}, Stripped, ReasonHost, false},
		{"mismatch, pass", Pass, Deny, "<" + bad + ">", "<" + bad + ">", Result{}, Left, ReasonHost, false},
		{"mismatch, deny", Deny, Pass, "<" + bad + ">", "<", Result{}, Denied, ReasonHost, true},
		{"undecodable by default", Deny, Default, "<" + foreign + ">", "<" + foreign + ">", Result{Undecodable: 1}, Left, ReasonUndecodable, false},
		{"undecodable, pass", Deny, Pass, "<" + foreign + ">", "<" + foreign + ">", Result{Undecodable: 1}, Left, ReasonUndecodable, false},
		{"undecodable, strip", Deny, Strip, "<" + foreign + ">", "<>", Result{Stripped: 1, Undecodable: 1}, Stripped, ReasonUndecodable, false},
		{"undecodable, strip at the end", Deny, Strip, "<" + foreign, "<", Result{Stripped: 1, Undecodable: 1}, Stripped, ReasonUndecodable, false},
		{"undecodable, strip the escaped", Deny, Strip, "<" + escapings["percent"](foreign) + "%20", "<%20", Result{Stripped: 1, Undecodable: 1}, Stripped, ReasonUndecodable, false},
		{"undecodable, strip before half an escape", Deny, Strip, "<" + foreign[:40] + "%2", "<%2", Result{Stripped: 1, Undecodable: 1}, Stripped, ReasonUndecodable, false},
		{"undecodable, strip two thirds of the padding", Deny, Strip, "<" + foreign + "=>", "<=>", Result{Stripped: 1, Undecodable: 1}, Stripped, ReasonUndecodable, false},
		{"undecodable, deny", Pass, Deny, "<" + foreign + ">", "<", Result{}, Denied, ReasonUndecodable, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var seen []Token
			s := newScanner()
			s.OnMismatch, s.OnUndecodable = tt.mismatch, tt.undecodable
			s.OnToken = func(tok Token) error { seen = append(seen, tok); return nil }
			out, err := s.Append(nil, []byte(tt.in), true)
			if string(out) != tt.want || s.Result != tt.result || errors.Is(err, ErrDenied) != tt.fails {
				t.Errorf("got %q, %+v, %v, want %q, %+v", out, s.Result, err, tt.want, tt.result)
			}
			if len(seen) != 1 || seen[0].Action != tt.action || seen[0].Reason != tt.reason || seen[0].Value != "" {
				t.Fatalf("got tokens %+v, want one: %v, %s", seen, tt.action, tt.reason)
			}
			if tt.fails && (!strings.Contains(err.Error(), seen[0].ID) || !strings.Contains(err.Error(), string(tt.reason))) {
				t.Errorf("the error names neither token nor reason: %v", err)
			}
			if _, again := s.Append(nil, []byte("x"), true); again != err {
				t.Errorf("after an error: got %v, want it again", again)
			}
			if _, again := s.Bytes([]byte("x")); again != err {
				t.Errorf("Bytes after an error: got %v, want it again", again)
			}
			if _, again := s.ScanString("x"); again != err {
				t.Errorf("ScanString after an error: got %v, want it again", again)
			}
		})
	}
}

// A token behind one that is stripped for not opening is still found.
func TestStripFindsTheNextToken(t *testing.T) {
	good := mustSeal(t, testRing, Secret{Value: "good"})
	for name, in := range map[string]string{
		"directly":         prefix + "AAAA" + good,
		"escaped colon":    prefix + "AAAA" + escapings["percent"](good),
		"behind padding":   prefix + "AA==" + good,
		"behind the limit": prefix + strings.Repeat("A", MaxTokenLen+1000) + good,
		"at the limit":     prefix + strings.Repeat("A", MaxTokenLen-len(prefix)) + good,
		"across the limit": prefix + strings.Repeat("A", MaxTokenLen-len(prefix)-3) + good,
	} {
		for _, size := range []int{1, 1000, len(in)} {
			s := newScanner()
			s.OnUndecodable = Strip
			var out []byte
			for i := 0; i < len(in); i += size {
				out, _ = s.Append(out, []byte(in[i:min(i+size, len(in))]), i+size >= len(in))
			}
			if string(out) != "good" || s.Result != (Result{1, 1, 1}) {
				t.Errorf("%s, in pieces of %d: got %q, %+v, want the value alone", name, size, abbreviate(out), s.Result)
			}
		}
	}
}

func TestTokenReports(t *testing.T) {
	// The SHA-256 of these texts begins so (sha256sum).
	const foreign = prefix + "AAAAAAAAAAAAAAAAAAAAAA=="
	named := mustSeal(t, testRing, Secret{Value: "v", Hosts: []string{"api.example.com"}, Name: "NAME"})
	var seen []Token
	s := newScanner()
	s.OnToken = func(tok Token) error { seen = append(seen, tok); return nil }
	in := named + " " + escapings["percent"](named) + " " + foreign + " " + mustSeal(t, testRing, Secret{Value: "w"})
	if _, err := s.ScanString(in); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 4 {
		t.Fatalf("got %d tokens, want 4: %+v", len(seen), seen)
	}
	if seen[0].ID != seen[1].ID || len(seen[0].ID) != 8 {
		t.Errorf("IDs of a token in two spellings: got %q and %q, want one of 8 digits", seen[0].ID, seen[1].ID)
	}
	if seen[0].Name != "NAME" || seen[0].Unrestricted || seen[0].Value.Reveal() != "v" || seen[0].Action != Replaced {
		t.Errorf("named token: got %+v", seen[0])
	}
	if seen[2].ID != "fd66622e" || seen[2].Action != Left || seen[2].Unrestricted {
		t.Errorf("foreign token: got %+v", seen[2])
	}
	if !seen[3].Unrestricted {
		t.Errorf("token without hosts: got %+v, want it unrestricted", seen[3])
	}
}

func TestOnTokenEndsTheScan(t *testing.T) {
	stop := errors.New("stop")
	good := mustSeal(t, testRing, Secret{Value: "good"})
	for _, in := range []string{"a" + good + "b" + good, "a" + prefix + "AAAA b"} {
		s := newScanner()
		s.OnToken = func(Token) error { return stop }
		out, err := s.Append(nil, []byte(in), true)
		if string(out) != "a" || err != stop || s.Result != (Result{}) {
			t.Errorf("got %q, %+v, %v, want what stands before the token, and %v", out, s.Result, err, stop)
		}
		s = newScanner()
		s.OnToken = func(Token) error { return stop }
		if out, err := s.ScanString(in); out != "" || err != stop {
			t.Errorf("ScanString: got %q, %v, want nothing and %v", out, err, stop)
		}
	}
}

func TestScannerWithoutKeys(t *testing.T) {
	in := "a" + mustSeal(t, testRing, Secret{Value: "x"})
	if out, result := Scan(nil, []byte(in), testTarget); string(out) != in || result != (Result{Undecodable: 1}) {
		t.Errorf("got %q, %+v, want the text", out, result)
	}
}

func TestActionNames(t *testing.T) {
	for action, want := range map[Action]string{Replaced: "replace", Stripped: "strip", Left: "leave", Denied: "deny"} {
		if got := action.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Texts without tokens cost nothing, and come back as they are.
func TestScanWithoutTokensAllocatesNothing(t *testing.T) {
	for name, in := range map[string]string{
		"clean":        strings.Repeat("nothing to see here ", 1000),
		"nearly":       strings.Repeat("starpo star s ", 1000),
		"ends in part": "x starp",
	} {
		p := []byte(in)
		s := newScanner()
		dst := make([]byte, 0, 2*len(p))
		if n := testing.AllocsPerRun(10, func() { s.Bytes(p); s.ScanString(in); s.Append(dst, p, true) }); n != 0 {
			t.Errorf("%s: got %v allocations, want none", name, n)
		}
	}
	p := []byte("a starpod:v1:AAAA b")
	if out, _ := newScanner().Bytes(p); &out[0] != &p[0] {
		t.Error("an unchanged text was copied")
	}
}

// The path is matched anew for other globs and for another path.
func TestScanPaths(t *testing.T) {
	v1 := mustSeal(t, testRing, Secret{Value: "1", Paths: []string{"/v1/*"}})
	v2 := mustSeal(t, testRing, Secret{Value: "2", Paths: []string{"/v2/*", "/both"}})
	other := mustSeal(t, testRing, Secret{Value: "3", Paths: []string{"/**"}, Methods: []string{"PUT"}})
	s := newScanner()
	for path, want := range map[string]string{"/v1/a": "1--1--", "/v2/a": "-2--2-", "/both": "-2--2-", "/none": "----"} {
		s.Target.Path = path
		if got, err := s.ScanString(v1 + "-" + v2 + "-" + v1 + "-" + v2 + "-" + other); got != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
		}
	}
}

// TestIndex puts the word, and what resembles it, at every place of some windows.
func TestIndex(t *testing.T) {
	fillings := []string{"x", "s", "po", "star", "starpo", "pod", "tarpod", "starp0d", "rpodsta"}
	for _, filling := range fillings {
		for length := range 3*window + 1 {
			text := []byte(strings.Repeat(filling, length)[:length])
			for _, word := range []string{marker, "starpo", "tarpod", "starpoo", "starpodstarpod"} {
				for at := range length - len(word) + 1 {
					text := append(append(append([]byte(nil), text[:at]...), word...), text[at+len(word):]...)
					if got, want := index(text), bytes.Index(text, []byte(marker)); got != want {
						t.Fatalf("%q: got %d, want %d", text, got, want)
					}
				}
			}
		}
	}
}
