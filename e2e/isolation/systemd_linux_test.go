package isolation

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// unitFolder has all units of the machine of a test.
const unitFolder = "/run/units"

// systemdScript makes systemd the first process of that machine. Credentials are
// mounted by another process than the first, so mounts have to be shared, as they
// are where systemd starts the machine itself.
const systemdScript = `
for name in sysinit basic shutdown network-online multi-user; do printf '[Unit]\nDefaultDependencies=no\n' >$1/$name.target; done
mkdir /sys/fs/cgroup/starpod-test
echo $$ >/sys/fs/cgroup/starpod-test/cgroup.procs
export container=starpod SYSTEMD_UNIT_PATH=$1 SYSTEMD_LOG_TARGET=null
exec unshare --cgroup --uts --ipc --pid --fork --kill-child --mount --propagation private sh -c '
	mount --make-rshared /; umount -l /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t proc proc /proc
	for name in system-generators system-environment-generators; do mount -t tmpfs tmpfs /lib/systemd/$name; done
	exec /lib/systemd/systemd --system --unit=$0' $2
`

// machine is one that systemd has started.
type machine struct{ init string } // process id of systemd

// boot starts a machine with the units that are in unitFolder, and of them one.
func (w *world) boot(t *testing.T, unit string) machine {
	t.Helper()
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		t.Fatal("systemd is missing: scripts/test-deps.sh installs it")
	}
	cmd := exec.Command("sh", "-euc", systemdScript, "sh", unitFolder, unit)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		testbench.Await(t, 10*time.Second, func() error { // until all its processes have gone
			return exec.Command("find", "/sys/fs/cgroup/starpod-test", "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run()
		})
		if t.Failed() {
			logs, _ := filepath.Glob("/run/*.service.err")
			for _, log := range logs {
				text, _ := os.ReadFile(log)
				t.Logf("%s:\n%s", log, text)
			}
		}
	})
	var m machine
	testbench.Await(t, 10*time.Second, func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil {
			return err
		}
		m.init = strings.TrimSpace(string(children))
		name, err := os.ReadFile("/proc/" + m.init + "/comm")
		if err == nil && string(name) != "systemd\n" {
			err = fmt.Errorf("the first process is %s", name)
		}
		return err
	})
	return m
}

// command prepares one on the machine, as root.
func (m machine) command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--target", m.init, "--mount", "--pid", "--ipc", "--uts", "--"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/"}
	return cmd
}

// await waits until a unit has a state.
func (m machine) await(t *testing.T, unit, state string) {
	t.Helper()
	testbench.Await(t, 30*time.Second, func() error {
		out, err := m.command("systemctl", "show", "--property", "ActiveState,Result", unit).CombinedOutput()
		if text := string(out); err != nil || !strings.Contains(text, "ActiveState="+state+"\n") || !strings.Contains(text, "Result=success\n") {
			return fmt.Errorf("%s is not %s: %s (%v)", unit, state, out, err)
		}
		return nil
	})
}

// install puts files where the examples say that they are to be, by the place of
// each. What a unit says besides goes into a drop-in.
func (w *world) install(t *testing.T, files map[string]string) {
	t.Helper()
	const folders = "/etc/starpod /usr/local/bin"
	shell(t, `for folder in `+folders+`; do mkdir -p $folder; mount -t tmpfs -o mode=755 tmpfs $folder; done
		cp "$1" /usr/local/bin/caddy; cp "$2" /usr/local/bin/agent; cp "$3" /etc/starpod/root.pem; chmod 755 /usr/local/bin/*; chmod 644 /etc/starpod/root.pem
		mkdir -m 755 `+unitFolder, w.caddy, w.attacker, w.pki.RootFile(t))
	t.Cleanup(func() {
		shell(t, `for folder in `+folders+`; do umount -l $folder; done; rmdir --ignore-fail-on-non-empty /etc/starpod; rm -r `+unitFolder)
	})
	for path, text := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// example reads a file of the examples, and replaces in it.
func (w *world) example(t *testing.T, name string, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.exampleFolder(t), name))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(replace); i += 2 {
		if strings.Count(string(text), replace[i]) != 1 {
			t.Fatalf("%s: want %q once in it", name, replace[i])
		}
	}
	return strings.NewReplacer(replace...).Replace(string(text))
}

// trusting is what makes a proxy trust the API of the test.
const trusting = "egress {\n\t\t\ttrust /etc/starpod/root.pem\n\t\t}\n"

