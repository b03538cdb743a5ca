//go:build linux

package soak

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// upstream plays all hosts at once. It keeps no record, unlike
// [testbench.Upstream], so that it can go on for hours: every answer says what
// was seen, and a value at a host that must not have it is counted.
type upstream struct {
	world     *world
	tls, http net.Listener
	leaked    atomic.Int64 // values of another host
	broken    atomic.Int64 // complete uploads of clients that died in the middle
	example   atomic.Value // the first of either, as text
	stop      chan struct{}
}

func startUpstream(tb testing.TB, w *world, pki *testbench.PKI) *upstream {
	tb.Helper()
	u := &upstream{world: w, stop: make(chan struct{})}
	certificate := pki.Leaf(tb, "*"+hostSuffix, "*"+faultSuffix)
	u.tls = tls.NewListener(listen(tb), &tls.Config{
		Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"},
	})
	u.http = listen(tb)
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", u.echo)
	mux.HandleFunc("/zipped", u.zipped)
	mux.HandleFunc("/sink", u.sink)
	mux.HandleFunc("/big/{size}", u.big)
	mux.HandleFunc("/events", u.events)
	mux.HandleFunc("/socket", u.socket)
	mux.HandleFunc("/fault/{kind}", u.fault)
	server := &http.Server{Handler: u.watched(mux), ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(u.tls)
	go server.Serve(u.http)
	tb.Cleanup(func() { close(u.stop); server.Close() })
	return u
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return listener
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// watched looks for values of other hosts in the head of each request; the
// handlers do so in the body.
func (u *upstream) watched(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var head bytes.Buffer
		fmt.Fprintln(&head, r.RequestURI)
		r.Header.Write(&head)
		u.inspect(r, head.Bytes())
		w.Header().Set("X-Saw", digest([]byte(r.Header.Get("X-Key"))))
		next.ServeHTTP(w, r)
	})
}

// inspect counts values in the text that are not the host's own.
func (u *upstream) inspect(r *http.Request, text []byte) {
	own := u.world.value(r.Host[:strings.IndexByte(r.Host+":", ':')])
	for rest := text; ; {
		i := bytes.Index(rest, []byte(valuePrefix))
		if i < 0 {
			return
		}
		if rest = rest[i:]; !bytes.HasPrefix(rest, []byte(own)) {
			u.leaked.Add(1)
			u.example.CompareAndSwap(nil, fmt.Sprintf("%s %s got a value of another host", r.Host, r.URL.Path))
		}
		rest = rest[len(valuePrefix):]
	}
}

// body reads a short body to its end.
func (u *upstream) body(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err == nil && r.Header.Get("Content-Encoding") == "gzip" {
		body, err = unzip(body)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, false
	}
	u.inspect(r, body)
	w.Header().Set("X-Saw-Body", digest(body))
	return body, true
}

// echo answers with the header X-Key and the body.
func (u *upstream) echo(w http.ResponseWriter, r *http.Request) {
	if body, ok := u.body(w, r); ok {
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Header().Set("X-Echo", r.Header.Get("X-Key"))
		w.Write(body)
	}
}

// zipped is echo in gzip, whatever the client accepts.
func (u *upstream) zipped(w http.ResponseWriter, r *http.Request) {
	if body, ok := u.body(w, r); ok {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(zip(body))
	}
}

// sink takes bodies of any size and tells their digest.
func (u *upstream) sink(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	n, err := io.Copy(hash, r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if r.Header.Get("X-Vanishes") != "" {
		u.broken.Add(1)
		u.example.CompareAndSwap(nil, fmt.Sprintf("an upload that broke off arrived as a complete one of %d bytes", n))
	}
	w.Header().Set("X-Saw-Body", hex.EncodeToString(hash.Sum(nil)))
	fmt.Fprintf(w, "%d\n", n)
}

// big answers with so many bytes.
func (u *upstream) big(w http.ResponseWriter, r *http.Request) {
	size, _ := strconv.ParseInt(r.PathValue("size"), 10, 64)
	if r.URL.Query().Has("sized") {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	io.Copy(w, io.LimitReader(testbench.Alphabet(), size))
}

// events sends some events, with the key in each.
func (u *upstream) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range eventCount {
		fmt.Fprintf(w, "id: %d\ndata: %s\n\n", i, r.Header.Get("X-Key"))
		http.NewResponseController(w).Flush()
		if !u.pause(r.Context(), eventPause) {
			return
		}
	}
}

func (u *upstream) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-u.stop:
	}
	return false
}

// socket sends each text message back with its digest in front.
func (u *upstream) socket(w http.ResponseWriter, r *http.Request) {
	conn, rw, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(requestLimit))
	for {
		frame, err := testbench.ReadFrame(rw)
		if err != nil || frame.Header.OpCode != ws.OpText {
			return
		}
		text := ws.UnmaskFrameInPlace(frame).Payload
		u.inspect(r, text)
		answer := ws.NewTextFrame([]byte(digest(text) + " " + string(text)))
		if ws.WriteFrame(conn, answer) != nil {
			return
		}
	}
}

// fault misbehaves in the way that the path names.
func (u *upstream) fault(w http.ResponseWriter, r *http.Request) {
	kind := r.PathValue("kind")
	switch {
	case kind == "stall":
		u.pause(r.Context(), requestLimit)
		panic(http.ErrAbortHandler)
	case kind == "half":
		w.Header().Set("Content-Length", "100000")
		io.CopyN(w, testbench.Alphabet(), 50000)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case r.ProtoMajor != 1: // a reset of the stream
		panic(http.ErrAbortHandler)
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	switch kind {
	case "reset":
		if tcp, ok := conn.(*tls.Conn).NetConn().(*net.TCPConn); ok {
			tcp.SetLinger(0)
			tcp.Close()
		}
	case "framing":
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n")
	case "garbage":
		io.WriteString(conn, "220 this is not HTTP\r\n\r\n")
	}
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func zip(text []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(text)
	w.Close()
	return b.Bytes()
}

func unzip(coded []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(coded))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
