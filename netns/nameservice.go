package netns

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
)

const (
	// nameTTL, in seconds, is short so that a program that uses a name for long
	// asks for it again, which keeps its address, and that an address given to
	// another name is soon forgotten; and long enough to spare a query for each of
	// a row of connections.
	nameTTL = 60

	// maxQuery is the longest query over UDP, in bytes: what passes everywhere
	// without fragments (DNS flag day 2020).
	maxQuery = 1232

	// What is open at once to each TCP listener, and how long a client may take to
	// send or read a message and to think of the next (RFC 7766 §6.2.3).
	maxNameConnections = 64
	nameMessageTimeout = 2 * time.Second
	nameIdleTimeout    = 8 * time.Second

	acceptPause = 50 * time.Millisecond
)

// NameService answers the DNS queries (RFC 1035) of the programs of a namespace,
// all by itself: it has no resolver, and no query leads to another.
//
//	A             the name's address of Names; of localhost 127.0.0.1
//	AAAA          no records; of localhost ::1
//	HTTPS, SVCB   no records
//	PTR           the name of an address of Names
//	others        refused
//
// Names that no host can bear, addresses among them, do not exist (NXDOMAIN).
type NameService struct {
	Names *Names

	// Failed is told when a socket is no longer served, though not stopped.
	// Optional.
	Failed func(error)
}

// Serve answers what comes over UDP and TCP, until stop closes the sockets and
// waits for what is being answered. An answer leaves from the address that was
// asked, which counts for sockets that are bound to all addresses.
func (s *NameService) Serve(packets []net.PacketConn, listeners []net.Listener) (stop func()) {
	var stops []func()
	for _, packetConn := range packets {
		stops = append(stops, s.serve(&dns.Server{PacketConn: packetConn}, packetConn.Close))
	}
	for _, listener := range listeners {
		stops = append(stops, s.serve(&dns.Server{Listener: limitNames(listener)}, listener.Close))
	}
	return sync.OnceFunc(func() {
		var all sync.WaitGroup
		for _, stop := range stops {
			all.Go(stop)
		}
		all.Wait()
	})
}

// serve returns when the server can be stopped.
func (s *NameService) serve(server *dns.Server, closeSocket func() error) (stop func()) {
	server.Handler = dns.HandlerFunc(s.answer)
	server.MsgAcceptFunc = acceptQuery
	server.UDPSize = maxQuery
	server.ReadTimeout = nameMessageTimeout
	server.IdleTimeout = func() time.Duration { return nameIdleTimeout }
	started, ended, stopping := make(chan struct{}), make(chan struct{}), make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() {
		defer close(ended)
		err := server.ActivateAndServe()
		select {
		case <-stopping:
		default:
			if s.Failed != nil {
				s.Failed(err)
			}
		}
	}()
	select {
	case <-started:
	case <-ended:
	}
	return func() {
		close(stopping)
		_ = server.Shutdown() // an error says that it never started
		_ = closeSocket()
		<-ended
	}
}

// acceptQuery looks at a message before it is parsed.
func acceptQuery(header dns.Header) dns.MsgAcceptAction {
	action := dns.DefaultMsgAcceptFunc(header) // it says one question; replies are ignored
	if opcode := int(header.Bits>>11) & 0xF; action == dns.MsgAccept && opcode != dns.OpcodeQuery {
		return dns.MsgRejectNotImplemented
	}
	return action
}

// answer sends at most 330 bytes: the question's name has 255 bytes at most, and
// where the answer holds a second one, the question's is one of an address. So no
// answer is longer than any client must take (512 bytes).
func (s *NameService) answer(w dns.ResponseWriter, query *dns.Msg) {
	reply := new(dns.Msg).SetReply(query)
	reply.Compress = true
	// glibc and Go take an empty answer without either flag for a lame delegation
	// and ask elsewhere.
	reply.Authoritative, reply.RecursionAvailable = true, true
	opt := query.IsEdns0()
	if opt != nil {
		reply.SetEdns0(maxQuery, opt.Do())
	}
	switch {
	case len(query.Question) != 1, // the header's count may promise one that is not there
		countEdns0(query) > 1: // RFC 6891 §6.1.1
		reply.Rcode = dns.RcodeFormatError
	case opt != nil && opt.Version() != 0: // RFC 6891 §6.1.3
		reply.Rcode = dns.RcodeBadVers
	default:
		reply.Rcode, reply.Answer = s.lookUp(query.Question[0])
		if len(reply.Answer) == 0 && reply.Rcode != dns.RcodeRefused {
			reply.Ns = []dns.RR{startOfAuthority()}
		}
	}
	_ = w.WriteMsg(reply) // the client is gone
}

