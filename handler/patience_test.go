package handler

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
	"google.golang.org/grpc/test/bufconn"
)

// stillListener listens in memory.
type stillListener struct{ *bufconn.Listener }

// Accept implements net.Listener.
func (l stillListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return stillConn{conn}, err
}

// stillConn has a timeout that crypto/tls gets over, as it does with one of TCP.
type stillConn struct{ net.Conn }

func (c stillConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// stillBench is a client, the proxy and an upstream whose connections are in
// memory, so that all of it can live in a bubble in which time passes at once.
type stillBench struct {
	t     *testing.T
	roots *x509.CertPool
	front *bufconn.Listener
	token string
}

// inBubble runs a test on a still bench. readTimeout is the one of the server
// that the clients connect to.
func inBubble(t *testing.T, readTimeout time.Duration, upstream http.HandlerFunc, run func(*stillBench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &stillBench{t: t, roots: x509.NewCertPool(), front: bufconn.Listen(32 << 10)}
		key := bytes.Repeat([]byte{7}, 32)
		b.token = testbench.Seal(t, key, canary, "api.starpod.test")
		far, pki := bufconn.Listen(32<<10), testbench.NewPKI(t)
		proxy := b.stillProxy(key, pki, far)
		var handler http.Handler
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := proxy.Serve(w, r, handler, nil); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
			}
		})
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true)
		quiet := log.New(io.Discard, "", 0)
		front := &http.Server{Handler: handler, ReadTimeout: readTimeout, ErrorLog: quiet}
		up := &http.Server{
			Handler: upstream, ErrorLog: quiet, Protocols: protocols,
			TLSConfig: &tls.Config{Certificates: []tls.Certificate{pki.Leaf(t)}},
		}
		go func() { _ = front.Serve(stillListener{b.front}) }()
		go func() { _ = up.ServeTLS(stillListener{far}, "", "") }()
		run(b)
		_ = front.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := proxy.Close(ctx); err != nil {
			t.Errorf("closing the proxy: %v", err)
		}
		_ = up.Close()
	})
}

func (b *stillBench) stillProxy(key []byte, pki *testbench.PKI, far *bufconn.Listener) *Proxy {
	b.t.Helper()
	root, err := ca.Generate(time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	authority, err := ca.New(root, ca.Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.roots.AddCert(root.Roots()[0])
	one, err := tokens.NewKey(key)
	if err != nil {
		b.t.Fatal(err)
	}
	keys := tokens.NewKeyring(one)
	proxy := &Proxy{
		Keys:      func() (*tokens.Keyring, error) { return keys, nil },
		Authority: func(context.Context) (*ca.Authority, error) { return authority, nil },
		Egress:    EgressOptions{Roots: pki.Pool()},
		Swap:      SwapPolicy{BodyBuffer: 8},
	}
	proxy.Init()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := far.DialContext(ctx)
		return stillConn{conn}, err
	}
	proxy.upstream.h1.DialContext, proxy.upstream.h2.DialContext = dial, dial
	return proxy
}

// connect asks for a tunnel to the upstream.
func (b *stillBench) connect() (net.Conn, error) {
	conn, err := b.front.DialContext(b.t.Context())
	if err != nil {
		return nil, err
	}
	conn = stillConn{conn}
	_, _ = io.WriteString(conn, "CONNECT api.starpod.test:443 HTTP/1.1\r\nHost: api.starpod.test:443\r\n\r\n")
	if head, err := readHead(bufio.NewReaderSize(oneByte{conn}, 16)); err != nil || !strings.Contains(head, " 200 ") {
		return nil, fmt.Errorf("CONNECT: got %q (%v), want 200", head, err)
	}
	return conn, nil
}

// tunnel makes the TLS handshake in a tunnel to the upstream.
func (b *stillBench) tunnel(protocol string) *tls.Conn {
	b.t.Helper()
	conn, err := b.connect()
	if err != nil {
		b.t.Fatal(err)
	}
	secure := tls.Client(conn, &tls.Config{ServerName: "api.starpod.test", RootCAs: b.roots, NextProtos: []string{protocol}})
	if err := secure.Handshake(); err != nil {
		b.t.Fatal(err)
	}
	return secure
}

// client is one that has a tunnel and speaks HTTP/2 in it if h2.
func (b *stillBench) client(h2 bool) *http.Client {
	protocol := "http/1.1"
	if h2 {
		protocol = "h2"
	}
	client := inTunnel(b.t, b.tunnel(protocol), h2)
	client.Timeout = 0
	return client
}

// post sends a request with a token in its header, and body as its body, which
// has no length if that is negative.
func (b *stillBench) post(client *http.Client, body io.Reader, length int64) (*http.Response, error) {
	r, err := http.NewRequest(http.MethodPost, "https://api.starpod.test/", body)
	if err != nil {
		b.t.Fatal(err)
	}
	r.ContentLength = length
	r.Header.Set("X-Key", b.token)
	return client.Do(r)
}

// slowReader yields one byte after every pause.
type slowReader struct {
	text  string
	pause time.Duration
}

func (r *slowReader) Read(p []byte) (int, error) {
	if r.text == "" {
		return 0, io.EOF
	}
	time.Sleep(r.pause)
	n := copy(p[:1], r.text)
	r.text = r.text[n:]
	return n, nil
}

// TestLateHeader: an answer whose header comes after five minutes.
func TestLateHeader(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			inBubble(t, 0, func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(5 * time.Minute)
				fmt.Fprintf(w, "at last, %v", r.Header.Get("X-Key") == canary)
			}, func(b *stillBench) {
				started, client := time.Now(), b.client(h2)
				response, err := b.post(client, nil, 0)
				if err != nil {
					b.t.Fatal(err)
				}
				body, err := io.ReadAll(response.Body)
				if err != nil || string(body) != "at last, true" || time.Since(started) < 5*time.Minute {
					b.t.Errorf("got status %d %q (%v) after %v, want the answer after 5 minutes", response.StatusCode, body, err, time.Since(started))
				}
				client.CloseIdleConnections()
			})
		})
	}
}

