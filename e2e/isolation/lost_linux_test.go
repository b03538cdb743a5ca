package isolation

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/netns"
)

// TestIntact finds out what somebody has taken away from a namespace. What is left
// is removed all the same.
func TestIntact(t *testing.T) {
	w := newWorld(t)
	w.snapshot(t)
	for _, test := range []struct {
		name, damage, want string
	}{
		{"nothing", "true", ""},
		{"its name", "ip netns del starpod-ns", "/run/netns/starpod-ns"},
		{"the interface", "ip link del sp-veth0", "interface sp-veth0 is gone"},
		{"the interface is down", "ip link set sp-veth0 down", "sp-veth0 is down"},
		{"its address", "ip addr flush dev sp-veth0", "10.200.1.1 of sp-veth0 is gone"},
		{"the routing rule", "ip rule del iif sp-veth0", "routing rule of sp-veth0 is gone"},
		{"all rules of the filter", "iptables -F", "-t filter -A "},
		{"all rules of NAT", "iptables -t nat -F", "-t nat -A "},
		{"a chain of ours", "iptables -F STARPOD-IN-sp-veth0", "-A STARPOD-IN-sp-veth0 -j DROP"},
		{"a jump", "iptables -D FORWARD -o sp-veth0 -j STARPOD-FWD-sp-veth0", "-A FORWARD -o sp-veth0 -j STARPOD-FWD-sp-veth0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			veth, err := netns.OpenVeth(netns.VethConfig{})
			if err != nil {
				t.Fatal(err)
			}
			defer veth.Close()
			for _, port := range []uint16{8080, 8081} {
				if err := veth.Redirect(port); err != nil {
					t.Fatal(err)
				}
			}
			if err := veth.Intact(); err != nil {
				t.Errorf("before: got %v, want it whole", err)
			}
			shell(t, test.damage)
			err = veth.Intact()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err := veth.Close(); err != nil {
				t.Errorf("closing: %v", err)
			}
			shell(t, "ip netns del starpod-ns 2>/dev/null || true")
			if left := shell(t, "{ iptables-save; ip link; ip rule; } | { grep -E 'STARPOD|sp-veth' || true; }"); left != "" {
				t.Errorf("got left behind: %s", left)
			}
		})
	}
}

// TestLostNamespace: a server whose namespace is damaged says so, and says tier 1
// again only when it is whole.
func TestLostNamespace(t *testing.T) {
	w := newWorld(t)
	w.snapshot(t)
	before := w.snapshot(t)
	server := w.serve(t, w.serverConfig(t, "auto", 8380), "127.0.0.1:8381", "starpod-ns")
	watch := exec.Command(w.caddy, "starpod", "watch", "--json", "--address", "127.0.0.1:8381", "--replay", "1000")
	out, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		watch.Process.Kill()
		watch.Wait()
	})
	lines := bufio.NewScanner(out)
	told := func(kind string) {
		t.Helper()
		var got handler.Record
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &got) != nil || got.Kind != kind || got.Namespace != "starpod-ns" {
			t.Errorf("got %s, want the namespace %s", lines.Bytes(), kind)
		}
	}
	status := func(want string) {
		t.Helper()
		if got := shell(t, `"$1" starpod status --address 127.0.0.1:8381`, w.caddy); !strings.Contains(got, want) {
			t.Errorf("got %s, want %q", got, want)
		}
	}
	status("tier 1, veth")
	shell(t, "ip rule del iif sp-veth0")
	told(handler.KindNamespaceLost)
	status("tier 0, veth")
	status("LOST: the routing rule of sp-veth0 is gone")
	shell(t, "ip rule add pref 1 iif sp-veth0 unreachable")
	told(handler.KindNamespaceFound)
	status("tier 1, veth")
	stop(t, server)
	w.compare(t, before)
}
