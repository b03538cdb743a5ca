//go:build linux

package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// halfAnswer is as much as the host sends of an answer that it cuts.
var halfAnswer = func() string {
	text, _ := io.ReadAll(io.LimitReader(testbench.Alphabet(), 50000))
	return string(text)
}()

func (w *world) faultRequest(ctx context.Context, kind string) (*http.Request, error) {
	host := pick(w.faulty)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url(host, "/fault/"+kind), nil)
	if err == nil {
		req.Header.Set("X-Key", w.tokens[host])
	}
	return req, err
}

// refused wants the proxy to say that the host failed.
func (w *world) refused(ctx context.Context, client *http.Client, kind string) error {
	req, err := w.faultRequest(ctx, kind)
	if err != nil {
		return err
	}
	got, err := do(client, req)
	if err != nil {
		return err
	}
	if got.status != http.StatusBadGateway || !strings.Contains(string(got.body), `"rule":"upstream"`) {
		return fmt.Errorf("got %d %.200q, want 502 of the rule upstream", got.status, got.body)
	}
	return nil
}

// cut wants what the host sent before it failed, and then no proper end.
func (w *world) cut(ctx context.Context, client *http.Client, kind, sent string) error {
	req, err := w.faultRequest(ctx, kind)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK || err == nil || !strings.HasPrefix(sent, string(body)) {
		return fmt.Errorf("got %d and %d bytes (%v), want 200, at most %d bytes and an error", resp.StatusCode, len(body), err, len(sent))
	}
	return nil
}

// stalled gives up on a host that does not answer.
func (w *world) stalled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	req, err := w.faultRequest(ctx, "stall")
	if err != nil {
		return err
	}
	got, err := do(w.h1, req)
	if !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("got %d (%v), want no answer", got.status, err)
	}
	return nil
}

// goneInHead leaves in the middle of a request's head.
func (w *world) goneInHead(ctx context.Context) error {
	conn, err := w.dial(ctx, pick(w.faulty), false)
	if err != nil {
		return err
	}
	io.WriteString(conn, "GET /echo HTTP/1.1\r\nHost: f0")
	return conn.NetConn().Close()
}

// goneInUpload leaves in the middle of a body; the host counts it if it gets
// that as a whole one.
func (w *world) goneInUpload(ctx context.Context) error {
	host := pick(w.faulty)
	conn, err := w.dial(ctx, host, false)
	if err != nil {
		return err
	}
	head := fmt.Sprintf("PUT /sink HTTP/1.1\r\nHost: %s:%d\r\nX-Vanishes: yes\r\n", host, port(w.upstream.tls))
	if time.Now().UnixNano()%2 == 0 {
		fmt.Fprintf(conn, "%sContent-Length: %d\r\n\r\n", head, 4<<20)
		io.CopyN(conn, testbench.Alphabet(), 2<<20)
	} else {
		fmt.Fprintf(conn, "%sTransfer-Encoding: chunked\r\n\r\n100000\r\n", head)
		io.CopyN(conn, testbench.Alphabet(), 1<<19)
	}
	return conn.NetConn().Close()
}

// goneInDownload leaves in the middle of an answer.
func (w *world) goneInDownload(ctx context.Context) error {
	host := pick(w.faulty)
	conn, err := w.dial(ctx, host, false)
	if err != nil {
		return err
	}
	fmt.Fprintf(conn, "GET /big/%d HTTP/1.1\r\nHost: %s:%d\r\nX-Key: %s\r\n\r\n", 50<<20, host, port(w.upstream.tls), w.tokens[host])
	if _, err := io.CopyN(io.Discard, conn, 1<<20); err != nil {
		return err
	}
	return conn.NetConn().Close()
}
