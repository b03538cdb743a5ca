//go:build unix

package starpod

import (
	"os"

	"golang.org/x/sys/unix"
)

// forwardedSignals go on to the command.
var forwardedSignals = []os.Signal{
	unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH,
}

// sentByTerminal reports whether the command, which is in the process group of
// this process, has received the signal already: a terminal sends what its
// keyboard and its size cause to the whole foreground group (termios(3)). A
// second interrupt would make many programs give up their clean end.
func sentByTerminal(sig os.Signal) bool {
	switch sig {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH:
	default:
		return false
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return false // no terminal
	}
	defer tty.Close()
	foreground, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}
