package tokens

import (
	"strings"
	"testing"
)

func TestCanonicalHost(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	name253 := strings.Repeat(label63+".", 3) + strings.Repeat("b", 61)
	tests := []struct {
		name, host, want string // no want: an error
	}{
		{"as it is", "api.example.com", "api.example.com"},
		{"upper case", "API.Example.COM", "api.example.com"},
		{"trailing dot", "api.example.com.", "api.example.com"},
		{"two trailing dots", "api.example.com..", ""},
		{"one label", "localhost", "localhost"},
		{"underscore and hyphens", "r3---sn-x.my_host.example", "r3---sn-x.my_host.example"},
		{"U-label", "bücher.example", "xn--bcher-kva.example"},
		{"upper-case U-label", "BÜCHER.example.", "xn--bcher-kva.example"},
		{"A-label", "XN--bcher-KVA.example", "xn--bcher-kva.example"},
		{"ideographic dots", "例え。jp。", "xn--r8jz45g.jp"},
		{"full-width letters", "ｅｘａｍｐｌｅ.com", "example.com"},
		{"full-width IPv4", "１２７.1", ""},
		{"zero-width joiner", "a\u200db.example", ""},
		{"not text", "\xff.example", ""},
		{"IPv4", "192.0.2.1", "192.0.2.1"},
		{"IPv4 and dot", "192.0.2.1.", "192.0.2.1"},
		{"short IPv4", "127.1", ""},
		{"hex IPv4", "0x7f000001", ""},
		{"upper-case hex IPv4", "0X7F.1", ""},
		{"hex in the last label", "a.0x1f", ""},
		{"bare 0x", "a.0x", ""},
		{"decimal IPv4", "2130706433", ""},
		{"octal IPv4", "0177.0.0.1", ""},
		{"five numbers", "1.2.3.4.5", ""},
		{"name that ends in a number", "example.1", ""},
		{"number that begins a name", "1.example", "1.example"},
		{"IPv6", "2001:DB8::0:1", "2001:db8::1"},
		{"IPv6 in brackets", "[2001:db8:0:0::1]", "2001:db8::1"},
		{"IPv4 in IPv6", "[::ffff:127.0.0.1]", "::ffff:127.0.0.1"},
		{"IPv6 with zone", "[fe80::1%eth0]", ""},
		{"IPv4 in brackets", "[192.0.2.1]", ""},
		{"name in brackets", "[example.com]", ""},
		{"open bracket", "[::1", ""},
		{"with port", "example.com:80", ""},
		{"empty", "", ""},
		{"dot", ".", ""},
		{"leading dot", ".example.com", ""},
		{"empty label", "a..b", ""},
		{"label of 63", label63 + ".example", label63 + ".example"},
		{"label of 64", label63 + "a.example", ""},
		{"name of 253", name253, name253},
		{"name of 254", name253 + "b", ""},
		{"space", "a b.example", ""},
		{"percent", "a%2e.example", ""},
		{"userinfo", "user@a.example", ""},
		{"slash", "a/b", ""},
		{"star", "*.example", ""},
		{"NUL", "a.example\x00", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := CanonicalHost(tt.host)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("CanonicalHost(%q): got %q, %v, want %q", tt.host, got, err, tt.want)
			}
		})
	}
	if n := testing.AllocsPerRun(100, func() { CanonicalHost("api.example.com") }); n != 0 {
		t.Errorf("a canonical host costs %v allocations", n)
	}
}

