//go:build linux

package soak

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

const (
	hostSuffix   = ".soak.test"
	faultSuffix  = ".fault.test"
	valuePrefix  = "soak-value-"
	requestLimit = time.Minute
	eventCount   = 5
	eventPause   = 20 * time.Millisecond
)

// world is what the traffic is made of. Host i has a secret of its own, with a
// token that names this host alone.
type world struct {
	hosts, faulty  []string
	values, tokens map[string]string // by host
	foreign        string            // a token that no key opens
	upstream       *upstream
	proxy          *testbench.Caddy

	h1, h2, once, plain *http.Client
	tls                 *tls.Config // towards hosts, through the proxy
	transports          []*http.Transport

	reloaded atomic.Int64 // when a reload was last under way, in Unix nanoseconds
	dropped  atomic.Int64 // see drops
}

func newWorld(count int) *world {
	w := &world{values: map[string]string{}, tokens: map[string]string{}}
	for i := range count {
		w.hosts = append(w.hosts, fmt.Sprintf("h%03d%s", i, hostSuffix))
	}
	for i := range 8 {
		w.faulty = append(w.faulty, fmt.Sprintf("f%d%s", i, faultSuffix))
	}
	for i, host := range append(w.hosts[:count:count], w.faulty...) {
		w.values[host] = fmt.Sprintf("%s%03d-%016x", valuePrefix, i, rand.Uint64())
	}
	return w
}

func (w *world) value(host string) string {
	if value, known := w.values[host]; known {
		return value
	}
	return "\x00 no value is for " + host
}

// connect makes the tokens and the clients, once there is a proxy.
func (w *world) connect(tb testing.TB, proxy *testbench.Caddy) {
	w.proxy = proxy
	for host, value := range w.values {
		w.tokens[host] = testbench.Seal(tb, proxy.Key, value, host)
	}
	w.foreign = testbench.Seal(tb, bytes.Repeat([]byte{7}, 32), "nobody's")
	w.tls = &tls.Config{RootCAs: proxy.Roots(tb), ClientSessionCache: tls.NewLRUClientSessionCache(64)}
	w.h1, w.h2 = w.client((*http.Protocols).SetHTTP1), w.client((*http.Protocols).SetHTTP2)
	w.once, w.plain = w.client((*http.Protocols).SetHTTP1), w.client((*http.Protocols).SetHTTP1)
	w.once.Transport.(*http.Transport).DisableKeepAlives = true
}

func (w *world) client(set func(*http.Protocols, bool)) *http.Client {
	protocols := new(http.Protocols)
	set(protocols, true)
	transport := &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			if r.URL.Scheme == "https" {
				return nil, nil // dial asks for the tunnel
			}
			return w.proxy.URL, nil
		},
		DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			host, _, _ := strings.Cut(address, ":")
			conn, err := w.dial(ctx, host, protocols.HTTP2())
			if err != nil {
				return nil, err
			}
			return conn, conn.SetDeadline(time.Time{})
		},
		Protocols:    protocols,
		MaxIdleConns: 200, MaxIdleConnsPerHost: 4,
		// Shorter than the second for which the proxy serves what is idle when its
		// configuration is replaced. After it a POST may meet the end of its connection,
		// and no client can tell what became of it (RFC 9110, section 9.2.2).
		IdleConnTimeout: 500 * time.Millisecond,
	}
	w.transports = append(w.transports, transport)
	return &http.Client{Transport: transport, Timeout: requestLimit}
}

func (w *world) closeIdle() {
	for _, transport := range w.transports {
		transport.CloseIdleConnections()
	}
}

func (w *world) url(host, path string) string {
	return fmt.Sprintf("https://%s:%d%s", host, port(w.upstream.tls), path)
}

func (w *world) plainURL(host, path string) string {
	return fmt.Sprintf("http://%s:%d%s", host, port(w.upstream.http), path)
}

func pick(of []string) string { return of[rand.IntN(len(of))] }

// stars is what becomes of a value in an answer.
func stars(value string) string { return strings.Repeat("*", len(value)) }

// kind is one kind of request.
type kind struct {
	name   string
	weight int // of 1000
	// lingers marks a client that goes without a word: for 30 s the proxy waits
	// whether it has only ended its half of the connection.
	lingers bool
	run     func(*world, context.Context) error
}

