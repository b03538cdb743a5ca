package handler

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestParseDestination(t *testing.T) {
	long := strings.Repeat("a.", 127) + "a" // 255 characters
	for _, test := range []struct {
		authority string
		fallback  uint16
		want      string // "" for an error
	}{
		{"api.test:443", 0, "https://api.test"},
		{"api.test:8443", 0, "https://api.test:8443"},
		{"api.test", 443, "https://api.test"},
		{"API.Test.:443", 0, "https://api.test"},
		{"bücher.test:443", 0, "https://xn--bcher-kva.test"},
		{"XN--BCHER-KVA.test:443", 0, "https://xn--bcher-kva.test"},
		{"192.0.2.1:443", 0, "https://192.0.2.1"},
		{"[2001:DB8:0::1]:443", 0, "https://[2001:db8::1]"},
		{"[2001:db8::1]", 443, "https://[2001:db8::1]"},
		{"api.test:65535", 0, "https://api.test:65535"},
		{"api.test", 0, ""},
		{"api.test:", 443, ""},
		{"api.test:0", 443, ""},
		{"api.test:65536", 443, ""},
		{"api.test:+443", 0, ""},
		{"api.test:-1", 0, ""},
		{"api.test:443 ", 0, ""},
		{"api.test:https", 0, ""},
		{"api.test:443:443", 0, ""},
		{"user@api.test:443", 0, ""},
		{"user:password@api.test:443", 0, ""},
		{"2001:db8::1:443", 0, ""},
		{"[2001:db8::1", 443, ""},
		{"[2001:db8::1]:", 443, ""},
		{"[2001:db8::1]443", 443, ""},
		{"[fe80::1%eth0]:443", 0, ""},
		{"[192.0.2.1]:443", 0, ""},
		{"[api.test]:443", 0, ""},
		{"127.1:443", 0, ""},
		{"0x7f000001:443", 0, ""},
		{"2130706433:443", 0, ""},
		{"0177.0.0.1:443", 0, ""},
		{"0x7f.0.0.1:443", 0, ""},
		{"127.0.0.1.:443", 0, "https://127.0.0.1"},
		{"127.0.0.01:443", 0, ""},
		{"１２７.０.０.１:443", 0, ""},
		{"127。0。0。1:443", 0, ""},
		{"１２７．１:443", 0, ""},
		{"①②⑦.0.0.1:443", 0, ""},
		{"0ｘ7f000001:443", 0, ""},
		{"ａｐｉ．test:443", 0, "https://api.test"},
		{"api。test。:443", 0, "https://api.test"},
		{"api.test:0443", 0, "https://api.test"},
		{"[::ffff:192.0.2.1]:443", 0, "https://[::ffff:192.0.2.1]"},
		{"[0:0:0:0:0:ffff:c000:201]:443", 0, "https://[::ffff:192.0.2.1]"},
		{"[2001:db8::1%25eth0]:443", 0, ""},
		{"[]:443", 0, ""},
		{"[::1]]:443", 0, ""},
		{"", 443, ""},
		{":443", 0, ""},
		{".:443", 0, ""},
		{"a..b:443", 0, ""},
		{"api.test/x:443", 0, ""},
		{"api.test\x00:443", 0, ""},
		{"api.test\r\nX: y:443", 0, ""},
		{"api test:443", 0, ""},
		{"api.test%2f:443", 0, ""},
		{long[:253] + "b:443", 0, ""}, // 254 characters
		{strings.Repeat("a", 64) + ".test:443", 0, ""},
	} {
		t.Run(fmt.Sprintf("%.40q", test.authority), func(t *testing.T) {
			got, err := parseDestination("https", test.authority, test.fallback)
			switch {
			case test.want == "" && err == nil:
				t.Errorf("got %s, want an error", got)
			case test.want != "" && (err != nil || got.String() != test.want):
				t.Errorf("got %s (%v), want %s", got, err, test.want)
			}
		})
	}
}

// FuzzParseDestination: what is parsed parses again to itself, and two
// authorities agree in both directions or in none.
func FuzzParseDestination(f *testing.F) {
	for _, pair := range [][2]string{
		{"api.test:443", "API.test."}, {"[::1]:443", "[0:0::1]"}, {"bücher.test", "xn--bcher-kva.test:443"},
		{"[::ffff:127.0.0.1]:1", "127.0.0.1:1"}, {"a:1", "a:01"}, {"a@b:1", "b:1"},
	} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		first, err := parseDestination("https", a, 443)
		if err != nil {
			return
		}
		again, err := parseDestination("https", first.HostPort(), 0)
		if err != nil || again != first {
			t.Fatalf("%q: got %+v (%v), want %+v again", a, again, err, first)
		}
		if !first.agrees(a) || !first.agrees(strings.TrimPrefix(first.String(), "https://")) {
			t.Fatalf("%q does not agree with itself, %s", a, first)
		}
		if second, err := parseDestination("https", b, 443); err == nil && first.agrees(b) != second.agrees(a) {
			t.Fatalf("%q and %q: got %v one way and %v the other", a, b, first.agrees(b), second.agrees(a))
		}
	})
}

