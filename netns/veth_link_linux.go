package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// rulePriority is that of the routing rule of the host's end: behind the local
// table's 0, in front of everybody's.
const rulePriority = 1

// link makes the pair of interfaces with their addresses; they are still down.
// Neither has IPv6, not even a link-local address.
func (v *Veth) link() error {
	inside, err := netns.GetFromPath(v.Path())
	if err != nil {
		return err
	}
	defer inside.Close()
	if err := v.Do(func() error { return errors.Join(disableIPv6("all"), disableIPv6("default")) }); err != nil {
		return err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = v.config.HostInterface
	pair := netlink.NewVeth(attributes)
	pair.PeerName, pair.PeerNamespace = v.config.PeerInterface, netlink.NsFd(int(inside))
	err = netlink.LinkAdd(pair)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return &Unavailable{Reason: "the kernel has no veth interfaces", Mend: "modprobe veth", Err: err}
	}
	if err != nil {
		return fmt.Errorf("making the interfaces %s and %s: %w", v.config.HostInterface, v.config.PeerInterface, err)
	}
	if err := disableIPv6(v.config.HostInterface); err != nil {
		return err
	}
	// What comes with a source that is not behind the interface is dropped.
	if err := setting("ipv4/conf/"+v.config.HostInterface+"/rp_filter", "1"); err != nil {
		return err
	}
	host, err := netlink.LinkByName(v.config.HostInterface)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(host, &netlink.Addr{IPNet: ipNet(v.host, v.config.Subnet)}); err != nil {
		return fmt.Errorf("giving %s an address: %w", v.config.HostInterface, err)
	}
	if err := netlink.RuleAdd(unreachableRule(v.config.HostInterface)); err != nil {
		return fmt.Errorf("making the routing rule of %s: %w", v.config.HostInterface, err)
	}
	return nil
}

func unreachableRule(iface string) *netlink.Rule {
	rule := netlink.NewRule()
	rule.IifName, rule.Priority, rule.Type, rule.Family = iface, rulePriority, unix.RTN_UNREACHABLE, netlink.FAMILY_V4
	return rule
}

// up brings both ends up, and leads all traffic of the namespace to the host's.
func (v *Veth) up() error {
	host, err := netlink.LinkByName(v.config.HostInterface)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(host); err != nil {
		return fmt.Errorf("bringing %s up: %w", v.config.HostInterface, err)
	}
	err = v.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		peer, err := netlink.LinkByName(v.config.PeerInterface)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(peer, &netlink.Addr{IPNet: ipNet(v.peer, v.config.Subnet)}); err != nil {
			return err
		}
		if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(peer)); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: peer.Attrs().Index, Gw: v.host.AsSlice()})
	})
	if err != nil {
		return fmt.Errorf("furnishing the namespace %s: %w", v.config.Name, err)
	}
	return nil
}

// unlink removes the pair and its routing rule, as far as they are there.
func (r *record) unlink() error {
	err := netlink.RuleDel(unreachableRule(r.HostInterface))
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	host, findErr := netlink.LinkByName(r.HostInterface)
	if errors.As(findErr, new(netlink.LinkNotFoundError)) {
		return err
	}
	if findErr != nil {
		return errors.Join(err, findErr)
	}
	if delErr := netlink.LinkDel(host); !errors.Is(delErr, unix.ENODEV) { // it goes with a namespace that somebody removed
		err = errors.Join(err, delErr)
	}
	return err
}

func ipNet(addr netip.Addr, subnet netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(subnet.Bits(), addr.BitLen())}
}

// inUse reports whether an address or a route of the host lies in the subnet, or
// holds it: any but the default one.
func inUse(subnet netip.Prefix) bool {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return false
	}
	for _, route := range routes {
		if route.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(route.Dst.IP)
		bits, _ := route.Dst.Mask.Size()
		if ok && bits > 0 && netip.PrefixFrom(addr.Unmap(), bits).Overlaps(subnet) {
			return true
		}
	}
	return false
}

// disableIPv6 is for an interface, all or default, of this thread's namespace.
func disableIPv6(iface string) error {
	err := setting("ipv6/conf/"+iface+"/disable_ipv6", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	return err
}

// setting writes a file of /proc/sys/net.
func setting(name, value string) error {
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
		return &Unavailable{Reason: "network settings cannot be changed", Mend: "let /proc/sys be writable", Err: err}
	}
	return nil
}

// onOwnThread calls f on a thread that ends with it, whatever f makes of it.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- f()
	}()
	return <-done
}