var kinds = []kind{
	{name: "GET h1", weight: 330, run: func(w *world, ctx context.Context) error { return w.get(ctx, w.h1, w.url) }},
	{name: "GET h2", weight: 200, run: func(w *world, ctx context.Context) error { return w.get(ctx, w.h2, w.url) }},
	{name: "GET in a new tunnel", weight: 80, run: func(w *world, ctx context.Context) error { return w.get(ctx, w.once, w.url) }},
	{name: "GET http://", weight: 60, run: func(w *world, ctx context.Context) error { return w.get(ctx, w.plain, w.plainURL) }},
	{name: "POST JSON h1", weight: 70, run: func(w *world, ctx context.Context) error { return w.postJSON(ctx, w.h1) }},
	{name: "POST JSON h2", weight: 50, run: func(w *world, ctx context.Context) error { return w.postJSON(ctx, w.h2) }},
	{name: "POST gzip", weight: 40, run: (*world).postZipped},
	{name: "answer in gzip", weight: 20, run: (*world).getZipped},
	{name: "token of another host", weight: 40, run: (*world).wrongHost},
	{name: "garbage token", weight: 20, run: (*world).garbage},
	{name: "upload with a length", weight: 6, run: func(w *world, ctx context.Context) error { return w.upload(ctx, true) }},
	{name: "upload in chunks", weight: 6, run: func(w *world, ctx context.Context) error { return w.upload(ctx, false) }},
	{name: "download", weight: 8, run: (*world).download},
	{name: "SSE", weight: 10, run: (*world).events},
	{name: "WebSocket", weight: 20, run: (*world).socket},
	{name: "fault: reset", weight: 6, run: func(w *world, ctx context.Context) error { return w.refused(ctx, w.h1, "reset") }},
	{name: "fault: h2 reset", weight: 6, run: func(w *world, ctx context.Context) error { return w.refused(ctx, w.h2, "reset") }},
	{name: "fault: not HTTP", weight: 4, run: func(w *world, ctx context.Context) error { return w.refused(ctx, w.h1, "garbage") }},
	{name: "fault: bad chunks", weight: 4, run: func(w *world, ctx context.Context) error { return w.cut(ctx, w.h1, "framing", "hello") }},
	{name: "fault: half an answer", weight: 4, run: func(w *world, ctx context.Context) error { return w.cut(ctx, w.h1, "half", halfAnswer) }},
	{name: "fault: half, h2", weight: 4, run: func(w *world, ctx context.Context) error { return w.cut(ctx, w.h2, "half", halfAnswer) }},
	{name: "fault: stall", weight: 4, lingers: true, run: (*world).stalled},
	{name: "gone in the head", weight: 2, lingers: true, run: (*world).goneInHead},
	{name: "gone in an upload", weight: 3, lingers: true, run: (*world).goneInUpload},
	{name: "gone in a download", weight: 3, lingers: true, run: (*world).goneInDownload},
}

// answer is an answer that was read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func do(client *http.Client, req *http.Request) (answer, error) {
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, body}, err
}

// check compares an answer of the upstream's echo. sawBody and body are not
// looked at where they are nil.
func (a answer) check(sawKey string, sawBody, body []byte) error {
	switch {
	case a.status != http.StatusOK:
		return fmt.Errorf("status: got %d %.300q, want 200", a.status, a.body)
	case a.header.Get("X-Saw") != digest([]byte(sawKey)):
		return fmt.Errorf("X-Key: the host saw something else than %q", sawKey)
	case sawBody != nil && a.header.Get("X-Saw-Body") != digest(sawBody):
		return fmt.Errorf("body: the host saw something else than %.200q", sawBody)
	case body != nil && !bytes.Equal(a.body, body):
		return fmt.Errorf("body: got %.200q, want %.200q", a.body, body)
	}
	return nil
}

func (w *world) get(ctx context.Context, client *http.Client, url func(host, path string) string) error {
	host := pick(w.hosts)
	return w.echoes(ctx, client, url(host, "/echo"), w.tokens[host], w.value(host), stars(w.value(host)))
}

func (w *world) wrongHost(ctx context.Context) error {
	return w.echoes(ctx, w.h1, w.url(w.hosts[0], "/echo"), "a"+w.tokens[pick(w.hosts[1:])]+"b", "ab", "ab")
}

