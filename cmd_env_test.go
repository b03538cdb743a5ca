package starpod

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/ca"
)

// newAdmin answers like the admin API of a Caddy with these proxies.
func newAdmin(t *testing.T, bundle string, proxies ...ProxyStatus) (address string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/starpod/status" {
			http.NotFound(w, r)
			return
		}
		_ = printJSON(w, Status{
			Tier: Tier{Driver: "env"}, Proxies: proxies,
			Attach: &AttachStatus{Socket: "/data/attach.sock", Commands: 3},
			CA:     CAStatus{Fingerprint: "ab:cd", NotAfter: "2036-01-01T00:00:00Z", Bundle: bundle},
		})
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// newBundle makes a data folder with an awkward name and a bundle in it.
func newBundle(t *testing.T) (dir, bundle string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), `it's a "$HOME" \ folder`)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	bundle = filepath.Join(dir, ca.BundleFile)
	if err := os.WriteFile(bundle, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, bundle
}

func TestCmdEnvIsReadByARealShell(t *testing.T) {
	t.Parallel()
	dir, bundle := newBundle(t)
	everywhere := ProxyStatus{Listen: []string{"[::]:8080"}, Intercept: true}
	for _, test := range []struct {
		name          string
		args          []string
		proxy, bundle string
	}{
		{"without asking", []string{"--proxy", "http://user:pa'ss@127.0.0.1:8080", "--data-dir", dir}, "http://user:pa'ss@127.0.0.1:8080", bundle},
		{"asking", []string{"--address", newAdmin(t, bundle, everywhere)}, "http://[::1]:8080", bundle},
		{"asking for the bundle only", []string{"--address", newAdmin(t, bundle, everywhere, everywhere), "--proxy", "http://10.0.0.1:1"}, "http://10.0.0.1:1", bundle},
		{"a proxy that does not intercept", []string{"--address", newAdmin(t, bundle, ProxyStatus{Listen: []string{"0.0.0.0:81"}})}, "http://127.0.0.1:81", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			exports := typed{args: append([]string{"env"}, test.args...)}.succeed(t).stdout
			sh := exec.Command("sh", "-c", exports+`printf '%s\n' "$HTTP_PROXY" "$https_proxy" "$SSL_CERT_FILE"`)
			sh.Env = []string{}
			got, err := sh.CombinedOutput()
			if want := test.proxy + "\n" + test.proxy + "\n" + test.bundle + "\n"; err != nil || string(got) != want {
				t.Errorf("got %q (%v), want %q", got, err, want)
			}
			if strings.Contains(exports, "WGETRC") || strings.Contains(exports, "JAVA") {
				t.Errorf("got %s, want no variable for a file that does not exist", exports)
			}
		})
	}
}

func TestCmdEnvRefuses(t *testing.T) {
	t.Parallel()
	_, bundle := newBundle(t)
	one := ProxyStatus{Listen: []string{"127.0.0.1:8080"}, Intercept: true}
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"no running Caddy", []string{"--address", "127.0.0.1:1"}, "give both --proxy and --data-dir"},
		{"several proxies", []string{"--address", newAdmin(t, bundle, one, one)}, "choose one of http://127.0.0.1:8080"},
		{"no proxy", []string{"--address", newAdmin(t, bundle)}, "add starpod_secrets"},
		{"no bundle", []string{"--proxy", "http://127.0.0.1:1", "--data-dir", t.TempDir()}, "after its first start"},
		{"no URL", []string{"--proxy", "127.0.0.1:8080"}, "http://127.0.0.1:8080"},
		{"an unknown shell", []string{"--address", newAdmin(t, bundle, one), "--shell", "tcsh"}, "choose sh"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := typed{args: append([]string{"env"}, test.args...)}.run(t)
			if got.status != 1 || got.stdout != "" || !strings.Contains(got.stderr, test.want) {
				t.Errorf("got status %d, %q and %q, want 1 and %q", got.status, got.stdout, got.stderr, test.want)
			}
		})
	}
}

