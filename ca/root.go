package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"time"
)

// Root is a root certificate with its private key. It implements [Signer].
// However it is printed or encoded, it shows its name and expiry, never the key.
type Root struct {
	cert *x509.Certificate
	key  crypto.Signer
	now  func() time.Time
}

// Generate makes a new root that is valid for ten years from now. It touches no
// file.
func Generate(now time.Time) (*Root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating the authority's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: rootCommonName, Organization: []string{rootOrganization}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.AddDate(rootYears, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the authority's certificate: %w", err)
	}
	return &Root{cert: cert, key: key, now: time.Now}, nil
}

// Roots returns the root certificate.
func (r *Root) Roots() []*x509.Certificate { return []*x509.Certificate{r.cert} }

// Sign returns one certificate, signed by the root itself: valid from an hour
// ago for 24 hours, but never longer than the root.
func (r *Root) Sign(_ context.Context, name string, key crypto.Signer) ([][]byte, error) {
	s, err := parseName(name)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	now := r.now()
	if !now.Before(r.cert.NotAfter) {
		return nil, fmt.Errorf("signing a certificate for %s: the authority expired on %s; make a new one and restart",
			s, r.cert.NotAfter.Format(time.DateOnly))
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: s.commonName()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              earliest(now.Add(leafLife), r.cert.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	template.DNSNames, template.IPAddresses = s.sans()
	der, err := x509.CreateCertificate(rand.Reader, template, r.cert, key.Public(), r.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate for %s: %w", s, err)
	}
	return [][]byte{der}, nil
}

// withClock returns the same root on another clock.
func (r *Root) withClock(now func() time.Time) *Root {
	return &Root{cert: r.cert, key: r.key, now: now}
}

func (r Root) String() string {
	if r.cert == nil {
		return "ca.Root(empty)"
	}
	return fmt.Sprintf("ca.Root(%s, until %s)", r.cert.Subject, r.cert.NotAfter.Format(time.DateOnly))
}

// Format answers every verb with String, so that none reaches the fields.
func (r Root) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.String()) }

// MarshalText serves encoding/json and structured loggers.
func (r Root) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// newSerial returns a random serial number of 128 bits, within the 20 octets of
// RFC 5280, section 4.1.2.2, which also wants it positive.
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
