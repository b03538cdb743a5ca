package isolation

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRedirect serves a network of the operator's own, whose connections a rule of
// the operator's leads to a site with starpod_transparent.
func TestRedirect(t *testing.T) {
	w := newWorld(t)
	shell(t, `ip netns add guests; ip link add in0 type veth peer name in0 netns guests; ip addr add 10.78.0.1/24 dev in0; ip link set in0 up
		n='ip -n guests'; $n link set lo up; $n addr add 10.78.0.2/24 dev in0; $n link set in0 up; $n route add default via 10.78.0.1
		iptables -t nat -A PREROUTING -i in0 -p tcp -m multiport --dports 80,443,8443 -j REDIRECT --to-ports 8380`)
	t.Cleanup(func() { shell(t, `ip link del in0; ip netns del guests; iptables -t nat -F PREROUTING`) })
	path, data := filepath.Join(w.dir, "Caddyfile-redirect"), filepath.Join(w.dir, "redirect")
	text := fmt.Sprintf(`{
	admin 127.0.0.1:8381
	persist_config off
	servers {
		listener_wrappers {
			starpod_transparent
		}
	}
	starpod {
		data_dir %s
	}
}
http://:8380 {
	bind 10.78.0.1
	starpod_secrets {
		master_key_file %s
		generate_key
		egress {
			trust %s
		}
	}
}
`, data, filepath.Join(w.dir, "key"), w.pki.RootFile(t))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	defer stop(t, w.serve(t, path, "127.0.0.1:8381", ""))
	seal := exec.Command(w.caddy, "starpod", "seal", "--key-file", filepath.Join(w.dir, "key"), "--host", apiName)
	seal.Stdin = strings.NewReader(canary)
	token, err := seal.Output()
	if err != nil {
		t.Fatal(err)
	}
	bundle, header := filepath.Join(data, "proxy-ca-bundle.pem"), "X-Key: "+strings.TrimSpace(string(token))
	for _, test := range []struct {
		name  string
		args  []string
		value bool // arrives
		print string
	}{
		{"https", []string{"https://" + apiName + "/"}, true, "200"},
		{"http", []string{"http://" + apiName + "/"}, true, "200"},
		{"another destination than the name's, over https", []string{"--resolve", apiName + ":443:198.51.100.7", "https://" + apiName + "/"}, true, "200"},
		{"a client that knows the proxy", []string{"--noproxy", "", "--proxy", "http://10.78.0.1:8380", "https://" + apiName + "/"}, true, "200"},
		{"the wrong host over https", []string{"https://" + evilName + "/"}, false, "200"},
		{"the wrong host over http", []string{"http://" + evilName + "/"}, false, "200"},
		{"another host in Host than in the server name", []string{"-H", "Host: " + evilName, "https://" + apiName + "/"}, false, "421"},
		{"the proxy itself", []string{"http://10.78.0.1:8380/"}, false, "200"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.api.Forget()
			args := []string{"-o", filepath.Join(t.TempDir(), "answer"), "-w", "%{http_code}", "-H", header}
			for _, name := range []string{apiName, evilName} {
				for _, port := range []string{"80", "443"} {
					if strings.Contains(strings.Join(test.args, " "), "--resolve "+name+":"+port) {
						continue
					}
					args = append(args, "--resolve", name+":"+port+":"+outside4)
				}
			}
			got := w.curl(t, "guests", bundle, append(args, test.args...)...)
			if got != test.print {
				t.Errorf("got status %s, want %s", got, test.print)
			}
			if arrived := strings.Contains(credentials(w.api.Requests()), canary); arrived != test.value {
				t.Errorf("got the value at the host: %t, want %t", arrived, test.value)
			}
		})
	}
}
