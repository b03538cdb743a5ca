package starpod

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/certmagic"
)

// internalLines have the pki app configured, so that others than ours would load it.
var internalLines = siteLines{
	starpod: "ca {\n issuer internal {\n ca fleet\n }\n }",
	global:  "pki {\n ca fleet {\n name \"Fleet\"\n }\n }",
}

// stored reads and writes the authority in the storage of a site.
type stored struct {
	t   *testing.T
	dir string
}

func (s *site) stored() stored {
	return stored{s.t, filepath.Join(s.dir, "storage", "pki", "authorities", "fleet")}
}

func (s stored) read(name string) []byte {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

func (s stored) write(name string, text []byte) {
	s.t.Helper()
	must(s.t, os.MkdirAll(s.dir, 0o700))
	must(s.t, os.WriteFile(filepath.Join(s.dir, name), text, 0o600))
}

func (s stored) remove(name string) {
	s.t.Helper()
	must(s.t, os.Remove(filepath.Join(s.dir, name)))
}

// otherKey is one that belongs to no certificate.
func otherKey(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	text, err := certmagic.PEMEncodePrivateKey(key)
	must(t, err)
	return text
}

// tryLoad is load that may fail.
func (s *site) tryLoad(l siteLines) error {
	s.t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(s.caddyfile(l)), nil)
	if err != nil {
		s.t.Fatalf("adapting: %v", err)
	}
	return caddy.Load(config, true)
}

// TestIntermediateIsMended: what instances leave in the storage that renew together,
// or are killed while they do.
func TestIntermediateIsMended(t *testing.T) {
	for name, damage := range map[string]func(stored){
		"the key of another":     func(s stored) { s.write("intermediate.key", otherKey(s.t)) },
		"no key":                 func(s stored) { s.remove("intermediate.key") },
		"no certificate":         func(s stored) { s.remove("intermediate.crt") },
		"the root as the signer": func(s stored) { s.write("intermediate.crt", s.read("root.crt")) },
	} {
		t.Run(name, func(t *testing.T) {
			s := startSite(t, internalLines)
			root := s.stored().read("root.crt")
			must(t, caddy.Stop())
			damage(s.stored())
			s.load(internalLines)
			s.get(s.client(), s.target("/"), "X-Key", s.token("127.0.0.1"))
			if got := s.up.Last(t).Header.Get("X-Key"); got != canary {
				t.Errorf("upstream got %q, want the value", got)
			}
			if !bytes.Equal(s.stored().read("root.crt"), root) {
				t.Error("the root is another, want the one that clients trust")
			}
		})
	}
}

// TestRootIsNotReplaced: a root whose key is another is for its owner to mend, who has
// to tell the clients.
func TestRootIsNotReplaced(t *testing.T) {
	other := startSite(t, internalLines).stored()
	s := startSite(t, internalLines)
	root := s.stored().read("root.crt")
	must(t, caddy.Stop())
	for _, name := range []string{"root.key", "intermediate.crt", "intermediate.key"} {
		s.stored().write(name, other.read(name))
	}
	err := s.tryLoad(internalLines)
	if err == nil || !strings.Contains(err.Error(), "restore pki/authorities/fleet there from a copy") {
		t.Errorf("got %v, want an error that says what to do", err)
	}
	if !bytes.Equal(s.stored().read("root.crt"), root) {
		t.Error("the root is another, want it left")
	}
}

// TestAuthorityOfAnotherInstance: an instance that starts while another makes the
// authority waits for it, whatever part of it is there already.
func TestAuthorityOfAnotherInstance(t *testing.T) {
	other := startSite(t, internalLines).stored()
	files := []string{"root.crt", "root.key", "intermediate.crt", "intermediate.key"}
	whole := make(map[string][]byte)
	for _, name := range files {
		whole[name] = other.read(name)
	}
	must(t, caddy.Stop())
	for n := range files {
		s := newSite(t)
		storage := &certmagic.FileStorage{Path: filepath.Join(s.dir, "storage")}
		lock := storedAs("fleet").file("starpod")
		must(t, storage.Lock(context.Background(), lock))
		for _, name := range files[:n] {
			s.stored().write(name, whole[name])
		}
		loaded := make(chan error, 1)
		go func() { loaded <- s.tryLoad(internalLines) }()
		select {
		case err := <-loaded:
			t.Fatalf("with %v there: loaded (%v), want it to wait", files[:n], err)
		case <-time.After(300 * time.Millisecond): // nothing may come
		}
		for _, name := range files[n:] {
			s.stored().write(name, whole[name])
		}
		must(t, storage.Unlock(context.Background(), lock))
		must(t, <-loaded)
		if got := s.stored().read("root.crt"); !bytes.Equal(got, whole["root.crt"]) {
			t.Error("the root is another, want that of the other instance")
		}
		s.get(s.client(), s.target("/"), "X-Key", s.token("127.0.0.1"))
		if got := s.up.Last(t).Header.Get("X-Key"); got != canary {
			t.Errorf("upstream got %q, want the value", got)
		}
		must(t, caddy.Stop())
	}
}
