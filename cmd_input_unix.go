//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package starpod

import "golang.org/x/sys/unix"

// hideTyping makes a terminal show no more what is typed.
func hideTyping(terminal int) error {
	termios, err := unix.IoctlGetTermios(terminal, readTermios)
	if err != nil {
		return err
	}
	termios.Lflag &^= unix.ECHO
	return unix.IoctlSetTermios(terminal, writeTermios, termios)
}
