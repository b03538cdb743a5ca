package isolation

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

var writeClients = flag.Bool("write-clients", false, "write docs/clients.md instead of comparing it (make clients)")

// What became of a client's request. A reason may follow behind ": ".
const (
	swapped  = "yes"             // the host got the value
	bypassed = "passes us by"    // the host got the token
	failed   = "fails"           // the host got nothing
	leaked   = "the value leaks" // never
)

// client is a row of docs/clients.md: a program with its ways of asking a URL.
type client struct {
	name string
	// script asks for $URL with $API_KEY, and prints the answer if echoes is set.
	script string
	echoes bool
	// What is expected for https and http, with env and in a namespace.
	env, envHTTP, sealed, sealedHTTP string
	// why is the reason for what is not "yes".
	why string
}

const (
	ignores  = "it takes no proxy from the environment"
	tunnels  = "it asks for a CONNECT to port 80, and a tunnel has to carry TLS"
	gitSetup = `
		helper='!printf "username=x-access-token\npassword=%s\n" "$API_KEY" #'
		git config --global credential.helper "$helper"
		git config --global user.name t; git config --global user.email t@starpod.test; `
)

var clients = []client{
	{name: "curl", script: `curl -q -sS -f -H "Authorization: Bearer $API_KEY" "$URL"`, echoes: true},
	{name: "wget", script: `wget -qO- --header="Authorization: Bearer $API_KEY" "$URL"`, echoes: true},
	{name: "git clone", script: gitSetup + `git clone -q "${URL}git/demo.git" demo && cat demo/README`},
	{name: "git push", script: gitSetup + `git clone -q "${URL}git/demo.git" demo && cd demo && date +%N >new && git add new &&
		git commit -q -m new && git push -q origin HEAD:main`},
	{name: "npm install", script: `printf '%s\n' "registry=${URL}npm/" "${URL#http*:}npm/:_authToken=\${API_KEY}" >.npmrc
		echo '{"name":"here","version":"1.0.0"}' >package.json
		npm install --no-audit --no-fund --no-update-notifier --loglevel=error --fetch-retries=0 demo && cat node_modules/demo/index.js`},
	{name: "Node fetch", script: `"$NODE" "$SOURCES/library.mjs" fetch`, echoes: true, envHTTP: failed, sealedHTTP: failed, why: tunnels},
	{name: "Node https, http", script: `"$NODE" "$SOURCES/library.mjs" https`, echoes: true},
	{name: "undici", script: `"$NODE" "$SOURCES/library.mjs" undici`, echoes: true, envHTTP: failed, sealedHTTP: failed, why: tunnels},
	{name: "undici with EnvHttpProxyAgent", script: `"$NODE" "$SOURCES/library.mjs" 'undici with EnvHttpProxyAgent'`, echoes: true, envHTTP: failed, sealedHTTP: failed, why: tunnels},
	{name: "Python urllib", script: `/usr/bin/python3 "$SOURCES/library.py" urllib`, echoes: true},
	{name: "Python requests", script: `/usr/bin/python3 "$SOURCES/library.py" requests`, echoes: true},
	{name: "Python httpx", script: `/usr/bin/python3 "$SOURCES/library.py" httpx`, echoes: true},
	{name: "Python aiohttp", script: `/usr/bin/python3 "$SOURCES/library.py" aiohttp`, echoes: true, env: bypassed, envHTTP: bypassed, why: ignores},
	{name: "Python aiohttp, trust_env", script: `/usr/bin/python3 "$SOURCES/library.py" aiohttp_trust_env`, echoes: true},
	{name: "pip install", script: `host="${URL#*://}"; printf 'machine %s login token password %s\n' "${host%/}" "$API_KEY" >.netrc; chmod 600 .netrc
		/usr/bin/python3 -m pip -q install --disable-pip-version-check --no-cache-dir --retries 0 --no-deps --target "$PWD/installed" --trusted-host "${host%/}" --index-url "${URL}simple/" demo &&
		cat installed/demo.py`},
	{name: "Java HttpClient", script: `java -cp "$JAVA_CLIENT" Library HttpClient`, echoes: true, env: bypassed, envHTTP: bypassed, why: ignores},
	{name: "Java HttpURLConnection", script: `java -cp "$JAVA_CLIENT" Library HttpURLConnection`, echoes: true, env: bypassed, envHTTP: bypassed, why: ignores},
	{name: "Ruby Net::HTTP", script: `ruby "$SOURCES/library.rb"`, echoes: true},
	{name: "PHP curl", script: `php "$SOURCES/library.php" curl`, echoes: true},
	{name: "PHP file_get_contents", script: `php "$SOURCES/library.php" stream`, echoes: true, env: bypassed, envHTTP: bypassed, why: ignores},
	{name: "Perl LWP", script: `perl "$SOURCES/library.pl" LWP`, echoes: true, env: bypassed, envHTTP: bypassed, why: ignores},
	{name: "Perl LWP, env_proxy", script: `perl "$SOURCES/library.pl" 'LWP env_proxy'`, echoes: true},
	{name: "Perl HTTP::Tiny", script: `perl "$SOURCES/library.pl" HTTP::Tiny`, echoes: true},
	{name: "Go net/http", script: `"$GO_CLIENT" ` + politeMode + ` "$URL"`, echoes: true},
	{name: "Go net/http without Proxy", script: `"$GO_CLIENT" ` + stubbornMode + ` "$URL" ""`, echoes: true, env: bypassed, envHTTP: bypassed, why: ignores},
	{name: "Rust ureq", script: `"$RUST_CLIENT"`, echoes: true, env: bypassed, envHTTP: bypassed, why: ignores},
	{name: "Rust ureq with a proxy", script: `"$RUST_CLIENT" proxy`, echoes: true, envHTTP: failed, sealedHTTP: failed, why: tunnels},
}

