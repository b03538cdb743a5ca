package ca

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// loadOrGenerateIn names the directory for which a copy of this test program
// does nothing but LoadOrGenerate, and prints the fingerprint.
const loadOrGenerateIn = "CA_TEST_LOAD_OR_GENERATE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(loadOrGenerateIn); dir != "" {
		r, err := LoadOrGenerate(dir)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Printf("%x", r.cert.Raw)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func saved(t testing.TB) (dir string, r *Root) {
	t.Helper()
	dir, r = t.TempDir(), newRoot(t)
	if err := r.Save(dir); err != nil {
		t.Fatal(err)
	}
	return dir, r
}

func TestSaveThenLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	r := newRoot(t)
	if err := r.Save(dir); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{
		dir: fs.ModeDir | 0o700, filepath.Join(dir, KeyFile): 0o600, filepath.Join(dir, CertFile): 0o644,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("mode of %s = %v, want %v", path, info.Mode(), want)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("the directory holds %v, want two files", entries)
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !got.cert.Equal(r.cert) || !got.key.(*ecdsa.PrivateKey).Equal(r.key) {
		t.Error("what was loaded is not what was saved")
	}
	if _, err := newAuthority(t, got, Options{}).Leaf(t.Context(), "api.github.com"); err != nil {
		t.Errorf("the loaded root cannot sign: %v", err)
	}
}

func TestSaveKeepsTheModeOfTheDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o751); err != nil {
		t.Fatal(err)
	}
	if err := newRoot(t).Save(dir); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o751 {
		t.Errorf("mode = %v, want 0751", info.Mode().Perm())
	}
}

func TestSaveNeverOverwrites(t *testing.T) {
	for _, there := range [][]string{{CertFile}, {KeyFile}, {CertFile, KeyFile}} {
		t.Run(strings.Join(there, " and "), func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range there {
				writeFile(t, filepath.Join(dir, name), []byte("precious"), 0o600)
			}
			before := snapshot(t, dir)
			err := newRoot(t).Save(dir)
			if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), filepath.Join(dir, there[0])) {
				t.Errorf("error = %v, want ErrExist that names %s", err, there[0])
			}
			delete(before, dir) // its time changes with temporary files
			after := snapshot(t, dir)
			delete(after, dir)
			if !maps.Equal(before, after) {
				t.Errorf("files changed from %v to %v", before, after)
			}
		})
	}
}

// A file may appear after Save has looked.
func TestCreateMakesBothFilesOrNeither(t *testing.T) {
	for _, there := range []string{CertFile, KeyFile} {
		t.Run(there, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, there), []byte("precious"), 0o600)
			if err := pathsIn(dir).create([]byte("cert"), []byte("key")); !errors.Is(err, fs.ErrExist) {
				t.Errorf("error = %v, want ErrExist", err)
			}
			entries, _ := os.ReadDir(dir)
			if got := string(readAll(t, filepath.Join(dir, there))); got != "precious" || len(entries) != 1 {
				t.Errorf("%s holds %q among %v, want it alone and unchanged", there, got, entries)
			}
		})
	}
}

func TestLoadOfNothing(t *testing.T) {
	for what, dir := range map[string]string{
		"empty directory": t.TempDir(), "no directory": filepath.Join(t.TempDir(), "none"),
	} {
		if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), filepath.Join(dir, CertFile)) {
			t.Errorf("%s: error = %v, want ErrNotExist that names the file", what, err)
		}
	}
}

// damage is a way in which the files of a root can be wrong.
type damage struct {
	what string
	do   func(t *testing.T, cert, key string, r *Root)
	file string // the one the error must name
	want string // and what it must say
}

// recertify replaces the certificate by another for the same key.
func recertify(change func(*x509.Certificate)) func(*testing.T, string, string, *Root) {
	return func(t *testing.T, cert, _ string, r *Root) {
		writeFile(t, cert, encodeCertificate(certify(t, r.key, nil, change).Raw), 0o644)
	}
}

func content(file, text string) func(*testing.T, string, string, *Root) {
	return func(t *testing.T, cert, key string, _ *Root) {
		if file == CertFile {
			writeFile(t, cert, []byte(text), 0o644)
		} else {
			writeFile(t, key, []byte(text), 0o600)
		}
	}
}

