package handler

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
)

// maskOf makes the mask of requests that held these values.
func maskOf(values ...string) *mask {
	var found []foundToken
	for _, v := range values {
		found = append(found, foundToken{Token: tokens.Token{Action: tokens.Replaced, Value: tokens.Value(v)}})
	}
	return newMask(found, nil)
}

// TestMaskSpellings hides a value in every spelling that encoders give it.
func TestMaskSpellings(t *testing.T) {
	const value = "p/ss \"wörd\"<&>\\ \U0001f511 x+y=z"
	marshalled, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	for name, spelling := range map[string]string{
		"raw":                 value,
		"JSON":                tokens.Escape(value, tokens.JSON),
		"JSON of Go":          strings.Trim(string(marshalled), `"`),
		"JSON of Python":      `p/ss \"w\u00f6rd\"<&>\\ \ud83d\udd11 x+y=z`,
		"JSON of PHP":         `p\/ss \"w\u00f6rd\"<&>\\ \ud83d\udd11 x+y=z`,
		"percent":             tokens.Escape(value, tokens.Percent),
		"percent, lower case": lowerEscapes(tokens.Escape(value, tokens.Percent)),
		"form":                url.QueryEscape(value),
		"path":                url.PathEscape(value),
		"JSON of Gson":        `p/ss \"wörd\"\u003c\u0026\u003e\\ 🔑 x+y\u003dz`,
		"JSON of .NET":        `p/ss \u0022wörd\u0022\u003C\u0026\u003E\\ 🔑 x\u002By=z`,
		"HTML of Go":          `p/ss &#34;wörd&#34;&lt;&amp;&gt;\ 🔑 x&#43;y=z`,
		"HTML of Python":      `p/ss &quot;wörd&quot;&lt;&amp;&gt;\ 🔑 x+y=z`,
		"XML":                 tokens.Escape(value, tokens.XML),
	} {
		t.Run(name, func(t *testing.T) {
			text := []byte("before " + spelling + " after " + spelling)
			maskOf(value).apply(text)
			stars := strings.Repeat("*", len(spelling))
			if want := "before " + stars + " after " + stars; string(text) != want {
				t.Errorf("got  %q\nwant %q", text, want)
			}
		})
	}
}

// TestMaskLeavesShortValues does not blot out what is shorter than 8 bytes.
func TestMaskLeavesShortValues(t *testing.T) {
	if m := maskOf("1234567"); m != nil {
		t.Errorf("got a mask of %q, want none", m.needles)
	}
}

// TestPendingOfLongValues is found in linear time, and is what comparing at each
// place would find.
func TestPendingOfLongValues(t *testing.T) {
	const n = 1 << 20
	for name, period := range map[string]string{"one letter": "a", "a pattern": "0123456789abcdef", "two patterns": strings.Repeat("ab", 300) + "b"} {
		value := strings.Repeat(period, n/len(period))
		m := maskOf(value)
		for _, test := range []struct {
			text string
			want int
		}{
			{"<" + value[:n/2], n / 2},
			{value[len(period):], len(value) - len(period)},
			{value[len(period):] + ">", 0},
			{value[:n/2] + ">" + value[:600], 600},
			{"", 0},
		} {
			if got := m.pending([]byte(test.text)); got != test.want {
				t.Errorf("%s, %d bytes: got %d pending, want %d", name, len(test.text), got, test.want)
			}
		}
	}
}

// FuzzMaskReader: however a text is cut into reads, it is masked like the whole,
// and its length stays.
func FuzzMaskReader(f *testing.F) {
	f.Add([]byte("xxabcdabcdabcxx"), "abcdabcd", "bcdabcda", uint8(3))
	f.Add([]byte("aaaaaaaaaaaaaaaaaaaaaaaa"), "aaaaaaaa", "aaaaaaaab", uint8(1))
	f.Add([]byte("QUFBQUFBc2VjcmV0"), "QUFBQUFB", "QUFBQUFBc2VjcmV0", uint8(7))
	f.Add([]byte("tail of a value: CANARY-5d41402a"), canary, "unrelated", uint8(5))
	f.Fuzz(func(t *testing.T, text []byte, first, second string, cut uint8) {
		m := maskOf(first, second)
		if m == nil {
			return
		}
		source := &cutReader{text: bytes.Clone(text), cut: int(cut)%32 + 1}
		got, err := io.ReadAll(newMaskReader(io.NopCloser(source), func() *mask { return m }))
		if err != nil || len(got) != len(text) {
			t.Fatalf("got %d bytes, %v, want %d", len(got), err, len(text))
		}
		for _, needle := range m.needles {
			if bytes.Contains(got, needle) && !bytes.Contains(needle, []byte("*")) {
				t.Errorf("%q is still in %q", needle, got)
			}
		}
		whole := bytes.Clone(text)
		if m.apply(whole); m.longest < longNeedle && !bytes.Equal(got, whole) {
			t.Fatalf("needles %q, cut at %d: got %q, want %q", m.needles, source.cut, got, whole)
		}
		for i := range got {
			if got[i] != text[i] && got[i] != '*' {
				t.Fatalf("byte %d became %q, want %q or an asterisk", i, got[i], text[i])
			}
		}
		if !m.contains(string(text)) && !bytes.Equal(got, text) {
			t.Errorf("got %q, want %q unchanged, as no value is in it", got, text)
		}
	})
}

