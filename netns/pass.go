package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// Socket describes one socket of an [Outlet] on its way to another process.
type Socket struct {
	Role    Role   `json:"role"`
	Network string `json:"network"` // tcp or udp
}

// Role is what a socket of the namespace is for.
type Role string

const (
	roleWildcard Role = "wildcard" // every address at one port
	roleCatchAll Role = "catchall" // every other port, by redirection
	roleProxy    Role = "proxy"    // for programs that know the proxy
	roleNames    Role = "names"    // name service
)

// MaxPassed is how many descriptors the kernel passes at once (unix(7)).
const MaxPassed = 253

// Peer is who is at the other end of a unix socket.
type Peer struct {
	PID int
	UID int

	// Local says that the peer's socket was made in the network namespace of this
	// process. A program cannot make one in a namespace that it is not in.
	Local bool
}

// Files returns copies of the outlet's sockets, to be passed to another process
// that becomes their server.
func (o *Outlet) Files() ([]Socket, []*os.File, error) {
	var sockets []Socket
	var files []*os.File
	add := func(role Role, network string, from any) error {
		f, ok := from.(interface{ File() (*os.File, error) })
		if !ok {
			return fmt.Errorf("passing a %T on: it has no descriptor", from)
		}
		file, err := f.File()
		if err != nil {
			return fmt.Errorf("passing a socket on: %w", err)
		}
		sockets, files = append(sockets, Socket{role, network}), append(files, file)
		return nil
	}
	var err error
	for role, listeners := range map[Role][]net.Listener{roleWildcard: o.Wildcard, roleCatchAll: o.CatchAll, roleNames: o.Names} {
		for _, l := range listeners {
			err = errors.Join(err, add(role, "tcp", l))
		}
	}
	for _, p := range o.Packets {
		err = errors.Join(err, add(roleNames, "udp", p))
	}
	err = errors.Join(err, add(roleProxy, "tcp", o.Proxy))
	if err != nil {
		closeAll(files)
		return nil, nil, err
	}
	return sockets, files, nil
}

// newOutlet makes an outlet of sockets whose files come in the same order. The
// files are the caller's to close.
func newOutlet(sockets []Socket, files []*os.File) (*Outlet, error) {
	o := new(Outlet)
	for i, s := range sockets {
		if err := o.add(s, files[i]); err != nil {
			return nil, errors.Join(err, o.Close())
		}
	}
	return o, nil
}

func (o *Outlet) add(s Socket, file *os.File) error {
	if s.Network == "udp" {
		packets, err := net.FilePacketConn(file)
		if err != nil {
			return fmt.Errorf("taking over a socket: %w", err)
		}
		o.Packets = append(o.Packets, packets)
		return nil
	}
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("taking over a socket: %w", err)
	}
	switch {
	case s.Role == roleWildcard:
		o.Wildcard = append(o.Wildcard, listener)
	case s.Role == roleCatchAll:
		o.CatchAll = append(o.CatchAll, listener)
	case s.Role == roleNames:
		o.Names = append(o.Names, listener)
	case s.Role == roleProxy && o.Proxy == nil:
		o.Proxy = listener
	default:
		return errors.Join(fmt.Errorf("a socket too many for %q", s.Role), listener.Close())
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}
