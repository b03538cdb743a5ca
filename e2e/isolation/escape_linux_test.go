package isolation

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// Addresses of the world that the tests make; see world.
const (
	outside4 = "203.0.113.1" // a host of the internet
	outside6 = "2001:db8::1"
	host4    = "10.77.0.1" // of the machine that the proxy runs on
	host6    = "2001:db8:1::1"
	hostEnd  = "10.200.1.1" // of the veth namespace

	rootsDevice = "/run/device"
)

// escape is one way out that is tried. Results are regular expressions of what
// the attempt prints; "" is for what cannot be said in that mode.
type escape struct {
	name    string
	attempt attempt
	free    string // without isolation, as root: shows that the attempt works
	sealed  string
	veth    string
}

// Reasons. A connection that the proxy takes is closed when it turns out to be
// neither TLS nor HTTP.
const (
	byProxy  = `^(EOF|ECONNRESET)$`
	refused  = `^ECONNREFUSED$`
	rejected = `^(ECONNREFUSED|EHOSTUNREACH|timeout)$` // the kernel limits how often it says so
	noIPv6   = `^(ENETUNREACH|EADDRNOTAVAIL|EACCES)$`
	denied   = `^(EACCES|EPERM)$`
	noFamily = `^EAFNOSUPPORT$`
)

func to(name string, args ...string) attempt { return attempt{name, args} }

func (w *world) escapes(user bool) []escape {
	hidden, data := w.hiddenFile, w.dataDir(user)
	return []escape{
		{"TCP to port 22", to("dial", outside4+":22"), "^internet$", byProxy, refused},
		{"TCP to port 81", to("dial", outside4+":81"), "^internet$", byProxy, refused},
		{"TCP to port 8443", to("dial", outside4+":8443"), "^internet$", byProxy, refused},
		{"TCP to port 443 without TLS", to("dial", outside4+":443"), "", byProxy, byProxy},
		{"TCP over IPv6", to("dial", "["+outside6+"]:22"), "^internet$", byProxy, noIPv6},
		{"UDP to a public resolver", to("udp", outside4+":53"), "^internet$", "timeout$", "timeout$"},
		{"UDP to a resolver over IPv6", to("udp", "["+outside6+"]:53"), "^internet$", "timeout$", noIPv6},
		{"UDP to port 443", to("udp", outside4+":443"), "^internet$", refused, rejected},
		{"UDP to another port", to("udp", outside4+":9998"), "^internet$", refused, rejected},
		{"ping", to("ping", outside4), "^reply$", denied, denied},
		{"ping over IPv6", to("ping", outside6), "^reply$", denied, denied},

		{"a service of the host", to("dial", host4+":9999"), "^host$", byProxy, refused},
		{"a service of the host over IPv6", to("dial", "["+host6+"]:9999"), "^host$", byProxy, noIPv6},
		{"a service on the host's loopback", to("dial", "127.0.0.1:9999"), "^host$", refused, refused},
		{"a service on the host's loopback over IPv6", to("dial", "[::1]:9999"), "^host$", refused, noIPv6},
		{"a service by the host's end", to("dial", hostEnd+":9999"), "", byProxy, refused},
		{"a service by the link-local address", to("dial", "[fe80::1%lo]:9999"), "", `^(EOF|ECONNRESET|ECONNREFUSED|EINVAL|ENETUNREACH|EADDRNOTAVAIL)$`, noIPv6 + "|^EINVAL$"},
		{"UDP to the host", to("udp", host4+":9998"), "^host$", refused, rejected},
		{"UDP to the host's end", to("udp", hostEnd+":9998"), "", refused, rejected},
		{"the admin API", to("dial", "127.0.0.1:2019"), "^host$", refused, refused},
		{"the admin API through the proxy", to("connect", "127.0.0.1:2019"), "", "^HTTP/1.1 403", "^HTTP/1.1 403"},
		{"the host through the proxy", to("connect", host4+":9999"), "", "^HTTP/1.1 403", "^HTTP/1.1 403"},
		{"an abstract socket of the host", to("abstract", abstractName), "^host$", refused, refused},

		{"the network of the parent", to("setns", "/proc/PARENT/ns/net"), "^entered$", denied, denied},
		{"the network of process 1", to("setns", "/proc/1/ns/net"), "", denied, denied},
		{"the files of process 1", to("setns", "/proc/1/ns/mnt"), "", denied, denied},
		{"the parent's environment", to("open", "/proc/PARENT/environ"), `^\d+ bytes$`, denied, denied},
		{"the parent's memory", to("open", "/proc/PARENT/mem"), `bytes`, denied, denied},
		{"the parent's map", to("open", "/proc/PARENT/maps"), `^\d+ bytes$`, denied, denied},
		{"the parent's descriptors", to("readlink", "/proc/PARENT/fd/2"), `^pipe:`, denied, denied},
		{"the parent's root", to("open", "/proc/PARENT/root/etc/passwd"), `^\d+ bytes$`, denied, denied},
		{"the parent as a debugger", to("ptrace"), "^attached$", denied, denied},

		{"a raw socket", to("socket", "2", "3", "1"), "^made$", denied, denied},
		{"a raw IPv6 socket", to("socket", "10", "3", "58"), "^made$", denied, denied},
		{"a packet socket", to("socket", "17", "3", "768"), "^made$", noFamily, noFamily},
		{"a socket to the hypervisor", to("socket", "40", "1", "0"), "", noFamily, noFamily},
		{"a socket to the kernel's cryptography", to("socket", "38", "5", "0"), "", noFamily, noFamily},
		{"io_uring", to("io_uring"), "", "^ENOSYS$", "^ENOSYS$"},
		{"typing into the terminal", to("type ahead"), "^ENOTTY$", "^EPERM$", "^EPERM$"},

		{"an address by netlink", to("addr"), "^done$", "not permitted", "not permitted"},
		{"a route by netlink", to("route"), "^done$", "not permitted", "not permitted"},
		{"no firewall any more", to("flush"), "^done$", "not permitted", "not permitted"},
		{"a network namespace of its own", to("own network", outside4+":22"), "", "^ECONNREFUSED$|uid_map", "^ECONNREFUSED$|uid_map|unshare failed: Operation not permitted"},
		{"a route as root of its own namespace", to("own user", "ip", "route", "add", "198.51.100.0/24", "dev", "lo"), "", "not permitted", "not permitted"},
		{"the parent's network as root of its own namespace", to("own user", "nsenter", "--net=/proc/1/ns/net", "true"), "", "denied|not permitted", "denied|not permitted"},
		{"uncovering a file as root of its own namespace", to("own user", "umount", hidden), "", "not mounted|Invalid argument|not permitted|must be superuser", "not mounted|Invalid argument|not permitted|must be superuser"},

		{"a hidden file", to("open", hidden), `^[1-9]\d* bytes$`, `^0 bytes$`, `^0 bytes$`},
		{"a hidden folder", to("open", data), `^[1-9]\d* files$`, `^0 files$`, `^0 files$`},
		{"a hidden file by a symbolic link", to("link", "symbolic", hidden, w.openDir), `^[1-9]\d* bytes$`, `^0 bytes$`, `^0 bytes$`},
		{"a hidden file by a hard link", to("link", "hard", hidden, w.openDir), `^[1-9]\d* bytes$`, `^(EXDEV|EPERM)$`, `^(EXDEV|EPERM)$`},
		{"a hidden file by its link", to("open", w.hiddenLink), `^[1-9]\d* bytes$`, `^0 bytes$`, `^0 bytes$`},
		{"a hidden file through process 1", to("open", "/proc/1/root"+hidden), "", denied, denied},
		{"uncovering a hidden file", to("umount", hidden), "", "^EPERM$", "^EPERM$"},

		{"capabilities", to("capabilities"), `Cap`, `^\[\]$`, `^\[\]$`},
		{"inherited descriptors", to("descriptors"), "", `^\[\]$`, `^\[\]$`},
		{"a name looked up outside", to("lookup", "stolen-value.exfil.test"), "", `^198\.18\.`, `^198\.18\.`},
	}
}