// expected fills in what a row leaves out.
func expected(text string) string {
	if text == "" {
		return swapped
	}
	return text
}

// TestClients asks with each client in both tiers, and compares what became of it
// with the table above and with docs/clients.md, which is made from it.
func TestClients(t *testing.T) {
	w := newWorld(t)
	w.trustOnHost(t)
	w.serveClients(t)
	env := w.clientEnv(t)
	for _, c := range clients {
		tiers := []struct{ isolation, scheme, want string }{
			{"env", "https", expected(c.env)}, {"env", "http", expected(c.envHTTP)},
			{"sealed", "https", expected(c.sealed)}, {"sealed", "http", expected(c.sealedHTTP)},
		}
		for _, tier := range tiers {
			t.Run(fmt.Sprintf("%s, %s, %s", c.name, tier.isolation, tier.scheme), func(t *testing.T) {
				got, log := w.ask(t, c, env, tier.isolation, tier.scheme+"://"+apiName+"/")
				if got != tier.want {
					t.Errorf("got %q, want %q\n%s", got, tier.want, log)
				}
				if tier.scheme == "http" || tier.isolation == "env" && !*writeClients {
					return // a second for each client, and the wrong host is refused by the same code
				}
				if got, log := w.ask(t, c, env, tier.isolation, tier.scheme+"://"+evilName+"/"); got == swapped || got == leaked {
					t.Errorf("the wrong host: %s\n%s", got, log)
				}
			})
		}
	}
	compareClients(t)
}