// TestConnectAuthority: what may stand in the line of a CONNECT.
func TestConnectAuthority(t *testing.T) {
	b := newBench(t, nil)
	port := b.up.Port()
	for _, test := range []struct {
		name, line string
		status     int
	}{
		{"name", fmt.Sprintf("api.starpod.test:%d", port), 200},
		{"name in capitals with a dot behind", fmt.Sprintf("API.Starpod.TEST.:%d", port), 200},
		{"address", fmt.Sprintf("127.0.0.1:%d", port), 200},
		{"no port", "api.starpod.test", 400},
		{"empty port", "api.starpod.test:", 400},
		{"port 0", "api.starpod.test:0", 400},
		{"port too large", "api.starpod.test:65536", 400},
		{"no host", fmt.Sprintf(":%d", port), 400},
		{"user information", fmt.Sprintf("user@api.starpod.test:%d", port), 400},
		{"user and password", fmt.Sprintf("user:pw@api.starpod.test:%d", port), 400},
		{"a path behind", fmt.Sprintf("api.starpod.test:%d/x", port), 400},
		{"a query behind", fmt.Sprintf("api.starpod.test:%d?x", port), 400},
		{"a path alone", "/x", 400},
		{"a URL", fmt.Sprintf("https://api.starpod.test:%d", port), 400},
		{"an escaped host", fmt.Sprintf("%%61pi.starpod.test:%d", port), 400},
		{"bare IPv6", "::1:443", 400},
		{"IPv6 with a zone", "[fe80::1%25lo]:443", 400},
		{"254 characters", strings.Repeat("a.", 126) + "ab:443", 400},
		{"old spelling of an address", "0x7f.1:443", 400},
		{"mapped loopback at a closed port", "[::ffff:169.254.169.254]:80", 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			conn := b.dialFront()
			fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: api.starpod.test:%d\r\n\r\n", test.line, port)
			response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "CONNECT"})
			if err != nil || response.StatusCode != test.status {
				t.Errorf("got %v (%v), want status %d", response, err, test.status)
			}
			b.nothingReached()
		})
	}
}

// TestNamesOfATunnel: CONNECT, SNI, Host and the target must be of one mind.
func TestNamesOfATunnel(t *testing.T) {
	b := newBench(t, nil)
	port := b.up.Port()
	at := func(host string) string { return fmt.Sprintf("%s:%d", host, port) }
	api, evil := at("api.starpod.test"), at("evil.starpod.test")
	for _, test := range []struct {
		name, connect, sni, host, target string
		status                           int
	}{
		{"all the same", api, "api.starpod.test", api, "/", 200},
		{"spelled otherwise", at("API.starpod.test."), "api.starpod.test", at("api.STARPOD.test"), "/", 200},
		{"address without SNI", at("127.0.0.1"), "", at("127.0.0.1"), "/", 200},
		{"name without SNI", api, "", api, "/", 200},
		{"evil Host", api, "api.starpod.test", evil, "/", 421},
		{"good Host, evil CONNECT", evil, "evil.starpod.test", api, "/", 421},
		{"SNI of another", evil, "api.starpod.test", evil, "/", 421},
		{"SNI and Host of another", evil, "api.starpod.test", api, "/", 421},
		{"SNI for an address", at("127.0.0.1"), "api.starpod.test", at("127.0.0.1"), "/", 421},
		{"Host without the port", api, "api.starpod.test", "api.starpod.test", "/", 421},
		{"Host with another port", api, "api.starpod.test", "api.starpod.test:443", "/", 421},
		{"empty Host", api, "api.starpod.test", "", "/", 421},
		{"Host with user information", api, "api.starpod.test", "x@" + api, "/", 400},
		{"Host and a path", api, "api.starpod.test", api + "/x", "/", 400},
		{"two names in Host", api, "api.starpod.test", api + "," + evil, "/", 421},
		{"subdomain", api, "api.starpod.test", at("x.api.starpod.test"), "/", 421},
		{"name with a suffix", api, "api.starpod.test", at("api.starpod.test.evil.test"), "/", 421},
		{"absolute form of the same", api, "api.starpod.test", api, "https://" + api + "/x", 200},
		{"absolute form of the same, evil Host", api, "api.starpod.test", evil, "https://" + api + "/x", 200},
		{"absolute form of another", api, "api.starpod.test", api, "https://" + evil + "/x", 421},
		{"absolute form with a user", api, "api.starpod.test", api, "https://u@" + api + "/x", 400},
		{"absolute form of another with a user", api, "api.starpod.test", api, "https://" + api + "@" + evil + "/x", 400},
		{"absolute form, empty host", api, "api.starpod.test", api, "https:///x", 200},
		{"plain http in absolute form", api, "api.starpod.test", api, "http://" + api + "/x", 400},
		{"other scheme", api, "api.starpod.test", api, "ftp://" + api + "/x", 400},
		{"scheme without a host", api, "api.starpod.test", api, "http:x", 400},
		{"two slashes", api, "api.starpod.test", api, "//evil.starpod.test/x", 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			b.up.Forget()
			secure := b.insecureTunnel(test.connect, test.sni)
			response := b.sendOver(secure, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nX-Key: %s\r\n\r\n", test.target, test.host, b.token("api.starpod.test")))
			if response.StatusCode != test.status {
				body, _ := io.ReadAll(response.Body)
				t.Errorf("got status %d, want %d: %s", response.StatusCode, test.status, body)
			}
			if test.status != 200 {
				b.nothingReached()
				return
			}
			// What the upstream is told is what was agreed on.
			got := b.up.Last(t)
			if dest, err := parseDestination("https", test.connect, 0); err != nil || !dest.agrees(got.Host) || strings.Contains(got.Target, "://") {
				t.Errorf("upstream was told %q and %q, want those of %s", got.Host, got.Target, test.connect)
			}
		})
	}
}

