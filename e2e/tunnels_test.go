//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

const tunnelWorkers = 8

// Not parallel: it measures the memory of a process that must do nothing else.
func TestTunnelsLeaveNothingBehind(t *testing.T) {
	caddy := plainBinary(t)
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	s := startServer(t, caddy, pki, "", "")
	value := newValue()
	token := s.seal(t, value, testbench.APIHost)

	warmUp, many := sized(200, 500), sized(1000, 5000)
	openTunnels(t, s, upstream, token, warmUp)
	before := settled(t, s)
	openTunnels(t, s, upstream, token, many)

	var after load
	testbench.Await(t, time.Minute, func() error {
		after = loadOf(t, s)
		switch {
		case after.goroutines > before.goroutines*11/10:
			return fmt.Errorf("goroutines: got %d, want %d", after.goroutines, before.goroutines)
		case after.FDs > before.FDs*11/10+1:
			return fmt.Errorf("descriptors: got %d, want %d", after.FDs, before.FDs)
		case after.RSS > max(before.RSS+8<<20, before.RSS*11/10):
			return fmt.Errorf("memory: got %d MiB, want %d", after.RSS>>20, before.RSS>>20)
		}
		return nil
	})
	t.Logf("before %+v, after %+v", before, after)
	got := upstream.Requests()
	if len(got) != warmUp+many {
		t.Fatalf("requests: got %d, want %d", len(got), warmUp+many)
	}
	for _, request := range got {
		if request.Header.Get("X-Key") != value {
			t.Fatalf("X-Key: got %q, want %q", request.Header.Get("X-Key"), value)
		}
	}
}

// load is what a server holds at one moment.
type load struct {
	testbench.Usage
	goroutines int
}

func loadOf(t *testing.T, s *server) load {
	t.Helper()
	return load{s.usage(t), s.goroutines(t)}
}

// settled waits until closed tunnels are gone from the server: until the number
// of its goroutines has not become less for half a second. It becomes more now and
// then, by the connection that the last question came by.
func settled(t *testing.T, s *server) load {
	t.Helper()
	last, since := load{}, time.Now()
	testbench.Await(t, time.Minute, func() error {
		now := loadOf(t, s)
		if last.goroutines == 0 || now.goroutines < last.goroutines {
			last, since = now, time.Now()
		}
		if time.Since(since) < 500*time.Millisecond {
			return fmt.Errorf("goroutines: still changing, %d now", now.goroutines)
		}
		last = now
		return nil
	})
	return last
}

// openTunnels opens n tunnels, a few at a time, each with a CONNECT, a TLS
// handshake and one GET, and closes them.
func openTunnels(t *testing.T, s *server, upstream *testbench.Upstream, token string, n int) {
	t.Helper()
	transport := s.transport(t, only((*http.Protocols).SetHTTP1))
	transport.DisableKeepAlives = true
	client := &http.Client{Transport: transport}
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range tunnelWorkers {
		workers.Go(func() {
			for number := range numbers {
				if err := throughTunnel(t, client, upstream, token); err != nil {
					t.Errorf("tunnel %d: %v", number, err)
				}
			}
		})
	}
	for number := range n {
		if t.Failed() {
			break
		}
		numbers <- number
	}
	close(numbers)
	workers.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func throughTunnel(t *testing.T, client *http.Client, upstream *testbench.Upstream, token string) error {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, upstream.URL(testbench.APIHost), nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Key", token)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("got %d (%v), want 200", resp.StatusCode, err)
	}
	return nil
}
