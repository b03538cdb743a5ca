package handler

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// smallBuffer is body_buffer in these tests.
const smallBuffer = 4 << 10

// TestBodySizes puts a token at the end of bodies around the buffer's size.
func TestBodySizes(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	token := b.token("api.starpod.test")
	for _, h2 := range []bool{false, true} {
		client := b.client(h2)
		for _, size := range []int{len(token), smallBuffer - 1, smallBuffer, smallBuffer + 1, 10 * smallBuffer, 1 << 20, 3 << 20} {
			for _, host := range []string{"api.starpod.test", "evil.starpod.test"} {
				t.Run(fmt.Sprintf("%d bytes to %s h2=%v", size, host, h2), func(t *testing.T) {
					text := strings.Repeat("x", size-len(token))
					b.do(client, b.request("POST", b.up.URL(host)+"/", text+token))
					want := text
					if host == "api.starpod.test" {
						want += canary
					}
					got := b.up.Last(t)
					if got.ContentLength != int64(len(want)) || string(got.Body) != want {
						t.Errorf("got %d bytes said and %d sent, want %d", got.ContentLength, len(got.Body), len(want))
					}
				})
			}
		}
	}
}

// TestManyTokensInABody: few are remembered from the first look through a spooled
// body, many are looked for again.
func TestManyTokensInABody(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	client := b.client(false)
	token, other := b.token("api.starpod.test"), b.token("evil.starpod.test")
	boundary := "--b\r\nContent-Type: application/json\r\n\r\n"
	for _, tt := range []struct{ name, contentType, piece, want string }{
		{"text", "text/plain", "x " + token + other + " starpo", "x " + canary + " starpo"},
		{"form", "application/x-www-form-urlencoded", "k=" + url.QueryEscape(token) + "&", "k=" + canary + "&"},
		{"parts", "multipart/form-data; boundary=b", boundary + `["` + token + `"]` + "\r\n", boundary + `["` + canary + `"]` + "\r\n"},
	} {
		for _, count := range []int{100, 2 * maxEdits / len(canary)} {
			t.Run(fmt.Sprintf("%s with %d", tt.name, count), func(t *testing.T) {
				b.do(client, b.request("POST", b.up.URL("api.starpod.test")+"/", strings.Repeat(tt.piece, count), "Content-Type", tt.contentType))
				want := strings.Repeat(tt.want, count)
				if got := b.up.Last(t); string(got.Body) != want || got.ContentLength != int64(len(want)) {
					t.Errorf("got %d bytes said and %d sent, want %d of them", got.ContentLength, len(got.Body), len(want))
				}
			})
		}
	}
}

// TestUntouchedBodies of each size go on with what they had.
func TestUntouchedBodies(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	client := b.client(false)
	for _, size := range []int{1, smallBuffer, smallBuffer + 1, 2 << 20} {
		text := strings.Repeat("starpod:v1:", size/11+1)[:size]
		b.do(client, b.request("POST", b.up.URL("api.starpod.test")+"/", text))
		if got := b.up.Last(t); string(got.Body) != text || got.ContentLength != int64(size) {
			t.Errorf("%d bytes: got %d said, %d sent", size, got.ContentLength, len(got.Body))
		}
	}
}

func TestMaxSpool(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer, p.Swap.MaxSpool = 100, 1000 })
	client := b.client(false)
	response, body := b.do(client, b.request("POST", b.up.URL("api.starpod.test")+"/", strings.Repeat("x", 1001)))
	if response.StatusCode != 413 || !strings.Contains(body, `"rule":"max_spool"`) || !strings.Contains(body, "max_spool") {
		t.Errorf("got %d %s, want 413 by the rule max_spool", response.StatusCode, body)
	}
	b.nothingReached()
	if response, _ := b.do(client, b.request("POST", b.up.URL("api.starpod.test")+"/", strings.Repeat("x", 1000))); response.StatusCode != 200 {
		t.Errorf("at the limit: got %d, want 200", response.StatusCode)
	}
}

