package handler

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestSpoolFile looks at the file while the body is under way: it has no name,
// nobody else may read it, and it holds the token in place of the value.
func TestSpoolFile(t *testing.T) {
	dir := t.TempDir()
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer, p.Swap.SpoolDir = smallBuffer, dir })
	arrived, done := make(chan struct{}), make(chan struct{})
	b.up.HandleStream("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 10))
		close(arrived)
		<-done
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	token := b.token("api.starpod.test")
	text := strings.Repeat("x", 8<<20) + token
	finished := make(chan struct{})
	client, r := b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", text)
	go func() {
		defer close(finished)
		if response, err := client.Do(r); err == nil {
			response.Body.Close()
		}
	}()
	<-arrived
	files := openFiles(t, dir)
	if len(files) != 1 {
		t.Fatalf("got spool files %v, want one", files)
	}
	for path, name := range files {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 || !strings.HasSuffix(name, " (deleted)") {
			t.Errorf("%s: got mode %v (%v), want 0600 and no name", name, info.Mode(), err)
		}
		content, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(content, []byte(token)) || len(testbench.FindSecret(content, canary)) > 0 {
			t.Errorf("got %d bytes (%v), want the token in them and no value", len(content), err)
		}
	}
	close(done)
	<-finished
	testbench.Await(t, longest, func() error {
		if left := openFiles(t, dir); len(left) > 0 {
			return fmt.Errorf("still open: %v", left)
		}
		return nil
	})
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left in the folder: %v", left)
	}
}

// openFiles returns the descriptors of this process in a folder, with what they
// are called.
func openFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, fd := range fds {
		if name, err := os.Readlink(fd); err == nil && strings.HasPrefix(name, dir) {
			found[fd] = name
		}
	}
	return found
}