func asDirectory(t *testing.T, path string) {
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

const badBlock = "-----BEGIN %s-----\nAAECAwQFBgcICQ==\n-----END %s-----\n"

var damages = []damage{
	{"certificate missing", func(_ *testing.T, cert, _ string, _ *Root) { os.Remove(cert) }, CertFile, "is missing, but its key"},
	{"key missing", func(_ *testing.T, _, key string, _ *Root) { os.Remove(key) }, KeyFile, "is missing, but its certificate"},
	{"certificate empty", content(CertFile, ""), CertFile, "holds no PEM certificate"},
	{"key empty", content(KeyFile, ""), KeyFile, "holds no PEM private key"},
	{"certificate not PEM", content(CertFile, "hello"), CertFile, "holds no PEM certificate"},
	{"key not PEM", content(KeyFile, "hello"), KeyFile, "holds no PEM private key"},
	{"certificate damaged", content(CertFile, fmt.Sprintf(badBlock, "CERTIFICATE", "CERTIFICATE")), CertFile, "damaged certificate"},
	{"key damaged", content(KeyFile, fmt.Sprintf(badBlock, "PRIVATE KEY", "PRIVATE KEY")), KeyFile, "damaged or unsupported private key"},
	{"key encrypted", content(KeyFile, fmt.Sprintf(badBlock, "ENCRYPTED PRIVATE KEY", "ENCRYPTED PRIVATE KEY")), KeyFile, "passphrase"},
	{"certificate cut short", func(t *testing.T, cert, _ string, _ *Root) {
		text := readAll(t, cert)
		writeFile(t, cert, text[:len(text)/2], 0o644)
	}, CertFile, "holds no PEM certificate"},
	{"key cut short", func(t *testing.T, _, key string, _ *Root) {
		text := readAll(t, key)
		writeFile(t, key, text[:len(text)/2], 0o600)
	}, KeyFile, "holds no PEM private key"},
	{"files swapped", func(t *testing.T, cert, key string, _ *Root) {
		c, k := readAll(t, cert), readAll(t, key)
		writeFile(t, cert, k, 0o644)
		writeFile(t, key, c, 0o600)
	}, CertFile, "holds no PEM certificate"},
	{"key of another certificate", func(t *testing.T, _, key string, _ *Root) {
		der, err := x509.MarshalPKCS8PrivateKey(newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}, KeyFile, "is not the key of the certificate in"},
	{"expired", recertify(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), CertFile, "expired on"},
	{"not yet valid", recertify(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), CertFile, "is not valid before"},
	{"not an authority", recertify(func(c *x509.Certificate) { c.IsCA = false }), CertFile, "not an authority's"},
	{"no basic constraints", recertify(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, false }), CertFile, "not an authority's"},
	{"may not sign", recertify(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), CertFile, "keyCertSign"},
	{"key readable by its group", func(_ *testing.T, _, key string, _ *Root) { os.Chmod(key, 0o640) }, KeyFile, "chmod 600 "},
	{"key readable by all", func(_ *testing.T, _, key string, _ *Root) { os.Chmod(key, 0o604) }, KeyFile, "chmod 600 "},
	{"certificate is a directory", func(t *testing.T, cert, _ string, _ *Root) { asDirectory(t, cert) }, CertFile, "not a regular file"},
	{"key is a directory", func(t *testing.T, _, key string, _ *Root) { asDirectory(t, key) }, KeyFile, "not a regular file"},
}

func TestDamagedFilesAreNamedAndNeverOverwritten(t *testing.T) {
	for _, tc := range damages {
		t.Run(tc.what, func(t *testing.T) {
			dir, r := saved(t)
			cert, key := filepath.Join(dir, CertFile), filepath.Join(dir, KeyFile)
			tc.do(t, cert, key, r)
			before := snapshot(t, dir)
			for name, load := range map[string]func(string) (*Root, error){"Load": Load, "LoadOrGenerate": LoadOrGenerate} {
				_, err := load(dir)
				if err == nil {
					t.Fatalf("%s took it, want an error", name)
				}
				checkDamageError(t, err, filepath.Join(dir, tc.file), tc.want)
			}
			if after := snapshot(t, dir); !maps.Equal(before, after) {
				t.Errorf("files changed from %v to %v", before, after)
			}
		})
	}
}

func checkDamageError(t *testing.T, err error, file, want string) {
	t.Helper()
	text := err.Error()
	if errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %q is ErrNotExist, so a caller would make new files", text)
	}
	if !strings.HasPrefix(text, "loading the authority: ") || !strings.Contains(text, file) || !strings.Contains(text, want) {
		t.Errorf("error = %q, want one that names %s and says %q", text, file, want)
	}
	mends := []string{"chmod 600 ", "delete both ", "restore the right file", "let the user that runs this read "}
	for _, mend := range mends {
		if strings.Contains(text, mend) {
			return
		}
	}
	t.Errorf("error = %q, want one that says what to do", text)
}

