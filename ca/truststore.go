package ca

import (
	"crypto/x509"
	"fmt"

	"software.sslmate.com/src/go-pkcs12"
)

// WriteTrustStore writes the system's roots (as [WriteBundle] finds them) and
// these roots to path as a PKCS#12 trust store for Java (RFC 7292, with Java's
// trustedKeyUsage attribute), mode 0644, replacing what is there in one step.
//
// Java reads it with -Djavax.net.ssl.trustStore=path, trustStoreType=PKCS12 and
// trustStorePassword=password. With an empty password the store is neither
// encrypted nor signed, and Java takes it without being told one.
func WriteTrustStore(path, password string, roots []*x509.Certificate) error {
	return hostSources().writeTrustStore(path, password, roots)
}

func (src sources) writeTrustStore(path, password string, roots []*x509.Certificate) error {
	_, system := src.systemRoots(path)
	certs := distinct(system, roots)
	var entries []pkcs12.TrustStoreEntry
	for i, der := range certs {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue // Java's parser is no more lenient than this one
		}
		// Java keeps one certificate per name, and subjects do repeat.
		name := fmt.Sprintf("system-%d", i)
		if containsRaw(roots, der) {
			name = fmt.Sprintf("starpod-%d", i)
		}
		entries = append(entries, pkcs12.TrustStoreEntry{Cert: cert, FriendlyName: name})
	}
	// The content is public, so the encryption that every Java reads will do.
	encoder := pkcs12.LegacyDES
	if password == "" {
		encoder = pkcs12.Passwordless
	}
	store, err := encoder.EncodeTrustStoreEntries(entries, password)
	if err != nil {
		return fmt.Errorf("encoding the Java trust store: %w", err)
	}
	if err := replaceFile(path, store, 0o644); err != nil {
		return fmt.Errorf("writing the Java trust store: %w", err)
	}
	return nil
}
