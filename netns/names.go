package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/starpod/caddy-starpod/tokens"
)

// maxNames is how many names are remembered, so that a program that makes names
// up cannot make memory grow: about 8 MiB when all are as long as can be. The
// range has eight times as many addresses, so one that was given up rests for a
// while before another name gets it.
const maxNames = 16384

// nameRange is set aside for benchmarks of network devices (RFC 2544, appendix
// C.2.2; RFC 6890), so nothing of the internet is hidden by it.
var nameRange = netip.MustParsePrefix("198.18.0.0/15")

// Both are within nameRange. Its first and last address look like those of a
// network and its broadcasts, and 198.18.0.1 is the name service's own.
var (
	firstAddress = netip.MustParseAddr("198.18.0.2")
	lastAddress  = netip.MustParseAddr("198.19.255.254")
)

// Names gives each name an address of its own in 198.18.0.0/15 and knows the name
// again. It is safe for concurrent use.
//
// A name keeps its address while it is among the 16384 that were used last; an
// address has never two names.
type Names struct {
	first, last netip.Addr // of the addresses to give
	size        int        // how many names are remembered

	mu        sync.Mutex
	next      netip.Addr // where to look for a free address
	addresses *simplelru.LRU[string, netip.Addr]
	names     map[netip.Addr]string // the reverse of addresses
}

// NewNames returns Names that know no name yet.
func NewNames() *Names { return newNames(firstAddress, lastAddress, maxNames) }

// newNames remembers at most as many names as there are addresses from first to
// last, and at most bound, which is positive.
func newNames(first, last netip.Addr, bound int) *Names {
	size := 1
	for addr := first; addr != last && size < bound; addr = addr.Next() {
		size++
	}
	n := &Names{first: first, last: last, size: size, next: first, names: map[netip.Addr]string{}}
	forget := func(_ string, addr netip.Addr) { delete(n.names, addr) }
	addresses, err := simplelru.NewLRU(size, forget)
	if err != nil {
		panic(err) // only for a size below 1
	}
	n.addresses = addresses
	return n
}

// Address returns the name's address, which is a new one for a name that is not
// remembered. Case and a trailing dot do not matter. It is an error if no host can
// be called so, or if the name is an address itself or one of localhost (RFC 6761
// §6.3), whose addresses are the loopback's.
func (n *Names) Address(name string) (netip.Addr, error) {
	name, err := canonicalName(name)
	if err != nil {
		return netip.Addr{}, err
	}
	if isLocalhost(name) {
		return netip.Addr{}, errors.New("giving localhost an address: it has its own")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if addr, known := n.addresses.Get(name); known {
		return addr, nil
	}
	if n.addresses.Len() == n.size {
		n.addresses.RemoveOldest()
	}
	addr := n.free()
	n.addresses.Add(name, addr)
	n.names[addr] = name
	return addr, nil
}

// free returns an address without a name, and there is one. It goes round the
// range, so that the address that was given up last is the last to come up again.
func (n *Names) free() netip.Addr {
	for {
		addr := n.next
		if n.next = addr.Next(); addr == n.last {
			n.next = n.first
		}
		if _, taken := n.names[addr]; !taken {
			return addr
		}
	}
}

// Name returns the name, lower case and without trailing dot, that an address was
// given for. It counts as a use of the name.
func (n *Names) Name(addr netip.Addr) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	name, known := n.names[addr.Unmap()]
	if known {
		n.addresses.Get(name)
	}
	return name, known
}

func canonicalName(name string) (string, error) {
	host, err := tokens.CanonicalHost(name)
	if err != nil {
		return "", fmt.Errorf("giving a name an address: %w", err)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", errors.New("giving a name an address: it is an address itself")
	}
	return host, nil
}

// isLocalhost takes a canonical name.
func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}
