package starpod

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/starpod/caddy-starpod/ca"
)

func (d *doctor) checkAuthority(context.Context) []finding {
	if d.plan.app.CA != nil {
		return d.checkIssuer()
	}
	cert := filepath.Join(d.plan.dir, ca.CertFile)
	root, err := ca.Load(d.plan.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []finding{absent(d.plan.dir, "holds no authority yet: the first start makes one", "")}
	case errors.Is(err, fs.ErrPermission):
		return []finding{broken(cert, err.Error(), runAsOwner(d.plan.dir))}
	case err != nil:
		return []finding{brokenBy(cert, err, "restore the right files from a copy")}
	}
	if f, unsafe := checkFolder(cert); unsafe {
		return []finding{f}
	}
	renew := commandLine("rm", cert, filepath.Join(d.plan.dir, ca.KeyFile)) +
		" and restart the proxy, which makes a new one; clients then need their variables anew"
	certificate := root.Roots()[0]
	found := []finding{d.validUntil(cert, "whole, its key fits", certificate, renew)}
	if s := d.running.status; s != nil && d.plan.file != "" && s.CA.Fingerprint != ca.Fingerprint(certificate) {
		found = append(found, doubtful(cert, "is not the authority of the proxy that runs",
			"restart the proxy if the file was replaced; else name its folder with --data-dir, or its admin API with --address"))
	}
	return found
}

// checkIssuer looks at the roots of an issuer module.
func (d *doctor) checkIssuer() []finding {
	var found []finding
	files, unknown := d.issuerRoots()
	if unknown != "" {
		found = append(found, absent("", unknown, ""))
	}
	for _, file := range files {
		found = append(found, d.checkRootFile(file))
	}
	if len(found) == 0 {
		return []finding{broken(d.plan.file, "the issuer's root is unknown, so clients cannot trust it", "write into its `ca` block: root <pem file>")}
	}
	return found
}

func (d *doctor) checkRootFile(file string) finding {
	const renew = "renew the issuer's root, and restart the proxy"
	certs, err := readCertificates(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && d.inStorage(file):
		return absent(file, "is not there yet: the first start makes it", "")
	case err != nil:
		return broken(file, err.Error(), "write the issuer's root certificate there in PEM form, or correct `root` in the `ca` block")
	}
	for _, cert := range certs {
		if !cert.BasicConstraintsValid || !cert.IsCA {
			return broken(file, "holds a certificate that is not an authority's", "name the issuer's root with `root`, not a leaf")
		}
		if f := d.validUntil(file, "an authority's root", cert, renew); f.Grade != gradeGood {
			return f
		}
	}
	return d.validUntil(file, "an authority's root", certs[0], renew)
}

// issuerRoots are the files with the roots of an issuer; unknown says why those
// of Caddy's own one are not among them.
func (d *doctor) issuerRoots() (files []string, unknown string) {
	files = append(files, d.plan.app.CA.Roots...)
	id, ok := internalCA(d.plan.app.CA.IssuerRaw)
	if !ok {
		return files, ""
	}
	switch {
	case d.plan.roots[id] != "":
		return append(files, d.plan.roots[id]), ""
	case d.plan.storage == "":
		return files, "the root is in a storage of Caddy that is no folder: it cannot be looked at from here"
	}
	return append(files, filepath.Join(d.plan.storage, filepath.FromSlash(storedAs(id).file("root.crt")))), ""
}

func (d *doctor) inStorage(file string) bool {
	inside, err := filepath.Rel(d.plan.storage, file)
	return d.plan.storage != "" && err == nil && filepath.IsLocal(inside)
}

// authorityRoots are those that clients have to trust; none where they cannot be
// read, which checkAuthority tells.
func (d *doctor) authorityRoots() []*x509.Certificate {
	if d.plan.app.CA == nil {
		root, err := ca.Load(d.plan.dir)
		if err != nil {
			return nil
		}
		return root.Roots()
	}
	var roots []*x509.Certificate
	files, _ := d.issuerRoots()
	for _, file := range files {
		certs, err := readCertificates(file)
		if err != nil {
			return nil
		}
		roots = append(roots, certs...)
	}
	return roots
}

func (d *doctor) checkBundle(context.Context) []finding {
	path := filepath.Join(d.plan.dir, ca.BundleFile)
	const rewrite = "restart the proxy, which writes it anew"
	roots := d.authorityRoots()
	content, err := ca.ReadBundle(path, roots)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(roots) == 0:
		return []finding{absent(path, "is not there yet: the first start writes it", "")}
	case errors.Is(err, fs.ErrNotExist):
		return []finding{broken(path, "is missing, so clients trust nothing", rewrite)}
	case errors.Is(err, fs.ErrPermission):
		return []finding{broken(path, err.Error(), commandLine("chmod", "644", path)+", and let clients enter its folder")}
	case err != nil:
		return []finding{broken(path, err.Error(), rewrite)}
	case len(content.Lacks) > 0:
		return []finding{broken(path, "lacks the proxy's root, so clients refuse its certificates", rewrite)}
	case content.SystemRoots == "":
		return []finding{doubtful(path, "holds the proxy's root alone: this system has no file of roots",
			"install one, such as the package ca-certificates, and "+rewrite)}
	case content.LacksSystem > 0:
		return []finding{doubtful(path, fmt.Sprintf("lacks %d of the roots in %s", content.LacksSystem, content.SystemRoots), rewrite)}
	case len(roots) == 0:
		return []finding{doubtful(path, "the proxy's root to compare it with cannot be read", "see what is said of the authority")}
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o022 != 0 && runtime.GOOS != "windows" {
		return []finding{broken(path, fmt.Sprintf("mode %04o: others may add roots", info.Mode().Perm()), commandLine("chmod", "644", path))}
	}
	return []finding{good(path, fmt.Sprintf("the proxy's root and those of %s, %d in all", content.SystemRoots, len(content.Certificates)))}
}
