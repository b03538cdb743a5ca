package handler

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
)

// names of one request; "" is the API's.
type edgeNames struct{ connect, sni, host, target string }

// TestDestinationCases has the ways in which a request can name two destinations,
// a clause each: what CONNECT, the server name, Host, :authority and an absolute
// URL say. In all of them a token for the API goes along.
func TestDestinationCases(t *testing.T) {
	b := newBench(t, nil)
	b.proxy.Init()
	port := b.up.Port()
	at := func(host string) string { return fmt.Sprintf("%s:%d", host, port) }
	const api, evil = "api.starpod.test", "evil.starpod.test"
	for _, test := range []struct {
		name   string
		names  edgeNames
		status int
		value  bool // whether the upstream gets it
	}{
		{"16 all agree", edgeNames{}, 200, true},
		{"16 good CONNECT, evil inner Host", edgeNames{host: at(evil)}, 421, false},
		{"16 evil CONNECT, good inner Host", edgeNames{connect: at(evil), sni: evil, host: at(api)}, 421, false},
		{"16 SNI is not CONNECT's", edgeNames{sni: evil}, 421, false},
		{"16 SNI and Host are not CONNECT's", edgeNames{connect: at(evil), sni: api, host: at(api)}, 421, false},
		{"16 Host at another port", edgeNames{host: api + ":1"}, 421, false},
		{"17 absolute URL of another in a tunnel", edgeNames{target: "https://" + at(evil) + "/"}, 421, false},
		{"17 absolute URL of the same in a tunnel", edgeNames{target: "https://" + at(api) + "/"}, 200, true},
		{"17 http:// in a tunnel", edgeNames{target: "http://" + at(api) + "/"}, 400, false},
		{"17 http:// of another in a tunnel", edgeNames{target: "http://" + at(evil) + "/"}, 400, false},
		{"18 CONNECT in capitals", edgeNames{connect: at("API.STARPOD.TEST")}, 200, true},
		{"18 Host in capitals", edgeNames{host: at("API.STARPOD.TEST")}, 200, true},
		{"18 trailing dot in CONNECT", edgeNames{connect: at(api + ".")}, 200, true},
		{"18 trailing dot in Host", edgeNames{host: at(api + ".")}, 200, true},
		{"18 port left out of Host", edgeNames{host: api}, 421, false},
		{"20 IPv4 without SNI, token for a name", edgeNames{connect: at("127.0.0.1"), sni: "-", host: at("127.0.0.1")}, 200, false},
		{"20 IPv4, Host is a name", edgeNames{connect: at("127.0.0.1"), sni: "-", host: at(api)}, 421, false},
		{"20 IPv4, SNI is a name", edgeNames{connect: at("127.0.0.1"), sni: api, host: at("127.0.0.1")}, 421, false},
		{"20 name without SNI", edgeNames{sni: "-"}, 200, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			b.up.Forget()
			b.proxy.upstream.closeIdle()
			n := test.names
			for field, standard := range map[*string]string{&n.connect: at(api), &n.sni: api, &n.host: at(api), &n.target: "/"} {
				if *field == "" {
					*field = standard
				}
			}
			conn := b.insecureTunnel(n.connect, strings.TrimPrefix(n.sni, "-"))
			response := b.sendOver(conn, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nX-Key: %s\r\n\r\n", n.target, n.host, b.token(api)))
			if response.StatusCode != test.status {
				t.Errorf("got status %d, want %d", response.StatusCode, test.status)
			}
			if test.status != 200 {
				b.nothingReached()
			} else if got := b.up.Last(t); (got.Header.Get("X-Key") == canary) != test.value {
				t.Errorf("the upstream got %q, want the value: %v", got.Header.Get("X-Key"), test.value)
			}
		})
	}
}

