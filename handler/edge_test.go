package handler

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// allSorts seals value into a token that has every character which encoders
// escape: "+", "/" and "=".
func (b *bench) allSorts(value string) string {
	b.t.Helper()
	for n := 0; ; n++ { // other hosts make for other paddings
		token := testbench.Seal(b.t, b.key, value, "api.starpod.test", strings.Repeat("a", n%3+1)+".test")
		if strings.Contains(token, "+") && strings.Contains(token, "/") && strings.HasSuffix(token, "=") {
			return token
		}
	}
}

// everyByte writes each byte in the format.
func everyByte(format, text string) string {
	var all strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&all, format, text[i])
	}
	return all.String()
}

// TestTokenOverTwoRecords: a token in the header that comes in two TLS records,
// and one in a body with a length, split at every offset.
func TestTokenOverTwoRecords(t *testing.T) {
	b := newBench(t, nil)
	token := testbench.Seal(t, b.key, "v", "api.starpod.test")
	conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
	r := bufio.NewReader(conn)
	for split := 0; split <= len(token); split++ {
		head := fmt.Sprintf("POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nX-Key: <", b.apiAuthority(), len(token)+2)
		for _, record := range []string{head + token[:split], token[split:] + ">\r\n\r\n<" + token[:split], token[split:] + ">"} {
			if _, err := io.WriteString(conn, record); err != nil {
				t.Fatal(err)
			}
		}
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("split at %d: %v", split, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		if got := b.up.Last(t); got.Header.Get("X-Key") != "<v>" || string(got.Body) != "<v>" {
			t.Errorf("split at %d: got header %q and body %q, want <v> twice", split, got.Header.Get("X-Key"), got.Body)
		}
	}
}

// TestPercentEncodedTokens in the target and in a form, as encoders write them:
// the server decodes the value, and all else is as the client wrote it.
func TestPercentEncodedTokens(t *testing.T) {
	b := newBench(t, nil)
	token := b.allSorts(awkward)
	upper := url.QueryEscape(token)
	for name, spelled := range map[string]string{
		"upper-case hex":      upper,
		"lower-case hex":      lowerEscapes(upper),
		"more than has to be": "starpod" + everyByte("%%%02X", token[7:]),
		"the same, lower":     "starpod" + everyByte("%%%02x", token[7:]),
		"colons and plus":     strings.NewReplacer(":", "%3a", "+", "%2b").Replace(token),
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			const form = "Content-Type: application/x-www-form-urlencoded\r\n"
			target, body := "/a%2Fb/"+spelled+"/c%2fd?z=1&k="+spelled+"&a=2&z=1&k=&%7e", "z=1&k="+spelled+"&a=%2F&z=1"
			response := b.send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: {host}\r\n%sContent-Length: %d\r\n\r\n%s", target, form, len(body), body))
			if response.StatusCode != 200 {
				t.Fatalf("got status %d, want 200", response.StatusCode)
			}
			got := b.up.Last(t)
			for what, texts := range map[string][2]string{"target": {target, got.Target}, "body": {body, string(got.Body)}} {
				for part := range strings.SplitSeq(texts[0], spelled) {
					if !strings.Contains(texts[1], part) {
						t.Errorf("%s: got %q, want %q in it as it was", what, texts[1], part)
					}
				}
			}
			path, query, _ := strings.Cut(got.Target, "?")
			plain, err := url.PathUnescape(path)
			if err != nil || plain != "/a/b/"+awkward+"/c/d" {
				t.Errorf("path: got %q (%v), want the value in it", plain, err)
			}
			for what, text := range map[string]string{"query": query, "form": string(got.Body)} {
				values, err := url.ParseQuery(text)
				if err != nil || values["k"][0] != awkward || len(values["z"]) != 2 {
					t.Errorf("%s: got %q (%v), want the value in it", what, text, err)
				}
			}
		})
	}
}

