package handler

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// watched collects what a proxy tells.
type watched struct {
	mu      sync.Mutex
	records []Record
}

func (w *watched) tell(r Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.records = append(w.records, r)
}

// await returns the records once there are n.
func (w *watched) await(t *testing.T, n int) (records []Record) {
	t.Helper()
	testbench.Await(t, longest, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if records = w.records; len(records) < n {
			return fmt.Errorf("got %d records, want %d", len(records), n)
		}
		return nil
	})
	return records
}

// TestRecords reads back what is told of each request: nothing of one without
// tokens, and never a value or a whole token, whichever key it is of.
func TestRecords(t *testing.T) {
	foreign := testbench.Seal(t, []byte(strings.Repeat("x", 32)), canary)
	for _, test := range []struct {
		name         string
		target       func(b *bench, token string) string
		header, host string
		want         Record // but for what differs from run to run
		path         string
	}{
		{"replaced", func(b *bench, token string) string { return b.up.URL("api.starpod.test") + "/a/" + token + "?q=1" }, "good", "",
			Record{Kind: KindTokens, Message: "tokens replaced", Method: "GET", Status: 200}, "/a/⟨token "},
		{"stripped", func(b *bench, _ string) string { return b.up.URL("evil.starpod.test") + "/a" }, "good", "",
			Record{Kind: KindTokens, Message: "tokens not replaced", Method: "GET", Status: 200}, "/a"},
		{"of another key", func(b *bench, _ string) string { return b.up.URL("api.starpod.test") + "/a/" + foreign }, "", "",
			Record{Kind: KindTokens, Message: "tokens not replaced", Method: "GET", Status: 200}, "/a/⟨token "},
		{"refused", func(_ *bench, token string) string { return "http://10.1.2.3/" + token }, "good", "",
			Record{Kind: KindRefused, Message: "request refused", Method: "GET", Status: 403, Rule: RuleEgress}, "/⟨token "},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := new(watched)
			b := newBench(t, func(p *Proxy) { p.Watch = w.tell })
			watchSecrecy(b)
			token := b.token("api.starpod.test")
			b.do(b.client(false), b.request("GET", b.up.URL("api.starpod.test")+"/without", ""))
			header := []string{}
			if test.header != "" {
				header = []string{"X-Key", token}
			}
			b.do(b.client(false), b.request("GET", test.target(b, token), "", header...))
			records := w.await(t, 1)
			if len(records) != 1 {
				t.Fatalf("got %d records, want one: %+v", len(records), records)
			}
			got := records[0]
			same := got.Kind == test.want.Kind && got.Message == test.want.Message && got.Method == test.want.Method &&
				got.Status == test.want.Status && got.Rule == test.want.Rule
			if !same || !strings.HasPrefix(got.Path, test.path) || got.Client == "" || got.Destination == "" || got.Time.IsZero() {
				t.Errorf("got %+v, want %+v with path %s…", got, test.want, test.path)
			}
			text, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			b.findSecret("the record", fmt.Appendf(text, "%+v %#v", got, got))
			if strings.Contains(string(text), "starpod:v1") {
				t.Errorf("got %s, want no whole token", text)
			}
			if test.want.Kind == KindTokens && len(got.Tokens) == 0 || test.want.Kind == KindRefused && got.Mend == "" {
				t.Errorf("got %s, want the tokens, or what to do about it", text)
			}
		})
	}
}

// TestMisdirectedTokenIsNotShown: a name that is refused is quoted in the reason.
func TestMisdirectedTokenIsNotShown(t *testing.T) {
	w := new(watched)
	b := newBench(t, func(p *Proxy) { p.Watch = w.tell })
	token := testbench.Seal(t, b.key, "v")
	r := b.request("GET", b.up.PlainURL("api.starpod.test")+"/", "")
	p := b.proxy
	p.Init()
	p.refused(r, Destination{}, &Refusal{Rule: RuleMisdirected, Reason: "Host " + quoteName(token) + " is not the destination"})
	if got := w.await(t, 1)[0].Reason; strings.Contains(got, "starpod:v1") || !strings.Contains(got, "⟨token ") {
		t.Errorf("got %q, want the token shown by its id", got)
	}
}

// TestBounded: whatever a client sends, a record that is kept is small and plain.
func TestBounded(t *testing.T) {
	long := strings.Repeat("ü", 1<<20)
	many := make([]TokenRecord, 100)
	for i := range many {
		many[i] = TokenRecord{ID: fmt.Sprint(i), Action: "leave", Name: long}
	}
	many[99].Action = "strip"
	for _, test := range []struct {
		name, text, want string
	}{
		{"plain", "/a/⟨token 1a2b3c4d⟩/ü", "/a/⟨token 1a2b3c4d⟩/ü"},
		{"escape sequence", "\x1b[2J\x1b]0;x\a", `\x1b[2J\x1b]0;x\a`},
		{"C1 control", "\u009b31m", `\u009b31m`},
		{"line breaks", "a\r\nb\u2028c\vd", `a\r\nb\u2028c\vd`},
		{"order of writing", "\u202Eevil", `\u202eevil`},
		{"invisible", "a\u200bb\u00a0c", `a\u200bb\u00a0c`},
		{"not UTF-8", "a\xffb", `a\xffb`},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := Record{Path: test.text, Reason: test.text, Tokens: []TokenRecord{{Name: test.text}}}.Bounded()
			for _, got := range []string{r.Path, r.Reason, r.Tokens[0].Name} {
				if got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			}
			if again := r.Bounded(); again.Path != r.Path {
				t.Errorf("bounded twice: got %q, want %q", again.Path, r.Path)
			}
		})
	}
	r := Record{Client: long, Destination: long, Method: long, Path: long, Reason: strings.Repeat("\x00", 1<<20), Mend: long, Tokens: many}.Bounded()
	text, err := json.Marshal(r)
	if err != nil || len(text) > 64<<10 {
		t.Errorf("got a record of %d bytes (%v), want a small one", len(text), err)
	}
	if len(r.Tokens) != maxRecordTokens || r.MoreTokens != 100-maxRecordTokens || r.Tokens[0].ID != "99" {
		t.Errorf("got %d tokens, %d more and %s first; want %d, the others counted, the stripped one first",
			len(r.Tokens), r.MoreTokens, r.Tokens[0].ID, maxRecordTokens)
	}
	if strings.ContainsFunc(string(text), func(c rune) bool { return !unicode.IsPrint(c) }) {
		t.Errorf("got %.200q, want nothing unprintable", text)
	}
}

// TestRecordOfMasked counts the values that an answer repeats, in header and body.
func TestRecordOfMasked(t *testing.T) {
	for _, test := range []struct {
		name     string
		unmasked bool
		echo     testbench.Responder
		want     int
	}{
		{"repeated", false, testbench.EchoHead, 1},
		{"not repeated", false, testbench.OK, 0},
		{"not masked", true, testbench.EchoHead, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := new(watched)
			b := newBench(t, func(p *Proxy) { p.Watch, p.Swap.Unmasked = w.tell, test.unmasked })
			b.up.Handle("/echo", test.echo)
			b.do(b.client(false), b.request("GET", b.up.URL("api.starpod.test")+"/echo", "", "X-Key", b.token("api.starpod.test")))
			if got := w.await(t, 1)[0].Masked; got != test.want {
				t.Errorf("got %d values masked, want %d", got, test.want)
			}
		})
	}
}
