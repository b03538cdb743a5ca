package ca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// BundleContent tells what is in a bundle, and what is not.
type BundleContent struct {
	Certificates []*x509.Certificate
	Lacks        []*x509.Certificate // of the roots that should be in it
	SystemRoots  string              // file that the system's roots are in, "" when there is none
	LacksSystem  int                 // how many of those are not in the bundle
}

// ReadBundle reads a bundle, or any file of certificates that a client is given,
// and compares it with the roots and with the system's. A file without
// certificates, or with a damaged one, is an error.
func ReadBundle(path string, roots []*x509.Certificate) (BundleContent, error) {
	return hostSources().readBundle(path, roots)
}

func (src sources) readBundle(path string, roots []*x509.Certificate) (BundleContent, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return BundleContent{}, err
	}
	blocks := certificateBlocks(text)
	switch begun := bytes.Count(text, []byte("-----BEGIN CERTIFICATE-----")); {
	case len(blocks) == 0:
		return BundleContent{}, errors.New("holds no PEM certificate")
	case begun != len(blocks):
		return BundleContent{}, fmt.Errorf("is damaged: %d of %d certificates can be read", len(blocks), begun)
	}
	var content BundleContent
	there := make(map[string]bool, len(blocks))
	for _, der := range blocks {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue // systems carry some that Go refuses and others take
		}
		there[string(der)] = true
		content.Certificates = append(content.Certificates, cert)
	}
	for _, root := range roots {
		if !there[string(root.Raw)] {
			content.Lacks = append(content.Lacks, root)
		}
	}
	var system [][]byte
	content.SystemRoots, system = src.systemRoots(path)
	for _, der := range system {
		if _, err := x509.ParseCertificate(der); err == nil && !there[string(der)] {
			content.LacksSystem++
		}
	}
	return content, nil
}