// ask runs a client in a folder of its own and looks at what the host received.
func (w *world) ask(t *testing.T, c client, env []string, isolation, url string) (outcome, log string) {
	t.Helper()
	dir, err := os.MkdirTemp(w.openDir, "")
	if err != nil {
		t.Fatal(err)
	}
	w.api.Forget()
	cmd := w.run(t, false, []string{"--isolation", isolation, "--env-file", w.hiddenFile}, "timeout", "60", "sh", "-c", c.script)
	cmd.Dir, cmd.Env = dir, append(append(cmd.Env, env...), "URL="+url, "HOME="+dir)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	log = fmt.Sprintf("%v\n%s\n%s", err, &stdout, &stderr)
	switch saw := credentials(w.api.Requests()); {
	case strings.Contains(stdout.String()+stderr.String(), canary):
		return leaked, log
	case strings.Contains(saw, canary) && (err != nil || c.echoes && !strings.Contains(stdout.String(), strings.Repeat("*", len(canary)))):
		return "swapped, and then failed", log
	case strings.Contains(saw, canary):
		return swapped, log
	case strings.Contains(saw, "starpod:v1:"):
		return bypassed, log
	case err == nil:
		return "nothing arrived", log
	}
	return failed, log
}

// credentials are those of all requests, in clear.
func credentials(requests []*testbench.Request) string {
	var all strings.Builder
	for _, r := range requests {
		header := r.Header.Get("Authorization") + r.Header.Get("X-Key")
		if encoded, basic := strings.CutPrefix(header, "Basic "); basic {
			clear, _ := base64.StdEncoding.DecodeString(encoded)
			header = string(clear)
		}
		all.WriteString(header + "\n")
	}
	return all.String()
}

// trustOnHost makes the internet's authority one that this host trusts, as
// clients that pass us by would meet it.
func (w *world) trustOnHost(t *testing.T) {
	t.Helper()
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	shell(t, `cat `+bundle+` "$1" >/run/bundle; mount --bind /run/bundle `+bundle, w.pki.RootFile(t))
	t.Cleanup(func() { shell(t, "umount "+bundle) })
}

// serveClients makes the internet's host one that git, npm and pip can use too.
// Everybody else is told what the host received.
func (w *world) serveClients(t *testing.T) {
	t.Helper()
	git := testbench.NewGit(t, "x-access-token", canary)
	git.Seed(t, "README", "hello\n")
	w.api.HandleStream("/git/", http.StripPrefix("/git", git))
	w.api.Handle("/", testbench.EchoHead)
	w.api.Handle("/npm/demo", func(rw http.ResponseWriter, r *http.Request, got *testbench.Request) {
		scheme := "https"
		if r.TLS == nil {
			scheme = "http"
		}
		fmt.Fprintf(rw, `{"name":"demo","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"demo","version":"1.0.0","dist":{"tarball":"%s://%s/npm/demo/-/demo-1.0.0.tgz"}}}}`, scheme, got.Host)
	})
	w.api.Handle("/npm/demo/-/", send(npmPackage(t)))
	w.api.Handle("/simple/demo/", page(`<a href="/simple/files/demo-1.0.0-py3-none-any.whl">demo-1.0.0-py3-none-any.whl</a>`))
	w.api.Handle("/simple/files/", send(wheel(t)))
}

func page(content string) testbench.Responder {
	return func(rw http.ResponseWriter, _ *http.Request, _ *testbench.Request) {
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprint(rw, content)
	}
}

func send(content []byte) testbench.Responder {
	return func(rw http.ResponseWriter, _ *http.Request, _ *testbench.Request) {
		rw.Header().Set("Content-Type", "application/octet-stream")
		_, _ = rw.Write(content)
	}
}

func npmPackage(t *testing.T) []byte {
	t.Helper()
	return tarball(t, map[string]string{
		"package/package.json": `{"name":"demo","version":"1.0.0","main":"index.js"}`, "package/index.js": "module.exports = 1\n",
	})
}

