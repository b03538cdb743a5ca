//go:build unix

package starpod

import (
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// lockedFile makes a file in dir that is locked from the moment it has its name.
func lockedFile(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, lockFile+"-")
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		return nil, os.NewSyscallError("flock", err)
	}
	return file, os.Rename(file.Name(), filepath.Join(dir, lockFile))
}

// isAbandoned reports whether a folder is this user's and its lock nobody's.
func isAbandoned(folder string) bool {
	info, err := os.Lstat(folder)
	if err != nil || !info.IsDir() {
		return false
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Geteuid() {
		return false
	}
	// A command of this user may have put something there that keeps an open
	// waiting, like a named pipe.
	file, err := os.OpenFile(filepath.Join(folder, lockFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	if lock, err := file.Stat(); err != nil || !lock.Mode().IsRegular() || lock.Size() > 0 {
		return false
	}
	return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}
