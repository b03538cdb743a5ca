package ca

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// maxFile bounds what is read of a file that should hold a few kilobytes.
const maxFile = 1 << 20

// paths are the two files of a root.
type paths struct{ cert, key string }

func pathsIn(dir string) paths {
	return paths{cert: filepath.Join(dir, CertFile), key: filepath.Join(dir, KeyFile)}
}

// broken is the error for a file that only its owner can mend.
func (p paths) broken(file, why string) error {
	return fmt.Errorf("loading the authority: %s %s; delete both %s and %s to make a new authority, or restore the right files from a copy",
		file, why, p.cert, p.key)
}

// Load reads the root from dir. The error is [fs.ErrNotExist] only when neither
// file is there. Anything else that is wrong (one file missing or damaged, a key
// that others can read, a certificate that is expired, not yet valid, not an
// authority's or of another key) is an error that names the file and the mend.
//
// Keys are PKCS#8, SEC 1 or PKCS#1 in PEM. Certificates need no keyUsage: those
// that Starpod makes have none.
func Load(dir string) (*Root, error) { return load(dir, time.Now()) }

func load(dir string, now time.Time) (*Root, error) {
	p := pathsIn(dir)
	certText, certErr := readFile(p.cert, false)
	keyText, keyErr := readFile(p.key, true)
	noCert, noKey := errors.Is(certErr, fs.ErrNotExist), errors.Is(keyErr, fs.ErrNotExist)
	switch {
	case noCert && noKey:
		return nil, fmt.Errorf("loading the authority: neither %s nor %s is there: %w", p.cert, p.key, fs.ErrNotExist)
	case noCert:
		return nil, p.broken(p.cert, "is missing, but its key "+p.key+" is there")
	case noKey:
		return nil, p.broken(p.key, "is missing, but its certificate "+p.cert+" is there")
	case certErr != nil:
		return nil, fmt.Errorf("loading the authority: %w", certErr)
	case keyErr != nil:
		return nil, fmt.Errorf("loading the authority: %w", keyErr)
	}
	cert, why := parseRoot(certText, now)
	if why != "" {
		return nil, p.broken(p.cert, why)
	}
	key, why := parseKey(keyText)
	if why != "" {
		return nil, p.broken(p.key, why)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return nil, p.broken(p.key, "is not the key of the certificate in "+p.cert)
	}
	return &Root{cert: cert, key: key, now: time.Now}, nil
}

// readFile reads a regular file whole. A private one must be closed to group
// and others; Windows has no such mode bits.
func readFile(path string, private bool) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, unreadable(path, err)
	}
	if !info.Mode().IsRegular() { // a pipe would block the open
		return nil, fmt.Errorf("%s is not a regular file; move it away, or restore the right file", path)
	}
	if private && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is open to other users (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, unreadable(path, err)
	}
	return text, nil
}

func unreadable(path string, err error) error {
	return fmt.Errorf("%w; let the user that runs this read %s, or name another directory", err, path)
}

// parseRoot returns the first certificate of a PEM text, or why it cannot serve.
func parseRoot(text []byte, now time.Time) (cert *x509.Certificate, why string) {
	ders := certificateBlocks(text)
	if len(ders) == 0 {
		return nil, "holds no PEM certificate"
	}
	cert, err := x509.ParseCertificate(ders[0])
	switch {
	case err != nil:
		return nil, "holds a damaged certificate (" + err.Error() + ")"
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return nil, "holds a certificate that is not an authority's (basicConstraints lacks CA:TRUE)"
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, "holds a certificate that may not sign others (keyUsage lacks keyCertSign)"
	case now.After(cert.NotAfter):
		return nil, "expired on " + cert.NotAfter.UTC().Format(time.RFC3339)
	case now.Before(cert.NotBefore):
		return nil, "is not valid before " + cert.NotBefore.UTC().Format(time.RFC3339) + " (is the clock right?)"
	}
	return cert, ""
}

// parseKey returns the first private key of a PEM text, or why there is none.
// What a parser says about a key's bytes is not passed on.
func parseKey(text []byte) (key crypto.Signer, why string) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, "holds no PEM private key"
		}
		var parsed any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, "is encrypted with a passphrase, which is not supported"
		default: // EC PARAMETERS, as openssl writes before a key
			continue
		}
		signer, ok := parsed.(crypto.Signer)
		if err != nil || !ok {
			return nil, "holds a damaged or unsupported private key"
		}
		return signer, ""
	}
}

// Save writes the root into dir, which is created with mode 0700 if it is
// missing: the key with mode 0600, the certificate with 0644. Each appears whole
// or not at all. A file that is there is never overwritten: that is
// [fs.ErrExist], and nothing has changed.
func (r *Root) Save(dir string) error {
	der, err := x509.MarshalPKCS8PrivateKey(r.key)
	if err != nil {
		return fmt.Errorf("encoding the authority's key: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("saving the authority: %w", err)
	}
	p := pathsIn(dir)
	for _, path := range []string{p.cert, p.key} {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("saving the authority: %s: %w", path, fs.ErrExist)
		}
	}
	keyText := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := p.create(encodeCertificate(r.cert.Raw), keyText); err != nil {
		return fmt.Errorf("saving the authority: %w", err)
	}
	return nil
}

// create makes both files or neither. The key comes first: whoever finds the
// certificate finds a whole authority.
func (p paths) create(certText, keyText []byte) error {
	if err := createFile(p.key, keyText, 0o600); err != nil {
		return err
	}
	if err := createFile(p.cert, certText, 0o644); err != nil {
		_ = os.Remove(p.key) // ours: it was not there a moment ago
		return err
	}
	return nil
}

// LoadOrGenerate returns the root of dir, made and saved if there is none. Of
// several processes that start at once all get the same one.
func LoadOrGenerate(dir string) (*Root, error) {
	r, err := Load(dir)
	if err == nil {
		return r, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("saving the authority: %w", err)
		}
	}
	// Another process may stand between its two files: look again when it is
	// done. The lock is for this only, so a file system without locks will do;
	// who comes first is decided by Save.
	unlock := lockDir(dir)
	defer unlock()
	if r, err = Load(dir); !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	if r, err = Generate(time.Now()); err != nil {
		return nil, err
	}
	saved := r.Save(dir)
	if !errors.Is(saved, fs.ErrExist) {
		if saved != nil {
			return nil, saved
		}
		return r, nil
	}
	if r, err = Load(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, saved // a name is taken by something unreadable, such as a dangling link
	}
	return r, err
}
