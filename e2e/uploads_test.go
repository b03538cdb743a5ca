//go:build linux

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/starpod/caddy-starpod/internal/testbench"
)

const (
	// codedSize is the length of a coded upload without its coding, in bytes.
	codedSize = 64 << 20
	// maxCodedGrowth is how much memory it may take.
	maxCodedGrowth = 64 << 20
)

// Not parallel: it measures the memory of a process that must do nothing else.
func TestACodedUploadTakesLittleMemory(t *testing.T) {
	caddy := plainBinary(t)
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	for _, coding := range []struct {
		name   string
		encode func(io.Writer) (io.WriteCloser, error)
		decode func(io.Reader) (io.Reader, error)
	}{
		{"gzip", func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, gzip.BestSpeed) },
			func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
		{"deflate", func(w io.Writer) (io.WriteCloser, error) { return zlib.NewWriterLevel(w, zlib.BestSpeed) },
			func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }},
		{"br", func(w io.Writer) (io.WriteCloser, error) {
			return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: 1, LGWin: 24}), nil
		}, func(r io.Reader) (io.Reader, error) { return brotli.NewReader(r), nil }},
		{"zstd", func(w io.Writer) (io.WriteCloser, error) {
			return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(8<<20))
		}, func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) }},
	} {
		t.Run(coding.name, func(t *testing.T) {
			s := startServer(t, caddy, pki, "", "")
			value := newValue()
			token := s.seal(t, value, testbench.APIHost)
			var sent bytes.Buffer
			w, err := coding.encode(&sent)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(w, letters(codedSize, token)); err != nil {
				t.Fatal(err)
			}
			w.Close()
			want := sha256.New()
			io.Copy(want, letters(codedSize, value))

			var sum string
			upstream.HandleStream("/"+coding.name+"/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got := sha256.New()
				plain, err := coding.decode(r.Body)
				if err == nil {
					_, err = io.Copy(got, plain)
				}
				sum = hex.EncodeToString(got.Sum(nil)) + fmt.Sprint(err)
			}))
			client := &http.Client{Transport: s.transport(t, only((*http.Protocols).SetHTTP1))}
			post(t, client, upstream, strings.NewReader("warm up"), 7)
			for _, length := range []int64{int64(sent.Len()), -1} {
				idle := s.usage(t).RSS
				testbench.ResetPeak(t, s.Pid)
				req, err := http.NewRequest(http.MethodPost, upstream.URL(testbench.APIHost)+"/"+coding.name+"/", io.NopCloser(bytes.NewReader(sent.Bytes())))
				if err != nil {
					t.Fatal(err)
				}
				req.ContentLength = length
				req.Header.Set("Content-Encoding", coding.name)
				resp, err := client.Do(req)
				if err != nil {
					t.Fatalf("uploading: %v", err)
				}
				answer, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if wantSum := hex.EncodeToString(want.Sum(nil)) + "<nil>"; resp.StatusCode != http.StatusOK || sum != wantSum {
					t.Errorf("length %d: got %d %s and hash %s, want 200 and %s", length, resp.StatusCode, answer, sum, wantSum)
				}
				peak := testbench.ReadUsage(t, s.Pid).PeakRSS
				t.Logf("length %d: memory idle %d MiB, peak %d MiB", length, idle>>20, peak>>20)
				if peak-idle > maxCodedGrowth {
					t.Errorf("length %d: got a peak %d MiB above idle, want %d at most", length, (peak-idle)>>20, maxCodedGrowth>>20)
				}
			}
		})
	}
}

// letters is text that compresses to three quarters, with the middle in its
// last kilobyte.
func letters(size int64, middle string) io.Reader {
	source := letterReader{rand.NewChaCha8([32]byte{1})}
	return io.MultiReader(io.LimitReader(source, size-1000), strings.NewReader(middle), io.LimitReader(source, 500))
}

type letterReader struct{ random *rand.ChaCha8 }

func (r letterReader) Read(p []byte) (int, error) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+ "
	n, err := r.random.Read(p)
	for i, b := range p[:n] {
		p[i] = alphabet[b&63]
	}
	return n, err
}

const (
	parallelUploads = 50
	// maxParallelGrowth is how much memory all of them may take together, in
	// bytes: 2 MiB each.
	maxParallelGrowth = parallelUploads * 2 << 20
)

// Not parallel: it measures the memory of a process that must do nothing else.
func TestParallelUploads(t *testing.T) {
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	s := startServer(t, plainBinary(t), pki, "", "")
	client := &http.Client{Transport: s.transport(t, only((*http.Protocols).SetHTTP1))}
	post(t, client, upstream, strings.NewReader("warm up"), 7)
	idle := s.usage(t).RSS
	testbench.ResetPeak(t, s.Pid)

	size := sized[int64](16<<20, 100<<20)
	var group sync.WaitGroup
	for i := range parallelUploads {
		group.Go(func() {
			value := newValue()
			token := s.seal(t, value, testbench.APIHost)
			before, behind := size-1000, int64(i)
			length := before + int64(len(token)) + behind
			if i%2 == 1 {
				length = -1
			}
			req, err := http.NewRequest(http.MethodPost, fmt.Sprintf("%s/%d", upstream.URL(testbench.APIHost), i), io.NopCloser(filled(before, token, behind)))
			if err != nil {
				t.Error(err)
				return
			}
			req.ContentLength = length
			resp, err := client.Do(req)
			if err != nil {
				t.Errorf("upload %d: %v", i, err)
				return
			}
			resp.Body.Close()
			want := sha256.New()
			length, _ = io.Copy(want, filled(before, value, behind))
			for _, got := range upstream.Requests() {
				if got.Path == fmt.Sprintf("/%d", i) {
					if sum := hex.EncodeToString(want.Sum(nil)); got.BodySize != length || got.BodySHA256 != sum {
						t.Errorf("upload %d: got %d bytes with hash %s, want %d with %s", i, got.BodySize, got.BodySHA256, length, sum)
					}
					return
				}
			}
			t.Errorf("upload %d: got %d from the proxy, and nothing at the upstream", i, resp.StatusCode)
		})
	}
	group.Wait()
	peak := testbench.ReadUsage(t, s.Pid).PeakRSS
	t.Logf("memory: idle %d MiB, peak %d MiB", idle>>20, peak>>20)
	if peak-idle > maxParallelGrowth {
		t.Errorf("memory: got a peak %d MiB above idle, want %d at most", (peak-idle)>>20, maxParallelGrowth>>20)
	}
}
