package handler

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestStalledUpload ends by the read timeout of the server that the client came
// to, and the upstream never sees a complete request.
func TestStalledUpload(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for framing, length := range map[string]int64{"sized and buffered": 8, "sized and spooled": 100, "streamed": -1} {
			t.Run(fmt.Sprintf("%s h2=%v", framing, h2), func(t *testing.T) {
				var complete atomic.Bool
				inBubble(t, time.Minute, func(_ http.ResponseWriter, r *http.Request) {
					if _, err := io.Copy(io.Discard, r.Body); err == nil {
						complete.Store(true)
					}
				}, func(b *stillBench) {
					started, client := time.Now(), b.client(h2)
					reader, writer := io.Pipe()
					go func() { _, _ = io.WriteString(writer, "four") }()
					response, err := b.post(client, reader, length)
					if err == nil {
						_, err = io.Copy(io.Discard, response.Body)
						if response.StatusCode < 400 {
							b.t.Errorf("got status %d, want an error", response.StatusCode)
						}
					}
					if took := time.Since(started); took < time.Minute || took > 2*time.Minute {
						b.t.Errorf("it ended after %v (%v), want the end after a minute", took, err)
					}
					_ = writer.Close()
					client.CloseIdleConnections()
				})
				if complete.Load() {
					t.Error("the upstream saw a complete request")
				}
			})
		}
	}
}

// TestReadTimeoutSparesTheAnswer: it is for the body alone.
func TestReadTimeoutSparesTheAnswer(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			inBubble(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				time.Sleep(5 * time.Minute)
				_, _ = w.Write(body)
			}, func(b *stillBench) {
				client := b.client(h2)
				for _, length := range []int64{-1, 5, -1} {
					response, err := b.post(client, strings.NewReader("hello"), length)
					if err != nil {
						b.t.Fatal(err)
					}
					if body, err := io.ReadAll(response.Body); err != nil || string(body) != "hello" {
						b.t.Errorf("got status %d %q (%v), want the answer after 5 minutes", response.StatusCode, body, err)
					}
				}
				client.CloseIdleConnections()
			})
		})
	}
}

// TestGoneClient: what is under way upstream for a client that has gone ends,
// over HTTP/1 after the time that one may take who has only ended its half.
func TestGoneClient(t *testing.T) {
	for protocol, patience := range map[string]time.Duration{"http/1.1": halfClosePatience, "h2": 0} {
		t.Run(protocol, func(t *testing.T) {
			var took atomic.Int64
			inBubble(t, 0, func(_ http.ResponseWriter, r *http.Request) {
				began := time.Now()
				<-r.Context().Done()
				took.Store(int64(time.Since(began)))
			}, func(b *stillBench) {
				conn := b.tunnel(protocol)
				client := inTunnel(b.t, conn, protocol == "h2")
				client.Timeout = 0
				go func() { _, _ = b.post(client, nil, 0) }()
				time.Sleep(time.Minute)
				_ = conn.Close()
				time.Sleep(2 * halfClosePatience)
			})
			if got, want := time.Duration(took.Load()), time.Minute+patience; got != want {
				t.Errorf("it took %v with a client that left after a minute, want %v", got, want)
			}
		})
	}
}
