package netns

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// onePacket is a socket on which one packet arrives.
type onePacket struct {
	packet  []byte
	again   chan struct{} // closed when the packet has been taken and the next is waited for
	end     chan struct{} // closed by a deadline that has passed, or by Close
	endOnce sync.Once
	reads   int

	mu      sync.Mutex
	answers [][]byte
}

func newOnePacket(packet []byte) *onePacket {
	return &onePacket{packet: packet, again: make(chan struct{}), end: make(chan struct{})}
}

func (p *onePacket) ReadFrom(buffer []byte) (int, net.Addr, error) {
	p.reads++
	if p.reads == 1 {
		return copy(buffer, p.packet), p.LocalAddr(), nil
	}
	if p.reads == 2 {
		close(p.again)
	}
	<-p.end
	return 0, nil, os.ErrDeadlineExceeded
}

func (p *onePacket) WriteTo(answer []byte, _ net.Addr) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers = append(p.answers, append([]byte(nil), answer...))
	return len(answer), nil
}

func (p *onePacket) SetReadDeadline(deadline time.Time) error {
	if deadline.Before(time.Now()) {
		p.endOnce.Do(func() { close(p.end) })
	}
	return nil
}

func (p *onePacket) Close() error {
	p.endOnce.Do(func() { close(p.end) })
	return nil
}

func (p *onePacket) LocalAddr() net.Addr              { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (p *onePacket) SetDeadline(time.Time) error      { return nil }
func (p *onePacket) SetWriteDeadline(time.Time) error { return nil }

// FuzzNameService sends packets through the whole server. An answer must belong to
// its query, fit into what every client takes, and hold no address but those of
// Names and, for localhost, the loopback's.
func FuzzNameService(f *testing.F) {
	names := tinyNames()
	for _, name := range []string{"a.example.com.", "localhost.", "x.localhost.", "2.0.18.198.in-addr.arpa.", `\000.`, ".", "1.2.3.4."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR, dns.TypeHTTPS, dns.TypeANY, dns.TypeTXT} {
			query := new(dns.Msg).SetQuestion(name, kind).SetEdns0(4096, kind == dns.TypeA)
			query.Compress = true
			packet, err := query.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(packet)
		}
	}
	f.Add([]byte{})
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}) // promises a question
	f.Fuzz(func(t *testing.T, packet []byte) {
		socket := newOnePacket(packet)
		stop := (&NameService{Names: names}).Serve([]net.PacketConn{socket}, nil)
		<-socket.again
		stop()
		checkNames(t, names)
		if len(socket.answers) > 1 {
			t.Fatalf("got %d answers, want one at most", len(socket.answers))
		}
		for _, answer := range socket.answers {
			checkAnswer(t, names, packet, answer)
		}
	})
}

func checkAnswer(t *testing.T, names *Names, packet, answer []byte) {
	t.Helper()
	reply := new(dns.Msg)
	if err := reply.Unpack(answer); err != nil {
		t.Fatalf("got an answer that does not parse: %v", err)
	}
	if len(packet) < 2 || string(answer[:2]) != string(packet[:2]) || !reply.Response {
		t.Fatalf("got answer %v, want the query's id and QR", reply)
	}
	if len(answer) > dns.MinMsgSize {
		t.Fatalf("got %d bytes, want at most %d", len(answer), dns.MinMsgSize)
	}
	for _, record := range reply.Answer {
		localhost := false
		if name, err := canonicalName(reply.Question[0].Name); err == nil {
			localhost = isLocalhost(name)
		}
		switch record := record.(type) {
		case *dns.A:
			addr, _ := netip.AddrFromSlice(record.A.To4())
			if localhost && addr == netip.MustParseAddr("127.0.0.1") {
				continue
			}
			want, err := canonicalName(record.Hdr.Name)
			if got, known := names.Name(addr); err != nil || localhost || !known || got != want || !nameRange.Contains(addr) {
				t.Fatalf("got %s, the address of %q, want one of Names for %q", addr, got, want)
			}
		case *dns.AAAA:
			if !localhost || !record.AAAA.Equal(net.IPv6loopback) {
				t.Fatalf("got %s, want an IPv6 address for localhost only", record)
			}
		case *dns.PTR:
			addr, _ := reversedAddress(record.Hdr.Name)
			if name, known := names.Name(addr); !known || dns.Fqdn(name) != record.Ptr {
				t.Fatalf("got %s, want the name %q", record, name)
			}
		default:
			t.Fatalf("got %s, want A, AAAA or PTR", record)
		}
	}
}
