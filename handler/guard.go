package handler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/starpod/caddy-starpod/tokens"
)

// Guard decides where the proxy may connect. Rules are tried in the order they
// were written and the first that matches decides; where none matches, the
// public internet is open and every special-purpose range is closed. A name
// that is allowed stays closed for addresses that the name does not open.
//
// Names are judged before anything is resolved, addresses when the socket is
// about to connect, so a name cannot change its address in between.
type Guard struct {
	Rules []EgressRule

	// Self returns the addresses that the proxy itself listens on. They are
	// refused whatever the rules say. May be nil.
	Self func() []netip.AddrPort

	// Resolver looks names up; nil means the system's.
	Resolver *net.Resolver

	// Timeout bounds one dial, name lookup included. Default: 10 s.
	Timeout time.Duration
}

// EgressRule is one word of an `allow` or `deny` line.
type EgressRule struct {
	Allow bool
	Text  string       // as written, for messages
	Net   netip.Prefix // valid for an address rule
	Host  string       // pattern as in a token, or "*", for a name rule
}

// privateRanges are what the word private_ranges stands for, the same as
// Caddy's own shortcut (RFC 1918, RFC 4193, loopback).
var privateRanges = []string{
	"192.168.0.0/16", "172.16.0.0/12", "10.0.0.0/8", "127.0.0.0/8", "fd00::/8", "::1/128",
}

// ParseEgressRule reads one word of an allow or deny line: a CIDR, an address,
// a host pattern with an optional port, "*", or private_ranges (which gives
// several rules).
func ParseEgressRule(allow bool, word string) ([]EgressRule, error) {
	if word == "private_ranges" {
		var rules []EgressRule
		for _, cidr := range privateRanges {
			rules = append(rules, EgressRule{Allow: allow, Text: word, Net: netip.MustParsePrefix(cidr)})
		}
		return rules, nil
	}
	if prefix, err := netip.ParsePrefix(word); err == nil {
		if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96) // as addresses are judged
		}
		return []EgressRule{{Allow: allow, Text: word, Net: prefix.Masked()}}, nil
	}
	if addr, err := netip.ParseAddr(strings.Trim(word, "[]")); err == nil {
		addr = addr.Unmap()
		return []EgressRule{{Allow: allow, Text: word, Net: netip.PrefixFrom(addr, addr.BitLen())}}, nil
	}
	if strings.Contains(word, "/") {
		return nil, fmt.Errorf("%q is not a CIDR: write it like 10.0.0.0/8", word)
	}
	if word != "*" {
		if err := tokens.CheckHostPattern(word); err != nil {
			return nil, fmt.Errorf("%q is neither an address range nor a host pattern: %w", word, err)
		}
	}
	return []EgressRule{{Allow: allow, Text: word, Host: word}}, nil
}

