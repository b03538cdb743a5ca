package netns

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

// VethConfig describes a named namespace. Zero fields take the defaults.
type VethConfig struct {
	Name          string       // default starpod-ns
	HostInterface string       // on the host; default sp-veth0
	PeerInterface string       // in the namespace; default sp-veth1
	Subnet        netip.Prefix // its first address is the host's, the second the namespace's; default 10.200.1.0/24
	Ports         []uint16     // TCP ports that lead to the proxy, at any address; default 80, 443
	Logger        *zap.Logger  // default none
}

// maxInstances is how many namespaces are tried beside those that are taken.
const maxInstances = 64

func (c VethConfig) withDefaults() VethConfig {
	if c.Name == "" {
		c.Name = "starpod-ns"
	}
	if c.HostInterface == "" {
		c.HostInterface = "sp-veth0"
	}
	if c.PeerInterface == "" {
		c.PeerInterface = "sp-veth1"
	}
	if !c.Subnet.IsValid() {
		c.Subnet = netip.MustParsePrefix("10.200.1.0/24")
	}
	if len(c.Ports) == 0 {
		c.Ports = []uint16{80, 443}
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return c
}

// Validate reports what no namespace can be made of.
func (c VethConfig) Validate() error {
	c = c.withDefaults()
	if c.Name != strings.Trim(c.Name, ".") || strings.ContainsFunc(c.Name, notInName) {
		return fmt.Errorf("%q is no name of a namespace: use letters, digits, dots, dashes and underscores", c.Name)
	}
	const longest = 15 // IFNAMSIZ without its zero byte
	for _, name := range []string{c.HostInterface, c.PeerInterface} {
		if len(name) > longest || strings.ContainsFunc(name, notInName) {
			return fmt.Errorf("%q is no name of an interface: use at most %d letters, digits, dots, dashes and underscores", name, longest)
		}
	}
	if c.HostInterface == c.PeerInterface {
		return fmt.Errorf("host_interface and peer_interface are both %q", c.HostInterface)
	}
	if !c.Subnet.Addr().Is4() || c.Subnet.Bits() < 8 || c.Subnet.Bits() > 30 {
		return fmt.Errorf("%s is no subnet for a namespace: use an IPv4 range from /8 to /30", c.Subnet)
	}
	return nil
}

func notInName(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-", c)
}

// instance returns the configuration of the i-th instance beside others: the
// next name, pair of interfaces and subnet. The first is the configured one.
func (c VethConfig) instance(i int) VethConfig {
	if i == 0 {
		return c
	}
	c.Name += "-" + strconv.Itoa(i+1)
	c.HostInterface = numbered(c.HostInterface, 2*i)
	c.PeerInterface = numbered(c.PeerInterface, 2*i)
	return c
}

// numbered adds n to the number that a name ends with.
func numbered(name string, n int) string {
	stem := strings.TrimRight(name, "0123456789")
	number, _ := strconv.Atoi(name[len(stem):])
	return stem + strconv.Itoa(number+n)
}

// nextSubnet returns the subnet behind p of the same size; not valid behind the
// last one.
func nextSubnet(p netip.Prefix) netip.Prefix {
	b := p.Masked().Addr().As4()
	n := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
	n += 1 << (32 - p.Bits())
	if n >= 1<<32 {
		return netip.Prefix{}
	}
	next := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	return netip.PrefixFrom(next, p.Bits())
}
