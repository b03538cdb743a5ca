//go:build !linux

package netns

import (
	"net"
	"os"
)

// These are for processes that share namespaces, which only Linux has.
func TakeOutlet([]Socket, []*os.File) (*Outlet, error)            { return nil, unsupported() }
func PeerOf(*net.UnixConn) (Peer, error)                          { return Peer{}, unsupported() }
func ListenUnix(string) (*net.UnixListener, error)                { return nil, unsupported() }
func DialUnix(string) (*net.UnixConn, error)                      { return nil, unsupported() }
func SendFiles(*net.UnixConn, []byte, []*os.File) error           { return unsupported() }
func ReceiveFiles(*net.UnixConn, []byte) (int, []*os.File, error) { return 0, nil, unsupported() }
