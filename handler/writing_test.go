package handler

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"mime/multipart"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/tokens"
)

// writings check, each for one kind of body, that what its standard decoder
// reads in a random document with the token swapped is the document with the
// value.
var writings = map[string]func(*testing.T, *swapper, choices, randomSecret){
	"JSON": checkJSON, "form": checkForm, "XML": checkXML, "multipart": checkMultipart,
}

func TestWriting(t *testing.T) {
	for kind, check := range writings {
		t.Run(kind, func(t *testing.T) {
			s, source := newSwapper(t), newSource(t)
			for round := 0; round < 3000 && !t.Failed(); round++ {
				check(t, s, source, fatedSecret(t, byte(source.IntN(8)), randomValue(source, false)))
			}
		})
	}
}

// marksOf returns what stands at the marks as sent, and as a reader finds it.
func marksOf(s randomSecret) (sent, read *strings.Replacer) {
	found := s.value
	if s.fate == tokens.Left {
		found = s.token
	}
	return strings.NewReplacer(tokenMark, s.token), strings.NewReplacer(tokenMark, found, surrogateMark, "\uFFFD")
}

func checkJSON(t *testing.T, s *swapper, c choices, secret randomSecret) {
	t.Helper()
	contentType, document := "application/json; charset=utf-8", randomDocument(c, 3)
	if object, is := document.(map[string]any); is {
		// What is an object is seen to be JSON under the labels that clients put on it.
		contentType, document = pick(c, contentType, "application/x-www-form-urlencoded", "text/plain", ""), object
	}
	sent, read := marksOf(secret)
	var body strings.Builder
	randomStyle(c).encode(&body, filled(document, sent))
	out := s.swapBody(t, c, contentType, body.String())
	var got any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%q became %q: %v", body.String(), out, err)
	}
	if want := filled(document, read); !reflect.DeepEqual(got, want) {
		t.Errorf("%q:\ngot  %#v\nwant %#v", body.String(), got, want)
	}
}

func checkForm(t *testing.T, s *swapper, c choices, secret randomSecret) {
	t.Helper()
	form := randomForm(c)
	sent, read := marksOf(secret)
	body := encodeForm(c, filledForm(form, sent))
	out := s.swapBody(t, c, "application/x-www-form-urlencoded", body)
	got, err := url.ParseQuery(out)
	if want := filledForm(form, read); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q:\ngot  %q, %v\nwant %q", body, got, err, want)
	}
}

func checkXML(t *testing.T, s *swapper, c choices, secret randomSecret) {
	t.Helper()
	legal := func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == '\uFFFE' || r == '\uFFFF' {
			return '?' // XML 1.0 has no way to write it
		}
		return r
	}
	if fixed := strings.Map(legal, secret.value); fixed != secret.value {
		secret = fatedSecret(t, 0, fixed)
	}
	sent, read := marksOf(secret)
	replay := &recordedChoices{choices: c}
	body := randomXML(t, replay, sent)
	want := randomXML(t, replay.again(), read)
	out := s.swapBody(t, c, pick(c, "application/xml", "text/xml; charset=utf-8", "application/soap+xml"), body)
	if got, want := xmlTokens(t, out), xmlTokens(t, want); !reflect.DeepEqual(got, want) {
		t.Errorf("%q:\ngot  %q\nwant %q", body, got, want)
	}
}

func xmlTokens(t *testing.T, document string) (all []xml.Token) {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(document))
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatalf("%q: %v", document, err)
		}
		if text, is := token.(xml.CharData); is && len(text) == 0 {
			continue
		}
		all = append(all, xml.CopyToken(token))
	}
}

// recordedChoices makes choices that can be made again.
type recordedChoices struct {
	choices
	made []int
	next int
}

func (c *recordedChoices) IntN(n int) int {
	if c.choices == nil {
		c.next++
		return c.made[c.next-1]
	}
	c.made = append(c.made, c.choices.IntN(n))
	return c.made[len(c.made)-1]
}

func (c *recordedChoices) again() choices { return &recordedChoices{made: c.made} }

func checkMultipart(t *testing.T, s *swapper, c choices, secret randomSecret) {
	t.Helper()
	parts := randomParts(c)
	sent, read := marksOf(secret)
	body := encodeParts(t, c, parts, sent)
	out := s.swapBody(t, c, pick(c, "multipart/form-data; boundary=BOUND", `multipart/form-data; boundary="BOUND"`, "Multipart/Mixed;boundary=BOUND"), body)
	r := multipart.NewReader(strings.NewReader(out), "BOUND")
	for i, part := range parts {
		got, err := r.NextRawPart()
		if err != nil {
			t.Fatalf("part %d of %q became %q: %v", i, body, out, err)
		}
		text, err := io.ReadAll(got)
		if err != nil || got.Header.Get("Content-Disposition") != part.header.Get("Content-Disposition") {
			t.Fatalf("part %d of %q became %q: %v", i, body, out, err)
		}
		checkPart(t, part, string(text), read)
	}
	if _, err := r.NextRawPart(); err != io.EOF {
		t.Errorf("%q became %q: got %v behind the parts, want the end", body, out, err)
	}
}

func checkPart(t *testing.T, part randomPart, text string, read *strings.Replacer) {
	t.Helper()
	var got, want any
	var err error
	switch {
	case part.object != nil:
		want = filled(part.object, read)
		err = json.Unmarshal([]byte(text), &got)
	case part.form != nil:
		want = filledForm(part.form, read)
		got, err = url.ParseQuery(text)
	default:
		got, want = text, read.Replace(part.text)
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("part %q:\ngot  %#v, %v\nwant %#v", text, got, err, want)
	}
}
