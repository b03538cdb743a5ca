//go:build linux

package bench

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// startUpstream starts the host behind all names. It keeps no record, unlike
// [testbench.Upstream]: each answer has what proves it. It returns its port.
func startUpstream(tb testing.TB, certificate tls.Certificate) int {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/small", small)
	mux.HandleFunc("/sink", sink)
	mux.HandleFunc("/big/{size}", big)
	mux.HandleFunc("/events", events)
	server := &http.Server{
		Handler: saying(mux), ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}},
	}
	go server.ServeTLS(listener, "", "")
	tb.Cleanup(func() { server.Close() })
	return listener.Addr().(*net.TCPAddr).Port
}

// saying has each answer say what was seen of secrets, by a digest.
func saying(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Saw", saw(r.Header.Get("Authorization"), r.Header["X-Key"]))
		next.ServeHTTP(w, r)
	})
}

func saw(authorization string, keys []string) string {
	sum := sha256.Sum256([]byte(authorization + "\n" + strings.Join(keys, "\n")))
	return hex.EncodeToString(sum[:])
}

// smallBody has 100 bytes.
var smallBody = bytes.Repeat([]byte("0123456789"), 10)

func small(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(len(smallBody)))
	w.Write(smallBody)
}

// checksums are quick, so that the ends leave the processor to the proxy.
var checksums = crc32.MakeTable(crc32.Castagnoli)

var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// sink answers with the length of the body and its checksum.
func sink(w http.ResponseWriter, r *http.Request) {
	hash := crc32.New(checksums)
	buffer := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buffer)
	n, err := io.CopyBuffer(hash, struct{ io.Reader }{r.Body}, buffer[:])
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	fmt.Fprintf(w, "%d %08x", n, hash.Sum32())
}

// block is what long bodies are made of: text of 64 KiB.
var block = []byte(strings.Repeat("The quick brown fox jumps over the lazy dog; start, stop, spot.\n", 1<<10))

// big answers with so many bytes.
func big(w http.ResponseWriter, r *http.Request) {
	size, _ := strconv.ParseInt(r.PathValue("size"), 10, 64)
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	for size > 0 {
		n, err := w.Write(block[:min(size, int64(len(block)))])
		if err != nil {
			return
		}
		size -= int64(n)
	}
}

const (
	eventCount = 3
	eventPause = 50 * time.Millisecond
)

// events sends a few of them, one by one.
func events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	ticker := time.NewTicker(eventPause)
	defer ticker.Stop()
	for i := range eventCount {
		fmt.Fprintf(w, "data: event %d\n\n", i)
		http.NewResponseController(w).Flush()
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		}
	}
}