// logged is the drop-in of a unit whose output a test wants to see.
func logged(unit string) string {
	return fmt.Sprintf("[Service]\nStandardOutput=file:/run/%[1]s.out\nStandardError=file:/run/%[1]s.err\n", unit)
}

// agentDropIn is all that differs from the example: the command, and where its
// output goes.
const agentDropIn = `[Service]
ExecStart=
ExecStart=/bin/sh ` + tenantDir + `/run.sh
ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT >&2'
Environment=TOKEN=%s HOME=/
`

// TestExampleUnitsOfNamespace starts agent.service, and by it the proxy of
// caddy.service, with a first process that is systemd.
func TestExampleUnitsOfNamespace(t *testing.T) {
	w := newWorld(t)
	w.makeTenant(t)
	shell(t, `mkdir -m 700 /var/lib/starpod; "$1" starpod keygen /var/lib/starpod/.vault_key 2>&1`, w.caddy)
	w.install(t, map[string]string{
		"/etc/starpod/namespace.Caddyfile":         w.example(t, "namespace.Caddyfile", "generate_key\n", "generate_key\n\t\t"+trusting),
		unitFolder + "/caddy.service":              w.example(t, "namespace/caddy.service"),
		unitFolder + "/caddy.service.d/test.conf":  logged("caddy.service"),
		unitFolder + "/agent.service":              w.example(t, "namespace/agent.service"),
		unitFolder + "/agent.service.d/test.conf":  fmt.Sprintf(agentDropIn, w.tokenOfExample(t)),
		unitFolder + "/agent.service.d/test2.conf": logged("agent.service"),
	})
	m := w.boot(t, "agent.service")
	w.checkTenant(t, "agent.service", func() string {
		testbench.Await(t, 30*time.Second, func() error {
			result, err := os.ReadFile("/run/agent.service.err")
			if err == nil && !strings.HasSuffix(string(result), "\n") {
				err = fmt.Errorf("the unit has not ended: %s", result)
			}
			return err
		})
		if result, err := os.ReadFile("/run/agent.service.err"); string(result) != "success\n" {
			t.Fatalf("got %q from the unit (%v), want success", result, err)
		}
		out, err := os.ReadFile("/run/agent.service.out")
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	})
	m.reload(t, "caddy.service", "/run/caddy-admin.sock")
	m.stop(t, "caddy.service")
	if left := shell(t, `iptables-save | grep STARPOD || :`); left != "" {
		t.Errorf("got %s after the stop, want no rules left", left)
	}
}

// reload has a unit load its configuration anew, and sees that it runs with it.
func (m machine) reload(t *testing.T, unit, admin string) {
	t.Helper()
	if out, err := m.command("systemctl", "reload", unit).CombinedOutput(); err != nil {
		t.Fatalf("reloading %s: %v\n%s", unit, err, out)
	}
	if out, err := m.command("caddy", "starpod", "status", "--address", "unix/"+admin).CombinedOutput(); err != nil {
		t.Errorf("after reloading %s: %v\n%s", unit, err, out)
	}
	m.await(t, unit, "active")
}

func (m machine) stop(t *testing.T, unit string) {
	t.Helper()
	if out, err := m.command("systemctl", "stop", unit).CombinedOutput(); err != nil {
		t.Fatalf("stopping %s: %v\n%s", unit, err, out)
	}
	m.await(t, unit, "inactive")
}

// TestExampleUnitOfServer starts starpod.service with a first process that is
// systemd. Its key is one that systemd hands it alone.
func TestExampleUnitOfServer(t *testing.T) {
	w := newWorld(t)
	w.makeTenant(t)
	w.install(t, map[string]string{
		"/etc/starpod/Caddyfile":                    w.example(t, "systemd/Caddyfile", "/master.key\n", "/master.key {\n\t\t"+trusting+"\t}\n"),
		unitFolder + "/starpod.service":             w.example(t, "systemd/starpod.service"),
		unitFolder + "/starpod.service.d/test.conf": logged("starpod.service"),
	})
	shell(t, `"$1" starpod keygen /etc/starpod/master.key 2>&1`, w.caddy)
	m := w.boot(t, "starpod.service")
	m.await(t, "starpod.service", "active")
	t.Run("swaps", func(t *testing.T) { w.swapsAtLoopback(t) })
	t.Run("closed", func(t *testing.T) { m.closedToOthers(t) })
	t.Run("reload", func(t *testing.T) {
		m.reload(t, "starpod.service", "/run/starpod/admin.sock")
		w.swapsAtLoopback(t)
	})
	m.stop(t, "starpod.service")
	if _, err := os.Stat("/run/starpod"); err == nil {
		t.Error("/run/starpod is there after the stop, want it removed")
	}
}

