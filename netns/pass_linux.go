package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// TakeOutlet makes an outlet of sockets that another process has passed. It looks
// at each first: they must be listening TCP sockets and bound UDP sockets of one
// network namespace, and that must not be this process's own, where everybody
// could connect to them. The files are the caller's to close.
func TakeOutlet(sockets []Socket, files []*os.File) (*Outlet, error) {
	if len(sockets) != len(files) {
		return nil, fmt.Errorf("%d descriptors came for %d sockets", len(files), len(sockets))
	}
	own, err := ownNetwork()
	if err != nil {
		return nil, err
	}
	var common uint64
	for i, file := range files {
		network, err := checkPassed(sockets[i], int(file.Fd()))
		switch {
		case err != nil:
			return nil, fmt.Errorf("descriptor %d: %w", i+1, err)
		case network == own:
			return nil, fmt.Errorf("descriptor %d: the socket is not in a namespace of its own", i+1)
		case i > 0 && network != common:
			return nil, fmt.Errorf("descriptor %d: the socket is in another namespace than the others", i+1)
		}
		common = network
	}
	o, err := newOutlet(sockets, files)
	if err != nil {
		return nil, err
	}
	if o.Proxy == nil {
		return nil, errors.Join(errors.New("no socket for programs that know the proxy"), o.Close())
	}
	return o, nil
}

// checkPassed looks at one descriptor, and returns the cookie of its network.
func checkPassed(s Socket, fd int) (network uint64, err error) {
	option := func(name int) int {
		value, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, name)
		if err != nil {
			return -1
		}
		return value
	}
	if domain := option(unix.SO_DOMAIN); domain != unix.AF_INET && domain != unix.AF_INET6 {
		return 0, errors.New("it is no internet socket")
	}
	kind, protocol := option(unix.SO_TYPE), option(unix.SO_PROTOCOL)
	isTCP := kind == unix.SOCK_STREAM && (protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_MPTCP)
	_, connected := unix.Getpeername(fd)
	switch {
	case s.Network == "tcp" && (s.Role == roleWildcard || s.Role == roleCatchAll || s.Role == roleProxy || s.Role == roleNames):
		if !isTCP || option(unix.SO_ACCEPTCONN) != 1 {
			return 0, errors.New("it is no listening TCP socket")
		}
	case s.Network == "udp" && s.Role == roleNames:
		if kind != unix.SOCK_DGRAM || protocol != unix.IPPROTO_UDP || connected == nil || !isBound(fd) {
			return 0, errors.New("it is no UDP socket that is bound and not connected")
		}
	default:
		return 0, fmt.Errorf("nobody serves %s for %q", strconv.Quote(s.Network), s.Role)
	}
	return networkOf(fd)
}

func isBound(fd int) bool {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return name.Port != 0
	case *unix.SockaddrInet6:
		return name.Port != 0
	}
	return false
}

// networkOf tells which network namespace a socket belongs to, by a number that
// is never given twice (SO_NETNS_COOKIE, Linux 5.14).
func networkOf(fd int) (uint64, error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("finding the network namespace of a socket, which takes Linux 5.14: %w", err)
	}
	return cookie, nil
}

func ownNetwork() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return networkOf(fd)
}

// PeerOf tells who is at the other end of a connection (SO_PEERCRED: as it was
// when the connection was made).
//
// The kernel makes the socket that accepts in the network namespace of the one
// that connects, so it tells where the peer's was made.
func PeerOf(conn *net.UnixConn) (p Peer, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return p, err
	}
	own, err := ownNetwork()
	if err != nil {
		return p, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		var ucred *unix.Ucred
		if ucred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		var network uint64
		network, err = networkOf(int(fd))
		p = Peer{PID: int(ucred.Pid), UID: int(ucred.Uid), Local: network == own}
	})
	return p, errors.Join(controlErr, err)
}

// ListenUnix listens at a path by a socket that only its owner may connect to,
// from the moment that it is there. It does not go with the listener: the caller
// removes it.
func ListenUnix(path string) (*net.UnixListener, error) {
	short, done, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer done()
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		controlErr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(controlErr, err)
	}}
	listener, err := config.Listen(context.Background(), "unix", short)
	if err != nil {
		return nil, err
	}
	l := listener.(*net.UnixListener)
	l.SetUnlinkOnClose(false)
	return l, nil
}

// DialUnix connects to a socket at a path.
func DialUnix(path string) (*net.UnixConn, error) {
	short, done, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer done()
	return net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: short})
}

// shortPath returns another path for one that is longer than the address of a
// socket may be.
func shortPath(path string) (short string, done func(), err error) {
	const longest = len(unix.RawSockaddrUnix{}.Path) - 1
	if len(path) <= longest {
		return path, func() {}, nil
	}
	folder, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", folder, filepath.Base(path)), func() { _ = unix.Close(folder) }, nil
}

// SendFiles writes data to a connection, with the files at its first byte
// (unix(7), SCM_RIGHTS).
func SendFiles(conn *net.UnixConn, data []byte, files []*os.File) error {
	fds := make([]int, len(files))
	for i, file := range files {
		fds[i] = int(file.Fd())
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(data, rights, nil)
	if err == nil && n < len(data) {
		_, err = conn.Write(data[n:])
	}
	return err
}

// ReceiveFiles reads into data once, with the files that come with it. More than
// MaxPassed of them are an error.
func ReceiveFiles(conn *net.UnixConn, data []byte) (n int, files []*os.File, err error) {
	rights := make([]byte, unix.CmsgSpace(4*MaxPassed))
	n, rightsLen, flags, _, err := conn.ReadMsgUnix(data, rights)
	if err != nil {
		return n, nil, err
	}
	files, err = receivedFiles(rights[:rightsLen])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = fmt.Errorf("more than %d descriptors came at once", MaxPassed)
	}
	if err != nil {
		closeAll(files)
		return n, nil, err
	}
	return n, files, nil
}
