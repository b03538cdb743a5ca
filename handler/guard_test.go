package handler

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// closedAddresses are refused without a rule; nothing but an address or CIDR
// opens those marked as metadata.
var closedAddresses = []struct {
	name, addr string
	metadata   bool
}{
	{"loopback", "127.0.0.1", false},
	{"loopback, another", "127.255.0.9", false},
	{"loopback, IPv6", "::1", false},
	{"unspecified", "0.0.0.0", false},
	{"this network", "0.1.2.3", false},
	{"unspecified, IPv6", "::", false},
	{"cloud metadata", "169.254.169.254", true},
	{"cloud metadata of containers", "169.254.170.2", true},
	{"cloud metadata, IPv6", "fd00:ec2::254", true},
	{"cloud metadata of Alibaba", "100.100.100.200", true},
	{"cloud metadata of Azure", "168.63.129.16", true},
	{"cloud metadata of Google, IPv6", "fd20:ce::254", true},
	{"link-local, IPv6", "fe80::1", false},
	{"site-local, IPv6", "fec0::1", false},
	{"private 10", "10.1.2.3", false},
	{"private 172.16", "172.16.0.1", false},
	{"private 172.31", "172.31.255.255", false},
	{"private 192.168", "192.168.1.1", false},
	{"private, IPv6", "fd12:3456::1", false},
	{"private, IPv6, unassigned half", "fc00::1", false},
	{"carrier-grade NAT", "100.64.0.1", false},
	{"carrier-grade NAT, end", "100.127.255.255", false},
	{"protocol assignments", "192.0.0.192", false},
	{"benchmarking", "198.19.0.1", false},
	{"multicast", "224.0.0.1", false},
	{"multicast, IPv6", "ff02::1", false},
	{"reserved", "240.0.0.1", false},
	{"broadcast", "255.255.255.255", false},
	{"mapped loopback", "::ffff:127.0.0.1", false},
	{"mapped metadata", "::ffff:169.254.169.254", true},
	{"compatible loopback", "::127.0.0.1", false},
	{"compatible metadata", "::169.254.169.254", true},
	{"translated metadata", "::ffff:0:169.254.169.254", true},
	{"6to4 private", "2002:a01:203::1", false},
	{"6to4 metadata", "2002:a9fe:a9fe::", true},
	{"NAT64 loopback", "64:ff9b::7f00:1", false},
	{"NAT64 metadata", "64:ff9b::a9fe:a9fe", true},
	{"local NAT64 metadata", "64:ff9b:1::a9fe:a9fe", true},
	{"local NAT64 metadata, /48 layout", "64:ff9b:1:a9fe:a9:fe00::", true},
	{"Teredo metadata", "2001:0:0:0:0:0:5601:5601", true},
	{"Teredo client behind a public server", "2001:0:4136:e378:8000:63bf:f5fe:fdfc", false},
	{"Teredo server at home", "2001:0:a01:203:8000:63bf:3fff:fdd2", false},
	{"ISATAP private", "2606:4700::5efe:10.1.2.3", false},
	{"ISATAP metadata, universal bit", "2606:4700::200:5efe:169.254.169.254", true},
	{"6to4 of a public address, ISATAP private", "2002:101:101:0:0:5efe:a01:203", false},
	{"local NAT64, /56 layout", "64:ff9b:1:a:1:203::", false},
	{"local NAT64, /64 layout", "64:ff9b:1:0:a:102:300:0", false},
	{"local NAT64 of a public address", "64:ff9b:1::101:101", false},
	{"benchmarking, IPv6", "2001:2::1", false},
}

