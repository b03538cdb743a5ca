package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A sealed namespace holds a loopback interface and two routes,
//
//	local 0.0.0.0/0 dev lo
//	local ::/0      dev lo
//
// which make every address a local one: a socket that listens on the wildcard
// address at port 443 is port 443 of every host there is, and the local address
// of what it accepts is the address that was dialled. What nobody listens on is
// refused by the kernel, since no interface leads anywhere.

// openSealed furnishes the namespace of this process, which is new, and listens
// in it. Ports are those of the wildcard listeners.
func openSealed(ports []string) (opened, []*os.File, error) {
	hasIPv6, err := routeEverything()
	if err != nil {
		return opened{}, nil, err
	}
	silenceEcho(hasIPv6)
	s := &sealing{ipv6: hasIPv6}
	if err := s.listenAll(ports); err != nil {
		closeAll(s.files)
		return opened{}, nil, err
	}
	if err := s.catchAll(ports); err != nil {
		s.message.Note = "other TCP ports than " + join(ports) + " are refused by the kernel: " + err.Error()
	}
	return s.message, s.files, nil
}

func join(ports []string) string {
	text := ""
	for i, port := range ports {
		if i > 0 {
			text += ", "
		}
		text += port
	}
	return text
}

// routeEverything brings lo up and makes all addresses local.
func routeEverything() (hasIPv6 bool, err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return false, fmt.Errorf("finding the loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		if errors.Is(err, unix.EPERM) {
			// The namespace is there, its capabilities are not.
			return false, &Unavailable{
				Reason: "user namespaces are restricted",
				Mend:   "on Ubuntu: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns`",
				Err:    err,
			}
		}
		return false, fmt.Errorf("bringing the loopback interface up: %w", err)
	}
	for _, text := range []string{"0.0.0.0/0", "::/0"} {
		_, all, err := net.ParseCIDR(text)
		if err != nil {
			return false, err
		}
		err = netlink.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: all,
			Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
		})
		if text == "::/0" {
			return err == nil, nil // without it a kernel that has no IPv6 is complete
		}
		if err != nil {
			return false, fmt.Errorf("routing %s to the loopback interface: %w", text, err)
		}
	}
	return false, nil
}

// silenceEcho keeps the kernel from answering pings in the name of all hosts.
// What has not changed is no danger: such an answer comes from this namespace.
func silenceEcho(ipv6 bool) {
	_ = os.WriteFile("/proc/sys/net/ipv4/icmp_echo_ignore_all", []byte("1"), 0)
	if ipv6 {
		_ = os.WriteFile("/proc/sys/net/ipv6/icmp/echo_ignore_all", []byte("1"), 0)
	}
}

// sealing gathers the sockets to pass on.
type sealing struct {
	ipv6    bool
	message opened
	files   []*os.File
}

func (s *sealing) listenAll(ports []string) error {
	for _, port := range ports {
		if err := s.listen(roleWildcard, "", port); err != nil {
			return err
		}
	}
	if err := s.listen(roleNames, "", "53"); err != nil {
		return err
	}
	if err := s.listenPackets("53"); err != nil {
		return err
	}
	return s.listenOn(roleProxy, "tcp4", "127.0.0.1:0")
}

// listen listens at one port of all addresses, IPv4 and IPv6 apart.
func (s *sealing) listen(r Role, host, port string) error {
	if err := s.listenOn(r, "tcp4", net.JoinHostPort(host, port)); err != nil {
		return err
	}
	if !s.ipv6 {
		return nil
	}
	return s.listenOn(r, "tcp6", net.JoinHostPort(host, port))
}

func (s *sealing) listenOn(r Role, network, address string) error {
	listener, err := new(net.ListenConfig).Listen(context.Background(), network, address)
	if err != nil {
		return err
	}
	defer listener.Close()
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("%s is no TCP listener", address)
	}
	return s.add(r, "tcp", tcp.File)
}

func (s *sealing) listenPackets(port string) error {
	networks := []string{"udp4"}
	if s.ipv6 {
		networks = append(networks, "udp6")
	}
	for _, network := range networks {
		packets, err := new(net.ListenConfig).ListenPacket(context.Background(), network, ":"+port)
		if err != nil {
			return err
		}
		defer packets.Close()
		udp, ok := packets.(*net.UDPConn)
		if !ok {
			return fmt.Errorf("%s is no UDP socket", network)
		}
		if err := s.add(roleNames, "udp", udp.File); err != nil {
			return err
		}
	}
	return nil
}

func (s *sealing) add(r Role, network string, file func() (*os.File, error)) error {
	f, err := file()
	if err != nil {
		return err
	}
	s.files = append(s.files, f)
	s.message.Sockets = append(s.message.Sockets, Socket{Role: r, Network: network})
	return nil
}

// catchAll leads all other TCP ports to one more listener, by rules that redirect.
func (s *sealing) catchAll(ports []string) error {
	before := len(s.files)
	err := s.redirectOthers(ports)
	if err != nil {
		closeAll(s.files[before:])
		s.files, s.message.Sockets = s.files[:before], s.message.Sockets[:before]
	}
	return err
}

func (s *sealing) redirectOthers(ports []string) error {
	spared := []uint16{53}
	for _, port := range ports {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return err
		}
		spared = append(spared, uint16(n))
	}
	// Redirection changes the address to the loopback one of the family.
	v4, err := s.listenCatchAll("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	v6 := uint16(0)
	if s.ipv6 {
		if v6, err = s.listenCatchAll("tcp6", "[::1]:0"); err != nil {
			return err
		}
	}
	return redirectTCP(spared, v4, v6)
}

func (s *sealing) listenCatchAll(network, address string) (port uint16, err error) {
	if err := s.listenOn(roleCatchAll, network, address); err != nil {
		return 0, err
	}
	name, err := unix.Getsockname(int(s.files[len(s.files)-1].Fd()))
	if err != nil {
		return 0, err
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return uint16(name.Port), nil
	case *unix.SockaddrInet6:
		return uint16(name.Port), nil
	}
	return 0, errors.New("not an internet address")
}
