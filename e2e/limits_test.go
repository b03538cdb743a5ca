//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"golang.org/x/sys/unix"
)

// TestDescriptorsRunOut: a client holds more connections than the server may have
// descriptors. The server waits without using the processor, does not fill its
// log, lives on, and serves when the client lets go.
func TestDescriptorsRunOut(t *testing.T) {
	t.Parallel()
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	s := startServer(t, raceBinary(t), pki, "", "")
	value := newValue()
	token := s.seal(t, value, testbench.APIHost)
	transport := s.transport(t, only((*http.Protocols).SetHTTP1))
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	if err := throughTunnel(t, client, upstream, token); err != nil {
		t.Fatal(err)
	}
	transport.CloseIdleConnections()

	pid := s.Pid
	before := testbench.ReadUsage(t, pid).FDs
	limit := uint64(before + 20)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}, nil); err != nil {
		t.Fatal(err)
	}
	var held []net.Conn
	for range 60 { // those over the limit stay in the queue of the socket
		conn, err := net.Dial("tcp", s.URL.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		held = append(held, conn)
	}
	testbench.Await(t, 20*time.Second, func() error {
		if now := testbench.ReadUsage(t, pid).FDs; uint64(now) < limit-1 {
			return fmt.Errorf("descriptors: got %d, want all of %d in use", now, limit)
		}
		return nil
	})
	logged, used, began := len(s.log.String()), ticks(t, pid), time.Now()
	time.Sleep(time.Second) // what is measured is what it does meanwhile
	if share := float64(ticks(t, pid)-used) / 100 / time.Since(began).Seconds(); share > 0.5 {
		t.Errorf("without descriptors it uses %.0f %% of a processor", 100*share)
	}
	if more := len(s.log.String()) - logged; more > 64<<10 {
		t.Errorf("without descriptors it logs %d bytes a second", more)
	}
	for _, conn := range held {
		conn.Close()
	}
	if err := throughTunnel(t, client, upstream, token); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if got := upstream.Last(t).Header.Get("X-Key"); got != value {
		t.Errorf("afterwards the upstream got %q, want the value", got)
	}
	transport.CloseIdleConnections()
	testbench.Await(t, 20*time.Second, func() error {
		if now := testbench.ReadUsage(t, pid).FDs; now > before+2 { // what goes on to the upstream is kept
			return fmt.Errorf("descriptors: got %d, want %d", now, before)
		}
		return nil
	})
	s.Stop(t)
	s.holdsNo(t, "standard error", []byte(s.log.String()), value)
}

// ticks is the processor time of a process in hundredths of a second (proc(5), stat).
func ticks(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, errUser := strconv.Atoi(fields[11])
	system, errSystem := strconv.Atoi(fields[12])
	if errUser != nil || errSystem != nil {
		t.Fatalf("processor time: got %q", stat)
	}
	return user + system
}