func TestFilesMadeByStarpodLoadAsTheyAre(t *testing.T) {
	for what, change := range map[string]func(string) string{
		"as they are": func(s string) string { return s },
		"CRLF":        func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			for name, mode := range map[string]fs.FileMode{CertFile: 0o644, KeyFile: 0o600} {
				text := readAll(t, filepath.Join("testdata", "starpod", name))
				writeFile(t, filepath.Join(dir, name), []byte(change(string(text))), mode)
			}
			before := snapshot(t, dir)
			r, err := LoadOrGenerate(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.cert.Subject.CommonName; got != rootCommonName || r.cert.KeyUsage != 0 || r.cert.NotBefore.Year() != 1975 || r.cert.NotAfter.Year() != 4096 {
				t.Errorf("the fixture is not what Starpod makes: %+v", r.cert)
			}
			leaf, err := newAuthority(t, r, Options{}).Leaf(t.Context(), "api.github.com")
			if err != nil {
				t.Fatal(err)
			}
			if string(leaf.Leaf.RawIssuer) != string(r.cert.RawSubject) {
				t.Error("the leaf's issuer differs from the root's subject")
			}
			if !maps.Equal(before, snapshot(t, dir)) {
				t.Error("loading changed the files")
			}
		})
	}
}

func TestOtherKeyFormatsLoad(t *testing.T) {
	p256 := newKey(t)
	sec1, _ := x509.MarshalECPrivateKey(p256)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	pkcs8, _ := x509.MarshalPKCS8PrivateKey(edKey)
	parameters := string(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}}))
	for what, tc := range map[string]struct {
		root *x509.Certificate
		text string
	}{
		"SEC 1, as openssl ecparam writes it": {certify(t, p256, nil, nil),
			parameters + string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}))},
		"PKCS#1": {certify(t, rsaKey, nil, nil),
			string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}))},
		"Ed25519": {certify(t, edKey, nil, nil), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, CertFile), encodeCertificate(tc.root.Raw), 0o644)
			writeFile(t, filepath.Join(dir, KeyFile), []byte(tc.text), 0o600)
			r, err := Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := newAuthority(t, r, Options{}).Leaf(t.Context(), "api.github.com"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLoadOrGenerateOfADanglingLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("nowhere", filepath.Join(dir, KeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrGenerate(dir); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), filepath.Join(dir, KeyFile)) {
		t.Errorf("error = %v, want ErrExist that names the link", err)
	}
}

func TestGoroutinesThatStartAtOnceAgree(t *testing.T) {
	for range 20 {
		dir := filepath.Join(t.TempDir(), "data")
		var wg sync.WaitGroup
		start := make(chan struct{})
		roots := make([]*Root, 8)
		for i := range roots {
			wg.Go(func() {
				<-start
				var err error
				if roots[i], err = LoadOrGenerate(dir); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		if t.Failed() {
			return
		}
		for _, r := range roots {
			if !r.cert.Equal(roots[0].cert) {
				t.Fatal("two goroutines have different authorities")
			}
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 2 {
			t.Errorf("the directory holds %v, want two files", entries)
		}
	}
}

func TestProcessesThatStartAtOnceAgree(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	var wg sync.WaitGroup
	outputs := make([]string, 6)
	for i := range outputs {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), self)
			cmd.Env = append(os.Environ(), loadOrGenerateIn+"="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
			outputs[i] = string(out)
		})
	}
	wg.Wait()
	r, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range outputs {
		if want := fmt.Sprintf("%x", r.cert.Raw); out != want {
			t.Errorf("a process has authority %.40s…, want the one on disk, %.40s…", out, want)
		}
	}
}