// TestContentOfATunnel: what is not TLS ends there.
func TestContentOfATunnel(t *testing.T) {
	b := newBench(t, nil)
	for _, test := range []struct{ name, sent, answer string }{
		{"plain HTTP", "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n", "HTTP/1.1 400 "},
		{"plain HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 400 "},
		{"SSH", "SSH-2.0-OpenSSH_9\r\n", "HTTP/1.1 400 "},
		{"binary", "\x00\x01\x02", ""},
		{"SOCKS", "\x05\x01\x00", ""},
		{"broken TLS", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 100), "\x15"},
		{"HTTP that begins like TLS", "\x16GET / HTTP/1.1\r\n\r\n", ""},
		{"nothing at all", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			conn, _ := b.connect(b.apiAuthority())
			io.WriteString(conn, strings.ReplaceAll(test.sent, "{host}", b.apiAuthority()))
			_ = conn.(*net.TCPConn).CloseWrite()
			answer, _ := io.ReadAll(conn)
			if !strings.HasPrefix(string(answer), test.answer) || test.answer == "" && len(answer) > 0 {
				t.Errorf("got %q, want %q and the end", answer, test.answer)
			}
			b.nothingReached()
		})
	}
	t.Run("CONNECT", func(t *testing.T) {
		b.t = t
		conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", b.apiAuthority())
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || response.StatusCode != 400 {
			t.Errorf("got %v (%v), want status 400", response, err)
		}
		b.nothingReached()
	})
}

