package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"github.com/google/nftables"
)

// The rules of a namespace. With sp-veth0 as the host's end, 10.200.1.1 as its
// address, 10.200.1.2 in the namespace and a proxy at port 8080:
//
//	nat
//	  PREROUTING  -i sp-veth0 -> STARPOD-PRE-sp-veth0
//	    tcp port 80, 443    DNAT to 10.200.1.1:8080
//	    udp, tcp port 53    DNAT to the name service at 10.200.1.1
//	    other tcp, udp      DNAT to 10.200.1.1, where it is rejected
//	filter
//	  INPUT       -i sp-veth0 -> STARPOD-IN-sp-veth0
//	    from 10.200.1.2 to 10.200.1.1, proxy and name service: ACCEPT
//	    answers to connections that the host opened: ACCEPT
//	    REJECT, so that a program hears at once; DROP
//	  FORWARD     -i sp-veth0, -o sp-veth0 -> STARPOD-FWD-sp-veth0
//	    REJECT; DROP
//
// The jumps stand first in their chains, in front of Docker's and everybody's.
// There is no masquerading, and ip_forward stays as it is. Should somebody flush
// the rules, a routing rule still lets nothing through:
//
//	ip rule add iif sp-veth0 unreachable
//
// (It is asked after the local table, so what is for the host itself arrives.)

type firewall struct {
	tables          *iptables.IPTables
	host            string // interface
	hostIP, peerIP  string
	ports           []uint16
	proxy           uint16 // 0: there is none yet
	names, namesTCP uint16
}

func openFirewall() (*iptables.IPTables, error) {
	tables, err := iptables.New()
	if err != nil {
		return nil, &Unavailable{Reason: "iptables not found", Mend: "install it: apt-get install iptables", Err: err}
	}
	return tables, nil
}

func (f *firewall) chain(kind string) string { return "STARPOD-" + kind + "-" + f.host }

// jump is a rule of a chain that everybody shares.
type jump struct {
	table, chain string
	rule         []string
}

func (f *firewall) jumps() []jump {
	return []jump{
		{"nat", "PREROUTING", []string{"-i", f.host, "-j", f.chain("PRE")}},
		{"filter", "INPUT", []string{"-i", f.host, "-j", f.chain("IN")}},
		{"filter", "FORWARD", []string{"-i", f.host, "-j", f.chain("FWD")}},
		{"filter", "FORWARD", []string{"-o", f.host, "-j", f.chain("FWD")}},
	}
}

func (f *firewall) ownChains() [][2]string {
	return [][2]string{{"nat", f.chain("PRE")}, {"filter", f.chain("IN")}, {"filter", f.chain("FWD")}}
}

// build makes the chains, and leads to them last.
func (f *firewall) build() error {
	for _, c := range f.ownChains() {
		if err := f.tables.ClearChain(c[0], c[1]); err != nil {
			return &Unavailable{Reason: "iptables cannot make rules in table " + c[0], Mend: "see what `iptables -t " + c[0] + " -L` says", Err: err}
		}
	}
	for _, p := range []struct {
		protocol string
		port     uint16
	}{{"udp", f.names}, {"tcp", f.namesTCP}} {
		if err := f.tables.Append("nat", f.chain("PRE"), f.lead(p.protocol, 53, p.port)...); err != nil {
			return err
		}
		if err := f.tables.Append("filter", f.chain("IN"), f.accept(p.protocol, p.port)...); err != nil {
			return err
		}
	}
	for _, protocol := range []string{"tcp", "udp"} {
		if err := f.tables.Append("nat", f.chain("PRE"), "-p", protocol, "-j", "DNAT", "--to-destination", f.hostIP); err != nil {
			return err
		}
	}
	in, forward := f.chain("IN"), f.chain("FWD")
	answers := []string{"-m", "conntrack", "--ctstate", "ESTABLISHED", "--ctdir", "REPLY", "-j", "ACCEPT"}
	if err := f.tables.Append("filter", in, answers...); err != nil {
		return err
	}
	for _, chain := range []string{in, forward} {
		// A kernel without REJECT is one where programs wait.
		_ = f.tables.Append("filter", chain, "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")
		_ = f.tables.Append("filter", chain, "-j", "REJECT", "--reject-with", "icmp-admin-prohibited")
		if err := f.tables.Append("filter", chain, "-j", "DROP"); err != nil {
			return err
		}
	}
	for _, j := range f.jumps() {
		if err := f.tables.Insert(j.table, j.chain, 1, j.rule...); err != nil {
			return err
		}
	}
	return nil
}