type cutReader struct {
	text []byte
	cut  int
}

func (r *cutReader) Read(p []byte) (int, error) {
	if len(r.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), r.cut)], r.text)
	r.text = r.text[n:]
	return n, nil
}

// TestMaskReaderHoldsNothingBack passes on at once what cannot be the beginning
// of a value.
func TestMaskReaderHoldsNothingBack(t *testing.T) {
	events, more := io.Pipe()
	defer more.Close()
	r := newMaskReader(events, func() *mask { return maskOf(canary) })
	for _, event := range []string{"data: 1\n\n", "data: CAN of worms\n\n", "data: " + canary[:5] + "\n\n"} {
		go func() { _, _ = io.WriteString(more, event) }()
		got := make([]byte, len(event))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != event {
			t.Errorf("got %q, %v, want %q before the next event", got, err, event)
		}
	}
}

// TestMaskLetsOneSideWaitForTheOther: what ends like the beginning of a value is
// passed on though nothing comes behind it, up to some bytes, which still count as
// the beginning if the rest comes later.
func TestMaskLetsOneSideWaitForTheOther(t *testing.T) {
	const value = "SECRET-0123456789"
	for _, test := range []struct {
		name, first, shown string
		then, rest         string
		values             []string // else value
	}{
		{"nothing of a value", "over", "over", "and out", "and out", nil},
		{"one byte of it", "overS", "overS", "o far", "o far", nil},
		{"some bytes, then the value", "overSEC", "overSEC", "RET-0123456789!", strings.Repeat("*", len(value)-3) + "!", nil},
		{"some bytes, then more of it, then others", "overSE", "overSE", "CRET-01!", "CRET-01!", nil},
		{"some bytes, then the whole value", "overSE", "overSE", value, strings.Repeat("*", len(value)), nil},
		{"more bytes are held back", "overSECR", "over", "ET-0123456789!", strings.Repeat("*", len(value)) + "!", nil},
		{"a value that ends as it begins", "overabcd-0123-abcd", "over**************", " out", " out", []string{"abcd-0123-abcd"}},
		{"the same, and it goes on", "overabcd-0123-abcd", "over**************", "-0123-abcd!", "**********!", []string{"abcd-0123-abcd"}},
		{"a value of one letter", "overaaaaaaaa", "over********", "a out", "* out", []string{"aaaaaaaa"}},
		{"a value with which another begins", "overabcdefgh", "over********", "-secret!", "*******!", []string{"abcdefgh", "abcdefgh-secret"}},
		{"the same, and it is the short one", "overabcdefgh", "over********", "-sec!", "-sec!", []string{"abcdefgh", "abcdefgh-secret"}},
		{"the same, with more of the longer one", "overabcdefgh-sec", "over", "ret!", "***************!", []string{"abcdefgh", "abcdefgh-secret"}},
	} {
		for _, room := range []int{1, 8, 4096} {
			t.Run(fmt.Sprintf("%s, %d at a time", test.name, room), func(t *testing.T) {
				source, far := io.Pipe()
				m := maskOf(value)
				if test.values != nil {
					m = maskOf(test.values...)
				}
				r := newMaskReader(source, func() *mask { return m })
				go func() { _, _ = io.WriteString(far, test.first) }()
				var got []byte
				p := make([]byte, room)
				for len(got) < len(test.shown) {
					n, err := r.Read(p)
					if got = append(got, p[:n]...); err != nil {
						t.Fatal(err)
					}
				}
				go func() {
					_, _ = io.WriteString(far, test.then)
					_ = far.Close()
				}()
				rest, err := io.ReadAll(r)
				if string(got) != test.shown || string(rest) != test.rest || err != nil {
					t.Errorf("got %q, then %q (%v), want %q, then %q", got, rest, err, test.shown, test.rest)
				}
			})
		}
	}
}