// rootEscapes are for root, who needs no capability where file modes decide.
func rootEscapes() []escape {
	return []escape{
		{"what the kernel executes on a crash", to("writable", "/proc/sys/kernel/core_pattern"), "^opened$", "^EROFS$", "^EROFS$"},
		{"settings of the network", to("writable", "/proc/sys/net/ipv4/ip_forward"), "^opened$", "^EROFS$", "^EROFS$"},
		{"the kernel's own files", to("writable", "/sys/kernel/profiling"), "^opened$", "^EROFS$", "^EROFS$"},
		{"a device that is root's alone", to("writable", rootsDevice), "^opened$", "^EACCES$", "^EACCES$"},
		{"a device that is everybody's", to("writable", "/dev/null"), "^opened$", "^opened$", "^opened$"},
		{"the records of namespaces", to("open", "/run/starpod"), "", "^ENOENT$", "^0 files$"},
	}
}

// userEscapes are for an ordinary user.
func (w *world) userEscapes() []escape {
	return []escape{
		{"the files of another process of the user", to("open", "/proc/"+w.bystander+"/root/etc/passwd"), `bytes$`, denied, denied},
		{"the memory of another process of the user", to("open", "/proc/"+w.bystander+"/mem"), ``, denied, denied},
		{"the network of another process of the user", to("setns", "/proc/"+w.bystander+"/ns/net"), "^EPERM$", denied, denied},
		{"a set-user-ID program", to("become root", w.setuid), "^0$", `^` + ordinaryID + `$`, `^` + ordinaryID + `$`},
	}
}

