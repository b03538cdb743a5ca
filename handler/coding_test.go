package handler

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"github.com/starpod/caddy-starpod/internal/testbench"
)

// clientCodings are codings as clients apply them, by what Content-Encoding
// says of them, with what undoes them at the server.
var clientCodings = []struct {
	name, label string
	encode      func(io.Writer) io.WriteCloser
	decode      func(io.Reader) (io.Reader, error)
	checked     bool // has a checksum
}{
	{"gzip", "gzip", func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, gunzip, true},
	{"gzip in capitals", "GZip", func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, gunzip, true},
	{"x-gzip", "x-gzip", func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, gunzip, true},
	{"zlib", "deflate", func(w io.Writer) io.WriteCloser { z, _ := zlib.NewWriterLevel(w, zlib.BestSpeed); return z }, func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }, true},
	{"raw deflate", "deflate", func(w io.Writer) io.WriteCloser { f, _ := flate.NewWriter(w, flate.BestSpeed); return f },
		func(r io.Reader) (io.Reader, error) { return flate.NewReader(r), nil }, false},
	{"br", "br", func(w io.Writer) io.WriteCloser { return brotli.NewWriterLevel(w, brotli.BestSpeed) }, func(r io.Reader) (io.Reader, error) { return brotli.NewReader(r), nil }, false},
	{"zstd", "zstd", func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z }, func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) }, true},
	{"br over gzip", "identity, gzip , br",
		func(w io.Writer) io.WriteCloser {
			outer := brotli.NewWriterLevel(w, brotli.BestSpeed)
			return bothClosed{gzip.NewWriter(outer), outer}
		},
		func(r io.Reader) (io.Reader, error) { return gunzip(brotli.NewReader(r)) }, true},
}

func gunzip(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }

type bothClosed struct {
	io.WriteCloser
	outer io.Closer
}

func (b bothClosed) Close() error {
	_ = b.WriteCloser.Close()
	return b.outer.Close()
}

func encoded(encode func(io.Writer) io.WriteCloser, text string) string {
	var b bytes.Buffer
	w := encode(&b)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return b.String()
}

// incompressible is text that no coding makes much shorter.
func incompressible(n int) string {
	random := rand.New(rand.NewPCG(1, 2))
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[random.IntN(len(letters))]
	}
	return string(b)
}

// TestCodedBodies: the server gets what the client meant with the value in it,
// in the client's coding and framing; without a token it gets the same bytes.
func TestCodedBodies(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	token := b.token("api.starpod.test")
	for _, coding := range clientCodings {
		for _, size := range []int{0, 100, 10 * smallBuffer} {
			for _, framing := range []string{"sized", "chunked", "h2 sized", "h2"} {
				t.Run(fmt.Sprintf("%s/%d/%s", coding.name, size, framing), func(t *testing.T) {
					sized := strings.HasSuffix(framing, "sized")
					text := incompressible(size)
					for _, test := range []struct{ sent, want string }{
						{text, ""},
						{text + token, text + canary},
						{`{"a":"` + token + `","b":"` + text + `"}`, `{"a":"` + canary + `","b":"` + text + `"}`},
					} {
						sent := encoded(coding.encode, test.sent)
						r := b.request("POST", b.up.URL("api.starpod.test")+"/", sent, "Content-Encoding", coding.label)
						if !sized {
							r.ContentLength = -1
							r.Body = io.NopCloser(strings.NewReader(sent))
						}
						b.do(b.client(strings.HasPrefix(framing, "h2")), r)
						got := b.up.Last(t)
						if test.want == "" {
							if string(got.Body) != sent {
								t.Errorf("without a token: got %d other bytes, want the %d sent", len(got.Body), len(sent))
							}
							continue
						}
						plain, err := coding.decode(bytes.NewReader(got.Body))
						var content []byte
						if err == nil {
							content, err = io.ReadAll(plain)
						}
						if err != nil || string(content) != test.want {
							t.Errorf("got %.60q… of %d bytes (%v), want %.60q… of %d", content, len(content), err, test.want, len(test.want))
						}
						if wantLength := map[bool]int64{true: int64(len(got.Body)), false: -1}[sized]; got.ContentLength != wantLength {
							t.Errorf("Content-Length: got %d, want %d", got.ContentLength, wantLength)
						}
						if got.Header.Get("Content-Encoding") != coding.label {
							t.Errorf("Content-Encoding: got %q, want %q", got.Header.Get("Content-Encoding"), coding.label)
						}
					}
				})
			}
		}
	}
}