func tarball(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var packed bytes.Buffer
	compressed := gzip.NewWriter(&packed)
	archive := tar.NewWriter(compressed)
	for name, content := range files {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := compressed.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func wheel(t *testing.T) []byte {
	t.Helper()
	var packed bytes.Buffer
	archive := zip.NewWriter(&packed)
	for name, content := range map[string]string{
		"demo.py":                       "ready = True\n",
		"demo-1.0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0.0\n",
		"demo-1.0.0.dist-info/WHEEL":    "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		"demo-1.0.0.dist-info/RECORD":   "demo.py,,\ndemo-1.0.0.dist-info/METADATA,,\ndemo-1.0.0.dist-info/WHEEL,,\ndemo-1.0.0.dist-info/RECORD,,\n",
	} {
		file, err := archive.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// clientEnv names the programs and sources of the clients.
func (w *world) clientEnv(t *testing.T) []string {
	t.Helper()
	sources, err := filepath.Abs("testdata/clients")
	if err != nil {
		t.Fatal(err)
	}
	node := testbench.Node(t)
	return []string{
		"SOURCES=" + sources, "NODE=" + node, "GO_CLIENT=" + w.attacker, "RUST_CLIENT=" + w.buildRust(t, sources),
		"NODE_LIBRARIES=" + nodeLibraries(t), "JAVA_CLIENT=" + w.buildJava(t, sources),
	}
}

func (w *world) buildJava(t *testing.T, sources string) string {
	t.Helper()
	dir := filepath.Join(w.openDir, "java")
	shell(t, `javac -d "$2" "$1/Library.java"`, sources, dir)
	return dir
}

// nodeLibraries is where scripts/test-deps.sh put undici.
func nodeLibraries(t *testing.T) string {
	t.Helper()
	root, err := testbench.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", filepath.Join(root, "scripts", "test-deps.sh"), "--node-libraries").Output()
	if err != nil {
		t.Fatalf("looking for undici: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// buildRust builds the Rust client with Debian's cargo and crates, offline.
func (w *world) buildRust(t *testing.T, sources string) string {
	t.Helper()
	dir := filepath.Join(w.openDir, "rust")
	shell(t, `cp -r "$1/rust" "$2"; mkdir "$2/home"
		printf '[source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "/usr/share/cargo/registry"\n' >"$2/home/config.toml"
		CARGO_HOME="$2/home" CARGO_PROFILE_DEV_DEBUG=false /usr/bin/cargo build -q --offline --manifest-path "$2/Cargo.toml" --target-dir "$2/target"`, sources, dir)
	return filepath.Join(dir, "target", "debug", "library")
}

// compareClients compares docs/clients.md with the table, or writes it.
func compareClients(t *testing.T) {
	t.Helper()
	root, err := testbench.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	path, want := filepath.Join(root, "docs", "clients.md"), clientsDocument()
	if *writeClients && !t.Failed() {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("docs/clients.md is not what was found (%v): run make clients", err)
	}
}

func clientsDocument() string {
	var page strings.Builder
	page.WriteString(`# Clients

Made by ` + "`make clients`" + `, which asks a host with each of these, unmodified, under
` + "`caddy starpod run`" + `, and fails if an outcome is not the one below. Their environment
is what ` + "`run`" + ` sets, with no option that names a proxy or a certificate.

- **yes**: the host that the token names got the value, the answer that repeated it
  came back with asterisks in its place, and another host did not get the value.
- **passes us by**: the client went straight to the host, which got the token. The
  value is safe, and the request does not work.
- **fails**: the client got an error, the host nothing.

| Client | env, https | env, http | sealed, https | sealed, http | Why |
|---|---|---|---|---|---|
`)
	for _, c := range clients {
		fmt.Fprintf(&page, "| %s | %s | %s | %s | %s | %s |\n", c.name, expected(c.env), expected(c.envHTTP), expected(c.sealed), expected(c.sealedHTTP), c.why)
	}
	page.WriteString("\nIn a namespace (`sealed`, `veth`) a client that knows nothing of proxies is\nserved like any other. One that asks a proxy for a CONNECT gets the same answer there.\n")
	return page.String()
}