func (w *world) garbage(ctx context.Context) error {
	token := w.foreign
	if rand.IntN(2) == 0 {
		token = "starpod:v1:" + token[30:]
	}
	return w.echoes(ctx, w.h2, w.url(pick(w.hosts), "/echo"), token, token, token)
}

// echoes sends a key and wants it to be seen and echoed as said.
func (w *world) echoes(ctx context.Context, client *http.Client, url, key, seen, echoed string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Key", key)
	got, err := do(client, req)
	if err != nil && client == w.plain && w.drops(err) {
		got, err = do(client, req)
	}
	if err != nil {
		return err
	}
	if err := got.check(seen, nil, []byte{}); err != nil {
		return err
	}
	if got.header.Get("X-Echo") != echoed {
		return fmt.Errorf("the echo of X-Key: got %q, want %q", got.header.Get("X-Echo"), echoed)
	}
	return nil
}

func (w *world) postJSON(ctx context.Context, client *http.Client) error {
	host := pick(w.hosts)
	body := func(key string) []byte {
		return fmt.Appendf(nil, `{"key":%q,"n":[1,2,3],"text":"ä%d"}`, key, len(host))
	}
	return w.post(ctx, client, w.url(host, "/echo"), host, nil, body)
}

func (w *world) postZipped(ctx context.Context) error {
	host := pick(w.hosts)
	body := func(key string) []byte {
		return []byte(strings.Repeat("before ", 100) + key + strings.Repeat(" behind", 100))
	}
	return w.post(ctx, w.h1, w.url(host, "/echo"), host, zip, body)
}

func (w *world) getZipped(ctx context.Context) error {
	host := pick(w.hosts)
	return w.post(ctx, w.h1, w.url(host, "/zipped"), host, nil, func(key string) []byte { return []byte("<" + key + ">") })
}

// post sends a body made with the token, and wants the one made with the value
// to arrive, and the one made with asterisks to come back.
func (w *world) post(ctx context.Context, client *http.Client, url, host string, code func([]byte) []byte, body func(key string) []byte) error {
	value, sent := w.value(host), body(w.tokens[host])
	if code != nil {
		sent = code(sent)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(sent))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if code != nil {
		req.Header.Set("Content-Type", "text/plain")
		req.Header.Set("Content-Encoding", "gzip")
	}
	got, err := do(client, req)
	if err != nil {
		return err
	}
	return got.check("", body(value), body(stars(value)))
}

// errUnanswered is a connection that ended before a byte of an answer.
var errUnanswered = errors.New("the proxy closed a new connection without an answer")

// drops tells whether a new connection was lost to a reload, and counts it. Where
// a configuration is replaced net/http drops a connection whose first request it has
// not read yet, and the kernel one that has not been accepted. Nothing of it has gone
// anywhere, and it is tried again; they are counted apart.
func (w *world) drops(err error) bool {
	lost := errors.Is(err, errUnanswered) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
	if !lost || time.Since(time.Unix(0, w.reloaded.Load())) > 5*time.Second {
		return false
	}
	w.dropped.Add(1)
	return true
}

// dial opens a tunnel.
func (w *world) dial(ctx context.Context, host string, h2 bool) (*tls.Conn, error) {
	conn, err := w.ask(ctx, host)
	for range 3 {
		if err == nil || !w.drops(err) {
			break
		}
		conn, err = w.ask(ctx, host)
	}
	if err != nil {
		return nil, err
	}
	config := w.tls.Clone()
	config.ServerName, config.NextProtos = host, []string{"http/1.1"}
	if h2 {
		config.NextProtos = []string{"h2"}
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secured, nil
}

// ask sends a CONNECT.
func (w *world) ask(ctx context.Context, host string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", w.proxy.URL.Host)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(requestLimit))
	authority := strings.TrimPrefix(w.url(host, ""), "https://")
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	const established = "HTTP/1.1 200 Connection Established\r\n\r\n"
	head := make([]byte, len(established))
	n, err := io.ReadFull(conn, head)
	if string(head) == established {
		return conn, nil
	}
	conn.Close()
	if n == 0 && (err == io.EOF || errors.Is(err, syscall.ECONNRESET)) {
		return nil, errUnanswered
	}
	return nil, fmt.Errorf("CONNECT: got %q (%v)", head[:n], err)
}
