package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// startNames serves names on sockets that are bound to every address, and returns
// their ports.
func startNames(t *testing.T) (names *Names, udpPort, tcpPort string) {
	t.Helper()
	packets, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	names = NewNames()
	service := &NameService{Names: names, Failed: func(err error) { t.Errorf("the service failed: %v", err) }}
	t.Cleanup(service.Serve([]net.PacketConn{packets}, []net.Listener{listener}))
	_, udpPort, _ = net.SplitHostPort(packets.LocalAddr().String())
	_, tcpPort, _ = net.SplitHostPort(listener.Addr().String())
	return names, udpPort, tcpPort
}

func exchange(t *testing.T, network, addr string, query *dns.Msg) *dns.Msg {
	t.Helper()
	client := &dns.Client{Net: network, Timeout: 5 * time.Second}
	reply, _, err := client.Exchange(query, addr)
	if err != nil {
		t.Fatalf("asking %s over %s: %v", addr, network, err)
	}
	return reply
}

func TestNameServiceAnswers(t *testing.T) {
	names, udpPort, tcpPort := startNames(t)
	addr := address(t, names, "known.example.com")
	reverse, err := dns.ReverseAddr(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	const ok, refused, none = dns.RcodeSuccess, dns.RcodeRefused, dns.RcodeNameError
	for name, test := range map[string]struct {
		question string
		kind     uint16
		rcode    int
		answer   string // the data of the only record; "" for none
	}{
		"address":                          {"known.example.com.", dns.TypeA, ok, addr.String()},
		"address in capitals":              {"KNOWN.example.COM.", dns.TypeA, ok, addr.String()},
		"IPv6 address":                     {"known.example.com.", dns.TypeAAAA, ok, ""},
		"HTTPS parameters":                 {"known.example.com.", dns.TypeHTTPS, ok, ""},
		"HTTPS parameters of a port":       {"_8443._https.known.example.com.", dns.TypeHTTPS, ok, ""},
		"service parameters":               {"known.example.com.", dns.TypeSVCB, ok, ""},
		"name of an address":               {reverse, dns.TypePTR, ok, "known.example.com."},
		"name in capitals":                 {strings.ToUpper(reverse), dns.TypePTR, ok, "known.example.com."},
		"name of an address not given yet": {"9.9.18.198.in-addr.arpa.", dns.TypePTR, none, ""},
		"name of another address":          {"8.8.8.8.in-addr.arpa.", dns.TypePTR, refused, ""},
		"name of part of an address":       {"18.198.in-addr.arpa.", dns.TypePTR, refused, ""},
		"name of an IPv6 address":          {"1." + strings.Repeat("0.", 31) + "ip6.arpa.", dns.TypePTR, refused, ""},
		"PTR of no address":                {"example.com.", dns.TypePTR, refused, ""},
		"text":                             {"known.example.com.", dns.TypeTXT, refused, ""},
		"mail":                             {"known.example.com.", dns.TypeMX, refused, ""},
		"service":                          {"_ldap._tcp.example.com.", dns.TypeSRV, refused, ""},
		"alias":                            {"known.example.com.", dns.TypeCNAME, refused, ""},
		"anything":                         {"known.example.com.", dns.TypeANY, refused, ""},
		"transfer":                         {"example.com.", dns.TypeAXFR, refused, ""},
		"name server":                      {".", dns.TypeNS, refused, ""},
		"unheard-of type":                  {"known.example.com.", 65280, refused, ""},
		"localhost":                        {"localhost.", dns.TypeA, ok, "127.0.0.1"},
		"IPv6 of localhost":                {"localhost.", dns.TypeAAAA, ok, "::1"},
		"below localhost":                  {"App.localhost.", dns.TypeA, ok, "127.0.0.1"},
		"HTTPS parameters of localhost":    {"localhost.", dns.TypeHTTPS, ok, ""},
		"address as a name":                {"192.0.2.1.", dns.TypeA, none, ""},
		"IPv6 address of an address":       {"192.0.2.1.", dns.TypeAAAA, none, ""},
		"name with a space":                {`a\ b.example.com.`, dns.TypeA, none, ""},
		"name with a dot in a label":       {`a\.b.example.com.`, dns.TypeA, none, ""},
		"root":                             {".", dns.TypeA, ok, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for network, port := range map[string]string{"udp": udpPort, "tcp": tcpPort} {
				reply := exchange(t, network, "127.0.0.1:"+port, new(dns.Msg).SetQuestion(test.question, test.kind))
				checkReply(t, reply, test.rcode, test.answer)
				if got := reply.Question[0].Name; got != test.question {
					t.Errorf("%s: got question %q back, want %q as it was asked", network, got, test.question)
				}
			}
		})
	}
}

