//go:build linux

package e2e

import (
	"bufio"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// full has the tests use as much as a busy machine would. What they want is the same.
var full = flag.Bool("full", false, "10000 hosts, 1000 idle tunnels, 200 uploads, an upload of 1 GiB and so on, in place of fewer")

func sized[T any](usual, large T) T {
	if *full {
		return large
	}
	return usual
}

// TestMemoryUnderMany measures what hosts, idle tunnels and uploads cost.
//
// Not parallel: it measures the memory of a process that must do nothing else.
func TestMemoryUnderMany(t *testing.T) {
	hosts := sized(1100, 10000) // more than certificates are kept
	tunnels, uploads := sized(100, 1000), sized(20, 200)
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	s := startServer(t, plainBinary(t), pki, "", "")
	transport := s.transport(t, only((*http.Protocols).SetHTTP1))
	post(t, &http.Client{Transport: transport}, upstream, strings.NewReader("warm up"), 7)
	idle := s.usage(t).RSS
	check := func(what string, most int64) {
		t.Helper()
		now := s.usage(t).RSS
		t.Logf("%s: %d MiB, idle %d MiB", what, now>>20, idle>>20)
		if now > idle+most {
			t.Errorf("%s: got %d MiB above idle, want %d at most", what, (now-idle)>>20, most>>20)
		}
	}

	each(hosts, func(i int) {
		if conn := s.openTunnel(t, transport.TLSClientConfig, fmt.Sprintf("host-%d.starpod.test", i)); conn != nil {
			conn.Close()
		}
	})
	check(fmt.Sprintf("%d hosts", hosts), 64<<20)

	open := make([]net.Conn, tunnels)
	each(tunnels, func(i int) { open[i] = s.openTunnel(t, transport.TLSClientConfig, testbench.APIHost) })
	check(fmt.Sprintf("%d idle tunnels", tunnels), 64<<20+int64(tunnels)*128<<10)
	for _, conn := range open {
		if conn != nil {
			conn.Close()
		}
	}

	testbench.ResetPeak(t, s.Pid)
	const size = 4 << 20
	var group sync.WaitGroup
	for i := range uploads {
		group.Go(func() {
			length := int64(size)
			if i%2 == 1 {
				length = -1
			}
			if err := upload(t, &http.Client{Transport: transport}, upstream, io.LimitReader(zeros{}, size), length); err != nil {
				t.Errorf("upload %d: %v", i, err)
			}
		})
	}
	group.Wait()
	peak := testbench.ReadUsage(t, s.Pid).PeakRSS
	t.Logf("%d uploads of %d MiB: peak %d MiB, idle %d MiB", uploads, size>>20, peak>>20, idle>>20)
	if most := idle + 128<<20 + int64(uploads)*2<<20; peak > most {
		t.Errorf("%d uploads: got a peak of %d MiB, want %d at most", uploads, peak>>20, most>>20)
	}
}

// each calls f with the numbers below n, a few at a time.
func each(n int, f func(int)) {
	var workers sync.WaitGroup
	for worker := range tunnelWorkers {
		workers.Go(func() {
			for i := worker; i < n; i += tunnelWorkers {
				f(i)
			}
		})
	}
	workers.Wait()
}

// openTunnel opens a tunnel and makes the TLS handshake in it; nil if it failed.
func (s *server) openTunnel(t *testing.T, config *tls.Config, host string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.URL.Host)
	if err != nil {
		t.Error(err)
		return nil
	}
	fmt.Fprintf(conn, "CONNECT %[1]s:443 HTTP/1.1\r\nHost: %[1]s:443\r\n\r\n", host)
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
	if err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("a tunnel to %s: got %v (%v), want 200", host, response, err)
		conn.Close()
		return nil
	}
	config = config.Clone()
	config.ServerName = host
	secure := tls.Client(conn, config)
	if err := secure.Handshake(); err != nil {
		t.Errorf("a handshake with %s: %v", host, err)
		conn.Close()
		return nil
	}
	return secure
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
