package netns

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Intact reports what of the namespace somebody else has taken away since it was
// made: its name, its interface, or the rules that keep its programs in. It asks the
// kernel and runs iptables six times, some milliseconds each.
func (v *Veth) Intact() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil
	}
	if there, err := inode(v.Path()); err != nil || there != v.record.Inode {
		return fmt.Errorf("the namespace is no longer at %s", v.Path())
	}
	if err := v.intactLink(); err != nil {
		return err
	}
	return v.firewall.intact()
}

func (v *Veth) intactLink() error {
	name := v.config.HostInterface
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return fmt.Errorf("the interface %s is gone", name)
	}
	if err != nil {
		return fmt.Errorf("looking for the interface %s: %w", name, err)
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		return fmt.Errorf("the interface %s is down", name)
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("reading the addresses of %s: %w", name, err)
	}
	if !slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.IP.Equal(v.host.AsSlice()) }) {
		return fmt.Errorf("the address %s of %s is gone", v.host, name)
	}
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("reading the routing rules: %w", err)
	}
	if !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.IifName == name && r.Priority == rulePriority }) {
		return fmt.Errorf("the routing rule of %s is gone", name)
	}
	return nil
}

// intact looks for the jumps, and in each chain of ours for what build has put
// last and redirect leaves there.
func (f *firewall) intact() error {
	wanted := make(map[[2]string][]string) // rules by table and chain
	for _, j := range f.jumps() {
		key := [2]string{j.table, j.chain}
		wanted[key] = append(wanted[key], ruleLine(j.chain, j.rule))
	}
	for _, c := range f.ownChains() {
		last := []string{"-j", "DROP"}
		if c[0] == "nat" {
			last = []string{"-p", "udp", "-j", "DNAT", "--to-destination", f.hostIP}
		}
		wanted[c] = append(wanted[c], ruleLine(c[1], last))
	}
	for key, lines := range wanted {
		there, err := f.tables.List(key[0], key[1])
		if err != nil {
			return fmt.Errorf("the firewall's chain %s of table %s cannot be read: %w", key[1], key[0], err)
		}
		for _, line := range lines {
			if !slices.Contains(there, line) {
				return fmt.Errorf("the firewall rule `iptables -t %s %s` is gone", key[0], line)
			}
		}
	}
	return nil
}

// ruleLine is a rule as iptables lists it.
func ruleLine(chain string, rule []string) string {
	line := "-A " + chain
	for _, word := range rule {
		line += " " + word
	}
	return line
}
