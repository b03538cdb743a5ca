//go:build unix

package handler

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// canLook says that silent can tell.
const canLook = true

// silent reports whether nothing has come from the other end of an idle connection,
// its end included. What has come is lost: the connection is good for nothing then.
func silent(conn net.Conn) bool {
	socket := conn
	for {
		layer, ok := socket.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		socket = layer.NetConn()
	}
	return socketSilent(socket) && (socket == conn || layersSilent(conn))
}

func socketSilent(conn net.Conn) bool {
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

// layersSilent reports the same of what the layers above the socket, the TLS of an
// upstream proxy above all, have taken from it and not passed on. A deadline that is
// over keeps them from reading on.
func layersSilent(conn net.Conn) bool {
	if conn.SetReadDeadline(time.Unix(1, 0)) != nil {
		return false
	}
	var one [1]byte
	n, err := conn.Read(one[:])
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && conn.SetReadDeadline(time.Time{}) == nil
}
