package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

// intermediateIssuer answers requests as an issuer of Caddy does: PEM, leaf
// first, signed by an intermediate under root.
func intermediateIssuer(t *testing.T, root *Root, withRoot bool) func(context.Context, *x509.CertificateRequest) ([]byte, error) {
	t.Helper()
	key := newKey(t)
	intermediate := certify(t, key, root, func(c *x509.Certificate) {
		c.Subject.CommonName, c.MaxPathLenZero = "Intermediate", true
	})
	return func(_ context.Context, csr *x509.CertificateRequest) ([]byte, error) {
		if err := csr.CheckSignature(); err != nil {
			return nil, err
		}
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(2), DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses,
			NotBefore: time.Now(), NotAfter: time.Now().Add(12 * time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}, intermediate, csr.PublicKey, key)
		chain := append(encodeCertificate(der), encodeCertificate(intermediate.Raw)...)
		if withRoot {
			chain = append(chain, encodeCertificate(root.cert.Raw)...)
		}
		return chain, err
	}
}

// topRoot may have intermediates, unlike what Generate makes.
func topRoot(t *testing.T) *Root {
	key := newKey(t)
	return &Root{cert: certify(t, key, nil, nil), key: key, now: time.Now}
}

// TestLeafThatHoldsFromItsSigning: a second begins while an issuer signs.
func TestLeafThatHoldsFromItsSigning(t *testing.T) {
	root, key := topRoot(t), newKey(t)
	intermediate := certify(t, key, root, nil)
	c := &clock{now: time.Now()}
	a := newAuthority(t, signerFunc{roots: root.Roots(), sign: func(_ context.Context, name string, leaf crypto.Signer) ([][]byte, error) {
		c.Advance(2 * time.Second)
		cert := certify(t, leaf, &Root{cert: intermediate, key: key}, func(cert *x509.Certificate) {
			cert.IsCA, cert.DNSNames, cert.NotBefore = false, []string{name}, c.Now()
			cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		})
		return [][]byte{cert.Raw, intermediate.Raw}, nil
	}}, Options{Now: c.Now})
	if _, err := a.Leaf(t.Context(), "api.github.com"); err != nil {
		t.Errorf("got %v, want a leaf", err)
	}
}

func TestLeavesOfAnIssuerWithAnIntermediate(t *testing.T) {
	root := topRoot(t)
	for what, withRoot := range map[string]bool{"chain without root": false, "chain with root": true} {
		t.Run(what, func(t *testing.T) {
			a := newAuthority(t, NewIssuer(intermediateIssuer(t, root, withRoot), root.Roots()), Options{})
			for _, name := range []string{"api.github.com", "127.0.0.1", "2001:db8::1"} {
				cert, err := a.Leaf(t.Context(), name)
				if err != nil {
					t.Fatal(err)
				}
				if len(cert.Certificate) != 2 {
					t.Errorf("chain for %s has %d certificates, want leaf and intermediate", name, len(cert.Certificate))
				}
			}
			pool := x509.NewCertPool()
			pool.AddCert(root.cert)
			conn, err := tls.Dial("tcp", serve(t, a), &tls.Config{ServerName: "api.github.com", RootCAs: pool})
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
		})
	}
}

func TestIssuerThatDoesNotDeliver(t *testing.T) {
	root := topRoot(t)
	away := errors.New("storage is away")
	for what, tc := range map[string]struct {
		answer []byte
		err    error
		want   string
	}{
		"fails":             {nil, away, "from the issuer: storage is away"},
		"answers nothing":   {nil, nil, "answered without one"},
		"answers no PEM":    {[]byte("hello"), nil, "answered without one"},
		"answers its root":  {encodeCertificate(root.cert.Raw), nil, "answered without one"},
		"answers a garbage": {encodeCertificate([]byte{1, 2, 3}), nil, "malformed"},
	} {
		t.Run(what, func(t *testing.T) {
			s := NewIssuer(func(context.Context, *x509.CertificateRequest) ([]byte, error) { return tc.answer, tc.err }, root.Roots())
			_, err := newAuthority(t, s, Options{}).Leaf(t.Context(), "api.github.com")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
			if tc.err != nil && !errors.Is(err, tc.err) {
				t.Errorf("error = %v does not wrap the issuer's", err)
			}
		})
	}
}
