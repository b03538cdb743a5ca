//go:build linux

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// maxGrowth is how much memory an upload of any size may take, in bytes.
const maxGrowth = 16 << 20

// Not parallel: it measures the memory of a process that must do nothing else.
func TestALargeUploadTakesNoMemory(t *testing.T) {
	caddy := plainBinary(t)
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	size := sized[int64](128<<20, 1<<30)
	for _, test := range []struct {
		name      string
		protocols *http.Protocols
		sized     bool
	}{
		{"HTTP/1.1 with Content-Length", only((*http.Protocols).SetHTTP1), true},
		{"HTTP/1.1 in chunks", only((*http.Protocols).SetHTTP1), false},
		{"HTTP/2 with Content-Length", only((*http.Protocols).SetHTTP2), true},
		{"HTTP/2 without", only((*http.Protocols).SetHTTP2), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			upstream.Forget()
			s := startServer(t, caddy, pki, "", "")
			client := &http.Client{Transport: s.transport(t, test.protocols)}
			post(t, client, upstream, strings.NewReader("warm up"), 7)
			idle := s.usage(t).RSS
			testbench.ResetPeak(t, s.Pid)

			value := newValue()
			before, behind := size-1000, int64(300)
			token := s.seal(t, value, testbench.APIHost)
			length := int64(-1)
			if test.sized {
				length = before + int64(len(token)) + behind
			}
			post(t, client, upstream, filled(before, token, behind), length)

			got := upstream.Last(t)
			want := sha256.New()
			length, _ = io.Copy(want, filled(before, value, behind))
			if sum := hex.EncodeToString(want.Sum(nil)); got.BodySHA256 != sum || got.BodySize != length {
				t.Errorf("body: got %d bytes with hash %s, want %d with %s", got.BodySize, got.BodySHA256, length, sum)
			}
			if wantLength := map[bool]int64{true: length, false: -1}[test.sized]; got.ContentLength != wantLength {
				t.Errorf("Content-Length: got %d, want %d", got.ContentLength, wantLength)
			}
			peak := testbench.ReadUsage(t, s.Pid).PeakRSS
			t.Logf("memory: idle %d MiB, peak %d MiB", idle>>20, peak>>20)
			if peak-idle > maxGrowth {
				t.Errorf("memory: got a peak %d MiB above idle, want %d at most", (peak-idle)>>20, maxGrowth>>20)
			}
		})
	}
}

// filled is a text of the given length, the middle, and more text.
func filled(before int64, middle string, behind int64) io.Reader {
	return io.MultiReader(
		io.LimitReader(testbench.Alphabet(), before),
		strings.NewReader(middle),
		io.LimitReader(testbench.Alphabet(), behind),
	)
}

// post sends a body of the length (-1: does not say) and wants a 200.
func post(t *testing.T, client *http.Client, upstream *testbench.Upstream, body io.Reader, length int64) {
	t.Helper()
	if err := upload(t, client, upstream, body, length); err != nil {
		t.Fatalf("uploading: %v", err)
	}
}

// upload is post for any goroutine.
func upload(t *testing.T, client *http.Client, upstream *testbench.Upstream, body io.Reader, length int64) error {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, upstream.URL(testbench.APIHost)+"/upload", io.NopCloser(body))
	if err != nil {
		return err
	}
	req.ContentLength = length
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("got %d %q (%v), want 200", resp.StatusCode, answer, err)
	}
	return nil
}