// specialRanges is what nobody reaches without an allow line, from the IANA
// special-purpose registries (RFC 6890 and successors). IPv4 addresses embedded
// in IPv6 are unwrapped before the test, see embedded.
var specialRanges = []struct {
	prefix netip.Prefix
	name   string
}{
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local and cloud metadata"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("fec0::/10"), "site-local"},
	{netip.MustParsePrefix("fd00:ec2::254/128"), cloudMetadata},  // AWS
	{netip.MustParsePrefix("fd20:ce::254/128"), cloudMetadata},   // Google
	{netip.MustParsePrefix("100.100.100.200/32"), cloudMetadata}, // Alibaba
	{netip.MustParsePrefix("168.63.129.16/32"), cloudMetadata},   // Azure, a public address
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("fc00::/7"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT"},
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol assignments"},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking"},
	{netip.MustParsePrefix("2001:2::/48"), "benchmarking"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved and broadcast"},
	// Where the IPv4 address stands in it is up to each network (RFC 8215).
	{netip.MustParsePrefix("64:ff9b:1::/48"), "local-use NAT64"},
}

const cloudMetadata = "cloud metadata"

// specialNames are names that lead to a special address by definition: localhost
// (RFC 6761, section 6.3), with all below it, and those of metadata services.
var specialNames = []struct {
	name string
	addr netip.Addr
}{
	{"localhost", netip.AddrFrom4([4]byte{127, 0, 0, 1})},
	{"metadata.google.internal", netip.AddrFrom4([4]byte{169, 254, 169, 254})},
	{"metadata.goog", netip.AddrFrom4([4]byte{169, 254, 169, 254})},
	{"instance-data.ec2.internal", netip.AddrFrom4([4]byte{169, 254, 169, 254})},
}

// special returns the name of the special range that holds addr, "" for none.
func special(addr netip.Addr) string {
	for _, r := range specialRanges {
		if r.prefix.Contains(addr) {
			return r.name
		}
	}
	for _, way := range embedded(addr) {
		if name := special(way.addr); name != "" {
			return name + " (inside " + way.how + ")"
		}
	}
	return ""
}

// innerAddr is an IPv4 address that an IPv6 address leads to, and by which mechanism.
type innerAddr struct {
	addr netip.Addr
	how  string
}

// embedded returns the IPv4 addresses that an IPv6 address may lead to:
// IPv4-mapped and IPv4-compatible (RFC 4291), IPv4-translated (RFC 2765), 6to4
// (RFC 3056), NAT64 (RFC 6052: the well-known prefix, and every layout in the
// local-use one), Teredo (RFC 4380: server, and client in its complement) and
// ISATAP (RFC 5214, below any prefix).
func embedded(addr netip.Addr) (ways []innerAddr) {
	if !addr.Is6() {
		return nil
	}
	b := addr.As16()
	add := func(how string, i, j, k, l int) {
		ways = append(ways, innerAddr{netip.AddrFrom4([4]byte{b[i], b[j], b[k], b[l]}), how})
	}
	switch {
	case addr.Is4In6():
		add("an IPv4-mapped address", 12, 13, 14, 15)
	case prefixCompatible.Contains(addr):
		add("an IPv4-compatible address", 12, 13, 14, 15)
	case prefixTranslated.Contains(addr):
		add("an IPv4-translated address", 12, 13, 14, 15)
	case prefix6to4.Contains(addr):
		add("6to4", 2, 3, 4, 5)
	case prefixNAT64.Contains(addr):
		add("NAT64", 12, 13, 14, 15)
	case prefixLocalNAT64.Contains(addr): // octet 8 is never a part of the address
		add("NAT64", 12, 13, 14, 15)
		add("NAT64", 6, 7, 9, 10)
		add("NAT64", 7, 9, 10, 11)
		add("NAT64", 9, 10, 11, 12)
	case prefixTeredo.Contains(addr):
		add("Teredo", 4, 5, 6, 7)
		ways = append(ways, innerAddr{netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), "Teredo"})
	}
	if b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		add("ISATAP", 12, 13, 14, 15)
	}
	return ways
}

var (
	prefixCompatible = netip.MustParsePrefix("::/96")
	prefixTranslated = netip.MustParsePrefix("::ffff:0:0:0/96")
	prefix6to4       = netip.MustParsePrefix("2002::/16")
	prefixNAT64      = netip.MustParsePrefix("64:ff9b::/96")
	prefixLocalNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")
	prefixTeredo     = netip.MustParsePrefix("2001::/32")
)

// CheckName judges a destination before it is resolved. decided says that a
// name rule spoke, so that the addresses behind the name are open.
func (g *Guard) CheckName(d Destination) (decided bool, err error) {
	if addr, err := netip.ParseAddr(d.Host); err == nil {
		return false, g.checkAddr(d, addr)
	}
	for _, r := range g.Rules {
		if r.Host == "" || !r.matchesName(d) {
			continue
		}
		if r.Allow {
			return true, nil
		}
		return true, refuseEgress(d, "deny "+r.Text, "remove the line `deny "+r.Text+"`")
	}
	return false, nil
}

func (r EgressRule) matchesName(d Destination) bool {
	return r.Host == "*" || tokens.HostMatches([]string{r.Host}, d.Host, d.Port)
}

