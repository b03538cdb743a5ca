// Package ca is the certificate authority behind interception: it keeps the
// root, mints a short-lived leaf certificate for every host a client talks to,
// and writes the trust files that make clients accept those leaves.
//
//   - [Root] is a root with its key, kept as PEM files in a data directory
//     ([LoadOrGenerate]) or in memory only ([Generate]).
//   - [Signer] is what signs leaves: a Root, or any issuer that takes a
//     certificate request ([NewIssuer]).
//   - [Authority] mints leaves through a Signer and caches them; it is what a
//     TLS server asks.
//   - [WriteBundle] and [WriteTrustStore] write the system's roots and ours for
//     OpenSSL-like clients and for Java.
//
// Leaf certificates and their key exist in memory only.
package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"time"
)

// Names of the files in the data directory. Starpod's own proxy uses the same
// names and formats, so either can take over the other's directory.
const (
	CertFile   = "proxy-ca.pem"        // root certificate, PEM
	KeyFile    = "proxy-ca-key.pem"    // its private key, PEM (PKCS#8), mode 0600
	BundleFile = "proxy-ca-bundle.pem" // system roots and the root, PEM
)

const (
	rootCommonName   = "Starpod Secret Proxy CA"
	rootOrganization = "Starpod"
	rootYears        = 10

	leafLife = 24 * time.Hour

	// backdate lets clients whose clock is behind accept what was just made.
	backdate = time.Hour
)

// Signer signs leaf certificates. Implementations are safe for concurrent use.
type Signer interface {
	// Sign returns the DER chain, leaf first and without the root, of a server
	// certificate for the public half of key and for name, which is a DNS name
	// (A-labels) or an IP address.
	Sign(ctx context.Context, name string, key crypto.Signer) ([][]byte, error)

	// Roots returns the certificates that clients must trust, at least one.
	Roots() []*x509.Certificate
}