func checkReply(t *testing.T, reply *dns.Msg, rcode int, answer string) {
	t.Helper()
	if reply.Rcode != rcode {
		t.Errorf("got %s, want %s", dns.RcodeToString[reply.Rcode], dns.RcodeToString[rcode])
	}
	got := ""
	for _, record := range reply.Answer {
		got += strings.TrimPrefix(record.String(), record.Header().String())
		if record.Header().Name != reply.Question[0].Name || record.Header().Ttl != nameTTL {
			t.Errorf("got record %s, want the name that was asked and %d s", record, nameTTL)
		}
	}
	if got != answer {
		t.Errorf("got records %q, want %q", got, answer)
	}
	if !reply.Authoritative || !reply.RecursionAvailable || !reply.RecursionDesired {
		t.Errorf("got flags aa=%t ra=%t rd=%t, want all", reply.Authoritative, reply.RecursionAvailable, reply.RecursionDesired)
	}
	// Caches need a SOA to keep that there is nothing (RFC 2308).
	if got, want := len(reply.Ns) == 1, answer == "" && rcode != dns.RcodeRefused; got != want {
		t.Errorf("got a SOA: %t, want %t", got, want)
	}
}

func TestNameServiceGivesAddress(t *testing.T) {
	names, udpPort, _ := startNames(t)
	reply := exchange(t, "udp", "127.0.0.1:"+udpPort, new(dns.Msg).SetQuestion("new.example.com.", dns.TypeA))
	if len(reply.Answer) != 1 {
		t.Fatalf("got %d records, want 1", len(reply.Answer))
	}
	addr, _ := netip.AddrFromSlice(reply.Answer[0].(*dns.A).A)
	wantName(t, names, addr, "new.example.com")
}

func TestNameServiceRefusesOddQueries(t *testing.T) {
	names, udpPort, tcpPort := startNames(t)
	for name, test := range map[string]struct {
		change func(*dns.Msg)
		rcode  int
	}{
		"another class": {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"any class":     {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }, dns.RcodeRefused},
		"two questions": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"no question":   {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		"status":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }, dns.RcodeNotImplemented},
		"notify":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		"update":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"EDNS of a later version": {func(m *dns.Msg) {
			m.SetEdns0(4096, false)
			m.IsEdns0().SetVersion(1)
		}, dns.RcodeBadVers},
		"EDNS twice": {func(m *dns.Msg) {
			m.SetEdns0(4096, false).SetEdns0(4096, false)
		}, dns.RcodeFormatError},
	} {
		t.Run(name, func(t *testing.T) {
			for network, port := range map[string]string{"udp": udpPort, "tcp": tcpPort} {
				query := new(dns.Msg).SetQuestion("odd.example.com.", dns.TypeA)
				test.change(query)
				reply := exchange(t, network, "127.0.0.1:"+port, query)
				if reply.Rcode != test.rcode || len(reply.Answer) != 0 {
					t.Errorf("%s: got %s and %d records, want %s without", network,
						dns.RcodeToString[reply.Rcode], len(reply.Answer), dns.RcodeToString[test.rcode])
				}
			}
		})
	}
	if got := names.addresses.Len(); got != 0 {
		t.Errorf("got %d names remembered, want 0", got)
	}
}

func TestNameServiceEDNS(t *testing.T) {
	_, udpPort, _ := startNames(t)
	for _, do := range []bool{false, true} {
		query := new(dns.Msg).SetQuestion("a.example.com.", dns.TypeA).SetEdns0(4096, do)
		opt := exchange(t, "udp", "127.0.0.1:"+udpPort, query).IsEdns0()
		if opt == nil || opt.UDPSize() != maxQuery || opt.Do() != do || opt.Version() != 0 {
			t.Errorf("got OPT %v, want size %d and DO %t", opt, maxQuery, do)
		}
	}
	reply := exchange(t, "udp", "127.0.0.1:"+udpPort, new(dns.Msg).SetQuestion("a.example.com.", dns.TypeA))
	if opt := reply.IsEdns0(); opt != nil {
		t.Errorf("without EDNS: got OPT %v, want none", opt)
	}
}

// A client that is connected, as nearly all are, sees an answer only if it comes
// from the address that it asked.
func TestNameServiceAnswersFromAddressAsked(t *testing.T) {
	for name, test := range map[string]struct {
		network, bind string
		asked         []string
	}{
		"IPv4":              {"udp4", "0.0.0.0:0", []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}},
		"IPv6":              {"udp6", "[::]:0", []string{"::1"}},
		"IPv4 through IPv6": {"udp", "[::]:0", []string{"127.0.0.2", "127.0.0.3", "::1"}},
	} {
		t.Run(name, func(t *testing.T) {
			packets, err := net.ListenPacket(test.network, test.bind)
			if err != nil {
				t.Fatal(err)
			}
			service := &NameService{Names: NewNames()}
			defer service.Serve([]net.PacketConn{packets}, nil)()
			port := packets.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			for _, asked := range test.asked {
				to := netip.AddrPortFrom(netip.MustParseAddr(asked), port).String()
				reply := exchange(t, "udp", to, new(dns.Msg).SetQuestion("a.example.com.", dns.TypeA))
				if len(reply.Answer) != 1 {
					t.Errorf("asking %s: got %d records, want 1", to, len(reply.Answer))
				}
			}
		})
	}
}