// TestClosedByDefault asks the guard about each special range, as a literal and
// as what a name resolved to.
func TestClosedByDefault(t *testing.T) {
	for _, closed := range closedAddresses {
		t.Run(closed.name, func(t *testing.T) {
			literal, err := parseDestination("https", net.JoinHostPort(closed.addr, "443"), 0)
			if err != nil {
				t.Fatalf("%s cannot be named: %v", closed.addr, err)
			}
			if _, err := new(Guard).CheckName(literal); !refusedBy(err, RuleEgress) {
				t.Errorf("literal: got %v, want a refusal by the rule %s", err, RuleEgress)
			}
			named := Destination{"https", "name.test", 443}
			if err := new(Guard).checkAddr(named, netip.MustParseAddr(closed.addr).Unmap()); !refusedBy(err, RuleEgress) {
				t.Errorf("behind a name: got %v, want a refusal by the rule %s", err, RuleEgress)
			}
		})
	}
}

// TestDialJudgesAddresses dials names that lead to this machine, which is all a
// broken guard could do here.
func TestDialJudgesAddresses(t *testing.T) {
	table := map[string][]string{}
	for i, addr := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "127.9.9.9"} {
		name := fmt.Sprintf("n%d.test", i)
		table[name] = []string{addr}
		t.Run(addr, func(t *testing.T) {
			guard := &Guard{Resolver: testbench.Resolver(t, table)}
			conn, err := guard.Dial(t.Context(), Destination{"https", name, 443})
			if conn != nil {
				conn.Close()
			}
			if !refusedBy(err, RuleEgress) {
				t.Errorf("got %v, want a refusal by the rule %s", err, RuleEgress)
			}
		})
	}
}

func refusedBy(err error, rule string) bool {
	var refusal *Refusal
	return errors.As(err, &refusal) && refusal.Rule == rule && refusal.Status == http.StatusForbidden && refusal.Mend+refusal.Reason != ""
}

// TestWhatOpensAnAddress: an exact name opens private ranges, but no metadata;
// wildcards open no special range; neither does private_ranges open metadata.
func TestWhatOpensAnAddress(t *testing.T) {
	dest := Destination{"https", "svc.corp.test", 443}
	for _, closed := range closedAddresses {
		addr := netip.MustParseAddr(closed.addr).Unmap()
		for _, rule := range []string{"*.corp.test", "*", "*.corp.test:443"} {
			guard := &Guard{Rules: mustRules(t, "allow "+rule)}
			if err := guard.checkAddr(dest, addr); !refusedBy(err, RuleEgress) {
				t.Errorf("%s: got %v under allow %s, want a refusal", closed.name, err, rule)
			}
		}
		if closed.metadata {
			for _, rule := range []string{"svc.corp.test", "private_ranges"} {
				guard := &Guard{Rules: mustRules(t, "allow "+rule)}
				if err := guard.checkAddr(dest, addr); !refusedBy(err, RuleEgress) {
					t.Errorf("%s: got %v under allow %s, want a refusal", closed.name, err, rule)
				}
			}
		}
		if guard := (&Guard{Rules: mustRules(t, "allow "+closed.addr)}); guard.checkAddr(dest, addr) != nil {
			t.Errorf("%s: refused though its own address is allowed", closed.name)
		}
	}
	for _, open := range []string{"10.1.2.3", "127.0.0.1", "192.168.0.1", "fd12::1", "::1"} {
		for _, rule := range []string{"svc.corp.test", "svc.corp.test:443", "private_ranges"} {
			guard := &Guard{Rules: mustRules(t, "allow "+rule)}
			if err := guard.checkAddr(dest, netip.MustParseAddr(open)); err != nil {
				t.Errorf("%s: got %v under allow %s, want it open", open, err, rule)
			}
		}
	}
	for _, open := range []string{"1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::1",
		"2606:4700::5efe:1.1.1.1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "::ffff:1.1.1.1"} {
		if err := new(Guard).checkAddr(dest, netip.MustParseAddr(open)); err != nil {
			t.Errorf("%s: got %v without rules, want it open", open, err)
		}
	}
}

