package ca

import (
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// asNobody calls f on a thread whose file access is that of an ordinary user, if
// the test runs as root, whom no mode keeps out. The thread ends with it.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if os.Geteuid() == 0 {
			runtime.LockOSThread() // never unlocked: the runtime drops the thread
			if err := syscall.Setfsuid(65534); err != nil {
				t.Error(err)
				return
			}
		}
		f()
	}()
	<-done
}

func TestUnreadableFilesAreNamedAndNeverOverwritten(t *testing.T) {
	for _, file := range []string{CertFile, KeyFile} {
		t.Run(file, func(t *testing.T) {
			dir, _ := saved(t)
			for _, open := range []string{filepath.Dir(dir), dir} {
				if err := os.Chmod(open, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, file)
			before := snapshot(t, dir)
			if err := os.Chmod(path, 0); err != nil {
				t.Fatal(err)
			}
			for name, load := range map[string]func(string) (*Root, error){"Load": Load, "LoadOrGenerate": LoadOrGenerate} {
				var err error
				asNobody(t, func() { _, err = load(dir) })
				if err == nil {
					t.Fatalf("%s took it, want an error", name)
				}
				checkDamageError(t, err, path, "permission denied")
			}
			restored := map[string]os.FileMode{CertFile: 0o644, KeyFile: 0o600}[file]
			if err := os.Chmod(path, restored); err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(before, snapshot(t, dir)) {
				t.Error("the files changed")
			}
		})
	}
}
