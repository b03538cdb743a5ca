package isolation

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// tenantDir has what programs run in the namespace of the examples. /run is there
// for all of them, /tmp is not.
const tenantDir = "/run/tenant"

// tenantScript asks the API without knowing of a proxy, and then tries to get out.
const tenantScript = `set -e
curl -q -sS -f --noproxy '*' -o /dev/null -H "X-Key: $TOKEN" https://` + apiName + `/
curl -q -sS -f --noproxy '*' -o /dev/null -H "X-Key: $TOKEN" http://` + apiName + `/
exec ` + tenantDir + `/attacker ` + attackMode + ` <` + tenantDir + `/attempts
`

// tenantEscapes are those that a namespace by itself closes, and a process
// without capabilities. Programs that joined it have no system call filter of
// ours.
var tenantEscapes = []struct {
	name    string
	attempt attempt
	want    string
	only    string // the example that closes it; "" for all
}{
	{"TCP to port 22", to("dial", outside4+":22"), refused, ""},
	{"TCP over IPv6", to("dial", "["+outside6+"]:22"), `^(ENETUNREACH|EADDRNOTAVAIL|EACCES|EAFNOSUPPORT)$`, ""},
	{"UDP to port 443", to("udp", outside4+":443"), rejected, ""},
	{"UDP to a public resolver", to("udp", outside4+":53"), "timeout$", ""},
	{"a service of the host", to("dial", host4+":9999"), refused, ""},
	{"a service on the host's loopback", to("dial", "127.0.0.1:9999"), refused, ""},
	{"a service by the host's end", to("dial", hostEnd+":9999"), refused, ""},
	{"an abstract socket of the host", to("abstract", abstractName), refused, ""},
	{"a packet socket", to("socket", "17", "3", "768"), `^(EPERM|EACCES|EAFNOSUPPORT)$`, ""},
	{"a raw socket", to("socket", "2", "3", "1"), denied, ""},
	{"the proxy's key", to("open", "/var/lib/starpod/.vault_key"), `^(EACCES|ENOENT)$`, ""},
	{"capabilities", to("capabilities"), `^\[\]$`, ""},
	{"a name looked up outside", to("lookup", "stolen-value.exfil.test"), `^198\.18\.`, ""},
	{"a socket to the hypervisor", to("socket", "40", "1", "0"), noFamily, "agent.service"},
	{"io_uring", to("io_uring"), "^ENOSYS$", "agent.service"},
}

// TestExamples runs what stands in examples/namespace beside a proxy with the
// configuration of examples/namespace.Caddyfile.
func TestExamples(t *testing.T) {
	w := newWorld(t)
	w.makeTenant(t)
	examples := w.exampleFolder(t)
	defer stop(t, w.serve(t, w.exampleConfig(t, examples), "unix//run/caddy-admin.sock", "starpod-ns"))
	for _, test := range []struct {
		name string
		run  func(t *testing.T, examples string) (stdout string)
	}{
		{"netns.sh", w.runByIP},
		{"podman.sh", w.runByPodman},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.checkTenant(t, test.name, func() string { return test.run(t, filepath.Join(examples, "namespace")) })
		})
	}
}

// checkTenant runs the tenant's script by an example, and sees what it has reached.
func (w *world) checkTenant(t *testing.T, example string, run func() (stdout string)) {
	t.Helper()
	w.api.Forget()
	before := w.resolver.Queries("exfil.test")
	out := run()
	var results []string
	if err := json.Unmarshal([]byte(out), &results); err != nil || len(results) != len(tenantEscapes) {
		t.Fatalf("got %q (%v), want %d results", out, err, len(tenantEscapes))
	}
	for i, e := range tenantEscapes {
		if (e.only == "" || e.only == example) && !regexp.MustCompile(e.want).MatchString(results[i]) {
			t.Errorf("%s: got %q, want %q", e.name, results[i], e.want)
		}
	}
	if got := len(w.api.Requests()); got != 2 || w.api.Requests()[0].Header.Get("X-Key") != canary || w.api.Last(t).Header.Get("X-Key") != canary {
		t.Errorf("got %d requests upstream, want one over https and one over http with the value:\n%s", got, w.api.Dump())
	}
	if after := w.resolver.Queries("exfil.test"); after != before {
		t.Errorf("got %d queries outside for a name that was only looked up, want none", after-before)
	}
}

