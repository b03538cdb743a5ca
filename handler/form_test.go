package handler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
)

// awkward is a value that has to be escaped in every form.
const awkward = "a\"b\\c\nd<e>&f%g+h=i/j"

// TestFormOfBodies: what clients call their bodies, and what they are.
func TestFormOfBodies(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	token := testbench.Seal(t, b.key, awkward, "api.starpod.test")
	const (
		form  = "application/x-www-form-urlencoded"
		plain = "text/plain;charset=UTF-8"
	)
	asJSON, asPercent, asXML := tokens.Escape(awkward, tokens.JSON), tokens.Escape(awkward, tokens.Percent), tokens.Escape(awkward, tokens.XML)
	for _, test := range []struct{ name, contentType, before, want string }{
		{"JSON", "application/json", `{"k":"`, asJSON},
		{"JSON of a vendor", "application/vnd.api+json; v=1", `{"k":"`, asJSON},
		{"JSON lines", "application/x-ndjson", "{}\n" + `{"k":"`, asJSON},
		{"form", form, "a=1&b=", asPercent},
		{"JSON that curl -d calls a form", form, ` {"k":"`, asJSON},
		{"array that curl -d calls a form", form, "[\n {\"k\":\"", asJSON},
		{"a form that begins with a bracket", form, "[a]=1&b=", asPercent},
		{"JSON that fetch calls text", plain, `{"k":"`, asJSON},
		{"array that fetch calls text", plain, `["`, asJSON},
		{"text", plain, "key: ", awkward},
		{"text that begins with a bracket", plain, "[info] key: ", awkward},
		{"text that begins with a brace", plain, "{{ mustache }} ", awkward},
		{"JSON without a type", "", `{"k":"`, asJSON},
		{"text without a type", "", "key: ", awkward},
		{"bytes that look like JSON", "application/octet-stream", `{"k":"`, awkward},
		{"XML", "application/xml", "<k>", asXML},
		{"SOAP", "application/soap+xml; charset=utf-8", "<k>", asXML},
		{"malformed type", "application/json;;;=", `{"k":"`, asJSON},
	} {
		for _, pad := range []int{0, 2 * smallBuffer} {
			for _, sized := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, %d more bytes, sized %v", test.name, pad, sized), func(t *testing.T) {
					behind := strings.Repeat("x", pad)
					r := b.request("POST", b.up.URL("api.starpod.test")+"/", test.before+token+behind)
					if r.Header.Set("Content-Type", test.contentType); test.contentType == "" {
						delete(r.Header, "Content-Type")
					}
					if !sized {
						r.ContentLength, r.Body = -1, io.NopCloser(iotest.OneByteReader(r.Body))
					}
					b.do(b.client(false), r)
					if got, want := string(b.up.Last(t).Body), test.before+test.want+behind; got != want {
						t.Errorf("got %.200q, want %.200q", got, want)
					}
				})
			}
		}
	}
}