// TestPlainDestinationCases: the same for http:// without a tunnel, over HTTP/1 and
// over a server that speaks HTTP/2.
func TestPlainDestinationCases(t *testing.T) {
	b := newBench(t, nil)
	b.proxy.Init()
	host := func(name string) string { return fmt.Sprintf("%s.starpod.test:%d", name, b.up.PlainPort()) }
	t.Run("17 absolute URL whose host is not Host", func(t *testing.T) {
		b.t = t
		// RFC 9112, section 3.2.2: Host is replaced by what the URL says.
		b.sendOver(b.dialFront(), fmt.Sprintf("GET http://%s/ HTTP/1.1\r\nHost: %s\r\nX-Key: %s\r\n\r\n", host("evil"), host("api"), b.token("api.starpod.test")))
		if got := b.up.Last(t); got.Host != host("evil") || got.Header.Get("X-Key") != "" {
			t.Errorf("the upstream got %q for Host and %q, want the URL's and nothing", got.Host, got.Header.Get("X-Key"))
		}
	})
	for _, test := range []struct {
		name, url, authority, field string
		status                      int
	}{
		{"17 absolute URL over HTTP/2", "api", "api", "", 200},
		{"17 absolute URL over HTTP/2 whose host is not :authority", "api", "evil", "", 421},
		{"17 absolute URL over HTTP/2 whose host is not Host", "api", "api", "evil", 421},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			b.up.Forget()
			b.proxy.upstream.closeIdle()
			fields := [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", host(test.authority)}, {":path", "http://" + host(test.url) + "/"}, {"x-key", b.token("api.starpod.test")}}
			if test.field != "" {
				fields = append(fields, [2]string{"host", host(test.field)})
			}
			if got := b.sendFramesOver(b.h2Conn(), h2Message{fields: fields}, strings.NewReplacer()); got != fmt.Sprint(test.status) {
				t.Errorf("got status %q, want %d", got, test.status)
			}
			if test.status != 200 {
				b.nothingReached()
			} else if got := b.up.Last(t); got.Host != host(test.url) || got.Header.Get("X-Key") != canary {
				t.Errorf("the upstream got %q for Host and %q, want the value", got.Host, got.Header.Get("X-Key"))
			}
		})
	}
}

// TestConnectCases: what the authority of a CONNECT may be.
func TestConnectCases(t *testing.T) {
	b := newBench(t, nil)
	for _, test := range []struct {
		name, authority string
		status          int
	}{
		{"18 U-label", fmt.Sprintf("bücher.starpod.test:%d", b.up.Port()), 200},
		{"18 A-label", fmt.Sprintf("xn--bcher-kva.starpod.test:%d", b.up.Port()), 200},
		{"18 full-width letters", fmt.Sprintf("ａｐｉ．starpod.test:%d", b.up.Port()), 200},
		{"20 IPv4", fmt.Sprintf("127.0.0.1:%d", b.up.Port()), 200},
		{"20 IPv4 in short", "127.1:443", 400},
		{"20 IPv4 in hex", "0x7f000001:443", 400},
		{"20 IPv4 in decimal", "2130706433:443", 400},
		{"20 IPv4 in octal", "0177.0.0.1:443", 400},
		{"20 IPv4 in full-width digits", "１２７.０.０.１:443", 400},
		{"20 bracketed IPv6 of this machine", "[::1]:443", 403},
		{"20 IPv6 without brackets", "::1:443", 400},
		{"20 IPv6 with a zone", "[fe80::1%25lo]:443", 400},
		{"20 user information", "user@api.starpod.test:443", 400},
		{"20 empty port", "api.starpod.test:", 400},
		{"20 port 0", "api.starpod.test:0", 400},
		{"20 name of 254 characters", strings.Repeat("a.", 126) + "ab:443", 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			conn := b.dialFront()
			fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", test.authority)
			response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "CONNECT"})
			if err != nil || response.StatusCode != test.status {
				t.Errorf("got %v (%v), want status %d", response, err, test.status)
			}
			b.nothingReached()
		})
	}
}

// TestRedirectCases: nothing is followed, and nothing is sent twice.
func TestRedirectCases(t *testing.T) {
	b := newBench(t, nil)
	other := testbench.NewUpstream(t, testbench.NewPKI(t))
	for _, code := range []int{301, 302, 303, 307, 308} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("19 %d with a body, h2 %v", code, h2), func(t *testing.T) {
				b.t = t
				b.up.Forget()
				path := fmt.Sprintf("/%d/%v", code, h2)
				b.up.Handle(path, testbench.Redirect(code, other.URL("evil.starpod.test")))
				token := b.token("api.starpod.test")
				response, _ := b.do(b.client(h2), b.request("POST", b.up.URL("api.starpod.test")+path, token, "X-Key", token))
				if response.StatusCode != code || len(b.up.Requests()) != 1 || other.Accepted() != 0 {
					t.Errorf("got status %d, %d requests and %d connections to the other, want %d, 1 and 0", response.StatusCode, len(b.up.Requests()), other.Accepted(), code)
				}
			})
		}
	}
}