// TestRuleOrder: the first rule that matches decides.
func TestRuleOrder(t *testing.T) {
	for _, test := range []struct {
		rules  []string
		host   string
		addr   string
		opened bool
	}{
		{[]string{"allow 10.1.0.0/16", "deny 10.0.0.0/8"}, "a.test", "10.1.2.3", true},
		{[]string{"deny 10.0.0.0/8", "allow 10.1.0.0/16"}, "a.test", "10.1.2.3", false},
		{[]string{"allow a.test", "deny *"}, "a.test", "1.1.1.1", true},
		{[]string{"allow a.test", "deny *"}, "b.test", "1.1.1.1", false},
		{[]string{"deny *", "allow a.test"}, "a.test", "1.1.1.1", false},
		{[]string{"deny *.test", "allow *"}, "a.test", "1.1.1.1", false},
		{[]string{"deny *.test"}, "test", "1.1.1.1", true},
		{[]string{"deny a.test:443"}, "a.test", "1.1.1.1", false},
		{[]string{"deny a.test:8443"}, "a.test", "1.1.1.1", true},
		{[]string{"allow a.test", "deny 1.1.1.0/24"}, "a.test", "1.1.1.1", true},
		{[]string{"deny 1.1.1.0/24", "allow a.test"}, "a.test", "1.1.1.1", false},
		{[]string{"deny 1.1.1.0/24"}, "a.test", "64:ff9b::101:101", false},
		{[]string{"deny 1.1.1.0/24"}, "a.test", "2002:101:101::1", false},
		{[]string{"deny 1.1.1.0/24"}, "a.test", "2606:4700::5efe:1.1.1.1", false},
		{[]string{"deny 65.54.227.0/24"}, "a.test", "2001:0:4136:e378:8000:63bf:3fff:fdd2", false},
		{[]string{"deny 192.0.2.0/24"}, "a.test", "2001:0:4136:e378:8000:63bf:3fff:fdd2", false},
		{[]string{"deny 10.0.0.0/8", "allow 64:ff9b:1::/48"}, "a.test", "64:ff9b:1:a01:2:300::", false},
		{[]string{"allow 64:ff9b:1::/48"}, "a.test", "64:ff9b:1::101:101", true},
		{[]string{"allow 10.0.0.0/8"}, "a.test", "2002:a01:203::1", false},
		{[]string{"allow *.test", "allow 10.0.0.0/8"}, "a.test", "10.1.2.3", true},
		{[]string{"allow *.test", "deny 10.0.0.0/8"}, "a.test", "10.1.2.3", false},
		{[]string{"deny ::/0"}, "a.test", "1.1.1.1", true},
		{[]string{"deny ::ffff:1.1.1.0/120"}, "a.test", "1.1.1.1", false},
		{[]string{"deny ::ffff:1.1.1.1"}, "a.test", "1.1.1.1", false},
		{[]string{"allow ::ffff:10.0.0.0/104"}, "a.test", "10.1.2.3", true},
		{[]string{"deny 0.0.0.0/0"}, "a.test", "::ffff:1.1.1.1", false},
	} {
		t.Run(strings.Join(test.rules, "; ")+" for "+test.host+" "+test.addr, func(t *testing.T) {
			guard := &Guard{Rules: mustRules(t, test.rules...)}
			dest := Destination{"https", test.host, 443}
			_, err := guard.CheckName(dest)
			if err == nil {
				err = guard.checkAddr(dest, netip.MustParseAddr(test.addr).Unmap())
			}
			if (err == nil) != test.opened {
				t.Errorf("got %v, want opened=%v", err, test.opened)
			}
		})
	}
}

func TestRulesThatAreNone(t *testing.T) {
	for _, word := range []string{"", "10.0.0.0/33", "10.0.0/8", "a b", "*.", "a.*.test", "http://a.test", "a.test/x", "a.test:0"} {
		if rules, err := ParseEgressRule(true, word); err == nil {
			t.Errorf("%q: got %+v, want an error", word, rules)
		}
	}
}

