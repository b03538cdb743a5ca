package ca

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// lockDir waits for the exclusive lock of a directory and returns what lets it
// go. Windows locks files only, so one is kept for it. Where it cannot be had,
// there is none.
func lockDir(dir string) (unlock func()) {
	f, err := os.OpenFile(filepath.Join(dir, "proxy-ca.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return func() {}
	}
	_ = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, new(windows.Overlapped))
	return func() { _ = f.Close() }
}