// TestStreamedSplits sends a token in two chunks, split at every offset, and
// the second only after the proxy has had the first.
func TestStreamedSplits(t *testing.T) {
	b := newBench(t, nil)
	token := testbench.Seal(t, b.key, "v", "api.starpod.test")
	conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
	r := bufio.NewReader(conn)
	for split := 0; split <= len(token); split++ {
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n", b.apiAuthority())
		first, second := "<"+token[:split], token[split:]+">"
		fmt.Fprintf(conn, "%x\r\n%s\r\n", len(first), first)
		fmt.Fprintf(conn, "%x\r\n%s\r\n0\r\n\r\n", len(second), second)
		if response, err := http.ReadResponse(r, nil); err != nil || response.StatusCode != 200 {
			t.Fatalf("split at %d: got %v (%v)", split, response, err)
		} else if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Fatal(err)
		}
		if got := b.up.Last(t); string(got.Body) != "<v>" || got.ContentLength != -1 {
			t.Errorf("split at %d: got %q, want <v> in chunks", split, got.Body)
		}
	}
}

// TestStreamIsNotHeldBack: the upstream reads the first piece of a chunked body
// before the client has sent the second.
func TestStreamIsNotHeldBack(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			b := newBench(t, nil)
			pieces := make(chan string)
			b.up.HandleStream("/", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				for range 2 {
					piece := make([]byte, 5)
					_, _ = io.ReadFull(r.Body, piece)
					pieces <- string(piece)
				}
			}))
			reader, writer := io.Pipe()
			client, r := b.client(h2), b.request("POST", b.up.URL("api.starpod.test")+"/", "")
			r.Body, r.ContentLength = reader, -1
			finished := make(chan error, 1)
			go func() {
				response, err := client.Do(r)
				if err == nil {
					response.Body.Close()
				}
				finished <- err
			}()
			for _, piece := range []string{"apple", "melon"} {
				_, _ = io.WriteString(writer, piece)
				if got := <-pieces; got != piece {
					t.Errorf("got %q, want %q", got, piece)
				}
			}
			writer.Close()
			if err := <-finished; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestClientDies in mid-body: the upstream never takes what it got for whole.
func TestClientDies(t *testing.T) {
	for _, test := range []struct{ name, head, part string }{
		{"buffered", "Content-Length: 100", "abc"},
		{"spooled", "Content-Length: 1000000", strings.Repeat("x", 10*smallBuffer)},
		{"streamed", "Transfer-Encoding: chunked", "3\r\nabc\r\n"},
		{"streamed, in a chunk", "Transfer-Encoding: chunked", "ff\r\nabc"},
		{"streamed, in a token", "Transfer-Encoding: chunked", "e\r\nabcstarpod:v1:\r\n"},
		{"streamed, before the trailers", "Trailer: X\r\nTransfer-Encoding: chunked", "3\r\nabc\r\n0\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
			conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n%s", b.apiAuthority(), test.head, test.part)
			if strings.HasPrefix(test.name, "streamed") {
				testbench.Await(t, longest, func() error {
					if b.up.Received() == 0 {
						return fmt.Errorf("nothing has reached the upstream yet")
					}
					return nil
				})
			}
			conn.Close()
			testbench.Await(t, longest, func() error {
				if b.proxy.Stats.Requests.Load() == 0 {
					return fmt.Errorf("the proxy has not ended the request")
				}
				return nil
			})
			b.upstreamIdle()
			b.noCompleteRequest()
		})
	}
}

// upstreamIdle waits until every connection with bytes has given a record.
func (b *bench) upstreamIdle() {
	b.t.Helper()
	testbench.Await(b.t, longest, func() error {
		if b.up.Received() > 0 && len(b.up.Requests()) == 0 {
			return fmt.Errorf("the upstream is still reading")
		}
		return nil
	})
}