// TestJSONEncodedTokens: the document that the server decodes is the one that the
// client meant, with the value in it.
func TestJSONEncodedTokens(t *testing.T) {
	b := newBench(t, nil)
	token := b.allSorts(awkward)
	for name, spelled := range map[string]string{
		"plain":               token,
		"slashes":             strings.ReplaceAll(token, "/", `\/`),
		"upper-case escapes":  strings.NewReplacer("+", `\u002B`, "=", `\u003D`, "/", `\u002F`).Replace(token),
		"lower-case escapes":  strings.NewReplacer("+", `\u002b`, "=", `\u003d`, "/", `\u002f`).Replace(token),
		"more than has to be": "starpod" + everyByte(`\u%04x`, token[7:]),
	} {
		t.Run(name, func(t *testing.T) {
			sent := `{"a":"<` + spelled + `>","n":[1.50,"\u00e9\/"],"` + spelled + `":null}`
			b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", sent, "Content-Type", "application/json"))
			got := string(b.up.Last(t).Body)
			var document map[string]any
			if err := json.Unmarshal([]byte(got), &document); err != nil {
				t.Fatalf("got %q: %v", got, err)
			}
			if _, isKey := document[awkward]; document["a"] != "<"+awkward+">" || !isKey || !strings.Contains(got, `[1.50,"\u00e9\/"]`) {
				t.Errorf("got %q, want the value twice and the rest as it was", got)
			}
		})
	}
}

// TestWhatStandsAround a token stays, in every place.
func TestWhatStandsAround(t *testing.T) {
	b := newBench(t, nil)
	token, other := b.allSorts(canary), b.token("evil.starpod.test")
	foreign := testbench.Seal(t, bytes.Repeat([]byte{9}, 32), canary)
	for _, test := range []struct{ name, sent, want string }{
		{"a path behind it", token + "/x", canary + "/x"},
		{"a method of Telegram", "/bot" + token + "/sendMessage", "/bot" + canary + "/sendMessage"},
		{"an equals sign behind it", token + "=", canary + "="},
		{"letters behind it", token + "abc", canary + "abc"},
		{"another token behind it", token + token, canary + canary},
		{"base64 in front", "QUJD" + token, "QUJD" + canary},
		{"its own prefix in front", "starpod:v1:" + token, "starpod:v1:" + canary},
		{"one good, one of another host, one of another key", token + "," + other + "," + foreign, canary + ",," + foreign},
		{"the same in another order", foreign + "|" + token + "|" + other, foreign + "|" + canary + "|"},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s h2=%v", test.name, h2), func(t *testing.T) {
				r := b.request("POST", b.up.URL("api.starpod.test"), test.sent, "X-Key", test.sent, "Cookie", "a=b; c="+test.sent)
				r.URL.Opaque, r.URL.RawQuery = "/x/"+test.sent, "b=1&a="+test.sent+"&b=2"
				b.do(b.client(h2), r)
				got := b.up.Last(t)
				for what, pair := range map[string][2]string{
					"target": {got.Target, "/x/" + test.want + "?b=1&a=" + test.want + "&b=2"},
					"header": {got.Header.Get("X-Key"), test.want},
					"cookie": {got.Header.Get("Cookie"), "a=b; c=" + test.want},
					"body":   {string(got.Body), test.want},
				} {
					if pair[0] != pair[1] {
						t.Errorf("%s: got %q, want %q", what, pair[0], pair[1])
					}
				}
			})
		}
	}
}