// TestMaskResponses sends a token to an upstream that repeats what it got, in
// every part of an answer.
func TestMaskResponses(t *testing.T) {
	stars := strings.Repeat("*", len(canary))
	key := func(got *testbench.Request) string { return got.Header.Get("X-Key") }
	for name, test := range map[string]struct {
		answer testbench.Responder
		got    func(*http.Response, string) string
		want   string
	}{
		"Location": {func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
			w.Header().Set("Location", "/?k="+key(got))
			w.WriteHeader(302)
		}, func(r *http.Response, _ string) string { return r.Header.Get("Location") }, "/?k=" + stars},
		"Set-Cookie": {func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "k="+key(got)+"; Secure")
		}, func(r *http.Response, _ string) string { return strings.Join(r.Header.Values("Set-Cookie"), "|") }, "a=1|k=" + stars + "; Secure"},
		"a body with a length": {func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
			fmt.Fprintf(w, "you sent %s.", key(got))
		}, func(r *http.Response, body string) string { return fmt.Sprint(r.ContentLength, body) }, fmt.Sprint(len(canary)+10, "you sent "+stars+".")},
		"a body in pieces": {func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
			for _, c := range []byte("<" + key(got) + ">") {
				_, _ = w.Write([]byte{c})
				_ = http.NewResponseController(w).Flush()
			}
		}, func(_ *http.Response, body string) string { return body }, "<" + stars + ">"},
		"a trailer": {func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
			w.Header().Set("Trailer", "X-Last")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-Last", key(got))
		}, func(r *http.Response, _ string) string { return r.Trailer.Get("X-Last") }, stars},
		"a Basic credential": {func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
			_, _ = io.WriteString(w, got.Header.Get("Authorization"))
		}, func(_ *http.Response, body string) string { return body },
			"Basic " + strings.Repeat("*", len(base64.RawStdEncoding.EncodeToString([]byte("u:"+canary)))) + "=="},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			b.up.Handle("/", test.answer)
			for _, h2 := range []bool{false, true} {
				response, body := b.do(b.client(h2), b.request("GET", b.up.URL("api.starpod.test")+"/", "",
					"X-Key", b.token(), "Authorization", basic("u", b.token())))
				if got := test.got(response, body); got != test.want {
					t.Errorf("h2 %v: got %q, want %q", h2, got, test.want)
				}
			}
		})
	}
}

// TestMaskCompressed decodes an answer that is compressed though plain text was
// asked for, and asks for plain text only where there is something to hide.
func TestMaskCompressed(t *testing.T) {
	text := "it was " + canary + "."
	for coding, encode := range map[string]func(io.Writer) io.WriteCloser{
		"gzip":    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"deflate": func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
		"br":      func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) },
		"zstd": func(w io.Writer) io.WriteCloser {
			encoder, err := zstd.NewWriter(w)
			if err != nil {
				t.Fatal(err)
			}
			return encoder
		},
	} {
		t.Run(coding, func(t *testing.T) {
			b := newBench(t, nil)
			var packed bytes.Buffer
			encoder := encode(&packed)
			_, _ = io.WriteString(encoder, text)
			_ = encoder.Close()
			b.up.Handle("/", func(w http.ResponseWriter, _ *http.Request, _ *testbench.Request) {
				w.Header().Set("Content-Encoding", coding)
				_, _ = w.Write(packed.Bytes())
			})
			client := b.client(false)
			response, body := b.do(client, b.request("GET", b.up.URL("api.starpod.test")+"/", "", "X-Key", b.token(), "Accept-Encoding", coding))
			if want := strings.ReplaceAll(text, canary, strings.Repeat("*", len(canary))); body != want || response.Header.Get("Content-Encoding") != "" {
				t.Errorf("got %q in coding %q, want %q in none", body, response.Header.Get("Content-Encoding"), want)
			}
			if got := b.up.Last(t).Header.Get("Accept-Encoding"); got != "identity" {
				t.Errorf("with a token: the upstream was asked for %q, want identity", got)
			}
			_, body = b.do(client, b.request("GET", b.up.URL("api.starpod.test")+"/", "", "Accept-Encoding", coding))
			if got := b.up.Last(t).Header.Get("Accept-Encoding"); body != packed.String() || got != coding {
				t.Errorf("without a token: asked for %q and got %d bytes, want %q and the %d bytes as they are", got, len(body), coding, packed.Len())
			}
		})
	}
}

// TestUnmasked leaves answers alone where masking is off.
func TestUnmasked(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.Unmasked = true })
	b.up.Handle("/", func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
		_, _ = io.WriteString(w, got.Header.Get("X-Key"))
	})
	_, body := b.do(b.client(false), b.request("GET", b.up.URL("api.starpod.test")+"/", "", "X-Key", b.token()))
	if body != canary {
		t.Errorf("got %q, want the value", body)
	}
}