// swapsAtLoopback asks the API by the proxy of the example as other users do, who
// can read no more than what the proxy lays out for its clients.
func (w *world) swapsAtLoopback(t *testing.T) {
	t.Helper()
	w.api.Forget()
	curl := exec.Command("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--", "curl", "-q", "-sS", "-f", "--max-time", "20",
		"--cacert", "/run/starpod/proxy-ca-bundle.pem", "--proxy", "http://127.0.0.1:8080", "-H", "X-Key: "+w.sealed(t, "/etc/starpod/master.key"), "https://"+apiName+"/")
	if out, err := curl.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := w.api.Last(t).Header.Get("X-Key"); got != canary {
		t.Errorf("got %q upstream, want the value", got)
	}
}

// closedToOthers sees that another user gets at nothing of the unit's but what is
// laid out for clients, and that the unit has no rights on the machine.
func (m machine) closedToOthers(t *testing.T) {
	t.Helper()
	// The control: root reads all of them, so they are there.
	closed := []string{"/run/credentials/starpod.service/master.key", "/etc/starpod/master.key", "/var/lib/starpod/pki/authorities/starpod/root.key"}
	for _, path := range closed {
		if out, err := m.command("cat", path).Output(); err != nil || len(out) == 0 {
			t.Errorf("root cannot read %s: %v", path, err)
		}
		asNobody := m.command("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--", "cat", path)
		if out, err := asNobody.CombinedOutput(); err == nil || !strings.Contains(string(out), fs.ErrPermission.Error()) && !strings.Contains(string(out), "Permission denied") {
			t.Errorf("%s: got %q for another user (%v), want no permission", path, out, err)
		}
	}
	asNobody := m.command("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--", "caddy", "starpod", "status", "--address", "unix//run/starpod/admin.sock")
	if out, err := asNobody.CombinedOutput(); err == nil || !strings.Contains(string(out), "permission denied") {
		t.Errorf("got %q from the admin socket for another user (%v), want no permission", out, err)
	}
	pid, err := m.command("systemctl", "show", "--property", "MainPID", "--value", "starpod.service").Output()
	if err != nil {
		t.Fatal(err)
	}
	status, err := m.command("cat", "/proc/"+strings.TrimSpace(string(pid))+"/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("got\n%s\nwant %q in it", status, want)
		}
	}
	if strings.Contains(string(status), "Uid:\t0\t") {
		t.Errorf("got\n%s\nwant another user than root", status)
	}
	limits, err := m.command("cat", "/proc/"+strings.TrimSpace(string(pid))+"/limits").Output()
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0 ") {
		t.Errorf("got %s (%v), want no core dumps", limits, err)
	}
}

// TestExampleUnitsVerify has systemd read the units, and a control that is wrong.
func TestExampleUnitsVerify(t *testing.T) {
	w := newWorld(t)
	w.install(t, map[string]string{
		unitFolder + "/starpod.service": w.example(t, "systemd/starpod.service"),
		unitFolder + "/caddy.service":   w.example(t, "namespace/caddy.service"),
		unitFolder + "/agent.service":   w.example(t, "namespace/agent.service"),
		unitFolder + "/wrong.service":   w.example(t, "systemd/starpod.service", "NoNewPrivileges=", "NoNewPrivilege="),
		unitFolder + "/none.service":    w.example(t, "systemd/starpod.service", "@system-service\n", "@system-servise\n"),
	})
	for unit, want := range map[string]string{
		"starpod.service": "", "caddy.service": "", "agent.service": "",
		"wrong.service": "NoNewPrivilege", "none.service": "@system-servise",
	} {
		t.Run(unit, func(t *testing.T) {
			verify := exec.Command("systemd-analyze", "verify", "--recursive-errors=no", filepath.Join(unitFolder, unit))
			verify.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=warning", "SYSTEMD_LOG_TARGET=console")
			out, err := verify.CombinedOutput()
			if want == "" && (err != nil || len(out) != 0) {
				t.Errorf("got %v and\n%s\nwant nothing to say", err, out)
			}
			if want != "" && !strings.Contains(string(out), want) {
				t.Errorf("got %q (%v), want it to tell of %s", out, err, want)
			}
		})
	}
}
