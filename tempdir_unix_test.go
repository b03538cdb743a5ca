//go:build unix

package starpod

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTempDirRemovesWhatIsAbandoned: folders of proxies that were killed, and
// nothing else; and nothing that a command has left there keeps it waiting.
func TestTempDirRemovesWhatIsAbandoned(t *testing.T) {
	parent := t.TempDir()
	t.Setenv("TMPDIR", parent)
	held, err := makeTempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.remove() })
	for _, test := range []struct {
		name, folder string
		lock         func(path string) error
		removed      bool
	}{
		{"of a proxy that was killed", "starpod-123", func(path string) error { return os.WriteFile(path, nil, 0o600) }, true},
		{"of a proxy that lives", filepath.Base(held.path), func(string) error { return nil }, false},
		{"of a proxy that is about to lock", "starpod-124", func(string) error { return nil }, false},
		{"of somebody who chose the name", "starpod-project", func(path string) error { return os.WriteFile(path, nil, 0o600) }, false},
		{"with a file that is no lock", "starpod-125", func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) }, false},
		{"with a named pipe", "starpod-126", func(path string) error { return unix.Mkfifo(path, 0o600) }, false},
		{"with a link", "starpod-127", func(path string) error { return os.Symlink("/etc/passwd", path) }, false},
		{"with a folder", "starpod-128", func(path string) error { return os.Mkdir(path, 0o700) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			folder := filepath.Join(parent, test.folder)
			if err := os.MkdirAll(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := test.lock(filepath.Join(folder, lockFile)); err != nil {
				t.Fatal(err)
			}
			removeAbandoned(parent)
			if _, err := os.Lstat(folder); os.IsNotExist(err) != test.removed {
				t.Errorf("got removed: %t, want %t", os.IsNotExist(err), test.removed)
			}
		})
	}
}
