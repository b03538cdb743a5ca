package starpod

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestReloadWithABadKey: a forced reload that finds garbage in the key file fails
// and says where, and the configuration that runs goes on.
func TestReloadWithABadKey(t *testing.T) {
	s := startSite(t, siteLines{})
	client, token := s.client(), s.token("127.0.0.1")
	path := filepath.Join(s.dir, "key")
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(s.caddyfile(siteLines{})), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() error{
		"garbage":   func() error { return os.WriteFile(path, []byte("garbage"), 0o600) },
		"empty":     func() error { return os.WriteFile(path, nil, 0o600) },
		"readable":  func() error { return os.Chmod(path, 0o644) },
		"a folder":  func() error { return os.Mkdir(path, 0o700) },
		"not there": func() error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			if name == "a folder" || name == "not there" {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			} else if err := rewrite(path, s.key); err != nil {
				t.Fatal(err)
			}
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			if err := caddy.Load(config, true); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "garbage") {
				t.Errorf("got error %v, want one that names %s and not what is in it", err, path)
			}
			s.up.Forget()
			s.get(client, s.target("/"), "X-Key", token)
			if got := s.up.Last(t).Header.Get("X-Key"); got != canary {
				t.Errorf("afterwards the upstream got %q, want the value", got)
			}
		})
	}
}

// rewrite makes a key file anew, whatever stands in its place.
func rewrite(path string, key []byte) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.WriteFile(path, key, 0o600)
}

// TestAuthorityFilesVanish while the proxy runs: hosts that it has not seen are
// intercepted all the same, under the root that clients trust.
func TestAuthorityFilesVanish(t *testing.T) {
	s := startSite(t, siteLines{})
	client := s.client()
	s.get(client, s.target("/"))
	if err := os.RemoveAll(filepath.Join(s.dir, "db")); err != nil {
		t.Fatal(err)
	}
	response, body := s.get(client, fmt.Sprintf("https://localhost:%d/", s.up.Port()), "X-Key", s.token("localhost"))
	if response.StatusCode != http.StatusOK || s.up.Last(t).Header.Get("X-Key") != canary {
		t.Errorf("got status %d %s and %q, want 200 and the value", response.StatusCode, body, s.up.Last(t).Header.Get("X-Key"))
	}
}

// TestErrorRoutesTellNoValue: what an error page may show of a request that failed
// when its values were already in it.
func TestErrorRoutesTellNoValue(t *testing.T) {
	log := filepath.Join(t.TempDir(), "access.log")
	s := startSite(t, siteLines{options: "on_mismatch strip", lines: `
	log {
		output file ` + log + `
	}
	handle_errors {
		respond "page: {http.error} {http.error.message} {http.error.trace} {http.error.status_text} {http.request.uri} {http.request.orig_uri} {http.request.header.X-Key} {http.request.header.Authorization} {http.request.body} {http.starpod.destination} {http.starpod.replaced} {http.vars}"
	}`})
	resets := testbench.NewUpstreamWith(t, s.pki.Leaf(t), "http/1.1")
	resets.Handle("/", testbench.Reset())
	garbage := testbench.NewUpstreamWith(t, s.pki.Leaf(t), "http/1.1")
	garbage.Handle("/", testbench.Raw("HTTP/1.1 "+canary+"\r\n\r\n"))
	untrusted := testbench.NewUpstreamWith(t, testbench.NewPKI(t).Leaf(t))
	token := s.token("127.0.0.1")
	for name, base := range map[string]string{
		"a reset":                    resets.URL("127.0.0.1"),
		"a reset over http":          resets.PlainURL("127.0.0.1"),
		"an answer with the value":   garbage.URL("127.0.0.1"),
		"a certificate of nobody":    untrusted.URL("127.0.0.1"),
		"nobody there":               fmt.Sprintf("https://127.0.0.1:%d", testbench.FreePort(t)),
		"nobody there, without TLS":  fmt.Sprintf("http://127.0.0.1:%d", testbench.FreePort(t)),
		"an address that is refused": "http://10.1.2.3",
	} {
		response, body := s.get(s.client(), base+"/"+token+"?k="+token, "X-Key", token, "Authorization", "Bearer "+token)
		if !strings.HasPrefix(body, "page: ") || response.StatusCode < 400 {
			t.Errorf("%s: got status %d %q, want the error page", name, response.StatusCode, body)
		}
		if found := testbench.FindSecret(fmt.Append(nil, response.Header, body), canary); len(found) > 0 {
			t.Errorf("%s: the page holds the value as %v:\n%s", name, found, body)
		}
	}
	if text, err := os.ReadFile(log); err != nil || len(testbench.FindSecret(text, canary)) > 0 {
		t.Errorf("the access log holds the value, or is not there (%v)", err)
	}
}

// TestNoProxyLeadsToAnother of the same process, whatever is allowed.
func TestNoProxyLeadsToAnother(t *testing.T) {
	s := startSite(t, siteLines{})
	other := testbench.FreePort(t)
	s.load(siteLines{lines: fmt.Sprintf("respond ordinary 404\n}\n:%d {\nbind 127.0.0.1\nstarpod_secrets %s/key\nrespond other 404", other, s.dir)})
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		for _, port := range []int{s.port, other} {
			response, body := s.get(s.client(), fmt.Sprintf("http://%s:%d/", host, port))
			if response.StatusCode != http.StatusForbidden || !strings.Contains(body, `"rule":"self"`) {
				t.Errorf("%s:%d: got status %d %s, want 403 by the rule self", host, port, response.StatusCode, body)
			}
		}
	}
}

// TestAdminListen reads where a configuration has its admin endpoints.
func TestAdminListen(t *testing.T) {
	for _, test := range []struct {
		name  string
		admin *caddy.AdminConfig
		want  string
	}{
		{"none", nil, "[localhost:2019]"},
		{"default", &caddy.AdminConfig{}, "[localhost:2019]"},
		{"elsewhere", &caddy.AdminConfig{Listen: "127.0.0.1:1"}, "[127.0.0.1:1]"},
		{"off", &caddy.AdminConfig{Disabled: true}, "[]"},
		{"remote", &caddy.AdminConfig{Remote: &caddy.RemoteAdmin{}}, "[localhost:2019 :2021]"},
		{"off but remote", &caddy.AdminConfig{Disabled: true, Remote: &caddy.RemoteAdmin{Listen: ":3"}}, "[:3]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := fmt.Sprint(adminEndpoints(reflect.ValueOf(caddy.Config{Admin: test.admin}))); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
