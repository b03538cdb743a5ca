package netns

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// redirectTCP leads the TCP connections that begin in this namespace to a port of
// its loopback interface. As nft would print the rules:
//
//	table inet starpod {
//		chain output {
//			type nat hook output priority dstnat;
//			ip  daddr 127.0.0.0/8 return    # services of the program's own
//			ip6 daddr ::1 return
//			tcp dport <each spared> return  # somebody listens on these
//			meta nfproto ipv4 meta l4proto tcp redirect to :<v4>
//			meta nfproto ipv6 meta l4proto tcp redirect to :<v6>
//		}
//	}
//
// It makes the difference between a refused and a served connection, and none for
// what can leave: nothing can, with or without it. A v6 of 0 leaves IPv6 out.
func redirectTCP(spared []uint16, v4, v6 uint16) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Name: "starpod", Family: nftables.TableFamilyINet})
	chain := conn.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	add := func(parts ...[]expr.Any) {
		var all []expr.Any
		for _, part := range parts {
			all = append(all, part...)
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: all})
	}
	leave := []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
	add(isFamily(unix.NFPROTO_IPV4), isDestination(netip.MustParsePrefix("127.0.0.0/8")), leave)
	add(isFamily(unix.NFPROTO_IPV6), isDestination(netip.MustParsePrefix("::1/128")), leave)
	for _, port := range spared {
		add(isTCP(), isPort(port), leave)
	}
	add(isFamily(unix.NFPROTO_IPV4), isTCP(), redirectTo(v4))
	if v6 != 0 {
		add(isFamily(unix.NFPROTO_IPV6), isTCP(), redirectTo(v6))
	}
	return conn.Flush()
}

func isFamily(family byte) []expr.Any {
	return isMeta(expr.MetaKeyNFPROTO, family)
}

func isTCP() []expr.Any {
	return isMeta(expr.MetaKeyL4PROTO, unix.IPPROTO_TCP)
}

func isMeta(key expr.MetaKey, value byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}},
	}
}

// Where the destination address stands in the headers (RFC 791, RFC 8200).
const (
	destinationOffset4 = 16
	destinationOffset6 = 24
)

func isDestination(prefix netip.Prefix) []expr.Any {
	addr := prefix.Addr().AsSlice()
	offset := uint32(destinationOffset4)
	if prefix.Addr().Is6() {
		offset = destinationOffset6
	}
	mask := make([]byte, len(addr))
	for i := range prefix.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	length := uint32(len(addr))
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: mask, Xor: make([]byte, length)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr},
	}
}

// isPort compares the destination port (RFC 9293, section 3.1).
func isPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

func redirectTo(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1},
	}
}
