package handler

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/starpod/caddy-starpod/tokens"
)

// Destination is where a request goes: one value, computed once, used for
// everything. It is what is dialled, what the upstream certificate is verified
// against, what tokens are bound to, and what Host, :authority and SNI must
// agree with.
type Destination struct {
	Scheme string // "http" or "https"
	Host   string // canonical: lower-case A-labels or an unbracketed IP address
	Port   uint16 // never 0
}

// HostPort returns the destination as net.Dial takes it.
func (d Destination) HostPort() string {
	return net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port)))
}

// String returns the destination as the origin of a URL, the default port of
// the scheme left out.
func (d Destination) String() string {
	host := d.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if d.Port == defaultPort(d.Scheme) {
		return d.Scheme + "://" + host
	}
	return d.Scheme + "://" + host + ":" + strconv.Itoa(int(d.Port))
}

// agrees reports whether authority (a Host or :authority header, or the
// authority of a URL) names this destination.
func (d Destination) agrees(authority string) bool {
	other, err := parseDestination(d.Scheme, authority, defaultPort(d.Scheme))
	return err == nil && other == d
}

func defaultPort(scheme string) uint16 {
	if scheme == "https" {
		return 443
	}
	return 80
}

// parseDestination reads an authority (RFC 3986, section 3.2) without user
// information. A port of 0 for fallback makes the port mandatory, as CONNECT
// does (RFC 9110, section 9.3.6).
func parseDestination(scheme, authority string, fallback uint16) (Destination, error) {
	if strings.Contains(authority, "@") {
		return Destination{}, errors.New("user information is not allowed in an authority")
	}
	host, portText, err := splitAuthority(authority)
	if err != nil {
		return Destination{}, err
	}
	port := fallback
	if portText != "" {
		n, err := strconv.ParseUint(portText, 10, 16)
		if err != nil || n == 0 || portText[0] == '+' {
			return Destination{}, errors.New("the port must be a number from 1 to 65535")
		}
		port = uint16(n)
	}
	if port == 0 {
		return Destination{}, errors.New("the port is missing: name it as host:port")
	}
	canonical, err := tokens.CanonicalHost(host)
	if err != nil {
		return Destination{}, fmt.Errorf("host: %w", err)
	}
	return Destination{Scheme: scheme, Host: canonical, Port: port}, nil
}

// splitAuthority separates host and port. A colon with nothing behind it is
// refused: clients and servers disagree about what it means.
func splitAuthority(authority string) (host, port string, err error) {
	if strings.HasPrefix(authority, "[") {
		end := strings.IndexByte(authority, ']')
		if end < 0 {
			return "", "", errors.New("bracket not closed in the address")
		}
		host, rest := authority[1:end], authority[end+1:]
		if addr, err := netip.ParseAddr(host); err != nil || addr.Zone() != "" || !addr.Is6() {
			return "", "", errors.New("only an IPv6 address without zone may stand in brackets")
		}
		if rest == "" {
			return host, "", nil
		}
		if rest[0] != ':' || len(rest) == 1 {
			return "", "", errors.New("the port behind the address is malformed")
		}
		return host, rest[1:], nil
	}
	host, port, found := strings.Cut(authority, ":")
	if found && (port == "" || strings.Contains(port, ":")) {
		return "", "", errors.New("the port is malformed (an IPv6 address needs brackets)")
	}
	return host, port, nil
}