// TestMaskCodings undoes several codings and refuses one that it does not know.
func TestMaskCodings(t *testing.T) {
	var packed bytes.Buffer
	encoder := gzip.NewWriter(&packed)
	_, _ = io.WriteString(encoder, canary)
	_ = encoder.Close()
	for name, test := range map[string]struct {
		fields []string
		status int
	}{
		"identity behind it in one line": {[]string{"gzip, identity"}, 200},
		"in two lines":                   {[]string{"identity", "gzip"}, 200},
		"in capitals":                    {[]string{"GZIP"}, 200},
		"one that is not known":          {[]string{"gzip, rot13"}, 502},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			b.up.Handle("/", func(w http.ResponseWriter, _ *http.Request, _ *testbench.Request) {
				w.Header()["Content-Encoding"] = test.fields
				_, _ = w.Write(packed.Bytes())
			})
			response, body := b.do(b.client(false), b.request("GET", b.up.URL("api.starpod.test")+"/", "", "X-Key", b.token()))
			if response.StatusCode != test.status || strings.Contains(body, canary) || body == packed.String() {
				t.Errorf("got %d %q, want %d and nothing of the value", response.StatusCode, body, test.status)
			}
		})
	}
}

// TestLateToken refuses a token that comes when a compressed answer, which could
// not be masked any more, is already under way.
func TestLateToken(t *testing.T) {
	b := newBench(t, nil)
	arrived := make(chan string, 1)
	b.up.HandleStream("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		body, _ := io.ReadAll(r.Body)
		arrived <- string(body)
	}))
	body, late := io.Pipe()
	request := b.request("POST", b.up.URL("api.starpod.test")+"/", "", "Accept-Encoding", "gzip")
	request.Body, request.ContentLength = body, -1
	response, err := b.client(true).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	go func() {
		_, _ = io.WriteString(late, b.token())
		_ = late.Close()
	}()
	if got := <-arrived; strings.Contains(got, canary) {
		t.Errorf("the upstream got %q, want no value", got)
	}
}

// TestMaskCutAnywhere: a value that begins with another, or with the end of one, is
// masked as in one piece, wherever reads or frames end.
func TestMaskCutAnywhere(t *testing.T) {
	for _, values := range [][]string{
		{"QUFBQUFB", "QUFBQUFBc2VjcmV0"},
		{"abcdefgh-12", "-12345678"},
		{"abcdefgh", "efghijkl", "ijklmnop"},
		{"12345678", "0123456789abcdef", "89abcdefghi"},
	} {
		m := maskOf(values...)
		for _, text := range []string{
			strings.Join(values, ""), "-" + strings.Join(values, " ") + "-", "QUFBQUFBc2VjcmV", "abcdefgh-1234567", "abcdefgh-12 45678",
			"abcdefghijklmnop", "0123456789abcdefghi", "0123456789abcdeX",
		} {
			want := string(coveredBy(m.needles, []byte(text)))
			for i := range len(text) + 1 {
				for j := i; j <= len(text); j++ {
					pieces := []string{text[:i], text[i:j], text[j:]}
					var readers []io.Reader
					for _, piece := range pieces {
						readers = append(readers, strings.NewReader(piece))
					}
					reader := newMaskReader(io.NopCloser(io.MultiReader(readers...)), func() *mask { return m })
					if got, err := io.ReadAll(reader); string(got) != want || err != nil {
						t.Fatalf("values %q, read as %q: got %q, %v, want %q", values, pieces, got, err, want)
					}
					var s seam
					got := ""
					for n, piece := range pieces {
						whole := append(bytes.Clone(s.held), piece...)
						got += string(whole[:s.settle(m, whole, n == 2)])
					}
					if got != want {
						t.Fatalf("values %q, in frames %q: got %q, want %q", values, pieces, got, want)
					}
				}
			}
		}
	}
}

// TestMaskedBodyIsClosedBesideARead: a client that goes away has the answer closed while
// a Read of it waits behind bytes that begin a value.
func TestMaskedBodyIsClosedBesideARead(t *testing.T) {
	for name := range codings {
		t.Run(name, func(t *testing.T) {
			source, far := io.Pipe()
			go func() {
				w, err := codings[name].encode(far)
				if err == nil {
					_, err = io.WriteString(w, "over"+canary[:2])
				}
				if flusher, ok := w.(interface{ Flush() error }); err == nil && ok {
					err = flusher.Flush()
				}
				if err != nil {
					t.Error(err)
				}
			}()
			body := &decodedBody{Closer: source, encoded: source, open: codings[name].decode}
			r := newMaskReader(body, func() *mask { return maskOf(canary) })
			if got, err := io.ReadAll(io.LimitReader(r, 6)); string(got) != "over"+canary[:2] || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if came := <-r.ahead; came.err == nil {
				t.Errorf("the Read under way got %d bytes and no error, want an error", came.n)
			}
			if n, err := body.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("reading on: got %d, %v, want an error", n, err)
			}
		})
	}
}
