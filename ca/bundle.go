package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// systemFiles are where systems keep their roots in one PEM file. The first that
// holds a certificate is taken.
var systemFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Gentoo, Arch
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL 6
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/pki/tls/cacert.pem",                           // OpenELEC
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // CentOS, RHEL 7 and later
	"/etc/ssl/cert.pem",                                 // Alpine, macOS, OpenBSD
	"/usr/local/etc/ssl/cert.pem",                       // FreeBSD
	"/usr/local/share/certs/ca-root-nss.crt",            // DragonFly
	"/etc/openssl/certs/ca-certificates.crt",            // NetBSD
}

// A bundle begins with these two lines. They let a later start, to which this
// bundle is given as SSL_CERT_FILE, find what it was made from.
const (
	bundleMark   = "# System certificate authorities, and last the one of this Starpod proxy.\n"
	bundleOrigin = "# Made from: "
)

// Bundle tells what [WriteBundle] wrote.
type Bundle struct {
	Path        string // where the bundle is
	SystemRoots string // file the system's roots came from, "" when there is none
	Count       int    // certificates in the bundle
}

// WriteBundle writes the system's roots and then these roots to path, as PEM
// with mode 0644, replacing what is there in one step; a file that says the same
// already is not touched. The system's roots come from SSL_CERT_FILE if that is
// set, else from where the system keeps them. On a system without them the
// bundle holds these roots alone, and Bundle.SystemRoots is empty.
func WriteBundle(path string, roots []*x509.Certificate) (Bundle, error) {
	return hostSources().writeBundle(path, roots)
}

// sources are the files that system roots are looked for in.
type sources struct {
	override string // SSL_CERT_FILE
	files    []string
}

func hostSources() sources {
	return sources{override: os.Getenv("SSL_CERT_FILE"), files: systemFiles}
}

func (src sources) writeBundle(path string, roots []*x509.Certificate) (Bundle, error) {
	origin, system := src.systemRoots(path)
	certs := distinct(system, roots)
	var text bytes.Buffer
	text.WriteString(bundleMark + bundleOrigin + origin + "\n")
	for _, der := range certs {
		text.Write(encodeCertificate(der))
	}
	b := Bundle{Path: path, SystemRoots: origin, Count: len(certs)}
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, text.Bytes()) {
		return b, nil
	}
	if err := replaceFile(path, text.Bytes(), 0o644); err != nil {
		return Bundle{}, fmt.Errorf("writing the certificate bundle: %w", err)
	}
	return b, nil
}

// systemRoots returns the first source that holds certificates, and them, in DER.
// own is the bundle about to be written.
func (src sources) systemRoots(own string) (string, [][]byte) {
	files := src.files
	if f := src.override; f != "" {
		if isBundle(f, own) {
			f = originOf(f)
		}
		if f != "" && !isBundle(f, own) {
			if abs, err := filepath.Abs(f); err == nil { // the next start may be elsewhere
				f = abs
			}
			files = append([]string{f}, files...)
		}
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if certs := certificateBlocks(text); len(certs) > 0 {
			return f, certs
		}
	}
	return "", nil
}

// isBundle tells whether path is a bundle of a Starpod proxy: the one about to
// be written, one that this package wrote, or by its name.
func isBundle(path, own string) bool {
	if filepath.Base(path) == BundleFile {
		return true
	}
	a, errA := os.Stat(path)
	b, errB := os.Stat(own)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return true
	}
	text, _ := os.ReadFile(path)
	return bytes.HasPrefix(text, []byte(bundleMark))
}

// originOf returns the file that the system's roots in a bundle came from, "" if
// the bundle does not say.
func originOf(bundle string) string {
	text, _ := os.ReadFile(bundle)
	rest, ours := strings.CutPrefix(string(text), bundleMark)
	if !ours {
		return ""
	}
	line, _, _ := strings.Cut(rest, "\n")
	origin, _ := strings.CutPrefix(line, bundleOrigin)
	return origin
}

// distinct returns the system's certificates and then the roots, in DER, each
// once. The roots stand last even where the system has them too.
func distinct(system [][]byte, roots []*x509.Certificate) [][]byte {
	var out [][]byte
	seen := make(map[string]bool)
	for _, r := range roots {
		seen[string(r.Raw)] = true
	}
	for _, der := range system {
		if !seen[string(der)] {
			seen[string(der)] = true
			out = append(out, der)
		}
	}
	for _, r := range roots {
		out = append(out, r.Raw)
	}
	return out
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