// TestCodedForms: the form is that of the text under the coding.
func TestCodedForms(t *testing.T) {
	b := newBench(t, nil)
	const value = "quote\" and \\ and & and newline\n"
	token := testbench.Seal(t, b.key, value, "api.starpod.test")
	sent := encoded(clientCodings[0].encode, `{"key":"`+token+`"}`)
	b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", sent, "Content-Encoding", "gzip", "Content-Type", "application/json"))
	plain, err := gunzip(bytes.NewReader(b.up.Last(t).Body))
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(plain)
	if want := `{"key":"quote\" and \\ and & and newline\n"}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestBodiesThatDoNotDecode pass as they came, tokens and all, and nothing
// counts as replaced.
func TestBodiesThatDoNotDecode(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	text := b.token("api.starpod.test") + incompressible(4*smallBuffer)
	for _, coding := range clientCodings {
		whole := encoded(coding.encode, text)
		for _, test := range []struct{ name, sent string }{
			{"not in it at all", text},
			{"cut off", whole[:len(whole)-3]},
			{"cut off early", whole[:len(whole)/2]},
			{"bytes behind it", whole + "trailing bytes"},
			{"bytes altered", whole[:len(whole)/2] + "\x00\xff\x00\xff" + whole[len(whole)/2+4:]},
			{"one byte", "\x1f"},
		} {
			if test.name == "bytes altered" && !coding.checked {
				continue // it decodes, to other text
			}
			t.Run(coding.name+"/"+test.name, func(t *testing.T) {
				b.logs.TakeAll()
				b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", test.sent, "Content-Encoding", coding.label))
				if got := string(b.up.Last(t).Body); got != test.sent {
					t.Errorf("got %d other bytes, want the %d that were sent", len(got), len(test.sent))
				}
				testbench.Await(t, longest, func() error {
					for _, entry := range b.logs.All() {
						if fields := entry.ContextMap(); fields["not_scanned"] == "content coding that does not decode" {
							if listed := fields["tokens"].([]any); len(listed) > 0 {
								return fmt.Errorf("the audit line lists %v, want no tokens", listed)
							}
							return nil
						}
					}
					return fmt.Errorf("no audit line says that the body was not scanned")
				})
			})
		}
	}
}

// TestDecompressionBombs are refused, and nothing is sent.
func TestDecompressionBombs(t *testing.T) {
	b := newBench(t, nil)
	zeros := func(encode func(io.Writer) io.WriteCloser, n int64) string {
		var out bytes.Buffer
		w := encode(&out)
		_, _ = io.CopyN(w, zeroReader{}, n)
		_ = w.Close()
		return out.String()
	}
	for _, coding := range clientCodings {
		if strings.Contains(coding.name, "gzip ") || coding.name == "x-gzip" {
			continue // the same as gzip
		}
		t.Run(coding.name, func(t *testing.T) {
			bomb := zeros(coding.encode, freeDecoded+1)
			for _, sized := range []bool{true, false} {
				r := b.request("POST", b.up.URL("api.starpod.test")+"/", bomb, "Content-Encoding", coding.label)
				if !sized {
					r.ContentLength = -1
				}
				response, text := b.do(b.client(false), r)
				if response.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(text, RuleDecoded) {
					t.Errorf("a bomb of %d bytes: got %d %s, want 413 %s", len(bomb), response.StatusCode, text, RuleDecoded)
				}
			}
		})
	}
	t.Run("just under it", func(t *testing.T) {
		harmless := zeros(clientCodings[0].encode, freeDecoded)
		r := b.request("POST", b.up.URL("api.starpod.test")+"/fine", harmless, "Content-Encoding", "gzip")
		if response, text := b.do(b.client(false), r); response.StatusCode != 200 {
			t.Errorf("%d bytes that decode to 16 MiB: got %d %s, want 200", len(harmless), response.StatusCode, text)
		}
	})
	t.Run("over max_decoded", func(t *testing.T) {
		b.proxy.Swap.MaxDecoded = 1 << 20
		big := encoded(clientCodings[0].encode, incompressible(1<<20+1))
		response, text := b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", big, "Content-Encoding", "gzip"))
		if response.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(text, "raise `max_decoded`") {
			t.Errorf("got %d %s, want 413 and the option that mends it", response.StatusCode, text)
		}
	})
	for _, got := range b.up.Requests() {
		if got.Target != "/fine" {
			t.Errorf("the upstream got %s with %d bytes, want nothing of a bomb", got.Target, got.BodySize)
		}
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