// TestMixedAnswers connects to the allowed address of a name, never the other.
func TestMixedAnswers(t *testing.T) {
	b := newBench(t, nil)
	response, _ := b.do(b.client(false), b.request("GET", b.up.PlainURL("mixed.test")+"/", ""))
	if response.StatusCode != 200 {
		t.Errorf("got status %d, want 200 by way of the open address", response.StatusCode)
	}
}

// TestChangingAnswers: a name that was fine when it was looked up first is
// judged again by the address of each connection.
func TestChangingAnswers(t *testing.T) {
	good := testbench.Resolver(t, map[string][]string{"rebind.test": {"127.0.0.1"}})
	bad := testbench.Resolver(t, map[string][]string{"rebind.test": {"169.254.169.254"}})
	var turned atomic.Bool
	b := newBench(t, func(p *Proxy) {
		p.Guard.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if turned.Load() {
				return bad.Dial(ctx, network, addr)
			}
			return good.Dial(ctx, network, addr)
		}}
	})
	target := b.up.PlainURL("rebind.test") + "/"
	if response, _ := b.do(b.client(false), b.request("GET", target, "")); response.StatusCode != 200 {
		t.Fatalf("got status %d, want 200", response.StatusCode)
	}
	turned.Store(true)
	b.proxy.upstream.closeIdle()
	b.up.Forget()
	if response, body := b.do(b.client(false), b.request("GET", target, "")); response.StatusCode != 403 {
		t.Errorf("got status %d %s, want 403", response.StatusCode, body)
	}
	b.nothingReached()
}

// TestGuardedWays: each way into the proxy is guarded, and the answer tells the
// rule and what would open it.
func TestGuardedWays(t *testing.T) {
	for _, test := range []struct {
		name, host, rule, tells, mend string
	}{
		{"private name", "private.test", RuleEgress, "10.1.2.3", "allow 10.1.2.3"},
		{"metadata name", "metadata.test", RuleEgress, "metadata", "allow 169.254.169.254"},
		{"metadata address", "169.254.169.254", RuleEgress, "metadata", "allow 169.254.169.254"},
		{"unique local name", "ula.test", RuleEgress, "private", "allow fd00::1"},
		{"carrier-grade NAT name", "cgnat.test", RuleEgress, "carrier-grade", "allow 100.64.0.1"},
		{"unspecified name", "unspecified.test", RuleEgress, "unspecified", "allow 0.0.0.0"},
		{"denied name", "denied.starpod.test", RuleEgress, "deny denied.starpod.test", "deny denied.starpod.test"},
		{"mapped private address", "[::ffff:10.0.0.1]", RuleEgress, "private", "allow 10.0.0.1"},
	} {
		for _, way := range []string{"absolute form", "intercepted", "intercepted, WebSocket", "intercepted, HTTP/2", "blind"} {
			t.Run(test.name+" "+way, func(t *testing.T) {
				b := newBench(t, func(p *Proxy) {
					p.Guard.Rules = mustRules(t, "deny denied.starpod.test", "allow 127.0.0.0/8")
					if way == "blind" {
						p.Authority = nil
					}
				})
				status, body := b.askGuarded(way, test.host)
				var told struct{ Error, Rule, Mend string }
				if err := json.Unmarshal([]byte(body), &told); err != nil || status != 403 {
					t.Fatalf("got status %d and %q (%v), want 403 and JSON", status, body, err)
				}
				if told.Rule != test.rule || !strings.Contains(told.Error, test.tells) || !strings.Contains(told.Mend, test.mend) {
					t.Errorf("got %+v, want rule %q, %q and %q", told, test.rule, test.tells, test.mend)
				}
			})
		}
	}
}

