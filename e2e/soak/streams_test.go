//go:build linux

package soak

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

const uploadSize = 10 << 20

// upload sends 10 MB, every other time with a token somewhere in it.
func (w *world) upload(ctx context.Context, sized bool) error {
	host := pick(w.hosts)
	var key, value string
	if rand.IntN(2) == 0 {
		key, value = w.tokens[host], w.value(host)
	}
	at := rand.Int64N(uploadSize)
	file := func(key string) io.Reader {
		return io.MultiReader(io.LimitReader(testbench.Alphabet(), at), strings.NewReader(key),
			io.LimitReader(testbench.Alphabet(), uploadSize-at))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, w.url(host, "/sink"), file(key))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	if sized {
		req.ContentLength = int64(uploadSize + len(key))
	}
	got, err := do(w.h1, req)
	if err != nil {
		return err
	}
	hash := sha256.New()
	io.Copy(hash, file(value))
	if err := got.check("", nil, fmt.Appendf(nil, "%d\n", uploadSize+len(value))); err != nil {
		return err
	}
	if want := hex.EncodeToString(hash.Sum(nil)); got.header.Get("X-Saw-Body") != want {
		return fmt.Errorf("upload of %d bytes: the host saw others", uploadSize+len(value))
	}
	return nil
}

// download takes up to 4 MB, with a token in the request so that it is looked
// into.
func (w *world) download(ctx context.Context) error {
	host, size := pick(w.hosts), rand.Int64N(4<<20)
	path := "/big/" + strconv.FormatInt(size, 10)
	if rand.IntN(2) == 0 {
		path += "?sized"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url(host, path), nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Key", w.tokens[host])
	client := w.h1
	if rand.IntN(2) == 0 {
		client = w.h2
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, want := sha256.New(), sha256.New()
	n, err := io.Copy(got, resp.Body)
	io.Copy(want, io.LimitReader(testbench.Alphabet(), size))
	if err != nil || n != size || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return fmt.Errorf("download: got %d bytes (%v), want %d of the right ones", n, err, size)
	}
	return answer{status: resp.StatusCode, header: resp.Header}.check(w.value(host), nil, nil)
}

// events reads a stream of events that repeat the key.
func (w *world) events(ctx context.Context) error {
	host := pick(w.hosts)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url(host, "/events"), nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Key", w.tokens[host])
	got, err := do(w.h1, req)
	if err != nil {
		return err
	}
	var want bytes.Buffer
	for i := range eventCount {
		fmt.Fprintf(&want, "id: %d\ndata: %s\n\n", i, stars(w.value(host)))
	}
	return got.check(w.value(host), nil, want.Bytes())
}

// socket has messages with a token sent back, which takes a moment, so that
// reloads come in between.
func (w *world) socket(ctx context.Context) error {
	host := pick(w.hosts)
	conn, err := w.dial(ctx, host, false)
	if err != nil {
		return err
	}
	defer conn.Close()
	dialer := ws.Dialer{}
	url := strings.Replace(w.url(host, "/socket"), "https", "wss", 1)
	parsed, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	early, _, err := dialer.Upgrade(conn, parsed.URL)
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if early != nil {
		return fmt.Errorf("upgrade: %d bytes behind the answer", early.Buffered())
	}
	for i := range 3 {
		message := func(key string) string { return fmt.Sprintf("message %d: %s.", i, key) }
		if err := ws.WriteFrame(conn, ws.MaskFrame(ws.NewTextFrame([]byte(message(w.tokens[host]))))); err != nil {
			return err
		}
		frame, err := testbench.ReadFrame(conn)
		if err != nil {
			return err
		}
		want := digest([]byte(message(w.value(host)))) + " " + message(stars(w.value(host)))
		if string(frame.Payload) != want {
			return fmt.Errorf("message: got %q, want %q", frame.Payload, want)
		}
		if !w.upstream.pause(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	return ws.WriteFrame(conn, ws.MaskFrame(ws.NewCloseFrame(nil)))
}
