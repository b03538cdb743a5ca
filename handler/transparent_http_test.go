package handler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// serviceAddress is what the name service gave api.starpod.test.
var serviceAddress = netip.MustParseAddr("198.18.0.9")

// transparentFront serves the bench for clients that dialled an address and a
// port of somebody else.
func (b *bench) transparentFront(dialled netip.AddrPort) (dial func() net.Conn) {
	b.t.Helper()
	listener, err := new(net.ListenConfig).Listen(b.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	server := &http.Server{Handler: b}
	go func() {
		_ = server.Serve(&TransparentListener{
			Listener: listener,
			Original: func(net.Conn) (netip.AddrPort, bool, error) { return dialled, true, nil },
			Name: func(addr netip.Addr) (string, bool) {
				if addr == serviceAddress {
					return "api.starpod.test", true
				}
				return "", false
			},
		})
	}()
	b.t.Cleanup(func() { _ = server.Close() })
	return func() net.Conn {
		conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", listener.Addr().String())
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(longest))
		return conn
	}
}

// TestTransparentHTTP: what was dialled and what the request names must be of one
// mind, or nothing is sent.
func TestTransparentHTTP(t *testing.T) {
	b := newBench(t, nil)
	port := uint16(b.up.PlainPort())
	at := func(host string) string { return fmt.Sprintf("%s:%d", host, port) }
	byName := netip.AddrPortFrom(serviceAddress, port)
	byAddress := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	api, evil := at("api.starpod.test"), at("evil.starpod.test")
	const line = "GET /x HTTP/1.1\r\n"
	host := func(authority string) string { return line + "Host: " + authority + "\r\n" }
	for _, test := range []struct {
		name    string
		dialled netip.AddrPort
		head    string // request line and Host
		status  int
		host    string // that the upstream is told
		value   bool   // it gets the value, for which the token names the host
	}{
		{"the host of the address", byName, host(api), 200, api, true},
		{"the same in capitals, with a dot", byName, host(at("API.starpod.test.")), 200, api, true},
		{"a host at an address that nobody named", byAddress, host(api), 200, api, true},
		{"another host at an address that nobody named", byAddress, host(evil), 200, evil, false},
		{"the address itself", byAddress, host(at("127.0.0.1")), 200, at("127.0.0.1"), false},
		{"absolute form of the host", byName, "GET http://" + api + "/x HTTP/1.1\r\nHost: " + api + "\r\n", 200, api, true},
		{"absolute form of the host, evil Host", byName, "GET http://" + api + "/x HTTP/1.1\r\nHost: " + evil + "\r\n", 200, api, true},

		{"another host than the address's", byName, host(evil), 421, "", false},
		{"a subdomain of the host", byName, host(at("x.api.starpod.test")), 421, "", false},
		{"the address in place of its host", byName, host(at("198.18.0.9")), 421, "", false},
		{"an address in place of the host", byName, host(at("127.0.0.1")), 421, "", false},
		{"another address than the one dialled", byAddress, host(at("127.0.0.2")), 421, "", false},
		{"another port", byName, host("api.starpod.test:8443"), 421, "", false},
		{"the port left out", byName, host("api.starpod.test"), 421, "", false},
		{"another port of the address itself", byAddress, host("127.0.0.1:1"), 421, "", false},
		{"absolute form of another host", byName, "GET http://" + evil + "/x HTTP/1.1\r\nHost: " + api + "\r\n", 421, "", false},
		{"absolute form of another port", byName, "GET http://api.starpod.test:1/x HTTP/1.1\r\nHost: " + api + "\r\n", 421, "", false},
		{"absolute form of another address", byAddress, "GET http://" + at("127.0.0.2") + "/x HTTP/1.1\r\nHost: " + at("127.0.0.1") + "\r\n", 421, "", false},

		{"absolute form of https", byName, "GET https://" + api + "/x HTTP/1.1\r\nHost: " + api + "\r\n", 400, "", false},
		{"absolute form with a user", byName, "GET http://u@" + api + "/x HTTP/1.1\r\nHost: " + api + "\r\n", 400, "", false},
		{"no Host", byName, line, 400, "", false},
		{"no Host in HTTP/1.0", byName, "GET /x HTTP/1.0\r\n", 400, "", false},
		{"an empty Host", byName, host(""), 400, "", false},
		{"two Hosts", byName, host(api) + "Host: " + evil + "\r\n", 400, "", false},
		{"a Host with a user", byName, host("x@" + api), 400, "", false},
		{"an IPv6 address without brackets", byAddress, host("::1"), 400, "", false},
		{"CONNECT", byName, "CONNECT " + api + " HTTP/1.1\r\nHost: " + api + "\r\n", 400, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			b.up.Forget()
			conn := b.transparentFront(test.dialled)()
			response := b.sendOver(conn, test.head+"X-Key: "+b.token("api.starpod.test")+"\r\n\r\n")
			if response.StatusCode != test.status {
				body, _ := io.ReadAll(response.Body)
				t.Errorf("got status %d, want %d: %s", response.StatusCode, test.status, body)
			}
			if test.status != http.StatusOK {
				b.nothingReached()
				return
			}
			got := b.up.Last(t)
			if dest, err := parseDestination("http", test.host, 0); err != nil || !dest.agrees(got.Host) || strings.Contains(got.Target, "://") {
				t.Errorf("upstream was told %q and %q, want %s", got.Host, got.Target, test.host)
			}
			if value := got.Header.Get("X-Key") == canary; value != test.value {
				t.Errorf("got %q upstream, want the value: %t", got.Header.Get("X-Key"), test.value)
			}
		})
	}
}