// TestDamagedTokens stay as they are: altered in any byte, cut at any length.
func TestDamagedTokens(t *testing.T) {
	b := newBench(t, nil)
	token := b.token("api.starpod.test")
	var all strings.Builder
	for i := range len(token) {
		altered := []byte(token)
		if altered[i] ^= 1; altered[i] < ' ' {
			altered[i] ^= 3
		}
		fmt.Fprintf(&all, "%s\n%s\n", altered, token[:i])
	}
	for _, sized := range []bool{true, false} {
		r := b.request("POST", b.up.URL("api.starpod.test")+"/", all.String())
		if !sized {
			r.ContentLength = -1
		}
		b.do(b.client(false), r)
		if got := string(b.up.Last(t).Body); got != all.String() {
			t.Errorf("sized %v: got %d bytes that differ from the %d sent", sized, len(got), all.Len())
		}
	}
}

// TestLargeMultipart is a form of some MB with the token in its last field.
func TestLargeMultipart(t *testing.T) {
	b := newBench(t, nil)
	token := b.token("api.starpod.test")
	fields := make(chan map[string]int, 1) // sizes, and the last field by its text
	last := make(chan string, 1)
	b.up.HandleStream("/", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		sizes := map[string]int{}
		reader, err := r.MultipartReader()
		for err == nil {
			var part *multipart.Part
			if part, err = reader.NextPart(); err != nil {
				break
			}
			var text []byte
			if text, err = io.ReadAll(part); part.FormName() == "last" {
				last <- string(text)
			}
			sizes[part.FormName()+part.FileName()] = len(text)
		}
		if err != io.EOF {
			sizes["broken: "+err.Error()] = 0
		}
		fields <- sizes
	}))
	const large = 6 << 20
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	_ = w.WriteField("first", "1")
	file, _ := w.CreateFormFile("up", "load.bin")
	_, _ = io.CopyN(file, testbench.Alphabet(), large)
	_ = w.WriteField("last", "<"+token+">")
	_ = w.Close()
	for _, h2 := range []bool{false, true} {
		for _, sized := range []bool{true, false} {
			t.Run(fmt.Sprintf("sized %v h2=%v", sized, h2), func(t *testing.T) {
				r := b.request("POST", b.up.URL("api.starpod.test")+"/", body.String(), "Content-Type", w.FormDataContentType())
				if !sized {
					r.ContentLength = -1
				}
				b.do(b.client(h2), r)
				want := map[string]int{"first": 1, "upload.bin": large, "last": len(canary) + 2}
				if got := <-fields; fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("got fields of %v bytes, want %v", got, want)
				}
				if got := <-last; got != "<"+canary+">" {
					t.Errorf("last field: got %q, want the value", got)
				}
			})
		}
	}
}

// TestClientDiesOverHTTP2 in mid-body: the upstream never takes it for whole.
func TestClientDiesOverHTTP2(t *testing.T) {
	for name, length := range map[string]int64{"buffered": 100, "spooled": 100_000, "streamed": -1} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
			reader, writer := io.Pipe()
			ctx, cancel := context.WithCancel(t.Context())
			r := b.request("POST", b.up.URL("api.starpod.test")+"/", "").WithContext(ctx)
			r.Body, r.ContentLength = reader, length
			ended := make(chan error, 1)
			go func() {
				_, err := b.client(true).Do(r)
				ended <- err
			}()
			_, _ = io.WriteString(writer, strings.Repeat("x", 50))
			if name == "streamed" {
				testbench.Await(t, longest, func() error {
					if b.up.Received() < 50 {
						return fmt.Errorf("the beginning has not reached the upstream yet")
					}
					return nil
				})
			}
			cancel()
			if err := <-ended; err == nil {
				t.Error("got an answer, want none")
			}
			testbench.Await(t, longest, func() error {
				if b.proxy.Stats.Requests.Load() == 0 && b.proxy.Stats.Intercepted.Load() > 0 {
					return fmt.Errorf("the proxy has not ended the request")
				}
				return nil
			})
			if name == "streamed" {
				testbench.Await(t, longest, func() error {
					if len(b.up.Requests()) == 0 {
						return fmt.Errorf("the upstream is still reading")
					}
					return nil
				})
			}
			b.noCompleteRequest()
		})
	}
}