func (f *firewall) lead(protocol string, from, to uint16) []string {
	return []string{"-p", protocol, "--dport", strconv.Itoa(int(from)),
		"-j", "DNAT", "--to-destination", f.hostIP + ":" + strconv.Itoa(int(to))}
}

func (f *firewall) accept(protocol string, port uint16) []string {
	return []string{"-s", f.peerIP, "-d", f.hostIP, "-p", protocol, "--dport", strconv.Itoa(int(port)), "-j", "ACCEPT"}
}

// redirect leads the ports to another port of the host's end. The new rules come
// before the old ones go: a connection meets one or the other.
func (f *firewall) redirect(to uint16) error {
	if err := f.tables.Insert("filter", f.chain("IN"), 1, f.accept("tcp", to)...); err != nil {
		return err
	}
	for _, port := range f.ports {
		if err := f.tables.Insert("nat", f.chain("PRE"), 1, f.lead("tcp", port, to)...); err != nil {
			return err
		}
	}
	before := f.proxy
	f.proxy = to
	if before == 0 {
		return nil
	}
	err := f.tables.Delete("filter", f.chain("IN"), f.accept("tcp", before)...)
	for _, port := range f.ports {
		// With the same target twice, the one further down goes.
		err = errors.Join(err, f.tables.Delete("nat", f.chain("PRE"), f.lead("tcp", port, before)...))
	}
	return err
}

// remove takes away what build has made, as far as it is there.
func (f *firewall) remove() error {
	var err error
	for _, j := range f.jumps() {
		// Looking for a rule that leads to a chain which is not there is an error.
		if there, _ := f.tables.ChainExists(j.table, j.rule[len(j.rule)-1]); there {
			err = errors.Join(err, f.tables.DeleteIfExists(j.table, j.chain, j.rule...))
		}
	}
	for _, c := range f.ownChains() {
		if there, _ := f.tables.ChainExists(c[0], c[1]); there {
			err = errors.Join(err, f.tables.ClearAndDeleteChain(c[0], c[1]))
		}
	}
	if err != nil {
		return fmt.Errorf("removing firewall rules: %w", err)
	}
	return nil
}

// firewallChains are those of iptables that our jumps are in, by their tables.
var firewallChains = map[string][]string{"filter": {"INPUT", "FORWARD"}, "nat": {"PREROUTING"}}

// missingTables returns the tables that do not exist yet, and as table/chain the
// chains missing in those that do. iptables makes them when it is called for the
// first time, and never removes them (with nftables below; the older kernel
// interface has no such notion).
func missingTables() []string {
	conn, err := nftables.New()
	if err != nil {
		return nil
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil
	}
	var missing []string
	for name, own := range firewallChains {
		if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name }) {
			missing = append(missing, name)
			continue
		}
		for _, chain := range own {
			if !slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == name && c.Name == chain }) {
				missing = append(missing, name+"/"+chain)
			}
		}
	}
	return missing
}

// removeTables removes tables and chains of iptables that nobody has put anything
// into.
func removeTables(names []string) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return err
	}
	for _, name := range names {
		table, chain, single := strings.Cut(name, "/")
		own := slices.DeleteFunc(slices.Clone(chains), func(c *nftables.Chain) bool {
			return c.Table.Name != table || single && c.Name != chain
		})
		empty := len(own) > 0
		for _, c := range own {
			if empty, err = isEmptyChain(conn, c); err != nil {
				return err
			}
			if !empty {
				break
			}
		}
		switch {
		case empty && single:
			conn.DelChain(own[0])
		case empty:
			conn.DelTable(own[0].Table)
		}
	}
	return conn.Flush()
}

// isEmptyChain reports whether a chain is as iptables makes its own.
func isEmptyChain(conn *nftables.Conn, chain *nftables.Chain) (bool, error) {
	rules, err := conn.GetRules(chain.Table, chain)
	changed := chain.Policy != nil && *chain.Policy != nftables.ChainPolicyAccept
	return err == nil && len(rules) == 0 && !changed && chain.Hooknum != nil, err
}

// ends are the first two addresses of a subnet.
func ends(subnet netip.Prefix) (host, peer netip.Addr) {
	host = subnet.Masked().Addr().Next()
	return host, host.Next()
}
