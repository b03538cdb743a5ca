package netns

import (
	"errors"
	"io"
	"net"
	"net/netip"
)

// CellConfig describes the namespace of a command.
type CellConfig struct {
	// Ports are TCP ports at which every address is the proxy. Default: 80, 443.
	Ports []uint16

	// User is who the command runs as; only root can choose. Default: who this
	// process runs as.
	User *User

	// Namespace is the path of a namespace to enter in place of a new one, like
	// /run/netns/starpod-ns. That takes root.
	Namespace string

	// Late says that the command will be started by exec.Cmd.Start in place of
	// [Cell.Start]. Into a namespace that is named, it comes then without a user
	// namespace of its own, which keeps it from looking into other processes of
	// its user.
	Late bool
}

// Outlet is the sockets of a sealed namespace: all that its programs can reach.
type Outlet struct {
	Wildcard []net.Listener // the local address of a connection is the one dialled
	CatchAll []net.Listener // OriginalDst tells the address
	Proxy    net.Listener   // for programs that know the proxy
	Names    []net.Listener // name service over TCP
	Packets  []net.PacketConn

	// Note says what is there in a weaker form; "" for nothing.
	Note string
}

// ProxyAddr is where programs of the namespace find the proxy.
func (o *Outlet) ProxyAddr() netip.AddrPort {
	if addr, ok := o.Proxy.Addr().(*net.TCPAddr); ok {
		return addr.AddrPort()
	}
	return netip.AddrPort{}
}

// Wrap puts each listener that the proxy is to serve into another one.
func (o *Outlet) Wrap(wrap func(net.Listener) net.Listener) {
	for _, listeners := range [][]net.Listener{o.Wildcard, o.CatchAll} {
		for i, l := range listeners {
			listeners[i] = wrap(l)
		}
	}
	o.Proxy = wrap(o.Proxy)
}

// Close closes all sockets.
func (o *Outlet) Close() error {
	var err error
	for _, closer := range o.closers() {
		if closeErr := closer.Close(); !errors.Is(closeErr, net.ErrClosed) {
			err = errors.Join(err, closeErr)
		}
	}
	return err
}

func (o *Outlet) closers() []io.Closer {
	var all []io.Closer
	for _, listeners := range [][]net.Listener{o.Wildcard, o.CatchAll, o.Names} {
		for _, l := range listeners {
			all = append(all, l)
		}
	}
	for _, p := range o.Packets {
		all = append(all, p)
	}
	if o.Proxy != nil {
		all = append(all, o.Proxy)
	}
	return all
}

// Entry is what the command meets when it begins.
type Entry struct {
	// Env replaces the command's environment; nil keeps it.
	Env []string

	// Covers are files and folders that the command finds empty. Those that do
	// not exist are left out; a file with more than one hard link is an error.
	Covers []string

	// ResolvConf is a file to put in the place of /etc/resolv.conf; "" for none.
	ResolvConf string
}
