package isolation

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// imageUser is that of the image.
const imageUser = "65532"

// imageScript builds the example's image. No registry is asked: what stands in for
// the base of its first stage has the programs of this machine, and the modules and
// what was compiled before come from this machine, too.
const imageScript = `
cd "$1"; mkdir -p base/etc/ssl/certs base/usr base/tmp base/go
for name in bin sbin lib lib64; do ln -s usr/$name base/$name; done
cp /etc/ssl/certs/ca-certificates.crt base/etc/ssl/certs/
tar -C base -c . | podman import --change 'ENV PATH=/usr/local/go/bin:/usr/bin:/bin' --change 'ENV GOPATH=/go' \
	--change 'ENV GOCACHE=/go/cache' --change 'ENV GOPROXY=off' - "$(sed -n 's/^FROM \(.*\) AS build$/\1/p' "$2/examples/docker/Dockerfile")"
exec podman build --isolation chroot --pull=never --volume /usr:/usr:ro --volume "$(go env GOROOT):/usr/local/go:ro" \
	--volume "$(go env GOMODCACHE):/go/pkg/mod" --volume "$(go env GOCACHE):/go/cache" \
	--file "$2/examples/docker/Dockerfile" --tag starpod "$2"
`

// buildImage needs all modules on this machine, as `go mod download` brings them.
func (w *world) buildImage(t *testing.T) {
	t.Helper()
	config := filepath.Join(w.dir, "containers.conf")
	if err := os.WriteFile(config, []byte(podmanConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONTAINERS_CONF", config)
	t.Setenv("SSL_CERT_FILE", "")
	shell(t, imageScript, w.dir, filepath.Dir(w.exampleFolder(t)))
}

// TestExampleImage builds the image of examples/docker, and runs in it the proxies of
// examples/docker and examples/kubernetes: with their Caddyfiles, with the rights and
// mounts that compose.yaml and the manifests give them, and with keys as they get
// them. The networks, which Docker and Kubernetes make, are not theirs.
func TestExampleImage(t *testing.T) {
	w := newWorld(t)
	w.makeTenant(t)
	w.buildImage(t)
	authority := w.exampleAuthority(t)
	for _, tt := range []struct {
		name, config, key string
		hand              string // how the key is handed to the image's user
		groups            string
	}{
		{"compose", "docker/Caddyfile", "/run/secrets/master_key", `chown 65532 "$1"; chmod 400 "$1"`, ""},
		{"sidecar", "kubernetes/sidecar/Caddyfile", "/run/secrets/starpod/master.key", `chown 0:65532 "$1"; chmod 440 "$1"`, imageUser},
		{"egress", "kubernetes/egress/Caddyfile", "/run/secrets/starpod/master.key", `chown 0:65532 "$1"; chmod 440 "$1"`, imageUser},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := filepath.Join(w.dir, tt.name+".key")
			shell(t, `"$2" starpod keygen "$1" 2>&1`, key, w.caddy)
			token := w.sealed(t, key)
			shell(t, tt.hand, key)
			replica := func(name string) proxyContainer {
				return w.runImage(t, name, tt.config, tt.groups, key+":"+tt.key, authority+":/run/secrets/ca")
			}
			first := replica(tt.name)
			if tt.name != "egress" {
				w.swapsByContainer(t, token, filepath.Join(first.dir, "bundle/proxy-ca-bundle.pem"))
				return
			}
			root := filepath.Join(authority, "tls.crt")
			w.swapsByContainer(t, token, root)
			health(t, "200")
			shell(t, `podman kill --signal TERM "$1"`, first.name)
			testbench.Await(t, 5*time.Second, func() error { return healthIs("503") })
			w.swapsByContainer(t, token, root) // those that have not heard of it yet
			shell(t, `podman rm --force --time 0 "$1"`, first.name)
			replica("egress-2")
			w.swapsByContainer(t, token, root)
		})
	}
}

// exampleAuthority makes one by the command of the page, as a Secret holds it.
func (w *world) exampleAuthority(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(w.exampleFolder(t), "../docs/deployment.md"))
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^openssl req (.*\\\n)*.*$`).FindString(string(page))
	if command == "" {
		t.Fatal("the page has no command that makes an authority")
	}
	dir := filepath.Join(w.dir, "authority")
	shell(t, `mkdir "$1"; cd "$1"; mkdir -p examples/kubernetes/egress; eval "$2"
		mv examples/kubernetes/egress/ca.crt tls.crt; mv examples/kubernetes/egress/ca.key tls.key; rm -r examples
		chown 0:65532 tls.*; chmod 440 tls.*; chmod 755 .`, dir, command)
	return dir
}

type proxyContainer struct {
	name string
	dir  string // its volumes
}

// runImage starts a proxy and waits until its health check is content.
func (w *world) runImage(t *testing.T, name, config, groups string, mounts ...string) proxyContainer {
	t.Helper()
	c := proxyContainer{name: name, dir: filepath.Join(w.dir, name)}
	shell(t, `mkdir "$1"; cd "$1"; mkdir data bundle run; chown `+imageUser+` data bundle run; cp "$2" root.pem; chmod 644 root.pem`, c.dir, w.pki.RootFile(t))
	text := regexp.MustCompile(`(?m)^(\s*starpod_secrets \S+)$`).ReplaceAllString(w.example(t, config), "$1 {\n\t\tegress {\n\t\t\ttrust /etc/caddy/root.pem\n\t\t}\n\t}")
	if err := os.WriteFile(filepath.Join(c.dir, "Caddyfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"run", "--detach", "--name", name, "--network", "host", "--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp",
		"--volume", c.dir + "/data:/data", "--volume", c.dir + "/bundle:/bundle", "--volume", c.dir + "/run:/run/starpod",
		"--volume", c.dir + "/Caddyfile:/etc/caddy/Caddyfile:ro", "--volume", c.dir + "/root.pem:/etc/caddy/root.pem:ro"}
	for _, mount := range mounts {
		args = append(args, "--volume", mount+":ro")
	}
	if groups != "" {
		args = append(args, "--group-add", groups)
	}
	if out, err := exec.Command("podman", append(args, "starpod")...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("podman", "logs", name).CombinedOutput()
			t.Logf("log of %s:\n%s", name, out)
		}
		_ = exec.Command("podman", "rm", "--force", "--time", "0", name).Run()
	})
	testbench.Await(t, 20*time.Second, func() error {
		out, err := exec.Command("podman", "exec", name, "caddy", "starpod", "status", "--address", "unix//run/starpod/admin.sock").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return c
}

// swapsByContainer asks the API by the proxy in the container.
func (w *world) swapsByContainer(t *testing.T, token, trusted string) {
	t.Helper()
	w.api.Forget()
	curl := exec.Command("curl", "-q", "-sS", "-f", "--max-time", "20", "--cacert", trusted, "--proxy", "http://127.0.0.1:8080",
		"-H", "X-Key: "+token, "https://"+apiName+"/")
	if out, err := curl.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := w.api.Last(t).Header.Get("X-Key"); got != canary {
		t.Errorf("got %q upstream, want the value", got)
	}
}

func healthIs(want string) error {
	out, err := exec.Command("curl", "-q", "-sS", "--max-time", "5", "--output", "/dev/null", "--write-out", "%{http_code}", "http://127.0.0.1:8081/healthz").CombinedOutput()
	if err == nil && strings.TrimSpace(string(out)) != want {
		err = fmt.Errorf("got %s from /healthz, want %s", out, want)
	}
	return err
}

func health(t *testing.T, want string) {
	t.Helper()
	if err := healthIs(want); err != nil {
		t.Error(err)
	}
}