// TestEscapes tries all ways out, from within each kind of isolation. Without
// isolation the same attempts succeed.
func TestEscapes(t *testing.T) {
	w := newWorld(t)
	makeChroot(t)
	w.startBystander(t)
	// The machine's /dev is not ours to make devices in; this one is like /dev/zero.
	shell(t, `mknod -m 600 "$1" c 1 5`, rootsDevice)
	asRoot := append(w.escapes(false), rootEscapes()...)
	for _, mode := range []struct {
		name   string
		flags  []string
		user   bool
		list   []escape
		expect func(escape) string
	}{
		{"without isolation, as root", []string{"--isolation", "env"}, false, asRoot, func(e escape) string { return e.free }},
		{"without isolation, as a user", []string{"--isolation", "env"}, true, w.userEscapes(), func(e escape) string { return e.free }},
		{"sealed, as a user", []string{"--isolation", "sealed"}, true, append(w.escapes(true), w.userEscapes()...), func(e escape) string { return e.sealed }},
		{"sealed, as root", []string{"--isolation", "sealed"}, false, asRoot, func(e escape) string { return e.sealed }},
		{"veth, as root", []string{"--isolation", "veth"}, false, asRoot, func(e escape) string { return e.veth }},
		{"veth, for a user", []string{"--isolation", "veth", "--user", ordinaryID}, false, append(w.escapes(false), w.userEscapes()...), func(e escape) string { return e.veth }},
		{"veth, as root without user namespaces", []string{"--isolation", "veth"}, false, asRoot, func(e escape) string { return e.veth }},
		{"veth, for a user without user namespaces", []string{"--isolation", "veth", "--user", ordinaryID}, false, append(w.escapes(false), w.userEscapes()...), func(e escape) string { return e.veth }},
	} {
		t.Run(mode.name, func(t *testing.T) {
			before := w.resolver.Queries("exfil.test")
			results, log := w.attack(t, mode.user, strings.HasSuffix(mode.name, "without user namespaces"), mode.flags, mode.list)
			for i, e := range mode.list {
				want := mode.expect(e)
				if want != "" && !regexp.MustCompile(want).MatchString(results[i]) {
					t.Errorf("%s: got %q, want %q", e.name, results[i], want)
				}
			}
			if strings.Contains(log, "panic") || strings.Contains(log, "DATA RACE") {
				t.Errorf("got in the log: %s", log)
			}
			if mode.flags[1] == "env" {
				return
			}
			if after := w.resolver.Queries("exfil.test"); after != before {
				t.Errorf("got %d queries outside for names that were only looked up, want none", after-before)
			}
		})
	}
}

// attack runs the list inside and returns what came of each, and the proxy's log.
func (w *world) attack(t *testing.T, user, chroot bool, flags []string, list []escape) (results []string, log string) {
	t.Helper()
	var tried []attempt
	for _, e := range list {
		tried = append(tried, e.attempt)
	}
	input, err := json.Marshal(tried)
	if err != nil {
		t.Fatal(err)
	}
	flags = append([]string{"--env-file", w.hiddenFile, "--data-dir", w.dataDir(user), "--log-level", "info"}, flags...)
	cmd := w.run(t, user, flags, w.attacker, attackMode)
	if chroot {
		run := cmd
		cmd = exec.Command("sh", append([]string{"-c", withoutUserNamespaces, "sh"}, run.Args...)...)
		cmd.Dir, cmd.Env = run.Dir, run.Env
	}
	cmd.Stdin = strings.NewReader(string(input))
	inherited, err := os.Open(w.hiddenFile)
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	cmd.ExtraFiles = []*os.File{inherited}
	out, log := output(t, cmd)
	if err := json.Unmarshal([]byte(out), &results); err != nil || len(results) != len(list) {
		t.Fatalf("got %q (%v), want %d results; log:\n%s", out, err, len(list), log)
	}
	return results, log
}

func output(t *testing.T, cmd *exec.Cmd) (stdout, stderr string) {
	t.Helper()
	var out, log strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s\n%s", filepath.Base(cmd.Path), err, &out, &log)
	}
	return out.String(), log.String()
}

// startBystander starts a process of the ordinary user that no isolation holds.
func (w *world) startBystander(t *testing.T) {
	t.Helper()
	cmd := exec.Command("setpriv", "--reuid="+ordinaryID, "--regid="+ordinaryID, "--clear-groups", "sleep", "infinity")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	w.bystander = strconv.Itoa(cmd.Process.Pid)
	testbench.Await(t, 10*time.Second, func() error {
		name, err := os.ReadFile("/proc/" + w.bystander + "/comm")
		if err == nil && string(name) != "sleep\n" {
			err = fmt.Errorf("got a process %s", name)
		}
		return err
	})
}
