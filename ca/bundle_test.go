package ca

import (
	"bytes"
	"crypto/x509"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"software.sslmate.com/src/go-pkcs12"
)

// pemFile writes certificates with the comments that such files have.
func pemFile(t *testing.T, path string, certs ...*x509.Certificate) string {
	t.Helper()
	text := []byte("# a comment\n")
	for _, c := range certs {
		text = append(text, "\n# Issuer: "+c.Issuer.String()+"\n"...)
		text = append(text, encodeCertificate(c.Raw)...)
	}
	writeFile(t, path, text, 0o644)
	return path
}

func selfSigned(t *testing.T, name string) *x509.Certificate {
	return certify(t, newKey(t), nil, func(c *x509.Certificate) { c.Subject.CommonName = name })
}

// checkBundle fails unless the file at path holds these certificates, in order.
func checkBundle(t *testing.T, path string, want ...*x509.Certificate) {
	t.Helper()
	got := certificateBlocks(readAll(t, path))
	if len(got) != len(want) {
		t.Fatalf("bundle holds %d certificates, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i].Raw) {
			t.Errorf("certificate %d is not %s", i, want[i].Subject)
		}
	}
}

func TestBundleHoldsTheSystemsRootsAndOurs(t *testing.T) {
	dir := t.TempDir()
	sys1, sys2, corp, ours := selfSigned(t, "System 1"), selfSigned(t, "System 2"), selfSigned(t, "Corporation"), newRoot(t).cert
	system := pemFile(t, filepath.Join(dir, "system.pem"), sys1, sys2, sys1)
	trusted := pemFile(t, filepath.Join(dir, "trusted.pem"), sys1, ours, sys2)
	corporate := pemFile(t, filepath.Join(dir, "corp.pem"), corp)
	empty := pemFile(t, filepath.Join(dir, "empty.pem"))
	none := filepath.Join(dir, "none.pem")
	for _, tc := range []struct {
		what string
		src  sources
		from string
		want []*x509.Certificate
	}{
		{"system file, a root twice", sources{files: []string{system}}, system, []*x509.Certificate{sys1, sys2, ours}},
		{"the first file that is there", sources{files: []string{none, empty, corporate, system}}, corporate, []*x509.Certificate{corp, ours}},
		{"SSL_CERT_FILE", sources{override: corporate, files: []string{system}}, corporate, []*x509.Certificate{corp, ours}},
		{"SSL_CERT_FILE is not there", sources{override: none, files: []string{system}}, system, []*x509.Certificate{sys1, sys2, ours}},
		{"ours is among the system's", sources{files: []string{trusted}}, trusted, []*x509.Certificate{sys1, sys2, ours}},
		{"system without roots", sources{files: []string{none}}, "", []*x509.Certificate{ours}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "new", BundleFile)
			b, err := tc.src.writeBundle(path, []*x509.Certificate{ours})
			if err != nil {
				t.Fatal(err)
			}
			if want := (Bundle{Path: path, SystemRoots: tc.from, Count: len(tc.want)}); b != want {
				t.Errorf("Bundle = %+v, want %+v", b, want)
			}
			checkBundle(t, path, tc.want...)
			if info, _ := os.Stat(path); info.Mode().Perm() != 0o644 {
				t.Errorf("mode = %v, want 0644", info.Mode().Perm())
			}
			if !x509.NewCertPool().AppendCertsFromPEM(readAll(t, path)) {
				t.Error("crypto/x509 reads no certificate from the bundle")
			}
		})
	}
}

