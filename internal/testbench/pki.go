package testbench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// PKI is the certificate authority that test upstreams present certificates of.
// A second one stands for an authority that nobody trusts.
type PKI struct {
	// RootPEM is the root certificate.
	RootPEM []byte

	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewPKI makes a P-256 root that is valid from an hour ago until tomorrow.
func NewPKI(tb testing.TB) *PKI {
	tb.Helper()
	key := newKey(tb)
	template := &x509.Certificate{
		SerialNumber:          newSerial(tb),
		Subject:               pkix.Name{CommonName: "Starpod test upstream root"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatalf("creating test root: %v", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatalf("parsing test root: %v", err)
	}
	return &PKI{
		RootPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		root:    root,
		key:     key,
	}
}

// Leaf returns a valid certificate for the names, which may be DNS names,
// wildcards or IP addresses; without names, for *.starpod.test, *.github.com,
// localhost, 127.0.0.1 and ::1.
func (p *PKI) Leaf(tb testing.TB, names ...string) tls.Certificate {
	tb.Helper()
	return p.leaf(tb, time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour), names)
}

// Expired returns a certificate that was valid until a minute ago.
func (p *PKI) Expired(tb testing.TB, names ...string) tls.Certificate {
	tb.Helper()
	return p.leaf(tb, time.Now().Add(-time.Hour), time.Now().Add(-time.Minute), names)
}

// WrongName returns a valid certificate for a name that no test asks for.
func (p *PKI) WrongName(tb testing.TB) tls.Certificate {
	tb.Helper()
	return p.Leaf(tb, "somebody-else.invalid")
}

// Pool returns the root as a pool.
func (p *PKI) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.root)
	return pool
}

// RootFile writes the root into a temporary PEM file and returns its path.
func (p *PKI) RootFile(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "upstream-root.pem")
	if err := os.WriteFile(path, p.RootPEM, 0o644); err != nil {
		tb.Fatalf("writing test root: %v", err)
	}
	return path
}

// Client returns a client that trusts the root, finds every *.starpod.test at
// 127.0.0.1, speaks h2 where offered and follows no redirect.
func (p *PKI) Client(tb testing.TB) *http.Client {
	tb.Helper()
	transport := &http.Transport{
		DialContext:       Dial,
		TLSClientConfig:   &tls.Config{RootCAs: p.Pool()},
		ForceAttemptHTTP2: true,
	}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Dial connects like net.Dialer, except that *.starpod.test is 127.0.0.1.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err == nil && strings.HasSuffix(strings.ToLower(strings.TrimSuffix(host, ".")), ".starpod.test") {
		address = net.JoinHostPort("127.0.0.1", port)
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, network, address)
}

func (p *PKI) leaf(tb testing.TB, notBefore, notAfter time.Time, names []string) tls.Certificate {
	tb.Helper()
	if len(names) == 0 {
		names = []string{"*.starpod.test", "*.github.com", "localhost", "127.0.0.1", "::1"}
	}
	key := newKey(tb)
	template := &x509.Certificate{
		SerialNumber: newSerial(tb),
		Subject:      pkix.Name{CommonName: "test upstream"},
		NotBefore:    notBefore,
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.root, key.Public(), p.key)
	if err != nil {
		tb.Fatalf("creating test certificate for %v: %v", names, err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("generating test key: %v", err)
	}
	return key
}

func newSerial(tb testing.TB) *big.Int {
	tb.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		tb.Fatalf("generating test serial number: %v", err)
	}
	return serial
}
