package testbench

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// Resolver answers A and AAAA queries from a table, with a name server of its
// own on loopback; a name that is not in the table does not exist. Names have
// no trailing dot.
func Resolver(tb testing.TB, table map[string][]string) *net.Resolver {
	tb.Helper()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("starting a name server: %v", err)
	}
	started := make(chan struct{})
	server := &dns.Server{PacketConn: packets, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		answer := new(dns.Msg).SetReply(query)
		question := query.Question[0]
		addresses, known := table[question.Name[:len(question.Name)-1]]
		if !known {
			answer.Rcode = dns.RcodeNameError
		}
		for _, text := range addresses {
			addr := netip.MustParseAddr(text)
			header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET}
			switch {
			case addr.Is4() && question.Qtype == dns.TypeA:
				answer.Answer = append(answer.Answer, &dns.A{Hdr: header, A: addr.AsSlice()})
			case addr.Is6() && question.Qtype == dns.TypeAAAA:
				answer.Answer = append(answer.Answer, &dns.AAAA{Hdr: header, AAAA: addr.AsSlice()})
			}
		}
		_ = w.WriteMsg(answer)
	})}
	go server.ActivateAndServe()
	<-started // one that has not begun cannot be shut down
	tb.Cleanup(func() { server.Shutdown() })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", packets.LocalAddr().String())
	}}
}