func TestBundleGivenBackAsSSLCertFileDoesNotNest(t *testing.T) {
	dir := t.TempDir()
	sys, corp, older, ours := selfSigned(t, "System"), selfSigned(t, "Corporation"), newRoot(t).cert, newRoot(t).cert
	system := pemFile(t, filepath.Join(dir, "system.pem"), sys)
	corporate := pemFile(t, filepath.Join(dir, "corp.pem"), corp)
	write := func(path, override string, root *x509.Certificate) Bundle {
		t.Helper()
		b, err := sources{override: override, files: []string{system}}.writeBundle(path, []*x509.Certificate{root})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// A bundle like the reference's: no header, recognised by its name.
	starpods := filepath.Join(dir, "starpod", BundleFile)
	if err := os.Mkdir(filepath.Dir(starpods), 0o755); err != nil {
		t.Fatal(err)
	}
	pemFile(t, starpods, sys, older)

	plain, viaCorp := filepath.Join(dir, "plain", BundleFile), filepath.Join(dir, "corp", "renamed.pem")
	write(plain, "", older)
	write(viaCorp, corporate, older)
	gone := filepath.Join(dir, "gone", BundleFile)
	write(gone, pemFile(t, filepath.Join(dir, "later-gone.pem"), corp), older)
	if err := os.Remove(filepath.Join(dir, "later-gone.pem")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what, target, override, from string
		want                         []*x509.Certificate
	}{
		{"the same file", plain, plain, system, []*x509.Certificate{sys, ours}},
		{"the same file, first made from SSL_CERT_FILE", viaCorp, viaCorp, corporate, []*x509.Certificate{corp, ours}},
		{"that of another instance", filepath.Join(dir, "inner", BundleFile), viaCorp, corporate, []*x509.Certificate{corp, ours}},
		{"one made by Starpod", filepath.Join(dir, "inner2", BundleFile), starpods, system, []*x509.Certificate{sys, ours}},
		{"one whose source is gone", filepath.Join(dir, "inner3", BundleFile), gone, system, []*x509.Certificate{sys, ours}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			for range 3 { // and it stays so
				if b := write(tc.target, tc.override, ours); b.SystemRoots != tc.from {
					t.Errorf("roots came from %q, want %q", b.SystemRoots, tc.from)
				}
				checkBundle(t, tc.target, tc.want...)
			}
		})
	}
}

func TestBundleReadsTheEnvironment(t *testing.T) {
	dir, corp, ours := t.TempDir(), selfSigned(t, "Corporation"), newRoot(t).cert
	corporate := pemFile(t, filepath.Join(dir, "corp.pem"), corp)
	t.Setenv("SSL_CERT_FILE", corporate)
	path := filepath.Join(dir, BundleFile)
	b, err := WriteBundle(path, []*x509.Certificate{ours})
	if err != nil || b.SystemRoots != corporate {
		t.Fatalf("Bundle = %+v, error %v; want roots from %s", b, err, corporate)
	}
	checkBundle(t, path, corp, ours)
}

func TestUnchangedBundleIsNotTouched(t *testing.T) {
	dir, ours := t.TempDir(), newRoot(t).cert
	src := sources{files: []string{pemFile(t, filepath.Join(dir, "system.pem"), selfSigned(t, "System"))}}
	path := filepath.Join(dir, BundleFile)
	write := func(root *x509.Certificate) fs.FileInfo {
		t.Helper()
		if _, err := src.writeBundle(path, []*x509.Certificate{root}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := write(ours)
	if again := write(ours); !os.SameFile(first, again) || !again.ModTime().Equal(first.ModTime()) {
		t.Error("the same content was written again")
	}
	// Another root replaces the file as a whole: who has it open reads on.
	open, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if os.SameFile(first, write(newRoot(t).cert)) {
		t.Error("the file was written in place, want it replaced")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("the directory holds %v, want no temporary file", entries)
	}
}

func TestBundleThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, nil, 0o600)
	path := filepath.Join(file, BundleFile)
	_, err := WriteBundle(path, nil)
	if err == nil || !strings.Contains(err.Error(), "writing the certificate bundle: ") || !strings.Contains(err.Error(), file) {
		t.Errorf("error = %v, want one that names %s", err, file)
	}
	if err := WriteTrustStore(path, "changeit", nil); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error = %v, want one that names %s", err, file)
	}
}

func TestTrustStoreForJava(t *testing.T) {
	dir, ours := t.TempDir(), newRoot(t).cert
	twin1, twin2 := selfSigned(t, "System, twice the same name"), selfSigned(t, "System, twice the same name")
	src := sources{files: []string{pemFile(t, filepath.Join(dir, "system.pem"), twin1, twin2)}}
	for what, password := range map[string]string{"password": "changeit", "no password": ""} {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "new", "trust.p12")
			for range 2 {
				if err := src.writeTrustStore(path, password, []*x509.Certificate{ours}); err != nil {
					t.Fatal(err)
				}
			}
			certs, err := pkcs12.DecodeTrustStore(readAll(t, path), password)
			if err != nil {
				t.Fatal(err)
			}
			if len(certs) != 3 || !certs[0].Equal(twin1) || !certs[1].Equal(twin2) || !certs[2].Equal(ours) {
				t.Errorf("store holds %d certificates, want the system's two and ours", len(certs))
			}
			args := []string{"-list", "-storetype", "PKCS12", "-keystore", path}
			if password != "" {
				args = append(args, "-storepass", password)
			}
			out, err := run(t, "keytool", args...)
			if err != nil || strings.Count(out, "trustedCertEntry") != 3 || !strings.Contains(out, "starpod-2") {
				t.Errorf("keytool %v: %v\n%s", args, err, out)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
				t.Errorf("stat = %v, %v; want mode 0644", info, err)
			}
		})
	}
}
