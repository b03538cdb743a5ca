package netns

import (
	"errors"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST, which share a number
// (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h).
const soOriginalDst = 80

// OriginalDst returns the address that the client of an accepted TCP connection
// dialled. redirected says that a firewall rule led the connection here and told
// the address; else it is the local address of the socket.
func OriginalDst(conn net.Conn) (addr netip.AddrPort, redirected bool, err error) {
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return addr, false, errors.New("finding the original destination: not a TCP connection")
	}
	addr = unmapped(local.AddrPort())
	raw, ok := conn.(syscall.Conn)
	if !ok {
		return addr, false, nil
	}
	control, err := raw.SyscallConn()
	if err != nil {
		return addr, false, err
	}
	dialled := netip.AddrPort{}
	err = control.Control(func(fd uintptr) { dialled = socketOriginalDst(int(fd), addr.Addr().Is4()) })
	if err != nil {
		return addr, false, err
	}
	if !dialled.IsValid() || dialled == addr {
		return addr, false, nil
	}
	return dialled, true, nil
}

// socketOriginalDst asks connection tracking, which knows nothing of most
// connections. The structures that x/sys fills for other options are as long as
// the sockaddr_in and sockaddr_in6 that the kernel writes.
func socketOriginalDst(fd int, v4 bool) netip.AddrPort {
	if v4 {
		in, err := unix.GetsockoptIPv6Mreq(fd, unix.IPPROTO_IP, soOriginalDst)
		if err != nil {
			return netip.AddrPort{}
		}
		b := in.Multiaddr // family (2), port (2, big endian), address (4)
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
	}
	in6, err := unix.GetsockoptIPv6MTUInfo(fd, unix.IPPROTO_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}
	}
	port := in6.Addr.Port // as it stood in memory: big endian
	return netip.AddrPortFrom(netip.AddrFrom16(in6.Addr.Addr), port<<8|port>>8)
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
