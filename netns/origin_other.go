//go:build !linux

package netns

import (
	"errors"
	"net"
	"net/netip"
)

// OriginalDst returns the local address: nothing that redirects connections tells
// the address dialled here.
func OriginalDst(conn net.Conn) (addr netip.AddrPort, redirected bool, err error) {
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return addr, false, errors.New("finding the original destination: not a TCP connection")
	}
	return netip.AddrPortFrom(local.AddrPort().Addr().Unmap(), local.AddrPort().Port()), false, nil
}
