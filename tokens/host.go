package tokens

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

const (
	maxHostLen  = 253 // RFC 1035 §2.3.4, without the root's length byte
	maxLabelLen = 63
)

// CanonicalHost returns the one spelling of a host name or address: lower case,
// IDNA A-labels (RFC 5891, lookup), without trailing dot, IPv6 without brackets
// and as RFC 5952 writes it. A host that is canonical already is returned as it
// is, without allocation. Anything that two programs could read differently,
// such as the IPv4 spellings 127.1 and 0x7f000001, is an error.
func CanonicalHost(host string) (string, error) {
	if isPlain(host) {
		if err := checkName(host); err != nil {
			return "", err
		}
		return host, nil
	}
	if strings.ContainsAny(host, ":[]") {
		return canonicalIPv6(host)
	}
	if !isASCII(host) {
		if !utf8.ValidString(host) {
			return "", errors.New("host name is not valid UTF-8")
		}
		ascii, err := idna.Lookup.ToASCII(strings.TrimSuffix(host, "."))
		if err != nil {
			return "", fmt.Errorf("host name is not a valid international name: %w", err)
		}
		if endsInNumber(strings.TrimSuffix(ascii, ".")) {
			return "", errors.New("an IPv4 address is written in plain digits and dots, like 192.0.2.1")
		}
		host = ascii
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if err := checkName(host); err != nil {
		return "", err
	}
	return host, nil
}

// isPlain reports whether a host needs nothing but checkName.
func isPlain(host string) bool {
	for i := range len(host) {
		if !isHostByte(host[i]) && (host[i] != '.' || i == len(host)-1) {
			return false
		}
	}
	return true
}

func canonicalIPv6(host string) (string, error) {
	inner := host
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		inner = host[1 : len(host)-1]
	}
	addr, err := netip.ParseAddr(inner)
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", errors.New("host is not a valid IPv6 address")
	}
	return addr.String(), nil
}

// checkName checks a lower-case name without trailing dot. It is laxer than
// IDNA about hyphens and underscores, which names in use have.
func checkName(host string) error {
	if host == "" {
		return errors.New("host name is empty")
	}
	if len(host) > maxHostLen {
		return fmt.Errorf("host name has %d characters, more than %d", len(host), maxHostLen)
	}
	start := 0
	for i := 0; i <= len(host); i++ {
		if i < len(host) && host[i] != '.' {
			if !isHostByte(host[i]) {
				return fmt.Errorf("host name holds the character %q", host[i])
			}
			continue
		}
		if i == start || i-start > maxLabelLen {
			return errors.New("host name has a label that is empty or longer than 63 characters")
		}
		start = i + 1
	}
	if endsInNumber(host) {
		if addr, err := netip.ParseAddr(host); err != nil || !addr.Is4() {
			return errors.New("host ends in a number but is no IPv4 address of the form 192.0.2.1")
		}
	}
	return nil
}

// endsInNumber tells whether laxer parsers take a name for an IPv4 address:
// its last label is digits, or 0x and hex digits (WHATWG URL §3.5).
func endsInNumber(host string) bool {
	digits, isHex := strings.CutPrefix(host[strings.LastIndexByte(host, '.')+1:], "0x")
	for i := range len(digits) {
		c := digits[i]
		if c >= '0' && c <= '9' || isHex && c >= 'a' && c <= 'f' {
			continue
		}
		return false
	}
	return true
}

func isHostByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// HostMatches reports whether one of the patterns names the host and port. No
// patterns means any host. A pattern is a host, or *.example.com for every
// deeper name but not example.com itself; with :port it also fixes the port
// (IPv6: [::1]:8443). Case, a trailing dot and the spelling of international
// names do not matter. A malformed pattern matches nothing.
func HostMatches(patterns []string, host string, port uint16) bool {
	if len(patterns) == 0 {
		return true
	}
	host, err := CanonicalHost(host)
	if err != nil {
		return false
	}
	for _, text := range patterns {
		if text == host {
			return true
		}
		if p, err := parsePattern(text); err == nil && p.matches(host, port) {
			return true
		}
	}
	return false
}

// CheckHostPattern tells what is wrong with a pattern and what to write instead.
func CheckHostPattern(text string) error {
	_, err := parsePattern(text)
	return err
}

// pattern is a parsed host pattern.
type pattern struct {
	host     string // canonical, without *.
	wildcard bool
	port     uint16 // 0 is any
}

func (p pattern) matches(host string, port uint16) bool {
	if p.port != 0 && p.port != port {
		return false
	}
	if !p.wildcard {
		return host == p.host
	}
	label, ok := strings.CutSuffix(host, p.host)
	return ok && len(label) > 1 && label[len(label)-1] == '.'
}

// parsePattern's errors tell what to write instead: sealing shows them.
func parsePattern(text string) (pattern, error) {
	var p pattern
	if text == "*" {
		return p, errors.New("leave the list empty for no restriction")
	}
	if strings.ContainsAny(text, "/?#@\\") {
		return p, errors.New("write the host alone, without scheme, user or path, such as api.example.com")
	}
	host, port, err := splitPort(text)
	if err != nil {
		return p, err
	}
	p.port = port
	host, p.wildcard = strings.CutPrefix(host, "*.")
	if strings.Contains(host, "*") {
		return p, errors.New("a * may only stand for whole labels at the start, such as *.example.com")
	}
	if p.host, err = CanonicalHost(host); err != nil {
		return p, err
	}
	if p.wildcard && (strings.Contains(p.host, ":") || endsInNumber(p.host)) {
		return p, errors.New(`an address has no subdomains: leave out the "*." in front`)
	}
	return p, nil
}

// splitPort splits host:port, [IPv6]:port, and either without a port.
func splitPort(text string) (host string, port uint16, err error) {
	colon := strings.LastIndexByte(text, ':')
	bare := strings.Count(text, ":") > 1 && !strings.HasPrefix(text, "[")
	if colon < 0 || bare || strings.HasSuffix(text, "]") {
		return text, 0, nil
	}
	digits := text[colon+1:]
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 {
		return "", 0, errors.New("the port must be a number from 1 to 65535, such as api.example.com:8443")
	}
	return text[:colon], uint16(n), nil
}
