package ca

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadBundleTellsWhatIsThereAndWhatIsNot(t *testing.T) {
	dir := t.TempDir()
	sys1, sys2, ours, other := selfSigned(t, "System 1"), selfSigned(t, "System 2"), newRoot(t).cert, newRoot(t).cert
	src := sources{files: []string{pemFile(t, filepath.Join(dir, "system.pem"), sys1, sys2)}}
	for _, test := range []struct {
		name               string
		holds, roots       []*x509.Certificate
		lacks, lacksSystem int
	}{
		{"whole", []*x509.Certificate{sys1, sys2, ours}, []*x509.Certificate{ours}, 0, 0},
		{"one of the system's is new", []*x509.Certificate{sys1, ours}, []*x509.Certificate{ours}, 0, 1},
		{"ours alone", []*x509.Certificate{ours}, []*x509.Certificate{ours}, 0, 2},
		{"the system's alone", []*x509.Certificate{sys1, sys2}, []*x509.Certificate{ours}, 1, 0},
		{"one of two roots", []*x509.Certificate{sys1, sys2, ours}, []*x509.Certificate{ours, other}, 1, 0},
		{"no roots to look for", []*x509.Certificate{sys1, sys2}, nil, 0, 0},
	} {
		path := pemFile(t, filepath.Join(dir, "bundle.pem"), test.holds...)
		got, err := src.readBundle(path, test.roots)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if len(got.Certificates) != len(test.holds) || len(got.Lacks) != test.lacks || got.LacksSystem != test.lacksSystem {
			t.Errorf("%s: got %d certificates, %d roots and %d of the system's lacking, want %d, %d and %d", test.name,
				len(got.Certificates), len(got.Lacks), got.LacksSystem, len(test.holds), test.lacks, test.lacksSystem)
		}
	}
}

func TestReadBundleRefusesWhatIsNone(t *testing.T) {
	dir := t.TempDir()
	whole := string(readAll(t, pemFile(t, filepath.Join(dir, "whole.pem"), newRoot(t).cert, newRoot(t).cert)))
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "holds no PEM certificate"},
		{"text", "hello\n", "holds no PEM certificate"},
		{"cut short", whole[:len(whole)-60], "is damaged: 1 of 2 certificates can be read"},
	} {
		path := filepath.Join(dir, test.name)
		writeFile(t, path, []byte(test.text), 0o644)
		if _, err := (sources{}).readBundle(path, nil); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
	if _, err := (sources{}).readBundle(filepath.Join(dir, "none"), nil); !os.IsNotExist(err) {
		t.Errorf("a missing file: got %v, want that it does not exist", err)
	}
}
