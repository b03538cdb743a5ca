//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package ca

import (
	"os"
	"syscall"
)

// lockDir waits for the exclusive lock of a directory and returns what lets it
// go. A lock on the directory itself leaves no file behind, and ends with the
// process. Where it cannot be had, there is none.
func lockDir(dir string) (unlock func()) {
	d, err := os.Open(dir)
	if err != nil {
		return func() {}
	}
	for {
		if err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != syscall.EINTR {
			return func() { _ = d.Close() }
		}
	}
}