// TestBodiesThatAreNotScanned pass byte for byte, and the audit log says so.
func TestBodiesThatAreNotScanned(t *testing.T) {
	b := newBench(t, nil)
	token := b.token("api.starpod.test")
	for _, test := range []struct{ name, value, why string }{
		{"Content-Encoding", "gzip", "content coding that does not decode"},
		{"Content-Encoding", "br", "content coding that does not decode"},
		{"Content-Encoding", "deflate", "content coding that does not decode"},
		{"Content-Encoding", "identity, zstd", "content coding that does not decode"},
		{"Content-Encoding", "unheard-of", "unknown content coding"},
		{"Content-Encoding", "gzip, unheard-of", "unknown content coding"},
		{"Content-Encoding", "gzip, gzip, gzip, gzip", "too many content codings"},
		{"Content-Type", "application/grpc", "length-prefixed messages"},
		{"Content-Type", "Application/gRPC+proto; a=b", "length-prefixed messages"},
		{"Content-Type", "application/grpc-web+proto", "length-prefixed messages"},
		{"Content-Type", "application/protobuf", "length-prefixed messages"},
		{"Content-Type", "application/x-protobuf", "length-prefixed messages"},
		{"Content-Type", "application/connect+json", "length-prefixed messages"},
		{"Content-Type", "application/proto", "length-prefixed messages"},
	} {
		t.Run(test.name+" "+test.value, func(t *testing.T) {
			b.logs.TakeAll()
			body := "\x00\x00\x00\x00\x05" + token
			b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", body, test.name, test.value, "X-Key", token))
			got := b.up.Last(t)
			if string(got.Body) != body || got.Header.Get("X-Key") != canary {
				t.Errorf("got body %q and header %q, want the body untouched and the header swapped", got.Body, got.Header.Get("X-Key"))
			}
			testbench.Await(t, longest, func() error {
				for _, entry := range b.logs.All() {
					if entry.LoggerName == "audit" && entry.ContextMap()["not_scanned"] == test.why {
						return nil
					}
				}
				return fmt.Errorf("no audit line says %q", test.why)
			})
		})
	}
	b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", token, "Content-Encoding", "identity"))
	if got := b.up.Last(t); string(got.Body) != canary {
		t.Errorf("identity: got %q, want the value", got.Body)
	}
}

// TestRetry: a pooled connection that the upstream has closed is no reason to
// fail a request whose body can be sent again.
func TestRetry(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	var connections atomic.Int32
	var mu sync.Mutex
	bodies := map[int32]string{}
	port := b.rawUpstream(true, func(conn net.Conn) {
		n := connections.Add(1)
		r := bufio.NewReader(conn)
		for i := range 2 {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(request.Body)
			if n == 1 && i == 1 {
				return // the second request of the first connection is met by the end
			}
			mu.Lock()
			bodies[n] = string(body)
			mu.Unlock()
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	client := b.client(false)
	target := fmt.Sprintf("https://api.starpod.test:%d/", port)
	for i, body := range []string{"", b.token("api.starpod.test"), strings.Repeat("x", 2*smallBuffer) + b.token("api.starpod.test")} {
		connections.Store(0)
		b.do(client, b.request("GET", target, ""))
		response, text := b.do(client, b.request("PUT", target, body, "Idempotency-Key", "x"))
		mu.Lock()
		if response.StatusCode != 200 || i > 0 && !strings.HasSuffix(bodies[2], canary) {
			t.Errorf("body of %d bytes: got status %d %s and body %.60q, want 200 and the value again", len(body), response.StatusCode, text, bodies[2])
		}
		mu.Unlock()
		b.proxy.upstream.closeIdle()
	}
}

// TestBasicForms are the ways in which clients write Basic credentials.
func TestBasicForms(t *testing.T) {
	b := newBench(t, nil)
	token := b.token("api.starpod.test")
	for _, plain := range []string{"u:" + token, token + ":", token + ":x-oauth-basic", "us:" + token, "use:" + token} {
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
			for _, scheme := range []string{"Basic ", "basic ", "BASIC  "} {
				b.send("GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: " + scheme + encoding.EncodeToString([]byte(plain)) + "\r\n\r\n")
				got := b.up.Last(t).Header.Get("Authorization")
				blob := strings.TrimRight(strings.TrimPrefix(got, scheme), "=")
				decoded, err := base64.RawStdEncoding.DecodeString(blob)
				if want := strings.ReplaceAll(plain, token, canary); err != nil || string(decoded) != want || !strings.HasPrefix(got, scheme) {
					t.Errorf("%s%.8s…: got %q, want credentials %q", scheme, plain, got, want)
				}
			}
		}
	}
}
