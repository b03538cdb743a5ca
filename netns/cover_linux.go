package netns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What a program shall not see is covered in a mount namespace of its own:
// /dev/null over a file, an empty folder over a folder. A mount lies on the file
// itself, so symbolic links to it, and other names of its folder, end there too.
// The program cannot take it off: in any namespace that it may make, mounts that
// it was given are locked together (mount_namespaces(7)).

// resolvers are sockets by which the C library has names looked up outside of the
// namespace. Without them it asks the name service.
var resolvers = []string{
	"/run/nscd/socket", "/var/run/nscd/socket",
	"/run/systemd/resolve/io.systemd.Resolve",
	"/run/avahi-daemon/socket",
}

const resolvConf = "/etc/resolv.conf"

// keepMounts keeps what is mounted in this namespace from appearing outside.
func keepMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	return nil
}

// coverAll covers what exists of paths, and puts a file in the place of
// /etc/resolv.conf if resolver names one.
func coverAll(paths []string, resolver string) error {
	if resolver != "" {
		if target, err := filepath.EvalSymlinks(resolvConf); err == nil {
			if err := unix.Mount(resolver, target, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("covering %s: %w", resolvConf, err)
			}
		}
	}
	for _, path := range slices.Concat(paths, resolvers, []string{recordDir}) {
		if err := cover(path); err != nil {
			return fmt.Errorf("hiding %s: %w", path, err)
		}
	}
	return nil
}

// cover hides one file or folder, wherever else its file system is mounted.
func cover(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, fs.ErrPermission) {
		return nil // what this user cannot find the program cannot either
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(real)
	if err != nil {
		return err
	}
	if folder, err := os.Getwd(); err == nil && info.IsDir() && inside(folder, real) {
		return errors.New("the command would start in a folder that is hidden from it; start it elsewhere, or keep what is to be hidden in a folder of its own")
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() && stat.Nlink > 1 {
		return fmt.Errorf("it has %d names (hard links), and the others would stay; remove them", stat.Nlink)
	}
	if err := coverPath(real, info); err != nil {
		return err
	}
	others, err := otherPaths(real)
	if err != nil {
		return err
	}
	for _, other := range others {
		again, err := os.Stat(other)
		if err != nil || !os.SameFile(info, again) {
			continue // something else is mounted there, or it cannot be reached
		}
		if err := coverPath(other, info); err != nil {
			return err
		}
	}
	return nil
}

func coverPath(path string, info fs.FileInfo) error {
	if info.IsDir() {
		return unix.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k,mode=755")
	}
	return unix.Mount("/dev/null", path, "", unix.MS_BIND, "")
}

// mount is a line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	device string // major:minor
	root   string // folder of the file system that is mounted
	point  string // where
	kind   string // type of the file system
}

// otherPaths returns where else the file at path could be reached because its
// file system, or a part of it, is mounted more than once.
func otherPaths(path string) ([]string, error) {
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	return aliases(mounts, path), nil
}

// readMounts lists the mounts of this process, outer ones first.
func readMounts() ([]mount, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return parseMounts(file)
}

func aliases(mounts []mount, path string) []string {
	// The mount that path is on: the last of the longest. Those that have just
	// been put on path itself are left out.
	var on *mount
	for i := range mounts {
		m := &mounts[i]
		if m.point != path && inside(path, m.point) && (on == nil || len(m.point) >= len(on.point)) {
			on = m
		}
	}
	if on == nil {
		return nil
	}
	within := filepath.Join(on.root, strings.TrimPrefix(path, on.point))
	var found []string
	for _, m := range mounts {
		if m.device != on.device || !inside(within, m.root) {
			continue
		}
		if other := filepath.Join(m.point, strings.TrimPrefix(within, m.root)); other != path {
			found = append(found, other)
		}
	}
	return found
}

// inside reports whether path is folder or lies in it.
func inside(path, folder string) bool {
	return path == folder || folder == "/" || strings.HasPrefix(path, folder+"/")
}

func parseMounts(r io.Reader) ([]mount, error) {
	var mounts []mount
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		separator := slices.Index(fields, "-")
		if separator < 6 || separator == len(fields)-1 {
			return nil, fmt.Errorf("a line of mountinfo is %q", scanner.Text())
		}
		mounts = append(mounts, mount{device: fields[2], root: unescape(fields[3]), point: unescape(fields[4]), kind: fields[separator+1]})
	}
	return mounts, scanner.Err()
}

// unescape undoes the octal escapes of white space and backslashes.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if code, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