// checkAddr judges the address that is about to be dialled for d. Rules are
// walked in order, name rules too, since an address rule written before a name
// rule decides first.
func (g *Guard) checkAddr(d Destination, addr netip.Addr) error {
	addr = addr.Unmap().WithZone("")
	if g.isSelf(netip.AddrPortFrom(addr, d.Port)) {
		return &Refusal{
			Status: http.StatusForbidden, Rule: RuleSelf,
			Reason: fmt.Sprintf("%s is this proxy itself", d),
		}
	}
	class, nameDecided := special(addr), false
	for _, r := range g.Rules {
		switch {
		case r.Host == "" && !r.matchesAddr(addr), r.Host != "" && (nameDecided || !r.matchesName(d)):
			continue
		case !r.Allow:
			return refuseEgress(d, "deny "+r.Text, "remove the line `deny "+r.Text+"`")
		case class == "" || r.opens(class):
			return nil
		}
		nameDecided = nameDecided || r.Host != ""
	}
	if class != "" {
		return refuseEgress(d, fmt.Sprintf("%s is a %s address", addr, class),
			fmt.Sprintf("add the line `allow %s` to egress", d.opener(addr, class)))
	}
	return nil
}

// opener returns the narrowest word that would allow d at addr: with its port
// where the client named the address itself. A name is not offered, since whoever
// serves it could point it anywhere afterwards.
func (d Destination) opener(addr netip.Addr, class string) string {
	if word := d.HostPort(); d.Host == addr.String() && (EgressRule{Host: word}).opens(class) {
		return word
	}
	return addr.String()
}

// opens reports whether an allow rule opens an address of a special range. An
// address rule does, but private_ranges does not mean the metadata addresses in
// them. An exact name does for the ranges that people keep services in, since whoever
// writes the name means that service; a wildcard never does, since whoever
// serves the zone could point a name anywhere.
func (r EgressRule) opens(class string) bool {
	if r.Host == "" {
		return r.Text != "private_ranges" || class != cloudMetadata
	}
	exact := !strings.Contains(r.Host, "*")
	return exact && (class == "private" || class == "loopback" || class == "carrier-grade NAT")
}

func (r EgressRule) matchesAddr(addr netip.Addr) bool {
	if r.Net.Contains(addr) {
		return true
	}
	// A deny of an IPv4 range reaches the IPv6 ways into it; an allow does not.
	return !r.Allow && slices.ContainsFunc(embedded(addr), func(i innerAddr) bool { return r.Net.Contains(i.addr) })
}

// isSelf reports whether target is one of the proxy's own listeners. A wildcard
// listener is reached by every address of this machine, and an IPv4 one by the
// IPv6 ways to it.
func (g *Guard) isSelf(target netip.AddrPort) bool {
	if g.Self == nil {
		return false
	}
	for _, way := range embedded(target.Addr()) {
		if g.isSelf(netip.AddrPortFrom(way.addr, target.Port())) {
			return true
		}
	}
	for _, own := range g.Self() {
		if own.Port() != target.Port() {
			continue
		}
		if own.Addr().Unmap() == target.Addr() || target.Addr().IsUnspecified() {
			return true
		}
		if own.Addr().IsUnspecified() && isLocal(target.Addr()) {
			return true
		}
	}
	return false
}

func isLocal(addr netip.Addr) bool {
	if addr.IsLoopback() || addr.IsUnspecified() {
		return true
	}
	local, err := net.InterfaceAddrs()
	if err != nil {
		return true // when in doubt, refuse
	}
	for _, l := range local {
		if p, err := netip.ParsePrefix(l.String()); err == nil && p.Addr().Unmap() == addr {
			return true
		}
	}
	return false
}

// Dial connects to d if the guard lets it: the check runs on the address that
// the kernel is about to be given.
func (g *Guard) Dial(ctx context.Context, d Destination) (net.Conn, error) {
	if _, err := g.CheckName(d); err != nil {
		return nil, err
	}
	dialer := net.Dialer{
		Timeout:  g.timeout(),
		Resolver: g.Resolver,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			target, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("judging %s: %w", address, err)
			}
			return g.checkAddr(d, target.Addr())
		},
	}
	conn, err := dialer.DialContext(ctx, "tcp", d.HostPort())
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
		return nil, refusal
	}
	return conn, err
}

func (g *Guard) timeout() time.Duration {
	if g.Timeout > 0 {
		return g.Timeout
	}
	return 10 * time.Second
}

func refuseEgress(d Destination, why, mend string) *Refusal {
	return &Refusal{
		Status: http.StatusForbidden, Rule: RuleEgress,
		Reason: fmt.Sprintf("connecting to %s is refused: %s", d, why),
		Mend:   mend,
	}
}
