package starpod

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// examined writes the configuration of a running site to a file and returns a
// doctor for it.
func (s *site) examined(l siteLines) (*patient, *doctor) {
	s.t.Helper()
	p := &patient{dir: s.dir, config: filepath.Join(s.dir, "Caddyfile"), port: s.port, admin: s.admin}
	put(s.t, p.config, s.caddyfile(l))
	return p, p.doctor(s.t)
}

func TestDoctorKnowsTheProxyThatRuns(t *testing.T) {
	s := startSite(t, siteLines{})
	p, d := s.examined(siteLines{})
	p.expect(t, d.check(t, "running proxy"), expectation{gradeGood, "127.0.0.1:$PORT, tier 0, env", ""})
	p.expect(t, d.check(t, "ports"), expectation{gradeGood, "127.0.0.1:$PORT: held by the Caddy that runs", ""})
	p.expect(t, d.check(t, "ports"), expectation{gradeGood, fmt.Sprintf("localhost:%d: held by the Caddy that runs", s.admin), ""})
	p.expect(t, d.check(t, "authority"), expectation{gradeGood, "whole, its key fits", ""})
	p.expect(t, d.check(t, "bundle"), expectation{gradeGood, "the proxy's root and those of", ""})

	// A shell that was led to it, and one that is led to another.
	proxy := fmt.Sprintf("http://127.0.0.1:%d", s.port)
	d.env = variables(map[string]string{"HTTPS_PROXY": proxy, "SSL_CERT_FILE": filepath.Join(s.dir, "db", "proxy-ca-bundle.pem")})
	p.expect(t, d.check(t, "this shell"), expectation{gradeGood, "certificates: all variables", ""})
	other := listenAt(t, 0).Addr().String()
	d.env = variables(map[string]string{"HTTPS_PROXY": "http://" + other})
	p.expect(t, d.check(t, "this shell"), expectation{gradeWarning, "points to " + other + ", but the proxy that runs is at 127.0.0.1:$PORT", "caddy starpod env"})

	// Somebody replaces the authority under the running proxy.
	for _, name := range []string{"proxy-ca.pem", "proxy-ca-key.pem"} {
		must(t, os.Remove(filepath.Join(s.dir, "db", name)))
	}
	p.data = filepath.Join(s.dir, "db")
	p.replaceAuthority(t)
	p.expect(t, d.check(t, "authority"), expectation{gradeWarning, "is not the authority of the proxy that runs", "restart the proxy"})
	p.expect(t, d.check(t, "bundle"), expectation{gradeBroken, "lacks the proxy's root", "restart the proxy"})
}

func TestDoctorFindsTheRootOfAnIssuer(t *testing.T) {
	internal := siteLines{starpod: "ca {\nissuer internal\n}"}
	s := startSite(t, internal)
	root := filepath.Join(s.dir, "storage", "pki", "authorities", "local", "root.crt")
	p, d := s.examined(internal)
	p.expect(t, d.check(t, "authority"), expectation{gradeGood, root + ": an authority's root, valid until", ""})
	p.expect(t, d.check(t, "bundle"), expectation{gradeGood, "the proxy's root and those of", ""})

	must(t, os.Truncate(root, 100))
	p.expect(t, d.check(t, "authority"), expectation{gradeBroken, root, "PEM form"})
	must(t, os.Remove(root))
	p.expect(t, d.check(t, "authority"), expectation{gradeNone, "the first start makes it", ""})
	d.plan.storage = ""
	p.expect(t, d.check(t, "authority"), expectation{gradeNone, "a storage of Caddy that is no folder", ""})
}

// A resolver that never answers must not hold doctor up.
func TestDoctorWaitsForNoName(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	d := p.doctor(t)
	d.lookup = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
	p.expect(t, d.check(t, "egress"), expectation{gradeWarning, "names: cannot be resolved: context deadline exceeded", "resolv.conf"})
}
