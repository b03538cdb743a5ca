package handler

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// TestGRPCKeepalive: a client that gives a connection up when a ping is not
// answered within a second keeps its stream through minutes of silence.
func TestGRPCKeepalive(t *testing.T) {
	const silence = 10 * time.Minute
	message := enveloped(t, 0, "", "")
	inBubble(t, 0, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		for range 2 {
			_, _ = io.WriteString(w, message)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(silence)
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}, func(b *stillBench) {
		conn, err := grpc.NewClient("passthrough:///api.starpod.test:443",
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return b.connect() }),
			grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: b.roots})),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: time.Second}),
		)
		if err != nil {
			b.t.Fatal(err)
		}
		started := time.Now()
		s, err := call(b.t.Context(), conn)
		again := func() error { return expect(s, "") }
		if err := firstOf(err, again, again, ended(s)); err != nil {
			b.t.Errorf("after %v: %v", time.Since(started), err)
		}
		if got := time.Since(started); got < 2*silence {
			b.t.Errorf("the stream took %v, want %v", got, 2*silence)
		}
		_ = conn.Close()
	})
}