func TestNameServiceWithGoResolver(t *testing.T) {
	names, udpPort, tcpPort := startNames(t)
	ctx := t.Context()
	for network, port := range map[string]string{"udp": udpPort, "tcp": tcpPort} {
		t.Run(network, func(t *testing.T) {
			resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
			}}
			got, err := resolver.LookupNetIP(ctx, "ip", "go.example.com.")
			if want := address(t, names, "go.example.com"); err != nil || len(got) != 1 || got[0].Unmap() != want {
				t.Errorf("looking up a name: got %v, %v, want %s", got, err, want)
			}
			found, err := resolver.LookupAddr(ctx, address(t, names, "go.example.com").String())
			if err != nil || len(found) != 1 || found[0] != "go.example.com." {
				t.Errorf("looking up an address: got %v, %v, want go.example.com.", found, err)
			}
			_, err = resolver.LookupNetIP(ctx, "ip6", "go.example.com.")
			if problem, ok := errors.AsType[*net.DNSError](err); !ok || !problem.IsNotFound {
				t.Errorf("looking up an IPv6 address: got %v, want that there is none", err)
			}
			if _, err = resolver.LookupTXT(ctx, "go.example.com."); err == nil {
				t.Error("looking up text: got an answer, want a refusal")
			}
		})
	}
}

func TestNameServiceSurvivesGarbage(t *testing.T) {
	_, udpPort, tcpPort := startNames(t)
	bareHeader := "\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" // promises a question
	for _, garbage := range []string{"", "x", bareHeader, "\x00\x0c" + bareHeader, strings.Repeat("\x00", 12), strings.Repeat("\xff", 2000), "\xff\xffabc"} {
		for network, port := range map[string]string{"udp": udpPort, "tcp": tcpPort} {
			conn, err := net.Dial(network, "127.0.0.1:"+port)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, garbage)
			_ = conn.Close()
			reply := exchange(t, network, "127.0.0.1:"+port, new(dns.Msg).SetQuestion("a.example.com.", dns.TypeA))
			if len(reply.Answer) != 1 {
				t.Errorf("%s after %q: got %d records, want 1", network, garbage, len(reply.Answer))
			}
		}
	}
}

func TestNameServiceTakesSeveralQueriesPerConnection(t *testing.T) {
	_, _, tcpPort := startNames(t)
	conn, err := dns.Dial("tcp", "127.0.0.1:"+tcpPort)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		query := new(dns.Msg).SetQuestion("a.example.com.", dns.TypeA)
		if err := conn.WriteMsg(query); err != nil {
			t.Fatal(err)
		}
		reply, err := conn.ReadMsg()
		if err != nil || reply.Id != query.Id || len(reply.Answer) != 1 {
			t.Fatalf("got %v, %v, want one record", reply, err)
		}
	}
}

func TestNameServiceBoundsConnections(t *testing.T) {
	_, _, tcpPort := startNames(t)
	idle := make([]net.Conn, maxNameConnections)
	for i := range idle {
		conn, err := net.Dial("tcp", "127.0.0.1:"+tcpPort)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		idle[i] = conn
	}
	// One more is served as soon as a silent one has been given up.
	reply := exchange(t, "tcp", "127.0.0.1:"+tcpPort, new(dns.Msg).SetQuestion("a.example.com.", dns.TypeA))
	if len(reply.Answer) != 1 {
		t.Errorf("got %d records, want 1", len(reply.Answer))
	}
	_ = idle[0].SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := idle[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("reading from a silent connection: got %v, want that it was closed", err)
	}
}

func TestNameServiceGivesUpClientThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe() // holds nothing, so writing waits for the reader
		defer far.Close()
		conn := &nameConn{near}
		defer conn.Close()
		start := time.Now()
		_, err := conn.Write([]byte("answer"))
		if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
			t.Errorf("got %v, want a timeout", err)
		}
		if got := time.Since(start); got != nameMessageTimeout {
			t.Errorf("got it after %s, want %s", got, nameMessageTimeout)
		}
	})
}

func TestNameServiceStop(t *testing.T) {
	packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	service := &NameService{Names: NewNames(), Failed: func(err error) { t.Errorf("got failure %v, want none", err) }}
	stop := service.Serve([]net.PacketConn{packets}, []net.Listener{listener})
	idle, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	query, err := new(dns.Msg).SetQuestion("a.example.com.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	message := append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	if _, err := idle.Write(message); err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Read(make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	stop()
	stop() // again does nothing
	if _, err := packets.WriteTo([]byte("x"), packets.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing to the socket: got %v, want that it is closed", err)
	}
	if conn, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("dialling: got a connection, want none")
	}
	_ = idle.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("reading from a connection: got %v, want that it is closed", err)
	}
}

func TestNameServiceTellsOfFailure(t *testing.T) {
	packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	failures := make(chan error, 2)
	service := &NameService{Names: NewNames(), Failed: func(err error) { failures <- err }}
	_ = packets.Close() // before
	stop := service.Serve([]net.PacketConn{packets}, []net.Listener{listener})
	_ = listener.Close() // after
	for range 2 {
		if err := <-failures; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want that the socket is closed", err)
		}
	}
	stop()
}
