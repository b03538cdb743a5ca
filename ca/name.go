package ca

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// ErrName is returned (wrapped) for a name that no certificate can be made for:
// empty, a wildcard, with a port or brackets, not in ASCII, or malformed.
var ErrName = errors.New("not a host name or IP address")

const (
	maxName       = 253 // RFC 1035, section 3.1, as text without the final dot
	maxLabel      = 63  // RFC 1035, section 2.3.4
	maxCommonName = 64  // RFC 5280, appendix A.1, ub-common-name
)

// subject is a checked name; exactly one of dns and ip is set.
type subject struct {
	dns string // lower case, no final dot
	ip  netip.Addr
}

// parseName checks and normalises name. Spellings of one host (case, a final
// dot, forms of an IP address) become the same subject.
func parseName(name string) (subject, error) {
	if ip, err := netip.ParseAddr(name); err == nil {
		if ip.Zone() != "" {
			return subject{}, fmt.Errorf("%q has a zone: %w", name, ErrName)
		}
		return subject{ip: ip.Unmap()}, nil
	}
	dns := strings.ToLower(strings.TrimSuffix(name, "."))
	if dns == "" || len(dns) > maxName {
		return subject{}, fmt.Errorf("%.80q is empty or longer than %d characters: %w", name, maxName, ErrName)
	}
	for label := range strings.SplitSeq(dns, ".") {
		if !validLabel(label) {
			return subject{}, fmt.Errorf("%.80q: %w", name, ErrName)
		}
	}
	return subject{dns: dns}, nil
}

// validLabel accepts letters, digits, hyphens (not first) and underscores, which
// RFC 1123 does not know but real hosts have.
func validLabel(label string) bool {
	if label == "" || len(label) > maxLabel || label[0] == '-' {
		return false
	}
	for i := range len(label) {
		c := label[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func (s subject) String() string {
	if s.dns != "" {
		return s.dns
	}
	return s.ip.String()
}

// commonName is empty where the name does not fit: clients read the SAN.
func (s subject) commonName() string {
	if name := s.String(); len(name) <= maxCommonName {
		return name
	}
	return ""
}

// sans returns the name in the two shapes that crypto/x509 templates take.
func (s subject) sans() (dns []string, ips []net.IP) {
	if s.dns != "" {
		return []string{s.dns}, nil
	}
	return nil, []net.IP{s.ip.AsSlice()}
}
