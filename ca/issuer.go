package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

type issuer struct {
	issue func(context.Context, *x509.CertificateRequest) ([]byte, error)
	roots []*x509.Certificate
}

// NewIssuer returns a Signer over an issuer that answers certificate requests.
// issue returns the chain as PEM, leaf first; a root among it is dropped. roots
// are what the chains end in. How long a leaf lives is the issuer's choice.
func NewIssuer(issue func(context.Context, *x509.CertificateRequest) ([]byte, error), roots []*x509.Certificate) Signer {
	return &issuer{issue: issue, roots: roots}
}

func (i *issuer) Roots() []*x509.Certificate { return i.roots }

func (i *issuer) Sign(ctx context.Context, name string, key crypto.Signer) ([][]byte, error) {
	s, err := parseName(name)
	if err != nil {
		return nil, fmt.Errorf("requesting a certificate: %w", err)
	}
	template := new(x509.CertificateRequest)
	template.DNSNames, template.IPAddresses = s.sans()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request for %s: %w", s, err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the certificate request for %s: %w", s, err)
	}
	answer, err := i.issue(ctx, csr)
	if err != nil {
		return nil, fmt.Errorf("requesting a certificate for %s from the issuer: %w", s, err)
	}
	chain := i.withoutRoots(certificateBlocks(answer))
	if len(chain) == 0 {
		return nil, fmt.Errorf("requesting a certificate for %s: the issuer answered without one", s)
	}
	return chain, nil
}

func (i *issuer) withoutRoots(chain [][]byte) [][]byte {
	var kept [][]byte
	for _, der := range chain {
		if !containsRaw(i.roots, der) {
			kept = append(kept, der)
		}
	}
	return kept
}

// certificateBlocks returns the DER of every CERTIFICATE block in a PEM text.
func certificateBlocks(text []byte) [][]byte {
	var certs [][]byte
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return certs
		}
		if block.Type == "CERTIFICATE" {
			certs = append(certs, block.Bytes)
		}
	}
}

func containsRaw(certs []*x509.Certificate, der []byte) bool {
	for _, c := range certs {
		if bytes.Equal(c.Raw, der) {
			return true
		}
	}
	return false
}