// TestSlowUpload: a body that comes a byte every 30 seconds for ten minutes.
func TestSlowUpload(t *testing.T) {
	const text = "twenty bytes, slowly"
	for _, h2 := range []bool{false, true} {
		for framing, length := range map[string]int64{"sized and spooled": int64(len(text)), "streamed": -1} {
			t.Run(fmt.Sprintf("%s h2=%v", framing, h2), func(t *testing.T) {
				inBubble(t, 0, func(w http.ResponseWriter, r *http.Request) {
					body, err := io.ReadAll(r.Body)
					fmt.Fprintf(w, "%s %v", body, err)
				}, func(b *stillBench) {
					started, client := time.Now(), b.client(h2)
					response, err := b.post(client, &slowReader{text, 30 * time.Second}, length)
					if err != nil {
						b.t.Fatal(err)
					}
					body, err := io.ReadAll(response.Body)
					if err != nil || string(body) != text+" <nil>" || time.Since(started) < 10*time.Minute {
						b.t.Errorf("got status %d %q (%v) after %v, want %q after 10 minutes", response.StatusCode, body, err, time.Since(started), text)
					}
					client.CloseIdleConnections()
				})
			})
		}
	}
}

// TestRareEvents: one every four minutes arrives when it is sent.
func TestRareEvents(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			inBubble(t, 0, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for range 5 {
					time.Sleep(4 * time.Minute)
					fmt.Fprintf(w, "data: %s\n\n", r.Header.Get("X-Key"))
					_ = http.NewResponseController(w).Flush()
				}
			}, func(b *stillBench) {
				started, client := time.Now(), b.client(h2)
				response, err := b.post(client, nil, 0)
				if err != nil {
					b.t.Fatal(err)
				}
				var arrived []time.Duration
				for lines := bufio.NewScanner(response.Body); lines.Scan(); {
					if lines.Text() == "data: "+strings.Repeat("*", len(canary)) {
						arrived = append(arrived, time.Since(started))
					}
				}
				want := []time.Duration{4 * time.Minute, 8 * time.Minute, 12 * time.Minute, 16 * time.Minute, 20 * time.Minute}
				if !slices.Equal(arrived, want) {
					b.t.Errorf("got events after %v, want them after %v", arrived, want)
				}
				client.CloseIdleConnections()
			})
		})
	}
}
