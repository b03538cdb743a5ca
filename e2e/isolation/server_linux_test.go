package isolation

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// serverConfig is a Caddyfile with a site that serves the namespace.
func (w *world) serverConfig(t testing.TB, isolation string, port int) string {
	t.Helper()
	path := filepath.Join(w.dir, fmt.Sprintf("Caddyfile-%d", port))
	text := fmt.Sprintf(`{
	admin 127.0.0.1:%d
	persist_config off
	starpod {
		data_dir %s
		isolation %s
	}
}
http://:%d {
	bind 127.0.0.1 starpod/starpod-ns
	starpod_secrets {
		master_key_file %s
		generate_key
		egress {
			trust %s
		}
	}
}
`, port+1, filepath.Join(w.dir, fmt.Sprint("server-", port)), isolation, port, filepath.Join(w.dir, "key"), w.pki.RootFile(t))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// serve starts a Caddy and waits until it runs with its namespace.
func (w *world) serve(t testing.TB, config, admin, namespace string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(w.caddy, "run", "--adapter", "caddyfile", "--config", config)
	cmd.Env = append(os.Environ(), "HOME="+w.openDir, "XDG_DATA_HOME="+w.openDir, "XDG_CONFIG_HOME="+w.openDir)
	log := new(bytes.Buffer)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	testbench.Await(t, 20*time.Second, func() error {
		out, err := exec.Command(w.caddy, "starpod", "status", "--address", admin).CombinedOutput()
		if err == nil && !strings.Contains(string(out), namespace) {
			return fmt.Errorf("got %s, want the namespace %s", out, namespace)
		}
		return err
	})
	return cmd
}

func stop(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("stopping Caddy: %v", err)
	}
}

// curl runs curl in the namespace, without any knowledge of a proxy.
func (w *world) curl(t testing.TB, namespace, bundle string, args ...string) string {
	t.Helper()
	args = append([]string{"netns", "exec", namespace, "curl", "-q", "-sS", "--noproxy", "*", "--cacert", bundle, "--max-time", "20"}, args...)
	var out []byte
	testbench.Await(t, 20*time.Second, func() (err error) { // the site may not be open yet
		out, err = exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return string(out)
}

// TestServer swaps for programs that joined the namespace of a Caddy from
// outside, through a hundred reloads, and leaves nothing behind.
func TestServer(t *testing.T) {
	w := newWorld(t)
	w.snapshot(t)
	before := w.snapshot(t)
	config := w.serverConfig(t, "auto", 8180)
	server := w.serve(t, config, "127.0.0.1:8181", "starpod-ns")
	bundle := filepath.Join(w.dir, "server-8180", "proxy-ca-bundle.pem")

	seal := exec.Command(w.caddy, "starpod", "seal", "--key-file", filepath.Join(w.dir, "key"), "--host", apiName)
	seal.Stdin = strings.NewReader(canary)
	token, err := seal.Output()
	if err != nil {
		t.Fatal(err)
	}
	header := "X-Key: " + strings.TrimSpace(string(token))
	for _, target := range []string{"https://" + apiName + "/", "http://" + apiName + "/"} {
		w.curl(t, "starpod-ns", bundle, "-H", header, target)
		if got := w.api.Last(t).Header.Get("X-Key"); got != canary {
			t.Errorf("%s got %q, want the value", target, got)
		}
		w.api.Forget()
	}

	t.Run("reload", func(t *testing.T) {
		descriptors := func() int {
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", server.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			return len(entries)
		}
		rules, open := shell(t, "ip netns; iptables-save | grep -c STARPOD"), descriptors()
		resident := w.resident(t, bundle, token)
		for range 100 {
			out, err := exec.Command(w.caddy, "reload", "--force", "--adapter", "caddyfile", "--config", config, "--address", "127.0.0.1:8181").CombinedOutput()
			if err != nil {
				t.Fatalf("reloading: %v\n%s", err, out)
			}
		}
		resident()
		w.curl(t, "starpod-ns", bundle, "-H", header, "https://"+apiName+"/")
		if got := w.api.Last(t).Header.Get("X-Key"); got != canary {
			t.Errorf("after reloads: got %q, want the value", got)
		}
		if after := shell(t, "ip netns; iptables-save | grep -c STARPOD"); after != rules {
			t.Errorf("got %s after reloads, want %s", after, rules)
		}
		testbench.Await(t, 20*time.Second, func() error {
			if now := descriptors(); now > open+5 {
				return fmt.Errorf("got %d descriptors, %d before", now, open)
			}
			return nil
		})
	})

	t.Run("two servers", func(t *testing.T) {
		second := w.serve(t, w.serverConfig(t, "veth", 8280), "127.0.0.1:8281", "starpod-ns-2")
		w.curl(t, "starpod-ns-2", filepath.Join(w.dir, "server-8280", "proxy-ca-bundle.pem"), "-H", header, "https://"+apiName+"/")
		stop(t, second)
		w.curl(t, "starpod-ns", bundle, "-H", header, "https://"+apiName+"/")
	})

	stop(t, server)
	w.compare(t, before)
}
