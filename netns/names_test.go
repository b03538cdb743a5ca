package netns

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

func address(t *testing.T, n *Names, name string) netip.Addr {
	t.Helper()
	addr, err := n.Address(name)
	if err != nil {
		t.Fatalf("Address(%q): got error %v, want an address", name, err)
	}
	return addr
}

func wantName(t *testing.T, n *Names, addr netip.Addr, want string) {
	t.Helper()
	got, known := n.Name(addr)
	if got != want || known != (want != "") {
		t.Errorf("Name(%s): got %q, %t, want %q", addr, got, known, want)
	}
}

// tinyNames has three addresses.
func tinyNames() *Names {
	return newNames(netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("198.18.0.4"), 100)
}

func TestNamesKnowNameOfAddress(t *testing.T) {
	n := NewNames()
	addr := address(t, n, "api.example.com")
	if !nameRange.Contains(addr) {
		t.Errorf("got address %s, want one in %s", addr, nameRange)
	}
	wantName(t, n, addr, "api.example.com")
	wantName(t, n, netip.AddrFrom16(addr.As16()), "api.example.com")
	wantName(t, n, netip.MustParseAddr("198.18.77.77"), "")
	wantName(t, n, netip.Addr{}, "")
	for _, same := range []string{"api.example.com", "API.Example.COM", "api.example.com."} {
		if got := address(t, n, same); got != addr {
			t.Errorf("Address(%q): got %s, want %s as for api.example.com", same, got, addr)
		}
	}
	if got := address(t, n, "other.example.com"); got == addr {
		t.Errorf("two names: got %s for both, want different addresses", got)
	}
}

func TestNamesRefuse(t *testing.T) {
	for name, refused := range map[string]string{
		"empty":             "",
		"root":              ".",
		"empty label":       "a..example.com",
		"leading dot":       ".example.com",
		"long label":        strings.Repeat("a", 64) + ".com",
		"long name":         strings.Repeat("a.", 127) + "a",
		"space":             "a b.com",
		"escaped dot":       `a\.b.com`,
		"zero byte":         "a\x00.com",
		"IPv4":              "192.0.2.1",
		"IPv4 with dot":     "192.0.2.1.",
		"IPv4 short":        "127.1",
		"IPv4 hexadecimal":  "0x7f000001",
		"ends in a number":  "example.1",
		"IPv6":              "2001:db8::1",
		"localhost":         "localhost",
		"below localhost":   "App.localhost.",
		"not UTF-8":         "\xff.com",
		"line feed":         "a.com\n",
		"wildcard":          "*.example.com",
		"address and port":  "example.com:443",
		"bracketed address": "[::1]",
	} {
		t.Run(name, func(t *testing.T) {
			n := NewNames()
			if addr, err := n.Address(refused); err == nil {
				t.Errorf("Address(%q): got %s, want an error", refused, addr)
			}
			if got := n.addresses.Len(); got != 0 {
				t.Errorf("got %d names remembered, want 0", got)
			}
		})
	}
}

func TestNamesTake(t *testing.T) {
	for _, name := range []string{
		"a", "com", "_dmarc.example.com", "r3---sn-1.example.com", "xn--bcher-kva.example",
		strings.Repeat("a", 63) + ".com", strings.Repeat("a.", 126) + "a", "1.example.com", "notlocalhost",
	} {
		n := NewNames()
		wantName(t, n, address(t, n, name), name)
	}
}

func TestNamesReuseTheOneNotUsedLongest(t *testing.T) {
	for name, use := range map[string]func(n *Names, a netip.Addr){
		"used by name":    func(n *Names, _ netip.Addr) { _, _ = n.Address("A.") },
		"used by address": func(n *Names, a netip.Addr) { n.Name(a) },
	} {
		t.Run(name, func(t *testing.T) {
			n := tinyNames()
			a, b, c := address(t, n, "a"), address(t, n, "b"), address(t, n, "c")
			use(n, a)
			if got := address(t, n, "d"); got != b {
				t.Errorf("fourth name: got %s, want %s that b had", got, b)
			}
			wantName(t, n, a, "a")
			wantName(t, n, b, "d")
			wantName(t, n, c, "c")
		})
	}
}

func TestNamesLetAddressesRest(t *testing.T) {
	n := newNames(netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("198.18.0.5"), 2)
	a := address(t, n, "a")
	address(t, n, "b")
	c, d := address(t, n, "c"), address(t, n, "d") // a and b are forgotten
	if c == a || d == a {
		t.Errorf("got %s and %s, want neither to be %s, which was given up just now", c, d, a)
	}
	wantName(t, n, a, "")
	if again := address(t, n, "e"); again != a {
		t.Errorf("after a round: got %s, want %s", again, a)
	}
}

func TestNamesKeepWithinRangeAndBound(t *testing.T) {
	n := NewNames()
	for i := range 1 << 17 { // as many as the range has addresses, so it wraps around
		name := fmt.Sprintf("n%d.example.com", i)
		addr := address(t, n, name)
		if addr.Less(firstAddress) || lastAddress.Less(addr) {
			t.Fatalf("name %d: got %s, want one from %s to %s", i, addr, firstAddress, lastAddress)
		}
	}
	checkNames(t, n)
	if got := n.addresses.Len(); got != maxNames {
		t.Errorf("got %d names, want %d", got, maxNames)
	}
}

// checkNames checks that no address has two names and that the bound holds.
func checkNames(t *testing.T, n *Names) {
	t.Helper()
	if got := n.addresses.Len(); got > n.size || got != len(n.names) {
		t.Fatalf("got %d names and %d addresses, want as many of each, at most %d", got, len(n.names), n.size)
	}
	for _, name := range n.addresses.Keys() {
		addr, _ := n.addresses.Peek(name)
		if got := n.names[addr]; got != name {
			t.Fatalf("%q has %s, whose name is %q, want them to be inverse", name, addr, got)
		}
	}
}

func TestNamesConcurrently(t *testing.T) {
	n := newNames(netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("198.18.0.9"), 100)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 1000 {
				addr, err := n.Address(fmt.Sprintf("n%d", (i*7+g)%20))
				if err != nil {
					t.Error(err)
					return
				}
				n.Name(addr)
			}
		})
	}
	all.Wait()
	checkNames(t, n)
}

func BenchmarkNamesAddressOfNewName(b *testing.B) {
	n := NewNames()
	for i := 0; b.Loop(); i++ {
		if _, err := n.Address(fmt.Sprintf("n%d.example.com", i)); err != nil {
			b.Fatal(err)
		}
	}
}