func TestCmdShellQuoting(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ shell, value, want string }{
		{"sh", `a'b"c$d\e`, `export N='a'\''b"c$d\e'` + "\n"},
		{"fish", `a'b"c$d\e`, `set -gx N 'a\'b"c$d\\e';` + "\n"},
		{"powershell", `a'b"c$d\e’`, `$Env:N = 'a''b"c$d\e’’'` + "\n"},
	} {
		if got, err := exportLines(test.shell, []string{"N=" + test.value}); err != nil || got != test.want {
			t.Errorf("%s: got %q (%v), want %q", test.shell, got, err, test.want)
		}
	}
}

func TestCmdStatus(t *testing.T) {
	t.Parallel()
	address := newAdmin(t, "/data/bundle.pem", ProxyStatus{Listen: []string{"127.0.0.1:8080"}, Intercept: true, Keys: 2})
	table := typed{args: []string{"status", "--address", address}}.succeed(t).stdout
	for _, want := range []string{"tier 0, env", "127.0.0.1:8080, intercepts, keys: 2", "3 commands, at /data/attach.sock", "/data/bundle.pem", "0 replaced"} {
		if !strings.Contains(table, want) {
			t.Errorf("got %s, want %q in it", table, want)
		}
	}
	asked, err := http.Get("http://" + address + "/starpod/status")
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Body.Close()
	want, _ := io.ReadAll(asked.Body)
	if got := (typed{args: []string{"status", "--json", "--address", address}}).succeed(t).stdout; got != string(want) {
		t.Errorf("got %s, want %s", got, want)
	}
	if down := (typed{args: []string{"status", "--address", "127.0.0.1:1"}}).run(t); down.status != 1 || !strings.Contains(down.stderr, "--address") {
		t.Errorf("without a Caddy: got status %d and %q, want 1 and the mend", down.status, down.stderr)
	}
}

func TestCmdDemo(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"with curl": os.Getenv("PATH"), "without any program": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := typed{args: []string{"demo"}, env: []string{"PATH=" + path}}.succeed(t)
			if strings.Count(got.stdout, "✓") != 3 || strings.Contains(got.stdout, "✗") || got.stderr != "" {
				t.Errorf("got %s%s, want three ✓", got.stdout, got.stderr)
			}
		})
	}
}

// What the demonstration says has to depend on what happened.
func TestCmdDemoTellsWhenItFails(t *testing.T) {
	t.Parallel()
	good := demoResult{
		value: "value", token: tokenPrefix + "0123456789abcdef", program: "curl",
		printed: demoVariable + "=" + tokenPrefix + "0123456789abcdef\n",
		right:   "GET / HTTP/2.0\r\nAuthorization: Bearer value\r\n", wrong: "GET / HTTP/2.0\r\nAuthorization: Bearer \r\n",
	}
	if !good.tell(io.Discard) {
		t.Error("all is well: got false, want true")
	}
	for name, spoil := range map[string]func(*demoResult){
		"the program held the value":        func(r *demoResult) { r.printed += "OTHER=value\n" },
		"the program had no token":          func(r *demoResult) { r.printed = "" },
		"the right host got the token":      func(r *demoResult) { r.right = strings.ReplaceAll(r.right, "value", r.token) },
		"the right host got nothing":        func(r *demoResult) { r.right = "" },
		"the wrong host got the value":      func(r *demoResult) { r.wrong += "X: value\r\n" },
		"the wrong host got the token":      func(r *demoResult) { r.wrong += "X: " + r.token + "\r\n" },
		"the wrong host was never asked":    func(r *demoResult) { r.wrong = "" },
		"the right host got a bit too much": func(r *demoResult) { r.right = strings.ReplaceAll(r.right, "value", "values") },
	} {
		bad := good
		spoil(&bad)
		if bad.tell(io.Discard) {
			t.Errorf("%s: got true, want false", name)
		}
	}
}