func countEdns0(query *dns.Msg) int {
	count := 0
	for _, record := range query.Extra {
		if record.Header().Rrtype == dns.TypeOPT {
			count++
		}
	}
	return count
}

// lookUp returns no records for those that a name does not have.
//
// HTTPS and SVCB are such, and not refused, because a refusal speaks of the server
// and not of the name: musl disregards it and waits until 5 seconds are over, and
// systemd-resolved and c-ares ask again elsewhere, while a browser may wait for the
// outcome before it connects. Without records it goes on with A at once (RFC 9460
// §3).
func (s *NameService) lookUp(question dns.Question) (rcode int, answer []dns.RR) {
	if question.Qclass != dns.ClassINET {
		return dns.RcodeRefused, nil
	}
	switch question.Qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSVCB:
		return s.lookUpName(question)
	case dns.TypePTR:
		return s.lookUpAddress(question)
	default:
		return dns.RcodeRefused, nil
	}
}

func (s *NameService) lookUpName(question dns.Question) (rcode int, answer []dns.RR) {
	if question.Name == "." {
		return dns.RcodeSuccess, nil // were it not there, no name were (RFC 8020)
	}
	name, err := canonicalName(question.Name)
	if err != nil {
		return dns.RcodeNameError, nil
	}
	header := recordHeader(question)
	switch localhost := isLocalhost(name); {
	case question.Qtype == dns.TypeA && localhost:
		return dns.RcodeSuccess, []dns.RR{&dns.A{Hdr: header, A: net.IPv4(127, 0, 0, 1)}}
	case question.Qtype == dns.TypeAAAA && localhost:
		return dns.RcodeSuccess, []dns.RR{&dns.AAAA{Hdr: header, AAAA: net.IPv6loopback}}
	case question.Qtype == dns.TypeA:
		addr, err := s.Names.Address(name)
		if err != nil {
			return dns.RcodeNameError, nil
		}
		return dns.RcodeSuccess, []dns.RR{&dns.A{Hdr: header, A: addr.AsSlice()}}
	default:
		return dns.RcodeSuccess, nil
	}
}

func (s *NameService) lookUpAddress(question dns.Question) (rcode int, answer []dns.RR) {
	addr, ok := reversedAddress(question.Name)
	if !ok || !nameRange.Contains(addr) {
		return dns.RcodeRefused, nil
	}
	name, known := s.Names.Name(addr)
	if !known {
		return dns.RcodeNameError, nil
	}
	return dns.RcodeSuccess, []dns.RR{&dns.PTR{Hdr: recordHeader(question), Ptr: dns.Fqdn(name)}}
}

// reversedAddress reads a name like 1.2.0.192.in-addr.arpa. (RFC 1035 §3.5).
func reversedAddress(name string) (netip.Addr, bool) {
	digits, ok := strings.CutSuffix(strings.ToLower(name), ".in-addr.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	labels := strings.Split(digits, ".")
	slices.Reverse(labels)
	addr, err := netip.ParseAddr(strings.Join(labels, "."))
	return addr, err == nil && addr.Is4()
}

func recordHeader(question dns.Question) dns.RR_Header {
	return dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: nameTTL}
}

// startOfAuthority lets caches keep that there are no records (RFC 2308 §5). The
// service speaks for the whole tree.
func startOfAuthority() dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: nameTTL},
		Ns:  ".", Mbox: ".", Serial: 1, Refresh: nameTTL, Retry: nameTTL, Expire: nameTTL, Minttl: nameTTL,
	}
}

// limitNames bounds what clients can hold: connections, and the time that an
// answer waits to be read.
func limitNames(listener net.Listener) net.Listener {
	return &nameListener{netutil.LimitListener(listener, maxNameConnections)}
}

type nameListener struct{ net.Listener }

// Accept waits a little when the process is short of descriptors: the server
// calls it again at once.
func (l *nameListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		if !errors.Is(err, net.ErrClosed) {
			time.Sleep(acceptPause)
		}
		return nil, err
	}
	return &nameConn{conn}, nil
}

type nameConn struct{ net.Conn }

func (c *nameConn) Write(message []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(nameMessageTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(message)
}
