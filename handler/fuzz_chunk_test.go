package handler

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/tokens"
	"golang.org/x/net/http/httpguts"
)

// pipedUpstream records the whole requests that come through connections in
// memory, one each.
type pipedUpstream struct {
	mu       sync.Mutex
	idle     sync.Cond
	active   int
	requests []string
}

func (u *pipedUpstream) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	_ = far.SetDeadline(time.Now().Add(longest))
	u.mu.Lock()
	u.active++
	u.mu.Unlock()
	go func() {
		raw, err := readRequest(bufio.NewReader(far))
		u.mu.Lock()
		if err == nil {
			u.requests = append(u.requests, raw)
		}
		u.mu.Unlock()
		if err == nil {
			_, _ = io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		}
		_ = far.Close()
		u.mu.Lock()
		u.active--
		u.mu.Unlock()
		u.idle.Broadcast()
	}()
	return near, nil
}

// take returns what was received when nothing more is under way.
func (u *pipedUpstream) take() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.active > 0 {
		u.idle.Wait()
	}
	taken := u.requests
	u.requests = nil
	return taken
}

// chunkedRequest is what net/http reads of one.
type chunkedRequest struct {
	body    string
	trailer http.Header
}

// readChunked reads a request whole, and what follows it.
func readChunked(r *bufio.Reader) (got chunkedRequest, err error) {
	request, err := http.ReadRequest(r)
	if err != nil {
		return got, err
	}
	body, err := io.ReadAll(request.Body)
	got = chunkedRequest{string(body), http.Header{}}
	for name, values := range request.Trailer {
		// net/http reads trailers with names that it does not send.
		if len(values) > 0 && httpguts.ValidTrailerHeader(name) && httpguts.ValidHeaderFieldName(name) {
			got.trailer[name] = values
		}
	}
	return got, err
}

// A chunked body arrives as net/http reads it, with its tokens swapped, or not
// as a whole.
func FuzzChunk(f *testing.F) {
	token := sealFixed(f, randomKey, `the "value"`, "api.starpod.test")
	stripped := sealFixed(f, randomKey, "v", "evil.starpod.test")
	for _, seed := range []string{
		"0\r\n\r\n", "1\r\nx\r\n0\r\n\r\n", "3;ext\r\nabc\r\n2;a=\"b\"\r\nde\r\n0;x\r\nX-Sum: 1\r\n\r\n", "a\r\nabc", "zz\r\n\r\n", "-1\r\n\r\n",
		"1\nx\n0\n\n", "1 \r\nx\r\n0\r\n\r\n", "0001\r\nx\r\n00\r\n\r\n", "fffffffffffffffff\r\nx\r\n0\r\n\r\n", "1\r\nxy\r\n0\r\n\r\n", "1\r\nx\r\n0\r\n",
		"1\r\nx\r\n0\r\nX-Sum : 1\r\n\r\n", "1\r\nx\r\n0\r\nContent-Length: 5\r\n\r\n", "1\r\nx\r\n0\r\n X: folded\r\n\r\n",
		inChunks(&fuzzChoices{[]byte(strings.Repeat("\x03\x40", 50))}, "<"+token+">"+stripped+"<"+token) + "X-Sum: a" + token + "\r\nX-Odd: " + stripped + "\r\n\r\n",
		"b\r\nstarpod:v1:\r\n0\r\n\r\nGET http://api.starpod.test/2 HTTP/1.1\r\nHost: api.starpod.test\r\n\r\n",
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	b, upstream := newBench(f, nil), new(pipedUpstream)
	upstream.idle.L = &upstream.mu
	b.proxy.Init()
	b.proxy.upstream.h1.DialContext, b.proxy.upstream.h1.DisableKeepAlives = upstream.dial, true
	keys := newSwapper(f).keys
	f.Fuzz(func(t *testing.T, chunks []byte, announced bool) {
		head := "POST http://api.starpod.test/ HTTP/1.1\r\nHost: api.starpod.test\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n"
		if announced {
			head += "Trailer: X-Sum\r\n"
		}
		raw := head + "\r\n" + string(chunks)
		want, err := readChunked(bufio.NewReader(strings.NewReader(raw)))
		status := exchangeRaw(t, b, raw)
		requests := upstream.take()
		if err != nil {
			if len(requests) > 0 {
				t.Fatalf("%q, which breaks off (%v), became %q", chunks, err, requests)
			}
			return
		}
		if status != http.StatusOK || len(requests) == 0 {
			t.Fatalf("%q: got status %d and %d requests, want it to arrive", chunks, status, len(requests))
		}
		got, err := readChunked(bufio.NewReader(strings.NewReader(requests[0])))
		if want = want.swapped(t, keys); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q:\ngot  %q, %v\nwant %q", chunks, got, err, want)
		}
	})
}

// swapped is the request with its tokens swapped.
func (r chunkedRequest) swapped(t *testing.T, keys *tokens.Keyring) chunkedRequest {
	t.Helper()
	scan := func(text string) string {
		out, _ := tokens.Scan(keys, []byte(text), tokens.Target{Host: "api.starpod.test", Port: 80, Method: "POST", Path: "/"})
		return string(out)
	}
	trailer := http.Header{}
	for name, values := range r.trailer {
		for _, value := range values {
			trailer.Add(name, textproto.TrimString(scan(value)))
		}
	}
	return chunkedRequest{scan(r.body), trailer}
}

// exchangeRaw sends bytes and no more, and returns the status of the first answer
// when the proxy has closed the connection; 0 if there was none.
func exchangeRaw(t *testing.T, b *bench, raw string) (status int) {
	t.Helper()
	conn, err := net.Dial("tcp", b.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(longest))
	go func() { // an early answer must not block it
		_, _ = io.WriteString(conn, raw)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	r := bufio.NewReader(conn)
	if response, err := http.ReadResponse(r, nil); err == nil {
		status = response.StatusCode
		_, _ = io.Copy(io.Discard, response.Body)
	}
	_, err = io.Copy(io.Discard, r)
	if timeout, is := err.(net.Error); is && timeout.Timeout() {
		t.Fatalf("%q: the proxy does not close the connection", raw)
	}
	return status
}