func TestHostMatches(t *testing.T) {
	tests := []struct {
		name     string
		patterns string // separated by spaces
		host     string
		port     uint16
		want     bool
	}{
		{"no patterns", "", "anything.example", 443, true},
		{"exact", "api.github.com", "api.github.com", 443, true},
		{"another", "api.github.com", "evil.com", 443, false},
		{"glob", "*.github.com", "api.github.com", 443, true},
		{"glob, deep", "*.github.com", "a.b.c.github.com", 443, true},
		{"glob, apex", "*.github.com", "github.com", 443, false},
		{"glob, look-alike", "*.github.com", "evilgithub.com", 443, false},
		{"glob, as a prefix", "*.github.com", "github.com.evil.com", 443, false},
		{"glob, empty label", "*.github.com", ".github.com", 443, false},
		{"exact, as a prefix", "api.github.com", "api.github.com.evil.com", 443, false},
		{"exact, as a suffix", "api.github.com", "x.api.github.com", 443, false},
		{"upper-case host", "api.github.com", "API.GitHub.COM", 443, true},
		{"upper-case pattern", "*.GitHub.COM", "api.github.com", 443, true},
		{"trailing dot of the host", "api.github.com", "api.github.com.", 443, true},
		{"trailing dot of the pattern", "api.github.com.", "api.github.com", 443, true},
		{"several", "api.github.com api.stripe.com", "api.stripe.com", 443, true},
		{"U-label pattern", "bücher.example", "xn--bcher-kva.example", 443, true},
		{"A-label pattern", "xn--bcher-kva.example", "bücher.example", 443, true},
		{"U-label glob", "*.bücher.example", "api.xn--bcher-kva.example", 443, true},
		{"port", "api.example.com:8443", "api.example.com", 8443, true},
		{"another port", "api.example.com:8443", "api.example.com", 443, false},
		{"unknown port", "api.example.com:8443", "api.example.com", 0, false},
		{"any port", "api.example.com", "api.example.com", 8443, true},
		{"glob and port", "*.example.com:8443", "api.example.com", 8443, true},
		{"IPv4", "192.0.2.1", "192.0.2.1", 80, true},
		{"IPv4 and port", "192.0.2.1:80", "192.0.2.1", 80, true},
		{"IPv6", "::1", "::1", 80, true},
		{"IPv6, bracketed host", "::1", "[::1]", 80, true},
		{"IPv6, bracketed pattern", "[::1]", "::1", 80, true},
		{"IPv6 and port", "[::1]:8443", "::1", 8443, true},
		{"IPv6 and another port", "[::1]:8443", "::1", 443, false},
		{"IPv6, other spelling", "2001:db8:0::1", "2001:db8::1", 80, true},
		{"IPv4 in IPv6 is not IPv4", "127.0.0.1", "::ffff:127.0.0.1", 80, false},
		{"star alone", "*", "api.example.com", 443, false},
		{"star and dot", "*.", "api.example.com", 443, false},
		{"two stars", "*.*.com", "api.example.com", 443, false},
		{"star inside", "api.*.com", "api.example.com", 443, false},
		{"star and letters", "*example.com", "api.example.com", 443, false},
		{"glob of an address", "*.0.2.1", "192.0.2.1", 443, false},
		{"empty pattern", "\"\"", "api.example.com", 443, false},
		{"bad port", "api.example.com:http", "api.example.com", 443, false},
		{"signed port", "api.example.com:+443", "api.example.com", 443, false},
		{"empty port", "api.example.com:", "api.example.com", 443, false},
		{"URL", "https://api.example.com", "api.example.com", 443, false},
		{"malformed beside good", "* api.example.com", "api.example.com", 443, true},
		{"malformed host", "api.example.com", "api.example.com:443", 443, false},
		{"empty host", "api.example.com", "", 443, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			patterns := strings.Fields(tt.patterns)
			if tt.patterns == `""` {
				patterns = []string{""}
			}
			if got := HostMatches(patterns, tt.host, tt.port); got != tt.want {
				t.Errorf("HostMatches(%q, %q, %d): got %v, want %v", patterns, tt.host, tt.port, got, tt.want)
			}
		})
	}
	patterns := []string{"api.github.com", "*.example.com:443"}
	if n := testing.AllocsPerRun(100, func() { HostMatches(patterns, "api.example.com", 443) }); n != 0 {
		t.Errorf("canonical patterns cost %v allocations", n)
	}
}
