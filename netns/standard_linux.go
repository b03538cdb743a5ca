package netns

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// checkStandardFiles refuses files that reach around the namespace.
func checkStandardFiles(cmd *exec.Cmd) error {
	for _, file := range []any{cmd.Stdin, cmd.Stdout, cmd.Stderr} {
		f, ok := file.(*os.File)
		if !ok || f == nil {
			continue // exec.Cmd puts a pipe in between
		}
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		reason := ""
		if err := raw.Control(func(fd uintptr) { reason = leadsAround(int(fd)) }); err != nil {
			return err
		}
		if reason != "" {
			return fmt.Errorf("%s is %s", f.Name(), reason)
		}
	}
	return nil
}

// leadsAround says of a descriptor how it reaches around namespaces: a network
// socket, or one that can be connected anew, belongs to the network that it was
// made in, and a folder to the mounts of those who opened it.
func leadsAround(fd int) string {
	const mend = "put a pipe in between, like `… | cat`"
	if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil {
		kind, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		_, notConnected := unix.Getpeername(fd)
		switch {
		case domain != unix.AF_UNIX:
			return "a network socket, which leads around the isolation: " + mend
		case kind == unix.SOCK_DGRAM, notConnected != nil:
			return "a unix socket without a fixed other end, which leads around the isolation: " + mend
		}
	}
	var stat unix.Stat_t
	if unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		return "a folder, in which nothing would be hidden: name another file, or /dev/null"
	}
	return ""
}