// TestAbsoluteForm: what may be asked for without a tunnel.
func TestAbsoluteForm(t *testing.T) {
	b := newBench(t, nil)
	port := b.up.PlainPort()
	for _, test := range []struct {
		name, target, host string
		status             int
		saw                string // Host and target of the upstream
	}{
		{"plain", fmt.Sprintf("http://api.starpod.test:%d/a%%2Fb?x=1&x=2;3", port), "ignored", 200, fmt.Sprintf("api.starpod.test:%d /a%%2Fb?x=1&x=2;3", port)},
		{"another Host", fmt.Sprintf("http://api.starpod.test:%d/", port), "evil.starpod.test", 200, fmt.Sprintf("api.starpod.test:%d /", port)},
		{"no path", fmt.Sprintf("http://api.starpod.test:%d", port), "x", 200, fmt.Sprintf("api.starpod.test:%d /", port)},
		{"two slashes", fmt.Sprintf("http://api.starpod.test:%d//evil/x", port), "x", 200, fmt.Sprintf("api.starpod.test:%d //evil/x", port)},
		{"a URL as query", fmt.Sprintf("http://api.starpod.test:%d?u=http://evil/", port), "x", 200, fmt.Sprintf("api.starpod.test:%d /?u=http://evil/", port)},
		{"https", fmt.Sprintf("https://api.starpod.test:%d/", port), "x", 400, ""},
		{"ftp", fmt.Sprintf("ftp://api.starpod.test:%d/", port), "x", 400, ""},
		{"user", fmt.Sprintf("http://u:p@api.starpod.test:%d/", port), "x", 400, ""},
		{"empty port", "http://api.starpod.test:/", "x", 400, ""},
		{"port 0", "http://api.starpod.test:0/", "x", 400, ""},
		{"zone", "http://[fe80::1%25lo]/", "x", 400, ""},
		{"bad name", "http://a..b/", "x", 400, ""},
		{"old spelling", "http://0x7f000001/", "x", 400, ""},
		{"escaped host", "http://%61pi.starpod.test/", "x", 400, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			b.up.Forget()
			response := b.sendOver(b.dialFront(), fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", test.target, test.host))
			if response.StatusCode != test.status {
				t.Errorf("got status %d, want %d", response.StatusCode, test.status)
			}
			if test.status != 200 {
				b.nothingReached()
			} else if got := b.up.Last(t); got.Host+" "+got.Target != test.saw {
				t.Errorf("upstream saw %q, want %q", got.Host+" "+got.Target, test.saw)
			}
		})
	}
	t.Run("ordinary request", func(t *testing.T) {
		b.t = t
		response := b.sendOver(b.dialFront(), "GET / HTTP/1.1\r\nHost: api.starpod.test\r\n\r\n")
		if body, _ := io.ReadAll(response.Body); string(body) != "not for the proxy" {
			t.Errorf("got %q, want the next handler", body)
		}
	})
}

// TestHTTP2PseudoHeaders plays with what names the destination in HTTP/2.
func TestHTTP2PseudoHeaders(t *testing.T) {
	b := newBench(t, nil)
	api, evil := b.apiAuthority(), fmt.Sprintf("evil.starpod.test:%d", b.up.Port())
	type fields [][2]string
	for _, test := range []struct {
		name   string
		fields fields
		status string // "" for a reset stream or connection
	}{
		{"good", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":path", "/"}}, "200"},
		{"authority of another", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", evil}, {":path", "/"}}, "421"},
		{"no authority", fields{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}}, "421"},
		{"host in place of authority", fields{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {"host", api}}, "200"},
		{"evil host in place of authority", fields{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {"host", evil}}, "421"},
		{"evil host beside authority", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":path", "/"}, {"host", evil}}, "421"},
		{"the same host beside authority", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":path", "/"}, {"host", api}}, "200"},
		{"two authorities", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":authority", evil}, {":path", "/"}}, ""},
		{"absolute path of another", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":path", "https://" + evil + "/x"}}, "421"},
		{"absolute path", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":path", "https://" + api + "/x"}}, "200"},
		{"absolute path of plain http", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":path", "http://" + api + "/x"}}, "400"},
		{"CONNECT", fields{{":method", "CONNECT"}, {":authority", evil}}, "400"},
		{"transfer coding", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":path", "/"}, {"transfer-encoding", "chunked"}}, "400"},
		{"connection", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":path", "/"}, {"connection", "x"}}, "400"},
		{"upgrade", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":path", "/"}, {"upgrade", "x"}}, "400"},
		{"line break in a value", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":path", "/"}, {"x-a", "1\r\nx-b: 2"}}, ""},
		{"line break in the path", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":path", "/ HTTP/1.1\r\nX: y"}}, ""},
		{"line break in the method", fields{{":method", "GET / HTTP/1.1\r\nX:"}, {":scheme", "https"}, {":authority", api}, {":path", "/"}}, ""},
		{"field name in capitals", fields{{":method", "GET"}, {":scheme", "https"}, {":authority", api}, {":path", "/"}, {"X-A", "1"}}, ""},
		{"pseudo field behind", fields{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {"x-a", "1"}, {":authority", api}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			b.up.Forget()
			status := b.sendHTTP2(test.fields)
			if status != test.status {
				t.Errorf("got status %q, want %q", status, test.status)
			}
			if test.status != "200" {
				b.nothingReached()
				return
			}
			if got := b.up.Last(t); got.Host != api || got.Header.Get("Host") != "" || !strings.HasPrefix(got.Target, "/") {
				t.Errorf("upstream got %q %q %v, want the host of the tunnel", got.Host, got.Target, got.Header)
			}
		})
	}
}

// sendHTTP2 sends one request with exactly these fields into a new tunnel to
// the API. It returns :status, "" if the stream or connection was cut.
func (b *bench) sendHTTP2(fields [][2]string) (status string) {
	b.t.Helper()
	return b.sendFrames(h2Message{fields: fields}, strings.NewReplacer())
}