func (w *world) exampleFolder(t *testing.T) string {
	t.Helper()
	root, err := testbench.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "examples")
}

// makeTenant puts the programs and their attempts where they find them, and an
// empty folder over /var/lib, where the proxy and podman keep their files.
func (w *world) makeTenant(t *testing.T) {
	t.Helper()
	shell(t, `mkdir -m 755 "$1"; cp "$2" "$1/attacker"; chmod 755 "$1/attacker"; mount -t tmpfs -o mode=755 tmpfs /var/lib
		if mountpoint -q /sys/fs/cgroup; then umount -l /sys/fs/cgroup; fi; mount -t cgroup2 cgroup2 /sys/fs/cgroup`, tenantDir, w.attacker)
	t.Cleanup(func() { shell(t, `umount -l /var/lib; umount -l /sys/fs/cgroup`) })
	var list []attempt
	for _, e := range tenantEscapes {
		list = append(list, e.attempt)
	}
	attempts, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"attempts": string(attempts), "run.sh": tenantScript} {
		if err := os.WriteFile(filepath.Join(tenantDir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// exampleConfig is the Caddyfile of the examples, and what makes it trust the API
// of the test.
func (w *world) exampleConfig(t *testing.T, examples string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(examples, "namespace.Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(string(text), "generate_key\n", "generate_key\n\t\tegress {\n\t\t\ttrust "+w.pki.RootFile(t)+"\n\t\t}\n", 1)
	path := filepath.Join(w.dir, "namespace.Caddyfile")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tokenOfExample is sealed with the key that the example's proxy has made.
func (w *world) tokenOfExample(t *testing.T) string {
	t.Helper()
	return w.sealed(t, "/var/lib/starpod/.vault_key")
}

// sealed is a token of the canary, for the API.
func (w *world) sealed(t *testing.T, key string) string {
	t.Helper()
	seal := exec.Command(w.caddy, "starpod", "seal", "--key-file", key, "--host", apiName)
	seal.Stdin = strings.NewReader(canary)
	token, err := seal.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(token))
}

func (w *world) runByIP(t *testing.T, examples string) string {
	cmd := exec.Command(filepath.Join(examples, "netns.sh"), "nobody", "sh", tenantDir+"/run.sh")
	cmd.Env = append(os.Environ(), "TOKEN="+w.tokenOfExample(t))
	out, _ := output(t, cmd)
	return out
}

// podmanConfig is for machines where root has not got all rights: limits stay as
// they are, and containers are in no control group.
const podmanConfig = `[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
lock_type = "file"
events_logger = "none"
`

// runByPodman runs a container whose root file system is the machine's programs
// and nothing else: no registry is asked.
func (w *world) runByPodman(t *testing.T, examples string) string {
	if _, err := exec.LookPath("podman"); err != nil {
		t.Fatal("podman is missing: scripts/test-deps.sh installs it")
	}
	root := filepath.Join(w.dir, "rootfs")
	shell(t, `mkdir -p "$1/usr" "$1/etc/ssl/certs" "$1/proc" "$1/sys" "$1/dev" "$1/run" "$1/tmp"
		for name in bin sbin lib lib64; do ln -s "usr/$name" "$1/$name"; done; printf %s "$2" >"$1/../containers.conf"`, root, podmanConfig)
	cmd := exec.Command(filepath.Join(examples, "podman.sh"),
		"--volume", "/usr:/usr:ro", "--volume", tenantDir+":"+tenantDir+":ro", "--env", "TOKEN",
		"--rootfs", root, "sh", tenantDir+"/run.sh")
	cmd.Env = append(os.Environ(), "TOKEN="+w.tokenOfExample(t), "CONTAINERS_CONF="+filepath.Join(w.dir, "containers.conf"), "SSL_CERT_FILE=")
	out, _ := output(t, cmd)
	return out
}