// TestPatternCases: hosts that look like the one in a token's pattern.
func TestPatternCases(t *testing.T) {
	for _, test := range []struct {
		name, pattern, host string
		matches             bool
	}{
		{"18 capitals in the pattern", "API.GitHub.COM", "api.github.com", true},
		{"18 trailing dot in the pattern", "api.github.com.", "api.github.com", true},
		{"18 U-label in the pattern", "*.bücher.example", "a.xn--bcher-kva.example", true},
		{"18 A-label in the pattern", "xn--bcher-kva.example", "bücher.example", true},
		{"18 port in the pattern", "api.github.com:443", "api.github.com", true},
		{"18 another port in the pattern", "api.github.com:8443", "api.github.com", false},
		{"21 one level", "*.github.com", "api.github.com", true},
		{"21 two levels", "*.github.com", "a.b.github.com", true},
		{"21 the apex", "*.github.com", "github.com", false},
		{"21 a longer label", "*.github.com", "evilgithub.com", false},
		{"21 a longer label under a name", "github.com", "evilgithub.com", false},
		{"21 a suffix", "*.github.com", "github.com.evil.com", false},
		{"21 a suffix below", "*.github.com", "api.github.com.evil.com", false},
		{"21 an empty label", "*.github.com", ".github.com", false},
		{"21 a dot for a dash", "*.github.com", "api-github.com", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := tokens.HostMatches([]string{test.pattern}, test.host, 443); got != test.matches {
				t.Errorf("%s at %s: got %v, want %v", test.pattern, test.host, got, test.matches)
			}
		})
	}
}

// TestAddressCases: names that lead to addresses nobody shall reach, over every way
// through the proxy. Nothing is dialled: the guard is asked with the address that
// the name has.
func TestAddressCases(t *testing.T) {
	for _, test := range []struct{ name, addr, class string }{
		{"22 loopback", "127.0.0.1", "loopback"},
		{"22 metadata", "169.254.169.254", "metadata"},
		{"22 unique local", "fd00::1", "private"},
		{"22 mapped loopback", "::ffff:127.0.0.1", "loopback"},
		{"22 unspecified", "0.0.0.0", "unspecified"},
		{"22 carrier-grade NAT", "100.64.0.1", "carrier-grade"},
		{"22 6to4 of a private address", "2002:c0a8:101::", "private"},
		{"22 NAT64 of loopback", "64:ff9b::127.0.0.1", "loopback"},
		{"22 local NAT64", "64:ff9b:1::a00:1", "NAT64"},
		{"22 Teredo of a private client", "2001:0:4136:e378:8000:63bf:f5fe:fdfc", "private"},
		{"22 ISATAP of a private address", "2606:4700::5efe:192.168.1.1", "private"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := new(Guard).checkAddr(Destination{"https", "name.test", 443}, netip.MustParseAddr(test.addr))
			if !refusedBy(err, RuleEgress) || !strings.Contains(err.Error(), test.class) {
				t.Errorf("got %v, want a refusal for %s", err, test.class)
			}
		})
	}
	t.Run("22 mixed answers", func(t *testing.T) { TestMixedAnswers(t) })
	t.Run("22 an answer that changes between check and dial", func(t *testing.T) { TestChangingAnswers(t) })
	t.Run("23 the proxy itself", func(t *testing.T) { TestSelf(t) })
}

// TestCertificateCases: of a request to an upstream that cannot show who it is,
// nothing was sent.
func TestCertificateCases(t *testing.T) {
	b := newBench(t, nil)
	trusted := testbench.NewPKI(t)
	b.proxy.Egress.Roots.AppendCertsFromPEM(trusted.RootPEM)
	for name, leaf := range map[string]tls.Certificate{
		"24 untrusted":  testbench.NewPKI(t).Leaf(t),
		"24 expired":    trusted.Expired(t),
		"24 wrong name": trusted.WrongName(t),
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, h2 %v", name, h2), func(t *testing.T) {
				b.t, b.up = t, testbench.NewUpstreamWith(t, leaf, "h2", "http/1.1")
				token := b.token("api.starpod.test")
				response, body := b.do(b.client(h2), b.request("POST", b.up.URL("api.starpod.test")+"/"+token, token, "X-Key", token))
				var told struct{ Rule string }
				if err := json.Unmarshal([]byte(body), &told); err != nil || response.StatusCode != 502 || told.Rule != RuleCertificate {
					t.Errorf("got status %d %s, want 502 by the rule %s", response.StatusCode, body, RuleCertificate)
				}
				if b.nothingReached(); bytes.Contains([]byte(body), []byte(canary)) {
					t.Errorf("the answer tells the value: %s", body)
				}
			})
		}
	}
}

// h2Conn is a connection to a server in front of the proxy that speaks HTTP/2.
func (b *bench) h2Conn() net.Conn {
	b.t.Helper()
	front := httptest.NewUnstartedServer(b)
	front.EnableHTTP2 = true
	front.StartTLS()
	b.t.Cleanup(front.Close)
	conn, err := tls.Dial("tcp", front.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	return conn
}
