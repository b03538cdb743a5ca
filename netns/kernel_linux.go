package netns

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// A program with the user id of root needs no capability for what the kernel
// guards by file modes alone: it could have the kernel execute something outside
// (/proc/sys/kernel/core_pattern, release_agent of a control group, binfmt_misc),
// or read the disk under a file that is hidden from it. In its mount namespace
// these settings are read-only, and there are no devices but those that every
// user may use.

// kernelSettings are folders and files of proc(5) that hold what is not a
// process's own.
var kernelSettings = []string{"sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi"}

// kernelFileSystems show the kernel's own objects.
var kernelFileSystems = []string{
	"sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs", "efivarfs", "pstore",
	"bpf", "binfmt_misc", "fusectl", "selinuxfs", "resctrl",
}

const (
	devices    = "/dev"
	forAnybody = 0o006 // to read and write
)

// guardKernel keeps root's programs from the settings and devices.
func guardKernel() error {
	if err := closeDevices(); err != nil {
		return err
	}
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		switch {
		case m.kind == "proc":
			for _, name := range kernelSettings {
				if err := freeze(filepath.Join(m.point, name)); err != nil {
					return err
				}
			}
		case slices.Contains(kernelFileSystems, m.kind):
			if err := setMount(m.point, unix.AT_RECURSIVE, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV); err != nil {
				return err
			}
		case inside(m.point, devices), m.kind == "devpts":
			// What is closed there is closed, and terminals are needed.
		default:
			if err := setMount(m.point, 0, unix.MOUNT_ATTR_NODEV); err != nil {
				return err
			}
		}
	}
	return nil
}

// freeze makes a part of a file system read-only, with what is mounted in it.
func freeze(path string) error {
	err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, "")
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) { // a container mounts single files of proc
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "bind", Path: path, Err: err}
	}
	return setMount(path, unix.AT_RECURSIVE, unix.MOUNT_ATTR_RDONLY)
}

// setMount sets attributes of a mount, and of those in it with AT_RECURSIVE.
func setMount(point string, flags uint, attributes uint64) error {
	err := unix.MountSetattr(unix.AT_FDCWD, point, flags, &unix.MountAttr{Attr_set: attributes})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EINVAL):
		return nil // something else is mounted over it
	case errors.Is(err, unix.EACCES):
		return nil // what root cannot reach here, its programs cannot either
	case err != nil:
		return &os.PathError{Op: "mount_setattr", Path: point, Err: err}
	}
	return nil
}

// closeDevices keeps those from being opened that not everybody may use: each is
// mounted on itself as one that is no device. (The whole folder cannot be such a
// mount, since /dev/ptmx works nowhere else.) The terminal of the program stays.
func closeDevices() error {
	terminal := standardDevices()
	return filepath.WalkDir(devices, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // it has gone, or nobody may look
		}
		if entry.IsDir() && path != devices && isMountPoint(path) {
			return filepath.SkipDir
		}
		if entry.Type()&fs.ModeDevice == 0 {
			return nil
		}
		info, err := entry.Info()
		if err != nil || entry.Type()&fs.ModeCharDevice != 0 && info.Mode().Perm()&forAnybody == forAnybody {
			return nil
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && slices.Contains(terminal, uint64(stat.Rdev)) {
			return nil
		}
		err = unix.Mount(path, path, "", unix.MS_BIND, "")
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "bind", Path: path, Err: err}
		}
		return setMount(path, 0, unix.MOUNT_ATTR_NODEV)
	})
}

// standardDevices are those that the standard files are open on.
func standardDevices() []uint64 {
	var found []uint64
	for fd := range 3 {
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFCHR {
			found = append(found, uint64(stat.Rdev)) // 32 bits on some machines
		}
	}
	return found
}

// isMountPoint reports whether another file system begins at a folder.
func isMountPoint(path string) bool {
	folder, err := os.Lstat(path)
	if err != nil {
		return false
	}
	parent, err := os.Lstat(filepath.Dir(path))
	if err != nil {
		return false
	}
	a, ok := folder.Sys().(*syscall.Stat_t)
	b, also := parent.Sys().(*syscall.Stat_t)
	return ok && also && a.Dev != b.Dev
}