// TestMultipart: each part is written as its own type demands, and nothing but
// tokens changes, however the body is cut into pieces.
func TestMultipart(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	token := testbench.Seal(t, b.key, awkward, "api.starpod.test")
	asJSON, asXML := tokens.Escape(awkward, tokens.JSON), tokens.Escape(awkward, tokens.XML)
	parts := []struct{ name, header, content, want string }{
		{"field", "", token, awkward},
		{"field with JSON", "", `{"a":"` + token + `"}`, `{"a":"` + asJSON + `"}`},
		{"field behind it", "", "x" + token + "y", "x" + awkward + "y"},
		{"JSON part", "application/json; charset=utf-8", `{"a":"` + token + `"}`, `{"a":"` + asJSON + `"}`},
		{"JSON with what looks like a delimiter", "application/json", "{\"a\":\n\"\"}\n--BOUNDARYx\n" + `{"a":"` + token + `"}`, "{\"a\":\n\"\"}\n--BOUNDARYx\n" + `{"a":"` + asJSON + `"}`},
		{"XML part", "text/xml", "<a>" + token + "</a>", "<a>" + asXML + "</a>"},
		{"file", "application/octet-stream", "\x00\r\n--\r\n-" + token + "\r\n", "\x00\r\n--\r\n-" + awkward + "\r\n"},
		{"long file", "image/png", strings.Repeat("\r\n--almost", smallBuffer/4) + token, strings.Repeat("\r\n--almost", smallBuffer/4) + awkward},
		{"empty", "text/plain", "", ""},
		{"last field", "", token, awkward},
	}
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	_ = w.SetBoundary("BOUNDARY")
	for _, part := range parts {
		h := textproto.MIMEHeader{"Content-Disposition": {`form-data; name="` + part.name + `"`}}
		if part.header != "" {
			h.Set("Content-Type", part.header)
		}
		pw, err := w.CreatePart(h)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(pw, part.content)
	}
	_ = w.Close()

	check := func(t *testing.T, contentType string, got []byte) {
		t.Helper()
		_, params, _ := mime.ParseMediaType(contentType)
		r := multipart.NewReader(bytes.NewReader(got), params["boundary"])
		for _, part := range parts {
			p, err := r.NextRawPart()
			if err != nil {
				t.Fatalf("%s: %v", part.name, err)
			}
			content, err := io.ReadAll(p)
			if err != nil || p.FormName() != part.name || string(content) != part.want {
				t.Errorf("%s: got part %q with %.200q (%v), want %.200q", part.name, p.FormName(), content, err, part.want)
			}
		}
		if _, err := r.NextRawPart(); err != io.EOF {
			t.Errorf("behind the last part: got %v, want the end", err)
		}
	}
	for _, kind := range []string{"form-data", "related", "mixed"} {
		contentType := "multipart/" + kind + "; boundary=" + w.Boundary()
		for _, sized := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, sized %v", kind, sized), func(t *testing.T) {
				r := b.request("POST", b.up.URL("api.starpod.test")+"/", body.String(), "Content-Type", contentType)
				if !sized {
					r.ContentLength = -1
				}
				b.do(b.client(false), r)
				check(t, contentType, b.up.Last(t).Body)
			})
		}
	}
	t.Run("in memory", func(t *testing.T) {
		b.proxy.Swap.BodyBuffer = 1 << 20
		defer func() { b.proxy.Swap.BodyBuffer = smallBuffer }()
		b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", body.String(), "Content-Type", w.FormDataContentType()))
		check(t, w.FormDataContentType(), b.up.Last(t).Body)
	})
	t.Run("byte by byte", func(t *testing.T) {
		keys, _ := b.proxy.Keys()
		s := &tokens.Scanner{Keys: keys, Target: tokens.Target{Host: "api.starpod.test", Port: 443}}
		got, err := io.ReadAll(formOf(w.FormDataContentType()).reader(s, iotest.OneByteReader(bytes.NewReader(body.Bytes()))))
		if err != nil {
			t.Fatal(err)
		}
		check(t, w.FormDataContentType(), got)
	})
}

// FuzzMultipartIsOnlyWatched: following the parts changes nothing of a body
// without tokens, whatever is in it and however it is cut.
func FuzzMultipartIsOnlyWatched(f *testing.F) {
	f.Add([]byte("--b\r\nContent-Type: application/json\r\n\r\n{\"a\":1}\r\n--b--\r\n"), byte(3))
	f.Add([]byte("--b\n\n--b\nContent-Type:"), byte(1))
	f.Add(bytes.Repeat([]byte("x"), 3*partLine), byte(200))
	f.Fuzz(func(t *testing.T, body []byte, cut byte) {
		s := new(tokens.Scanner)
		r := formOf("multipart/form-data; boundary=b").reader(s, bytes.NewReader(body))
		var got bytes.Buffer
		if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{r}, make([]byte, int(cut)+1)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), body) {
			t.Errorf("got %q, want %q", got.Bytes(), body)
		}
	})
}

// TestJSONLook agrees with what a JSON decoder takes.
func TestJSONLook(t *testing.T) {
	for _, text := range []string{`{}`, `{"a":1}`, ` [ { "a" : 1 } ]`, "\r\n\t[[1]]", `["a"]`} {
		if !json.Valid([]byte(text)) {
			t.Fatalf("%q is no JSON", text)
		}
		for cut := range len(text) {
			var look jsonLook
			look.at([]byte(text[:cut]))
			look.at([]byte(text[cut:]))
			if !look.json {
				t.Errorf("%q cut at %d: not taken for JSON", text, cut)
			}
		}
	}
}
