package handler

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestFullDisk: a body that does not fit on the disk is refused, none of it is
// sent, and what it took is given back.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	dir := t.TempDir()
	const room = 1 << 20
	if err := syscall.Mount("starpod-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", room)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer, p.Swap.SpoolDir = smallBuffer, dir })
	b.proxy.Init()
	watchSecrecy(b)
	b.serveWatched()
	token := b.token("api.starpod.test")
	for _, h2 := range []bool{false, true} {
		for size, status := range map[int]int{2 * room: 503, room / 2: 200} {
			b.up.Forget()
			b.proxy.upstream.closeIdle()
			response, body := b.do(b.client(h2), b.request("POST", b.up.URL("api.starpod.test")+"/", strings.Repeat("x", size)+token, "X-Key", token))
			if response.StatusCode != status || status == 503 && !strings.Contains(body, `"rule":"`+RuleSpool+`"`) {
				t.Errorf("%d bytes, h2 %v: got status %d %s, want %d", size, h2, response.StatusCode, body, status)
			}
			b.findSecret("the answer", []byte(body))
			if status == 503 {
				b.nothingReached()
			}
		}
	}
	testbench.Await(t, longest, func() error {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(dir, &fs); err != nil || fs.Bfree != fs.Blocks || b.proxy.spooled.Load() != 0 {
			return fmt.Errorf("left on the disk: %d of %d blocks (%v), and %d bytes counted", fs.Blocks-fs.Bfree, fs.Blocks, err, b.proxy.spooled.Load())
		}
		return nil
	})
}

// TestFaultsLeaveNoDescriptors counts them before and after all faults.
func TestFaultsLeaveNoDescriptors(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer = smallBuffer })
	b.do(b.client(false), b.request("GET", b.up.URL("api.starpod.test")+"/", ""))
	leaf := b.faultyLeaf()
	var targets []string
	for _, f := range faults {
		authority, _ := b.faulty(f, leaf) // its listener stays
		targets = append(targets, "https://"+authority+"/")
	}
	before := testbench.ReadUsage(t, os.Getpid()).FDs
	client := b.client(false)
	for _, target := range targets {
		if response, err := client.Do(b.request("POST", target, strings.Repeat("x", faultBody))); err == nil {
			response.Body.Close()
		}
	}
	client.CloseIdleConnections()
	testbench.Await(t, longest, func() error {
		if now := testbench.ReadUsage(t, os.Getpid()).FDs; now > before {
			return fmt.Errorf("got %d descriptors, want %d", now, before)
		}
		return nil
	})
}
