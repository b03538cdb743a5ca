//go:build unix

package handler

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// canLook says that silent can tell.
const canLook = true

// silent reports whether nothing has come from the other end of an idle connection,
// its end included. What has come is lost: the connection is good for nothing then.
func silent(conn net.Conn) bool {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return true // in tests
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, err := unix.Read(int(fd), one[:]) // net's sockets do not block
		quiet = err == unix.EAGAIN || err == unix.EWOULDBLOCK
		return true
	})
	return err == nil && quiet
}