// TestTransparentHTTPKeepsItsDestination: the second request of a connection is
// held against what was dialled like the first.
func TestTransparentHTTPKeepsItsDestination(t *testing.T) {
	b := newBench(t, nil)
	port := uint16(b.up.PlainPort())
	conn := b.transparentFront(netip.AddrPortFrom(serviceAddress, port))()
	reader := bufio.NewReader(conn)
	for i, test := range []struct {
		host   string
		status int
	}{{"api", 200}, {"evil", 421}, {"api", 200}} {
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s.starpod.test:%d\r\nX-Key: %s\r\n\r\n", test.host, port, b.token("api.starpod.test"))
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != test.status {
			t.Errorf("request %d: got status %d (%v), want %d", i, response.StatusCode, err, test.status)
		}
	}
	if got := len(b.up.Requests()); got != 2 {
		t.Errorf("got %d requests upstream, want the 2 for the host that was dialled", got)
	}
}

// TestTransparentConnectionsThatAreRefused: what cannot be looked into ends
// without an answer, and an audit line says how it could pass.
func TestTransparentConnectionsThatAreRefused(t *testing.T) {
	for _, test := range []struct {
		name, sent, reason string // with %s for what was dialled
		address            netip.Addr
	}{
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", "what was sent to %s is neither TLS nor HTTP", serviceAddress},
		{"HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "what was sent to %s is neither TLS nor HTTP", serviceAddress},
		{"binary", "\x00\x01\x02\x03", "what was sent to %s is neither TLS nor HTTP", serviceAddress},
		{"a method that never ends", "GE", "what was sent to %s is neither TLS nor HTTP", serviceAddress},
		{"silence", "", "a client of %s says nothing, so it is neither TLS nor HTTP", serviceAddress},
		{"silence towards an address", "", "a client of %s says nothing, so it is neither TLS nor HTTP", netip.MustParseAddr("127.0.0.1")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			port := uint16(b.up.PlainPort())
			begin := time.Now()
			dialled := fmt.Sprintf("api.starpod.test:%d", port)
			if test.address != serviceAddress {
				dialled = netip.AddrPortFrom(test.address, port).String()
			}
			conn := b.transparentFront(netip.AddrPortFrom(test.address, port))()
			if _, err := io.WriteString(conn, test.sent); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(conn)
			if errors.Is(err, os.ErrDeadlineExceeded) || len(answer) > 0 {
				t.Errorf("got %q (%v), want the end of the connection", answer, err)
			}
			if waited := time.Since(begin); test.sent == "" && waited < silenceTimeout {
				t.Errorf("got the end after %s, want %s of patience", waited, silenceTimeout)
			}
			b.awaitAudit("reason", strings.ReplaceAll(test.reason, "%s", dialled))
			for _, line := range b.logs.FilterMessage("request refused").All() {
				fields := line.ContextMap()
				if line.LoggerName != "audit" || fields["rule"] != RuleTunnel || !strings.HasSuffix(fmt.Sprint(fields["mend"]), "name "+dialled+" in `tunnel`") {
					t.Errorf("got the line %v, want the rule %s and the option that mends it", fields, RuleTunnel)
				}
			}
			b.nothingReached()
		})
	}
}

// TestTransparentConnectionsThatAreTunnelled: with `tunnel` they pass as they are.
func TestTransparentConnectionsThatAreTunnelled(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Tunnel = []string{"api.starpod.test"} })
	port := b.rawUpstream(false, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "hello\r\n") // the server of SSH or SMTP speaks first
		line, _ := bufio.NewReader(conn).ReadString('\n')
		_, _ = io.WriteString(conn, "heard "+line)
	})
	conn := b.transparentFront(netip.AddrPortFrom(serviceAddress, uint16(port)))()
	reader := bufio.NewReader(conn)
	if line, err := reader.ReadString('\n'); line != "hello\r\n" {
		t.Fatalf("got %q (%v), want what the server says first", line, err)
	}
	if _, err := io.WriteString(conn, "SSH-2.0-x\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := reader.ReadString('\n'); line != "heard SSH-2.0-x\r\n" {
		t.Errorf("got %q (%v), want an answer", line, err)
	}
	testbench.Await(t, longest, func() error {
		if got := b.proxy.Stats.Counts().Tunnelled; got != 1 {
			return fmt.Errorf("got %d blind tunnels, want 1", got)
		}
		return nil
	})
}