// askGuarded asks for a host on one of the ways and returns the answer.
func (b *bench) askGuarded(way, host string) (status int, body string) {
	b.t.Helper()
	conn := b.dialFront()
	line := fmt.Sprintf("CONNECT %s:443 HTTP/1.1\r\nHost: %[1]s:443\r\n\r\n", host)
	method := "CONNECT"
	if way == "absolute form" {
		line, method = fmt.Sprintf("GET http://%s/ HTTP/1.1\r\nHost: %[1]s\r\n\r\n", host), "GET"
	}
	io.WriteString(conn, line)
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		b.t.Fatal(err)
	}
	if strings.HasPrefix(way, "intercepted") && response.StatusCode == 200 {
		// Names are resolved when a request comes; the certificate does not matter.
		server := strings.Trim(host, "[]")
		if net.ParseIP(server) != nil {
			server = ""
		}
		_ = conn.Close()
		fields := ""
		switch way {
		case "intercepted, HTTP/2":
			conn, _ = b.connect(host + ":443")
			secure := tls.Client(conn, &tls.Config{ServerName: server, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			response, err = inTunnel(b.t, secure, true).Get("https://" + host + "/")
			if err != nil {
				b.t.Fatal(err)
			}
			defer response.Body.Close()
		case "intercepted, WebSocket":
			fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
			fallthrough
		default:
			secure := b.insecureTunnel(host+":443", server)
			response = b.sendOver(secure, fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n%s\r\n", host, fields))
		}
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// TestDeniedNameHasNoTunnel: what can be refused by name is refused before the
// tunnel is opened.
func TestDeniedNameHasNoTunnel(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Guard.Rules = mustRules(t, "deny api.starpod.test", "allow 127.0.0.0/8") })
	if _, response := b.connect(b.apiAuthority()); response.StatusCode != 403 {
		t.Errorf("got status %d, want 403", response.StatusCode)
	}
	if _, response := b.connect("10.0.0.1:443"); response.StatusCode != 403 {
		t.Errorf("literal: got status %d, want 403", response.StatusCode)
	}
	b.nothingReached()
}

// TestSelfByOtherSpellings: an IPv6 way to a listener is the listener.
func TestSelfByOtherSpellings(t *testing.T) {
	for _, listen := range []string{"127.0.0.1", "0.0.0.0", "::"} {
		guard := &Guard{Rules: mustRules(t, "allow ::/0 0.0.0.0/0"), Self: func() []netip.AddrPort {
			return []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(listen), 8080)}
		}}
		for _, addr := range []string{"127.0.0.1", "::ffff:127.0.0.1", "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "0.0.0.0", "::"} {
			for port, refused := range map[uint16]bool{8080: true, 8081: false} {
				err := guard.checkAddr(Destination{"http", "a.test", port}, netip.MustParseAddr(addr))
				if refusedBy(err, RuleSelf) != refused {
					t.Errorf("%s at %s:%d: got %v, want a refusal: %v", listen, addr, port, err, refused)
				}
			}
		}
	}
}

// TestSelf: the proxy does not connect to itself, whatever is allowed.
func TestSelf(t *testing.T) {
	for _, listen := range []string{"127.0.0.1", "0.0.0.0", "::"} {
		for _, host := range []string{"127.0.0.1", "api.starpod.test", "[::ffff:127.0.0.1]", "0.0.0.0"} {
			t.Run(listen+" by "+host, func(t *testing.T) {
				var own []netip.AddrPort
				b := newBench(t, func(p *Proxy) {
					p.Guard.Rules = mustRules(t, "allow 127.0.0.0/8 0.0.0.0/8 api.starpod.test")
					p.Guard.Self = func() []netip.AddrPort { return own }
				})
				port := b.front.Listener.Addr().(*net.TCPAddr).AddrPort().Port()
				own = []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(listen), port)}
				response := b.sendOver(b.dialFront(), fmt.Sprintf("GET http://%s:%d/ HTTP/1.1\r\nHost: x\r\n\r\n", host, port))
				body, _ := io.ReadAll(response.Body)
				if response.StatusCode != 403 || !strings.Contains(string(body), `"rule":"self"`) {
					t.Errorf("got status %d and %s, want 403 by the rule self", response.StatusCode, body)
				}
			})
		}
	}
}
