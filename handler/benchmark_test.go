package handler

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/starpod/caddy-starpod/internal/testbench"
	"go.uber.org/zap"
)

// BenchmarkRequest makes requests in one tunnel, client and host included.
func BenchmarkRequest(b *testing.B) {
	pki := testbench.NewPKI(b)
	host := startQuietHost(b, pki)
	proxy := newBench(b, func(p *Proxy) {
		p.Egress = EgressOptions{Roots: pki.Pool()}
		p.Log, p.Audit = zap.NewNop(), zap.NewNop() // which would be kept
	})
	authority := "api.starpod.test:" + host
	large := strings.Repeat("The quick brown fox jumps over the lazy dog; start, stop, spot.\n", 1<<14)
	key := "X-Key: " + proxy.token("api.starpod.test") + "\r\n"
	head := func(method, lines string) string {
		return method + " / HTTP/1.1\r\nHost: " + authority + "\r\nUser-Agent: benchmark\r\nAccept: */*\r\n" + lines + "\r\n"
	}
	for _, row := range []struct{ name, request, answer string }{
		{"plain", head("GET", ""), "0 "},
		{"token", head("GET", key), "0 " + canary},
		{"upload", head("POST", key+fmt.Sprintf("Content-Length: %d\r\n", len(large))) + large, fmt.Sprint(len(large), " ", canary)},
		{"chunked", head("POST", key+"Transfer-Encoding: chunked\r\n") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(large), large), fmt.Sprint(len(large), " ", canary)},
	} {
		b.Run(row.name, func(b *testing.B) {
			conn := proxy.tunnel(authority, "api.starpod.test", "http/1.1")
			defer conn.Close()
			_ = conn.SetDeadline(time.Time{})
			reader, masked := bufio.NewReader(conn), strings.ReplaceAll(row.answer, canary, strings.Repeat("*", len(canary)))
			b.SetBytes(int64(len(row.request)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := io.WriteString(conn, row.request); err != nil {
					b.Fatal(err)
				}
				response, err := http.ReadResponse(reader, nil)
				if err != nil {
					b.Fatal(err)
				}
				if body, err := io.ReadAll(response.Body); err != nil || string(body) != masked {
					b.Fatalf("got %d %q (%v), want %q", response.StatusCode, body, err, masked)
				}
			}
		})
	}
}

// startQuietHost starts a host that keeps nothing, and answers with the length of
// the body and the key that it saw. It returns its port.
func startQuietHost(tb testing.TB, pki *testbench.PKI) string {
	tb.Helper()
	host := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, "%d %s", n, r.Header.Get("X-Key"))
	}))
	host.Config.ErrorLog = log.New(io.Discard, "", 0)
	host.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Leaf(tb)}}
	host.StartTLS()
	tb.Cleanup(host.Close)
	return host.Listener.Addr().String()[strings.LastIndexByte(host.Listener.Addr().String(), ':')+1:]
}

// maskedValues are what a request with three tokens brings: one needle each, and
// the spellings of the second.
var maskedValues = []string{"ghp_0123456789abcdefghijklmnopqrstuvwxyz", `p/ss "w"+rd <&>`, "sk-live-0123456789abcdef"}

// BenchmarkMask looks for values in an answer that shows none, which copying the
// same bytes is there to be compared with.
func BenchmarkMask(b *testing.B) {
	text := []byte(strings.Repeat("The quick brown fox jumps over the lazy dog; start, stop, spot.\n", 1<<14))
	b.Run("copy", func(b *testing.B) {
		into := make([]byte, len(text))
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			copy(into, text)
		}
	})
	for count := range len(maskedValues) {
		b.Run(strconv.Itoa(count+1), func(b *testing.B) {
			m := maskOf(maskedValues[:count+1]...)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				m.apply(text)
			}
		})
	}
}

// Nothing is allocated where nothing is found.
func TestNothingAllocated(t *testing.T) {
	text := bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog; start, stop, spot.\n"), 1<<10)
	m := maskOf(maskedValues...)
	messages := &messageScanner{f: messageForwarding(t)}
	out := make([]byte, 0, 2*len(text))
	for name, f := range map[string]func(){
		"mask of an answer": func() { m.apply(text); m.pending(text) },
		"WebSocket message": func() {
			var err error
			if out, err = messages.data(out[:0], text, ws.OpText, true); err != nil {
				t.Fatal(err)
			}
		},
	} {
		if got := testing.AllocsPerRun(50, f); got >= 1 {
			t.Errorf("%s: got %v allocations, want none", name, got)
		}
	}
}
